//! When a webhook's endpoint was down: the history of its circuit breakers.
//!
//! Dispatchers write it (`dispatcher/src/endpoint/outages.rs`). How things are now is in
//! [`endpoint`](crate::api::webhooks::endpoint).

use std::fmt;
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use serde::Serialize;
use shared::ids::{ProcessId, WebhookId};
use shared::processes::SILENCE;
use time::OffsetDateTime;
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::OwnReading;
use crate::api::deliveries::check_exists;
use crate::api::http::problem::Result;
use crate::api::http::request::{Id, Page, Parameters};
use crate::api::state::Shared;
use crate::timestamp::Timestamp;

/// `/api/v1/webhooks/{id}/outages`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A page of outages.
#[derive(Serialize, ToSchema)]
pub struct OutagePage {
    pub outages: Vec<Outage>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// A time in which an endpoint was down, as one dispatcher saw it.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(example = json!({
    "process_id": "prc_01kb4v2p8zf5sttdw3m8e7h2xk", "since": "2026-11-26T10:32:47.104Z",
    "last_failed_at": "2026-11-26T10:38:02.330Z", "probes": 2, "lasts": true, "ended_at": null,
}))]
pub struct Outage {
    /// The dispatcher, as in the list of processes. It may not run any more.
    pub process_id: ProcessId,
    /// When the tenth request in a row failed.
    pub since: Timestamp,
    /// When the last request failed.
    pub last_failed_at: Timestamp,
    /// How many times one request was sent to ask whether the endpoint is back, and failed.
    pub probes: i32,
    /// Whether the outage isn't over.
    pub lasts: bool,
    /// When a request succeeded; `null`: it lasts, or the dispatcher was stopped before.
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
}

/// List a webhook's outages
///
/// When its endpoint was down: ten requests in a row had failed, so it got one request now and
/// then. Newest first. Each dispatcher has its own, and keeps the latest 100.
#[utoipa::path(
    get, path = "/{id}/outages", operation_id = "list_webhook_outages", tag = "webhooks",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), Page),
    responses((status = 200, description = "A page.", body = OutagePage)),
)]
pub async fn list(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<OutagePage>> {
    let (limit, before) = page.read::<Cursor>()?;
    let client = api.pool.get().await?;
    check_exists(&client, &acting.tenant, webhook).await?;
    let mut outages = find(&client, webhook, before, limit + 1).await?;
    let has_more = outages.len() > limit as usize;
    outages.truncate(limit as usize);
    let last = outages.last().filter(|_| has_more);
    Ok(Json(OutagePage {
        next_cursor: last.map(|last| Cursor::of(last).to_string()),
        outages,
    }))
}

/// Where a page begins: after this outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    since: OffsetDateTime,
    process: ProcessId,
}

impl Cursor {
    fn of(outage: &Outage) -> Self {
        Self {
            since: outage.since.0,
            process: outage.process_id,
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let microseconds = self.since.unix_timestamp_nanos() / 1_000;
        write!(f, "{}.{microseconds}", self.process)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (process, since) = text.split_once('.').ok_or(())?;
        // Without a sign: PostgreSQL's times don't begin as early as ours.
        let microseconds: u64 = since.parse().map_err(|_| ())?;
        let since = OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1_000);
        Ok(Self {
            since: since.map_err(|_| ())?,
            process: process.parse().map_err(|_| ())?,
        })
    }
}

/// The latest outages of a webhook, the newest first.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find(
    client: &Client,
    webhook: WebhookId,
    before: Option<Cursor>,
    limit: i64,
) -> Result<Vec<Outage>> {
    let statement = client
        .prepare_cached(
            "-- list_outages\n\
             SELECT o.process_id, o.since, o.failed_at, o.probes, o.ended_at, \
                 o.ended_at IS NULL AND p.id IS NOT NULL AS lasts \
             FROM (SELECT * FROM outages WHERE webhook_id = $1 \
                     AND ($2::timestamptz IS NULL OR (since, process_id) < ($2, $3::uuid)) \
                 ORDER BY since DESC, process_id DESC LIMIT $4) o \
             LEFT JOIN processes p ON p.id = o.process_id \
                 AND p.told_at > now() - make_interval(secs => $5) \
             ORDER BY o.since DESC, o.process_id DESC",
        )
        .await?;
    let (since, process) = before.map(|cursor| (cursor.since, cursor.process)).unzip();
    let rows = client
        .query(
            &statement,
            &[&webhook, &since, &process, &limit, &f64::from(SILENCE)],
        )
        .await?;
    let read = |row: &Row| Outage {
        process_id: row.get("process_id"),
        since: row.get("since"),
        last_failed_at: row.get("failed_at"),
        probes: row.get("probes"),
        lasts: row.get("lasts"),
        ended_at: row.get("ended_at"),
    };
    Ok(rows.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = Cursor {
            since: datetime!(2026-11-26 10:32:47.104512 UTC),
            process: ProcessId::generate(),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        let negative = format!("{}.-5", cursor.process);
        for wrong in ["", "5", "prc_x.5", &negative, &cursor.process.to_string()] {
            assert_eq!(wrong.parse::<Cursor>(), Err(()), "{wrong}");
        }
    }
}
