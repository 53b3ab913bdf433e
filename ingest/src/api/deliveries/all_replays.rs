//! Replays of a whole tenant, the list of all of them, and backfills.
//!
//! As in [`replays`](super::replays), these handlers only write and read the replay's row.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shared::ids::{ReplayId, Tenant, WebhookId, first_uuid_at, time_of};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{Managing, Reading};
use crate::api::deliveries::replays::{
    Checked, DryRun, MatchingType, NewReplay, Pace, Replay, ReplayAnswer, between, count_matching,
    find, rate, started, stop,
};
use crate::api::deliveries::retries::check_active;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, Page, Parameters};
use crate::api::openapi::words::ReplayStatus;
use crate::api::state::{Api, Shared};
use crate::backfill::{Bounds, Wanted};
use crate::invalid::{Gathered, Invalid};
use crate::log_filter::LogFilter;
use crate::timestamp::Timestamp;

/// How long a backfill's dry run keeps a connection to PostgreSQL.
const ONE_LOOK: Duration = Duration::from_millis(100);
/// The most that it looks at.
const COUNTED: Bounds = Bounds {
    missing: 10_000,
    events: 100_000,
    bytes: 64 * 1024 * 1024,
    time: Duration::from_secs(2),
    without_data: true,
};

/// `/api/v1/replays…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_all, create_all))
        .routes(routes!(show_any))
        .routes(routes!(cancel_any))
}

/// `/api/v1/webhooks/{id}/backfill`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(backfill))
}

/// Which replays to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReplayQuery {
    /// `running`, `finished` or `cancelled`.
    #[param(value_type = Option<ReplayStatus>)]
    pub status: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// A page of replays.
#[derive(Serialize, ToSchema)]
pub struct ReplayPage {
    pub replays: Vec<Replay>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// List the tenant's replays
///
/// Newest first: of single webhooks, of all webhooks, and backfills.
#[utoipa::path(
    get, path = "/", operation_id = "list_all_replays", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(ReplayQuery),
    responses((status = 200, description = "A page.", body = ReplayPage)),
)]
pub async fn list_all(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(query): Parameters<ReplayQuery>,
) -> Result<Json<ReplayPage>> {
    let mut wrong = Gathered::default();
    let known = ["running", "finished", "cancelled"];
    if let Some(status) = query.status.as_deref().filter(|s| !known.contains(s)) {
        let all = known.join(", ");
        wrong.add(Invalid::new(
            "status",
            format!("`{status}` is not one of {all}"),
        ));
    }
    let page = Page {
        limit: query.limit,
        cursor: query.cursor,
    };
    let bounds = wrong.take(page.read::<ReplayId>());
    let (limit, before) = wrong.finish(bounds)?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- list_all_replays\n\
             SELECT * FROM replays \
             WHERE tenant = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::text IS NULL OR state = $3) \
             ORDER BY id DESC LIMIT $4",
        )
        .await?;
    let rows = client
        .query(
            &statement,
            &[&acting.tenant, &before, &query.status, &(limit + 1)],
        )
        .await?;
    let (shown, next_cursor) = page.cut::<ReplayId>(&rows)?;
    Ok(Json(ReplayPage {
        replays: shown.iter().map(Replay::from_row).collect(),
        next_cursor,
    }))
}

/// Replay deliveries of all webhooks
///
/// Of every webhook that takes deliveries, one webhook after the other, each oldest first. One
/// such replay of a tenant runs at a time.
#[utoipa::path(
    post, path = "/", operation_id = "replay_all", tag = "deliveries",
    security(("token" = ["manager"])),
    request_body = NewReplay,
    responses(
        (status = 200, description = "A dry run: nothing was changed.", body = DryRun),
        (status = 202, description = "The replay has started.", body = Replay),
        (status = 409, description = "Another replay of all webhooks is running."),
    ),
)]
pub async fn create_all(
    acting: Managing,
    State(api): State<Shared>,
    Body(new): Body<NewReplay>,
) -> Result<Response> {
    Ok(begin_all(&api, &acting.tenant, new).await?.into_response())
}

/// Starts a replay of all webhooks' deliveries, or counts them.
///
/// # Errors
/// If the request is out of its bounds.
pub async fn begin_all(api: &Api, tenant: &Tenant, new: NewReplay) -> Result<ReplayAnswer> {
    let dry_run = new.dry_run;
    let wanted = new.check()?;
    let webhooks = {
        let client = api.pool.get().await?;
        let statement = client
            .prepare_cached(
                "-- webhooks_to_replay\n\
                 SELECT id FROM webhooks \
                 WHERE tenant = $1 AND status <> 'deleted' AND status IN ('active', 'paused') ORDER BY id",
            )
            .await?;
        let rows = client.query(&statement, &[tenant]).await?;
        rows.iter().map(|row| row.get(0)).collect::<Vec<_>>()
    };
    let counted = count_matching(api, &webhooks, &wanted).await?;
    started(api, tenant, None, &wanted, counted, dry_run).await
}

/// Show a replay
///
/// Whatever it is of.
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_any_replay", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = ReplayId, Path)),
    responses((status = 200, description = "The replay.", body = Replay)),
)]
pub async fn show_any(
    acting: Reading,
    State(api): State<Shared>,
    Id(id): Id<ReplayId>,
) -> Result<Json<Replay>> {
    find(&api, &acting.tenant, None, id).await.map(Json)
}

/// Cancel a replay
///
/// Deliveries that have begun again continue. A replay that has ended stays as it is.
#[utoipa::path(
    post, path = "/{id}/cancel", operation_id = "cancel_any_replay", tag = "deliveries",
    security(("token" = ["manager"])),
    params(("id" = ReplayId, Path)),
    responses((status = 200, description = "The replay as it is now.", body = Replay)),
)]
pub async fn cancel_any(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<ReplayId>,
) -> Result<Json<Replay>> {
    stop(&api, &acting.tenant, None, id).await?;
    find(&api, &acting.tenant, None, id).await.map(Json)
}

/// Which events a webhook gets belatedly, and how quickly.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "since": "2026-01-31T10:00:00.000Z", "until": "2026-02-01T10:00:00.000Z", "rate": 10, "dry_run": true
}))]
#[serde(deny_unknown_fields)]
pub struct NewBackfill {
    /// Only events that were accepted at this time or later.
    pub since: Timestamp,
    /// Only events that were accepted before this time; by default now.
    #[schema(nullable = false)]
    pub until: Option<Timestamp>,
    /// Whether to count the events only.
    #[serde(default)]
    pub dry_run: bool,
    /// The rate, in deliveries per second.
    #[schema(minimum = 1, maximum = 1000, default = 10, nullable = false)]
    pub rate: Option<i32>,
    /// Whether to begin with two a second, and to halve the rate when the endpoint answers 429
    /// or 5xx, or not at all.
    #[serde(default)]
    pub ramp: bool,
}

/// Backfill a webhook
///
/// The events that its patterns and its filter match as they are now, and that it has no delivery
/// of, are delivered to it, oldest first, at a rate: for a webhook that is new, or whose filter was
/// wrong. It is a replay of the kind `backfill`. With `dry_run` they are only counted: `matching`
/// and `by_type` are those of at most 10,000 events, 64 MiB of data, and 2 s of looking.
#[utoipa::path(
    post, path = "/{id}/backfill", operation_id = "backfill_webhook", tag = "deliveries",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    request_body = NewBackfill,
    responses(
        (status = 200, description = "A dry run: nothing was changed.", body = DryRun),
        (status = 202, description = "The backfill has started.", body = Replay),
        (status = 409, description = "Another replay of the webhook is running, or the webhook is \
                                       switched off, or gets operational events alone."),
    ),
)]
pub async fn backfill(
    acting: Managing,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Body(new): Body<NewBackfill>,
) -> Result<Response> {
    let begun = begin_backfill(&api, &acting.tenant, webhook, new).await?;
    Ok(begun.into_response())
}

/// Starts a backfill of a webhook, or counts its events.
///
/// # Errors
/// If the request is out of its bounds, or the webhook takes no deliveries.
pub async fn begin_backfill(
    api: &Api,
    tenant: &Tenant,
    webhook: WebhookId,
    new: NewBackfill,
) -> Result<ReplayAnswer> {
    check_active(api, tenant, webhook).await?;
    let mut wrong = Gathered::default();
    let never = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH);
    let (since, until) = wrong.take_or(never, between(new.since, new.until));
    let rate = wrong.take(rate(new.rate));
    let wanted = wrong.finish(Checked {
        since,
        until,
        states: Vec::new(),
        event_types: None,
        filter: LogFilter::default(),
        pace: Pace {
            rate,
            ramp: new.ramp,
        },
    })?;
    let client = api.pool.get().await?;
    let would_match = Wanted::read(&client, &api.dialects, tenant, webhook).await?;
    drop(client);
    let would_match = would_match.ok_or_else(|| {
        Problem::conflict(format!(
            "webhook {webhook} gets operational events alone: there is nothing to backfill"
        ))
    })?;
    let counted = count_missing(api, &would_match, &wanted).await?;
    started(api, tenant, Some(webhook), &wanted, counted, new.dry_run).await
}

/// Counts the events that the webhook lacks.
async fn count_missing(api: &Api, would_match: &Wanted, wanted: &Checked) -> Result<DryRun> {
    let (from, to) = (first_uuid_at(wanted.since), first_uuid_at(wanted.until));
    let begun = Instant::now();
    let (mut missing, mut next) = (Vec::new(), Some(from));
    while let Some(from) = next {
        if missing.len() >= COUNTED.missing || begun.elapsed() >= COUNTED.time {
            break;
        }
        let bounds = Bounds {
            missing: COUNTED.missing - missing.len(),
            time: ONE_LOOK,
            ..COUNTED
        };
        // Between two looks others have the connection.
        let client = api.pool.get().await?;
        let found = would_match.missing(&client, from, to, bounds).await?;
        missing.extend(found.missing);
        next = found.next;
    }
    let mut types: BTreeMap<&str, i64> = BTreeMap::new();
    for event in &missing {
        *types.entry(event.event_type.as_str()).or_default() += 1;
    }
    let by_type = types
        .into_iter()
        .map(|(event_type, matching)| MatchingType {
            event_type: event_type.to_owned(),
            matching,
        });
    let mut by_type: Vec<_> = by_type.collect();
    by_type.sort_by_key(|of| std::cmp::Reverse(of.matching));
    by_type.truncate(100);
    let oldest = missing.first();
    Ok(DryRun {
        dry_run: true,
        matching: missing.len() as i64,
        counted: next.is_none(),
        oldest: oldest.map(|event| Timestamp(time_of(event.uid.uuid()))),
        by_type,
        by_status: Vec::new(),
    })
}
