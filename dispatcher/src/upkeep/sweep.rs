//! Deliveries whose job was lost are put back on the queue.
//!
//! A job is taken for lost when its row is open although every job that was due a
//! grace later than it reached some dispatcher longer ago than an attempt takes:
//! its webhook's timeout, and 15 s (or the grace, if that is less) to wait for a
//! place and to be recorded.
//! What has reached a dispatcher is told by the watermark: all that was due before
//! it. It advances with the jobs that are taken (queues are first in, first out,
//! but for who published first: hence the grace), and to now when the queues are
//! empty. Every pass remembers it. So neither a backlog is taken for a loss, nor
//! what was taken of one just now.
//!
//! When PostgreSQL was away, or this process stood still, then so may others be
//! about to record what they have sent. What is remembered is forgotten then, and
//! all have the time of an attempt again.
//!
//! One replica sweeps at a time, by an advisory lock. What it found goes into
//! the row `sweep`, from which every replica's metrics and `posthorn-ingest
//! audit` read.

use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use shared::amqp::Session;
use shared::clock;
use shared::job::Job;
use shared::publish::Publisher;
use shared::topology::jobs_queue;
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::metrics::metrics;
use crate::run::Dispatcher;
use crate::upkeep::backlog;
use crate::upkeep::paused as hold;

/// Any number that no other lock of ours has: "sweep" in ASCII.
const LOCK: i64 = 0x73_7765_6570;
/// The most jobs put back in one pass: what is more is a backlog.
const BATCH: i64 = 1000;
/// The longest timeout that a webhook can have, in seconds.
const LONGEST_TIMEOUT: u64 = 60;
/// The longest that is allowed for a place and for being recorded.
const ALLOWANCE: Duration = Duration::from_secs(15);

/// A pass that comes so much too late, or takes so long, shows that something stood still.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Per shard: the due time of the latest job taken, in microseconds.
pub struct Watermarks(Vec<AtomicI64>);

impl Watermarks {
    /// Nothing taken yet.
    pub fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| AtomicI64::new(i64::MIN)).collect())
    }

    /// A job that is due at `due_at` has reached this replica. One that isn't due
    /// yet, from a delay queue for less than its wait, says nothing of the others.
    pub fn saw(&self, shard: u16, due_at: OffsetDateTime) {
        if due_at <= clock::now() {
            self.0[usize::from(shard)].fetch_max(micros(due_at), Ordering::Relaxed);
        }
    }

    /// Before this, every due job has been taken: never after PostgreSQL's now. `None` while that isn't known.
    async fn read(&self, session: &Session) -> lapin::Result<Option<OffsetDateTime>> {
        let mut least = clock::now();
        for (shard, taken) in self.0.iter().enumerate() {
            let before = clock::now();
            if session.is_drained(&jobs_queue(shard as u16)).await? {
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

/// Where the watermark was at a time.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// The time.
    pub at: OffsetDateTime,
    /// Where it was: every job that was due before this was with a dispatcher.
    pub before: OffsetDateTime,
}

/// The most marks remembered: then every other one is forgotten.
const MARKS: usize = 1000;

/// Sweeps every so often, for as long as the session lives.
///
/// # Errors
/// If the session fails. Trouble with PostgreSQL only costs the pass.
pub async fn sweep(dispatcher: &Dispatcher, session: &Session) -> anyhow::Result<()> {
    let mut pass = tokio::time::interval(dispatcher.sweep_interval);
    pass.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut marks: Vec<Mark> = Vec::new();
    let mut begun = Instant::now();
    let mut clearing = pin!(Fuse::terminated());
    loop {
        tokio::select! {
            _ = pass.tick() => {}
            () = dispatcher.stop.cancelled() => return Ok(()),
            cleared = &mut clearing, if !clearing.is_terminated() => {
                if let Err(error) = cleared {
                    let error: anyhow::Error = error;
                    warn!(error = format!("{error:#}"), "putting back a backlog; the next sweep goes on");
                }
                continue;
            }
        }
        if begun.elapsed() > 2 * dispatcher.sweep_interval + STANDSTILL {
            marks.clear();
        }
        begun = Instant::now();
        if let Some(before) = dispatcher.watermarks.read(session).await? {
            let at = clock::now();
            marks.push(Mark { at, before });
        }
        if marks.len() > MARKS {
            let mut keep = [true, false].into_iter().cycle();
            marks.retain(|_| keep.next().unwrap_or(true));
        }
        match put_back_lost(dispatcher, &marks).await {
            Ok(Some(more)) if clearing.is_terminated() => {
                clearing.set(backlog::put_back(dispatcher, session, more).fuse());
            }
            Ok(_) => {}
            Err(error) => {
                warn!(error = format!("{error:#}"), "sweeping");
                marks.clear();
            }
        }
        let rest = async {
            hold::release(dispatcher, session).await?;
            report(&dispatcher.pool).await
        };
        if let Err(error) = rest.await {
            warn!(error = format!("{error:#}"), "sweeping");
        }
    }
}

/// Answers what counts as lost, if there may be more of it.
async fn put_back_lost(dispatcher: &Dispatcher, marks: &[Mark]) -> anyhow::Result<Option<Lost>> {
    let patience = Patience {
        timeout: dispatcher.longest_timeout,
        grace: dispatcher.sweep_grace,
    };
    let jobs = overdue(&dispatcher.pool, marks, patience).await?;
    if !jobs.is_empty() {
        metrics().swept.inc_by(jobs.len() as u64);
        warn!(jobs = jobs.len(), "jobs were lost; putting them back");
        put_back(&dispatcher.publisher, &jobs, dispatcher.shards).await;
    }
    let is_backlog = jobs.len() as i64 == BATCH;
    Ok(is_backlog.then(|| Lost::by(marks, patience)))
}

/// How long after its timeout an attempt is on record, for who is this patient.
pub fn allowance(grace: Duration) -> Duration {
    grace.min(ALLOWANCE)
}

/// Which deliveries' jobs are lost: those that were due before a moment, which
/// depends on their webhooks' timeouts.
#[derive(Debug, Clone)]
pub struct Lost {
    /// By the timeout in seconds, from 0. `None`: of these none is known to be lost.
    due_before: Vec<Option<OffsetDateTime>>,
}

impl Lost {
    /// Marks in the order of their times: a job is lost if every job that was due a
    /// grace later was with a dispatcher so long ago that an attempt would be over.
    pub fn by(marks: &[Mark], patience: Patience) -> Self {
        let default = patience.timeout.as_secs() + 1;
        let timeouts = 0..=LONGEST_TIMEOUT.max(default);
        let due_before = timeouts.map(|timeout| {
            let attempt = Duration::from_secs(timeout) + allowance(patience.grace);
            let taken_by = marks.last()?.at - attempt;
            let taken = marks.iter().filter(|mark| mark.at <= taken_by);
            let before = taken.map(|mark| mark.before).max()?;
            Some(before - patience.grace)
        });
        Self {
            due_before: due_before.collect(),
        }
    }

    /// Before which due time a job is lost if its webhook has this timeout.
    pub fn due_before(&self, timeout: Duration) -> Option<OffsetDateTime> {
        let seconds = timeout.as_millis().div_ceil(1000) as usize;
        self.due_before.get(seconds).copied().flatten()
    }
}

/// When a job counts as lost.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Of webhooks that have no timeout of their own.
    pub timeout: Duration,
    /// How much later another was due that has been taken.
    pub grace: Duration,
}

/// Takes the rows of lost jobs, marks them as due now, and makes their jobs.
/// `marks`: in the order of their times.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn overdue(pool: &Pool, marks: &[Mark], patience: Patience) -> anyhow::Result<Vec<Job>> {
    let Some(newest) = marks.last() else {
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
    // While a backlog is put back, in turns, nothing goes before it.
    let most = if locked.get(1) { BATCH } else { 0 };
    let default_timeout = patience.timeout.as_millis() as i32;
    let grace = patience.grace.as_secs_f64();
    let lost = Lost::by(marks, patience);
    let statement = transaction.prepare_cached(SWEEP_OVERDUE).await?;
    let rows = transaction
        .query(
            &statement,
            &[
                &lost.due_before,
                &default_timeout,
                &most,
                &Job::ENOUGH_DATA,
                &grace,
            ],
        )
        .await
        .context("looking for overdue deliveries")?;
    let noted = transaction.prepare_cached(NOTE_SWEEP).await?;
    let requeued = rows.len() as i64;
    transaction
        .execute(
            &noted,
            &[
                &newest.before,
                &lost.due_before,
                &default_timeout,
                &grace,
                &requeued,
            ],
        )
        .await
        .context("noting the sweep")?;
    transaction.commit().await?;
    let due_at = |row: &tokio_postgres::Row| row.get::<_, OffsetDateTime>("due_at");
    Ok(rows.iter().map(|row| Job::read(row, due_at(row))).collect())
}

const SWEEP_OVERDUE: &str = "-- sweep_overdue
WITH overdue AS (
    SELECT d.id FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
    WHERE d.state IN ('queued', 'retrying')
      AND d.due_at < least(($1::timestamptz[])[1], now() - make_interval(secs => $5::float8))
      AND d.due_at < ($1::timestamptz[])[1 + ceil(coalesce(w.timeout_ms, $2) / 1000.0)::int]
    ORDER BY d.due_at LIMIT $3
    FOR UPDATE OF d SKIP LOCKED
), put_back AS (
    UPDATE deliveries d SET due_at = now() FROM overdue WHERE d.id = overdue.id
    RETURNING d.id, d.webhook_id, d.event_uid, d.attempts, d.attempts_before, d.restarted_at, d.due_at
)
SELECT p.*, e.tenant, e.id AS event_id, e.type, e.occurred_at, left(e.data, $4) AS data, e.attributes
FROM put_back p JOIN events e ON e.uid = p.event_uid";

// What is due by yet another grace earlier has not been put back although it should.
const NOTE_SWEEP: &str = "-- note_sweep
UPDATE sweep SET
    watermark = least($1::timestamptz, now()),
    unaccounted = (
        SELECT count(*) FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
        WHERE d.state IN ('queued', 'retrying')
          AND d.due_at < least(($2::timestamptz[])[1] - make_interval(secs => $4::float8),
                               now() - make_interval(secs => 2 * $4::float8))
          AND d.due_at < ($2::timestamptz[])[1 + ceil(coalesce(w.timeout_ms, $3) / 1000.0)::int]
                         - make_interval(secs => $4::float8)),
    oldest_due_at = (SELECT min(due_at) FROM deliveries WHERE state IN ('queued', 'retrying')),
    requeued = requeued + $5,
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
            (clock::now() - due).try_into().unwrap_or_default()
        });
    metrics().oldest_due.set(age.as_secs() as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_job_is_lost_when_what_was_due_a_grace_later_was_taken_an_attempt_ago() {
        let start = datetime!(2026-11-29 10:00 UTC);
        // The watermark is a minute behind, for as long as this looks.
        let marks: Vec<_> = (0..100)
            .map(|n| {
                let at = start + Duration::from_secs(5 * n);
                let before = at - Duration::from_secs(60);
                Mark { at, before }
            })
            .collect();
        let patience = Patience {
            timeout: Duration::from_secs(30),
            grace: Duration::from_secs(60),
        };
        let lost = Lost::by(&marks, patience);
        let last = marks.last().unwrap().at;
        let ago = |seconds| Some(last - Duration::from_secs(seconds));
        // The watermark, the grace, the allowance, and the timeout.
        assert_eq!(lost.due_before[0], ago(60 + 60 + 15));
        assert_eq!(lost.due_before[30], ago(60 + 60 + 15 + 30));
        assert_eq!(lost.due_before[60], ago(60 + 60 + 15 + 60));
        let timeout = Duration::from_millis(29_001);
        assert_eq!(lost.due_before(timeout), ago(60 + 60 + 15 + 30));
        assert_eq!(lost.due_before(Duration::from_secs(100)), None);
        // Not long enough remembered for the longest timeouts.
        let lost = Lost::by(&marks[..6], patience);
        assert!(lost.due_before[10].is_some() && lost.due_before[11].is_none());
        assert!(
            Lost::by(&[], patience)
                .due_before
                .iter()
                .all(Option::is_none)
        );
    }

    #[test]
    fn only_what_is_due_moves_the_watermark_and_only_forwards() {
        let watermarks = Watermarks::new(1);
        let at = || watermarks.0[0].load(Ordering::Relaxed);
        let now = clock::now();
        watermarks.saw(0, now + Duration::from_secs(60));
        assert_eq!(at(), i64::MIN);
        watermarks.saw(0, now);
        watermarks.saw(0, now - Duration::from_secs(60));
        assert_eq!(at(), micros(now));
    }
}
