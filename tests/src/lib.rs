//! What the tests, `make run` and the benchmark stand on.
//!
//! [`pair`] starts a private RabbitMQ and PostgreSQL.

pub mod pair;
