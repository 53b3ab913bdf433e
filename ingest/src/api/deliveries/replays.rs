//! Replays of a webhook's deliveries: start one, watch it, cancel it.
//!
//! These handlers only write and read the replay's row; [`crate::replay`] does the work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shared::clock;
use shared::ids::{EventType, ReplayId, Tenant, WebhookId, first_uuid_at};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{OwnManaging, OwnReading};
use crate::api::deliveries::check_exists;
use crate::api::deliveries::retries::check_active;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, Ids};
use crate::api::openapi::words::{FinishedState, FinishedStates, ReplayStatus};
use crate::api::state::{Api, Shared};
use crate::form::{OneOrMany, one_or_many};
use crate::restart::FINISHED;
use crate::timestamp::Timestamp;

/// Deliveries per second by default.
const RATE: i32 = 10;
/// The most deliveries per second.
const MAX_RATE: i32 = 1_000;
/// The most event types in a request.
const MAX_TYPES: usize = 100;
/// How far the deliveries of a replay are counted.
const COUNTED: i64 = 100_000;
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

/// Which deliveries begin again, and how quickly.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReplay {
    /// Only of events that were accepted at this time or later.
    pub since: Timestamp,
    /// Only of events that were accepted before this time; by default now.
    #[schema(nullable = false)]
    pub until: Option<Timestamp>,
    /// `failed`, `expired`, `cancelled` or `delivered`, or a list of them; `failed` by
    /// default.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(value_type = FinishedStates, required = false, example = json!(["failed", "expired"]))]
    pub status: Option<Vec<String>>,
    /// Only of these event types, at most 100; all by default.
    #[serde(default, alias = "event_type", deserialize_with = "one_or_many")]
    #[schema(
        value_type = OneOrMany, required = false, example = json!(["order.created"]),
        extensions(("x-also" = json!(["event_type"])))
    )]
    pub event_types: Option<Vec<String>>,
    /// Whether to count the deliveries only.
    #[serde(default)]
    pub dry_run: bool,
    /// The rate, in deliveries per second.
    #[schema(minimum = 1, maximum = 1000, default = 10, nullable = false)]
    pub rate: Option<i32>,
}

/// What a replay would do.
#[derive(Serialize, ToSchema)]
pub struct DryRun {
    /// Always true.
    pub dry_run: bool,
    /// How many deliveries would begin again.
    pub matching: i64,
    /// Whether all were counted: counting stops at 100,000 deliveries.
    pub counted: bool,
}

/// A replay: deliveries of a webhook that begin again, at a rate.
#[derive(Serialize, ToSchema)]
pub struct Replay {
    pub id: ReplayId,
    pub webhook_id: WebhookId,
    /// How far it is.
    #[schema(value_type = ReplayStatus)]
    pub status: String,
    #[schema(required)]
    pub cancelled_because: Option<String>,
    pub since: Timestamp,
    pub until: Timestamp,
    /// The states of the deliveries that begin again.
    #[schema(value_type = Vec<FinishedState>)]
    pub statuses: Vec<String>,
    /// Their event types; `null`: all.
    #[schema(required)]
    pub event_types: Option<Vec<String>>,
    /// The rate, in deliveries per second.
    pub rate: i32,
    /// The number of deliveries to begin again, counted when the replay was created.
    pub matching: i64,
    /// Whether all were counted: counting stops at 100,000 deliveries.
    pub counted: bool,
    /// The number of deliveries that have begun again.
    pub replayed: i64,
    pub created_at: Timestamp,
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
}

/// A webhook's latest replays.
#[derive(Serialize, ToSchema)]
pub struct Replays {
    pub replays: Vec<Replay>,
}

/// A request for a replay, checked.
struct Checked {
    since: OffsetDateTime,
    until: OffsetDateTime,
    states: Vec<String>,
    event_types: Option<Vec<String>>,
    rate: i32,
}

impl NewReplay {
    fn check(self) -> Result<Checked> {
        let Timestamp(since) = self.since;
        let now = clock::now();
        let until = self.until.map_or(now, |Timestamp(at)| at);
        if since >= until {
            return Err(Problem::field("since", "must be before `until`"));
        }
        let states = self.status.unwrap_or_else(|| vec!["failed".to_owned()]);
        if states.is_empty() || states.len() > FINISHED.len() {
            return Err(Problem::field("status", "must have 1 to 4 entries"));
        }
        if let Some(unknown) = states.iter().find(|s| !FINISHED.contains(&s.as_str())) {
            let all = FINISHED.join(", ");
            return Err(Problem::field(
                "status",
                format!("`{unknown}` is not one of {all}"),
            ));
        }
        if let Some(types) = &self.event_types {
            if types.is_empty() || types.len() > MAX_TYPES {
                let bound = format!("must have 1 to {MAX_TYPES} entries");
                return Err(Problem::field("event_types", bound));
            }
            for (at, name) in types.iter().enumerate() {
                name.parse::<EventType>().map_err(|error| {
                    Problem::field(format!("event_types[{at}]"), error.to_string())
                })?;
            }
        }
        let rate = self.rate.unwrap_or(RATE);
        if !(1..=MAX_RATE).contains(&rate) {
            return Err(Problem::field(
                "rate",
                format!("must be between 1 and {MAX_RATE} a second"),
            ));
        }
        Ok(Checked {
            since,
            until,
            states,
            event_types: self.event_types,
            rate,
        })
    }
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
    let dry_run = new.dry_run;
    check_active(&api, &acting.tenant, webhook).await?;
    let wanted = new.check()?;
    let (matching, counted) = count_matching(&api, webhook, &wanted).await?;
    if dry_run {
        let answer = DryRun {
            dry_run,
            matching,
            counted,
        };
        return Ok(Json(answer).into_response());
    }
    let id = ReplayId::generate();
    insert_replay(
        &api,
        &acting.tenant,
        id,
        webhook,
        &wanted,
        (matching, counted),
    )
    .await?;
    let replay = find(&api, &acting.tenant, webhook, id).await?;
    Ok((StatusCode::ACCEPTED, Json(replay)).into_response())
}

/// Counts the deliveries. Answers how many there are, and whether all were counted.
async fn count_matching(api: &Api, webhook: WebhookId, wanted: &Checked) -> Result<(i64, bool)> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- count_replay\n\
             SELECT count(*) FILTER ( \
                 WHERE state = ANY($4) AND ($5::text[] IS NULL OR event_type = ANY($5))), count(*) \
             FROM (SELECT state, event_type FROM deliveries \
                 WHERE webhook_id = $1 AND id >= $2 AND id < $3 ORDER BY id LIMIT $6) seen",
        )
        .await?;
    let row = client
        .query_one(
            &statement,
            &[
                &webhook,
                &first_uuid_at(wanted.since),
                &first_uuid_at(wanted.until),
                &wanted.states,
                &wanted.event_types,
                &COUNTED,
            ],
        )
        .await?;
    Ok((row.get(0), row.get::<_, i64>(1) < COUNTED))
}

async fn insert_replay(
    api: &Api,
    tenant: &Tenant,
    id: ReplayId,
    webhook: WebhookId,
    wanted: &Checked,
    (matching, counted): (i64, bool),
) -> Result<()> {
    let client = api.pool.get().await?;
    let inserted = client
        .execute(
            "-- insert_replay\n\
             INSERT INTO replays (id, tenant, webhook_id, since, until, states, event_types, rate, \
                 position, matching, counted) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            &[
                &id,
                tenant,
                &webhook,
                &wanted.since,
                &wanted.until,
                &wanted.states,
                &wanted.event_types,
                &wanted.rate,
                &first_uuid_at(wanted.since),
                &matching,
                &counted,
            ],
        )
        .await;
    match inserted {
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Err(Problem::conflict(
            format!("a replay of webhook {webhook} is running: wait for it, or cancel it"),
        )),
        other => Ok(other.map(|_| ())?),
    }
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
    find(&api, &acting.tenant, webhook, id).await.map(Json)
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
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- stop_replay\n\
             UPDATE replays SET state = 'cancelled', finished_at = now(), cancelled_because = 'asked for' \
             WHERE id = $1 AND webhook_id = $2 AND tenant = $3 AND state = 'running'",
        )
        .await?;
    client
        .execute(&statement, &[&id, &webhook, &acting.tenant])
        .await?;
    drop(client);
    find(&api, &acting.tenant, webhook, id).await.map(Json)
}

async fn find(api: &Api, tenant: &Tenant, webhook: WebhookId, id: ReplayId) -> Result<Replay> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- show_replay\n\
             SELECT * FROM replays WHERE id = $1 AND webhook_id = $2 AND tenant = $3",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[&id, &webhook, tenant])
        .await?;
    row.as_ref()
        .map(Replay::from_row)
        .ok_or_else(|| Problem::not_found(format!("there is no replay {id} of webhook {webhook}")))
}

impl Replay {
    fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            webhook_id: row.get("webhook_id"),
            status: row.get("state"),
            cancelled_because: row.get("cancelled_because"),
            since: row.get("since"),
            until: row.get("until"),
            statuses: row.get("states"),
            event_types: row.get("event_types"),
            rate: row.get("rate"),
            matching: row.get("matching"),
            counted: row.get("counted"),
            replayed: row.get("replayed"),
            created_at: row.get("created_at"),
            finished_at: row.get("finished_at"),
        }
    }
}
