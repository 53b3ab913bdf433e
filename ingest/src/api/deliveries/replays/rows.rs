//! The rows of replays: counted, written, cancelled and read. `replay` works on them.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::ids::{ReplayId, Tenant, WebhookId, first_uuid_at, time_of};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;
use uuid::Uuid;

use super::form::Checked;
use crate::api::deliveries::replay_results::{ReplayResults, results};
use crate::api::http::problem::{Problem, Result};
use crate::api::openapi::words::{FinishedState, ReplayKind, ReplayStatus};
use crate::api::state::Api;
use crate::log_filter::passes;
use crate::restart::FINISHED;
use crate::timestamp::Timestamp;

/// How far the deliveries of a replay are counted.
const COUNTED: i64 = 100_000;
/// The most event types that a dry run tells.
const TOLD_TYPES: usize = 100;

/// What a replay would do.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "dry_run": true, "matching": 274, "counted": true, "oldest": "2026-11-26T07:29:11.020Z",
    "by_type": [{"event_type": "order.created", "matching": 201}, {"event_type": "order.paid", "matching": 73}],
    "by_status": [{"status": "delivered", "deliveries": 1006}, {"status": "failed", "deliveries": 271},
                  {"status": "expired", "deliveries": 3}, {"status": "cancelled", "deliveries": 0}],
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
    /// How many deliveries of the same events and filters are in each finished state, whether
    /// they would begin again or not; empty for a backfill.
    pub by_status: Vec<InStatus>,
}

/// How many deliveries are in a finished state.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayableInStatus)]
pub struct InStatus {
    #[schema(value_type = FinishedState, example = "failed")]
    pub status: &'static str,
    pub deliveries: i64,
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
    #[schema(value_type = ReplayKind)]
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

/// Counts the deliveries, of each type.
pub(in crate::api::deliveries) async fn count_matching(
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
             SELECT event_type, state, count(*) AS seen, count(*) FILTER (WHERE passes) AS passing, \
                 count(*) FILTER (WHERE passes AND wanted) AS matching, \
                 min(id::text) FILTER (WHERE passes AND wanted) AS oldest \
             FROM (SELECT s.* FROM unnest($1::uuid[]) AS w (id) CROSS JOIN LATERAL ( \
                     SELECT d.id, d.event_type, d.state, d.state = ANY($4) AS wanted, \
                         coalesce({passes}, false) AS passes \
                     FROM deliveries d \
                     WHERE d.webhook_id = w.id AND d.id >= $2 AND d.id < $3 \
                     ORDER BY d.id LIMIT $5) s \
                 LIMIT $5) seen \
             GROUP BY event_type, state"
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
    let mut types: BTreeMap<&str, i64> = BTreeMap::new();
    let mut states = FINISHED.map(|status| InStatus {
        status,
        deliveries: 0,
    });
    for row in &rows {
        *types.entry(row.get("event_type")).or_default() += row.get::<_, i64>("matching");
        let state: &str = row.get("state");
        if let Some(of) = states.iter_mut().find(|of| of.status == state) {
            of.deliveries += row.get::<_, i64>("passing");
        }
    }
    let by_type = types.into_iter().filter(|(_, matching)| *matching > 0);
    let mut by_type: Vec<_> = by_type
        .map(|(event_type, matching)| MatchingType {
            event_type: event_type.to_owned(),
            matching,
        })
        .collect();
    // Of those that are as many, in the order of their names.
    by_type.sort_by_key(|of| std::cmp::Reverse(of.matching));
    Ok(DryRun {
        dry_run: true,
        matching: by_type.iter().map(|of| of.matching).sum(),
        counted: seen < COUNTED,
        oldest: oldest.map(|id| Timestamp(time_of(id))),
        by_type: by_type.into_iter().take(TOLD_TYPES).collect(),
        by_status: states.into(),
    })
}

pub(in crate::api::deliveries) async fn insert(
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

/// Cancels a replay, if it is running.
pub(in crate::api::deliveries) async fn stop(
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
    pub(in crate::api::deliveries) fn from_row(row: &Row) -> Self {
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
