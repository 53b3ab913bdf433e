//! Tells tenants by operational events that a webhook of theirs is failing, slow or down, that
//! it has recovered, and that deliveries were given up.
//!
//! Everything is read from PostgreSQL: the statistics and endpoints that all replicas write.
//! One replica checks at a time, because it holds an advisory lock. What an owner was told is
//! in the table `webhook_alerts` until it is over, written in the transaction that writes the
//! event. So a change of state is told once, whichever replica checks, and whoever is
//! restarted meanwhile.
//!
//! [`trouble`](super::trouble) decides who is in trouble.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Pool, Transaction};
use serde_json::{Value, json};
use shared::clock;
use shared::endpoints;
use shared::ids::{EventType, EventUid, WebhookId};
use shared::operational::{DOWN, FAILING, RECOVERED, SLOW, Thresholds};
use shared::publish::Publisher;
use shared::recent::{WINDOW, recent};
use shared::timestamp::with_milliseconds;
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::alone::is_alone;
use super::announce::{Announcement, announce, written_before};
use super::exhausted;
use super::trouble::{Announced, Seen, Watched, assess};

/// Any number that no other lock of ours has: "alerts" in ASCII.
const LOCK: i64 = 0x616c_6572_7473;

/// Looks for webhooks in trouble.
pub struct AlertWatch {
    pub pool: Pool,
    pub publisher: Publisher,
    pub interval: Duration,
    pub stop: CancellationToken,
}

impl AlertWatch {
    /// Checks every so often, until `stop`. If PostgreSQL fails, the next check tries again.
    pub async fn run(&self) {
        let mut check = tokio::time::interval(self.interval);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unsure = Vec::new();
        loop {
            tokio::select! {
                _ = check.tick() => {}
                () = self.stop.cancelled() => return,
            }
            if let Err(error) = self.check(&mut unsure).await {
                warn!(
                    error = format!("{error:#}"),
                    "webhooks in trouble could not be looked for; the next check tries again"
                );
            }
        }
    }

    /// `unsure`: events of the last check, if its COMMIT got no answer.
    async fn check(&self, unsure: &mut Vec<EventUid>) -> anyhow::Result<()> {
        let mut client = self.pool.get().await.context("connecting to PostgreSQL")?;
        let transaction = client.transaction().await?;
        if !is_alone(&transaction, LOCK).await? {
            return Ok(());
        }
        let mut jobs = written_before(&transaction, unsure).await?;
        let now = clock::now().truncate_to_millisecond();
        let mut announced = announced(&transaction).await?;
        let mut seen = seen(&transaction, &announced, now).await?;
        let watched = watched(&transaction, &seen).await?;
        let mut announcements = Vec::new();
        let mut changed = Vec::new();
        for webhook in &watched {
            let (Some(seen), was) = (seen.get(&webhook.id), announced.remove(&webhook.id)) else {
                continue;
            };
            let was = was.unwrap_or_default();
            let is = assess(seen, was, &webhook.thresholds, now);
            if is != was {
                changed.push((webhook.id, is));
                announcements.extend(changes(webhook, seen, was, is, now)?);
            }
        }
        // Webhooks that are gone or switched off: their owners know.
        changed.extend(announced.keys().map(|gone| (*gone, Announced::default())));
        write(&transaction, &changed).await?;
        seen.retain(|_, seen| seen.recent.last_failed_at.is_some());
        announcements.extend(exhausted::given_up(&transaction, &watched, &seen, now).await?);
        jobs.extend(announce(&transaction, &announcements).await?);
        *unsure = announcements.iter().map(|one| one.uid).collect();
        transaction.commit().await?;
        unsure.clear();
        for one in &announcements {
            info!(
                webhook = %one.about,
                tenant = %one.tenant,
                data = one.data,
                "{}; the tenant's operational webhooks are told",
                one.event_type
            );
        }
        // A job that isn't confirmed is put back by the sweeper.
        self.publisher.publish_jobs(&jobs).await;
        Ok(())
    }
}

/// What owners were told.
async fn announced(transaction: &Transaction<'_>) -> anyhow::Result<HashMap<WebhookId, Announced>> {
    let statement = transaction
        .prepare_cached(
            "-- webhook_alerts\nSELECT webhook_id, kind, since, failed_at FROM webhook_alerts",
        )
        .await?;
    let mut all: HashMap<WebhookId, Announced> = HashMap::new();
    for row in transaction.query(&statement, &[]).await? {
        let announced = all.entry(row.get("webhook_id")).or_default();
        let since: OffsetDateTime = row.get("since");
        match row.get("kind") {
            "failing" => announced.failing = Some(since),
            "slow" => announced.slow = Some(since),
            _ => {
                let failed_at: Option<OffsetDateTime> = row.get("failed_at");
                announced.down = Some((since, failed_at.unwrap_or(since)));
            }
        }
    }
    Ok(all)
}

/// All webhooks that there is something to say about.
async fn seen(
    transaction: &Transaction<'_>,
    announced: &HashMap<WebhookId, Announced>,
    now: OffsetDateTime,
) -> anyhow::Result<HashMap<WebhookId, Seen>> {
    let mut seen: HashMap<WebhookId, Seen> = HashMap::new();
    for (webhook, recent) in recent(transaction, now).await? {
        seen.entry(webhook).or_default().recent = recent;
    }
    let statement = transaction
        .prepare_cached(
            "-- endpoints_told\n\
             SELECT webhook_id, bool_or(circuit <> 'closed'), \
                 max(told_at) FILTER (WHERE circuit = 'closed') FROM endpoints GROUP BY 1",
        )
        .await?;
    let mut in_trouble = Vec::new();
    for row in transaction.query(&statement, &[]).await? {
        let webhook: WebhookId = row.get(0);
        if row.get(1) {
            in_trouble.push(webhook);
        }
        seen.entry(webhook).or_default().closed_at = row.get(2);
    }
    for (webhook, down) in endpoints::down(transaction, &in_trouble).await? {
        seen.entry(webhook).or_default().down = Some(down);
    }
    for webhook in announced.keys() {
        seen.entry(*webhook).or_default();
    }
    Ok(seen)
}

/// Those of the webhooks that take deliveries.
async fn watched(
    transaction: &Transaction<'_>,
    seen: &HashMap<WebhookId, Seen>,
) -> anyhow::Result<Vec<Watched>> {
    let statement = transaction
        .prepare_cached(&format!(
            "-- watched_webhooks\n\
             SELECT w.id, w.tenant, w.operational, {} \
             FROM webhooks w JOIN tenants t ON t.id = w.tenant \
             WHERE w.id = ANY($1) AND w.status IN ('active', 'paused') ORDER BY w.id",
            Thresholds::COLUMNS
        ))
        .await?;
    let ids: Vec<_> = seen.keys().collect();
    let rows = transaction.query(&statement, &[&ids]).await?;
    let watched = rows.iter().map(|row| Watched {
        id: row.get("id"),
        tenant: row.get("tenant"),
        operational: row.get("operational"),
        thresholds: Thresholds::read(row),
    });
    Ok(watched.collect())
}

/// The events that tell of a change.
fn changes(
    webhook: &Watched,
    seen: &Seen,
    was: Announced,
    is: Announced,
    now: OffsetDateTime,
) -> anyhow::Result<Vec<Announcement>> {
    let Watched { id, thresholds, .. } = webhook;
    let recent = &seen.recent;
    let whole = |count: f64| count.round() as i64;
    let mut events: Vec<(&'static EventType, Value)> = Vec::new();
    if let (None, Some(since)) = (was.failing, is.failing) {
        let data = json!({
            "webhook_id": id,
            "since": with_milliseconds(since)?,
            "attempts": whole(recent.attempts()),
            "failed_attempts": whole(recent.failed()),
            "failure_rate": (recent.failed() / recent.attempts() * 1000.0).round() / 1000.0,
            "threshold": thresholds.failure_rate,
            "window_seconds": WINDOW,
        });
        events.push((&FAILING, data));
    }
    if let (None, Some(since)) = (was.slow, is.slow) {
        let data = json!({
            "webhook_id": id,
            "since": with_milliseconds(since)?,
            "attempts": whole(recent.attempts()),
            "p95_response_time_ms": recent.p95_ms().map(whole),
            "threshold_ms": thresholds.slow.as_millis() as u64,
            "window_seconds": WINDOW,
        });
        events.push((&SLOW, data));
    }
    if let (None, Some((since, failed_at))) = (was.down, is.down) {
        let next = seen.down.and_then(|down| down.next_probe_at);
        let data = json!({
            "webhook_id": id,
            "since": with_milliseconds(since)?,
            "last_failed_at": with_milliseconds(failed_at)?,
            "next_probe_at": next.map(with_milliseconds).transpose()?,
        });
        events.push((&DOWN, data));
    }
    if is.is_well() {
        let troubles = was.troubles();
        let since = troubles.values().min().copied().unwrap_or(now);
        let data = json!({
            "webhook_id": id,
            "recovered_at": with_milliseconds(now)?,
            "was": troubles.keys().collect::<Vec<_>>(),
            "since": with_milliseconds(since)?,
        });
        events.push((&RECOVERED, data));
    }
    let announcements = events.into_iter().map(|(event_type, data)| Announcement {
        uid: EventUid::at(now),
        tenant: webhook.tenant.clone(),
        about: *id,
        event_type,
        data: data.to_string(),
    });
    Ok(announcements.collect())
}

/// Writes what owners are told from now on.
async fn write(
    transaction: &Transaction<'_>,
    changed: &[(WebhookId, Announced)],
) -> anyhow::Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let forget = transaction
        .prepare_cached("-- forget_alerts\nDELETE FROM webhook_alerts WHERE webhook_id = ANY($1)")
        .await?;
    let ids: Vec<_> = changed.iter().map(|(webhook, _)| webhook).collect();
    transaction.execute(&forget, &[&ids]).await?;
    let (mut webhooks, mut kinds, mut since, mut failed) = (vec![], vec![], vec![], vec![]);
    for (webhook, announced) in changed {
        for (kind, at) in announced.troubles() {
            webhooks.push(webhook);
            kinds.push(kind);
            since.push(at);
            failed.push(
                announced
                    .down
                    .filter(|_| kind == "down")
                    .map(|(_, failed_at)| failed_at),
            );
        }
    }
    let note = transaction
        .prepare_cached(
            "-- note_alerts\n\
             INSERT INTO webhook_alerts (webhook_id, kind, since, failed_at) \
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[])",
        )
        .await?;
    transaction
        .execute(&note, &[&webhooks, &kinds, &since, &failed])
        .await?;
    Ok(())
}
