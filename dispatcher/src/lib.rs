//! Takes jobs, sends them, records what came of it.
//!
//! The files are the stages a job passes, in this order:
//!
//! 1. [`intake`] consumes the jobs queues and starts a task per job;
//! 2. [`admit`] decides whether it may be sent now (with [`endpoints`], the
//!    webhooks in memory, [`gate`], the places at each endpoint, [`circuit`],
//!    whether it is asked at all, and [`rate`], the limits that all replicas
//!    share);
//! 3. [`shared::attempt`] signs, POSTs, and says what came back;
//! 4. [`judge`] turns that into a verdict: the whole retry policy;
//! 5. [`settle`] writes verdicts down in batches ([`record`]), and what they come
//!    to ([`settle::stats`]); queues retries, acks jobs.
//!
//! [`ticket`] tells which of a delivery's jobs is the one that it waits for.
//!
//! [`sweep`] stands beside them and puts lost jobs back (many at once: [`backlog`]),
//! and with them what paused webhooks held ([`hold`]); [`failing`] disables webhooks that have failed
//! for days, and whoever disables one says so ([`operational`]). [`run`] starts
//! and stops all of it.

pub mod admit;
pub mod backlog;
pub mod circuit;
pub mod endpoints;
pub mod failing;
pub mod gate;
pub mod hold;
pub mod intake;
pub mod judge;
pub mod metrics;
pub mod operational;
pub mod rate;
pub mod record;
pub mod run;
pub mod settings;
pub mod settle;
pub mod sweep;
pub mod ticket;
