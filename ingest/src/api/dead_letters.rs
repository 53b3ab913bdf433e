//! Dead letters, for the operator: list, replay after a fix, discard.
//!
//! To replay a message is to publish it to its original exchange and routing key,
//! and to delete it here after the broker's confirm. After a crash between the
//! two, the message is still here and may be replayed again: ingest recognises
//! its event by its id, or by the dead letter's id if it has none.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use lapin::types::AMQPValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::amqp::{UNREADABLE_HEADER, Unreadable};
use shared::clock;
use shared::ids::DeadLetterId;
use shared::publish::Outgoing;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{Operating, Reading};
use crate::api::events::confirmed;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, OptionalBody, Page, Parameters};
use crate::api::openapi::words::DeadLetterQueue;
use crate::api::state::{Api, Shared};
use crate::dead_letters::letter::{Letter, Origin, Repair};
use crate::dead_letters::store::{self, LetterFilter};
use crate::decode::header_value;
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::timestamp::Timestamp;

/// The most messages that one request replays or discards.
const AT_MOST: i64 = 1_000;
/// The most dead letters in memory at a time while they are replayed.
const AT_ONCE: i64 = 50;
/// The most reasons that are listed.
const REASONS: i64 = 250;
/// The most bytes of these together, unless one alone has more.
const BYTES_AT_ONCE: i64 = 4 * 1024 * 1024;

/// `/api/v1/admin/dead-letters…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, discard_many))
        .routes(routes!(replay_many))
        .routes(routes!(list_reasons))
        .routes(routes!(discard))
        .routes(routes!(replay))
}

/// `/api/v1/dead-letters`
pub fn of_tenant() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list_of_tenant))
}

/// Which dead letters are meant.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only messages that were refused for exactly this reason.
    pub reason: Option<String>,
    /// Only messages that were meant for this tenant.
    pub tenant: Option<String>,
    /// `parking` or `unrouted`.
    #[param(pattern = "^(parking|unrouted)$")]
    pub queue: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// The dead letters to replay or discard: at least one member is required.
#[derive(Deserialize, ToSchema)]
#[schema(as = DeadLetterSelection)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Only messages that were refused for exactly this reason.
    #[schema(example = "tenant `acme` does not exist")]
    pub reason: Option<String>,
    /// Only messages that were meant for this tenant.
    #[schema(example = "acme")]
    pub tenant: Option<String>,
    /// Only messages that were taken from this queue.
    #[schema(value_type = Option<DeadLetterQueue>)]
    pub queue: Option<String>,
    /// Only these, at most 1,000.
    #[schema(value_type = Option<Vec<DeadLetterId>>, max_items = 1000)]
    pub ids: Option<Vec<String>>,
}

impl Selection {
    fn filter(self) -> std::result::Result<LetterFilter, Invalids> {
        let mut wrong = Gathered::default();
        let origin = wrong.take(match self.queue.as_deref() {
            None => Ok(None),
            Some("parking") => Ok(Some(Origin::Parking)),
            Some("unrouted") => Ok(Some(Origin::Unrouted)),
            Some(_) => Err(Invalid::new("queue", "must be `parking` or `unrouted`")),
        });
        for (field, text) in [("reason", &self.reason), ("tenant", &self.tenant)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                let bound = "must not contain the character U+0000";
                wrong.add(Invalid::new(field, bound));
            }
        }
        let ids = wrong.take(self.ids.as_deref().map(ids).transpose());
        wrong.finish(LetterFilter {
            reason: self.reason,
            tenant: self.tenant,
            origin,
            ids,
        })
    }

    /// The filter of a request that must not select everything by mistake.
    fn narrow(self) -> Result<LetterFilter> {
        let is_wide = self.reason.is_none() && self.tenant.is_none() && self.queue.is_none();
        if is_wide && self.ids.is_none() {
            return Err(Problem::field(
                "reason",
                "one of `reason`, `tenant`, `queue` and `ids` must be there",
            ));
        }
        Ok(self.filter()?)
    }
}

fn ids(texts: &[String]) -> std::result::Result<Vec<DeadLetterId>, Invalid> {
    if texts.is_empty() || texts.len() as i64 > AT_MOST {
        let bound = format!("must have 1 to {AT_MOST} entries");
        return Err(Invalid::new("ids", bound));
    }
    let parsed = texts.iter().map(|text| text.trim().parse());
    parsed
        .collect::<std::result::Result<_, shared::ids::Malformed>>()
        .map_err(|error| Invalid::new("ids", error))
}

/// A dead letter: a message that was refused or unroutable.
#[derive(Serialize, ToSchema)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    /// `parking`: it was refused, or given up on. `unrouted`: no queue was bound for it.
    #[schema(value_type = DeadLetterQueue)]
    pub queue: String,
    /// Why it was refused.
    #[schema(example = "tenant `acme` does not exist")]
    pub reason: String,
    /// When it was taken from its queue.
    pub parked_at: Timestamp,
    /// The exchange that it was published to.
    #[schema(example = "posthorn.events")]
    pub exchange: String,
    #[schema(example = "acme.order.created")]
    pub routing_key: String,
    /// The tenant that it was meant for, which may not exist.
    #[schema(required)]
    pub tenant: Option<String>,
    #[schema(required)]
    pub message_id: Option<String>,
    #[schema(required, example = "application/json")]
    pub content_type: Option<String>,
    /// Its AMQP headers.
    pub headers: Map<String, Value>,
    /// The part that the AMQP client can't read; `null` for most messages.
    #[schema(required)]
    pub unreadable: Option<Raw>,
    /// The size of the body as it was published, in bytes.
    pub size: u32,
    /// Whether only the beginning of the body was kept, because no event may be that large.
    /// Then it can't be replayed.
    pub truncated: bool,
    /// The SHA-256 of the whole body, in hexadecimal, if it was truncated.
    #[schema(required)]
    pub sha256: Option<String>,
    /// The first 1,024 bytes of the body, as text.
    pub body_excerpt: String,
}

impl DeadLetter {
    fn new(shown: store::StoredLetter) -> Self {
        let properties = &shown.properties;
        let headers = properties.headers().clone().unwrap_or_default();
        let unreadable = Unreadable::carried_by(&headers).map(Raw::new);
        let headers = headers
            .inner()
            .iter()
            .filter(|(name, _)| name.as_str() != UNREADABLE_HEADER);
        Self {
            id: shown.id,
            queue: shown.queue,
            reason: shown.reason,
            parked_at: Timestamp(shown.id.made_at()),
            exchange: shown.exchange,
            routing_key: shown.routing_key,
            tenant: shown.tenant,
            message_id: shown.message_id,
            content_type: properties.content_type().as_ref().map(ToString::to_string),
            headers: headers
                .map(|(name, value)| (name.to_string(), header(value)))
                .collect(),
            unreadable,
            // Never negative.
            size: shown.whole.as_ref().map_or(shown.size as u32, |w| w.size),
            truncated: shown.whole.is_some(),
            sha256: shown.whole.map(|whole| hex::encode(whole.sha256)),
            body_excerpt: String::from_utf8_lossy(&shown.excerpt).into_owned(),
        }
    }
}

/// What a message was published with, where that can't be read.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterUnreadable)]
pub struct Raw {
    /// What is wrong with it.
    #[schema(example = "`message_id` is not UTF-8")]
    pub why: String,
    pub routing_key: Bytes,
    /// AMQP's property flags and values as they were sent, the first 4,096 bytes.
    pub properties: Bytes,
    /// All of the properties, in bytes.
    pub properties_size: u64,
}

/// Bytes that needn't be text.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterBytes)]
pub struct Bytes {
    /// ASCII, with the other bytes as `\xff`.
    pub escaped: String,
    pub base64: String,
}

impl Raw {
    fn new(unreadable: Unreadable) -> Self {
        let bytes = |bytes: &[u8]| Bytes {
            escaped: bytes.escape_ascii().to_string(),
            base64: BASE64.encode(bytes),
        };
        Self {
            routing_key: bytes(&unreadable.routing_key),
            properties: bytes(&unreadable.properties),
            properties_size: unreadable.size,
            why: unreadable.why,
        }
    }
}

/// A header for people: AMQP has more types than JSON.
fn header(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::Void => Value::Null,
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(header).collect(),
        AMQPValue::FieldTable(table) => table
            .inner()
            .iter()
            .map(|(name, value)| (name.to_string(), header(value)))
            .collect::<Map<_, _>>()
            .into(),
        other => header_value(other).unwrap_or_else(|| format!("{other:?}").into()),
    }
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
pub struct DeadLetterPage {
    pub dead_letters: Vec<DeadLetter>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<DeadLetterId>,
}

impl DeadLetterPage {
    /// From what was found, which is one more than the limit if there is a next page.
    fn new(mut shown: Vec<store::StoredLetter>, limit: i64) -> Self {
        let more = shown.len() > limit as usize;
        shown.truncate(limit as usize);
        let next_cursor = shown.last().filter(|_| more).map(|last| last.id);
        Self {
            dead_letters: shown.into_iter().map(DeadLetter::new).collect(),
            next_cursor,
        }
    }
}

/// List dead letters
///
/// Newest first.
#[utoipa::path(
    get, path = "/", operation_id = "list_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    params(Which),
    responses((status = 200, description = "A page.", body = DeadLetterPage)),
)]
pub async fn list(
    _: Operating,
    State(api): State<Shared>,
    Parameters(which): Parameters<Which>,
) -> Result<Json<DeadLetterPage>> {
    page(&api, which).await.map(Json)
}

async fn page(api: &Api, which: Which) -> Result<DeadLetterPage> {
    let page = Page {
        limit: which.limit,
        cursor: which.cursor,
    };
    let selection = Selection {
        reason: which.reason,
        tenant: which.tenant,
        queue: which.queue,
        ids: None,
    };
    let mut wrong = Gathered::default();
    let (limit, before) = wrong.take(page.read::<DeadLetterId>());
    let filter = wrong.take(selection.filter());
    let filter = wrong.finish(filter)?;
    let client = api.pool.get().await?;
    let shown = store::list(&client, &filter, before, limit + 1).await?;
    Ok(DeadLetterPage::new(shown, limit))
}

/// One of them.
///
/// # Errors
/// If there is none of that id.
pub async fn show_one(api: &Api, id: DeadLetterId) -> Result<DeadLetter> {
    let filter = LetterFilter {
        ids: Some(vec![id]),
        ..LetterFilter::default()
    };
    let client = api.pool.get().await?;
    let found = store::list(&client, &filter, None, 1).await?;
    let found = found.into_iter().next();
    found.map(DeadLetter::new).ok_or_else(|| unknown(id))
}

/// Of which tenant the reasons are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WhoseReasons {
    /// Only messages that were meant for this tenant.
    pub tenant: Option<String>,
}

/// Why dead letters are there, the most frequent reason first.
#[derive(Serialize, ToSchema)]
pub struct DeadLetterReasons {
    /// At most 250.
    pub reasons: Vec<DeadLetterReason>,
}

/// A reason, and how many dead letters are there for it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "reason": "tenant `acme` does not exist", "tenant": "acme", "queue": "parking", "count": 12,
    "first_at": "2026-11-26T08:01:00.204Z", "last_at": "2026-11-26T10:12:07.001Z", "replayable": true
}))]
pub struct DeadLetterReason {
    pub reason: String,
    /// The tenant that they were meant for, which may not exist.
    #[schema(required)]
    pub tenant: Option<String>,
    /// `parking` or `unrouted`.
    pub queue: String,
    pub count: i64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// Whether the latest of them can be published again. If what was wrong with it still is, it
    /// comes back.
    pub replayable: bool,
}

/// List the reasons of dead letters
///
/// For that is how they are mended.
#[utoipa::path(
    get, path = "/reasons", operation_id = "list_dead_letter_reasons", tag = "dead letters",
    security(("token" = ["operator"])),
    params(WhoseReasons),
    responses((status = 200, description = "The most frequent first.", body = DeadLetterReasons)),
)]
pub async fn list_reasons(
    _: Operating,
    State(api): State<Shared>,
    Parameters(whose): Parameters<WhoseReasons>,
) -> Result<Json<DeadLetterReasons>> {
    let tenant = whose.tenant.filter(|tenant| !tenant.contains('\0'));
    let client = api.pool.get().await?;
    let found = store::reasons(&client, tenant.as_deref(), REASONS).await?;
    let latest: Vec<_> = found.iter().map(|of| of.last).collect();
    let latest = store::heads(&client, &latest).await?;
    let (now, shards) = (clock::now(), api.publisher.shards());
    let reasons = found.into_iter().map(|of| DeadLetterReason {
        replayable: latest
            .iter()
            .any(|letter| letter.id == of.last && letter.again(now, shards).is_ok()),
        reason: of.reason,
        tenant: of.tenant,
        queue: of.queue,
        count: of.count,
        first_at: Timestamp(of.first.made_at()),
        last_at: Timestamp(of.last.made_at()),
    });
    let reasons = reasons.collect();
    Ok(Json(DeadLetterReasons { reasons }))
}

/// List a tenant's rejected events
///
/// The dead letters among the tenant's own events, newest first: published over AMQP,
/// confirmed by RabbitMQ, and refused then, because a confirm says nothing of the message.
/// Only the operator can replay or discard them.
#[utoipa::path(
    get, path = "/", operation_id = "list_rejected_events", tag = "dead letters",
    security(("token" = ["viewer"])),
    params(Page),
    responses((status = 200, description = "A page.", body = DeadLetterPage)),
)]
async fn list_of_tenant(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<DeadLetterPage>> {
    let (limit, before) = page.read::<DeadLetterId>()?;
    let client = api.pool.get().await?;
    let shown = store::list_of_tenant(&client, &acting.tenant, before, limit + 1).await?;
    Ok(Json(DeadLetterPage::new(shown, limit)))
}

/// What a replay came to.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterReplay)]
pub struct Replayed {
    /// Published again and confirmed; they are gone from here.
    pub replayed: i64,
    /// Not published to an exchange of Posthorn's before, truncated, or unreadable.
    /// Replay unreadable ones one by one. Publish or discard the others by hand.
    pub skipped: i64,
    /// There may be more: 1,000 are replayed at most.
    pub more: bool,
}

/// With what an unreadable message is published anew.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = DeadLetterRepair)]
#[serde(deny_unknown_fields)]
pub struct NewProperties {
    /// `<tenant>.<event type>`.
    #[schema(example = "acme.order.created", required)]
    pub routing_key: Option<String>,
    /// The event's id; without one it takes the dead letter's.
    pub message_id: Option<String>,
    /// `application/json` without one.
    pub content_type: Option<String>,
}

impl NewProperties {
    fn is_empty(&self) -> bool {
        self.routing_key.is_none() && self.message_id.is_none() && self.content_type.is_none()
    }

    fn check(self) -> Result<Repair> {
        let key = self
            .routing_key
            .ok_or_else(|| Problem::field("routing_key", "must be there"))?;
        Repair::new(&key, self.message_id, self.content_type)
            .map_err(|(field, detail)| Problem::field(field, detail))
    }
}

/// Replay a dead letter
///
/// Publishes it to where it was published before. If what was wrong with it
/// still is, it comes back, with a new id. One that is unreadable needs a body
/// with a new routing key and properties, and only such a one takes one.
#[utoipa::path(
    post, path = "/{id}/replay", operation_id = "replay_dead_letter", tag = "dead letters",
    security(("token" = ["operator"])),
    params(("id" = DeadLetterId, Path)),
    request_body = Option<NewProperties>,
    responses(
        (status = 200, description = "The message is published.", body = Replayed),
        (status = 409, description = "It was not published to an exchange of Posthorn's, or is \
                                       truncated, or is unreadable and there is no new routing \
                                       key, or is readable and there is one."),
    ),
)]
pub async fn replay(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
    OptionalBody(new): OptionalBody<NewProperties>,
) -> Result<Json<Replayed>> {
    let repair = (!new.is_empty()).then(|| new.check()).transpose()?;
    let client = api.pool.get().await?;
    let letter = store::find(&client, id).await?;
    let letter = letter.ok_or_else(|| unknown(id))?;
    let message = match (letter.unreadable(), repair) {
        (Some(_), _) if letter.is_to_be_a_job() => {
            return Err(Problem::conflict(
                "it was to be a job, and is unreadable: the sweeper makes its delivery another one, so discard it",
            ));
        }
        (Some(_), Some(repair)) => letter.repaired(&repair),
        (Some(unreadable), None) => {
            return Err(Problem::conflict(format!(
                "{unreadable}: say with which `routing_key`, `message_id` and `content_type` it is to be published, or discard it"
            )));
        }
        (None, Some(_)) => {
            return Err(Problem::conflict(
                "it is readable, so it is replayed as it was published, without a body",
            ));
        }
        (None, None) => {
            let now = clock::now();
            let message = letter
                .again(now, api.publisher.shards())
                .map_err(|reason| Problem::conflict(reason.to_string()))?;
            let job: Vec<_> = letter.job().into_iter().collect();
            store::take_tickets(&client, &job, now).await?;
            message
        }
    };
    drop(client);
    publish_part(&api, vec![(id, message)]).await.map(Json)
}

/// Replay dead letters
///
/// Oldest first, at most 1,000.
#[utoipa::path(
    post, path = "/replay", operation_id = "replay_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    request_body = Selection,
    responses((status = 200, description = "The messages are published.", body = Replayed)),
)]
pub async fn replay_many(
    _: Operating,
    State(api): State<Shared>,
    Body(selection): Body<Selection>,
) -> Result<Json<Replayed>> {
    let filter = selection.narrow()?;
    let client = api.pool.get().await?;
    let last = store::newest(&client).await?;
    drop(client);
    let mut all = Replayed {
        replayed: 0,
        skipped: 0,
        more: last.is_some(),
    };
    // What comes back while this goes on is not taken again: it would go round.
    let last = last.unwrap_or_else(DeadLetterId::generate);
    let mut after = None;
    while all.more && all.replayed + all.skipped < AT_MOST {
        let client = api.pool.get().await?;
        let letters = store::next(&client, &filter, after, last, AT_ONCE, BYTES_AT_ONCE).await?;
        drop(client);
        after = letters.last().map(|letter| letter.id).or(after);
        all.more = !letters.is_empty();
        if letters.is_empty() {
            break;
        }
        let part = replay_part(&api, letters).await?;
        all.replayed += part.replayed;
        all.skipped += part.skipped;
    }
    Ok(Json(all))
}

/// Publishes what can be.
async fn replay_part(api: &Api, letters: Vec<Letter>) -> Result<Replayed> {
    let now = clock::now();
    let found = letters.len() as i64;
    // A job that is here twice goes once: both would have the same ticket.
    let mut deliveries = HashSet::new();
    let letters: Vec<_> = letters
        .into_iter()
        .filter(|letter| {
            letter
                .job()
                .is_none_or(|job| deliveries.insert(job.delivery))
        })
        .collect();
    let jobs: Vec<_> = letters.iter().filter_map(Letter::job).collect();
    let client = api.pool.get().await?;
    store::take_tickets(&client, &jobs, now).await?;
    drop(client);
    let messages: Vec<_> = letters
        .into_iter()
        .filter_map(|letter| Some((letter.id, letter.again(now, api.publisher.shards()).ok()?)))
        .collect();
    let skipped = found - messages.len() as i64;
    let published = publish_part(api, messages).await?;
    Ok(Replayed {
        skipped,
        ..published
    })
}

/// Publishes these, and deletes what was confirmed, before it fails for what
/// wasn't.
async fn publish_part(api: &Api, messages: Vec<(DeadLetterId, Outgoing)>) -> Result<Replayed> {
    let publishing = messages
        .into_iter()
        .map(async |(id, message)| (id, confirmed(&api.publisher, message).await));
    let published = join_all(publishing).await;
    let taken: Vec<_> = published
        .iter()
        .filter(|(_, confirmed)| confirmed.is_ok())
        .map(|(id, _)| *id)
        .collect();
    let mut client = api.pool.get().await?;
    store::delete(&mut client, &taken).await?;
    if let Some(reason) = published
        .into_iter()
        .find_map(|(_, confirmed)| confirmed.err())
    {
        return Err(Problem::unavailable(format!(
            "{reason}; what was not confirmed is still here"
        )));
    }
    Ok(Replayed {
        replayed: taken.len() as i64,
        skipped: 0,
        more: false,
    })
}

/// Discard a dead letter
#[utoipa::path(
    delete, path = "/{id}", operation_id = "discard_dead_letter", tag = "dead letters",
    security(("token" = ["operator"])),
    params(("id" = DeadLetterId, Path)),
    responses((status = 204, description = "It is deleted.")),
)]
pub async fn discard(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
) -> Result<StatusCode> {
    let mut client = api.pool.get().await?;
    match store::delete(&mut client, &[id]).await? {
        0 => Err(unknown(id)),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// What discarding came to.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterDiscard)]
pub struct Discarded {
    pub discarded: i64,
    /// There may be more: 1,000 are discarded at most.
    pub more: bool,
}

/// Which dead letters are discarded: at least one must be there.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Discardable {
    /// Only messages that were refused for exactly this reason.
    pub reason: Option<String>,
    /// Only messages that were meant for this tenant.
    pub tenant: Option<String>,
    /// `parking` or `unrouted`.
    #[param(pattern = "^(parking|unrouted)$")]
    pub queue: Option<String>,
    /// Only these, with commas between them; at most 1,000.
    pub ids: Option<String>,
}

/// Discard dead letters
///
/// Oldest first, at most 1,000.
#[utoipa::path(
    delete, path = "/", operation_id = "discard_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    params(Discardable),
    responses((status = 200, description = "They are deleted.", body = Discarded)),
)]
pub async fn discard_many(
    _: Operating,
    State(api): State<Shared>,
    Parameters(which): Parameters<Discardable>,
) -> Result<Json<Discarded>> {
    let filter = Selection {
        reason: which.reason,
        tenant: which.tenant,
        queue: which.queue,
        ids: which
            .ids
            .map(|ids| ids.split(',').map(str::to_owned).collect()),
    }
    .narrow()?;
    let mut client = api.pool.get().await?;
    let discarded = store::discard(&mut client, &filter, AT_MOST).await?;
    Ok(Json(Discarded {
        discarded,
        more: discarded == AT_MOST,
    }))
}

fn unknown(id: DeadLetterId) -> Problem {
    Problem::not_found(format!("there is no dead letter {id}"))
}
