//! Publishing events over HTTP, one or many: the same door as AMQP, with a
//! handle.
//!
//! An event is published to `posthorn.events` and answered with 202 after the
//! broker's confirm; from there on nothing tells it from one published over
//! AMQP, so it is checked here by what `decode` and the catalogue would say, and
//! whoever sent it is told at once.

pub mod detail;
pub mod log;
pub mod rematches;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use futures_util::future::join_all;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::ids::{EventId, EventType, EventUid, Tenant};
use shared::publish::{Outgoing, Publisher, persistent};
use shared::tenant::MAX_PAYLOAD;
use shared::topology;
use std::time::Duration;
use time::format_description::well_known::Rfc3339;
use tokio::task::yield_now;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Publishing;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, read_json};
use crate::api::state::{Api, Shared};
use crate::decode::parse_time;
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
struct NewEvent {
    #[serde(
        rename = "type",
        alias = "event",
        alias = "event_type",
        alias = "eventType"
    )]
    #[schema(value_type = EventType)]
    event_type: String,
    /// Makes publishing idempotent: an event whose id is known isn't taken again.
    #[serde(alias = "event_id", alias = "eventId")]
    #[schema(value_type = Option<EventId>, extensions(("x-also" = json!(["event_id", "eventId"]))))]
    id: Option<String>,
    /// When it happened; now unless set.
    #[serde(alias = "occurredAt", alias = "timestamp")]
    #[schema(format = DateTime, extensions(("x-also" = json!(["occurredAt", "timestamp"]))))]
    occurred_at: Option<String>,
    /// Any JSON, at most 262,144 bytes unless the tenant has another limit, and 100 levels deep.
    /// Arrives as it was sent.
    #[serde(alias = "payload")]
    #[schema(
        value_type = serde_json::Value, example = json!({"total": 25.00, "currency": "EUR"}),
        extensions(("x-also" = json!(["payload"])))
    )]
    data: Box<RawValue>,
}

/// An event that is one.
struct Checked {
    event_type: EventType,
    id: EventId,
    message: Outgoing,
}

impl NewEvent {
    async fn check(self, api: &Api, tenant: &Tenant) -> Result<Checked> {
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
        let data = self.data.get();
        let limit = api.subscriptions.max_payload(tenant).unwrap_or(MAX_PAYLOAD);
        if data.len() > limit {
            return Err(Problem::too_large(format!(
                "data is {} bytes; at most {limit} are allowed",
                data.len()
            )));
        }
        if depth(data) > MAX_DEPTH {
            return Err(Problem::field(
                "data",
                format!("is nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        api.event_types
            .check_in_turn(tenant, &event_type, data)
            .await
            .map_err(|unfit| Problem::field(unfit.field(), unfit.to_string()))?;
        let mut properties = persistent()
            // At most 255 bytes: an event id's bound.
            .with_message_id(id.as_str().into())
            .with_content_type("application/json".into());
        if let Some(occurred_at) = self.occurred_at {
            let at = parse_time("occurred_at", &occurred_at)
                .map_err(|_| Problem::field("occurred_at", "must be an RFC 3339 time"))?;
            // Written anew: what was sent may have any number of digits.
            let text = at.format(&Rfc3339).map_err(anyhow::Error::new)?;
            let mut headers = FieldTable::default();
            headers.insert("occurred_at".into(), AMQPValue::LongString(text.into()));
            properties = properties.with_headers(headers);
        }
        let message = Outgoing {
            exchange: topology::EVENTS,
            // At most 63 + 1 + 128 bytes.
            routing_key: format!("{tenant}.{event_type}").into(),
            properties,
            body: data.as_bytes().to_vec(),
        };
        Ok(Checked {
            event_type,
            id,
            message,
        })
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
struct PublishedEvent {
    /// The one that was given, or a new one.
    id: EventId,
    r#type: EventType,
}

/// Publish an event
///
/// Answered after the broker has confirmed it: from then on it isn't lost.
#[utoipa::path(
    post, path = "/", operation_id = "publish_event", tag = "events",
    security(("token" = ["manager"])),
    request_body = NewEvent,
    responses((status = 202, description = "It is taken.", body = PublishedEvent)),
)]
async fn publish(
    acting: Publishing,
    State(api): State<Shared>,
    Body(new): Body<NewEvent>,
) -> Result<(StatusCode, Json<PublishedEvent>)> {
    let Checked {
        event_type,
        id,
        message,
    } = new.check(&api, &acting.tenant).await?;
    match confirmed(&api.publisher, message).await {
        Ok(()) => Ok((
            StatusCode::ACCEPTED,
            Json(PublishedEvent {
                id,
                r#type: event_type,
            }),
        )),
        Err(reason) => Err(Problem::unavailable(format!(
            "{reason}; publish it again with the id `{id}`"
        ))),
    }
}

/// Up to 1,000 events; at most 8,388,608 bytes in all.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewEventBatch)]
#[serde(deny_unknown_fields)]
struct NewBatch {
    /// Each is what `POST /api/v1/events` takes. One that isn't is refused by itself.
    // Read one by one, for that.
    #[schema(value_type = Vec<serde_json::Value>, min_items = 1, max_items = 1000)]
    events: Vec<Box<RawValue>>,
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
struct BatchResult {
    /// How many were taken.
    accepted: usize,
    /// How many weren't.
    refused: usize,
    results: Vec<ItemResult>,
}

/// What became of one event.
#[derive(Serialize, ToSchema)]
#[schema(as = EventResult)]
#[serde(tag = "status", rename_all = "snake_case")]
enum ItemResult {
    /// Confirmed: it will not be lost.
    Accepted { id: EventId, r#type: EventType },
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
/// Each is taken or refused by itself; the answer comes after the broker's
/// confirms of those that are taken.
#[utoipa::path(
    post, path = "/batch", operation_id = "publish_events", tag = "events",
    security(("token" = ["manager"])),
    request_body = NewBatch,
    responses((status = 202, description = "What became of each.", body = BatchResult)),
)]
async fn publish_batch(
    acting: Publishing,
    State(api): State<Shared>,
    batch: NewBatch,
) -> Result<(StatusCode, Json<BatchResult>)> {
    if batch.events.is_empty() || batch.events.len() > MAX_BATCH {
        let bound = format!("must have 1 to {MAX_BATCH} entries");
        return Err(Problem::field("events", bound));
    }
    // One after another: schemas take their time, and so do others' requests.
    let mut checked = Vec::with_capacity(batch.events.len());
    for event in batch.events {
        checked.push(match read_item(&event) {
            Ok(event) => event.check(&api, &acting.tenant).await,
            Err(problem) => Err(problem),
        });
        yield_now().await;
    }
    let checked = checked.into_iter();
    let results = join_all(checked.map(|event| item(&api.publisher, event))).await;
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

async fn item(publisher: &Publisher, event: Result<Checked>) -> ItemResult {
    let Checked {
        event_type,
        id,
        message,
    } = match event {
        Ok(checked) => checked,
        Err(problem) => {
            let (field, detail) = problem.into_blame();
            return ItemResult::Refused { field, detail };
        }
    };
    match confirmed(publisher, message).await {
        Ok(()) => ItemResult::Accepted {
            id,
            r#type: event_type,
        },
        Err(detail) => ItemResult::Unconfirmed { id, detail },
    }
}
