//! Records verdicts in batches, publishes the jobs that follow, and acks the old jobs.
//!
//! `deliver` sends [`Settlement`]s. A batch is whatever has arrived while the last batch was
//! written, and if that is little, what arrives in the next [`GATHERING`]: writing one verdict takes
//! about as much work of PostgreSQL and of this process as writing ten.
//!
//! The order is the promise: first the rows are committed, then the delivery's next
//! job is published and confirmed by RabbitMQ, then the old job is acked. If the process dies
//! between two of these, RabbitMQ delivers the old job again. Its delivery is then found
//! settled, and the job that follows is published ([`crate::ticket`]). So no delivery is
//! lost, and no attempt that is on record is repeated.
//!
//! Each row changes only if it waits for this very attempt (a fence). So the verdict on a
//! duplicate job changes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use shared::attempt::Report;
use shared::clock;
use shared::job::{Job, Late};
use shared::publish::{Outgoing, Publisher, Unconfirmed};
use shared::receipts::Receipt;
use shared::supervise::Backoff;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use crate::attempt_times::AttemptTimes;
use crate::judge::{Deferral, Verdict};
use crate::metrics::metrics;
use crate::record::{Recorded, Recorder};
use crate::settlement::Settlement;
use crate::ticket::{LATE, Tickets};
use crate::upkeep::paused::PAUSED;

pub(crate) mod rows;
pub mod stats;

/// The most verdicts in one statement.
const BATCH: usize = 512;
/// How long few verdicts wait for others. It is less than what acks wait for each other, and much less
/// than the shortest pause before a retry. If the process dies meanwhile, their attempts are repeated,
/// as those of requests in flight are.
const GATHERING: Duration = Duration::from_millis(20);
/// So many verdicts wait for no others.
const ENOUGH: usize = 64;
/// Nor does this part of all that the process may have in flight.
const ENOUGH_OF_ALL: usize = 8;
/// The most bytes in one statement, unless one verdict alone has more. An attempt of a webhook in
/// debug mode has the whole request and 64 KiB of the answer.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What has to be done before a settled job is acked.
enum Next {
    Done,
    /// Publish this job, which is the delivery's next one.
    Queue(Job),
    /// Another copy of this job was settled. Publish the job that follows from its verdict,
    /// if that wasn't done.
    Successor(Job),
    /// Make a dead letter of this job: its verdict can't be written, for this reason.
    DeadLetter(Job, String),
}

/// Settles jobs.
pub struct Settler {
    pub recorder: Recorder,
    pub tickets: Tickets,
    pub times: AttemptTimes,
    pub publisher: Publisher,
    /// How many jobs this process may have in flight: they count until they are settled.
    pub concurrency: usize,
    /// When this is cancelled, nothing waits for PostgreSQL or RabbitMQ any longer.
    pub grace_over: CancellationToken,
}

impl Settler {
    /// Settles what arrives until the channel is closed or the grace is over.
    pub async fn run(self: Arc<Self>, mut settlements: mpsc::Receiver<Settlement>) {
        let this = self;
        // While a batch is written, the jobs of earlier batches are published and acked.
        let follow_ups = TaskTracker::new();
        let mut arrived = Vec::new();
        while !arrived.is_empty() || settlements.recv_many(&mut arrived, BATCH).await > 0 {
            gather(&mut settlements, &mut arrived, enough(this.concurrency)).await;
            let rest = arrived.split_off(batch_len(arrived.iter().map(Settlement::bytes)));
            let batch = std::mem::replace(&mut arrived, rest);
            metrics().settle_batch.observe(batch.len() as f64);
            let Some(recorded) = this.recorder.record(&batch).await else {
                break;
            };
            let this = this.clone();
            follow_ups.spawn(async move { this.follow_up(batch, recorded).await });
        }
        follow_ups.close();
        follow_ups.wait().await;
    }

    /// Acks the jobs that are done, then publishes the next jobs and acks the rest.
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
        Receipt::ack_soon(done);
        drop(held);
        join_all(rest).await;
        // A job that isn't confirmed is put back by the sweeper.
        self.publisher.publish_jobs(&recorded.announcements).await;
    }

    /// Decides what follows from a verdict that is recorded.
    fn finish(
        &self,
        settlement: Settlement,
        recorded: &Recorded,
    ) -> (Next, Receipt, TaskTrackerToken) {
        let Settlement {
            mut job,
            verdict,
            report,
            webhook_as_sent: _,
            receipt,
            mark,
            held,
            spans,
        } = settlement;
        let is_copy = mark.is_none();
        if !is_copy && let Some(reason) = recorded.set_aside.get(&job.delivery) {
            return (Next::DeadLetter(job, reason.clone()), receipt, held);
        }
        let was_applied = is_copy || recorded.applied.contains(&job.delivery);
        log(&job, &verdict, report.as_ref(), was_applied);
        if let Some(spans) = spans {
            spans.end(&verdict);
        }
        if let Some(trace) = &mut job.trace {
            // The job that follows waits from now on.
            trace.since = clock::now();
        }
        // From here on, a copy of the job finds its delivery settled.
        drop(mark);
        if !was_applied {
            // Another copy of the job was settled first. Its dispatcher may have died before
            // it published the next job.
            metrics().fenced.inc();
            return (Next::Successor(job), receipt, held);
        }
        let ended_at = |report: &Report| report.started_at + report.took;
        let ended_at = report.as_ref().map_or_else(clock::now, ended_at);
        count(&job, &verdict, ended_at);
        let next = match verdict {
            Verdict::RetryAt { at, .. } => Next::Queue(Job {
                attempt: job.attempt + 1,
                due_at: at,
                recheck: false,
                late: None,
                ..job
            }),
            // The row knows nothing of this copy, so the copy keeps its ticket.
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
            | Verdict::Expired(_)
            | Verdict::Cancelled
            | Verdict::Held => Next::Done,
        };
        (next, receipt, held)
    }

    /// Does what is to be done and then acks the job. If the grace is over before that, the
    /// job stays unacked, and RabbitMQ delivers it again.
    async fn see_through(&self, next: Next, receipt: Receipt, _held: TaskTrackerToken) {
        match next {
            Next::Done => receipt.ack(),
            Next::Queue(job) => self.delay(job, receipt).await,
            Next::Successor(job) => self.queue_successor(job, receipt).await,
            Next::DeadLetter(job, reason) => {
                if self.give_up(&job, &reason).await {
                    receipt.ack();
                }
            }
        }
    }

    /// Publishes a job until it is confirmed or superseded. False if the grace is over: then
    /// the job that it follows stays unacked, and RabbitMQ delivers that one again.
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
            // RabbitMQ may have the job although its confirm was lost. It delivers nothing
            // before there is a session again.
            let successor = tokio::select! {
                Ok(()) = self.publisher.session() => self.tickets.successor(&job, LATE).await,
                () = self.grace_over.cancelled() => return false,
            };
            job = match successor {
                Some(Some(next)) => next,
                Some(None) => return true,
                None => return false,
            };
        }
    }

    /// Makes a dead letter of a job whose verdict can't be written. False if the grace is
    /// over.
    async fn give_up(&self, job: &Job, reason: &str) -> bool {
        let reason = format!("PostgreSQL refused the verdict on this job: {reason}");
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

    /// Publishes a message once, and pauses if it wasn't confirmed. `None` if the grace is
    /// over.
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
            () = self.grace_over.cancelled() => return None,
        };
        let pause = backoff.next();
        warn!(error = %unconfirmed, ?pause, "RabbitMQ did not confirm a job; publishing it again after the pause");
        tokio::time::sleep(pause).await;
        Some(Err(unconfirmed))
    }

    /// Publishes the job that follows from one that RabbitMQ has delivered again, if there is
    /// one, and acks the old job.
    pub async fn queue_successor(&self, job: Job, receipt: Receipt) {
        // Another job of the same message may have kept this one from being acked for long after
        // its retry or deferral was published. So another dispatcher may be sending that one.
        let wait_for_next = match receipt.is_of_a_bundle() {
            true => self.times.until_recorded(job.webhook).max(LATE),
            false => LATE,
        };
        match self.tickets.successor(&job, wait_for_next).await {
            Some(Some(next)) => self.delay(next, receipt).await,
            Some(None) => {
                metrics().jobs_stale.inc();
                receipt.ack();
            }
            None => receipt.give_back(),
        }
    }

    /// Publishes a job that isn't due yet to its next delay queue, and acks the old message.
    pub async fn delay(&self, job: Job, receipt: Receipt) {
        if self.queue(job).await {
            receipt.ack();
        }
    }
}

/// How many verdicts don't wait for others.
fn enough(concurrency: usize) -> usize {
    (concurrency / ENOUGH_OF_ALL).clamp(1, ENOUGH)
}

/// Waits until there are enough verdicts, but not for longer than [`GATHERING`].
async fn gather(
    settlements: &mut mpsc::Receiver<Settlement>,
    arrived: &mut Vec<Settlement>,
    enough: usize,
) {
    let end = Instant::now() + GATHERING;
    while arrived.len() < enough {
        let more = settlements.recv_many(arrived, BATCH - arrived.len());
        match timeout_at(end, more).await {
            Ok(1..) => {}
            // Nobody sends any more, or the time is over.
            Ok(0) | Err(_) => return,
        }
    }
}

/// How many verdicts of these sizes are written together: at least one, and as many as have
/// [`BATCH_BYTES`] together.
fn batch_len(sizes: impl Iterator<Item = usize>) -> usize {
    let ends = sizes.scan(0_usize, |sum, size| {
        *sum = sum.saturating_add(size);
        Some(*sum)
    });
    ends.take_while(|end| *end <= BATCH_BYTES).count().max(1)
}

fn count(job: &Job, verdict: &Verdict, ended_at: OffsetDateTime) {
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
                let latency = ended_at - job.began_at();
                metrics().latency_seconds.observe(latency.as_seconds_f64());
            }
        }
    }
}

/// Logs an attempt, or the decision to make none.
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
        trace_id = job.trace.map(|trace| tracing::field::display(trace.parent.trace_id())),
        "{}",
        verdict.as_str()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_may_have_few_jobs_in_flight_does_not_let_them_wait() {
        let waits = |concurrency: usize| enough(concurrency) > 1;
        assert!(!waits(1) && !waits(8) && waits(16));
        assert_eq!((enough(16), enough(256), enough(4096)), (2, 32, 64));
    }

    #[test]
    fn a_batch_of_large_attempts_ends_at_eight_mebibytes() {
        let len = |sizes: &[usize]| batch_len(sizes.iter().copied());
        assert_eq!(len(&[1_000; BATCH]), BATCH);
        // As large as those of webhooks in debug mode may be.
        assert_eq!(len(&[(256 + 64) * 1024; BATCH]), 25);
        assert_eq!(len(&[BATCH_BYTES, 1]), 1);
        // One alone is written however large it is.
        assert_eq!(len(&[2 * BATCH_BYTES, 1]), 1);
        assert_eq!(len(&[1, BATCH_BYTES]), 1);
    }
}
