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
//! as there is room for an average one.

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

/// The consumers of one queue in one session.
pub(super) struct Consumers<'a> {
    session: &'a Session,
    queue: &'a str,
    /// The most messages of all consumers together.
    most: usize,
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
    most: usize,
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
        let allowed = self
            .most
            .saturating_sub(self.prefetch + self.held_by_cancelled);
        // The next messages may have more jobs than the last ones. So a step doubles what is held
        // at most, and the average is known before the next step.
        let more = self.room.min(allowed).min(self.prefetch.max(LEAST));
        if more >= LEAST.min(allowed) && more > 0 {
            return Wish::Grow(more);
        }
        match self.idle >= STUCK && self.has_room && allowed > 0 {
            true => Wish::Grow(more.max(1)),
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
        most: usize,
    ) -> lapin::Result<Self> {
        let most = if session.is_careful() { 1 } else { most.max(1) };
        let base = (most / MOST_JOBS).max(1);
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
            held: Held::new(channel.clone()),
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
mod tests {
    use super::*;

    /// A replica for 512 jobs whose first consumer is full.
    const FULL: Seen = Seen {
        most: 512,
        base: 32,
        prefetch: 32,
        held: 32,
        held_by_cancelled: 0,
        are_full: true,
        is_first_full: true,
        room: 0,
        has_room: false,
        idle: Duration::ZERO,
        is_exceeded: false,
        calm: Duration::ZERO,
    };

    #[test]
    fn messages_with_one_job_each_are_taken_up_to_the_replicas_concurrency() {
        let mut prefetch = 32;
        // Each step doubles what is held, so that the average follows.
        for more in [32, 64, 128, 256] {
            let seen = Seen {
                prefetch,
                held: prefetch,
                room: 512 - prefetch,
                ..FULL
            };
            assert_eq!(seen.wish(), Wish::Grow(more));
            prefetch += more;
        }
        let seen = Seen {
            prefetch,
            held: prefetch,
            room: 100,
            ..FULL
        };
        assert_eq!(seen.wish(), Wish::Keep);
        // What cancelled consumers hold counts.
        let seen = Seen {
            held_by_cancelled: 470,
            room: 480,
            ..FULL
        };
        assert_eq!(seen.wish(), Wish::Grow(10));
    }

    #[test]
    fn a_replica_for_few_jobs_takes_as_many_messages() {
        for most in 2..=4 {
            let seen = Seen {
                most,
                base: 1,
                prefetch: 1,
                held: 1,
                room: most - 1,
                ..FULL
            };
            assert_eq!(seen.wish(), Wish::Grow(most - 1));
        }
    }

    #[test]
    fn slow_jobs_in_every_message_leave_no_room_unused() {
        // 60 of 64 jobs may be taken, and an average message has 16.
        let seen = Seen {
            room: 3,
            has_room: true,
            ..FULL
        };
        assert_eq!(seen.wish(), Wish::Keep);
        let seen = Seen {
            idle: STUCK,
            ..seen
        };
        assert_eq!(seen.wish(), Wish::Grow(3));
        // A replica for few jobs has room for a part of an average message.
        assert_eq!(Seen { room: 0, ..seen }.wish(), Wish::Grow(1));
        let has_room = false;
        let full = Seen {
            room: 0,
            has_room,
            ..seen
        };
        assert_eq!(full.wish(), Wish::Keep);
    }

    #[test]
    fn full_bundles_are_taken_as_jobs_are_done() {
        assert_eq!(FULL.wish(), Wish::Keep);
        // Half of the bundles' jobs are done, and their other halves are slow.
        let seen = Seen { room: 16, ..FULL };
        assert_eq!(seen.wish(), Wish::Grow(16));
    }

    #[test]
    fn what_was_added_goes_when_it_brought_too_much_or_isnt_needed() {
        let grown = Seen {
            prefetch: 512,
            held: 512,
            ..FULL
        };
        let is_exceeded = true;
        let calm = CALM;
        let exceeded = Seen {
            is_exceeded,
            ..grown
        };
        assert_eq!(exceeded.wish(), Wish::Shrink);
        assert_eq!(Seen { calm, ..grown }.wish(), Wish::Shrink);
        assert!(grown.needs_added());
        // While slow jobs hold the first one, another one takes what comes.
        let slow = Seen { held: 32, ..grown };
        assert!(slow.needs_added());
        let is_first_full = false;
        assert!(
            !Seen {
                is_first_full,
                ..slow
            }
            .needs_added()
        );
        // The first consumer stays.
        let first = Seen {
            is_exceeded,
            ..FULL
        };
        assert_eq!(first.wish(), Wish::Keep);
    }
}
