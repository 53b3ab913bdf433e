//! Deletes the rows of deleted webhooks when their log is past its retention.
//!
//! Until then the row says to whom the log belongs, and that open deliveries are to
//! be cancelled. A row that a delivery or a replay still refers to stays: partitions
//! of the log are dropped whole, and dropping one may be delayed.

use deadpool_postgres::{Pool, Transaction};
use shared::ids::WebhookId;
use time::OffsetDateTime;

/// How many rows are looked at in one transaction.
const AT_ONCE: i64 = 500;

/// Deletes the rows of webhooks that were deleted before `until`, and the counters of their
/// limits. Answers how many webhooks.
///
/// # Errors
/// If PostgreSQL fails. The next call continues.
pub async fn purge(pool: &Pool, until: OffsetDateTime) -> anyhow::Result<usize> {
    let mut client = pool.get().await?;
    let mut purged = 0;
    loop {
        let transaction = client.transaction().await?;
        let webhooks = purge_webhooks(&transaction, until).await?;
        purge_limits(&transaction, &webhooks).await?;
        transaction.commit().await?;
        purged += webhooks.len();
        if (webhooks.len() as i64) < AT_ONCE {
            break;
        }
    }
    if purged > 0 {
        tracing::info!(purged, "deleted webhooks, past their log's retention");
    }
    Ok(purged)
}

async fn purge_webhooks(
    transaction: &Transaction<'_>,
    until: OffsetDateTime,
) -> anyhow::Result<Vec<WebhookId>> {
    let statement = transaction
        .prepare_cached(
            "-- purge_webhooks\n\
             DELETE FROM webhooks WHERE id = ANY (ARRAY( \
                 SELECT w.id FROM webhooks w \
                 WHERE w.status = 'deleted' AND w.updated_at < $1 \
                   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.webhook_id = w.id) \
                   AND NOT EXISTS (SELECT FROM replays r WHERE r.webhook_id = w.id) \
                 ORDER BY w.updated_at LIMIT $2)) \
             RETURNING id",
        )
        .await?;
    let rows = transaction.query(&statement, &[&until, &AT_ONCE]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The tables in which dispatchers keep something of a webhook.
async fn purge_limits(transaction: &Transaction<'_>, webhooks: &[WebhookId]) -> anyhow::Result<()> {
    let subjects = webhooks.iter().map(|webhook| format!("webhook/{webhook}"));
    let subjects: Vec<_> = subjects.collect();
    let statement = transaction
        .prepare_cached("-- purge_rate_usage\nDELETE FROM rate_usage WHERE subject = ANY($1)")
        .await?;
    transaction.execute(&statement, &[&subjects]).await?;
    let statement = transaction
        .prepare_cached("-- purge_troubles\nDELETE FROM troubles WHERE subject = ANY($1)")
        .await?;
    transaction.execute(&statement, &[&subjects]).await?;
    let statement = transaction
        .prepare_cached("-- purge_holds\nDELETE FROM holds WHERE webhook_id = ANY($1)")
        .await?;
    transaction.execute(&statement, &[&webhooks]).await?;
    Ok(())
}
