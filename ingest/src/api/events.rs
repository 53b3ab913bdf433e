//! Publishing an event over HTTP: the same door as AMQP, with a handle.
//!
//! It is published to `posthorn.events` and answered with 202 after the
//! broker's confirm; from there on nothing tells it from one published over
//! AMQP, so it is checked here by what `decode` would say.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::ids::{EventId, EventType, EventUid};
use shared::publish::{Outgoing, Unconfirmed, persistent};
use shared::tenant::MAX_PAYLOAD;
use shared::topology;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::auth::Managing;
use super::problem::{Problem, Result};
use super::request::Body;
use crate::decode::{MAX_DEPTH, depth};

/// How long a request waits for the broker's confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// `/api/v1/events`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(publish))
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
    #[schema(value_type = Option<EventId>)]
    id: Option<String>,
    /// When it happened; now unless set.
    #[serde(alias = "occurredAt")]
    #[schema(format = DateTime, extensions(("x-also" = json!(["occurredAt"]))))]
    occurred_at: Option<String>,
    /// Any JSON, at most 262,144 bytes and 128 levels deep. Arrives as it was sent.
    #[schema(value_type = serde_json::Value, example = json!({"total": 25.00, "currency": "EUR"}))]
    data: Box<RawValue>,
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
    acting: Managing,
    State(api): State<Shared>,
    Body(new): Body<NewEvent>,
) -> Result<(StatusCode, Json<PublishedEvent>)> {
    let event_type: EventType = new
        .event_type
        .parse()
        .map_err(|error| Problem::field("type", format!("{error}")))?;
    let id: EventId = match new.id {
        Some(id) => id
            .parse()
            .map_err(|error| Problem::field("id", format!("{error}")))?,
        None => EventUid::generate().into(),
    };
    let data = new.data.get();
    let limit = api
        .subscriptions
        .max_payload(&acting.tenant)
        .unwrap_or(MAX_PAYLOAD);
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
    let mut properties = persistent()
        // At most 255 bytes: an event id's bound.
        .with_message_id(id.as_str().into())
        .with_content_type("application/json".into());
    if let Some(occurred_at) = new.occurred_at {
        OffsetDateTime::parse(&occurred_at, &Rfc3339)
            .map_err(|_| Problem::field("occurred_at", "must be an RFC 3339 time"))?;
        let mut headers = FieldTable::default();
        headers.insert(
            "occurred_at".into(),
            AMQPValue::LongString(occurred_at.into()),
        );
        properties = properties.with_headers(headers);
    }
    let message = Outgoing {
        exchange: topology::EVENTS,
        // At most 63 + 1 + 128 bytes.
        routing_key: format!("{}.{event_type}", acting.tenant).into(),
        properties,
        body: data.as_bytes().to_vec(),
    };
    match tokio::time::timeout(CONFIRM_TIMEOUT, api.publisher.publish(message)).await {
        Ok(Ok(())) => Ok((
            StatusCode::ACCEPTED,
            Json(PublishedEvent {
                id,
                r#type: event_type,
            }),
        )),
        Ok(Err(
            error @ (Unconfirmed::Refused | Unconfirmed::Lost(_) | Unconfirmed::Unavailable),
        )) => Err(Problem::unavailable(format!(
            "{error}; publish it again with the id `{id}`"
        ))),
        Err(_) => Err(Problem::unavailable(format!(
            "RabbitMQ did not confirm in time; publish it again with the id `{id}`"
        ))),
    }
}
