//! Access: who sends a request, what they may do, and how much at a time.

pub mod auth;
pub mod change_limit;
pub mod jwt;
pub mod rate_limit;
pub mod role;
pub mod token_lookup;
pub mod tokens;
