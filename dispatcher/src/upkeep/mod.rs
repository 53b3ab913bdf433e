//! What runs beside the pipeline, for all replicas together: lost jobs are put back on
//! their queue, deliveries of webhooks that were paused are released, and webhooks that
//! keep failing are disabled.

pub mod backlog;
pub mod disable;
pub mod failing;
pub mod paused;
pub mod sweep;
pub mod watermark;
