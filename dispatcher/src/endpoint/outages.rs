//! Keeps the history of outages: when this replica's circuits weren't closed.
//!
//! [`report`](super::report) sees what has changed, once a second, and calls [`note`]. A row of
//! `outages` belongs to one replica, so replicas don't wait for each other. Of an outage there is
//! one row, however often a probe fails: an endpoint that is down for a month costs one row.

use deadpool_postgres::Client;
use shared::ids::{ProcessId, WebhookId};
use time::OffsetDateTime;

use super::limiter::Trouble;

/// How many outages of a webhook a replica keeps. An endpoint that fails and recovers by turns has
/// one every few seconds.
const KEPT: i64 = 100;

/// `None`: the endpoint is up.
type Moment = Option<OffsetDateTime>;

/// Writes down what has changed: outages that began, probes that failed, outages that are over.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn note(
    client: &Client,
    process: ProcessId,
    news: &[(WebhookId, Trouble)],
) -> anyhow::Result<()> {
    let webhooks: Vec<_> = news.iter().map(|(webhook, _)| *webhook).collect();
    let outages = || news.iter().map(|(_, trouble)| trouble.outage);
    let since: Vec<Moment> = outages().map(|outage| Some(outage?.since)).collect();
    let failed: Vec<Moment> = outages().map(|outage| Some(outage?.failed_at)).collect();
    // One that began anew within a second ends the one before.
    let end = client
        .prepare_cached(
            "-- end_outages\n\
             UPDATE outages o SET ended_at = coalesce(v.since, now()) \
             FROM unnest($2::uuid[], $3::timestamptz[]) AS v (webhook_id, since) \
             WHERE o.webhook_id = v.webhook_id AND o.process_id = $1 AND o.ended_at IS NULL \
               AND (v.since IS NULL OR o.since < v.since)",
        )
        .await?;
    let ended = client.execute(&end, &[&process, &webhooks, &since]).await?;
    if since.iter().any(Option::is_some) {
        begin_or_go_on(client, process, (&webhooks, &since, &failed)).await?;
    }
    if ended > 0 {
        forget(client, process, &webhooks).await?;
    }
    Ok(())
}

/// Outages that began, and probes that failed.
async fn begin_or_go_on(
    client: &Client,
    process: ProcessId,
    (webhooks, since, failed): (&[WebhookId], &[Moment], &[Moment]),
) -> anyhow::Result<()> {
    let statement = client
        .prepare_cached(
            "-- note_outages\n\
             INSERT INTO outages (webhook_id, process_id, since, failed_at) \
             SELECT v.webhook_id, $1, v.since, v.failed_at \
             FROM unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[]) \
                 AS v (webhook_id, since, failed_at) \
             WHERE v.since IS NOT NULL \
             ON CONFLICT (webhook_id, since, process_id) DO UPDATE SET \
                 failed_at = excluded.failed_at, probes = outages.probes + 1 \
             WHERE excluded.failed_at > outages.failed_at",
        )
        .await?;
    client
        .execute(&statement, &[&process, &webhooks, &since, &failed])
        .await?;
    Ok(())
}

/// Keeps the latest outages of these webhooks.
async fn forget(client: &Client, process: ProcessId, webhooks: &[WebhookId]) -> anyhow::Result<()> {
    let statement = client
        .prepare_cached(
            "-- forget_outages\n\
             DELETE FROM outages o USING unnest($2::uuid[]) AS v (webhook_id) \
             WHERE o.webhook_id = v.webhook_id AND o.process_id = $1 AND o.since < ( \
                 SELECT since FROM outages k \
                 WHERE k.webhook_id = v.webhook_id AND k.process_id = $1 \
                 ORDER BY since DESC OFFSET $3 LIMIT 1)",
        )
        .await?;
    client
        .execute(&statement, &[&process, &webhooks, &(KEPT - 1)])
        .await?;
    Ok(())
}
