//! Tenants take turns: one tenant's burst doesn't delay another tenant's event.
//!
//! The tests assert orders and counts, never how long something took.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use harness::producer::Publication;
use harness::receiver::{Receiver, answering};
use harness::service::Service;
use harness::world::{TENANT, World, eventually};
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use serde_json::json;

const OTHER: &str = "other";
/// How many events are published at a time, until the tenant is set aside and some
/// of them wait in its overflow queue.
const PART: i64 = 2_000;
/// How many are published afterwards.
const AFTER: i64 = 6_000;
/// The most jobs that are made while the dispatcher takes none: it has been given
/// 512, 256 wait for it, and each lane of two ingests has begun a batch of at most
/// 128.
const JOBS_AT_MOST: i64 = 512 + 256 + 2 * 2 * 128;
/// Two ingests hold 128 events each of an overflow queue.
const HELD: i64 = 2 * 128;

fn burst(numbers: std::ops::Range<i64>) -> Vec<Publication> {
    numbers
        .map(|n| Publication::json(TENANT, "order.created", &format!("burst-{n}"), "{}"))
        .collect()
}

async fn waiting(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let found = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await
        .unwrap();
    found.message_count()
}

async fn overflowing(channel: &Channel) -> u32 {
    let mut sum = 0;
    for n in 0..4 {
        sum += waiting(channel, &format!("posthorn.overflow.v1.{n}")).await;
    }
    sum
}

/// Two tenants with a webhook each at one receiver, and the other tenant's token.
async fn two_tenants(world: &World, ingest: &Service) -> (Receiver, String) {
    let made = world
        .ask_as_operator(
            ingest,
            "POST",
            "/api/v1/admin/tenants",
            Some(json!({"id": OTHER})),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let token = world.command(&["token", "create", "--tenant", OTHER]).await;
    let shop = world.receiver(answering(200)).await;
    world.webhook(ingest, &shop, json!({})).await;
    let others = json!({"url": shop.url("/other"), "events": ["*"]});
    let made = world
        .ask_as(&token, ingest, "POST", "/api/v1/webhooks", Some(others))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    (shop, token)
}

#[tokio::test]
async fn one_tenants_burst_does_not_delay_another_tenants_event() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let second = world.ingest().await;
    let dispatcher = world.dispatcher().await;
    let (shop, _) = two_tenants(&world, &ingest).await;

    let producer = world.producer().await;
    // The dispatcher exists but takes nothing, so ingest stops making jobs for the
    // burst.
    dispatcher.pause().unwrap();
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    let mut before = 0;
    while overflowing(&channel).await == 0 {
        producer
            .publish_all(&burst(before..before + PART))
            .await
            .unwrap();
        before += PART;
    }
    eventually("nothing of the burst is in front of others", async || {
        waiting(&channel, "posthorn.ingest.v1").await == 0
    })
    .await;
    let total = before + AFTER;
    producer.publish_all(&burst(before..total)).await.unwrap();
    producer
        .publish(&Publication::json(OTHER, "order.created", "other-1", "{}"))
        .await
        .unwrap();
    eventually("the other tenant's event is accepted", async || {
        world.count("events WHERE tenant = 'other'").await == 1
    })
    .await;
    // Accepted before events that were published earlier.
    let accepted = world.count("events WHERE tenant = 'acme'").await;
    let most = before + JOBS_AT_MOST;
    assert!(accepted <= most, "{accepted} were before it, of {total}");
    let aside = i64::from(overflowing(&channel).await);
    assert!(aside >= AFTER - JOBS_AT_MOST - HELD, "{aside} wait aside");

    dispatcher.resume().unwrap();
    let arrivals = shop.receives(total as usize + 1).await;
    let earlier = arrivals
        .iter()
        .position(|arrival| arrival.id() == "other-1");
    let earlier = earlier.unwrap() as i64;
    // In front of it are events that had a job already, and those that are sent
    // concurrently.
    assert!(earlier <= accepted + JOBS_AT_MOST, "{earlier} of {total}");

    // Nothing is lost, and nothing comes twice.
    world.settles().await;
    assert_eq!(world.count("events").await, total + 1);
    assert_eq!(arrivals.len() as i64, total + 1);
    for ingest in [&ingest, &second] {
        let twice = ingest.metric("posthorn_events_deduplicated_total").await;
        assert_eq!(twice.unwrap_or(0.0), 0.0);
    }
    eventually("the tenant isn't set aside any more", async || {
        world.count("set_aside").await == 0
    })
    .await;
    producer
        .publish_all(&burst(total..total + 10))
        .await
        .unwrap();
    world.accepts(total + 11).await;
    assert_eq!(overflowing(&channel).await, 0);
    world.settles().await;
    world.finish().await;
}

#[tokio::test]
async fn one_tenants_burst_over_http_does_not_delay_another_tenants_event() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let dispatcher = world.dispatcher().await;
    let (shop, token) = two_tenants(&world, &ingest).await;

    // It is there, and takes nothing: so ingest stops making jobs for the burst.
    dispatcher.pause().unwrap();
    let total = 8_000;
    for part in 0..total / 1_000 {
        let ids = part * 1_000..(part + 1) * 1_000;
        let events =
            ids.map(|n| json!({"type": "order.created", "id": format!("burst-{n}"), "data": {}}));
        let events = json!({"events": events.collect::<Vec<_>>()});
        let path = "/api/v1/events/batch";
        // What the lanes have no room for is in RabbitMQ when it is answered.
        let answer = world.ask(&ingest, "POST", path, Some(events)).await;
        assert_eq!(answer.body["accepted"], 1_000, "{}", answer.body);
    }
    let event = json!({"type": "order.created", "id": "other-1", "data": {}});
    let answer = world
        .ask_as(&token, &ingest, "POST", "/api/v1/events", Some(event))
        .await;
    // Written when it is answered, before what was published before it.
    assert_eq!(answer.body["matched"], 1, "{}", answer.body);
    let accepted = world.count("events WHERE tenant = 'acme'").await;
    assert!(
        accepted <= JOBS_AT_MOST,
        "{accepted} were before it, of {total}"
    );

    dispatcher.resume().unwrap();
    let arrivals = shop.receives(total as usize + 1).await;
    world.settles().await;
    assert_eq!(world.count("events").await, total + 1);
    assert_eq!(arrivals.len() as i64, total + 1);
    world.finish().await;
}

/// Batches end early here, and their rest takes its turn again when nothing else
/// happens.
#[tokio::test]
async fn a_burst_with_many_matches_is_worked_off_to_its_end() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    for _ in 0..10 {
        world.webhook(&ingest, &shop, json!({})).await;
    }
    let producer = world.producer().await;
    // A batch makes 128 jobs at most, so it is 12 of these events: these are 50 batches.
    producer.publish_all(&burst(0..600)).await.unwrap();
    world.accepts(600).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 6_000);
    drop(dispatcher);
    world.finish().await;
}

/// The rest of its burst could stand behind another tenant's backlog there.
#[tokio::test]
async fn a_small_burst_of_a_tenant_that_is_alone_is_not_set_aside() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let producer = world.producer().await;
    // While nothing can be written, the events wait in the process.
    let lock = world.hold_up_events().await;
    producer.publish_all(&burst(0..200)).await.unwrap();
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    eventually("the process holds them", async || {
        waiting(&channel, "posthorn.ingest.v1").await == 0
    })
    .await;
    lock.batch_execute("COMMIT").await.unwrap();
    world.accepts(200).await;
    assert!(
        !world.logs().contains("is set aside"),
        "{}",
        ingest.log_tail()
    );
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_that_a_crash_left_set_aside_is_released() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    ingest.kill().await.unwrap();
    world
        .sql()
        .await
        .execute(
            "INSERT INTO set_aside (tenant, queue) VALUES ('acme', 2)",
            &[],
        )
        .await
        .unwrap();
    let ingest = world.ingest().await;
    eventually("the tenant is released", async || {
        world.count("set_aside").await == 0
    })
    .await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    drop(ingest);
    world.finish().await;
}

#[tokio::test]
async fn an_older_versions_queues_are_taken_over_without_losing_or_doubling_an_event() {
    let world = World::start().await;
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    older_topology(&channel).await;
    let producer = world.producer().await;
    let (stop, published) = (AtomicBool::new(false), AtomicI64::new(0));
    // Events without ids: one that came twice would be accepted twice.
    let publishing = async {
        while !stop.load(Ordering::Relaxed) {
            let event = Publication::json(TENANT, "order.created", "", "{}");
            let properties = lapin::BasicProperties::default()
                .with_delivery_mode(2)
                .with_content_type("application/json".into());
            producer.publish(&event.with(properties)).await.unwrap();
            published.fetch_add(1, Ordering::Relaxed);
        }
    };
    let taking_over = async {
        let ingests = (world.ingest().await, world.ingest().await);
        let so_far = published.load(Ordering::Relaxed);
        eventually("some more are published", async || {
            published.load(Ordering::Relaxed) >= so_far + 50
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        ingests
    };
    let ((), ingests) = tokio::join!(publishing, taking_over);
    let published = published.load(Ordering::Relaxed);
    world.accepts(published).await;
    eventually("all are acked", async || {
        let mut seen = 0.0;
        for ingest in [&ingests.0, &ingests.1] {
            seen += ingest
                .metric("posthorn_ingest_batch_size_sum")
                .await
                .unwrap_or(0.0);
        }
        seen as i64 >= published
    })
    .await;
    assert_eq!(world.count("events").await, published);
    assert_eq!(overflowing(&channel).await, 0);
    world.finish().await;
}

/// The topology that earlier versions declared.
async fn older_topology(channel: &Channel) {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let text = |value: &str| AMQPValue::LongString(value.into());
    let mut alternate = FieldTable::default();
    alternate.insert("alternate-exchange".into(), text("posthorn.unrouted"));
    for (name, kind, arguments) in [
        ("posthorn.dead", ExchangeKind::Fanout, FieldTable::default()),
        (
            "posthorn.unrouted",
            ExchangeKind::Fanout,
            FieldTable::default(),
        ),
        ("posthorn.events", ExchangeKind::Topic, alternate),
    ] {
        channel
            .exchange_declare(name.into(), kind, durable, arguments)
            .await
            .unwrap();
    }
    let mut work = FieldTable::default();
    work.insert("x-queue-type".into(), text("quorum"));
    work.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(50));
    work.insert("x-dead-letter-exchange".into(), text("posthorn.dead"));
    work.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    work.insert("x-overflow".into(), text("reject-publish"));
    let queue = "posthorn.ingest.v1";
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), work)
        .await
        .unwrap();
    channel
        .queue_purge(queue.into(), QueuePurgeOptions::default())
        .await
        .unwrap();
    channel
        .queue_bind(
            queue.into(),
            "posthorn.events".into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
}
