//! Webhooks: make, list, show, change, delete.
//!
//! The secret is generated unless given, shown once, masked ever after. What is
//! changed is in force when the answer is sent: ingest looks at the catalogue's
//! revision before every batch, dispatchers within a second.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use shared::ids::{Tenant, WebhookId};
use shared::secret::Secret;
use shared::webhook::{Status, Webhook, seal_context};
use tokio_postgres::Row;

use super::admin::time_json;
use super::auth::{Managing, Reading};
use super::problem::{Problem, Result};
use super::request::{Body, Id, Page, Parameters};
use super::webhook_form::{Checked, Form};
use super::{Api, Shared};

/// `/api/v1/webhooks…`, also `/api/webhooks…`
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(list).post(create))
        .route("/{id}", get(show).put(update).patch(update).delete(delete))
}

/// Webhooks with what is shown of them besides.
const COLUMNS: &str = "w.id, w.tenant, w.url, w.patterns, w.filter, w.dialect, w.secret, \
    w.previous_secret, w.previous_secret_until, w.signing_key, w.previous_signing_key, w.headers, \
    w.timeout_ms, w.retry, w.rate_limit, w.rate_period_s, w.debug_mode, w.status, \
    w.description, w.metadata, w.disabled_reason, w.created_at, w.updated_at, \
    (SELECT id FROM deliveries WHERE webhook_id = w.id ORDER BY id DESC LIMIT 1) AS last_delivery";

async fn create(
    acting: Managing,
    State(api): State<Shared>,
    Body(form): Body<Form>,
) -> Result<(StatusCode, Json<Value>)> {
    let checked = form.check(&api.destinations, &api.dialects)?;
    let url = checked
        .url
        .ok_or_else(|| Problem::field("url", "is missing"))?;
    let events = checked
        .events
        .ok_or_else(|| Problem::field("events", "is missing"))?;
    let secret = checked.secret.unwrap_or_else(Secret::generate);
    let id = WebhookId::generate();
    let status = if checked.active.unwrap_or(true) {
        Status::Active
    } else {
        Status::Inactive
    };

    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    check_room(&transaction, &acting.tenant).await?;
    transaction
        .execute(
            "-- create_webhook\n\
             INSERT INTO webhooks (id, tenant, url, description, patterns, filter, dialect, secret, \
                 headers, timeout_ms, retry, metadata, status, revision) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0)",
            &[
                &id,
                &acting.tenant,
                &url,
                &checked.description.unwrap_or_default(),
                &events,
                &checked.filters.flatten(),
                &checked.dialect.flatten(),
                &api.keys.seal(&seal_context(id, "secret"), secret.expose().as_bytes()),
                &checked.headers.map(|headers| seal_headers(&api, id, &headers)),
                &checked.timeout.flatten(),
                &checked.retry.flatten().map(|retry| json!(retry)),
                &Value::Object(checked.metadata.unwrap_or_default()),
                &status.as_str(),
            ],
        )
        .await?;
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;

    let mut webhook = find(&api, &acting.tenant, id).await?;
    // The one time that it is shown.
    webhook["secret"] = secret.expose().into();
    Ok((StatusCode::CREATED, Json(webhook)))
}

/// Refuses if the tenant has as many webhooks as it may. Holds the tenant's row,
/// so that two requests at a time don't both find the last place free.
async fn check_room(
    transaction: &deadpool_postgres::Transaction<'_>,
    tenant: &Tenant,
) -> Result<()> {
    let limit: i32 = transaction
        .query_one(
            "-- lock_tenant\nSELECT max_webhooks FROM tenants WHERE id = $1 FOR NO KEY UPDATE",
            &[tenant],
        )
        .await?
        .get(0);
    let has: i64 = transaction
        .query_one(
            "-- count_webhooks\nSELECT count(*) FROM webhooks WHERE tenant = $1 AND status <> 'deleted'",
            &[tenant],
        )
        .await?
        .get(0);
    if has >= i64::from(limit) {
        return Err(Problem::conflict(format!(
            "this tenant has {has} webhooks; at most {limit} are allowed"
        )));
    }
    Ok(())
}

fn seal_headers(api: &Api, id: WebhookId, headers: &[(String, String)]) -> Vec<u8> {
    api.keys.seal(
        &seal_context(id, "headers"),
        json!(headers).to_string().as_bytes(),
    )
}

async fn list(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<Value>> {
    let (limit, after) = (page.limit()?, page.after::<WebhookId>()?);
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- list_webhooks\n\
             SELECT {COLUMNS} FROM webhooks w \
             WHERE w.tenant = $1 AND w.status <> 'deleted' AND ($2::uuid IS NULL OR w.id < $2) \
             ORDER BY w.id DESC LIMIT $3"
        ))
        .await?;
    let rows = client
        .query(&statement, &[&acting.tenant, &after, &(limit + 1)])
        .await?;
    let (shown, next_cursor) = page.cut::<WebhookId>(&rows)?;
    let webhooks = shown
        .iter()
        .map(|row| webhook_json(&api, row))
        .collect::<Result<Vec<_>>>()?;
    Ok(Json(
        json!({ "webhooks": webhooks, "next_cursor": next_cursor }),
    ))
}

async fn show(
    acting: Reading,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
) -> Result<Json<Value>> {
    find(&api, &acting.tenant, id).await.map(Json)
}

async fn find(api: &Api, tenant: &Tenant, id: WebhookId) -> Result<Value> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- show_webhook\n\
             SELECT {COLUMNS} FROM webhooks w \
             WHERE w.id = $1 AND w.tenant = $2 AND w.status <> 'deleted'"
        ))
        .await?;
    let row = client
        .query_opt(&statement, &[&id, tenant])
        .await?
        .ok_or_else(|| unknown(id))?;
    webhook_json(api, &row)
}

fn unknown(id: WebhookId) -> Problem {
    Problem::not_found(format!("there is no webhook {id}"))
}

/// PUT and PATCH alike: what isn't sent stays. That is how the systems whose
/// users we serve document PUT.
async fn update(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
    Body(form): Body<Form>,
) -> Result<Json<Value>> {
    let checked = form.check(&api.destinations, &api.dialects)?;
    let client = api.pool.get().await?;
    // The pairs say whether to change and to what: NULL is a value of its own.
    let statement = client
        .prepare_cached(
            "-- update_webhook\n\
             UPDATE webhooks SET \
                 url = coalesce($3, url), \
                 patterns = coalesce($4, patterns), \
                 secret = coalesce($5, secret), \
                 description = coalesce($6, description), \
                 status = coalesce($7, status), \
                 disabled_reason = CASE WHEN $7 IS NULL THEN disabled_reason END, \
                 headers = coalesce($8, headers), \
                 metadata = coalesce($9, metadata), \
                 filter = CASE WHEN $10 THEN $11 ELSE filter END, \
                 timeout_ms = CASE WHEN $12 THEN $13 ELSE timeout_ms END, \
                 retry = CASE WHEN $14 THEN $15 ELSE retry END, \
                 dialect = CASE WHEN $16 THEN $17 ELSE dialect END, \
                 updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted'",
        )
        .await?;
    let Checked {
        url,
        events,
        secret,
        description,
        active,
        filters,
        headers,
        timeout,
        retry,
        dialect,
        metadata,
        ..
    } = checked;
    let status = active.map(|active| {
        if active {
            Status::Active
        } else {
            Status::Inactive
        }
    });
    let changed = client
        .execute(
            &statement,
            &[
                &id,
                &acting.tenant,
                &url,
                &events,
                &secret.map(|s| {
                    api.keys
                        .seal(&seal_context(id, "secret"), s.expose().as_bytes())
                }),
                &description,
                &status.map(Status::as_str),
                &headers.map(|headers| seal_headers(&api, id, &headers)),
                &metadata.map(Value::Object),
                &filters.is_some(),
                &filters.flatten(),
                &timeout.is_some(),
                &timeout.flatten(),
                &retry.is_some(),
                &retry.flatten().map(|retry| json!(retry)),
                &dialect.is_some(),
                &dialect.flatten(),
            ],
        )
        .await?;
    drop(client);
    if changed == 0 {
        return Err(unknown(id));
    }
    api.feed.refresh().await?;
    find(&api, &acting.tenant, id).await.map(Json)
}

/// The webhook goes, its log stays. Its secrets are forgotten.
async fn delete(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
) -> Result<StatusCode> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- delete_webhook\n\
             UPDATE webhooks SET status = 'deleted', disabled_reason = NULL, secret = '', \
                 previous_secret = NULL, previous_secret_until = NULL, headers = NULL, updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted'",
        )
        .await?;
    let deleted = client.execute(&statement, &[&id, &acting.tenant]).await?;
    drop(client);
    if deleted == 0 {
        return Err(unknown(id));
    }
    api.feed.refresh().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn webhook_json(api: &Api, row: &Row) -> Result<Value> {
    let webhook =
        Webhook::read(row, &api.keys).map_err(|error| Problem::from(anyhow::Error::new(error)))?;
    let created_at = time_json(row.get("created_at"));
    let last_delivery = row.get::<_, Option<shared::ids::DeliveryId>>("last_delivery");
    let headers: serde_json::Map<String, Value> = webhook
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), mask_header(value.expose_secret()).into()))
        .collect();
    Ok(json!({
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.patterns,
        "description": row.get::<_, &str>("description"),
        "active": webhook.status == Status::Active,
        "status": webhook.status.as_str(),
        "disabled_reason": row.get::<_, Option<&str>>("disabled_reason"),
        "secret": webhook.secrets.current().masked(),
        "headers": headers,
        "filters": webhook.filter,
        "timeout": webhook.timeout.map(|timeout| timeout.as_millis() as u64),
        "retry_policy": webhook.retry,
        "dialect": webhook.dialect,
        "metadata": row.get::<_, Value>("metadata"),
        "created_at": created_at,
        "createdAt": created_at,
        "updated_at": time_json(row.get("updated_at")),
        "lastTriggered": last_delivery.map(|id| time_json(id.accepted_at())),
    }))
}

/// Header values may be credentials: only that there is one is shown.
fn mask_header(value: &str) -> &'static str {
    if value.is_empty() { "" } else { "…" }
}
