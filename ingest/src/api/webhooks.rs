//! Webhooks: make, list, show, change, delete.
//!
//! The secret is generated unless given, shown once, masked ever after. What is
//! changed is in force when the answer is sent: ingest looks at the catalogue's
//! revision before every batch, dispatchers within a second.
//!
//! Answers carry an ETag; a change that sends it in `If-Match` happens only if
//! nobody else's came between.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Value, json};
use shared::ids::{Tenant, WebhookId};
use shared::secret::{Secret, SigningKey};
use shared::webhook::{Rate, Status, seal_context};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Managing, Reading};
use super::event_types::check_known;
use super::problem::{Problem, Result};
use super::request::{Body, Id, Page, Parameters};
use super::webhook_form::{Checked, Form, Signing};
use super::webhook_shown::{COLUMNS, Shown, all, find};
use super::{Api, Shared};

/// `/api/v1/webhooks…`, also `/api/webhooks…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, replace, update, delete))
}

/// A page of webhooks.
#[derive(Serialize, ToSchema)]
struct WebhookPage {
    webhooks: Vec<Shown>,
    /// Of the next page; `null` on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A webhook with its ETag.
struct Tagged(StatusCode, Shown);

impl IntoResponse for Tagged {
    fn into_response(self) -> Response {
        (self.0, [(header::ETAG, self.1.etag())], Json(self.1)).into_response()
    }
}

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
) -> Result<Tagged> {
    let checked = form.check(&api.destinations, &api.dialects)?;
    let url = checked
        .url
        .ok_or_else(|| Problem::field("url", "is missing"))?;
    let events = checked
        .events
        .ok_or_else(|| Problem::field("events", "is missing"))?;
    check_known(&api, &acting.tenant, &events).await?;
    let dialect = checked.dialect.flatten();
    let signs_with_key = checked.signing == Some(Signing::Ed25519);
    if signs_with_key {
        check_takes_keys(&api, &acting.tenant, dialect.as_deref())?;
    }
    let secret = checked.secret.unwrap_or_else(Secret::generate);
    let id = WebhookId::generate();
    let rate = Columns::of(checked.rate.flatten());

    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    check_room(&transaction, &acting.tenant).await?;
    transaction
        .execute(
            "-- create_webhook\n\
             INSERT INTO webhooks (id, tenant, url, description, patterns, filter, dialect, secret, \
                 signing_key, headers, timeout_ms, retry, rate_limit, rate_period_s, debug_mode, \
                 metadata, status, revision) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0)",
            &[
                &id,
                &acting.tenant,
                &url,
                &checked.description.unwrap_or_default(),
                &events,
                &checked.filters.flatten(),
                &dialect,
                &seal_secret(&api, id, &secret),
                &signs_with_key.then(|| seal_key(&api, id, &SigningKey::generate())),
                &checked.headers.map(|headers| seal_headers(&api, id, &headers)),
                &checked.timeout.flatten(),
                &checked.retry.flatten().map(|retry| json!(retry)),
                &rate.limit,
                &rate.period_s,
                &checked.debug_mode.unwrap_or(false),
                &Value::Object(checked.metadata.unwrap_or_default()),
                &status(checked.active.unwrap_or(true)).as_str(),
            ],
        )
        .await?;
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;

    let mut webhook = find(&api, &acting.tenant, id).await?;
    // The one time that it is shown.
    secret.expose().clone_into(&mut webhook.secret);
    Ok(Tagged(StatusCode::CREATED, webhook))
}

fn status(active: bool) -> Status {
    if active {
        Status::Active
    } else {
        Status::Inactive
    }
}

/// A rate limit's two columns.
struct Columns {
    limit: Option<i32>,
    period_s: Option<i32>,
}

impl Columns {
    fn of(rate: Option<Rate>) -> Self {
        Self {
            limit: rate.map(|rate| rate.limit as i32),
            period_s: rate.map(|rate| rate.period.as_secs() as i32),
        }
    }
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

/// Refuses a key that the dialect has no place for.
fn check_takes_keys(api: &Api, tenant: &Tenant, dialect: Option<&str>) -> Result<()> {
    let tenants = api.subscriptions.dialect(tenant);
    let name = dialect.map(str::to_owned).or(tenants).unwrap_or_default();
    match api.dialects.get(&name) {
        Some(dialect) if dialect.takes_signing_keys() => Ok(()),
        _ => Err(Problem::field(
            "signing",
            format!("can't be `ed25519` in the dialect `{name}`, which has no place for it"),
        )),
    }
}

/// A secret as its column has it.
pub fn seal_secret(api: &Api, id: WebhookId, secret: &Secret) -> Vec<u8> {
    let context = seal_context(id, "secret");
    api.keys.seal(&context, secret.expose().as_bytes())
}

/// A signing key as its column has it.
pub fn seal_key(api: &Api, id: WebhookId, key: &SigningKey) -> Vec<u8> {
    let context = seal_context(id, "signing key");
    api.keys
        .seal(&context, key.expose().expose_secret().as_bytes())
}

fn seal_headers(api: &Api, id: WebhookId, headers: &[(String, String)]) -> Vec<u8> {
    let context = seal_context(id, "headers");
    api.keys
        .seal(&context, json!(headers).to_string().as_bytes())
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
    let webhooks = all(&api, &client, shown).await?;
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
async fn show(acting: Reading, State(api): State<Shared>, Id(id): Id<WebhookId>) -> Result<Tagged> {
    let webhook = find(&api, &acting.tenant, id).await?;
    Ok(Tagged(StatusCode::OK, webhook))
}

/// The revision that `If-Match` insists on; none if any will do.
fn expected_revision(headers: &HeaderMap) -> Result<Option<i64>> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let revision = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .and_then(|text| text.parse().ok());
    // An ETag that this webhook never had matches nothing.
    revision.map(Some).ok_or_else(changed_meanwhile)
}

fn changed_meanwhile() -> Problem {
    Problem::precondition_failed(
        "the webhook is not in the state that `If-Match` names: read it again",
    )
}

/// Change a webhook
///
/// The same as PATCH: what isn't sent stays. That is how the systems whose
/// users Posthorn serves document PUT.
#[utoipa::path(
    put, path = "/{id}", operation_id = "put_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(
        ("id" = WebhookId, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag of the state to be changed."),
    ),
    request_body = Form,
    responses(
        (status = 200, description = "The webhook as it is now.", body = Shown),
        (status = 412, description = "It has changed since `If-Match`."),
    ),
)]
async fn replace(
    acting: Managing,
    api: State<Shared>,
    id: Id<WebhookId>,
    headers: HeaderMap,
    form: Body<Form>,
) -> Result<Tagged> {
    update(acting, api, id, headers, form).await
}

/// Change a webhook
///
/// What isn't sent stays; `null` takes away.
#[utoipa::path(
    patch, path = "/{id}", operation_id = "patch_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(
        ("id" = WebhookId, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag of the state to be changed."),
    ),
    request_body = Form,
    responses(
        (status = 200, description = "The webhook as it is now.", body = Shown),
        (status = 412, description = "It has changed since `If-Match`."),
    ),
)]
async fn update(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
    headers: HeaderMap,
    Body(form): Body<Form>,
) -> Result<Tagged> {
    let Checked {
        url,
        events,
        secret,
        description,
        active,
        filters,
        headers: sent,
        timeout,
        retry,
        rate,
        debug_mode,
        signing,
        dialect,
        metadata,
    } = form.check(&api.destinations, &api.dialects)?;
    if let Some(events) = &events {
        check_known(&api, &acting.tenant, events).await?;
    }
    let expected = expected_revision(&headers)?;
    if signing == Some(Signing::Ed25519) {
        let own = match &dialect {
            Some(dialect) => dialect.clone(),
            None => find(&api, &acting.tenant, id).await?.dialect,
        };
        check_takes_keys(&api, &acting.tenant, own.as_deref())?;
    }
    let columns = Columns::of(rate.flatten());
    let client = api.pool.get().await?;
    // The pairs say whether to change and to what: NULL is a value of its own.
    let statement = client
        .prepare_cached(
            "-- update_webhook\n\
             UPDATE webhooks SET \
                 url = coalesce($4, url), \
                 patterns = coalesce($5, patterns), \
                 secret = coalesce($6, secret), \
                 description = coalesce($7, description), \
                 status = coalesce($8, status), \
                 disabled_reason = CASE WHEN $8 IS NULL THEN disabled_reason END, \
                 headers = coalesce($9, headers), \
                 metadata = coalesce($10, metadata), \
                 debug_mode = coalesce($11, debug_mode), \
                 filter = CASE WHEN $12 THEN $13 ELSE filter END, \
                 timeout_ms = CASE WHEN $14 THEN $15 ELSE timeout_ms END, \
                 retry = CASE WHEN $16 THEN $17 ELSE retry END, \
                 dialect = CASE WHEN $18 THEN $19 ELSE dialect END, \
                 rate_limit = CASE WHEN $20 THEN $21 ELSE rate_limit END, \
                 rate_period_s = CASE WHEN $20 THEN $22 ELSE rate_period_s END, \
                 signing_key = CASE WHEN $23 THEN $24 ELSE coalesce(signing_key, $24) END, \
                 previous_signing_key = CASE WHEN NOT $23 THEN previous_signing_key END, \
                 updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted' \
               AND ($3::int8 IS NULL OR revision = $3)",
        )
        .await?;
    let changed = client
        .execute(
            &statement,
            &[
                &id,
                &acting.tenant,
                &expected,
                &url,
                &events,
                &secret.map(|secret| seal_secret(&api, id, &secret)),
                &description,
                &active.map(status).map(Status::as_str),
                &sent.map(|headers| seal_headers(&api, id, &headers)),
                &metadata.map(Value::Object),
                &debug_mode,
                &filters.is_some(),
                &filters.flatten(),
                &timeout.is_some(),
                &timeout.flatten(),
                &retry.is_some(),
                &retry.flatten().map(|retry| json!(retry)),
                &dialect.is_some(),
                &dialect.flatten(),
                &rate.is_some(),
                &columns.limit,
                &columns.period_s,
                &(signing == Some(Signing::Hmac)),
                &(signing == Some(Signing::Ed25519))
                    .then(|| seal_key(&api, id, &SigningKey::generate())),
            ],
        )
        .await?;
    drop(client);
    if changed == 0 {
        return Err(refusal(&api, &acting.tenant, id).await);
    }
    api.feed.refresh().await?;
    let webhook = find(&api, &acting.tenant, id).await?;
    Ok(Tagged(StatusCode::OK, webhook))
}

/// Why nothing was changed.
async fn refusal(api: &Api, tenant: &Tenant, id: WebhookId) -> Problem {
    match find(api, tenant, id).await {
        Ok(_) => changed_meanwhile(),
        Err(problem) => problem,
    }
}

/// Delete a webhook
///
/// The webhook goes, its log stays. Its secrets are forgotten.
#[utoipa::path(
    delete, path = "/{id}", operation_id = "delete_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(
        ("id" = WebhookId, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag of the state to be deleted."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 412, description = "It has changed since `If-Match`."),
    ),
)]
async fn delete(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let expected = expected_revision(&headers)?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- delete_webhook\n\
             UPDATE webhooks SET status = 'deleted', disabled_reason = NULL, secret = '', \
                 previous_secret = NULL, previous_secret_until = NULL, signing_key = NULL, \
                 previous_signing_key = NULL, headers = NULL, updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted' \
               AND ($3::int8 IS NULL OR revision = $3)",
        )
        .await?;
    let deleted = client
        .execute(&statement, &[&id, &acting.tenant, &expected])
        .await?;
    drop(client);
    if deleted == 0 {
        return Err(refusal(&api, &acting.tenant, id).await);
    }
    api.feed.refresh().await?;
    Ok(StatusCode::NO_CONTENT)
}
