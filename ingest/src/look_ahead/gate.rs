//! Holds restrained tenants' events back while dispatchers don't keep up.
//!
//! Jobs queues are first in, first out: what one tenant's events make waits in front of
//! everybody's jobs. So the gate counts the jobs that may be made until the queues have been
//! looked at again. It counts a batch's expected jobs in when a lane begins with it, and out
//! when the lane is through.

use std::time::{Duration, Instant};

use crate::turns::Class;

/// Restrained tenants get turns while few jobs wait for dispatchers: fewer than dispatchers take of
/// this process's jobs in this time. The jobs that are expected of batches under way count as waiting.
///
/// Another tenant's job waits behind the jobs of this time and of one batch, for each ingest.
///
/// A shorter time would slow a busy tenant that is alone: dispatchers would have no jobs left before
/// the next look at the queues (every 10 ms), or before a batch is through (10 to 20 ms). The bound is
/// a time, because a fixed number of jobs would be a long wait where dispatchers are slow. Each of
/// several ingests counts its own jobs alone, so that together they keep to the time.
const SHORT: Duration = Duration::from_millis(40);
/// The bound is never less than this many jobs: full messages for both lanes.
const LEAST: i64 = 64;
/// The bound is never more than this many jobs.
const MOST: i64 = 256;
/// The rate is an average over about this time.
const AVERAGED: Duration = Duration::from_millis(200);
/// A sample below the average has this share of the weight of one above it, because another ingest
/// may have made jobs meanwhile.
const FALL: f64 = 0.25;
/// If two looks are further apart than this, no rate is computed from them.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// While dispatchers take all that they get, the rate grows up to this many times a sample.
const GROWTH: f64 = 4.0;
/// The jobs of one batch of restrained tenants: a lane that works on a batch can't take another
/// tenant's event meanwhile, and whatever is in a batch waits for all of it.
const BATCH_LEAST: i64 = 32;
const BATCH_MOST: i64 = 128;

/// Whether restrained tenants may have jobs made.
#[derive(Default)]
pub(super) struct Gate {
    /// How many more may be made until dispatchers' queues have been looked at again.
    pub(super) room: i64,
    /// Of batches that are worked on: not in the queues yet.
    under_way: i64,
    /// Batches of restrained tenants that are worked on.
    pub(super) batches: usize,
    rate: Rate,
}

/// How many jobs a second dispatchers take, of those that this process makes.
#[derive(Default)]
struct Rate {
    per_second: f64,
    /// When the queues were looked at last, and how many jobs were in them.
    looked: Option<(Instant, i64)>,
    /// Jobs that were published since.
    made: i64,
    /// A batch since then was as large as it may be, so more events waited.
    is_held_back: bool,
}

/// What the gate counts on until a lane is through with a batch.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    pub(super) jobs: i64,
    pub(super) class: Class,
}

impl Gate {
    /// So many jobs wait now; `None`: there are no dispatchers, so that nobody's wait is
    /// made longer.
    pub(super) fn looked(&mut self, jobs: Option<i64>) {
        let Some(jobs) = jobs else {
            self.rate = Rate::default();
            self.room = i64::MAX / 2;
            return;
        };
        self.rate.looked(jobs, Instant::now());
        self.room = self.rate.short() - jobs - self.under_way;
    }

    /// The most jobs of the next batch of restrained tenants.
    pub(super) fn batch_jobs(&self) -> i64 {
        if self.room > MOST {
            // There are no dispatchers.
            return BATCH_MOST;
        }
        (self.rate.short() / 2).clamp(BATCH_LEAST, BATCH_MOST)
    }

    /// A lane begins with a batch.
    pub(super) fn reserve(&mut self, reserved: Reserved) {
        let is_restrained = reserved.class == Class::Restrained;
        self.rate.is_held_back |= is_restrained && reserved.jobs >= self.batch_jobs();
        self.room -= reserved.jobs;
        self.under_way += reserved.jobs;
        self.batches += usize::from(is_restrained);
    }

    /// A lane is through with it: it made so many jobs.
    pub(super) fn is_through(&mut self, reserved: Reserved, made: usize) {
        self.under_way -= reserved.jobs;
        self.rate.made += made as i64;
        if reserved.class == Class::Restrained {
            self.batches = self.batches.saturating_sub(1);
        }
    }
}

impl Rate {
    fn looked(&mut self, jobs: i64, now: Instant) {
        let is_held_back = std::mem::take(&mut self.is_held_back);
        let made = std::mem::take(&mut self.made);
        if let Some((at, before)) = self.looked.replace((now, jobs))
            && now - at < FORGOTTEN
            && now > at
        {
            let time = (now - at).as_secs_f64();
            let mut rate = (before + made - jobs).max(0) as f64 / time;
            let weight = (time / AVERAGED.as_secs_f64()).min(1.0);
            // Dispatchers took nearly all that there was. Nobody knows how much more they would have
            // taken, and this process had more.
            let is_drained = jobs * 4 <= self.short();
            if is_drained && is_held_back {
                let of = |jobs: i64| jobs as f64 / SHORT.as_secs_f64();
                rate = rate.max((GROWTH * self.per_second.max(of(LEAST))).min(of(MOST)));
            }
            if rate > self.per_second {
                self.per_second += (rate - self.per_second) * weight;
            } else if !is_drained {
                self.per_second += (rate - self.per_second) * weight * FALL;
            }
        }
    }

    /// The bound: restrained tenants get turns while fewer jobs than this wait.
    fn short(&self) -> i64 {
        let jobs = self.per_second * SHORT.as_secs_f64();
        (jobs as i64).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After this many looks, 10 ms apart, at queues that dispatchers take so many jobs out of.
    /// `batch`: what is made between two looks, if there is room.
    fn short_after(looks: u32, taken: i64, batch: i64) -> i64 {
        let mut rate = Rate::default();
        let (begun, mut jobs) = (Instant::now(), 0);
        for look in 0..looks {
            rate.looked(jobs, begun + look * Duration::from_millis(10));
            let made = batch.min((rate.short() - jobs).max(0));
            rate.made = made;
            rate.is_held_back = made > 0;
            jobs = (jobs + made - taken).max(0);
        }
        rate.short()
    }

    #[test]
    fn the_jobs_that_may_wait_are_what_dispatchers_take_in_a_moment() {
        // 1,000 a second for 40 ms are fewer than the least.
        assert_eq!(short_after(400, 10, 128), LEAST);
        let short = short_after(400, 40, 128);
        assert!((130..=190).contains(&short), "4,000 a second: {short}");
        assert_eq!(short_after(400, 500, 512), MOST);
    }

    #[test]
    fn what_the_gate_itself_held_back_does_not_count_as_slow_dispatchers() {
        // Batches are slow, so little is made; dispatchers would take far more.
        // An average comes close to its limit and doesn't reach it.
        let short = short_after(400, 500, 20);
        assert!(short >= MOST - 1, "{short}");
    }

    #[test]
    fn a_queue_that_grows_by_what_is_made_is_taken_by_nobody() {
        let mut rate = Rate::default();
        let now = Instant::now();
        for look in 0..50_u32 {
            rate.looked(
                100 * i64::from(look),
                now + look * Duration::from_millis(10),
            );
            rate.made = 100;
        }
        assert_eq!(rate.short(), LEAST);
    }

    #[test]
    fn a_quiet_time_says_nothing_of_dispatchers() {
        let mut rate = Rate {
            per_second: 5_000.0,
            ..Rate::default()
        };
        let now = Instant::now();
        rate.looked(0, now);
        rate.looked(0, now + FORGOTTEN);
        assert_eq!(rate.short(), 200);
    }
}
