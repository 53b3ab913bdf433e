//! The steps that rounds have in common: they warm up, publish, and wait for a count.

use std::time::{Duration, Instant};

use super::generator::{EVENT_TYPE, Generator, Load, PAYLOAD};
use super::kinds::Door;
use super::now_us;
use super::stage::{Stage, until};
use super::usage::{Meter, between};
use crate::service::Service;

/// Events published and delivered before measuring begins.
pub(super) const WARM_UP: u64 = 300;
/// For how long RabbitMQ is watched at rest before a round at a steady rate.
const AT_REST: Duration = Duration::from_secs(3);
/// How long a finished round may take to record and ack the last jobs.
pub(super) const AFTERMATH: Duration = Duration::from_millis(300);

/// Both services, which have accepted and delivered [`WARM_UP`] events.
pub(super) struct Running {
    pub(super) ingest: Service,
    pub(super) dispatcher: Service,
}

impl Running {
    /// Starts them, with this many webhooks that want every event, and warms up.
    pub(super) async fn start(
        stage: &Stage<'_>,
        door: Door,
        webhooks: usize,
    ) -> anyhow::Result<Self> {
        let ingest = stage.ingest(webhooks).await?;
        let dispatcher = stage.dispatcher().await?;
        Generator::start(&load(stage, &ingest, door, WARM_UP))?
            .finished()
            .await?;
        arrived(stage, WARM_UP * webhooks as u64).await?;
        stage.receiver.reset().await?;
        stage.checkpoint().await?;
        Ok(Self { ingest, dispatcher })
    }

    pub(super) fn meter<'a>(&self, stage: &Stage<'a>) -> Meter<'a> {
        Meter::new(stage)
            .with("ingest", self.ingest.pid())
            .with("dispatcher", self.dispatcher.pid())
    }

    /// Waits until this many deliveries are recorded, the warm-up's included.
    pub(super) async fn settled(&self, count: u64) -> anyhow::Result<()> {
        settled(std::slice::from_ref(&self.dispatcher), count).await
    }
}

/// So many events of 1 KiB, as fast as they are confirmed.
pub(super) fn load(stage: &Stage<'_>, ingest: &Service, door: Door, count: u64) -> Load {
    let to = match door {
        Door::Amqp => stage.amqp_url.clone(),
        Door::Http => ingest.url(""),
    };
    load_to(stage, to, count)
}

/// The same, to this address.
pub(super) fn load_to(stage: &Stage<'_>, to: String, count: u64) -> Load {
    Load {
        to,
        exchange: shared::topology::EVENTS.to_owned(),
        routing_key: format!("acme.{EVENT_TYPE}"),
        spread: 0,
        token: stage.token.clone(),
        count,
        rate: 0,
        bytes: PAYLOAD,
    }
}

/// Publishes, and waits until ingest has acked `total` events in all. Answers
/// the seconds from the first publishing, and the generator's processor time.
pub(super) async fn publish_and_accept(
    stage: &Stage<'_>,
    ingest: &Service,
    door: Door,
    count: u64,
    total: u64,
) -> anyhow::Result<(f64, f64)> {
    let generator = Generator::start(&load(stage, ingest, door, count))?;
    let accepting = async {
        // Batches are counted when they are acked.
        until("accepting", total, async || {
            count_of(ingest, "posthorn_ingest_batch_size_sum").await
        })
        .await?;
        anyhow::Ok(now_us())
    };
    let (sent, accepted_us) = tokio::try_join!(generator.finished(), accepting)?;
    let end = accepted_us.max(sent.last_us);
    Ok(((end - sent.first_us) as f64 / 1e6, sent.cpu_seconds))
}

/// The processor seconds that RabbitMQ uses in a second without messages. At low rates it
/// is as much as the messages' own.
pub(super) async fn rabbitmq_at_rest(meter: &Meter<'_>) -> f64 {
    let (before, begun) = (meter.cpu(), Instant::now());
    tokio::time::sleep(AT_REST).await;
    let used = between(&before, &meter.cpu());
    used.get("rabbitmq").copied().unwrap_or_default() / begun.elapsed().as_secs_f64()
}

/// Waits until this many requests have arrived since the receiver's last reset.
pub(super) async fn arrived(stage: &Stage<'_>, count: u64) -> anyhow::Result<()> {
    until("arriving", count, async || {
        Ok(stage.receiver.seen().await?.count)
    })
    .await?;
    Ok(())
}

/// Waits until the dispatchers have recorded this many deliveries.
pub(super) async fn settled(dispatchers: &[Service], count: u64) -> anyhow::Result<()> {
    until("settling", count, async || {
        let mut sum = 0;
        for dispatcher in dispatchers {
            sum += count_of(dispatcher, "posthorn_deliveries_finished_total").await?;
        }
        Ok(sum)
    })
    .await?;
    tokio::time::sleep(AFTERMATH).await;
    Ok(())
}

/// A counter that doesn't appear in the metrics before its first increment.
async fn count_of(service: &Service, metric: &str) -> anyhow::Result<u64> {
    Ok(service.metric(metric).await.unwrap_or(0.0) as u64)
}
