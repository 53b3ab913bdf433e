//! Jobs are taken from the queues. Each one is then delivered in a task of its own.
//!
//! [`Intake::take`] runs once per jobs queue ("shard") and RabbitMQ session. A job's task
//! outlives the session that the job came from: a request that has been sent is recorded
//! even if RabbitMQ is gone by then. A message that cannot be read as a job becomes a
//! dead letter.
//!
//! A message has one job, or it is a [`bundle`] of first attempts. The jobs of a bundle are
//! delivered apart from each other, and the message is acked with the last of them. If RabbitMQ
//! delivers a bundle a third time, one of its jobs may be the reason why two sessions ended.
//! Then each of its jobs goes on in a message of its own, with a delivery limit of its own.
//!
//! RabbitMQ bounds what a consumer holds by messages, and this process is bounded by jobs. So
//! there are as many [`consumers`] as the messages' jobs allow.

mod capacity;
mod consumers;

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::types::AMQPValue;
use shared::amqp::{Session, Unreadable};
use shared::job::{Job, bundle};
use shared::publish::{Outgoing, Publisher};
use shared::receipts::Receipt;
use shared::topology::jobs_queue;
use shared::trace::JobTrace;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::deliver::Deliverer;
use crate::metrics::metrics;
use crate::upkeep::watermark::Watermarks;
pub use capacity::Capacity;
pub use consumers::MostMessages;
use consumers::{Consumers, Next};

/// The longest time that a job waits for a permit, because this replica holds as many jobs as it
/// may. Then the job goes on without one: a late copy of it is sent after its webhook's timeout and
/// [`TIME_TO_RECORD`](crate::upkeep::watermark::TIME_TO_RECORD), and a longer wait here would use
/// that time up. The endpoints' limiters still bound the requests of this replica.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A bundle that RabbitMQ has delivered this often before is taken apart.
const DELIVERED_BEFORE: i64 = 2;

/// Takes jobs and starts their deliveries.
#[derive(Clone)]
pub struct Intake {
    pub deliverer: Arc<Deliverer>,
    pub publisher: Publisher,
    pub watermarks: Arc<Watermarks>,
    pub capacity: Arc<Capacity>,
    /// Runs the jobs' tasks, so that a process that stops can wait for them.
    pub tasks: TaskTracker,
    /// When this is cancelled, no more jobs are taken.
    pub stop: CancellationToken,
}

impl Intake {
    /// Takes one shard's jobs until `stop`, at most so many messages at a time.
    ///
    /// # Errors
    /// If a consumer fails or RabbitMQ cancels it.
    pub async fn take(
        &self,
        session: &Session,
        shard: u16,
        most_messages: MostMessages,
    ) -> anyhow::Result<()> {
        let queue = jobs_queue(shard);
        let mut consumers = Consumers::open(session, &queue, most_messages).await?;
        loop {
            let next = tokio::select! {
                next = consumers.next(&self.capacity) => next?,
                // A message that arrives from now on stays unacked, and returns to its queue
                // when the session is closed.
                () = self.stop.cancelled() => return consumers.cancel().await,
            };
            let Next::Message(message, receipt) = next else {
                continue;
            };
            let intake = self.clone();
            let deadline = Instant::now() + LONGEST_WAIT;
            self.tasks.spawn(async move {
                intake.receive(shard, *message, receipt, deadline).await;
            });
        }
    }

    async fn receive(&self, shard: u16, message: Delivery, receipt: Receipt, deadline: Instant) {
        let jobs = match read_jobs(&message) {
            Ok(jobs) => jobs,
            Err(reason) => return self.dead_letter(message, receipt, &reason).await,
        };
        let count = jobs.len();
        metrics().jobs_taken.inc_by(count as u64);
        let receipts = receipt.split(count);
        let redelivered = message.redelivered;
        if count > 1 && delivered_before(&message) >= DELIVERED_BEFORE {
            for (job, receipt) in jobs.into_iter().zip(receipts) {
                let settler = self.deliverer.settler.clone();
                let successor = async move { settler.queue_successor(job, receipt).await };
                self.tasks.spawn(successor);
            }
            return;
        }
        self.capacity.message_came(count);
        for (job, mut receipt) in jobs.into_iter().zip(receipts) {
            receipt.keep(self.capacity.acquire(deadline).await);
            self.watermarks.job_taken(shard, job.due_at);
            let deliverer = self.deliverer.clone();
            let delivery = async move {
                deliverer.deliver(job, receipt, redelivered).await;
            };
            // A message with one job needs no other task.
            match count {
                1 => delivery.await,
                _ => drop(self.tasks.spawn(delivery)),
            }
        }
    }

    async fn dead_letter(&self, message: Delivery, receipt: Receipt, reason: &str) {
        error!(
            reason,
            message_id = ?message.properties.message_id(),
            "a message in the jobs queue cannot be read as a job; it becomes a dead letter"
        );
        metrics().jobs_parked.inc();
        let published = self
            .publisher
            .publish(Outgoing::dead(&message, reason))
            .await;
        match published {
            Ok(()) => receipt.ack(),
            Err(_) => receipt.give_back(),
        }
    }
}

fn read_jobs(message: &Delivery) -> Result<Vec<Job>, String> {
    if let Some(unreadable) = Unreadable::from_message(message) {
        // Its bytes aren't looked at: sessions may have ended at this message.
        return Err(unreadable.to_string());
    }
    let mut jobs = bundle::decode(&message.data)
        .map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
    let headers = message.properties.headers().as_ref();
    for job in &mut jobs {
        job.trace = JobTrace::of_headers(headers, job.due_at);
    }
    Ok(jobs)
}

/// How often RabbitMQ has delivered the message before. From version 4 on `x-delivery-count` leaves
/// out deliveries that were given back, and `x-acquired-count` has them all.
fn delivered_before(message: &Delivery) -> i64 {
    let headers = message.properties.headers().as_ref();
    let count = |name: &str| match headers?.inner().get(name)? {
        AMQPValue::LongLongInt(count) => Some(*count),
        AMQPValue::LongInt(count) => Some(i64::from(*count)),
        AMQPValue::LongUInt(count) => Some(i64::from(*count)),
        AMQPValue::ShortInt(count) => Some(i64::from(*count)),
        AMQPValue::ShortUInt(count) => Some(i64::from(*count)),
        AMQPValue::ShortShortInt(count) => Some(i64::from(*count)),
        AMQPValue::ShortShortUInt(count) => Some(i64::from(*count)),
        _ => None,
    };
    let counts = ["x-delivery-count", "x-acquired-count"].map(count);
    counts.into_iter().flatten().max().unwrap_or(0)
}
