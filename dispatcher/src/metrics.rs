//! The dispatcher's metrics.

use std::sync::OnceLock;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use shared::stats::OUTCOMES;
use shared::telemetry::{counter, counter_of, gauge, histogram};

use crate::judge::Deferral;

/// The dispatcher's own metrics. Their help texts are below.
pub struct Metrics {
    pub jobs_taken: IntCounter,
    pub jobs_parked: IntCounter,
    pub jobs_stale: IntCounter,
    pub attempts: IntCounterVec,
    pub attempt_seconds: Histogram,
    pub latency_seconds: Histogram,
    pub in_flight: IntGauge,
    pub deferred: IntCounterVec,
    pub circuits_opened: IntCounter,
    pub webhooks_disabled: IntCounter,
    pub retries: IntCounter,
    pub finished: IntCounterVec,
    pub settle_batch: Histogram,
    pub fenced: IntCounter,
    pub set_aside: IntCounterVec,
    pub swept: IntCounter,
    pub unaccounted: IntGauge,
    pub oldest_due: IntGauge,
}

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics {
        jobs_taken: counter("posthorn_jobs_taken_total", "Jobs taken from the jobs queues."),
        jobs_parked: counter(
            "posthorn_jobs_parked_total",
            "Messages in the jobs queues that could not be read as jobs. Each became a dead letter.",
        ),
        jobs_stale: counter(
            "posthorn_jobs_stale_total",
            "Jobs that were dropped because their delivery was finished, or waited for another job.",
        ),
        attempts: counter_of(
            "posthorn_attempts_total",
            "Attempts, by outcome.",
            "outcome",
            &OUTCOMES,
        ),
        attempt_seconds: histogram(
            "posthorn_attempt_duration_seconds",
            "Duration of attempts, in seconds.",
            &[
                0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
            ],
        ),
        latency_seconds: histogram(
            "posthorn_delivery_latency_seconds",
            "Time from the acceptance of an event to its delivery, in seconds.",
            &[
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 21_600.0,
                86_400.0,
            ],
        ),
        in_flight: gauge("posthorn_attempts_in_flight", "Requests in flight."),
        deferred: counter_of(
            "posthorn_deferred_total",
            "Jobs that were deferred without an attempt, by reason.",
            "reason",
            &Deferral::ALL.map(Deferral::as_str),
        ),
        circuits_opened: counter(
            "posthorn_circuits_opened_total",
            "Circuit breakers that opened because their endpoint kept failing.",
        ),
        webhooks_disabled: counter(
            "posthorn_webhooks_disabled_total",
            "Webhooks that were disabled: their endpoint said that it is gone, or every attempt had failed for too long.",
        ),
        retries: counter("posthorn_retries_scheduled_total", "Retries that were scheduled."),
        finished: counter_of(
            "posthorn_deliveries_finished_total",
            "Deliveries that were finished, by state.",
            "state",
            &["delivered", "failed", "expired", "cancelled"],
        ),
        settle_batch: histogram(
            "posthorn_settle_batch_size",
            "Verdicts per batch.",
            &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0],
        ),
        fenced: counter(
            "posthorn_settle_fenced_total",
            "Verdicts that changed nothing, because another copy of the job had been settled first.",
        ),
        set_aside: counter_of(
            "posthorn_settlements_set_aside_total",
            "Verdicts that PostgreSQL refused, by what isn't written: the details of the attempt, or the verdict.",
            "what",
            &["details", "verdict"],
        ),
        swept: counter(
            "posthorn_sweeper_requeued_total",
            "Lost jobs that the sweeper put back on their queue.",
        ),
        unaccounted: gauge(
            "posthorn_deliveries_unaccounted",
            "Open deliveries whose jobs are lost and were not put back in time. Should be 0.",
        ),
        oldest_due: gauge(
            "posthorn_oldest_pending_age_seconds",
            "How long the open delivery with the earliest due time has been due, in seconds.",
        ),
    })
}
