//! What ingest counts.

use std::sync::OnceLock;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use shared::telemetry::{counter, counter_by, gauge, gauge_by, histogram};

/// Ingest's own metrics.
pub struct Metrics {
    /// Events taken from the queue.
    pub received: IntCounter,
    /// Events parked, by reason.
    pub rejected: IntCounterVec,
    /// Events that had been accepted before.
    pub deduplicated: IntCounter,
    /// Events without an id of their producer's.
    pub without_id: IntCounter,
    /// Deliveries made, one per match.
    pub enqueued: IntCounter,
    /// Filters that were abandoned on an event.
    pub too_costly: IntCounter,
    /// Events per transaction.
    pub batch: Histogram,
    /// From taking a batch to acking it.
    pub batch_seconds: Histogram,
    /// Webhooks in the index.
    pub subscriptions: IntGauge,
    /// Messages that were refused or unroutable, in their table.
    pub dead_letters: IntGauge,
    /// What they take there.
    pub dead_letters_bytes: IntGauge,
    /// Dead letters that made room for newer ones.
    pub dead_letters_dropped: IntCounter,
    /// Events that RabbitMQ had given up on, published once more.
    pub returned: IntCounter,
    /// What the log takes on disk.
    pub storage: IntGauge,
    /// What it will take.
    pub storage_forecast: IntGauge,
    /// Tenants whose events go to an overflow queue.
    pub set_aside: IntGauge,
    /// Days of the log that exist after today.
    pub partitions_ahead: IntGauge,
    /// Open deliveries, by what they wait for.
    pub open_deliveries: IntGaugeVec,
    /// The age of the oldest of them.
    pub oldest_open: IntGaugeVec,
    /// Tokens in use that are about to expire.
    pub tokens_expiring: IntGauge,
    /// See the dispatcher's metric of the same name.
    pub unaccounted: IntGauge,
}

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics {
        received: counter(
            "posthorn_events_received_total",
            "Events taken from the queue.",
        ),
        rejected: counter_by(
            "posthorn_events_rejected_total",
            "Events parked, by reason.",
            "reason",
        ),
        deduplicated: counter(
            "posthorn_events_deduplicated_total",
            "Events that had been accepted before.",
        ),
        without_id: counter(
            "posthorn_events_without_id_total",
            "Events whose producer gave no id: a crash may send them twice.",
        ),
        enqueued: counter(
            "posthorn_deliveries_enqueued_total",
            "Deliveries made, one per match.",
        ),
        too_costly: counter(
            "posthorn_filters_too_costly_total",
            "Filters that were abandoned on an event, whose webhook didn't get it.",
        ),
        batch: histogram(
            "posthorn_ingest_batch_size",
            "Events per transaction.",
            &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0],
        ),
        batch_seconds: histogram(
            "posthorn_ingest_batch_duration_seconds",
            "From taking a batch to acking it.",
            &[
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
            ],
        ),
        subscriptions: gauge("posthorn_subscriptions", "Active webhooks in the index."),
        dead_letters: gauge(
            "posthorn_dead_letters",
            "Messages that were refused or unroutable, until someone replays or discards them.",
        ),
        dead_letters_bytes: gauge(
            "posthorn_dead_letters_bytes",
            "What dead letters take of DEAD_LETTERS_BYTES.",
        ),
        dead_letters_dropped: counter(
            "posthorn_dead_letters_dropped_total",
            "Dead letters that were dropped because their tenant's share, or DEAD_LETTERS_BYTES, was full.",
        ),
        returned: counter(
            "posthorn_events_returned_total",
            "Events that RabbitMQ had given up on, after 50 failed deliveries, and that were published once more.",
        ),
        storage: gauge(
            "posthorn_storage_bytes",
            "What events, deliveries and attempts take on disk.",
        ),
        storage_forecast: gauge(
            "posthorn_storage_forecast_bytes",
            "What they will take when all days of WEBHOOK_EVENT_TTL are there, at the pace of the last seven.",
        ),
        set_aside: gauge(
            "posthorn_tenants_set_aside",
            "Tenants with so many events waiting that new ones go to a queue aside.",
        ),
        partitions_ahead: gauge(
            "posthorn_partitions_ahead",
            "Days after today for which the log has partitions.",
        ),
        open_deliveries: gauge_by(
            "posthorn_open_deliveries",
            "Open deliveries by what they wait for, among the 20,000 that are due first and 20,000 that paused webhooks hold.",
            "reason",
        ),
        oldest_open: gauge_by(
            "posthorn_oldest_open_delivery_age_seconds",
            "How long ago the oldest of the open deliveries began, by what it waits for.",
            "reason",
        ),
        tokens_expiring: gauge(
            "posthorn_tokens_expiring",
            "API tokens that were used within the last seven days and expire within the next seven.",
        ),
        unaccounted: gauge(
            "posthorn_deliveries_unaccounted",
            "Deliveries that are neither finished nor on their way: always 0.",
        ),
    })
}
