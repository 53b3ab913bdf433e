//! Takes jobs, sends them, records what came of it.
//!
//! The files are the stages a job passes, in this order:
//!
//! 1. [`intake`] consumes the jobs queues and starts a task per job;
//! 2. [`admit`] decides whether it may be sent now (with [`endpoint::cache`], the
//!    webhooks in memory, [`endpoint::limiter`], the places at each endpoint, [`endpoint::circuit`],
//!    whether it is asked at all, and [`endpoint::rate_limit`], the limits that all replicas
//!    share);
//! 3. [`shared::attempt`] signs, POSTs, and says what came back;
//! 4. [`judge`] turns that into a verdict: the whole retry policy;
//! 5. [`settle`] writes verdicts down in batches ([`record`]), and what they come
//!    to ([`tally`]); queues retries, acks jobs.
//!
//! [`ticket`] tells which of a delivery's jobs is the one that it waits for.
//!
//! [`upkeep::sweep`] stands beside them and puts lost jobs back (many at once: [`upkeep::backlog`]),
//! and with them what paused webhooks held ([`upkeep::paused`]); [`upkeep::failing`] disables webhooks that have failed
//! for days, and whoever disables one says so ([`upkeep::disable`]). [`run`] starts
//! and stops all of it.

pub mod admit;
pub mod endpoint;
pub mod intake;
pub mod judge;
pub mod metrics;
pub mod record;
pub mod run;
pub mod settings;
pub mod settle;
pub mod tally;
pub mod ticket;
pub mod upkeep;
