//! Puts the jobs of first attempts into messages, as many into one as a [`Bundle`] holds.

use std::sync::Arc;

use super::outgoing::Outgoing;
use crate::ids::{DeliveryId, WebhookId};
use crate::job::FirstTries;
use crate::job::bundle::Bundle;
use crate::topology::shard_of;
use crate::trace::JobTrace;

/// The job of a delivery's first attempt.
#[derive(Debug, Clone)]
pub struct FirstTry {
    /// What it has in common with the others of its event.
    pub tries: Arc<FirstTries>,
    pub delivery: DeliveryId,
    pub webhook: WebhookId,
    pub trace: Option<JobTrace>,
}

/// The messages for these jobs, made as they are taken. A message has jobs of one shard
/// and of one trace, and at most `most_jobs` of them.
pub fn bundled(
    jobs: impl Iterator<Item = FirstTry>,
    shards: u16,
    most_jobs: usize,
) -> impl Iterator<Item = Outgoing> {
    Bundled {
        jobs,
        open: (0..shards.max(1)).map(|_| None).collect(),
        shards,
        most_jobs,
    }
}

struct Bundled<I> {
    jobs: I,
    /// By shard: the bundle that the next job goes to, and its trace.
    open: Vec<Option<(Bundle, Option<JobTrace>)>>,
    shards: u16,
    most_jobs: usize,
}

impl<I: Iterator<Item = FirstTry>> Iterator for Bundled<I> {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        for job in self.jobs.by_ref() {
            let shard = shard_of(job.webhook, self.shards);
            let open = &mut self.open[usize::from(shard)];
            if let Some((bundle, trace)) = open
                && *trace == job.trace
                && bundle.has_room_for(&job.tries, self.most_jobs)
            {
                bundle.add(&job.tries, job.delivery, job.webhook);
                continue;
            }
            let begun = Bundle::new(&job.tries, job.delivery, job.webhook);
            if let Some((full, trace)) = open.replace((begun, job.trace)) {
                return Some(Outgoing::bundle(full, trace.as_ref(), shard));
            }
        }
        let mut open = self.open.iter_mut().enumerate();
        open.find_map(|(shard, open)| {
            let (last, trace) = open.take()?;
            Some(Outgoing::bundle(last, trace.as_ref(), shard as u16))
        })
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use time::OffsetDateTime;

    use super::*;
    use crate::ids::EventUid;
    use crate::job::bundle::{self, MOST_JOBS};
    use crate::job::{Job, Payload};
    use crate::trace::TraceContext;

    /// The first attempts of an event at so many webhooks.
    fn first_tries(webhooks: usize, trace: Option<JobTrace>) -> Vec<FirstTry> {
        let event_uid = EventUid::at(OffsetDateTime::now_utc());
        let job = |delivery: DeliveryId| Job {
            delivery,
            webhook: WebhookId::generate(),
            tenant: "acme".parse().unwrap(),
            event_uid,
            event_id: event_uid.into(),
            event_type: "order.created".parse().unwrap(),
            occurred_at: OffsetDateTime::now_utc(),
            attempt: 1,
            due_at: delivery.accepted_at(),
            recheck: false,
            payload: Payload::from_data("{}", None),
            restart: None,
            late: None,
            trace: None,
        };
        let jobs = std::iter::repeat_with(|| job(DeliveryId::for_event(event_uid)));
        let jobs: Vec<_> = jobs.take(webhooks).collect();
        let tries = Arc::new(FirstTries::like(&jobs[0]));
        let first_try = |job: &Job| FirstTry {
            tries: tries.clone(),
            delivery: job.delivery,
            webhook: job.webhook,
            trace,
        };
        jobs.iter().map(first_try).collect()
    }

    fn read(message: &Outgoing) -> Vec<Job> {
        bundle::decode(&message.body).unwrap()
    }

    #[test]
    fn every_job_is_in_one_message_of_its_shard() {
        let jobs: Vec<_> = [1, 40, 3, 1, 7]
            .into_iter()
            .flat_map(|webhooks| first_tries(webhooks, None))
            .collect();
        for (shards, most_jobs) in [(1, MOST_JOBS), (3, MOST_JOBS), (3, 1)] {
            let messages: Vec<_> = bundled(jobs.iter().cloned(), shards, most_jobs).collect();
            let mut found = Vec::new();
            for message in &messages {
                let jobs = read(message);
                assert!(jobs.len() <= most_jobs);
                for job in &jobs {
                    let shard = shard_of(job.webhook, shards);
                    assert_eq!(message.routing_key.as_str(), format!("0.{shard}"));
                }
                found.extend(jobs.iter().map(|job| job.delivery));
            }
            let all: BTreeSet<_> = jobs.iter().map(|job| job.delivery).collect();
            assert_eq!(found.len(), jobs.len());
            assert_eq!(BTreeSet::from_iter(found), all);
            // Each bundle but the last of its shard is full.
            let least = jobs.len().div_ceil(most_jobs);
            assert!(messages.len() < least + usize::from(shards));
        }
    }

    #[test]
    fn a_message_has_jobs_of_one_trace() {
        let trace = || JobTrace {
            parent: TraceContext::parse(
                format!("00-{:032x}-{:016x}-01", fastrand::u128(1..), 7).as_bytes(),
            )
            .unwrap(),
            since: OffsetDateTime::UNIX_EPOCH,
        };
        let traces = [None, Some(trace()), Some(trace()), None];
        let jobs = traces.into_iter().flat_map(|trace| first_tries(2, trace));
        let messages: Vec<_> = bundled(jobs, 1, MOST_JOBS).collect();
        assert_eq!(messages.len(), 4);
        for (message, trace) in messages.iter().zip(traces) {
            let headers = message.properties.headers().as_ref();
            let is = JobTrace::of_headers(headers, OffsetDateTime::UNIX_EPOCH);
            assert_eq!(is.map(|is| is.parent), trace.map(|trace| trace.parent));
            assert_eq!(read(message).len(), 2);
        }
    }
}
