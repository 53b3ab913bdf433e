//! Puts a backlog of lost jobs back on the queue, for example after RabbitMQ has lost its
//! data.
//!
//! A backlog is more than one pass of the [sweeper](super::sweep) can take. Its jobs are
//! put back as fast as the queues take them, and webhooks take turns: the first job of each
//! webhook, then the second of each, and so on. So no tenant waits until all jobs of
//! another tenant are back.
//!
//! One replica does this at a time. It holds an advisory lock on a connection of its own,
//! and meanwhile sweeps put nothing back. Ranking the jobs reads all overdue deliveries,
//! which is too much for an ordinary sweep; it is done once for many batches.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{ClientWrapper, Object, Pool};
use shared::amqp::Session;
use shared::ids::DeliveryId;
use shared::job::Job;
use shared::job::per_message::JobsPerMessage;
use shared::publish::Publisher;
use shared::topology::jobs_queue;
use shared::{job_delivery_columns, job_event_columns};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::watermark::Lost;
use crate::metrics::metrics;

/// Any number that no other lock of ours has: "backlog" in ASCII.
pub const LOCK: i64 = 0x62_6163_6b6c_6f67;
/// The most jobs that one statement puts back.
const BATCH: usize = 1000;
/// The most deliveries that are ranked at once: 16 bytes each.
const RANKED: i64 = 20_000;
/// The most overdue deliveries that are read for a ranking, oldest first.
const LOOKED_AT: i64 = 2_000_000;
/// While this many jobs wait in a jobs queue, nothing is put back there. A job that is
/// published meanwhile waits behind no more than these and one batch.
pub const MAX_WAITING: i64 = 2000;
/// How often a full queue is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// Puts backlogs back.
pub struct Backlog {
    pub pool: Pool,
    pub publisher: Publisher,
    pub per_message: Arc<JobsPerMessage>,
    /// The timeout of webhooks that set none.
    pub default_timeout: Duration,
    pub stop: CancellationToken,
}

impl Backlog {
    /// Puts back all jobs that are lost now.
    ///
    /// # Errors
    /// If PostgreSQL or the session fails.
    pub async fn put_back(&self, session: &Session, lost: Lost) -> anyhow::Result<()> {
        // This connection doesn't go back to the pool. Whatever ends this function closes
        // the connection, and PostgreSQL then releases the lock.
        let client = Object::take(self.pool.get().await?);
        let locked = client
            .query_one("-- backlog_lock\nSELECT pg_try_advisory_lock($1)", &[&LOCK])
            .await?;
        if !locked.get::<_, bool>(0) {
            return Ok(());
        }
        // Enough memory to sort all of them without a file.
        client
            .batch_execute("SET work_mem = '64MB'; SET statement_timeout = '120s'")
            .await?;
        let longest = longest_timeout(&client).await?.max(self.default_timeout);
        let Some(due_before) = lost.due_before(longest) else {
            return Ok(());
        };
        let mut put_back = 0;
        loop {
            let ranked = rank_overdue(&client, due_before).await?;
            if ranked.is_empty() {
                break;
            }
            for batch in ranked.chunks(BATCH) {
                if !self.wait_for_room(session).await? {
                    return Ok(());
                }
                let jobs = put_back_ranked(&client, batch, due_before).await?;
                metrics().swept.inc_by(jobs.len() as u64);
                put_back += jobs.len();
                let unconfirmed = self.publisher.publish_jobs(&jobs).await;
                anyhow::ensure!(
                    unconfirmed == 0,
                    "RabbitMQ did not confirm {unconfirmed} of {} jobs",
                    jobs.len()
                );
            }
            info!(put_back, "putting a backlog of lost jobs back");
        }
        warn!(
            put_back,
            "jobs were lost; all of them are back on their queue"
        );
        Ok(())
    }

    /// Waits until every jobs queue has room. False: stopping.
    async fn wait_for_room(&self, session: &Session) -> anyhow::Result<bool> {
        loop {
            let mut longest = 0;
            for shard in 0..self.publisher.shards() {
                longest = longest.max(session.waiting(&jobs_queue(shard)).await?);
            }
            if self.per_message.jobs_in(longest) < MAX_WAITING {
                return Ok(true);
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.stop.cancelled() => return Ok(false),
            }
        }
    }
}

/// The longest timeout that any webhook has set.
async fn longest_timeout(client: &ClientWrapper) -> anyhow::Result<Duration> {
    let longest = "-- longest_timeout\nSELECT coalesce(max(timeout_ms), 0) FROM webhooks";
    let row = client.query_one(longest, &[]).await?;
    Ok(Duration::from_millis(row.get::<_, i32>(0) as u64))
}

/// Overdue deliveries, in the order in which they are put back.
async fn rank_overdue(
    client: &ClientWrapper,
    due_before: OffsetDateTime,
) -> anyhow::Result<Vec<DeliveryId>> {
    let statement = client
        .prepare_cached(
            "-- rank_overdue\n\
             SELECT id FROM ( \
                 SELECT id, due_at, row_number() OVER (PARTITION BY webhook_id ORDER BY due_at) AS turn \
                 FROM (SELECT id, webhook_id, due_at FROM deliveries \
                       WHERE state IN ('queued', 'retrying') AND due_at < $1 \
                       ORDER BY due_at LIMIT $2) overdue) ranked \
             ORDER BY turn, due_at LIMIT $3",
        )
        .await?;
    let rows = client
        .query(&statement, &[&due_before, &LOOKED_AT, &RANKED])
        .await
        .context("ranking overdue deliveries")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Gives those deliveries of a batch that are still overdue new tickets, due now, and
/// answers their jobs in the order of the batch.
async fn put_back_ranked(
    client: &ClientWrapper,
    batch: &[DeliveryId],
    due_before: OffsetDateTime,
) -> anyhow::Result<Vec<Job>> {
    let statement = client.prepare_cached(PUT_BACK_RANKED).await?;
    let rows = client
        .query(&statement, &[&batch, &due_before, &Job::ENOUGH_DATA])
        .await
        .context("putting overdue deliveries back")?;
    let due_at = |row: &tokio_postgres::Row| row.get::<_, OffsetDateTime>("due_at");
    Ok(rows.iter().map(|row| Job::read(row, due_at(row))).collect())
}

const PUT_BACK_RANKED: &str = concat!(
    "-- put_back_ranked
WITH put_back AS (
    UPDATE deliveries d SET due_at = now()
    WHERE d.id = ANY($1) AND d.due_at < $2 AND d.state IN ('queued', 'retrying')
    RETURNING d.due_at, ",
    job_delivery_columns!(),
    "
)
SELECT p.*, ",
    job_event_columns!("$3"),
    " FROM put_back p JOIN events e ON e.uid = p.event_uid
ORDER BY array_position($1, p.id)"
);
