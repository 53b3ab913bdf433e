//! Messages to publish: jobs, and messages that are parked.
//!
//! A parked message keeps what is its producer's. What RabbitMQ or Posthorn would interpret
//! is left out or replaced.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::amqp::{UNREADABLE_HEADER, Unreadable};
use crate::ids::DeliveryId;
use crate::job::Job;
use crate::job::bundle::Bundle;
use crate::tenant::LARGEST_MESSAGE;
use crate::topology;
use crate::trace::JobTrace;

/// How many bytes of a producer's headers are kept with a parked message.
const MAX_HEADERS: usize = 32 * 1024;

/// The header with the reason why a message was parked.
pub const REASON_HEADER: &str = "x-posthorn-reason";

/// The longest reason, in characters, so that it fits into one frame with all other
/// headers.
const MAX_REASON: usize = 1_000;

/// The header with the exchange that a parked message was published to.
pub const EXCHANGE_HEADER: &str = "x-posthorn-exchange";

/// The header with the routing key that a parked message was published with.
pub const ROUTING_KEY_HEADER: &str = "x-posthorn-routing-key";

/// The header with the size of a parked message's whole body, in bytes, if only an
/// excerpt is parked.
pub const SIZE_HEADER: &str = "x-posthorn-size";

/// The header with the SHA-256 of that whole body, in hex.
pub const SHA256_HEADER: &str = "x-posthorn-sha256";

/// The header that marks an event that RabbitMQ gave up on and that was published
/// once more.
pub const RETURNED_HEADER: &str = "x-posthorn-returned";

/// Marks an event that came over HTTP. It says so in the log, and nothing else.
pub const HTTP_HEADER: &str = "x-posthorn-http";

/// All headers that Posthorn sets and trusts. A producer's headers with these names
/// are removed before Posthorn sets its own.
const OURS: [&str; 6] = [
    REASON_HEADER,
    EXCHANGE_HEADER,
    ROUTING_KEY_HEADER,
    SIZE_HEADER,
    SHA256_HEADER,
    RETURNED_HEADER,
];

/// The name prefix of queues that RabbitMQ creates for one connection.
const BROKERS_OWN: &str = "amq.rabbitmq.";

/// How many bytes are kept of a body that is too large for any event.
pub const EXCERPT: usize = 64 * 1024;

/// What is known about a body of which only an excerpt is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub size: u32,
    pub sha256: [u8; 32],
}

impl Whole {
    /// The part of a body to keep, and what is known about the whole body if it is
    /// too large for any event. Such a body can never be accepted, so it isn't worth
    /// the memory.
    #[must_use]
    pub fn cut(body: &[u8]) -> (&[u8], Option<Self>) {
        if body.len() <= LARGEST_MESSAGE {
            return (body, None);
        }
        let whole = Self {
            // RabbitMQ's largest message has 512 MiB.
            size: u32::try_from(body.len()).unwrap_or(u32::MAX),
            sha256: Sha256::digest(body).into(),
        };
        (&body[..EXCERPT], Some(whole))
    }
}

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub exchange: &'static str,
    pub routing_key: ShortString,
    /// The properties: persistent, and those that the sender sets.
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

impl Outgoing {
    /// A job for its shard's queue, now or after a delay.
    #[must_use]
    pub fn job(job: &Job, now: OffsetDateTime, shards: u16) -> Self {
        let shard = topology::shard_of(job.webhook, shards);
        let (exchange, routing_key) = topology::route(now + job.wait(now), now, shard);
        Self {
            exchange,
            routing_key: routing_key.into(),
            properties: job_properties(job.delivery, job.trace.as_ref()),
            body: job.encode(),
        }
    }

    /// The jobs of first attempts, on their way to their shard's queue.
    #[must_use]
    pub fn bundle(bundle: Bundle, trace: Option<&JobTrace>, shard: u16) -> Self {
        let delivery = bundle.first_delivery();
        let now = delivery.accepted_at();
        let (exchange, routing_key) = topology::route(now, now, shard);
        Self {
            exchange,
            routing_key: routing_key.into(),
            properties: job_properties(delivery, trace),
            body: bundle.encode(),
        }
    }

    /// A job that can't be finished, for the parking queue. As [`Outgoing::dead`],
    /// but for a job whose message isn't at hand any more.
    #[must_use]
    pub fn dead_job(job: &Job, reason: &str, shards: u16) -> Self {
        let now = Self::job(job, job.due_at, shards);
        let mut headers = FieldTable::default();
        set_origin(&mut headers, reason, now.exchange, now.routing_key.as_str());
        Self {
            exchange: topology::DEAD,
            properties: now.properties.with_headers(headers),
            ..now
        }
    }

    /// A message that can't be processed, for the parking queue. The reason is in
    /// the header `x-posthorn-reason`, the origin in `x-posthorn-exchange` and
    /// `x-posthorn-routing-key`. A body that is too large for any event is cut to an
    /// excerpt.
    #[must_use]
    pub fn dead(message: &lapin::message::Delivery, reason: &str) -> Self {
        let mut headers = FieldTable::default();
        let mut room = MAX_HEADERS;
        for (key, value) in message
            .properties
            .headers()
            .iter()
            .flat_map(|table| table.inner())
        {
            // All headers must fit into one frame, together with ours.
            let size = key.as_str().len() + format!("{value:?}").len();
            let ours = is_ours(key.as_str()) || key.as_str().starts_with(UNREADABLE_HEADER);
            if is_the_producers(key.as_str()) && !ours && size <= room {
                room -= size;
                headers.insert(key.clone(), value.clone());
            }
        }
        // The guard that wrote this header bounded it. No other bound applies,
        // because it is all that is known about such a message.
        if let Some(unreadable) = Unreadable::from_message(message) {
            headers.insert(UNREADABLE_HEADER.into(), unreadable.to_value());
        }
        let routing_key = message.routing_key.as_str();
        set_origin(&mut headers, reason, message.exchange.as_str(), routing_key);
        let (body, whole) = Whole::cut(&message.data);
        if let Some(whole) = whole {
            let size = AMQPValue::LongLongInt(whole.size.into());
            headers.insert(SIZE_HEADER.into(), size);
            let sha256 = AMQPValue::LongString(hex::encode(whole.sha256).into());
            headers.insert(SHA256_HEADER.into(), sha256);
        }
        Self {
            exchange: topology::DEAD,
            routing_key: message.routing_key.clone(),
            properties: republished(&message.properties, headers),
            body: body.to_vec(),
        }
    }
}

fn job_properties(delivery: DeliveryId, trace: Option<&JobTrace>) -> BasicProperties {
    let properties = persistent()
        // At most 30 bytes: a TypeID.
        .with_message_id(delivery.to_string().into())
        .with_type("posthorn.job".into());
    match trace {
        Some(trace) => properties.with_headers(trace.headers()),
        None => properties,
    }
}

/// Sets the headers with the reason and the origin of a parked message.
fn set_origin(headers: &mut FieldTable, reason: &str, exchange: &str, routing_key: &str) {
    // The reason may repeat a text from the producer.
    let cut = reason.char_indices().nth(MAX_REASON);
    let reason = cut.map_or(reason, |(at, _)| &reason[..at]);
    for (key, value) in [
        (REASON_HEADER, reason),
        (EXCHANGE_HEADER, exchange),
        (ROUTING_KEY_HEADER, routing_key),
    ] {
        headers.insert(key.into(), AMQPValue::LongString(value.into()));
    }
}

/// Whether a header is the producer's. Headers that RabbitMQ sets or interprets
/// aren't copied: a queue that finds itself in `x-death` treats the message as one
/// in a cycle, and `CC` routes.
#[must_use]
pub fn is_the_producers(name: &str) -> bool {
    let brokers = [
        "x-death",
        "x-delivery-count",
        "x-acquired-count",
        "CC",
        "BCC",
    ];
    !brokers.contains(&name)
        && !name.starts_with("x-first-death-")
        && !name.starts_with("x-last-death-")
}

/// Whether a header is one that Posthorn sets and trusts.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    OURS.contains(&name)
}

/// The properties for publishing a message again, with these headers. The expiry and
/// the user id are left out: RabbitMQ closes the channel if the user id isn't ours.
/// A reply queue of RabbitMQ's own is left out too: it belongs to another
/// connection, and RabbitMQ would close the channel.
#[must_use]
pub fn republished(original: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut properties = persistent().with_headers(headers);
    let is_the_brokers = |to: &ShortString| to.as_str().starts_with(BROKERS_OWN);
    macro_rules! copy {
        ($($with:ident: $value:expr),* $(,)?) => {$(
            if let Some(value) = $value.clone() {
                properties = properties.$with(value);
            }
        )*};
    }
    copy! {
        with_message_id: original.message_id(),
        with_content_type: original.content_type(),
        with_content_encoding: original.content_encoding(),
        with_correlation_id: original.correlation_id(),
        with_reply_to: original.reply_to().clone().filter(|to| !is_the_brokers(to)),
        with_timestamp: original.timestamp(),
        with_type: original.kind(),
        with_app_id: original.app_id(),
        with_priority: original.priority(),
    }
    properties
}

/// Properties of a message that survives a restart of the broker.
#[must_use]
pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

#[cfg(test)]
mod tests;
