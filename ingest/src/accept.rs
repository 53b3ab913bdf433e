//! Events and their deliveries are written, once.
//!
//! A matched batch comes in from `batch`; which events were new goes back.
//! Event and deliveries are one [`statement`], so there is never one without the
//! other. It is a transaction of its own: one round trip and one commit. An event is known
//! by (tenant, id): unique within a day by an index, and looked up in the day before.
//! Around midnight batches take turns, so that two of the same event can't fall on either
//! side of it unseen; then there is a transaction around it.
//!
//! The statement writes nothing if the catalogue has another revision than the one that
//! the batch was matched with. So a batch needs no question beforehand.

pub mod conflicts;
mod statement;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use deadpool_postgres::{Client, GenericClient, Pool, Transaction};
use serde_json::Value;
use shared::clock;
use shared::column;
use shared::ids::{DeliveryId, EventId, EventUid, Tenant, WebhookId, first_uuid_at, time_of};
use shared::job::{FirstTries, Job, Late, Payload};
use shared::publish::FirstTry;
use shared::trace::JobTrace;
use time::{Duration, OffsetDateTime};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use crate::decode::{Event, TokenHash};

/// How far from midnight batches take turns: more than clocks are apart, and
/// more than a statement may take.
const AROUND_MIDNIGHT: Duration = Duration::minutes(2);
/// Of how many webhooks it is written down that their filter was too costly for
/// an event.
const MAX_TOO_COSTLY: usize = 1_000;
/// The most late copies of jobs that a batch makes. So many take some megabytes.
const MAX_COPIES: i64 = 20_000;
/// A connection with more prepared statements than this forgets them: those of past days
/// are among them.
const PREPARED: usize = 8;
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
    pub event: Arc<Event>,
    /// One per webhook that wants it.
    pub deliveries: Vec<(DeliveryId, WebhookId)>,
    /// Webhooks whose filter was too costly to evaluate: it isn't known whether
    /// they want it.
    pub too_costly: Vec<WebhookId>,
}

impl Matched {
    /// The jobs of its first attempts, made as they are taken: there may be many.
    pub fn first_tries(&self, trace: Option<JobTrace>) -> impl Iterator<Item = FirstTry> {
        let one = self.deliveries.first();
        let tries = one.map(|(delivery, webhook)| FirstTries::like(&self.job(*delivery, *webhook)));
        let tries = tries.map(Arc::new);
        let deliveries = self.deliveries.iter();
        deliveries.filter_map(move |&(delivery, webhook)| {
            Some(FirstTry {
                tries: tries.clone()?,
                delivery,
                webhook,
                trace,
            })
        })
    }

    fn job(&self, delivery: DeliveryId, webhook: WebhookId) -> Job {
        Job {
            delivery,
            webhook,
            tenant: self.event.tenant.clone(),
            event_uid: self.uid,
            event_id: self.id.clone(),
            event_type: self.event.event_type.clone(),
            occurred_at: self.occurred_at(),
            attempt: 1,
            due_at: delivery.accepted_at(),
            recheck: false,
            payload: Payload::from_data(&self.event.data, self.event.attributes.as_ref()),
            restart: None,
            late: None,
            trace: None,
        }
    }

    fn occurred_at(&self) -> OffsetDateTime {
        self.event
            .occurred_at
            .unwrap_or_else(|| time_of(self.uid.uuid()))
    }
}

/// What came of writing a batch.
#[derive(Debug)]
pub enum Accepted {
    /// The uids of those that weren't known.
    New(HashSet<EventUid>),
    /// Nothing was written: webhooks or event types have changed since the batch was matched.
    Outdated,
    /// Nothing was written: these tokens aren't valid any more.
    Revoked(Vec<TokenHash>),
}

/// Writes a batch whose uids are all of the moment `now`; only if `only_if` still is
/// PostgreSQL's latest revision, and the tokens that are [presumed](Event::presumed) to be valid are.
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
    only_if: Option<i64>,
    again: bool,
) -> anyhow::Result<Accepted> {
    let mut client = pool.get().await?;
    let since_midnight = now - now.replace_time(time::Time::MIDNIGHT);
    // An outage of PostgreSQL can carry a batch into the next day.
    let ends_its_day =
        since_midnight > Duration::DAY - AROUND_MIDNIGHT || clock::now().date() != now.date();
    let is_around_midnight = ends_its_day || since_midnight < AROUND_MIDNIGHT;
    let statement = prepare(&client, now, ends_its_day).await?;
    let is_costly = batch.iter().any(|event| !event.too_costly.is_empty());
    let accepted = if is_around_midnight || is_costly {
        let transaction = client.transaction().await?;
        if is_around_midnight {
            transaction
                .execute(
                    "-- midnight_lock\nSELECT pg_advisory_xact_lock($1)",
                    &[&MIDNIGHT_LOCK],
                )
                .await?;
        }
        let accepted = accept_events(&transaction, &statement, now, batch, only_if).await?;
        if let Accepted::New(new) = &accepted {
            count_too_costly(&transaction, now, batch, new).await?;
        }
        transaction.commit().await?;
        accepted
    } else {
        let written = accept_events(&client, &statement, now, batch, only_if).await;
        if written.as_ref().err().is_some_and(is_of_a_missing_table) {
            // It was there when the statement was prepared.
            client.statement_cache.clear();
        }
        written?
    };
    match accepted {
        Accepted::New(mut new) if again => {
            new.extend(accepted_before(&client, batch).await?);
            Ok(Accepted::New(new))
        }
        accepted => Ok(accepted),
    }
}

fn is_of_a_missing_table(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<tokio_postgres::Error>();
    error.and_then(tokio_postgres::Error::code) == Some(&SqlState::UNDEFINED_TABLE)
}

async fn prepare(
    client: &Client,
    now: OffsetDateTime,
    ends_its_day: bool,
) -> anyhow::Result<Statement> {
    if client.statement_cache.size() > PREPARED {
        client.statement_cache.clear();
    }
    if !ends_its_day {
        let of_day = client.prepare_cached(&statement::of_day(now.date())).await;
        match of_day {
            // There is no such partition.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
            prepared => return Ok(prepared?),
        }
    }
    let of_any_day = statement::of_any_day(now.date());
    Ok(client.prepare_cached(&of_any_day).await?)
}

/// Which of them are in the table by these uids.
async fn accepted_before(client: &Client, batch: &[&Matched]) -> anyhow::Result<Vec<EventUid>> {
    let statement = client
        .prepare_cached("-- accepted_before\nSELECT uid FROM events WHERE uid = ANY($1)")
        .await?;
    let uids: Vec<_> = batch.iter().map(|event| event.uid).collect();
    let rows = client.query(&statement, &[&uids]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn accept_events(
    client: &impl GenericClient,
    statement: &Statement,
    now: OffsetDateTime,
    batch: &[&Matched],
    only_if: Option<i64>,
) -> anyhow::Result<Accepted> {
    // In one order, so that two batches with the same events don't wait in a circle.
    let mut batch = batch.to_vec();
    batch.sort_by_key(|event| (event.event.tenant.as_str(), event.id.as_str()));
    macro_rules! of_deliveries {
        ($event:ident, $delivery:ident, $webhook:ident => $value:expr) => {
            &batch
                .iter()
                .flat_map(|$event| {
                    let deliveries = $event.deliveries.iter();
                    deliveries.map(move |($delivery, $webhook)| $value)
                })
                .collect::<Vec<_>>()
        };
    }
    // To the millisecond, as it is in the deliveries' ids and their jobs.
    let due_at = now.truncate_to_millisecond();
    let tokens: BTreeSet<_> = batch.iter().filter_map(|e| e.event.presumed).collect();
    let parameters: [&(dyn ToSql + Sync); 17] = [
        column!(batch, e => e.uid),
        column!(batch, e => e.event.tenant.as_str()),
        column!(batch, e => e.id.as_str()),
        column!(batch, e => e.event.event_type.as_str()),
        column!(batch, e => e.occurred_at()),
        column!(batch, e => e.event.data.as_str()),
        column!(batch, e => e.event.attributes.as_ref()),
        column!(batch, e => e.deliveries.len() as i32),
        column!(batch, e => too_costly(e)),
        of_deliveries!(event, delivery, _webhook => *delivery),
        of_deliveries!(event, _delivery, _webhook => event.uid),
        of_deliveries!(event, _delivery, webhook => *webhook),
        of_deliveries!(event, _delivery, _webhook => event.event.event_type.as_str()),
        &due_at,
        &only_if,
        column!(batch, e => e.event.over_http),
        column!(tokens, hash => hash.as_slice()),
    ];
    let mut rows = client.query(statement, &parameters).await?;
    if refused(&rows, "detached").next().is_some() {
        let of_any_day = statement::of_any_day(now.date());
        rows = client.query(&of_any_day, &parameters).await?;
    }
    // The statement writes events or says why it didn't, so one row tells.
    let revoked = refused(&rows, "token").filter_map(|row| row.get::<_, &[u8]>(2).try_into().ok());
    let revoked: Vec<_> = revoked.collect();
    if !revoked.is_empty() {
        return Ok(Accepted::Revoked(revoked));
    }
    if refused(&rows, "revision").next().is_some() {
        return Ok(Accepted::Outdated);
    }
    Ok(Accepted::New(rows.iter().map(|row| row.get(0)).collect()))
}

/// The rows that say that nothing was written for this reason.
fn refused<'a>(rows: &'a [Row], reason: &str) -> impl Iterator<Item = &'a Row> {
    let is_it = move |row: &&Row| row.get::<_, Option<&str>>(1) == Some(reason);
    rows.iter().filter(is_it)
}

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
/// A producer can make ingest publish such copies. So their number is bounded: [`MAX_COPIES`] at
/// most, the same number for each event. The sweeper finds the deliveries that get no copy. No copy
/// has the event's data in it: the dispatcher reads the data if there is still something to send.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn untried_jobs(
    pool: &Pool,
    now: OffsetDateTime,
    known: &BTreeSet<(&Tenant, &EventId)>,
) -> anyhow::Result<Vec<Job>> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- untried_jobs\n\
             SELECT d.id, d.webhook_id, d.event_uid, d.attempts, d.attempts_before, d.restarted_at, \
                 d.due_at, e.tenant, e.id AS event_id, e.type, e.occurred_at, \
                 '' AS data, NULL::jsonb AS attributes \
             FROM unnest($1::text[], $2::text[]) AS k (tenant, id) \
             JOIN events e ON e.tenant = k.tenant AND e.id = k.id AND e.uid >= $3::uuid \
             CROSS JOIN LATERAL ( \
                 SELECT id, webhook_id, event_uid, attempts, attempts_before, restarted_at, due_at \
                 FROM deliveries \
                 WHERE event_uid = e.uid \
                   AND id BETWEEN millisecond_floor(e.uid) AND millisecond_ceiling(e.uid) \
                   AND state = 'queued' AND attempts = 0 AND restarted_at IS NULL \
                   AND deferred_because IS NULL \
                 LIMIT $4) d",
        )
        .await?;
    let tenants: Vec<_> = known.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let ids: Vec<_> = known.iter().map(|(_, id)| id.as_str()).collect();
    let since = day_of(now - Duration::DAY);
    let each = MAX_COPIES / (known.len() as i64).max(1);
    let rows = client
        .query(&statement, &[&tenants, &ids, &since, &each])
        .await?;
    let read = |row: &Row| Job {
        payload: Payload::Stored,
        late: Some(Late::Behind),
        ..Job::read(row, row.get("due_at"))
    };
    Ok(rows.iter().map(read).collect())
}
