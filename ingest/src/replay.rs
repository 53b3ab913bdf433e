//! Replays: makes many of a webhook's finished deliveries begin again, at a rate.
//!
//! The API writes a replay's row. Whichever replica of ingest comes first takes
//! the next step of it; the row's lock is the lease. A step reopens one second's
//! worth of deliveries and moves the replay's position in one transaction, so each
//! delivery is reopened once, whatever crashes. Then it publishes their jobs.
//!
//! All replays of a tenant together have the rate that one may have. Each gets an
//! equal share, or its own rate if that is lower. Otherwise a tenant with many
//! webhooks would fill the jobs queues in front of other tenants' jobs.
//!
//! A step looks at a bounded number of deliveries; after a step that found few, the
//! next one comes sooner. While RabbitMQ is away, or refuses jobs, no step is
//! taken, because reopened deliveries would only wait for the sweeper.

use std::time::Duration;

use deadpool_postgres::{Pool, Transaction};
use shared::ids::{DeliveryId, ReplayId, WebhookId, first_uuid_at};
use shared::job::Job;
use shared::publish::Publisher;
use shared::supervise::Backoff;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

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

/// Takes steps until it is told to stop.
pub async fn run(pool: Pool, publisher: Publisher, shards: u16, stop: CancellationToken) {
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
        if steps(&pool, &publisher, shards, &stop).await {
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
async fn steps(pool: &Pool, publisher: &Publisher, shards: u16, stop: &CancellationToken) -> bool {
    while !stop.is_cancelled() {
        match step(pool).await {
            Ok(Some(jobs)) => {
                if !publish(publisher, &jobs, shards).await {
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
    webhook: WebhookId,
    position: Uuid,
    until: OffsetDateTime,
    states: Vec<String>,
    event_types: Option<Vec<String>>,
    rate: i32,
    /// How many replays of the tenant are running, this one included.
    running: i64,
    takes_deliveries: bool,
}

impl Due {
    /// Deliveries a second: its own rate, or its share of the tenant's.
    fn rate(&self) -> f64 {
        share(self.rate, self.running)
    }
}

fn share(rate: i32, running: i64) -> f64 {
    f64::from(rate).min(TENANTS_RATE / running.max(1) as f64)
}

/// Takes the most overdue step; answers its jobs. `None` if none is due.
async fn step(pool: &Pool) -> anyhow::Result<Option<Vec<Job>>> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let Some(due) = claim_replay(&transaction).await? else {
        return Ok(None);
    };
    if !due.takes_deliveries {
        cancel_replay(&transaction, due.id).await?;
        transaction.commit().await?;
        info!(replay = %due.id, webhook = %due.webhook, "the webhook is switched off; replay cancelled");
        return Ok(Some(Vec::new()));
    }
    let seen = replay_candidates(&transaction, &due).await?;
    let rate = due.rate();
    // At least one; then the pause after the step is longer than a second.
    let taken = take(&seen, (rate as usize).max(1));
    let states: Vec<_> = due.states.iter().map(String::as_str).collect();
    let jobs = restart_deliveries(&transaction, &taken.deliveries, &states).await?;
    let pause = taken.deliveries.len() as f64 / rate;
    advance_replay(&transaction, due.id, taken.position, jobs.len(), pause).await?;
    transaction.commit().await?;
    match taken.position {
        Some(_) => tracing::debug!(replay = %due.id, replayed = jobs.len(), "replaying"),
        None => info!(replay = %due.id, webhook = %due.webhook, "replay finished"),
    }
    Ok(Some(jobs))
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
             SELECT r.id, r.webhook_id, r.position, r.until, r.states, r.event_types, r.rate, \
                 (SELECT count(*) FROM replays o WHERE o.state = 'running' AND o.tenant = r.tenant) AS running, \
                 w.status IN ('active', 'paused') AS takes_deliveries \
             FROM replays r JOIN webhooks w ON w.id = r.webhook_id \
             WHERE r.state = 'running' AND r.next_step_at <= now() \
             ORDER BY r.next_step_at LIMIT 1 FOR UPDATE OF r SKIP LOCKED",
        )
        .await?;
    let row = transaction.query_opt(&statement, &[]).await?;
    Ok(row.map(|row| Due {
        id: row.get("id"),
        webhook: row.get("webhook_id"),
        position: row.get("position"),
        until: row.get("until"),
        states: row.get("states"),
        event_types: row.get("event_types"),
        rate: row.get("rate"),
        running: row.get("running"),
        takes_deliveries: row.get("takes_deliveries"),
    }))
}

/// The oldest deliveries that weren't looked at yet, each with whether it is wanted.
async fn replay_candidates(
    transaction: &Transaction<'_>,
    due: &Due,
) -> anyhow::Result<Vec<(DeliveryId, bool)>> {
    let statement = transaction
        .prepare_cached(
            "-- replay_candidates\n\
             SELECT id, state = ANY($4) AND ($5::text[] IS NULL OR event_type = ANY($5)) \
             FROM deliveries \
             WHERE webhook_id = $1 AND id >= $2 AND id < $3 ORDER BY id LIMIT $6",
        )
        .await?;
    let rows = transaction
        .query(
            &statement,
            &[
                &due.webhook,
                &due.position,
                &first_uuid_at(due.until),
                &due.states,
                &due.event_types,
                &LOOKED_AT,
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Stores how far the replay is; without a position it is finished.
async fn advance_replay(
    transaction: &Transaction<'_>,
    id: ReplayId,
    position: Option<Uuid>,
    replayed: usize,
    pause: f64,
) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- advance_replay\n\
             UPDATE replays SET replayed = replayed + $3, position = coalesce($2, position), \
                 next_step_at = now() + make_interval(secs => $4), \
                 state = CASE WHEN $2::uuid IS NULL THEN 'finished' ELSE state END, \
                 finished_at = CASE WHEN $2::uuid IS NULL THEN now() END \
             WHERE id = $1",
        )
        .await?;
    transaction
        .execute(&statement, &[&id, &position, &(replayed as i64), &pause])
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
mod tests {
    use super::*;

    fn id(n: u128) -> DeliveryId {
        DeliveryId::from_uuid(Uuid::from_u128(n))
    }

    #[test]
    fn a_step_takes_what_is_wanted_up_to_the_rate_and_goes_on_after_it() {
        let seen = [(id(1), true), (id(2), false), (id(3), true), (id(4), true)];
        let taken = take(&seen, 2);
        assert_eq!(taken.deliveries, [id(1), id(3)]);
        assert_eq!(taken.position, Some(Uuid::from_u128(4)));
    }

    #[test]
    fn a_tenants_replays_share_the_rate_that_one_may_have() {
        assert_eq!(share(1_000, 1), 1_000.0);
        assert_eq!(share(1_000, 50), 20.0);
        assert_eq!(share(10, 50), 10.0);
        // More than one a second each would be too many.
        assert_eq!(share(10, 4_000), 0.25);
    }

    #[test]
    fn a_step_that_sees_the_end_is_the_last() {
        let seen = [(id(1), true), (id(2), false)];
        assert_eq!(take(&seen, 2).position, None);
        assert_eq!(take(&[], 2).position, None);
        // Another may follow the last one taken.
        assert_eq!(take(&seen, 1).position, Some(Uuid::from_u128(2)));
    }

    #[test]
    fn a_step_that_finds_little_goes_on_where_it_stopped_looking() {
        let seen: Vec<_> = (0..LOOKED_AT as u128).map(|n| (id(n), false)).collect();
        let taken = take(&seen, 2);
        assert_eq!(taken.position, Some(Uuid::from_u128(LOOKED_AT as u128)));
        assert!(taken.deliveries.is_empty());
    }
}
