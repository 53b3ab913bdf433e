//! Takes an event's data away, for instance because a person asks for it.
//!
//! The event's row, its deliveries and their verdicts stay. The data goes, and so does what
//! attempts kept of requests and answers. Deliveries that are still open are cancelled: there
//! is nothing to send any more. The job of a first attempt has a copy of the data and is sent
//! without a look at its row. So the tenant's row gets the time of the expunge. Dispatchers
//! hear of that by the catalogue's feed, and look older jobs up.

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Transaction;
use serde::Serialize;
use shared::ids::{DeliveryId, EventId, EventUid, Tenant};
use tracing::info;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor::begin;
use crate::api::access::auth::Managing;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::Id;
use crate::api::state::Shared;
use crate::dead_letters::store::remove_of_event;
use crate::timestamp::Timestamp;

/// `POST /api/v1/events/{id}/expunge`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(expunge))
}

/// An event whose data was taken away.
#[derive(Serialize, ToSchema)]
struct Expunged {
    id: EventId,
    /// When its data was taken away first.
    expunged_at: Timestamp,
    /// The number of open deliveries that were cancelled now.
    cancelled: usize,
}

/// Expunge an event
///
/// Its data is deleted, and what the log kept of requests and answers with it. The event stays
/// with its deliveries and their verdicts, and can't be sent again. Open deliveries are cancelled.
#[utoipa::path(
    post, path = "/{id}/expunge", operation_id = "expunge_event", tag = "events",
    security(("token" = ["manager"])),
    params(("id" = EventId, Path)),
    responses((status = 200, description = "The data is gone, now or since before.", body = Expunged)),
)]
async fn expunge(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<EventId>,
) -> Result<Json<Expunged>> {
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &acting.actor).await?;
    let Some(cleared) = clear_data(&transaction, &acting.tenant, &id).await? else {
        return Err(Problem::not_found(format!("there is no event {id}")));
    };
    let Cleared {
        uids,
        expunged_at,
        is_new,
    } = cleared;
    if is_new {
        note_in_history(&transaction, &acting.tenant, &id).await?;
    }
    let deliveries = deliveries_of(&transaction, &uids).await?;
    let (cancelled, any_first) = cancel(&transaction, &deliveries).await?;
    clear_errors(&transaction, &deliveries).await?;
    clear_attempts(&transaction, &deliveries).await?;
    remove_of_event(&transaction, &acting.tenant, &id, &deliveries).await?;
    if any_first {
        note_time(&transaction, &acting.tenant).await?;
    }
    transaction.commit().await?;
    info!(tenant = %acting.tenant, event = %id, actor = acting.actor.as_str(), cancelled, "an event was expunged");
    Ok(Json(Expunged {
        id,
        expunged_at,
        cancelled,
    }))
}

/// The events of one id, without their data now.
struct Cleared {
    uids: Vec<EventUid>,
    /// When the first of them was expunged.
    expunged_at: Timestamp,
    /// Whether one of them had its data until now.
    is_new: bool,
}

/// The events of this id, of which there may be one a day; `None` if there is none.
async fn clear_data(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: &EventId,
) -> Result<Option<Cleared>> {
    let statement = transaction
        .prepare_cached(
            "-- expunge_events\n\
             UPDATE events SET data = 'null', attributes = NULL, \
                 expunged_at = coalesce(expunged_at, now()) \
             WHERE uid = ANY (ARRAY( \
                 SELECT uid FROM events WHERE tenant = $1 AND id = $2)) \
             RETURNING uid, expunged_at, expunged_at = now() AS is_new",
        )
        .await?;
    let rows = transaction.query(&statement, &[tenant, id]).await?;
    let first = rows.iter().map(|row| row.get("expunged_at")).min();
    Ok(first.map(|expunged_at| Cleared {
        uids: rows.iter().map(|row| row.get("uid")).collect(),
        expunged_at,
        is_new: rows.iter().any(|row| row.get("is_new")),
    }))
}

/// Who had the data taken away, and of which event.
async fn note_in_history(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: &EventId,
) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- note_expunged_event\n\
             INSERT INTO changes (tenant, actor, action, kind, object, before, after) \
             VALUES ($1, current_setting('posthorn.actor'), 'changed', 'event', $2, \
                 '{\"expunged_at\": null}', jsonb_build_object('expunged_at', now()))",
        )
        .await?;
    transaction.execute(&statement, &[tenant, id]).await?;
    Ok(())
}

async fn deliveries_of(
    transaction: &Transaction<'_>,
    events: &[EventUid],
) -> Result<Vec<DeliveryId>> {
    let statement = transaction
        .prepare_cached(
            "-- deliveries_to_expunge\n\
             SELECT d.id FROM unnest($1::uuid[]) AS e (uid) CROSS JOIN LATERAL ( \
                 SELECT id FROM deliveries \
                 WHERE id BETWEEN millisecond_floor(e.uid) AND millisecond_ceiling(e.uid) \
                   AND event_uid = e.uid) d",
        )
        .await?;
    let rows = transaction.query(&statement, &[&events]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How many open deliveries were cancelled, and whether one of them waited for its first attempt.
async fn cancel(transaction: &Transaction<'_>, deliveries: &[DeliveryId]) -> Result<(usize, bool)> {
    let statement = transaction
        .prepare_cached(
            "-- cancel_expunged\n\
             UPDATE deliveries SET state = 'cancelled', due_at = NULL, finished_at = now(), \
                 deferred_because = NULL, error = 'the event was expunged' \
             WHERE state IN ('queued', 'retrying') AND id = ANY($1) \
             RETURNING attempts = 0",
        )
        .await?;
    let rows = transaction.query(&statement, &[&deliveries]).await?;
    Ok((rows.len(), rows.iter().any(|row| row.get(0))))
}

/// Makes dispatchers look up the jobs that were made until now.
async fn note_time(transaction: &Transaction<'_>, tenant: &Tenant) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- note_expunge\n\
             UPDATE tenants SET expunged_at = clock_timestamp() WHERE id = $1",
        )
        .await?;
    transaction.execute(&statement, &[tenant]).await?;
    Ok(())
}

/// A delivery that an attempt ended repeats the error of this attempt, which may repeat what was
/// sent. The reasons that Posthorn itself gives for an end stay.
async fn clear_errors(transaction: &Transaction<'_>, deliveries: &[DeliveryId]) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- expunge_errors\n\
             UPDATE deliveries d SET error = NULL \
             WHERE d.id = ANY($1) AND d.error IN ( \
                 SELECT a.error FROM attempts a WHERE a.delivery_id = d.id)",
        )
        .await?;
    transaction.execute(&statement, &[&deliveries]).await?;
    Ok(())
}

/// In debug mode attempts keep the request. An answer, its headers and an error may repeat what
/// was sent.
async fn clear_attempts(transaction: &Transaction<'_>, deliveries: &[DeliveryId]) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- expunge_attempts\n\
             UPDATE attempts SET request_headers = NULL, request_body = NULL, \
                 response_headers = NULL, response_body = NULL, error = NULL \
             WHERE delivery_id = ANY($1)",
        )
        .await?;
    transaction.execute(&statement, &[&deliveries]).await?;
    Ok(())
}
