//! The rows of replays: claims one whose step is due, and stores how far it is.

use deadpool_postgres::{Pool, Transaction};
use shared::ids::{DeliveryId, ReplayId, Tenant, WebhookId, first_uuid_at};
use shared::job::Job;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::log_filter::{LogFilter, passes};

/// How many replays are deleted at a time when they are outdated.
const OUTDATED_AT_ONCE: i64 = 1_000;

/// The most deliveries that a step looks at.
pub(super) const LOOKED_AT: i64 = 5_000;

/// The most deliveries that all replays of a tenant reopen per second.
const TENANTS_RATE: f64 = 1_000.0;

/// A replay that is due, as its row says.
pub(super) struct Due {
    pub(super) id: ReplayId,
    pub(super) tenant: Tenant,
    /// `None`: all of the tenant's.
    pub(super) webhook: Option<WebhookId>,
    pub(super) is_backfill: bool,
    pub(super) at_webhook: Option<WebhookId>,
    pub(super) position: Uuid,
    pub(super) since: OffsetDateTime,
    pub(super) until: OffsetDateTime,
    pub(super) states: Vec<String>,
    pub(super) filter: LogFilter,
    pub(super) rate: i32,
    pub(super) ramp: bool,
    pub(super) rate_now: Option<f32>,
    /// Failures of deliveries that began again later count.
    pub(super) slowed_at: OffsetDateTime,
    /// How many replays of the tenant are running, this one included.
    pub(super) running: i64,
    pub(super) takes_deliveries: bool,
}

impl Due {
    /// Deliveries a second: its own rate, or its share of the tenant's.
    pub(super) fn rate(&self) -> f64 {
        share(self.rate, self.running)
    }

    /// Where a webhook's deliveries, or a tenant's events, begin.
    pub(super) fn first(&self) -> Uuid {
        first_uuid_at(self.since)
    }
}

pub(super) fn share(rate: i32, running: i64) -> f64 {
    f64::from(rate).min(TENANTS_RATE / running.max(1) as f64)
}

/// What a step has done.
#[derive(Default)]
pub(super) struct Stepped {
    pub(super) jobs: Vec<Job>,
    /// How many deliveries it has reopened or made: what the pause is for.
    pub(super) paced: usize,
    /// `None`: that was all.
    pub(super) position: Option<Uuid>,
    pub(super) at_webhook: Option<WebhookId>,
}

/// Deletes replays that ended before `until`, some at a time.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete_outdated(pool: &Pool, until: OffsetDateTime) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- delete_outdated_replays\n\
             DELETE FROM replays WHERE id = ANY (ARRAY( \
                 SELECT id FROM replays WHERE state <> 'running' AND finished_at < $1 \
                 ORDER BY finished_at LIMIT $2))",
        )
        .await?;
    while client
        .execute(&statement, &[&until, &OUTDATED_AT_ONCE])
        .await?
        == OUTDATED_AT_ONCE as u64
    {}
    Ok(())
}

pub(super) async fn claim_replay(transaction: &Transaction<'_>) -> anyhow::Result<Option<Due>> {
    let statement = transaction
        .prepare_cached(
            "-- claim_replay\n\
             SELECT r.*, coalesce(r.slowed_at, r.created_at) AS slow_since, \
                 (SELECT count(*) FROM replays o WHERE o.state = 'running' AND o.tenant = r.tenant) AS running, \
                 coalesce(w.status IN ('active', 'paused'), true) AS takes_deliveries \
             FROM replays r LEFT JOIN webhooks w ON w.id = r.webhook_id \
             WHERE r.state = 'running' AND r.next_step_at <= now() \
             ORDER BY r.next_step_at LIMIT 1 FOR UPDATE OF r SKIP LOCKED",
        )
        .await?;
    let row = transaction.query_opt(&statement, &[]).await?;
    Ok(row.map(|row| Due {
        id: row.get("id"),
        tenant: row.get("tenant"),
        webhook: row.get("webhook_id"),
        is_backfill: row.get::<_, &str>("kind") == "backfill",
        at_webhook: row.get("at_webhook"),
        position: row.get("position"),
        since: row.get("since"),
        until: row.get("until"),
        states: row.get("states"),
        filter: LogFilter::stored(
            row.get::<_, Option<Vec<String>>>("event_types").as_deref(),
            row.get("codes"),
            row.get("outcomes"),
        ),
        rate: row.get("rate"),
        ramp: row.get("ramp"),
        rate_now: row.get("rate_now"),
        slowed_at: row.get("slow_since"),
        running: row.get("running"),
        takes_deliveries: row.get("takes_deliveries"),
    }))
}

/// The webhook that a replay of all webhooks looks at next.
pub(super) async fn next_webhook(
    transaction: &Transaction<'_>,
    due: &Due,
) -> anyhow::Result<Option<WebhookId>> {
    let statement = transaction
        .prepare_cached(
            "-- next_webhook_to_replay\n\
             SELECT id FROM webhooks \
             WHERE tenant = $1 AND status <> 'deleted' AND status IN ('active', 'paused') \
               AND ($2::uuid IS NULL OR id >= $2) \
             ORDER BY id LIMIT 1",
        )
        .await?;
    let row = transaction
        .query_opt(&statement, &[&due.tenant, &due.at_webhook])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// Whether a delivery that began again of late was answered 429, 5xx, or not at all.
pub(super) async fn is_overloaded(
    transaction: &Transaction<'_>,
    due: &Due,
    webhook: WebhookId,
) -> anyhow::Result<bool> {
    let statement = transaction
        .prepare_cached(
            "-- replay_is_overloaded\n\
             SELECT EXISTS (SELECT FROM deliveries d \
                 WHERE d.webhook_id = $1 AND d.restarted_at > greatest($2, now() - interval '30 s') \
                   AND d.id >= $3 AND d.id < $4 AND d.attempts > d.attempts_before \
                   AND d.state <> 'delivered' AND coalesce(d.status_code, 599) NOT BETWEEN 200 AND 428 \
                   AND coalesce(d.status_code, 599) NOT BETWEEN 430 AND 499)",
        )
        .await?;
    let row = transaction
        .query_one(
            &statement,
            &[
                &webhook,
                &due.slowed_at,
                &first_uuid_at(due.since),
                &first_uuid_at(due.until),
            ],
        )
        .await?;
    Ok(row.get(0))
}

/// The oldest deliveries that weren't looked at yet, each with whether it is wanted.
pub(super) async fn replay_candidates(
    transaction: &Transaction<'_>,
    due: &Due,
    webhook: WebhookId,
    position: Uuid,
) -> anyhow::Result<Vec<(DeliveryId, bool)>> {
    let passes = passes(6);
    let statement = transaction
        .prepare_cached(&format!(
            "-- replay_candidates\n\
             SELECT d.id, coalesce(d.state = ANY($4) AND {passes}, false) \
             FROM deliveries d \
             WHERE d.webhook_id = $1 AND d.id >= $2 AND d.id < $3 ORDER BY d.id LIMIT $5"
        ))
        .await?;
    let rows = transaction
        .query(
            &statement,
            &[
                &webhook,
                &position,
                &first_uuid_at(due.until),
                &due.states,
                &LOOKED_AT,
                &due.filter.exact(),
                &due.filter.prefixes(),
                &due.filter.codes,
                &due.filter.outcomes,
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Stores how far the replay is; without a position it is finished.
pub(super) async fn advance_replay(
    transaction: &Transaction<'_>,
    id: ReplayId,
    stepped: &Stepped,
    rate: f64,
    overloaded: bool,
    pause: f64,
) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- advance_replay\n\
             UPDATE replays SET replayed = replayed + $3, position = coalesce($2, position), \
                 next_step_at = now() + make_interval(secs => $4), \
                 at_webhook = $5, rate_now = $6, \
                 slowed_at = CASE WHEN $7 THEN now() ELSE slowed_at END, \
                 state = CASE WHEN $2::uuid IS NULL THEN 'finished' ELSE state END, \
                 finished_at = CASE WHEN $2::uuid IS NULL THEN clock_timestamp() END \
             WHERE id = $1",
        )
        .await?;
    transaction
        .execute(
            &statement,
            &[
                &id,
                &stepped.position,
                &(stepped.jobs.len() as i64),
                &pause,
                &stepped.at_webhook,
                &(rate as f32),
                &overloaded,
            ],
        )
        .await?;
    Ok(())
}

pub(super) async fn cancel_replay(
    transaction: &Transaction<'_>,
    id: ReplayId,
) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- cancel_replay\n\
             UPDATE replays SET state = 'cancelled', finished_at = now(), \
                 cancelled_because = 'the webhook was switched off' \
             WHERE id = $1",
        )
        .await?;
    transaction.execute(&statement, &[&id]).await?;
    Ok(())
}
