//! Makes finished deliveries begin again: same delivery, same event id, new attempts. Makes
//! deliveries that wait for a time due now.
//!
//! The API does this for one delivery, `replay` for many. The row is reopened
//! first, then its job is published; if publishing fails, the sweeper finds the
//! row overdue. Attempts continue to be counted, so the fence recognises jobs from
//! before; the retry schedule and the age limit start again.

use std::time::Duration;

use deadpool_postgres::Transaction;
use shared::clock;
use shared::ids::DeliveryId;
use shared::job::Job;
use shared::publish::Publisher;
use shared::{job_delivery_columns, job_event_columns};
use tracing::warn;

/// The states from which a delivery can begin again.
pub const FINISHED: [&str; 4] = ["delivered", "failed", "expired", "cancelled"];
/// A delivery with this many attempts can't begin again: its event has to be published anew.
pub const MOST_ATTEMPTS: i16 = 10_000;

/// How long to wait for the broker's confirms.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// Reopens those of the deliveries that are in one of these states, unless their event was
/// expunged. Answers their jobs, to be published after the commit.
///
/// The events are locked until then: an event is expunged before or after, never meanwhile.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn restart_deliveries(
    transaction: &Transaction<'_>,
    deliveries: &[DeliveryId],
    states: &[&str],
) -> Result<Vec<Job>, tokio_postgres::Error> {
    let now = clock::now();
    let statement = transaction.prepare_cached(RESTART_DELIVERIES).await?;
    let rows = transaction
        .query(
            &statement,
            &[
                &deliveries,
                &states,
                &now,
                &MOST_ATTEMPTS,
                &Job::ENOUGH_DATA,
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| Job::read(row, now)).collect())
}

const RESTART_DELIVERIES: &str = concat!(
    "-- restart_deliveries
WITH restarted AS (
    UPDATE deliveries d
    SET state = 'queued', due_at = $3, finished_at = NULL, attempts_before = attempts,
        restarted_at = $3, deferred_because = NULL
    WHERE d.id = ANY($1) AND d.state = ANY($2) AND d.attempts < $4
      AND (SELECT e.expunged_at IS NULL FROM events e WHERE e.uid = d.event_uid LIMIT 1 FOR SHARE)
    RETURNING ",
    job_delivery_columns!(),
    "
)
SELECT r.*, ",
    job_event_columns!("$5"),
    "
FROM restarted r CROSS JOIN LATERAL (SELECT * FROM events WHERE uid = r.event_uid LIMIT 1) e
ORDER BY r.id"
);

/// How long before its time a delivery can't be made due any more: its job may be on its
/// way to the endpoint already.
const ALMOST_DUE: time::Duration = time::Duration::seconds(2);

/// Makes those of the deliveries due now that wait for a later time. Answers their jobs, to be
/// published after the commit.
///
/// The new `due_at` is the ticket: the job that waits in a delay queue is dropped when it comes.
/// A delivery that is due, or almost, keeps its job: that may be at the endpoint, and a
/// second one would be sent beside it. What a paused webhook holds has no time, and stays.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn send_now(
    transaction: &Transaction<'_>,
    deliveries: &[DeliveryId],
) -> Result<Vec<Job>, tokio_postgres::Error> {
    let now = clock::now();
    let statement = transaction.prepare_cached(SEND_NOW).await?;
    let soon = now + ALMOST_DUE;
    let rows = transaction
        .query(&statement, &[&deliveries, &soon, &now, &Job::ENOUGH_DATA])
        .await?;
    Ok(rows.iter().map(|row| Job::read(row, now)).collect())
}

const SEND_NOW: &str = concat!(
    "-- send_now
WITH hurried AS (
    UPDATE deliveries d SET due_at = $3, deferred_because = 'restarted'
    WHERE d.id = ANY($1) AND d.state IN ('queued', 'retrying') AND d.due_at > $2
    RETURNING ",
    job_delivery_columns!(),
    "
)
SELECT h.*, ",
    job_event_columns!("$4"),
    "
FROM hurried h CROSS JOIN LATERAL (SELECT * FROM events WHERE uid = h.event_uid LIMIT 1) e
ORDER BY h.id"
);

/// Publishes the jobs and waits for their confirms; the sweeper publishes again what isn't
/// confirmed. Answers whether all were.
pub async fn publish(publisher: &Publisher, jobs: &[Job]) -> bool {
    let publishing = publisher.publish_jobs(jobs);
    let unconfirmed = tokio::time::timeout(CONFIRM_TIMEOUT, publishing).await;
    let unconfirmed = unconfirmed.unwrap_or(jobs.len());
    if unconfirmed > 0 {
        warn!(
            unconfirmed,
            "publishing jobs of restarted deliveries failed; the sweeper will publish them"
        );
    }
    unconfirmed == 0
}
