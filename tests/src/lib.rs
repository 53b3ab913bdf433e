//! The harness of the tests, `make run`, `make chaos` and the benchmarks.
//!
//! | module | |
//! |---|---|
//! | [`pair`] | starts a private RabbitMQ and PostgreSQL |
//! | [`service`] | starts the real binaries on them |
//! | [`receiver`] | a webhook endpoint that records its requests |
//! | [`load`] | publishes all the time, through any fault |
//! | [`producer`] | publishes events over AMQP; [`mod@raw`] writes its own AMQP frames, [`amqp10`] those of AMQP 1.0 |
//! | [`setups`] | what many tests begin with; [`documents`] reads the documentation's examples |
//! | [`script`] | runs a script in another language on a test's cases |
//! | [`world`] | one test's own database, virtual host and processes |
//! | [`proxy`] | a TCP proxy that cuts, stalls and slows connections |
//! | [`mod@bench`] | the benchmarks |
//! | [`monitoring`] | a Prometheus that watches a world |
//! | [`collector`] | an OpenTelemetry collector that keeps the spans of a test |
//! | [`clock`] | makes processes' clocks wrong |
//! | [`chaos`] | injects faults under load and checks that nothing was lost |

pub mod amqp10;
pub mod bench;
pub mod browser;
pub mod chaos;
pub mod clock;
pub mod collector;
pub mod documents;
pub mod history;
pub mod load;
pub mod monitoring;
pub mod pair;
pub mod producer;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod script;
pub mod service;
pub mod setups;
pub mod shared_servers;
pub mod world;
