//! Takes jobs, sends them, and records the results.
//!
//! The stages that a job passes, in this order:
//!
//! 1. [`intake`] consumes the jobs queues and starts a task per job;
//! 2. [`deliver`] sees one job through the stages below;
//! 3. [`admit`] decides whether the job may be sent now. It asks [`ticket`] (does the
//!    delivery wait for this job?), [`endpoint::cache`] (the webhooks in memory),
//!    [`endpoint::limiter`] and [`endpoint::circuit`] (requests at a time, circuit breaker),
//!    and [`endpoint::rate_limit`] (limits that all replicas share);
//! 4. [`shared::attempt`] signs the request and sends it;
//! 5. [`judge`] decides what follows from the result: the whole retry policy. [`spread`] keeps
//!    retries of one tenant from all being due in the same second;
//! 6. [`settle`] records verdicts in batches ([`record`], with their statistics in
//!    [`settle::stats`]), queues retries, and acks the jobs.
//!
//! [`settlement`] is what goes from `deliver` to `settle`. [`in_flight`] keeps two copies of
//! a job apart. [`spans`] shows a job's stages in its event's trace.
//!
//! Beside them, [`upkeep::sweep`] puts lost jobs back (which ones are lost:
//! [`upkeep::watermark`]; many at once: [`upkeep::backlog`]) and releases the deliveries of
//! paused webhooks ([`upkeep::paused`]). [`upkeep::failing`] disables webhooks that have
//! failed for days; [`upkeep::disable`] tells their tenants.
//!
//! [`run`] builds all of these, starts and stops them. Imports have no circles:
//! `tests/tests/house.rs` checks that.

pub mod admit;
pub mod attempt_times;
pub mod deliver;
pub mod endpoint;
pub mod in_flight;
pub mod intake;
pub mod judge;
pub mod metrics;
pub mod record;
pub mod run;
pub mod settings;
pub mod settle;
pub mod settlement;
pub mod spans;
pub mod spread;
pub mod ticket;
pub mod upkeep;
