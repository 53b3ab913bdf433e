//! One event: its deliveries, and for each webhook of its tenant whether it matches, and why not.
//!
//! The explanation uses the webhook **as it is now**; `changed_since` says that it
//! was changed after the event. One reason is stored with the event instead: that
//! a filter was too costly depends on the webhooks that there were then.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use shared::ids::{DeliveryId, EventId, EventUid, Tenant, WebhookId};
use tokio::task::block_in_place;
use tokio_postgres::Row;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Reading;
use crate::api::events::by_id::uids_of_event;
use crate::api::events::log::EventView;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Id, Page, Parameters};
use crate::api::openapi::words::{DeliveryState, WebhookStatus};
use crate::api::state::{Api, Shared};
use crate::cpu;
use crate::invalid::{Gathered, Invalid};
use crate::matching::{Data, Explanation, Filter, Index, Pattern, Refusal};
use crate::subscriptions::within;
use crate::timestamp::Timestamp;

/// `/api/v1/events/{id}`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show))
}

/// The pages of an event's lists.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Pages {
    /// The most entries of each list.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_deliveries_cursor` of the previous page.
    pub deliveries_cursor: Option<String>,
    /// `next_matching_cursor` of the previous page.
    pub matching_cursor: Option<String>,
}

/// An event, a page of its deliveries, and a page of the tenant's webhooks.
#[derive(Serialize, ToSchema)]
pub struct EventDetail {
    #[serde(flatten)]
    pub event: EventView,
    /// The data as it was published.
    #[schema(value_type = serde_json::Value)]
    pub data: Box<RawValue>,
    /// Its other CloudEvents attributes.
    #[schema(required, value_type = Option<Object>)]
    pub attributes: Option<Value>,
    pub deliveries: Vec<Delivery>,
    #[schema(required)]
    pub next_deliveries_cursor: Option<DeliveryId>,
    /// For each webhook of the tenant, as it is now: whether it gets the event, and why not.
    pub matching: Vec<Matching>,
    #[schema(required)]
    pub next_matching_cursor: Option<WebhookId>,
}

/// One delivery of the event.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryOfEvent)]
pub struct Delivery {
    pub id: DeliveryId,
    pub webhook_id: WebhookId,
    /// The state.
    #[schema(value_type = DeliveryState)]
    pub status: String,
    /// The number of attempts.
    pub attempts: i16,
    /// The HTTP status that the last attempt was answered with.
    #[schema(required, example = 200)]
    pub response_code: Option<i16>,
    /// Why the last attempt received no answer.
    #[schema(required)]
    pub error: Option<String>,
    #[schema(required)]
    pub next_attempt_at: Option<Timestamp>,
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
}

impl From<&Row> for Delivery {
    fn from(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            webhook_id: row.get("webhook_id"),
            status: row.get("state"),
            attempts: row.get("attempts"),
            response_code: row.get("status_code"),
            error: row.get("error"),
            next_attempt_at: row.get("due_at"),
            finished_at: row.get("finished_at"),
        }
    }
}

/// Whether one webhook gets the event, and why not.
#[derive(Serialize, ToSchema)]
pub struct Matching {
    pub webhook_id: WebhookId,
    /// `active`; `paused`: it gets the event later; `inactive` or `disabled`: it gets nothing.
    #[schema(value_type = WebhookStatus)]
    pub webhook_status: String,
    /// Whether the webhook was changed after the event, so that the answer may have been different.
    pub changed_since: bool,
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// Show an event
///
/// With its deliveries. For each webhook of the tenant, as it is now, the answer says
/// which of its patterns listens, which clauses of its filter hold, or which one refuses it.
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_event", tag = "events",
    security(("token" = ["viewer"])),
    params(("id" = EventId, Path), Pages),
    responses((status = 200, description = "The event.", body = EventDetail)),
)]
pub async fn show(
    acting: Reading,
    State(api): State<Shared>,
    Id(id): Id<EventId>,
    Parameters(pages): Parameters<Pages>,
) -> Result<Json<EventDetail>> {
    let page_at = |cursor| Page {
        limit: pages.limit,
        cursor,
    };
    let deliveries_page = page_at(pages.deliveries_cursor);
    let matching_page = page_at(pages.matching_cursor);
    let mut wrong = Gathered::default();
    let limit = wrong.take(deliveries_page.limit());
    let after_delivery = wrong.take(cursor(&deliveries_page, "deliveries_cursor"));
    let after_webhook = wrong.take(cursor(&matching_page, "matching_cursor"));
    wrong.finish(())?;

    let row = find_event(&api, &acting.tenant, &id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no event {id}")))?;
    let uid: EventUid = row.get("uid");
    let data: String = row.get("data");
    let mut deliveries = deliveries_of(&api, uid, after_delivery, limit + 1).await?;
    let next_deliveries_cursor = cut(&mut deliveries, limit).map(|last| last.get("id"));
    let mut webhooks = webhooks_of(&api, &acting.tenant, after_webhook, limit + 1).await?;
    let next_matching_cursor = cut(&mut webhooks, limit).map(|last| last.get("id"));
    let event = EventView::from(&row);
    let too_costly = too_costly(&row);
    let matching = {
        let _permit = cpu::permit(&acting.tenant).await?;
        let event = ExplainedEvent {
            tenant: &acting.tenant,
            event_type: event.r#type.as_str(),
            data: &data,
            accepted_at: Some(event.accepted_at),
        };
        block_in_place(|| explain(&api, &event, &webhooks, &too_costly))
    };
    Ok(Json(EventDetail {
        matching,
        event,
        data: RawValue::from_string(data).map_err(anyhow::Error::new)?,
        attributes: row.get("attributes"),
        deliveries: deliveries.iter().map(Delivery::from).collect(),
        next_deliveries_cursor,
        next_matching_cursor,
    }))
}

fn cursor<T: std::str::FromStr>(
    page: &Page,
    field: &'static str,
) -> std::result::Result<Option<T>, Invalid> {
    page.after()
        .map_err(|_| Invalid::new(field, "is not a cursor"))
}

/// Shortens a page that was read with one row more than its limit. Answers its last row if
/// there are more.
fn cut(rows: &mut Vec<Row>, limit: i64) -> Option<&Row> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    rows.last().filter(|_| more)
}

/// Finds the newest event of this id.
pub(super) async fn find_event(api: &Api, tenant: &Tenant, id: &EventId) -> Result<Option<Row>> {
    let client = api.pool.get().await?;
    let newest = uids_of_event(&client, tenant, id).await?.into_iter().max();
    let Some(newest) = newest else {
        return Ok(None);
    };
    let statement = client
        .prepare_cached(
            "-- find_event\n\
             SELECT uid, tenant, id, type, occurred_at, matched, data, attributes, too_costly, expunged_at, \
                 over_http \
             FROM events WHERE uid = $1",
        )
        .await?;
    Ok(client.query_opt(&statement, &[&newest]).await?)
}

async fn deliveries_of(
    api: &Api,
    event: EventUid,
    after: Option<DeliveryId>,
    limit: i64,
) -> Result<Vec<Row>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- deliveries_of_event\n\
             SELECT id, webhook_id, state, attempts, status_code, error, due_at, finished_at \
             FROM deliveries WHERE event_uid = $1 \
               AND id BETWEEN millisecond_floor($1) AND millisecond_ceiling($1) \
               AND ($2::uuid IS NULL OR id > $2) \
             ORDER BY id LIMIT $3",
        )
        .await?;
    Ok(client.query(&statement, &[&event, &after, &limit]).await?)
}

/// A page of the tenant's webhooks, as [`explain`] wants them.
pub(super) async fn webhooks_of(
    api: &Api,
    tenant: &Tenant,
    after: Option<WebhookId>,
    limit: i64,
) -> Result<Vec<Row>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- webhooks_to_explain\n\
             SELECT id, patterns, filter, status, updated_at, coalesce(dialect, \
                 (SELECT t.dialect FROM tenants t WHERE t.id = tenant)) AS dialect FROM webhooks \
             WHERE tenant = $1 AND status <> 'deleted' AND NOT operational AND ($2::uuid IS NULL OR id > $2) \
             ORDER BY id LIMIT $3",
        )
        .await?;
    Ok(client.query(&statement, &[tenant, &after, &limit]).await?)
}

/// The webhooks whose filter was too costly when the event was accepted.
fn too_costly(event: &Row) -> HashSet<WebhookId> {
    let ids: Option<Value> = event.get("too_costly");
    let ids = ids.as_ref().and_then(Value::as_array).into_iter().flatten();
    ids.filter_map(|id| id.as_str()?.parse().ok()).collect()
}

/// The event whose match with webhooks is explained.
pub(super) struct ExplainedEvent<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) event_type: &'a str,
    pub(super) data: &'a str,
    /// `None`: it isn't accepted yet.
    pub(super) accepted_at: Option<Timestamp>,
}

/// Asks an index of just these webhooks. The one that events are matched against lacks webhooks
/// that aren't active.
pub(super) fn explain(
    api: &Api,
    event: &ExplainedEvent<'_>,
    webhooks: &[Row],
    too_costly: &HashSet<WebhookId>,
) -> Vec<Matching> {
    let mut index = Index::new();
    for row in webhooks {
        let id: WebhookId = row.get("id");
        let patterns = row.get::<_, Vec<String>>("patterns");
        let patterns = patterns.iter().map(|text| text.parse::<Pattern>());
        let filter = row
            .get::<_, Option<Value>>("filter")
            .map(|filter| Filter::parse(&filter))
            .transpose()
            .map(|filter| {
                let within = within(row.get("dialect"), &api.dialects);
                filter.map(|filter| filter.on(within))
            });
        // Both were checked when they were saved. An invalid hand-made row is not shown.
        if let (Ok(patterns), Ok(filter)) = (patterns.collect(), filter) {
            index.upsert(id, event.tenant.as_str(), patterns, filter, row);
        }
    }
    let data = Data::new(event.data);
    index
        .explain(event.tenant.as_str(), event.event_type, &data)
        .into_iter()
        .map(|(entry, explanation)| Matching {
            webhook_id: entry.id,
            webhook_status: entry.payload.get("status"),
            changed_since: event
                .accepted_at
                .is_some_and(|at| entry.payload.get::<_, Timestamp>("updated_at") > at),
            explanation: if too_costly.contains(&entry.id) {
                Explanation::Refused {
                    pattern: entry.listening(event.event_type),
                    refusal: Refusal::too_costly(),
                }
            } else {
                explanation
            },
        })
        .collect()
}
