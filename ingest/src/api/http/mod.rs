//! What requests and answers have in common.

pub mod problem;
pub mod request;
