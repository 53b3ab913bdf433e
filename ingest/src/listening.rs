//! Temporary webhooks, for people who develop a receiver without a public address.
//!
//! A listener's webhook is matched like any other. It is paused, so no dispatcher sends its
//! deliveries; whoever listens takes them over the API instead ([`take`]), composed and signed as
//! a dispatcher would. Taking a delivery finishes it in the same statement, so that each is
//! taken once, by whichever process is asked. The webhook has a lease, which every request for
//! deliveries extends. When the lease is over, the webhook is deleted like any other.

use std::time::Duration;

use deadpool_postgres::{Client, GenericClient, Pool, Transaction};
use serde_json::Value;
use shared::ids::{DeliveryId, EventId, EventType, Tenant, WebhookId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::invalid::{Conflict, Unsaved};
use crate::webhooks::store::FORGOTTEN;

/// How long a listener's webhook lives after the last request for its deliveries.
pub const LEASE: Duration = Duration::from_secs(120);
/// The most listeners of a tenant.
pub const OF_A_TENANT: i64 = 5;
/// The most deliveries that are taken at a time: with their data, at most 10 MiB.
const AT_ONCE: i64 = 10;
/// The most webhooks that are deleted at a time.
const EXPIRED_AT_ONCE: i64 = 500;

/// A delivery that was taken, to be composed.
pub struct Taken {
    pub id: DeliveryId,
    pub event_id: EventId,
    pub event_type: EventType,
    pub occurred_at: OffsetDateTime,
    pub data: String,
    pub attributes: Option<Value>,
}

/// Makes a webhook that was just created temporary.
///
/// # Errors
/// If the tenant has as many listeners as it may.
pub async fn begin(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    webhook: WebhookId,
) -> Result<(), Unsaved> {
    // Creating the webhook has locked the tenant's row.
    let statement = transaction
        .prepare_cached(
            "-- count_listeners\n\
             SELECT count(*) FROM webhooks \
             WHERE tenant = $1 AND temporary_until IS NOT NULL AND status <> 'deleted'",
        )
        .await?;
    let has: i64 = transaction.query_one(&statement, &[tenant]).await?.get(0);
    if has >= OF_A_TENANT {
        return Err(Conflict::listeners(has, OF_A_TENANT).into());
    }
    extend(transaction, tenant, webhook, true).await?;
    Ok(())
}

/// Extends the lease. Answers whether there is such a listener.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn extend(
    client: &impl GenericClient,
    tenant: &Tenant,
    webhook: WebhookId,
    is_new: bool,
) -> Result<bool, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- extend_lease_of_listener\n\
             UPDATE webhooks SET temporary_until = now() + make_interval(secs => $4) \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted' \
               AND ($3 OR temporary_until IS NOT NULL)",
        )
        .await?;
    let extended = client
        .execute(
            &statement,
            &[&webhook, tenant, &is_new, &LEASE.as_secs_f64()],
        )
        .await?;
    Ok(extended > 0)
}

/// Takes the oldest deliveries that wait, from this id on, and finishes them.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn take(
    client: &Client,
    webhook: WebhookId,
    from: Uuid,
) -> Result<Vec<Taken>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- take_for_listener\n\
             WITH waiting AS ( \
                 SELECT id FROM deliveries \
                 WHERE webhook_id = $1 AND id >= $2 AND state = 'queued' \
                 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED), \
             taken AS ( \
                 UPDATE deliveries d SET state = 'cancelled', due_at = NULL, finished_at = now(), \
                     deferred_because = NULL, error = 'sent to a listener' \
                 FROM waiting WHERE d.id = waiting.id RETURNING d.id, d.event_uid) \
             SELECT t.id, e.id AS event_id, e.type, e.occurred_at, e.data, e.attributes \
             FROM taken t CROSS JOIN LATERAL ( \
                 SELECT * FROM events WHERE uid = t.event_uid AND expunged_at IS NULL LIMIT 1) e \
             ORDER BY t.id",
        )
        .await?;
    let rows = client
        .query(&statement, &[&webhook, &from, &AT_ONCE])
        .await?;
    let taken = rows.iter().map(|row| Taken {
        id: row.get("id"),
        event_id: row.get("event_id"),
        event_type: row.get("type"),
        occurred_at: row.get("occurred_at"),
        data: row.get("data"),
        attributes: row.get("attributes"),
    });
    Ok(taken.collect())
}

/// Deletes webhooks whose lease is over.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete_expired(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- delete_expired_listeners\n\
             UPDATE webhooks SET {FORGOTTEN} WHERE id = ANY (ARRAY( \
                 SELECT id FROM webhooks WHERE temporary_until < now() AND status <> 'deleted' \
                 ORDER BY temporary_until LIMIT $1))"
        ))
        .await?;
    client.execute(&statement, &[&EXPIRED_AT_ONCE]).await?;
    Ok(())
}
