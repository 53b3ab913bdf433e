//! A job: the message that carries a delivery to a dispatcher.
//!
//! `ingest` writes the job of the first attempt. `dispatcher` writes the jobs of
//! retries and deferrals, and its sweeper replaces lost jobs. `dispatcher` reads them.
//! A job is a version byte, then MessagePack. It carries ids, times and a small payload,
//! never a URL or a secret: the dispatcher looks those up when it is about to send, so
//! that they are current. Several first attempts can share a message ([`bundle`]).
//!
//! `due_at` is the job's ticket. The row of the delivery has the same value for as long
//! as the delivery waits for this job. A late copy of a job keeps the ticket of its
//! original, and [`Job::late`] says how long the copy waits for the original.

pub mod bundle;
pub mod per_message;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;

use crate::dialect::Since;
use crate::ids::{DeliveryId, EventId, EventType, EventUid, Tenant, WebhookId};
use crate::trace::JobTrace;

/// The first byte of every job.
const VERSION: u8 = 1;

/// What an id takes in a message, in bytes: 128 bits, and what says so.
const AN_ID: usize = 18;

/// The largest payload that a job carries, in bytes. The dispatcher reads a larger
/// one from PostgreSQL.
pub const MAX_INLINE: usize = 16 * 1024;

/// The message that carries one attempt of a delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub delivery: DeliveryId,
    pub webhook: WebhookId,
    pub tenant: Tenant,
    /// Posthorn's key of the event.
    pub event_uid: EventUid,
    /// The producer's id of the event: the message id that receivers see.
    pub event_id: EventId,
    pub event_type: EventType,
    /// When the event happened, as its producer says.
    #[serde(with = "unix_micros")]
    pub occurred_at: OffsetDateTime,
    /// The number of the attempt, from 1.
    pub attempt: u16,
    /// The time before which the job must not be sent. It is also the job's ticket,
    /// see the module's text.
    #[serde(with = "unix_micros")]
    pub due_at: OffsetDateTime,
    /// Another copy of this job may exist, so look up the row before sending.
    pub recheck: bool,
    pub payload: Payload,
    /// Set if the delivery was restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Set if this job is a copy whose original may still be on its way. It is the
    /// last field of the message: a reader that doesn't know late copies stops
    /// before it.
    #[serde(skip)]
    pub late: Option<Late>,
    /// The trace that the job belongs to. It is in the headers of the message. A job that is
    /// made from a row has none.
    #[serde(skip)]
    pub trace: Option<JobTrace>,
}

/// How long a late copy waits for its original.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Late {
    /// Until a dispatcher takes the copy. By then every job that was published
    /// before it has been taken, too. From there on the dispatcher sets a time.
    Behind,
    /// Until this time.
    Until(#[serde(with = "unix_micros")] OffsetDateTime),
}

/// The restart of a finished delivery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// The number of attempts before the restart. The retry schedule counts from
    /// there.
    pub attempts_before: u16,
    /// The time of the restart. The delivery's age counts from there.
    #[serde(with = "unix_micros")]
    pub at: OffsetDateTime,
}

/// Where the event's data and CloudEvents attributes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// In the job.
    Inline(Content),
    /// In the event's row.
    Stored,
}

/// What a producer published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The producer's JSON text.
    pub data: String,
    /// CloudEvents attributes, as an object.
    pub attributes: Option<Value>,
}

impl Payload {
    /// Puts the content into the job if it is small enough.
    #[must_use]
    pub fn from_data(data: &str, attributes: Option<&Value>) -> Self {
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

/// What `Job::read` reads of a delivery `d`, for an SQL statement.
#[macro_export]
macro_rules! job_delivery_columns {
    () => {
        "d.id, d.webhook_id, d.event_uid, d.attempts, d.attempts_before, d.restarted_at"
    };
}

/// What `Job::read` reads of the delivery's event `e`, for an SQL statement. The
/// parameter is `Job::ENOUGH_DATA`.
#[macro_export]
macro_rules! job_event_columns {
    ($enough_data:literal) => {
        concat!(
            "e.tenant, e.id AS event_id, e.type, e.occurred_at, left(e.data, ",
            $enough_data,
            ") AS data, e.attributes"
        )
    };
}

/// Bytes that aren't a job this version understands.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    #[error("the job is empty")]
    Empty,
    /// The job was written by a newer (or much older) version.
    #[error("the job has version {0}, this dispatcher reads versions 1 and 2")]
    Version(u8),
    /// A bundle with more jobs than any version writes.
    #[error("the message has too many jobs")]
    TooMany,
    /// Not MessagePack, or other fields than a job's.
    #[error("the job's fields cannot be read")]
    Fields(#[source] rmp_serde::decode::Error),
}

impl Job {
    /// [`Job::read`] needs at most this many characters of an event's data. Data cut
    /// to this length still doesn't fit into a job if the whole doesn't. So a batch
    /// of large events is read with little memory.
    pub const ENOUGH_DATA: i32 = MAX_INLINE as i32 + 1;

    /// The job of a delivery's next attempt, from the rows of the delivery and its event
    /// ([`job_delivery_columns`],
    /// [`job_event_columns`]). Another copy of it may exist.
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
            payload: Payload::from_data(row.get("data"), attributes.as_ref()),
            restart: row
                .get::<_, Option<OffsetDateTime>>("restarted_at")
                .map(|at| Restart {
                    attempts_before: count("attempts_before"),
                    at,
                }),
            late: None,
            trace: None,
        }
    }

    /// The start of the delivery's age: when the event was accepted, or when the
    /// delivery was restarted.
    #[must_use]
    pub fn began_at(&self) -> OffsetDateTime {
        self.restart
            .map_or_else(|| self.delivery.accepted_at(), |restart| restart.at)
    }

    /// From when the delivery's age counts. A restarted one is as young as its restart, and
    /// no event is younger than its acceptance.
    #[must_use]
    pub fn ages_from(&self, since: Since) -> OffsetDateTime {
        match since {
            Since::OccurredAt if self.restart.is_none() => self.occurred_at.min(self.began_at()),
            _ => self.began_at(),
        }
    }

    /// The number of this attempt since the start or restart, from 1, as the retry
    /// schedule counts.
    #[must_use]
    pub fn attempt_since_began(&self) -> u16 {
        let before = self.restart.map_or(0, |restart| restart.attempts_before);
        self.attempt.saturating_sub(before).max(1)
    }

    /// Whether this is the very first attempt of a delivery. It was due when its
    /// event was accepted, so it is due now, whatever a clock shows.
    #[must_use]
    pub fn is_first_try(&self) -> bool {
        self.attempt == 1 && self.restart.is_none() && self.due_at == self.delivery.accepted_at()
    }

    /// When the job may be sent: at its due time, or at a late copy's own time.
    #[must_use]
    pub fn when(&self) -> OffsetDateTime {
        match self.late {
            Some(Late::Until(at)) => self.due_at.max(at),
            Some(Late::Behind) | None => self.due_at,
        }
    }

    /// The time until the job may be sent; zero or less if it may be sent now.
    #[must_use]
    pub fn wait(&self, now: OffsetDateTime) -> Duration {
        if self.is_first_try() && self.late.is_none() {
            return Duration::ZERO;
        }
        self.when() - now
    }

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

    /// Reads a job from a message.
    ///
    /// # Errors
    /// If the bytes aren't a job of this version.
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
    event: EventUid,
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
        let event = job.event_uid;
        Self { event, head, rest }
    }

    /// The size of one of the messages, in bytes.
    fn size(&self) -> usize {
        self.head.len() + 2 * AN_ID + self.rest.len()
    }

    /// The message's bytes, as [`Job::encode`] writes them.
    #[must_use]
    pub fn encode(&self, delivery: DeliveryId, webhook: WebhookId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        bytes.push(self.head[0]);
        self.write(delivery, webhook, &mut bytes);
        bytes
    }

    /// Writes one of the messages without the version.
    fn write(&self, delivery: DeliveryId, webhook: WebhookId, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.head[1..]);
        let written = rmp_serde::encode::write(bytes, &delivery)
            .and_then(|()| rmp_serde::encode::write(bytes, &webhook));
        if let Err(error) = written {
            // Writing two ids to memory has no way to fail.
            unreachable!("a job's ids could not be encoded: {error}");
        }
        bytes.extend_from_slice(&self.rest);
    }
}

/// Reads one value and leaves the rest.
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
mod tests;
