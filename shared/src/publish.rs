//! Publishes messages with publisher confirms, many in flight at a time.
//!
//! [`publish_all`] is for a stage that owns a channel and has a batch. [`Publisher`]
//! is for all other code: any task hands it a message and waits for the confirm of
//! that message. [`Publications`] publishes the messages that have gathered, on the
//! channel of the current session.

mod bundled;
mod outgoing;

use futures_util::future::join_all;
use lapin::Channel;
use lapin::options::BasicPublishOptions;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::amqp::Unconfirmed;
use crate::clock;
use crate::job::Job;
pub use bundled::{FirstTry, bundled};
pub use outgoing::{
    EXCERPT, EXCHANGE_HEADER, HTTP_HEADER, Outgoing, REASON_HEADER, RETURNED_HEADER,
    ROUTING_KEY_HEADER, SHA256_HEADER, SIZE_HEADER, Whole, is_ours, is_the_producers, persistent,
    republished,
};

/// How many messages may wait for a session.
const WAITING: usize = 4096;
/// How many messages are sent before their confirms are awaited.
const BATCH: usize = 1024;

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

    /// Whether there is a session now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.served.borrow()
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
