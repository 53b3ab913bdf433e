//! The delivery log: a webhook's deliveries, and one with its attempts.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::ids::{DeliveryId, EventType, Tenant, WebhookId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::Shared;
use super::admin::time_json;
use super::auth::Reading;
use super::problem::{Problem, Result};
use super::request::{Id, Page, Parameters};

/// `/api/v1/deliveries…`
pub fn routes() -> Router<Shared> {
    Router::new().route("/{id}", get(show))
}

/// `/api/v1/webhooks/{id}/deliveries`
pub fn of_webhook() -> Router<Shared> {
    Router::new().route("/{id}/deliveries", get(list))
}

#[derive(Deserialize)]
struct Filter {
    status: Option<String>,
    event_type: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

const STATES: [&str; 6] = [
    "queued",
    "retrying",
    "delivered",
    "failed",
    "expired",
    "cancelled",
];

async fn list(
    acting: Reading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Value>> {
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
    let deliveries: Vec<_> = shown.iter().map(delivery_json).collect();
    Ok(Json(
        json!({ "deliveries": deliveries, "next_cursor": next_cursor }),
    ))
}

async fn show(
    acting: Reading,
    State(api): State<Shared>,
    Id(id): Id<DeliveryId>,
) -> Result<Json<Value>> {
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
    let mut delivery = delivery_json(&row);
    delivery["attempt_log"] = attempts.iter().map(attempt_json).collect();
    Ok(Json(delivery))
}

const COLUMNS: &str = "d.id, d.webhook_id, d.event_type, d.state, d.attempts, d.due_at, d.finished_at, \
                       d.status_code, d.error, e.id AS event_id";

fn delivery_json(row: &Row) -> Value {
    let id: DeliveryId = row.get("id");
    json!({
        "id": id,
        "webhook_id": row.get::<_, WebhookId>("webhook_id"),
        "event_id": row.get::<_, &str>("event_id"),
        "event_type": row.get::<_, &str>("event_type"),
        "status": row.get::<_, &str>("state"),
        "attempts": row.get::<_, i16>("attempts"),
        "created_at": time_json(id.accepted_at()),
        "next_attempt_at": row.get::<_, Option<OffsetDateTime>>("due_at").map(time_json),
        "finished_at": row.get::<_, Option<OffsetDateTime>>("finished_at").map(time_json),
        "response_code": row.get::<_, Option<i16>>("status_code"),
        "error": row.get::<_, Option<&str>>("error"),
    })
}

fn attempt_json(row: &Row) -> Value {
    let body = row.get::<_, Option<&[u8]>>("response_body");
    json!({
        "n": row.get::<_, i16>("n"),
        "started_at": time_json(row.get("started_at")),
        "duration_ms": row.get::<_, i32>("duration_ms"),
        "outcome": row.get::<_, &str>("outcome"),
        "response_code": row.get::<_, Option<i16>>("status_code"),
        "response_headers": row.get::<_, Option<Value>>("response_headers"),
        "response_body": body.map(String::from_utf8_lossy),
        "remote_address": row.get::<_, Option<&str>>("remote_address"),
        "error": row.get::<_, Option<&str>>("error"),
    })
}
