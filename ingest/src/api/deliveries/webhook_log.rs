//! A webhook's attempts and a webhook's waits, each as one list over all of its deliveries.
//!
//! Both lists have the deliveries' order, newest first. Of one delivery, the latest attempt or wait
//! comes first. So an attempt that was made today for a delivery of yesterday stands with
//! yesterday's deliveries. That order needs no index beside the one that deliveries have
//! ([`walk`](crate::api::deliveries::walk)), and it is stable: a page's cursor names the last
//! entry that was shown.
//!
//! Here are the two handlers. [`paging`] says where a page begins and ends. [`entries`] reads the
//! attempts and waits of the deliveries on it.

pub mod entries;
pub mod paging;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared::ids::WebhookId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::OwnReading;
use crate::api::deliveries::check_exists;
use crate::api::deliveries::walk::walk;
use crate::api::http::problem::Result;
use crate::api::http::request::{Id, Parameters};
use crate::api::state::Shared;
use crate::timestamp::Timestamp;

use entries::{WebhookAttempt, WebhookWait, attempts_of, waits_of};
use paging::{Cursor, WebhookLogQuery};

/// `/api/v1/webhooks/{id}/attempts` and `/waits`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_attempts))
        .routes(routes!(list_waits))
}

/// A page of a webhook's attempts.
#[derive(Serialize, ToSchema)]
pub struct AttemptPage {
    pub attempts: Vec<WebhookAttempt>,
    /// The cursor of the next page; `null` on the last page. A page may have fewer attempts than
    /// its limit and still a next page.
    #[schema(required, example = "whd_01kb4v2p8zf5sttdw3m8e7h2xk.2")]
    pub next_cursor: Option<String>,
}

/// A page of a webhook's waits.
#[derive(Serialize, ToSchema)]
pub struct WaitPage {
    pub waits: Vec<WebhookWait>,
    /// The cursor of the next page; `null` on the last page. Few deliveries wait, so a page may
    /// have fewer waits than its limit, or none, and still a next page.
    #[schema(required, example = "whd_01kb4v2p8zf5sttdw3m8e7h2xk.1795754562104512")]
    pub next_cursor: Option<String>,
}

/// List a webhook's attempts
///
/// Those of the newest deliveries first; of one delivery, the latest attempt first.
#[utoipa::path(
    get, path = "/{id}/attempts", operation_id = "list_webhook_attempts", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), WebhookLogQuery),
    responses((status = 200, description = "A page.", body = AttemptPage)),
)]
pub async fn list_attempts(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(query): Parameters<WebhookLogQuery>,
) -> Result<Json<AttemptPage>> {
    let asked = query.check()?;
    let client = api.pool.get().await?;
    check_exists(&client, &acting.tenant, webhook).await?;
    let wanted = asked.wanted(true);
    let walked = walk(&client, webhook, &wanted, &asked.span).await?;
    let mut attempts = attempts_of(&client, &walked.deliveries, &asked.part).await?;
    let next_cursor = asked.cut(&mut attempts, &walked, |attempt| Cursor {
        delivery: attempt.delivery_id,
        below: attempt.n.into(),
    });
    Ok(Json(AttemptPage {
        attempts,
        next_cursor,
    }))
}

/// List a webhook's waits
///
/// When its deliveries were put off without an attempt, and why. Those of the newest deliveries
/// first; of one delivery, the latest wait first. A delivery keeps its latest 20.
#[utoipa::path(
    get, path = "/{id}/waits", operation_id = "list_webhook_waits", tag = "deliveries",
    security(("token" = ["viewer"])),
    params(("id" = WebhookId, Path), WebhookLogQuery),
    responses((status = 200, description = "A page.", body = WaitPage)),
)]
pub async fn list_waits(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    Parameters(query): Parameters<WebhookLogQuery>,
) -> Result<Json<WaitPage>> {
    let asked = query.check()?;
    let client = api.pool.get().await?;
    check_exists(&client, &acting.tenant, webhook).await?;
    let wanted = asked.wanted(false);
    let walked = walk(&client, webhook, &wanted, &asked.span).await?;
    let mut waits = waits_of(&client, &walked.deliveries, &asked.part).await?;
    let next_cursor = asked.cut(&mut waits, &walked, |wait| Cursor {
        delivery: wait.delivery_id,
        below: microseconds(wait.wait.first_at),
    });
    Ok(Json(WaitPage { waits, next_cursor }))
}

fn microseconds(Timestamp(at): Timestamp) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or_default()
}
