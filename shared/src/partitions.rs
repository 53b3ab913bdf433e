//! Creates the partitions of the delivery log for the coming days, ahead of time.
//!
//! Ingest creates two weeks of them and drops old ones (`ingest/src/partitions.rs`).
//! Dispatchers write into the log too, perhaps when no ingest has run for long. So each
//! dispatcher makes sure that the partitions of today and tomorrow exist.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The key of an advisory lock, different from all our others: "mkparts" in ASCII.
const LOCK: i64 = 0x6d_6b70_6172_7473;
/// How often [`keep`] creates missing partitions.
const EVERY: Duration = Duration::from_secs(3600);
/// How soon [`keep`] tries again after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Creates the missing partitions from yesterday to `ahead` days from now, and
/// returns how many it created. If none is missing, that is one lookup.
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
