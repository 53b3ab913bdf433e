//! Which jobs are lost? The watermark tells.
//!
//! The watermark is a time: every job that was due before it has reached a dispatcher. It
//! advances with the jobs that are taken, because queues are first in, first out. While the
//! queues are empty it is now. So a job that waits in a long queue is not lost: the
//! watermark hasn't passed it.
//!
//! A job counts as lost when its delivery is still open, but every job due up to one grace
//! period after it reached a dispatcher so long ago that an attempt would have finished.
//! Two jobs may be published in another order than they are due; the grace allows for that.
//! An attempt takes the webhook's timeout, and up to [`TIME_TO_RECORD`] beside it.
//!
//! `intake` reports the jobs that it takes, and `sweep` reads the watermark in every pass
//! and remembers its readings.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use shared::amqp::Session;
use shared::clock;
use shared::topology::jobs_queue;
use time::OffsetDateTime;

/// How long a job may take beside its request: to wait for a permit, and to be recorded.
pub const TIME_TO_RECORD: Duration = Duration::from_secs(15);
/// The longest timeout that a webhook can have, in seconds.
const LONGEST_TIMEOUT: u64 = 60;

/// For each jobs queue, the due time of the latest job that was taken, in microseconds.
pub struct Watermarks(Vec<AtomicI64>);

impl Watermarks {
    pub fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| AtomicI64::new(i64::MIN)).collect())
    }

    /// A job has reached this replica. One that isn't due yet comes from a delay queue that
    /// is shorter than its delay, so it says nothing of other jobs.
    pub fn job_taken(&self, shard: u16, due_at: OffsetDateTime) {
        if due_at <= clock::now() {
            self.0[usize::from(shard)].fetch_max(micros(due_at), Ordering::Relaxed);
        }
    }

    /// The watermark of all queues; never later than PostgreSQL's now. `None` if no job of
    /// some queue has been taken yet and the queue isn't empty.
    pub async fn read(&self, session: &Session) -> lapin::Result<Option<OffsetDateTime>> {
        let mut watermark = clock::now();
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
            watermark = watermark.min(at);
        }
        Ok(Some(watermark))
    }
}

fn micros(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1000) as i64
}

/// Where the watermark was at a time.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub at: OffsetDateTime,
    pub watermark: OffsetDateTime,
}

/// After how long a job counts as lost.
#[derive(Debug, Clone, Copy)]
pub struct LossCriteria {
    /// The timeout of webhooks that set none.
    pub default_timeout: Duration,
    /// By how much the watermark must have passed the job.
    pub grace: Duration,
}

impl LossCriteria {
    /// How long after a job was taken its attempt is on record, at the latest. `timeout`:
    /// the webhook's.
    pub fn time_until_recorded(&self, timeout: Option<Duration>) -> Duration {
        timeout.unwrap_or(self.default_timeout) + self.grace.min(TIME_TO_RECORD)
    }
}

/// Which deliveries' jobs are lost: those that were due before a time, which depends on the
/// timeouts of their webhooks.
#[derive(Debug, Clone)]
pub struct Lost {
    /// By the timeout in seconds, from 0. `None`: no job with this timeout is known to be
    /// lost.
    due_before: Vec<Option<OffsetDateTime>>,
}

impl Lost {
    /// `readings`: in the order of their times.
    pub fn new(readings: &[Reading], criteria: LossCriteria) -> Self {
        let default = criteria.default_timeout.as_secs() + 1;
        let timeouts = 0..=LONGEST_TIMEOUT.max(default);
        let due_before = timeouts.map(|seconds| {
            let timeout = Duration::from_secs(seconds);
            let taken_by = readings.last()?.at - criteria.time_until_recorded(Some(timeout));
            let readings = readings.iter().filter(|reading| reading.at <= taken_by);
            let watermark = readings.map(|reading| reading.watermark).max()?;
            Some(watermark - criteria.grace)
        });
        Self {
            due_before: due_before.collect(),
        }
    }

    /// Before which due time a job is lost, if its webhook has this timeout.
    pub fn due_before(&self, timeout: Duration) -> Option<OffsetDateTime> {
        let seconds = timeout.as_millis().div_ceil(1000) as usize;
        self.due_before.get(seconds).copied().flatten()
    }

    /// The same for every timeout, in seconds from 0.
    pub fn by_timeout(&self) -> &[Option<OffsetDateTime>] {
        &self.due_before
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_job_is_lost_when_the_watermark_passed_it_by_the_grace_an_attempt_ago() {
        let start = datetime!(2026-11-29 10:00 UTC);
        let lag = Duration::from_secs(60);
        // The watermark is always a minute behind.
        let readings: Vec<_> = (0..100)
            .map(|n| {
                let at = start + Duration::from_secs(5 * n);
                let watermark = at - lag;
                Reading { at, watermark }
            })
            .collect();
        let criteria = LossCriteria {
            default_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(60),
        };
        let lost = Lost::new(&readings, criteria);
        let last = readings.last().unwrap().at;
        let before = |timeout| {
            let timeout = Duration::from_secs(timeout);
            Some(last - lag - criteria.grace - TIME_TO_RECORD - timeout)
        };
        assert_eq!(lost.due_before[0], before(0));
        assert_eq!(lost.due_before[30], before(30));
        assert_eq!(lost.due_before[60], before(60));
        let timeout = Duration::from_millis(29_001);
        assert_eq!(lost.due_before(timeout), before(30), "rounded up");
        assert_eq!(lost.due_before(Duration::from_secs(100)), None);
        // Six readings, 25 s: too few for timeouts beyond 10 s.
        let lost = Lost::new(&readings[..6], criteria);
        assert!(lost.due_before[10].is_some() && lost.due_before[11].is_none());
        let lost = Lost::new(&[], criteria);
        assert!(lost.due_before.iter().all(Option::is_none));
    }

    #[test]
    fn only_jobs_that_are_due_move_the_watermark_and_only_forwards() {
        let watermarks = Watermarks::new(1);
        let at = || watermarks.0[0].load(Ordering::Relaxed);
        let now = clock::now();
        watermarks.job_taken(0, now + Duration::from_secs(60));
        assert_eq!(at(), i64::MIN);
        watermarks.job_taken(0, now);
        watermarks.job_taken(0, now - Duration::from_secs(60));
        assert_eq!(at(), micros(now));
    }
}
