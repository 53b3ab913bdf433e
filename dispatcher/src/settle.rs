//! Verdicts are written down, in batches; retries are queued; jobs are acked.
//!
//! In this order, which is the promise: first the rows (attempts and deliveries
//! in one statement), then the retry's job, confirmed by the broker, then the
//! ack. A crash between two of these leaves a job that is delivered again and
//! found settled; what follows from it is queued then, see [`crate::ticket`]. Never
//! a loss, and no second attempt of what is on record.
//!
//! A batch is whatever has gathered while the last one was written; `record`
//! writes it. Each row
//! changes only if it waits for this very attempt (the fence), so the verdict of
//! a duplicate changes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use shared::attempt::Report;
use shared::clock;
use shared::job::{Job, Late};
use shared::publish::{Outgoing, Publisher, Unconfirmed};
use shared::receipts::Receipt;
use shared::supervise::Backoff;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use crate::judge::{Deferral, Verdict};
use crate::metrics::metrics;
use crate::record::{Recorded, Recorder};
use crate::settlement::Settlement;
use crate::ticket::Tickets;
use crate::upkeep::paused::PAUSED;

pub(crate) mod rows;
pub mod stats;

/// The most verdicts in one statement.
const BATCH: usize = 512;

/// What has to be done before a settled job is acked.
enum Next {
    Done,
    /// This job carries its delivery on.
    Queue(Job),
    /// Whatever follows from the verdict that another copy came to.
    Successor(Job),
    /// Its verdict can't be written, for this reason.
    DeadLetter(Job, String),
}

/// Writes what arrives until every sender is gone, or `hurry` says that time is up.
pub struct Settler {
    /// Writes the rows.
    pub recorder: Recorder,
    /// Which job each row waits for.
    pub tickets: Tickets,
    /// Where retries are queued.
    pub publisher: Publisher,
    /// Cancelled when the process may wait no longer.
    pub hurry: CancellationToken,
}

impl Settler {
    /// Runs until the channel closes.
    pub async fn run(self: Arc<Self>, mut settlements: mpsc::Receiver<Settlement>) {
        let this = self;
        // What follows a batch's commit (queueing, acking) overlaps with the
        // next batch's writing.
        let follow_ups = TaskTracker::new();
        let mut batch = Vec::new();
        while settlements.recv_many(&mut batch, BATCH).await > 0 {
            metrics().settle_batch.observe(batch.len() as f64);
            let Some(recorded) = this.recorder.record(&batch).await else {
                break;
            };
            let this = this.clone();
            let batch = std::mem::take(&mut batch);
            follow_ups.spawn(async move { this.follow_up(batch, recorded).await });
        }
        follow_ups.close();
        follow_ups.wait().await;
    }

    /// Acks what is done with, queues what has to come again, and acks that.
    async fn follow_up(&self, batch: Vec<Settlement>, recorded: Recorded) {
        let (mut done, mut held, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for settlement in batch {
            match self.finish(settlement, &recorded) {
                (Next::Done, receipt, token) => {
                    done.push(receipt);
                    held.push(token);
                }
                (next, receipt, token) => rest.push(self.see_through(next, receipt, token)),
            }
        }
        Receipt::ack_all(done);
        drop(held);
        join_all(rest).await;
        // What isn't confirmed is the sweeper's.
        self.publisher.publish_jobs(&recorded.told).await;
    }

    /// What follows from a verdict that is written down.
    fn finish(
        &self,
        settlement: Settlement,
        recorded: &Recorded,
    ) -> (Next, Receipt, TaskTrackerToken) {
        let Settlement {
            job,
            verdict,
            report,
            asked: _,
            receipt,
            mark,
            held,
        } = settlement;
        let is_copy = mark.is_none();
        if !is_copy && let Some(reason) = recorded.set_aside.get(&job.delivery) {
            return (Next::DeadLetter(job, reason.clone()), receipt, held);
        }
        let was_applied = is_copy || recorded.applied.contains(&job.delivery);
        log(&job, &verdict, report.as_ref(), was_applied);
        // From here on a copy of the job finds the row settled.
        drop(mark);
        if !was_applied {
            // Another copy of the job came first. It may have died before it queued
            // what follows.
            metrics().fenced.inc();
            return (Next::Successor(job), receipt, held);
        }
        count(&job, &verdict);
        let next = match verdict {
            Verdict::RetryAt { at, .. } => Next::Queue(Job {
                attempt: job.attempt + 1,
                due_at: at,
                recheck: false,
                late: None,
                ..job
            }),
            // Its row knows nothing of it: it keeps its ticket.
            Verdict::Deferred { until, .. } if is_copy => Next::Queue(Job {
                recheck: true,
                late: Some(Late::Until(until)),
                ..job
            }),
            Verdict::Deferred { until, .. } => Next::Queue(Job {
                due_at: until,
                recheck: true,
                late: None,
                ..job
            }),
            Verdict::Delivered
            | Verdict::Failed(_)
            | Verdict::Expired
            | Verdict::Cancelled
            | Verdict::Held => Next::Done,
        };
        (next, receipt, held)
    }

    /// Does what follows, then acks. If time is up first, the job comes again.
    async fn see_through(&self, next: Next, receipt: Receipt, _held: TaskTrackerToken) {
        match next {
            Next::Done => receipt.ack(),
            Next::Queue(job) => self.park(job, receipt).await,
            Next::Successor(job) => self.succeed(job, receipt).await,
            Next::DeadLetter(job, reason) => {
                if self.give_up(&job, &reason).await {
                    receipt.ack();
                }
            }
        }
    }

    /// Publishes a job until it is confirmed, or another has taken its place. False if
    /// time is up: then the job it follows stays unacked, and comes again.
    async fn queue(&self, mut job: Job) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let message = Outgoing::job(&job, clock::now(), self.publisher.shards());
            let Some(published) = self.publish(message, &mut backoff).await else {
                return false;
            };
            match published {
                Ok(()) => return true,
                Err(Unconfirmed::Refused) => continue,
                Err(Unconfirmed::Lost(_) | Unconfirmed::Unavailable) => {}
            }
            // The lost answer may have been a yes. What the broker has of it comes
            // once there is a session again, and not before.
            let successor = tokio::select! {
                Ok(()) = self.publisher.session() => self.tickets.successor(&job).await,
                () = self.hurry.cancelled() => return false,
            };
            job = match successor {
                Some(Some(next)) => next,
                Some(None) => return true,
                None => return false,
            };
        }
    }

    /// Makes a dead letter of a job whose verdict can't be written. False if time is up.
    async fn give_up(&self, job: &Job, reason: &str) -> bool {
        let reason = format!("PostgreSQL refused what came of it: {reason}");
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let message = Outgoing::dead_job(job, &reason, self.publisher.shards());
            match self.publish(message, &mut backoff).await {
                Some(Ok(())) => return true,
                Some(Err(_)) => {}
                None => return false,
            }
        }
    }

    /// Publishes a message once, and pauses if it wasn't confirmed. `None` if time is up.
    async fn publish(
        &self,
        message: Outgoing,
        backoff: &mut Backoff,
    ) -> Option<Result<(), Unconfirmed>> {
        let unconfirmed = tokio::select! {
            published = self.publisher.publish(message) => match published {
                Ok(()) => return Some(Ok(())),
                Err(error) => error,
            },
            () = self.hurry.cancelled() => return None,
        };
        let pause = backoff.next();
        warn!(error = %unconfirmed, ?pause, "a job was not queued; trying again");
        tokio::time::sleep(pause).await;
        Some(Err(unconfirmed))
    }

    /// Sees to what follows from a job that was handed out again, if anything does.
    pub async fn succeed(&self, job: Job, receipt: Receipt) {
        match self.tickets.successor(&job).await {
            Some(Some(next)) => self.park(next, receipt).await,
            Some(None) => {
                metrics().jobs_stale.inc();
                receipt.ack();
            }
            None => receipt.give_back(),
        }
    }

    /// Puts a job that isn't due yet on its next trip.
    pub async fn park(&self, job: Job, receipt: Receipt) {
        if self.queue(job).await {
            receipt.ack();
        }
    }
}

fn count(job: &Job, verdict: &Verdict) {
    match verdict {
        Verdict::RetryAt { .. } => metrics().retries.inc(),
        Verdict::Held => metrics().deferred.with_label_values(&[PAUSED]).inc(),
        Verdict::Deferred { because, .. } => {
            metrics()
                .deferred
                .with_label_values(&[because.as_str()])
                .inc();
        }
        ended => {
            metrics()
                .finished
                .with_label_values(&[ended.as_str()])
                .inc();
            if *ended == Verdict::Delivered {
                let latency = clock::now() - job.began_at();
                metrics().latency_seconds.observe(latency.as_seconds_f64());
            }
        }
    }
}

/// The one line of an attempt, or of a decision to make none.
fn log(job: &Job, verdict: &Verdict, report: Option<&Report>, applied: bool) {
    if let Verdict::Deferred {
        until,
        because: because @ (Deferral::EndpointFull | Deferral::InFlight | Deferral::RateLimited),
    } = verdict
    {
        let because = because.as_str();
        tracing::debug!(delivery = %job.delivery, webhook = %job.webhook, because, %until, "deferred");
        return;
    }
    let answer = report.and_then(|report| report.result.as_ref().ok());
    let next = match verdict {
        Verdict::RetryAt { at, .. } | Verdict::Deferred { until: at, .. } => Some(at.to_string()),
        _ => None,
    };
    info!(
        tenant = %job.tenant,
        event = %job.event_id,
        event_type = %job.event_type,
        webhook = %job.webhook,
        delivery = %job.delivery,
        attempt = job.attempt,
        outcome = report.map(Report::outcome),
        status = answer.map(|answer| answer.status),
        error = report.and_then(|report| report.result.as_ref().err()).map(tracing::field::display),
        duration_ms = report.map(|report| report.took.as_millis() as u64),
        next,
        duplicate = (!applied).then_some(true),
        "{}",
        verdict.as_str()
    );
}
