//! What a paused webhook holds: its deliveries stay in their rows, due at no
//! moment and without a job, until it isn't paused any more.
//!
//! `settle` holds them ([`note_holds`] in its transaction); the sweeper's rounds
//! [`release`] them, webhooks in turns, a bounded number at a time: to be sent if
//! the webhook is active again, to be cancelled if it is gone. No more of them are
//! released than the jobs queue has room for: what others publish meanwhile would
//! wait behind them. The gate does the rest: it lets no endpoint be stampeded.

use std::collections::{BTreeSet, VecDeque};

use anyhow::Context;
use deadpool_postgres::{Pool, Transaction};
use shared::amqp::Session;
use shared::clock;
use shared::ids::WebhookId;
use shared::job::Job;
use shared::topology::{jobs_queue, shard_of};
use tracing::info;

use crate::run::Dispatcher;
use crate::upkeep::backlog::MOST_WAITING;

/// As `deliveries.deferred_because` has it.
pub const PAUSED: &str = "paused";

/// The most deliveries released at once.
const BATCH: i64 = 1000;
/// The most batches in one round.
const BATCHES: usize = 10;
/// The most webhooks that one round looks at.
const WEBHOOKS: i64 = 1000;

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

/// Puts the deliveries of webhooks that aren't paused any more back on the queue. A
/// webhook whose shard's queue is full of jobs waits for a later round.
///
/// # Errors
/// If PostgreSQL or the session fails.
pub async fn release(dispatcher: &Dispatcher, session: &Session) -> anyhow::Result<()> {
    let mut webhooks = VecDeque::from(resumed(&dispatcher.pool).await?);
    let mut batches = 0;
    while batches < BATCHES
        && !dispatcher.stop.is_cancelled()
        && let Some(webhook) = webhooks.pop_front()
    {
        let shard = shard_of(webhook, dispatcher.shards);
        if session.waiting(&jobs_queue(shard)).await? >= MOST_WAITING {
            webhooks.retain(|other| shard_of(*other, dispatcher.shards) != shard);
            continue;
        }
        let (jobs, may_be_more) = release_some(&dispatcher.pool, webhook).await?;
        batches += 1;
        if !jobs.is_empty() {
            info!(jobs = jobs.len(), "releasing what paused webhooks held");
            // What isn't confirmed is overdue, and the sweeper's.
            dispatcher
                .publisher
                .publish_jobs(&jobs, dispatcher.shards)
                .await;
        }
        if may_be_more {
            webhooks.push_back(webhook);
        }
    }
    Ok(())
}

/// Webhooks that hold deliveries and aren't paused.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn resumed(pool: &Pool) -> anyhow::Result<Vec<WebhookId>> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    let statement = client
        .prepare_cached(
            "-- resumed\n\
             SELECT h.webhook_id FROM holds h JOIN webhooks w ON w.id = h.webhook_id \
             WHERE w.status <> 'paused' ORDER BY h.held_at LIMIT $1",
        )
        .await?;
    let rows = client.query(&statement, &[&WEBHOOKS]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The jobs of some of a webhook's, which are due now; and whether there may be more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn release_some(pool: &Pool, webhook: WebhookId) -> anyhow::Result<(Vec<Job>, bool)> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    if !lock_hold(&transaction, webhook).await? {
        return Ok((Vec::new(), false));
    }
    let now = clock::now();
    let statement = transaction.prepare_cached(RELEASE_HELD).await?;
    let rows = transaction
        .query(&statement, &[&webhook, &now, &BATCH, &Job::ENOUGH_DATA])
        .await
        .context("releasing held deliveries")?;
    let may_be_more = rows.len() as i64 == BATCH;
    if !may_be_more {
        forget_hold(&transaction, webhook).await?;
    }
    transaction.commit().await?;
    let jobs = rows.iter().map(|row| Job::read(row, now)).collect();
    Ok((jobs, may_be_more))
}

/// Whether it holds deliveries still and isn't paused, and no other replica is at it.
async fn lock_hold(transaction: &Transaction<'_>, webhook: WebhookId) -> anyhow::Result<bool> {
    let statement = transaction
        .prepare_cached(
            "-- lock_hold\n\
             SELECT h.webhook_id FROM holds h JOIN webhooks w ON w.id = h.webhook_id \
             WHERE h.webhook_id = $1 AND w.status <> 'paused' \
             FOR UPDATE OF h SKIP LOCKED",
        )
        .await?;
    let row = transaction.query_opt(&statement, &[&webhook]).await?;
    Ok(row.is_some())
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
