//! Spreads the retries of one tenant over seconds, if too many would be due in the same second.
//!
//! RabbitMQ moves a retry into the jobs queue when it is due, and that queue is first in, first
//! out. So many retries of one tenant that are due together would stand in front of other tenants'
//! first attempts. `deliver` asks here for the time of each retry, after `judge` has decided it.
//!
//! A dispatcher lets a bounded number of a tenant's retries be due in one second. A further one
//! goes to the next second that has room. So a retry is never earlier than its schedule says. It is
//! later by at most half of its pause and by at most [`LONGEST`]. If no second until then has
//! room, it gets a random one of them.
//!
//! Each dispatcher counts the retries that it has decided itself, and forgets them when it ends.
//! Deferrals aren't counted: the limiters of endpoints and tenants pace these.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::ids::Tenant;
use time::OffsetDateTime;

/// The most that a retry is later than its schedule says.
const LONGEST: Duration = Duration::from_secs(60);
/// At least so many retries of a tenant may be due in one second, however few permits the
/// dispatcher has.
const LEAST_PER_SECOND: u32 = 64;
/// How many counts are kept, which takes less than 16 MiB. Beyond that those of the latest seconds
/// are forgotten.
const MOST_COUNTS: usize = 262_144;

/// How many retries of each tenant are due in each second to come.
pub struct RetrySpread {
    /// The most retries of one tenant in one second.
    per_second: u32,
    counts: Mutex<Counts>,
    /// Tenants are told apart by a hash. If two have the same one, they share their seconds.
    hasher: RandomState,
}

/// By the second, in Unix time, and the tenant's hash.
#[derive(Default)]
struct Counts(BTreeMap<(i64, u64), u32>);

impl RetrySpread {
    /// For a dispatcher with so many permits: that many retries of a tenant may be due in one
    /// second.
    pub fn new(permits: u16) -> Self {
        Self {
            per_second: u32::from(permits).max(LEAST_PER_SECOND),
            counts: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// The time of a retry that the schedule sets for `at`: `at` itself, or whole seconds later.
    /// It is not later than `last`, unless `at` is.
    pub fn time_for(
        &self,
        tenant: &Tenant,
        now: OffsetDateTime,
        at: OffsetDateTime,
        last: OffsetDateTime,
    ) -> OffsetDateTime {
        let tenant = self.hasher.hash_one(tenant);
        let first = at.unix_timestamp();
        let most = ((at - now) / 2_i32).min(last - at);
        let most = most.whole_seconds().clamp(0, LONGEST.as_secs() as i64);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.forget_before(now.unix_timestamp());
        let later = (0..=most)
            .find(|later| counts.of(first + later, tenant) < self.per_second)
            .unwrap_or_else(|| fastrand::i64(0..=most));
        counts.add(first + later, tenant);
        at + Duration::from_secs(later.unsigned_abs())
    }
}

impl Counts {
    fn of(&self, second: i64, tenant: u64) -> u32 {
        self.0.get(&(second, tenant)).copied().unwrap_or(0)
    }

    fn add(&mut self, second: i64, tenant: u64) {
        *self.0.entry((second, tenant)).or_default() += 1;
        if self.0.len() > MOST_COUNTS {
            self.0.pop_last();
        }
    }

    fn forget_before(&mut self, second: i64) {
        while let Some(oldest) = self.0.first_entry() {
            if oldest.key().0 >= second {
                return;
            }
            oldest.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn after(seconds: f64) -> OffsetDateTime {
        NOW + time::Duration::seconds_f64(seconds)
    }

    /// The times of so many retries of `acme` that are due in a minute.
    fn times(spread: &RetrySpread, count: usize, last: OffsetDateTime) -> Vec<OffsetDateTime> {
        let tenant = "acme".parse().unwrap();
        let time = || spread.time_for(&tenant, NOW, after(60.5), last);
        (0..count).map(|_| time()).collect()
    }

    #[test]
    fn retries_beyond_a_seconds_room_go_to_the_next_seconds() {
        let spread = RetrySpread::new(100);
        let times = times(&spread, 250, after(1_000.0));
        let expected = [60.5; 100].into_iter().chain([61.5; 100]).chain([62.5; 50]);
        assert_eq!(times, expected.map(after).collect::<Vec<_>>());
    }

    #[test]
    fn another_tenants_retries_and_later_seconds_keep_their_times() {
        let spread = RetrySpread::new(64);
        let _ = times(&spread, 200, after(1_000.0));
        let (acme, other) = ("acme".parse().unwrap(), "other".parse().unwrap());
        for (tenant, at) in [(&other, after(60.5)), (&acme, after(90.25))] {
            let time = spread.time_for(tenant, NOW, at, after(1_000.0));
            assert_eq!(time, at);
        }
    }

    #[test]
    fn a_retry_is_later_by_at_most_half_of_its_pause_and_never_too_old() {
        let spread = RetrySpread::new(64);
        // Half of 60.5 seconds.
        let all = times(&spread, 64 * 31 + 1_000, after(1_000.0));
        assert!(all.iter().all(|time| *time >= after(60.5)));
        assert_eq!(all.iter().max(), Some(&after(90.5)));
        let bounded = times(&RetrySpread::new(64), 1_000, after(62.0));
        assert_eq!(bounded.iter().max(), Some(&after(61.5)));
        let tenant = "acme".parse().unwrap();
        let late = spread.time_for(&tenant, NOW, after(60.5), after(10.0));
        assert_eq!(late, after(60.5));
        // A day's pause becomes no more than a minute longer.
        let at = after(86_400.0);
        let times = (0..10_000).map(|_| spread.time_for(&tenant, NOW, at, after(1e6)));
        assert_eq!(times.max(), Some(at + LONGEST));
    }

    #[test]
    fn counts_of_past_seconds_are_forgotten_and_those_to_come_are_bounded() {
        let spread = RetrySpread::new(64);
        let tenant = "acme".parse().unwrap();
        for second in 0..MOST_COUNTS as u32 + 10 {
            let at = after(f64::from(second));
            let _ = spread.time_for(&tenant, NOW, at, at);
        }
        let count = || spread.counts.lock().unwrap().0.len();
        assert_eq!(count(), MOST_COUNTS);
        let now = after(MOST_COUNTS as f64 - 5.0);
        let _ = spread.time_for(&tenant, now, now, now);
        assert_eq!(count(), 5);
    }
}
