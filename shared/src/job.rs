//! A job: the message that carries a delivery to a dispatcher.
//!
//! Written by `ingest` (first try), by `dispatcher` (retries, deferrals) and by
//! its sweeper; read by `dispatcher`. A version byte, then MessagePack. It
//! carries ids, times and a small payload, never a URL or a secret: those are
//! looked up when the job is about to be sent, so that they are current.
//!
//! `due_at` is the job's ticket: its delivery's row has the same one for as long
//! as this is the job that the delivery waits for. A late copy keeps the ticket of
//! its original, and says in [`Job::late`] how long it leaves the original alone.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;

use crate::ids::{DeliveryId, EventId, EventType, EventUid, Tenant, WebhookId};

/// The first byte of every job.
const VERSION: u8 = 1;

/// What an id takes in a message, in bytes: 128 bits, and what says so.
const AN_ID: usize = 18;

/// Payloads up to this many bytes travel in the job; larger ones are read from
/// PostgreSQL by the dispatcher.
pub const MAX_INLINE: usize = 16 * 1024;

/// A delivery on its way to an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Which delivery this is.
    pub delivery: DeliveryId,
    /// Where it goes.
    pub webhook: WebhookId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Posthorn's key of the event.
    pub event_uid: EventUid,
    /// The producer's id of the event: the message id that receivers see.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// When the producer says it happened.
    #[serde(with = "unix_micros")]
    pub occurred_at: OffsetDateTime,
    /// The attempt that this job stands for, from 1.
    pub attempt: u16,
    /// Not to be attempted before this moment; and the job's ticket, see above.
    #[serde(with = "unix_micros")]
    pub due_at: OffsetDateTime,
    /// Another copy of this job may exist: look at the row before sending.
    pub recheck: bool,
    /// The event's data and attributes.
    pub payload: Payload,
    /// If the delivery was finished and began again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// If this is a copy whose original may still be on its way. It follows the
    /// fields above in the message, where a reader that knows no copies stops reading.
    #[serde(skip)]
    pub late: Option<Late>,
}

/// How long a copy leaves its original alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Late {
    /// Until a dispatcher takes it: then every job that was published before it has
    /// been taken as well. From there on the dispatcher gives it a moment.
    Behind,
    /// Until this moment.
    Until(#[serde(with = "unix_micros")] OffsetDateTime),
}

/// Where a delivery that was finished began again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// How many attempts there had been: the schedule counts from there.
    pub attempts_before: u16,
    /// When: its age counts from there.
    #[serde(with = "unix_micros")]
    pub at: OffsetDateTime,
}

/// Where the event's data and CloudEvents attributes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// Here.
    Inline(Content),
    /// In the event's row.
    Stored,
}

/// What a producer published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The producer's JSON text.
    pub data: String,
    /// CloudEvents attributes, an object.
    pub attributes: Option<Value>,
}

impl Payload {
    /// Inline if small enough.
    #[must_use]
    pub fn of(data: &str, attributes: Option<&Value>) -> Self {
        let size = data.len() + attributes.map_or(0, |attributes| attributes.to_string().len());
        if size <= MAX_INLINE {
            Self::Inline(Content {
                data: data.to_owned(),
                attributes: attributes.cloned(),
            })
        } else {
            Self::Stored
        }
    }
}

/// Bytes that aren't a job this version understands.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The message is empty.
    #[error("the job is empty")]
    Empty,
    /// Written by a newer (or much older) Posthorn.
    #[error("the job has version {0}, this dispatcher reads version {VERSION}")]
    Version(u8),
    /// Not MessagePack, or not a job's fields.
    #[error("the job's fields cannot be read")]
    Fields(#[source] rmp_serde::decode::Error),
}

impl Job {
    /// So many characters of an event's data are enough for [`Job::read`]: cut to
    /// this, data that doesn't fit into a job still doesn't, and a batch of large
    /// events is read in little memory.
    pub const ENOUGH_DATA: i32 = MAX_INLINE as i32 + 1;

    /// Of a delivery's next attempt, from the rows of the delivery and its event:
    /// `id, webhook_id, event_uid, attempts, attempts_before, restarted_at` of the
    /// one, `tenant, event_id, type, occurred_at, data, attributes` of the other.
    /// Where it is read from a row, another copy of it may exist.
    #[must_use]
    pub fn read(row: &Row, due_at: OffsetDateTime) -> Self {
        let count = |column: &str| row.get::<_, i16>(column) as u16;
        let attributes: Option<Value> = row.get("attributes");
        Self {
            delivery: row.get("id"),
            webhook: row.get("webhook_id"),
            tenant: row.get("tenant"),
            event_uid: row.get("event_uid"),
            event_id: row.get("event_id"),
            event_type: row.get("type"),
            occurred_at: row.get("occurred_at"),
            attempt: count("attempts") + 1,
            due_at,
            recheck: true,
            payload: Payload::of(row.get("data"), attributes.as_ref()),
            restart: row
                .get::<_, Option<OffsetDateTime>>("restarted_at")
                .map(|at| Restart {
                    attempts_before: count("attempts_before"),
                    at,
                }),
            late: None,
        }
    }

    /// What the age limit counts from: when the event was accepted, or when the
    /// delivery began again.
    #[must_use]
    pub fn began_at(&self) -> OffsetDateTime {
        self.restart
            .map_or_else(|| self.delivery.accepted_at(), |restart| restart.at)
    }

    /// Which attempt this is, as the schedule counts them, from 1.
    #[must_use]
    pub fn attempt_since_began(&self) -> u16 {
        let before = self.restart.map_or(0, |restart| restart.attempts_before);
        self.attempt.saturating_sub(before).max(1)
    }

    /// Whether it is a delivery's very first try: due when its event was accepted,
    /// which is over, whatever a clock says.
    #[must_use]
    pub fn is_first_try(&self) -> bool {
        self.attempt == 1 && self.restart.is_none() && self.due_at == self.delivery.accepted_at()
    }

    /// When it may be attempted: when it is due, and a late copy at its own moment.
    #[must_use]
    pub fn when(&self) -> OffsetDateTime {
        match self.late {
            Some(Late::Until(at)) => self.due_at.max(at),
            Some(Late::Behind) | None => self.due_at,
        }
    }

    /// How long until it may be attempted; zero or less when it may be now.
    #[must_use]
    pub fn wait(&self, now: OffsetDateTime) -> Duration {
        if self.is_first_try() && self.late.is_none() {
            return Duration::ZERO;
        }
        self.when() - now
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(VERSION);
        let mut written = rmp_serde::encode::write(&mut bytes, self);
        if let Some(late) = &self.late {
            written = written.and_then(|()| rmp_serde::encode::write(&mut bytes, late));
        }
        if let Err(error) = written {
            // Writing plain fields to memory has no way to fail.
            unreachable!("a job could not be encoded: {error}");
        }
        bytes
    }

    /// Reads a message's bytes.
    ///
    /// # Errors
    /// If they aren't a job of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        match bytes.split_first() {
            None => Err(Undecodable::Empty),
            Some((&VERSION, mut fields)) => {
                let mut job: Self = read(&mut fields)?;
                if !fields.is_empty() {
                    job.late = Some(read(&mut fields)?);
                }
                Ok(job)
            }
            Some((&version, _)) => Err(Undecodable::Version(version)),
        }
    }
}

/// The messages of one event's first tries. They differ in their deliveries and webhooks
/// alone, and those come first in a message: so the rest is written once.
#[derive(Debug)]
pub struct FirstTries {
    /// The version, and how many fields there are.
    head: Vec<u8>,
    /// What follows the delivery and the webhook.
    rest: Vec<u8>,
}

impl FirstTries {
    /// Of the event that one of these jobs is for.
    #[must_use]
    pub fn like(job: &Job) -> Self {
        let mut head = job.encode();
        let mut rest = head.split_off(2);
        rest.drain(..2 * AN_ID);
        Self { head, rest }
    }

    /// The message's bytes, as [`Job::encode`] writes them.
    #[must_use]
    pub fn encode(&self, delivery: DeliveryId, webhook: WebhookId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head.len() + 2 * AN_ID + self.rest.len());
        bytes.extend_from_slice(&self.head);
        let ids = (delivery, webhook);
        let written = rmp_serde::encode::write(&mut bytes, &ids.0)
            .and_then(|()| rmp_serde::encode::write(&mut bytes, &ids.1));
        if let Err(error) = written {
            // Writing two ids to memory has no way to fail.
            unreachable!("a job's ids could not be encoded: {error}");
        }
        bytes.extend_from_slice(&self.rest);
        bytes
    }
}

/// Reads one value and leaves what follows it.
fn read<T: serde::de::DeserializeOwned>(fields: &mut &[u8]) -> Result<T, Undecodable> {
    rmp_serde::from_read(fields).map_err(Undecodable::Fields)
}

mod unix_micros {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::OffsetDateTime;

    pub(super) fn serialize<S: Serializer>(at: &OffsetDateTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64((at.unix_timestamp_nanos() / 1_000) as i64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<OffsetDateTime, D::Error> {
        let micros = i64::deserialize(d)?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn job() -> Job {
        let event_uid = EventUid::at(datetime!(2026-11-22 10:00 UTC));
        Job {
            delivery: DeliveryId::of(event_uid),
            webhook: WebhookId::generate(),
            tenant: "acme".parse().unwrap(),
            event_uid,
            event_id: event_uid.into(),
            event_type: "order.created".parse().unwrap(),
            occurred_at: datetime!(2026-11-22 09:59:59.123456 UTC),
            attempt: 3,
            due_at: datetime!(2026-11-22 10:05 UTC),
            recheck: true,
            payload: Payload::of(
                r#"{"price":25.00}"#,
                Some(&serde_json::json!({"source": "/shop", "tier": 3})),
            ),
            restart: None,
            late: None,
        }
    }

    #[test]
    fn a_job_survives_its_bytes() {
        let until = Late::Until(datetime!(2026-11-22 10:06:00.123456 UTC));
        for late in [None, Some(Late::Behind), Some(until)] {
            let job = Job { late, ..job() };
            assert_eq!(Job::decode(&job.encode()).unwrap(), job);
        }
    }

    #[test]
    fn an_events_first_tries_are_written_like_any_job() {
        let mut job = job();
        let tries = FirstTries::like(&job);
        for _ in 0..3 {
            job.delivery = DeliveryId::of(job.event_uid);
            job.webhook = WebhookId::generate();
            assert_eq!(tries.encode(job.delivery, job.webhook), job.encode());
        }
    }

    #[test]
    fn a_reader_from_before_there_were_late_copies_reads_one_as_the_job_that_it_copies() {
        let original = job();
        let copy = Job {
            late: Some(Late::Behind),
            ..original.clone()
        };
        // How it reads, and all the fields that it knows.
        let read: Job = rmp_serde::from_slice(&copy.encode()[1..]).unwrap();
        assert_eq!(read, original);
    }

    #[test]
    fn a_late_copy_waits_for_its_own_moment_and_keeps_its_ticket() {
        let at = job().due_at + Duration::minutes(1);
        let copy = Job {
            late: Some(Late::Until(at)),
            ..job()
        };
        assert_eq!((copy.when(), copy.due_at), (at, job().due_at));
        // One of a job that isn't due yet is no earlier than that.
        let at = job().due_at - Duration::minutes(1);
        let copy = Job {
            late: Some(Late::Until(at)),
            ..job()
        };
        assert_eq!(copy.when(), job().due_at);
    }

    #[test]
    fn a_delivery_that_begins_again_counts_from_there() {
        let at = datetime!(2026-12-24 10:00 UTC);
        let again = Job {
            attempt: 12,
            restart: Some(Restart {
                attempts_before: 10,
                at,
            }),
            ..job()
        };
        let again = Job::decode(&again.encode()).unwrap();
        assert_eq!((again.attempt_since_began(), again.began_at()), (2, at));
        assert_eq!(job().attempt_since_began(), 3);
        assert_eq!(job().began_at(), datetime!(2026-11-22 10:00 UTC));
    }

    #[test]
    fn a_first_try_waits_for_no_clock() {
        let mut first = Job {
            attempt: 1,
            ..job()
        };
        first.due_at = first.delivery.accepted_at();
        let slow_clock = first.due_at - Duration::minutes(3);
        assert_eq!(first.wait(slow_clock), Duration::ZERO);
        let deferred = Job {
            due_at: first.due_at + Duration::seconds(1),
            ..first.clone()
        };
        assert!(deferred.wait(slow_clock) > Duration::minutes(3));
        let retry = Job {
            attempt: 2,
            ..first
        };
        assert_eq!(retry.wait(slow_clock), Duration::minutes(3));
    }

    #[test]
    fn a_job_of_another_version_is_refused_by_number() {
        let mut bytes = job().encode();
        bytes[0] = 9;
        assert!(
            Job::decode(&bytes)
                .unwrap_err()
                .to_string()
                .contains("version 9")
        );
    }

    #[test]
    fn a_large_payload_stays_in_postgres() {
        assert_eq!(
            Payload::of(&"x".repeat(MAX_INLINE + 1), None),
            Payload::Stored
        );
        let attributes = serde_json::json!({"subject": "x".repeat(MAX_INLINE)});
        assert_eq!(Payload::of("{}", Some(&attributes)), Payload::Stored);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Job::decode(&bytes);
            let _ = Job::decode(&[&[VERSION], bytes.as_slice()].concat());
        }

        #[test]
        fn no_damaged_job_panics(
            at in any::<prop::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 1..9),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut damaged = job().encode();
            let at = at.index(damaged.len());
            damaged.splice(at..(at + bytes.len()).min(damaged.len()), bytes);
            let _ = Job::decode(&damaged[..cut.index(damaged.len())]);
            if let Ok(job) = Job::decode(&damaged) {
                // Whatever it says, it can be asked and queued.
                let now = datetime!(2026-11-22 10:00 UTC);
                let _ = (job.attempt_since_began(), job.began_at());
                let _ = crate::publish::Outgoing::job(&job, now, 3);
            }
        }
    }
}
