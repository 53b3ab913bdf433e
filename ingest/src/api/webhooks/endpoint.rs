//! What dispatchers know of a webhook's endpoint: whether it is down, and how many requests
//! it gets at a time. And how to have it asked at once.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use deadpool_postgres::Client;
use serde::Serialize;
use shared::endpoints;
use shared::ids::{DeliveryId, ProcessId, WebhookId};
use shared::job::Job;
use shared::processes::SILENCE;
use shared::{clock, job_delivery_columns, job_event_columns};
use time::Duration;
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{OwnManaging, OwnReading};
use crate::api::deliveries::check_exists;
use crate::api::deliveries::retries::check_active;
use crate::api::http::problem::Result;
use crate::api::http::request::Id;
use crate::api::state::Shared;
use crate::api::webhooks::health::{Health, Summary, summaries};
use crate::restart::publish;
use crate::timestamp::Timestamp;

/// By then every dispatcher has seen that it is to probe: they look every second.
const UNTIL_DISPATCHERS_KNOW: Duration = Duration::seconds(2);

/// `/api/v1/webhooks/{id}/health` and `/probe`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(show_health))
        .routes(routes!(probe))
}

/// The state of a webhook's endpoint.
#[derive(Serialize, ToSchema)]
pub struct EndpointHealth {
    pub webhook_id: WebhookId,
    /// The endpoint's state, judged by its latest answers.
    pub health: Health,
    /// Whether deliveries wait because the endpoint is down: ten requests in a row failed, and
    /// none succeeded since. It gets one request now and then.
    #[schema(example = true)]
    pub down: bool,
    /// Since when it is down.
    #[schema(required)]
    pub down_since: Option<Timestamp>,
    /// When the last request to it failed.
    #[schema(required)]
    pub last_failed_at: Option<Timestamp>,
    /// When the next request may be sent; `null`: it isn't down, or a request is in flight.
    #[schema(required)]
    pub next_probe_at: Option<Timestamp>,
    /// How many dispatchers run.
    #[schema(example = 2)]
    pub dispatchers: i64,
    /// The dispatchers for which the endpoint is down, or had no free permit in the last ten
    /// seconds. For all others it is up, and nothing waits.
    pub replicas: Vec<EndpointReplica>,
}

/// An endpoint as one dispatcher sees it.
#[derive(Clone, Serialize, ToSchema)]
pub struct EndpointReplica {
    /// The dispatcher, as in the list of processes.
    pub process_id: ProcessId,
    /// The circuit breaker: `closed` (requests are sent), `open` (none is sent before
    /// `next_probe_at`) or `probing` (one is in flight, and decides).
    #[schema(example = "open")]
    pub circuit: String,
    /// Since when it isn't closed.
    #[schema(required)]
    pub open_since: Option<Timestamp>,
    #[schema(required)]
    pub last_failed_at: Option<Timestamp>,
    #[schema(required)]
    pub next_probe_at: Option<Timestamp>,
    /// The most requests in flight at the endpoint.
    #[schema(example = 1)]
    pub permits: i32,
    /// How many requests are in flight.
    #[schema(example = 1)]
    pub in_flight: i32,
    /// When the dispatcher said this.
    pub told_at: Timestamp,
}

/// The state of a webhook's endpoint
///
/// Whether it is down or full, and for which dispatchers. They say so within a second, and
/// every ten seconds.
#[utoipa::path(
    get, path = "/{id}/health", operation_id = "webhook_health", tag = "webhooks",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path)),
    responses((status = 200, description = "The endpoint's state.", body = EndpointHealth)),
)]
pub async fn show_health(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
) -> Result<Json<EndpointHealth>> {
    let client = api.pool.get().await?;
    check_exists(&client, &acting.tenant, webhook).await?;
    let down = endpoints::down(&client, &[webhook]).await?;
    let down = down.get(&webhook);
    let summary = summaries(&client, &[webhook]).await?;
    let summary = summary.get(&webhook).copied().unwrap_or(Summary::UNUSED);
    Ok(Json(EndpointHealth {
        webhook_id: webhook,
        health: summary.health,
        down: down.is_some(),
        down_since: down.map(|down| Timestamp(down.since)),
        last_failed_at: down.map(|down| Timestamp(down.failed_at)),
        next_probe_at: down.and_then(|down| down.next_probe_at).map(Timestamp),
        dispatchers: dispatchers(&client).await?,
        replicas: replicas(&client, webhook).await?,
    }))
}

async fn dispatchers(client: &Client) -> Result<i64> {
    let statement = client
        .prepare_cached(
            "-- count_dispatchers\n\
             SELECT count(*) FROM processes \
             WHERE kind = 'dispatcher' AND told_at > now() - make_interval(secs => $1)",
        )
        .await?;
    let row = client.query_one(&statement, &[&f64::from(SILENCE)]).await?;
    Ok(row.get(0))
}

/// The dispatchers for which the endpoint is down or full.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn replicas(client: &Client, webhook: WebhookId) -> Result<Vec<EndpointReplica>> {
    let statement = client
        .prepare_cached(
            "-- endpoint_replicas\n\
             SELECT e.process_id, e.circuit, e.open_since, e.failed_at, e.next_probe_at, \
                 e.permits, e.in_flight, e.told_at \
             FROM endpoints e JOIN processes p ON p.id = e.process_id \
             WHERE e.webhook_id = $1 AND p.told_at > now() - make_interval(secs => $2) \
               AND (e.circuit <> 'closed' OR e.told_at > now() - interval '15 seconds') \
             ORDER BY e.process_id LIMIT 100",
        )
        .await?;
    let rows = client
        .query(&statement, &[&webhook, &f64::from(SILENCE)])
        .await?;
    let read = |row: &Row| EndpointReplica {
        process_id: row.get("process_id"),
        circuit: row.get("circuit"),
        open_since: row.get("open_since"),
        last_failed_at: row.get("failed_at"),
        next_probe_at: row.get("next_probe_at"),
        permits: row.get("permits"),
        in_flight: row.get("in_flight"),
        told_at: row.get("told_at"),
    };
    Ok(rows.iter().map(read).collect())
}

/// What was done to have an endpoint asked.
#[derive(Serialize, ToSchema)]
pub struct Probe {
    pub webhook_id: WebhookId,
    /// The delivery that is sent to find out; `null`: none waits for the endpoint, so the next
    /// one that is due does.
    #[schema(required)]
    pub delivery_id: Option<DeliveryId>,
    pub asked_at: Timestamp,
}

/// Ask an endpoint now
///
/// An endpoint that is down is asked with one request every five minutes at the latest. This
/// sends the oldest delivery that waits for it within a few seconds, on every dispatcher's
/// account. If the request fails, the pause after it is as long as it would have been.
#[utoipa::path(
    post, path = "/{id}/probe", operation_id = "probe_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    responses(
        (status = 202, description = "The endpoint is asked within a few seconds.", body = Probe),
        (status = 409, description = "The webhook is switched off."),
    ),
)]
pub async fn probe(
    acting: OwnManaging,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
) -> Result<(StatusCode, Json<Probe>)> {
    check_active(&api, &acting.tenant, webhook).await?;
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    let note = transaction
        .prepare_cached(
            "-- ask_for_probe\n\
             WITH old AS (DELETE FROM probes WHERE asked_at < now() - interval '1 hour' \
                 AND webhook_id <> $1) \
             INSERT INTO probes (webhook_id, asked_at) VALUES ($1, now()) \
             ON CONFLICT (webhook_id) DO UPDATE SET asked_at = now() RETURNING asked_at",
        )
        .await?;
    let asked_at = transaction.query_one(&note, &[&webhook]).await?.get(0);
    let due_at = clock::now() + UNTIL_DISPATCHERS_KNOW;
    let send = transaction.prepare_cached(SEND_AS_PROBE).await?;
    let rows = transaction
        .query(&send, &[&webhook, &due_at, &Job::ENOUGH_DATA])
        .await?;
    transaction.commit().await?;
    drop(client);
    let jobs: Vec<_> = rows.iter().map(|row| Job::read(row, due_at)).collect();
    publish(&api.publisher, &jobs).await;
    let probe = Probe {
        webhook_id: webhook,
        delivery_id: jobs.first().map(|job| job.delivery),
        asked_at,
    };
    Ok((StatusCode::ACCEPTED, Json(probe)))
}

// Among the webhook's latest deliveries: if it is down, many of these wait. The job that
// waits in a delay queue has another ticket then, and is dropped.
const SEND_AS_PROBE: &str = concat!(
    "-- send_as_probe
WITH waiting AS (
    SELECT id, due_at FROM (
        SELECT id, due_at, deferred_because FROM deliveries
        WHERE webhook_id = $1 ORDER BY id DESC LIMIT 1000) latest
    WHERE deferred_because = 'endpoint_down' AND due_at > $2
    ORDER BY id LIMIT 1
), sent AS (
    UPDATE deliveries d SET due_at = $2 FROM waiting w
    WHERE d.id = w.id AND d.due_at = w.due_at AND d.state IN ('queued', 'retrying')
    RETURNING ",
    job_delivery_columns!(),
    "
)
SELECT s.*, ",
    job_event_columns!("$3"),
    " FROM sent s JOIN events e ON e.uid = s.event_uid"
);
