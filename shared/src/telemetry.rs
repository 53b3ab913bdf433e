//! Logs and metrics, the same in both binaries.
//!
//! Metrics are in the default registry of the `prometheus` crate; each binary adds its
//! own. No label has a value that a tenant or a stranger chooses.

use std::str::FromStr;
use std::sync::OnceLock;

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::log_lines;

/// Libraries whose debug output contains what they carry: statements' parameters,
/// frames with passwords, requests with their headers.
const TALKATIVE: [&str; 6] = [
    "amq_protocol",
    "hyper",
    "lapin",
    "reqwest",
    "rustls",
    "tokio_postgres",
];

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines: one JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err("must be `pretty` or `json`"),
        }
    }
}

/// Starts logging: to standard error, at `info` unless `RUST_LOG` says otherwise.
/// Whatever it says, no secret is logged.
pub fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        // lapin logs every lost connection itself. Our own log line also says what
        // happens next.
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
    // TLS libraries log in detail what an endpoint did, but not whose endpoint it
    // is. The log line of the attempt says it in bounded length, with tenant and
    // webhook.
    let of_endpoints = match target.split("::").next() {
        Some("rustls") => true,
        // It also warns about the system's certificates.
        Some("rustls_platform_verifier") => *metadata.level() == Level::ERROR,
        _ => false,
    };
    if of_endpoints {
        return false;
    }
    *metadata.level() <= Level::INFO || !TALKATIVE.iter().any(|library| target.starts_with(library))
}

/// The metrics that both binaries have.
pub struct Metrics {
    /// 1 while the broker blocks publishers.
    pub amqp_blocked: IntGauge,
    /// Lost RabbitMQ sessions, and failures to open one.
    pub amqp_reconnects: IntCounter,
    pub postgres_reconnects: IntCounter,
    pub postgres_connects: IntCounter,
    /// Webhooks that can't be opened with this process's keys.
    pub unreadable_webhooks: IntGauge,
    /// PostgreSQL's clock minus this machine's, in seconds.
    pub clock_offset: Gauge,
    pub http_connections: IntGauge,
    /// Connections that the HTTP server closed, by reason.
    pub http_connections_cut: IntCounterVec,
}

pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics {
        amqp_blocked: gauge(
            "posthorn_amqp_blocked",
            "1 while RabbitMQ blocks publishers.",
        ),
        amqp_reconnects: counter(
            "posthorn_amqp_reconnects_total",
            "RabbitMQ sessions that were lost or could not be opened.",
        ),
        postgres_reconnects: counter(
            "posthorn_postgres_reconnects_total",
            "Listening connections to PostgreSQL that were lost or could not be opened.",
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
            "PostgreSQL's clock minus this machine's, in seconds.",
        )),
        http_connections: gauge(
            "posthorn_http_connections",
            "Open connections to this process's HTTP server.",
        ),
        http_connections_cut: counter_by(
            "posthorn_http_connections_cut_total",
            "HTTP connections that the server closed: too slow (idle, head, body, answer), replaced by a new one (place), or refused because of a limit (full).",
            "reason",
        ),
    })
}

#[must_use]
pub fn counter(name: &str, help: &str) -> IntCounter {
    register(IntCounter::new(name, help))
}

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
    // All names are literals in our code. A malformed or duplicate name fails at the
    // first start, in any test.
    let registered = metric.and_then(|metric| {
        prometheus::register(Box::new(metric.clone()))?;
        Ok(metric)
    });
    match registered {
        Ok(metric) => metric,
        Err(error) => panic!("registering a metric: {error}"),
    }
}
