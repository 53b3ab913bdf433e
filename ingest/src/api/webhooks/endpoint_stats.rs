//! The figures of each webhook of a tenant, for dialects whose clients read them in the
//! tenant's statistics.

use std::collections::BTreeMap;

use deadpool_postgres::Client;
use serde::Serialize;
use shared::ids::{Tenant, WebhookId};
use shared::stats::Subject;

use crate::api::http::problem::Result;
use crate::timestamp::Timestamp;

/// The most webhooks that are shown, the newest first: each has thousands of rows a month.
const SHOWN: i64 = 100;

/// What is shown of a webhook.
#[derive(Default, Serialize)]
pub struct EndpointFigures {
    url: String,
    total_deliveries: i64,
    successful_deliveries: i64,
    failed_deliveries: i64,
    /// From 0 to 1.
    success_rate: Option<f64>,
    /// In milliseconds.
    average_response_time: Option<f64>,
}

/// The figures since a time, of one webhook or of all.
///
/// # Errors
/// If PostgreSQL fails.
pub(super) async fn endpoints(
    client: &Client,
    tenant: &Tenant,
    only: Option<WebhookId>,
    since: Timestamp,
) -> Result<BTreeMap<WebhookId, EndpointFigures>> {
    let statement = client
        .prepare_cached(
            "-- endpoints_of_tenant\n\
             SELECT id, url FROM webhooks \
             WHERE tenant = $1 AND status <> 'deleted' AND ($2::uuid IS NULL OR id = $2) \
             ORDER BY id DESC LIMIT $3",
        )
        .await?;
    let webhooks = client.query(&statement, &[tenant, &only, &SHOWN]).await?;
    let ids = webhooks.iter().map(|row| row.get::<_, WebhookId>("id"));
    let by_subject: BTreeMap<String, WebhookId> = ids
        .map(|id| (Subject::Webhook(id).to_string(), id))
        .collect();
    let mut figures: BTreeMap<WebhookId, EndpointFigures> = webhooks
        .iter()
        .map(|row| {
            let url = row.get("url");
            let unused = EndpointFigures {
                url,
                ..EndpointFigures::default()
            };
            (row.get("id"), unused)
        })
        .collect();

    let statement = client
        .prepare_cached(
            "-- endpoint_stats\n\
             SELECT subject, sum(delivered)::int8 AS delivered, sum(failed + expired)::int8 AS failed, \
                 sum(cancelled)::int8 AS cancelled, sum(response_ms)::int8 AS response_ms, \
                 sum((SELECT sum(n) FROM unnest(response_times) AS n))::int8 AS answered \
             FROM stats WHERE subject = ANY($1) AND quarter >= $2 GROUP BY subject",
        )
        .await?;
    let subjects: Vec<_> = by_subject.keys().collect();
    for row in client.query(&statement, &[&subjects, &since]).await? {
        let id = by_subject.get(row.get::<_, &str>("subject"));
        let Some(of) = id.and_then(|id| figures.get_mut(id)) else {
            continue;
        };
        let count = |column: &str| row.get::<_, i64>(column);
        let (delivered, failed) = (count("delivered"), count("failed"));
        let share = |part: i64, all: i64| (all > 0).then(|| part as f64 / all as f64);
        of.total_deliveries = delivered + failed + count("cancelled");
        of.successful_deliveries = delivered;
        of.failed_deliveries = failed;
        of.success_rate = share(delivered, delivered + failed);
        let mean = share(count("response_ms"), count("answered"));
        of.average_response_time = mean.map(|ms| (ms * 10.0).round() / 10.0);
    }
    Ok(figures)
}
