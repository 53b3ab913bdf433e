//! A backup of PostgreSQL that was made under load is restored beside an empty RabbitMQ.
//!
//! docs/backup.md says what to expect, and this test checks it.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;

use harness::load::Load;
use harness::receiver::{Receiver, answering_after};
use harness::service::Service;
use harness::world::{World, eventually};
use serde_json::json;
use std::time::Duration;

const SWEEPER: [(&str, &str); 3] = [
    ("SWEEP_GRACE", "1"),
    ("SWEEP_INTERVAL", "1"),
    ("WEBHOOK_TIMEOUT", "1000"),
];

fn ids(receiver: &Receiver) -> BTreeSet<String> {
    let arrivals = receiver.arrivals();
    arrivals.iter().map(|one| one.id().to_owned()).collect()
}

async fn column(world: &World, sql: &str) -> BTreeSet<String> {
    let rows = world.sql().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_restored_backup_loses_nothing_that_it_has_and_sends_again_only_what_was_open_in_it() {
    let world = World::with_own_servers(&SWEEPER).await;
    let services: [Service; 2] = [world.ingest().await, world.dispatcher().await];
    // Slow enough that some deliveries are open at any time.
    let receiver = world
        .receiver(answering_after(Duration::from_millis(300)))
        .await;
    world.webhook(&services[0], &receiver, json!({})).await;
    let load = Load::start(world.amqp_url(), "evt");
    receiver.receives(100).await;
    let dumped = world
        .shell(
            "pg_dump --format=custom --file=backup.dump \"$DATABASE_URL\"",
            &[],
        )
        .await;
    assert_eq!(dumped.status, 0, "{dumped:?}");
    receiver.receives(200).await;
    let confirmed: BTreeSet<String> = load.stop().await.into_keys().collect();
    world.settles().await;
    for service in services {
        service.stop().await.unwrap();
    }
    let before = receiver.arrivals().len();

    // The disaster: both servers are gone with their disks.
    let pair = world.pair.as_ref().unwrap();
    pair.rabbitmq().wipe().await.unwrap();
    pair.postgres().wipe().await.unwrap();
    let restored = world
        .shell(
            "pg_restore --dbname=\"$DATABASE_URL\" --exit-on-error backup.dump",
            &[],
        )
        .await;
    assert_eq!(restored.status, 0, "{restored:?}");
    let in_backup = column(&world, "SELECT id FROM events").await;
    let open = column(
        &world,
        "SELECT e.id FROM deliveries d JOIN events e ON e.uid = d.event_uid WHERE d.due_at IS NOT NULL",
    )
    .await;
    let lost: BTreeSet<_> = confirmed.difference(&in_backup).collect();
    eprintln!(
        "{} events confirmed, {} in the backup with {} deliveries open, {} younger than the backup",
        confirmed.len(),
        in_backup.len(),
        open.len(),
        lost.len()
    );
    assert!(
        !open.is_empty() && !lost.is_empty(),
        "the backup was made under load"
    );

    let _services = [world.ingest().await, world.dispatcher().await];
    world.settles().await;
    // All that was open in the backup was sent again, and nothing else.
    let again: BTreeSet<String> = receiver.arrivals()[before..]
        .iter()
        .map(|arrival| arrival.id().to_owned())
        .collect();
    assert_eq!(again, open);
    assert!(in_backup.is_subset(&ids(&receiver)));
    assert!(world.audit().await.starts_with("0 unaccounted, 0 events"));

    // A producer that publishes again what it published since the backup has it delivered:
    // nobody knows these events. What the backup has is a duplicate.
    let known = in_backup.difference(&open).next().unwrap();
    world.publish("order.created", known, &json!({})).await;
    let forgotten = (*lost.iter().next().unwrap()).clone();
    let before = receiver.arrivals().len();
    world.publish("order.created", &forgotten, &json!({})).await;
    eventually("the forgotten event arrives", async || {
        let arrivals = receiver.arrivals();
        arrivals[before..].iter().any(|one| one.id() == forgotten)
    })
    .await;
    world.settles().await;
    assert!(
        receiver.arrivals()[before..]
            .iter()
            .all(|one| one.id() != known)
    );
    world.finish().await;
}
