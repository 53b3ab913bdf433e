//! Connections to RabbitMQ, and how a process replaces one that it lost.
//!
//! A [`Session`] is two connections: one publishes, the other one consumes. A
//! broker that is short of memory or disk stops reading from connections that
//! publish. Acks must still get through then, so they go over the other connection.
//!
//! [`keep_session`] opens a session, declares the topology and runs the process's
//! work on the session. It starts over after any loss: a broker restart, a channel
//! error, a cancelled consumer, a silent peer.
//!
//! lapin's own recovery is not used. Only the stage that sent a message knows what
//! to do about it after a lost connection.
//!
//! Every connection has a [`guard`] between its bytes and lapin, so that no message
//! can end the connection by its contents. [`blame`] is the second line of defence:
//! it finds a message that ends sessions for a reason that the guard doesn't know.

mod blame;
mod content;
mod guard;
mod stream;
mod unconfirmed;
mod unreadable;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, Event};
use prometheus::IntGauge;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::supervise::{Backoff, Readiness};
use crate::telemetry::metrics;
use crate::topology;
use blame::{CALM, Suspects, Watch};
pub use content::{MAX_DEPTH, MAX_VALUES};
pub use unconfirmed::Unconfirmed;
pub use unreadable::{UNREADABLE_HEADER, Unreadable};

/// What the guard passes on to lapin of these bytes of a broker, which arrive in
/// pieces of `piece` bytes. For the fuzz target `guard`.
#[must_use]
pub fn guarded(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut guard = guard::Guard::new(unreadable::marker(), None, Arc::default());
    let mut output = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        guard.take(piece, &mut output);
    }
    output
}

/// Both sides send a heartbeat at half of this, in seconds: a peer that went
/// silent is noticed within twice of it.
const HEARTBEAT: u16 = 10;
/// The pause between sessions while the broker fails at a message that it can't deliver.
const HURRY: Duration = Duration::from_millis(20);
/// A connection attempt that takes longer is given up and repeated.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest frame that is agreed with the broker, in bytes, unless `AMQP_URL` has a `frame_max`.
/// RabbitMQ's default is the same, so all properties that it takes from a producer fit.
const FRAME_MAX: u32 = 128 * 1024;

/// The broker's address, and the name under which this process appears there.
#[derive(Debug, Clone)]
pub struct Broker {
    url: SecretString,
    name: String,
    shards: u16,
    frame_max: u32,
}

impl Broker {
    /// `name` is the name that RabbitMQ lists this process's connections under.
    #[must_use]
    pub fn new(url: SecretString, name: impl Into<String>, shards: u16) -> Self {
        Self {
            url,
            name: name.into(),
            shards,
            frame_max: FRAME_MAX,
        }
    }

    /// For a process that gets no properties of producers: a smaller largest frame, in bytes. Each
    /// connection has buffers of 64 frames.
    #[must_use]
    pub fn with_frames_of(self, frame_max: u32) -> Self {
        Self { frame_max, ..self }
    }

    /// Opens both connections and declares the topology.
    ///
    /// # Errors
    /// If the broker can't be reached, refuses the credentials, or has an exchange
    /// or queue with one of our names and other arguments.
    pub async fn open(&self) -> anyhow::Result<Session> {
        self.open_watched(Arc::default()).await
    }

    async fn open_watched(&self, watch: Arc<Watch>) -> anyhow::Result<Session> {
        let opened = async {
            let publish = self.connect("publish", Arc::default()).await?;
            let consume = self.connect("consume", watch.clone()).await?;
            let channel = publish
                .create_channel()
                .await
                .context("opening a channel")?;
            topology::declare(&channel, self.shards)
                .await
                .context("declaring the topology")?;
            anyhow::Ok(Session {
                publish,
                consume,
                watch,
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opened)
            .await
            .context("RabbitMQ did not answer in time")?
    }

    async fn connect(&self, purpose: &str, watch: Arc<Watch>) -> anyhow::Result<Connection> {
        // The parser's error repeats the URL, which holds the password.
        let mut uri: AMQPUri = self
            .url
            .expose_secret()
            .parse()
            .map_err(|_| anyhow::anyhow!("AMQP_URL is not a valid AMQP URL"))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        // A client that hears the size only from the broker makes its buffers larger then, and
        // fills them with zeros. So they would take 8 MiB of memory in a connection that is idle.
        uri.query.frame_max.get_or_insert(self.frame_max);
        let name = format!("{} ({purpose})", self.name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        stream::connect(uri, properties, watch)
            .await
            .context("connecting to RabbitMQ")
    }
}

/// Takes one message without an ack: the broker forgets it before it delivers it. So the broker
/// doesn't fail at it again.
///
/// # Errors
/// If the connection is gone, or the broker fails at the message.
pub async fn take_without_ack(channel: &Channel, queue: &str) -> lapin::Result<Option<Delivery>> {
    let options = BasicGetOptions { no_ack: true };
    let got = channel.basic_get(queue.into(), options).await?;
    Ok(got.map(|got| got.delivery))
}

/// How long a queue is, not counting unacked messages, and how many consumers it has.
#[derive(Debug, Clone, Copy)]
pub struct Depth {
    pub messages: u32,
    pub consumers: u32,
}

/// A pair of live connections: one publishes, one consumes.
#[derive(Debug)]
pub struct Session {
    publish: Connection,
    consume: Connection,
    watch: Arc<Watch>,
}

impl Session {
    /// A channel with publisher confirms. Use it from one task only: lapin numbers
    /// confirms by the order of calls.
    pub async fn publishing_channel(&self) -> lapin::Result<Channel> {
        let channel = self.publish.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(channel)
    }

    /// Whether messages are taken one at a time, to find the message that ends
    /// sessions. A caller with several consumers then opens only one.
    #[must_use]
    pub fn is_careful(&self) -> bool {
        self.watch.is_careful()
    }

    /// A consumer with at most `prefetch` unacked messages, or with one if the
    /// session is careful.
    ///
    /// # Errors
    /// If the connection is gone or the queue doesn't exist.
    pub async fn consumer(&self, queue: &str, prefetch: u16) -> lapin::Result<(Channel, Consumer)> {
        let channel = self.consume.create_channel().await?;
        let prefetch = if self.is_careful() { 1 } else { prefetch };
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let consumer = channel
            .basic_consume(
                queue.into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok((channel, consumer))
    }

    /// Whether the broker has failed several times at a message that it can't deliver. A caller that
    /// may lose a message then takes one without an ack ([`take_without_ack`]).
    #[must_use]
    pub fn takes_unseen(&self) -> bool {
        self.watch.takes_unseen()
    }

    /// A channel for [`take_without_ack`].
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn channel_without_acks(&self) -> lapin::Result<Channel> {
        let channel = self.consume.create_channel().await?;
        self.watch.takes();
        Ok(channel)
    }

    /// A channel for bindings and for questions about queues. It is on the consuming
    /// connection, because the broker may stop reading from the publishing one.
    pub async fn control_channel(&self) -> lapin::Result<Channel> {
        self.consume.create_channel().await
    }

    /// Whether a queue that has a consumer is empty, not counting unacked messages.
    /// The answer is `false` in doubt: if a quorum queue's leader doesn't answer in
    /// time, RabbitMQ reports neither messages nor consumers.
    ///
    /// # Errors
    /// If the connection is gone or the queue doesn't exist.
    pub async fn is_drained(&self, queue: &str) -> lapin::Result<bool> {
        let found = self.look_at(queue).await?;
        Ok(found.message_count() == 0 && found.consumer_count() > 0)
    }

    /// The number of messages in a queue, not counting unacked ones.
    ///
    /// # Errors
    /// If the connection is gone or the queue doesn't exist.
    pub async fn waiting(&self, queue: &str) -> lapin::Result<u32> {
        Ok(self.look_at(queue).await?.message_count())
    }

    /// A queue as RabbitMQ reports it, without making it.
    async fn look_at(&self, queue: &str) -> lapin::Result<lapin::Queue> {
        let channel = self.publish.create_channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await?;
        channel.close(200, "".into()).await?;
        Ok(found)
    }

    /// The lengths of these queues. The broker answers one after the other.
    ///
    /// # Errors
    /// If the connection is gone or a queue doesn't exist.
    pub async fn depths(&self, queues: &[String]) -> lapin::Result<Vec<Depth>> {
        let channel = self.control_channel().await?;
        let mut depths = Vec::with_capacity(queues.len());
        for queue in queues {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let found = channel
                .queue_declare(queue.as_str().into(), options, FieldTable::default())
                .await?;
            depths.push(Depth {
                messages: found.message_count(),
                consumers: found.consumer_count(),
            });
        }
        channel.close(200, "".into()).await?;
        Ok(depths)
    }

    /// For a careful session: any one of these queues that has messages.
    ///
    /// # Errors
    /// If the connection is gone or a queue doesn't exist.
    pub async fn one_with_messages<'q>(
        &self,
        queues: &[&'q str],
    ) -> lapin::Result<Option<&'q str>> {
        let mut waiting = Vec::new();
        for queue in queues {
            if self.waiting(queue).await? > 0 {
                waiting.push(*queue);
            }
        }
        Ok(fastrand::choice(waiting))
    }

    /// Returns when either connection has failed. Updates the metric for blocked
    /// publishers meanwhile.
    async fn lost(&self) -> anyhow::Error {
        tokio::select! {
            error = watch(&self.publish, &metrics().amqp_blocked) => error,
            error = watch(&self.consume, &metrics().amqp_blocked) => error,
        }
    }

    /// Closes both connections, so that the broker delivers unacked messages to
    /// others at once.
    pub async fn close(&self) {
        for connection in [&self.consume, &self.publish] {
            let closing = connection.close(200, "shutting down".into());
            // A broker that is gone doesn't answer: don't wait for long.
            let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
        }
    }
}

async fn watch(connection: &Connection, blocked: &IntGauge) -> anyhow::Error {
    let mut events = Box::pin(connection.events_listener());
    // If the connection was lost before the listener existed, only its status shows
    // that.
    while connection.status().connected() {
        match tokio::time::timeout(Duration::from_secs(1), events.next()).await {
            Err(_) => {}
            Ok(Some(Event::ConnectionBlocked(reason))) => {
                warn!(
                    reason,
                    "RabbitMQ blocks publishers; publishing waits until it accepts messages again"
                );
                blocked.set(1);
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                info!("RabbitMQ accepts messages again");
                blocked.set(0);
            }
            Ok(Some(Event::Error(error))) => {
                blocked.set(0);
                return anyhow::Error::new(error).context("the connection to RabbitMQ failed");
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
        }
    }
    blocked.set(0);
    anyhow::anyhow!("the connection to RabbitMQ is closed")
}

/// Runs `work` on a session, and on a new session after every loss, until `stop`.
///
/// `work` gets the session and returns an error when it fails. `Ok` means that it
/// was told to stop. It may be dropped at any await, and a session that is over is closed: don't
/// keep it. `purpose` appears in the log.
pub async fn keep_session<W, F>(
    broker: &Broker,
    purpose: &str,
    ready: &Readiness,
    stop: &CancellationToken,
    mut work: W,
) where
    W: FnMut(Arc<Session>) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut suspects = Suspects::default();
    while !stop.is_cancelled() {
        let watch = suspects.watch();
        let opened = tokio::select! {
            opened = broker.open_watched(watch.clone()) => opened,
            () = stop.cancelled() => return,
        };
        let mut is_hurried = false;
        let error = match opened {
            Err(error) => error,
            Ok(session) => {
                let session = Arc::new(session);
                info!(
                    careful = watch.is_careful().then_some(true),
                    "connected to RabbitMQ for {purpose}"
                );
                ready.amqp(true);
                let since = Instant::now();
                let calm = async {
                    if !watch.is_careful() {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(CALM).await;
                };
                let ended = tokio::select! {
                    ended = work(session.clone()) => ended.map(|()| Ended::Stopped),
                    lost = session.lost() => Err(lost),
                    () = calm => Ok(Ended::Calm),
                };
                let lasted = since.elapsed();
                ready.amqp(false);
                session.close().await;
                match ended {
                    Ok(Ended::Stopped) => return,
                    Ok(Ended::Calm) => {
                        info!("consuming many messages at a time for {purpose} again");
                        suspects.calm(&watch);
                        backoff.reset();
                        continue;
                    }
                    Err(error) => {
                        if lasted > Duration::from_secs(10) {
                            backoff.reset();
                        }
                        if suspects.ended(&watch, &error, lasted) {
                            warn!(
                                "a message may have ended the RabbitMQ session for {purpose}; after \
                                 two such sessions in a row messages are taken one at a time"
                            );
                        }
                        is_hurried = suspects.is_hurried();
                        error
                    }
                }
            }
        };
        metrics().amqp_reconnects.inc();
        let pause = match is_hurried {
            true => HURRY,
            false => backoff.next(),
        };
        warn!(
            error = format!("{error:#}"),
            ?pause,
            "the RabbitMQ session for {purpose} ended or could not be opened; connecting again"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// How a session ended that didn't fail.
enum Ended {
    /// The process was told to stop.
    Stopped,
    /// The session was careful and lasted long enough.
    Calm,
}
