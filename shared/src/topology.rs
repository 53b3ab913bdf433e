//! Declares every exchange and queue. No other file declares any.
//!
//! ```text
//!  producers ──▶ posthorn.events ──▶ posthorn.intake ──▶ posthorn.ingest.v1 ──▶ ingest
//!                                          └──(set aside)─▶ posthorn.overflow.v1.<n> ──▶ ingest
//!  ingest ─────▶ posthorn.jobs ────▶ posthorn.jobs.v1.<shard> ──▶ dispatcher
//!  dispatcher ─▶ posthorn.retry ───▶ posthorn.retry.v1.<tier> ──TTL──▶ posthorn.jobs
//!  anyone ─────▶ posthorn.dead ────▶ posthorn.parking.v1      (for a person)
//!  unroutable ─▶ posthorn.unrouted ▶ posthorn.unrouted.v1     (alert)
//! ```
//!
//! A job's routing key is `<tier>.<shard>`. Dead-lettering keeps the routing key, so a
//! job that leaves a delay queue arrives at the jobs queue of its own shard.
//!
//! The arguments of a queue are immutable: to change one, change the queue's version.

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use time::Duration;
use time::OffsetDateTime;

use crate::ids::{Tenant, WebhookId};

/// The exchange that producers publish to, with the routing key `<tenant>.<event
/// type>`.
pub const EVENTS: &str = "posthorn.events";
/// The exchange that gets all events from [`EVENTS`]. It routes an event to an
/// overflow queue if one is bound for the event's tenant ([`set_aside`]), otherwise
/// through the alternate exchange to `ingest`'s queue. Exactly one of the two
/// happens, also while bindings change.
const INTAKE: &str = "posthorn.intake";
/// The alternate exchange of [`INTAKE`].
const INTAKE_REST: &str = "posthorn.intake.rest";
/// The exchange that jobs are published to. Delay queues dead-letter to it.
pub const JOBS: &str = "posthorn.jobs";
/// The exchange in front of the delay queues.
pub const RETRY: &str = "posthorn.retry";
/// The exchange for messages that were refused or given up.
pub const DEAD: &str = "posthorn.dead";
/// The exchange for messages that no queue was bound for.
pub const UNROUTED: &str = "posthorn.unrouted";

/// The queue of events. `ingest` consumes it.
pub const INGEST_QUEUE: &str = "posthorn.ingest.v1";
/// The queues of events of tenants that are set aside. `ingest` consumes them too.
pub const OVERFLOW_QUEUES: [&str; 4] = [
    "posthorn.overflow.v1.0",
    "posthorn.overflow.v1.1",
    "posthorn.overflow.v1.2",
    "posthorn.overflow.v1.3",
];
/// The queue of parked messages. `ingest` moves them into the table of dead letters.
pub const PARKING_QUEUE: &str = "posthorn.parking.v1";
/// The queue of unroutable messages. `ingest` moves them into the table of dead
/// letters.
pub const UNROUTED_QUEUE: &str = "posthorn.unrouted.v1";

/// A message that was delivered this often without an ack is parked: its consumers
/// crash at it.
pub const DELIVERY_LIMIT: i64 = 50;

/// The delays for which there is a queue, in seconds.
pub const TIERS: [u32; 20] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 28_800,
    43_200, 86_400,
];

/// A shorter wait isn't worth another pass through a delay queue. The dispatcher
/// waits itself, so that nothing is sent early.
pub const SHORTEST_WAIT: Duration = Duration::milliseconds(100);

/// The jobs queue of a shard.
#[must_use]
pub fn jobs_queue(shard: u16) -> String {
    format!("posthorn.jobs.v1.{shard}")
}

fn retry_queue(tier: u32) -> String {
    format!("posthorn.retry.v1.{tier}s")
}

/// The names of all queues, each with whether it refuses messages when it is full. The others
/// would drop their oldest.
pub fn queues(shards: u16) -> impl Iterator<Item = (String, bool)> {
    let events = [INGEST_QUEUE].into_iter().chain(OVERFLOW_QUEUES);
    let refusing = events
        .map(str::to_owned)
        .chain((0..shards).map(jobs_queue))
        .chain(TIERS.map(retry_queue));
    let refusing = refusing.map(|name| (name, true));
    let others = [PARKING_QUEUE, UNROUTED_QUEUE];
    refusing.chain(others.map(|name| (name.to_owned(), false)))
}

/// The shard of a webhook's jobs. It is the same in every process and never changes.
#[must_use]
pub fn shard_of(webhook: WebhookId, shards: u16) -> u16 {
    // The last 64 bits of a UUIDv7 are random, so they need no hashing.
    let random = webhook.uuid().as_u128() as u64;
    (random % u64::from(shards.max(1))) as u16
}

/// The exchange and the routing key for a job that is due at `due_at`.
///
/// A job that is due now goes to its shard's queue. Otherwise it goes to the queue
/// with the longest delay that isn't too long. The rest of the wait is another pass
/// (see [`tier`]).
#[must_use]
pub fn route(due_at: OffsetDateTime, now: OffsetDateTime, shard: u16) -> (&'static str, String) {
    match tier(due_at - now) {
        None => (JOBS, format!("0.{shard}")),
        Some(tier) => (RETRY, format!("{tier}s.{shard}")),
    }
}

/// The delay queue for a wait; `None` if the wait is over (or shorter than
/// [`SHORTEST_WAIT`]). A wait shorter than the shortest delay uses that delay. So
/// nothing is early, and nothing is more than a second late.
#[must_use]
pub fn tier(wait: Duration) -> Option<u32> {
    if wait <= SHORTEST_WAIT {
        return None;
    }
    let fits = |tier: &&u32| Duration::seconds(i64::from(**tier)) <= wait + SHORTEST_WAIT;
    Some(TIERS.iter().rev().find(fits).copied().unwrap_or(TIERS[0]))
}

/// Declares all exchanges and queues. Idempotent. Run it after every connect,
/// because the broker may be a new one.
///
/// Producers may publish during the declaration. A message published to an exchange
/// without a queue is confirmed and dropped, and no sweeper knows about it. So
/// `posthorn.events` leads to its queue from the first moment: through its alternate
/// exchange, until the queue is bound.
///
/// When an older version's topology exists, the new bindings are made before the old
/// one is removed. While both exist, an event still comes once: an exchange puts one
/// copy into a queue, however many bindings lead there.
///
/// # Errors
/// If the connection fails, or if an exchange or queue with the same name has other
/// arguments.
pub async fn declare(channel: &Channel, shards: u16) -> lapin::Result<()> {
    exchange(channel, DEAD, ExchangeKind::Fanout, None).await?;
    queue(channel, PARKING_QUEUE, DEAD, "", []).await?;
    exchange(channel, UNROUTED, ExchangeKind::Fanout, None).await?;

    queue(channel, INGEST_QUEUE, UNROUTED, "", work()).await?;
    exchange(channel, INTAKE_REST, ExchangeKind::Fanout, Some(UNROUTED)).await?;
    queue(channel, INGEST_QUEUE, INTAKE_REST, "", work()).await?;
    exchange(channel, INTAKE, ExchangeKind::Topic, Some(INTAKE_REST)).await?;
    for overflow in OVERFLOW_QUEUES {
        declare_queue(channel, overflow, work()).await?;
    }
    exchange(channel, EVENTS, ExchangeKind::Topic, Some(UNROUTED)).await?;
    channel
        .exchange_bind(
            INTAKE.into(),
            EVENTS.into(),
            "#".into(),
            ExchangeBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    unbind_the_old_way(channel).await?;
    channel
        .queue_unbind(
            INGEST_QUEUE.into(),
            UNROUTED.into(),
            "".into(),
            FieldTable::default(),
        )
        .await?;

    queue(channel, UNROUTED_QUEUE, UNROUTED, "", []).await?;
    for name in [JOBS, RETRY] {
        exchange(channel, name, ExchangeKind::Topic, Some(UNROUTED)).await?;
    }
    for shard in 0..shards {
        queue(
            channel,
            &jobs_queue(shard),
            JOBS,
            &format!("*.{shard}"),
            work(),
        )
        .await?;
    }
    for tier in TIERS {
        queue(
            channel,
            &retry_queue(tier),
            RETRY,
            &format!("{tier}s.*"),
            delay(tier),
        )
        .await?;
    }
    Ok(())
}

/// Older versions bound ingest's queue directly to `posthorn.events`. Such a
/// version, while it still runs, restores that binding whenever it connects.
async fn unbind_the_old_way(channel: &Channel) -> lapin::Result<()> {
    channel
        .queue_unbind(
            INGEST_QUEUE.into(),
            EVENTS.into(),
            "#".into(),
            FieldTable::default(),
        )
        .await
}

/// From now on the tenant's events go to this overflow queue. Idempotent.
///
/// # Errors
/// If the connection fails.
pub async fn set_aside(channel: &Channel, tenant: &Tenant, overflow: &str) -> lapin::Result<()> {
    let bind = channel.queue_bind(
        overflow.into(),
        INTAKE.into(),
        format!("{tenant}.#").into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    // With the old binding the tenant's events would come twice. Both requests are sent at
    // once, and the broker serves a channel's requests in their order.
    let ((), ()) = tokio::try_join!(unbind_the_old_way(channel), bind)?;
    Ok(())
}

/// The opposite of [`set_aside`]. Events in the overflow queue stay there.
///
/// # Errors
/// If the connection fails.
pub async fn release(channel: &Channel, tenant: &Tenant, overflow: &str) -> lapin::Result<()> {
    channel
        .queue_unbind(
            overflow.into(),
            INTAKE.into(),
            format!("{tenant}.#").into(),
            FieldTable::default(),
        )
        .await
}

/// The arguments of a queue that processes consume. A message that crashes its
/// consumers is parked. When the queue is full, the publisher is told.
fn work() -> [(&'static str, AMQPValue); 4] {
    [
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text(DEAD)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

/// The arguments of a queue that nobody consumes. Its messages leave when their time
/// to live is over. All have the same one, so no message waits behind a longer
/// delay.
fn delay(tier: u32) -> [(&'static str, AMQPValue); 4] {
    [
        (
            "x-message-ttl",
            AMQPValue::LongLongInt(i64::from(tier) * 1000),
        ),
        ("x-dead-letter-exchange", text(JOBS)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

async fn exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    alternate: Option<&str>,
) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    if let Some(alternate) = alternate {
        arguments.insert("alternate-exchange".into(), text(alternate));
    }
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), kind, options, arguments)
        .await
}

async fn queue(
    channel: &Channel,
    name: &str,
    exchange: &str,
    routing_key: &str,
    arguments: impl IntoIterator<Item = (&'static str, AMQPValue)>,
) -> lapin::Result<()> {
    declare_queue(channel, name, arguments).await?;
    channel
        .queue_bind(
            name.into(),
            exchange.into(),
            routing_key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

async fn declare_queue(
    channel: &Channel,
    name: &str,
    arguments: impl IntoIterator<Item = (&'static str, AMQPValue)>,
) -> lapin::Result<()> {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    for (key, value) in arguments {
        table.insert(key.into(), value);
    }
    channel
        .queue_declare(name.into(), QueueDeclareOptions::durable(), table)
        .await?;
    Ok(())
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

#[cfg(test)]
mod tests;
