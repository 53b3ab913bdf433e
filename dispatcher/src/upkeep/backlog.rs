//! Many jobs were lost at once: RabbitMQ has lost its data, say. They are put back
//! as fast as the queues take them, and webhooks take turns, so that no tenant waits
//! until all of another's have gone.
//!
//! [`crate::upkeep::sweep`] begins it when one of its passes finds more than it puts back in
//! one. At rest none of this runs. One replica does it at a time, by an advisory lock
//! of a connection of its own; ordinary passes put nothing back meanwhile. It ranks
//! what is overdue once for many batches: each webhook's first, then each one's
//! second, and so on. That reads all of it, so it is not what an ordinary pass does.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::ClientWrapper;
use deadpool_postgres::Object;
use shared::amqp::Session;
use shared::ids::DeliveryId;
use shared::job::Job;
use shared::topology::jobs_queue;
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::metrics::metrics;
use crate::run::Dispatcher;
use crate::upkeep::sweep::Lost;

/// Any number that no other lock of ours has: "backlog" in ASCII.
pub const LOCK: i64 = 0x62_6163_6b6c_6f67;
/// The most jobs put back in one statement.
const BATCH: usize = 1000;
/// The most deliveries that are ranked for the batches to come: 16 bytes each.
const RANKED: i64 = 20_000;
/// The most that are looked at to rank them, oldest first.
const LOOKED_AT: i64 = 2_000_000;
/// No more is put back while this many jobs wait in a shard's queue: what is
/// published meanwhile waits behind no more than these and a batch.
pub const MOST_WAITING: u32 = 2000;
/// How often it is looked whether there is room.
const PAUSE: Duration = Duration::from_millis(50);

/// Puts back what counts as lost now, until nothing of it is left.
///
/// # Errors
/// If PostgreSQL or the session fails.
pub async fn put_back(
    dispatcher: &Dispatcher,
    session: &Session,
    lost: Lost,
) -> anyhow::Result<()> {
    // Not given back to the pool: whatever ends this closes the connection, and
    // PostgreSQL then gives up the lock.
    let client = Object::take(dispatcher.pool.get().await?);
    let locked = client
        .query_one("-- backlog_lock\nSELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?;
    if !locked.get::<_, bool>(0) {
        return Ok(());
    }
    // To sort so many without a file.
    client
        .batch_execute("SET work_mem = '64MB'; SET statement_timeout = '120s'")
        .await?;
    let longest = longest_timeout(&client)
        .await?
        .max(dispatcher.longest_timeout);
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
            if !wait_for_room(dispatcher, session).await? {
                return Ok(());
            }
            let jobs = put_back_ranked(&client, batch, due_before).await?;
            metrics().swept.inc_by(jobs.len() as u64);
            put_back += jobs.len();
            let publisher = &dispatcher.publisher;
            let unconfirmed = publisher.publish_jobs(&jobs, dispatcher.shards).await;
            anyhow::ensure!(
                unconfirmed == 0,
                "RabbitMQ did not confirm {unconfirmed} of {} jobs; a later sweep puts them back",
                jobs.len()
            );
        }
        info!(put_back, "putting back a backlog of lost jobs");
    }
    warn!(put_back, "a backlog of lost jobs was put back");
    Ok(())
}

/// Waits until the jobs queues have room. False: stopping.
async fn wait_for_room(dispatcher: &Dispatcher, session: &Session) -> anyhow::Result<bool> {
    loop {
        let mut most = 0;
        for shard in 0..dispatcher.shards {
            most = most.max(session.waiting(&jobs_queue(shard)).await?);
        }
        if most < MOST_WAITING {
            return Ok(true);
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = dispatcher.stop.cancelled() => return Ok(false),
        }
    }
}

/// Of webhooks that have a timeout of their own.
async fn longest_timeout(client: &ClientWrapper) -> anyhow::Result<Duration> {
    let longest = "-- longest_timeout\nSELECT coalesce(max(timeout_ms), 0) FROM webhooks";
    let row = client.query_one(longest, &[]).await?;
    Ok(Duration::from_millis(row.get::<_, i32>(0) as u64))
}

/// What is overdue for webhooks of any timeout, in turns.
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

/// Gives those of a batch that are overdue still a new ticket, due now; answers the
/// jobs, in the order of the batch.
async fn put_back_ranked(
    client: &ClientWrapper,
    batch: &[DeliveryId],
    due_before: OffsetDateTime,
) -> anyhow::Result<Vec<Job>> {
    let statement = client
        .prepare_cached(
            "-- put_back_ranked\n\
             WITH put_back AS ( \
                 UPDATE deliveries d SET due_at = now() \
                 WHERE d.id = ANY($1) AND d.due_at < $2 AND d.state IN ('queued', 'retrying') \
                 RETURNING d.id, d.webhook_id, d.event_uid, d.attempts, d.attempts_before, \
                     d.restarted_at, d.due_at) \
             SELECT p.*, e.tenant, e.id AS event_id, e.type, e.occurred_at, \
                 left(e.data, $3) AS data, e.attributes \
             FROM put_back p JOIN events e ON e.uid = p.event_uid \
             ORDER BY array_position($1, p.id)",
        )
        .await?;
    let rows = client
        .query(&statement, &[&batch, &due_before, &Job::ENOUGH_DATA])
        .await
        .context("putting overdue deliveries back")?;
    let due_at = |row: &tokio_postgres::Row| row.get::<_, OffsetDateTime>("due_at");
    Ok(rows.iter().map(|row| Job::read(row, due_at(row))).collect())
}
