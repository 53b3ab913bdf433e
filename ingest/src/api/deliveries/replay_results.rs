//! What became of the deliveries that a replay began again.
//!
//! They are found by the time at which they began again (index `deliveries_restarted`), so only
//! they are read. A delivery that was begun again by something else since then isn't counted.

use std::collections::BTreeMap;

use deadpool_postgres::Client;
use serde::Serialize;
use shared::clock;
use shared::ids::{Tenant, WebhookId, first_uuid_at};
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::api::http::problem::Result;
use crate::timestamp::Timestamp;

/// How many deliveries are counted.
const COUNTED: i64 = 10_000;
/// The most steps of a series.
const STEPS: i64 = 60;

/// What became of deliveries that began again.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(example = json!({
    "taken": 241, "waiting": 20, "failed_again": 13,
    "by_class": [{"class": "5xx", "deliveries": 11}, {"class": "none", "deliveries": 2}],
    "counted": true, "step_seconds": 1,
    "series": [{"at": "2026-11-26T10:39:30.000Z", "begun": 2}, {"at": "2026-11-26T10:39:31.000Z", "begun": 3}],
}))]
pub struct ReplayResults {
    /// Delivered.
    pub taken: i64,
    /// Not attempted since they began again.
    pub waiting: i64,
    /// Attempted since then, and not delivered; another attempt may be planned.
    pub failed_again: i64,
    /// Those that failed again, by the class of the latest answer.
    pub by_class: Vec<FailedAgain>,
    /// Whether all were counted: counting stops at 10,000 deliveries.
    pub counted: bool,
    /// The length of each step of `series`, in seconds.
    pub step_seconds: i64,
    /// How many deliveries began again, in at most 60 steps; empty if not all were counted.
    pub series: Vec<BegunAgain>,
}

/// How many deliveries began again in a step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayBegunAgain)]
pub struct BegunAgain {
    /// The beginning of the step.
    pub at: Timestamp,
    pub begun: i64,
}

/// How many deliveries failed again with a class of answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayFailedAgain)]
pub struct FailedAgain {
    /// `3xx`, `4xx`, `5xx`, or `none`: there was no answer.
    #[schema(example = "5xx")]
    pub class: String,
    pub deliveries: i64,
}

/// Of the replay with this row.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn results(client: &Client, tenant: &Tenant, replay: &Row) -> Result<ReplayResults> {
    let webhooks = match replay.get::<_, Option<WebhookId>>("webhook_id") {
        Some(webhook) => vec![webhook],
        None => all_webhooks(client, tenant).await?,
    };
    let since: OffsetDateTime = replay.get("since");
    let until: OffsetDateTime = replay.get("until");
    let statement = client
        .prepare_cached(
            "-- replay_results\n\
             SELECT what, class, step, count(*) AS deliveries FROM ( \
                 SELECT CASE WHEN s.state = 'delivered' THEN 'taken' \
                             WHEN s.attempts > s.attempts_before THEN 'failed' \
                             ELSE 'waiting' END AS what, \
                     coalesce((s.status_code / 100)::text || 'xx', 'none') AS class, \
                     floor(extract(epoch FROM s.restarted_at - $2::timestamptz)::float8 / $7::float8)::int8 AS step \
                 FROM unnest($1::uuid[]) AS w (id) CROSS JOIN LATERAL ( \
                     SELECT d.state, d.attempts, d.attempts_before, d.status_code, d.restarted_at FROM deliveries d \
                     WHERE d.webhook_id = w.id AND d.restarted_at >= $2 AND d.restarted_at <= $3 \
                       AND d.id >= $4 AND d.id < $5 \
                     LIMIT $6) s \
                 LIMIT $6) counted \
             GROUP BY what, class, step",
        )
        .await?;
    // The last step's deliveries begin again before it says that it was the last. A second for
    // clocks that are apart.
    let begun: OffsetDateTime = replay.get("created_at");
    let ended: Option<OffsetDateTime> = replay.get("finished_at");
    let took = ended.unwrap_or_else(clock::now) - begun;
    let step = took.whole_seconds().max(0) / STEPS + 1;
    let rows = client
        .query(
            &statement,
            &[
                &webhooks,
                &begun,
                &ended.map_or(clock::now() + Duration::HOUR, |at| at + Duration::SECOND),
                &first_uuid_at(since),
                &first_uuid_at(until),
                &COUNTED,
                &(step as f64),
            ],
        )
        .await?;
    let mut results = ReplayResults::default();
    let mut by_class = BTreeMap::new();
    // Steps without a delivery are listed, too, so that a chart has no gaps.
    let mut steps: BTreeMap<i64, i64> = (0..=took.whole_seconds().max(0) / step)
        .map(|n| (n, 0))
        .collect();
    let last = steps.len() as i64 - 1;
    for row in &rows {
        let deliveries: i64 = row.get("deliveries");
        let at: i64 = row.get("step");
        *steps.entry(at.clamp(0, last)).or_default() += deliveries;
        match row.get("what") {
            "taken" => results.taken += deliveries,
            "waiting" => results.waiting += deliveries,
            _ => {
                results.failed_again += deliveries;
                *by_class.entry(row.get("class")).or_default() += deliveries;
            }
        }
    }
    let by_class = by_class.into_iter();
    results.by_class = by_class
        .map(|(class, deliveries)| FailedAgain { class, deliveries })
        .collect();
    results.counted = results.taken + results.waiting + results.failed_again < COUNTED;
    results.step_seconds = step;
    if results.counted {
        results.series = steps
            .into_iter()
            .map(|(n, deliveries)| BegunAgain {
                at: Timestamp(begun + Duration::seconds(n * step)),
                begun: deliveries,
            })
            .collect();
    }
    Ok(results)
}

/// Deleted ones too: their log stays.
async fn all_webhooks(client: &Client, tenant: &Tenant) -> Result<Vec<WebhookId>> {
    let statement = client
        .prepare_cached("-- webhooks_of_replay\nSELECT id FROM webhooks WHERE tenant = $1")
        .await?;
    let rows = client.query(&statement, &[tenant]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
