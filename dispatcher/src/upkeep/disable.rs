//! Webhooks are disabled, and operational events tell their tenant so.
//!
//! They are events like any other, with deliveries, retries and a log, but made
//! here, in the transaction in which the thing happens, so that one is never told
//! without the other having happened, nor the other way round. They go to the
//! tenant's operational webhooks alone, which get nothing else: nobody who can
//! publish can forge one.

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
    /// Which.
    pub webhook: WebhookId,
    /// Not if it has moved from there since.
    pub url: Option<String>,
    /// In words.
    pub reason: String,
    /// See [`Disabled::failing_since`].
    pub failing_since: Option<OffsetDateTime>,
}

/// A webhook that was disabled just now.
#[derive(Debug)]
pub struct Disabled {
    /// Which.
    pub webhook: WebhookId,
    /// Whose.
    pub tenant: Tenant,
    /// In words.
    pub reason: String,
    /// What it may have missed came after this, if that is known.
    pub failing_since: Option<OffsetDateTime>,
}

/// Disables those of the webhooks that are active; whoever commits it has to
/// [`tell`]. Their rows are locked in order, so that two batches don't wait for
/// each other in a circle.
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

/// The event's data: what receivers of `webhook.disabled` get.
#[derive(Serialize)]
struct Told<'a> {
    webhook_id: WebhookId,
    reason: &'a str,
    disabled_at: String,
    failing_since: Option<String>,
}

/// Writes the events of webhooks that were disabled; answers the jobs that carry
/// them to the operational webhooks, to be published after the commit.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn tell(
    transaction: &Transaction<'_>,
    disabled: &[Disabled],
) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for one in disabled {
        // To the millisecond, as it is in the ids: due when it is accepted.
        let now = clock::now().truncate_to_millisecond();
        let told = Told {
            webhook_id: one.webhook,
            reason: &one.reason,
            disabled_at: now.format(&Rfc3339)?,
            failing_since: one
                .failing_since
                .map(|at| at.format(&Rfc3339))
                .transpose()?,
        };
        let data = json!(told).to_string();
        let listeners = listeners(transaction, &one.tenant, one.webhook).await?;
        let uid = EventUid::at(now);
        let first = listeners.iter().map(|webhook| Job {
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
        });
        let first: Vec<_> = first.collect();
        insert(transaction, uid, &one.tenant, now, &data, &first).await?;
        jobs.extend(first);
    }
    Ok(jobs)
}

/// The operational webhooks that are to hear of one that was disabled.
async fn listeners(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    of: WebhookId,
) -> anyhow::Result<Vec<WebhookId>> {
    let statement = transaction
        .prepare_cached(
            "-- operational_webhooks\n\
             SELECT id FROM webhooks \
             WHERE tenant = $1 AND operational AND status IN ('active', 'paused') AND id <> $2 \
               AND patterns && ARRAY['*', 'webhook.*', 'webhook.disabled']",
        )
        .await?;
    let rows = transaction.query(&statement, &[tenant, &of]).await?;
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
