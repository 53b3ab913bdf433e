//! The daily partitions of the log: creates them ahead, drops them after their retention, measures them.
//!
//! A partition is detached concurrently, without a lock that readers or writers
//! would queue behind, and dropped when nothing refers to it any more. Either step
//! may be interrupted anywhere: a process finds what another left unfinished by the
//! partition's name, and finishes it.

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use shared::clock;
use shared::partitions::make;
use time::{Date, Duration, OffsetDateTime};

/// How many days of partitions exist ahead of today.
const AHEAD: i32 = 14;
/// Any number that no other lock of ours has: "parts" in ASCII.
const LOCK: i64 = 0x70_6172_7473;
/// How many days the forecast looks back.
const LOOKS_BACK: i64 = 7;

/// Creates the partitions of the coming days, and drops those of days that ended before `until`.
///
/// # Errors
/// If PostgreSQL fails. The next call continues.
pub async fn maintain(pool: &Pool, until: OffsetDateTime) -> anyhow::Result<()> {
    let made = make(pool, AHEAD).await?;
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    let locked: bool = client
        .query_one(
            "-- partitions_lock\nSELECT pg_try_advisory_lock($1)",
            &[&LOCK],
        )
        .await?
        .get(0);
    if !locked {
        return Ok(());
    }
    let dropped = drop_outdated(&client, until).await;
    client
        .execute(
            "-- partitions_unlock\nSELECT pg_advisory_unlock($1)",
            &[&LOCK],
        )
        .await?;
    let dropped = dropped?;
    client
        .execute(
            "-- drop_stats\nDELETE FROM stats WHERE quarter < $1",
            &[&until],
        )
        .await?;
    client
        .execute(
            "-- drop_event_type_counts\nDELETE FROM event_type_counts WHERE quarter < $1",
            &[&until],
        )
        .await?;
    client
        .execute(
            "-- drop_changes\nDELETE FROM changes WHERE at < $1",
            &[&until],
        )
        .await?;
    client
        .execute(
            // One that still lasts stays, however old it is.
            "-- drop_outages\n\
             DELETE FROM outages WHERE since < $1 AND coalesce(ended_at, failed_at) < $1",
            &[&until],
        )
        .await?;
    if made > 0 || dropped > 0 {
        tracing::info!(
            made,
            dropped,
            "partitions of the log were created or dropped"
        );
    }
    Ok(())
}

/// A partition that is to be dropped.
struct Outdated {
    name: String,
    /// The table that it is still attached to.
    parent: Option<String>,
    /// Whether a process was stopped while it detached it.
    half_detached: bool,
}

async fn drop_outdated(client: &Client, until: OffsetDateTime) -> anyhow::Result<usize> {
    let outdated = outdated(client, until).await?;
    for partition in &outdated {
        let name = &partition.name;
        if let Some(parent) = &partition.parent {
            let how = match partition.half_detached {
                true => "FINALIZE",
                false => "CONCURRENTLY",
            };
            client
                .batch_execute(&format!(
                    "ALTER TABLE {parent} DETACH PARTITION {name} {how}"
                ))
                .await
                .with_context(|| format!("detaching {name}"))?;
        }
        client
            .batch_execute(&format!("DROP TABLE {name}"))
            .await
            .with_context(|| format!("dropping {name}"))?;
    }
    Ok(outdated.len())
}

// Only `create_partitions` makes such names; the pattern excludes all others.
// Deliveries go first: a verdict on a delivery that is gone changes nothing, but a verdict
// could not be written if its attempts' partition were gone. Events go last, so that a
// delivery always has its event.
async fn outdated(client: &Client, until: OffsetDateTime) -> anyhow::Result<Vec<Outdated>> {
    let statement = client
        .prepare_cached(
            "-- outdated_partitions\n\
             SELECT c.relname::text, p.relname::text, coalesce(i.inhdetachpending, false) \
             FROM pg_class c \
             LEFT JOIN pg_inherits i ON i.inhrelid = c.oid \
             LEFT JOIN pg_class p ON p.oid = i.inhparent \
             WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace \
               AND c.relname ~ '^(events|deliveries|attempts)_[0-9]{8}$' \
               AND to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= ($1::timestamptz AT TIME ZONE 'UTC')::date \
             ORDER BY right(c.relname, 8), \
                 array_position(ARRAY['deliveries', 'attempts', 'events'], split_part(c.relname, '_', 1))",
        )
        .await?;
    let rows = client.query(&statement, &[&until]).await?;
    let outdated = rows.iter().map(|row| Outdated {
        name: row.get(0),
        parent: row.get(1),
        half_detached: row.get(2),
    });
    Ok(outdated.collect())
}

/// The log's size in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Size {
    /// Its size now.
    pub now: i64,
    /// Its size when the whole retention is filled with days like the last ones.
    pub forecast: i64,
    /// The size of each day's partitions, by day.
    pub days: Vec<(Date, i64)>,
}

/// Measures the log, indexes included.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn weigh(pool: &Pool, retention: Duration) -> anyhow::Result<Size> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    let statement = client
        .prepare_cached(
            "-- sizes_of_days\n\
             SELECT to_date(right(c.relname, 8), 'YYYYMMDD'), sum(pg_total_relation_size(c.oid))::int8 \
             FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent IN ('events'::regclass, 'deliveries'::regclass, 'attempts'::regclass) \
             GROUP BY 1 ORDER BY 1",
        )
        .await?;
    let days: Vec<(Date, i64)> = client
        .query(&statement, &[])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    Ok(forecast(&days, retention, clock::now()))
}

/// The mean size of the last full days that aren't empty; today's so far, if there is none.
fn forecast(days: &[(Date, i64)], retention: Duration, now: OffsetDateTime) -> Size {
    let today = now.date();
    // The size of an empty day.
    let empty = days.iter().map(|(_, size)| *size).min().unwrap_or(0);
    let of_late: Vec<i64> = days
        .iter()
        .filter(|(day, size)| {
            (1..=LOOKS_BACK).contains(&(today - *day).whole_days()) && *size > empty
        })
        .map(|(_, size)| *size)
        .collect();
    let of_today = days.iter().find(|(day, _)| *day == today);
    let passed = (now - now.replace_time(time::Time::MIDNIGHT)).as_seconds_f64() / 86_400.0;
    let a_day = match of_late.len() as f64 {
        0.0 => {
            of_today.map_or(0.0, |(_, size)| (size - empty) as f64 / passed.max(0.001))
                + empty as f64
        }
        days => of_late.iter().sum::<i64>() as f64 / days,
    };
    Size {
        now: days.iter().map(|(_, size)| size).sum(),
        forecast: (a_day * (retention.as_seconds_f64() / 86_400.0 + 1.0)) as i64,
        days: days.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::{date, datetime};

    use super::*;

    const MONTH: Duration = Duration::days(30);

    #[test]
    fn the_forecast_is_as_many_days_as_those_of_late() {
        let days = [
            (date!(2026 - 11 - 10), 900), // too long ago
            (date!(2026 - 11 - 20), 300),
            (date!(2026 - 11 - 21), 500),
            (date!(2026 - 11 - 22), 50), // today, so far
            (date!(2026 - 11 - 23), 10), // empty
        ];
        let size = forecast(&days, MONTH, datetime!(2026-11-22 06:00 UTC));
        assert_eq!((size.now, size.forecast), (1760, 400 * 31));
    }

    #[test]
    fn on_the_first_day_the_forecast_goes_by_what_has_come_so_far() {
        let days = [(date!(2026 - 11 - 22), 110), (date!(2026 - 11 - 23), 10)];
        let size = forecast(&days, MONTH, datetime!(2026-11-22 06:00 UTC));
        assert_eq!(size.forecast, (400 + 10) * 31);
        assert_eq!(forecast(&[], MONTH, datetime!(2026-11-22 00:00 UTC)).now, 0);
    }
}
