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

mod rows;

use std::time::Duration;

use deadpool_postgres::{Pool, Transaction};
use shared::dialect::Dialects;
use shared::ids::{DeliveryId, WebhookId, first_uuid_at};
use shared::job::Job;
use shared::publish::Publisher;
use shared::supervise::Backoff;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::backfill::{Bounds, Wanted};
use crate::restart::{publish, restart_deliveries};
pub use rows::delete_outdated;
use rows::{
    Due, LOOKED_AT, Stepped, advance_replay, cancel_replay, claim_replay, is_overloaded,
    next_webhook, replay_candidates,
};

/// How often due steps are looked for.
const TICK: Duration = Duration::from_millis(250);
/// The pause after jobs weren't confirmed: the first, and the longest that doubling leads to.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
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
pub async fn run(pool: Pool, publisher: Publisher, dialects: Dialects, stop: CancellationToken) {
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
        if steps(&pool, &publisher, &dialects, &stop).await {
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
async fn steps(
    pool: &Pool,
    publisher: &Publisher,
    dialects: &Dialects,
    stop: &CancellationToken,
) -> bool {
    while !stop.is_cancelled() {
        match step(pool, dialects).await {
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

/// The rate of a step, after the step before it had this rate.
fn ramped(before: Option<f32>, most: f64, overloaded: bool) -> f64 {
    let rate = match before {
        None => RAMP_BEGINS,
        Some(before) if overloaded => (f64::from(before) / 2.0).max(RAMP_LEAST),
        Some(before) => f64::from(before) * RAMP_GROWS,
    };
    rate.min(most)
}

/// Takes the most overdue step; answers its jobs. `None` if none is due.
async fn step(pool: &Pool, dialects: &Dialects) -> anyhow::Result<Option<Vec<Job>>> {
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
        Some(webhook) if due.is_backfill => {
            let wanted = Wanted::read(&transaction, dialects, &due.tenant, webhook).await?;
            make_some(&transaction, &due, wanted, most).await?
        }
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
    wanted: Option<Wanted>,
    most: usize,
) -> anyhow::Result<Stepped> {
    let Some(wanted) = wanted else {
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

#[cfg(test)]
mod tests;
