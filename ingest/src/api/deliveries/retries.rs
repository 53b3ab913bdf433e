//! Retries deliveries: one, named by its own id or by its event and its webhook, or many.
//!
//! A delivery that is finished begins again. One that waits for its next attempt is made
//! due now.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use shared::ids::{DeliveryId, EventId, Tenant, WebhookId};
use shared::job::Job;
use std::collections::{HashMap, HashSet};
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{Managing, OwnManaging};
use crate::api::deliveries::view::Delivery;
use crate::api::deliveries::{find, find_opt};
use crate::api::events::by_id::uids_of_event;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, Ids};
use crate::api::state::{Api, Shared};
use crate::restart::{FINISHED, MOST_ATTEMPTS, publish, restart_deliveries, send_now};

/// The most deliveries of a request.
const MAX_IDS: usize = 1_000;

/// `/api/v1/deliveries/{id}/retry` and `/api/v1/deliveries/retry`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(retry))
        .routes(routes!(retry_many))
}

/// `/api/v1/webhooks/{id}/events/{event_id}/retry`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(retry_event))
}

/// Retry a delivery
///
/// One that is finished, delivered ones too, begins again: new attempts, the same
/// event id, the schedule from its start. One that waits for its next attempt is sent now:
/// that attempt is the next of its schedule.
#[utoipa::path(
    post, path = "/{id}/retry", operation_id = "retry_delivery", tag = "deliveries",
    security(("token" = ["manager"])),
    params(("id" = DeliveryId, Path)),
    responses(
        (status = 202, description = "The delivery begins again, or is due now.", body = Delivery),
        (status = 409, description = "Its attempt is due already or under way, or its webhook is paused or switched off."),
    ),
)]
pub async fn retry(
    acting: OwnManaging,
    State(api): State<Shared>,
    Id(id): Id<DeliveryId>,
) -> Result<(StatusCode, Json<Delivery>)> {
    let delivery = find(&api, &acting.tenant, id).await?;
    begin_again(&api, &acting.tenant, &delivery).await
}

/// Retry an event
///
/// Its delivery to this webhook begins again or is sent now, see there. The delivery's own id,
/// which a webhook's list of events shows as `id`, is taken as well.
#[utoipa::path(
    post, path = "/{id}/events/{event_id}/retry", operation_id = "retry_event", tag = "deliveries",
    security(("token" = ["manager"])),
    params(
        ("id" = WebhookId, Path),
        ("event_id" = EventId, Path, description = "The event's id, or the delivery's (`whd_…`)."),
    ),
    responses(
        (status = 202, description = "The delivery begins again, or is due now.", body = Delivery),
        (status = 409, description = "Its attempt is due already or under way, or the webhook is paused or switched off."),
    ),
)]
pub async fn retry_event(
    acting: OwnManaging,
    State(api): State<Shared>,
    Ids(webhook, event): Ids<WebhookId, EventId>,
) -> Result<(StatusCode, Json<Delivery>)> {
    // A producer may have given an event such an id, too. Then there is no such delivery.
    if let Ok(id) = event.as_str().parse::<DeliveryId>()
        && let Some(delivery) = find_opt(&api, &acting.tenant, id).await?
        && delivery.webhook_id == webhook
    {
        return begin_again(&api, &acting.tenant, &delivery).await;
    }
    let id = find_delivery(&api, &acting.tenant, webhook, &event)
        .await?
        .ok_or_else(|| {
            Problem::not_found(format!("there is no event {event} of webhook {webhook}"))
        })?;
    let delivery = find(&api, &acting.tenant, id).await?;
    begin_again(&api, &acting.tenant, &delivery).await
}

/// The latest, if the producer has used the id for more than one event.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find_delivery(
    api: &Api,
    tenant: &Tenant,
    webhook: WebhookId,
    event: &EventId,
) -> Result<Option<DeliveryId>> {
    let client = api.pool.get().await?;
    let mut events = uids_of_event(&client, tenant, event).await?;
    events.sort_unstable();
    let statement = client
        .prepare_cached(
            "-- delivery_of_event\n\
             SELECT id FROM deliveries \
             WHERE id BETWEEN millisecond_floor($1) AND millisecond_ceiling($1) \
               AND event_uid = $1 AND webhook_id = $2 LIMIT 1",
        )
        .await?;
    // The newest event that has a delivery to this webhook.
    for event in events.iter().rev() {
        if let Some(row) = client.query_opt(&statement, &[event, &webhook]).await? {
            return Ok(Some(row.get(0)));
        }
    }
    Ok(None)
}

async fn begin_again(
    api: &Api,
    tenant: &Tenant,
    delivery: &Delivery,
) -> Result<(StatusCode, Json<Delivery>)> {
    check_active(api, tenant, delivery.webhook_id).await?;
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    let mut jobs = restart_deliveries(&transaction, &[delivery.id], &FINISHED).await?;
    if jobs.is_empty() {
        jobs = send_now(&transaction, &[delivery.id]).await?;
    }
    transaction.commit().await?;
    drop(client);
    if jobs.is_empty() {
        if is_expunged(api, tenant, delivery).await? {
            let gone = format!(
                "the event of delivery {} was expunged: there is nothing to send",
                delivery.id
            );
            return Err(Problem::conflict(gone));
        }
        return Err(Problem::conflict(why_not(delivery)));
    }
    publish(&api.publisher, &jobs).await;
    let delivery = find(api, tenant, delivery.id).await?;
    Ok((StatusCode::ACCEPTED, Json(delivery)))
}

async fn is_expunged(api: &Api, tenant: &Tenant, delivery: &Delivery) -> Result<bool> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- is_expunged\n\
             SELECT 1 FROM events WHERE tenant = $1 AND expunged_at IS NOT NULL \
               AND uid BETWEEN millisecond_floor($2) AND millisecond_ceiling($2) AND uid = ( \
                 SELECT event_uid FROM deliveries WHERE id = $2)",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[tenant, &delivery.id])
        .await?;
    Ok(row.is_some())
}

fn why_not(delivery: &Delivery) -> String {
    if delivery.attempts >= MOST_ATTEMPTS {
        return format!(
            "delivery {} has had {} attempts; at most {MOST_ATTEMPTS} are allowed",
            delivery.id, delivery.attempts
        );
    }
    match delivery.next_attempt_at {
        Some(at) => format!(
            "delivery {} was due at {}: its attempt is under way, or comes in a moment",
            delivery.id,
            at.0.format(&Rfc3339).unwrap_or_default()
        ),
        None => format!(
            "delivery {} is held, because its webhook is paused: make the webhook active",
            delivery.id
        ),
    }
}

/// Deliveries to retry.
#[derive(Deserialize, ToSchema)]
#[schema(as = DeliveryRetry)]
#[serde(deny_unknown_fields)]
pub struct NewRetry {
    /// Their ids, at most 1,000.
    #[schema(
        value_type = Vec<DeliveryId>, min_items = 1, max_items = 1000,
        example = json!(["whd_01kb4v2p8zf5sttdw3m8e7h2xk"])
    )]
    pub ids: Vec<String>,
}

/// What became of each.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryRetryResult)]
pub struct Retried {
    /// How many begin again or are due now.
    pub retried: usize,
    /// How many weren't touched.
    pub refused: usize,
    /// In the order of the request.
    pub results: Vec<RetriedDelivery>,
}

/// What became of one delivery.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "whd_01kb4v2p8zf5sttdw3m8e7h2xk", "status": "restarted", "detail": null
}))]
pub struct RetriedDelivery {
    /// As it was sent.
    pub id: String,
    pub status: RetryStatus,
    /// Why it wasn't touched.
    #[schema(required)]
    pub detail: Option<String>,
}

/// What became of a delivery that was to be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryStatus {
    /// It was finished, and begins again.
    Restarted,
    /// It waited for its next attempt, and is due now.
    SentNow,
    /// Nothing was done: `detail` says why.
    Refused,
}

/// Retry deliveries
///
/// Each as `POST /api/v1/deliveries/{id}/retry` does it. One that is refused stops none of
/// the others. A delivery that another request has just retried is refused.
#[utoipa::path(
    post, path = "/retry", operation_id = "retry_deliveries", tag = "deliveries",
    security(("token" = ["manager"])),
    request_body = NewRetry,
    responses((status = 200, description = "What became of each.", body = Retried)),
)]
pub async fn retry_many(
    acting: Managing,
    State(api): State<Shared>,
    Body(new): Body<NewRetry>,
) -> Result<Json<Retried>> {
    if new.ids.is_empty() || new.ids.len() > MAX_IDS {
        let bound = format!("must have 1 to {MAX_IDS} entries");
        return Err(Problem::field("ids", bound));
    }
    let ids: Vec<Option<DeliveryId>> = new.ids.iter().map(|text| text.parse().ok()).collect();
    let known: Vec<DeliveryId> = ids.iter().copied().flatten().collect();
    let standing = standing(&api, &acting.tenant, &known).await?;
    let allowed = standing.iter().filter(|(_, standing)| standing.takes);
    let mut allowed: Vec<_> = allowed.map(|(id, _)| *id).collect();
    // In one order, so that two requests don't wait for each other in a circle.
    allowed.sort_unstable_by_key(|id| id.uuid());
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    let restarted = restart_deliveries(&transaction, &allowed, &FINISHED).await?;
    let hurried = send_now(&transaction, &allowed).await?;
    transaction.commit().await?;
    drop(client);
    let of = |jobs: &[Job]| jobs.iter().map(|job| job.delivery).collect::<HashSet<_>>();
    let (are_restarted, are_hurried) = (of(&restarted), of(&hurried));
    // What isn't confirmed is the sweeper's.
    publish(&api.publisher, &[restarted, hurried].concat()).await;
    let results = new.ids.into_iter().zip(ids).map(|(text, id)| {
        let standing = id.and_then(|id| standing.get(&id).map(|standing| (id, standing)));
        let (status, detail) = match standing {
            None => {
                let unknown = format!("there is no delivery {text}");
                (RetryStatus::Refused, Some(unknown))
            }
            Some((id, _)) if are_restarted.contains(&id) => (RetryStatus::Restarted, None),
            Some((id, _)) if are_hurried.contains(&id) => (RetryStatus::SentNow, None),
            Some((_, standing)) => (RetryStatus::Refused, Some(standing.why_not.clone())),
        };
        RetriedDelivery {
            id: text,
            status,
            detail,
        }
    });
    let results: Vec<_> = results.collect();
    let refused = |result: &&RetriedDelivery| result.status == RetryStatus::Refused;
    let refused = results.iter().filter(refused).count();
    Ok(Json(Retried {
        retried: results.len() - refused,
        refused,
        results,
    }))
}

/// Whether a delivery can be retried.
struct Standing {
    /// Its webhook takes deliveries.
    takes: bool,
    /// Why it can't be, if it can't.
    why_not: String,
}

/// Of those deliveries that are the tenant's.
async fn standing(
    api: &Api,
    tenant: &Tenant,
    deliveries: &[DeliveryId],
) -> Result<HashMap<DeliveryId, Standing>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- retry_standing\n\
             SELECT d.id, d.attempts, w.status, \
                 (SELECT e.expunged_at IS NOT NULL FROM events e WHERE e.uid = d.event_uid LIMIT 1) \
                     AS expunged \
             FROM (SELECT * FROM deliveries WHERE id = ANY($1)) d \
             JOIN webhooks w ON w.id = d.webhook_id WHERE w.tenant = $2",
        )
        .await?;
    let rows = client.query(&statement, &[&deliveries, tenant]).await?;
    let standing = rows.iter().map(|row| {
        let status: &str = row.get("status");
        let takes = ["active", "paused"].contains(&status);
        let why_not = if !takes {
            format!("its webhook is {status}: it takes no deliveries")
        } else if row.get::<_, Option<bool>>("expunged") == Some(true) {
            "its event was expunged: there is nothing to send any more".to_owned()
        } else if row.get::<_, i16>("attempts") >= MOST_ATTEMPTS {
            format!("it has had {MOST_ATTEMPTS} attempts, which is the most")
        } else if status == "paused" {
            "it is held, because its webhook is paused".to_owned()
        } else {
            "its attempt is under way, or comes in a moment".to_owned()
        };
        (row.get("id"), Standing { takes, why_not })
    });
    Ok(standing.collect())
}

/// Refuses unless the webhook takes deliveries: they would be cancelled at once.
///
/// # Errors
/// 404 if it isn't the tenant's, 409 if it is switched off.
pub async fn check_active(api: &Api, tenant: &Tenant, webhook: WebhookId) -> Result<()> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- webhook_status\n\
             SELECT status, disabled_reason FROM webhooks WHERE id = $1 AND tenant = $2",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[&webhook, tenant])
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no webhook {webhook}")))?;
    let because = row
        .get::<_, Option<&str>>("disabled_reason")
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    match row.get("status") {
        // A paused one keeps them until it is active again.
        "active" | "paused" => Ok(()),
        "deleted" => Err(Problem::conflict(format!(
            "webhook {webhook} is deleted: it takes no deliveries"
        ))),
        status => Err(Problem::conflict(format!(
            "webhook {webhook} is {status}{because}: make it active first"
        ))),
    }
}
