//! Which endpoints are down, as all dispatchers together see it.
//!
//! Each dispatcher has circuits of its own and tells of those that aren't closed
//! (`dispatcher/src/endpoint/report.rs`). One that gets no jobs of a webhook doesn't notice that
//! its endpoint is back. So an endpoint is down only if nothing was delivered since the last
//! failure that any circuit tells of.

use std::collections::HashMap;

use deadpool_postgres::GenericClient;
use time::OffsetDateTime;

use crate::ids::WebhookId;
use crate::processes::SILENCE;
use crate::stats::{PERIOD, Subject};

/// An outage of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    pub since: OffsetDateTime,
    /// When the last request failed that opened a circuit.
    pub failed_at: OffsetDateTime,
    /// When the next request may be sent; `None`: one is in flight.
    pub next_probe_at: Option<OffsetDateTime>,
}

/// Those of the webhooks whose endpoints are down.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn down(
    client: &impl GenericClient,
    webhooks: &[WebhookId],
) -> Result<HashMap<WebhookId, Down>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- endpoints_down\n\
             SELECT w.id, o.since, o.failed_at, o.next_probe_at \
             FROM unnest($1::uuid[], $2::text[]) AS w (id, subject) CROSS JOIN LATERAL ( \
                 SELECT min(e.open_since) AS since, max(e.failed_at) AS failed_at, \
                     min(e.next_probe_at) AS next_probe_at \
                 FROM endpoints e JOIN processes p ON p.id = e.process_id \
                 WHERE e.webhook_id = w.id AND e.circuit <> 'closed' \
                   AND p.told_at > now() - make_interval(secs => $3)) o \
             WHERE o.failed_at IS NOT NULL AND NOT EXISTS ( \
                 SELECT FROM stats s WHERE s.subject = w.subject \
                   AND s.quarter > o.failed_at - make_interval(secs => $4) \
                   AND s.last_delivered_at > o.failed_at)",
        )
        .await?;
    let subjects: Vec<_> = webhooks
        .iter()
        .map(|id| Subject::Webhook(*id).to_string())
        .collect();
    let (silence, period) = (f64::from(SILENCE), PERIOD as f64);
    let rows = client
        .query(&statement, &[&webhooks, &subjects, &silence, &period])
        .await?;
    let down = rows.iter().map(|row| {
        let down = Down {
            since: row.get("since"),
            failed_at: row.get("failed_at"),
            next_probe_at: row.get("next_probe_at"),
        };
        (row.get("id"), down)
    });
    Ok(down.collect())
}
