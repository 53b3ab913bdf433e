//! Old binaries and these run side by side on one database and one broker, while events arrive.
//!
//! The way there is what docs/upgrading.md says for versions without bundles, and so is the way back:
//! both hold for newer versions, too. `make upgrade-test` builds the old binaries of the last tag, or
//! of what `OLD` names.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use harness::load::Load;
use harness::receiver::{Receiver, Reply, Script, answering};
use harness::world::{Webhook, World, eventually};
use serde_json::json;
use shared::ids::WebhookId;

const JOBS_QUEUE: &str = "posthorn.jobs.v1.0";

/// Waits for events that were published from now on.
async fn deliver(what: &str, receiver: &Receiver) {
    let before = receiver.arrivals().len();
    receiver.receives(before + 100).await;
    eprintln!("{what}: delivering");
}

/// Answers one request in twenty with 500, so that events are retried at every step.
fn failing_now_and_then() -> Script {
    Arc::new(|n, _| Reply::status(if n % 20 == 0 { 500 } else { 200 }))
}

/// The events that arrived more often than once and once more for each attempt that failed.
async fn too_often(world: &World, receiver: &Receiver, webhook: &Webhook) -> BTreeMap<String, i64> {
    let counted = "SELECT e.id, 1 + count(*) FILTER (WHERE a.outcome <> 'success') FROM attempts a \
        JOIN deliveries d ON d.id = a.delivery_id JOIN events e ON e.uid = d.event_uid \
        WHERE d.webhook_id = $1 GROUP BY e.id";
    let id: WebhookId = webhook.id.parse().unwrap();
    let rows = world.sql().await.query(counted, &[&id]).await.unwrap();
    let mut left: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for arrival in receiver.arrivals() {
        *left.entry(arrival.id().to_owned()).or_default() -= 1;
    }
    left.retain(|_, left| *left < 0);
    left
}

#[tokio::test]
#[ignore = "needs the binaries of another version: make upgrade-test"]
async fn an_upgrade_and_the_way_back_lose_nothing() {
    let old = std::env::var("POSTHORN_OLD").expect("POSTHORN_OLD names a folder with old binaries");
    let old_ingest = format!("{old}/posthorn-ingest");
    let old_dispatcher = format!("{old}/posthorn-dispatcher");
    let (new_ingest, new_dispatcher) = ("posthorn-ingest", "posthorn-dispatcher");
    let world = World::with_schema_of(&old_ingest, &[("SWEEP_GRACE", "5")]).await;

    let ingest = world.service(&old_ingest, &[]).await;
    let dispatcher = world.service(&old_dispatcher, &[]).await;
    let receiver = world.receiver(answering(200)).await;
    let failing = world.receiver(failing_now_and_then()).await;
    let policy = json!({"retry_policy": {"delays": [1000, 2000]}});
    let webhook = world.webhook(&ingest, &receiver, json!({})).await;
    let retried = world.webhook(&ingest, &failing, policy).await;
    let load = Load::start(world.amqp_url(), "evt");
    deliver("old ingest, old dispatcher", &receiver).await;

    let applied = world.command(&["migrate"]).await;
    deliver(&format!("{applied}, both old"), &receiver).await;

    let next = world.service(new_dispatcher, &[]).await;
    dispatcher.stop().await.unwrap();
    deliver("old ingest, new dispatcher", &receiver).await;

    let dispatcher = next;
    let next = world.service(new_ingest, &[]).await;
    ingest.stop().await.unwrap();
    deliver("new ingest, new dispatcher", &receiver).await;
    let ingest = next;

    // The way back. An old dispatcher may not know bundles: it would make dead letters of them. So
    // first no more bundles are published, and those that wait are delivered.
    let next = world.service(new_ingest, &[("JOB_BUNDLES", "off")]).await;
    ingest.stop().await.unwrap();
    let ingest = next;
    eventually("no bundle waits", async || {
        world.messages_in(JOBS_QUEUE).await == 0
    })
    .await;
    deliver("new ingest without bundles, new dispatcher", &receiver).await;

    let next = world.service(&old_dispatcher, &[]).await;
    dispatcher.stop().await.unwrap();
    deliver("new ingest without bundles, old dispatcher", &receiver).await;

    // As docs/upgrading.md says: no old ingest beside a new one on the way back.
    ingest.stop().await.unwrap();
    let ingest = world.service(&old_ingest, &[]).await;
    deliver("both old again, on the new schema", &receiver).await;

    let confirmed: BTreeSet<String> = load.stop().await.into_keys().collect();
    for (receiver, webhook) in [(&receiver, &webhook), (&failing, &retried)] {
        eventually("all confirmed events have arrived", async || {
            let arrivals = receiver.arrivals();
            let arrived: BTreeSet<_> = arrivals.iter().map(|one| one.id().to_owned()).collect();
            confirmed.is_subset(&arrived)
        })
        .await;
        for arrival in receiver.arrivals() {
            arrival.verify(&webhook.secret).unwrap();
        }
    }
    world.settles().await;
    let retried_events = failing.arrivals().len() - confirmed.len();
    eprintln!(
        "{} events, {retried_events} attempts of one webhook failed and were made again",
        confirmed.len()
    );
    assert!(retried_events > 0);
    for (receiver, webhook) in [(&receiver, &webhook), (&failing, &retried)] {
        let twice = too_often(&world, receiver, webhook).await;
        assert!(twice.is_empty(), "arrived once too often: {twice:?}");
    }
    // No version got a message that it couldn't read.
    assert_eq!(world.count("dead_letters").await, 0);
    assert_eq!(world.messages_in("posthorn.parking.v1").await, 0);
    ingest.stop().await.unwrap();
    drop(next);
    world.finish().await;
}
