//! One job's way through the dispatcher: due, admitted, attempted, judged, settled.
//!
//! A job comes in from `intake`. A [`Settlement`] goes out to `settle`, which records the
//! verdict and acks the job. Some jobs end here: one that isn't due yet goes to a delay
//! queue, one whose delivery is finished is acked, and a process that stops gives the rest
//! back to RabbitMQ.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::Value;
use shared::attempt::{Attempt, Failure, Keep, Purpose, Report, Sender};
use shared::clock;
use shared::dialect::Message;
use shared::job::{Content, Job, Late};
use shared::receipts::Receipt;
use shared::settings::Defaults;
use shared::topology;
use shared::webhook::Webhook;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::admit::{Admission, Admitted, Admitter};
use crate::attempt_times::AttemptTimes;
use crate::in_flight::{InFlight, Mark};
use crate::judge::{Attempted, Deferral, Verdict, judge, shows_overload};
use crate::metrics::metrics;
use crate::settle::Settler;
use crate::settlement::Settlement;
use crate::spans::{JobSpans, of_request};
use crate::spread::RetrySpread;

/// How long a copy of a job is deferred if this replica is working on another one.
const COPY_DEFERRAL: Duration = Duration::from_secs(2);

/// How long a job is deferred, at least, if this process has no free file descriptor, or no turn
/// to look up a name.
const OUR_LACK_DEFERRAL: Duration = Duration::from_secs(5);

/// Delivers jobs.
pub struct Deliverer {
    pub admitter: Admitter,
    pub in_flight: InFlight,
    /// The HTTP client.
    pub sender: Sender,
    /// Timeout and retries of webhooks that set none.
    pub defaults: Defaults,
    pub times: AttemptTimes,
    pub spread: RetrySpread,
    /// For jobs that need no settlement.
    pub settler: Arc<Settler>,
    /// To the settler.
    pub settlements: mpsc::Sender<Settlement>,
    /// A process that stops waits for the settlements that hold a token of this.
    pub tasks: TaskTracker,
}

impl Deliverer {
    /// Sees one job through. `redelivered`: RabbitMQ has delivered it before.
    pub async fn deliver(&self, mut job: Job, receipt: Receipt, redelivered: bool) {
        // A redelivered job may exist twice, and so may the job that follows from it.
        job.recheck |= redelivered;
        if job.late == Some(Late::Behind) {
            // The original, if there is one, was ahead of this copy in the queue, so it
            // has been taken by now. The copy waits until that attempt is on record.
            let until = clock::now() + self.times.until_recorded(job.webhook);
            job.late = Some(Late::Until(until));
        }
        let wait = job.wait(clock::now());
        if topology::tier(wait).is_some() {
            // A redelivered job may be in the next delay queue already.
            return match redelivered {
                true => self.settler.queue_successor(job, receipt).await,
                false => self.settler.delay(job, receipt).await,
            };
        }
        // A sleep of no time at all would end at the timer's next tick, a millisecond later.
        if let Ok(remainder) = Duration::try_from(wait)
            && !remainder.is_zero()
        {
            tokio::time::sleep(remainder).await;
        }

        let mut spans = JobSpans::begin(&job);
        let Some(mark) = self.in_flight.mark(job.delivery) else {
            let decided = Decided::without_attempt(deferral_of_copy());
            self.settle(job, decided, receipt, None, spans).await;
            return;
        };
        let admission = self.admitter.admit(&mut job).await;
        if let Some(spans) = &mut spans {
            spans.end_stage("admit");
        }
        match admission {
            Admission::Ready(admitted) => {
                // While the job waited for its permit, its channel may have closed. Then
                // RabbitMQ delivers it to another consumer.
                if receipt.is_void() {
                    return;
                }
                let decided = self.attempt(&job, admitted, spans.as_deref_mut()).await;
                self.settle(job, decided, receipt, Some(mark), spans).await;
            }
            Admission::Decided(verdict) => {
                let decided = Decided::without_attempt(verdict);
                self.settle(job, decided, receipt, Some(mark), spans).await;
            }
            // Whoever had the job before may have recorded its verdict without queueing
            // the job that follows.
            Admission::Superseded if redelivered => {
                drop(mark);
                self.settler.queue_successor(job, receipt).await;
            }
            Admission::Superseded => {
                metrics().jobs_stale.inc();
                receipt.ack();
            }
            Admission::Stopping => receipt.give_back(),
        }
    }

    /// Sends the request and judges what came back.
    async fn attempt(
        &self,
        job: &Job,
        admitted: Admitted,
        spans: Option<&mut JobSpans>,
    ) -> Decided {
        let Admitted {
            endpoint,
            dialect,
            content,
            permit,
        } = admitted;
        let webhook = &endpoint.webhook;
        let span = spans.as_ref().map(|spans| spans.attempt());
        let counted = CountedRequest::start();
        let report = self
            .sender
            .attempt(Attempt {
                message: &message(job, &content, webhook),
                webhook,
                dialect: &dialect,
                timeout: endpoint.timeout(&self.defaults, &dialect),
                purpose: Purpose::Delivery,
                egress: endpoint.tenant.egress_proxy.as_deref(),
                keep: if webhook.debug_mode {
                    Keep::Everything
                } else {
                    Keep::Excerpt
                },
                trace: of_request(span.as_ref(), job),
            })
            .await;
        drop(counted);
        if let (Some(spans), Some(span)) = (spans, span) {
            spans.end_attempt(span, &report);
        }
        if let Err(failure) = &report.result
            && failure.is_ours()
        {
            // The endpoint was not asked. Its limiter and its circuit learn nothing.
            drop(permit);
            return Decided::without_attempt(deferral_for_our_lack(failure, webhook));
        }
        let now = clock::now();
        permit.release(shows_overload(&report.result), report.took, now);
        metrics()
            .attempts
            .with_label_values(&[report.outcome()])
            .inc();
        metrics().attempt_seconds.observe(report.took.as_secs_f64());
        let max_age = endpoint.max_age(&dialect);
        let attempted = Attempted {
            attempt: job.attempt_since_began(),
            ages_from: job.ages_from(max_age.since),
            now,
            answers: &dialect.policy().answers,
            max_age,
            schedule: &endpoint.schedule(&self.defaults, &dialect),
            random: fastrand::f64(),
        };
        let mut verdict = judge(&report.result, attempted);
        if let Verdict::RetryAt { at, .. } = &mut verdict {
            let last = attempted.ages_from + max_age.limit;
            *at = self.spread.time_for(&job.tenant, now, *at, last);
        }
        Decided {
            verdict,
            webhook_as_sent: Some(endpoint.webhook.clone()),
            report: Some(report),
        }
    }

    /// Hands a verdict to the settler.
    async fn settle(
        &self,
        job: Job,
        decided: Decided,
        receipt: Receipt,
        mark: Option<Mark>,
        spans: Option<Box<JobSpans>>,
    ) {
        let settlement = Settlement {
            job,
            verdict: decided.verdict,
            report: decided.report,
            webhook_as_sent: decided.webhook_as_sent,
            receipt,
            mark,
            held: self.tasks.token(),
            spans,
        };
        // The channel is closed only after the shutdown grace. Then RabbitMQ delivers the
        // job again.
        let _ = self.settlements.send(settlement).await;
    }
}

/// A verdict, and the attempt that it is about.
struct Decided {
    verdict: Verdict,
    report: Option<Report>,
    webhook_as_sent: Option<Arc<Webhook>>,
}

impl Decided {
    fn without_attempt(verdict: Verdict) -> Self {
        Self {
            verdict,
            report: None,
            webhook_as_sent: None,
        }
    }
}

/// The verdict on a job of which this replica is working on another copy.
pub fn deferral_of_copy() -> Verdict {
    Verdict::Deferred {
        until: clock::now() + COPY_DEFERRAL,
        because: Deferral::InFlight,
    }
}

/// The verdict on a job whose endpoint could not be asked, because this process has too many
/// connections or lookups.
fn deferral_for_our_lack(lack: &Failure, webhook: &Webhook) -> Verdict {
    /// When this was last logged. One line a second is enough.
    static LOGGED: AtomicI64 = AtomicI64::new(0);
    let now = clock::now();
    let second = now.unix_timestamp();
    if *lack == Failure::NoDescriptor && LOGGED.swap(second, Ordering::Relaxed) != second {
        error!(
            webhook = %webhook.id,
            "this process has no free file descriptor; deliveries are deferred for 5 to 10 s. \
             Raise the limit (`LimitNOFILE=` of systemd, `ulimit -Hn`)"
        );
    }
    let pause = OUR_LACK_DEFERRAL.mul_f64(1.0 + fastrand::f64());
    Verdict::Deferred {
        until: now + pause,
        because: Deferral::EndpointFull,
    }
}

fn message<'a>(job: &'a Job, content: &'a Content, webhook: &'a Webhook) -> Message<'a> {
    Message {
        event_id: &job.event_id,
        event_type: &job.event_type,
        occurred_at: job.occurred_at,
        data: &content.data,
        attributes: content.attributes.as_ref().and_then(Value::as_object),
        tenant: &job.tenant,
        webhook_id: job.webhook,
        external_id: webhook.external_id.as_ref(),
        delivery_id: job.delivery,
    }
}

/// One request in the gauge of requests in flight, until it is dropped.
struct CountedRequest;

impl CountedRequest {
    fn start() -> Self {
        metrics().in_flight.inc();
        Self
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        metrics().in_flight.dec();
    }
}
