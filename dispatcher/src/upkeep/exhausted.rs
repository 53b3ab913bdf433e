//! Tells owners that deliveries were given up: `delivery.exhausted`.
//!
//! The statistics count these deliveries per quarter of an hour. The table `exhausted_told` has
//! the count that the owner was last told. An owner gets at most one such event a minute for each
//! webhook. It says how many deliveries were given up since the last one, and how to replay them.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use serde_json::json;
use shared::ids::{DeliveryId, EventUid, Tenant, WebhookId};
use shared::operational::EXHAUSTED;
use shared::recent::quarter_before;
use shared::stats::Subject;
use shared::timestamp::with_milliseconds;
use time::OffsetDateTime;

use super::announce::{Announcement, patterns};
use super::trouble::{Seen, Watched};

/// The events that tell of deliveries that were given up. Nobody is told of operational
/// webhooks: two that fail would tell of each other for ever.
pub async fn given_up(
    transaction: &Transaction<'_>,
    watched: &[Watched],
    seen: &HashMap<WebhookId, Seen>,
    now: OffsetDateTime,
) -> anyhow::Result<Vec<Announcement>> {
    let failed = watched
        .iter()
        .filter(|webhook| !webhook.operational && seen.contains_key(&webhook.id));
    let failed: HashMap<WebhookId, &Watched> = failed.map(|it| (it.id, it)).collect();
    let listening = listening(transaction, failed.values().map(|it| &it.tenant)).await?;
    let ids: Vec<WebhookId> = failed
        .values()
        .filter(|webhook| listening.contains(&webhook.tenant))
        .map(|webhook| webhook.id)
        .collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut announcements = Vec::new();
    for given_up in take(transaction, &ids, now).await? {
        let Some(webhook) = failed.get(&given_up.webhook) else {
            continue;
        };
        let since = oldest(transaction, &given_up).await?;
        let since = with_milliseconds(since.unwrap_or(given_up.since))?;
        let data = json!({
            "webhook_id": webhook.id,
            "count": given_up.count,
            "since": with_milliseconds(given_up.since)?,
            "until": with_milliseconds(now)?,
            "replay": {
                "method": "POST",
                "path": format!("/api/v1/webhooks/{}/replay", webhook.id),
                "body": { "since": since, "status": ["failed", "expired"] },
            },
        });
        announcements.push(Announcement {
            uid: EventUid::at(now),
            tenant: webhook.tenant.clone(),
            about: webhook.id,
            event_type: &EXHAUSTED,
            data: data.to_string(),
        });
    }
    Ok(announcements)
}

/// Those of the tenants that have a webhook for these events.
async fn listening(
    transaction: &Transaction<'_>,
    tenants: impl Iterator<Item = &Tenant>,
) -> anyhow::Result<Vec<Tenant>> {
    let tenants: Vec<_> = tenants.collect();
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction
        .prepare_cached(
            "-- tenants_that_listen\n\
             SELECT DISTINCT tenant FROM webhooks \
             WHERE tenant = ANY($1) AND operational AND status IN ('active', 'paused') \
               AND patterns && $2::text[]",
        )
        .await?;
    let patterns = patterns(&EXHAUSTED);
    let rows = transaction
        .query(&statement, &[&tenants, &&patterns[..]])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

struct GivenUp {
    webhook: WebhookId,
    count: i64,
    since: OffsetDateTime,
}

/// What was given up since the owners were last told, which is now.
async fn take(
    transaction: &Transaction<'_>,
    webhooks: &[WebhookId],
    now: OffsetDateTime,
) -> anyhow::Result<Vec<GivenUp>> {
    let statement = transaction.prepare_cached(COUNT_GIVEN_UP).await?;
    let subjects: Vec<_> = webhooks
        .iter()
        .map(|id| Subject::Webhook(*id).to_string())
        .collect();
    let rows = transaction
        .query(
            &statement,
            &[&webhooks, &subjects, &quarter_before(now), &now],
        )
        .await?;
    let given_up = rows.iter().map(|row| GivenUp {
        webhook: row.get("webhook_id"),
        count: row.get("count"),
        since: row.get("since"),
    });
    Ok(given_up.collect())
}

// $3 is the beginning of the quarter before this one: a batch that was settled just before
// this quarter began may still be counted there.
const COUNT_GIVEN_UP: &str = "-- count_given_up
WITH counted AS (
    SELECT w.id AS webhook_id, greatest(t.told_at, $3::timestamptz) AS since, coalesce(t.counted, 0) AS before,
        (SELECT coalesce(sum(failed + expired), 0) FROM stats s
         WHERE s.subject = w.subject AND s.quarter >= coalesce(t.quarter, $3))::int8 AS total,
        (SELECT coalesce(sum(failed + expired), 0) FROM stats s
         WHERE s.subject = w.subject AND s.quarter >= $3)::int8 AS of_late
    FROM unnest($1::uuid[], $2::text[]) AS w (id, subject)
    LEFT JOIN exhausted_told t ON t.webhook_id = w.id
    WHERE t.told_at IS NULL OR t.told_at <= $4::timestamptz - interval '1 minute'
), told AS (
    INSERT INTO exhausted_told (webhook_id, told_at, quarter, counted)
    SELECT webhook_id, $4, $3, of_late FROM counted WHERE total > before
    ON CONFLICT (webhook_id) DO UPDATE SET told_at = excluded.told_at,
        quarter = excluded.quarter, counted = excluded.counted
)
SELECT webhook_id, total - before AS count, since FROM counted WHERE total > before";

/// When the oldest of these deliveries' events was accepted, among the latest thousand that
/// failed or expired.
async fn oldest(
    transaction: &Transaction<'_>,
    given_up: &GivenUp,
) -> anyhow::Result<Option<OffsetDateTime>> {
    let statement = transaction
        .prepare_cached(
            "-- oldest_given_up\n\
             SELECT id FROM ( \
                 (SELECT id, finished_at FROM deliveries \
                  WHERE webhook_id = $1 AND state = 'failed' ORDER BY id DESC LIMIT 1000) \
                 UNION ALL \
                 (SELECT id, finished_at FROM deliveries \
                  WHERE webhook_id = $1 AND state = 'expired' ORDER BY id DESC LIMIT 1000) \
             ) latest WHERE finished_at >= $2 ORDER BY id LIMIT 1",
        )
        .await?;
    let row = transaction
        .query_opt(&statement, &[&given_up.webhook, &given_up.since])
        .await?;
    Ok(row.map(|row| row.get::<_, DeliveryId>(0).accepted_at()))
}
