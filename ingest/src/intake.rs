//! Events are taken from the queue in batches, and each batch is seen through:
//! decoded, matched, written, its jobs published and confirmed; then acked.
//!
//! A batch is whatever has gathered while the last one was written: under load
//! batches grow, at rest an event waits for nobody. Several [`lane`]s run side by
//! side, each with a consumer and a publishing channel of its own, so that one
//! writes while another waits for confirms.
//!
//! Nothing is acked before everything that follows from it is safe. After a
//! crash the broker delivers the batch again, its events are found known, and of
//! the jobs that nobody has tried yet late copies are published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Consumer};
use shared::catalogue::Feed;
use shared::clock;
use shared::ids::{DeliveryId, EventUid};
use shared::job::Job;
use shared::publish::{Outgoing, publish_all};
use shared::supervise::until_done;
use shared::webhook::Subscription;
use time::OffsetDateTime;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accept::{self, Matched};
use crate::decode::{self, Event, Rejected};
use crate::event_types::EventTypes;
use crate::metrics::metrics;
use crate::subscriptions::Subscriptions;

/// Lanes per process: one writes while the other waits for confirms.
pub const LANES: usize = 2;
/// Unacked events per lane: what can gather while a batch is written.
pub const PREFETCH: u16 = 512;
/// The most events in one transaction.
const BATCH: usize = 256;
/// For how long others that share the session may have to wait for a lane.
const UNINTERRUPTED: Duration = Duration::from_millis(1);
/// The most messages that wait for their confirms.
const PUBLISHED_AT_ONCE: usize = 1024;

/// What a lane needs.
pub struct Intake {
    /// To PostgreSQL.
    pub pool: deadpool_postgres::Pool,
    /// Keeps the subscriptions fresh.
    pub feed: Arc<Feed<Subscription>>,
    /// The index.
    pub subscriptions: Arc<Subscriptions>,
    /// What tenants say about their event types.
    pub event_types: Arc<EventTypes>,
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
    let Some(()) = until_done(&intake.stop, "reading the catalogue", || {
        intake.feed.refresh()
    })
    .await
    else {
        return Ok(Seen::Stopped);
    };
    let now = clock::now();
    let mut taken = Vec::new();
    let mut parked = Vec::new();
    let mut began = Instant::now();
    for message in batch {
        match read(intake, message).await {
            Ok(event) => taken.push(Taken {
                message,
                event: find(intake, event, now).await,
            }),
            Err(reason) => parked.push(park(message, &reason)),
        }
        // What is quick is done here; together it may not be.
        if began.elapsed() > UNINTERRUPTED {
            yield_now().await;
            began = Instant::now();
        }
    }

    let mut jobs = Vec::new();
    // Halves of what PostgreSQL can't store, down to the one event to blame.
    let mut parts = vec![taken.as_slice()];
    while let Some(part) = parts.pop() {
        let mut tried = false;
        let written = until_done(&intake.stop, "writing events", || {
            let again = std::mem::replace(&mut tried, true);
            write(intake, now, part, again)
        });
        match written.await {
            None => return Ok(Seen::Stopped),
            Some(Written::All(outcome)) => jobs.push(outcome),
            Some(Written::Unstorable(reason)) => match part {
                [one] => parked.push(park(one.message, &Rejected::Unstorable(reason))),
                _ => parts.extend(<[_; 2]>::from(part.split_at(part.len() / 2))),
            },
        }
    }

    let jobs = jobs.into_iter().flatten();
    let outgoing = jobs
        .map(|job| Outgoing::job(&job, now, intake.shards))
        .chain(parked);
    publish_in_parts(channel, outgoing).await?;
    Ok(Seen::Through)
}

/// A message and what is to be written of it.
struct Taken<'a> {
    message: &'a Delivery,
    event: Matched,
}

/// Publishes and waits for the confirms, a part at a time: events with many
/// matches make many more messages than were taken.
async fn publish_in_parts(
    channel: &Channel,
    outgoing: impl Iterator<Item = Outgoing>,
) -> anyhow::Result<()> {
    let mut outgoing = outgoing.peekable();
    while outgoing.peek().is_some() {
        let part: Vec<_> = outgoing.by_ref().take(PUBLISHED_AT_ONCE).collect();
        for published in publish_all(channel, &part).await {
            published?;
        }
    }
    Ok(())
}

async fn read(intake: &Intake, message: &Delivery) -> Result<Event, Rejected> {
    let event = decode::decode(message)?;
    let Some(limit) = intake.subscriptions.max_payload(&event.tenant) else {
        return Err(Rejected::UnknownTenant(event.tenant));
    };
    decode::at_most("the data", event.data.len(), limit)?;
    let known = &intake.event_types;
    known
        .check(&event.tenant, &event.event_type, &event.data)
        .await?;
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

async fn find(intake: &Intake, event: Event, now: OffsetDateTime) -> Matched {
    if event.id.is_none() {
        metrics().without_id.inc();
    }
    let uid = EventUid::at(now);
    let found = intake
        .subscriptions
        .matching(&event.tenant, event.event_type.as_str(), &event.data)
        .await;
    metrics().too_costly.inc_by(found.too_costly.len() as u64);
    let deliveries = found
        .matched
        .into_iter()
        .map(|webhook| (DeliveryId::of(uid), webhook))
        .collect();
    Matched {
        uid,
        id: decode::id_for(&event, uid),
        event,
        deliveries,
        too_costly: found.too_costly,
    }
}

enum Written<J> {
    /// The jobs to publish, made as they are taken.
    All(J),
    /// Nothing was written: a value in it is none that PostgreSQL can store.
    Unstorable(String),
}

/// Writes what is new. `again`: an earlier try failed, perhaps after its commit.
async fn write<'a>(
    intake: &Intake,
    now: OffsetDateTime,
    part: &'a [Taken<'a>],
    again: bool,
) -> anyhow::Result<Written<impl Iterator<Item = Job> + use<'a>>> {
    let matched: Vec<&Matched> = part.iter().map(|taken| &taken.event).collect();
    let new = match accept::accept(&intake.pool, now, &matched, again).await {
        Ok(new) => new,
        Err(error) => match unstorable(&error) {
            Some(reason) => return Ok(Written::Unstorable(reason)),
            None => return Err(error),
        },
    };
    let (fresh, known): (Vec<&Taken<'_>>, Vec<_>) = part
        .iter()
        .partition(|taken| new.contains(&taken.event.uid));
    // A duplicate of the producer's has its jobs; one of the broker's may be
    // what a crash has left.
    let interrupted: Vec<_> = known
        .iter()
        .filter(|taken| taken.message.redelivered)
        .map(|taken| (&taken.event.event.tenant, &taken.event.id))
        .collect();
    let untried = if interrupted.is_empty() {
        Vec::new()
    } else {
        accept::untried_jobs(&intake.pool, now, &interrupted).await?
    };
    for taken in part {
        log(&taken.event, new.contains(&taken.event.uid));
    }
    metrics().deduplicated.inc_by(known.len() as u64);
    metrics().enqueued.inc_by(
        fresh
            .iter()
            .map(|taken| taken.event.deliveries.len() as u64)
            .sum(),
    );
    Ok(Written::All(
        fresh
            .into_iter()
            .flat_map(|taken| taken.event.jobs())
            .chain(untried),
    ))
}

/// The reason, if it is the data that PostgreSQL refuses (SQLSTATE class 22).
fn unstorable(error: &anyhow::Error) -> Option<String> {
    let error = error
        .downcast_ref::<tokio_postgres::Error>()?
        .as_db_error()?;
    error
        .code()
        .code()
        .starts_with("22")
        .then(|| error.message().to_owned())
}

/// The one line of an event.
fn log(event: &Matched, is_new: bool) {
    info!(
        tenant = %event.event.tenant,
        event = %event.id,
        event_type = %event.event.event_type,
        bytes = event.event.data.len(),
        matched = event.deliveries.len(),
        too_costly = Some(event.too_costly.len()).filter(|filters| *filters > 0),
        duplicate = (!is_new).then_some(true),
        "accepted"
    );
}
