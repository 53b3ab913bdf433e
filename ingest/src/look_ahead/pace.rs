//! Slows restrained tenants' batches down while RabbitMQ is congested and other tenants have events.
//!
//! A busy RabbitMQ delays every message, whoever's it is: another tenant's event passes through it
//! twice, as an event and as a job. So the time until a batch's jobs are confirmed is watched. If it
//! is much longer than the shortest of late, the next batch of restrained tenants waits. This is
//! delay-based congestion control, as LEDBAT has it for the network (RFC 6817): it makes room for
//! others before a queue is full. While nobody else has events, it slows nobody down.

use std::time::{Duration, Instant};

/// RabbitMQ isn't congested while its confirms take no longer than this...
const TOLERATED: Duration = Duration::from_millis(10);
/// ...or than this many times the shortest confirm of late, for a RabbitMQ that is far away or has a
/// slow disk.
const TOLERATED_FACTOR: u32 = 3;
/// How much longer each message makes the confirm of a batch. It is subtracted, because batches differ
/// in size.
const PER_MESSAGE: Duration = Duration::from_micros(100);
/// A batch waits for this many times the delay beyond what is tolerated.
const GAIN: u32 = 4;
/// The longest wait. So a restrained tenant goes on, however slow RabbitMQ is.
const LONGEST: Duration = Duration::from_millis(150);
/// The shortest confirm is of this period or of the one before.
const PERIOD: Duration = Duration::from_secs(30);

/// How many messages RabbitMQ confirmed, and after which time.
#[derive(Debug, Clone, Copy)]
pub struct Confirm {
    pub messages: u32,
    /// From the first message's publishing to the last one's confirm.
    pub took: Duration,
}

/// How long RabbitMQ takes to confirm, and when restrained tenants had their last batch.
#[derive(Default)]
pub(super) struct Pace {
    /// The moving average of the last few confirms.
    confirm: Duration,
    /// The shortest confirms of this period and of the one before.
    shortest: [Option<Duration>; 2],
    /// When this period began.
    since: Option<Instant>,
    /// When a lane was through with the last batch of restrained tenants.
    last_through: Option<Instant>,
}

impl Pace {
    /// RabbitMQ confirmed a batch's messages.
    pub(super) fn confirmed(&mut self, confirm: Confirm, now: Instant) {
        let by_themselves = PER_MESSAGE * confirm.messages;
        let took = confirm.took.saturating_sub(by_themselves);
        if self.since.is_none_or(|since| now - since >= PERIOD) {
            self.since = Some(now);
            self.shortest = [None, self.shortest[0]];
        }
        let shortest = self.shortest[0].map_or(took, |shortest| shortest.min(took));
        self.shortest[0] = Some(shortest);
        self.confirm = (self.confirm + took) / 2;
    }

    /// A lane is through with a batch of restrained tenants.
    pub(super) fn restrained_is_through(&mut self, now: Instant) {
        self.last_through = Some(now);
    }

    /// Until when the next batch of restrained tenants waits.
    pub(super) fn pause_ends(&self) -> Option<Instant> {
        let shortest = self.shortest.iter().flatten().min()?;
        let tolerated = TOLERATED.max(*shortest * TOLERATED_FACTOR);
        let pause = (self.confirm.saturating_sub(tolerated) * GAIN).min(LONGEST);
        Some(self.last_through? + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(milliseconds: u32) -> Confirm {
        Confirm {
            messages: 0,
            took: Duration::from_millis(1) * milliseconds,
        }
    }

    fn pause_after(confirms: &[u32]) -> Duration {
        let now = Instant::now();
        let mut pace = Pace::default();
        for confirm in confirms {
            pace.confirmed(after(*confirm), now);
        }
        pace.restrained_is_through(now);
        pace.pause_ends().unwrap_or(now) - now
    }

    #[test]
    fn nobody_waits_while_confirms_take_as_long_as_ever() {
        assert_eq!(pause_after(&[]), Duration::ZERO);
        assert_eq!(pause_after(&[2, 3, 2, 9]), Duration::ZERO);
        // A cluster whose disks are slow.
        assert_eq!(pause_after(&[30, 40, 80, 60]), Duration::ZERO);
    }

    #[test]
    fn restrained_tenants_wait_longer_the_later_confirms_are_but_never_for_long() {
        let some = pause_after(&[2, 2, 20, 20]);
        let more = pause_after(&[2, 2, 40, 40]);
        assert!(Duration::ZERO < some && some < more, "{some:?}, {more:?}");
        assert_eq!(pause_after(&[2, 2, 9_000, 9_000]), LONGEST);
    }

    #[test]
    fn a_large_batch_may_take_longer_than_a_small_one() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.confirmed(after(1), now);
        for _ in 0..8 {
            let confirm = Confirm {
                messages: 128,
                ..after(20)
            };
            pace.confirmed(confirm, now);
        }
        pace.restrained_is_through(now);
        assert_eq!(pace.pause_ends(), Some(now));
    }

    #[test]
    fn the_shortest_confirm_is_forgotten_after_two_periods() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        pace.confirmed(after(1), now);
        for _ in 0..2 {
            now += PERIOD;
            pace.confirmed(after(30), now);
        }
        pace.restrained_is_through(now);
        assert_eq!(pace.pause_ends(), Some(now));
    }
}
