//! A producer that publishes at a steady rate through any fault. It publishes unconfirmed
//! events again, under the same ids, and records confirmed ones in the ledger.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ledger::{Event, Ledger};
use crate::producer::{Producer, Publication};

/// The interval between two batches.
const TICK: Duration = Duration::from_millis(50);
/// A batch that isn't confirmed in this time is published again over a new
/// connection.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Running,
    Held,
    Stopped,
}

/// A running publisher.
pub struct Publisher {
    flow: watch::Sender<Flow>,
    idle: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Starts a publisher with this many events per second.
    #[must_use]
    pub fn start(amqp_url: String, ledger: Arc<Ledger>, round: u32, rate: u32) -> Self {
        let flow = watch::Sender::new(Flow::Running);
        let (idle_sender, idle) = watch::channel(false);
        let a_batch = (f64::from(rate) * TICK.as_secs_f64()).ceil().max(1.0) as u32;
        let source = Source {
            amqp_url,
            ledger,
            flow: flow.subscribe(),
            idle: idle_sender,
            every: Duration::from_secs_f64(f64::from(a_batch) / f64::from(rate)),
            a_batch,
            next: Event { round, n: 0 },
            pending: Vec::new(),
        };
        Self {
            flow,
            idle,
            task: tokio::spawn(source.run()),
        }
    }

    /// Stops publishing for now, and waits until all published events are confirmed.
    pub async fn hold(&mut self) {
        self.flow.send_replace(Flow::Held);
        // An error means that the publisher has ended. Then it is idle, too.
        let _ = self.idle.wait_for(|idle| *idle).await;
    }

    /// Continues after [`Self::hold`].
    pub fn go_on(&self) {
        self.flow.send_replace(Flow::Running);
    }

    /// Ends the publisher after all published events are confirmed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.flow.send_replace(Flow::Stopped);
        Ok(self.task.await?)
    }
}

struct Source {
    amqp_url: String,
    ledger: Arc<Ledger>,
    flow: watch::Receiver<Flow>,
    idle: watch::Sender<bool>,
    every: Duration,
    a_batch: u32,
    next: Event,
    /// Published but unconfirmed events.
    pending: Vec<Event>,
}

impl Source {
    async fn run(mut self) {
        loop {
            let connecting = tokio::time::timeout(PATIENCE, Producer::connect(&self.amqp_url));
            if let Ok(Ok(producer)) = connecting.await {
                if self.publish_on(&producer).await {
                    return;
                }
            } else {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// Returns true if it was told to stop, false if the connection was lost.
    async fn publish_on(&mut self, producer: &Producer) -> bool {
        let mut tick = tokio::time::interval(self.every);
        // Don't catch up on ticks that a lost connection delayed.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.pending.is_empty() {
                tick.tick().await;
                let flow = *self.flow.borrow_and_update();
                self.idle.send_replace(flow != Flow::Running);
                match flow {
                    Flow::Stopped => return true,
                    Flow::Held => {
                        // An error means that the owner is gone.
                        if self.flow.changed().await.is_err() {
                            return true;
                        }
                        continue;
                    }
                    Flow::Running => self.draw(),
                }
            }
            let batch: Vec<Publication> = self.pending.iter().copied().map(publication).collect();
            let published = tokio::time::timeout(PATIENCE, producer.publish_all(&batch)).await;
            if !matches!(published, Ok(Ok(()))) {
                return false;
            }
            self.ledger.confirm(&self.pending);
            self.pending.clear();
        }
    }

    fn draw(&mut self) {
        for _ in 0..self.a_batch {
            self.pending.push(self.next);
            self.next.n += 1;
        }
    }
}

fn publication(event: Event) -> Publication {
    let (tenant, event_type) = (event.tenant(), event.event_type());
    Publication::json(tenant, event_type, &event.to_string(), &event.data())
}
