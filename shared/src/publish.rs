//! Publishing with confirms, many in flight at a time.
//!
//! [`publish_all`] is for a stage that owns a channel and has a batch.
//! [`Publisher`] is for everyone else: any task hands it a message and waits
//! for that message's confirm, while [`Publications`] puts whatever has
//! gathered on the current session's channel.

use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::job::Job;
use crate::topology;

/// How many messages may wait for a session.
const WAITING: usize = 4096;
/// How many messages are put on the wire before their confirms are awaited.
const BATCH: usize = 1024;
/// How much of a producer's headers is kept with a parked message, in bytes.
const MAX_HEADERS: usize = 32 * 1024;

/// Why a parked message was refused.
pub const REASON_HEADER: &str = "x-posthorn-reason";
/// The longest reason, in characters: a frame holds it with all other headers.
const MAX_REASON: usize = 1_000;
/// The exchange that a parked message was published to.
pub const EXCHANGE_HEADER: &str = "x-posthorn-exchange";
/// The routing key that a parked message was published with.
pub const ROUTING_KEY_HEADER: &str = "x-posthorn-routing-key";

/// A message on its way to an exchange.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to.
    pub exchange: &'static str,
    /// With which routing key.
    pub routing_key: ShortString,
    /// Persistent, and whatever the sender sets.
    pub properties: BasicProperties,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a message may not have been taken by the broker.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unconfirmed {
    /// The queue is full or has no quorum: certainly not taken.
    #[error("RabbitMQ refused the message")]
    Refused,
    /// The connection failed before the answer: perhaps taken.
    #[error("the connection to RabbitMQ failed before the message was confirmed")]
    Lost(#[source] lapin::Error),
    /// The process is stopping, or too much waits for RabbitMQ already.
    #[error("no connection to RabbitMQ")]
    Unavailable,
}

impl Outgoing {
    /// A job on its way to its shard's queue, now or after a delay.
    #[must_use]
    pub fn job(job: &Job, now: OffsetDateTime, shards: u16) -> Self {
        let shard = topology::shard_of(job.webhook, shards);
        let (exchange, routing_key) = topology::route(job.when(), now, shard);
        let properties = persistent()
            // At most 30 bytes: a TypeID.
            .with_message_id(job.delivery.to_string().into())
            .with_type("posthorn.job".into());
        Self {
            exchange,
            routing_key: routing_key.into(),
            properties,
            body: job.encode(),
        }
    }

    /// A message that can't be processed, on its way to the parking queue with
    /// the reason in the header `x-posthorn-reason`, and with where it came
    /// from in `x-posthorn-exchange` and `x-posthorn-routing-key`.
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
            // All headers have to fit into one frame, with ours among them.
            let size = key.as_str().len() + format!("{value:?}").len();
            if is_the_producers(key.as_str()) && size <= room {
                room -= size;
                headers.insert(key.clone(), value.clone());
            }
        }
        // It may repeat what the producer wrote.
        let cut = reason.char_indices().nth(MAX_REASON);
        let reason = cut.map_or(reason, |(at, _)| &reason[..at]);
        for (key, value) in [
            (REASON_HEADER, reason),
            (EXCHANGE_HEADER, message.exchange.as_str()),
            (ROUTING_KEY_HEADER, message.routing_key.as_str()),
        ] {
            headers.insert(key.into(), AMQPValue::LongString(value.into()));
        }
        // Not copied: an expiry, and a user id, which has to be the publisher's.
        let original = &message.properties;
        let mut properties = persistent().with_headers(headers);
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
            with_reply_to: original.reply_to(),
            with_timestamp: original.timestamp(),
            with_type: original.kind(),
            with_app_id: original.app_id(),
            with_priority: original.priority(),
        }
        Self {
            exchange: topology::DEAD,
            routing_key: message.routing_key.clone(),
            properties,
            body: message.data.clone(),
        }
    }
}

/// Headers that RabbitMQ sets or acts upon don't go along: a queue that finds
/// itself in `x-death` takes the message for one in a cycle, `CC` routes.
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

/// Properties of a message that survives a restart of the broker.
#[must_use]
pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// Publishes a batch and waits for every confirm. Answers in the given order.
pub async fn publish_all(channel: &Channel, batch: &[Outgoing]) -> Vec<Result<(), Unconfirmed>> {
    // All are first polled by this task, in order, which is when lapin numbers
    // them and queues their frames.
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

/// Takes messages from any task. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    served: watch::Receiver<bool>,
}

/// The other end of every [`Publisher`]: its owner serves it with a channel of
/// each session in turn.
pub struct Publications {
    requests: mpsc::Receiver<Request>,
    /// Whether there is a session.
    served: watch::Sender<bool>,
}

/// A publisher and its serving end.
#[must_use]
pub fn publisher() -> (Publisher, Publications) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (serving, served) = watch::channel(false);
    (
        Publisher {
            requests: sender,
            served,
        },
        Publications {
            requests: receiver,
            served: serving,
        },
    )
}

impl Publisher {
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
    pub async fn publish_jobs(&self, jobs: &[Job], shards: u16) -> usize {
        let now = OffsetDateTime::now_utc();
        let all = jobs
            .iter()
            .map(|job| self.publish(Outgoing::job(job, now, shards)));
        join_all(all)
            .await
            .iter()
            .filter(|one| one.is_err())
            .count()
    }

    /// Publishes and waits for the confirm; while there is no session, for one.
    ///
    /// # Errors
    /// If the broker refused the message or the answer was lost.
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
    /// Publishes what arrives until the channel fails, or until every
    /// [`Publisher`] is gone.
    ///
    /// # Errors
    /// If the channel failed. Messages that were in flight have been answered
    /// with that; those still waiting go to the next session.
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
                // Whoever asked may have given up waiting.
                let _ = answer.send(result);
            }
            if let Some(error) = lost {
                return Err(anyhow::Error::new(error).context("publishing"));
            }
        }
        Ok(())
    }
}

/// While it lives, there is a session. Serving is cancelled when a session ends,
/// so that the end can't be a statement's.
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
mod tests {
    use lapin::message::Delivery;

    use super::*;

    #[test]
    fn a_parked_message_keeps_what_is_its_producers_and_nothing_that_could_hurt() {
        let mut headers = FieldTable::default();
        headers.insert("tier".into(), AMQPValue::LongString("gold".into()));
        headers.insert("x-death".into(), AMQPValue::Boolean(true));
        headers.insert("CC".into(), AMQPValue::Boolean(true));
        headers.insert(
            "huge".into(),
            AMQPValue::LongString("x".repeat(100_000).into()),
        );
        let mut message = Delivery::mock(
            1,
            "posthorn.events".into(),
            "acme.order.created".into(),
            false,
            b"body".to_vec(),
        );
        message.properties = BasicProperties::default()
            .with_message_id("evt-1".into())
            .with_user_id("producer".into())
            .with_expiration("1000".into())
            .with_headers(headers);

        let parked = Outgoing::dead(&message, "because");
        let properties = &parked.properties;
        assert_eq!(parked.body, b"body");
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "evt-1");
        assert_eq!(
            (properties.user_id(), properties.expiration()),
            (&None, &None)
        );
        assert_eq!(*properties.delivery_mode(), Some(2));
        let kept = properties.headers().clone().unwrap();
        let names: Vec<_> = kept.inner().keys().map(ShortString::as_str).collect();
        assert_eq!(
            names,
            [
                "tier",
                "x-posthorn-exchange",
                "x-posthorn-reason",
                "x-posthorn-routing-key"
            ]
        );
    }
}
