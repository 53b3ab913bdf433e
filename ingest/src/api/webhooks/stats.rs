//! Delivery statistics of a webhook, or of all webhooks of a tenant.
//!
//! Dispatchers count outcomes into one row per quarter of an hour. Here those rows
//! are added up, so an answer costs what its window costs, however many deliveries
//! there were.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use serde::{Deserialize, Serialize};
use shared::clock;
use shared::ids::{Tenant, WebhookId};
use shared::stats::{OUTCOMES, PERIOD, Subject, Tally, WAITS};
use time::OffsetDateTime;
use tokio_postgres::Row;
use utoipa::{IntoParams, ToSchema};
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

/// `/api/v1/stats`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(of_tenant))
}

/// `/api/v1/webhooks/{id}/stats`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(of_one_webhook))
}

/// The time window of statistics.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// The last hour, day, week, or thirty days.
    #[serde(default)]
    #[param(inline, required = false)]
    pub window: Window,
}

/// The last hour, day, week, or thirty days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Window {
    #[serde(rename = "1h")]
    Hour,
    #[default]
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
}

impl Window {
    /// The length of the window, and of each step of its series, in seconds.
    pub fn lengths(self) -> (i64, i64) {
        const HOUR: i64 = 3600;
        match self {
            Self::Hour => (HOUR, PERIOD),
            Self::Day => (24 * HOUR, HOUR / 2),
            Self::Week => (7 * 24 * HOUR, 6 * HOUR),
            Self::Month => (30 * 24 * HOUR, 24 * HOUR),
        }
    }
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
}

/// The counts, and ratios of them.
#[derive(Serialize, ToSchema)]
pub struct Figures {
    /// Deliveries that ended.
    pub total_deliveries: i64,
    /// Deliveries that succeeded.
    pub successful_deliveries: i64,
    /// Deliveries that failed for good: `failed` and `expired`.
    pub failed_deliveries: i64,
    /// Deliveries whose webhook was deleted or switched off.
    pub cancelled_deliveries: i64,
    /// Successful deliveries as a share of successful and failed ones, from 0 to 1.
    #[schema(required, example = 0.998)]
    pub success_rate: Option<f64>,
    /// The share of these that succeeded at the first attempt.
    #[schema(required, example = 0.98)]
    pub first_try_success_rate: Option<f64>,
    /// Requests.
    pub attempts: i64,
    /// Requests that were not the first of their delivery.
    pub retries: i64,
    /// Retries as a share of all requests.
    #[schema(required, example = 0.02)]
    pub retry_rate: Option<f64>,
    /// The mean response time of attempts that were answered or timed out.
    #[schema(required, example = 152.3)]
    pub average_response_time_ms: Option<f64>,
    /// Half of the attempts took no longer. Percentiles are accurate to about a tenth.
    #[schema(required, example = 120.0)]
    pub p50_response_time_ms: Option<f64>,
    #[schema(required, example = 410.0)]
    pub p95_response_time_ms: Option<f64>,
    #[schema(required, example = 900.0)]
    pub p99_response_time_ms: Option<f64>,
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
    let stats = stats(&client, subject, query.window).await?;
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
    let stats = stats(&client, subject, query.window).await?;
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

async fn stats(client: &Client, subject: Subject<'_>, window: Window) -> Result<Stats> {
    let subject = subject.to_string();
    let now = clock::now();
    let (length, step) = window.lengths();
    let since = floor(now.unix_timestamp() - length, PERIOD);
    let rows = stats_since(client, &subject, since).await?;
    let (last_delivery_at, last_failure_at) = last_times(client, &subject).await?;

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
        series: steps
            .iter()
            .map(|(at, tally)| Step {
                at: moment(*at),
                figures: Figures::new(tally),
            })
            .collect(),
        endpoints: None,
        beside: Beside::new(),
    })
}

pub fn floor(at: i64, step: i64) -> i64 {
    at - at.rem_euclid(step)
}

pub fn moment(at: i64) -> Timestamp {
    // Within thirty days of now.
    Timestamp(OffsetDateTime::from_unix_timestamp(at).unwrap_or(OffsetDateTime::UNIX_EPOCH))
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

impl Figures {
    fn new(tally: &Tally) -> Self {
        let share = |part: i64, of: i64| (of > 0).then(|| part as f64 / of as f64);
        let rounded = |ms: f64| (ms * 10.0).round() / 10.0;
        let percentile = |share| tally.percentile(share).map(rounded);
        Self {
            total_deliveries: tally.decided() + tally.cancelled,
            successful_deliveries: tally.delivered,
            failed_deliveries: tally.failed + tally.expired,
            cancelled_deliveries: tally.cancelled,
            success_rate: share(tally.delivered, tally.decided()),
            first_try_success_rate: share(tally.delivered_at_once, tally.decided()),
            attempts: tally.attempts(),
            retries: tally.retries,
            retry_rate: share(tally.retries, tally.attempts()),
            average_response_time_ms: tally.mean().map(rounded),
            p50_response_time_ms: percentile(0.5),
            p95_response_time_ms: percentile(0.95),
            p99_response_time_ms: percentile(0.99),
        }
    }
}

/// The state of a webhook's endpoint, judged by its latest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing was sent to it lately.
    Unused,
    /// At most one attempt in twenty failed.
    Healthy,
    /// At most half of the attempts failed.
    Degraded,
    /// More than half of the attempts failed.
    Failing,
}

/// What a list of webhooks shows of each webhook's deliveries.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// The state of the endpoint.
    pub health: Health,
    /// When the last attempt was made.
    pub last_triggered: Option<Timestamp>,
}

impl Summary {
    /// The summary of a webhook that nothing was sent to.
    pub const UNUSED: Self = Self {
        health: Health::Unused,
        last_triggered: None,
    };
}

/// The summaries of these webhooks. A missing one is [`Summary::UNUSED`].
///
/// # Errors
/// If PostgreSQL fails.
pub async fn summaries(
    client: &Client,
    webhooks: &[WebhookId],
) -> Result<HashMap<WebhookId, Summary>> {
    /// Four quarters of an hour, for four dispatchers.
    const LATE: i64 = 16;
    let statement = client
        .prepare_cached(
            "-- summaries\n\
             SELECT w.id, s.last, s.attempts, s.successes \
             FROM unnest($1::uuid[], $2::text[]) AS w (id, subject) CROSS JOIN LATERAL ( \
                 SELECT max(last_attempt_at) AS last, sum(outcomes[1]) AS successes, \
                     sum((SELECT sum(o) FROM unnest(outcomes) AS o))::int8 AS attempts \
                 FROM (SELECT last_attempt_at, outcomes FROM stats WHERE subject = w.subject \
                     ORDER BY quarter DESC LIMIT $3) late) s \
             WHERE s.last IS NOT NULL",
        )
        .await?;
    let subjects: Vec<_> = webhooks
        .iter()
        .map(|id| Subject::Webhook(*id).to_string())
        .collect();
    let rows = client
        .query(&statement, &[&webhooks, &subjects, &LATE])
        .await?;
    let read = |row: &Row| {
        let summary = Summary {
            health: health(row.get("successes"), row.get::<_, i64>("attempts")),
            last_triggered: row.get("last"),
        };
        (row.get("id"), summary)
    };
    Ok(rows.iter().map(read).collect())
}

fn health(successes: i64, attempts: i64) -> Health {
    let failures = attempts - successes;
    if attempts == 0 {
        Health::Unused
    } else if failures * 20 <= attempts {
        Health::Healthy
    } else if failures * 2 <= attempts {
        Health::Degraded
    } else {
        Health::Failing
    }
}

#[cfg(test)]
mod tests;
