//! Events are taken from the queue in batches, and each batch is seen through:
//! decoded, matched, written, its jobs published and confirmed; then acked.
//!
//! A batch is whatever has gathered while the last one was written: under load
//! batches grow, at rest an event waits for nobody. Several [`lane`]s run side by
//! side, each with a consumer and a publishing channel of its own, so that one
//! writes while another waits for confirms.
//!
//! Nothing is acked before everything that follows from it is safe. After a
//! crash the broker delivers the batch again, its events are found known, and
//! the jobs that nobody has tried yet are published again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Consumer};
use shared::catalogue::Feed;
use shared::ids::{DeliveryId, EventUid};
use shared::job::Job;
use shared::publish::{Outgoing, publish_all};
use shared::supervise::until_done;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accept::{self, Matched};
use crate::decode::{self, Event, Rejected};
use crate::metrics::metrics;
use crate::subscriptions::Subscriptions;

/// Lanes per process: one writes while the other waits for confirms.
pub const LANES: usize = 2;
/// Unacked events per lane: what can gather while a batch is written.
pub const PREFETCH: u16 = 512;
/// The most events in one transaction.
const BATCH: usize = 256;

/// What a lane needs.
pub struct Intake {
    /// To PostgreSQL.
    pub pool: deadpool_postgres::Pool,
    /// Keeps the subscriptions fresh.
    pub feed: Arc<Feed>,
    /// The index.
    pub subscriptions: Arc<Subscriptions>,
    /// For the routing of jobs.
    pub shards: u16,
    /// Take no more.
    pub stop: CancellationToken,
}

/// Takes batches until told to stop.
///
/// # Errors
/// If the consumer or the channel fails. What was taken and not acked comes again.
pub async fn lane(intake: &Intake, events: Consumer, channel: Channel) -> anyhow::Result<()> {
    let mut batches = events.ready_chunks(BATCH);
    loop {
        let batch = tokio::select! {
            batch = batches.next() => batch,
            () = intake.stop.cancelled() => return Ok(()),
        };
        let Some(batch) = batch else {
            anyhow::bail!("RabbitMQ cancelled the consumer of events");
        };
        let batch: Vec<Delivery> = batch.into_iter().collect::<Result<_, _>>()?;
        let started = Instant::now();
        metrics().received.inc_by(batch.len() as u64);
        if see_through(intake, &channel, &batch).await? == Seen::Stopped {
            return Ok(());
        }
        if let Some(last) = batch.last() {
            // This lane's consumer has nothing older unacked.
            last.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
        metrics().batch.observe(batch.len() as f64);
        metrics()
            .batch_seconds
            .observe(started.elapsed().as_secs_f64());
    }
}

#[derive(PartialEq)]
enum Seen {
    Through,
    /// Told to stop while PostgreSQL couldn't be reached.
    Stopped,
}

async fn see_through(
    intake: &Intake,
    channel: &Channel,
    batch: &[Delivery],
) -> anyhow::Result<Seen> {
    let Some(()) = insist(intake, "reading the catalogue", || intake.feed.refresh()).await else {
        return Ok(Seen::Stopped);
    };
    let mut outgoing = Vec::new();
    let mut events = Vec::new();
    for message in batch {
        match read(intake, message) {
            Ok(event) => events.push((event, message.redelivered)),
            Err(reason) => outgoing.push(park(message, &reason)),
        }
    }

    let now = OffsetDateTime::now_utc();
    let matched: Vec<_> = events
        .into_iter()
        .map(|(event, again)| (find(intake, event, now), again))
        .collect();
    let (matched, redelivered): (Vec<Matched>, Vec<bool>) = matched.into_iter().unzip();
    let jobs = insist(intake, "writing events", || {
        write(intake, now, &matched, &redelivered)
    })
    .await;
    let Some(jobs) = jobs else {
        return Ok(Seen::Stopped);
    };

    outgoing.extend(
        jobs.iter()
            .map(|job| Outgoing::job(job, now, intake.shards)),
    );
    for published in publish_all(channel, &outgoing).await {
        published?;
    }
    Ok(Seen::Through)
}

fn read(intake: &Intake, message: &Delivery) -> Result<Event, Rejected> {
    let event = decode::decode(message)?;
    if !intake.subscriptions.knows(&event.tenant) {
        return Err(Rejected::UnknownTenant(event.tenant));
    }
    Ok(event)
}

fn park(message: &Delivery, reason: &Rejected) -> Outgoing {
    metrics()
        .rejected
        .with_label_values(&[reason.label()])
        .inc();
    let routing_key = message.routing_key.as_str();
    let event = message
        .properties
        .message_id()
        .as_ref()
        .map(ToString::to_string);
    warn!(routing_key, event, %reason, "event parked");
    Outgoing::dead(message, &reason.to_string())
}

fn find(intake: &Intake, event: Event, now: OffsetDateTime) -> Matched {
    if event.id.is_none() {
        metrics().without_id.inc();
    }
    let uid = EventUid::at(now);
    let webhooks =
        intake
            .subscriptions
            .matching(&event.tenant, event.event_type.as_str(), &event.data);
    let deliveries = webhooks
        .into_iter()
        .map(|webhook| (DeliveryId::of(uid), webhook))
        .collect();
    Matched {
        uid,
        id: decode::id_for(&event, uid),
        event,
        deliveries,
    }
}

/// Writes what is new; answers the jobs to publish.
async fn write(
    intake: &Intake,
    now: OffsetDateTime,
    matched: &[Matched],
    redelivered: &[bool],
) -> anyhow::Result<Vec<Job>> {
    if matched.is_empty() {
        return Ok(Vec::new());
    }
    let new = accept::accept(&intake.pool, now, matched).await?;
    let mut jobs = Vec::new();
    let mut known = Vec::new();
    for (event, redelivered) in matched.iter().zip(redelivered) {
        let is_new = new.contains(&event.uid);
        log(event, is_new);
        if is_new {
            metrics().enqueued.inc_by(event.deliveries.len() as u64);
            jobs.extend(event.jobs());
        } else {
            metrics().deduplicated.inc();
            if *redelivered {
                known.push((&event.event.tenant, &event.id));
            }
        }
    }
    if !known.is_empty() {
        jobs.extend(accept::untried_jobs(&intake.pool, now, &known).await?);
    }
    Ok(jobs)
}

/// The one line of an event.
fn log(event: &Matched, is_new: bool) {
    info!(
        tenant = %event.event.tenant,
        event = %event.id,
        event_type = %event.event.event_type,
        bytes = event.event.data.len(),
        matched = event.deliveries.len(),
        duplicate = (!is_new).then_some(true),
        "accepted"
    );
}

/// Tries until it works; `None` when told to stop.
async fn insist<T, F>(intake: &Intake, doing: &str, attempt: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let complain = |error: &anyhow::Error, pause: Duration| {
        warn!(
            error = format!("{error:#}"),
            ?pause,
            "{doing}; trying again"
        );
    };
    until_done(&intake.stop, complain, attempt).await
}
