//! Tells PostgreSQL which endpoints are down or full, as this replica sees them, and ends the
//! wait of circuits that somebody wants to be probed at once.
//!
//! Every second the limiters are looked at. A row of `endpoints` is written when an endpoint
//! gets into trouble, when a probe has failed, and every ten seconds while the trouble lasts.
//! When an outage is over, the row says so for two minutes. Then it is deleted. So healthy
//! endpoints cost nothing. The history of outages is kept by [`outages`].
//!
//! `POST /webhooks/{id}/probe` writes a row of `probes`. It is read here every second, but
//! only while a circuit of this replica isn't closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use shared::clock;
use shared::ids::{ProcessId, WebhookId};
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cache::EndpointCache;
use super::limiter::Trouble;
use super::outages;

/// How often the limiters are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a row is written that hasn't changed, and the pause after a failure.
const REPEAT: Duration = Duration::from_secs(10);
/// How long a row says that an outage is over. Whoever tells owners of outages looks more often
/// (`upkeep::alerts`).
const OVER: Duration = Duration::from_secs(120);

/// Tells of this replica's endpoints.
pub struct EndpointReporter {
    pub pool: Pool,
    pub endpoints: Arc<EndpointCache>,
    /// This process's row in `processes`.
    pub process: ProcessId,
    pub stop: CancellationToken,
}

/// What was written last, and when.
type Reported = HashMap<WebhookId, (Trouble, Instant)>;

impl EndpointReporter {
    /// Tells until `stop`. If PostgreSQL fails, the next look tells again.
    pub async fn run(self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = Reported::new();
        let mut probed = HashMap::new();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let troubles = self.endpoints.in_trouble(clock::now());
            if troubles.is_empty() && reported.is_empty() {
                continue;
            }
            let done = async {
                let client = self.pool.get().await.context("connecting to PostgreSQL")?;
                if troubles.iter().any(|(_, trouble)| trouble.outage.is_some()) {
                    self.end_waits(&client, &mut probed).await?;
                }
                self.tell(&client, &troubles, &mut reported).await
            };
            if let Err(error) = done.await {
                let error = format!("{error:#}");
                warn!(
                    error,
                    "endpoints that are down could not be written to PostgreSQL; trying again in 10 s"
                );
                look.reset_after(REPEAT);
            }
        }
    }

    async fn tell(
        &self,
        client: &Client,
        troubles: &[(WebhookId, Trouble)],
        reported: &mut Reported,
    ) -> anyhow::Result<()> {
        let is_news = |webhook: &WebhookId, trouble: &Trouble| {
            reported
                .get(webhook)
                .is_none_or(|(last, at)| last.outage != trouble.outage || at.elapsed() >= REPEAT)
        };
        let news = troubles
            .iter()
            .filter(|(webhook, trouble)| is_news(webhook, trouble));
        let news: Vec<_> = news.copied().collect();
        if !news.is_empty() {
            write(client, self.process, &news).await?;
            outages::note(client, self.process, &news).await?;
            let now = Instant::now();
            reported.extend(
                news.iter()
                    .map(|(webhook, trouble)| (*webhook, (*trouble, now))),
            );
        }
        let is_over = |webhook: &WebhookId| !troubles.iter().any(|(other, _)| other == webhook);
        let over: Vec<_> = reported
            .iter()
            .filter(|(webhook, _)| is_over(webhook))
            .collect();
        let ended = over.iter().filter(|(_, (last, _))| last.outage.is_some());
        let ended = ended.map(|(webhook, (last, _))| {
            let trouble = Trouble {
                outage: None,
                ..*last
            };
            (**webhook, trouble)
        });
        let ended: Vec<_> = ended.collect();
        let forgotten = over
            .iter()
            .filter(|(_, (last, at))| last.outage.is_none() && at.elapsed() >= OVER);
        let forgotten: Vec<WebhookId> = forgotten.map(|(webhook, _)| **webhook).collect();
        if !ended.is_empty() {
            write(client, self.process, &ended).await?;
            outages::note(client, self.process, &ended).await?;
            let now = Instant::now();
            reported.extend(
                ended
                    .iter()
                    .map(|(webhook, trouble)| (*webhook, (*trouble, now))),
            );
        }
        if !forgotten.is_empty() {
            delete(client, self.process, &forgotten).await?;
            reported.retain(|webhook, _| !forgotten.contains(webhook));
        }
        Ok(())
    }

    /// Ends the waits of circuits that somebody has asked to be probed since the last look.
    /// `probed`: when each was asked for that was probed already.
    async fn end_waits(
        &self,
        client: &Client,
        probed: &mut HashMap<WebhookId, OffsetDateTime>,
    ) -> anyhow::Result<()> {
        let statement = client
            .prepare_cached(
                "-- probes_asked_for\n\
                 SELECT webhook_id, asked_at FROM probes \
                 WHERE asked_at > now() - interval '10 seconds'",
            )
            .await?;
        let rows = client.query(&statement, &[]).await?;
        let asked: HashMap<WebhookId, OffsetDateTime> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for (webhook, at) in &asked {
            if probed.get(webhook) != Some(at)
                && let Some(endpoint) = self.endpoints.get(*webhook)
            {
                info!(%webhook, "the endpoint of this webhook is asked now, although it was down");
                endpoint.limiter.end_wait(clock::now());
            }
        }
        *probed = asked;
        Ok(())
    }
}

async fn write(
    client: &Client,
    process: ProcessId,
    news: &[(WebhookId, Trouble)],
) -> anyhow::Result<()> {
    let statement = client
        .prepare_cached(
            "-- tell_endpoints\n\
             INSERT INTO endpoints (webhook_id, process_id, circuit, open_since, failed_at, \
                 next_probe_at, permits, in_flight, told_at) \
             SELECT v.webhook_id, $1, v.circuit, v.open_since, v.failed_at, v.next_probe_at, \
                 v.permits, v.in_flight, now() \
             FROM unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], \
                         $6::timestamptz[], $7::int4[], $8::int4[]) \
                 AS v (webhook_id, circuit, open_since, failed_at, next_probe_at, permits, in_flight) \
             ON CONFLICT (webhook_id, process_id) DO UPDATE SET \
                 circuit = excluded.circuit, open_since = excluded.open_since, \
                 failed_at = excluded.failed_at, next_probe_at = excluded.next_probe_at, \
                 permits = excluded.permits, in_flight = excluded.in_flight, \
                 told_at = excluded.told_at",
        )
        .await?;
    let webhooks: Vec<_> = news.iter().map(|(webhook, _)| *webhook).collect();
    let outages = || news.iter().map(|(_, trouble)| trouble.outage);
    let circuits: Vec<_> = outages()
        .map(|outage| match outage {
            None => "closed",
            Some(outage) if outage.next_probe_at.is_some() => "open",
            Some(_) => "probing",
        })
        .collect();
    let since: Vec<_> = outages().map(|outage| outage.map(|it| it.since)).collect();
    let failed: Vec<_> = outages()
        .map(|outage| outage.map(|it| it.failed_at))
        .collect();
    let next: Vec<_> = outages()
        .map(|outage| outage.and_then(|it| it.next_probe_at))
        .collect();
    let permits: Vec<_> = news.iter().map(|(_, it)| it.permits as i32).collect();
    let in_flight: Vec<_> = news.iter().map(|(_, it)| it.in_flight as i32).collect();
    client
        .execute(
            &statement,
            &[
                &process, &webhooks, &circuits, &since, &failed, &next, &permits, &in_flight,
            ],
        )
        .await?;
    Ok(())
}

async fn delete(client: &Client, process: ProcessId, webhooks: &[WebhookId]) -> anyhow::Result<()> {
    let statement = client
        .prepare_cached(
            "-- forget_endpoints\n\
             DELETE FROM endpoints WHERE process_id = $1 AND webhook_id = ANY($2)",
        )
        .await?;
    client.execute(&statement, &[&process, &webhooks]).await?;
    Ok(())
}
