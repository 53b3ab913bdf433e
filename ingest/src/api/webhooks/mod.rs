//! Webhooks: create, list, show, change, delete.
//!
//! A secret is generated unless the client sends one. It is shown once, in the
//! answer that creates the webhook, and masked in every other.
//!
//! Ingest applies a change before it answers: it compares the catalogue's
//! revision before every batch. Dispatchers apply it within a second.
//!
//! Answers carry an ETag. A change that sends it in `If-Match` is refused if the
//! webhook has changed since.

pub mod backlog;
pub mod endpoint;
pub mod endpoint_stats;
pub mod health;
pub mod keys;
pub mod outages;
pub mod preview;
pub mod put_back;
pub mod rotation;
pub mod stats;
pub mod test;
pub mod tester;
pub mod type_stats;
pub mod view;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::ids::{ExternalId, WebhookId};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor::begin;
use crate::api::access::auth::{OwnManaging, OwnReading};
use crate::api::http::headers::Created;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, Page, Parameters};
use crate::api::state::Shared;
use crate::api::webhooks::view::{COLUMNS, WebhookView, all, find};
use crate::invalid::{Gathered, Invalid};
use crate::webhooks::form::{NewWebhook, WebhookForm};
use crate::webhooks::store;

/// `/api/v1/webhooks…`, also `/api/webhooks…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, replace, update, delete))
}

/// A page of webhooks.
#[derive(Serialize, ToSchema)]
pub struct WebhookPage {
    pub webhooks: Vec<WebhookView>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// The most webhooks of a page that names no limit: a tenant's, unless it has unusually many.
const ALL: i64 = 1_000;

/// Which webhooks to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WebhookQuery {
    /// Only webhooks with this `client_id` in their metadata.
    pub client_id: Option<String>,
    /// Only the webhook that had this id in the system that it comes from.
    #[param(pattern = "^[!-~]{1,128}$", example = "webhook_123")]
    pub external_id: Option<String>,
    /// The most entries of the page; by default all of them, at most 1,000.
    #[param(minimum = 1, maximum = 250)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// A webhook with its ETag.
pub struct Tagged(pub StatusCode, pub WebhookView);

impl IntoResponse for Tagged {
    fn into_response(self) -> Response {
        let etag = [(header::ETAG, self.1.etag())];
        match self.0 {
            StatusCode::CREATED => {
                let id = self.1.id;
                (etag, Created::new("/api/v1/webhooks", id, self.1)).into_response()
            }
            status => (status, etag, Json(self.1)).into_response(),
        }
    }
}

/// Create a webhook
///
/// `url` and `events` are needed. The secret is generated unless given.
#[utoipa::path(
    post, path = "/", operation_id = "create_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    request_body = NewWebhook,
    responses(
        (
            status = 201, description = "The webhook with its secret, which is not shown again.", body = WebhookView,
            headers(("ETag" = String)),
        ),
        (status = 409, description = "The tenant already has as many webhooks as it may."),
    ),
)]
pub async fn create(
    acting: OwnManaging,
    State(api): State<Shared>,
    Body(form): Body<WebhookForm>,
) -> Result<Tagged> {
    let mut wrong = Gathered::default();
    wrong.take(acting.may_write(&form));
    let checked = wrong.keep(form.check_new(&api.destinations, &api.dialects));
    let mut checked = wrong.finish_with(checked)?;
    acting.claim(&mut checked);
    let _turn = api.changes.acquire(&acting.tenant).await?;
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &acting.actor).await?;
    let made = store::create(&transaction, api.writing(), &acting.tenant, None, checked).await?;
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;

    let mut webhook = find(&api, &acting.tenant, made.id).await?;
    // The one time that it is shown.
    made.secret.expose().clone_into(&mut webhook.secret);
    Ok(Tagged(StatusCode::CREATED, webhook))
}

/// List webhooks
///
/// Newest first. All of them, unless the request sets a limit.
#[utoipa::path(
    get, path = "/", operation_id = "list_webhooks", tag = "webhooks",
    security(("token" = ["viewer"])),
    params(WebhookQuery),
    responses((status = 200, description = "A page.", body = WebhookPage)),
)]
pub async fn list(
    acting: OwnReading,
    State(api): State<Shared>,
    Parameters(query): Parameters<WebhookQuery>,
) -> Result<Json<WebhookPage>> {
    let page = Page {
        limit: query.limit,
        cursor: query.cursor,
    };
    let mut wrong = Gathered::default();
    let (limit, after) = wrong.take(page.read::<WebhookId>());
    let limit = page.limit.map_or(ALL, |_| limit);
    let external_id = query.external_id.map(|id| id.parse::<ExternalId>());
    let external_id = external_id.transpose();
    let external_id = wrong.take(external_id.map_err(|error| Invalid::new("external_id", error)));
    wrong.finish(())?;
    // A condition that is there only when it is asked for leaves its index to choose.
    let by_client = match query.client_id {
        // The index has its first 200 characters.
        Some(_) => {
            "w.metadata ? 'client_id' AND w.metadata ->> 'client_id' = $4 \
             AND left(w.metadata ->> 'client_id', 200) = left($4, 200)"
        }
        None => "$4::text IS NULL",
    };
    let by_external_id = match external_id {
        Some(_) => "w.external_id = $6",
        None => "$6::text IS NULL",
    };
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- list_webhooks\n\
             SELECT {COLUMNS} FROM webhooks w \
             WHERE w.tenant = $1 AND w.status <> 'deleted' AND ($2::uuid IS NULL OR w.id < $2) \
               AND {by_client} AND {by_external_id} \
               AND ($5::text IS NULL OR w.owner = $5) \
             ORDER BY w.id DESC LIMIT $3"
        ))
        .await?;
    let rows = client
        .query(
            &statement,
            &[
                &acting.tenant,
                &after,
                &(limit + 1),
                &query.client_id,
                &acting.owner,
                &external_id,
            ],
        )
        .await?;
    let shown = &rows[..rows.len().min(limit as usize)];
    let last = shown.last().filter(|_| rows.len() > shown.len());
    let next_cursor = last.map(|row| row.get::<_, WebhookId>("id").to_string());
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
    responses((status = 200, description = "The webhook.", body = WebhookView, headers(("ETag" = String)))),
)]
pub async fn show(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
) -> Result<Tagged> {
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
        // After the hyphen is what may change without a change to the webhook.
        .and_then(|text| text.split('-').next()?.parse().ok());
    // An ETag that this webhook never had matches nothing.
    revision.map(Some).ok_or_else(changed_meanwhile)
}

fn changed_meanwhile() -> Problem {
    Problem::precondition_failed(
        "the webhook has changed since the state that `If-Match` names: read it again",
    )
}

/// Change a webhook
///
/// The same as PATCH: what isn't sent stays. That is how the systems whose
/// users Posthorn serves document PUT. What GET shows can be sent back: members that
/// equal what is shown change nothing.
#[utoipa::path(
    put, path = "/{id}", operation_id = "put_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(
        ("id" = WebhookId, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag of the state to be changed."),
    ),
    request_body = WebhookForm,
    responses(
        (status = 200, description = "The webhook as it is now.", body = WebhookView, headers(("ETag" = String))),
        (status = 412, description = "The webhook has changed since the state that `If-Match` names."),
    ),
)]
pub async fn replace(
    acting: OwnManaging,
    api: State<Shared>,
    id: Id<WebhookId>,
    headers: HeaderMap,
    body: Body<Map<String, Value>>,
) -> Result<Tagged> {
    update(acting, api, id, headers, body).await
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
    request_body = WebhookForm,
    responses(
        (status = 200, description = "The webhook as it is now.", body = WebhookView, headers(("ETag" = String))),
        (status = 412, description = "The webhook has changed since the state that `If-Match` names."),
    ),
)]
pub async fn update(
    acting: OwnManaging,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
    headers: HeaderMap,
    Body(body): Body<Map<String, Value>>,
) -> Result<Tagged> {
    let expected = expected_revision(&headers)?;
    let _turn = api.changes.acquire(&acting.tenant).await?;
    let webhook = find(&api, &acting.tenant, id).await?;
    let shown = serde_json::to_value(&webhook).map_err(anyhow::Error::new)?;
    let mut wrong = Gathered::default();
    let form = put_back::changes(body, &shown, &mut wrong)?;
    let allowed = form.as_ref().map(|form| acting.may_write(form));
    wrong.take(allowed.transpose());
    let checked = form.map(|form| form.check(&api.destinations, &api.dialects));
    let checked = wrong.take(checked.transpose());
    let Some(mut checked) = wrong.finish(checked)? else {
        // Nothing is to be changed: not even `updated_at` changes.
        return match expected {
            Some(expected) if expected != webhook.revision => Err(changed_meanwhile()),
            _ => Ok(Tagged(StatusCode::OK, webhook)),
        };
    };
    acting.claim(&mut checked);
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &acting.actor).await?;
    let (writing, tenant) = (api.writing(), &acting.tenant);
    if !store::update(&transaction, writing, tenant, id, expected, checked).await? {
        return Err(changed_meanwhile());
    }
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    let webhook = find(&api, &acting.tenant, id).await?;
    Ok(Tagged(StatusCode::OK, webhook))
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
        (status = 204, description = "It is deleted."),
        (status = 412, description = "The webhook has changed since the state that `If-Match` names."),
    ),
)]
pub async fn delete(
    acting: OwnManaging,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let expected = expected_revision(&headers)?;
    let _turn = api.changes.acquire(&acting.tenant).await?;
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &acting.actor).await?;
    if !store::delete(&transaction, &acting.tenant, id, expected).await? {
        return Err(changed_meanwhile());
    }
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(StatusCode::NO_CONTENT)
}
