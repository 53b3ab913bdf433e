//! What runs beside the pipeline, for all replicas together: lost jobs are put back on
//! their queue, deliveries of webhooks that were paused are released, and webhooks that
//! keep failing are disabled, and their owners are told of trouble.

pub mod alerts;
mod alone;
pub mod announce;
pub mod backlog;
pub mod disable;
pub mod exhausted;
pub mod failing;
pub mod paused;
pub mod sweep;
pub mod trouble;
pub mod watermark;
