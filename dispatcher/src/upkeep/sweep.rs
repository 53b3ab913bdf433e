//! The sweeper puts lost jobs back on their queue.
//!
//! Every few seconds a pass looks for open deliveries whose jobs are lost, as
//! [`watermark`](super::watermark) defines it, gives them new tickets, and publishes their
//! jobs. More than one pass can take is a [`Backlog`]. After that the pass releases
//! deliveries of webhooks that aren't paused any more ([`PausedDeliveries`]).
//!
//! One replica sweeps at a time: it holds an advisory lock during its pass. It writes its
//! findings into the table `sweep`, which the metrics of all replicas and
//! `posthorn-ingest audit` read.
//!
//! When PostgreSQL was away, or this process stood still, other replicas may be about to
//! record requests that ended long ago. So the sweeper then forgets all readings of the
//! watermark, and every attempt gets its full time again.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use shared::amqp::Session;
use shared::job::Job;
use shared::publish::Publisher;
use shared::{clock, job_delivery_columns, job_event_columns};
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backlog::{self, Backlog};
use super::paused::PausedDeliveries;
use super::watermark::{LossCriteria, Lost, Reading, Watermarks};
use crate::metrics::metrics;

/// Any number that no other lock of ours has: "sweep" in ASCII.
const LOCK: i64 = 0x73_7765_6570;
/// The most jobs that one pass puts back. If there are more, they are a backlog.
const BATCH: i64 = 1000;
/// A pass that begins this much too late, or takes this much too long, shows that this
/// process or PostgreSQL stood still.
const STANDSTILL: Duration = Duration::from_secs(2);
/// The most readings that are remembered. Beyond that, every second one is forgotten.
const MAX_READINGS: usize = 1000;

/// Puts lost jobs back.
pub struct Sweeper {
    pub pool: Pool,
    pub publisher: Publisher,
    pub watermarks: Arc<Watermarks>,
    pub criteria: LossCriteria,
    pub interval: Duration,
    pub backlog: Backlog,
    pub paused: PausedDeliveries,
    pub stop: CancellationToken,
}

impl Sweeper {
    /// Sweeps until `stop`, for as long as the session lives.
    ///
    /// # Errors
    /// If the session fails. If PostgreSQL fails, the next pass tries again.
    pub async fn run(&self, session: &Session) -> anyhow::Result<()> {
        let mut pass = tokio::time::interval(self.interval);
        pass.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut readings: Vec<Reading> = Vec::new();
        let mut begun = Instant::now();
        let mut clearing = pin!(Fuse::terminated());
        loop {
            tokio::select! {
                _ = pass.tick() => {}
                () = self.stop.cancelled() => return Ok(()),
                cleared = &mut clearing, if !clearing.is_terminated() => {
                    if let Err(error) = cleared {
                        let error: anyhow::Error = error;
                        warn!(
                            error = format!("{error:#}"),
                            "not all jobs of a backlog could be put back; a later sweep puts the rest back"
                        );
                    }
                    continue;
                }
            }
            if begun.elapsed() > 2 * self.interval + STANDSTILL {
                readings.clear();
            }
            begun = Instant::now();
            if let Some(watermark) = self.watermarks.read(session).await? {
                let at = clock::now();
                readings.push(Reading { at, watermark });
            }
            if readings.len() > MAX_READINGS {
                let mut keep = [true, false].into_iter().cycle();
                readings.retain(|_| keep.next().unwrap_or(true));
            }
            match self.put_back_lost(&readings).await {
                Ok(Some(lost)) if clearing.is_terminated() => {
                    clearing.set(self.backlog.put_back(session, lost).fuse());
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "lost jobs could not be looked for; the next sweep tries again"
                    );
                    readings.clear();
                }
            }
            if let Err(error) = self.paused.release(session).await {
                warn!(
                    error = format!("{error:#}"),
                    "deliveries of resumed webhooks could not be released; the next sweep tries again"
                );
            }
            if let Err(error) = show_findings(&self.pool).await {
                warn!(
                    error = format!("{error:#}"),
                    "the findings of the last sweep could not be read; their metrics stay as they are"
                );
            }
        }
    }

    /// If there may be more than one pass takes: what counts as lost.
    async fn put_back_lost(&self, readings: &[Reading]) -> anyhow::Result<Option<Lost>> {
        let jobs = take_lost(&self.pool, readings, self.criteria).await?;
        if !jobs.is_empty() {
            metrics().swept.inc_by(jobs.len() as u64);
            warn!(
                jobs = jobs.len(),
                "jobs were lost; putting them back on their queue"
            );
            let unconfirmed = self.publisher.publish_jobs(&jobs).await;
            if unconfirmed > 0 {
                info!(
                    unconfirmed,
                    "RabbitMQ did not confirm these jobs; a later sweep puts them back"
                );
            }
        }
        let is_backlog = jobs.len() as i64 == BATCH;
        Ok(is_backlog.then(|| Lost::new(readings, self.criteria)))
    }
}

/// Gives the deliveries of lost jobs new tickets, due now, and answers their jobs.
/// `readings`: in the order of their times.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn take_lost(
    pool: &Pool,
    readings: &[Reading],
    criteria: LossCriteria,
) -> anyhow::Result<Vec<Job>> {
    let Some(latest) = readings.last() else {
        return Ok(Vec::new());
    };
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    let locked = transaction
        .query_one(
            "-- sweep_lock\n\
             SELECT pg_try_advisory_xact_lock($1), pg_try_advisory_xact_lock_shared($2)",
            &[&LOCK, &backlog::LOCK],
        )
        .await?;
    if !locked.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    // While a replica puts a backlog back, webhook by webhook, no other job goes first.
    let most = if locked.get(1) { BATCH } else { 0 };
    let default_timeout = criteria.default_timeout.as_millis() as i32;
    let grace = criteria.grace.as_secs_f64();
    let lost = Lost::new(readings, criteria);
    let due_before = lost.by_timeout();
    let statement = transaction.prepare_cached(SWEEP_OVERDUE).await?;
    let rows = transaction
        .query(
            &statement,
            &[
                &due_before,
                &default_timeout,
                &grace,
                &most,
                &Job::ENOUGH_DATA,
            ],
        )
        .await
        .context("looking for overdue deliveries")?;
    let requeued = rows.len() as i64;
    let statement = transaction.prepare_cached(NOTE_SWEEP).await?;
    transaction
        .execute(
            &statement,
            &[
                &due_before,
                &default_timeout,
                &grace,
                &latest.watermark,
                &requeued,
            ],
        )
        .await
        .context("writing the findings of a sweep")?;
    transaction.commit().await?;
    let due_at = |row: &tokio_postgres::Row| row.get::<_, OffsetDateTime>("due_at");
    Ok(rows.iter().map(|row| Job::read(row, due_at(row))).collect())
}

/// Whether the job of an open delivery `d` of a webhook `w` is lost. $1: before which due
/// time, by timeout; $2: the default timeout in ms; $3: the grace in s. With a margin:
/// whether it was lost that much earlier.
macro_rules! is_lost {
    ($margin:literal) => {
        concat!(
            "d.state IN ('queued', 'retrying')
      AND d.due_at < least(($1::timestamptz[])[1], now() - make_interval(secs => $3::float8))",
            $margin,
            "
      AND d.due_at < ($1::timestamptz[])[1 + ceil(coalesce(w.timeout_ms, $2) / 1000.0)::int]",
            $margin
        )
    };
}

const SWEEP_OVERDUE: &str = concat!(
    "-- sweep_overdue
WITH overdue AS (
    SELECT d.id FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
    WHERE ",
    is_lost!(""),
    "
    ORDER BY d.due_at LIMIT $4
    FOR UPDATE OF d SKIP LOCKED
), put_back AS (
    UPDATE deliveries d SET due_at = now() FROM overdue WHERE d.id = overdue.id
    RETURNING d.due_at, ",
    job_delivery_columns!(),
    "
)
SELECT p.*, ",
    job_event_columns!("$5"),
    " FROM put_back p JOIN events e ON e.uid = p.event_uid"
);

// A job that was lost one grace earlier should have been put back by now.
const NOTE_SWEEP: &str = concat!(
    "-- note_sweep
UPDATE sweep SET
    watermark = least($4::timestamptz, now()),
    unaccounted = (
        SELECT count(*) FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
        WHERE ",
    is_lost!(" - make_interval(secs => $3::float8)"),
    "),
    oldest_due_at = (SELECT min(due_at) FROM deliveries WHERE state IN ('queued', 'retrying')),
    requeued = requeued + $5,
    swept_at = now()"
);

/// Shows the findings of the last sweep of any replica as metrics.
async fn show_findings(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    let statement = client
        .prepare_cached("-- read_sweep\nSELECT unaccounted, oldest_due_at FROM sweep")
        .await?;
    let row = client.query_one(&statement, &[]).await?;
    metrics().unaccounted.set(row.get(0));
    let age = row
        .get::<_, Option<OffsetDateTime>>(1)
        .map_or(Duration::ZERO, |due| {
            (clock::now() - due).try_into().unwrap_or_default()
        });
    metrics().oldest_due.set(age.as_secs() as i64);
    Ok(())
}
