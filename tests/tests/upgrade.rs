//! Old binaries and these run side by side on one database and one broker, while events arrive.
//!
//! `make upgrade-test OLD=folder` names the old ones: the binaries of the last release.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;

use harness::load::Load;
use harness::receiver::{Receiver, answering, answering_in_turn};
use harness::world::{World, eventually};
use serde_json::json;

/// Waits for events that were published from now on.
async fn deliver(what: &str, receiver: &Receiver) {
    let before = receiver.arrivals().len();
    receiver.receives(before + 100).await;
    eprintln!("{what}: delivering");
}

#[tokio::test]
#[ignore = "needs the binaries of another version: make upgrade-test OLD=folder"]
async fn an_upgrade_and_the_way_back_lose_nothing() {
    let old = std::env::var("POSTHORN_OLD").expect("POSTHORN_OLD names a folder with old binaries");
    let old_ingest = format!("{old}/posthorn-ingest");
    let old_dispatcher = format!("{old}/posthorn-dispatcher");
    let (new_ingest, new_dispatcher) = ("posthorn-ingest", "posthorn-dispatcher");
    let world = World::with_schema_of(&old_ingest, &[("SWEEP_GRACE", "5")]).await;

    let ingest = world.service(&old_ingest, &[]).await;
    let dispatcher = world.service(&old_dispatcher, &[]).await;
    let receiver = world.receiver(answering(200)).await;
    let failing = world.receiver(answering_in_turn(&[500, 500, 200])).await;
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

    let next = world.service(&old_dispatcher, &[]).await;
    dispatcher.stop().await.unwrap();
    deliver("new ingest, old dispatcher", &receiver).await;

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
    let arrivals = receiver.arrivals();
    let distinct: BTreeSet<_> = arrivals.iter().map(|one| one.id().to_owned()).collect();
    eprintln!(
        "{} events, {} arrived twice",
        confirmed.len(),
        arrivals.len() - distinct.len()
    );
    assert_eq!(arrivals.len(), distinct.len());
    ingest.stop().await.unwrap();
    drop(next);
    world.finish().await;
}
