//! What the tests, `make run` and the benchmark stand on.
//!
//! [`pair`] starts a private RabbitMQ and PostgreSQL; [`service`] starts the
//! real binaries on them; [`receiver`] is an endpoint that remembers what it was
//! sent; [`producer`] is a platform that publishes, [`mod@raw`] one that writes its
//! own frames; [`world`] puts a test's own
//! of each together; [`mod@bench`] measures; [`chaos`] breaks what it can, by way of
//! [`proxy`] among others, and judges; [`monitoring`] is the Prometheus that watches a world.

pub mod bench;
pub mod chaos;
pub mod monitoring;
pub mod pair;
pub mod producer;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod service;
pub mod world;
