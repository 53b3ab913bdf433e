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

/// Where producers publish; routing key `<tenant>.<event type>`.
pub const EVENTS: &str = "posthorn.events";
/// Where events go on from there: to an overflow queue if one is bound for their
/// tenant ([`set_aside`]), else by way of the alternate exchange to `ingest`'s queue.
/// An event does either and never both, whenever bindings change.
const INTAKE: &str = "posthorn.intake";
/// The alternate exchange of [`INTAKE`].
const INTAKE_REST: &str = "posthorn.intake.rest";
/// Where jobs are published, and where delay queues dead-letter to.
pub const JOBS: &str = "posthorn.jobs";
/// Into the delay queues.
pub const RETRY: &str = "posthorn.retry";
/// What was refused, or gave up being processed.
pub const DEAD: &str = "posthorn.dead";
/// What no queue was bound for.
pub const UNROUTED: &str = "posthorn.unrouted";

/// What `ingest` consumes.
pub const INGEST_QUEUE: &str = "posthorn.ingest.v1";
/// What `ingest` consumes as well: events of tenants that are set aside.
pub const OVERFLOW_QUEUES: [&str; 4] = [
    "posthorn.overflow.v1.0",
    "posthorn.overflow.v1.1",
    "posthorn.overflow.v1.2",
    "posthorn.overflow.v1.3",
];
/// Where refused messages wait for a person.
pub const PARKING_QUEUE: &str = "posthorn.parking.v1";
/// Where unroutable messages wait for a person.
pub const UNROUTED_QUEUE: &str = "posthorn.unrouted.v1";

/// After this many deliveries without an ack a message is parked: its
/// consumers crash on it.
const DELIVERY_LIMIT: i64 = 50;

/// The delays that have a queue, in seconds.
pub const TIERS: [u32; 20] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 28_800,
    43_200, 86_400,
];

/// A wait below this isn't worth another trip through a delay queue: the
/// dispatcher sits it out, so that nothing is sent early.
pub const SHORTEST_WAIT: Duration = Duration::milliseconds(100);

/// The queue of one shard's jobs.
#[must_use]
pub fn jobs_queue(shard: u16) -> String {
    format!("posthorn.jobs.v1.{shard}")
}

fn retry_queue(tier: u32) -> String {
    format!("posthorn.retry.v1.{tier}s")
}

/// The shard that a webhook's jobs go through: the same everywhere, always.
#[must_use]
pub fn shard_of(webhook: WebhookId, shards: u16) -> u16 {
    // A UUIDv7's last 64 bits are random: they are their own hash.
    let random = webhook.uuid().as_u128() as u64;
    (random % u64::from(shards.max(1))) as u16
}

/// Where a job goes that is due at `due_at`: exchange and routing key.
///
/// Straight to its shard if that is now, else to the longest delay that isn't
/// too long; the rest of the wait is another trip (see [`tier`]).
#[must_use]
pub fn route(due_at: OffsetDateTime, now: OffsetDateTime, shard: u16) -> (&'static str, String) {
    match tier(due_at - now) {
        None => (JOBS, format!("0.{shard}")),
        Some(tier) => (RETRY, format!("{tier}s.{shard}")),
    }
}

/// The delay queue for a wait; none if it is over (give or take
/// [`SHORTEST_WAIT`]). A wait of less than the shortest delay takes that one:
/// nothing is early, and nothing more than a second late.
#[must_use]
pub fn tier(wait: Duration) -> Option<u32> {
    if wait <= SHORTEST_WAIT {
        return None;
    }
    let fits = |tier: &&u32| Duration::seconds(i64::from(**tier)) <= wait + SHORTEST_WAIT;
    Some(TIERS.iter().rev().find(fits).copied().unwrap_or(TIERS[0]))
}

/// Declares everything. Idempotent; run after every connect, because the
/// broker may be a new one.
///
/// Producers may be at it already, and what they publish to an exchange that
/// leads nowhere is confirmed and gone, and no sweeper knows of it. So
/// `posthorn.events` leads to its queue from its first moment: until that is
/// bound to it, by way of its alternate exchange, which leads there meanwhile.
/// From an older version's topology the new way is bound before the old one is
/// unbound. While both are there an event still comes once: an exchange gives a
/// queue one copy, however many ways lead there.
///
/// # Errors
/// If the connection fails, or something exists by a name with other arguments.
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

/// Versions before this one bound ingest's queue to `posthorn.events` itself. One
/// that still runs does so again when it connects.
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

/// From now on a tenant's events go to this overflow queue. Idempotent.
///
/// # Errors
/// If the connection fails.
pub async fn set_aside(channel: &Channel, tenant: &Tenant, overflow: &str) -> lapin::Result<()> {
    // Or its events would come both ways.
    unbind_the_old_way(channel).await?;
    channel
        .queue_bind(
            overflow.into(),
            INTAKE.into(),
            format!("{tenant}.#").into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

/// The opposite of [`set_aside`]. What is in the overflow queue stays there.
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

/// A queue whose messages are worked on: a message that kills its consumers is
/// parked, and a full queue tells the publisher.
fn work() -> [(&'static str, AMQPValue); 4] {
    [
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text(DEAD)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

/// A queue that nobody consumes: messages leave it by growing old. All have the
/// same age limit, so none waits behind a longer one.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_delay_that_is_a_tier_is_one_trip() {
        for seconds in TIERS {
            assert_eq!(tier(Duration::seconds(i64::from(seconds))), Some(seconds));
            // A few milliseconds pass between the verdict and the publish.
            let nearly = Duration::seconds(i64::from(seconds)) - Duration::milliseconds(40);
            assert_eq!(tier(nearly), Some(seconds));
        }
    }

    #[test]
    fn any_delay_is_kept_by_trips_that_are_never_early_and_at_most_a_second_late() {
        for millis in (0..200_000)
            .step_by(37)
            .chain([86_399_000, 90_061_500, 604_800_000])
        {
            let due = Duration::milliseconds(millis);
            let mut waited = Duration::ZERO;
            let mut trips = 0;
            while let Some(tier) = tier(due - waited) {
                waited += Duration::seconds(i64::from(tier));
                trips += 1;
            }
            assert!(
                due - waited <= SHORTEST_WAIT,
                "{millis} ms: sent {} early",
                due - waited
            );
            assert!(
                waited - due <= Duration::SECOND,
                "{millis} ms: {} late",
                waited - due
            );
            assert!(trips <= 16, "{millis} ms: {trips} trips");
        }
    }

    #[test]
    fn a_webhook_stays_in_its_shard() {
        let webhook = WebhookId::generate();
        assert_eq!(shard_of(webhook, 1), 0);
        assert_eq!(shard_of(webhook, 8), shard_of(webhook, 8));
        assert!(shard_of(webhook, 8) < 8);
    }

    proptest! {
        #[test]
        fn every_moment_has_a_way_through_declared_queues(due in any::<i64>(), now in any::<i64>(), shard in any::<u16>()) {
            let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds % 250_000_000_000).unwrap();
            let (exchange, key) = route(at(due), at(now), shard);
            let (tier, to) = key.split_once('.').unwrap();
            prop_assert_eq!(to.parse::<u16>().unwrap(), shard);
            match exchange {
                JOBS => prop_assert_eq!(tier, "0"),
                _ => {
                    let seconds = tier.strip_suffix('s').and_then(|text| text.parse().ok());
                    prop_assert!(seconds.is_some_and(|seconds: u32| TIERS.contains(&seconds)));
                }
            }
        }
    }
}
