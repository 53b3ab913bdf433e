//! The figures of a window: its counts, and the ratios of them.

use deadpool_postgres::Client;
use serde::Serialize;
use shared::stats::Tally;
use utoipa::ToSchema;

use crate::api::http::problem::Result;
use crate::api::webhooks::stats::window::moment;
use crate::timestamp::Timestamp;

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

impl Figures {
    pub(super) fn new(tally: &Tally) -> Self {
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

/// What is known of the window before, to compare with.
#[derive(Serialize, ToSchema)]
pub struct EarlierFigures {
    /// The beginning of that window. It ends where the other one begins.
    pub since: Timestamp,
    /// Deliveries that succeeded.
    pub successful_deliveries: i64,
    /// Deliveries that failed for good: `failed` and `expired`.
    pub failed_deliveries: i64,
    /// Successful deliveries as a share of successful and failed ones, from 0 to 1.
    #[schema(required, example = 0.998)]
    pub success_rate: Option<f64>,
    /// The share of these that succeeded at the first attempt.
    #[schema(required, example = 0.98)]
    pub first_try_success_rate: Option<f64>,
    /// Requests.
    pub attempts: i64,
}

/// Adds up in PostgreSQL: without response times there is little to read.
pub(super) async fn stats_before(
    client: &Client,
    subject: &str,
    since: i64,
    until: i64,
) -> Result<EarlierFigures> {
    let statement = client
        .prepare_cached(
            "-- stats_before\n\
             SELECT coalesce(sum(delivered), 0)::int8 AS delivered, \
                 coalesce(sum(delivered_at_once), 0)::int8 AS delivered_at_once, \
                 coalesce(sum(failed + expired), 0)::int8 AS failed, \
                 coalesce(sum((SELECT sum(o) FROM unnest(outcomes) AS o)), 0)::int8 AS attempts \
             FROM stats WHERE subject = $1 AND quarter >= to_timestamp($2::float8) \
                 AND quarter < to_timestamp($3::float8)",
        )
        .await?;
    let row = client
        .query_one(&statement, &[&subject, &(since as f64), &(until as f64)])
        .await?;
    let (delivered, failed): (i64, i64) = (row.get("delivered"), row.get("failed"));
    let decided = delivered + failed;
    Ok(EarlierFigures {
        since: moment(since),
        successful_deliveries: delivered,
        failed_deliveries: failed,
        success_rate: share(delivered, decided),
        first_try_success_rate: share(row.get("delivered_at_once"), decided),
        attempts: row.get("attempts"),
    })
}

fn share(part: i64, of: i64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}
