//! Backfills: gives a webhook the events that it would have matched before it existed.
//!
//! `replay` takes a backfill's steps at a rate. The API's dry run counts the events first. Events
//! are matched with the webhook's present patterns and filter. An event that the webhook already
//! has a delivery of is skipped, so a second backfill sends nothing twice. Operational events are
//! skipped, too, because only operational webhooks get them.

use std::time::{Duration, Instant};

use deadpool_postgres::{GenericClient, Transaction};
use serde_json::Value;
use shared::dialect::Dialects;
use shared::ids::{EventType, EventUid, Tenant, WebhookId};
use shared::job::Job;
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::matching::filter::{Budget, MAX_STEPS};
use crate::matching::{Data, Filter, Pattern};
use crate::rematch::{Accepted, lock_events, make_deliveries, missing_deliveries};
use crate::subscriptions::within;

/// How many events are looked at without their data at a time.
const LOOKED_AT: i64 = 2_000;
/// How many events' data is read at a time.
const AT_ONCE: usize = 32;

/// Which events a webhook would have matched.
pub struct Wanted {
    pub tenant: Tenant,
    pub webhook: WebhookId,
    patterns: Vec<Pattern>,
    filter: Option<Filter>,
}

/// How much of the log is looked at in one go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Deliveries that the webhook lacks.
    pub missing: usize,
    /// Events, without their data.
    pub events: usize,
    /// Bytes of data.
    pub bytes: usize,
    pub time: Duration,
    /// Whether they are only counted: their data is forgotten as soon as it was looked at.
    pub without_data: bool,
}

/// Events of which a webhook lacks a delivery.
pub struct MissedEvents {
    /// Events of which the webhook lacks a delivery.
    pub missing: Vec<Accepted>,
    /// Where to go on; `None`: that was all.
    pub next: Option<Uuid>,
}

impl Wanted {
    /// As the webhook's row has it. `None`: there is no such webhook, or a hand-made row whose
    /// patterns or filter can't be read.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn read(
        client: &impl GenericClient,
        dialects: &Dialects,
        tenant: &Tenant,
        webhook: WebhookId,
    ) -> anyhow::Result<Option<Self>> {
        let statement = client
            .prepare_cached(
                "-- webhook_to_backfill\n\
                 SELECT patterns, filter, coalesce(dialect, \
                     (SELECT t.dialect FROM tenants t WHERE t.id = tenant)) AS dialect \
                 FROM webhooks \
                 WHERE id = $1 AND tenant = $2 AND status <> 'deleted' AND NOT operational",
            )
            .await?;
        let Some(row) = client.query_opt(&statement, &[&webhook, tenant]).await? else {
            return Ok(None);
        };
        let patterns = row.get::<_, Vec<String>>("patterns");
        let patterns = patterns.iter().map(|text| text.parse()).collect();
        let filter = row.get::<_, Option<Value>>("filter");
        let filter = filter.as_ref().map(Filter::parse).transpose();
        let within = within(row.get("dialect"), dialects);
        Ok(match (patterns, filter) {
            (Ok(patterns), Ok(filter)) => Some(Self {
                tenant: tenant.clone(),
                webhook,
                patterns,
                filter: filter.map(|filter| filter.on(within)),
            }),
            _ => None,
        })
    }

    fn listens_to(&self, event_type: &EventType) -> bool {
        let mut patterns = self.patterns.iter();
        patterns.any(|pattern| pattern.listens_to(event_type.as_str()))
    }

    fn wants(&self, event: &Accepted) -> bool {
        if event.is_operational() {
            return false;
        }
        let Some(filter) = &self.filter else {
            return true;
        };
        let data = Data::new(&event.data);
        let passes = |data| filter.matches(data, &mut Budget::new(MAX_STEPS));
        // What can't be read or is too costly passes no filter.
        data.value().is_ok_and(|data| passes(data) == Ok(true))
    }

    /// The first events from `from` up to, but without, `to` that the webhook lacks.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn missing(
        &self,
        client: &impl GenericClient,
        from: Uuid,
        to: Uuid,
        bounds: Bounds,
    ) -> anyhow::Result<MissedEvents> {
        let begun = Instant::now();
        let mut found = MissedEvents {
            missing: Vec::new(),
            next: Some(from),
        };
        let (mut looked_at, mut bytes) = (0, 0);
        while let Some(from) = found.next {
            let page = self.page(client, from, to).await?;
            let is_last = (page.len() as i64) < LOOKED_AT;
            let listening = page.iter().filter(|event| self.listens_to(&event.1));
            let listening: Vec<_> = listening.map(|event| event.0).collect();
            for uids in listening.chunks(AT_ONCE) {
                let events = read(client, uids).await?;
                bytes += events.iter().map(|event| event.data.len()).sum::<usize>();
                let wanted: Vec<_> = block_in_place(|| {
                    let wanted = events.into_iter().filter(|event| self.wants(event));
                    wanted.collect()
                });
                for mut event in self.lacking(client, wanted).await? {
                    found.next = Some(after(event.uid));
                    if bounds.without_data {
                        event.data = String::new();
                    }
                    found.missing.push(event);
                    if found.missing.len() >= bounds.missing {
                        return Ok(found);
                    }
                }
                found.next = uids.last().copied().map(after);
                if bytes >= bounds.bytes || begun.elapsed() >= bounds.time {
                    return Ok(found);
                }
            }
            looked_at += page.len();
            found.next = page.last().filter(|_| !is_last).map(|event| after(event.0));
            if looked_at >= bounds.events {
                break;
            }
        }
        Ok(found)
    }

    /// As in the API's search for events: an index by tenant and time.
    async fn page(
        &self,
        client: &impl GenericClient,
        from: Uuid,
        to: Uuid,
    ) -> anyhow::Result<Vec<(EventUid, EventType)>> {
        let statement = client
            .prepare_cached(
                "-- events_to_backfill\n\
                 SELECT uid, type FROM events \
                 WHERE (tenant, uid) >= ($1, $2) AND (tenant, uid) <= ($1, $3) \
                   AND uid >= $2 AND uid < $3 AND matched >= 0 \
                 ORDER BY tenant, uid LIMIT $4",
            )
            .await?;
        let rows = client
            .query(&statement, &[&self.tenant, &from, &to, &LOOKED_AT])
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Those of the events of which the webhook has no delivery.
    async fn lacking(
        &self,
        client: &impl GenericClient,
        wanted: Vec<Accepted>,
    ) -> anyhow::Result<Vec<Accepted>> {
        let pairs: Vec<_> = wanted.iter().map(|event| (event, self.webhook)).collect();
        let missing = missing_deliveries(client, &pairs).await?;
        let missing: Vec<_> = missing.iter().map(|(event, _)| event.uid).collect();
        let lacking = wanted.into_iter();
        Ok(lacking
            .filter(|event| missing.contains(&event.uid))
            .collect())
    }

    /// Makes the deliveries of these events, unless another request has made them meanwhile.
    /// Answers their jobs, to be published after the commit.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn make(
        &self,
        transaction: &Transaction<'_>,
        events: &[Accepted],
    ) -> anyhow::Result<Vec<Job>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let locked = lock_events(transaction, events.iter()).await?;
        let events = events.iter().filter(|event| locked.contains(&event.uid));
        let pairs: Vec<_> = events.map(|event| (event, self.webhook)).collect();
        let missing = missing_deliveries(transaction, &pairs).await?;
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        make_deliveries(transaction, &missing).await
    }
}

async fn read(client: &impl GenericClient, uids: &[EventUid]) -> anyhow::Result<Vec<Accepted>> {
    let columns = Accepted::COLUMNS;
    let statement = client
        .prepare_cached(&format!(
            "-- data_to_backfill\nSELECT {columns} FROM events \
             WHERE uid = ANY($1) AND expunged_at IS NULL ORDER BY uid"
        ))
        .await?;
    let rows = client.query(&statement, &[&uids]).await?;
    Ok(rows.iter().map(Accepted::read).collect())
}

/// The first uid after this one.
fn after(uid: EventUid) -> Uuid {
    Uuid::from_u128(uid.uuid().as_u128().saturating_add(1))
}
