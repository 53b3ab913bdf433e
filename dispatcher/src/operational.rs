//! Operational events: a tenant is told what became of its webhooks.
//!
//! They are events like any other, with deliveries, retries and a log, but made
//! here, in the transaction in which the thing happens, so that one is never told
//! without the other having happened, nor the other way round. They go to the
//! tenant's operational webhooks alone, which get nothing else: nobody who can
//! publish can forge one.

use deadpool_postgres::Transaction;
use serde::Serialize;
use serde_json::json;
use shared::ids::{DeliveryId, EventId, EventUid, Tenant, WebhookId};
use shared::job::{Job, Payload};
use shared::operational::DISABLED;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
        let now = OffsetDateTime::now_utc();
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
