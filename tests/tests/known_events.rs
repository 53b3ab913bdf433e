//! Events whose ids are known, many at a time: what they make ingest compute and publish is
//! bounded.

#![allow(clippy::unwrap_used)]

use harness::producer::Publication;
use harness::receiver::answering;
use harness::world::{TENANT, World, eventually};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

const CONFLICTS: &str = "posthorn_events_rejected_total{reason=\"conflict\"}";

/// PostgreSQL tells a connection of each statement that it executes, and ingest logs that.
const TOLD: &str = "-c session_preload_libraries=auto_explain \
    -c auto_explain.log_min_duration=0 -c client_min_messages=log";

#[tokio::test]
async fn a_stored_event_is_read_once_in_a_batch_however_many_copies_with_other_data_come() {
    let world = World::start().await;
    let mut url = url::Url::parse(world.database_url()).unwrap();
    url.query_pairs_mut().append_pair("options", TOLD);
    // A `+` is a plus sign in PostgreSQL's URLs.
    let url = url.as_str().replace('+', "%20");
    let settings = [("DATABASE_URL", &*url), ("RUST_LOG", "info,lapin=off")];
    let ingest = world.service("posthorn-ingest", &settings).await;
    let producer = world.producer().await;
    let event = |data: &str| Publication::json(TENANT, "order.created", "large", data);
    let large = format!("[{}]", vec!["0"; 125_000].join(","));
    producer.publish(&event(&large)).await.unwrap();
    world.accepts(1).await;

    // None is the stored one, and no two are the same.
    let copies: Vec<_> = (0..2_000).map(|n| event(&format!("[{n}]"))).collect();
    producer.publish_all(&copies).await.unwrap();
    eventually("each copy is refused", async || {
        let refused = ingest.metric(CONFLICTS).await;
        refused.is_ok_and(|refused| refused == 2_000.0)
    })
    .await;
    assert_eq!(world.count("events").await, 1);
    ingest.stop().await.unwrap();
    // A batch has up to 256 copies. The first ones may be small.
    let reads = world.logs().matches("-- stored_data").count();
    assert!((1..=500).contains(&reads), "{reads} times");
    world.finish().await;
}

#[tokio::test]
async fn a_known_event_that_is_said_to_be_returned_makes_one_late_copy_in_a_batch() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "e-1", &json!({})).await;
    world.accepts(1).await;
    eventually("its job is in the queue", async || {
        world.messages_in("posthorn.jobs.v1.0").await == 1
    })
    .await;
    // They wait together, so ingest takes them in large batches.
    ingest.stop().await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("x-posthorn-returned".into(), AMQPValue::Boolean(true));
    let event = Publication::json(TENANT, "order.created", "e-1", "{}");
    let properties = event.properties.clone().with_headers(headers);
    let copies = vec![event.with(properties); 200];
    world.producer().await.publish_all(&copies).await.unwrap();

    let ingest = world.ingest().await;
    eventually("all are known to be duplicates", async || {
        let known = ingest.metric("posthorn_events_deduplicated_total").await;
        known.is_ok_and(|known| known == 200.0)
    })
    .await;
    // It publishes what it has begun.
    ingest.stop().await.unwrap();
    // A batch has up to 128 of them. The first ones may be small.
    let late = world.messages_in("posthorn.jobs.v1.0").await - 1;
    assert!((1..=40).contains(&late), "{late} late copies");
    let _dispatcher = world.dispatcher().await;
    shop.receives(1).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    world.finish().await;
}
