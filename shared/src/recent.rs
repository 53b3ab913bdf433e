//! How webhooks did in the last quarter of an hour.
//!
//! Statistics are counted per quarter of the clock. So the quarter before counts with the
//! part of it that isn't over for fifteen minutes yet, as if its attempts were spread evenly.

use std::collections::HashMap;

use deadpool_postgres::GenericClient;
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::ids::WebhookId;
use crate::stats::{PERIOD, Tally};

/// The length of the window, in seconds.
pub const WINDOW: i64 = PERIOD;
/// Counts are kept in parts of this, because a part of a quarter counts in part.
const PARTS: i64 = 1000;

/// How a webhook did of late.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    /// Counts, in thousandths.
    tally: Tally,
    /// Of this quarter of an hour and the one before.
    pub last_delivered_at: Option<OffsetDateTime>,
    /// When a delivery was given up, likewise.
    pub last_failed_at: Option<OffsetDateTime>,
}

impl Recent {
    /// The number of attempts.
    #[must_use]
    pub fn attempts(&self) -> f64 {
        self.tally.attempts() as f64 / PARTS as f64
    }

    /// The number of attempts that failed.
    #[must_use]
    pub fn failed(&self) -> f64 {
        (self.tally.attempts() - self.tally.successes()) as f64 / PARTS as f64
    }

    /// The number of attempts that were answered or timed out.
    #[must_use]
    pub fn timed(&self) -> f64 {
        self.tally.response_times.iter().sum::<i64>() as f64 / PARTS as f64
    }

    /// The response time, in milliseconds, that 95 of 100 attempts didn't exceed.
    #[must_use]
    pub fn p95_ms(&self) -> Option<f64> {
        self.tally.percentile(0.95)
    }

    /// Adds a quarter's counts, of which `parts` thousandths are within the window.
    pub fn add(&mut self, tally: &Tally, parts: i64) {
        self.tally.add(&tally.times(parts));
    }
}

/// How many thousandths of a quarter are within the window that ends now.
#[must_use]
pub fn parts(quarter: OffsetDateTime, now: OffsetDateTime) -> i64 {
    let ended = (now - quarter).whole_seconds() - PERIOD;
    ((WINDOW - ended) * PARTS / WINDOW).clamp(0, PARTS)
}

/// The beginning of the quarter before this one.
#[must_use]
pub fn quarter_before(now: OffsetDateTime) -> OffsetDateTime {
    let begins = now.unix_timestamp().div_euclid(PERIOD) * PERIOD - PERIOD;
    OffsetDateTime::from_unix_timestamp(begins).unwrap_or(now)
}

/// All webhooks with attempts in this quarter or the one before.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn recent(
    client: &impl GenericClient,
    now: OffsetDateTime,
) -> Result<HashMap<WebhookId, Recent>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- recent_stats\n\
             SELECT * FROM stats WHERE quarter >= $1 AND subject LIKE 'webhook/%'",
        )
        .await?;
    let rows = client.query(&statement, &[&quarter_before(now)]).await?;
    let mut all: HashMap<WebhookId, Recent> = HashMap::new();
    for row in &rows {
        let Some(webhook) = webhook_of(row) else {
            continue;
        };
        let recent = all.entry(webhook).or_default();
        recent.add(&Tally::read(row), parts(row.get("quarter"), now));
        recent.last_delivered_at = recent.last_delivered_at.max(row.get("last_delivered_at"));
        recent.last_failed_at = recent.last_failed_at.max(row.get("last_failed_at"));
    }
    Ok(all)
}

fn webhook_of(row: &Row) -> Option<WebhookId> {
    row.get::<_, &str>("subject")
        .strip_prefix("webhook/")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_quarter_before_counts_less_the_older_it_is() {
        let quarter = datetime!(2026-11-29 10:00 UTC);
        for (now, expected) in [
            (datetime!(2026-11-29 10:07 UTC), 1000),
            (datetime!(2026-11-29 10:15 UTC), 1000),
            (datetime!(2026-11-29 10:22:30 UTC), 500),
            (datetime!(2026-11-29 10:30 UTC), 0),
            (datetime!(2026-11-29 11:00 UTC), 0),
        ] {
            assert_eq!(parts(quarter, now), expected, "{now}");
        }
        let now = datetime!(2026-11-29 10:22:30 UTC);
        assert_eq!(quarter_before(now), quarter);
    }

    #[test]
    fn attempts_are_weighed_and_percentiles_are_of_the_weighed_ones() {
        let mut slow = Tally::default();
        let mut quick = Tally::default();
        for _ in 0..100 {
            slow.attempt("timeout", false, Some(Duration::from_secs(30)));
            quick.attempt("success", false, Some(Duration::from_millis(10)));
        }
        let mut recent = Recent::default();
        recent.add(&slow, 30);
        recent.add(&quick, 1000);
        assert_eq!(
            (recent.attempts(), recent.failed(), recent.timed()),
            (103.0, 3.0, 103.0)
        );
        assert!(recent.p95_ms().unwrap() < 20.0);
        recent.add(&slow, 500);
        assert!(recent.p95_ms().unwrap() > 20_000.0);
    }
}
