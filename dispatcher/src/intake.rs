//! Jobs are taken from the queues; each goes its way in a task of its own.
//!
//! [`take`] runs once per shard and session. [`carry`] is a job's whole way
//! through the dispatcher, stage by stage, and outlives the session it came
//! from: what has been POSTed is settled even if the broker is gone by then.

use std::sync::Arc;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::{Channel, Consumer};
use serde_json::Value;
use shared::amqp::Unreadable;
use shared::attempt::{Attempt, Keep, Purpose};
use shared::clock;
use shared::dialect::Message;
use shared::job::{Content, Job, Late};
use shared::publish::Outgoing;
use shared::receipts::{Held, Receipt};
use shared::topology;
use tokio::sync::OwnedSemaphorePermit;
use tracing::error;

use crate::admit::{Admission, admit, wait_for_other_copy};
use crate::judge::{Case, judge, struggles};
use crate::metrics::metrics;
use crate::run::Dispatcher;
use crate::settle::Settlement;

/// Takes a shard's jobs until the process is told to stop.
///
/// # Errors
/// If the consumer fails or is cancelled by the broker.
pub async fn take(
    dispatcher: &Arc<Dispatcher>,
    shard: u16,
    channel: Channel,
    mut jobs: Consumer,
) -> anyhow::Result<()> {
    let held = Held::new(channel);
    loop {
        let message = tokio::select! {
            message = jobs.next() => message,
            () = dispatcher.stop.cancelled() => return Ok(()),
        };
        let message = match message {
            Some(message) => message?,
            None => anyhow::bail!("RabbitMQ cancelled the consumer of shard {shard}"),
        };
        metrics().jobs_taken.inc();
        let receipt = held.take(message.delivery_tag);
        // At most as many as the prefetch, but for those of a lost session.
        let Ok(permit) = dispatcher.places.clone().acquire_owned().await else {
            anyhow::bail!("the dispatcher's places were closed");
        };
        let dispatcher = dispatcher.clone();
        let tasks = dispatcher.tasks.clone();
        tasks.spawn(async move { receive(dispatcher, shard, message, receipt, permit).await });
    }
}

/// Reads a message; one that isn't a job is parked.
async fn receive(
    dispatcher: Arc<Dispatcher>,
    shard: u16,
    message: Delivery,
    receipt: Receipt,
    _held: OwnedSemaphorePermit,
) {
    let read = match Unreadable::of(&message) {
        // Without a look into it: sessions may have ended at it.
        Some(unreadable) => Err(unreadable.to_string()),
        None => {
            Job::decode(&message.data).map_err(|reason| format!("{:#}", anyhow::Error::new(reason)))
        }
    };
    match read {
        Ok(mut job) => {
            dispatcher.watermarks.saw(shard, job.due_at);
            // And so is whatever follows from it.
            job.recheck |= message.redelivered;
            if job.late == Some(Late::Behind) {
                // Its original, if there is one, was taken before it.
                let until = clock::now() + dispatcher.time_of_an_attempt(job.webhook);
                job.late = Some(Late::Until(until));
            }
            carry(&dispatcher, job, receipt, message.redelivered).await;
        }
        Err(reason) => {
            error!(reason, message_id = ?message.properties.message_id(), "a job cannot be read; parking it");
            metrics().jobs_parked.inc();
            if dispatcher
                .publisher
                .publish(Outgoing::dead(&message, &reason))
                .await
                .is_ok()
            {
                receipt.ack();
            } else {
                receipt.give_back();
            }
        }
    }
}

/// A job's way: due? admitted? attempted, judged, settled.
async fn carry(dispatcher: &Dispatcher, job: Job, receipt: Receipt, redelivered: bool) {
    let wait = job.wait(clock::now());
    if topology::tier(wait).is_some() {
        // It may be on its next trip already.
        return match redelivered {
            true => dispatcher.settler.succeed(job, receipt).await,
            false => dispatcher.settler.park(job, receipt).await,
        };
    }
    if let Ok(remainder) = std::time::Duration::try_from(wait) {
        tokio::time::sleep(remainder).await;
    }

    let Some(mark) = dispatcher.under_way.mark(job.delivery) else {
        let verdict = wait_for_other_copy();
        let held = dispatcher.tasks.token();
        let copy = Settlement {
            job,
            verdict,
            report: None,
            asked: None,
            receipt,
            mark: None,
            held,
        };
        return dispatcher.settle(copy).await;
    };
    let (verdict, report, asked) = match admit(dispatcher, &job).await {
        Admission::Ready {
            endpoint,
            dialect,
            content,
            place,
        } => {
            // It waited for its place, and RabbitMQ has handed it on meanwhile.
            if receipt.is_void() {
                return;
            }
            let under_way = InFlight::start();
            let webhook = &endpoint.webhook;
            let timeout = endpoint.timeout(&dispatcher.defaults, &dialect);
            let report = dispatcher
                .sender
                .attempt(Attempt {
                    message: &message(&job, &content),
                    webhook,
                    dialect: &dialect,
                    timeout,
                    purpose: Purpose::Delivery,
                    keep: if webhook.debug_mode {
                        Keep::Everything
                    } else {
                        Keep::Excerpt
                    },
                })
                .await;
            drop(under_way);
            let now = clock::now();
            place.leave(struggles(&report.result), report.took, now);
            metrics()
                .attempts
                .with_label_values(&[report.outcome()])
                .inc();
            metrics().attempt_seconds.observe(report.took.as_secs_f64());
            let case = Case {
                attempt: job.attempt_since_began(),
                began_at: job.began_at(),
                now,
                answers: &dialect.policy().answers,
                max_age: endpoint.max_age(&dialect),
                schedule: &endpoint.schedule(&dispatcher.defaults, &dialect),
                random: fastrand::f64(),
            };
            (
                judge(&report.result, case),
                Some(report),
                Some(endpoint.webhook.clone()),
            )
        }
        Admission::Decided(verdict) => (verdict, None, None),
        // Perhaps by whoever had it before, up to its row and no further.
        Admission::Stale if redelivered => {
            drop(mark);
            return dispatcher.settler.succeed(job, receipt).await;
        }
        Admission::Stale => {
            metrics().jobs_stale.inc();
            return receipt.ack();
        }
        Admission::GiveBack => return receipt.give_back(),
    };
    let held = dispatcher.tasks.token();
    dispatcher
        .settle(Settlement {
            job,
            verdict,
            report,
            asked,
            receipt,
            mark: Some(mark),
            held,
        })
        .await;
}

fn message<'a>(job: &'a Job, content: &'a Content) -> Message<'a> {
    Message {
        event_id: &job.event_id,
        event_type: &job.event_type,
        occurred_at: job.occurred_at,
        data: &content.data,
        attributes: content.attributes.as_ref().and_then(Value::as_object),
        tenant: &job.tenant,
        webhook_id: job.webhook,
        delivery_id: job.delivery,
    }
}

/// Keeps the gauge of requests under way.
struct InFlight;

impl InFlight {
    fn start() -> Self {
        metrics().in_flight.inc();
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics().in_flight.dec();
    }
}
