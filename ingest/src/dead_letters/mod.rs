//! Dead letters: messages that were refused or unroutable, kept in a table to be listed, replayed or discarded.
//!
//! Nobody can browse a quorum queue, so the two queues only buffer. A message is
//! taken, written to the table, and acked after the commit. After a crash in
//! between, the message is taken again and may be in the table twice; replaying it
//! twice does no harm, because ingest recognises its event.
//!
//! Everything is bounded in bytes: what is taken at once, what is kept of one
//! message ([`shared::publish::Whole`]), and the table. When an owner's share of the
//! table is full, its oldest letters are dropped and counted.
//!
//! An event that RabbitMQ gave up on for the first time is not kept, but published
//! once more.
//!
//! [`store`] writes the rows, [`query`] reads them, [`letter`] makes messages of them again.

pub mod letter;
pub mod query;
pub mod store;
pub mod tickets;

use std::slice;

use anyhow::Context;
use deadpool_postgres::Pool;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use shared::amqp::{Session, take_without_ack};
use shared::clock;
use shared::job::Job;
use shared::publish::{Unconfirmed, publish_all};
use shared::supervise::until_done;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::metrics::metrics;
use letter::{Letter, Origin};
use store::{Dropped, Room};

/// The most unacked messages of a queue, and the most in one statement. There are few,
/// because each may be as large as RabbitMQ's `max_message_size`.
const AT_ONCE: u16 = 4;
/// The pause before the sweeper publishes another job for a delivery whose job RabbitMQ gave
/// up on: dispatchers crashed fifty times while they held it.
const NEXT_CHANCE: time::Duration = time::Duration::HOUR;

/// Takes messages from a queue into the table.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// Connections to PostgreSQL.
    pub pool: Pool,
    /// How much the table may hold.
    pub room: Room,
    /// Cancelled when no more messages are to be taken.
    pub stop: CancellationToken,
    /// Tasks that write messages which were taken without an ack. A session that ends doesn't end
    /// them: RabbitMQ doesn't have their messages any more. The process waits for them.
    pub unacked: TaskTracker,
}

impl Keeper {
    /// Takes messages until `stop` is cancelled.
    ///
    /// # Errors
    /// If the consumer fails. The broker delivers messages again that weren't acked.
    pub async fn keep(&self, session: &Session, origin: Origin) -> anyhow::Result<()> {
        let publishing = session.publishing_channel().await?;
        if session.takes_unseen() {
            self.take_without_ack(session, origin).await?;
        }
        // The channel is kept as long as its consumer.
        let (_consuming, consumer) = session.consumer(origin.queue(), AT_ONCE).await?;
        let mut batches = consumer.ready_chunks(AT_ONCE.into());
        loop {
            let batch = tokio::select! {
                batch = batches.next() => batch,
                () = self.stop.cancelled() => return Ok(()),
            };
            let Some(batch) = batch else {
                anyhow::bail!("RabbitMQ cancelled the consumer of {}", origin.queue());
            };
            let batch: Vec<Delivery> = batch.into_iter().collect::<Result<_, _>>()?;
            let letters = once_more(&publishing, &batch, origin).await?;
            if self.write(&letters).await.is_none() {
                return Ok(());
            }
            if let Some(last) = batch.last() {
                // This consumer has nothing older unacked.
                last.acker.ack(BasicAckOptions { multiple: true }).await?;
            }
        }
    }

    /// Takes one message that RabbitMQ may be unable to deliver. The parking queue has no delivery
    /// limit, so such a message would keep all dead letters waiting for ever. If RabbitMQ does deliver
    /// it, it is written even if this future is dropped meanwhile.
    ///
    /// # Errors
    /// If RabbitMQ fails again.
    pub async fn take_without_ack(&self, session: &Session, origin: Origin) -> anyhow::Result<()> {
        let queue = origin.queue();
        error!(
            queue,
            "RabbitMQ fails whenever it delivers the next dead letter; taking it without an ack, \
             so it is lost if RabbitMQ fails again"
        );
        let publishing = session.publishing_channel().await?;
        let consuming = session.channel_without_acks().await?;
        let keeper = self.clone();
        let taking = self.unacked.spawn(async move {
            let taken = take_without_ack(&consuming, queue).await?;
            if let Some(message) = taken {
                keeper.keep_unacked(&message, &publishing, origin).await;
            }
            anyhow::Ok(())
        });
        taking.await?
    }

    /// Writes a message that RabbitMQ has forgotten.
    async fn keep_unacked(&self, message: &Delivery, publishing: &Channel, origin: Origin) {
        let letters = match once_more(publishing, slice::from_ref(message), origin).await {
            Ok(letters) => letters,
            // It may have been published after all. Ingest recognises an event that comes twice.
            Err(_) => Letter::from_message(message, origin).one_per_job(),
        };
        if self.write(&letters).await.is_none() {
            for letter in letters {
                error!(
                    queue = origin.queue(),
                    routing_key = letter.routing_key,
                    message_id = letter.message_id,
                    "a dead letter is lost: the process stopped before it was written"
                );
            }
        }
    }

    /// Writes a batch, again and again until PostgreSQL takes it; `None` if stopped before.
    async fn write(&self, letters: &[Letter]) -> Option<()> {
        if letters.is_empty() {
            return Some(());
        }
        let given_up: Vec<Job> = letters.iter().filter_map(Letter::job_given_up).collect();
        let until = clock::now() + NEXT_CHANCE;
        let dropped = until_done(
            &self.stop,
            "dead letters could not be written",
            async || {
                tickets::put_off(&self.pool, &given_up, until).await?;
                store::keep(&self.pool, letters, self.room).await
            },
        )
        .await?;
        for Dropped { owner, letters } in dropped {
            metrics().dead_letters_dropped.inc_by(letters as u64);
            warn!(
                tenant = owner,
                letters, "no room for dead letters; the owner's oldest were dropped"
            );
        }
        Some(())
    }
}

/// Publishes events that may be tried once more. Answers the letters that are to be kept.
async fn once_more(
    channel: &Channel,
    batch: &[Delivery],
    origin: Origin,
) -> anyhow::Result<Vec<Letter>> {
    let mut letters = Vec::new();
    let (mut again, mut outgoing) = (Vec::new(), Vec::new());
    for message in batch {
        let letter = Letter::from_message(message, origin);
        match letter.once_more(message) {
            Some(message) => {
                outgoing.push(message);
                again.push(letter);
            }
            None => letters.extend(letter.one_per_job()),
        }
    }
    for (letter, published) in again.into_iter().zip(publish_all(channel, &outgoing).await) {
        match published {
            Ok(()) => {
                metrics().returned.inc();
                warn!(
                    routing_key = letter.routing_key,
                    event = letter.message_id,
                    "RabbitMQ gave up on an event; it was published once more"
                );
            }
            // RabbitMQ refused it, so it isn't on its way.
            Err(Unconfirmed::Refused) => letters.push(letter),
            Err(error) => return Err(error).context("publishing an event once more"),
        }
    }
    Ok(letters)
}
