//! The tickets of deliveries whose jobs are dead letters.
//!
//! A job is current only if its row's `due_at` agrees with it. So a delivery gets another
//! `due_at` when its job becomes a dead letter, and again when the dead letter is replayed.

use deadpool_postgres::{Client, Pool};
use shared::column;
use shared::job::Job;
use time::OffsetDateTime;

/// Defers the deliveries of these jobs, if they still wait for exactly these jobs.
///
/// A dispatcher that is about to send a late copy gives the delivery a new ticket: the time until
/// which the copy waited. The copy's message still has the old ticket. So a delivery waits for
/// its late copy if its row has either of the two.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn put_off(pool: &Pool, jobs: &[Job], until: OffsetDateTime) -> anyhow::Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- put_off_given_up\n\
             UPDATE deliveries d SET due_at = $3, deferred_because = 'parked', \
                 waits = add_wait(d.waits, 'parked', d.attempts, $3) \
             FROM unnest($1::uuid[], $2::int2[], $4::timestamptz[], $5::timestamptz[], \
                         $6::timestamptz[]) \
                 AS v (delivery_id, n, restarted_at, due_at, claimed_at) \
             WHERE d.id = ANY($1) AND d.id = v.delivery_id \
               AND d.attempts = v.n - 1 AND d.due_at IN (v.due_at, v.claimed_at) \
               AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at \
               AND d.state NOT IN ('delivered', 'failed', 'expired', 'cancelled')",
        )
        .await?;
    client
        .execute(
            &statement,
            &[
                column!(jobs, job => job.delivery),
                column!(jobs, job => job.attempt as i16),
                &until,
                column!(jobs, job => restarted_at(job)),
                column!(jobs, job => job.due_at),
                column!(jobs, job => job.when()),
            ],
        )
        .await?;
    Ok(())
}

/// Makes the deliveries of these jobs wait for them as jobs due at `now`, if they still wait
/// for the same attempt. If publishing one fails then, the sweeper finds it overdue.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn take_tickets(
    client: &Client,
    jobs: &[Job],
    now: OffsetDateTime,
) -> Result<(), tokio_postgres::Error> {
    if jobs.is_empty() {
        return Ok(());
    }
    let statement = client
        .prepare_cached(
            "-- take_tickets\n\
             UPDATE deliveries d SET due_at = $3, deferred_because = NULL \
             FROM unnest($1::uuid[], $2::int2[], $4::timestamptz[]) AS v (delivery_id, n, restarted_at) \
             WHERE d.id = ANY($1) AND d.id = v.delivery_id \
               AND d.attempts = v.n - 1 \
               AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at \
               AND d.due_at IS NOT NULL",
        )
        .await?;
    client
        .execute(
            &statement,
            &[
                column!(jobs, job => job.delivery),
                column!(jobs, job => job.attempt as i16),
                &now,
                column!(jobs, job => restarted_at(job)),
            ],
        )
        .await?;
    Ok(())
}

fn restarted_at(job: &Job) -> Option<OffsetDateTime> {
    job.restart.map(|restart| restart.at)
}
