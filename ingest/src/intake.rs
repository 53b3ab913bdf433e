//! Events are seen through in batches: decoded, matched, written, their jobs
//! published and confirmed; then acked.
//!
//! A batch is whatever has gathered while the last one was written, in the order
//! of tenants' turns ([`look_ahead`]): under load batches grow,
//! at rest an event waits for nobody. Several [`lane`]s run side by side, each with
//! a publishing channel of its own, so that one writes while another waits for
//! confirms.
//!
//! A batch ends early where its events make many jobs or take long to match: the
//! rest takes its turn again. So nobody's event waits long for a lane.
//!
//! Nothing is acked before everything that follows from it is safe. After a
//! crash the broker delivers the batch again, its events are found known, and of
//! the jobs that nobody has tried yet late copies are published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lapin::Channel;
use lapin::message::Delivery;
use shared::amqp::Session;
use shared::catalogue::Feed;
use shared::clock;
use shared::ids::{DeliveryId, EventUid, Tenant};
use shared::job::Job;
use shared::publish::{Outgoing, RETURNED_HEADER, Unconfirmed, publish_all};
use shared::supervise::{Backoff, until_done};
use shared::webhook::Subscription;
use time::OffsetDateTime;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accept::{self, Matched};
use crate::aside;
use crate::decode::{self, Event, Rejected};
use crate::event_types::EventTypes;
use crate::look_ahead::{self, BATCH_JOBS, Finished, LookAhead};
use crate::metrics::metrics;
use crate::subscriptions::Subscriptions;

/// Lanes per process: one writes while the other waits for confirms.
const LANES: usize = 2;
/// A batch whose matching takes longer ends with the event that exceeds it.
const MATCHING: Duration = Duration::from_millis(50);
/// For how long others that share the session may have to wait for a lane.
const UNINTERRUPTED: Duration = Duration::from_millis(1);
/// The most messages that wait for their confirms.
const PUBLISHED_AT_ONCE: usize = 1024;

/// What a lane needs.
#[derive(Clone)]
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

/// Takes events on a session until told to stop; `one_at_a_time` finds the one at
/// which sessions end.
///
/// # Errors
/// If a consumer or a channel fails. What was taken and not acked comes again.
pub async fn take_events(
    intake: &Intake,
    session: &Session,
    one_at_a_time: bool,
) -> anyhow::Result<()> {
    let ahead = LookAhead::default();
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        let channel = session.publishing_channel().await?;
        lanes.push(lane(intake, &ahead, channel));
    }
    let is_tenant = |tenant: &Tenant| intake.subscriptions.max_payload(tenant).is_some();
    tokio::try_join!(
        ahead.take_in(session, is_tenant, one_at_a_time, &intake.stop),
        try_join_all(lanes),
        aside::watch_jobs(session, &ahead, intake.shards, &intake.stop),
        aside::keep(session, &ahead, &intake.pool, &intake.stop),
    )?;
    Ok(())
}

/// Sees batches through until told to stop.
async fn lane(intake: &Intake, ahead: &LookAhead, channel: Channel) -> anyhow::Result<()> {
    loop {
        let batch = tokio::select! {
            batch = ahead.next_batch() => batch,
            () = intake.stop.cancelled() => return Ok(()),
        };
        let started = Instant::now();
        let (events, reserved) = batch.open();
        let Some(seen) = see_through(intake, &channel, events).await? else {
            return Ok(());
        };
        metrics().received.inc_by(seen.finished.len() as u64);
        metrics().batch.observe(seen.finished.len() as f64);
        metrics()
            .batch_seconds
            .observe(started.elapsed().as_secs_f64());
        ahead.through(reserved, seen.finished, seen.left).await?;
    }
}

/// What became of a batch.
struct Seen {
    finished: Vec<Finished>,
    /// Not begun.
    left: Vec<look_ahead::Taken>,
}

/// `None`: told to stop while PostgreSQL couldn't be reached.
async fn see_through(
    intake: &Intake,
    channel: &Channel,
    batch: Vec<look_ahead::Taken>,
) -> anyhow::Result<Option<Seen>> {
    let Some(()) = until_done(&intake.stop, "reading the catalogue", || {
        intake.feed.refresh()
    })
    .await
    else {
        return Ok(None);
    };
    let now = clock::now();
    let Matching {
        taken,
        mut parked,
        seen,
    } = find_in_turn(intake, batch, now).await;

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
            None => return Ok(None),
            Some(Written::All(outcome)) => jobs.push(outcome),
            Some(Written::Unstorable(reason)) => match part {
                [one] => parked.push(park(&one.message, &Rejected::Unstorable(reason))),
                _ => parts.extend(<[_; 2]>::from(part.split_at(part.len() / 2))),
            },
        }
    }

    let jobs = jobs.into_iter().flatten();
    let outgoing = jobs
        .map(|job| Outgoing::job(&job, now, intake.shards))
        .chain(parked);
    match publish_in_parts(channel, outgoing, &intake.stop).await? {
        true => Ok(Some(seen)),
        false => Ok(None),
    }
}

/// A message and what is to be written of it.
struct Taken {
    message: Delivery,
    event: Matched,
}

/// A batch after its matching.
struct Matching {
    taken: Vec<Taken>,
    parked: Vec<Outgoing>,
    /// Once what was taken and parked is safe.
    seen: Seen,
}

/// Reads and matches events in the order of their turns, as many as may be
/// matched at a time.
async fn find_in_turn(
    intake: &Intake,
    batch: Vec<look_ahead::Taken>,
    now: OffsetDateTime,
) -> Matching {
    let (mut taken, mut parked, mut finished) = (Vec::new(), Vec::new(), Vec::new());
    let mut batch = batch.into_iter();
    let (mut jobs, begun) = (0, Instant::now());
    let (mut until_here, mut uninterrupted) = (begun, begun);
    for held in batch.by_ref() {
        let event = match read(intake, &held.delivery).await {
            Ok(event) => Ok(find(intake, event, now).await),
            Err(reason) => Err(reason),
        };
        let matched = event.as_ref().map_or(0, |event| event.deliveries.len());
        let effort = until_here.elapsed();
        until_here += effort;
        jobs += matched;
        finished.push(held.finished(matched, effort));
        match event {
            Ok(event) => taken.push(Taken {
                message: held.delivery,
                event,
            }),
            Err(reason) => parked.push(park(&held.delivery, &reason)),
        }
        if jobs >= BATCH_JOBS || until_here - begun >= MATCHING {
            break;
        }
        // What is quick is done here; together it may not be.
        if until_here - uninterrupted > UNINTERRUPTED {
            yield_now().await;
            uninterrupted = Instant::now();
        }
    }
    let left = batch.collect();
    Matching {
        taken,
        parked,
        seen: Seen { finished, left },
    }
}

/// Publishes and waits for the confirms, a part at a time: events with many
/// matches make many more messages than were taken. What a queue refuses, because
/// it is full or has no quorum, is published again until it is taken. False if told
/// to stop before that.
async fn publish_in_parts(
    channel: &Channel,
    outgoing: impl Iterator<Item = Outgoing>,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let mut outgoing = outgoing.peekable();
    while outgoing.peek().is_some() {
        let mut part: Vec<_> = outgoing.by_ref().take(PUBLISHED_AT_ONCE).collect();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let published = publish_all(channel, &part).await;
            let mut refused = Vec::new();
            for (message, published) in part.into_iter().zip(published) {
                match published {
                    Ok(()) => {}
                    Err(Unconfirmed::Refused) => refused.push(message),
                    Err(error) => return Err(error.into()),
                }
            }
            if refused.is_empty() {
                break;
            }
            let pause = backoff.next();
            warn!(
                messages = refused.len(),
                ?pause,
                "RabbitMQ refused messages, perhaps because a queue is full; publishing them again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return Ok(false),
            }
            part = refused;
        }
    }
    Ok(true)
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
    part: &'a [Taken],
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
    let (fresh, known): (Vec<&Taken>, Vec<_>) = part
        .iter()
        .partition(|taken| new.contains(&taken.event.uid));
    // A duplicate of the producer's has its jobs; one of the broker's may be
    // what a crash has left.
    let interrupted: Vec<_> = known
        .iter()
        .filter(|taken| may_be_interrupted(&taken.message))
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

/// Whether its event may have been accepted without its jobs being published. One
/// that RabbitMQ had given up on comes as a new message. A producer can say so too:
/// that costs late copies which find their deliveries settled.
fn may_be_interrupted(message: &Delivery) -> bool {
    let headers = message.properties.headers();
    let returned = headers
        .as_ref()
        .is_some_and(|headers| headers.contains_key(RETURNED_HEADER));
    message.redelivered || returned
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
