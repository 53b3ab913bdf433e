//! Delivery statistics of a webhook, or of all webhooks of a tenant.
//!
//! Dispatchers count outcomes into one row per quarter of an hour. Here those rows
//! are added up, so an answer costs what its window costs, however many deliveries
//! there were.

pub mod figures;
pub mod window;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use serde::Serialize;
use shared::clock;
use shared::ids::{Tenant, WebhookId};
use shared::stats::{OUTCOMES, PERIOD, Subject, Tally, WAITS};
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{OwnReading, Reading};
use crate::api::beside::{Beside, beside};
use crate::api::deliveries::check_exists;
use crate::api::http::problem::Result;
use crate::api::http::request::{Id, Parameters};
use crate::api::state::{Api, Shared};
use crate::api::webhooks::endpoint_stats::{EndpointFigures, endpoints};
use crate::timestamp::Timestamp;

use figures::{EarlierFigures, Figures, stats_before};
use window::{StatsQuery, Window, floor, moment};

/// `/api/v1/stats`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(of_tenant))
}

/// `/api/v1/webhooks/{id}/stats`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(of_one_webhook))
}

/// Delivery statistics. A delivery counts at the time at which it ended. One that begins again
/// counts again. Tests don't count.
#[derive(Serialize, ToSchema)]
pub struct Stats {
    pub window: Window,
    /// The beginning of the window, rounded down to a quarter of an hour.
    pub since: Timestamp,
    pub until: Timestamp,
    #[serde(flatten)]
    pub totals: Figures,
    /// Failed attempts by class: `timeout`, `dns`, `connect`, `tls`, `broken`,
    /// `forbidden`, `redirect`, `client_error`, `server_error`.
    #[schema(example = json!({"timeout": 3, "server_error": 12}))]
    pub failures_by_class: BTreeMap<&'static str, i64>,
    /// How often deliveries were put off without an attempt, by reason: `endpoint_full`,
    /// `endpoint_down`, `rate_limited`, `in_flight`, `unknown_webhook`, `unknown_dialect`,
    /// `paused`.
    #[schema(example = json!({"endpoint_down": 120, "rate_limited": 3}))]
    pub deferrals_by_reason: BTreeMap<&'static str, i64>,
    /// When a delivery last succeeded, even if that was before the window.
    #[schema(required)]
    pub last_delivery_at: Option<Timestamp>,
    /// When a delivery last failed for good, even if that was before the window.
    #[schema(required)]
    pub last_failure_at: Option<Timestamp>,
    /// The window before, which is as long; `null`: statistics aren't kept for that long.
    #[schema(required)]
    pub previous: Option<EarlierFigures>,
    /// The window in steps of equal length, for a chart.
    pub series: Vec<Step>,
    /// The figures of each webhook, if the dialect shows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub endpoints: Option<BTreeMap<WebhookId, EndpointFigures>>,
    /// The members that the dialect's system has in addition.
    #[serde(flatten)]
    #[schema(ignore)]
    pub beside: Beside,
}

/// A step of the window.
#[derive(Serialize, ToSchema)]
pub struct Step {
    /// The beginning of the step.
    pub at: Timestamp,
    #[serde(flatten)]
    pub figures: Figures,
    /// Requests by outcome: `success`, or a class of failures.
    #[schema(example = json!({"success": 120, "server_error": 3}))]
    pub attempts_by_outcome: BTreeMap<&'static str, i64>,
}

/// A webhook's statistics
#[utoipa::path(
    get, path = "/{id}/stats", operation_id = "webhook_stats", tag = "stats",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), StatsQuery),
    responses((status = 200, description = "The statistics.", body = Stats)),
)]
pub async fn of_one_webhook(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(query): Parameters<StatsQuery>,
) -> Result<Json<Stats>> {
    let client = api.pool.get().await?;
    check_exists(&client, &acting.tenant, webhook).await?;
    let subject = Subject::Webhook(webhook);
    let stats = stats(&client, subject, query.window, api.retention).await?;
    let only = Some(webhook);
    Ok(Json(
        with_additions(&api, &client, &acting.tenant, only, stats).await?,
    ))
}

/// A tenant's statistics
///
/// Of all its webhooks together, deleted ones too.
#[utoipa::path(
    get, path = "/", operation_id = "tenant_stats", tag = "stats",
    security(("token" = ["viewer"])),
    params(StatsQuery),
    responses((status = 200, description = "The statistics.", body = Stats)),
)]
pub async fn of_tenant(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(query): Parameters<StatsQuery>,
) -> Result<Json<Stats>> {
    let client = api.pool.get().await?;
    let subject = Subject::Tenant(&acting.tenant);
    let stats = stats(&client, subject, query.window, api.retention).await?;
    Ok(Json(
        with_additions(&api, &client, &acting.tenant, None, stats).await?,
    ))
}

/// With what the tenant's dialect adds.
async fn with_additions(
    api: &Api,
    client: &Client,
    tenant: &Tenant,
    only: Option<WebhookId>,
    mut stats: Stats,
) -> Result<Stats> {
    let dialect = api.subscriptions.dialect(tenant);
    let Some(dialect) = dialect.and_then(|name| api.dialects.get(&name)) else {
        return Ok(stats);
    };
    if dialect.additions().show_endpoints() {
        stats.endpoints = Some(endpoints(client, tenant, only, stats.since).await?);
    }
    stats.beside = beside(&dialect.additions().stats, &stats, None);
    Ok(stats)
}

/// `kept`: how long statistics are kept.
async fn stats(
    client: &Client,
    subject: Subject<'_>,
    window: Window,
    kept: Duration,
) -> Result<Stats> {
    let subject = subject.to_string();
    let now = clock::now();
    let (length, step) = window.lengths();
    let since = floor(now.unix_timestamp() - length, PERIOD);
    let rows = stats_since(client, &subject, since).await?;
    let (last_delivery_at, last_failure_at) = last_times(client, &subject).await?;
    // The window begins up to a quarter of an hour before its length.
    let previous = match 2 * length + PERIOD <= kept.whole_seconds() {
        true => Some(stats_before(client, &subject, since - length, since).await?),
        false => None,
    };

    let mut total = Tally::default();
    // Empty steps are listed, too, so that a chart has no gaps.
    let mut steps: BTreeMap<i64, Tally> = (floor(since, step)..=now.unix_timestamp())
        .step_by(step as usize)
        .map(|at| (at, Tally::default()))
        .collect();
    for row in &rows {
        let tally = Tally::read(row);
        total.add(&tally);
        let at = row.get::<_, OffsetDateTime>("quarter").unix_timestamp();
        steps.entry(floor(at, step)).or_default().add(&tally);
    }
    let failures = OUTCOMES.iter().copied().zip(total.outcomes);
    let deferrals = WAITS.iter().copied().zip(total.waits);
    Ok(Stats {
        window,
        since: moment(since),
        until: Timestamp(now),
        totals: Figures::new(&total),
        failures_by_class: failures
            .filter(|(class, count)| *class != "success" && *count > 0)
            .collect(),
        deferrals_by_reason: deferrals.filter(|(_, count)| *count > 0).collect(),
        last_delivery_at,
        last_failure_at,
        previous,
        series: steps
            .iter()
            .map(|(at, tally)| Step {
                at: moment(*at),
                figures: Figures::new(tally),
                attempts_by_outcome: OUTCOMES
                    .iter()
                    .copied()
                    .zip(tally.outcomes)
                    .filter(|(_, count)| *count > 0)
                    .collect(),
            })
            .collect(),
        endpoints: None,
        beside: Beside::new(),
    })
}

async fn stats_since(client: &Client, subject: &str, since: i64) -> Result<Vec<Row>> {
    let statement = client
        .prepare_cached(
            "-- stats_since\n\
             SELECT * FROM stats WHERE subject = $1 AND quarter >= to_timestamp($2::float8)",
        )
        .await?;
    Ok(client
        .query(&statement, &[&subject, &(since as f64)])
        .await?)
}

/// As long as statistics are kept: as many rows as a month has quarters, at most.
async fn last_times(
    client: &Client,
    subject: &str,
) -> Result<(Option<Timestamp>, Option<Timestamp>)> {
    let statement = client
        .prepare_cached(
            "-- last_times\n\
             SELECT max(last_delivered_at), max(last_failed_at) FROM stats WHERE subject = $1",
        )
        .await?;
    let row = client.query_one(&statement, &[&subject]).await?;
    Ok((row.get(0), row.get(1)))
}
