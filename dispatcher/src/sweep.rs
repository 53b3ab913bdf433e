//! Deliveries whose job was lost are put back on the queue.
//!
//! A job is taken for lost when its row has been overdue for longer than its
//! webhook's timeout and a grace, counted from the watermark: the moment before
//! which every due job has reached some dispatcher. The watermark is what keeps
//! a backlog from being taken for a loss: it advances with the jobs that are
//! taken (queues are first in, first out), and to now when the queues are empty.
//!
//! One replica sweeps at a time, by an advisory lock. What it found goes into
//! the row `sweep`, from which every replica's metrics and `posthorn-ingest
//! audit` read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use shared::amqp::Session;
use shared::job::Job;
use shared::publish::Publisher;
use shared::topology::jobs_queue;
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::hold;
use crate::metrics::metrics;
use crate::run::Dispatcher;

/// Any number that no other lock of ours has: "sweep" in ASCII.
const LOCK: i64 = 0x73_7765_6570;
/// The most jobs put back in one pass.
const BATCH: i64 = 1000;

/// After trouble, until everybody has recorded what waited for it to be over: more
/// than the longest pause between two tries.
const RECOVERY: Duration = Duration::from_secs(5);

/// Per shard: the due time of the latest job taken, in microseconds.
pub struct Watermarks(Vec<AtomicI64>);

impl Watermarks {
    /// Nothing taken yet.
    pub fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| AtomicI64::new(i64::MIN)).collect())
    }

    /// A job that was due at `due_at` has reached this replica.
    pub fn saw(&self, shard: u16, due_at: OffsetDateTime) {
        let at = due_at.min(OffsetDateTime::now_utc());
        self.0[usize::from(shard)].fetch_max(micros(at), Ordering::Relaxed);
    }

    /// Before this, every due job has been taken. `None` while that isn't known.
    async fn read(&self, session: &Session) -> lapin::Result<Option<OffsetDateTime>> {
        let mut least = OffsetDateTime::now_utc();
        for (shard, taken) in self.0.iter().enumerate() {
            let before = OffsetDateTime::now_utc();
            let waiting = session.waiting(&jobs_queue(shard as u16)).await?;
            if waiting == 0 {
                taken.fetch_max(micros(before), Ordering::Relaxed);
            }
            let Ok(at) = OffsetDateTime::from_unix_timestamp_nanos(
                i128::from(taken.load(Ordering::Relaxed)) * 1000,
            ) else {
                return Ok(None);
            };
            least = least.min(at);
        }
        Ok(Some(least))
    }
}

fn micros(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1000) as i64
}

/// Sweeps every so often, for as long as the session lives.
///
/// When PostgreSQL was away, or this process stood still, then so may others be
/// about to record what they have sent meanwhile: nothing is put back for a while.
///
/// # Errors
/// If the session fails. Trouble with PostgreSQL only costs the pass.
pub async fn sweep(dispatcher: &Dispatcher, session: &Session) -> anyhow::Result<()> {
    let mut pass = tokio::time::interval(dispatcher.sweep_interval);
    pass.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut passed, mut trouble) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            _ = pass.tick() => {}
            () = dispatcher.stop.cancelled() => return Ok(()),
        }
        if passed.elapsed() > 3 * dispatcher.sweep_interval {
            trouble = Instant::now();
        }
        let watermark = dispatcher.watermarks.read(session).await?;
        let watermark = watermark.filter(|_| trouble.elapsed() > RECOVERY);
        if let Err(error) = sweep_once(dispatcher, watermark).await {
            warn!(error = format!("{error:#}"), "sweeping");
            trouble = Instant::now();
        }
        passed = Instant::now();
    }
}

async fn sweep_once(
    dispatcher: &Dispatcher,
    watermark: Option<OffsetDateTime>,
) -> anyhow::Result<()> {
    if let Some(watermark) = watermark {
        let patience = Patience {
            timeout: dispatcher.longest_timeout,
            grace: dispatcher.sweep_grace,
        };
        let jobs = overdue(&dispatcher.pool, watermark, patience).await?;
        if !jobs.is_empty() {
            metrics().swept.inc_by(jobs.len() as u64);
            warn!(jobs = jobs.len(), "jobs were lost; putting them back");
            put_back(&dispatcher.publisher, &jobs, dispatcher.shards).await;
        }
    }
    hold::release(dispatcher).await?;
    report(&dispatcher.pool).await
}

/// How overdue a delivery is when its job counts as lost.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Of webhooks that have no timeout of their own.
    pub timeout: Duration,
    /// Beyond the timeout.
    pub grace: Duration,
}

/// Takes the overdue rows, marks them as due now, and makes their jobs.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn overdue(
    pool: &Pool,
    watermark: OffsetDateTime,
    patience: Patience,
) -> anyhow::Result<Vec<Job>> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    let locked = transaction
        .query_one(
            "-- sweep_lock\nSELECT pg_try_advisory_xact_lock($1)",
            &[&LOCK],
        )
        .await?;
    if !locked.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let default_timeout = patience.timeout.as_millis() as i32;
    let grace = patience.grace.as_secs_f64();
    let statement = transaction.prepare_cached(SWEEP_OVERDUE).await?;
    let rows = transaction
        .query(&statement, &[&watermark, &grace, &default_timeout, &BATCH])
        .await
        .context("looking for overdue deliveries")?;
    let noted = transaction.prepare_cached(NOTE_SWEEP).await?;
    transaction
        .execute(
            &noted,
            &[&watermark, &grace, &default_timeout, &(rows.len() as i64)],
        )
        .await
        .context("noting the sweep")?;
    transaction.commit().await?;
    let now = OffsetDateTime::now_utc();
    Ok(rows.iter().map(|row| Job::read(row, now)).collect())
}

const SWEEP_OVERDUE: &str = "-- sweep_overdue
WITH overdue AS (
    SELECT d.id FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
    WHERE d.state IN ('queued', 'retrying') AND d.due_at < $1::timestamptz
      AND d.due_at < $1::timestamptz - make_interval(secs => $2::float8)
                     - coalesce(w.timeout_ms, $3) * interval '1 millisecond'
    ORDER BY d.due_at LIMIT $4
    FOR UPDATE OF d SKIP LOCKED
), put_back AS (
    UPDATE deliveries d SET due_at = now() FROM overdue WHERE d.id = overdue.id
    RETURNING d.id, d.webhook_id, d.event_uid, d.attempts, d.attempts_before, d.restarted_at
)
SELECT p.id, p.webhook_id, p.event_uid, p.attempts, p.attempts_before, p.restarted_at, e.tenant, e.id AS event_id, e.type,
       e.occurred_at, e.data, e.attributes
FROM put_back p JOIN events e ON e.uid = p.event_uid";

// What is overdue by yet another grace has not been put back although it should.
const NOTE_SWEEP: &str = "-- note_sweep
UPDATE sweep SET
    watermark = $1::timestamptz,
    unaccounted = (
        SELECT count(*) FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
        WHERE d.state IN ('queued', 'retrying') AND d.due_at < $1::timestamptz
          AND d.due_at < $1::timestamptz - make_interval(secs => 2 * $2::float8)
                         - coalesce(w.timeout_ms, $3) * interval '1 millisecond'),
    oldest_due_at = (SELECT min(due_at) FROM deliveries WHERE state IN ('queued', 'retrying')),
    requeued = requeued + $4,
    swept_at = now()";

/// Publishes them. One that isn't confirmed is found again after the next grace.
async fn put_back(publisher: &Publisher, jobs: &[Job], shards: u16) {
    let unconfirmed = publisher.publish_jobs(jobs, shards).await;
    if unconfirmed > 0 {
        info!(unconfirmed, "the next sweep sees to the rest");
    }
}

/// Shows what the last sweep of any replica found.
async fn report(pool: &Pool) -> anyhow::Result<()> {
    let client: Client = pool.get().await.context("connecting to PostgreSQL")?;
    let statement = client
        .prepare_cached("-- read_sweep\nSELECT unaccounted, oldest_due_at FROM sweep")
        .await?;
    let row = client.query_one(&statement, &[]).await?;
    metrics().unaccounted.set(row.get(0));
    let age = row
        .get::<_, Option<OffsetDateTime>>(1)
        .map_or(Duration::ZERO, |due| {
            (OffsetDateTime::now_utc() - due)
                .try_into()
                .unwrap_or_default()
        });
    metrics().oldest_due.set(age.as_secs() as i64);
    Ok(())
}
