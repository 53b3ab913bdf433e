//! The endpoints for which the most deliveries wait, of all tenants: one broken endpoint then
//! doesn't look like a broken system.
//!
//! Nothing counts what waits, because a counter would be written with each delivery. So a
//! bounded number of webhooks is looked at: those whose endpoints are down or full by their
//! dispatchers' account, those that hold deliveries because they are paused, and those with
//! the most among the 10,000 deliveries that are due first. What waits for these is counted as
//! the list of webhooks counts it.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use serde::Serialize;
use shared::ids::{DeliveryId, Tenant, WebhookId};
use shared::processes::SILENCE;
use shared::stats::Subject;
use shared::{clock, endpoints};
use time::Duration;
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Operating;
use crate::api::http::problem::Result;
use crate::api::state::Shared;
use crate::api::webhooks::backlog::{Backlog, backlogs, oldest_open_day, to_come};
use crate::api::webhooks::endpoint::{EndpointReplica, replicas};
use crate::api::webhooks::health::{Health, Summary, summaries};
use crate::timestamp::Timestamp;

/// How many webhooks are looked at of each kind.
const LOOKED_AT: i64 = 10;
/// How many are shown.
const SHOWN: usize = 10;

/// `/api/v1/admin/endpoints`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list_endpoints))
}

/// The endpoints for which deliveries wait.
#[derive(Serialize, ToSchema)]
pub struct WaitingEndpoints {
    /// At most ten, those with the most deliveries first.
    pub endpoints: Vec<WaitingEndpoint>,
    /// The one whose oldest delivery has waited the longest.
    #[schema(required)]
    pub longest: Option<WaitingEndpoint>,
}

/// An endpoint for which deliveries wait.
#[derive(Clone, Serialize, ToSchema)]
pub struct WaitingEndpoint {
    pub tenant: Tenant,
    pub webhook_id: WebhookId,
    #[schema(example = "Warehouse")]
    pub description: String,
    /// The host of the webhook's URL.
    #[schema(required, example = "warehouse.example.com")]
    pub host: Option<String>,
    /// The webhook's status.
    #[schema(example = "active")]
    pub status: String,
    pub health: Health,
    /// Since when the endpoint is down; `null`: it isn't.
    #[schema(required)]
    pub down_since: Option<Timestamp>,
    /// How many deliveries wait, at most 1,000.
    #[schema(example = 902)]
    pub waiting: i64,
    /// `false`: more wait.
    #[schema(example = true)]
    pub waiting_counted: bool,
    /// When the event of the oldest delivery was accepted.
    pub oldest_waiting_at: Timestamp,
    pub oldest_delivery_id: DeliveryId,
    /// Why the oldest delivery waits: as `waits` of a delivery, or `schedule`; `null`: nothing
    /// keeps it.
    #[schema(required, example = "endpoint_down")]
    pub reason: Option<String>,
    /// Successful deliveries of the last 24 hours as a share of successful and failed ones,
    /// from 0 to 1.
    #[schema(required, example = 0.416)]
    pub success_rate_24h: Option<f64>,
    /// The dispatchers for which the endpoint is down, or had no free permit in the last ten
    /// seconds.
    pub replicas: Vec<EndpointReplica>,
}

/// List endpoints for which the most deliveries wait
///
/// Of all tenants. A bounded number of webhooks is looked at: those whose endpoints are down or
/// full, paused ones, and those with the most among the 10,000 deliveries that are due first.
#[utoipa::path(
    get, path = "/endpoints", operation_id = "list_endpoints", tag = "operations",
    security(("token" = ["operator"])),
    responses((status = 200, description = "The endpoints.", body = WaitingEndpoints)),
)]
pub async fn list_endpoints(
    _: Operating,
    State(api): State<Shared>,
) -> Result<Json<WaitingEndpoints>> {
    let client = api.pool.get().await?;
    let webhooks = candidates(&client).await?;
    let ids: Vec<WebhookId> = webhooks.iter().map(|row| row.get("id")).collect();
    let backlogs = backlogs(&client, &ids).await?;
    let mut ranked: Vec<_> = webhooks
        .iter()
        .filter_map(|row| {
            let backlog = *backlogs.get(&row.get::<_, WebhookId>("id"))?;
            Some((row, backlog, backlog.oldest?))
        })
        .collect();
    let longest = ranked
        .iter()
        .min_by_key(|(_, _, oldest)| oldest.uuid())
        .map(|(row, ..)| row.get::<_, WebhookId>("id"));
    ranked.sort_by_key(|(_, backlog, oldest)| (-backlog.waiting, oldest.uuid()));
    let beyond = ranked.split_off(ranked.len().min(SHOWN));
    let beyond = beyond
        .into_iter()
        .filter(|(row, ..)| Some(row.get("id")) == longest);
    ranked.extend(beyond);
    let all = described(&client, &ranked).await?;
    Ok(Json(WaitingEndpoints {
        longest: all
            .iter()
            .find(|one| Some(one.webhook_id) == longest)
            .cloned(),
        endpoints: all.into_iter().take(SHOWN).collect(),
    }))
}

/// A webhook's row, what waits for it, and the oldest of that.
type Ranked<'a> = (&'a Row, Backlog, DeliveryId);

async fn described(client: &Client, ranked: &[Ranked<'_>]) -> Result<Vec<WaitingEndpoint>> {
    let ids: Vec<WebhookId> = ranked.iter().map(|(row, ..)| row.get("id")).collect();
    let deliveries: Vec<_> = ranked.iter().map(|(_, _, oldest)| *oldest).collect();
    let down = endpoints::down(client, &ids).await?;
    let summaries = summaries(client, &ids).await?;
    let rates = success_rates(client, &ids).await?;
    let reasons = reasons(client, &deliveries).await?;
    let mut all = Vec::with_capacity(ranked.len());
    for (row, backlog, oldest) in ranked {
        let id: WebhookId = row.get("id");
        let summary = summaries.get(&id).copied().unwrap_or(Summary::UNUSED);
        let host = url::Url::parse(row.get("url")).ok();
        all.push(WaitingEndpoint {
            tenant: row.get("tenant"),
            webhook_id: id,
            description: row.get("description"),
            host: host.and_then(|url| url.host_str().map(str::to_owned)),
            status: row.get("status"),
            health: summary.health,
            down_since: down.get(&id).map(|down| Timestamp(down.since)),
            waiting: backlog.waiting,
            waiting_counted: backlog.counted,
            oldest_waiting_at: Timestamp(oldest.accepted_at()),
            oldest_delivery_id: *oldest,
            reason: reasons.get(oldest).cloned().flatten(),
            success_rate_24h: rates.get(&id).copied().flatten(),
            replicas: replicas(client, id).await?,
        });
    }
    Ok(all)
}

async fn candidates(client: &Client) -> Result<Vec<Row>> {
    let since = oldest_open_day(client).await?;
    let statement = client
        .prepare_cached(
            "-- waiting_endpoints\n\
             WITH troubled AS ( \
                 SELECT e.webhook_id FROM endpoints e JOIN processes p ON p.id = e.process_id \
                 WHERE p.told_at > now() - make_interval(secs => $1) \
                   AND (e.circuit <> 'closed' OR e.told_at > now() - interval '15 seconds') \
                 GROUP BY e.webhook_id ORDER BY min(e.open_since) LIMIT $2), \
             held AS (SELECT webhook_id FROM holds ORDER BY held_at LIMIT $2), \
             due AS ( \
                 SELECT webhook_id FROM ( \
                     SELECT webhook_id FROM deliveries \
                     WHERE state IN ('queued', 'retrying') AND id >= $3 AND id < $4 \
                       AND due_at IS NOT NULL \
                     ORDER BY due_at LIMIT 10000) first \
                 GROUP BY webhook_id ORDER BY count(*) DESC LIMIT $2) \
             SELECT id, tenant, description, url, status FROM webhooks \
             WHERE status <> 'deleted' AND id IN ( \
                 SELECT webhook_id FROM troubled UNION SELECT webhook_id FROM held \
                 UNION SELECT webhook_id FROM due)",
        )
        .await?;
    let (silence, to_come) = (f64::from(SILENCE), to_come());
    Ok(client
        .query(&statement, &[&silence, &LOOKED_AT, &since, &to_come])
        .await?)
}

/// Why these deliveries wait.
async fn reasons(
    client: &Client,
    deliveries: &[DeliveryId],
) -> Result<HashMap<DeliveryId, Option<String>>> {
    let uuids = || deliveries.iter().map(|id| id.uuid());
    let (Some(first), Some(last)) = (uuids().min(), uuids().max()) else {
        return Ok(HashMap::new());
    };
    let statement = client
        .prepare_cached(
            "-- reasons_of_oldest\n\
             SELECT id, coalesce(deferred_because, \
                 CASE WHEN state = 'retrying' THEN 'schedule' END) AS reason \
             FROM deliveries WHERE id = ANY($1) AND id >= $2 AND id <= $3",
        )
        .await?;
    let rows = client
        .query(&statement, &[&deliveries, &first, &last])
        .await?;
    let reasons = rows.iter().map(|row| (row.get("id"), row.get("reason")));
    Ok(reasons.collect())
}

/// Of the deliveries that ended in the last 24 hours.
async fn success_rates(
    client: &Client,
    webhooks: &[WebhookId],
) -> Result<HashMap<WebhookId, Option<f64>>> {
    let statement = client
        .prepare_cached(
            "-- success_of_waiting\n\
             SELECT w.id, sum(s.delivered)::float8 \
                 / nullif(sum(s.delivered + s.failed + s.expired), 0)::float8 AS rate \
             FROM unnest($1::uuid[], $2::text[]) AS w (id, subject) \
             JOIN stats s ON s.subject = w.subject AND s.quarter >= $3 GROUP BY w.id",
        )
        .await?;
    let subjects: Vec<_> = webhooks
        .iter()
        .map(|id| Subject::Webhook(*id).to_string())
        .collect();
    let since = clock::now() - Duration::hours(24);
    let rows = client
        .query(&statement, &[&webhooks, &subjects, &since])
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get("id"), row.get("rate")))
        .collect())
}
