//! The consumers that look-ahead takes messages from, and how far they may reach together.
//!
//! RabbitMQ bounds a consumer by messages and never by bytes. So consumers of the main queue
//! are added while there is room for messages as large as those that are held, and cancelled
//! when there isn't, or no need. No I/O here: [`LookAhead`](super::LookAhead) does what is wished.

use lapin::Channel;
use lapin::types::ShortString;
use shared::topology::{INGEST_QUEUE, OVERFLOW_QUEUES};

use super::event::{BYTES_PER_COST, FromQueue};
use crate::acks::Tags;

/// The most events of the main queue that are held unacked.
const EVENTS: usize = 16_384;
/// The most bytes of them, headers included. What is on its way when it is reached comes on top.
const BYTES: usize = 32 << 20;
/// What the first consumer of the main queue may hold. It is there at rest, when nobody knows
/// yet how large the messages are.
pub(super) const REACH: u16 = 64;
/// A consumer that is added may hold this many times what there is. So growing takes few
/// steps: until it is over, others' events wait in the queue behind one tenant's many.
const GROWTH: usize = 7;
/// What it may hold at least: less isn't worth a consumer.
const LEAST_GROWTH: usize = 64;
/// What it may hold at most: the messages could be far larger than those before.
const MOST_GROWTH: u16 = 2048;
/// A tenant crowds the main queue if its waiting events cost this much and are most of what is held,
/// while more waits in the queue: half of what the first consumer may hold. Until the tenant is set
/// aside, each of its next events comes in front of others'.
const CROWDED: u64 = REACH as u64 / 2;
/// The most consumers of the main queue.
const CONSUMERS: usize = 10;
/// What the consumer of each overflow queue may hold, and another that is added where
/// the first is full and the messages aren't large: so four queues of large messages
/// come to 64 of them.
pub(super) const OVERFLOW_REACHES: [u16; 2] = [16, 112];

/// The consumers, and what is held of their messages.
#[derive(Default)]
pub(super) struct Sources {
    all: Vec<Source>,
    /// Events of the main queue that are unacked.
    events: usize,
    /// The bytes of all that are unacked.
    bytes: usize,
}

/// A consumer.
pub(super) struct Source {
    channel: Channel,
    consumer: ShortString,
    queue: &'static str,
    reach: usize,
    pub(super) is_overflow: bool,
    /// To the first of its queue, for as long as there is room.
    is_added: bool,
    is_cancelled: bool,
    /// No more messages come of it.
    has_ended: bool,
    tags: Tags,
}

/// What is to become of the consumers of the main queue.
pub(super) enum Wish {
    /// One is added with this reach.
    Grow(u16),
    /// All of them are needed.
    Keep,
    /// Those that were added aren't needed.
    Rest,
    /// Too much is held: those that were added are cancelled, of overflow queues too.
    Shrink,
}

/// An ack that is due.
pub(super) struct Ack {
    pub(super) channel: Channel,
    pub(super) tag: u64,
    /// Everything up to this tag.
    pub(super) multiple: bool,
}

impl Source {
    pub(super) fn new(
        channel: Channel,
        consumer: ShortString,
        queue: &'static str,
        reach: u16,
        is_added: bool,
    ) -> Self {
        Self {
            channel,
            consumer,
            queue,
            reach: usize::from(reach),
            is_overflow: queue != INGEST_QUEUE,
            is_added,
            is_cancelled: false,
            has_ended: false,
            tags: Tags::default(),
        }
    }
}

impl Sources {
    /// Answers which one it is. One that is over leaves its place.
    pub(super) fn add(&mut self, new: Source) -> usize {
        let is_over = |source: &Source| source.has_ended && source.tags.is_empty();
        match self.all.iter().position(is_over) {
            Some(over) => {
                self.all[over] = new;
                over
            }
            None => {
                self.all.push(new);
                self.all.len() - 1
            }
        }
    }

    /// Its messages have ended. Answers whether it was cancelled here.
    pub(super) fn ended(&mut self, source: usize) -> bool {
        let ended = &mut self.all[source];
        ended.has_ended = true;
        ended.is_cancelled
    }

    /// Consumers that were added, and are to be cancelled now.
    pub(super) fn cancel_added(
        &mut self,
        which: impl Fn(&Source) -> bool,
    ) -> Vec<(Channel, ShortString)> {
        let mut cancelled = Vec::new();
        for source in &mut self.all {
            if source.is_added && !source.is_cancelled && which(source) {
                source.is_cancelled = true;
                cancelled.push((source.channel.clone(), source.consumer.clone()));
            }
        }
        cancelled
    }

    /// A message came. Answers the overflow queue that it came out of, if it did.
    pub(super) fn came(&mut self, source: usize, tag: u64, bytes: usize) -> Option<&'static str> {
        self.bytes += bytes;
        let from = &mut self.all[source];
        from.tags.came(tag);
        self.events += usize::from(!from.is_overflow);
        from.is_overflow.then_some(from.queue)
    }

    /// A lane works on a message.
    pub(super) fn taken(&mut self, from: &FromQueue) {
        let tags = &mut self.all[from.source].tags;
        tags.taken(from.delivery.delivery_tag);
    }

    /// A message waits again.
    pub(super) fn given_back(&mut self, from: &FromQueue) {
        let tags = &mut self.all[from.source].tags;
        tags.given_back(from.delivery.delivery_tag);
    }

    /// What follows from a message is safe.
    pub(super) fn done(&mut self, source: usize, tag: u64, bytes: usize) {
        self.bytes -= bytes;
        self.all[source].tags.done(tag);
    }

    /// What can be acked; the caller does so.
    pub(super) fn due(&mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        for source in &mut self.all {
            let due = source.tags.due();
            let all = due.up_to.map(|tag| (tag, true));
            let each = due.singly.into_iter().map(|tag| (tag, false));
            for (tag, multiple) in each.chain(all) {
                acks.push(Ack {
                    channel: source.channel.clone(),
                    tag,
                    multiple,
                });
            }
        }
        let unacked = |source: &Source| match source.is_overflow {
            true => 0,
            false => source.tags.len(),
        };
        self.events = self.all.iter().map(unacked).sum();
        acks
    }

    /// What the main queue's consumers need now.
    pub(super) fn wish(&self) -> Wish {
        if self.bytes > BYTES {
            return Wish::Shrink;
        }
        let (_, reach) = self.consumers();
        if !self.is_behind() {
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

    /// Whether the main queue's consumers hold nearly all that they may: more waits in the queue,
    /// presumably.
    pub(super) fn is_behind(&self) -> bool {
        let (_, reach) = self.consumers();
        self.events * 4 >= reach * 3
    }

    /// Whether a tenant whose waiting events cost this much has most of what is held of the main
    /// queue, while more waits there.
    pub(super) fn is_crowded_by(&self, waiting: u64) -> bool {
        // In the unit of `waiting`.
        let held = (self.events + self.bytes / BYTES_PER_COST) as u64;
        self.is_behind() && waiting >= (held / 2).max(CROWDED)
    }

    /// Whether nothing is held of some overflow queue. Then nothing waits in it, as far as this
    /// process knows.
    pub(super) fn has_idle_overflow_queue(&self) -> bool {
        let busy = self.all.iter().filter(|source| !source.tags.is_empty());
        is_one_idle(busy.map(|source| source.queue))
    }

    /// How many consumers the main queue has, and how many events they may hold.
    fn consumers(&self) -> (usize, usize) {
        let live = |source: &&Source| !source.is_overflow && !source.is_cancelled;
        let live = self.all.iter().filter(live);
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
        let unacked: usize = self.all.iter().map(|source| source.tags.len()).sum();
        self.bytes / unacked.max(1)
    }

    /// An overflow queue of which more could be held.
    pub(super) fn full_overflow_queue(&self) -> Option<&'static str> {
        let as_large_as_these = self.average() * usize::from(OVERFLOW_REACHES[1]);
        if self.bytes + as_large_as_these > BYTES {
            return None;
        }
        let is_full = |source: &&Source| {
            source.is_overflow && !source.is_added && source.tags.len() * 4 >= source.reach * 3
        };
        let is_added = |queue: &&str| {
            let mut sources = self.all.iter();
            sources.any(|source| source.queue == *queue && source.is_added && !source.is_cancelled)
        };
        let full = self.all.iter().filter(is_full);
        full.map(|source| source.queue)
            .find(|queue| !is_added(queue))
    }

    /// Restrained tenants' events are in nearly all places: they get turns
    /// whatever dispatchers do, or nobody else's would be found.
    pub(super) fn is_full(&self) -> bool {
        let (_, reach) = self.consumers();
        let holds_most = self.events > 0 && self.events * 4 >= reach * 3;
        self.bytes * 4 >= BYTES * 3 || holds_most && self.growth() == 0
    }
}

/// Whether some overflow queue isn't one of these.
fn is_one_idle(busy: impl Iterator<Item = &'static str>) -> bool {
    let busy: Vec<_> = busy.collect();
    OVERFLOW_QUEUES.iter().any(|queue| !busy.contains(queue))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_queues_are_all_busy_only_if_something_is_held_of_each() {
        let [first, .., last] = OVERFLOW_QUEUES;
        assert!(is_one_idle([].into_iter()));
        assert!(is_one_idle([INGEST_QUEUE, first, first, first].into_iter()));
        let all_but =
            |idle: &'static str| OVERFLOW_QUEUES.into_iter().filter(move |it| *it != idle);
        assert!(is_one_idle(all_but(last)));
        assert!(is_one_idle(all_but(first)));
        assert!(!is_one_idle(all_but(last).chain([INGEST_QUEUE, last])));
    }
}
