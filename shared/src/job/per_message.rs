//! How many jobs a message has on average: RabbitMQ counts messages and bounds consumers by
//! messages, and a message has one job or up to sixteen ([`bundle`](super::bundle)).

use std::sync::atomic::{AtomicU32, Ordering};

/// How many jobs a message of a jobs queue has on average: a moving average of the latest
/// messages that this process published or took.
pub struct JobsPerMessage(AtomicU32);

impl Default for JobsPerMessage {
    fn default() -> Self {
        Self(AtomicU32::new(Self::ONE))
    }
}

impl JobsPerMessage {
    /// One job, in the unit of the counter.
    const ONE: u32 = 1 << 8;

    /// So many messages had so many jobs. The latest weigh most.
    pub fn count(&self, jobs: usize, messages: usize) {
        let (Ok(jobs), Ok(messages)) = (u32::try_from(jobs), u32::try_from(messages)) else {
            return;
        };
        if messages == 0 {
            return;
        }
        let latest = jobs.saturating_mul(Self::ONE) / messages;
        let before = self.0.load(Ordering::Relaxed);
        // Two tasks may be here at once; an average may miss some messages.
        let average = (before - before / 8 + latest / 8).max(Self::ONE);
        self.0.store(average, Ordering::Relaxed);
    }

    /// How many jobs so many messages have, about.
    #[must_use]
    pub fn jobs_in(&self, messages: u32) -> i64 {
        let average = self.0.load(Ordering::Relaxed);
        i64::from(messages) * i64::from(average) / i64::from(Self::ONE)
    }

    /// How many messages have so many jobs, about.
    #[must_use]
    pub fn messages_with(&self, jobs: usize) -> usize {
        jobs * Self::ONE as usize / self.0.load(Ordering::Relaxed) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_latest_messages() {
        let per_message = JobsPerMessage::default();
        assert_eq!(per_message.jobs_in(100), 100);
        for _ in 0..64 {
            per_message.count(128, 8);
        }
        let jobs = per_message.jobs_in(100);
        // Rounding down eight times over stays below 16 by less than 1 %.
        assert!(
            (1_584..=1_600).contains(&jobs),
            "{jobs}, and 16 each are 1600"
        );
        assert_eq!(per_message.messages_with(1_600), 100);
        // Parked messages have no jobs, and a message with less than one counts as one.
        for _ in 0..64 {
            per_message.count(0, 8);
        }
        assert_eq!(per_message.jobs_in(100), 100);
        per_message.count(0, 0);
        assert_eq!(per_message.jobs_in(100), 100);
    }
}
