//! Nobody waits for another tenant's endpoints, although these answer.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::producer::Publication;
use harness::receiver::{Arrival, Receiver, Reply, Script, answering};
use harness::service::Service;
use harness::world::{TENANT, World, eventually, unique};
use serde_json::json;
use shared::ids::WebhookId;
use shared::topology::shard_of;

/// The webhooks of the tenant whose endpoints are slow. Two requests to each of them are more
/// than a replica for [`CONCURRENCY`] jobs holds.
const SLOW_WEBHOOKS: usize = 40;
const CONCURRENCY: usize = 64;
/// How long a slow endpoint takes to answer 200.
const SLOW: Duration = Duration::from_secs(20);

/// Answers with 200: after [`SLOW`], or at once.
fn slow_while(is_slow: &Arc<AtomicBool>) -> Script {
    let is_slow = is_slow.clone();
    Arc::new(
        move |_, _: &Arrival| match is_slow.load(Ordering::Relaxed) {
            true => Reply::status(200).after(SLOW),
            false => Reply::status(200),
        },
    )
}

/// Makes a webhook at this receiver, for all events. Its id.
async fn webhook_of(world: &World, ingest: &Service, token: &str, at: &Receiver) -> WebhookId {
    let path = format!("/{}", unique());
    let webhook = json!({"url": at.url(&path), "events": ["*"]});
    let made = world
        .ask_as(token, ingest, "POST", "/api/v1/webhooks", Some(webhook))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body["id"].as_str().unwrap().parse().unwrap()
}

/// Makes a webhook in the first of two shards.
async fn webhook_in_first_shard(world: &World, ingest: &Service, token: &str, at: &Receiver) {
    loop {
        let id = webhook_of(world, ingest, token, at).await;
        if shard_of(id, 2) == 0 {
            return;
        }
        let path = format!("/api/v1/webhooks/{id}");
        let deleted = world.ask_as(token, ingest, "DELETE", &path, None).await;
        assert_eq!(deleted.status, 204, "{}", deleted.body);
    }
}

/// Publishes events of a tenant, each when the one before has arrived.
async fn one_after_the_other(
    world: &World,
    ingest: &Service,
    token: &str,
    receiver: &Receiver,
    events: usize,
) {
    for n in 0..events {
        let event = json!({"type": "order.created", "id": format!("other-{n}"), "data": {}});
        let sent = world
            .ask_as(token, ingest, "POST", "/api/v1/events", Some(event))
            .await;
        assert_eq!(sent.status, 202, "{}", sent.body);
        receiver.receives(n + 1).await;
    }
}

/// All of them have answered before, so none fails and no circuit opens. Each takes as many
/// permits as its limiter allows.
#[tokio::test]
async fn many_slow_endpoints_that_answer_take_no_other_tenants_permits_and_places() {
    let concurrency = CONCURRENCY.to_string();
    let settings = [
        ("CONCURRENCY", concurrency.as_str()),
        ("WEBHOOK_TIMEOUT", "30000"),
    ];
    let world = World::with(&settings).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = world.receiver(slow_while(&is_slow)).await;
    for _ in 0..SLOW_WEBHOOKS {
        world.webhook(&ingest, &slow, json!({})).await;
    }
    world.publish("order.created", "warm-up", &json!({})).await;
    slow.receives(SLOW_WEBHOOKS).await;
    world.settles().await;

    let other = world.receiver(answering(200)).await;
    let token = world.another_tenant(&ingest, "globex").await;
    webhook_of(&world, &ingest, &token, &other).await;
    is_slow.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    for n in 0..3 {
        let id = format!("slow-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    // While they count as quick, they may have three quarters of all permits.
    slow.receives(SLOW_WEBHOOKS + CONCURRENCY / 2).await;
    eventually("no slow job holds a place in vain", async || {
        let deferred = "posthorn_deferred_total{reason=\"endpoint_full\"}";
        dispatcher.metric(deferred).await.unwrap_or(0.0) > 0.0
    })
    .await;
    let in_flight = dispatcher.metric("posthorn_attempts_in_flight").await;
    assert!(in_flight.unwrap() as usize <= CONCURRENCY / 4 * 3);

    one_after_the_other(&world, &ingest, &token, &other, 20).await;
    // No slow request has ended yet, so no permit and no place was returned.
    assert!(begun.elapsed() < SLOW, "{:?}", begun.elapsed());
    is_slow.store(false, Ordering::Relaxed);
    slow.receives(4 * SLOW_WEBHOOKS).await;
    world.settles().await;
    let attempts = 4 * SLOW_WEBHOOKS + 20;
    assert_eq!(world.count("attempts").await as usize, attempts);
    world.finish().await;
}

/// A message is held until its job is done, and a queue has a share of the messages.
#[tokio::test]
async fn slow_endpoints_that_are_all_in_one_shard_keep_no_other_tenant_of_it_waiting() {
    const REPLICA: usize = 32;
    let settings = [
        ("CONCURRENCY", "32"),
        ("JOB_SHARDS", "2"),
        ("JOB_BUNDLES", "off"),
        ("WEBHOOK_TIMEOUT", "30000"),
    ];
    let world = World::with(&settings).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let is_slow = Arc::new(AtomicBool::new(true));
    let slow = world.receiver(slow_while(&is_slow)).await;
    for _ in 0..12 {
        webhook_in_first_shard(&world, &ingest, world.token(), &slow).await;
    }
    let other = world.receiver(answering(200)).await;
    let token = world.another_tenant(&ingest, "globex").await;
    webhook_in_first_shard(&world, &ingest, &token, &other).await;

    let begun = Instant::now();
    for n in 0..3 {
        let id = format!("slow-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    // As many requests as one tenant may have, each with a message: the whole share of the shard.
    slow.receives(REPLICA / 2).await;
    one_after_the_other(&world, &ingest, &token, &other, 10).await;
    assert!(begun.elapsed() < SLOW, "{:?}", begun.elapsed());
    is_slow.store(false, Ordering::Relaxed);
    slow.receives(3 * 12).await;
    world.settles().await;
    world.finish().await;
}

/// Answers the first request of each event with 404, which isn't a sign of an overloaded endpoint.
/// So no circuit opens, and every event is tried.
fn refusing_each_event_once() -> Script {
    let known = Mutex::new(HashSet::new());
    Arc::new(move |_, arrival: &Arrival| {
        match known.lock().unwrap().insert(arrival.id().to_owned()) {
            true => Reply::status(404),
            false => Reply::status(200),
        }
    })
}

/// The delay is the same for all, and has no jitter. Without spreading, the retries would come in
/// front of the other tenant's event as quickly as the first attempts failed.
#[tokio::test]
async fn retries_of_one_tenant_are_not_all_due_in_the_same_second() {
    const EVENTS: usize = 600;
    const DELAY: Duration = Duration::from_secs(20);
    /// As many of a tenant may be due in one second as the dispatcher has permits.
    const PER_SECOND: i64 = CONCURRENCY as i64;
    let concurrency = CONCURRENCY.to_string();
    let world = World::with(&[("CONCURRENCY", concurrency.as_str())]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(refusing_each_event_once()).await;
    let policy = json!({"retry_policy": {"delays": [DELAY.as_millis() as u64]}});
    world.webhook(&ingest, &shop, policy).await;
    let other = world.receiver(answering(200)).await;
    let token = world.another_tenant(&ingest, "globex").await;
    webhook_of(&world, &ingest, &token, &other).await;

    let burst: Vec<_> = (0..EVENTS)
        .map(|n| Publication::json(TENANT, "order.created", &format!("burst-{n}"), "{}"))
        .collect();
    world.producer().await.publish_all(&burst).await.unwrap();
    shop.receives(EVENTS).await;
    eventually("every first attempt is on record", async || {
        world.count("attempts WHERE n = 1").await as usize == EVENTS
    })
    .await;
    let most = "SELECT max(due), sum(due)::int8 FROM (SELECT count(*) AS due FROM deliveries \
                WHERE state = 'retrying' GROUP BY date_trunc('second', due_at)) AS seconds";
    let row = world.sql().await.query_one(most, &[]).await.unwrap();
    let (most, waiting): (i64, i64) = (row.get(0), row.get(1));
    assert!(
        most <= PER_SECOND,
        "{most} of {waiting} retries are due in one second"
    );
    assert!(waiting > EVENTS as i64 / 2, "only {waiting} still wait");
    one_after_the_other(&world, &ingest, &token, &other, 5).await;

    let arrivals = shop.receives(2 * EVENTS).await;
    let mut first = HashMap::new();
    for arrival in &arrivals {
        let Some(refused) = first.insert(arrival.id(), arrival.at) else {
            continue;
        };
        let pause = arrival.at - refused;
        assert!(pause >= DELAY, "a retry came after {pause:?}");
    }
    world.settles().await;
    assert_eq!(
        world
            .count("deliveries WHERE state = 'delivered' AND attempts = 2")
            .await as usize,
        EVENTS
    );
    world.finish().await;
}
