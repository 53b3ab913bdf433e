//! What `ingest` and `dispatcher` both need: the words (ids, jobs, webhooks),
//! the two servers (RabbitMQ, PostgreSQL) and how a process looks after itself.
//!
//! Neither binary depends on the other; what they agree on is here and nowhere
//! else: the queue layout in [`topology`], the job's bytes in [`job`], the
//! tables in `migrations/`.

pub mod amqp;
pub mod attempt;
pub mod catalogue;
pub mod clock;
pub mod destination;
pub mod dialect;
pub mod excerpt;
pub mod headers;
pub mod health;
pub mod ids;
pub mod job;
mod log_lines;
pub mod operational;
pub mod partitions;
pub mod postgres;
mod postgres_tls;
pub mod publish;
mod resolver;
pub mod retry;
pub mod seal;
pub mod secret;
pub mod serve;
pub mod settings;
pub mod stats;
pub mod supervise;
pub mod telemetry;
pub mod tenant;
pub mod topology;
pub mod webhook;
