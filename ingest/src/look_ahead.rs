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
//! It is bounded, and consumers are added while there is room ([`sources`]). At rest the
//! main queue has one consumer with a short reach, and an event goes straight to a lane.
//!
//! A tenant with many events waiting, or many jobs made of late, is restrained. It gets turns only
//! while dispatchers keep up ([`gate`]) and RabbitMQ isn't congested ([`pace`]). Jobs queues are
//! first in, first out, too. `aside` keeps the rest of its events out of the queue that
//! everybody shares.

mod batches;
mod event;
mod gate;
mod memory;
mod of_late;
mod others;
mod pace;
mod sources;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, FuturesUnordered, SelectAll, Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions};
use shared::amqp::Session;
use shared::ids::Tenant;
use shared::topology::{INGEST_QUEUE, OVERFLOW_QUEUES};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use batches::{BATCH, Batches};
use event::{Held, Waits};
use memory::memory;
use others::Others;
use sources::{OVERFLOW_REACHES, REACH, Source, Sources, Wish};

use crate::http_event::{HttpEvent, Waiting};

pub use batches::{BATCH_JOBS, Batch};
pub use event::{Came, Finished, FromQueue, Taken};
pub use gate::Reserved;
pub use pace::Confirm;

/// Consumers that weren't needed for this long are cancelled.
const CALM: Duration = Duration::from_secs(1);

/// So many places of events that were published instead are forgotten at a time.
const WITHDRAWN: usize = 256;

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
    batches: Batches,
    sources: Sources,
    others: Others,
    /// When each tenant's last event came out of an overflow queue, and which.
    overflowed: HashMap<Tenant, (&'static str, Instant)>,
    /// Tenants with as much waiting as sets one aside.
    crowding: Vec<Tenant>,
    http: Http,
    /// Places among those that wait whose events were published instead.
    withdrawn: usize,
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
            let queues = [&OVERFLOW_QUEUES[..], &[INGEST_QUEUE]].concat();
            let queue = session.one_with_messages(&queues).await?;
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
                    state.batches.of_late.forget();
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
                        let by_us = self.state().sources.ended(source);
                        anyhow::ensure!(by_us, "RabbitMQ cancelled the consumer of events");
                    }
                }
            }
            if one_at_a_time {
                continue;
            }
            let wish = self.state().sources.wish();
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
            let full = self.state().sources.full_overflow_queue();
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
        let new = Source::new(channel, consumer.tag(), queue, reach, is_added);
        let source = self.state().sources.add(new);
        let ended = stream::once(std::future::ready((source, None)));
        let messages = consumer.map(move |message| (source, Some(message)));
        Ok(Box::pin(messages.chain(ended)))
    }

    /// Cancels consumers that were added. What they hold is worked on as if nothing
    /// had happened.
    async fn cancel_added(&self, which: impl Fn(&Source) -> bool) -> anyhow::Result<()> {
        let cancelled = self.state().sources.cancel_added(which);
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
        let tag = delivery.delivery_tag;
        let overflow = state.sources.came(source, tag, bytes);
        if let (Some(queue), Some(tenant)) = (overflow, &tenant) {
            let came = (queue, Instant::now());
            state.overflowed.insert(tenant.clone(), came);
        }
        let held = Held {
            message: Waits::Amqp(FromQueue { delivery, source }),
            bytes,
        };
        let waiting = state.batches.push(&tenant, held, overflow.is_some());
        if let Some(tenant) = &tenant {
            state.others.came(tenant, Instant::now());
        }
        if state.batches.has_restrained() {
            self.restrained.notify_one();
        }
        if let Some(tenant) = tenant
            && overflow.is_none()
            && (waiting >= crate::turns::PILED_UP || state.is_crowded_by(waiting))
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
        let held = Held {
            message: Waits::Http(waiting),
            bytes,
        };
        state.batches.push(&owner, held, false);
        state.others.came(tenant, Instant::now());
        if state.batches.has_restrained() {
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
            state.batches.forget_withdrawn();
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
        let waiting = {
            let mut state = self.state();
            state.http.is_closed = true;
            state.batches.take_http()
        };
        for event in waiting {
            // An event that is given up without an answer is published.
            drop(HttpEvent::take(event));
        }
    }

    /// Waits for the next batch.
    pub async fn next_batch(&self) -> Batch {
        loop {
            let pause_ends = {
                let mut state = self.state();
                if let Some(batch) = state.next_batch() {
                    // For another lane, if there is more.
                    self.batch.notify_one();
                    return batch;
                }
                state.batches.pause_ends()
            };
            let pause = async {
                match pause_ends {
                    Some(end) => tokio::time::sleep_until(end.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.batch.notified() => {}
                () = pause => {}
            }
        }
    }

    /// A lane has begun a part of its batch: events of these tenants, with so many jobs each. The
    /// others wait for a lane again.
    pub fn begun<'a>(
        &self,
        begun: impl Iterator<Item = (&'a Option<Tenant>, usize)>,
        left: Vec<Taken>,
    ) {
        let is_all = left.is_empty();
        {
            let mut guard = self.state();
            let state = &mut *guard;
            for (tenant, jobs) in begun {
                state.batches.remember(tenant.clone(), jobs);
            }
            state.batches.give_back(left, &mut state.sources);
            // Nothing may have waited since they were taken, so nobody looks.
            if state.batches.has_restrained() {
                self.restrained.notify_one();
            }
        }
        if !is_all {
            self.batch.notify_one();
        }
    }

    /// A lane is through with a batch: these events of it are safe. `made`: the number of its jobs;
    /// `confirm`: of their messages, if there are any.
    ///
    /// # Errors
    /// If a channel fails.
    pub async fn through(
        &self,
        reserved: Reserved,
        made: usize,
        confirm: Option<Confirm>,
        finished: Vec<Finished>,
    ) -> anyhow::Result<()> {
        // The broker closes a channel on which an ack comes after one that covers it.
        // So what is due is found and sent in one go.
        let _in_order = self.acking.lock().await;
        let acks = {
            let mut guard = self.state();
            let state = &mut *guard;
            state.batches.is_through(reserved, made, confirm);
            for event in finished {
                if let Some((source, tag)) = event.ack {
                    state.sources.done(source, tag, event.bytes);
                }
                state.batches.charge(&event.tenant, event.cost);
            }
            state.sources.due()
        };
        self.batch.notify_one();
        for ack in acks {
            let options = BasicAckOptions {
                multiple: ack.multiple,
            };
            ack.channel.basic_ack(ack.tag, options).await?;
        }
        Ok(())
    }

    /// Returns when a tenant is restrained.
    pub async fn restrains(&self) {
        while !self.state().batches.has_restrained() {
            self.restrained.notified().await;
        }
    }

    /// So many jobs wait for dispatchers; `None`: there are no dispatchers, so
    /// that nobody's wait is made longer.
    pub fn jobs_waiting(&self, jobs: Option<i64>) {
        self.state().batches.gate.looked(jobs);
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

impl State {
    fn next_batch(&mut self) -> Option<Batch> {
        self.batches.next(&mut self.sources)
    }

    /// Whether the tenant of the latest event, of which so much waits, should be set aside before
    /// its events have piled up. Not if nobody gains by it, nor if it would stand behind another
    /// tenant's backlog.
    fn is_crowded_by(&self, waiting: u64) -> bool {
        let gains = || self.batches.has_several() || self.others.are_there(Instant::now());
        self.sources.is_crowded_by(waiting) && gains() && self.sources.has_idle_overflow_queue()
    }

    fn end_session(&mut self) {
        self.http.has_lanes = false;
        self.batches.end_session();
        self.sources = Sources::default();
        self.crowding.clear();
    }
}
