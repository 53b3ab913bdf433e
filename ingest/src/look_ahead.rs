//! Takes events from the queues ahead of the lanes, and hands them out in
//! batches in which tenants take turns.
//!
//! Events come in from several consumers, are sorted by tenant ([`turns`](crate::turns)) and
//! go out to the lanes of `intake`, which say when they are done; then they are
//! acked ([`acks`](crate::acks)). Those belong to one session: after a loss the broker
//! delivers again what wasn't acked. Events that came over HTTP ([`door`](crate::door)) take
//! their turns among them, and stay when a session ends.
//!
//! Looking further ahead finds other tenants' events behind one tenant's many.
//! It is bounded by [`EVENTS`] and [`BYTES`]. RabbitMQ bounds a consumer by
//! messages and never by bytes, so consumers are added while there is room and
//! cancelled when there isn't, or no need. At rest there is one, with a short
//! reach, and an event goes straight to a lane.
//!
//! A tenant with many events waiting, or many jobs made of late, is restrained: it
//! gets turns only while dispatchers keep up, because jobs queues are first in,
//! first out, too ([`Gate`]). `aside` keeps the rest of its events out of the queue that
//! everybody shares.

mod memory;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, FuturesUnordered, SelectAll, Stream, StreamExt};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions};
use lapin::types::ShortString;
use shared::amqp::Session;
use shared::ids::Tenant;
use shared::topology::{INGEST_QUEUE, OVERFLOW_QUEUES};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use memory::memory;

use crate::acks::Tags;
use crate::http_event::{HttpEvent, Waiting};
use crate::turns::{Class, Turns};

/// The most events of the main queue that are held unacked.
pub const EVENTS: usize = 16_384;
/// The most bytes of them, headers included. What is on its way when it is reached comes on top.
const BYTES: usize = 32 << 20;
/// What the first consumer of the main queue may hold. It is there at rest, when nobody knows
/// yet how large the messages are.
const REACH: u16 = 64;
/// A consumer that is added may hold this many times what there is. So growing takes few
/// steps: until it is over, others' events wait in the queue behind one tenant's many.
const GROWTH: usize = 7;
/// What it may hold at least: less isn't worth a consumer.
const LEAST_GROWTH: usize = 64;
/// What it may hold at most: the messages could be far larger than those before.
const MOST_GROWTH: u16 = 2048;
/// The most consumers of the main queue.
const CONSUMERS: usize = 10;
/// What the consumer of each overflow queue may hold, and another that is added where
/// the first is full and the messages aren't large: so four queues of large messages
/// come to 64 of them.
const OVERFLOW_REACHES: [u16; 2] = [16, 112];
/// Consumers that weren't needed for this long are cancelled.
const CALM: Duration = Duration::from_secs(1);

/// The most events in one batch: one transaction.
pub const BATCH: usize = 256;
/// The most bytes in a batch, unless its first event is larger.
const BATCH_BYTES: usize = 8 << 20;
/// So many batches of free tenants are worked on before restrained tenants get one.
const FREE_IN_A_ROW: u8 = 3;
/// For so long after a free tenant's event, a lane is kept for free tenants.
const KEPT: Duration = Duration::from_secs(1);
/// The most jobs of one batch; the event that exceeds it is the last.
pub const BATCH_JOBS: usize = 128;
/// The most jobs that restrained tenants' events in one batch are expected to make. A
/// lane that works on a batch can't take another tenant's event meanwhile.
const RESTRAINED_JOBS: f64 = 128.0;
/// Restrained tenants get turns while fewer jobs than this wait for dispatchers, or
/// are expected of batches that are worked on.
///
/// This many, and what one batch makes beyond it, is what another tenant's job waits
/// behind, for each ingest. It has to last dispatchers until the next look at the queues
/// (every 10 ms) and until a batch is through (some 10 ms), or a single busy tenant would
/// be slowed; dispatchers themselves hold jobs to go on with. Two batches fit in, one for
/// each lane. The bound is the same for every ingest: one that is behind isn't held back
/// by what another makes.
const SHORT: i64 = 256;

/// A tenant with more jobs than this made of late by this process is restrained,
/// even if none of its events waits: what dispatchers don't keep up with waits in
/// front of others' jobs.
const BUSY: f64 = 256.0;
/// Jobs a second that "of late" forgets; it never remembers more than twice [`BUSY`].
const FORGOTTEN: f64 = 256.0;

/// So many places of events that were published instead are forgotten at a time.
const WITHDRAWN: usize = 256;

/// An event costs one unit for itself, and one for each of these.
const BYTES_PER_COST: usize = 4096;

/// Events taken from the queues, and not acked yet.
pub struct LookAhead {
    state: Mutex<State>,
    /// A batch can be had, perhaps.
    batch: Notify,
    /// A tenant is restrained.
    restrained: Notify,
    /// A tenant should be set aside.
    crowding: Notify,
    /// Held while acks are found and sent.
    acking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// `None`: events of no tenant that is known.
    turns: Turns<Option<Tenant>, Held>,
    sources: Vec<Source>,
    gate: Gate,
    /// Jobs made of late, of tenants that had any made.
    of_late: HashMap<Tenant, OfLate>,
    /// When each tenant's last event came out of an overflow queue, and which.
    overflowed: HashMap<Tenant, (&'static str, Instant)>,
    /// Events of the main queue that are unacked.
    events: usize,
    /// The bytes of all that are unacked.
    bytes: usize,
    /// Tenants with as much waiting as sets one aside.
    crowding: Vec<Tenant>,
    http: Http,
    /// Places in `turns` whose events were published instead.
    withdrawn: usize,
    /// When a free tenant's event was last put into a batch.
    free_at: Option<Instant>,
    /// Batches of free tenants since the last one of restrained tenants.
    free_in_a_row: u8,
}

/// Whether events are taken over HTTP.
#[derive(Default)]
struct Http {
    /// A session's lanes take batches.
    has_lanes: bool,
    /// The last that a lane knows is that PostgreSQL fails.
    is_postgres_away: bool,
    is_closed: bool,
}

impl Http {
    fn is_open(&self) -> bool {
        self.has_lanes && !self.is_postgres_away && !self.is_closed
    }
}

struct Source {
    channel: Channel,
    consumer: ShortString,
    queue: &'static str,
    reach: usize,
    is_overflow: bool,
    /// To the first of its queue, for as long as there is room.
    is_added: bool,
    is_cancelled: bool,
    /// No more messages come of it.
    has_ended: bool,
    tags: Tags,
}

/// Whether restrained tenants may have jobs made.
#[derive(Default)]
struct Gate {
    /// How many more may be made until dispatchers' queues have been looked at again.
    room: i64,
    /// Of batches that are worked on: not in the queues yet.
    under_way: i64,
    /// Batches of restrained tenants that are worked on.
    batches: usize,
}

impl Gate {
    /// So many jobs wait now; `None`: there are no dispatchers, so that nobody's wait is
    /// made longer.
    fn looked(&mut self, jobs: Option<i64>) {
        self.room = jobs.map_or(i64::MAX / 2, |jobs| SHORT - jobs - self.under_way);
    }

    /// A lane begins with a batch.
    fn reserve(&mut self, reserved: Reserved) {
        self.room -= reserved.jobs;
        self.under_way += reserved.jobs;
        self.batches += usize::from(reserved.class == Class::Restrained);
    }

    /// A lane is through with it.
    fn is_through(&mut self, reserved: Reserved) {
        self.under_way -= reserved.jobs;
        if reserved.class == Class::Restrained {
            self.batches = self.batches.saturating_sub(1);
        }
    }
}

/// A leaky bucket, and what went into it for an event.
struct OfLate {
    jobs: f64,
    at: Instant,
    /// Jobs that an event makes: the latest weigh most.
    per_event: f64,
}

impl OfLate {
    fn now(&self) -> f64 {
        (self.jobs - self.at.elapsed().as_secs_f64() * FORGOTTEN).max(0.0)
    }
}

struct Held {
    message: Waits,
    /// See [`memory()`].
    bytes: usize,
}

/// An event that waits for its turn, by the door that it came through.
#[allow(clippy::large_enum_variant)] // Boxing would cost each message an allocation.
enum Waits {
    Amqp(FromQueue),
    Http(Arc<Waiting>),
}

/// A message, and which consumer it came from.
#[derive(Debug)]
pub struct FromQueue {
    /// As it came.
    pub delivery: Delivery,
    source: usize,
}

/// An event in a lane, by the door that it came through.
#[allow(clippy::large_enum_variant)] // As above.
pub enum Came {
    /// It is acked when it is safe.
    Amqp(FromQueue),
    /// It is answered when it is safe.
    Http(HttpEvent),
}

/// An event on its way through a lane.
pub struct Taken {
    /// Whose, if there is such a tenant.
    pub tenant: Option<Tenant>,
    /// How it came.
    pub came: Came,
    bytes: usize,
    cost: u64,
    class: Class,
}

/// What a lane works on at a time.
pub struct Batch {
    /// In the order of their turns; never empty.
    pub events: Vec<Taken>,
    reserved: Reserved,
}

/// What the gate counts on until a lane is through with a batch.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    jobs: i64,
    class: Class,
}

/// An event that a lane is through with, as far as acking and charging goes.
#[derive(Debug)]
pub struct Finished {
    tenant: Option<Tenant>,
    /// The consumer and the tag, if it is to be acked.
    ack: Option<(usize, u64)>,
    bytes: usize,
    jobs: usize,
    cost: u64,
}

impl Taken {
    /// To be told when it is safe; `jobs` and `effort` are what it came to.
    #[must_use]
    pub fn finished(&self, jobs: usize, effort: Duration) -> Finished {
        Finished {
            tenant: self.tenant.clone(),
            ack: match &self.came {
                Came::Amqp(from) => Some((from.source, from.delivery.delivery_tag)),
                Came::Http(_) => None,
            },
            bytes: self.bytes,
            jobs,
            // A tenth of a millisecond is about what one job costs.
            cost: jobs as u64 + effort.as_micros() as u64 / 100,
        }
    }
}

type Incoming = Pin<Box<dyn Stream<Item = (usize, Option<lapin::Result<Delivery>>)> + Send>>;

impl Default for LookAhead {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            batch: Notify::new(),
            restrained: Notify::new(),
            crowding: Notify::new(),
            acking: tokio::sync::Mutex::default(),
        }
    }
}

impl LookAhead {
    /// Takes events in until told to stop. `is_tenant` says which tenants there
    /// are; `one_at_a_time` takes one message at a time, from one queue.
    ///
    /// # Errors
    /// If a consumer or a channel fails.
    pub async fn take_in(
        &self,
        session: &Session,
        is_tenant: impl Fn(&Tenant) -> bool,
        one_at_a_time: bool,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut incoming = SelectAll::new();
        if one_at_a_time {
            let queues = OVERFLOW_QUEUES.into_iter().chain([INGEST_QUEUE]);
            let queue = session.one_with_messages(queues).await?;
            let queue = queue.unwrap_or(INGEST_QUEUE);
            incoming.push(self.consume(session, queue, 1, false).await?);
        } else {
            let first = self.consume(session, INGEST_QUEUE, REACH, false);
            incoming.push(first.await?);
            for queue in OVERFLOW_QUEUES {
                let first = self.consume(session, queue, OVERFLOW_REACHES[0], false);
                incoming.push(first.await?);
            }
        }
        let mut incoming = incoming.ready_chunks(BATCH);
        // A consumer of the main queue that is being added, while events are taken in.
        let mut growing = FuturesUnordered::new();
        let mut needed = Instant::now();
        let mut look = tokio::time::interval(CALM);
        loop {
            let messages = tokio::select! {
                messages = incoming.next() => messages,
                Some(added) = growing.next() => {
                    incoming.get_mut().push(added?);
                    Some(Vec::new())
                }
                _ = look.tick() => {
                    let mut state = self.state();
                    state.of_late.retain(|_, of_late| of_late.now() > 0.0);
                    let remembered = crate::turns::STUCK;
                    state.overflowed.retain(|_, (_, at)| at.elapsed() < remembered);
                    drop(state);
                    Some(Vec::new())
                }
                () = stop.cancelled() => return Ok(()),
            };
            let Some(messages) = messages else {
                anyhow::bail!("RabbitMQ cancelled the consumers of events");
            };
            for (source, message) in messages {
                match message {
                    Some(message) => self.push(source, message?, &is_tenant),
                    None => {
                        let ended = &mut self.state().sources[source];
                        let by_us = ended.is_cancelled;
                        anyhow::ensure!(by_us, "RabbitMQ cancelled the consumer of events");
                        ended.has_ended = true;
                    }
                }
            }
            if one_at_a_time {
                continue;
            }
            let wish = self.state().wish();
            match wish {
                Wish::Grow(reach) => {
                    needed = Instant::now();
                    if growing.is_empty() {
                        growing.push(self.consume(session, INGEST_QUEUE, reach, true));
                    }
                }
                Wish::Keep => needed = Instant::now(),
                Wish::Rest if needed.elapsed() < CALM => {}
                Wish::Rest => self.cancel_added(|source| !source.is_overflow).await?,
                Wish::Shrink => self.cancel_added(|_| true).await?,
            }
            let full = self.state().full_overflow_queue();
            if let Some(queue) = full {
                let reach = OVERFLOW_REACHES[1];
                let added = self.consume(session, queue, reach, true).await?;
                incoming.get_mut().push(added);
            }
        }
    }

    async fn consume(
        &self,
        session: &Session,
        queue: &'static str,
        reach: u16,
        is_added: bool,
    ) -> anyhow::Result<Incoming> {
        let (channel, consumer) = session.consumer(queue, reach).await?;
        let new = Source {
            channel,
            consumer: consumer.tag(),
            queue,
            reach: usize::from(reach),
            is_overflow: queue != INGEST_QUEUE,
            is_added,
            is_cancelled: false,
            has_ended: false,
            tags: Tags::default(),
        };
        let sources = &mut self.state().sources;
        let is_over = |source: &Source| source.has_ended && source.tags.is_empty();
        let source = match sources.iter().position(is_over) {
            Some(over) => {
                sources[over] = new;
                over
            }
            None => {
                sources.push(new);
                sources.len() - 1
            }
        };
        let ended = stream::once(std::future::ready((source, None)));
        let messages = consumer.map(move |message| (source, Some(message)));
        Ok(Box::pin(messages.chain(ended)))
    }

    /// Cancels consumers that were added. What they hold is worked on as if nothing
    /// had happened.
    async fn cancel_added(&self, which: impl Fn(&Source) -> bool) -> anyhow::Result<()> {
        let mut cancelled = Vec::new();
        for source in &mut self.state().sources {
            if source.is_added && !source.is_cancelled && which(source) {
                source.is_cancelled = true;
                cancelled.push((source.channel.clone(), source.consumer.clone()));
            }
        }
        for (channel, consumer) in cancelled {
            channel
                .basic_cancel(consumer, BasicCancelOptions::default())
                .await?;
        }
        Ok(())
    }

    fn push(&self, source: usize, delivery: Delivery, is_tenant: &impl Fn(&Tenant) -> bool) {
        let tenant = delivery.routing_key.as_str().split('.').next();
        let tenant = tenant
            .and_then(|tenant| tenant.parse::<Tenant>().ok())
            .filter(is_tenant);
        let mut state = self.state();
        let bytes = memory(&delivery);
        state.bytes += bytes;
        let from = &mut state.sources[source];
        from.tags.came(delivery.delivery_tag);
        let (is_overflow, queue) = (from.is_overflow, from.queue);
        state.events += usize::from(!is_overflow);
        if let Some(tenant) = tenant.as_ref().filter(|_| is_overflow) {
            let came = (queue, Instant::now());
            state.overflowed.insert(tenant.clone(), came);
        }
        let class = match is_overflow || state.is_busy(&tenant) {
            true => Class::Restrained,
            false => Class::Free,
        };
        let held = Held {
            message: Waits::Amqp(FromQueue { delivery, source }),
            bytes,
        };
        let waiting = state.turns.push(&tenant, held, cost(bytes), class);
        if state.turns.has(Class::Restrained) {
            self.restrained.notify_one();
        }
        if let Some(tenant) = tenant
            && !is_overflow
            && waiting >= crate::turns::CROWDING
            && !state.crowding.contains(&tenant)
        {
            state.crowding.push(tenant);
            self.crowding.notify_one();
        }
        self.batch.notify_one();
    }

    /// An event that came over HTTP waits for its turn. False if nobody takes any, and it
    /// doesn't wait.
    pub fn push_http(&self, tenant: &Tenant, waiting: Arc<Waiting>, bytes: usize) -> bool {
        let owner = Some(tenant.clone());
        let mut state = self.state();
        if !state.http.is_open() {
            return false;
        }
        let class = match state.is_busy(&owner) {
            true => Class::Restrained,
            false => Class::Free,
        };
        let held = Held {
            message: Waits::Http(waiting),
            bytes,
        };
        state.turns.push(&owner, held, cost(bytes), class);
        if state.turns.has(Class::Restrained) {
            self.restrained.notify_one();
        }
        self.batch.notify_one();
        true
    }

    /// An event that waited was published instead. Its place is forgotten with others': a
    /// restrained tenant's turn may be long in coming.
    pub fn withdrawn(&self) {
        let mut state = self.state();
        state.withdrawn += 1;
        if state.withdrawn >= WITHDRAWN {
            state.withdrawn = 0;
            state.turns.retain(|held| match &held.message {
                Waits::Http(event) => !event.is_empty(),
                Waits::Amqp(_) => true,
            });
        }
    }

    /// A session's lanes begin. What is returned ends them when it is dropped: then what
    /// came over AMQP is the broker's again.
    pub fn open(&self) -> Open<'_> {
        self.state().http.has_lanes = true;
        Open(self)
    }

    /// Whether PostgreSQL takes events, as far as is known. While it doesn't, none is
    /// taken over HTTP that would only wait.
    pub fn postgres_is_away(&self, is_away: bool) {
        self.state().http.is_postgres_away = is_away;
    }

    /// Takes no more over HTTP. What waits is published instead.
    pub fn close(&self) {
        let mut waiting = Vec::new();
        {
            let mut state = self.state();
            state.http.is_closed = true;
            state.turns.retain(|held| match &held.message {
                Waits::Http(event) => {
                    waiting.push(event.clone());
                    false
                }
                Waits::Amqp(_) => true,
            });
        }
        for event in waiting {
            // An event that is given up without an answer is published.
            drop(HttpEvent::take(event));
        }
    }

    /// Waits for the next batch.
    pub async fn next_batch(&self) -> Batch {
        loop {
            if let Some(batch) = self.state().next_batch() {
                // For another lane, if there is more.
                self.batch.notify_one();
                return batch;
            }
            self.batch.notified().await;
        }
    }

    /// A lane is through with a batch: `finished` are safe, `left` weren't begun.
    ///
    /// # Errors
    /// If a channel fails.
    pub async fn through(
        &self,
        reserved: Reserved,
        finished: Vec<Finished>,
        left: Vec<Taken>,
    ) -> anyhow::Result<()> {
        // The broker closes a channel on which an ack comes after one that covers it.
        // So what is due is found and sent in one go.
        let _in_order = self.acking.lock().await;
        let mut acks = Vec::new();
        {
            let mut state = self.state();
            state.gate.is_through(reserved);
            for event in finished {
                state.turns.charge(&event.tenant, event.cost);
                if let Some((source, tag)) = event.ack {
                    state.bytes -= event.bytes;
                    state.sources[source].tags.done(tag);
                }
                state.remember(event.tenant, event.jobs);
            }
            state.give_back(left);
            // Nothing may have waited since they were taken, so nobody looks.
            if state.turns.has(Class::Restrained) {
                self.restrained.notify_one();
            }
            for source in &mut state.sources {
                let due = source.tags.due();
                let all = due.up_to.map(|tag| (tag, true));
                let each = due.singly.into_iter().map(|tag| (tag, false));
                for (tag, multiple) in each.chain(all) {
                    acks.push((source.channel.clone(), tag, multiple));
                }
            }
            let unacked = |source: &Source| match source.is_overflow {
                true => 0,
                false => source.tags.len(),
            };
            state.events = state.sources.iter().map(unacked).sum();
        }
        self.batch.notify_one();
        for (channel, tag, multiple) in acks {
            channel.basic_ack(tag, BasicAckOptions { multiple }).await?;
        }
        Ok(())
    }

    /// Returns when a tenant is restrained.
    pub async fn restrains(&self) {
        while !self.state().turns.has(Class::Restrained) {
            self.restrained.notified().await;
        }
    }

    /// So many jobs wait for dispatchers; `None`: there are no dispatchers, so
    /// that nobody's wait is made longer.
    pub fn jobs_waiting(&self, jobs: Option<i64>) {
        self.state().gate.looked(jobs);
        self.batch.notify_one();
    }

    /// Whose events came out of this overflow queue of late, and how long ago the last
    /// of each.
    pub fn overflowed(&self, from: &str) -> HashMap<Tenant, Duration> {
        let state = self.state();
        let of_queue = state
            .overflowed
            .iter()
            .filter(|(_, (queue, _))| *queue == from);
        of_queue
            .map(|(tenant, (_, at))| (tenant.clone(), at.elapsed()))
            .collect()
    }

    /// Waits for tenants that should be set aside.
    pub async fn crowding(&self) -> Vec<Tenant> {
        loop {
            let tenants = std::mem::take(&mut self.state().crowding);
            if !tenants.is_empty() {
                return tenants;
            }
            self.crowding.notified().await;
        }
    }

    // Nothing awaits while it holds the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`LookAhead::open`].
pub struct Open<'a>(&'a LookAhead);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state().end_session();
    }
}

/// What is to become of the consumers of the main queue.
enum Wish {
    Grow(u16),
    Keep,
    Rest,
    Shrink,
}

impl State {
    fn is_busy(&self, tenant: &Option<Tenant>) -> bool {
        let of_late = tenant.as_ref().and_then(|tenant| self.of_late.get(tenant));
        of_late.is_some_and(|of_late| of_late.now() > BUSY)
    }

    fn end_session(&mut self) {
        self.http.has_lanes = false;
        self.turns
            .retain(|held| matches!(held.message, Waits::Http(_)));
        self.sources.clear();
        self.gate = Gate::default();
        (self.events, self.bytes) = (0, 0);
        self.crowding.clear();
    }

    fn wish(&self) -> Wish {
        if self.bytes > BYTES {
            return Wish::Shrink;
        }
        let (_, reach) = self.consumers();
        if self.events * 4 < reach * 3 {
            return match self.events > reach / 8 {
                true => Wish::Keep,
                false => Wish::Rest,
            };
        }
        match self.growth() {
            0 => Wish::Keep,
            more => Wish::Grow(more),
        }
    }

    /// How many consumers the main queue has, and how many events they may hold.
    fn consumers(&self) -> (usize, usize) {
        let live = |source: &&Source| !source.is_overflow && !source.is_cancelled;
        let live = self.sources.iter().filter(live);
        live.fold((0, 0), |(count, reach), source| {
            (count + 1, reach + source.reach)
        })
    }

    /// How many more events of the main queue could be held, by one more consumer, if they
    /// are as large as those that are held.
    fn growth(&self) -> u16 {
        let (count, reach) = self.consumers();
        let room = BYTES.saturating_sub(self.bytes) / self.average().max(1);
        let more = (reach * GROWTH).min(EVENTS.saturating_sub(reach)).min(room);
        match more < LEAST_GROWTH || count >= CONSUMERS {
            true => 0,
            false => u16::try_from(more).unwrap_or(u16::MAX).min(MOST_GROWTH),
        }
    }

    /// The bytes of a message that is held, on average over all queues.
    fn average(&self) -> usize {
        let unacked: usize = self.sources.iter().map(|source| source.tags.len()).sum();
        self.bytes / unacked.max(1)
    }

    /// An overflow queue of which more could be held.
    fn full_overflow_queue(&self) -> Option<&'static str> {
        let as_large_as_these = self.average() * usize::from(OVERFLOW_REACHES[1]);
        if self.bytes + as_large_as_these > BYTES {
            return None;
        }
        let is_full = |source: &&Source| {
            source.is_overflow && !source.is_added && source.tags.len() * 4 >= source.reach * 3
        };
        let is_added = |queue: &&str| {
            let mut sources = self.sources.iter();
            sources.any(|source| source.queue == *queue && source.is_added && !source.is_cancelled)
        };
        let full = self.sources.iter().filter(is_full);
        full.map(|source| source.queue)
            .find(|queue| !is_added(queue))
    }

    fn remember(&mut self, tenant: Option<Tenant>, jobs: usize) {
        let Some(tenant) = tenant else {
            return;
        };
        // Whoever made none of late and makes none now isn't remembered.
        if jobs > 0 || self.of_late.contains_key(&tenant) {
            let at = Instant::now();
            let of_late = self.of_late.entry(tenant);
            let of_late = of_late.or_insert(OfLate {
                jobs: 0.0,
                at,
                per_event: jobs as f64,
            });
            let per_event = of_late.per_event + (jobs as f64 - of_late.per_event) / 16.0;
            let jobs = (of_late.now() + jobs as f64).min(2.0 * BUSY);
            *of_late = OfLate {
                jobs,
                at,
                per_event,
            };
        }
    }

    /// How many jobs an event of a tenant makes, by its latest ones. Of one that made
    /// none of late nobody knows, so it counts as if it had one webhook; a look at the
    /// queues soon says what it really was.
    fn expected(&self, tenant: &Option<Tenant>) -> f64 {
        let of_late = tenant.as_ref().and_then(|tenant| self.of_late.get(tenant));
        of_late.map_or(1.0, |of_late| of_late.per_event)
    }

    /// Restrained tenants' events are in nearly all places: they get turns
    /// whatever dispatchers do, or nobody else's would be found.
    fn is_full(&self) -> bool {
        let (_, reach) = self.consumers();
        let holds_most = self.events > 0 && self.events * 4 >= reach * 3;
        self.bytes * 4 >= BYTES * 3 || holds_most && self.growth() == 0
    }

    /// A batch has events of free tenants or of restrained ones, never of both: whatever is
    /// in a batch waits for all of it.
    fn next_batch(&mut self) -> Option<Batch> {
        loop {
            let batch = self.batch_of(self.next_class()?);
            // Events over HTTP may have been withdrawn.
            if !batch.events.is_empty() {
                self.gate.reserve(batch.reserved);
                return Some(batch);
            }
        }
    }

    fn batch_of(&mut self, class: Class) -> Batch {
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut jobs = 0.0;
        match class {
            Class::Free => {
                self.fill(&mut events, &mut bytes, class, BATCH);
                self.free_at = Some(Instant::now());
                self.free_in_a_row = self.free_in_a_row.saturating_add(1);
            }
            // The lane ends the batch at `BATCH_JOBS`, if events make more than is expected.
            Class::Restrained => {
                while jobs < RESTRAINED_JOBS {
                    let before = events.len();
                    self.fill(&mut events, &mut bytes, class, BATCH.min(before + 1));
                    let Some(taken) = events.get(before) else {
                        break;
                    };
                    jobs += self.expected(&taken.tenant);
                }
                self.free_in_a_row = 0;
            }
        }
        let jobs = jobs.ceil().min(BATCH_JOBS as f64) as i64;
        let reserved = Reserved { jobs, class };
        Batch { events, reserved }
    }

    /// Whose turn it is. While free tenants have events, a lane is kept for them, and
    /// restrained tenants get every fourth batch at least.
    fn next_class(&self) -> Option<Class> {
        let is_free = self.turns.has(Class::Free);
        let is_kept = self.free_at.is_some_and(|at| at.elapsed() < KEPT);
        let may_pass = self.gate.room > 0 || self.is_full();
        let is_restrained = self.turns.has(Class::Restrained)
            && may_pass
            && (self.gate.batches == 0 || !is_free && !is_kept);
        match (is_free, is_restrained) {
            (true, true) if self.free_in_a_row >= FREE_IN_A_ROW => Some(Class::Restrained),
            (true, _) => Some(Class::Free),
            (false, true) => Some(Class::Restrained),
            (false, false) => None,
        }
    }

    fn fill(&mut self, batch: &mut Vec<Taken>, bytes: &mut usize, class: Class, most: usize) {
        while batch.len() < most && *bytes < BATCH_BYTES {
            let Some((tenant, held, cost)) = self.turns.take(class) else {
                return;
            };
            let came = match held.message {
                Waits::Amqp(from) => {
                    let tag = from.delivery.delivery_tag;
                    self.sources[from.source].tags.taken(tag);
                    Came::Amqp(from)
                }
                Waits::Http(waiting) => match HttpEvent::take(waiting) {
                    Some(event) => Came::Http(event),
                    None => continue,
                },
            };
            *bytes += held.bytes;
            batch.push(Taken {
                tenant,
                came,
                bytes: held.bytes,
                cost,
                class,
            });
        }
    }

    fn give_back(&mut self, left: Vec<Taken>) {
        for taken in left.into_iter().rev() {
            let message = match taken.came {
                Came::Amqp(from) => {
                    let tags = &mut self.sources[from.source].tags;
                    tags.given_back(from.delivery.delivery_tag);
                    Waits::Amqp(from)
                }
                Came::Http(event) => Waits::Http(event.give_back()),
            };
            let held = Held {
                message,
                bytes: taken.bytes,
            };
            self.turns
                .give_back(&taken.tenant, held, taken.cost, taken.class);
        }
    }
}

impl Batch {
    /// Its events, and what to tell [`LookAhead::through`].
    #[must_use]
    pub fn open(self) -> (Vec<Taken>, Reserved) {
        (self.events, self.reserved)
    }
}

fn cost(bytes: usize) -> u64 {
    1 + (bytes / BYTES_PER_COST) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail.
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::decode::Event;
    use crate::http_event::{Answer, Owner};
    use crate::turns::PILED_UP;

    #[test]
    fn a_batch_reserves_the_jobs_that_its_events_are_expected_to_make() {
        let mut state = State::default();
        let tenant: Option<Tenant> = "acme".parse().ok();
        assert!((state.expected(&tenant) - 1.0).abs() < 1e-9);
        state.remember(tenant.clone(), 100);
        assert!((state.expected(&tenant) - 100.0).abs() < 1e-9);
        for _ in 0..100 {
            state.remember(tenant.clone(), 2);
        }
        assert!(state.expected(&tenant) < 3.0);
        // One that is known for nothing takes no memory.
        state.remember("other".parse().ok(), 0);
        assert_eq!(state.of_late.len(), 1);
    }

    /// Takes nothing back.
    struct Nobody;

    impl Owner for Nobody {
        fn left(&self, _: &Tenant, _: usize) {}

        fn given_up(self: Arc<Self>, _: Arc<Event>, _: bool, _: oneshot::Sender<Answer>) {}
    }

    fn push(state: &mut State, tenant: &str, events: u64) {
        let tenant: Tenant = tenant.parse().unwrap();
        for _ in 0..events {
            let event = Event {
                tenant: tenant.clone(),
                event_type: "order.created".parse().unwrap(),
                id: None,
                occurred_at: None,
                data: "{}".to_owned(),
                attributes: None,
                over_http: true,
                trace: None,
            };
            let (waiting, _, _) = Waiting::new(Arc::new(event), Arc::new(Nobody), 0);
            let held = Held {
                message: Waits::Http(waiting),
                bytes: 0,
            };
            let owner = Some(tenant.clone());
            state.turns.push(&owner, held, 1, Class::Free);
        }
    }

    /// Of whom a batch's events are, each tenant once.
    fn whose(batch: Option<Batch>) -> Vec<String> {
        let events = batch.into_iter().flat_map(|batch| batch.events);
        let mut tenants: Vec<_> = events
            .map(|event| event.tenant.unwrap().to_string())
            .collect();
        tenants.dedup();
        tenants
    }

    #[test]
    fn while_other_tenants_have_events_a_lane_is_kept_for_them() {
        let mut state = State::default();
        state.gate.room = i64::MAX / 2;
        push(&mut state, "loud", 4 * PILED_UP);
        push(&mut state, "quiet", 1);
        assert_eq!(whose(state.next_batch()), ["quiet"]);
        assert_eq!(whose(state.next_batch()), ["loud"]);
        assert!(state.next_batch().is_none(), "the other lane is kept");
        push(&mut state, "quiet", 1);
        assert_eq!(whose(state.next_batch()), ["quiet"]);
        state.free_at = None;
        assert_eq!(whose(state.next_batch()), ["loud"]);
    }

    #[test]
    fn a_tenant_with_many_events_gets_every_fourth_batch_beside_others() {
        let mut state = State::default();
        state.gate.room = i64::MAX / 2;
        push(&mut state, "loud", 4 * PILED_UP);
        let turns: Vec<_> = (0..8)
            .flat_map(|_| {
                push(&mut state, "quiet", 1);
                let turn = whose(state.next_batch());
                // The lane is through with it at once.
                state.gate.batches = 0;
                turn
            })
            .collect();
        let [q, l] = ["quiet", "loud"];
        assert_eq!(turns, [q, q, q, l, q, q, q, l]);
    }
}
