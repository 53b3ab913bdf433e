//! Logs, metrics and health, the same in both binaries.
//!
//! Metrics live in the `prometheus` crate's default registry; each binary adds
//! its own. No label takes values that a tenant or a stranger chooses.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    TextEncoder,
};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::log_lines;
use crate::settings::LogFormat;
use crate::supervise::Readiness;

/// Libraries that print what they carry below `info`: statements' parameters,
/// frames with passwords, requests with their headers.
const TALKATIVE: [&str; 6] = [
    "amq_protocol",
    "hyper",
    "lapin",
    "reqwest",
    "rustls",
    "tokio_postgres",
];

/// Starts logging: to standard error, at `info` unless `RUST_LOG` says otherwise.
/// Whatever it says, no secret is logged.
pub fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        // lapin logs every lost connection itself; we do too, with what we do about it.
        .unwrap_or_else(|_| EnvFilter::new("info,lapin=off,refinery_core=warn"));
    let layer = tracing_subscriber::fmt::layer();
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_printed));
    match format {
        LogFormat::Pretty => registry
            .with(
                layer
                    .with_target(false)
                    .fmt_fields(log_lines::pretty_fields())
                    .with_writer(std::io::stderr),
            )
            .init(),
        LogFormat::Json => registry
            .with(
                layer
                    .json()
                    .flatten_event(true)
                    .with_writer(log_lines::JsonLines),
            )
            .init(),
    }
}

fn may_be_printed(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    // TLS libraries say at length what an endpoint did, and not whose it is. The
    // line of the attempt says it, with its tenant and webhook, and bounded.
    let of_endpoints = match target.split("::").next() {
        Some("rustls") => true,
        // It warns of the system's certificates, too.
        Some("rustls_platform_verifier") => *metadata.level() == Level::ERROR,
        _ => false,
    };
    if of_endpoints {
        return false;
    }
    *metadata.level() <= Level::INFO || !TALKATIVE.iter().any(|library| target.starts_with(library))
}

/// What both binaries count.
pub struct Metrics {
    /// 1 while the broker blocks publishers.
    pub amqp_blocked: IntGauge,
    /// Lost RabbitMQ sessions, or failures to open one.
    pub amqp_reconnects: IntCounter,
    /// Lost listening connections to PostgreSQL.
    pub postgres_reconnects: IntCounter,
    /// Connections opened to PostgreSQL.
    pub postgres_connects: IntCounter,
    /// Webhooks that can't be opened with our keys now.
    pub unreadable_webhooks: IntGauge,
    /// PostgreSQL's clock minus this machine's.
    pub clock_offset: Gauge,
    /// Open connections to our HTTP server.
    pub http_connections: IntGauge,
    /// Connections that our HTTP server closed, by reason.
    pub http_connections_cut: IntCounterVec,
}

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics {
        amqp_blocked: gauge(
            "posthorn_amqp_blocked",
            "1 while RabbitMQ blocks publishers.",
        ),
        amqp_reconnects: counter(
            "posthorn_amqp_reconnects_total",
            "RabbitMQ sessions lost or not to be had.",
        ),
        postgres_reconnects: counter(
            "posthorn_postgres_reconnects_total",
            "Listening connections to PostgreSQL lost or not to be had.",
        ),
        postgres_connects: counter(
            "posthorn_postgres_connects_total",
            "Connections opened to PostgreSQL.",
        ),
        unreadable_webhooks: gauge(
            "posthorn_unreadable_webhooks",
            "Webhooks whose secrets cannot be opened with this process's keys: always 0.",
        ),
        clock_offset: register(Gauge::new(
            "posthorn_clock_offset_seconds",
            "PostgreSQL's clock minus this machine's.",
        )),
        http_connections: gauge(
            "posthorn_http_connections",
            "Open connections to this process's HTTP server.",
        ),
        http_connections_cut: counter_by(
            "posthorn_http_connections_cut_total",
            "HTTP connections that were too slow (idle, head, body, answer), made room (place) or found none (full).",
            "reason",
        ),
    })
}

/// Registers a counter.
#[must_use]
pub fn counter(name: &str, help: &str) -> IntCounter {
    register(IntCounter::new(name, help))
}

/// Registers a counter with one label.
#[must_use]
pub fn counter_by(name: &str, help: &str, label: &str) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), &[label]))
}

/// Registers a counter with one label that is 0 from the start for these values:
/// Prometheus sees the first increment only of a counter that it has seen before.
#[must_use]
pub fn counter_of(name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
    let counter = counter_by(name, help, label);
    for value in values {
        counter.with_label_values(&[value]);
    }
    counter
}

/// Registers a gauge.
#[must_use]
pub fn gauge(name: &str, help: &str) -> IntGauge {
    register(IntGauge::new(name, help))
}

/// Registers a gauge with one label.
#[must_use]
pub fn gauge_by(name: &str, help: &str, label: &str) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name, help), &[label]))
}

/// Registers a histogram with the given upper bounds.
#[must_use]
pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(Histogram::with_opts(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
    ))
}

fn register<M: prometheus::core::Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    // Names are literals of ours; one that is malformed or taken twice fails at
    // the first start, in any test.
    let registered = metric.and_then(|metric| {
        prometheus::register(Box::new(metric.clone()))?;
        Ok(metric)
    });
    match registered {
        Ok(metric) => metric,
        Err(error) => panic!("registering a metric: {error}"),
    }
}

/// `/healthz`, `/readyz`, `/metrics`.
pub fn routes(ready: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .with_state(ready)
}

async fn readyz(State(ready): State<Readiness>) -> Response {
    let missing = ready.missing().into_iter();
    let mut missing: Vec<_> = missing.map(|part| format!("no {part}")).collect();
    let (unreadable, missing_key) = ready.unreadable_webhooks();
    if missing_key > 0 {
        missing.push(format!(
            "no key for {missing_key} webhooks: they were sealed with one that is neither \
             MASTER_KEY nor in MASTER_KEY_PREVIOUS"
        ));
    }
    if !missing.is_empty() {
        let text = format!("not ready: {}\n", missing.join(", "));
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    if unreadable > 0 {
        // No other process could read these: this one is as good as any.
        return format!("ready, but {unreadable} webhooks cannot be read: see the log\n")
            .into_response();
    }
    "ready\n".into_response()
}

async fn exposition() -> Response {
    match TextEncoder::new().encode_to_string(&prometheus::gather()) {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
