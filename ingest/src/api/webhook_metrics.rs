//! Metrics of single webhooks, for Prometheus: those in trouble, and the busiest.
//!
//! They have labels that tenants choose, so they are not among `/metrics`: they need the
//! operator's token, are off unless `WEBHOOK_METRICS` is set, and are bounded to 500 series.

use std::collections::HashMap;
use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use deadpool_postgres::Client;
use shared::endpoints::{self, Down};
use shared::ids::{Tenant, WebhookId};
use shared::recent::{Recent, recent};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Operating;
use crate::api::http::problem::{Problem, Result};
use crate::api::state::Shared;

/// The most webhooks: each has four series.
const WEBHOOKS: usize = 125;
/// Prometheus's text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/metrics/webhooks`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(webhook_metrics))
}

/// What is shown of a webhook.
struct WebhookGauges {
    webhook: WebhookId,
    recent: Recent,
    down: Option<Down>,
    /// Whether its owner was told that it is in trouble.
    is_alerted: bool,
}

/// Metrics of webhooks
///
/// In Prometheus's text format: attempts, failed attempts and the 95th percentile of response
/// times of the last quarter of an hour, and whether the endpoint is down. Of the webhooks in
/// trouble and then of the busiest, 125 at most. Off unless `WEBHOOK_METRICS` is set.
#[utoipa::path(
    get, path = "/webhooks", operation_id = "webhook_metrics", tag = "operations",
    security(("token" = ["operator"])),
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain",
         example = "posthorn_webhook_down{tenant=\"acme\",webhook=\"wh_01hm3kxxb0eqa8vnk8w0s9hxpq\"} 1\n"),
        (status = 404, description = "`WEBHOOK_METRICS` isn't set."),
    ),
)]
async fn webhook_metrics(_: Operating, State(api): State<Shared>) -> Result<Response> {
    if !api.webhook_metrics {
        return Err(Problem::not_found(
            "metrics of webhooks are off: set WEBHOOK_METRICS=true",
        ));
    }
    let client = api.pool.get().await?;
    let all = by_interest(&client).await?;
    let (shown, tenants) = first_that_exist(&client, all).await?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text(&shown, &tenants)).into_response())
}

/// Webhooks that had attempts of late or are in trouble: those in trouble first, then the busiest.
async fn by_interest(client: &Client) -> Result<Vec<WebhookGauges>> {
    let mut recent = recent(client, shared::clock::now()).await?;
    let statement = client
        .prepare_cached(
            "-- webhooks_in_trouble\n\
             SELECT webhook_id, bool_or(is_open), bool_or(is_alerted) FROM ( \
                 SELECT webhook_id, true AS is_open, false AS is_alerted FROM endpoints \
                 WHERE circuit <> 'closed' \
                 UNION ALL SELECT webhook_id, false, true FROM webhook_alerts) t GROUP BY 1",
        )
        .await?;
    let (mut open, mut alerted) = (Vec::new(), Vec::new());
    for row in client.query(&statement, &[]).await? {
        let webhook: WebhookId = row.get(0);
        recent.entry(webhook).or_default();
        if row.get(1) {
            open.push(webhook);
        }
        if row.get(2) {
            alerted.push(webhook);
        }
    }
    let down = endpoints::down(client, &open).await?;
    let shown = recent.into_iter().map(|(webhook, recent)| WebhookGauges {
        down: down.get(&webhook).copied(),
        is_alerted: alerted.contains(&webhook),
        webhook,
        recent,
    });
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by(|a, b| {
        let trouble = |it: &WebhookGauges| it.down.is_some() || it.is_alerted;
        let busier = b.recent.attempts().total_cmp(&a.recent.attempts());
        trouble(b)
            .cmp(&trouble(a))
            .then(busier)
            .then(a.webhook.cmp(&b.webhook))
    });
    Ok(shown)
}

/// The first of these that aren't deleted, at most [`WEBHOOKS`], and whose they are.
async fn first_that_exist(
    client: &Client,
    all: Vec<WebhookGauges>,
) -> Result<(Vec<WebhookGauges>, HashMap<WebhookId, Tenant>)> {
    let (mut shown, mut owners) = (Vec::new(), HashMap::new());
    let mut left = all.into_iter();
    while shown.len() < WEBHOOKS {
        let some: Vec<_> = left.by_ref().take(WEBHOOKS).collect();
        if some.is_empty() {
            break;
        }
        owners.extend(tenants(client, &some).await?);
        let existing = some
            .into_iter()
            .filter(|it| owners.contains_key(&it.webhook));
        shown.extend(existing);
    }
    shown.truncate(WEBHOOKS);
    Ok((shown, owners))
}

/// Whose webhooks they are. Deleted ones have none.
async fn tenants(client: &Client, shown: &[WebhookGauges]) -> Result<HashMap<WebhookId, Tenant>> {
    let statement = client
        .prepare_cached(
            "-- tenants_of_webhooks\n\
             SELECT id, tenant FROM webhooks WHERE id = ANY($1) AND status <> 'deleted'",
        )
        .await?;
    let ids: Vec<_> = shown.iter().map(|it| it.webhook).collect();
    let rows = client.query(&statement, &[&ids]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn text(shown: &[WebhookGauges], tenants: &HashMap<WebhookId, Tenant>) -> String {
    type Value = fn(&WebhookGauges) -> Option<f64>;
    let metrics: [(&str, &str, Value); 4] = [
        (
            "posthorn_webhook_attempts",
            "Attempts of the last 15 minutes.",
            |it| Some(it.recent.attempts()),
        ),
        (
            "posthorn_webhook_failed_attempts",
            "Attempts of the last 15 minutes that failed.",
            |it| Some(it.recent.failed()),
        ),
        (
            "posthorn_webhook_response_seconds_p95",
            "The 95th percentile of the response times of the last 15 minutes, in seconds.",
            |it| it.recent.p95_ms().map(|ms| ms / 1000.0),
        ),
        (
            "posthorn_webhook_down",
            "1 if the endpoint is down: it gets no requests, except one now and then.",
            |it| Some(if it.down.is_some() { 1.0 } else { 0.0 }),
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in metrics {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for it in shown {
            let Some(tenant) = tenants.get(&it.webhook) else {
                continue;
            };
            if let Some(value) = value(it) {
                // Neither id has a character that the format would escape.
                let webhook = it.webhook;
                let labels = format!("tenant=\"{tenant}\",webhook=\"{webhook}\"");
                let _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        }
    }
    text
}
