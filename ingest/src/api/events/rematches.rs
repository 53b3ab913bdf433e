//! Matches accepted events again, one or many, for the operator; see [`crate::rematch`].

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use shared::ids::{DeliveryId, EventId, EventUid, Tenant, WebhookId, first_uuid_at};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::auth::{Operating, OperatingFor};
use crate::api::events::detail::find_event;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id};
use crate::api::state::Shared;
use crate::rematch::{AT_ONCE, Accepted, Range, accepted, rematch};
use crate::restart::publish;
use crate::timestamp::Timestamp;

/// The most events that one request looks at.
const LOOKED_AT: usize = 2_000;
/// The longest that it goes on taking more.
const AT_MOST: Duration = Duration::from_secs(5);

/// `/api/v1/events/{id}/rematch`
pub fn of_event() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(rematch_event))
}

/// `/api/v1/admin/events/rematch`
pub fn of_all() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(rematch_events))
}

/// The deliveries that an event lacked, on their way now.
#[derive(Serialize, ToSchema)]
pub struct RematchedEvent {
    pub deliveries: Vec<MadeDelivery>,
}

/// A delivery that was made.
#[derive(Serialize, ToSchema)]
pub struct MadeDelivery {
    pub id: DeliveryId,
    pub webhook_id: WebhookId,
}

/// Match an event again
///
/// Every webhook that wants the event as the webhook is now, was made before the event was
/// accepted, and has no delivery of it, gets one. Asking twice makes no second delivery.
#[utoipa::path(
    post, path = "/{id}/rematch", operation_id = "rematch_event", tag = "events",
    security(("token" = ["operator"])),
    params(
        ("id" = EventId, Path),
        ("X-Tenant-ID" = Tenant, Header, description = "Whose event it is."),
    ),
    responses(
        (status = 202, description = "What was missing is on its way.", body = RematchedEvent),
        (status = 409, description = "The event's data was expunged."),
        (status = 422, description = "`X-Tenant-ID` is missing or no tenant's id."),
    ),
)]
pub async fn rematch_event(
    acting: OperatingFor,
    State(api): State<Shared>,
    Id(id): Id<EventId>,
) -> Result<(StatusCode, Json<RematchedEvent>)> {
    let row = find_event(&api, &acting.tenant, &id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no event {id}")))?;
    if row.get::<_, Option<Timestamp>>("expunged_at").is_some() {
        let gone =
            format!("the data of event {id} was expunged: there is nothing to match or to send");
        return Err(Problem::conflict(gone));
    }
    let event = Accepted::read(&row);
    api.feed.refresh().await?;
    let made = rematch(&api.pool, &api.subscriptions, &[event], false).await?;
    // What isn't confirmed is the sweeper's.
    publish(&api.publisher, &made.jobs).await;
    let deliveries = made.jobs.iter().map(|job| MadeDelivery {
        id: job.delivery,
        webhook_id: job.webhook,
    });
    let deliveries = deliveries.collect();
    Ok((StatusCode::ACCEPTED, Json(RematchedEvent { deliveries })))
}

/// Which events are to be matched again.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "tenant": "acme", "since": "2026-01-31T10:00:00.000Z", "until": "2026-02-01T10:00:00.000Z", "dry_run": true
}))]
#[serde(deny_unknown_fields)]
pub struct Rematch {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Accepted at this time or later.
    pub since: Timestamp,
    /// Accepted before this time.
    pub until: Timestamp,
    /// Count what is missing, and make nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// `next_cursor` of the answer before.
    pub cursor: Option<EventUid>,
}

/// What was missing.
#[derive(Serialize, ToSchema)]
pub struct Rematched {
    /// How many events were looked at.
    pub looked_at: usize,
    /// How many of them lacked deliveries.
    pub lacking: usize,
    /// How many deliveries were missing. Unless it was a dry run, they are on their way now.
    pub deliveries: usize,
    /// If there may be more: send the request again, with this as its `cursor`.
    #[schema(required)]
    pub next_cursor: Option<EventUid>,
}

/// Match events again
///
/// The events of a time, oldest first, each as `POST /api/v1/events/{id}/rematch` does. A request
/// looks at 2,000 events and goes on for five seconds at most.
#[utoipa::path(
    post, path = "/rematch", operation_id = "rematch_events", tag = "events",
    security(("token" = ["operator"])),
    request_body = Rematch,
    responses((status = 200, description = "What was missing.", body = Rematched)),
)]
pub async fn rematch_events(
    _: Operating,
    State(api): State<Shared>,
    Body(request): Body<Rematch>,
) -> Result<Json<Rematched>> {
    let begun = Instant::now();
    let since = first_uuid_at(request.since.0);
    let mut range = Range {
        tenant: request.tenant,
        from: request
            .cursor
            .map_or(since, |cursor| since.max(after(cursor))),
        to: first_uuid_at(request.until.0),
    };
    let mut sum = Rematched {
        looked_at: 0,
        lacking: 0,
        deliveries: 0,
        next_cursor: None,
    };
    api.feed.refresh().await?;
    loop {
        let events = accepted(&api.pool, &range).await?;
        let made = rematch(&api.pool, &api.subscriptions, &events, request.dry_run).await?;
        let confirmed = publish(&api.publisher, &made.jobs).await;
        sum.looked_at += events.len();
        sum.lacking += made.events;
        sum.deliveries += made.deliveries;
        let last = events.last().map(|event| event.uid);
        let Some(last) = last.filter(|_| events.len() as i64 == AT_ONCE) else {
            return Ok(Json(sum));
        };
        range.from = after(last);
        // While RabbitMQ takes nothing, more would only be the sweeper's.
        if sum.looked_at >= LOOKED_AT || begun.elapsed() > AT_MOST || !confirmed {
            sum.next_cursor = Some(last);
            return Ok(Json(sum));
        }
    }
}

/// The first uid after this one.
fn after(uid: EventUid) -> Uuid {
    Uuid::from_u128(uid.uuid().as_u128().saturating_add(1))
}
