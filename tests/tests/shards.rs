//! `JOB_SHARDS` is changed while events arrive.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use harness::load::Load;
use harness::receiver::{Receiver, answering, answering_in_turn};
use harness::service::Service;
use harness::world::{World, eventually};
use serde_json::json;

/// As short as they may be, so that the test doesn't wait long for the sweeper.
const SWEEPER: [(&str, &str); 3] = [
    ("SWEEP_GRACE", "1"),
    ("SWEEP_INTERVAL", "1"),
    ("WEBHOOK_TIMEOUT", "1000"),
];

async fn both(world: &World, shards: &str) -> [Service; 2] {
    let shards = [("JOB_SHARDS", shards)];
    [
        world.service("posthorn-ingest", &shards).await,
        world.service("posthorn-dispatcher", &shards).await,
    ]
}

async fn all_arrive(load: Load, receiver: &Receiver) {
    let confirmed = load.stop().await;
    eventually("all confirmed events have arrived", async || {
        let arrived: BTreeSet<String> = receiver
            .arrivals()
            .iter()
            .map(|arrival| arrival.id().to_owned())
            .collect();
        confirmed.keys().all(|id| arrived.contains(id))
    })
    .await;
}

#[tokio::test]
async fn more_shards_are_added_while_events_arrive_and_nothing_is_lost_or_sent_twice() {
    let world = World::with(&SWEEPER).await;
    let [ingest, dispatcher] = both(&world, "1").await;
    let receiver = world.receiver(answering(200)).await;
    let failing = world.receiver(answering_in_turn(&[500, 200])).await;
    let policy = json!({"retry_policy": {"delays": [1000]}});
    for _ in 0..8 {
        world.webhook(&ingest, &receiver, json!({})).await;
        world.webhook(&ingest, &failing, policy.clone()).await;
    }
    let load = Load::start(world.amqp_url(), "evt");
    receiver.receives(100).await;
    // The dispatchers first: they take from all queues before anybody publishes to them.
    let new_dispatcher = world
        .service("posthorn-dispatcher", &[("JOB_SHARDS", "4")])
        .await;
    dispatcher.stop().await.unwrap();
    let _new_ingest = world
        .service("posthorn-ingest", &[("JOB_SHARDS", "4")])
        .await;
    ingest.stop().await.unwrap();
    let before = receiver.arrivals().len();
    receiver.receives(before + 200).await;
    all_arrive(load, &receiver).await;
    world.settles().await;
    let arrivals = receiver.arrivals();
    let distinct: BTreeSet<_> = arrivals
        .iter()
        .map(|arrival| (arrival.path.clone(), arrival.id().to_owned()))
        .collect();
    assert_eq!(distinct.len(), arrivals.len(), "some arrived twice");
    drop(new_dispatcher);
    world.finish().await;
}

#[tokio::test]
async fn jobs_in_the_queues_of_shards_that_are_gone_come_back_by_the_sweeper() {
    let world = World::with(&SWEEPER).await;
    let [ingest, dispatcher] = both(&world, "4").await;
    let receiver = world.receiver(answering(200)).await;
    for _ in 0..8 {
        world.webhook(&ingest, &receiver, json!({})).await;
    }
    world.publish("order.created", "evt-1", &json!({})).await;
    receiver.receives(8).await;
    world.settles().await;
    // Nobody takes these jobs, and nobody with four shards comes back.
    dispatcher.stop().await.unwrap();
    world.publish("order.created", "evt-2", &json!({})).await;
    world.accepts(2).await;
    ingest.stop().await.unwrap();
    let mut left = 0;
    for shard in 1..4 {
        left += world
            .messages_in(&format!("posthorn.jobs.v1.{shard}"))
            .await;
    }
    // Eight random shards of four: with one in 65,536 all are 0.
    assert!(left > 0, "no job is left");
    let _services = both(&world, "1").await;
    receiver.receives(16).await;
    world.finish().await;
}

#[tokio::test]
async fn several_ingests_share_the_events_and_one_that_stops_leaves_none_behind() {
    let world = World::start().await;
    let ingests = [
        world.ingest().await,
        world.ingest().await,
        world.ingest().await,
    ];
    let _dispatcher = world.dispatcher().await;
    let receiver = world.receiver(answering(200)).await;
    world.webhook(&ingests[0], &receiver, json!({})).await;
    let load = Load::start(world.amqp_url(), "evt");
    receiver.receives(100).await;
    eventually("each ingest has taken events", async || {
        let mut taken = 0;
        for ingest in &ingests {
            let received = ingest.metric("posthorn_events_received_total").await;
            taken += usize::from(received.unwrap() > 0.0);
        }
        taken == ingests.len()
    })
    .await;
    let [first, second, third] = ingests;
    first.stop().await.unwrap();
    second.kill().await.unwrap();
    let before = receiver.arrivals().len();
    receiver.receives(before + 100).await;
    all_arrive(load, &receiver).await;
    drop(third);
    world.finish().await;
}
