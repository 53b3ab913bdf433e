//! Publishing events over HTTP, one or many.
//!
//! A request is checked here by what `decode` would say. The event goes through the
//! [`Door`], where it is checked against the catalogue and made durable, and is
//! answered with 202 then; whoever sent it is told at once what is wrong with it.

pub mod by_id;
pub mod detail;
pub mod dry_run;
pub mod expunge;
pub mod incoming;
pub mod log;
pub mod new_event;
pub mod rematches;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::ids::{EventId, EventType, EventUid, Tenant};
use shared::publish::{Outgoing, Publisher};
use shared::trace::{TRACEPARENT, TraceContext};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{Presumed, Publishing, permit};
use crate::api::events::dry_run::{EventDryRun, dry_run};
use crate::api::events::incoming::Incoming;
pub use crate::api::events::new_event::NewEvent;
use crate::api::events::new_event::{MAX_BATCH, MAX_BATCH_BODY, read_batch, refused};
use crate::api::http::code::Code;
use crate::api::http::json::{self, ReadAgain};
use crate::api::http::problem::{Blame, Problem, Result};
use crate::api::http::request::{Parameters, read_json};
use crate::api::state::{Api, Shared};
use crate::decode::Event;
use crate::door::Door;
use crate::http_event::Answer;

/// How long a request waits for the broker's confirms.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// `/api/v1/events…`, as far as they publish.
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(publish))
        .routes(routes!(publish_batch))
}

/// The trace that a request belongs to.
fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get(TRACEPARENT)?.as_bytes())
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
/// From then on it isn't lost. With `dry_run=true` nothing is published: the answer says whether
/// the event would be taken, and which webhooks would get it.
///
/// CloudEvents 1.0 are taken in all modes. Structured: `Content-Type: application/cloudevents+json`.
/// Batch: `Content-Type: application/cloudevents-batch+json` and a list, answered as by `/batch` with an
/// `EventBatchResult`. Binary: the attributes are the headers `ce-specversion`, `ce-id`, `ce-source`,
/// `ce-type` and others that begin with `ce-`, and the body is the data alone, of any JSON content type.
/// Here they are text alone: most code generators take the first content type of a request for the only
/// one.
#[utoipa::path(
    post, path = "/", operation_id = "publish_event", tag = "events",
    security(("token" = ["manager"])),
    params(
        dry_run::Publishing,
        ("Idempotency-Key" = Option<String>, Header,
            description = "The id of an event that has none."),
        ("traceparent" = Option<String>, Header,
            description = "The trace that the events belong to (W3C Trace Context). One that isn't valid is ignored."),
    ),
    request_body = NewEvent,
    responses(
        (status = 200, description = "A dry run: nothing was published.", body = EventDryRun),
        (status = 202, description = "It is taken.", body = PublishedEvent),
        (status = 409, description = "Another event was accepted with this id. The detail has both hashes."),
    ),
)]
pub async fn publish(
    mut caller: Presumed,
    State(api): State<Shared>,
    how: Result<Parameters<dry_run::Publishing>>,
    headers: HeaderMap,
    incoming: Result<Incoming>,
) -> Result<Response> {
    let published = publish_as(&mut caller, &api, how, trace(&headers), incoming).await;
    // The token of what was published was looked up. Others' wasn't, or that failed.
    if published.is_err() && caller.is_revoked(&api).await {
        return Err(Problem::unauthorized());
    }
    published
}

async fn publish_as(
    caller: &mut Presumed,
    api: &Api,
    how: Result<Parameters<dry_run::Publishing>>,
    trace: Option<TraceContext>,
    incoming: Result<Incoming>,
) -> Result<Response> {
    let (Parameters(how), incoming) = (how?, incoming?);
    let is_dry = how.dry_run == Some(true);
    let new = match incoming {
        Incoming::One(new) => new,
        Incoming::Batch(_) if is_dry => {
            return Err(Problem::field(
                "dry_run",
                "takes one event: a batch can't be asked about",
            ));
        }
        Incoming::Batch(events) => {
            caller.confirm(api).await?;
            let result = publish_all(api, &caller.tenant, trace, events).await?;
            return Ok((StatusCode::ACCEPTED, Json(result)).into_response());
        }
    };
    let mut event = new.check(&caller.tenant)?;
    if is_dry {
        caller.confirm(api).await?;
        let _permit = permit(&caller.tenant, api).await?;
        let answer = dry_run(api, &caller.tenant, &event).await?;
        return Ok(Json(answer).into_response());
    }
    event.trace = trace;
    event.presumed = caller.token;
    match publish_one(&api.door, event).await? {
        (id, event_type, Ok(matched)) => {
            let published = PublishedEvent {
                id,
                r#type: event_type,
                matched,
            };
            Ok((StatusCode::ACCEPTED, Json(published)).into_response())
        }
        (id, _, Err(reason)) => Err(Problem::unavailable(format!(
            "{reason}; publish it again with the id `{id}`"
        ))),
    }
}

/// Publishes an event, and answers its id when it is durable.
///
/// # Errors
/// If it isn't taken, or nobody knows whether it is.
pub async fn publish_now(api: &Api, tenant: &Tenant, new: NewEvent) -> Result<EventId> {
    let event = new.check(tenant)?;
    match publish_one(&api.door, event).await? {
        (id, _, Ok(_)) => Ok(id),
        (id, _, Err(reason)) => Err(Problem::unavailable(format!(
            "{reason}; publish it again with the id `{id}`"
        ))),
    }
}

/// What publishing an event would do.
///
/// # Errors
/// If it isn't one.
pub async fn would_happen(api: &Api, tenant: &Tenant, new: NewEvent) -> Result<EventDryRun> {
    let event = new.check(tenant)?;
    dry_run(api, tenant, &event).await
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
    #[serde(deserialize_with = "read_batch")]
    #[schema(value_type = Vec<NewEvent>, min_items = 1, max_items = 1000)]
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
        code: Code,
        /// The member to blame, if one is.
        #[schema(required)]
        field: Option<String>,
        /// What is wrong, and what would be right.
        detail: String,
        /// Everything that is wrong with members.
        errors: Vec<Blame>,
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
    params(
        ("traceparent" = Option<String>, Header,
            description = "The trace that the events belong to (W3C Trace Context). One that isn't valid is ignored."),
    ),
    request_body = NewBatch,
    responses((status = 202, description = "What became of each.", body = BatchResult)),
)]
pub async fn publish_batch(
    acting: Publishing,
    State(api): State<Shared>,
    headers: HeaderMap,
    batch: NewBatch,
) -> Result<(StatusCode, Json<BatchResult>)> {
    let mut again = ReadAgain::default();
    let mut events = Vec::with_capacity(batch.events.len());
    for event in batch.events {
        events.push(read_item(&event, &mut again));
        // So many take a while, and so do others' requests.
        yield_now().await;
    }
    let trace = trace(&headers);
    let result = publish_all(&api, &acting.tenant, trace, events).await?;
    Ok((StatusCode::ACCEPTED, Json(result)))
}

async fn publish_all(
    api: &Api,
    tenant: &Tenant,
    trace: Option<TraceContext>,
    events: Vec<Result<NewEvent>>,
) -> Result<BatchResult> {
    if events.is_empty() || events.len() > MAX_BATCH {
        let bound = format!("must have 1 to {MAX_BATCH} entries");
        return Err(Problem::field("events", bound));
    }
    let mut checked = Vec::with_capacity(events.len());
    for event in events {
        let checked_event = event.and_then(|event| event.check(tenant));
        checked.push(checked_event.map(|event| Event { trace, ..event }));
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
    Ok(BatchResult {
        accepted,
        refused: results.len() - accepted,
        results,
    })
}

fn read_item(event: &RawValue, again: &mut ReadAgain) -> Result<NewEvent> {
    if !event.get().starts_with('{') {
        return Err(Problem::bad_request("an event must be a JSON object"));
    }
    json::read_one_of_many(event.get().as_bytes(), again)
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
            let (code, detail, errors) = problem.into_blame();
            let field = errors.first().map(|first| first.field.clone());
            ItemResult::Refused {
                code,
                field,
                detail,
                errors,
            }
        }
    }
}
