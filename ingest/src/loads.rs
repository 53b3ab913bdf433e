//! How much all tenants together do: events and attempts, a quarter of an hour at a time.
//!
//! Dispatchers and ingests count per tenant and per event type, because a row for all tenants
//! would be one that everybody waits for. So the sum of a quarter costs as many rows as tenants
//! and their event types did something in it. A quarter that is over doesn't change any more:
//! its sum is kept in memory, and read once in the life of the process.
//!
//! The surprising fact: an answer may have gaps. Reading stops after [`PATIENCE`], and the next
//! request goes on from there, from the newest quarter to the oldest.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Client;
use shared::stats::PERIOD;

/// How long one request adds quarters up.
const PATIENCE: Duration = Duration::from_millis(60);
/// How many quarters one statement adds up.
const AT_ONCE: usize = 4;
/// How many quarters are kept: 32 days.
const KEPT: i64 = 32 * 24 * 4;

/// What all tenants did in a quarter of an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Events that were accepted.
    pub events: i64,
    /// Attempts that ended.
    pub attempts: i64,
}

/// The sums of the quarters that are over, by their beginnings (seconds since 1970).
#[derive(Default)]
pub struct Loads(Mutex<BTreeMap<i64, Load>>);

impl Loads {
    /// The quarters from `since` to `now`, both in seconds since 1970. Those that weren't read
    /// yet are missing.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn since(
        &self,
        client: &Client,
        since: i64,
        now: i64,
    ) -> Result<BTreeMap<i64, Load>, tokio_postgres::Error> {
        let began = Instant::now();
        // Counts of the last quarter may still be on their way.
        let open = begin_of(now) - PERIOD;
        let since = begin_of(since);
        let mut all = read(client, open, now + 1).await?;
        for at in [open, open + PERIOD] {
            all.entry(at).or_default();
        }
        let missing = self.missing(since, open, now);
        let runs = missing.chunk_by(|newer, older| newer - older == PERIOD);
        for quarters in runs.flat_map(|run| run.chunks(AT_ONCE)) {
            if began.elapsed() > PATIENCE {
                break;
            }
            let (Some(last), Some(first)) = (quarters.first(), quarters.last()) else {
                continue;
            };
            let read = read(client, *first, last + PERIOD).await?;
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for at in quarters {
                kept.insert(*at, read.get(at).copied().unwrap_or_default());
            }
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(kept.range(since..open).map(|(at, load)| (*at, *load)));
        all.retain(|at, _| *at >= since);
        Ok(all)
    }

    /// The quarters of this time that aren't kept yet, the newest first. Forgets old ones.
    fn missing(&self, since: i64, open: i64, now: i64) -> Vec<i64> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = kept.split_off(&(begin_of(now) - KEPT * PERIOD));
        let all = (since..open).step_by(PERIOD as usize);
        let mut missing: Vec<_> = all.filter(|at| !kept.contains_key(at)).collect();
        missing.reverse();
        missing
    }
}

fn begin_of(at: i64) -> i64 {
    at - at.rem_euclid(PERIOD)
}

async fn read(
    client: &Client,
    from: i64,
    to: i64,
) -> Result<BTreeMap<i64, Load>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- load_of_quarters\n\
             SELECT extract(epoch FROM quarter)::int8 AS quarter, \
                 sum(events)::int8 AS events, sum(attempts)::int8 AS attempts \
             FROM ( \
                 SELECT s.quarter, 0::int8 AS events, \
                     (SELECT coalesce(sum(o), 0) FROM unnest(s.outcomes) AS o)::int8 AS attempts \
                 FROM tenants t CROSS JOIN LATERAL ( \
                     SELECT quarter, outcomes FROM stats \
                     WHERE subject = 'tenant/' || t.id AND quarter >= to_timestamp($1::float8) \
                       AND quarter < to_timestamp($2::float8)) s \
                 UNION ALL \
                 SELECT quarter, events::int8, 0::int8 FROM event_type_counts \
                 WHERE quarter >= to_timestamp($1::float8) AND quarter < to_timestamp($2::float8) \
             ) counted GROUP BY 1",
        )
        .await?;
    let rows = client
        .query(&statement, &[&(from as f64), &(to as f64)])
        .await?;
    let loads = rows.iter().map(|row| {
        let load = Load {
            events: row.get("events"),
            attempts: row.get("attempts"),
        };
        (row.get("quarter"), load)
    });
    Ok(loads.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_quarters_are_read_first_and_old_ones_forgotten() {
        let now = 1_000 * PERIOD + 17;
        let open = begin_of(now) - PERIOD;
        let loads = Loads::default();
        let since = open - 3 * PERIOD;
        let quarters = [open - PERIOD, open - 2 * PERIOD, since];
        assert_eq!(loads.missing(since, open, now), quarters);
        loads.0.lock().unwrap().insert(quarters[1], Load::default());
        assert_eq!(
            loads.missing(since, open, now),
            [quarters[0], quarters[2]],
            "what is kept isn't read again"
        );
        let much_later = now + KEPT * PERIOD;
        let _ = loads.missing(since, open, much_later);
        assert!(loads.0.lock().unwrap().is_empty());
    }
}
