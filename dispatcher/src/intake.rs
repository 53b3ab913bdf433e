//! Jobs are taken from the queues. Each one is then delivered in a task of its own.
//!
//! [`Intake::take`] runs once per jobs queue ("shard") and RabbitMQ session. A job's task
//! outlives the session that the job came from: a request that has been sent is recorded
//! even if RabbitMQ is gone by then. A message that cannot be read as a job becomes a
//! dead letter.

use std::sync::Arc;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::{Channel, Consumer};
use shared::amqp::Unreadable;
use shared::job::Job;
use shared::publish::{Outgoing, Publisher};
use shared::receipts::{Held, Receipt};
use shared::trace::JobTrace;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::deliver::Deliverer;
use crate::metrics::metrics;
use crate::upkeep::watermark::Watermarks;

/// Takes jobs and starts their deliveries.
#[derive(Clone)]
pub struct Intake {
    pub deliverer: Arc<Deliverer>,
    pub publisher: Publisher,
    pub watermarks: Arc<Watermarks>,
    /// One permit per job that this replica may hold at a time.
    pub permits: Arc<Semaphore>,
    /// Runs the jobs' tasks, so that a process that stops can wait for them.
    pub tasks: TaskTracker,
    /// When this is cancelled, no more jobs are taken.
    pub stop: CancellationToken,
}

impl Intake {
    /// Takes one shard's jobs until `stop`.
    ///
    /// # Errors
    /// If the consumer fails or RabbitMQ cancels it.
    pub async fn take(
        &self,
        shard: u16,
        channel: Channel,
        mut jobs: Consumer,
    ) -> anyhow::Result<()> {
        let held = Held::new(channel);
        loop {
            let message = tokio::select! {
                message = jobs.next() => message,
                () = self.stop.cancelled() => return Ok(()),
            };
            let message = match message {
                Some(message) => message?,
                None => anyhow::bail!("RabbitMQ cancelled the consumer of shard {shard}"),
            };
            metrics().jobs_taken.inc();
            let receipt = held.take(message.delivery_tag);
            // The prefetch is no larger than this, but jobs of a lost session may still
            // be held.
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                anyhow::bail!("the semaphore of held jobs is closed");
            };
            let intake = self.clone();
            self.tasks
                .spawn(async move { intake.receive(shard, message, receipt, permit).await });
        }
    }

    async fn receive(
        &self,
        shard: u16,
        message: Delivery,
        receipt: Receipt,
        _permit: OwnedSemaphorePermit,
    ) {
        match read_job(&message) {
            Ok(job) => {
                self.watermarks.job_taken(shard, job.due_at);
                self.deliverer
                    .deliver(job, receipt, message.redelivered)
                    .await;
            }
            Err(reason) => self.dead_letter(message, receipt, &reason).await,
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

fn read_job(message: &Delivery) -> Result<Job, String> {
    if let Some(unreadable) = Unreadable::from_message(message) {
        // Its bytes aren't looked at: sessions may have ended at this message.
        return Err(unreadable.to_string());
    }
    let mut job =
        Job::decode(&message.data).map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
    job.trace = JobTrace::of_headers(message.properties.headers().as_ref(), job.due_at);
    Ok(job)
}
