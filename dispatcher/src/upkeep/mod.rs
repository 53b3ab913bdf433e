//! Work beside the pipeline that is done once for all replicas.
//!
//! It puts lost jobs back on their queue, releases deliveries of webhooks that are no longer
//! paused, disables webhooks that keep failing, and tells owners about webhooks in trouble.

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
