//! What a dispatcher counts.

use std::sync::OnceLock;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use shared::stats::OUTCOMES;
use shared::telemetry::{counter, counter_of, gauge, histogram};

use crate::judge::Deferral;

/// The dispatcher's own metrics.
pub struct Metrics {
    /// Jobs taken from the queue.
    pub jobs_taken: IntCounter,
    /// Jobs that could not be read, parked.
    pub jobs_parked: IntCounter,
    /// Jobs that turned out to be settled already.
    pub jobs_stale: IntCounter,
    /// Attempts, by what came back.
    pub attempts: IntCounterVec,
    /// How long attempts took.
    pub attempt_seconds: Histogram,
    /// From the event's acceptance to its delivery.
    pub latency_seconds: Histogram,
    /// Requests under way.
    pub in_flight: IntGauge,
    /// Jobs put off without an attempt, by reason.
    pub deferred: IntCounterVec,
    /// Endpoints that were found to be down.
    pub circuits_opened: IntCounter,
    /// Webhooks that were disabled.
    pub webhooks_disabled: IntCounter,
    /// Retries scheduled.
    pub retries: IntCounter,
    /// Deliveries that reached a final state, by state.
    pub finished: IntCounterVec,
    /// Verdicts written per statement.
    pub settle_batch: Histogram,
    /// Verdicts that another copy of the job had anticipated.
    pub fenced: IntCounter,
    /// Verdicts that PostgreSQL refused, by what was left out for it.
    pub set_aside: IntCounterVec,
    /// Lost jobs that the sweeper put back.
    pub swept: IntCounter,
    /// Deliveries that are neither finished nor on their way: always 0.
    pub unaccounted: IntGauge,
    /// How long the oldest open delivery has been due, in seconds.
    pub oldest_due: IntGauge,
}

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics {
        jobs_taken: counter("posthorn_jobs_taken_total", "Jobs taken from the queue."),
        jobs_parked: counter(
            "posthorn_jobs_parked_total",
            "Jobs that could not be read, parked.",
        ),
        jobs_stale: counter(
            "posthorn_jobs_stale_total",
            "Redelivered jobs that turned out to be settled already.",
        ),
        attempts: counter_of(
            "posthorn_attempts_total",
            "Attempts, by what came back.",
            "outcome",
            &OUTCOMES,
        ),
        attempt_seconds: histogram(
            "posthorn_attempt_duration_seconds",
            "How long attempts took.",
            &[
                0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
            ],
        ),
        latency_seconds: histogram(
            "posthorn_delivery_latency_seconds",
            "From the event's acceptance to its delivery.",
            &[
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 21_600.0,
                86_400.0,
            ],
        ),
        in_flight: gauge("posthorn_attempts_in_flight", "Requests under way."),
        deferred: counter_of(
            "posthorn_deferred_total",
            "Jobs put off without an attempt, by reason.",
            "reason",
            &Deferral::ALL.map(Deferral::as_str),
        ),
        circuits_opened: counter(
            "posthorn_circuits_opened_total",
            "Endpoints that were found to be down, per replica.",
        ),
        webhooks_disabled: counter(
            "posthorn_webhooks_disabled_total",
            "Webhooks that were disabled, by what their endpoint answered or for failing too long.",
        ),
        retries: counter("posthorn_retries_scheduled_total", "Retries scheduled."),
        finished: counter_of(
            "posthorn_deliveries_finished_total",
            "Deliveries that reached a final state, by state.",
            "state",
            &["delivered", "failed", "expired", "cancelled"],
        ),
        settle_batch: histogram(
            "posthorn_settle_batch_size",
            "Verdicts written per statement.",
            &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0],
        ),
        fenced: counter(
            "posthorn_settle_fenced_total",
            "Verdicts that another copy of the job had anticipated.",
        ),
        set_aside: counter_of(
            "posthorn_settlements_set_aside_total",
            "Verdicts that PostgreSQL refused, by what isn't written: the details of the attempt, or the verdict.",
            "what",
            &["details", "verdict"],
        ),
        swept: counter(
            "posthorn_sweeper_requeued_total",
            "Lost jobs that the sweeper put back.",
        ),
        unaccounted: gauge(
            "posthorn_deliveries_unaccounted",
            "Deliveries that are neither finished nor on their way: always 0.",
        ),
        oldest_due: gauge(
            "posthorn_oldest_pending_age_seconds",
            "How long the oldest open delivery has been due.",
        ),
    })
}
