//! Publishing events over HTTP, one or many.
//!
//! A request is checked here by what `decode` would say. The event goes through the
//! [`Door`], where it is checked against the catalogue and made durable, and is
//! answered with 202 then; whoever sent it is told at once what is wrong with it.

pub mod detail;
pub mod expunge;
pub mod log;
pub mod rematches;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::ids::{EventId, EventType, EventUid, Tenant};
use shared::publish::{Outgoing, Publisher};
use shared::tenant::LARGEST_MAX_PAYLOAD;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Publishing;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, read_json};
use crate::api::state::Shared;
use crate::decode::{Event, Rejected, parse_time};
use crate::door::Door;
use crate::http_event::Answer;
use crate::json_text::{MAX_DEPTH, depth};

/// How long a request waits for the broker's confirms.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// The most events of a batch.
const MAX_BATCH: usize = 1_000;
/// The largest body of a batch, in bytes.
const MAX_BATCH_BODY: usize = 8 * 1024 * 1024;

/// `/api/v1/events…`, as far as they publish.
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(publish))
        .routes(routes!(publish_batch))
}

/// Something that happened.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    #[serde(
        rename = "type",
        alias = "event",
        alias = "event_type",
        alias = "eventType"
    )]
    #[schema(value_type = EventType)]
    pub event_type: String,
    /// Makes publishing idempotent: an event whose id is known isn't taken again.
    #[serde(alias = "event_id", alias = "eventId")]
    #[schema(value_type = Option<EventId>, extensions(("x-also" = json!(["event_id", "eventId"]))))]
    pub id: Option<String>,
    /// When it happened; now unless set.
    #[serde(alias = "occurredAt", alias = "timestamp")]
    #[schema(format = DateTime, extensions(("x-also" = json!(["occurredAt", "timestamp"]))))]
    pub occurred_at: Option<String>,
    /// Any JSON, at most 262,144 bytes unless the tenant has another limit, and 100 levels deep.
    /// Arrives as it was sent.
    #[serde(alias = "payload")]
    #[schema(
        value_type = serde_json::Value, example = json!({"total": 25.00, "currency": "EUR"}),
        extensions(("x-also" = json!(["payload"])))
    )]
    pub data: Box<RawValue>,
}

impl NewEvent {
    /// An event that is one, as far as that can be said without its tenant's catalogue.
    fn check(self, tenant: &Tenant) -> Result<Event> {
        let event_type: EventType = self
            .event_type
            .parse()
            .map_err(|error| Problem::field("type", format!("{error}")))?;
        let id: EventId = match self.id {
            Some(id) => id
                .parse()
                .map_err(|error| Problem::field("id", format!("{error}")))?,
            None => EventUid::generate().into(),
        };
        if self.data.get().len() > LARGEST_MAX_PAYLOAD {
            return Err(Problem::too_large(format!(
                "data is {} bytes; at most {LARGEST_MAX_PAYLOAD} are allowed",
                self.data.get().len()
            )));
        }
        if depth(self.data.get()) > MAX_DEPTH {
            return Err(Problem::field(
                "data",
                format!("is nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        let occurred_at = match self.occurred_at {
            None => None,
            Some(text) => Some(
                parse_time("occurred_at", &text)
                    .map_err(|_| Problem::field("occurred_at", "must be an RFC 3339 time"))?,
            ),
        };
        Ok(Event {
            tenant: tenant.clone(),
            event_type,
            id: Some(id),
            occurred_at,
            data: Box::<str>::from(self.data).into_string(),
            attributes: None,
        })
    }
}

/// What an event's catalogue has against it.
fn refused(reason: Rejected) -> Problem {
    match reason {
        Rejected::TooLarge { size, limit, .. } => {
            Problem::too_large(format!("data is {size} bytes; at most {limit} are allowed"))
        }
        Rejected::Unfit(unfit) => Problem::field(unfit.field(), unfit.to_string()),
        other => Problem::field("data", other.to_string()),
    }
}

/// Publishes and waits for the confirm; says why there is none.
pub(super) async fn confirmed(
    publisher: &Publisher,
    message: Outgoing,
) -> std::result::Result<(), String> {
    match tokio::time::timeout(CONFIRM_TIMEOUT, publisher.publish(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("RabbitMQ did not confirm in time".to_owned()),
    }
}

/// An event that was taken.
#[derive(Serialize, ToSchema)]
pub struct PublishedEvent {
    /// The one that was given, or a new one.
    pub id: EventId,
    pub r#type: EventType,
    /// How many webhooks get it, if that is known already: not where the event goes through
    /// RabbitMQ first, or was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub matched: Option<usize>,
}

/// Publish an event
///
/// Answered when it is durable: written with its deliveries, or confirmed by RabbitMQ.
/// From then on it isn't lost.
#[utoipa::path(
    post, path = "/", operation_id = "publish_event", tag = "events",
    security(("token" = ["manager"])),
    request_body = NewEvent,
    responses((status = 202, description = "It is taken.", body = PublishedEvent)),
)]
pub async fn publish(
    acting: Publishing,
    State(api): State<Shared>,
    Body(new): Body<NewEvent>,
) -> Result<(StatusCode, Json<PublishedEvent>)> {
    let event = new.check(&acting.tenant)?;
    match publish_one(&api.door, event).await? {
        (id, event_type, Ok(matched)) => Ok((
            StatusCode::ACCEPTED,
            Json(PublishedEvent {
                id,
                r#type: event_type,
                matched,
            }),
        )),
        (id, _, Err(reason)) => Err(Problem::unavailable(format!(
            "{reason}; publish it again with the id `{id}`"
        ))),
    }
}

/// Its id and type, and to how many webhooks it goes, or why it isn't known to be taken.
async fn publish_one(
    door: &Arc<Door>,
    event: Event,
) -> Result<(
    EventId,
    EventType,
    std::result::Result<Option<usize>, String>,
)> {
    let event_type = event.event_type.clone();
    // Whoever checked it gave it one.
    let id = event.id.clone();
    let id = id.unwrap_or_else(|| EventUid::generate().into());
    match door.publish(event).await {
        Answer::Accepted(matched) => Ok((id, event_type, Ok(matched))),
        Answer::Published => Ok((id, event_type, Ok(None))),
        Answer::Refused(reason) => Err(refused(reason)),
        Answer::Unconfirmed(reason) => Ok((id, event_type, Err(reason))),
    }
}

/// Up to 1,000 events; at most 8,388,608 bytes in all.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewEventBatch)]
#[serde(deny_unknown_fields)]
pub struct NewBatch {
    /// Each is what `POST /api/v1/events` takes. One that isn't is refused by itself.
    // Read one by one, for that.
    #[schema(value_type = Vec<serde_json::Value>, min_items = 1, max_items = 1000)]
    pub events: Vec<Box<RawValue>>,
}

impl<S: Send + Sync> FromRequest<S> for NewBatch {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        read_json(request, MAX_BATCH_BODY).await
    }
}

/// What became of each event of a batch, in its order.
#[derive(Serialize, ToSchema)]
#[schema(as = EventBatchResult)]
pub struct BatchResult {
    /// How many were taken.
    pub accepted: usize,
    /// How many weren't.
    pub refused: usize,
    pub results: Vec<ItemResult>,
}

/// What became of one event.
#[derive(Serialize, ToSchema)]
#[schema(as = EventResult)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum ItemResult {
    /// Durable: it will not be lost.
    Accepted {
        id: EventId,
        r#type: EventType,
        /// How many webhooks get it, if that is known already.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        matched: Option<usize>,
    },
    /// It is no event, or not what the catalogue says.
    Refused {
        /// The member to blame, if one is.
        #[schema(required)]
        field: Option<String>,
        detail: String,
    },
    /// Perhaps taken: publish it again, with this id.
    Unconfirmed { id: EventId, detail: String },
}

/// Publish many events
///
/// Each is taken or refused by itself; the answer comes when those that are taken are
/// durable.
#[utoipa::path(
    post, path = "/batch", operation_id = "publish_events", tag = "events",
    security(("token" = ["manager"])),
    request_body = NewBatch,
    responses((status = 202, description = "What became of each.", body = BatchResult)),
)]
pub async fn publish_batch(
    acting: Publishing,
    State(api): State<Shared>,
    batch: NewBatch,
) -> Result<(StatusCode, Json<BatchResult>)> {
    if batch.events.is_empty() || batch.events.len() > MAX_BATCH {
        let bound = format!("must have 1 to {MAX_BATCH} entries");
        return Err(Problem::field("events", bound));
    }
    let mut checked = Vec::with_capacity(batch.events.len());
    for event in batch.events {
        checked.push(read_item(&event).and_then(|event| event.check(&acting.tenant)));
        // So many take a while, and so do others' requests.
        yield_now().await;
    }
    let checked = checked.into_iter();
    let results = join_all(checked.map(|event| item(&api.door, event))).await;
    let unconfirmed = |result: &&ItemResult| matches!(result, ItemResult::Unconfirmed { .. });
    let accepted = |result: &&ItemResult| matches!(result, ItemResult::Accepted { .. });
    let accepted = results.iter().filter(accepted).count();
    if accepted == 0 && results.iter().any(|result| unconfirmed(&result)) {
        return Err(Problem::unavailable(
            "RabbitMQ confirmed none of the events; publish them again, with ids of your own",
        ));
    }
    let result = BatchResult {
        accepted,
        refused: results.len() - accepted,
        results,
    };
    Ok((StatusCode::ACCEPTED, Json(result)))
}

fn read_item(event: &RawValue) -> Result<NewEvent> {
    // Serde takes a list for a struct, member by member; nobody means that.
    if !event.get().starts_with('{') {
        return Err(Problem::bad_request("an event must be a JSON object"));
    }
    serde_json::from_str(event.get()).map_err(|error| Problem::bad_request(error.to_string()))
}

async fn item(door: &Arc<Door>, event: Result<Event>) -> ItemResult {
    let published = match event {
        Ok(event) => publish_one(door, event).await,
        Err(problem) => Err(problem),
    };
    match published {
        Ok((id, event_type, Ok(matched))) => ItemResult::Accepted {
            id,
            r#type: event_type,
            matched,
        },
        Ok((id, _, Err(detail))) => ItemResult::Unconfirmed { id, detail },
        Err(problem) => {
            let (field, detail) = problem.into_blame();
            ItemResult::Refused { field, detail }
        }
    }
}
