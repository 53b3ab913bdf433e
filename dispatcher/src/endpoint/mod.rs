//! What a dispatcher knows of its endpoints: the webhooks, how many requests each endpoint
//! gets at a time, whether it is up, and its rate limits.

pub mod bulkhead;
pub mod cache;
pub mod circuit;
pub mod limiter;
pub mod outages;
pub mod rate_limit;
pub mod report;
