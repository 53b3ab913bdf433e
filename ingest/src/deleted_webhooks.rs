//! Deletes the rows of deleted webhooks when their log is past its retention.
//!
//! Until then the row says to whom the log belongs, and that open deliveries are to
//! be cancelled. A row that a delivery or a replay still refers to stays: partitions
//! of the log are dropped whole, and dropping one may be delayed.
//!
//! A webhook without any delivery has no log. Its row is deleted in the first runs after the
//! webhook was. So creating and deleting webhooks all day fills no table.

use deadpool_postgres::{Pool, Transaction};
use shared::clock;
use shared::ids::WebhookId;
use time::{Duration, OffsetDateTime};

/// How many rows are looked at in one transaction.
const AT_ONCE: i64 = 500;
/// How long after its deletion a webhook is first checked for deliveries. By then every process has
/// heard that it is deleted, and none has an event for it in hand.
const UNUSED_FROM: Duration = Duration::hours(1);
/// How long after its deletion a webhook is last checked before the retention ends, because each
/// check looks into every day of the log. Runs are an hour apart, so there are a few checks.
const UNUSED_UNTIL: Duration = Duration::hours(4);

/// Deletes the rows of webhooks that were deleted before `until`, or hours ago and never had a
/// delivery, and what other tables have of them. Answers how many webhooks.
///
/// # Errors
/// If PostgreSQL fails. The next call continues.
pub async fn purge(pool: &Pool, until: OffsetDateTime) -> anyhow::Result<usize> {
    let mut client = pool.get().await?;
    let mut purged = 0;
    loop {
        let transaction = client.transaction().await?;
        let webhooks = purge_webhooks(&transaction, until).await?;
        purge_traces(&transaction, &webhooks).await?;
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
                 WHERE w.status = 'deleted' \
                   AND (w.updated_at < $1 OR w.updated_at BETWEEN $3 AND $4) \
                   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.webhook_id = w.id) \
                   AND NOT EXISTS (SELECT FROM replays r WHERE r.webhook_id = w.id) \
                 ORDER BY w.updated_at LIMIT $2)) \
             RETURNING id",
        )
        .await?;
    let now = clock::now();
    let (from, to) = (now - UNUSED_UNTIL, now - UNUSED_FROM);
    let rows = transaction
        .query(&statement, &[&until, &AT_ONCE, &from, &to])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The tables that have something of a webhook besides its row and its log.
async fn purge_traces(transaction: &Transaction<'_>, webhooks: &[WebhookId]) -> anyhow::Result<()> {
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
    for statement in [
        "-- purge_holds\nDELETE FROM holds WHERE webhook_id = ANY($1)",
        "-- purge_told\nDELETE FROM exhausted_told WHERE webhook_id = ANY($1)",
        "-- purge_alerts\nDELETE FROM webhook_alerts WHERE webhook_id = ANY($1)",
        "-- purge_endpoints\nDELETE FROM endpoints WHERE webhook_id = ANY($1)",
        "-- purge_probes\nDELETE FROM probes WHERE webhook_id = ANY($1)",
        "-- purge_costly\nDELETE FROM costly_filters WHERE webhook_id = ANY($1)",
    ] {
        let statement = transaction.prepare_cached(statement).await?;
        transaction.execute(&statement, &[&webhooks]).await?;
    }
    Ok(())
}
