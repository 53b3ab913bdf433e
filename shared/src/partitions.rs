//! Creates the partitions of the delivery log for the coming days, ahead of time.
//!
//! Ingest creates two weeks of them and drops old ones (`ingest/src/partitions.rs`).
//! Dispatchers write into the log too, perhaps when no ingest has run for long. So each
//! dispatcher makes sure that the partitions of today and tomorrow exist.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use time::{Date, OffsetDateTime};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

/// The key of an advisory lock, different from all our others: "mkparts" in ASCII.
const LOCK: i64 = 0x6d_6b70_6172_7473;
/// How often [`keep`] creates missing partitions.
const EVERY: Duration = Duration::from_secs(3600);
/// How soon [`keep`] tries again after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// A day of the log. Its partitions are named after it: `deliveries_20261129`.
///
/// A statement that names a day's partition opens that one only. One that names
/// the parent table opens and locks every day's, or is planned at each execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(Date);

impl Day {
    /// The day in whose partition a UUIDv7 lies.
    #[must_use]
    pub fn from_id(id: Uuid) -> Option<Self> {
        let milliseconds = (id.as_u128() >> 80) as i64;
        let at = OffsetDateTime::from_unix_timestamp(milliseconds / 1000).ok()?;
        Some(Self::at(at))
    }

    /// The day of a moment.
    #[must_use]
    pub fn at(moment: OffsetDateTime) -> Self {
        Self(moment.to_offset(time::UtcOffset::UTC).date())
    }

    /// Whether it is the day of this moment, or the one before.
    #[must_use]
    pub fn is_recent(self, now: OffsetDateTime) -> bool {
        let Self(today) = Self::at(now);
        self.0 == today || Some(self.0) == today.previous_day()
    }
}

/// What is added to a table's name: `_20261129`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = (self.0.year(), u8::from(self.0.month()), self.0.day());
        write!(f, "_{year:04}{month:02}{day:02}")
    }
}

/// What stands for the day in the text of a statement: `UPDATE deliveries{day} d …`
const PLACEHOLDER: &str = "{day}";

/// Prepares a statement on the partitions of a day. On the parent tables, if there
/// is no day, or none of its partitions yet or any more.
///
/// Not in a transaction: a partition that is missing would end it.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn prepare(
    client: &Client,
    text: &str,
    day: Option<Day>,
) -> Result<Statement, tokio_postgres::Error> {
    if let Some(day) = day {
        let text = text.replace(PLACEHOLDER, &day.to_string());
        match client.prepare_cached(&text).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
            prepared => return prepared,
        }
    }
    client.prepare_cached(&text.replace(PLACEHOLDER, "")).await
}

/// Looks up one row in the partitions of a day, which may be dropped meanwhile.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn query_opt(
    client: &Client,
    text: &str,
    day: Option<Day>,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Option<Row>, tokio_postgres::Error> {
    let statement = prepare(client, text, day).await?;
    match client.query_opt(&statement, parameters).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            client.statement_cache.clear();
            let statement = prepare(client, text, day).await?;
            client.query_opt(&statement, parameters).await
        }
        found => found,
    }
}

/// Makes the missing partitions from yesterday to `ahead` days from now; answers
/// how many it made. If all are there, that is one lookup.
///
/// It waits only briefly for its locks, because queries are more important. The next
/// run tries again.
///
/// # Errors
/// If PostgreSQL fails, or if others hold the locks.
pub async fn make(pool: &Pool, ahead: i32) -> anyhow::Result<i32> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SET LOCAL lock_timeout = '200ms'")
        .await?;
    // If two processes created the same day at the same time, one would fail.
    transaction
        .execute(
            "-- make_partitions_lock\nSELECT pg_advisory_xact_lock($1)",
            &[&LOCK],
        )
        .await
        .context("waiting for another process that creates partitions")?;
    let made = transaction
        .query_one(
            "-- create_partitions\nSELECT create_partitions($1)",
            &[&ahead],
        )
        .await
        .context("creating the coming days' partitions")?
        .get(0);
    transaction.commit().await?;
    Ok(made)
}

/// Creates missing partitions every hour, until `stop`.
pub async fn keep(pool: Pool, ahead: i32, stop: CancellationToken) {
    let mut next = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = next.tick() => {}
            () = stop.cancelled() => return,
        }
        match make(&pool, ahead).await {
            Ok(0) => {}
            Ok(made) => info!(made, "created partitions of the delivery log"),
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "creating partitions of the delivery log failed; trying again in a minute"
                );
                next.reset_after(AFTER_FAILURE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::ids::EventUid;

    #[test]
    fn an_ids_day_is_that_of_its_partition() {
        let midnight = datetime!(2026-11-29 0:00 UTC);
        let named = |at| Day::from_id(EventUid::at(at).uuid()).map(|day| day.to_string());
        assert_eq!(named(midnight).as_deref(), Some("_20261129"));
        let before = midnight - time::Duration::MILLISECOND;
        assert_eq!(named(before).as_deref(), Some("_20261128"));
        // What isn't an id of ours has no day, or one that nothing is stored for.
        assert_eq!(Day::from_id(Uuid::max()), None);
        let _ = Day::from_id(Uuid::nil());
    }

    #[test]
    fn only_today_and_yesterday_are_recent() {
        let now = datetime!(2026-11-29 0:00 UTC);
        let recent = |at| Day::at(at).is_recent(now);
        assert!(recent(now) && recent(now - time::Duration::MILLISECOND));
        assert!(recent(now - time::Duration::DAY) && recent(now + time::Duration::hours(23)));
        assert!(!recent(
            now - time::Duration::DAY - time::Duration::MILLISECOND
        ));
        assert!(!recent(now + time::Duration::DAY));
    }
}
