//! Webhooks: make, list, show, change, delete.
//!
//! The secret is generated unless given, shown once, masked ever after. What is
//! changed is in force when the answer is sent: ingest looks at the catalogue's
//! revision before every batch, dispatchers within a second.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Value, json};
use shared::ids::{Tenant, WebhookId};
use shared::retry::Schedule;
use shared::webhook::{Secret, Status, Webhook, seal_context};
use std::collections::BTreeMap;
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Managing, Reading};
use super::event_types::check_known;
use super::problem::{Problem, Result};
use super::request::{Body, Id, Page, Parameters};
use super::timestamp::Timestamp;
use super::webhook_form::{Checked, Form};
use super::{Api, Shared};

/// `/api/v1/webhooks…`, also `/api/webhooks…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, replace, update, delete))
}

/// A tenant's subscription.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
struct Shown {
    id: WebhookId,
    /// Where deliveries go.
    #[schema(example = "https://example.com/hooks")]
    url: String,
    /// Patterns of event types.
    #[schema(example = json!(["order.*"]))]
    events: Vec<String>,
    description: String,
    /// Whether it gets deliveries.
    active: bool,
    /// `active`, `inactive` (switched off by its owner) or `disabled` (by Posthorn).
    #[schema(example = "active")]
    status: &'static str,
    /// Why Posthorn disabled it.
    #[schema(required)]
    disabled_reason: Option<String>,
    /// Whole when it was just made, masked ever after.
    #[schema(example = "whsec_…ab12")]
    secret: String,
    /// Sent with every delivery; the values are not shown.
    #[schema(example = json!({"X-Api-Key": "…"}))]
    headers: BTreeMap<String, &'static str>,
    /// Which events it wants.
    #[schema(required, value_type = Option<Object>, example = json!({"total": {"$gte": 10}}))]
    filters: Option<Value>,
    /// In milliseconds; `null`: the dialect's.
    #[schema(required, example = 30_000)]
    timeout: Option<u64>,
    #[schema(required)]
    retry_policy: Option<RetryPolicy>,
    /// `null`: the tenant's.
    #[schema(required, example = "standard")]
    dialect: Option<String>,
    /// For programs.
    #[schema(value_type = Object)]
    metadata: Value,
    created_at: Timestamp,
    /// The same as `created_at`.
    #[serde(rename = "createdAt")]
    created_at_too: Timestamp,
    updated_at: Timestamp,
    /// When an event last matched it.
    #[serde(rename = "lastTriggered")]
    #[schema(required)]
    last_triggered: Option<Timestamp>,
}

/// When a delivery is tried again, in milliseconds: `delays`, or the others.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookRetryPolicy)]
#[serde(untagged)]
enum RetryPolicy {
    /// A list.
    Delays { delays: Vec<u64>, jitter: f64 },
    /// A rule.
    Exponential {
        max_retries: u16,
        retry_delay: u64,
        factor: f64,
        cap: u64,
        jitter: f64,
    },
}

/// A page of webhooks.
#[derive(Serialize, ToSchema)]
struct WebhookPage {
    webhooks: Vec<Shown>,
    /// Of the next page; `null` on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Webhooks with what is shown of them besides.
const COLUMNS: &str = "w.id, w.tenant, w.url, w.patterns, w.filter, w.dialect, w.secret, \
    w.previous_secret, w.previous_secret_until, w.headers, w.timeout_ms, w.retry, w.status, \
    w.description, w.metadata, w.disabled_reason, w.created_at, w.updated_at, \
    (SELECT id FROM deliveries WHERE webhook_id = w.id ORDER BY id DESC LIMIT 1) AS last_delivery";

/// Create a webhook
///
/// `url` and `events` are needed. The secret is generated unless given.
#[utoipa::path(
    post, path = "/", operation_id = "create_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    request_body = Form,
    responses(
        (status = 201, description = "The webhook, with its secret: the one time that it is shown.", body = Shown),
        (status = 409, description = "The tenant has as many webhooks as it may."),
    ),
)]
async fn create(
    acting: Managing,
    State(api): State<Shared>,
    Body(form): Body<Form>,
) -> Result<(StatusCode, Json<Shown>)> {
    let checked = form.check(&api.destinations, &api.dialects)?;
    let url = checked
        .url
        .ok_or_else(|| Problem::field("url", "is missing"))?;
    let events = checked
        .events
        .ok_or_else(|| Problem::field("events", "is missing"))?;
    check_known(&api, &acting.tenant, &events).await?;
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
                &checked.retry.flatten().map(|schedule| json!(schedule)),
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
    secret.expose().clone_into(&mut webhook.secret);
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

/// List webhooks
///
/// Newest first.
#[utoipa::path(
    get, path = "/", operation_id = "list_webhooks", tag = "webhooks",
    security(("token" = ["viewer"])),
    params(Page),
    responses((status = 200, description = "A page of them.", body = WebhookPage)),
)]
async fn list(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<WebhookPage>> {
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
        .map(|row| Shown::of(&api, row))
        .collect::<Result<Vec<_>>>()?;
    Ok(Json(WebhookPage {
        webhooks,
        next_cursor,
    }))
}

/// Show a webhook
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_webhook", tag = "webhooks",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path)),
    responses((status = 200, description = "The webhook.", body = Shown)),
)]
async fn show(
    acting: Reading,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
) -> Result<Json<Shown>> {
    find(&api, &acting.tenant, id).await.map(Json)
}

async fn find(api: &Api, tenant: &Tenant, id: WebhookId) -> Result<Shown> {
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
    Shown::of(api, &row)
}

fn unknown(id: WebhookId) -> Problem {
    Problem::not_found(format!("there is no webhook {id}"))
}

/// Change a webhook
///
/// The same as PATCH: what isn't sent stays. That is how the systems whose
/// users Posthorn serves document PUT.
#[utoipa::path(
    put, path = "/{id}", operation_id = "put_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    request_body = Form,
    responses((status = 200, description = "The webhook as it is now.", body = Shown)),
)]
async fn replace(
    acting: Managing,
    api: State<Shared>,
    id: Id<WebhookId>,
    form: Body<Form>,
) -> Result<Json<Shown>> {
    update(acting, api, id, form).await
}

/// Change a webhook
///
/// What isn't sent stays; `null` takes away.
#[utoipa::path(
    patch, path = "/{id}", operation_id = "patch_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    request_body = Form,
    responses((status = 200, description = "The webhook as it is now.", body = Shown)),
)]
async fn update(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
    Body(form): Body<Form>,
) -> Result<Json<Shown>> {
    let checked = form.check(&api.destinations, &api.dialects)?;
    if let Some(events) = &checked.events {
        check_known(&api, &acting.tenant, events).await?;
    }
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
                &retry.flatten().map(|schedule| json!(schedule)),
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

/// Delete a webhook
///
/// The webhook goes, its log stays. Its secrets are forgotten.
#[utoipa::path(
    delete, path = "/{id}", operation_id = "delete_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    responses((status = 204, description = "It is gone.")),
)]
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

impl Shown {
    fn of(api: &Api, row: &Row) -> Result<Self> {
        let webhook = Webhook::read(row, &api.keys)
            .map_err(|error| Problem::from(anyhow::Error::new(error)))?;
        let created_at = row.get("created_at");
        let last_delivery = row.get::<_, Option<shared::ids::DeliveryId>>("last_delivery");
        let headers = webhook
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), mask_header(value.expose_secret())))
            .collect();
        Ok(Self {
            id: webhook.id,
            events: webhook.patterns,
            description: row.get("description"),
            active: webhook.status == Status::Active,
            status: webhook.status.as_str(),
            disabled_reason: row.get("disabled_reason"),
            secret: webhook.secrets.current().masked(),
            headers,
            filters: webhook.filter,
            timeout: webhook.timeout.map(|timeout| timeout.as_millis() as u64),
            retry_policy: webhook.retry.as_ref().map(RetryPolicy::of),
            dialect: webhook.dialect,
            metadata: row.get("metadata"),
            created_at,
            created_at_too: created_at,
            updated_at: row.get("updated_at"),
            last_triggered: last_delivery.map(|id| Timestamp(id.accepted_at())),
            url: webhook.url,
        })
    }
}

impl RetryPolicy {
    /// A schedule in the words it is given in.
    fn of(schedule: &Schedule) -> Self {
        use shared::retry::Pauses;
        let jitter = schedule.jitter;
        match &schedule.pauses {
            Pauses::Delays(delays) => Self::Delays {
                delays: delays.clone(),
                jitter,
            },
            &Pauses::Exponential {
                first,
                factor,
                cap,
                retries,
            } => Self::Exponential {
                max_retries: retries,
                retry_delay: first,
                factor,
                cap,
                jitter,
            },
        }
    }
}

/// Header values may be credentials: only that there is one is shown.
fn mask_header(value: &str) -> &'static str {
    if value.is_empty() { "" } else { "…" }
}
