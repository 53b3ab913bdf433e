//! Ingest's metrics.

use std::sync::OnceLock;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use shared::telemetry::{counter, counter_by, gauge, gauge_by, histogram};

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
    /// Bytes of request bodies that are held now.
    pub held_bodies: IntGauge,
    /// Messages that were refused or unroutable, in their table.
    pub dead_letters: IntGauge,
    pub dead_letters_bytes: IntGauge,
    /// Dead letters that made room for newer ones.
    pub dead_letters_dropped: IntCounter,
    /// Events that RabbitMQ had given up on, published once more.
    pub returned: IntCounter,
    pub storage: IntGauge,
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

pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics {
        received: counter(
            "posthorn_events_received_total",
            "Events taken from the queue.",
        ),
        rejected: counter_by(
            "posthorn_events_rejected_total",
            "Events refused and dead-lettered, by reason.",
            "reason",
        ),
        deduplicated: counter(
            "posthorn_events_deduplicated_total",
            "Events refused as duplicates: their id had been accepted before.",
        ),
        without_id: counter(
            "posthorn_events_without_id_total",
            "Events without an id from their producer: after a crash they may be accepted twice.",
        ),
        enqueued: counter(
            "posthorn_deliveries_enqueued_total",
            "Deliveries created, one per event and matching webhook.",
        ),
        too_costly: counter(
            "posthorn_filters_too_costly_total",
            "Filter evaluations abandoned as too costly; the webhook did not get the event.",
        ),
        batch: histogram(
            "posthorn_ingest_batch_size",
            "Events per batch, which is one transaction.",
            &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0],
        ),
        batch_seconds: histogram(
            "posthorn_ingest_batch_duration_seconds",
            "Seconds from taking a batch of events to acking it.",
            &[
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
            ],
        ),
        subscriptions: gauge("posthorn_subscriptions", "Active webhooks in the index that events are matched against."),
        held_bodies: gauge(
            "posthorn_http_request_body_bytes",
            "Bytes of the bodies of requests under way.",
        ),
        dead_letters: gauge(
            "posthorn_dead_letters",
            "Dead letters: refused or unroutable messages that were neither replayed nor discarded yet.",
        ),
        dead_letters_bytes: gauge(
            "posthorn_dead_letters_bytes",
            "Bytes of DEAD_LETTERS_BYTES that dead letters use.",
        ),
        dead_letters_dropped: counter(
            "posthorn_dead_letters_dropped_total",
            "Dead letters dropped because their tenant's share, or DEAD_LETTERS_BYTES, was full.",
        ),
        returned: counter(
            "posthorn_events_returned_total",
            "Events published once more after RabbitMQ gave up on them, which it does after 50 failed deliveries.",
        ),
        storage: gauge(
            "posthorn_storage_bytes",
            "Bytes on disk of events, deliveries and attempts.",
        ),
        storage_forecast: gauge(
            "posthorn_storage_forecast_bytes",
            "Forecast of posthorn_storage_bytes when WEBHOOK_EVENT_TTL is reached, at the pace of the last seven days.",
        ),
        set_aside: gauge(
            "posthorn_tenants_set_aside",
            "Tenants set aside: their new events go to an overflow queue because too many wait.",
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
            "Deliveries that are neither finished nor on their way. Anything but 0 is a fault.",
        ),
    })
}
