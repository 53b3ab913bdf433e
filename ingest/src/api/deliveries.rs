//! The delivery log: a webhook's deliveries, and one with its attempts.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::ids::{DeliveryId, EventId, EventType, Tenant, WebhookId};
use tokio_postgres::Row;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::auth::Reading;
use super::problem::{Problem, Result};
use super::request::{Id, Page, Parameters};
use super::timestamp::Timestamp;

/// `/api/v1/deliveries…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show))
}

/// `/api/v1/webhooks/{id}/deliveries`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which deliveries to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// `queued`, `retrying`, `delivered`, `failed`, `expired` or `cancelled`.
    #[param(pattern = "^(queued|retrying|delivered|failed|expired|cancelled)$")]
    status: Option<String>,
    #[param(value_type = Option<EventType>)]
    event_type: Option<String>,
    /// How many to show.
    #[param(minimum = 1, maximum = 250, default = 50)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// One event on its way to one webhook.
#[derive(Serialize, ToSchema)]
struct Delivery {
    id: DeliveryId,
    webhook_id: WebhookId,
    event_id: EventId,
    event_type: EventType,
    /// `queued`, `retrying`, `delivered`, `failed`, `expired` or `cancelled`.
    #[schema(example = "delivered")]
    status: String,
    /// How many were made.
    attempts: i16,
    created_at: Timestamp,
    #[schema(required)]
    next_attempt_at: Option<Timestamp>,
    #[schema(required)]
    finished_at: Option<Timestamp>,
    /// Of the last attempt.
    #[schema(required, example = 200)]
    response_code: Option<i16>,
    /// Why the last attempt has no answer.
    #[schema(required)]
    error: Option<String>,
}

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
struct DeliveryPage {
    deliveries: Vec<Delivery>,
    /// Of the next page; `null` on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A delivery with its attempts.
#[derive(Serialize, ToSchema)]
struct DeliveryDetail {
    #[serde(flatten)]
    delivery: Delivery,
    attempt_log: Vec<Attempt>,
}

/// One request to an endpoint, and what came back.
#[derive(Serialize, ToSchema)]
struct Attempt {
    /// From 1.
    n: i16,
    started_at: Timestamp,
    duration_ms: i32,
    outcome: String,
    #[schema(required, example = 200)]
    response_code: Option<i16>,
    #[schema(required, value_type = Option<Object>)]
    response_headers: Option<Value>,
    /// The first 16 KiB of it, as text.
    #[schema(required)]
    response_body: Option<String>,
    #[schema(required)]
    remote_address: Option<String>,
    /// Why there is no answer.
    #[schema(required)]
    error: Option<String>,
}

const STATES: [&str; 6] = [
    "queued",
    "retrying",
    "delivered",
    "failed",
    "expired",
    "cancelled",
];

/// List a webhook's deliveries
///
/// Newest first.
#[utoipa::path(
    get, path = "/{id}/deliveries", operation_id = "list_deliveries", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), Filter),
    responses((status = 200, description = "A page of them.", body = DeliveryPage)),
)]
async fn list(
    acting: Reading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<DeliveryPage>> {
    if let Some(status) = filter
        .status
        .as_deref()
        .filter(|status| !STATES.contains(status))
    {
        return Err(Problem::field(
            "status",
            format!("`{status}` is not one of {}", STATES.join(", ")),
        ));
    }
    let event_type: Option<EventType> = filter
        .event_type
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| Problem::field("event_type", format!("{error}")))?;
    let page = Page {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let (limit, after) = (page.limit()?, page.after::<DeliveryId>()?);

    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached("-- webhook_exists\nSELECT 1 FROM webhooks WHERE id = $1 AND tenant = $2")
        .await?;
    if client
        .query_opt(&statement, &[&webhook, &acting.tenant])
        .await?
        .is_none()
    {
        return Err(Problem::not_found(format!("there is no webhook {webhook}")));
    }
    let statement = client
        .prepare_cached(&format!(
            "-- list_deliveries\n\
             SELECT {COLUMNS} FROM deliveries d JOIN events e ON e.uid = d.event_uid \
             WHERE d.webhook_id = $1 AND ($2::text IS NULL OR d.state = $2) \
               AND ($3::text IS NULL OR d.event_type = $3) AND ($4::uuid IS NULL OR d.id < $4) \
             ORDER BY d.id DESC LIMIT $5"
        ))
        .await?;
    let rows = client
        .query(
            &statement,
            &[&webhook, &filter.status, &event_type, &after, &(limit + 1)],
        )
        .await?;
    let (shown, next_cursor) = page.cut::<DeliveryId>(&rows)?;
    Ok(Json(DeliveryPage {
        deliveries: shown.iter().map(Delivery::of).collect(),
        next_cursor,
    }))
}

/// Show a delivery
///
/// With every attempt.
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_delivery", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = DeliveryId, Path)),
    responses((status = 200, description = "The delivery.", body = DeliveryDetail)),
)]
async fn show(
    acting: Reading,
    State(api): State<Shared>,
    Id(id): Id<DeliveryId>,
) -> Result<Json<DeliveryDetail>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- show_delivery\n\
             SELECT {COLUMNS} FROM deliveries d JOIN events e ON e.uid = d.event_uid \
             WHERE d.id = $1 AND e.tenant = $2"
        ))
        .await?;
    let tenant: &Tenant = &acting.tenant;
    let row = client
        .query_opt(&statement, &[&id, tenant])
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no delivery {id}")))?;
    let statement = client
        .prepare_cached(
            "-- delivery_attempts\n\
             SELECT n, started_at, duration_ms, outcome, status_code, error, remote_address, \
                    response_headers, response_body \
             FROM attempts WHERE delivery_id = $1 ORDER BY n",
        )
        .await?;
    let attempts = client.query(&statement, &[&id]).await?;
    Ok(Json(DeliveryDetail {
        delivery: Delivery::of(&row),
        attempt_log: attempts.iter().map(Attempt::of).collect(),
    }))
}

const COLUMNS: &str = "d.id, d.webhook_id, d.event_type, d.state, d.attempts, d.due_at, d.finished_at, \
                       d.status_code, d.error, e.id AS event_id";

impl Delivery {
    fn of(row: &Row) -> Self {
        let id: DeliveryId = row.get("id");
        Self {
            id,
            webhook_id: row.get("webhook_id"),
            event_id: row.get("event_id"),
            event_type: row.get("event_type"),
            status: row.get("state"),
            attempts: row.get("attempts"),
            created_at: Timestamp(id.accepted_at()),
            next_attempt_at: row.get("due_at"),
            finished_at: row.get("finished_at"),
            response_code: row.get("status_code"),
            error: row.get("error"),
        }
    }
}

impl Attempt {
    fn of(row: &Row) -> Self {
        let body = row.get::<_, Option<&[u8]>>("response_body");
        Self {
            n: row.get("n"),
            started_at: row.get("started_at"),
            duration_ms: row.get("duration_ms"),
            outcome: row.get("outcome"),
            response_code: row.get("status_code"),
            response_headers: row.get("response_headers"),
            response_body: body.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            remote_address: row.get("remote_address"),
            error: row.get("error"),
        }
    }
}
