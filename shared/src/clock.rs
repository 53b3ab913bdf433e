//! One clock for every time that another machine will see: PostgreSQL's clock.
//!
//! The clocks of two machines disagree. Suppose that one machine writes a time
//! and another one compares it with its own clock: when a job is due, how old an event
//! is, how far the sweeper's watermark is. Then deliveries are late, early or counted as
//! lost by as much as the two clocks differ. So all such times come from [`now`], this
//! process's estimate of PostgreSQL's clock. Time spans within one process are measured
//! with `Instant` instead.
//!
//! A process measures PostgreSQL's clock at its start, with every listening connection,
//! and every ten seconds on such a connection ([`crate::revisions::Feed::listen`]). A
//! sample is the time that PostgreSQL answered, and counts as the time in the middle of
//! the round trip. Of the last few samples the one with the shortest round trip is used.
//! Between samples this machine's monotonic clock counts on, so a jump of its wall clock
//! changes nothing.
//!
//! The difference to this machine's wall clock is the metric
//! `posthorn_clock_offset_seconds`. Beyond one second it is a warning in the log. Beyond
//! ten seconds the process is not ready.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use time::OffsetDateTime;
use tokio_postgres::{Client, SimpleQueryMessage};
use tracing::{info, warn};

use crate::telemetry::metrics;

/// How many samples are kept.
const KEPT: usize = 6;
/// How many samples a new connection takes.
const AT_FIRST: usize = 4;
/// How far two samples may differ beyond what their round trips explain, in
/// microseconds. It allows for the drift between two clocks while samples are kept.
const DRIFT: i64 = 20_000;
/// A larger difference to this machine's wall clock is a warning.
const WARN_BEYOND: Duration = Duration::from_secs(1);
/// With a larger difference the process isn't ready. It goes on working, by
/// PostgreSQL's clock.
const UNREADY_BEYOND: Duration = Duration::from_secs(10);

/// PostgreSQL's time at [`origin`], in microseconds since 1970.
static AT_ORIGIN: AtomicI64 = AtomicI64::new(UNKNOWN);
const UNKNOWN: i64 = i64::MIN;
static FAR_OFF: AtomicBool = AtomicBool::new(false);
static WARNED: AtomicBool = AtomicBool::new(false);
static SAMPLES: Mutex<Samples> = Mutex::new(Samples(VecDeque::new()));

/// PostgreSQL's time now, in whole microseconds, which is the precision of
/// PostgreSQL and of jobs. Before the first measurement: this machine's time.
#[must_use]
pub fn now() -> OffsetDateTime {
    match AT_ORIGIN.load(Ordering::Relaxed) {
        UNKNOWN => OffsetDateTime::now_utc().truncate_to_microsecond(),
        at_origin => {
            let micros = at_origin + micros_since_origin(Instant::now());
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        }
    }
}

/// Whether this machine's wall clock differs from PostgreSQL's by more than ten
/// seconds.
#[must_use]
pub fn is_far_off() -> bool {
    FAR_OFF.load(Ordering::Relaxed)
}

/// Measures PostgreSQL's clock several times. For a new connection.
pub async fn measure_first(client: &Client) -> anyhow::Result<()> {
    for _ in 0..AT_FIRST {
        measure(client).await?;
    }
    Ok(())
}

/// Measures PostgreSQL's clock once.
pub async fn measure(client: &Client) -> anyhow::Result<()> {
    let asked = micros_since_origin(Instant::now());
    let messages = client
        .simple_query(
            "-- measure_clock\n\
             SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
        )
        .await
        .context("asking PostgreSQL for the time")?;
    let answered = micros_since_origin(Instant::now());
    let said = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i64>().ok(),
        _ => None,
    });
    let said = said.context("PostgreSQL's answer is not a time")?;
    let sample = Sample {
        at_origin: said - (asked + answered) / 2,
        round_trip: answered - asked,
    };
    let best = SAMPLES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .add(sample);
    AT_ORIGIN.store(best.at_origin, Ordering::Relaxed);
    show();
    Ok(())
}

/// Reports how far this machine's wall clock is from PostgreSQL's.
fn show() {
    let offset = now() - OffsetDateTime::now_utc();
    let seconds = offset.as_seconds_f64();
    metrics().clock_offset.set(seconds);
    let is_beyond = |bound: Duration| offset.unsigned_abs() > bound;
    FAR_OFF.store(is_beyond(UNREADY_BEYOND), Ordering::Relaxed);
    let warned = WARNED.swap(is_beyond(WARN_BEYOND), Ordering::Relaxed);
    match (warned, is_beyond(WARN_BEYOND)) {
        (false, true) => warn!(
            offset_seconds = seconds,
            "this machine's clock differs from PostgreSQL's; this process uses PostgreSQL's. \
             Check that the time service (NTP) runs on both machines"
        ),
        (true, false) => info!(
            offset_seconds = seconds,
            "this machine's clock agrees with PostgreSQL's again"
        ),
        _ => {}
    }
}

/// The moment from which the monotonic clock is counted.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

fn micros_since_origin(at: Instant) -> i64 {
    at.saturating_duration_since(origin()).as_micros() as i64
}

/// PostgreSQL's clock as measured by one round trip, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// The time that it showed at [`origin`], computed with this machine's monotonic
    /// clock.
    at_origin: i64,
    round_trip: i64,
}

impl Sample {
    /// Whether both samples can be right.
    fn agrees_with(self, other: Self) -> bool {
        let apart = self.at_origin.abs_diff(other.at_origin);
        apart <= ((self.round_trip + other.round_trip) / 2 + DRIFT) as u64
    }
}

/// The last samples, oldest first.
struct Samples(VecDeque<Sample>);

impl Samples {
    /// Adds a sample and returns the sample that counts now.
    fn add(&mut self, sample: Sample) -> Sample {
        // PostgreSQL's clock was changed, the server is another machine now, or this
        // machine was suspended. So the older samples are useless.
        if self.0.iter().any(|known| !known.agrees_with(sample)) {
            self.0.clear();
        }
        self.0.push_back(sample);
        while self.0.len() > KEPT {
            self.0.pop_front();
        }
        let shortest = self.0.iter().min_by_key(|sample| sample.round_trip);
        shortest.copied().unwrap_or(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_origin: i64, round_trip: i64) -> Sample {
        Sample {
            at_origin,
            round_trip,
        }
    }

    #[test]
    fn the_sample_with_the_shortest_round_trip_counts() {
        let mut samples = Samples(VecDeque::new());
        let short = sample(1_000_000, 200);
        assert_eq!(
            samples.add(sample(1_040_000, 90_000)),
            sample(1_040_000, 90_000)
        );
        assert_eq!(samples.add(short), short);
        assert_eq!(samples.add(sample(1_030_000, 80_000)), short);
    }

    #[test]
    fn a_sample_is_forgotten_after_a_few_others() {
        let mut samples = Samples(VecDeque::new());
        samples.add(sample(1_000_000, 200));
        for _ in 0..KEPT {
            samples.add(sample(1_010_000, 300));
        }
        assert_eq!(samples.add(sample(1_010_000, 300)), sample(1_010_000, 300));
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let mut samples = Samples(VecDeque::new());
        samples.add(sample(1_000_000, 200));
        let later = sample(61_000_000, 5_000);
        assert_eq!(samples.add(later), later);
    }
}
