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

/// Any number that no other lock of ours has: "mkparts" in ASCII.
const LOCK: i64 = 0x6d_6b70_6172_7473;
/// How often [`keep`] looks.
const EVERY: Duration = Duration::from_secs(3600);
/// How soon it looks again after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Makes the missing partitions from yesterday to `ahead` days from now; answers
/// how many it made. If all are there, that is one lookup.
///
/// It waits only briefly for its locks: queries come first, and it runs again.
///
/// # Errors
/// If PostgreSQL fails, or others hold the locks.
pub async fn make(pool: &Pool, ahead: i32) -> anyhow::Result<i32> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SET LOCAL lock_timeout = '200ms'")
        .await?;
    // Two that make the same day at the same time would fail.
    transaction
        .execute(
            "-- make_partitions_lock\nSELECT pg_advisory_xact_lock($1)",
            &[&LOCK],
        )
        .await
        .context("waiting for another process that makes partitions")?;
    let made = transaction
        .query_one(
            "-- create_partitions\nSELECT create_partitions($1)",
            &[&ahead],
        )
        .await
        .context("making the coming days' partitions")?
        .get(0);
    transaction.commit().await?;
    Ok(made)
}

/// Makes them every hour until told to stop.
pub async fn keep(pool: Pool, ahead: i32, stop: CancellationToken) {
    let mut next = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = next.tick() => {}
            () = stop.cancelled() => return,
        }
        match make(&pool, ahead).await {
            Ok(0) => {}
            Ok(made) => info!(made, "partitions"),
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "making partitions failed; trying again in a minute"
                );
                next.reset_after(AFTER_FAILURE);
            }
        }
    }
}
