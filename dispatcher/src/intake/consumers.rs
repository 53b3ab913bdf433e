//! The consumers of one jobs queue: as many messages as this replica has room for.
//!
//! A consumer's prefetch is a number of messages. A message has one job or up to sixteen. A large
//! prefetch would take jobs that another replica could deliver at once; a small one would
//! leave capacity unused when messages have one job each and endpoints are slow. So the first
//! consumer may hold what there is room for if every message is a full bundle. While it is full
//! and there is room for more jobs, consumers are added. They are cancelled when messages bring
//! more jobs than there is room for, or when they weren't needed for a second. What a cancelled
//! consumer holds is delivered as if nothing had happened.
//!
//! A message is held until its last job is done. So one slow job in each message could hold them
//! all while this replica has room for jobs. Then a few messages at a time are added, for as long
//! as there is room for an average one. They may be more than the queue's share of the replica:
//! slow jobs of one shard leave room that the other shards don't need.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered, SelectAll, Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicCancelOptions;
use lapin::types::ShortString;
use lapin::{Channel, Consumer};
use shared::amqp::Session;
use shared::job::bundle::MOST_JOBS;
use shared::receipts::{Held, Receipt};
use tokio::time::{Instant, sleep_until};

use super::capacity::Capacity;

/// How often the consumers are looked at while one is full or was added.
const LOOK: Duration = Duration::from_millis(10);
/// Consumers that weren't needed for this long are cancelled.
const CALM: Duration = Duration::from_secs(1);
/// A consumer that could hold fewer messages isn't worth its channel, unless the others are
/// [`STUCK`].
const LEAST: usize = 4;
/// If all consumers are full and no message has come for this long, slow jobs hold the messages.
const STUCK: Duration = Duration::from_millis(50);

type Messages = Pin<Box<dyn Stream<Item = (u64, Option<lapin::Result<Delivery>>)> + Send>>;
type Opening<'a> = BoxFuture<'a, lapin::Result<(Channel, Consumer, usize)>>;

/// How many messages the consumers of one queue may hold together.
#[derive(Debug, Clone, Copy)]
pub struct MostMessages {
    /// The queue's share of the replica.
    pub share: usize,
    /// If slow jobs hold all messages of the share.
    pub stuck: usize,
}

/// The consumers of one queue in one session.
pub(super) struct Consumers<'a> {
    session: &'a Session,
    queue: &'a str,
    most: MostMessages,
    /// The messages that the first consumer may hold.
    base: usize,
    all: Vec<One>,
    opened: u64,
    incoming: SelectAll<Messages>,
    /// A consumer that is being added, while messages are taken.
    opening: FuturesUnordered<Opening<'a>>,
    /// When they are looked at next. `None`: when the first of them is full.
    look: Option<Instant>,
    needed: Instant,
    /// When the last message came.
    last_came: Instant,
}

struct One {
    id: u64,
    channel: Channel,
    tag: ShortString,
    prefetch: usize,
    held: Arc<Held>,
    is_cancelled: bool,
    /// No more messages come of it.
    has_ended: bool,
}

/// What happened.
pub(super) enum Next {
    Message(Box<Delivery>, Receipt),
    /// Something that concerns the consumers alone.
    Other,
}

/// What the consumers need.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Another consumer that may hold so many messages.
    Grow(usize),
    /// The consumers that were added are cancelled.
    Shrink,
    Keep,
}

/// What a look at the consumers shows.
#[derive(Debug, Clone, Copy)]
struct Seen {
    most: MostMessages,
    base: usize,
    /// What all that aren't cancelled may hold.
    prefetch: usize,
    /// What all hold, the cancelled ones too.
    held: usize,
    held_by_cancelled: usize,
    /// Each that isn't cancelled holds what it may.
    are_full: bool,
    /// The first one does.
    is_first_full: bool,
    /// How many more messages there is room for, if they have as many jobs as others.
    room: usize,
    /// There is room for one more message, whatever it has.
    has_room: bool,
    /// For how long no message has come.
    idle: Duration,
    /// More jobs are held than there is room for.
    is_exceeded: bool,
    /// For how long the consumers that were added weren't needed.
    calm: Duration,
}

impl Seen {
    fn wish(self) -> Wish {
        let has_added = self.prefetch > self.base;
        if has_added && (self.is_exceeded || self.calm >= CALM) {
            return Wish::Shrink;
        }
        if !self.are_full || self.is_exceeded {
            return Wish::Keep;
        }
        let taken = self.prefetch + self.held_by_cancelled;
        let allowed = self.most.share.saturating_sub(taken);
        // The next messages may have more jobs than the last ones. So a step doubles what is held
        // at most, and the average is known before the next step.
        let step = self.room.min(self.prefetch.max(LEAST));
        let more = step.min(allowed);
        if more >= LEAST.min(allowed) && more > 0 {
            return Wish::Grow(more);
        }
        let allowed = self.most.stuck.saturating_sub(taken);
        match self.idle >= STUCK && self.has_room && allowed > 0 {
            true => Wish::Grow(step.min(allowed).max(1)),
            false => Wish::Keep,
        }
    }

    /// Whether the consumers that were added are needed.
    fn needs_added(self) -> bool {
        self.held > self.base || self.is_first_full
    }
}

impl<'a> Consumers<'a> {
    /// Opens the first consumer. In a careful session it takes one message at a time, and
    /// none is added.
    pub(super) async fn open(
        session: &'a Session,
        queue: &'a str,
        most: MostMessages,
    ) -> lapin::Result<Self> {
        let most = match session.is_careful() {
            true => MostMessages { share: 1, stuck: 1 },
            false => most,
        };
        let base = (most.share / MOST_JOBS).max(1);
        let mut consumers = Self {
            session,
            queue,
            most,
            base,
            all: Vec::new(),
            opened: 0,
            incoming: SelectAll::new(),
            opening: FuturesUnordered::new(),
            look: None,
            needed: Instant::now(),
            last_came: Instant::now(),
        };
        let (channel, consumer, prefetch) = open(session, queue, base).await?;
        consumers.add(channel, consumer, prefetch);
        Ok(consumers)
    }

    /// Waits for the next message, or for something else to happen.
    ///
    /// # Errors
    /// If a consumer fails or RabbitMQ cancels it.
    pub(super) async fn next(&mut self, capacity: &Capacity) -> anyhow::Result<Next> {
        let look = self.look;
        let time_to_look = async {
            match look {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((id, message)) = self.incoming.next() => self.came(id, message),
            Some(opened) = self.opening.next() => {
                let (channel, consumer, prefetch) = opened?;
                self.add(channel, consumer, prefetch);
                Ok(Next::Other)
            }
            () = time_to_look => {
                self.look_at(capacity).await?;
                Ok(Next::Other)
            }
        }
    }

    fn came(&mut self, id: u64, message: Option<lapin::Result<Delivery>>) -> anyhow::Result<Next> {
        let queue = self.queue;
        let Some(one) = self.all.iter_mut().find(|one| one.id == id) else {
            return Ok(Next::Other);
        };
        let Some(message) = message else {
            anyhow::ensure!(
                one.is_cancelled,
                "RabbitMQ cancelled the consumer of {queue}"
            );
            one.has_ended = true;
            return Ok(Next::Other);
        };
        let message = message?;
        let receipt = one.held.take(message.delivery_tag);
        self.last_came = Instant::now();
        if self.look.is_none() && one.held.count() >= one.prefetch {
            self.look = Some(Instant::now() + LOOK);
        }
        Ok(Next::Message(Box::new(message), receipt))
    }

    fn add(&mut self, channel: Channel, consumer: Consumer, prefetch: usize) {
        let id = self.opened;
        self.opened += 1;
        self.all.push(One {
            id,
            tag: consumer.tag(),
            prefetch,
            held: Held::new(channel.clone(), prefetch),
            channel,
            is_cancelled: false,
            has_ended: false,
        });
        let ended = stream::once(std::future::ready((id, None)));
        let messages = consumer.map(move |message| (id, Some(message)));
        self.incoming.push(Box::pin(messages.chain(ended)));
    }

    async fn look_at(&mut self, capacity: &Capacity) -> lapin::Result<()> {
        self.all
            .retain(|one| !one.has_ended || one.held.count() > 0);
        let held = |one: &One| one.held.count();
        let is_full = |one: &One| held(one) >= one.prefetch;
        let active = || self.all.iter().filter(|one| !one.is_cancelled);
        let cancelled = self.all.iter().filter(|one| one.is_cancelled);
        let seen = Seen {
            most: self.most,
            base: self.base,
            prefetch: active().map(|one| one.prefetch).sum(),
            held: self.all.iter().map(held).sum(),
            held_by_cancelled: cancelled.map(held).sum(),
            are_full: active().all(is_full),
            is_first_full: active().take(1).all(is_full),
            room: capacity.room_for_messages(),
            has_room: capacity.has_room(),
            idle: self.last_came.elapsed(),
            is_exceeded: capacity.is_exceeded(),
            calm: self.needed.elapsed(),
        };
        if seen.needs_added() {
            self.needed = Instant::now();
        }
        match seen.wish() {
            Wish::Grow(prefetch) if self.opening.is_empty() => {
                let (session, queue) = (self.session, self.queue);
                self.opening.push(Box::pin(open(session, queue, prefetch)));
                self.needed = Instant::now();
            }
            Wish::Grow(_) | Wish::Keep => {}
            Wish::Shrink => self.cancel_where(|one| one.id > 0).await?,
        }
        let is_at_rest = !seen.are_full && seen.prefetch <= seen.base && self.opening.is_empty();
        self.look = (!is_at_rest).then(|| Instant::now() + LOOK);
        Ok(())
    }

    /// Cancels all consumers.
    ///
    /// # Errors
    /// If the connection fails.
    pub(super) async fn cancel(&mut self) -> anyhow::Result<()> {
        Ok(self.cancel_where(|_| true).await?)
    }

    async fn cancel_where(&mut self, which: impl Fn(&One) -> bool) -> lapin::Result<()> {
        let active = self.all.iter_mut().filter(|one| !one.is_cancelled);
        for one in active.filter(|one| which(one)) {
            one.is_cancelled = true;
            one.held.hurry();
            let options = BasicCancelOptions::default();
            one.channel.basic_cancel(one.tag.clone(), options).await?;
        }
        Ok(())
    }
}

async fn open(
    session: &Session,
    queue: &str,
    prefetch: usize,
) -> lapin::Result<(Channel, Consumer, usize)> {
    let prefetch = u16::try_from(prefetch).unwrap_or(u16::MAX);
    let (channel, consumer) = session.consumer(queue, prefetch).await?;
    Ok((channel, consumer, usize::from(prefetch)))
}

#[cfg(test)]
mod tests;
