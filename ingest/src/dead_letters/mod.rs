//! Messages that were refused or unroutable, taken from their queues into a
//! table, where they can be looked at, replayed and discarded.
//!
//! A quorum queue can't be browsed, so the queues only buffer: what is in one is
//! taken, written, and acked after the commit. A crash in between leaves the
//! message in the queue; it may then be in the table twice, and what is replayed
//! twice is found to be known.
//!
//! The table is bounded: when it is full, what comes stays in the queues. It is
//! asked before a consumer is opened, because a message that is taken and given
//! back is counted: RabbitMQ 4 drops one from a queue without a limit of its own
//! after twenty times.
//!
//! Rows are read and deleted in [`store`], messages made of them again in
//! [`letter`].

pub mod letter;
pub mod store;

use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions};
use shared::amqp::Session;
use shared::clock;
use shared::job::Job;
use shared::supervise::until_done;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use letter::{Letter, Origin};

/// The most messages in the table, give or take what was taken when it filled.
pub const MAX_HELD: i64 = 100_000;
/// Unacked messages.
const PREFETCH: u16 = 100;
/// The most messages in one statement.
const BATCH: usize = 50;
/// A delivery whose job was given up on has another one made by the sweeper, but
/// not before this: dispatchers died of the last one, fifty times.
const NEXT_CHANCE: time::Duration = time::Duration::HOUR;
/// How often a full table is asked whether it still is.
const FULL: Duration = Duration::from_secs(5);

/// What takes messages from a queue into the table.
pub struct Keeper {
    /// To PostgreSQL.
    pub pool: Pool,
    /// Take no more.
    pub stop: CancellationToken,
}

impl Keeper {
    /// Takes messages until told to stop.
    ///
    /// # Errors
    /// If the consumer fails. What was taken and not acked comes again.
    pub async fn keep(&self, session: &Session, origin: Origin) -> anyhow::Result<()> {
        while self.room().await.is_some() {
            let (channel, consumer) = session.consumer(origin.queue(), PREFETCH).await?;
            let tag = consumer.tag();
            let mut batches = consumer.ready_chunks(BATCH);
            let mut full = false;
            loop {
                let batch = tokio::select! {
                    batch = batches.next() => batch,
                    () = self.stop.cancelled() => return Ok(()),
                };
                let Some(batch) = batch else {
                    break;
                };
                let batch: Vec<Delivery> = batch.into_iter().collect::<Result<_, _>>()?;
                let Some(held) = self.write(&batch, origin).await else {
                    return Ok(());
                };
                if let Some(last) = batch.last() {
                    // This consumer has nothing older unacked.
                    last.acker.ack(BasicAckOptions { multiple: true }).await?;
                }
                if held >= MAX_HELD && !full {
                    full = true;
                    // What it has been sent already still comes, and is written.
                    channel
                        .basic_cancel(tag.clone(), BasicCancelOptions::default())
                        .await?;
                }
            }
            anyhow::ensure!(
                full,
                "RabbitMQ cancelled the consumer of {}",
                origin.queue()
            );
        }
        Ok(())
    }

    /// Waits until the table has room; `None` when told to stop.
    async fn room(&self) -> Option<()> {
        let mut asked = tokio::time::interval(FULL);
        let mut warned = false;
        loop {
            tokio::select! {
                _ = asked.tick() => {}
                () = self.stop.cancelled() => return None,
            }
            match store::held(&self.pool).await {
                Ok(held) if held < MAX_HELD => return Some(()),
                Ok(held) => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(held, "no room for dead letters: they stay in their queues");
                    }
                }
                Err(error) => warn!(error = format!("{error:#}"), "asking for dead letters"),
            }
        }
    }

    /// Answers how many there are then; `None` when told to stop.
    async fn write(&self, batch: &[Delivery], origin: Origin) -> Option<i64> {
        let letters: Vec<Letter> = batch
            .iter()
            .map(|message| Letter::of(message, origin))
            .collect();
        let given_up: Vec<Job> = letters.iter().filter_map(Letter::job_given_up).collect();
        let until = clock::now() + NEXT_CHANCE;
        until_done(&self.stop, "writing dead letters", async || {
            store::put_off(&self.pool, &given_up, until).await?;
            store::keep(&self.pool, &letters).await
        })
        .await
    }
}
