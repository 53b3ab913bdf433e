//! Retries one delivery, named by its own id, or by its event and its webhook.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use shared::ids::{DeliveryId, EventId, Tenant, WebhookId};
use time::format_description::well_known::Rfc3339;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::OwnManaging;
use crate::api::deliveries::view::Delivery;
use crate::api::deliveries::{find, find_opt};
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Id, Ids};
use crate::api::state::{Api, Shared};
use crate::restart::{FINISHED, MOST_ATTEMPTS, publish, restart_deliveries};

/// `/api/v1/deliveries/{id}/retry`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(retry))
}

/// `/api/v1/webhooks/{id}/events/{event_id}/retry`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(retry_event))
}

/// Retry a delivery
///
/// One that is finished, delivered ones too, begins again: new attempts, the same
/// event id, the schedule from its start.
#[utoipa::path(
    post, path = "/{id}/retry", operation_id = "retry_delivery", tag = "deliveries",
    security(("token" = ["manager"])),
    params(("id" = DeliveryId, Path)),
    responses(
        (status = 202, description = "The delivery begins again.", body = Delivery),
        (status = 409, description = "The delivery isn't finished, or its webhook is switched off."),
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
/// Its delivery to this webhook begins again, see there. The delivery's own id, which a
/// webhook's list of events shows as `id`, is taken as well.
#[utoipa::path(
    post, path = "/{id}/events/{event_id}/retry", operation_id = "retry_event", tag = "deliveries",
    security(("token" = ["manager"])),
    params(
        ("id" = WebhookId, Path),
        ("event_id" = EventId, Path, description = "The event's id, or the delivery's (`whd_…`)."),
    ),
    responses(
        (status = 202, description = "The delivery begins again.", body = Delivery),
        (status = 409, description = "The delivery isn't finished, or the webhook is switched off."),
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
async fn find_delivery(
    api: &Api,
    tenant: &Tenant,
    webhook: WebhookId,
    event: &EventId,
) -> Result<Option<DeliveryId>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- delivery_of_event\n\
             SELECT d.id FROM events e CROSS JOIN LATERAL ( \
                 SELECT id FROM deliveries \
                 WHERE id BETWEEN millisecond_floor(e.uid) AND millisecond_ceiling(e.uid) \
                   AND event_uid = e.uid AND webhook_id = $3 LIMIT 1) d \
             WHERE e.tenant = $1 AND e.id = $2 ORDER BY d.id DESC LIMIT 1",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[tenant, event, &webhook])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

async fn begin_again(
    api: &Api,
    tenant: &Tenant,
    delivery: &Delivery,
) -> Result<(StatusCode, Json<Delivery>)> {
    check_active(api, tenant, delivery.webhook_id).await?;
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    let jobs = restart_deliveries(&transaction, &[delivery.id], &FINISHED).await?;
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
             SELECT 1 FROM events WHERE tenant = $1 AND expunged_at IS NOT NULL AND uid = ( \
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
    let next = delivery
        .next_attempt_at
        .and_then(|at| at.0.format(&Rfc3339).ok())
        .unwrap_or_else(|| "any moment".to_owned());
    format!(
        "delivery {} isn't finished: its next attempt comes at {next}",
        delivery.id
    )
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
