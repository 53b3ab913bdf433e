//! The sliding window of a rate limit: how much is used, and when there is room again.
//!
//! A limit is the number of attempts in any period of its length. A request beyond the
//! limit gets a time to come back at: the next time at which an attempt will have left the
//! window, and that no other job waits for. So a backlog uses up the limit in every period,
//! and isn't deferred again and again. New jobs get their times behind it. A job that comes
//! back at its time and finds the limit used up is the next one; it doesn't go to the end of
//! the line again.
//!
//! Pure: no clock and no database.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::webhook::Rate;
use time::OffsetDateTime;

/// A period has this many slots, and attempts are counted per slot.
const SLOTS: i64 = 60;

/// The longest deferral, in periods of the limit. It is at least [`MIN_MAX_DEFERRAL`].
const MAX_DEFERRAL_PERIODS: u32 = 12;

const MIN_MAX_DEFERRAL: Duration = Duration::from_secs(900);

/// A limit of a tenant or a webhook. All jobs of that subject share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Of the row in `rate_usage`.
    pub(super) key: String,
    rate: Rate,
}

impl Limit {
    /// `subject`: `tenant/…` or `webhook/…`. If the period changes, so do its slots, and
    /// the limit begins with another row.
    pub fn new(subject: &str, rate: Rate) -> Self {
        Self {
            key: format!("{subject}/{}", rate.period.as_secs()),
            rate,
        }
    }
}

/// When an attempt may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Grant {
    /// Now. It counts as begun.
    Now,
    /// Not before this time, and then it needs another grant.
    NotBefore(OffsetDateTime),
}

/// An attempt needs room in all of its limits. If they have it, it counts in each of them.
/// If not, it counts in none, and comes back when the last of them has room.
pub(super) fn grant(
    limits: &[Limit],
    has_waited: bool,
    usage: &mut BTreeMap<String, Usage>,
    now: OffsetDateTime,
) -> Grant {
    let mut latest = None;
    for limit in limits {
        // Every limit of a request has been read.
        let Some(usage) = usage.get_mut(&limit.key) else {
            continue;
        };
        let at = usage.wait_until(limit.rate, has_waited, now);
        latest = latest.max(at.map(|at| (at, &limit.key)));
    }
    if let Some((at, key)) = latest {
        return Grant::NotBefore(match usage.get_mut(key) {
            Some(usage) if !has_waited => usage.extend_line(limits, at, now),
            _ => at,
        });
    }
    for limit in limits {
        if let Some(usage) = usage.get_mut(&limit.key) {
            usage.count_attempt(limit.rate, now);
        }
    }
    Grant::Now
}

fn max_deferral(rate: Rate) -> Duration {
    (rate.period * MAX_DEFERRAL_PERIODS).max(MIN_MAX_DEFERRAL)
}

/// How much of a limit is used.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Usage {
    pub(super) first_slot: i64,
    /// Attempts by slot.
    pub(super) used: Vec<u32>,
    /// The time to which the last job was deferred.
    pub(super) horizon: OffsetDateTime,
}

fn slot_length(rate: Rate) -> Duration {
    rate.period / SLOTS as u32
}

fn slot_at(rate: Rate, at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / slot_length(rate).as_nanos() as i128) as i64
}

impl Usage {
    /// Forgets slots that are older than a period.
    fn advance(&mut self, rate: Rate, now: OffsetDateTime) {
        let first = slot_at(rate, now) - SLOTS;
        let gone = (first - self.first_slot).clamp(0, self.used.len() as i64);
        self.used.drain(..gone as usize);
        self.first_slot = self.first_slot.max(first);
    }

    fn total(&self) -> u32 {
        self.used.iter().sum()
    }

    /// Until when a job has to wait. `None` if it may be sent now.
    fn wait_until(
        &mut self,
        rate: Rate,
        has_waited: bool,
        now: OffsetDateTime,
    ) -> Option<OffsetDateTime> {
        self.advance(rate, now);
        let used = self.total();
        if used == 0 || used < rate.limit / 2 {
            // The line is empty, or the limit has been raised.
            self.horizon = self.horizon.min(now);
        }
        if used < rate.limit && (has_waited || self.horizon <= now) {
            return None;
        }
        Some(if has_waited {
            // It is next, with the others that have come back.
            let free = self.free_at(rate, now);
            free + slot_length(rate).mul_f64(fastrand::f64())
        } else {
            self.next_room(rate, now)
        })
    }

    /// The first time after the end of the line at which an attempt will have left the window.
    ///
    /// The attempts of a slot leave it together. Jobs that wait for them get times within
    /// one slot from then on, each a little later than the one before, so that the end of the
    /// line tells how many of them are taken. Where no attempt is left, an attempt that waits
    /// in the line will have been made, and leaves a whole period later.
    fn next_room(&self, rate: Rate, now: OffsetDateTime) -> OffsetDateTime {
        let micros = |at: OffsetDateTime| at.unix_timestamp_nanos().div_euclid(1_000);
        let limit = i128::from(rate.limit.max(1));
        let slot = slot_length(rate).as_nanos() as i128;
        let after = micros(self.horizon.max(now));
        // Attempts by slot, as many as the limit: the latest, and those that may be made now.
        let mut left = limit;
        let mut slots = Vec::new();
        let last = self.first_slot + self.used.len() as i64 - 1;
        let of_slots = (self.first_slot..=last).rev().zip(self.used.iter().rev());
        for (at, used) in of_slots {
            let count = left.min(i128::from(*used));
            left -= count;
            slots.push((at, count));
        }
        slots.push((slot_at(rate, now), left));
        let cycle = (SLOTS + 1) as i128;
        let times = slots.iter().filter(|(_, count)| *count > 0);
        let next = times.map(|(at, count)| {
            // An attempt counts until a whole period after the end of its slot.
            let leaves = |cycles: i128| ((i128::from(*at) + cycles * cycle) * slot + 999) / 1_000;
            let offset = |place: i128| (slot * place / limit + 999) / 1_000;
            let cycles_until = (after - leaves(0)).div_euclid(cycle * slot / 1_000);
            let mut cycles = cycles_until.max(1);
            loop {
                let base = leaves(cycles);
                let mut place = ((after - base) * 1_000 * limit).div_euclid(slot).max(0);
                while base + offset(place) <= after {
                    place += 1;
                }
                if place < *count {
                    break base + offset(place);
                }
                cycles += 1;
            }
        });
        let next = next.min().unwrap_or(after);
        OffsetDateTime::from_unix_timestamp_nanos(next * 1_000).unwrap_or(now)
    }

    /// Gives a job the end of the line at `at`, or a random time if that is too far ahead.
    fn extend_line(
        &mut self,
        limits: &[Limit],
        at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> OffsetDateTime {
        let longest = limits.iter().map(|limit| max_deferral(limit.rate)).max();
        let longest = longest.unwrap_or(MIN_MAX_DEFERRAL);
        if at > now + longest {
            // A random time in the second half of the range.
            return now + longest.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        self.horizon = at;
        at
    }

    fn count_attempt(&mut self, rate: Rate, now: OffsetDateTime) {
        self.advance(rate, now);
        // After a clock was set back, attempts count in the latest slot that there is.
        let latest = (self.used.len() as i64 - 1).max(0);
        let slot = (slot_at(rate, now) - self.first_slot).max(latest) as usize;
        if self.used.len() <= slot {
            self.used.resize(slot + 1, 0);
        }
        self.used[slot] += 1;
    }

    /// When the limit has room again; now, if it has room.
    fn free_at(&self, rate: Rate, now: OffsetDateTime) -> OffsetDateTime {
        let mut rest = self.total();
        if rest < rate.limit {
            return now;
        }
        let mut forgotten = self.first_slot;
        for used in &self.used {
            if rest < rate.limit {
                break;
            }
            rest -= used;
            forgotten += 1;
        }
        // An attempt counts until a whole period after the end of its slot.
        let free = i128::from(forgotten + SLOTS) * slot_length(rate).as_nanos() as i128;
        let free = OffsetDateTime::from_unix_timestamp_nanos(free).unwrap_or(now);
        free.max(now)
    }
}

#[cfg(test)]
mod tests;
