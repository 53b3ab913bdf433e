//! Webhooks: what may be declared of one, and its row.
//!
//! Both the API and `apply` check forms here and write rows here.

mod bounds;
pub mod form;
pub mod rate_limit;
mod rules;
pub mod sealed;
pub mod store;
pub mod walls;
