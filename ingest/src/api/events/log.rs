//! Searches accepted events by type and time.
//!
//! `since` and `until` mean the time at which an event was accepted, because
//! events are stored in that order.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use shared::ids::{EventId, EventType, EventUid, Tenant, first_uuid_at, time_of};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::auth::Reading;
use crate::api::http::problem::Result;
use crate::api::http::request::{Page, Parameters};
use crate::api::state::{Api, Shared};
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::log_filter::{LogFilter, Source, listed};
use crate::timestamp::Timestamp;

/// The most events of the tenant that a page with `type` looks at.
const LOOKED_AT: i64 = 10_000;

/// `GET /api/v1/events`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(search))
}

/// Which events to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Search {
    /// An event type or a pattern such as `order.*`; several with commas between them.
    #[serde(rename = "type")]
    #[param(example = "order.*")]
    pub event_type: Option<String>,
    /// `0`: only events that matched no webhook.
    #[param(minimum = 0, maximum = 0, example = 0)]
    pub matched: Option<i32>,
    /// Accepted at this time or later.
    #[param(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    /// Accepted before this time.
    #[param(value_type = Option<Timestamp>)]
    pub until: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
#[schema(as = EventPage)]
pub struct EventPage {
    pub events: Vec<EventView>,
    /// The cursor of the next page; `null` on the last page. With `type`, a page may have fewer
    /// events than its limit, or none, and still a cursor, because it looks at a bounded number
    /// of events.
    #[schema(required)]
    pub next_cursor: Option<EventUid>,
}

/// An event that was accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    pub id: EventId,
    pub r#type: EventType,
    /// When it happened, according to its producer.
    pub occurred_at: Timestamp,
    pub accepted_at: Timestamp,
    /// The number of webhooks that it matched, and of deliveries that were made.
    pub matched: i32,
    /// When its data was taken away; `null`: it is there.
    #[schema(required)]
    pub expunged_at: Option<Timestamp>,
    /// How it came; `null`: it was accepted before Posthorn noted that. Over AMQP its routing
    /// key was `<tenant>.<type>`.
    #[schema(required)]
    pub came_by: Option<CameBy>,
    /// Where it is in the order of events.
    #[serde(skip)]
    pub uid: EventUid,
}

/// How an event came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CameBy {
    Amqp,
    Http,
}

impl From<&Row> for EventView {
    fn from(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            r#type: row.get("type"),
            occurred_at: row.get("occurred_at"),
            accepted_at: Timestamp(time_of(row.get("uid"))),
            matched: row.get("matched"),
            expunged_at: row.get("expunged_at"),
            came_by: row
                .get::<_, Option<bool>>("over_http")
                .map(|over_http| match over_http {
                    true => CameBy::Http,
                    false => CameBy::Amqp,
                }),
            uid: row.get("uid"),
        }
    }
}

/// Which of a tenant's events are looked at: `from` ≤ uid < `to`.
struct Range {
    from: Uuid,
    to: Uuid,
    /// Only those that matched no webhook.
    unmatched: bool,
}

impl Range {
    /// The condition that leaves one index to choose: see V4 and V15.
    fn index(&self) -> &'static str {
        match self.unmatched {
            true => "matched < 1",
            false => "matched >= 0",
        }
    }
}

/// Search events
///
/// Newest first.
#[utoipa::path(
    get, path = "/", operation_id = "search_events", tag = "events",
    security(("token" = ["viewer"])),
    params(Search),
    responses((status = 200, description = "A page.", body = EventPage)),
)]
pub async fn search(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(search): Parameters<Search>,
) -> Result<Json<EventPage>> {
    let (types, range, limit) = search.check()?;
    let rows = search_events(&api, &acting.tenant, &range, &types, limit).await?;
    let shown = &rows[..rows.len().min(limit as usize)];
    let next_cursor = if rows.len() > shown.len() {
        shown.last().map(|row| row.get("uid"))
    } else if !types.is_all() {
        last_looked_at(&api, &acting.tenant, &range).await?
    } else {
        None
    };
    Ok(Json(EventPage {
        events: shown.iter().map(EventView::from).collect(),
        next_cursor,
    }))
}

impl Search {
    /// Checks every parameter: the types, the events to look at, and how many to show.
    fn check(self) -> std::result::Result<(LogFilter, Range, i64), Invalids> {
        let mut wrong = Gathered::default();
        let types = listed(self.event_type);
        let from = Source::Parameter("type");
        let types = wrong.take(LogFilter::default().with_types(from, types.as_deref()));
        if self.matched.is_some_and(|matched| matched != 0) {
            let bound = "must be 0: events that matched no webhook";
            wrong.add(Invalid::new("matched", bound));
        }
        let page = Page {
            limit: self.limit,
            cursor: self.cursor,
        };
        let (limit, after) = wrong.take(page.read::<EventUid>());
        let since = wrong.take(moment("since", self.since.as_deref()));
        let until = wrong.take(moment("until", self.until.as_deref()));
        let to = until.unwrap_or(Uuid::max());
        let range = Range {
            from: since.unwrap_or(Uuid::nil()),
            to: after.map_or(to, |after| to.min(after.uuid())),
            unmatched: self.matched.is_some(),
        };
        wrong.finish((types, range, limit))
    }
}

fn moment(field: &'static str, text: Option<&str>) -> std::result::Result<Option<Uuid>, Invalid> {
    let Some(text) = text else {
        return Ok(None);
    };
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|at| Some(first_uuid_at(at)))
        .map_err(|_| Invalid::new(field, "must be an RFC 3339 time"))
}

/// One row more than the limit, if there are as many.
///
/// `matched >= 0` makes `events_by_time` the only index that fits. Ordered by `uid` alone, the
/// query could walk through all tenants' events, and far if this tenant has been quiet.
///
/// The pairs are compared by `<=`, though `$3` itself is left out. The planner estimates such a
/// comparison by its first column alone. With `<` it would expect no event at all of the tenant
/// whose name is the first in the alphabet, and would read all of them to sort them.
async fn search_events(
    api: &Api,
    tenant: &Tenant,
    range: &Range,
    types: &LogFilter,
    limit: i64,
) -> Result<Vec<Row>> {
    let client = api.pool.get().await?;
    let index = range.index();
    let statement = client
        .prepare_cached(&format!(
            "-- search_events\n\
             SELECT uid, id, type, occurred_at, matched, over_http, expunged_at FROM ( \
                 SELECT tenant, uid, id, type, occurred_at, matched, over_http, expunged_at FROM events \
                 WHERE (tenant, uid) >= ($1, $2) AND (tenant, uid) <= ($1, $3) \
                   AND uid >= $2 AND uid < $3 AND {index} \
                 ORDER BY tenant DESC, uid DESC LIMIT $4) AS looked_at \
             WHERE $5::text[] IS NULL OR type = ANY($5) OR type ^@ ANY($6::text[]) \
             ORDER BY tenant DESC, uid DESC LIMIT $7"
        ))
        .await?;
    let looked_at = if types.is_all() { limit + 1 } else { LOOKED_AT };
    Ok(client
        .query(
            &statement,
            &[
                tenant,
                &range.from,
                &range.to,
                &looked_at,
                &types.exact(),
                &types.prefixes(),
                &(limit + 1),
            ],
        )
        .await?)
}

/// The last event that a search with a type looked at, if there may be more after it.
async fn last_looked_at(api: &Api, tenant: &Tenant, range: &Range) -> Result<Option<EventUid>> {
    let client = api.pool.get().await?;
    let index = range.index();
    let statement = client
        .prepare_cached(&format!(
            "-- last_looked_at\n\
             SELECT uid FROM events \
             WHERE (tenant, uid) >= ($1, $2) AND (tenant, uid) <= ($1, $3) \
               AND uid >= $2 AND uid < $3 AND {index} \
             ORDER BY tenant DESC, uid DESC OFFSET $4 LIMIT 1"
        ))
        .await?;
    let row = client
        .query_opt(
            &statement,
            &[tenant, &range.from, &range.to, &(LOOKED_AT - 1)],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// Which neighbour of an event is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// The one that was accepted after it.
    Newer,
    /// The one that was accepted before it.
    Older,
}

/// The tenant's event that was accepted next to this one: of the same day and a half if there is
/// one, because few partitions are planned for then.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn neighbour(
    api: &Api,
    tenant: &Tenant,
    of: EventUid,
    which: Neighbour,
) -> Result<Option<EventId>> {
    const NEAR: Duration = Duration::hours(36);
    let client = api.pool.get().await?;
    let (order, near, far) = match which {
        Neighbour::Newer => ("", first_uuid_at(time_of(of.uuid()) + NEAR), Uuid::max()),
        Neighbour::Older => (
            "DESC",
            first_uuid_at(time_of(of.uuid()) - NEAR),
            Uuid::nil(),
        ),
    };
    // As in `search_events`: rows are compared and ordered by all columns of the index.
    let statement = client
        .prepare_cached(&format!(
            "-- neighbour_of_event\n\
             SELECT id FROM events \
             WHERE (tenant, uid) >= ($1, $2) AND (tenant, uid) <= ($1, $3) \
               AND uid >= $2 AND uid <= $3 AND uid <> $4 AND matched >= 0 \
             ORDER BY tenant {order}, uid {order} LIMIT 1"
        ))
        .await?;
    for end in [near, far] {
        let (from, to) = (of.uuid().min(end), of.uuid().max(end));
        let found = client
            .query_opt(&statement, &[tenant, &from, &to, &of])
            .await?;
        if let Some(row) = found {
            return Ok(Some(row.get(0)));
        }
    }
    Ok(None)
}
