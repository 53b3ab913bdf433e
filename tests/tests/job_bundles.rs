//! First attempts share messages (bundles). What holds for a job that has a message of its own
//! holds for a job of a bundle too.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::receiver::{Arrival, Receiver, Reply, Script, answering};
use harness::service::Service;
use harness::world::{World, eventually};
use serde_json::{Value, json};

/// The jobs queue of a world with one shard.
const JOBS: &str = "posthorn.jobs.v1.0";
/// As many as a bundle holds.
const WEBHOOKS: usize = 16;

/// How often each webhook's endpoint, by its path, was asked.
fn by_path(arrivals: &[Arrival]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for arrival in arrivals {
        *counts.entry(arrival.path.as_str()).or_default() += 1;
    }
    counts
}

async fn subscribe(world: &World, ingest: &Service, shop: &Receiver, webhooks: usize) {
    for _ in 0..webhooks {
        world.webhook(ingest, shop, json!({})).await;
    }
}

/// Half of the endpoints answer their first request after this, the others at once.
fn half_answer_after(wait: Duration) -> Script {
    Arc::new(move |n, arrival: &Arrival| {
        // The paths are random, and each is the same in all requests.
        let is_slow = arrival.path.bytes().map(u32::from).sum::<u32>() % 2 == 0;
        let reply = Reply::status(200);
        if is_slow && n == 0 {
            reply.after(wait)
        } else {
            reply
        }
    })
}

#[tokio::test]
async fn the_first_attempts_of_a_batch_share_messages_unless_that_is_off() {
    for (bundles, messages) in [("on", 1), ("off", WEBHOOKS as u32)] {
        let world = World::with(&[("JOB_BUNDLES", bundles)]).await;
        let ingest = world.ingest().await;
        let shop = world.receiver(answering(200)).await;
        subscribe(&world, &ingest, &shop, WEBHOOKS).await;
        world.publish("order.created", "evt-1", &json!({})).await;
        eventually("the jobs wait for a dispatcher", async || {
            world.messages_in(JOBS).await == messages
        })
        .await;
        let dispatcher = world.dispatcher().await;
        shop.receives(WEBHOOKS).await;
        world.settles().await;
        assert!(by_path(&shop.arrivals()).values().all(|count| *count == 1));
        let taken = dispatcher.metric("posthorn_jobs_taken_total").await;
        assert_eq!(taken.unwrap() as usize, WEBHOOKS);
        // What it hasn't acked would be in the queue again.
        dispatcher.stop().await.unwrap();
        assert_eq!(world.messages_in(JOBS).await, 0);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_killed_dispatchers_bundle_is_delivered_by_another_without_what_was_settled() {
    let world = World::with(&[("WEBHOOK_TIMEOUT", "20000")]).await;
    let ingest = world.ingest().await;
    let shop = world
        .receiver(half_answer_after(Duration::from_secs(15)))
        .await;
    subscribe(&world, &ingest, &shop, WEBHOOKS).await;
    let doomed = world.dispatcher().await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(WEBHOOKS).await;
    let settled = "deliveries WHERE state = 'delivered'";
    // With 16 random paths the chance that all are slow, or none, is 2^-15.
    let mut before = 0;
    eventually("what answers at once is settled", async || {
        let last = std::mem::replace(&mut before, world.count(settled).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
        before > 0 && before == last
    })
    .await;
    doomed.kill().await.unwrap();

    let heir = world.dispatcher().await;
    let again = WEBHOOKS - before as usize;
    shop.receives(WEBHOOKS + again).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), WEBHOOKS + again);
    assert_eq!(world.count("attempts").await, WEBHOOKS as i64);
    let taken = heir.metric("posthorn_jobs_taken_total").await.unwrap();
    assert_eq!(taken as usize, WEBHOOKS, "it had the whole bundle");
    world.finish().await;
}

#[tokio::test]
async fn the_jobs_of_a_bundle_that_comes_a_third_time_go_on_alone() {
    let world = World::with(&[("WEBHOOK_TIMEOUT", "60000")]).await;
    let ingest = world.ingest().await;
    // The first two requests of each endpoint have no answer while their dispatchers live.
    let script: Script = Arc::new(|n, _: &Arrival| {
        let wait = if n < 2 { 50 } else { 0 };
        Reply::status(200).after(Duration::from_secs(wait))
    });
    let shop = world.receiver(script).await;
    subscribe(&world, &ingest, &shop, WEBHOOKS).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    for round in 1..=2 {
        let doomed = world.dispatcher().await;
        shop.receives(round * WEBHOOKS).await;
        doomed.kill().await.unwrap();
    }

    let third = world.dispatcher().await;
    let taken = Instant::now();
    shop.receives(3 * WEBHOOKS).await;
    // A late copy waits 15 s for its original.
    assert!(taken.elapsed() > Duration::from_secs(14));
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 3 * WEBHOOKS);
    // The bundle, and each of its jobs as it comes out of the delay queues: at least once.
    let jobs = third.metric("posthorn_jobs_taken_total").await.unwrap();
    assert!(jobs as usize >= 2 * WEBHOOKS, "{jobs}");
    third.stop().await.unwrap();
    assert_eq!(world.messages_in(JOBS).await, 0, "something wasn't acked");
    world.finish().await;
}

#[tokio::test]
async fn slow_endpoints_hold_messages_and_not_the_jobs_of_others() {
    const SLOW: usize = 8;
    const EVENTS: usize = 40;
    let slow = Duration::from_secs(20);
    // A replica for 64 jobs: its first consumer holds 4 messages, and each of 4 events
    // has a job for an endpoint that keeps it for 20 s.
    let world = World::with(&[("CONCURRENCY", "64"), ("WEBHOOK_TIMEOUT", "30000")]).await;
    let ingest = world.ingest().await;
    let hanging = world
        .receiver(Arc::new(move |_, _: &Arrival| {
            Reply::status(200).after(slow)
        }))
        .await;
    let quick = world.receiver(answering(200)).await;
    for n in 0..SLOW {
        let events = json!({"events": [format!("slow.{n}")]});
        world.webhook(&ingest, &hanging, events).await;
    }
    world.webhook(&ingest, &quick, json!({})).await;
    let _dispatcher = world.dispatcher().await;

    let begun = Instant::now();
    for n in 0..EVENTS {
        let event_type = format!("slow.{}", n % SLOW);
        let data: Value = json!({"n": n});
        world.publish(&event_type, &format!("evt-{n}"), &data).await;
    }
    quick.receives(EVENTS).await;
    // None of the slow ones has answered yet.
    assert!(begun.elapsed() < slow, "{:?}", begun.elapsed());
    world.finish().await;
}

/// A message is held until its last job is done, and nearly all its jobs are done at once. So
/// there is room for jobs, and less than an average message needs.
#[tokio::test]
async fn a_slow_job_in_each_full_bundle_does_not_keep_other_tenants_waiting() {
    /// The moving average of jobs in a message is within 1 % of 16 after as many messages.
    const WARM: usize = 40;
    let slow = Duration::from_secs(30);
    // A replica for 64 jobs: its first consumer holds 4 messages.
    let world = World::with(&[("CONCURRENCY", "64"), ("WEBHOOK_TIMEOUT", "40000")]).await;
    let ingest = world.ingest().await;
    let script = move |_, _: &Arrival| Reply::status(200).after(slow);
    let (hanging, quick) = (
        world.receiver(Arc::new(script)).await,
        world.receiver(answering(200)).await,
    );
    subscribe(&world, &ingest, &quick, WEBHOOKS - 1).await;
    world
        .webhook(&ingest, &quick, json!({"events": ["warm.up"]}))
        .await;
    // An endpoint that is new has two requests at a time.
    for n in 0..2 {
        let events = json!({"events": [format!("slow.{n}")]});
        world.webhook(&ingest, &hanging, events).await;
    }
    let token = world.another_tenant(&ingest, "globex").await;
    let other = world.receiver(answering(200)).await;
    let webhook = json!({"url": other.url("/"), "events": ["*"]});
    world
        .ask_as(&token, &ingest, "POST", "/api/v1/webhooks", Some(webhook))
        .await;
    let _dispatcher = world.dispatcher().await;
    // One event after the other, so that each has a bundle of its own.
    let mut sent = 0;
    let mut publish = async |event_type: &str, id: String| {
        world.publish(event_type, &id, &json!({})).await;
        sent += if event_type == "warm.up" {
            WEBHOOKS
        } else {
            WEBHOOKS - 1
        };
        quick.receives(sent).await;
    };
    for n in 0..WARM {
        publish("warm.up", format!("warm-{n}")).await;
    }
    for n in 0..4 {
        publish(&format!("slow.{}", n / 2), format!("slow-{n}")).await;
    }
    hanging.receives(4).await;

    let begun = Instant::now();
    let event = json!({"type": "order.created", "data": {}});
    world
        .ask_as(&token, &ingest, "POST", "/api/v1/events", Some(event))
        .await;
    other.receives(1).await;
    // None of the slow ones has answered yet.
    assert!(begun.elapsed() < slow / 2, "{:?}", begun.elapsed());
    world.finish().await;
}
