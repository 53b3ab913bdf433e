//! `make bench`: measures throughput, latency and cost.
//!
//! `scenario` runs each round ([`kinds`], `steps`) on a fresh database and virtual host
//! (`stage`) of a private pair of servers with fsync on. The load generator and the receiver are
//! processes of their own (`generator`, `receiver`, both started by `child`), so that
//! their processor time isn't counted as Posthorn's (`usage`). Configurations that are
//! compared run in alternating rounds. `report` prints medians and the spread, and writes
//! all figures to a JSON file.
//!
//! The [`floor`] is the yardstick: it consumes the same jobs from the same kind of queue,
//! sends them to the same receiver, and does nothing else.
//!
//! [`growth`] and [`long`] run the same rounds with many webhooks and for a long time.
//! [`log`], [`lists`], [`isolation`], [`catalogue`], [`burst`] and [`start`] are separate
//! benchmarks. Matching alone is measured by `ingest/benches/matching.rs`.

pub mod burst;
pub mod catalogue;
pub mod child;
pub mod floor;
pub mod generator;
pub mod growth;
mod http;
pub mod isolation;
pub mod kinds;
pub mod lists;
pub mod log;
pub mod long;
pub mod machine;
pub mod phoenix;
pub mod receiver;
pub mod report;
pub mod scenario;
mod space;
pub mod stage;
pub mod start;
mod steps;
pub mod usage;
pub mod villains;
mod webhooks;

/// Microseconds since 1970, the same in all processes of this machine.
#[must_use]
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_micros() as u64
}
