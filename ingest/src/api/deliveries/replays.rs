//! Replays of a webhook's deliveries: start one, watch it, cancel it.
//!
//! These handlers only write and read the replay's row; [`crate::replay`] does the work.
//! Those of a whole tenant are in [`all_replays`](super::all_replays).

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::clock;
use shared::ids::{ReplayId, Tenant, WebhookId, first_uuid_at, time_of};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::auth::{OwnManaging, OwnReading};
use crate::api::deliveries::check_exists;
use crate::api::deliveries::replay_results::{ReplayResults, results};
use crate::api::deliveries::retries::check_active;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, Ids};
use crate::api::openapi::words::{FinishedState, FinishedStates, ReplayStatus};
use crate::api::state::{Api, Shared};
use crate::form::{OneOrMany, one_or_many};
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::log_filter::{LogFilter, Source, passes};
use crate::restart::FINISHED;
use crate::timestamp::Timestamp;

/// Deliveries per second by default.
const RATE: i32 = 10;
/// The most deliveries per second.
const MAX_RATE: i32 = 1_000;
/// How far the deliveries of a replay are counted.
const COUNTED: i64 = 100_000;
/// The most replays that are listed.
const LISTED: i64 = 100;
/// The most event types that a dry run tells.
const TOLD_TYPES: usize = 100;

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
    /// Only of these event types, at most 100: types and patterns such as `order.*`; all by default.
    #[serde(default, alias = "event_type", deserialize_with = "one_or_many")]
    #[schema(
        value_type = OneOrMany, required = false, example = json!(["order.*"]),
        extensions(("x-also" = json!(["event_type"])))
    )]
    pub event_types: Option<Vec<String>>,
    /// Only deliveries whose last attempt was answered so: a status, a class such as `5xx`, or
    /// `none`, which is no answer; or a list of them.
    #[serde(default, deserialize_with = "one_or_more_codes")]
    #[schema(value_type = OneOrMany, required = false, example = json!(["5xx", "none"]))]
    pub response_code: Option<Vec<String>>,
    /// Only deliveries whose last attempt had this outcome, such as `timeout`, or a list of them.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(value_type = OneOrMany, required = false, example = json!(["timeout", "tls"]))]
    pub outcome: Option<Vec<String>>,
    /// Whether to begin with two a second, and to halve the rate when the endpoint answers 429
    /// or 5xx, or not at all.
    #[serde(default)]
    pub ramp: bool,
    /// Whether to count the deliveries only.
    #[serde(default)]
    pub dry_run: bool,
    /// The rate, in deliveries per second.
    #[schema(minimum = 1, maximum = 1000, default = 10, nullable = false)]
    pub rate: Option<i32>,
}

/// What a replay would do.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "dry_run": true, "matching": 274, "counted": true, "oldest": "2026-11-26T07:29:11.020Z",
    "by_type": [{"event_type": "order.created", "matching": 201}, {"event_type": "order.paid", "matching": 73}],
}))]
pub struct DryRun {
    /// Always true.
    pub dry_run: bool,
    /// How many deliveries would begin again.
    pub matching: i64,
    /// Whether all were counted: counting stops at 100,000 deliveries.
    pub counted: bool,
    /// When the oldest of their events was accepted; `null`: there is none.
    #[schema(required)]
    pub oldest: Option<Timestamp>,
    /// How many of each event type, the most first; at most 100 types.
    pub by_type: Vec<MatchingType>,
}

/// How many deliveries are of an event type.
#[derive(Serialize, ToSchema)]
pub struct MatchingType {
    #[schema(example = "order.created")]
    pub event_type: String,
    pub matching: i64,
}

/// Deliveries that begin again, or a webhook's that are made belatedly, at a rate.
#[derive(Serialize, ToSchema)]
pub struct Replay {
    pub id: ReplayId,
    /// `replay`: finished deliveries begin again. `backfill`: a webhook gets the events that it
    /// would have matched.
    #[schema(example = "replay")]
    pub kind: String,
    /// `null`: all of the tenant's webhooks, one after the other.
    #[schema(required)]
    pub webhook_id: Option<WebhookId>,
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
    /// How their last attempt was answered; `null`: no matter.
    #[schema(required)]
    pub response_codes: Option<Vec<String>>,
    /// The outcomes of their last attempt; `null`: no matter.
    #[schema(required)]
    pub outcomes: Option<Vec<String>>,
    /// The rate, in deliveries per second.
    pub rate: i32,
    /// Whether it began slowly, and slows down when the endpoint is overloaded.
    pub ramp: bool,
    /// The rate of its latest step, while it is running: less than `rate` on a ramp, and when the
    /// tenant's replays share what a tenant may have.
    #[schema(required, example = 10.0)]
    pub rate_now: Option<f32>,
    /// The number of deliveries to begin again, counted when the replay was created.
    pub matching: i64,
    /// Whether all were counted: counting stops at 100,000 deliveries.
    pub counted: bool,
    /// The number of deliveries that have begun again.
    pub replayed: i64,
    /// What became of them; only where one replay is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub results: Option<ReplayResults>,
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
pub(super) struct Checked {
    pub(super) since: OffsetDateTime,
    pub(super) until: OffsetDateTime,
    pub(super) states: Vec<String>,
    pub(super) event_types: Option<Vec<String>>,
    pub(super) filter: LogFilter,
    pub(super) pace: Pace,
}

/// How quickly a replay goes.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) rate: i32,
    pub(super) ramp: bool,
}

/// Codes may be numbers.
fn one_or_more_codes<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(serde::de::Error::custom(
            "expected a code, such as `503`, `5xx` or `none`, or a list of them",
        )),
    };
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::Array(codes) => Some(
            codes
                .iter()
                .map(text)
                .collect::<std::result::Result<_, _>>()?,
        ),
        code => Some(vec![text(&code)?]),
    })
}

/// A rate within its bounds.
pub(super) fn rate(rate: Option<i32>) -> std::result::Result<i32, Invalid> {
    let rate = rate.unwrap_or(RATE);
    match (1..=MAX_RATE).contains(&rate) {
        true => Ok(rate),
        false => {
            let bound = format!("must be between 1 and {MAX_RATE} a second");
            Err(Invalid::new("rate", bound))
        }
    }
}

/// A time within which events were accepted.
pub(super) fn between(
    Timestamp(since): Timestamp,
    until: Option<Timestamp>,
) -> std::result::Result<(OffsetDateTime, OffsetDateTime), Invalid> {
    let until = until.map_or_else(clock::now, |Timestamp(at)| at);
    match since < until {
        true => Ok((since, until)),
        false => Err(Invalid::new("since", "must be before `until`")),
    }
}

impl NewReplay {
    /// Checks every member.
    ///
    /// # Errors
    /// Names each that is out of its bounds.
    pub(super) fn check(self) -> std::result::Result<Checked, Invalids> {
        let mut wrong = Gathered::default();
        let never = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH);
        let (since, until) = wrong.take_or(never, between(self.since, self.until));
        let states = self.status.unwrap_or_else(|| vec!["failed".to_owned()]);
        wrong.take(finished(&states));
        let filter = wrong.take(filter(
            self.event_types.as_deref(),
            self.response_code.as_deref(),
            self.outcome.as_deref(),
        ));
        let rate = wrong.take(rate(self.rate));
        wrong.finish(Checked {
            since,
            until,
            states,
            event_types: self.event_types,
            filter,
            pace: Pace {
                rate,
                ramp: self.ramp,
            },
        })
    }
}

/// Refuses states that aren't final.
fn finished(states: &[String]) -> std::result::Result<(), Invalid> {
    if states.is_empty() || states.len() > FINISHED.len() {
        return Err(Invalid::new("status", "must have 1 to 4 entries"));
    }
    let unknown = states.iter().find(|s| !FINISHED.contains(&s.as_str()));
    match unknown {
        None => Ok(()),
        Some(unknown) => Err(Invalid::new(
            "status",
            format!("`{unknown}` is not one of {}", FINISHED.join(", ")),
        )),
    }
}

fn filter(
    types: Option<&[String]>,
    codes: Option<&[String]>,
    outcomes: Option<&[String]>,
) -> std::result::Result<LogFilter, Invalids> {
    LogFilter::read(
        (Source::Member("event_types"), types),
        (Source::Member("response_code"), codes),
        (Source::Member("outcome"), outcomes),
    )
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
pub enum Begun {
    /// It was a dry run.
    Counted(DryRun),
    Started(Box<Replay>),
}

impl IntoResponse for Begun {
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
) -> Result<Begun> {
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
) -> Result<Begun> {
    if dry_run {
        return Ok(Begun::Counted(counted));
    }
    let id = insert_replay(api, tenant, webhook, wanted, &counted).await?;
    let replay = find(api, tenant, webhook, id).await?;
    Ok(Begun::Started(Box::new(replay)))
}

/// Counts the deliveries, of each type.
pub(super) async fn count_matching(
    api: &Api,
    webhooks: &[WebhookId],
    wanted: &Checked,
) -> Result<DryRun> {
    let client = api.pool.get().await?;
    let passes = passes(6);
    // Ids are compared as texts: PostgreSQL knows no least UUID before version 18.
    let statement = client
        .prepare_cached(&format!(
            "-- count_replay\n\
             SELECT event_type, count(*) AS seen, count(*) FILTER (WHERE passes) AS matching, \
                 min(id::text) FILTER (WHERE passes) AS oldest \
             FROM (SELECT s.* FROM unnest($1::uuid[]) AS w (id) CROSS JOIN LATERAL ( \
                     SELECT d.id, d.event_type, \
                         coalesce(d.state = ANY($4) AND {passes}, false) AS passes \
                     FROM deliveries d \
                     WHERE d.webhook_id = w.id AND d.id >= $2 AND d.id < $3 \
                     ORDER BY d.id LIMIT $5) s \
                 LIMIT $5) seen \
             GROUP BY event_type ORDER BY matching DESC, event_type"
        ))
        .await?;
    let rows = client
        .query(
            &statement,
            &[
                &webhooks,
                &first_uuid_at(wanted.since),
                &first_uuid_at(wanted.until),
                &wanted.states,
                &COUNTED,
                &wanted.filter.exact(),
                &wanted.filter.prefixes(),
                &wanted.filter.codes,
                &wanted.filter.outcomes,
            ],
        )
        .await?;
    let seen: i64 = rows.iter().map(|row| row.get::<_, i64>("seen")).sum();
    let oldest = rows
        .iter()
        .filter_map(|row| row.get::<_, Option<&str>>("oldest"));
    let oldest = oldest.min().and_then(|id| id.parse::<Uuid>().ok());
    let by_type = rows.iter().map(|row| MatchingType {
        event_type: row.get("event_type"),
        matching: row.get("matching"),
    });
    let by_type: Vec<_> = by_type.filter(|of| of.matching > 0).collect();
    Ok(DryRun {
        dry_run: true,
        matching: by_type.iter().map(|of| of.matching).sum(),
        counted: seen < COUNTED,
        oldest: oldest.map(|id| Timestamp(time_of(id))),
        by_type: by_type.into_iter().take(TOLD_TYPES).collect(),
    })
}

pub(super) async fn insert_replay(
    api: &Api,
    tenant: &Tenant,
    webhook: Option<WebhookId>,
    wanted: &Checked,
    counted: &DryRun,
) -> Result<ReplayId> {
    let id = ReplayId::generate();
    let client = api.pool.get().await?;
    // A backfill reopens nothing.
    let kind = match wanted.states.is_empty() {
        true => "backfill",
        false => "replay",
    };
    let inserted = client
        .execute(
            "-- insert_replay\n\
             INSERT INTO replays (id, tenant, webhook_id, since, until, states, event_types, rate, \
                 position, matching, counted, kind, codes, outcomes, ramp) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            &[
                &id,
                tenant,
                &webhook,
                &wanted.since,
                &wanted.until,
                &wanted.states,
                &wanted.event_types,
                &wanted.pace.rate,
                &first_uuid_at(wanted.since),
                &counted.matching,
                &counted.counted,
                &kind,
                &wanted.filter.codes,
                &wanted.filter.outcomes,
                &wanted.pace.ramp,
            ],
        )
        .await;
    match inserted {
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            let whose = match webhook {
                Some(webhook) => format!("a replay of webhook {webhook}"),
                None => format!("a replay of all webhooks of tenant {tenant}"),
            };
            Err(Problem::conflict(format!(
                "{whose} is running: wait for it, or cancel it"
            )))
        }
        other => Ok(other.map(|_| id)?),
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

/// Cancels a replay, if it is running.
pub(super) async fn stop(
    api: &Api,
    tenant: &Tenant,
    webhook: Option<WebhookId>,
    id: ReplayId,
) -> Result<()> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- stop_replay\n\
             UPDATE replays SET state = 'cancelled', finished_at = now(), cancelled_because = 'asked for' \
             WHERE id = $1 AND tenant = $2 AND ($3::uuid IS NULL OR webhook_id = $3) AND state = 'running'",
        )
        .await?;
    client.execute(&statement, &[&id, tenant, &webhook]).await?;
    Ok(())
}

/// A replay with what became of its deliveries; of this webhook, if it must be of one.
///
/// # Errors
/// If there is none.
pub async fn find(
    api: &Api,
    tenant: &Tenant,
    webhook: Option<WebhookId>,
    id: ReplayId,
) -> Result<Replay> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- show_replay\n\
             SELECT * FROM replays \
             WHERE id = $1 AND tenant = $2 AND ($3::uuid IS NULL OR webhook_id = $3)",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[&id, tenant, &webhook])
        .await?
        .ok_or_else(|| {
            let of = webhook.map(|webhook| format!(" of webhook {webhook}"));
            Problem::not_found(format!("there is no replay {id}{}", of.unwrap_or_default()))
        })?;
    let results = results(&client, tenant, &row).await?;
    Ok(Replay {
        results: Some(results),
        ..Replay::from_row(&row)
    })
}

impl Replay {
    pub(super) fn from_row(row: &Row) -> Self {
        let is_running = row.get::<_, &str>("state") == "running";
        Self {
            id: row.get("id"),
            kind: row.get("kind"),
            webhook_id: row.get("webhook_id"),
            status: row.get("state"),
            cancelled_because: row.get("cancelled_because"),
            since: row.get("since"),
            until: row.get("until"),
            statuses: row.get("states"),
            event_types: row.get("event_types"),
            response_codes: row.get("codes"),
            outcomes: row.get("outcomes"),
            rate: row.get("rate"),
            ramp: row.get("ramp"),
            rate_now: row.get::<_, Option<f32>>("rate_now").filter(|_| is_running),
            matching: row.get("matching"),
            counted: row.get("counted"),
            replayed: row.get("replayed"),
            results: None,
            created_at: row.get("created_at"),
            finished_at: row.get("finished_at"),
        }
    }
}
