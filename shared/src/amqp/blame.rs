//! Finds the message to blame when sessions end again and again.
//!
//! The guard keeps messages that are known to be harmful from the AMQP client. This
//! file is for reasons that nobody knows yet: the client or the broker ends the
//! connection at some message. That message goes back to its queue, and is delivered
//! again on the next connection.
//!
//! 1. A session is *fruitless* if messages were delivered on it and it ended by
//!    something that a message can cause. A broken network or a broker that stops
//!    doesn't count. Acks don't excuse a session that ended within five seconds: the
//!    message to blame comes first on each session, but other messages are acked
//!    beside it. An error inside the broker counts even if nothing was delivered:
//!    RabbitMQ 4 fails like this at messages that it can't translate to AMQP 0-9-1.
//! 2. After two fruitless sessions in a row the next ones are *careful*: one
//!    consumer, one message at a time. If a careful session ends, the message that was
//!    delivered last and not acked is the suspect.
//! 3. A message that was the suspect of two careful sessions is set aside on the
//!    third. The guard marks it like an unreadable message, so the consumer parks it
//!    without looking into it.
//! 4. A careful session may end by an error inside the broker although nothing was delivered.
//!    Then the broker can't deliver its next message, and nobody sees that message. Only the
//!    queue's delivery limit removes it, and each session counts. So the next sessions follow without
//!    long pauses. The broker may fail for another reason, so that nothing is removed: after
//!    [`HURRIED`] such sessions comes one long pause. The parking queue may have no delivery limit:
//!    after two such sessions its keeper takes one message without an ack ([`Watch::takes_unseen`]).
//! 5. A careful session that lasts five seconds is followed by a normal one. If it
//!    acked nothing, perhaps because it consumed another queue, one fruitless session
//!    is enough for the next ones to be careful again.
//!
//! A message is recognised by its routing key, its properties without the header table
//! (the broker counts deliveries there) and the size of its body. All of this is in
//! memory. A message that ends whole processes is left to RabbitMQ's delivery limit.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::ErrorKind;

use super::unconfirmed::Unconfirmed;
use crate::topology;

/// After this many fruitless sessions in a row, messages are taken one at a time.
const FRUITLESS: u32 = 2;
/// After this many careful sessions ended at the same message, it is set aside.
const DEATHS: u32 = 2;
/// After this many careful sessions in a row without a delivery there is a long pause. The delivery
/// limit has removed a message by then, so the next ones may end at another message.
const HURRIED: u32 = 2 * topology::DELIVERY_LIMIT as u32;
/// A careful session that lasts this long is followed by a normal one. One that ends
/// earlier may have ended because of a message, even if it acked others.
pub(super) const CALM: Duration = Duration::from_secs(5);
/// AMQP's reply code when an operator stops the broker.
const CONNECTION_FORCED: u16 = 320;
/// AMQP's reply code for an internal error of the broker.
const INTERNAL_ERROR: u16 = 541;

/// What happens on one consuming connection.
#[derive(Debug, Default)]
pub(super) struct Watch {
    careful: bool,
    hasher: RandomState,
    /// The message to set aside on this connection.
    blamed: Option<u64>,
    /// The broker failed at a message that it couldn't deliver, on several sessions.
    unseen: bool,
    delivered: AtomicBool,
    acked: AtomicBool,
    set_aside: AtomicBool,
    /// A message was taken without an ack.
    taken: AtomicBool,
    /// The message that was delivered last and isn't acked. Only careful sessions
    /// keep it.
    last: Mutex<Option<u64>>,
}

impl Watch {
    pub(super) fn is_careful(&self) -> bool {
        self.careful
    }

    /// Whether a consumer that can lose a message takes one without an ack, because the broker
    /// can't deliver it.
    pub(super) fn takes_unseen(&self) -> bool {
        self.unseen
    }

    /// A message is taken without an ack.
    pub(super) fn takes(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    /// A message is delivered; `identity` recognises it. Returns whether to set it
    /// aside.
    pub(super) fn delivers<T: Hash>(&self, identity: impl FnOnce() -> T) -> bool {
        self.delivered.store(true, Ordering::Relaxed);
        if !self.careful {
            return false;
        }
        let print = self.hasher.hash_one(identity());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(print);
        let blamed = self.blamed == Some(print);
        if blamed {
            self.set_aside.store(true, Ordering::Relaxed);
        }
        blamed
    }

    /// The client acked a message.
    pub(super) fn acks(&self) {
        self.acked.store(true, Ordering::Relaxed);
        if self.careful {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// What is known over many sessions.
#[derive(Default)]
pub(super) struct Suspects {
    fruitless: u32,
    hasher: RandomState,
    /// The message at which careful sessions ended, and the number of these
    /// sessions.
    alone: Option<(u64, u32)>,
    /// The careful sessions that ended inside the broker before it delivered anything, since one
    /// that delivered something.
    unseen: u32,
    /// The last session was one of these, and it is not yet time for a long pause.
    is_hurried: bool,
}

impl Suspects {
    /// The watch for the next session.
    pub(super) fn watch(&self) -> Arc<Watch> {
        let blamed = self.alone.filter(|(_, deaths)| *deaths >= DEATHS);
        Arc::new(Watch {
            careful: self.fruitless >= FRUITLESS,
            hasher: self.hasher.clone(),
            blamed: blamed.map(|(print, _)| print),
            unseen: self.unseen >= DEATHS,
            ..Watch::default()
        })
    }

    /// Whether the next session follows without a long pause.
    pub(super) fn is_hurried(&self) -> bool {
        self.is_hurried
    }

    /// A careful session lasted.
    pub(super) fn calm(&mut self, watch: &Watch) {
        self.unseen = 0;
        self.fruitless = match watch.acked.load(Ordering::Relaxed) {
            true => 0,
            // The message to blame may be in another queue. But don't stay careful
            // for ever: the message may not exist any more.
            false => FRUITLESS - 1,
        };
    }

    /// A session ended. Returns whether a message may be to blame.
    pub(super) fn ended(&mut self, watch: &Watch, error: &anyhow::Error, lasted: Duration) -> bool {
        if watch.set_aside.load(Ordering::Relaxed) {
            self.alone = None;
        }
        let broker_failed = has_code(error, INTERNAL_ERROR);
        let delivered = watch.delivered.load(Ordering::Relaxed);
        let unseen = watch.careful && broker_failed && !delivered;
        if unseen {
            self.unseen += 1;
        }
        if delivered || watch.taken.load(Ordering::Relaxed) {
            self.unseen = 0;
        }
        self.is_hurried = unseen && !self.unseen.is_multiple_of(HURRIED + 1);
        let delivered = delivered || broker_failed;
        let fruitless = delivered && can_be_a_messages_fault(error);
        if !watch.careful {
            let acked = watch.acked.load(Ordering::Relaxed);
            if lasted >= CALM && (acked || !fruitless) {
                self.fruitless = 0;
                return false;
            }
            self.fruitless += u32::from(fruitless);
            return fruitless;
        }
        if unseen {
            return true;
        }
        let last = *watch.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(print) = last.filter(|_| fruitless) else {
            return false;
        };
        self.alone = match self.alone {
            Some((known, deaths)) if known == print => Some((print, deaths + 1)),
            _ => Some((print, 1)),
        };
        true
    }
}

/// Whether the broker closed the connection or a channel with this reply code.
fn has_code(error: &anyhow::Error, code: u16) -> bool {
    let mut lapins = error.chain().filter_map(|cause| cause.downcast_ref());
    lapins.any(|error: &lapin::Error| match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_id() == code,
        _ => false,
    })
}

/// False for network errors and for a broker that stops.
fn can_be_a_messages_fault(error: &anyhow::Error) -> bool {
    if error.chain().any(|cause| cause.is::<Unconfirmed>()) || has_code(error, CONNECTION_FORCED) {
        return false;
    }
    let mut lapins = error.chain().filter_map(|cause| cause.downcast_ref());
    !lapins.any(|error: &lapin::Error| {
        matches!(
            error.kind(),
            ErrorKind::IOError(_)
                | ErrorKind::RuntimeShutdownError(_)
                | ErrorKind::MissingHeartbeatError
                // This follows from an earlier error, which isn't known here.
                | ErrorKind::InvalidChannelState(..)
                | ErrorKind::InvalidConnectionState(_)
        )
    })
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError};

    use super::*;

    const QUICKLY: Duration = Duration::from_secs(1);

    fn ends(suspects: &mut Suspects, messages: &[&str], acked: usize) -> Vec<bool> {
        ends_after(suspects, messages, acked, QUICKLY)
    }

    fn ends_after(
        suspects: &mut Suspects,
        messages: &[&str],
        acked: usize,
        lasted: Duration,
    ) -> Vec<bool> {
        let watch = suspects.watch();
        let mut aside = Vec::new();
        for (n, message) in messages.iter().enumerate() {
            aside.push(watch.delivers(|| *message));
            if n < acked {
                watch.acks();
            }
        }
        suspects.ended(&watch, &anyhow::anyhow!("it ended"), lasted);
        aside
    }

    fn broker_ends(code: AMQPHardError) -> anyhow::Error {
        let error = AMQPError::new(AMQPErrorKind::Hard(code), "it says".into());
        let error = lapin::Error::from(ErrorKind::ProtocolError(error));
        anyhow::Error::new(error).context("the connection failed")
    }

    #[test]
    fn after_two_sessions_without_progress_the_one_to_blame_is_set_aside_and_no_other() {
        let mut suspects = Suspects::default();
        for _ in 0..2 {
            assert!(!suspects.watch().is_careful());
            ends(&mut suspects, &["a", "poison", "b"], 0);
        }
        assert!(suspects.watch().is_careful());
        assert_eq!(ends(&mut suspects, &["a", "poison"], 1), [false, false]);
        assert_eq!(ends(&mut suspects, &["poison"], 0), [false]);
        assert_eq!(ends(&mut suspects, &["b", "poison"], 2), [false, true]);
        let watch = suspects.watch();
        watch.delivers(|| "b");
        watch.acks();
        suspects.calm(&watch);
        assert!(!suspects.watch().is_careful());
    }

    #[test]
    fn acks_of_other_messages_do_not_hide_the_one_at_which_sessions_end() {
        let mut suspects = Suspects::default();
        for _ in 0..2 {
            assert!(!suspects.watch().is_careful());
            ends(&mut suspects, &["a", "b", "poison"], 2);
        }
        assert!(suspects.watch().is_careful());
    }

    #[test]
    fn a_careful_session_that_acked_nothing_is_no_proof_that_all_is_well() {
        let mut suspects = Suspects::default();
        ends(&mut suspects, &["poison"], 0);
        ends(&mut suspects, &["poison"], 0);
        // It consumed an empty queue.
        suspects.calm(&suspects.watch());
        assert!(!suspects.watch().is_careful());
        ends(&mut suspects, &["poison"], 0);
        assert!(suspects.watch().is_careful());
    }

    #[test]
    fn a_broker_that_fails_before_it_delivers_makes_sessions_careful_and_one_that_stops_does_not() {
        let mut suspects = Suspects::default();
        for _ in 0..2 {
            let error = broker_ends(AMQPHardError::CONNECTIONFORCED);
            assert!(!suspects.ended(&suspects.watch(), &error, QUICKLY));
        }
        for _ in 0..2 {
            assert!(!suspects.watch().is_careful());
            let error = broker_ends(AMQPHardError::INTERNALERROR);
            assert!(suspects.ended(&suspects.watch(), &error, QUICKLY));
        }
        assert!(suspects.watch().is_careful());
    }

    #[test]
    fn a_message_that_the_broker_cannot_deliver_is_taken_without_an_ack_once() {
        let mut suspects = Suspects::default();
        let fails = |suspects: &mut Suspects, takes: bool| {
            let watch = suspects.watch();
            assert_eq!(watch.takes_unseen(), takes);
            if takes {
                watch.takes();
            }
            let error = broker_ends(AMQPHardError::INTERNALERROR);
            assert!(suspects.ended(&watch, &error, QUICKLY));
        };
        fails(&mut suspects, false);
        fails(&mut suspects, false);
        assert!(!suspects.is_hurried());
        for _ in 0..2 {
            fails(&mut suspects, false);
            assert!(suspects.is_hurried());
            fails(&mut suspects, false);
            fails(&mut suspects, true);
            assert!(!suspects.is_hurried());
        }
        // A session that delivers something shows that it is another message.
        fails(&mut suspects, false);
        fails(&mut suspects, false);
        ends(&mut suspects, &["a"], 1);
        assert!(!suspects.watch().takes_unseen());
    }

    #[test]
    fn sessions_that_the_broker_ends_without_end_get_a_long_pause_now_and_then() {
        let mut suspects = Suspects::default();
        let ended = |_| {
            let error = broker_ends(AMQPHardError::INTERNALERROR);
            suspects.ended(&suspects.watch(), &error, QUICKLY);
            suspects.is_hurried()
        };
        // The first sessions are not careful yet.
        let hurried: Vec<bool> = (0..1_000).map(ended).skip(FRUITLESS as usize).collect();
        let pauses = hurried.split(|is_hurried| !is_hurried);
        let between: Vec<_> = pauses.map(<[bool]>::len).collect();
        let (last, whole) = between.split_last().unwrap();
        assert!(whole.len() > 5 && *last <= HURRIED as usize, "{between:?}");
        assert!(whole.iter().all(|n| *n == HURRIED as usize), "{between:?}");
    }

    #[test]
    fn a_broken_network_or_a_long_session_blames_no_message() {
        let mut suspects = Suspects::default();
        let broken = || lapin::Error::from(std::io::Error::other("reset"));
        for _ in 0..5 {
            let watch = suspects.watch();
            watch.delivers(|| "a");
            let error = anyhow::Error::new(broken()).context("the connection failed");
            assert!(!suspects.ended(&watch, &error, QUICKLY));
        }
        for _ in 0..5 {
            ends(&mut suspects, &["a"], 0);
            assert!(!suspects.watch().is_careful());
            ends_after(&mut suspects, &["a", "b"], 1, CALM);
        }
        assert!(!suspects.watch().is_careful());
    }
}
