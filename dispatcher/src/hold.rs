//! What a paused webhook holds: its deliveries stay in their rows, due at no
//! moment and without a job, until it isn't paused any more.
//!
//! `settle` holds them ([`note_holds`] in its transaction); the sweeper's rounds
//! [`release`] them, a bounded number at a time: to be sent if the webhook is
//! active again, to be cancelled if it is gone. The gate does the rest: it lets
//! no endpoint be stampeded.

use std::collections::BTreeSet;

use anyhow::Context;
use deadpool_postgres::{Pool, Transaction};
use shared::clock;
use shared::ids::WebhookId;
use shared::job::Job;
use tracing::info;

use crate::run::Dispatcher;

/// As `deliveries.deferred_because` has it.
pub const PAUSED: &str = "paused";

/// The most deliveries released at once.
const BATCH: i64 = 1000;
/// The most batches in one round.
const BATCHES: usize = 10;

/// Says that these webhooks hold deliveries. Before the deliveries are written:
/// it waits for a release that is about to forget them.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn note_holds(
    transaction: &Transaction<'_>,
    webhooks: &BTreeSet<WebhookId>,
) -> anyhow::Result<()> {
    if webhooks.is_empty() {
        return Ok(());
    }
    let statement = transaction
        .prepare_cached(
            "-- note_holds\n\
             INSERT INTO holds (webhook_id) SELECT unnest($1::uuid[]) \
             ON CONFLICT (webhook_id) DO UPDATE SET held_at = now()",
        )
        .await?;
    // A set is in order, so that batches don't wait for each other in a circle.
    let webhooks: Vec<_> = webhooks.iter().collect();
    transaction.execute(&statement, &[&webhooks]).await?;
    Ok(())
}

/// Puts the deliveries of webhooks that aren't paused any more back on the queue.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn release(dispatcher: &Dispatcher) -> anyhow::Result<()> {
    for _ in 0..BATCHES {
        let (jobs, may_be_more) = release_some(&dispatcher.pool).await?;
        if !jobs.is_empty() {
            info!(jobs = jobs.len(), "releasing what paused webhooks held");
            // What isn't confirmed is overdue, and the sweeper's.
            dispatcher
                .publisher
                .publish_jobs(&jobs, dispatcher.shards)
                .await;
        }
        if !may_be_more || dispatcher.stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// The jobs of some, which are due now; and whether there may be more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn release_some(pool: &Pool) -> anyhow::Result<(Vec<Job>, bool)> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    let Some(webhook) = lock_hold(&transaction).await? else {
        return Ok((Vec::new(), false));
    };
    let now = clock::now();
    let statement = transaction.prepare_cached(RELEASE_HELD).await?;
    let rows = transaction
        .query(&statement, &[&webhook, &now, &BATCH, &Job::ENOUGH_DATA])
        .await
        .context("releasing held deliveries")?;
    if (rows.len() as i64) < BATCH {
        forget_hold(&transaction, webhook).await?;
    }
    transaction.commit().await?;
    Ok((rows.iter().map(|row| Job::read(row, now)).collect(), true))
}

/// A webhook that holds deliveries and isn't paused.
async fn lock_hold(transaction: &Transaction<'_>) -> anyhow::Result<Option<WebhookId>> {
    let statement = transaction
        .prepare_cached(
            "-- lock_hold\n\
             SELECT h.webhook_id FROM holds h JOIN webhooks w ON w.id = h.webhook_id \
             WHERE w.status <> 'paused' ORDER BY h.held_at LIMIT 1 \
             FOR UPDATE OF h SKIP LOCKED",
        )
        .await?;
    let row = transaction.query_opt(&statement, &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

async fn forget_hold(transaction: &Transaction<'_>, webhook: WebhookId) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached("-- forget_hold\nDELETE FROM holds WHERE webhook_id = $1")
        .await?;
    transaction.execute(&statement, &[&webhook]).await?;
    Ok(())
}

const RELEASE_HELD: &str = "-- release_held
WITH held AS (
    SELECT d.id FROM deliveries d
    WHERE d.webhook_id = $1 AND d.deferred_because = 'paused' AND d.state IN ('queued', 'retrying')
    ORDER BY d.id LIMIT $3
    FOR UPDATE OF d
), released AS (
    UPDATE deliveries d SET due_at = $2, deferred_because = NULL FROM held WHERE d.id = held.id
    RETURNING d.id, d.webhook_id, d.event_uid, d.attempts, d.attempts_before, d.restarted_at
)
SELECT r.id, r.webhook_id, r.event_uid, r.attempts, r.attempts_before, r.restarted_at, e.tenant, e.id AS event_id, e.type,
       e.occurred_at, left(e.data, $4) AS data, e.attributes
FROM released r JOIN events e ON e.uid = r.event_uid ORDER BY r.id";
