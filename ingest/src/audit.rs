//! `posthorn-ingest audit`: counts deliveries that nothing will finish.
//!
//! A delivery is accounted for if it is finished, is due in the future, is due
//! within the sweeper's grace, or waits in a queue that hasn't been worked off up
//! to its due time (the sweeper's watermark says how far it has).

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Pool;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Deliveries that aren't finished.
    pub open: i64,
    /// Deliveries that nothing will finish.
    pub unaccounted: i64,
    /// Events that have fewer deliveries than they had matches.
    pub incomplete: i64,
}

impl Audit {
    /// Whether nothing is missing.
    pub fn is_clean(&self) -> bool {
        self.unaccounted == 0 && self.incomplete == 0
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} unaccounted, {} events with missing deliveries ({} deliveries open)",
            self.unaccounted, self.incomplete, self.open
        )
    }
}

/// Counts. A delivery is unaccounted for when the sweeper should have republished its job
/// more than `grace` ago. Every event is read, so it takes time in proportion to their number.
///
/// # Errors
/// If PostgreSQL can't be asked.
pub async fn audit(pool: &Pool, grace: Duration) -> anyhow::Result<Audit> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    // A full scan, so the time limit of ordinary statements doesn't apply.
    transaction
        .batch_execute("SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL statement_timeout = 0")
        .await?;
    let open = transaction
        .query_one(
            "-- audit_open\n\
             SELECT count(*), \
                    count(*) FILTER (WHERE due_at < (SELECT watermark FROM sweep) \
                                                    - make_interval(secs => $1::float8)) \
             FROM deliveries WHERE state IN ('queued', 'retrying')",
            &[&grace.as_secs_f64()],
        )
        .await
        .context("counting open deliveries")?;
    let incomplete = transaction
        .query_one(
            "-- audit_events\n\
             SELECT count(*) FROM events e \
             LEFT JOIN (SELECT event_uid, count(*) AS made FROM deliveries GROUP BY 1) d \
                 ON d.event_uid = e.uid \
             WHERE coalesce(d.made, 0) <> e.matched",
            &[],
        )
        .await
        .context("comparing events and deliveries")?;
    Ok(Audit {
        open: open.get(0),
        unaccounted: open.get(1),
        incomplete: incomplete.get(0),
    })
}
