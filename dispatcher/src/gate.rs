//! The places at one endpoint: how many requests one replica has under way
//! there, and what becomes of a job when all are taken.
//!
//! A job waits here only as long as the endpoint's own pace gets it in within
//! [`PATIENCE`]; beyond that it is put off, to a moment when a place is likely,
//! so that a slow endpoint never fills the dispatcher with jobs that wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests under way at one endpoint, per replica.
const PLACES: usize = 64;
/// Jobs that may wait for a place, however quick the endpoint.
const ROOM: usize = 512;
/// The longest that a job should wait here.
const PATIENCE: Duration = Duration::from_secs(1);
/// The farthest that a job is put off.
const FARTHEST: Duration = Duration::from_secs(3600);
/// What an attempt is taken to last before the first one has been seen.
const FIRST_GUESS: Duration = Duration::from_millis(100);

/// See the module's text.
pub struct Gate {
    places: Arc<Semaphore>,
    room: Semaphore,
    pace: Mutex<Pace>,
}

/// What the endpoint has shown so far.
struct Pace {
    /// A moving average of how long a place is taken.
    mean: Duration,
    /// Where the last job that was put off is expected to get in.
    horizon: OffsetDateTime,
}

/// A place that is taken until this is dropped.
pub struct Place(#[allow(dead_code)] OwnedSemaphorePermit);

/// All places are taken; the job is likely to get in at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// When.
    pub until: OffsetDateTime,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
            room: Semaphore::new(ROOM),
            pace: Mutex::new(Pace {
                mean: FIRST_GUESS,
                horizon: OffsetDateTime::UNIX_EPOCH,
            }),
        }
    }
}

impl Gate {
    /// Takes a place, waiting a little for it.
    ///
    /// # Errors
    /// If the wait would be too long.
    pub async fn enter(&self, now: OffsetDateTime) -> Result<Place, Full> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Place(permit));
        }
        let waiting = ROOM - self.room.available_permits();
        let turn = self.time_for(waiting + 1);
        let Ok(_in_the_room) = self.room.try_acquire() else {
            return Err(self.put_off(now));
        };
        if turn > PATIENCE {
            return Err(self.put_off(now));
        }
        match self.places.clone().acquire_owned().await {
            Ok(permit) => Ok(Place(permit)),
            // The semaphore is never closed.
            Err(_) => Err(self.put_off(now)),
        }
    }

    /// Learns how long a place was taken.
    pub fn observe(&self, took: Duration) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.mean = (pace.mean * 7 + took) / 8;
    }

    /// How long until this many more jobs have been served.
    fn time_for(&self, jobs: usize) -> Duration {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.mean.mul_f64(jobs as f64 / PLACES as f64)
    }

    /// The next free moment at the endpoint's own pace, after those already
    /// given away.
    fn put_off(&self, now: OffsetDateTime) -> Full {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let step = pace.mean / PLACES as u32;
        let next = (pace.horizon + step).max(now + PATIENCE);
        if next > now + FARTHEST {
            // Too far to plan: anywhere in the second half of what is allowed.
            return Full {
                until: now + FARTHEST.mul_f64(0.5 + 0.5 * fastrand::f64()),
            };
        }
        pace.horizon = next;
        Full { until: next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_endpoints_surplus_is_spread_over_its_own_pace() {
        let gate = Gate::default();
        for _ in 0..100 {
            gate.observe(Duration::from_secs(32));
        }
        let now = OffsetDateTime::now_utc();
        // 64 places for 32 s each: two a second.
        let mut moments = Vec::new();
        for _ in 0..100 {
            moments.push(gate.put_off(now).until - now);
        }
        assert!(moments[0] >= time::Duration::SECOND);
        let spread = moments[99] - moments[0];
        assert!((45..=55).contains(&spread.whole_seconds()), "{spread}");
    }

    #[tokio::test]
    async fn a_quick_endpoints_surplus_waits_for_its_turn() {
        let gate = Arc::new(Gate::default());
        for _ in 0..100 {
            gate.observe(Duration::from_millis(10));
        }
        let now = OffsetDateTime::now_utc();
        let mut held = Vec::new();
        for _ in 0..PLACES {
            held.push(gate.enter(now).await.ok().unwrap());
        }
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(now).await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert!(waiting.await.unwrap());
    }

    #[test]
    fn nothing_is_put_off_farther_than_an_hour() {
        let gate = Gate::default();
        for _ in 0..100 {
            gate.observe(Duration::from_secs(60));
        }
        let now = OffsetDateTime::now_utc();
        for _ in 0..20_000 {
            assert!(gate.put_off(now).until <= now + FARTHEST);
        }
    }
}
