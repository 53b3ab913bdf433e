//! Publishes messages with publisher confirms, many in flight at a time.
//!
//! [`publish_all`] is for a stage that owns a channel and has a batch. [`Publisher`]
//! is for all other code: any task hands it a message and waits for the confirm of
//! that message. [`Publications`] publishes the messages that have gathered, on the
//! channel of the current session.

use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::amqp::Unconfirmed;
use crate::amqp::{UNREADABLE_HEADER, Unreadable};
use crate::clock;
use crate::ids::{DeliveryId, WebhookId};
use crate::job::{FirstTries, Job};
use crate::tenant::LARGEST_MESSAGE;
use crate::topology;
use crate::trace::JobTrace;

/// How many messages may wait for a session.
const WAITING: usize = 4096;
/// How many messages are sent before their confirms are awaited.
const BATCH: usize = 1024;
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

    /// One of an event's first tries, on its way to its shard's queue.
    #[must_use]
    pub fn first_try(
        tries: &FirstTries,
        delivery: DeliveryId,
        webhook: WebhookId,
        trace: Option<&JobTrace>,
        shards: u16,
    ) -> Self {
        let now = delivery.accepted_at();
        let (exchange, routing_key) =
            topology::route(now, now, topology::shard_of(webhook, shards));
        Self {
            exchange,
            routing_key: routing_key.into(),
            properties: job_properties(delivery, trace),
            body: tries.encode(delivery, webhook),
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
        if let Some(unreadable) = Unreadable::of(message) {
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

/// Publishes a batch and waits for every confirm. The results have the order of the
/// batch.
pub async fn publish_all(channel: &Channel, batch: &[Outgoing]) -> Vec<Result<(), Unconfirmed>> {
    // `join_all` first polls the publishes in order, in this task. At that time
    // lapin numbers them and queues their frames.
    join_all(batch.iter().map(|message| publish(channel, message))).await
}

async fn publish(channel: &Channel, message: &Outgoing) -> Result<(), Unconfirmed> {
    let confirmation = channel
        .basic_publish(
            message.exchange.into(),
            message.routing_key.clone(),
            BasicPublishOptions::default(),
            &message.body,
            message.properties.clone(),
        )
        .await
        .map_err(Unconfirmed::Lost)?
        .await
        .map_err(Unconfirmed::Lost)?;
    if confirmation.is_ack() {
        Ok(())
    } else {
        Err(Unconfirmed::Refused)
    }
}

struct Request {
    message: Outgoing,
    confirmed: oneshot::Sender<Result<(), Unconfirmed>>,
}

/// Accepts messages from any task. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    served: watch::Receiver<bool>,
    shards: u16,
}

/// The other end of every [`Publisher`]. Its owner calls `serve` with a channel of
/// each session, one after the other.
pub struct Publications {
    requests: mpsc::Receiver<Request>,
    /// Whether there is a session.
    served: watch::Sender<bool>,
}

impl Publisher {
    /// A publisher and its serving end. Its jobs go to one of `shards` queues each.
    #[must_use]
    pub fn new(shards: u16) -> (Self, Publications) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (serving, served) = watch::channel(false);
        (
            Self {
                requests: sender,
                served,
                shards,
            },
            Publications {
                requests: receiver,
                served: serving,
            },
        )
    }

    /// The number of jobs queues.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Waits until there is a session, for those who had better not begin
    /// without one.
    ///
    /// # Errors
    /// If there will never be one: the process is stopping.
    pub async fn session(&self) -> Result<(), Unconfirmed> {
        let mut served = self.served.clone();
        let there = served.wait_for(|served| *served).await;
        there.map(|_| ()).map_err(|_| Unconfirmed::Unavailable)
    }

    /// Publishes jobs and waits for their confirms; answers how many have none.
    pub async fn publish_jobs(&self, jobs: &[Job]) -> usize {
        let now = clock::now();
        let all = jobs
            .iter()
            .map(|job| self.publish(Outgoing::job(job, now, self.shards)));
        join_all(all)
            .await
            .iter()
            .filter(|one| one.is_err())
            .count()
    }

    /// Publishes and waits for the confirm. Without a session it waits for one.
    ///
    /// # Errors
    /// If the broker refused the message, or if the confirm was lost.
    pub async fn publish(&self, message: Outgoing) -> Result<(), Unconfirmed> {
        let (confirmed, answer) = oneshot::channel();
        self.requests
            .send(Request { message, confirmed })
            .await
            .map_err(|_| Unconfirmed::Unavailable)?;
        answer.await.map_err(|_| Unconfirmed::Unavailable)?
    }
}

impl Publications {
    /// Publishes messages until the channel fails or every [`Publisher`] is gone.
    ///
    /// # Errors
    /// If the channel failed. The senders of messages in flight were told so.
    /// Messages that still wait go to the next session.
    pub async fn serve(&mut self, channel: &Channel) -> anyhow::Result<()> {
        let _served = Served::begin(&self.served);
        let mut requests = Vec::new();
        while self.requests.recv_many(&mut requests, BATCH).await > 0 {
            let (messages, answers): (Vec<_>, Vec<_>) = requests
                .drain(..)
                .map(|request| (request.message, request.confirmed))
                .unzip();
            let results = publish_all(channel, &messages).await;
            let lost = results.iter().find_map(|result| match result {
                Err(Unconfirmed::Lost(error)) => Some(error.clone()),
                _ => None,
            });
            for (answer, result) in answers.into_iter().zip(results) {
                // The sender may have stopped waiting.
                let _ = answer.send(result);
            }
            if let Some(error) = lost {
                return Err(anyhow::Error::new(error).context("publishing messages"));
            }
        }
        Ok(())
    }
}

/// While this value lives, there is a session. `serve` is cancelled when a session
/// ends, so no statement after it could mark the end; dropping this value does.
struct Served<'a>(&'a watch::Sender<bool>);

impl<'a> Served<'a> {
    fn begin(served: &'a watch::Sender<bool>) -> Self {
        served.send_replace(true);
        Self(served)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

#[cfg(test)]
mod tests;
