//! How many events of each type a tenant had. Lanes count them: see [`crate::type_counts`].

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared::clock;
use shared::stats::PERIOD;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Reading;
use crate::api::http::problem::Result;
use crate::api::http::request::Parameters;
use crate::api::state::Shared;
use crate::api::webhooks::stats::window::{StatsQuery, Window, floor, moment};
use crate::timestamp::Timestamp;
use crate::type_counts::OTHER;

/// `/api/v1/stats/event-types`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(of_event_types))
}

/// How many events of each type were accepted.
#[derive(Serialize, ToSchema)]
pub struct EventTypeStats {
    pub window: Window,
    /// The beginning of the window, rounded down to a quarter of an hour.
    pub since: Timestamp,
    pub until: Timestamp,
    /// Types with most events first.
    pub event_types: Vec<EventTypeCount>,
    /// Events of types beyond the first 1,000 of a day.
    #[schema(example = 0)]
    pub other_events: i64,
}

/// A type, and its events.
#[derive(Serialize, ToSchema)]
pub struct EventTypeCount {
    #[schema(example = "order.created")]
    pub event_type: String,
    #[schema(example = 5212)]
    pub events: i64,
}

/// A tenant's events by type
///
/// How many events of each type were accepted, whether a webhook wanted them or not. Counts
/// are up to ten seconds late.
#[utoipa::path(
    get, path = "/event-types", operation_id = "event_type_stats", tag = "stats",
    security(("token" = ["viewer"])),
    params(StatsQuery),
    responses((status = 200, description = "The counts.", body = EventTypeStats)),
)]
pub async fn of_event_types(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(query): Parameters<StatsQuery>,
) -> Result<Json<EventTypeStats>> {
    let now = clock::now();
    let (length, _) = query.window.lengths();
    let since = floor(now.unix_timestamp() - length, PERIOD);
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- event_type_stats\n\
             SELECT event_type, sum(events)::int8 FROM event_type_counts \
             WHERE tenant = $1 AND quarter >= to_timestamp($2::float8) \
             GROUP BY event_type ORDER BY 2 DESC, 1 LIMIT 2000",
        )
        .await?;
    let rows = client
        .query(&statement, &[&acting.tenant, &(since as f64)])
        .await?;
    let counts = rows.iter().map(|row| EventTypeCount {
        event_type: row.get(0),
        events: row.get(1),
    });
    let (other, event_types): (Vec<_>, Vec<_>) = counts.partition(|it| it.event_type == OTHER);
    Ok(Json(EventTypeStats {
        window: query.window,
        since: moment(since),
        until: Timestamp(now),
        event_types,
        other_events: other.iter().map(|it| it.events).sum(),
    }))
}
