//! Writes one batch of events: decodes and matches them, and inserts them with their
//! deliveries.
//!
//! `intake` passes the events in the order of their turns. It gets back the messages to
//! publish: jobs, and events that are parked. Nothing is acked or answered here.
//!
//! A batch is matched with the webhooks and event types in memory (the cache), without asking
//! whether they are fresh. The statement that writes the batch has a condition: the cache's
//! revision must still be PostgreSQL's. If it isn't, the cache is refreshed, and the batch is
//! matched anew and written without the condition. So a tenant that changes its webhooks all
//! the time can't hold a batch up for ever. The refreshed cache has every change that was
//! committed before the events of the batch were published. No event is refused before the
//! cache was refreshed.
//!
//! The same statement has another condition: the tokens with which events came over HTTP are
//! still valid. Events whose token isn't are refused, and the rest of the batch is written.
//!
//! A try of writing that fails may have been committed all the same. As long as the batch
//! isn't matched anew, its events are recognised by their uids, and the batch goes on. After
//! it was matched anew, nobody can say which deliveries were written. Then events that are
//! known are treated like events that RabbitMQ delivers again: late copies of their jobs are
//! published.

mod begun;
mod parked_lines;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use shared::ids::{DeliveryId, EventUid};
use shared::job::Job;
use shared::publish::{Outgoing, bundled};
use shared::revisions::Feed;
use shared::supervise::{Backoff, LAST_TRY, until_done};
use shared::trace;
use shared::webhook::Subscription;
use time::OffsetDateTime;
use tokio::task::yield_now;
use tokio_postgres::error::Severity;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::accept::conflicts::conflicts;
use crate::accept::{self, Accepted, Matched};
use crate::decode::{self, Event, Rejected, TokenHash};
use crate::event_types::EventTypes;
use crate::look_ahead::{BATCH_JOBS, Came, LookAhead, Taken};
use crate::metrics::metrics;
use crate::spans::{self, EventSpans};
use crate::subscriptions::Subscriptions;
use crate::type_counts::TypeCounts;
pub use begun::Begun;
use begun::log;

/// Writes batches of events.
#[derive(Clone)]
pub struct Writer {
    /// To PostgreSQL.
    pub pool: Pool,
    /// The lanes' own connections, whose statements are planned once
    /// ([`Database::planned_once`](shared::postgres::Database::planned_once)).
    pub accepting: Pool,
    /// Where events wait for a lane.
    pub ahead: Arc<LookAhead>,
    /// Keeps the subscriptions fresh.
    pub feed: Arc<Feed<Subscription>>,
    /// The index.
    pub subscriptions: Arc<Subscriptions>,
    /// What tenants say about their event types.
    pub event_types: Arc<EventTypes>,
    /// How many events of each type were accepted.
    pub type_counts: Arc<TypeCounts>,
    /// Take no more.
    pub stop: CancellationToken,
}

/// A batch whose matching takes longer ends with the event that exceeds it.
const MATCHING: Duration = Duration::from_millis(10);
/// For how long others that share the session may have to wait for a lane.
const UNINTERRUPTED: Duration = Duration::from_millis(1);

/// A batch whose events are written.
pub struct Written {
    /// Those that are safe once what is [to be published](Self::outgoing) is confirmed.
    pub begun: Vec<Begun>,
    /// Late copies of jobs of events that were known.
    copies: Vec<Job>,
    now: OffsetDateTime,
}

impl Written {
    /// The number of jobs of first attempts.
    pub fn jobs(&self) -> usize {
        let new = self.begun.iter().filter(|one| one.is_new);
        new.map(Begun::jobs).sum()
    }

    /// Jobs and parked messages, made as they are taken. A message has at most `most_jobs`
    /// jobs of first attempts.
    pub fn outgoing(&self, shards: u16, most_jobs: usize) -> impl Iterator<Item = Outgoing> {
        let events = self.begun.iter();
        let new = events.filter_map(|one| {
            let event = one.is.as_ref().ok().filter(|_| one.is_new)?;
            let trace = spans::of_jobs(one.spans.as_deref(), event.event.trace);
            Some((event, trace))
        });
        let jobs = new.flat_map(|(event, trace)| event.first_tries(trace));
        let jobs = bundled(jobs, shards, most_jobs);
        let copies = self.copies.iter();
        let copies = copies.map(move |job| Outgoing::job(job, self.now, shards));
        let parked = self.begun.iter().filter_map(Begun::park);
        jobs.chain(copies).chain(parked)
    }
}

/// Writes a batch, however long that takes. `None`: told to stop before it was written.
pub async fn write(writer: &Writer, events: Vec<Taken>) -> Option<Written> {
    let now = shared::clock::now();
    let revision = writer.feed.revision();
    let (mut begun, left) = begin(writer, events, now).await;
    // What is left doesn't wait until this batch is written and published.
    let jobs = begun.iter().map(|one| (&one.taken.tenant, one.jobs()));
    writer.ahead.begun(jobs, left);
    let mut only_if = revision;
    if revision.is_none() || begun.iter().any(Begun::is_refused_by_the_cache) {
        refresh_cache(writer, &mut begun).await?;
        if writer.feed.revision() != revision {
            begin_anew(writer, &mut begun, now).await;
        }
        only_if = None;
    }
    let mut written = Written {
        begun: Vec::new(),
        copies: Vec::new(),
        now,
    };
    // Halves of what PostgreSQL can't store, down to the one event to blame.
    let mut parts = vec![begun];
    while let Some(mut part) = parts.pop() {
        match write_part(writer, &mut part, now, only_if).await? {
            Part::Written(copies) => {
                written.copies.extend(copies);
                written.begun.append(&mut part);
            }
            Part::Unstorable(reason) => match part.as_mut_slice() {
                [one] => {
                    one.is = Err(Rejected::Unstorable(reason));
                    written.begun.append(&mut part);
                }
                _ => {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                }
            },
        }
    }
    Some(written)
}

/// Reads and matches events in the order of their turns, as many as may be
/// matched at a time; answers the rest, too.
async fn begin(
    writer: &Writer,
    batch: Vec<Taken>,
    now: OffsetDateTime,
) -> (Vec<Begun>, Vec<Taken>) {
    let mut all = Vec::with_capacity(batch.len());
    let mut batch = batch.into_iter();
    let (mut jobs, begun) = (0, Instant::now());
    let (mut until_here, mut uninterrupted) = (begun, begun);
    let is_traced = trace::is_on();
    for taken in batch.by_ref() {
        let matching = is_traced.then(shared::clock::now);
        let is = find(writer, &taken, EventUid::at(now)).await;
        let effort = until_here.elapsed();
        until_here += effort;
        let spans = matching
            .and_then(|matching| EventSpans::begin(is.as_ref().ok()?, &taken.came, now, matching));
        let one = Begun {
            taken,
            is,
            is_new: false,
            effort,
            spans,
        };
        if let Ok(event) = &one.is {
            if event.event.id.is_none() {
                metrics().without_id.inc();
            }
            metrics().too_costly.inc_by(event.too_costly.len() as u64);
        }
        jobs += one.jobs();
        all.push(one);
        if jobs >= BATCH_JOBS || until_here - begun >= MATCHING {
            break;
        }
        // What is quick is done here; together it may not be.
        if until_here - uninterrupted > UNINTERRUPTED {
            yield_now().await;
            uninterrupted = Instant::now();
        }
    }
    (all, batch.collect())
}

/// Matches the same events again, with a fresher cache.
async fn begin_anew(writer: &Writer, begun: &mut [Begun], now: OffsetDateTime) {
    for one in begun {
        let uid = match &one.is {
            Ok(event) => event.uid,
            Err(_) => EventUid::at(now),
        };
        one.is = find(writer, &one.taken, uid).await;
        yield_now().await;
    }
}

/// The event of a message, and who wants it.
async fn find(writer: &Writer, taken: &Taken, uid: EventUid) -> Result<Matched, Rejected> {
    let event = match &taken.came {
        Came::Amqp(from) => Arc::new(decode::decode(&from.delivery)?),
        Came::Http(http) => http.event().clone(),
    };
    writer.subscriptions.check(&event)?;
    let known = &writer.event_types;
    known
        .check(&event.tenant, &event.event_type, &event.data)
        .await?;
    Ok(matched(writer, event, uid).await)
}

async fn matched(writer: &Writer, event: Arc<Event>, uid: EventUid) -> Matched {
    let found = writer
        .subscriptions
        .matching(&event.tenant, event.event_type.as_str(), &event.data)
        .await;
    let deliveries = found.matched.into_iter();
    let deliveries = deliveries.map(|webhook| (DeliveryId::for_event(uid), webhook));
    Matched {
        uid,
        id: decode::id_for(&event, uid),
        deliveries: deliveries.collect(),
        too_costly: found.too_costly,
        event,
    }
}

/// Refreshes the cache, however long that takes. While PostgreSQL can't be read, events that
/// came over HTTP don't wait for it. `None`: told to stop.
async fn refresh_cache(writer: &Writer, begun: &mut Vec<Begun>) -> Option<()> {
    if let Err(error) = writer.feed.refresh().await {
        let error = format!("{error:#}");
        warn!(
            error,
            "the webhooks and event types in memory could not be refreshed; a batch of events waits, trying again"
        );
        writer.ahead.postgres_is_away(true);
        give_up_http(begun);
        let stop = &writer.stop;
        until_done(
            stop,
            "the webhooks and event types in memory could not be refreshed",
            || writer.feed.refresh(),
        )
        .await?;
        writer.ahead.postgres_is_away(false);
    }
    Some(())
}

/// Gives up the events that came over HTTP: the door publishes them instead.
fn give_up_http(begun: &mut Vec<Begun>) {
    begun.retain(|one| matches!(one.taken.came, Came::Amqp(_)));
}

/// What is known of a part that was tried before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing of it was written.
    Nothing,
    /// All of it may have been written, as it is.
    Perhaps,
    /// All of it may have been written, for other webhooks than it is matched to now.
    PerhapsOtherwise,
}

/// What came of a part.
enum Part {
    /// With late copies of jobs, of events that were known.
    Written(Vec<Job>),
    /// Nothing was written: a value in it is none that PostgreSQL can store.
    Unstorable(String),
}

/// What came of one try to write a part.
enum Tried {
    /// It is written, with late copies of jobs, of events that were known.
    Written(Vec<Job>),
    /// Nothing was written: the cache is older than PostgreSQL.
    Outdated,
    /// Nothing was written: these tokens aren't valid any more.
    Revoked(Vec<TokenHash>),
}

/// Writes what is new, however long that takes. `None`: told to stop.
async fn write_part(
    writer: &Writer,
    part: &mut Vec<Begun>,
    now: OffsetDateTime,
    mut only_if: Option<i64>,
) -> Option<Part> {
    let mut before = Before::Nothing;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        for one in part.iter_mut() {
            one.set_sent(true);
        }
        let tried = tokio::select! {
            tried = try_part(writer, part, now, only_if, before) => tried,
            () = time_is_up(writer) => return None,
        };
        let error = match tried {
            Ok(Tried::Written(copies)) => {
                writer.ahead.postgres_is_away(false);
                return Some(Part::Written(copies));
            }
            // An earlier try may have written them. Then the sweeper sees to their deliveries.
            Ok(Tried::Revoked(tokens)) => {
                refuse_revoked(part, &tokens);
                continue;
            }
            Ok(Tried::Outdated) => {
                for one in part.iter_mut() {
                    one.set_sent(before != Before::Nothing);
                }
                refresh_cache(writer, part).await?;
                only_if = None;
                match before {
                    Before::Nothing => begin_anew(writer, part, now).await,
                    Before::Perhaps | Before::PerhapsOtherwise => {
                        match_anew(writer, part).await;
                        before = Before::PerhapsOtherwise;
                    }
                }
                continue;
            }
            Err(error) => error,
        };
        if let Some(reason) = unstorable(&error) {
            return Some(Part::Unstorable(reason));
        }
        let is_definite = wrote_nothing(&error);
        if !is_definite && before == Before::Nothing {
            before = Before::Perhaps;
        }
        for one in part.iter_mut() {
            one.set_sent(before != Before::Nothing);
        }
        // What was perhaps written is looked up once. Beyond that, what came over HTTP doesn't
        // wait for PostgreSQL.
        if is_definite || backoff.is_under_way() {
            writer.ahead.postgres_is_away(true);
            give_up_http(part);
        }
        let pause = backoff.next();
        let error = format!("{error:#}");
        warn!(
            error,
            ?pause,
            "a batch of events could not be written; trying again"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = writer.stop.cancelled() => return None,
        }
    }
}

/// Refuses events that came with one of these tokens.
fn refuse_revoked(part: &mut [Begun], tokens: &[TokenHash]) {
    for one in part {
        let presumed = one.is.as_ref().ok().and_then(|event| event.event.presumed);
        if presumed.is_some_and(|token| tokens.contains(&token)) {
            one.is = Err(Rejected::Revoked);
        }
    }
}

/// The same events with other deliveries.
async fn match_anew(writer: &Writer, part: &mut [Begun]) {
    for one in part {
        if let Ok(event) = &mut one.is {
            *event = matched(writer, event.event.clone(), event.uid).await;
        }
    }
}

/// An attempt that is under way at `stop` may take a moment still.
async fn time_is_up(writer: &Writer) {
    writer.stop.cancelled().await;
    tokio::time::sleep(LAST_TRY).await;
}

/// Writes what is new, once.
async fn try_part(
    writer: &Writer,
    part: &mut [Begun],
    now: OffsetDateTime,
    only_if: Option<i64>,
    before: Before,
) -> anyhow::Result<Tried> {
    let matched: Vec<&Matched> = part.iter().filter_map(|one| one.is.as_ref().ok()).collect();
    if matched.is_empty() {
        return Ok(Tried::Written(Vec::new()));
    }
    let again = before == Before::Perhaps;
    let accepted = accept::accept(&writer.accepting, now, &matched, only_if, again).await?;
    let new = match accepted {
        Accepted::New(new) => new,
        Accepted::Outdated => return Ok(Tried::Outdated),
        Accepted::Revoked(tokens) => return Ok(Tried::Revoked(tokens)),
    };
    for one in part.iter_mut() {
        let Ok(event) = &one.is else { continue };
        one.is_new = new.contains(&event.uid);
        if one.is_new {
            one.committed(Some(event.deliveries.len()));
            metrics().enqueued.inc_by(event.deliveries.len() as u64);
            if let Some(spans) = &mut one.spans {
                spans.written(true);
            }
            log(event, true, one.spans.as_deref());
        }
    }
    refuse_conflicts(writer, part, now).await?;
    for one in part.iter_mut().filter(|one| !one.is_new) {
        let Ok(event) = &one.is else { continue };
        one.committed(None);
        metrics().deduplicated.inc();
        if let Some(spans) = &mut one.spans {
            spans.written(false);
        }
        log(event, false, one.spans.as_deref());
    }
    let accepted = part.iter().filter(|one| one.is_new);
    let accepted = accepted.filter_map(|one| Some(&one.is.as_ref().ok()?.event));
    let types = accepted.map(|event| (&event.tenant, event.event_type.as_str()));
    writer.type_counts.count(types);
    // A duplicate of the producer's has its jobs; one of the broker's may be
    // what a crash has left.
    let interrupted = part.iter().filter_map(|one| {
        let event = one.is.as_ref().ok().filter(|_| !one.is_new)?;
        let is = before == Before::PerhapsOtherwise || one.may_be_interrupted();
        is.then_some((&event.event.tenant, &event.id))
    });
    // One event may be there many times.
    let interrupted: BTreeSet<_> = interrupted.collect();
    if interrupted.is_empty() {
        return Ok(Tried::Written(Vec::new()));
    }
    // If this fails, the batch is written all the same.
    let untried = until_done(
        &writer.stop,
        "untried jobs of known events could not be looked up",
        || accept::untried_jobs(&writer.pool, now, &interrupted),
    );
    Ok(Tried::Written(untried.await.context("told to stop")?))
}

/// Refuses events that were known by their id, but aren't what was accepted with it.
async fn refuse_conflicts(
    writer: &Writer,
    part: &mut [Begun],
    now: OffsetDateTime,
) -> anyhow::Result<()> {
    let known = part.iter().filter(|one| !one.is_new);
    let known: Vec<&Matched> = known.filter_map(|one| one.is.as_ref().ok()).collect();
    if known.is_empty() {
        return Ok(());
    }
    // If this fails, the batch is written all the same.
    let compared = until_done(
        &writer.stop,
        "events could not be compared with known ones",
        || conflicts(&writer.pool, now, &known),
    );
    let compared = compared.await.context("told to stop")?;
    let (mut refused, efforts) = (compared.conflicts, compared.efforts);
    let known = part.iter_mut().filter(|one| !one.is_new && one.is.is_ok());
    for (one, effort) in known.zip(efforts) {
        // The tenant's turns are charged for it.
        one.effort += effort;
        let uid = one.is.as_ref().ok().map(|event| event.uid);
        if let Some(conflict) = uid.and_then(|uid| refused.remove(&uid)) {
            one.is = Err(conflict);
        }
    }
    Ok(())
}

/// Whether it is certain that a failed try wrote nothing: PostgreSQL rolled it back, or
/// there was no connection to try it on.
fn wrote_nothing(error: &anyhow::Error) -> bool {
    if error.is::<deadpool_postgres::PoolError>() {
        return true;
    }
    let error = error.downcast_ref::<tokio_postgres::Error>();
    let error = error.and_then(tokio_postgres::Error::as_db_error);
    // One that ends the connection as well may come after the commit.
    error.is_some_and(|error| error.parsed_severity() == Some(Severity::Error))
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
