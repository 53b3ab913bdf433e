//! Matches accepted events again: a webhook that wants an event and has no delivery of it gets one.
//!
//! The operator uses it after a fault of ours kept webhooks out of the index while
//! events were accepted. It asks today's index, but only about webhooks that
//! existed when the event was accepted.
//!
//! An event's row is locked before its deliveries are read, so that a webhook never
//! gets two deliveries of one event. Deliveries and `events.matched` are written in
//! one statement, because the audit compares the two. The schedule and the age of
//! a new delivery start now, like those of a delivery that is retried by hand.

use std::collections::HashSet;

use deadpool_postgres::{GenericClient, Pool, Transaction};
use shared::clock;
use shared::column;
use shared::ids::{DeliveryId, EventId, EventType, EventUid, Tenant, WebhookId, time_of};
use shared::job::Job;
use shared::operational::is_operational;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::subscriptions::Subscriptions;

/// Events in one transaction: with their data, at most 32 MiB.
pub const AT_ONCE: i64 = 32;

/// An accepted event.
pub struct Accepted {
    /// Its key in the table.
    pub uid: EventUid,
    tenant: Tenant,
    id: EventId,
    pub event_type: EventType,
    pub data: String,
}

impl Accepted {
    /// The columns that [`Accepted::read`] reads.
    pub const COLUMNS: &'static str = "uid, tenant, id, type, data";

    #[must_use]
    pub fn read(row: &Row) -> Self {
        Self {
            uid: row.get("uid"),
            tenant: row.get("tenant"),
            id: row.get("id"),
            event_type: row.get("type"),
            data: row.get("data"),
        }
    }

    /// Whether Posthorn made it. Then it is for operational webhooks alone.
    #[must_use]
    pub fn is_operational(&self) -> bool {
        is_operational(&self.event_type) && self.id == EventId::from(self.uid)
    }

    async fn wanted_by(&self, subscriptions: &Subscriptions) -> Vec<WebhookId> {
        if self.is_operational() {
            return Vec::new();
        }
        let accepted_at = time_of(self.uid.uuid());
        let event_type = self.event_type.as_str();
        let found = subscriptions
            .matching(&self.tenant, event_type, &self.data)
            .await;
        let mut webhooks = found.matched;
        webhooks.retain(|webhook| time_of(webhook.uuid()) <= accepted_at);
        webhooks
    }
}

/// Which events are matched again.
pub struct Range {
    /// `None`: all tenants' events.
    pub tenant: Option<Tenant>,
    /// From this uid on.
    pub from: Uuid,
    /// Up to, but without, this one.
    pub to: Uuid,
}

/// Deliveries that were missing.
pub struct Missing {
    /// How many events lacked a delivery.
    pub events: usize,
    /// How many deliveries were missing.
    pub deliveries: usize,
    /// The jobs of the deliveries that were made, to be published after the commit.
    pub jobs: Vec<Job>,
}

/// The first events of a range.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn accepted(pool: &Pool, range: &Range) -> anyhow::Result<Vec<Accepted>> {
    let client = pool.get().await?;
    let columns = Accepted::COLUMNS;
    let rows = match &range.tenant {
        None => {
            let statement = client
                .prepare_cached(&format!(
                    "-- events_to_rematch\n\
                     SELECT {columns} FROM events \
                     WHERE uid >= $1 AND uid < $2 AND expunged_at IS NULL \
                     ORDER BY uid LIMIT $3"
                ))
                .await?;
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&range.from, &range.to, &AT_ONCE];
            client.query(&statement, &parameters).await?
        }
        // As in the API's search for events: an index by tenant and time.
        Some(tenant) => {
            let statement = client
                .prepare_cached(&format!(
                    "-- tenants_events_to_rematch\n\
                     SELECT {columns} FROM events \
                     WHERE (tenant, uid) >= ($1, $2) AND (tenant, uid) <= ($1, $3) \
                       AND uid >= $2 AND uid < $3 AND matched >= 0 AND expunged_at IS NULL \
                     ORDER BY tenant, uid LIMIT $4"
                ))
                .await?;
            client
                .query(&statement, &[tenant, &range.from, &range.to, &AT_ONCE])
                .await?
        }
    };
    Ok(rows.iter().map(Accepted::read).collect())
}

/// Matches events again and makes the deliveries that they lack; only counts
/// them if `dry_run`.
///
/// # Errors
/// If PostgreSQL fails: then none was made.
pub async fn rematch(
    pool: &Pool,
    subscriptions: &Subscriptions,
    events: &[Accepted],
    dry_run: bool,
) -> anyhow::Result<Missing> {
    let mut wanted: Vec<(&Accepted, WebhookId)> = Vec::new();
    for event in events {
        let webhooks = event.wanted_by(subscriptions).await;
        wanted.extend(webhooks.into_iter().map(|webhook| (event, webhook)));
    }
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    if !dry_run {
        let locked = lock_events(&transaction, events.iter()).await?;
        wanted.retain(|(event, _)| locked.contains(&event.uid));
    }
    let missing = missing_deliveries(&transaction, &wanted).await?;
    let mut lacking: Vec<_> = missing.iter().map(|(event, _)| event.uid.uuid()).collect();
    lacking.sort_unstable();
    lacking.dedup();
    let jobs = if dry_run || missing.is_empty() {
        Vec::new()
    } else {
        make_deliveries(&transaction, &missing).await?
    };
    transaction.commit().await?;
    for job in &jobs {
        tracing::info!(
            tenant = %job.tenant, event = %job.event_id, webhook = %job.webhook,
            delivery = %job.delivery, "a missing delivery was made"
        );
    }
    Ok(Missing {
        events: lacking.len(),
        deliveries: missing.len(),
        jobs,
    })
}

/// Locks the events, in order, so that two requests don't deadlock. It is a statement of its
/// own, so that the following ones see what another request has just committed. Answers the events
/// that weren't expunged meanwhile.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn lock_events(
    transaction: &Transaction<'_>,
    events: impl Iterator<Item = &Accepted>,
) -> anyhow::Result<HashSet<EventUid>> {
    let statement = transaction
        .prepare_cached(
            "-- lock_events\n\
             SELECT uid FROM events WHERE uid = ANY($1) AND expunged_at IS NULL \
             ORDER BY uid FOR NO KEY UPDATE",
        )
        .await?;
    let uids: Vec<_> = events.map(|event| event.uid).collect();
    let rows = transaction.query(&statement, &[&uids]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The wanted deliveries that don't exist. A subquery for each leaves nothing to plan.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn missing_deliveries<'a>(
    client: &impl GenericClient,
    wanted: &[(&'a Accepted, WebhookId)],
) -> anyhow::Result<Vec<(&'a Accepted, WebhookId)>> {
    let statement = client
        .prepare_cached(
            "-- missing_deliveries\n\
             SELECT w.n FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS w (uid, webhook, n) \
             WHERE (SELECT d.id FROM deliveries d \
                    WHERE d.id BETWEEN millisecond_floor(w.uid) AND millisecond_ceiling(w.uid) \
                      AND d.event_uid = w.uid AND d.webhook_id = w.webhook LIMIT 1) IS NULL \
             ORDER BY w.n",
        )
        .await?;
    let uids: Vec<_> = wanted.iter().map(|(event, _)| event.uid).collect();
    let webhooks: Vec<_> = wanted.iter().map(|(_, webhook)| *webhook).collect();
    let rows = client.query(&statement, &[&uids, &webhooks]).await?;
    // Ordinality counts from one.
    let missing = rows
        .iter()
        .map(|row| wanted[row.get::<_, i64>(0) as usize - 1]);
    Ok(missing.collect())
}

/// Makes deliveries, and counts them in their events' `matched`. Answers their jobs, to be
/// published after the commit.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn make_deliveries(
    transaction: &Transaction<'_>,
    missing: &[(&Accepted, WebhookId)],
) -> anyhow::Result<Vec<Job>> {
    let statement = transaction.prepare_cached(MAKE_DELIVERIES).await?;
    let now = clock::now();
    let rows = transaction
        .query(
            &statement,
            &[
                column!(missing, (event, _) => DeliveryId::for_event(event.uid)),
                column!(missing, (event, _) => event.uid),
                column!(missing, (_event, webhook) => *webhook),
                column!(missing, (event, _) => event.event_type.as_str()),
                &now,
                &Job::ENOUGH_DATA,
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| Job::read(row, now)).collect())
}

const MAKE_DELIVERIES: &str = "-- make_missing_deliveries
WITH made AS (
    INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, due_at, restarted_at)
    SELECT m.id, m.event_uid, m.webhook_id, m.event_type, 'queued', $5::timestamptz, $5::timestamptz
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[])
        AS m (id, event_uid, webhook_id, event_type)
    RETURNING id, webhook_id, event_uid, attempts, attempts_before, restarted_at
), counted AS (
    UPDATE events e SET matched = e.matched + n.made
    FROM (SELECT uid, count(*)::int4 AS made FROM unnest($2::uuid[]) AS m (uid) GROUP BY uid) n
    WHERE e.uid = ANY($2) AND e.uid = n.uid
)
SELECT m.id, m.webhook_id, m.event_uid, m.attempts, m.attempts_before, m.restarted_at, e.tenant, e.id AS event_id, e.type,
       e.occurred_at, left(e.data, $6) AS data, e.attributes
FROM made m CROSS JOIN LATERAL (SELECT * FROM events WHERE uid = m.event_uid LIMIT 1) e
ORDER BY m.id";
