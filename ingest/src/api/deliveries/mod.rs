//! The delivery log: deliveries of a webhook, of a tenant, and one with its attempts.
//!
//! `/deliveries`, `/events` and `/logs` of a webhook are the same search. Each is
//! the name that one of the supported systems gives it.

pub mod all_replays;
pub mod composed;
pub mod merge;
pub mod replay_results;
pub mod replays;
pub mod retries;
pub mod search;
pub mod view;
pub mod walk;
pub mod webhook_log;

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use serde::Serialize;
use shared::dialect::Since;
use shared::ids::{DeliveryId, Tenant, WebhookId, same_millisecond};
use shared::tenant::LARGEST_MAX_PAYLOAD;
use time::{Duration, OffsetDateTime};
use tokio::task::block_in_place;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::OwnReading;
use crate::api::deliveries::composed::Composed;
use crate::api::deliveries::search::{DeliveryQuery, DeliveryRows, Search, WITH_ITS_EVENT, search};
use crate::api::deliveries::view::{
    Attempt, COLUMNS, DATA_IN_LISTS, Delivery, DeliveryDetail, LogEntry, Wait, deliveries,
};
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Id, Parameters};
use crate::api::state::{Api, Shared};
use crate::cpu;
use crate::invalid::NotFound;
use crate::timestamp::Timestamp;

/// How many attempts are shown: more than any schedule makes, but a delivery can
/// begin again any number of times.
const SHOWN_ATTEMPTS: i64 = 100;
/// How many bytes of bodies are composed again for one answer: the largest event fits.
const COMPOSED_BYTES: usize = 2 * 1024 * 1024;

/// `/api/v1/deliveries…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
}

/// `/api/v1/webhooks/{id}/deliveries` and its other names.
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_of_webhook))
        .routes(routes!(list_as_events))
        .routes(routes!(list_as_logs))
}

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
pub struct DeliveryPage {
    pub deliveries: Vec<Delivery>,
    /// Of the next page; `null` on the last. A filter that few deliveries pass
    /// may leave a page short, or empty: what counts is this.
    #[schema(required)]
    pub next_cursor: Option<DeliveryId>,
}

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookEventPage)]
pub struct WebhookEventPage {
    pub events: Vec<Delivery>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<DeliveryId>,
}

/// A page of deliveries, in few words.
#[derive(Serialize, ToSchema)]
pub struct LogPage {
    pub logs: Vec<LogEntry>,
    /// Whether the webhook is in debug mode: requests and answers are kept whole.
    pub debug: bool,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<DeliveryId>,
}

/// List deliveries
///
/// Of all the tenant's webhooks that aren't deleted, newest first; of those that `webhook_id`
/// names, deleted ones too.
#[utoipa::path(
    get, path = "/", operation_id = "list_deliveries", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(DeliveryQuery),
    responses((status = 200, description = "A page.", body = DeliveryPage)),
)]
pub async fn list(
    acting: OwnReading,
    State(api): State<Shared>,
    Parameters(filter): Parameters<DeliveryQuery>,
) -> Result<Json<DeliveryPage>> {
    let wanted = filter.check()?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- tenants_webhooks\n\
             SELECT id FROM webhooks WHERE tenant = $1 AND status <> 'deleted' AND $2::uuid[] IS NULL \
                 AND ($3::text IS NULL OR owner = $3) \
             UNION ALL SELECT id FROM webhooks WHERE tenant = $1 AND id = ANY($2) \
                 AND ($3::text IS NULL OR owner = $3) \
             ORDER BY id",
        )
        .await?;
    let webhooks: Vec<WebhookId> = client
        .query(
            &statement,
            &[&acting.tenant, &wanted.webhooks, &acting.owner],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let DeliveryRows { rows, next } = search(&client, &acting.tenant, &webhooks, &wanted).await?;
    Ok(Json(DeliveryPage {
        deliveries: deliveries(&client, &api.dialects, &rows, DATA_IN_LISTS).await?,
        next_cursor: next,
    }))
}

/// List a webhook's deliveries
///
/// Newest first.
#[utoipa::path(
    get, path = "/{id}/deliveries", operation_id = "list_webhook_deliveries", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), DeliveryQuery),
    responses((status = 200, description = "A page.", body = DeliveryPage)),
)]
pub async fn list_of_webhook(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(filter): Parameters<DeliveryQuery>,
) -> Result<Json<DeliveryPage>> {
    let wanted = filter.check()?;
    let (found, _) = search_webhook(&api, &acting.tenant, webhook, &wanted).await?;
    let client = api.pool.get().await?;
    Ok(Json(DeliveryPage {
        deliveries: deliveries(&client, &api.dialects, &found.rows, DATA_IN_LISTS).await?,
        next_cursor: found.next,
    }))
}

/// List a webhook's events
///
/// The same as its deliveries.
#[utoipa::path(
    get, path = "/{id}/events", operation_id = "list_webhook_events", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), DeliveryQuery),
    responses((status = 200, description = "A page.", body = WebhookEventPage)),
)]
pub async fn list_as_events(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(filter): Parameters<DeliveryQuery>,
) -> Result<Json<WebhookEventPage>> {
    let wanted = filter.check()?;
    let (found, _) = search_webhook(&api, &acting.tenant, webhook, &wanted).await?;
    let client = api.pool.get().await?;
    Ok(Json(WebhookEventPage {
        events: deliveries(&client, &api.dialects, &found.rows, DATA_IN_LISTS).await?,
        next_cursor: found.next,
    }))
}

/// List a webhook's log
///
/// The same as its deliveries, in few words: `status` also takes the words that this list
/// shows, and means what they mean here.
#[utoipa::path(
    get, path = "/{id}/logs", operation_id = "list_webhook_logs", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), DeliveryQuery),
    responses((status = 200, description = "A page.", body = LogPage)),
)]
pub async fn list_as_logs(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(filter): Parameters<DeliveryQuery>,
) -> Result<Json<LogPage>> {
    let wanted = filter.check_as_log()?;
    let (found, debug) = search_webhook(&api, &acting.tenant, webhook, &wanted).await?;
    Ok(Json(LogPage {
        logs: found.rows.iter().map(LogEntry::from_row).collect(),
        debug,
        next_cursor: found.next,
    }))
}

/// What was found, and whether the webhook is in debug mode. A deleted webhook's
/// log stays.
async fn search_webhook(
    api: &Api,
    tenant: &Tenant,
    webhook: WebhookId,
    wanted: &Search,
) -> Result<(DeliveryRows, bool)> {
    let client = api.pool.get().await?;
    let debug = check_exists(&client, tenant, webhook).await?;
    // Both are meant: the one in the path, and those in the filter.
    let is_wanted = wanted
        .webhooks
        .as_ref()
        .is_none_or(|ids| ids.contains(&webhook));
    let webhooks = if is_wanted { &[webhook][..] } else { &[] };
    let found = search(&client, tenant, webhooks, wanted).await?;
    Ok((found, debug))
}

/// Refuses what isn't the tenant's webhook; answers whether it is in debug mode.
///
/// # Errors
/// 404 if there is none. One that is deleted still has its log.
pub async fn check_exists(client: &Client, tenant: &Tenant, webhook: WebhookId) -> Result<bool> {
    let statement = client
        .prepare_cached(
            "-- webhook_exists\nSELECT debug_mode FROM webhooks WHERE id = $1 AND tenant = $2",
        )
        .await?;
    let row = client.query_opt(&statement, &[&webhook, tenant]).await?;
    row.map(|row| row.get(0))
        .ok_or_else(|| NotFound::webhook(webhook).into())
}

/// Show a delivery
///
/// With its attempts, the latest 100, and what it waited for beside its schedule.
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_delivery", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = DeliveryId, Path)),
    responses((status = 200, description = "The delivery.", body = DeliveryDetail)),
)]
pub async fn show(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(id): Id<DeliveryId>,
) -> Result<Json<DeliveryDetail>> {
    let delivery = find(&api, &acting.tenant, id).await?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- delivery_attempts\n\
             SELECT n, started_at, duration_ms, outcome, status_code, error, remote_address, \
                    response_headers, response_body, request_host, request_headers, \
                    request_bytes, request_body, debug, next_attempt_at, next_attempt_reason \
             FROM (SELECT * FROM attempts WHERE delivery_id = $1 ORDER BY n DESC LIMIT $2) latest \
             ORDER BY n",
        )
        .await?;
    let attempts = client.query(&statement, &[&id, &SHOWN_ATTEMPTS]).await?;
    drop(client);
    let mut attempt_log: Vec<_> = attempts.iter().map(Attempt::from_row).collect();
    compose_again(&api, &acting.tenant, id, &mut attempt_log).await?;
    Ok(Json(DeliveryDetail {
        attempt_log,
        waits: waits(&api, id).await?,
        expires_at: match delivery.finished_at {
            Some(_) => None,
            None => expires_at(&api, id).await?,
        },
        delivery,
    }))
}

/// When a delivery is too old. Dispatchers decide the same: see `max_age` in their
/// `endpoint::cache`, and [`Job::ages_from`](shared::job::Job::ages_from).
async fn expires_at(api: &Api, delivery: DeliveryId) -> Result<Option<Timestamp>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- age_limit_of_delivery\n\
             SELECT d.restarted_at, e.occurred_at, t.max_age_s, coalesce(w.dialect, t.dialect) AS dialect \
             FROM deliveries d \
             CROSS JOIN LATERAL (SELECT tenant, occurred_at FROM events \
                 WHERE uid = d.event_uid AND uid >= $2 AND uid <= $3 LIMIT 1) e \
             JOIN tenants t ON t.id = e.tenant JOIN webhooks w ON w.id = d.webhook_id \
             WHERE d.id = $1",
        )
        .await?;
    let (first, last) = same_millisecond(delivery.uuid());
    let row = client
        .query_opt(&statement, &[&delivery, &first, &last])
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let Some(dialect) = api.dialects.get(row.get("dialect")) else {
        return Ok(None);
    };
    let policy = dialect.policy();
    let tenants = row.get::<_, Option<i32>>("max_age_s");
    let limit = tenants.map_or(policy.max_age, |seconds| Duration::seconds(seconds.into()));
    let occurred_at: OffsetDateTime = row.get("occurred_at");
    let ages_from = match (row.get("restarted_at"), policy.since) {
        (Some(restarted_at), _) => restarted_at,
        (None, Since::AcceptedAt) => delivery.accepted_at(),
        (None, Since::OccurredAt) => occurred_at.min(delivery.accepted_at()),
    };
    Ok(Some(Timestamp(ages_from + limit)))
}

/// What a delivery waited for without an attempt: see `add_wait` in shared/migrations.
async fn waits(api: &Api, delivery: DeliveryId) -> Result<Vec<Wait>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- delivery_waits\n\
             SELECT w.* FROM deliveries d CROSS JOIN LATERAL jsonb_to_recordset(d.waits) \
                 AS w (because text, attempts smallint, first_at timestamptz, until timestamptz, \
                       times integer) \
             WHERE d.id = $1",
        )
        .await?;
    let rows = client.query(&statement, &[&delivery]).await?;
    Ok(rows.iter().map(Wait::from_row).collect())
}

/// Composes the bodies that weren't stored, the latest first. One that isn't as long as the one
/// that was sent is left out: the webhook's dialect has changed since.
async fn compose_again(
    api: &Api,
    tenant: &Tenant,
    delivery: DeliveryId,
    attempts: &mut [Attempt],
) -> Result<()> {
    let lacks =
        |attempt: &Attempt| attempt.request_body.is_none() && attempt.request_bytes.is_some();
    if !attempts.iter().any(lacks) {
        return Ok(());
    }
    let Some(composed) = Composed::read(api, tenant, delivery).await? else {
        return Ok(());
    };
    let _permit = cpu::permit(tenant).await?;
    block_in_place(|| {
        let mut left = COMPOSED_BYTES;
        for attempt in attempts.iter_mut().rev().filter(|attempt| lacks(attempt)) {
            let body = composed.at(attempt.started_at.0).body;
            // A body that isn't shown has been composed, too.
            let Some(rest) = left.checked_sub(body.len()) else {
                break;
            };
            left = rest;
            if attempt.request_bytes == i32::try_from(body.len()).ok() {
                attempt.request_body = Some(String::from_utf8_lossy(&body).into_owned());
                attempt.composed = true;
            }
        }
    });
    Ok(())
}

/// A tenant's delivery.
///
/// # Errors
/// If there is none.
pub async fn find(api: &Api, tenant: &Tenant, id: DeliveryId) -> Result<Delivery> {
    find_opt(api, tenant, id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no delivery {id}")))
}

/// A tenant's delivery, if there is one of this id.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find_opt(api: &Api, tenant: &Tenant, id: DeliveryId) -> Result<Option<Delivery>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- show_delivery\n\
             SELECT {COLUMNS} FROM deliveries d {WITH_ITS_EVENT} WHERE d.id = $1 AND e.tenant = $4"
        ))
        .await?;
    let (first, last) = same_millisecond(id.uuid());
    let rows = client
        .query(&statement, &[&id, &first, &last, tenant])
        .await?;
    let mut found = deliveries(&client, &api.dialects, &rows, LARGEST_MAX_PAYLOAD).await?;
    Ok(found.pop())
}
