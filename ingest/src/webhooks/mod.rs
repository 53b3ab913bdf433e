//! Webhooks: what may be declared of one, and its row.
//!
//! Both the API and `apply` check forms here and write rows here.

pub mod form;
pub mod rate_limit;
mod rules;
pub mod store;
pub mod walls;
