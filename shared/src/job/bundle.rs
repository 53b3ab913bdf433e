//! A bundle: one message with the jobs of several first attempts.
//!
//! RabbitMQ and its clients spend about as much on a message with one job as on a message with
//! sixteen. So the jobs that `ingest` makes of one batch share messages, up to [`MOST_JOBS`] in
//! each. No job waits for others: a batch that makes one job is published as one job.
//!
//! A bundle is the version byte 2, and then for each event: its first job, as
//! [`Job::encode`] writes it without the version; and an array with the delivery and the webhook
//! of each of its other jobs. So an event's data is written once, however many webhooks want it.
//!
//! A dispatcher that doesn't know bundles makes dead letters of them. So all dispatchers are
//! upgraded before the first `ingest` that writes bundles (docs/upgrading.md).

use super::{FirstTries, Job, Undecodable, read};
use crate::ids::{DeliveryId, EventUid, WebhookId};

/// The first byte of every bundle.
const VERSION: u8 = 2;
/// The most jobs in a bundle that is written. They all go to one dispatcher.
pub const MOST_JOBS: usize = 16;
/// The most bytes of a bundle, unless its first job alone has more.
const MOST_BYTES: usize = 64 * 1024;
/// The most jobs in a bundle that is read: more than any version of ours has written.
const MOST_READ: usize = 256;
/// The most bytes that a delivery's id and a webhook's id take: see `AN_ID`, and what says that
/// there are two.
const OTHER: usize = 2 * super::AN_ID + 1;

/// A bundle to which jobs are added.
#[derive(Debug)]
pub struct Bundle {
    bytes: Vec<u8>,
    jobs: usize,
    /// Of the first job.
    delivery: DeliveryId,
    /// The event of the latest job.
    event: EventUid,
    /// That event's jobs after its first one. They aren't in `bytes` yet.
    others: Vec<(DeliveryId, WebhookId)>,
}

impl Bundle {
    /// A bundle with one job.
    #[must_use]
    pub fn new(tries: &FirstTries, delivery: DeliveryId, webhook: WebhookId) -> Self {
        Self {
            bytes: tries.encode(delivery, webhook),
            jobs: 1,
            delivery,
            event: tries.event,
            others: Vec::new(),
        }
    }

    /// The delivery of its first job.
    #[must_use]
    pub fn first_delivery(&self) -> DeliveryId {
        self.delivery
    }

    /// Whether there is room for one of these jobs.
    #[must_use]
    pub fn has_room_for(&self, tries: &FirstTries, most_jobs: usize) -> bool {
        let other = match self.event == tries.event {
            true => OTHER,
            false => tries.size(),
        };
        let bytes = self.bytes.len() + (self.others.len() + 1) * OTHER + other;
        self.jobs < most_jobs && bytes <= MOST_BYTES
    }

    /// Adds a job.
    pub fn add(&mut self, tries: &FirstTries, delivery: DeliveryId, webhook: WebhookId) {
        self.jobs += 1;
        if self.event == tries.event {
            self.others.push((delivery, webhook));
            return;
        }
        self.write_others();
        tries.write(delivery, webhook, &mut self.bytes);
        self.event = tries.event;
    }

    /// The bytes of the message: a job's if there is one alone.
    #[must_use]
    pub fn encode(mut self) -> Vec<u8> {
        if self.jobs > 1 {
            self.write_others();
            self.bytes[0] = VERSION;
        }
        self.bytes
    }

    fn write_others(&mut self) {
        if let Err(error) = rmp_serde::encode::write(&mut self.bytes, &self.others) {
            // Writing ids to memory has no way to fail.
            unreachable!("the ids of a bundle could not be encoded: {error}");
        }
        self.others.clear();
    }
}

/// Reads the jobs of a message: of a bundle, or one.
///
/// # Errors
/// If the bytes are neither.
pub fn decode(bytes: &[u8]) -> Result<Vec<Job>, Undecodable> {
    let Some((&VERSION, mut fields)) = bytes.split_first() else {
        return Ok(vec![Job::decode(bytes)?]);
    };
    let mut jobs = Vec::new();
    while !fields.is_empty() {
        let job: Job = read(&mut fields)?;
        let others: Vec<(DeliveryId, WebhookId)> = read(&mut fields)?;
        if jobs.len() + 1 + others.len() > MOST_READ {
            return Err(Undecodable::TooMany);
        }
        let others = others.into_iter().map(|(delivery, webhook)| Job {
            delivery,
            webhook,
            ..job.clone()
        });
        let others: Vec<_> = others.collect();
        jobs.push(job);
        jobs.extend(others);
    }
    if jobs.is_empty() {
        return Err(Undecodable::Empty);
    }
    Ok(jobs)
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::job::Payload;

    /// A first attempt of an event with this much data.
    fn job(bytes: usize) -> Job {
        let event_uid = EventUid::at(datetime!(2026-11-22 10:00 UTC));
        let delivery = DeliveryId::for_event(event_uid);
        Job {
            delivery,
            webhook: WebhookId::generate(),
            tenant: "acme".parse().unwrap(),
            event_uid,
            event_id: event_uid.into(),
            event_type: "order.created".parse().unwrap(),
            occurred_at: datetime!(2026-11-22 09:59:59.123456 UTC),
            attempt: 1,
            due_at: delivery.accepted_at(),
            recheck: false,
            payload: Payload::from_data(&format!("\"{}\"", "x".repeat(bytes)), None),
            restart: None,
            late: None,
            trace: None,
        }
    }

    /// As many first attempts of this event.
    fn like(job: &Job, count: usize) -> Vec<Job> {
        let one = || Job {
            delivery: DeliveryId::for_event(job.event_uid),
            webhook: WebhookId::generate(),
            ..job.clone()
        };
        std::iter::repeat_with(one).take(count).collect()
    }

    fn bundle(jobs: &[Job]) -> Bundle {
        let mut all = jobs.iter();
        let first = all.next().unwrap();
        let mut bundle = Bundle::new(&FirstTries::like(first), first.delivery, first.webhook);
        for job in all {
            bundle.add(&FirstTries::like(job), job.delivery, job.webhook);
        }
        bundle
    }

    #[test]
    fn jobs_of_several_events_survive_their_bytes() {
        let jobs: Vec<_> = [(10, 3), (0, 1), (500, 12)]
            .into_iter()
            .flat_map(|(bytes, count)| like(&job(bytes), count))
            .collect();
        let bytes = bundle(&jobs).encode();
        assert_eq!(decode(&bytes).unwrap(), jobs);
        // The data of the third event is there once.
        let data = "x".repeat(500).into_bytes();
        let times = bytes.windows(data.len()).filter(|part| *part == data);
        assert_eq!(times.count(), 1);
    }

    #[test]
    fn one_job_is_written_as_a_job_that_every_version_reads() {
        let job = job(10);
        let bytes = bundle(std::slice::from_ref(&job)).encode();
        assert_eq!(bytes, job.encode());
        assert_eq!(decode(&bytes).unwrap(), [job]);
    }

    #[test]
    fn a_bundle_is_bounded_in_jobs_and_bytes() {
        let small = job(10);
        let tries = FirstTries::like(&small);
        let mut full = bundle(&like(&small, MOST_JOBS - 1));
        assert!(full.has_room_for(&tries, MOST_JOBS));
        full.add(&tries, small.delivery, small.webhook);
        assert!(!full.has_room_for(&tries, MOST_JOBS));

        let mut large = bundle(&like(&job(15_000), 2));
        while large.has_room_for(&FirstTries::like(&job(15_000)), MOST_JOBS) {
            let next = job(15_000);
            large.add(&FirstTries::like(&next), next.delivery, next.webhook);
        }
        // Four of 15 kB fit, with their other fields.
        assert_eq!(large.jobs, 5);
        assert!(large.encode().len() <= MOST_BYTES);
    }

    #[test]
    fn what_no_version_writes_is_refused() {
        assert!(matches!(decode(&[]), Err(Undecodable::Empty)));
        assert!(matches!(decode(&[VERSION]), Err(Undecodable::Empty)));
        assert!(matches!(decode(&[9]), Err(Undecodable::Version(9))));
        let too_many = bundle(&like(&job(0), MOST_READ + 1)).encode();
        assert!(matches!(decode(&too_many), Err(Undecodable::TooMany)));
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_no_reason_to_panic(
            cut in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = bundle(&like(&job(20), 3)).encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..cut.index(bytes.len())]);
        }
    }
}
