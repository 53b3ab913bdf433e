//! Acks of one consumer's messages, many with one frame.
//!
//! RabbitMQ acks every message up to a tag with one frame (`multiple`), and a quorum
//! queue writes that as one entry of its log. So this remembers which messages are
//! held: up to the oldest of them, all that came before may be acked at once.
//!
//! A message can have several jobs ([`crate::job::bundle`]). Then each job has a [`Receipt`],
//! and the message is acked when all of them are.
//!
//! An ack is an entry in the quorum queue's log, however few messages it acks. Nobody waits for
//! the acks of jobs from which nothing follows. So these wait for others, for [`WAIT`] at most
//! ([`Receipt::ack_soon`]). If the process dies meanwhile, RabbitMQ delivers their jobs again, and
//! they are found settled. They are few compared to what the consumer may hold, or it would get
//! fewer messages.
//!
//! Frames are written in the order in which they are decided on, under one lock: an
//! ack of several must not overtake the nack of one of them.

use std::collections::BTreeSet;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};

/// Delivery tags, which a channel counts up.
type Tag = u64;

/// How long an ack waits for others.
const WAIT: Duration = Duration::from_millis(50);
/// Acks wait while they are fewer than this share of the messages that the consumer may hold.
const SHARE: usize = 4;

/// The messages of one channel that are neither acked nor given back.
pub struct Held {
    channel: Channel,
    tags: Mutex<Tags>,
}

struct Tags {
    held: BTreeSet<Tag>,
    /// Those among them that are done with, and whose acks wait for others.
    done: Vec<Tag>,
    /// So many don't wait any more.
    enough: usize,
    /// Somebody sends the acks that wait when their time is over.
    has_timer: bool,
}

/// When acks are sent.
#[derive(Debug, PartialEq, Eq)]
enum When {
    Now,
    /// When the timer is over that runs already.
    Later,
    /// There is no timer yet.
    AfterWait,
}

/// The right to ack one message, or one job of it. Dropped without that, the message comes
/// again when the channel closes.
pub struct Receipt {
    held: Arc<Held>,
    tag: Tag,
    /// `None`: the message has one job.
    shared: Option<Arc<Shared>>,
    /// What ends when this is acked, given back or dropped.
    kept: Option<Box<dyn Send + Sync>>,
}

/// What the receipts of one message's jobs share.
struct Shared {
    /// Jobs that are neither done nor given back.
    open: AtomicUsize,
    /// One of the jobs was given back.
    is_given_back: AtomicBool,
}

impl Shared {
    /// One more job is through. What is to be done with the message, if it was the last.
    fn end_one(&self, is_given_back: bool) -> Option<End> {
        if is_given_back {
            self.is_given_back.store(true, Ordering::Release);
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        match self.is_given_back.load(Ordering::Acquire) {
            true => Some(End::GiveBack),
            false => Some(End::Ack),
        }
    }
}

/// What is done with a message in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ack,
    GiveBack,
}

/// How messages that are done with are acked.
#[derive(Debug, PartialEq, Eq)]
struct Acks {
    /// All up to this one are.
    up_to: Option<Tag>,
    /// Others are held that came before these.
    singly: Vec<Tag>,
}

impl Held {
    /// Of a channel with one consumer, which may hold so many messages.
    #[must_use]
    pub fn new(channel: Channel, prefetch: usize) -> Arc<Self> {
        Arc::new(Self {
            channel,
            tags: Mutex::new(Tags::new(prefetch)),
        })
    }

    /// Takes a message. In the order in which the consumer hands them out.
    #[must_use]
    pub fn take(self: &Arc<Self>, tag: Tag) -> Receipt {
        self.with_tags(|tags| tags.held.insert(tag));
        Receipt {
            held: self.clone(),
            tag,
            shared: None,
            kept: None,
        }
    }

    /// How many messages are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.with_tags(|tags| tags.held.len())
    }

    /// No more messages come, and the session may end soon: no ack waits any more.
    pub fn hurry(&self) {
        self.with_tags(|tags| {
            tags.enough = 0;
            self.send(tags);
        });
    }

    fn with_tags<T>(&self, change: impl FnOnce(&mut Tags) -> T) -> T {
        change(&mut self.tags.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ack(&self, done: Vec<Tag>) {
        self.with_tags(|tags| {
            tags.done.extend(done);
            self.send(tags);
        });
    }

    fn ack_soon(self: &Arc<Self>, done: Vec<Tag>) {
        self.with_tags(|tags| match tags.ends(done) {
            When::Now => self.send(tags),
            When::Later => {}
            When::AfterWait => {
                let held = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(WAIT).await;
                    held.with_tags(|tags| {
                        tags.has_timer = false;
                        held.send(tags);
                    });
                });
            }
        });
    }

    /// Sends the acks that wait.
    fn send(&self, tags: &mut Tags) {
        let done = mem::take(&mut tags.done);
        let Acks { up_to, singly } = remove(&mut tags.held, &done);
        let several = up_to.map(|tag| (tag, true));
        for (tag, multiple) in several
            .into_iter()
            .chain(singly.into_iter().map(|t| (t, false)))
        {
            // The frame is queued when this is polled first. Nobody waits until it
            // is written: on a channel that is gone the message comes again.
            let options = BasicAckOptions { multiple };
            let _ = self.channel.basic_ack(tag, options).now_or_never();
        }
    }

    fn give_back(&self, tag: Tag) {
        self.with_tags(|tags| {
            tags.held.remove(&tag);
            let options = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            let _ = self.channel.basic_nack(tag, options).now_or_never();
        });
    }
}

impl Tags {
    fn new(prefetch: usize) -> Self {
        Self {
            held: BTreeSet::new(),
            done: Vec::new(),
            enough: prefetch / SHARE,
            has_timer: false,
        }
    }

    /// These are done with. When they are acked, with those that wait.
    fn ends(&mut self, done: Vec<Tag>) -> When {
        self.done.extend(done);
        if self.done.len() >= self.enough {
            return When::Now;
        }
        match self.done.is_empty() || mem::replace(&mut self.has_timer, true) {
            true => When::Later,
            false => When::AfterWait,
        }
    }
}

/// Removes what is done from what is held.
fn remove(held: &mut BTreeSet<Tag>, done: &[Tag]) -> Acks {
    let mut done: Vec<_> = done
        .iter()
        .copied()
        .filter(|tag| held.remove(tag))
        .collect();
    let oldest = held.first().copied().unwrap_or(Tag::MAX);
    let singly = done.extract_if(.., |tag| *tag > oldest).collect();
    Acks {
        up_to: done.into_iter().max(),
        singly,
    }
}

impl Receipt {
    /// Whether the channel it came by is known to be gone: then the message is
    /// somebody else's, or about to be.
    #[must_use]
    pub fn is_void(&self) -> bool {
        !self.held.channel.status().connected()
    }

    /// Whether the message has other jobs, so that it may be acked long after this one.
    #[must_use]
    pub fn is_of_a_bundle(&self) -> bool {
        self.shared.is_some()
    }

    /// Keeps this for as long as the job is held.
    pub fn keep(&mut self, kept: impl Send + Sync + 'static) {
        self.kept = Some(Box::new(kept));
    }

    /// One receipt for each of so many jobs of the message; at least one.
    #[must_use]
    pub fn split(self, jobs: usize) -> Vec<Self> {
        if jobs <= 1 {
            return vec![self];
        }
        let shared = Arc::new(Shared {
            open: AtomicUsize::new(jobs),
            is_given_back: AtomicBool::new(false),
        });
        let part = || Self {
            held: self.held.clone(),
            tag: self.tag,
            shared: Some(shared.clone()),
            kept: None,
        };
        std::iter::repeat_with(part).take(jobs).collect()
    }

    /// What is done with the message, if this was its last open job.
    fn end(&self, end: End) -> Option<End> {
        match &self.shared {
            None => Some(end),
            Some(shared) => shared.end_one(end == End::GiveBack),
        }
    }

    /// The message, or this job of it, is done with.
    pub fn ack(self) {
        Self::end_all(vec![self], |held, done| held.ack(done));
    }

    /// So are all of these. Nothing follows from them, so their acks may wait for others.
    /// In a runtime.
    pub fn ack_soon(receipts: Vec<Self>) {
        Self::end_all(receipts, Held::ack_soon);
    }

    fn end_all(receipts: Vec<Self>, ack: impl Fn(&Arc<Held>, Vec<Tag>)) {
        let mut rest = receipts;
        while let Some(Self { held, .. }) = rest.first() {
            let held = held.clone();
            let of_it = rest.extract_if(.., |receipt| Arc::ptr_eq(&receipt.held, &held));
            let mut done = Vec::new();
            for receipt in of_it {
                match receipt.end(End::Ack) {
                    Some(End::Ack) => done.push(receipt.tag),
                    Some(End::GiveBack) => held.give_back(receipt.tag),
                    None => {}
                }
            }
            ack(&held, done);
        }
    }

    /// The message goes back to its queue, for another replica: when all of its jobs are
    /// through.
    pub fn give_back(self) {
        if self.end(End::GiveBack).is_some() {
            self.held.give_back(self.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(up_to: Option<Tag>, singly: &[Tag]) -> Acks {
        let singly = singly.to_vec();
        Acks { up_to, singly }
    }

    #[test]
    fn what_came_before_all_that_is_held_is_acked_at_once() {
        let mut held = BTreeSet::from_iter(1..=9);
        assert_eq!(remove(&mut held, &[2, 4]), acks(None, &[2, 4]));
        // 3 is held; 1 came before it, and 2 is acked already.
        assert_eq!(remove(&mut held, &[6, 1]), acks(Some(1), &[6]));
        assert_eq!(remove(&mut held, &[5, 3]), acks(Some(5), &[]));
        assert_eq!(remove(&mut held, &[9, 7, 8]), acks(Some(9), &[]));
        assert!(held.is_empty());
    }

    #[test]
    fn a_message_of_several_jobs_ends_with_the_last_of_them() {
        let shared = |jobs| Shared {
            open: AtomicUsize::new(jobs),
            is_given_back: AtomicBool::new(false),
        };
        let acked = shared(3);
        assert_eq!(
            [(); 3].map(|()| acked.end_one(false)),
            [None, None, Some(End::Ack)]
        );
        let given_back = shared(3);
        let ends = [false, true, false].map(|back| given_back.end_one(back));
        assert_eq!(ends, [None, None, Some(End::GiveBack)]);
    }

    #[test]
    fn acks_wait_for_others_until_they_are_a_quarter_of_what_the_consumer_may_hold() {
        let mut tags = Tags::new(16);
        let whens = (1..=4).map(|tag| tags.ends(vec![tag]));
        let whens: Vec<_> = whens.collect();
        assert_eq!(
            whens,
            [When::AfterWait, When::Later, When::Later, When::Now]
        );
        // One that takes a message at a time gets the next one after the ack.
        let mut tags = Tags::new(1);
        assert_eq!(tags.ends(vec![1]), When::Now);
        // A bundle of which jobs are left.
        let mut tags = Tags::new(16);
        assert_eq!(tags.ends(vec![]), When::Later);
        assert_eq!(tags.ends(vec![1]), When::AfterWait);
    }

    #[test]
    fn nothing_is_acked_twice() {
        let mut held = BTreeSet::from_iter(1..=2);
        assert_eq!(remove(&mut held, &[1, 2]), acks(Some(2), &[]));
        assert_eq!(remove(&mut held, &[1, 2]), acks(None, &[]));
        assert_eq!(remove(&mut held, &[]), acks(None, &[]));
    }
}
