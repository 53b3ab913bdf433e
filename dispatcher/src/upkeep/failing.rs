//! Webhooks whose every attempt has failed for days are disabled, and their
//! owners told.
//!
//! Read from the statistics, which all replicas write, so it costs nothing where
//! deliveries are settled: a webhook is in trouble from a failed attempt on, out
//! of it with a delivery, and disabled if it still fails when the trouble is old
//! enough. One replica looks at a time, by an advisory lock.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Transaction;
use shared::clock;
use shared::stats::PERIOD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::warn;

use crate::metrics::metrics;
use crate::run::Dispatcher;
use crate::upkeep::disable::{Cause, Disabled, disable, tell};

/// Any number that no other lock of ours has: "failing" in ASCII.
const LOCK: i64 = 0x66_6169_6c69_6e67;
/// How often it is looked at, at the most and at the least.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How far back the statistics are read to see who is in trouble now.
const WINDOW: Duration = Duration::from_secs(2 * PERIOD as u64);
/// The most webhooks disabled in one round.
const BATCH: i64 = 100;

/// Looks every so often, until the process is told to stop. Never, if webhooks
/// aren't to be disabled.
///
/// # Errors
/// None: trouble with PostgreSQL only costs the round.
pub async fn watch(dispatcher: &Dispatcher) -> anyhow::Result<()> {
    let Some(after) = dispatcher.disable_after else {
        dispatcher.stop.cancelled().await;
        return Ok(());
    };
    let mut round = tokio::time::interval((after / 10).clamp(INTERVAL.0, INTERVAL.1));
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = round.tick() => {}
            () = dispatcher.stop.cancelled() => return Ok(()),
        }
        if let Err(error) = look(dispatcher, after).await {
            warn!(
                error = format!("{error:#}"),
                "looking for webhooks that fail"
            );
        }
    }
}

async fn look(dispatcher: &Dispatcher, after: Duration) -> anyhow::Result<()> {
    let mut client = dispatcher
        .pool
        .get()
        .await
        .context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    let locked = transaction
        .query_one(
            "-- failing_lock\nSELECT pg_try_advisory_xact_lock($1)",
            &[&LOCK],
        )
        .await?;
    if !locked.get::<_, bool>(0) {
        return Ok(());
    }
    let now = clock::now();
    let window = now - WINDOW;
    for statement in [FORGET_TROUBLES, NOTE_TROUBLES] {
        let statement = transaction.prepare_cached(statement).await?;
        transaction.execute(&statement, &[&window]).await?;
    }
    let disabled = disable_failing(&transaction, window, now - after).await?;
    let jobs = tell(&transaction, &disabled).await?;
    transaction.commit().await?;
    for one in &disabled {
        metrics().webhooks_disabled.inc();
        warn!(webhook = %one.webhook, tenant = %one.tenant, reason = one.reason, "disabled a webhook");
    }
    // What isn't confirmed is the sweeper's.
    dispatcher
        .publisher
        .publish_jobs(&jobs, dispatcher.shards)
        .await;
    Ok(())
}

const FORGET_TROUBLES: &str = "-- forget_troubles
DELETE FROM troubles t
WHERE EXISTS (SELECT FROM stats s
              WHERE s.subject = t.subject AND s.quarter >= $1 AND s.last_delivered_at >= t.since)";

const NOTE_TROUBLES: &str = "-- note_troubles
INSERT INTO troubles (subject, since)
SELECT subject, min(last_attempt_at) FROM stats
WHERE quarter >= $1 AND subject LIKE 'webhook/%'
GROUP BY subject HAVING sum(delivered) = 0 AND min(last_attempt_at) IS NOT NULL
ON CONFLICT DO NOTHING";

/// Disables those that have been in trouble since before `since_before`, and
/// have failed again after as long a time.
async fn disable_failing(
    transaction: &Transaction<'_>,
    window: OffsetDateTime,
    since_before: OffsetDateTime,
) -> anyhow::Result<Vec<Disabled>> {
    let statement = transaction
        .prepare_cached(
            "-- old_troubles\n\
             SELECT t.subject, t.since FROM troubles t \
             WHERE t.since < $2 \
               AND EXISTS (SELECT FROM stats s WHERE s.subject = t.subject \
                           AND s.quarter >= $1 AND s.last_attempt_at - t.since >= $3 - $2) \
               AND NOT EXISTS (SELECT FROM stats s WHERE s.subject = t.subject \
                               AND s.quarter >= t.since - $4 * interval '1 second' \
                               AND s.last_delivered_at >= t.since) \
             ORDER BY t.since LIMIT $5",
        )
        .await?;
    let now = clock::now();
    let rows = transaction
        .query(
            &statement,
            &[&window, &since_before, &now, &(PERIOD as f64), &BATCH],
        )
        .await?;
    let mut causes = Vec::new();
    for row in &rows {
        let (subject, since): (&str, OffsetDateTime) = (row.get(0), row.get(1));
        let webhook = subject.strip_prefix("webhook/").unwrap_or_default();
        if let Ok(webhook) = webhook.parse() {
            let at = since.replace_nanosecond(0)?.format(&Rfc3339)?;
            causes.push(Cause {
                webhook,
                url: None,
                reason: format!("every attempt has failed since {at}"),
                failing_since: Some(since),
            });
        }
    }
    let subjects = rows.iter().map(|row| row.get(0)).collect();
    forget(transaction, subjects).await?;
    disable(transaction, &causes).await
}

async fn forget(transaction: &Transaction<'_>, subjects: Vec<&str>) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached("-- end_troubles\nDELETE FROM troubles WHERE subject = ANY($1)")
        .await?;
    transaction.execute(&statement, &[&subjects]).await?;
    Ok(())
}
