//! Requests and answers: what every handler reads and writes in the same way.

pub mod code;
pub mod deprecation;
pub mod headers;
pub mod held_bodies;
pub mod json;
pub mod problem;
pub mod query;
pub mod request;
pub mod request_id;
