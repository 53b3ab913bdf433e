//! Disables webhooks, and tells their tenants by operational events.
//!
//! An operational event is an event with deliveries, retries and a log, like any other. But
//! it isn't published to RabbitMQ. It is written here, in the transaction that disables the
//! webhook, so that neither happens without the other. It goes to the operational webhooks
//! of the tenant alone, and these get no other events. So nobody who may publish events can
//! forge one.

use deadpool_postgres::Transaction;
use serde::Serialize;
use serde_json::json;
use shared::clock;
use shared::ids::{DeliveryId, EventId, EventUid, Tenant, WebhookId};
use shared::job::{Job, Payload};
use shared::operational::DISABLED;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why a webhook is to be disabled.
#[derive(Debug)]
pub struct Cause {
    pub webhook: WebhookId,
    /// If given, the webhook is disabled only if this still is its URL.
    pub url: Option<String>,
    /// For people.
    pub reason: String,
    /// See [`Disabled::failing_since`].
    pub failing_since: Option<OffsetDateTime>,
}

/// A webhook that was disabled just now.
#[derive(Debug)]
pub struct Disabled {
    pub webhook: WebhookId,
    pub tenant: Tenant,
    /// For people.
    pub reason: String,
    /// If known: the webhook got every event from before this time.
    pub failing_since: Option<OffsetDateTime>,
}

/// Disables those of the webhooks that are active. The caller has to [`announce`] them in
/// the same transaction. Rows are locked in order, so that two batches cannot deadlock.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn disable(
    transaction: &Transaction<'_>,
    causes: &[Cause],
) -> anyhow::Result<Vec<Disabled>> {
    if causes.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction
        .prepare_cached(
            "-- disable_webhooks\n\
             WITH locked AS MATERIALIZED ( \
                 SELECT w.id FROM webhooks w WHERE w.id = ANY($1) AND w.status = 'active' \
                 ORDER BY w.id FOR UPDATE) \
             UPDATE webhooks w SET status = 'disabled', disabled_reason = cause.reason, \
                 updated_at = now() \
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) \
                 AS cause (id, url, reason, failing_since) \
             WHERE w.id = cause.id AND (cause.url IS NULL OR w.url = cause.url) \
               AND w.id IN (SELECT id FROM locked) \
             RETURNING w.id, w.tenant, cause.reason, cause.failing_since",
        )
        .await?;
    macro_rules! column {
        ($field:ident) => {
            &causes.iter().map(|cause| &cause.$field).collect::<Vec<_>>()
        };
    }
    let rows = transaction
        .query(
            &statement,
            &[
                column!(webhook),
                column!(url),
                column!(reason),
                column!(failing_since),
            ],
        )
        .await?;
    let disabled = rows.iter().map(|row| Disabled {
        webhook: row.get(0),
        tenant: row.get(1),
        reason: row.get(2),
        failing_since: row.get(3),
    });
    Ok(disabled.collect())
}

/// The data of a `webhook.disabled` event.
#[derive(Serialize)]
struct WebhookDisabled<'a> {
    webhook_id: WebhookId,
    reason: &'a str,
    disabled_at: String,
    failing_since: Option<String>,
}

/// Writes the operational events of webhooks that were disabled. Answers their jobs, which
/// the caller has to publish after the commit.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn announce(
    transaction: &Transaction<'_>,
    disabled: &[Disabled],
) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for one in disabled {
        // Ids have milliseconds, and a first try is due at the time in its id.
        let now = clock::now().truncate_to_millisecond();
        let data = WebhookDisabled {
            webhook_id: one.webhook,
            reason: &one.reason,
            disabled_at: now.format(&Rfc3339)?,
            failing_since: one
                .failing_since
                .map(|at| at.format(&Rfc3339))
                .transpose()?,
        };
        let data = json!(data).to_string();
        let webhooks = operational_webhooks(transaction, &one.tenant, one.webhook).await?;
        let uid = EventUid::at(now);
        let first = webhooks.iter().map(|webhook| Job {
            delivery: DeliveryId::of(uid),
            webhook: *webhook,
            tenant: one.tenant.clone(),
            event_uid: uid,
            event_id: EventId::from(uid),
            event_type: DISABLED.clone(),
            occurred_at: now,
            attempt: 1,
            due_at: now,
            recheck: false,
            payload: Payload::of(&data, None),
            restart: None,
            late: None,
            trace: None,
        });
        let first: Vec<_> = first.collect();
        insert(transaction, uid, &one.tenant, now, &data, &first).await?;
        jobs.extend(first);
    }
    Ok(jobs)
}

/// The operational webhooks of a tenant that get this event. The disabled webhook itself is
/// not among them.
async fn operational_webhooks(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    disabled: WebhookId,
) -> anyhow::Result<Vec<WebhookId>> {
    let statement = transaction
        .prepare_cached(
            "-- operational_webhooks\n\
             SELECT id FROM webhooks \
             WHERE tenant = $1 AND operational AND status IN ('active', 'paused') AND id <> $2 \
               AND patterns && ARRAY['*', 'webhook.*', 'webhook.disabled']",
        )
        .await?;
    let rows = transaction.query(&statement, &[tenant, &disabled]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn insert(
    transaction: &Transaction<'_>,
    uid: EventUid,
    tenant: &Tenant,
    at: OffsetDateTime,
    data: &str,
    jobs: &[Job],
) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- tell_operational_event\n\
             WITH event AS ( \
                 INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched) \
                 VALUES ($1, $2, $3, $4, $5, $6, cardinality($7::uuid[]))) \
             INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, due_at) \
             SELECT d.id, $1, d.webhook_id, $4, 'queued', $5 \
             FROM unnest($7::uuid[], $8::uuid[]) AS d (id, webhook_id)",
        )
        .await?;
    let ids: Vec<_> = jobs.iter().map(|job| job.delivery).collect();
    let webhooks: Vec<_> = jobs.iter().map(|job| job.webhook).collect();
    let id = EventId::from(uid);
    transaction
        .execute(
            &statement,
            &[&uid, tenant, &id, &*DISABLED, &at, &data, &ids, &webhooks],
        )
        .await?;
    Ok(())
}
