//! Events and their deliveries are written, once.
//!
//! A matched batch comes in from `intake`; which events were new goes back.
//! Event and deliveries are one statement, so there is never one without the
//! other. An event is known by (tenant, id): unique within a day by an index,
//! and looked up in the day before. Around midnight batches take turns, so that
//! two of the same event can't fall on either side of it unseen.

use std::collections::{BTreeMap, HashSet};

use deadpool_postgres::{Pool, Transaction};
use serde_json::Value;
use shared::ids::{DeliveryId, EventId, EventUid, Tenant, WebhookId, first_uuid_at, time_of};
use shared::job::{Job, Late, Payload};
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::decode::Event;

/// How far from midnight batches take turns: more than clocks are apart, and
/// more than a statement may take.
const AROUND_MIDNIGHT: Duration = Duration::minutes(2);
/// Of how many webhooks it is written down that their filter was too costly for
/// an event.
const MAX_TOO_COSTLY: usize = 1_000;
/// Any number that no other lock of ours has: "midnight" in ASCII.
const MIDNIGHT_LOCK: i64 = 0x6d69_646e_6967_6874;

/// An event and the deliveries it is to have.
#[derive(Debug, Clone)]
pub struct Matched {
    /// Posthorn's key.
    pub uid: EventUid,
    /// The producer's id, or one made from the key.
    pub id: EventId,
    /// What was published.
    pub event: Event,
    /// One per webhook that wants it.
    pub deliveries: Vec<(DeliveryId, WebhookId)>,
    /// Webhooks whose filter was too costly to evaluate: it isn't known whether
    /// they want it.
    pub too_costly: Vec<WebhookId>,
}

impl Matched {
    /// The jobs of its first attempts.
    pub fn jobs(&self) -> impl Iterator<Item = Job> {
        self.deliveries.iter().map(|(delivery, webhook)| Job {
            delivery: *delivery,
            webhook: *webhook,
            tenant: self.event.tenant.clone(),
            event_uid: self.uid,
            event_id: self.id.clone(),
            event_type: self.event.event_type.clone(),
            occurred_at: self.occurred_at(),
            attempt: 1,
            due_at: delivery.accepted_at(),
            recheck: false,
            payload: Payload::of(&self.event.data, self.event.attributes.as_ref()),
            restart: None,
            late: None,
        })
    }

    fn occurred_at(&self) -> OffsetDateTime {
        self.event
            .occurred_at
            .unwrap_or_else(|| time_of(self.uid.uuid()))
    }
}

/// Writes a batch whose uids are all of the moment `now`; answers the uids of
/// those that weren't known.
///
/// `again`: an earlier try of this very batch failed. It may have committed all
/// the same, when only the answer was lost. Then its events are known by now, by
/// their own uids, which nobody else has: they are answered as new.
///
/// # Errors
/// If PostgreSQL fails: then nothing was written, or everything and a repetition
/// finds it.
pub async fn accept(
    pool: &Pool,
    now: OffsetDateTime,
    batch: &[&Matched],
    again: bool,
) -> anyhow::Result<HashSet<EventUid>> {
    let mut client = pool.get().await?;
    let since_midnight = now - now.replace_time(time::Time::MIDNIGHT);
    let transaction = client.transaction().await?;
    if since_midnight < AROUND_MIDNIGHT || since_midnight > Duration::DAY - AROUND_MIDNIGHT {
        transaction
            .execute(
                "-- midnight_lock\nSELECT pg_advisory_xact_lock($1)",
                &[&MIDNIGHT_LOCK],
            )
            .await?;
    }
    let mut new = accept_events(&transaction, now, batch).await?;
    if again {
        new.extend(accepted_before(&transaction, batch).await?);
    }
    count_too_costly(&transaction, now, batch, &new).await?;
    transaction.commit().await?;
    Ok(new)
}

/// Which of them are in the table by these uids.
async fn accepted_before(
    transaction: &Transaction<'_>,
    batch: &[&Matched],
) -> anyhow::Result<Vec<EventUid>> {
    let statement = transaction
        .prepare_cached("-- accepted_before\nSELECT uid FROM events WHERE uid = ANY($1)")
        .await?;
    let uids: Vec<_> = batch.iter().map(|event| event.uid).collect();
    let rows = transaction.query(&statement, &[&uids]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn accept_events(
    transaction: &Transaction<'_>,
    now: OffsetDateTime,
    batch: &[&Matched],
) -> anyhow::Result<HashSet<EventUid>> {
    let statement = transaction.prepare_cached(ACCEPT_EVENTS).await?;
    macro_rules! column {
        ($event:ident => $value:expr) => {
            &batch.iter().map(|$event| $value).collect::<Vec<_>>()
        };
    }
    // To the millisecond, as it is in the deliveries' ids and their jobs.
    let due_at = now.truncate_to_millisecond();
    let (today, yesterday) = (day_of(now), day_of(now - Duration::DAY));
    let deliveries: Vec<_> = batch
        .iter()
        .flat_map(|event| event.deliveries.iter().map(move |d| (event, d)))
        .collect();
    let rows = transaction
        .query(
            &statement,
            &[
                column!(e => e.uid),
                column!(e => e.event.tenant.as_str()),
                column!(e => e.id.as_str()),
                column!(e => e.event.event_type.as_str()),
                column!(e => e.occurred_at()),
                column!(e => e.event.data.as_str()),
                column!(e => e.event.attributes.as_ref()),
                column!(e => e.deliveries.len() as i32),
                &yesterday,
                &today,
                &deliveries
                    .iter()
                    .map(|(_, (delivery, _))| *delivery)
                    .collect::<Vec<_>>(),
                &deliveries
                    .iter()
                    .map(|(event, _)| event.uid)
                    .collect::<Vec<_>>(),
                &deliveries
                    .iter()
                    .map(|(_, (_, webhook))| *webhook)
                    .collect::<Vec<_>>(),
                &deliveries
                    .iter()
                    .map(|(event, _)| event.event.event_type.as_str())
                    .collect::<Vec<_>>(),
                &due_at,
                column!(e => too_costly(e)),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

// Written so that there is nothing to plan: joins would be nested loops over
// the batch squared, or read all of yesterday, for a planner that knows nothing
// of a fresh partition. `IS TRUE` keeps `IN` a hashed lookup, and the subquery
// in a comparison is a lookup for each event. `due_at` is what the job says too:
// the millisecond in the delivery's id.
const ACCEPT_EVENTS: &str = "-- accept_events
WITH accepted AS (
    INSERT INTO events (uid, tenant, id, type, occurred_at, data, attributes, matched,
                        too_costly)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
                         $6::text[], $7::jsonb[], $8::int4[], $16::jsonb[])
    AS e (uid, tenant, id, type, occurred_at, data, attributes, matched, too_costly)
    WHERE (
        SELECT y.uid FROM events y WHERE y.tenant = e.tenant AND y.id = e.id
        AND y.uid >= $9::uuid AND y.uid < $10::uuid LIMIT 1) IS NULL
    ON CONFLICT DO NOTHING
    RETURNING uid
), enqueued AS (
    INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, due_at)
    SELECT d.id, d.event_uid, d.webhook_id, d.event_type, 'queued',
           $15::timestamptz
    FROM unnest($11::uuid[], $12::uuid[], $13::uuid[], $14::text[])
    AS d (id, event_uid, webhook_id, event_type)
    WHERE (d.event_uid IN (SELECT uid FROM accepted)) IS TRUE
)
SELECT uid FROM accepted";

/// As the table has it; of most events nothing.
fn too_costly(event: &Matched) -> Option<Value> {
    let webhooks = event.too_costly.iter().take(MAX_TOO_COSTLY);
    let webhooks: Vec<_> = webhooks.map(|id| Value::from(id.to_string())).collect();
    (!webhooks.is_empty()).then(|| webhooks.into())
}

/// Counts, for the owners of webhooks, the events that their filters were too
/// costly for. In the order of ids, so that batches don't wait in a circle.
async fn count_too_costly(
    transaction: &Transaction<'_>,
    now: OffsetDateTime,
    batch: &[&Matched],
    new: &HashSet<EventUid>,
) -> anyhow::Result<()> {
    let mut counts: BTreeMap<WebhookId, i64> = BTreeMap::new();
    for event in batch.iter().filter(|event| new.contains(&event.uid)) {
        for webhook in event.too_costly.iter().take(MAX_TOO_COSTLY) {
            *counts.entry(*webhook).or_default() += 1;
        }
    }
    if counts.is_empty() {
        return Ok(());
    }
    let statement = transaction
        .prepare_cached(
            "-- count_too_costly\n\
             INSERT INTO costly_filters AS c (webhook_id, events, last_at) \
             SELECT webhook_id, events, $3::timestamptz FROM unnest($1::uuid[], $2::int8[]) \
                 AS counted (webhook_id, events) ORDER BY webhook_id \
             ON CONFLICT (webhook_id) DO UPDATE SET \
                 events = c.events + excluded.events, last_at = excluded.last_at",
        )
        .await?;
    let (webhooks, counts): (Vec<_>, Vec<_>) = counts.into_iter().unzip();
    transaction
        .execute(&statement, &[&webhooks, &counts, &now])
        .await?;
    Ok(())
}

fn day_of(at: OffsetDateTime) -> Uuid {
    first_uuid_at(at.replace_time(time::Time::MIDNIGHT))
}

/// The jobs of known events that no dispatcher is known to have taken: after a
/// crash between their commit and their publishing they may not exist. Or they do,
/// and may be on their way: so these are late copies.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn untried_jobs(
    pool: &Pool,
    now: OffsetDateTime,
    known: &[(&Tenant, &EventId)],
) -> anyhow::Result<Vec<Job>> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- untried_jobs\n\
             SELECT d.id, d.webhook_id, d.event_uid, d.attempts, d.attempts_before, d.restarted_at, \
                 d.due_at, e.tenant, e.id AS event_id, e.type, e.occurred_at, \
                 left(e.data, $4) AS data, e.attributes \
             FROM unnest($1::text[], $2::text[]) AS k (tenant, id) \
             JOIN events e ON e.tenant = k.tenant AND e.id = k.id AND e.uid >= $3::uuid \
             JOIN deliveries d ON d.event_uid = e.uid \
                 AND d.id BETWEEN millisecond_floor(e.uid) AND millisecond_ceiling(e.uid) \
             WHERE d.state = 'queued' AND d.attempts = 0 AND d.restarted_at IS NULL \
               AND d.deferred_because IS NULL",
        )
        .await?;
    let tenants: Vec<_> = known.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let ids: Vec<_> = known.iter().map(|(_, id)| id.as_str()).collect();
    let rows = client
        .query(
            &statement,
            &[
                &tenants,
                &ids,
                &day_of(now - Duration::DAY),
                &Job::ENOUGH_DATA,
            ],
        )
        .await?;
    let read = |row: &Row| Job {
        late: Some(Late::Behind),
        ..Job::read(row, row.get("due_at"))
    };
    Ok(rows.iter().map(read).collect())
}
