//! Replays: makes many finished deliveries begin again, at a rate. Backfills: makes the
//! deliveries that a webhook lacks, at a rate.
//!
//! The API writes a replay's row. Whichever replica of ingest comes first takes
//! the next step of it; the row's lock is the lease. A step reopens one second's
//! worth of deliveries and moves the replay's position in one transaction, so each
//! delivery is reopened once, whatever crashes. Then it publishes their jobs.
//!
//! A replay of a whole tenant goes through its webhooks one after the other, in the order
//! of their ids.
//!
//! All replays of a tenant together have the rate that one may have. Each gets an
//! equal share, or its own rate if that is lower. Otherwise a tenant with many
//! webhooks would fill the jobs queues in front of other tenants' jobs. A replay with a
//! ramp begins with two a second, and halves its rate when deliveries that it has begun
//! again are answered 429 or 5xx, or not at all.
//!
//! A step looks at a bounded number of deliveries; after a step that found few, the
//! next one comes sooner. While RabbitMQ is away, or refuses jobs, no step is
//! taken, because reopened deliveries would only wait for the sweeper.

use std::time::Duration;

use deadpool_postgres::{Pool, Transaction};
use shared::ids::{DeliveryId, ReplayId, Tenant, WebhookId, first_uuid_at};
use shared::job::Job;
use shared::publish::Publisher;
use shared::supervise::Backoff;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::backfill::{Bounds, Wanted};
use crate::log_filter::{LogFilter, passes};
use crate::restart::{publish, restart_deliveries};

/// How often due steps are looked for.
const TICK: Duration = Duration::from_millis(250);
/// The pause after jobs weren't confirmed: the first, and the longest that doubling leads to.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// How many replays are deleted at a time when they are outdated.
const OUTDATED_AT_ONCE: i64 = 1_000;
/// The most deliveries that a step looks at.
const LOOKED_AT: i64 = 5_000;
/// The most deliveries that all replays of a tenant reopen per second.
const TENANTS_RATE: f64 = 1_000.0;
/// The rate with which a ramp begins, and the least that overload leaves.
const RAMP_BEGINS: f64 = 2.0;
const RAMP_LEAST: f64 = 1.0;
/// What each step multiplies the rate of a ramp by.
const RAMP_GROWS: f64 = 1.25;
/// The most that a step of a backfill looks at.
const STEP: Bounds = Bounds {
    missing: 1_000,
    events: 5_000,
    bytes: 16 * 1024 * 1024,
    time: Duration::from_millis(500),
    without_data: false,
};

/// Takes steps until it is told to stop.
pub async fn run(pool: Pool, publisher: Publisher, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut backoff = Backoff::new(PAUSES[0], PAUSES[1]);
    loop {
        let turn = async {
            tick.tick().await;
            publisher.session().await
        };
        tokio::select! {
            there = turn => if there.is_err() { return },
            () = stop.cancelled() => return,
        }
        if steps(&pool, &publisher, &stop).await {
            backoff.reset();
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Takes every step that is due once. Answers whether all their jobs were confirmed.
async fn steps(pool: &Pool, publisher: &Publisher, stop: &CancellationToken) -> bool {
    while !stop.is_cancelled() {
        match step(pool).await {
            Ok(Some(jobs)) => {
                if !publish(publisher, &jobs).await {
                    return false;
                }
            }
            Ok(None) => break,
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "a step of replays failed; trying again"
                );
                break;
            }
        }
    }
    true
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

/// A replay that is due, as its row says.
struct Due {
    id: ReplayId,
    tenant: Tenant,
    /// `None`: all of the tenant's.
    webhook: Option<WebhookId>,
    is_backfill: bool,
    at_webhook: Option<WebhookId>,
    position: Uuid,
    since: OffsetDateTime,
    until: OffsetDateTime,
    states: Vec<String>,
    filter: LogFilter,
    rate: i32,
    ramp: bool,
    rate_now: Option<f32>,
    /// Failures of deliveries that began again later count.
    slowed_at: OffsetDateTime,
    /// How many replays of the tenant are running, this one included.
    running: i64,
    takes_deliveries: bool,
}

impl Due {
    /// Deliveries a second: its own rate, or its share of the tenant's.
    fn rate(&self) -> f64 {
        share(self.rate, self.running)
    }

    /// Where a webhook's deliveries, or a tenant's events, begin.
    fn first(&self) -> Uuid {
        first_uuid_at(self.since)
    }
}

fn share(rate: i32, running: i64) -> f64 {
    f64::from(rate).min(TENANTS_RATE / running.max(1) as f64)
}

/// The rate of a step, after the step before it had this rate.
fn ramped(before: Option<f32>, most: f64, overloaded: bool) -> f64 {
    let rate = match before {
        None => RAMP_BEGINS,
        Some(before) if overloaded => (f64::from(before) / 2.0).max(RAMP_LEAST),
        Some(before) => f64::from(before) * RAMP_GROWS,
    };
    rate.min(most)
}

/// What a step has done.
#[derive(Default)]
struct Stepped {
    jobs: Vec<Job>,
    /// How many deliveries it has reopened or made: what the pause is for.
    paced: usize,
    /// `None`: that was all.
    position: Option<Uuid>,
    at_webhook: Option<WebhookId>,
}

/// Takes the most overdue step; answers its jobs. `None` if none is due.
async fn step(pool: &Pool) -> anyhow::Result<Option<Vec<Job>>> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let Some(due) = claim_replay(&transaction).await? else {
        return Ok(None);
    };
    let webhook = match due.webhook {
        Some(webhook) if !due.takes_deliveries => {
            cancel_replay(&transaction, due.id).await?;
            transaction.commit().await?;
            info!(replay = %due.id, %webhook, "the webhook is switched off; replay cancelled");
            return Ok(Some(Vec::new()));
        }
        Some(webhook) => Some(webhook),
        None => next_webhook(&transaction, &due).await?,
    };
    let overloaded = match webhook.filter(|_| due.ramp) {
        Some(webhook) => is_overloaded(&transaction, &due, webhook).await?,
        None => false,
    };
    let rate = match due.ramp {
        true => ramped(due.rate_now, due.rate(), overloaded),
        false => due.rate(),
    };
    // At least one; then the pause after the step is longer than a second.
    let most = (rate as usize).max(1);
    let stepped = match webhook {
        None => Stepped::default(),
        Some(webhook) if due.is_backfill => make_some(&transaction, &due, webhook, most).await?,
        Some(webhook) => reopen_some(&transaction, &due, webhook, most).await?,
    };
    let pause = stepped.paced as f64 / rate;
    advance_replay(&transaction, due.id, &stepped, rate, overloaded, pause).await?;
    transaction.commit().await?;
    match stepped.position {
        Some(_) => tracing::debug!(replay = %due.id, replayed = stepped.jobs.len(), "replaying"),
        None => info!(replay = %due.id, tenant = %due.tenant, "replay finished"),
    }
    Ok(Some(stepped.jobs))
}

async fn reopen_some(
    transaction: &Transaction<'_>,
    due: &Due,
    webhook: WebhookId,
    most: usize,
) -> anyhow::Result<Stepped> {
    let position = match due.webhook {
        // Another webhook's deliveries were looked at before.
        None if due.at_webhook != Some(webhook) => due.first(),
        _ => due.position,
    };
    let seen = replay_candidates(transaction, due, webhook, position).await?;
    let taken = take(&seen, most);
    let states: Vec<_> = due.states.iter().map(String::as_str).collect();
    let jobs = restart_deliveries(transaction, &taken.deliveries, &states).await?;
    let (position, at_webhook) = match (taken.position, due.webhook) {
        (None, None) => {
            let next = webhook.uuid().as_u128().saturating_add(1);
            let next = WebhookId::from_uuid(Uuid::from_u128(next));
            (Some(due.first()), Some(next))
        }
        (position, Some(_)) => (position, None),
        (position, None) => (position, Some(webhook)),
    };
    Ok(Stepped {
        jobs,
        paced: taken.deliveries.len(),
        position,
        at_webhook,
    })
}

async fn make_some(
    transaction: &Transaction<'_>,
    due: &Due,
    webhook: WebhookId,
    most: usize,
) -> anyhow::Result<Stepped> {
    let Some(wanted) = Wanted::read(transaction, &due.tenant, webhook).await? else {
        return Ok(Stepped::default());
    };
    let bounds = Bounds {
        missing: most,
        ..STEP
    };
    let to = first_uuid_at(due.until);
    let found = wanted
        .missing(transaction, due.position, to, bounds)
        .await?;
    let jobs = wanted.make(transaction, &found.missing).await?;
    Ok(Stepped {
        jobs,
        paced: found.missing.len(),
        position: found.next,
        at_webhook: None,
    })
}

/// The deliveries that a step reopens, of those that it looked at.
#[derive(Debug, PartialEq)]
struct Taken {
    deliveries: Vec<DeliveryId>,
    /// Where the next step begins; `None` if nothing is left.
    position: Option<Uuid>,
}

/// The first deliveries that are wanted, at most so many.
fn take(seen: &[(DeliveryId, bool)], rate: usize) -> Taken {
    let wanted = seen.iter().filter(|(_, wanted)| *wanted);
    let deliveries: Vec<_> = wanted.map(|(id, _)| *id).take(rate).collect();
    let last = if deliveries.len() == rate {
        deliveries.last()
    } else {
        let is_all = seen.len() < LOOKED_AT as usize;
        seen.last().map(|(id, _)| id).filter(|_| !is_all)
    };
    let next = |id: &DeliveryId| Uuid::from_u128(id.uuid().as_u128().saturating_add(1));
    Taken {
        position: last.map(next),
        deliveries,
    }
}

async fn claim_replay(transaction: &Transaction<'_>) -> anyhow::Result<Option<Due>> {
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
async fn next_webhook(
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
async fn is_overloaded(
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
async fn replay_candidates(
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
async fn advance_replay(
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

async fn cancel_replay(transaction: &Transaction<'_>, id: ReplayId) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests;
