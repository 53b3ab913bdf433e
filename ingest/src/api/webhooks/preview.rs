//! Previews patterns and a filter: which of the tenant's latest events would match?
//!
//! Nothing is stored. The answer comes from the same patterns and filters that match
//! events, asked about at most [`LOOKED_AT`] events, [`BYTES`] of their data, and for
//! [`AT_MOST`]. What wasn't looked at is said: `looked_at` and `since`.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client as Connection;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::clock;
use shared::dialect::Dialects;
use shared::ids::{EventId, EventType, EventUid, Tenant, first_uuid_at, time_of};
use tokio::task::block_in_place;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Reading;
use crate::api::access::rate_limit::Client;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::Body;
use crate::api::state::Shared;
use crate::cpu;
use crate::form::{OneOrMany, check_dialect, one_or_many};
use crate::invalid::{Gathered, Invalids};
use crate::matching::{Data, Explanation, Filter, Index, Pattern, Within};
use crate::subscriptions::within;
use crate::timestamp::Timestamp;
use crate::webhooks::form::{check_events, check_filters};

/// The most events that are looked at.
const LOOKED_AT: i64 = 1_000;
/// The most bytes of data that are read.
const BYTES: i64 = 4 * 1024 * 1024;
/// The longest time for matching them. Waiting for PostgreSQL or a processor doesn't count: then
/// the answer would depend on what others do.
const AT_MOST: Duration = Duration::from_millis(200);
/// How many events' data is read at a time.
const AT_ONCE: usize = 100;
/// How many events are shown.
const SHOWN: usize = 50;
/// How many clauses are told.
const CLAUSES: usize = 20;

/// How many previews of a tenant there may be in a second; twice as many at once.
pub const PREVIEWS_PER_SECOND: u32 = 5;

/// `/api/v1/webhooks/preview`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(preview))
}

/// Patterns and a filter that a webhook might have.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"events": ["order.*"], "filters": {"total": {"$gte": 100}}}))]
#[serde(deny_unknown_fields)]
pub struct NewPreview {
    /// Patterns of event types: `order.created`, `order.*`, `*`. A string stands for a list of one.
    #[serde(deserialize_with = "one_or_many")]
    #[schema(value_type = OneOrMany, required = true, example = json!(["order.*"]))]
    pub events: Option<Vec<String>>,
    /// A filter on events' data; `null`: all events that match `events`.
    #[serde(default)]
    #[schema(
        value_type = Option<Object>, required = false, additional_properties = true,
        example = json!({"total": {"$gte": 100}})
    )]
    pub filters: Option<Value>,
    /// The dialect that the webhook would have; `null`: the tenant's. A filter sees what some
    /// dialects take out of the data, such as `auraconnect` out of `{"object": {…}}`.
    #[serde(default)]
    #[schema(required = false, example = "standard")]
    pub dialect: Option<String>,
}

/// What a preview asks the events with.
pub struct CheckedPreview {
    patterns: Vec<String>,
    filters: Option<Value>,
    /// `None`: the tenant's.
    dialect: Option<String>,
}

impl NewPreview {
    /// Checks the members.
    ///
    /// # Errors
    /// Names each pattern that is none, what is wrong with the filter, and a dialect that doesn't
    /// exist.
    pub fn check(self, dialects: &Dialects) -> std::result::Result<CheckedPreview, Invalids> {
        let mut wrong = Gathered::default();
        let patterns = wrong.take(check_events(self.events));
        let filters = wrong.take(check_filters(Some(self.filters)));
        if let Some(name) = &self.dialect {
            wrong.take(check_dialect(name, dialects));
        }
        wrong.finish(CheckedPreview {
            patterns: patterns.unwrap_or_default(),
            filters: filters.flatten(),
            dialect: self.dialect,
        })
    }
}

/// What a webhook with these patterns and this filter would have got.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "looked_at": 218, "all": true, "since": "2026-11-26T08:14:03.512Z", "listening": 61,
    "matched": 12, "by_clause": [{"at": "/total/$gte", "clause": "total $gte 100", "refused": 49}],
    "events": [{
        "id": "order-5512", "type": "order.created", "accepted_at": "2026-11-26T10:42:11.204Z",
        "result": "matched", "pattern": "order.*",
        "clauses": [{"at": "/total/$gte", "clause": "total $gte 100", "found": "120"}],
    }],
}))]
pub struct Preview {
    /// How many of the tenant's latest events were looked at: at most 1,000.
    pub looked_at: usize,
    /// Whether these are all events of the log.
    pub all: bool,
    /// When the oldest of them was accepted; `null`: there is none.
    #[schema(required)]
    pub since: Option<Timestamp>,
    /// How many of them have a type that the patterns listen to.
    pub listening: usize,
    /// How many of those pass the filter.
    pub matched: usize,
    /// How many each clause of the filter refused, the one that refused most first; at most 20.
    pub by_clause: Vec<ByClause>,
    /// The latest events that the patterns listen to, at most 50, newest first.
    pub events: Vec<PreviewedEvent>,
}

/// A clause of the filter, and how many events it refused.
#[derive(Serialize, ToSchema)]
#[schema(as = PreviewByClause)]
pub struct ByClause {
    /// Where the clause is in the filter, as a JSON Pointer (RFC 6901).
    pub at: String,
    /// What it demands.
    pub clause: String,
    pub refused: usize,
}

/// An event, and why it would match or not.
#[derive(Serialize, ToSchema)]
pub struct PreviewedEvent {
    pub id: EventId,
    pub r#type: EventType,
    pub accepted_at: Timestamp,
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// Preview patterns and a filter
///
/// Asks the tenant's latest events, newest first: at most 1,000 of them, 4 MiB of their
/// data, and 200 ms of matching. Nothing is stored. A tenant may ask five times a second.
#[utoipa::path(
    post, path = "/preview", operation_id = "preview_webhook", tag = "webhooks",
    security(("token" = ["viewer"])),
    request_body = NewPreview,
    responses((status = 200, description = "What would have matched.", body = Preview)),
)]
pub async fn preview(
    acting: Reading,
    State(api): State<Shared>,
    Body(new): Body<NewPreview>,
) -> Result<Json<Preview>> {
    let wanted = new.check(&api.dialects)?;
    let dialect = wanted.dialect.clone();
    let dialect = dialect.or_else(|| api.subscriptions.dialect(&acting.tenant));
    let within = dialect.map(|name| within(&name, &api.dialects));
    let mut tally = Tally::new(&wanted, within.unwrap_or_default())?;
    // What is wrong with the request is said first: that costs little.
    let bucket = Client::Token(Sha256::digest(acting.tenant.as_str()).into());
    if let Err(refused) = api.previews.take(bucket, Instant::now()) {
        let (most, wait) = (PREVIEWS_PER_SECOND, refused.wait);
        return Err(Problem::too_many_of("previews", most, wait));
    }
    let client = api.pool.get().await?;
    let latest = latest_events(&client, &acting.tenant).await?;
    drop(client);
    let all = (latest.len() as i64) < LOOKED_AT;
    let listening = |event: &Latest| tally.listens_to(&event.event_type);
    let to_read: Vec<_> = latest.iter().filter(|event| listening(event)).collect();

    // Which event is the first that isn't looked at any more?
    let mut matching = Duration::ZERO;
    let (mut bytes, mut end) = (0, None);
    'reading: for part in to_read.chunks(AT_ONCE) {
        let mut affordable = Vec::with_capacity(part.len());
        for event in part {
            bytes += event.bytes;
            if bytes > BYTES && event.uid != to_read[0].uid {
                break;
            }
            affordable.push(*event);
        }
        // Others need the connection while this waits for a processor.
        let data = {
            let client = api.pool.get().await?;
            data_of(&client, &affordable).await?
        };
        let _permit = cpu::permit(&acting.tenant).await?;
        for event in part {
            let data = data.iter().find(|(uid, _)| *uid == event.uid);
            let Some((_, data)) = data.filter(|_| matching < AT_MOST) else {
                end = Some(event.uid);
                break 'reading;
            };
            matching += block_in_place(|| {
                let begun = Instant::now();
                tally.count(event, data);
                begun.elapsed()
            });
        }
    }
    let seen = end.map_or(latest.len(), |end| {
        latest.iter().take_while(|event| event.uid != end).count()
    });
    Ok(Json(
        tally.into_preview(&latest[..seen], all && end.is_none()),
    ))
}

/// An event without its data.
struct Latest {
    uid: EventUid,
    id: EventId,
    event_type: EventType,
    bytes: i64,
}

/// As in the search for events: an index by tenant and time.
async fn latest_events(client: &Connection, tenant: &Tenant) -> Result<Vec<Latest>> {
    let statement = client
        .prepare_cached(
            "-- events_to_preview\n\
             SELECT uid, id, type, octet_length(data)::int8 AS bytes FROM events \
             WHERE (tenant, uid) >= ($1, '00000000-0000-0000-0000-000000000000') AND (tenant, uid) <= ($1, $2) \
               AND uid < $2 AND matched >= 0 \
             ORDER BY tenant DESC, uid DESC LIMIT $3",
        )
        .await?;
    // Future days have partitions, too, and planning with them costs more than reading.
    let to_come = first_uuid_at(clock::now() + Duration::from_secs(600));
    let rows = client
        .query(&statement, &[tenant, &to_come, &LOOKED_AT])
        .await?;
    let latest = rows.iter().map(|row| Latest {
        uid: row.get("uid"),
        id: row.get("id"),
        event_type: row.get("type"),
        bytes: row.get("bytes"),
    });
    Ok(latest.collect())
}

async fn data_of(client: &Connection, events: &[&Latest]) -> Result<Vec<(EventUid, String)>> {
    let statement = client
        .prepare_cached("-- data_to_preview\nSELECT uid, data FROM events WHERE uid = ANY($1)")
        .await?;
    let uids: Vec<_> = events.iter().map(|event| event.uid).collect();
    let rows = client.query(&statement, &[&uids]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The patterns and the filter, and how many events matched them so far.
struct Tally {
    patterns: Vec<Pattern>,
    /// Of a single webhook, so that it answers as matching does.
    index: Index<(), ()>,
    matched: usize,
    listening: usize,
    by_clause: Vec<ByClause>,
    shown: Vec<PreviewedEvent>,
}

impl Tally {
    fn new(wanted: &CheckedPreview, within: Within) -> Result<Self> {
        let parsed = wanted.patterns.iter().map(|text| text.parse());
        let patterns: Vec<Pattern> = parsed.collect::<std::result::Result<_, _>>().map_err(
            |error: crate::matching::PatternError| Problem::field("events", error.to_string()),
        )?;
        let filter = wanted
            .filters
            .as_ref()
            .map(Filter::parse)
            .transpose()
            .map_err(|error| Problem::field("filters", error.to_string()))?;
        let mut index = Index::new();
        let filter = filter.map(|filter| filter.on(within));
        index.upsert((), "", patterns.clone(), filter, ());
        Ok(Self {
            patterns,
            index,
            matched: 0,
            listening: 0,
            by_clause: Vec::new(),
            shown: Vec::new(),
        })
    }

    fn listens_to(&self, event_type: &EventType) -> bool {
        let mut patterns = self.patterns.iter();
        patterns.any(|pattern| pattern.listens_to(event_type.as_str()))
    }

    fn count(&mut self, event: &Latest, data: &str) {
        let data = Data::new(data);
        let explained = self.index.explain("", event.event_type.as_str(), &data);
        let Some((_, explanation)) = explained.into_iter().next() else {
            return;
        };
        self.listening += 1;
        match &explanation {
            Explanation::Matched { .. } => self.matched += 1,
            Explanation::Refused { refusal, .. } => {
                let mut known = self.by_clause.iter_mut();
                match known.find(|known| known.at == refusal.at) {
                    Some(known) => known.refused += 1,
                    None => self.by_clause.push(ByClause {
                        at: refusal.at.clone(),
                        clause: refusal.clause.clone(),
                        refused: 1,
                    }),
                }
            }
            Explanation::NotListening | Explanation::Unreadable { .. } => {}
        }
        if self.shown.len() < SHOWN {
            self.shown.push(PreviewedEvent {
                id: event.id.clone(),
                r#type: event.event_type.clone(),
                accepted_at: Timestamp(time_of(event.uid.uuid())),
                explanation,
            });
        }
    }

    fn into_preview(mut self, looked_at: &[Latest], all: bool) -> Preview {
        self.by_clause
            .sort_by_key(|clause| std::cmp::Reverse(clause.refused));
        self.by_clause.truncate(CLAUSES);
        Preview {
            looked_at: looked_at.len(),
            all,
            since: looked_at
                .last()
                .map(|event| Timestamp(time_of(event.uid.uuid()))),
            listening: self.listening,
            matched: self.matched,
            by_clause: self.by_clause,
            events: self.shown,
        }
    }
}
