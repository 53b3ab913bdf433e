//! Delivery statistics: what is counted, and how counts are added up.
//!
//! With every batch of verdicts a dispatcher writes a [`Tally`] per webhook and per
//! tenant. Ingest adds the rows up and reads rates and percentiles from the sum. So
//! statistics cost the same however long the log is.
//!
//! Any two tallies can be added, because all of them count response times in the same
//! buckets.

use std::fmt;
use std::time::Duration;

use tokio_postgres::Row;

use crate::ids::{Tenant, WebhookId};

/// The subject of statistics, in the table `tenant/acme` or `webhook/wh_…`.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// All webhooks of a tenant together.
    Tenant(&'a Tenant),
    /// One webhook.
    Webhook(WebhookId),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant/{tenant}"),
            Self::Webhook(webhook) => write!(f, "webhook/{webhook}"),
        }
    }
}

/// The classes of attempts, in the order of [`Tally::outcomes`]. They are the values
/// of [`Report::outcome`](crate::attempt::Report::outcome). New ones are only ever
/// appended.
pub const OUTCOMES: [&str; 10] = [
    "success",
    "redirect",
    "client_error",
    "server_error",
    "forbidden",
    "dns",
    "connect",
    "tls",
    "timeout",
    "broken",
];

/// Why a delivery can be deferred without an attempt, in the order of [`Tally::waits`].
/// They are the values of `deliveries.deferred_because` that a dispatcher writes with its
/// verdicts. New ones are only ever appended.
pub const WAITS: [&str; 7] = [
    "endpoint_full",
    "endpoint_down",
    "rate_limited",
    "in_flight",
    "unknown_webhook",
    "unknown_dialect",
    "paused",
];

/// The number of buckets for response times. Each bucket is √2 times as long as the
/// one before: from below a millisecond to above the longest timeout.
pub const BUCKETS: usize = 34;

/// The period that one row counts, in seconds.
pub const PERIOD: i64 = 15 * 60;

/// Counts for some period of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The number of attempts in each class of [`OUTCOMES`].
    pub outcomes: [i64; OUTCOMES.len()],
    /// Attempts that weren't the first one of their delivery.
    pub retries: i64,
    pub delivered: i64,
    /// Deliveries that succeeded at the first attempt.
    pub delivered_at_once: i64,
    pub failed: i64,
    pub expired: i64,
    pub cancelled: i64,
    /// Attempts that were answered or timed out, counted by response time.
    pub response_times: [i64; BUCKETS],
    /// The sum of their response times, in milliseconds.
    pub response_ms: i64,
    /// The number of deferrals for each reason of [`WAITS`].
    pub waits: [i64; WAITS.len()],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            outcomes: [0; OUTCOMES.len()],
            retries: 0,
            delivered: 0,
            delivered_at_once: 0,
            failed: 0,
            expired: 0,
            cancelled: 0,
            response_times: [0; BUCKETS],
            response_ms: 0,
            waits: [0; WAITS.len()],
        }
    }
}

impl Tally {
    /// Counts an attempt. `waited` is the response time; `None` if no request
    /// reached the endpoint.
    pub fn attempt(&mut self, outcome: &str, is_retry: bool, waited: Option<Duration>) {
        if let Some(class) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.outcomes[class] += 1;
        }
        self.retries += i64::from(is_retry);
        if let Some(waited) = waited {
            self.response_times[bucket(waited)] += 1;
            self.response_ms += waited.as_millis() as i64;
        }
    }

    /// Counts a deferral.
    pub fn wait(&mut self, because: &str) {
        if let Some(reason) = WAITS.iter().position(|known| *known == because) {
            self.waits[reason] += 1;
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        let add = |ours: &mut [i64], theirs: &[i64]| {
            for (ours, theirs) in ours.iter_mut().zip(theirs) {
                *ours += theirs;
            }
        };
        add(&mut self.outcomes, &other.outcomes);
        add(&mut self.response_times, &other.response_times);
        add(&mut self.waits, &other.waits);
        self.retries += other.retries;
        self.delivered += other.delivered;
        self.delivered_at_once += other.delivered_at_once;
        self.failed += other.failed;
        self.expired += other.expired;
        self.cancelled += other.cancelled;
        self.response_ms += other.response_ms;
    }

    /// The counts of a row of `stats`. A row of another version may have more counts, or
    /// fewer.
    #[must_use]
    pub fn read(row: &Row) -> Self {
        let mut tally = Self::default();
        let fill = |ours: &mut [i64], column: &str| {
            let counts: Option<Vec<i32>> = row.get(column);
            for (ours, count) in ours.iter_mut().zip(counts.unwrap_or_default()) {
                *ours = count.into();
            }
        };
        fill(&mut tally.outcomes, "outcomes");
        fill(&mut tally.response_times, "response_times");
        fill(&mut tally.waits, "waits");
        let count = |column: &str| i64::from(row.get::<_, i32>(column));
        Self {
            retries: count("retries"),
            delivered: count("delivered"),
            delivered_at_once: count("delivered_at_once"),
            failed: count("failed"),
            expired: count("expired"),
            cancelled: count("cancelled"),
            response_ms: row.get("response_ms"),
            ..tally
        }
    }

    /// Its attempts and their response times, each counted this many times.
    #[must_use]
    pub fn times(&self, times: i64) -> Self {
        Self {
            outcomes: self.outcomes.map(|count| count * times),
            response_times: self.response_times.map(|count| count * times),
            ..Self::default()
        }
    }

    /// The number of attempts that succeeded.
    #[must_use]
    pub fn successes(&self) -> i64 {
        self.outcomes[0]
    }

    /// The number of deferrals.
    #[must_use]
    pub fn deferrals(&self) -> i64 {
        self.waits.iter().sum()
    }

    /// The number of attempts.
    #[must_use]
    pub fn attempts(&self) -> i64 {
        self.outcomes.iter().sum()
    }

    /// Deliveries that succeeded, failed or expired: their result says something
    /// about the endpoint.
    #[must_use]
    pub fn decided(&self) -> i64 {
        self.delivered + self.failed + self.expired
    }

    /// The response time, in milliseconds, that this share of the attempts didn't
    /// exceed.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let all: i64 = self.response_times.iter().sum();
        if all == 0 {
            return None;
        }
        let wanted = share * all as f64;
        let mut below = 0.0;
        for (bucket, count) in self.response_times.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                // Within a bucket, response times are assumed to be spread evenly.
                let (from, to) = bounds(bucket);
                let within = ((wanted - below) / count).clamp(0.0, 1.0);
                return Some(from + (to - from) * within);
            }
            below += count;
        }
        // A rounding error put the share beyond the last attempt.
        Some(bounds(BUCKETS - 1).1)
    }

    /// The mean response time, in milliseconds.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let all: i64 = self.response_times.iter().sum();
        (all > 0).then(|| self.response_ms as f64 / all as f64)
    }
}

/// The index of the bucket for a response time.
fn bucket(waited: Duration) -> usize {
    let ms = waited.as_secs_f64() * 1000.0;
    if ms < 1.0 {
        return 0;
    }
    // The number isn't negative, and far below the largest usize.
    (1 + (2.0 * ms.log2()).floor() as usize).min(BUCKETS - 1)
}

/// The lower and upper bound of a bucket, in milliseconds.
fn bounds(bucket: usize) -> (f64, f64) {
    let upper = |bucket: usize| (bucket as f64 / 2.0).exp2();
    match bucket {
        0 => (0.0, 1.0),
        _ => (upper(bucket - 1), upper(bucket)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(waits: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        for ms in waits {
            tally.attempt("success", false, Some(Duration::from_millis(ms)));
        }
        tally
    }

    #[test]
    fn a_percentile_is_close_to_the_real_one() {
        let tally = tally(1..=1000);
        for (share, real) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0)] {
            let read = tally.percentile(share).unwrap();
            assert!((read / real - 1.0).abs() < 0.1, "{share}: {read}");
        }
        assert_eq!(tally.mean(), Some(500.5));
        assert_eq!(Tally::default().percentile(0.5), None);
    }

    #[test]
    fn tallies_add_up() {
        let mut sum = tally(1..=500);
        sum.add(&tally(501..=1000));
        assert_eq!(sum, tally(1..=1000));
    }

    #[test]
    fn every_time_has_a_bucket() {
        for ms in [0, 1, 2, 3, 1_000, 60_000, 65_000, 10_000_000] {
            let waited = Duration::from_millis(ms);
            let (from, to) = bounds(bucket(waited));
            assert!(
                from <= ms as f64 && (ms as f64) < to || bucket(waited) == BUCKETS - 1,
                "{ms}"
            );
        }
        assert!(bucket(Duration::from_secs(65)) < BUCKETS);
    }
}
