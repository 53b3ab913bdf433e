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

/// How many deliveries are counted.
const COUNTED: i64 = 10_000;

/// What became of deliveries that began again.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(example = json!({
    "taken": 241, "waiting": 20, "failed_again": 13,
    "by_class": [{"class": "5xx", "deliveries": 11}, {"class": "none", "deliveries": 2}],
    "counted": true,
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
             SELECT what, class, count(*) AS deliveries FROM ( \
                 SELECT CASE WHEN s.state = 'delivered' THEN 'taken' \
                             WHEN s.attempts > s.attempts_before THEN 'failed' \
                             ELSE 'waiting' END AS what, \
                     coalesce((s.status_code / 100)::text || 'xx', 'none') AS class \
                 FROM unnest($1::uuid[]) AS w (id) CROSS JOIN LATERAL ( \
                     SELECT d.state, d.attempts, d.attempts_before, d.status_code FROM deliveries d \
                     WHERE d.webhook_id = w.id AND d.restarted_at >= $2 AND d.restarted_at <= $3 \
                       AND d.id >= $4 AND d.id < $5 \
                     LIMIT $6) s \
                 LIMIT $6) counted \
             GROUP BY what, class",
        )
        .await?;
    // The last step's deliveries begin again before it says that it was the last. A second for
    // clocks that are apart.
    let ended: Option<OffsetDateTime> = replay.get("finished_at");
    let rows = client
        .query(
            &statement,
            &[
                &webhooks,
                &replay.get::<_, OffsetDateTime>("created_at"),
                &ended.map_or(clock::now() + Duration::HOUR, |at| at + Duration::SECOND),
                &first_uuid_at(since),
                &first_uuid_at(until),
                &COUNTED,
            ],
        )
        .await?;
    let mut results = ReplayResults::default();
    let mut by_class = BTreeMap::new();
    for row in &rows {
        let deliveries: i64 = row.get("deliveries");
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
