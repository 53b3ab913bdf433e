//! Disables webhooks whose every attempt has failed for days.
//!
//! A webhook is in trouble from its first failed attempt until its next delivery. If its
//! trouble is older than `WEBHOOK_DISABLE_AFTER` and an attempt has failed since then, the
//! webhook is disabled, and its tenant gets an operational event.
//!
//! All this is read from the statistics, which all replicas write, so it costs nothing
//! where deliveries are settled. One replica checks at a time: it holds an advisory lock.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Pool, Transaction};
use shared::clock;
use shared::ids::EventUid;
use shared::publish::Publisher;
use shared::stats::PERIOD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::alone::is_alone;
use super::announce::written_before;
use super::disable::{Cause, Disabled, announce_disabled, disable};
use crate::metrics::metrics;

/// Any number that no other lock of ours has: "failing" in ASCII.
const LOCK: i64 = 0x66_6169_6c69_6e67;
/// The pause between two checks is a tenth of `WEBHOOK_DISABLE_AFTER`, within these bounds.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How far back the statistics say who is in trouble now.
const WINDOW: Duration = Duration::from_secs(2 * PERIOD as u64);
/// The most webhooks that one check disables.
const BATCH: i64 = 100;

/// Disables failing webhooks.
pub struct FailureWatch {
    pub pool: Pool,
    pub publisher: Publisher,
    /// For how long every attempt has to fail. `None`: webhooks are never disabled.
    pub disable_after: Option<Duration>,
    pub stop: CancellationToken,
}

impl FailureWatch {
    /// Checks every so often, until `stop`. If PostgreSQL fails, the next check tries
    /// again.
    pub async fn run(&self) {
        let Some(after) = self.disable_after else {
            return self.stop.cancelled().await;
        };
        let mut check = tokio::time::interval((after / 10).clamp(INTERVAL.0, INTERVAL.1));
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unsure = Vec::new();
        loop {
            tokio::select! {
                _ = check.tick() => {}
                () = self.stop.cancelled() => return,
            }
            if let Err(error) = self.check(after, &mut unsure).await {
                warn!(
                    error = format!("{error:#}"),
                    "failing webhooks could not be looked for; the next check tries again"
                );
            }
        }
    }

    /// `unsure`: events of the last check, if its COMMIT got no answer.
    async fn check(&self, after: Duration, unsure: &mut Vec<EventUid>) -> anyhow::Result<()> {
        let mut client = self.pool.get().await.context("connecting to PostgreSQL")?;
        let transaction = client.transaction().await?;
        if !is_alone(&transaction, LOCK).await? {
            return Ok(());
        }
        let now = clock::now();
        let window = now - WINDOW;
        for statement in [FORGET_TROUBLES, NOTE_TROUBLES] {
            let statement = transaction.prepare_cached(statement).await?;
            transaction.execute(&statement, &[&window]).await?;
        }
        let mut jobs = written_before(&transaction, unsure).await?;
        let disabled = disable_failing(&transaction, window, now - after).await?;
        jobs.extend(announce_disabled(&transaction, &disabled).await?);
        *unsure = disabled.iter().map(|one| one.uid).collect();
        transaction.commit().await?;
        unsure.clear();
        for one in &disabled {
            metrics().webhooks_disabled.inc();
            warn!(
                webhook = %one.webhook,
                tenant = %one.tenant,
                reason = one.reason,
                "a webhook is disabled; it gets no events until someone activates it"
            );
        }
        // A job that isn't confirmed is put back by the sweeper.
        self.publisher.publish_jobs(&jobs).await;
        Ok(())
    }
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

/// Disables the webhooks that have been in trouble since before `since_before`, if an
/// attempt has failed after that long a time.
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
                uid: EventUid::at(now.truncate_to_millisecond()),
            });
        }
    }
    let subjects = rows.iter().map(|row| row.get(0)).collect();
    end_troubles(transaction, subjects).await?;
    disable(transaction, &causes).await
}

async fn end_troubles(transaction: &Transaction<'_>, subjects: Vec<&str>) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached("-- end_troubles\nDELETE FROM troubles WHERE subject = ANY($1)")
        .await?;
    transaction.execute(&statement, &[&subjects]).await?;
    Ok(())
}
