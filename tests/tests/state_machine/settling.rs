//! A dispatcher that takes jobs, decides on verdicts at random, and settles them or crashes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dispatcher::deliver::deferral_of_copy;
use dispatcher::in_flight::InFlight;
use dispatcher::judge::{Deferral, GaveUp, Timing, TooOld, Verdict};
use dispatcher::record::Recorded;
use dispatcher::settlement::Settlement;
use dispatcher::ticket::LATE;
use shared::attempt::{Answer, Failure, Report};
use shared::dialect::Since;
use shared::ids::{DeliveryId, WebhookId};
use shared::job::{Job, Late};
use shared::seal::Keyring;
use shared::webhook::Webhook;
use time::OffsetDateTime;

use crate::machine::Machine;

impl Machine {
    /// A dispatcher takes some jobs and settles them, or crashes meanwhile.
    pub(crate) async fn settle(&mut self, crashes: bool) {
        let mut jobs = Vec::new();
        for _ in 0..self.dice.usize(1..=4) {
            if self.bag.is_empty() {
                break;
            }
            let at = self.dice.usize(..self.bag.len());
            jobs.push(self.bag.swap_remove(at));
        }
        let in_flight = InFlight::default();
        let mut batch = Vec::new();
        for job in &jobs {
            batch.push(self.settlement(job.clone(), &in_flight).await);
        }
        let told: Vec<String> = batch
            .iter()
            .map(|one| {
                format!(
                    "{} n={} {:?}",
                    one.job.delivery, one.job.attempt, one.verdict
                )
            })
            .collect();
        self.say(format!("settle (crashes: {crashes}) {told:#?}"));
        let expected: BTreeSet<DeliveryId> = batch
            .iter()
            .filter(|one| one.mark.is_some() && self.rows[&one.job.delivery].waits_for(&one.job))
            .map(|one| one.job.delivery)
            .collect();

        let recorded = if crashes {
            let polls = self.dice.usize(..60);
            dropped_after(self.recorder.record(&batch), polls).await
        } else {
            self.recorder.record(&batch).await
        };
        let wrote = match &recorded {
            Some(Recorded { applied, .. }) => {
                let applied: BTreeSet<_> = applied.iter().copied().collect();
                assert_eq!(applied, expected, "{}", self.history());
                true
            }
            // All of it is written or nothing: one row tells.
            None => {
                let rows = self.read().await;
                expected.iter().any(|id| rows[id] != self.rows[id])
            }
        };
        if wrote {
            for one in &batch {
                if expected.contains(&one.job.delivery) && one.mark.is_some() {
                    self.count(one);
                }
            }
        }
        let finishes = recorded.is_some() && self.dice.u32(..5) > 0;
        if let (Some(recorded), true) = (recorded, finishes) {
            self.say("…and queued what follows");
            for one in batch {
                if one.mark.is_none() || expected.contains(&one.job.delivery) {
                    self.bag.extend(follows(one));
                }
            }
            self.bag.extend(recorded.announcements);
        } else {
            // Its connection is lost. The broker still has the jobs, and the next
            // dispatcher makes sure that the follow-up job of each exists.
            for mut job in jobs {
                let tickets = &self.tickets;
                if tickets.claim(&mut job).await.unwrap() {
                    self.bag.push(Job {
                        recheck: true,
                        ..job
                    });
                } else if let Some(next) = tickets.successor(&job, LATE).await.unwrap() {
                    self.bag.push(next);
                }
            }
        }
        self.check_jobs(&expected).await;
    }

    pub(crate) async fn settlement(&mut self, job: Job, in_flight: &InFlight) -> Settlement {
        let mark = in_flight.mark(job.delivery);
        let (verdict, report) = match mark {
            Some(_) => self.verdict(),
            None => (deferral_of_copy(), None),
        };
        let webhook_as_sent = match verdict {
            Verdict::Failed(GaveUp::Gone) => Some(self.webhook(job.webhook).await),
            _ => None,
        };
        Settlement {
            job,
            verdict,
            report,
            webhook_as_sent,
            receipt: self.held.take(0),
            mark,
            held: self.tasks.token(),
            spans: None,
        }
    }

    fn verdict(&mut self) -> (Verdict, Option<Report>) {
        let now = OffsetDateTime::now_utc();
        let at = now + Duration::from_secs(self.dice.u64(..10_000));
        let answered = |status| {
            Some(report(Ok(Answer {
                status,
                ..Answer::default()
            })))
        };
        match self.dice.u32(..14) {
            0 | 1 => (Verdict::Delivered, answered(200)),
            2 => (Verdict::Failed(GaveUp::Exhausted), answered(500)),
            3 => (Verdict::Failed(GaveUp::Refused), answered(400)),
            4 => (Verdict::Failed(GaveUp::Gone), answered(410)),
            5 => {
                let too_old = TooOld {
                    limit: time::Duration::WEEK,
                    since: Since::AcceptedAt,
                };
                // Before an attempt, or after the last one that the age limit allows.
                let attempt = if self.dice.bool() {
                    answered(500)
                } else {
                    None
                };
                (Verdict::Expired(too_old), attempt)
            }
            6 => (Verdict::Cancelled, None),
            7 => (Verdict::Held, None),
            8 => {
                let because = Deferral::EndpointFull;
                (Verdict::Deferred { until: at, because }, None)
            }
            9 => {
                let because = Timing::RetryAfter;
                (Verdict::RetryAt { at, because }, answered(503))
            }
            _ => {
                let failures = [
                    Failure::Timeout,
                    Failure::Dns("nobody\0there".to_owned()),
                    Failure::Broken("…".to_owned()),
                ];
                let failure = failures[self.dice.usize(..failures.len())].clone();
                let because = Timing::Schedule;
                (Verdict::RetryAt { at, because }, Some(report(Err(failure))))
            }
        }
    }

    async fn webhook(&self, id: WebhookId) -> Arc<Webhook> {
        let keys = Keyring::from_base64(["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]).unwrap();
        let sql = format!("SELECT {} FROM webhooks WHERE id = $1", Webhook::COLUMNS);
        let row = self.sql.query_one(&sql, &[&id]).await.unwrap();
        Arc::new(Webhook::read(&row, &keys).unwrap())
    }

    pub(crate) fn count(&mut self, one: &Settlement) {
        let ends = match one.verdict {
            Verdict::Delivered | Verdict::Failed(_) | Verdict::Expired(_) | Verdict::Cancelled => {
                Some(one.verdict.as_str())
            }
            Verdict::RetryAt { .. } | Verdict::Deferred { .. } | Verdict::Held => None,
        };
        for what in ends
            .into_iter()
            .chain(one.report.as_ref().map(Report::outcome))
        {
            *self.counted.entry(what.to_owned()).or_default() += 1;
        }
    }
}

/// The job that follows from a verdict, as the dispatcher publishes it.
fn follows(
    Settlement {
        job, verdict, mark, ..
    }: Settlement,
) -> Option<Job> {
    match verdict {
        Verdict::RetryAt { at, .. } => Some(Job {
            attempt: job.attempt + 1,
            due_at: at,
            recheck: false,
            late: None,
            ..job
        }),
        Verdict::Deferred { until, .. } if mark.is_none() => Some(Job {
            recheck: true,
            late: Some(Late::Until(until)),
            ..job
        }),
        Verdict::Deferred { until, .. } => Some(Job {
            due_at: until,
            recheck: true,
            late: None,
            ..job
        }),
        _ => None,
    }
}

pub(crate) fn report(result: Result<Answer, Failure>) -> Report {
    Report {
        request: None,
        started_at: OffsetDateTime::now_utc(),
        took: Duration::from_millis(3),
        remote: None,
        result,
    }
}

/// Drops a future after this many polls.
async fn dropped_after<T>(future: impl Future<Output = Option<T>>, polls: usize) -> Option<T> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context)
    })
    .await
}
