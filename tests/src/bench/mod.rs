//! `make bench`: how much goes through, how quickly, at what cost.
//!
//! `scenario` runs each round on a fresh database and virtual host (`stage`) of
//! a private pair with fsync on. What makes load and what receives it are
//! processes of their own (`generator`, `receiver`, both started by `child`), so
//! that their processor time is told from that of what is measured (`usage`).
//! Things that are compared take turns, round by round; `report` shows medians
//! and the spread, and writes everything down as JSON.
//!
//! The [`floor`] is the yardstick: the same jobs out of the same kind of queue
//! to the same receiver, with nothing else done.
//!
//! Beside these rounds, [`log`], [`isolation`], [`catalogue`] and [`burst`] are benchmarks of their own.

pub mod burst;
pub mod catalogue;
pub mod child;
pub mod floor;
pub mod generator;
mod http;
pub mod isolation;
pub mod log;
pub mod machine;
pub mod phoenix;
pub mod receiver;
pub mod report;
pub mod scenario;
pub mod stage;
pub mod start;
pub mod usage;
pub mod villains;

/// Microseconds since 1970, the same in all processes of this machine.
#[must_use]
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_micros() as u64
}
