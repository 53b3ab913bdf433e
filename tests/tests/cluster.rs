//! More than one machine: a RabbitMQ cluster loses nodes, and PostgreSQL its primary.
//!
//! These tests take minutes and much CPU, so `make test` leaves them out: `make cluster-test`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::load::Load;
use harness::pair::{Cluster, Standby};
use harness::receiver::{Receiver, answering};
use harness::world::{World, eventually, unique};
use serde_json::json;

const EVENTS: &str = "posthorn.ingest.v1";
const JOBS: &str = "posthorn.jobs.v1.0";

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("posthorn-cluster-{}", unique()))
}

/// The first arrival of each event.
fn arrivals(receiver: &Receiver) -> BTreeMap<String, Instant> {
    let mut first = BTreeMap::new();
    for arrival in receiver.arrivals() {
        first.entry(arrival.id().to_owned()).or_insert(arrival.at);
    }
    first
}

fn missing(confirmed: &BTreeMap<String, Instant>, receiver: &Receiver) -> BTreeSet<String> {
    let arrived = arrivals(receiver);
    let missing = confirmed.keys().filter(|id| !arrived.contains_key(*id));
    missing.cloned().collect()
}

/// The time from a moment until the first confirm, and the first arrival of an event that was
/// confirmed after that moment.
async fn goes_on(since: Instant, load: &Load, receiver: &Receiver) -> (Duration, Duration) {
    let mut times = None;
    eventually("events are confirmed and arrive again", async || {
        let arrived = arrivals(receiver);
        let confirmed = load.confirmed();
        let new = confirmed.iter().filter(|(_, at)| **at > since);
        let first_confirm = new.clone().map(|(_, at)| *at).min();
        let first_arrival = new.filter_map(|(id, _)| arrived.get(id)).min();
        times = first_confirm
            .zip(first_arrival)
            .map(|(confirm, arrival)| (confirm - since, *arrival - since));
        times.is_some()
    })
    .await;
    times.unwrap()
}

/// How long a node that hangs, or was cut off, keeps confirms and deliveries waiting, with the
/// settings that Posthorn and `deploy/rabbitmq.conf` have:
///
/// - 20 s: a connection to it ends when two heartbeats of 10 s were missed. The other nodes count
///   it as down after at most 1.25 times `net_ticktime` of 15 s, which is less.
/// - 5 s: the longest pause of the backoff between two attempts to connect.
/// - 2 s for each connection: the balancer asks the hung node first, and gives it up.
///
/// The queues' new leaders are elected meanwhile. A machine with other work takes longer for all
/// that it does: 10 s.
const HUNG: Duration = Duration::from_secs(20 + 5 + 2 * 2 + 10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Killed,
    Hung,
    /// Clients reach it, and the other nodes don't: it pauses because it is the minority. The nodes
    /// refuse each other's connections, so all of them know at once.
    CutOff,
    /// The same by proxies between the nodes: nothing passes, and no connection ends.
    Partitioned,
}

/// Publishes all the time while the leaders of the queues fail in turn, `rounds` times.
async fn leaders_fail(rounds: usize, failure: Failure) {
    let cluster = Cluster::start(&folder()).await.unwrap();
    let sweeper = [("SWEEP_GRACE", "5"), ("SWEEP_INTERVAL", "1")];
    let world = World::on_broker(&cluster.url(), &sweeper).await;
    let services = [
        world.ingest().await,
        world.ingest().await,
        world.dispatcher().await,
        world.dispatcher().await,
    ];
    let shop = world.receiver(answering(200)).await;
    world.webhook(&services[0], &shop, json!({})).await;
    cluster.is_whole(EVENTS).await.unwrap();
    let load = Load::start(&cluster.url(), "evt");
    shop.receives(50).await;

    for round in 0..rounds {
        let queue = if round % 2 == 0 { EVENTS } else { JOBS };
        let (leader, _) = cluster.leader(queue).await.unwrap();
        let before = load.confirmed().len();
        let node = cluster.node(leader);
        match failure {
            Failure::Killed => node.kill().await.unwrap(),
            Failure::Hung => node.pause().unwrap(),
            Failure::CutOff => cluster.cut_off(leader).await.unwrap(),
            Failure::Partitioned => cluster.partition(leader),
        }
        let failed = Instant::now();
        let (confirm, arrival) = goes_on(failed, &load, &shop).await;
        eprintln!(
            "round {round}: node {leader}, which led {queue}: {failure:?} after {before} events; \
             the next event was confirmed after {:.1} s and arrived after {:.1} s",
            confirm.as_secs_f64(),
            arrival.as_secs_f64()
        );
        // A node that has hung or was cut off is restarted: not all of its replicas come back by
        // themselves (RabbitMQ 3.10).
        if failure != Failure::Killed {
            assert!(confirm.max(arrival) < HUNG, "{confirm:?}, {arrival:?}");
        }
        if failure == Failure::Partitioned {
            // The two others go on meanwhile.
            eventually("the node that was cut off pauses", async || {
                let running = cluster.is_running(leader).await;
                running.is_ok_and(|running| !running)
            })
            .await;
            cluster.heal();
        }
        if failure != Failure::Killed {
            node.kill().await.unwrap();
        }
        node.start_again().await.unwrap();
        for queue in [EVENTS, JOBS] {
            cluster.is_whole(queue).await.unwrap();
        }
    }

    let confirmed = load.stop().await;
    eventually("all confirmed events have arrived", async || {
        missing(&confirmed, &shop).is_empty()
    })
    .await;
    let copies = shop.arrivals().len() - arrivals(&shop).len();
    eprintln!("{} events, {copies} arrived twice", confirmed.len());
    world.finish().await;
    cluster.discard().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make cluster-test"]
async fn the_leader_of_the_queues_is_killed_again_and_again_and_nothing_is_lost() {
    leaders_fail(5, Failure::Killed).await;
}

/// As when its network is gone: connections stay open, and nothing answers.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make cluster-test"]
async fn the_leader_of_the_queues_hangs_and_nothing_is_lost() {
    leaders_fail(2, Failure::Hung).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make cluster-test"]
async fn the_leader_of_the_queues_is_cut_off_from_the_other_nodes_and_nothing_is_lost() {
    leaders_fail(3, Failure::CutOff).await;
}

/// As when a switch between the nodes fails.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make cluster-test"]
async fn the_network_between_the_leader_and_the_other_nodes_is_gone_and_nothing_is_lost() {
    leaders_fail(2, Failure::Partitioned).await;
}

/// A world whose PostgreSQL has a standby, and the URL of both.
async fn with_standby(synchronous: bool) -> (World, Standby, String) {
    let world = World::with_own_servers(&[("SWEEP_GRACE", "5"), ("SWEEP_INTERVAL", "1")]).await;
    let pair = world.pair.as_ref().unwrap();
    let standby = Standby::start(pair, &folder(), synchronous).await.unwrap();
    let both = standby.both(world.database_url());
    (world, standby, both)
}

/// The end of a test with a standby: the new primary has every delivery of its events.
async fn is_complete(world: World, standby: Standby, settings: &[(&str, &str)]) {
    let audit = world
        .shell("posthorn-ingest audit --grace 0", settings)
        .await;
    assert_eq!(audit.status, 0, "{audit:?}");
    world.abandon().await;
    standby.discard().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make cluster-test"]
async fn a_synchronous_standby_is_promoted_under_load_and_nothing_is_lost() {
    let (world, standby, both) = with_standby(true).await;
    let settings = [("DATABASE_URL", both.as_str())];
    let ingest = world.service("posthorn-ingest", &settings).await;
    let _dispatcher = world.service("posthorn-dispatcher", &settings).await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    let load = Load::start(world.amqp_url(), "evt");
    shop.receives(100).await;

    let postgres = world.pair.as_ref().unwrap().postgres();
    postgres.kill().await.unwrap();
    let killed = Instant::now();
    standby.promote().await.unwrap();
    let promoted = killed.elapsed();
    let (_, arrival) = goes_on(killed, &load, &shop).await;
    eprintln!(
        "promoted after {:.1} s; the next event arrived after {:.1} s",
        promoted.as_secs_f64(),
        arrival.as_secs_f64()
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let confirmed = load.stop().await;
    eventually("all confirmed events have arrived", async || {
        missing(&confirmed, &shop).is_empty()
    })
    .await;

    let sql = standby.sql().await.unwrap();
    eventually(
        "every delivery is finished on the new primary",
        async || {
            let open = "SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL";
            sql.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0
        },
    )
    .await;
    let events: i64 = sql
        .query_one("SELECT count(*) FROM events", &[])
        .await
        .unwrap()
        .get(0);
    // One that was being published when the load ended may be there, too.
    assert!(
        events >= confirmed.len() as i64,
        "{events} of {}",
        confirmed.len()
    );
    is_complete(world, standby, &settings).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make cluster-test"]
async fn an_asynchronous_standby_may_lack_the_last_events_and_goes_on_with_the_rest() {
    let (world, standby, both) = with_standby(false).await;
    let settings = [("DATABASE_URL", both.as_str())];
    let ingest = world.service("posthorn-ingest", &settings).await;
    let dispatcher = world.service("posthorn-dispatcher", &settings).await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    world.publish("order.created", "kept", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    standby.has_caught_up().await.unwrap();

    // From here on the standby gets nothing.
    standby.cut_off().await.unwrap();
    // These are accepted, but wait: no dispatcher takes their jobs.
    dispatcher.stop().await.unwrap();
    world
        .publish("order.created", "lost-from-the-log", &json!({}))
        .await;
    world.accepts(2).await;
    world
        .pair
        .as_ref()
        .unwrap()
        .postgres()
        .kill()
        .await
        .unwrap();
    standby.promote().await.unwrap();

    // Its job is in RabbitMQ, so it is delivered all the same; the new primary has no row of it.
    let _dispatcher = world.service("posthorn-dispatcher", &settings).await;
    let arrivals = shop.receives(2).await;
    assert_eq!(arrivals[1].id(), "lost-from-the-log");
    let sql = standby.sql().await.unwrap();
    let known = sql.query("SELECT id FROM events", &[]).await.unwrap();
    let known: Vec<String> = known.iter().map(|row| row.get(0)).collect();
    assert_eq!(known, ["kept"]);
    // Whoever publishes again what was confirmed in the last minutes before the failover gets
    // it accepted: nobody knows it.
    world
        .publish("order.created", "lost-from-the-log", &json!({}))
        .await;
    shop.receives(3).await;
    // What was known is a duplicate still.
    world.publish("order.created", "kept", &json!({})).await;
    world.publish("order.created", "new", &json!({})).await;
    let arrivals = shop.receives(4).await;
    assert_eq!(arrivals[3].id(), "new");
    is_complete(world, standby, &settings).await;
}
