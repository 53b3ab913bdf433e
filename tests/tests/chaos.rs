//! Many faults at once, or the same fault over and over.
//!
//! The first test is a short run of `make chaos`: see `harness::chaos`. Tests of single
//! faults are in `faults.rs`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::chaos::fault::short_deck;
use harness::chaos::{Plan, run};
use harness::producer::Publication;
use harness::proxy::{End, Proxy, Way};
use harness::receiver::{Arrival, Reply, Script, answering, answering_after};
use harness::world::{TENANT, World, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_frozen_cut_off_or_wiped_under_load_nothing_is_lost() {
    let plan = Plan {
        seed: 4711,
        faults: short_deck(),
        rate: 60,
    };
    run(plan, &|line| eprintln!("{line}")).await.unwrap();
}

#[tokio::test]
async fn a_job_that_crashes_every_dispatcher_is_parked_and_other_jobs_are_delivered() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let order = json!({"events": ["order.created"]});
    world.webhook(&ingest, &shop, order).await;
    // This request is never answered: its dispatcher is killed first.
    let is_deadly = Arc::new(AtomicBool::new(true));
    let deadly: Script = Arc::new({
        let is_deadly = is_deadly.clone();
        move |_, _| match is_deadly.load(Ordering::Relaxed) {
            true => Reply::status(200).after(Duration::from_secs(30)),
            false => Reply::status(200),
        }
    });
    let deadly = world.receiver(deadly).await;
    let poison = json!({"events": ["poison"]});
    let webhook = world.webhook(&ingest, &deadly, poison).await;
    let producer = world.producer().await;
    world.publish("poison", "evt-poison", &json!({})).await;

    let parked = "dead_letters WHERE reason = 'whoever took it failed every time'";
    let mut deaths = 0;
    while world.count(parked).await == 0 {
        let dispatcher = world.dispatcher().await;
        let event = Publication::json(TENANT, "order.created", &format!("evt-{deaths}"), "{}");
        producer.publish(&event).await.unwrap();
        // A delivery must be settled, not only sent: a dispatcher that is killed
        // before it settles delivers it again.
        eventually("the rest flows", async || {
            world.count("deliveries WHERE state = 'delivered'").await == deaths as i64 + 1
        })
        .await;
        eventually("it is taken, or parked", async || {
            deadly.arrivals().len() > deaths || world.count(parked).await == 1
        })
        .await;
        dispatcher.kill().await.unwrap();
        deaths += 1;
        assert!(deaths < 60, "it is never given up");
    }
    eprintln!("parked after {deaths} deaths");
    // The job isn't put back at once, because it could crash fifty more.
    let waiting = "deliveries WHERE deferred_because = 'parked' AND attempts = 0 \
                   AND due_at > now() + interval '50 minutes'";
    assert_eq!(world.count(waiting).await, 1);

    // Now the cause is found and removed.
    is_deadly.store(false, Ordering::Relaxed);
    let _dispatcher = world.dispatcher().await;
    let replay = json!({"reason": "whoever took it failed every time"});
    let path = "/api/v1/admin/dead-letters/replay";
    let replayed = world.ask_as_operator(&ingest, "POST", path, Some(replay));
    assert_eq!(replayed.await.body["replayed"], 1);
    world.settles().await;
    let deliveries = world.deliveries(&ingest, &webhook).await;
    assert_eq!(deliveries[0]["status"], "delivered");
    world.finish().await;
}

#[tokio::test]
async fn a_dispatcher_without_rabbitmq_starts_no_attempt_of_jobs_that_others_have() {
    let latency = Duration::from_millis(300);
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.subscribed(&ingest, answering_after(latency)).await;
    let (link, by_proxy) = Proxy::before(world.amqp_url()).await.unwrap();
    let settings = [("AMQP_URL", by_proxy.as_str()), ("CONCURRENCY", "256")];
    let _cut_off = world.service("posthorn-dispatcher", &settings).await;
    let _other = world.service("posthorn-dispatcher", &settings[1..]).await;

    let event = |n| Publication::json(TENANT, "order.created", &format!("evt-{n}"), "{}");
    let events: Vec<_> = (0..1500).map(event).collect();
    world.publish_all(&events).await;
    shop.receives(400).await;
    // The dispatcher holds many more jobs than it may send at a time. Others get
    // them at once.
    link.end(End::Reset);
    let cut = Instant::now();
    link.set(Way::Stalled, Way::Stalled);
    shop.receives(1500).await;
    link.clear();
    world.settles().await;

    let arrivals = shop.arrivals();
    let under_way = |arrival: &&Arrival| arrival.at + latency * 2 > cut && arrival.at < cut;
    let under_way = arrivals.iter().filter(under_way).count();
    let twice = arrivals.len() - 1500;
    eprintln!("{twice} of {under_way} came twice");
    assert!(twice <= under_way, "{twice} of {under_way}");
    // The jobs that one dispatcher sends at a time, and those that it hadn't acked
    // yet.
    assert!(twice <= 64 + 32, "{twice}");
    world.finish().await;
}

#[tokio::test]
async fn an_endless_slow_answer_is_recorded_and_delays_no_other_delivery() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dripping = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
                let _ = stream.write_all(head).await;
                while stream.write_all(b".").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
    });
    let shop = world.receiver(answering(200)).await;
    let url = json!({"url": format!("http://{dripping}/"), "events": ["drip"]});
    world.webhook(&ingest, &shop, url).await;
    let order = json!({"events": ["order.created"]});
    world.webhook(&ingest, &shop, order).await;
    let _dispatcher = world
        .service("posthorn-dispatcher", &[("CONCURRENCY", "1")])
        .await;

    let begun = Instant::now();
    world.publish("drip", "evt-drip", &json!({})).await;
    world.accepts(1).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    // The dispatcher's only permit is free again after the time limit of the answer.
    shop.receives(1).await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    world.settles().await;
    let on_record = "attempts WHERE outcome = 'success' AND length(response_body) > 0 \
                     AND duration_ms BETWEEN 4000 AND 8000";
    assert_eq!(world.count(on_record).await, 1);
    world.finish().await;
}
