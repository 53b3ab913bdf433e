//! What `ingest` and `dispatcher` both need: the terms of the glossary (ids, jobs,
//! webhooks), connections to RabbitMQ and PostgreSQL, and the parts of every process
//! (settings, logs, metrics, shutdown).
//!
//! Neither binary depends on the other. What they have to agree on is here and nowhere
//! else: the queues in [`topology`], the bytes of a job in [`job`], the tables in
//! `migrations/`.

pub mod amqp;
pub mod attempt;
pub mod client_certificate;
pub mod clock;
mod connection;
pub mod descriptors;
pub mod destination;
pub mod dialect;
pub mod egress;
pub mod endpoints;
pub mod excerpt;
pub mod failure;
pub mod headers;
pub mod health;
pub mod health_check;
pub mod ids;
pub mod job;
mod log_lines;
pub mod oauth;
pub mod operational;
pub mod partitions;
pub mod postgres;
mod postgres_tls;
pub mod processes;
pub mod publish;
pub mod queues;
pub mod receipts;
pub mod recent;
mod resolver;
pub mod retry;
pub mod revisions;
pub mod seal;
pub mod secret;
pub mod serve;
pub mod settings;
pub mod stats;
pub mod supervise;
pub mod telemetry;
pub mod tenant;
pub mod timestamp;
pub mod topology;
pub mod trace;
pub mod webhook;
