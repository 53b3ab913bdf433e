//! What runs beside the pipeline, for all replicas together: it puts lost jobs back
//! on the queue, releases what paused webhooks held, and disables webhooks that fail.

pub mod backlog;
pub mod disable;
pub mod failing;
pub mod paused;
pub mod sweep;
