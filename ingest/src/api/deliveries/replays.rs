//! Replays of a webhook's deliveries: start one, watch it, cancel it.
//!
//! These handlers only write and read the replay's row; [`crate::replay`] does the work.
//! Those of a whole tenant are in [`all_replays`](super::all_replays).

mod form;
mod rows;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::ids::{ReplayId, Tenant, WebhookId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{OwnManaging, OwnReading};
use crate::api::deliveries::check_exists;
use crate::api::deliveries::retries::check_active;
use crate::api::http::problem::Result;
use crate::api::http::request::{Body, Id, Ids};
use crate::api::state::{Api, Shared};

pub use form::NewReplay;
pub(super) use form::{Checked, Pace, between, rate};
pub use rows::{DryRun, MatchingType, Replay, find};
pub(super) use rows::{count_matching, stop};

/// The most replays that are listed.
const LISTED: i64 = 100;

/// `/api/v1/webhooks/{id}/replay…`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
}

/// A webhook's latest replays.
#[derive(Serialize, ToSchema)]
pub struct Replays {
    pub replays: Vec<Replay>,
}

/// Replay deliveries
///
/// Finished deliveries begin again, oldest first, at a rate: new attempts under
/// the same event ids. One replay of a webhook runs at a time.
#[utoipa::path(
    post, path = "/{id}/replay", operation_id = "replay_deliveries", tag = "deliveries",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    request_body = NewReplay,
    responses(
        (status = 200, description = "A dry run: nothing was changed.", body = DryRun),
        (status = 202, description = "The replay has started.", body = Replay),
        (status = 409, description = "Another replay of the webhook is running, or the webhook is switched off."),
    ),
)]
pub async fn create(
    acting: OwnManaging,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Body(new): Body<NewReplay>,
) -> Result<Response> {
    Ok(begin(&api, &acting.tenant, webhook, new)
        .await?
        .into_response())
}

/// What came of a request for a replay.
pub enum ReplayAnswer {
    /// It was a dry run.
    Counted(DryRun),
    Started(Box<Replay>),
}

impl IntoResponse for ReplayAnswer {
    fn into_response(self) -> Response {
        match self {
            Self::Counted(counted) => Json(counted).into_response(),
            Self::Started(replay) => (StatusCode::ACCEPTED, Json(*replay)).into_response(),
        }
    }
}

/// Starts a replay of a webhook's deliveries, or counts them.
///
/// # Errors
/// If the request is out of its bounds, or the webhook takes no deliveries.
pub async fn begin(
    api: &Api,
    tenant: &Tenant,
    webhook: WebhookId,
    new: NewReplay,
) -> Result<ReplayAnswer> {
    let dry_run = new.dry_run;
    check_active(api, tenant, webhook).await?;
    let wanted = new.check()?;
    let counted = count_matching(api, &[webhook], &wanted).await?;
    started(api, tenant, Some(webhook), &wanted, counted, dry_run).await
}

/// Writes the replay's row, unless that is a dry run.
pub(super) async fn started(
    api: &Api,
    tenant: &Tenant,
    webhook: Option<WebhookId>,
    wanted: &Checked,
    counted: DryRun,
    dry_run: bool,
) -> Result<ReplayAnswer> {
    if dry_run {
        return Ok(ReplayAnswer::Counted(counted));
    }
    let id = rows::insert(api, tenant, webhook, wanted, &counted).await?;
    let replay = find(api, tenant, webhook, id).await?;
    Ok(ReplayAnswer::Started(Box::new(replay)))
}

/// List replays
///
/// The webhook's latest 100.
#[utoipa::path(
    get, path = "/{id}/replays", operation_id = "list_replays", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path)),
    responses((status = 200, description = "Newest first.", body = Replays)),
)]
pub async fn list(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
) -> Result<Json<Replays>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- list_replays\n\
             SELECT * FROM replays WHERE webhook_id = $1 AND tenant = $2 ORDER BY id DESC LIMIT $3",
        )
        .await?;
    let rows = client
        .query(&statement, &[&webhook, &acting.tenant, &LISTED])
        .await?;
    if rows.is_empty() {
        check_exists(&client, &acting.tenant, webhook).await?;
    }
    Ok(Json(Replays {
        replays: rows.iter().map(Replay::from_row).collect(),
    }))
}

/// Show a replay
#[utoipa::path(
    get, path = "/{id}/replays/{replay_id}", operation_id = "show_replay", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), ("replay_id" = ReplayId, Path)),
    responses((status = 200, description = "The replay.", body = Replay)),
)]
pub async fn show(
    acting: OwnReading,
    State(api): State<Shared>,
    Ids(webhook, id): Ids<WebhookId, ReplayId>,
) -> Result<Json<Replay>> {
    find(&api, &acting.tenant, Some(webhook), id)
        .await
        .map(Json)
}

/// Cancel a replay
///
/// Deliveries that have begun again continue. A replay that has ended stays as it is.
#[utoipa::path(
    post, path = "/{id}/replays/{replay_id}/cancel", operation_id = "cancel_replay", tag = "deliveries",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path), ("replay_id" = ReplayId, Path)),
    responses((status = 200, description = "The replay as it is now.", body = Replay)),
)]
pub async fn cancel(
    acting: OwnManaging,
    State(api): State<Shared>,
    Ids(webhook, id): Ids<WebhookId, ReplayId>,
) -> Result<Json<Replay>> {
    stop(&api, &acting.tenant, Some(webhook), id).await?;
    find(&api, &acting.tenant, Some(webhook), id)
        .await
        .map(Json)
}
