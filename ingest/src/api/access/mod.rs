//! Who may ask for what, and how often.

pub mod auth;
pub mod change_limit;
pub mod jwt;
pub mod rate_limit;
