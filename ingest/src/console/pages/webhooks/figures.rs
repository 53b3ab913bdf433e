//! The figures of each row in the list of webhooks: a small chart of the last day, and the response
//! time of the last hour.

use std::collections::HashMap;

use shared::clock;
use shared::ids::WebhookId;
use shared::stats::{Subject, Tally};
use time::Duration;

use crate::api::access::auth::Reading;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::state::Console;
use crate::console::visit::Visit;

/// The steps of the small charts: twelve of two hours.
const STEPS: usize = 12;
const STEP: Duration = Duration::hours(2);

/// How a webhook did of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// What was delivered and given up in each step of the last day; empty: nothing.
    pub chart: Vec<(i64, i64)>,
    /// 95 of a hundred attempts of the last hour took no longer, in milliseconds.
    pub p95_ms: Option<f64>,
}

/// The figures of these webhooks of the tenant.
pub(super) async fn figures(
    console: &Console,
    visit: &Visit,
    webhooks: &[WebhookView],
) -> Result<HashMap<WebhookId, Figures>> {
    let _permit: Reading = visit.acting().await?;
    let client = console.reads.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- charts_of_webhooks\n\
             SELECT w.id, least(floor(extract(epoch FROM s.quarter - $3)::float8 / $4)::int4, $5) AS step, \
                 sum(s.delivered)::int8 AS delivered, sum(s.failed + s.expired)::int8 AS failed \
             FROM unnest($1::uuid[], $2::text[]) AS w (id, subject) \
             JOIN stats s ON s.subject = w.subject AND s.quarter >= $3 \
             GROUP BY 1, 2",
        )
        .await?;
    let ids: Vec<_> = webhooks.iter().map(|webhook| webhook.id).collect();
    let subjects: Vec<_> = ids
        .iter()
        .map(|id| Subject::Webhook(*id).to_string())
        .collect();
    let now = clock::now();
    let since = now - STEP * STEPS as i32;
    let (step, last) = (STEP.as_seconds_f64(), STEPS as i32 - 1);
    let rows = client
        .query(&statement, &[&ids, &subjects, &since, &step, &last])
        .await?;
    let mut figures: HashMap<WebhookId, Figures> = HashMap::new();
    for row in &rows {
        let of = figures.entry(row.get("id")).or_default();
        of.chart.resize(STEPS, (0, 0));
        if let Some(step) = of.chart.get_mut(row.get::<_, i32>("step").max(0) as usize) {
            *step = (row.get("delivered"), row.get("failed"));
        }
    }
    let statement = client
        .prepare_cached(
            "-- response_times_of_webhooks\n\
             SELECT w.id, s.* FROM unnest($1::uuid[], $2::text[]) AS w (id, subject) \
             JOIN stats s ON s.subject = w.subject AND s.quarter >= $3",
        )
        .await?;
    let since = now - Duration::HOUR;
    let rows = client.query(&statement, &[&ids, &subjects, &since]).await?;
    let mut tallies: HashMap<WebhookId, Tally> = HashMap::new();
    for row in &rows {
        let tally = tallies.entry(row.get("id")).or_default();
        tally.add(&Tally::read(row));
    }
    for (id, tally) in tallies {
        figures.entry(id).or_default().p95_ms = tally.percentile(0.95);
    }
    Ok(figures)
}
