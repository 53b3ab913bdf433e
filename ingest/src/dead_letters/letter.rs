//! One dead letter: what it says about itself, and the message that replaying it publishes. Pure.
//!
//! A message that ingest refused has the reason and its origin in headers of ours
//! (`Outgoing::dead`); one that the broker gave up on has them in `x-death`.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use shared::amqp::{UNREADABLE_HEADER, Unreadable};
use shared::ids::{DeadLetterId, EventId, EventType, Malformed, Tenant};
use shared::job::{Job, bundle};
use shared::publish::{
    EXCHANGE_HEADER, Outgoing, REASON_HEADER, RETURNED_HEADER, ROUTING_KEY_HEADER, SHA256_HEADER,
    SIZE_HEADER, Whole, is_ours, is_the_producers, persistent, republished,
};
use shared::topology;
use time::OffsetDateTime;

use crate::invalid::{Gathered, Invalid, Invalids};

/// How much of a reason is kept, in characters.
const MAX_REASON: usize = 1_000;
/// What a row takes in bytes besides its texts, properties and body, indexes included.
/// Rounded up, so that many small letters are bounded too.
const ROW: usize = 2 * 1024;
/// The reason in `x-death` when RabbitMQ delivered a message too often without an ack.
const DELIVERY_LIMIT: &str = "delivery_limit";

/// The queue that a letter was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Messages that ingest or a dispatcher refused, or that the broker gave up on.
    Parking,
    /// Messages for which no queue was bound.
    Unrouted,
}

impl Origin {
    pub fn queue(self) -> &'static str {
        match self {
            Self::Parking => topology::PARKING_QUEUE,
            Self::Unrouted => topology::UNROUTED_QUEUE,
        }
    }

    /// Its name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parking => "parking",
            Self::Unrouted => "unrouted",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Its id, which contains the time at which it was taken from its queue.
    pub id: DeadLetterId,
    /// Which queue it was in.
    pub origin: Origin,
    /// Why it was refused.
    pub reason: String,
    /// The exchange that it was published to.
    pub exchange: String,
    /// The routing key that it was published with.
    pub routing_key: String,
    /// The tenant of its event, if that can be told.
    pub tenant: Option<Tenant>,
    /// The id that its producer gave it.
    pub message_id: Option<String>,
    /// Its properties, without what the broker and we added.
    pub properties: BasicProperties,
    /// Its body, or the beginning of it.
    pub body: Vec<u8>,
    /// The size and hash of the whole body, if only its beginning was kept.
    pub whole: Option<Whole>,
}

/// Why a letter can't be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Unreplayable {
    /// It was published to an exchange that isn't ours: replayed, it could only come back.
    #[error(
        "it was published to exchange `{0}`, which is none of Posthorn's: publish it anew, or discard it"
    )]
    Elsewhere(String),
    /// Only the beginning of its body was kept.
    #[error(
        "only the first {kept} of its {size} bytes were kept, because no event may be that large: discard it"
    )]
    Excerpt {
        /// The size of what was kept, in bytes.
        kept: usize,
        /// The size of the whole body, in bytes.
        size: u32,
    },
    /// The AMQP client can't read it as it was published.
    #[error("it is unreadable as it was published: replay it alone, with a new `routing_key`")]
    Unreadable,
    /// Its message has several jobs. A version without bundles stored it, or it would be one
    /// letter for each job ([`Letter::one_per_job`]).
    #[error(
        "discard it: it is a bundle of {0} jobs that an older version stored as one dead letter, and the sweeper makes new jobs for its deliveries"
    )]
    Bundle(usize),
}

impl Letter {
    /// Reads a message that was taken from a queue of dead letters.
    pub fn from_message(message: &Delivery, origin: Origin) -> Self {
        let headers = message.properties.headers().clone().unwrap_or_default();
        let here = || message.routing_key.to_string();
        let (reason, exchange, routing_key) = match (origin, last_death(&headers)) {
            (Origin::Unrouted, _) => (
                "no queue is bound for its routing key".to_owned(),
                message.exchange.to_string(),
                here(),
            ),
            // Dead-lettering keeps the routing key. Headers with our names are the producer's
            // here: believing them would let it speak for another tenant.
            (Origin::Parking, Some(death)) => (
                given_up(&text(death, "reason").unwrap_or_default()),
                fed_by(&text(death, "queue").unwrap_or_default()).to_owned(),
                here(),
            ),
            (Origin::Parking, None) => (
                text(&headers, REASON_HEADER).unwrap_or_else(|| "nobody said why".to_owned()),
                text(&headers, EXCHANGE_HEADER).unwrap_or_default(),
                text(&headers, ROUTING_KEY_HEADER).unwrap_or_else(here),
            ),
        };
        let (body, cut) = Whole::cut(&message.data);
        // Headers with our names are ours only on messages that we refused.
        let parked_by_us = origin == Origin::Parking && last_death(&headers).is_none();
        let whole = cut.or_else(|| parked_by_us.then(|| cut_before(&headers)).flatten());
        // The guard took it out just now, or whoever dead-lettered the message noted it.
        let taken_out = Unreadable::from_message(message);
        let reason = taken_out.as_ref().map_or(reason, ToString::to_string);
        let unreadable = taken_out.or_else(|| {
            parked_by_us
                .then(|| Unreadable::carried_by(&headers))
                .flatten()
        });
        let tenant = (exchange == topology::EVENTS)
            .then(|| routing_key.split_once('.')?.0.parse().ok())
            .flatten();
        let message_id = message.properties.message_id().as_ref();
        Self {
            id: DeadLetterId::generate(),
            origin,
            reason: storable(&reason).chars().take(MAX_REASON).collect(),
            exchange: storable(&exchange),
            routing_key: storable(&routing_key),
            tenant,
            message_id: message_id.map(|id| storable(id.as_str())),
            properties: bare(&message.properties, &headers, unreadable.as_ref()),
            body: body.to_vec(),
            whole,
        }
    }

    /// A letter for each job, if the message is a bundle of jobs. So each can be listed and
    /// replayed alone.
    pub fn one_per_job(self) -> Vec<Self> {
        let jobs = match self.is_to_be_a_job() {
            true => bundle::decode(&self.body).unwrap_or_default(),
            false => Vec::new(),
        };
        if jobs.len() < 2 {
            return vec![self];
        }
        let letter = |job: &Job| Self {
            id: DeadLetterId::generate(),
            message_id: Some(job.delivery.to_string()),
            body: job.encode(),
            ..self.clone()
        };
        jobs.iter().map(letter).collect()
    }

    /// The bytes that it takes in the table.
    pub fn weight(&self, properties: &[u8]) -> i32 {
        let texts = [&self.reason, &self.exchange, &self.routing_key];
        let texts: usize = texts.iter().map(|text| text.len()).sum();
        // Bodies are cut, and properties fit into a frame: the sum is far below 2 GiB.
        (ROW + texts + properties.len() + self.body.len()) as i32
    }

    /// The tenant whose share of the table it takes: that of its event or job.
    pub fn owner(&self) -> Option<Tenant> {
        let jobs = [topology::JOBS, topology::RETRY].contains(&self.exchange.as_str());
        let of_job = || Some(Job::decode(&self.body).ok()?.tenant);
        self.tenant.clone().or_else(|| jobs.then(of_job).flatten())
    }

    /// What is known of the message if the AMQP client couldn't read it.
    pub fn unreadable(&self) -> Option<Unreadable> {
        Unreadable::carried_by(self.properties.headers().as_ref()?)
    }

    /// Whether it was published to an exchange for jobs.
    pub fn is_to_be_a_job(&self) -> bool {
        [topology::JOBS, topology::RETRY].contains(&self.exchange.as_str())
    }

    /// The event to publish in place of an unreadable one.
    pub fn repaired(&self, repair: &Repair) -> Outgoing {
        // At most 29 bytes: a TypeID.
        let id = repair.message_id.as_ref().map(ToString::to_string);
        let id = id.unwrap_or_else(|| self.id.to_string());
        let mut properties = persistent().with_message_id(id.into());
        if let Some(content_type) = &repair.content_type {
            properties = properties.with_content_type(content_type.clone());
        }
        Outgoing {
            exchange: topology::EVENTS,
            routing_key: repair.routing_key.clone(),
            properties,
            body: self.body.clone(),
        }
    }

    /// The job, if the broker gave up on it, or a dispatcher couldn't write its verdict. Any
    /// other job that was dead-lettered can't be read.
    pub fn job_given_up(&self) -> Option<Job> {
        let is_one = self.origin == Origin::Parking && self.exchange == topology::JOBS;
        is_one.then(|| Job::decode(&self.body).ok()).flatten()
    }

    /// The job, if the letter is a readable job from one of our queues.
    pub fn job(&self) -> Option<Job> {
        let is_one = [topology::JOBS, topology::RETRY].contains(&self.exchange.as_str());
        is_one.then(|| Job::decode(&self.body).ok()).flatten()
    }

    /// The event to publish once more, if RabbitMQ gave up on one for the first time.
    ///
    /// A process that crashed fifty times needn't have crashed because of this event: each
    /// crash counts for all events that it held. An event that is given up on a second time
    /// stays a dead letter, because one that does crash processes must not go round for ever.
    pub fn once_more(&self, message: &Delivery) -> Option<Outgoing> {
        let headers = message.properties.headers().as_ref()?;
        let death = last_death(headers).and_then(|death| text(death, "reason"));
        let is_first =
            death.as_deref() == Some(DELIVERY_LIMIT) && !headers.contains_key(RETURNED_HEADER);
        let is_event = self.origin == Origin::Parking && self.exchange == topology::EVENTS;
        if !is_first || !is_event || self.whole.is_some() || self.unreadable().is_some() {
            return None;
        }
        let mut headers = self.properties.headers().clone().unwrap_or_default();
        headers.insert(RETURNED_HEADER.into(), AMQPValue::Boolean(true));
        Some(Outgoing {
            exchange: topology::EVENTS,
            routing_key: message.routing_key.clone(),
            properties: republished(&self.properties, headers),
            body: message.data.clone(),
        })
    }

    /// The message that replaying the letter publishes.
    ///
    /// An event without an id gets the letter's, so that a second replay is recognised as a
    /// duplicate. A job becomes due now. Its due time is its ticket, so its row must have the
    /// same one before the job is published (see `tickets::take_tickets`).
    ///
    /// # Errors
    /// If it can't be replayed: only an excerpt was kept, the message is unreadable (see
    /// [`Letter::repaired`]), it is a bundle of jobs, or it wasn't published to one of our
    /// exchanges.
    pub fn again(&self, now: OffsetDateTime, shards: u16) -> Result<Outgoing, Unreplayable> {
        if let Some(whole) = &self.whole {
            return Err(Unreplayable::Excerpt {
                kept: self.body.len(),
                size: whole.size,
            });
        }
        if self.unreadable().is_some() {
            return Err(Unreplayable::Unreadable);
        }
        let elsewhere = || Unreplayable::Elsewhere(self.exchange.clone());
        let exchange = match self.exchange.as_str() {
            topology::EVENTS => topology::EVENTS,
            topology::JOBS | topology::RETRY => {
                if let Some(mut job) = self.job() {
                    job.recheck = true;
                    job.due_at = now;
                    job.late = None;
                    return Ok(Outgoing::job(&job, now, shards));
                }
                // A dispatcher doesn't look the jobs of a new bundle up before it sends them. It
                // would send deliveries again that are finished.
                if let Ok(jobs) = bundle::decode(&self.body) {
                    return Err(Unreplayable::Bundle(jobs.len()));
                }
                topology::JOBS
            }
            _ => return Err(elsewhere()),
        };
        let headers = self.properties.headers().clone().unwrap_or_default();
        // Letters of earlier versions may have a user id.
        let mut properties = republished(&self.properties, headers);
        if properties.message_id().is_none() {
            // At most 29 bytes: a TypeID.
            properties = properties.with_message_id(self.id.to_string().into());
        }
        Ok(Outgoing {
            exchange,
            routing_key: ShortString::try_new(self.routing_key.as_str())
                .map_err(|_| elsewhere())?,
            properties,
            body: self.body.clone(),
        })
    }
}

/// A routing key and properties to replace unreadable ones.
#[derive(Debug)]
pub struct Repair {
    routing_key: ShortString,
    message_id: Option<EventId>,
    content_type: Option<ShortString>,
}

impl Repair {
    /// Checks each part.
    ///
    /// # Errors
    /// Names each part that is wrong or missing, and says what it must be.
    pub fn new(
        routing_key: Option<&str>,
        message_id: Option<&str>,
        content_type: Option<&str>,
    ) -> Result<Self, Invalids> {
        let mut wrong = Gathered::default();
        let routing_key = wrong.keep(read_routing_key(routing_key));
        let message_id = message_id.map(str::parse::<EventId>).transpose();
        let message_id = message_id.map_err(|error| Invalid::new("message_id", error));
        let message_id = wrong.take(message_id);
        let content_type = content_type.map(|text| short("content_type", text));
        let content_type = wrong.take(content_type.transpose());
        wrong.finish_with(routing_key.map(|routing_key| Self {
            routing_key,
            message_id,
            content_type,
        }))
    }
}

fn read_routing_key(text: Option<&str>) -> Result<ShortString, Invalid> {
    const FIELD: &str = "routing_key";
    let text = text.ok_or_else(|| Invalid::missing(FIELD))?;
    let (tenant, event_type) = text
        .split_once('.')
        .ok_or_else(|| Invalid::new(FIELD, "must be `<tenant>.<event type>`"))?;
    let wrong = |error: Malformed| Invalid::new(FIELD, error);
    tenant.parse::<Tenant>().map_err(wrong)?;
    event_type.parse::<EventType>().map_err(wrong)?;
    short(FIELD, text)
}

fn short(field: &str, text: &str) -> Result<ShortString, Invalid> {
    ShortString::try_new(text).map_err(|_| Invalid::new(field, "must have at most 255 bytes"))
}

fn given_up(reason: &str) -> String {
    match reason {
        DELIVERY_LIMIT => "whoever took it failed every time".to_owned(),
        _ => format!("RabbitMQ gave it up: {reason}"),
    }
}

/// The exchange that feeds one of our queues.
fn fed_by(queue: &str) -> &'static str {
    if queue == topology::INGEST_QUEUE || topology::OVERFLOW_QUEUES.contains(&queue) {
        topology::EVENTS
    } else if queue.starts_with("posthorn.jobs.") {
        topology::JOBS
    } else {
        ""
    }
}

/// The broker's note about the queue in which it gave up on the message. The newest note is
/// the first.
fn last_death(headers: &FieldTable) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else {
        return None;
    };
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(death) => Some(death),
        _ => None,
    }
}

/// The size and hash that were noted when the body was cut.
fn cut_before(headers: &FieldTable) -> Option<Whole> {
    let AMQPValue::LongLongInt(size) = headers.inner().get(SIZE_HEADER)? else {
        return None;
    };
    let mut sha256 = [0; 32];
    hex::decode_to_slice(text(headers, SHA256_HEADER)?, &mut sha256).ok()?;
    let size = u32::try_from(*size).ok()?;
    Some(Whole { size, sha256 })
}

fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// PostgreSQL's text has no U+0000.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The properties that the producer set. If they are unreadable, the only header is what is
/// known of them.
fn bare(
    properties: &BasicProperties,
    headers: &FieldTable,
    unreadable: Option<&Unreadable>,
) -> BasicProperties {
    if let Some(unreadable) = unreadable {
        let mut known = FieldTable::default();
        known.insert(UNREADABLE_HEADER.into(), unreadable.to_value());
        return persistent().with_headers(known);
    }
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner() {
        let ours = is_ours(name.as_str()) || name.as_str().starts_with(UNREADABLE_HEADER);
        if is_the_producers(name.as_str()) && !ours {
            kept.insert(name.clone(), value.clone());
        }
    }
    republished(properties, kept)
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests;
