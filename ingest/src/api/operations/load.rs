//! How much the system did, step by step, for a chart.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared::clock;
use shared::stats::PERIOD;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Operating;
use crate::api::http::problem::Result;
use crate::api::http::request::Parameters;
use crate::api::state::Shared;
use crate::api::webhooks::stats::window::{StatsQuery, Window, floor, moment};
use crate::loads::Load as Quarter;
use crate::timestamp::Timestamp;

/// `/api/v1/admin/load`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show_load))
}

/// What all tenants together did.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemLoad)]
pub struct Load {
    pub window: Window,
    /// The beginning of the window, rounded down to a step.
    pub since: Timestamp,
    pub until: Timestamp,
    /// `false`: some steps are still being added up, and are `null`. The next request adds more
    /// of them.
    #[schema(example = true)]
    pub complete: bool,
    /// The window in steps of equal length. The last one isn't over.
    pub series: Vec<LoadStep>,
}

/// A step of the window.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = SystemLoadStep)]
pub struct LoadStep {
    /// The beginning of the step.
    pub at: Timestamp,
    /// Events that were accepted; `null`: not known yet.
    #[schema(required, example = 741_600)]
    pub events: Option<i64>,
    /// Attempts that ended; `null`: not known yet.
    #[schema(required, example = 1_758_600)]
    pub attempts: Option<i64>,
}

/// Show the load
///
/// How many events all tenants published, and how many attempts were made, in steps of a
/// quarter of an hour (`1h`), half an hour (`24h`), six hours (`7d`) or a day (`30d`). Deleted
/// tenants' attempts don't count.
#[utoipa::path(
    get, path = "/load", operation_id = "show_load", tag = "operations",
    security(("token" = ["operator"])),
    params(StatsQuery),
    responses((status = 200, description = "The load.", body = Load)),
)]
pub async fn show_load(
    _: Operating,
    State(api): State<Shared>,
    Parameters(query): Parameters<StatsQuery>,
) -> Result<Json<Load>> {
    let (length, step) = query.window.lengths();
    let until = clock::now();
    let now = until.unix_timestamp();
    let since = floor(now - length, step);
    let client = api.pool.get().await?;
    let quarters = api.loads.since(&client, since, now).await?;
    let series: Vec<_> = (since..=now)
        .step_by(step as usize)
        .map(|at| {
            let parts = (at..(at + step).min(now + 1)).step_by(PERIOD as usize);
            sum(at, parts.map(|part| quarters.get(&part).copied()))
        })
        .collect();
    Ok(Json(Load {
        window: query.window,
        since: moment(since),
        until: Timestamp(until),
        complete: series.iter().all(|step| step.events.is_some()),
        series,
    }))
}

/// Adds up the quarters of a step. If one of them isn't known, the step's figures are `None`.
fn sum(at: i64, quarters: impl Iterator<Item = Option<Quarter>>) -> LoadStep {
    let all: Option<Vec<_>> = quarters.collect();
    let total = |of: fn(&Quarter) -> i64| all.as_ref().map(|all| all.iter().map(of).sum());
    LoadStep {
        at: moment(at),
        events: total(|quarter| quarter.events),
        attempts: total(|quarter| quarter.attempts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_known_when_all_its_quarters_are() {
        let quarter = |events, attempts| Some(Quarter { events, attempts });
        let of = |quarters: Vec<Option<Quarter>>| {
            let step = sum(0, quarters.into_iter());
            (step.events, step.attempts)
        };
        assert_eq!(
            of(vec![quarter(1, 2), quarter(10, 20)]),
            (Some(11), Some(22))
        );
        assert_eq!(of(vec![quarter(1, 2), None]), (None, None));
    }
}
