//! Deliveries of paused webhooks: they stay in their rows, without a job and without a due
//! time, until their webhook isn't paused any more.
//!
//! `settle` writes them, and [`note_paused`] notes their webhooks in the same transaction.
//! Each pass of the sweeper calls [`PausedDeliveries::release`] for the webhooks that
//! aren't paused any more. Released deliveries get jobs that are due now: they are sent if
//! the webhook is active again, and cancelled if it is gone.
//!
//! A pass releases a bounded number, and webhooks take turns. It releases no more than the
//! jobs queue has room for, because jobs that are published meanwhile wait behind them.
//! The limiter keeps the released jobs from overloading the endpoint.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use anyhow::Context;
use deadpool_postgres::{Pool, Transaction};
use shared::amqp::Session;
use shared::ids::WebhookId;
use shared::job::Job;
use shared::job::per_message::JobsPerMessage;
use shared::publish::Publisher;
use shared::topology::{jobs_queue, shard_of};
use shared::{clock, job_delivery_columns, job_event_columns};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::backlog::MAX_WAITING;

/// As `deliveries.deferred_because` has it.
pub const PAUSED: &str = "paused";

/// The most deliveries of a webhook that are released at once.
const BATCH: i64 = 1000;
/// The most batches in one pass.
const BATCHES: usize = 10;
/// The most webhooks in one pass.
const WEBHOOKS: i64 = 1000;

/// Releases deliveries of webhooks that aren't paused any more.
pub struct PausedDeliveries {
    pub pool: Pool,
    pub publisher: Publisher,
    pub per_message: Arc<JobsPerMessage>,
    pub stop: CancellationToken,
}

impl PausedDeliveries {
    /// Puts some of these deliveries back on the queue. If the jobs queue of a webhook is
    /// full, the webhook waits for a later pass.
    ///
    /// # Errors
    /// If PostgreSQL or the session fails.
    pub async fn release(&self, session: &Session) -> anyhow::Result<()> {
        let shards = self.publisher.shards();
        let mut webhooks = VecDeque::from(resumed_webhooks(&self.pool).await?);
        let mut batches = 0;
        while batches < BATCHES
            && !self.stop.is_cancelled()
            && let Some(webhook) = webhooks.pop_front()
        {
            let shard = shard_of(webhook, shards);
            let messages = session.waiting(&jobs_queue(shard)).await?;
            if self.per_message.jobs_in(messages) >= MAX_WAITING {
                webhooks.retain(|other| shard_of(*other, shards) != shard);
                continue;
            }
            let (jobs, may_be_more) = release_batch(&self.pool, webhook).await?;
            batches += 1;
            if !jobs.is_empty() {
                info!(jobs = jobs.len(), %webhook, "releasing deliveries of a resumed webhook");
                // A job that isn't confirmed is overdue. The sweeper puts it back.
                self.publisher.publish_jobs(&jobs).await;
            }
            if may_be_more {
                webhooks.push_back(webhook);
            }
        }
        Ok(())
    }
}

/// Notes that these webhooks have paused deliveries. This comes before the deliveries are
/// written: it waits for a release that is about to remove the note.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn note_paused(
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
    // A set is sorted, so that two batches cannot deadlock.
    let webhooks: Vec<_> = webhooks.iter().collect();
    transaction.execute(&statement, &[&webhooks]).await?;
    Ok(())
}

/// Webhooks that have paused deliveries but aren't paused any more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn resumed_webhooks(pool: &Pool) -> anyhow::Result<Vec<WebhookId>> {
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

/// Releases a batch of a webhook's deliveries. Answers their jobs, which are due now, and
/// whether there may be more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn release_batch(pool: &Pool, webhook: WebhookId) -> anyhow::Result<(Vec<Job>, bool)> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    if !lock_note(&transaction, webhook).await? {
        return Ok((Vec::new(), false));
    }
    let now = clock::now();
    let statement = transaction.prepare_cached(RELEASE_HELD).await?;
    let rows = transaction
        .query(&statement, &[&webhook, &now, &BATCH, &Job::ENOUGH_DATA])
        .await
        .context("releasing paused deliveries")?;
    let may_be_more = rows.len() as i64 == BATCH;
    if !may_be_more {
        remove_note(&transaction, webhook).await?;
    }
    transaction.commit().await?;
    let jobs = rows.iter().map(|row| Job::read(row, now)).collect();
    Ok((jobs, may_be_more))
}

/// False if the webhook has no paused deliveries or is paused again, or if another replica
/// is releasing them.
async fn lock_note(transaction: &Transaction<'_>, webhook: WebhookId) -> anyhow::Result<bool> {
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

async fn remove_note(transaction: &Transaction<'_>, webhook: WebhookId) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached("-- forget_hold\nDELETE FROM holds WHERE webhook_id = $1")
        .await?;
    transaction.execute(&statement, &[&webhook]).await?;
    Ok(())
}

const RELEASE_HELD: &str = concat!(
    "-- release_held
WITH held AS (
    SELECT d.id FROM deliveries d
    WHERE d.webhook_id = $1 AND d.deferred_because = 'paused' AND d.state IN ('queued', 'retrying')
    ORDER BY d.id LIMIT $3
    FOR UPDATE OF d
), released AS (
    UPDATE deliveries d SET due_at = $2, deferred_because = NULL,
        waits = jsonb_set(d.waits, '{-1,until}', to_jsonb($2::timestamptz))
    FROM held WHERE d.id = held.id
    RETURNING ",
    job_delivery_columns!(),
    "
)
SELECT r.*, ",
    job_event_columns!("$4"),
    " FROM released r JOIN events e ON e.uid = r.event_uid ORDER BY r.id"
);
