//! Messages that were refused: list, replay after a fix, discard. For the
//! operator.
//!
//! Replaying publishes a message to where it was published before and deletes it
//! here after the broker's confirm. A crash in between leaves it here; when it
//! is replayed again, its event is known: one without an id takes the letter's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::future::join_all;
use lapin::types::AMQPValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::ids::DeadLetterId;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Operating;
use super::events::confirmed;
use super::problem::{Problem, Result};
use super::request::{Body, Id, Page, Parameters};
use super::timestamp::Timestamp;
use super::{Api, Shared};
use crate::dead_letters::letter::{Letter, Origin};
use crate::dead_letters::store::{self, Filter};
use crate::decode::header_value;

/// The most messages that one request replays or discards.
const AT_MOST: i64 = 1_000;
/// How many are in memory at a time while they are replayed.
const AT_ONCE: i64 = 50;

/// `/api/v1/admin/dead-letters…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, discard_many))
        .routes(routes!(replay_many))
        .routes(routes!(discard))
        .routes(routes!(replay))
}

/// Which dead letters are meant.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Exactly this reason.
    reason: Option<String>,
    /// Of events that were to be this tenant's.
    tenant: Option<String>,
    /// `parking` or `unrouted`.
    #[param(pattern = "^(parking|unrouted)$")]
    queue: Option<String>,
    /// How many to show.
    #[param(minimum = 1, maximum = 250, default = 50)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which dead letters are replayed: at least one member must be there.
#[derive(Deserialize, ToSchema)]
#[schema(as = DeadLetterSelection)]
#[serde(deny_unknown_fields)]
struct Selection {
    /// Exactly this reason.
    #[schema(example = "tenant `acme` does not exist")]
    reason: Option<String>,
    /// Of events that were to be this tenant's.
    #[schema(example = "acme")]
    tenant: Option<String>,
    /// `parking` or `unrouted`.
    #[schema(pattern = "^(parking|unrouted)$")]
    queue: Option<String>,
}

impl Selection {
    fn filter(self) -> Result<Filter> {
        let origin = match self.queue.as_deref() {
            None => None,
            Some("parking") => Some(Origin::Parking),
            Some("unrouted") => Some(Origin::Unrouted),
            Some(_) => return Err(Problem::field("queue", "must be `parking` or `unrouted`")),
        };
        for (field, text) in [("reason", &self.reason), ("tenant", &self.tenant)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                return Err(Problem::field(
                    field,
                    "must not contain the character U+0000",
                ));
            }
        }
        Ok(Filter {
            reason: self.reason,
            tenant: self.tenant,
            origin,
        })
    }

    /// The filter of a request that must not mean everything by mistake.
    fn narrow(self) -> Result<Filter> {
        if self.reason.is_none() && self.tenant.is_none() && self.queue.is_none() {
            return Err(Problem::field(
                "reason",
                "or `tenant` or `queue` must say which are meant",
            ));
        }
        self.filter()
    }
}

/// A message that was refused.
#[derive(Serialize, ToSchema)]
struct DeadLetter {
    id: DeadLetterId,
    /// `parking`: refused, or given up on. `unrouted`: no queue is bound for it.
    #[schema(example = "parking")]
    queue: String,
    /// Why it is here.
    #[schema(example = "tenant `acme` does not exist")]
    reason: String,
    /// When it was taken from its queue.
    parked_at: Timestamp,
    /// Where it was published to.
    #[schema(example = "posthorn.events")]
    exchange: String,
    #[schema(example = "acme.order.created")]
    routing_key: String,
    /// Whose event it was to be; there may be no such tenant.
    #[schema(required)]
    tenant: Option<String>,
    #[schema(required)]
    message_id: Option<String>,
    #[schema(required, example = "application/json")]
    content_type: Option<String>,
    /// Its AMQP headers.
    headers: Map<String, Value>,
    /// In bytes.
    size: i32,
    /// The first 1,024 bytes of it, as text.
    body_excerpt: String,
}

impl DeadLetter {
    fn of(shown: store::Shown) -> Self {
        let properties = &shown.properties;
        let headers = properties.headers().clone().unwrap_or_default();
        let headers = headers.inner().iter();
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
            size: shown.size,
            body_excerpt: String::from_utf8_lossy(&shown.excerpt).into_owned(),
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
struct DeadLetterPage {
    dead_letters: Vec<DeadLetter>,
    /// Of the next page; `null` on the last.
    #[schema(required)]
    next_cursor: Option<DeadLetterId>,
}

/// List dead letters
///
/// Newest first.
#[utoipa::path(
    get, path = "/", operation_id = "list_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    params(Which),
    responses((status = 200, description = "A page of them.", body = DeadLetterPage)),
)]
async fn list(
    _: Operating,
    State(api): State<Shared>,
    Parameters(which): Parameters<Which>,
) -> Result<Json<DeadLetterPage>> {
    let page = Page {
        limit: which.limit,
        cursor: which.cursor,
    };
    let (limit, before) = (page.limit()?, page.after::<DeadLetterId>()?);
    let filter = Selection {
        reason: which.reason,
        tenant: which.tenant,
        queue: which.queue,
    }
    .filter()?;
    let client = api.pool.get().await?;
    let mut shown = store::list(&client, &filter, before, limit + 1).await?;
    let more = shown.len() > limit as usize;
    shown.truncate(limit as usize);
    let next_cursor = shown.last().filter(|_| more).map(|last| last.id);
    Ok(Json(DeadLetterPage {
        dead_letters: shown.into_iter().map(DeadLetter::of).collect(),
        next_cursor,
    }))
}

/// What a replay came to.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterReplay)]
struct Replayed {
    /// Published again and confirmed; they are gone from here.
    replayed: i64,
    /// Not published to an exchange of Posthorn's before: publish or discard them by hand.
    skipped: i64,
    /// There may be more: 1,000 are replayed at most.
    more: bool,
}

/// Replay a dead letter
///
/// Publishes it to where it was published before. If what was wrong with it
/// still is, it comes back, with a new id.
#[utoipa::path(
    post, path = "/{id}/replay", operation_id = "replay_dead_letter", tag = "dead letters",
    security(("token" = ["operator"])),
    params(("id" = DeadLetterId, Path)),
    responses(
        (status = 200, description = "It is published.", body = Replayed),
        (status = 409, description = "It was not published to an exchange of Posthorn's."),
    ),
)]
async fn replay(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
) -> Result<Json<Replayed>> {
    let client = api.pool.get().await?;
    let letter = store::find(&client, id).await?;
    drop(client);
    let letter = letter.ok_or_else(|| unknown(id))?;
    let exchange = letter.exchange.clone();
    let part = replay_part(&api, vec![letter]).await?;
    if part.skipped > 0 {
        return Err(Problem::conflict(format!(
            "it was published to exchange `{exchange}`, which is none of Posthorn's: publish it anew, or discard it"
        )));
    }
    Ok(Json(part))
}

/// Replay dead letters
///
/// Oldest first, at most 1,000.
#[utoipa::path(
    post, path = "/replay", operation_id = "replay_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    request_body = Selection,
    responses((status = 200, description = "They are published.", body = Replayed)),
)]
async fn replay_many(
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
        let letters = store::next(&client, &filter, after, last, AT_ONCE).await?;
        drop(client);
        after = letters.last().map(|letter| letter.id).or(after);
        all.more = letters.len() as i64 == AT_ONCE;
        let part = replay_part(&api, letters).await?;
        all.replayed += part.replayed;
        all.skipped += part.skipped;
    }
    Ok(Json(all))
}

/// Publishes what can be, and deletes what was confirmed, before it fails for
/// what wasn't.
async fn replay_part(api: &Api, letters: Vec<Letter>) -> Result<Replayed> {
    let now = OffsetDateTime::now_utc();
    let found = letters.len() as i64;
    let jobs: Vec<_> = letters.iter().filter_map(Letter::job).collect();
    let client = api.pool.get().await?;
    store::take_tickets(&client, &jobs, now).await?;
    drop(client);
    let publishing = letters.into_iter().filter_map(|letter| {
        let message = letter.again(now, api.shards)?;
        Some(async move { (letter.id, confirmed(&api.publisher, message).await) })
    });
    let published = join_all(publishing).await;
    let skipped = found - published.len() as i64;
    let taken: Vec<_> = published
        .iter()
        .filter(|(_, confirmed)| confirmed.is_ok())
        .map(|(id, _)| *id)
        .collect();
    let client = api.pool.get().await?;
    store::delete(&client, &taken).await?;
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
        skipped,
        more: false,
    })
}

/// Discard a dead letter
#[utoipa::path(
    delete, path = "/{id}", operation_id = "discard_dead_letter", tag = "dead letters",
    security(("token" = ["operator"])),
    params(("id" = DeadLetterId, Path)),
    responses((status = 204, description = "It is gone.")),
)]
async fn discard(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
) -> Result<StatusCode> {
    let client = api.pool.get().await?;
    match store::delete(&client, &[id]).await? {
        0 => Err(unknown(id)),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// What discarding came to.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterDiscard)]
struct Discarded {
    discarded: i64,
    /// There may be more: 1,000 are discarded at most.
    more: bool,
}

/// Which dead letters are discarded: at least one must be there.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Discardable {
    /// Exactly this reason.
    reason: Option<String>,
    /// Of events that were to be this tenant's.
    tenant: Option<String>,
    /// `parking` or `unrouted`.
    #[param(pattern = "^(parking|unrouted)$")]
    queue: Option<String>,
}

/// Discard dead letters
///
/// Oldest first, at most 1,000.
#[utoipa::path(
    delete, path = "/", operation_id = "discard_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    params(Discardable),
    responses((status = 200, description = "They are gone.", body = Discarded)),
)]
async fn discard_many(
    _: Operating,
    State(api): State<Shared>,
    Parameters(which): Parameters<Discardable>,
) -> Result<Json<Discarded>> {
    let filter = Selection {
        reason: which.reason,
        tenant: which.tenant,
        queue: which.queue,
    }
    .narrow()?;
    let client = api.pool.get().await?;
    let discarded = store::discard(&client, &filter, AT_MOST).await?;
    Ok(Json(Discarded {
        discarded,
        more: discarded == AT_MOST,
    }))
}

fn unknown(id: DeadLetterId) -> Problem {
    Problem::not_found(format!("there is no dead letter {id}"))
}
