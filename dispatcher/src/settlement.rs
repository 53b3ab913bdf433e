//! A job with its verdict, on its way from `deliver` to `settle`.

use std::sync::Arc;

use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use shared::attempt::Report;
use shared::job::Job;
use shared::webhook::Webhook;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::in_flight::Mark;
use crate::judge::Verdict;

/// What is to be recorded about a job, and what has to outlive the recording.
pub struct Settlement {
    /// The job as it was taken.
    pub job: Job,
    pub verdict: Verdict,
    /// The attempt, if one was made.
    pub report: Option<Report>,
    /// The webhook as it was when the attempt was made.
    pub asked: Option<Arc<Webhook>>,
    pub receipt: Receipt,
    /// Marks the delivery as in flight until the verdict is recorded. `None` for a
    /// second copy of a job: the mark is the first copy's.
    pub mark: Option<Mark>,
    /// A process that stops waits until this is dropped.
    pub held: TaskTrackerToken,
}

/// The right to ack one message, once.
pub struct Receipt(Acker);

impl Receipt {
    pub fn new(acker: Acker) -> Self {
        Self(acker)
    }

    /// Whether the channel of the message is known to be closed. Then RabbitMQ has
    /// handed the message to another consumer, or will.
    pub fn is_void(&self) -> bool {
        !self.0.usable()
    }

    /// Removes the message from its queue.
    pub async fn ack(self) {
        // On a closed channel this fails. The message comes again, and its row shows
        // that the verdict is recorded.
        let _ = self.0.ack(BasicAckOptions::default()).await;
    }

    /// Puts the message back into its queue, for another replica.
    pub async fn give_back(self) {
        let options = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        let _ = self.0.nack(options).await;
    }
}
