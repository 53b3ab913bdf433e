//! The limits of a tenant and of a webhook, and what happens beyond them.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use harness::producer::Publication;
use harness::receiver::answering;
use harness::setups::counts;
use harness::world::{TENANT, World, eventually};
use serde_json::json;

async fn limit(world: &World, column: &str, value: i32) {
    let sql = format!("UPDATE tenants SET {column} = $1 WHERE id = $2");
    let client = world.sql().await;
    client.execute(&sql, &[&value, &TENANT]).await.unwrap();
}

#[tokio::test]
async fn a_tenants_hourly_limit_holds_across_dispatchers_and_loses_nothing() {
    let world = World::start().await;
    limit(&world, "deliveries_per_hour", 20).await;
    let (ingest, _one, _two) = (
        world.ingest().await,
        world.dispatcher().await,
        world.dispatcher().await,
    );
    let shop = world.receiver(answering(200)).await;
    let webhooks = [
        world.webhook(&ingest, &shop, json!({})).await,
        world.webhook(&ingest, &shop, json!({})).await,
    ];
    for n in 0..25 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({"n": n})).await;
    }
    world.accepts(25).await;
    // Each of the fifty is either delivered, or shows until when it waits.
    let waiting = "deliveries WHERE deferred_because = 'rate_limited' \
                   AND due_at > now() + interval '50 minutes' AND attempts = 0";
    eventually("thirty wait for their turn", async || {
        world.count(waiting).await == 30
    })
    .await;
    eventually("twenty are delivered", async || {
        world.count("deliveries WHERE state = 'delivered'").await == 20
    })
    .await;
    assert_eq!(shop.arrivals().len(), 20);
    world.audit().await;

    // The log says so too.
    let mut deferred = 0;
    for webhook in &webhooks {
        for delivery in world.deliveries(&ingest, webhook).await {
            if delivery["status"] == "queued" {
                assert_eq!(delivery["next_attempt_reason"], "rate_limited");
                assert!(delivery["next_attempt_at"].is_string(), "{delivery}");
                deferred += 1;
            }
        }
    }
    assert_eq!(deferred, 30);

    // A rate limit per hour is longer than a test.
    let client = world.sql().await;
    let over = "UPDATE deliveries SET state = 'cancelled', due_at = NULL, finished_at = now() \
                WHERE due_at IS NOT NULL";
    client.execute(over, &[]).await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_small_limit_is_used_up_again_as_soon_as_its_period_is_over() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let limited = json!({"rate_limit": {"limit": 3, "per": "hour"}});
    world.webhook(&ingest, &shop, limited).await;
    for n in 0..9 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({"n": n})).await;
    }
    world.accepts(9).await;
    let _dispatcher = world.dispatcher().await;
    shop.receives(3).await;
    // An attempt counts for an hour and the minute that it was made in.
    for (hours, jobs) in [(1, 3), (2, 6)] {
        let waiting = format!(
            "deliveries WHERE deferred_because = 'rate_limited' \
             AND due_at < now() + {hours} * interval '62 minutes'"
        );
        eventually("three come an hour", async || {
            world.count(&waiting).await == jobs
        })
        .await;
    }
    assert_eq!(shop.arrivals().len(), 3);
    let over = "UPDATE deliveries SET state = 'cancelled', due_at = NULL, finished_at = now() \
                WHERE due_at IS NOT NULL";
    world.sql().await.execute(over, &[]).await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_webhooks_rate_limit_spreads_a_burst_and_slows_no_other_webhook() {
    let world = World::start().await;
    let (ingest, _one, _two) = (
        world.ingest().await,
        world.dispatcher().await,
        world.dispatcher().await,
    );
    let slow = world.receiver(answering(200)).await;
    let shop = world.receiver(answering(200)).await;
    let limited = json!({"rate_limit": 10});
    world.webhook(&ingest, &slow, limited).await;
    world.webhook(&ingest, &shop, json!({})).await;
    let begun = Instant::now();
    for n in 0..30 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({"n": n})).await;
    }
    shop.receives(30).await;
    slow.receives(30).await;
    // Ten per second: the third ten can't begin before two seconds are over.
    assert!(begun.elapsed() >= Duration::from_secs(2));
    world.finish().await;
}

#[tokio::test]
async fn a_limit_of_two_a_second_is_used_up_in_every_second() {
    const EVENTS: usize = 8;
    const RATE: usize = 2;
    /// The limit holds in every second: a second lies between an attempt and the next but one.
    const LEAST: Duration = Duration::from_secs((EVENTS / RATE - 1) as u64);
    /// An attempt counts for up to a sixtieth of a second more, and a job comes back from its
    /// delay queue some milliseconds late. A second more means that a turn was missed.
    const ALLOWED: Duration = Duration::from_millis(900);
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let mut fastest = Duration::MAX;
    // Other tests may take the processor from some of these rounds, but not from each.
    for round in 0..4 {
        let shop = world.receiver(answering(200)).await;
        let event_type = format!("order.round_{round}");
        let limited = json!({"rate_limit": RATE, "events": [event_type]});
        world.webhook(&ingest, &shop, limited).await;
        let events: Vec<_> = (0..EVENTS)
            .map(|n| Publication::json(TENANT, &event_type, &format!("evt-{round}-{n}"), "{}"))
            .collect();
        let begun = Instant::now();
        world.publish_all(&events).await;
        let arrivals = shop.receives(EVENTS).await;
        let last = arrivals[EVENTS - 1].at;
        assert!(last - begun >= LEAST, "{:?}", last - begun);
        fastest = fastest.min(last - arrivals[0].at);
    }
    assert!(fastest < LEAST + ALLOWED, "{fastest:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_payload_over_the_tenants_limit_is_parked_or_refused() {
    let world = World::start().await;
    limit(&world, "max_payload", 100).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;

    let large = json!({"text": "x".repeat(100)});
    let event = json!({"type": "order.created", "data": large});
    let refused = world
        .ask(&ingest, "POST", "/api/v1/events", Some(event))
        .await;
    assert_eq!(refused.status, 413, "{}", refused.body);
    assert!(refused.body.to_string().contains("at most 100"));

    world.publish("order.created", "evt-large", &large).await;
    world
        .publish("order.created", "evt-small", &json!({}))
        .await;
    assert_eq!(shop.receives(1).await[0].id(), "evt-small");
    let parked = "posthorn_events_rejected_total{reason=\"too_large\"}";
    counts(&ingest, parked, 1.0).await;
    world.finish().await;
}

#[tokio::test]
async fn no_attempt_is_made_beyond_the_tenants_age_limit() {
    let world = World::start().await;
    limit(&world, "max_age_s", 60).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(500)).await;
    let patient = json!({"retry_policy": {"delays": [0, 61_000]}});
    let webhook = world.webhook(&ingest, &shop, patient).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let delivery = &world.deliveries(&ingest, &webhook).await[0];
    assert_eq!(delivery["status"], "expired", "{delivery}");
    let reason = delivery["error"].as_str().unwrap();
    assert!(
        reason.contains("1 minute after the event was accepted"),
        "{reason}"
    );
    assert_eq!(delivery["attempts"], 2, "{delivery}");
    world.finish().await;
}
