//! Processes and servers die at the worst moment, and no event is lost.
//!
//! The tests believe the producer's confirms and the receiver's arrivals, not what
//! Posthorn reports about itself.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::producer::{Producer, Publication};
use harness::receiver::{Receiver, answering, answering_after, answering_in_turn};
use harness::service::http;
use harness::setups::counts;
use harness::world::{TENANT, World, eventually};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use serde_json::json;

/// The arrivals of each id.
fn arrivals_by_id(receiver: &Receiver) -> BTreeMap<String, Vec<Instant>> {
    let mut by_id: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    for arrival in receiver.arrivals() {
        by_id
            .entry(arrival.id().to_owned())
            .or_default()
            .push(arrival.at);
    }
    by_id
}

fn events(range: std::ops::Range<usize>) -> Vec<Publication> {
    range
        .map(|n| {
            Publication::json(
                TENANT,
                "order.created",
                &format!("evt-{n:05}"),
                &format!("{{\"n\":{n}}}"),
            )
        })
        .collect()
}

/// Publishes until told to stop, through any fault. Returns the confirmed ids.
fn publish_meanwhile(
    amqp_url: String,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<BTreeSet<String>> {
    tokio::spawn(async move {
        let mut confirmed = BTreeSet::new();
        let mut next = 0;
        while !stop.load(Ordering::Relaxed) {
            let Ok(Ok(producer)) =
                tokio::time::timeout(Duration::from_secs(5), Producer::connect(&amqp_url)).await
            else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            while !stop.load(Ordering::Relaxed) {
                let batch = events(next..next + 20);
                let published =
                    tokio::time::timeout(Duration::from_secs(20), producer.publish_all(&batch))
                        .await;
                // Unconfirmed events are published again under the same ids.
                if !matches!(published, Ok(Ok(()))) {
                    break;
                }
                confirmed.extend(
                    batch
                        .iter()
                        .map(|event| event.properties.message_id().clone().unwrap().to_string()),
                );
                next += 20;
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
        confirmed
    })
}

/// Publishes, lets a fault happen, and goes on publishing. Waits until every
/// confirmed event has arrived, and returns the arrivals by id. The test compares
/// the producer's confirms with the receiver's arrivals.
async fn under_load(
    world: &World,
    receiver: &Receiver,
    happens: impl AsyncFnOnce(),
) -> BTreeMap<String, Vec<Instant>> {
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = publish_meanwhile(world.amqp_url().to_owned(), stop.clone());
    receiver.receives(200).await;
    happens().await;
    let over = Instant::now();
    let before = receiver.arrivals().len();
    receiver.receives(before + 200).await;
    eprintln!(
        "200 more arrived within {:?} after it was over",
        over.elapsed()
    );
    stop.store(true, Ordering::Relaxed);
    let confirmed = publishing.await.unwrap();
    eventually(
        &format!("all {} confirmed events arrived", confirmed.len()),
        async || {
            let arrived = arrivals_by_id(receiver);
            confirmed.iter().all(|id| arrived.contains_key(id))
        },
    )
    .await;
    world.settles().await;
    arrivals_by_id(receiver)
}

#[tokio::test]
async fn jobs_of_a_killed_dispatcher_are_delivered_by_another() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world
        .subscribed(&ingest, answering_after(Duration::from_millis(200)))
        .await;
    let (doomed, _other) = (world.dispatcher().await, world.dispatcher().await);

    world.publish_all(&events(0..600)).await;
    shop.receives(150).await;
    doomed.kill().await.unwrap();
    let killed = Instant::now();

    shop.receives(600).await;
    world.settles().await;
    let by_id = arrivals_by_id(&shop);
    assert_eq!(by_id.len(), 600);
    for (id, times) in by_id.iter().filter(|(_, times)| times.len() > 1) {
        // In flight when the dispatcher died: 200 ms, and the time to record an
        // attempt.
        let before = killed.saturating_duration_since(times[0]);
        assert!(
            times.len() == 2 && before < Duration::from_secs(3),
            "{id} arrived {before:?} before, {} times",
            times.len()
        );
    }
    // A duplicate costs no attempt.
    assert_eq!(
        world
            .count("deliveries WHERE state = 'delivered' AND attempts = 1")
            .await,
        600
    );
    assert_eq!(world.count("attempts").await, 600);
    world.finish().await;
}

#[tokio::test]
async fn a_dispatcher_that_is_told_to_stop_finishes_what_it_holds() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world
        .subscribed(&ingest, answering_after(Duration::from_millis(300)))
        .await;
    let (leaving, other) = (world.dispatcher().await, world.dispatcher().await);

    world.publish_all(&events(0..500)).await;
    shop.receives(100).await;
    leaving.stop().await.unwrap();
    shop.receives(500).await;
    world.settles().await;
    assert!(
        arrivals_by_id(&shop).values().all(|times| times.len() == 1),
        "something arrived twice"
    );
    assert_eq!(world.count("attempts").await, 500);
    // The acks that waited for others were sent, or the other one would have got their jobs.
    let stale = other.metric("posthorn_jobs_stale_total").await;
    assert_eq!(stale.unwrap() as i64, 0);
    world.finish().await;
}

#[tokio::test]
async fn an_ingest_that_dies_between_commit_and_publish_loses_nothing() {
    // Jobs that it had not published come a timeout and 15 s later.
    let world = World::with(&[("WEBHOOK_TIMEOUT", "1000")]).await;
    let ingest = world.ingest().await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    let _dispatcher = world.dispatcher().await;

    // Without the jobs exchange no job can be published, but the commit still
    // happens.
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    channel
        .exchange_delete("posthorn.jobs".into(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    world.publish_all(&events(0..50)).await;
    eventually("some are committed", async || {
        world.count("deliveries").await > 0
    })
    .await;
    ingest.kill().await.unwrap();

    let _ingest = world.ingest().await;
    shop.receives(50).await;
    world.accepts(50).await;
    world.settles().await;
    assert_eq!(world.count("deliveries").await, 50);
    assert_eq!(arrivals_by_id(&shop).len(), 50);
    world.finish().await;
}

#[tokio::test]
async fn ingests_killed_over_and_over_lose_nothing() {
    // Jobs that it had not published come a timeout and 15 s later.
    let world = World::with(&[("WEBHOOK_TIMEOUT", "1000")]).await;
    let shop = world.receiver(answering(200)).await;
    let first = world.ingest().await;
    world.webhook(&first, &shop, json!({})).await;
    // Kept here, because dropping it would end the process.
    let mut ingest = Some(first);
    let _dispatcher = world.dispatcher().await;

    under_load(&world, &shop, async || {
        for round in 0..5 {
            tokio::time::sleep(Duration::from_millis(300 + 70 * round)).await;
            ingest.take().unwrap().kill().await.unwrap();
            ingest = Some(world.ingest().await);
        }
    })
    .await;
    assert_eq!(world.count("deliveries").await, world.count("events").await);
    world.finish().await;
}

#[tokio::test]
async fn a_crash_of_rabbitmq_under_load_loses_nothing() {
    let world = World::with_own_servers(&[]).await;
    let ingest = world.ingest().await;
    // One endpoint fails at first, so that the delay queues have jobs too.
    let shop = world.receiver(answering(200)).await;
    let flaky = world.receiver(answering_in_turn(&[500, 500, 200])).await;
    world.webhook(&ingest, &shop, json!({})).await;
    let again = json!({"events": ["order.created"], "filters": {"n": {"$lt": 5}}, "retry_policy": {"delays": [2000, 2000, 2000]}});
    world.webhook(&ingest, &flaky, again).await;
    let dispatchers = [world.dispatcher().await, world.dispatcher().await];
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    rabbitmq.flush_declarations().await.unwrap();

    let by_id = under_load(&world, &shop, async || {
        rabbitmq.kill().await.unwrap();
        rabbitmq.start_again().await.unwrap();
    })
    .await;
    let twice = by_id.values().filter(|times| times.len() > 1).count();
    // At most as many as all dispatchers may hold.
    assert!(twice <= 2 * 512, "{twice} arrived twice");
    assert_eq!(arrivals_by_id(&flaky).len(), 5);
    // Posthorn's own faults cost no attempt.
    assert_eq!(
        world.count("deliveries WHERE state = 'delivered'").await,
        world.count("deliveries").await
    );
    for dispatcher in &dispatchers {
        assert!(
            dispatcher
                .metric("posthorn_amqp_reconnects_total")
                .await
                .unwrap()
                >= 1.0
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn a_crash_of_postgresql_under_load_loses_nothing() {
    let world = World::with_own_servers(&[]).await;
    let ingest = world.ingest().await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    let dispatcher = world.dispatcher().await;
    let postgres = world.pair.as_ref().unwrap().postgres();

    let by_id = under_load(&world, &shop, async || {
        postgres.kill().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        postgres.start_again().await.unwrap();
    })
    .await;
    // Nothing was sent twice: the results of POSTs waited to be recorded.
    assert!(
        by_id.values().all(|times| times.len() == 1),
        "something arrived twice"
    );
    assert!(
        dispatcher
            .metric("posthorn_postgres_reconnects_total")
            .await
            .unwrap()
            >= 1.0
    );
    // A change that no process could hear of meanwhile takes effect.
    let late = world.receiver(answering(200)).await;
    world
        .webhook(&ingest, &late, json!({"events": ["late.event"]}))
        .await;
    world.publish("late.event", "late-1", &json!({})).await;
    late.receives(1).await;
    world.finish().await;
}

#[tokio::test]
async fn jobs_that_the_broker_lost_are_put_back_by_the_sweeper() {
    let sweeping = [
        ("SWEEP_GRACE", "1"),
        ("SWEEP_INTERVAL", "1"),
        ("WEBHOOK_TIMEOUT", "1000"),
    ];
    let world = World::with(&sweeping).await;
    let ingest = world.ingest().await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    // There is no dispatcher yet: the jobs wait in their queue, and are lost with
    // it.
    world.publish_all(&events(0..300)).await;
    world.accepts(300).await;
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    // A batch is counted when its jobs are in the queue.
    counts(&ingest, "posthorn_ingest_batch_size_sum", 300.0).await;
    channel
        .queue_delete("posthorn.jobs.v1.0".into(), QueueDeleteOptions::default())
        .await
        .unwrap();

    let dispatcher = world.dispatcher().await;
    shop.receives(300).await;
    world.settles().await;
    assert!(
        arrivals_by_id(&shop).values().all(|times| times.len() == 1),
        "something arrived twice"
    );
    assert_eq!(
        dispatcher
            .metric("posthorn_sweeper_requeued_total")
            .await
            .unwrap() as i64,
        300
    );
    world.finish().await;
}

#[tokio::test]
async fn an_attempt_that_waits_for_postgresql_does_not_count_as_lost() {
    let sweeping = [
        ("SWEEP_GRACE", "5"),
        ("SWEEP_INTERVAL", "1"),
        ("WEBHOOK_TIMEOUT", "1000"),
    ];
    let world = World::with_own_servers(&sweeping).await;
    let ingest = world.ingest().await;
    let latency = Duration::from_millis(300);
    let shop = world.subscribed(&ingest, answering_after(latency)).await;
    // Two dispatchers: one could send again what the other is about to record.
    let _dispatchers = (world.dispatcher().await, world.dispatcher().await);
    let producer = world.producer().await;
    producer.publish_all(&events(0..400)).await.unwrap();
    shop.receives(60).await;

    let postgres = world.pair.as_ref().unwrap().postgres();
    postgres.kill().await.unwrap();
    // Longer than a timeout and the grace period.
    tokio::time::sleep(Duration::from_secs(8)).await;
    postgres.start_again().await.unwrap();

    shop.receives(400).await;
    world.settles().await;
    assert!(
        arrivals_by_id(&shop).values().all(|times| times.len() == 1),
        "something arrived twice"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_backlog_does_not_count_as_lost() {
    let sweeping = [
        ("SWEEP_GRACE", "3"),
        ("SWEEP_INTERVAL", "1"),
        ("WEBHOOK_TIMEOUT", "1000"),
        ("CONCURRENCY", "4"),
    ];
    let world = World::with(&sweeping).await;
    let ingest = world.ingest().await;
    let shop = world
        .subscribed(&ingest, answering_after(Duration::from_millis(50)))
        .await;
    world.publish_all(&events(0..800)).await;
    world.accepts(800).await;
    // Four at a time: the backlog takes more than twice the grace period.
    let dispatcher = world.dispatcher().await;
    shop.receives(800).await;
    world.settles().await;
    assert_eq!(
        dispatcher
            .metric("posthorn_sweeper_requeued_total")
            .await
            .unwrap() as i64,
        0
    );
    assert!(
        arrivals_by_id(&shop).values().all(|times| times.len() == 1),
        "something arrived twice"
    );
    world.finish().await;
}

#[tokio::test]
async fn an_unreadable_job_is_parked_and_other_jobs_are_delivered() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let producer = world.producer().await;
    let nonsense = Publication {
        routing_key: "0.0".to_owned(),
        properties: Default::default(),
        body: vec![9, 9, 9],
    };
    producer
        .publish_to("posthorn.jobs", &nonsense)
        .await
        .unwrap();
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    eventually("it is parked", async || {
        world
            .count("dead_letters WHERE reason LIKE '%version 9%'")
            .await
            == 1
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_queue_deleted_under_its_consumers_is_made_again_and_its_jobs_with_it() {
    let sweeping = [
        ("SWEEP_GRACE", "1"),
        ("SWEEP_INTERVAL", "1"),
        ("WEBHOOK_TIMEOUT", "1000"),
    ];
    let world = World::with(&sweeping).await;
    let ingest = world.ingest().await;
    let shop = world
        .subscribed(&ingest, answering_after(Duration::from_millis(100)))
        .await;
    let dispatcher = world
        .service("posthorn-dispatcher", &[("CONCURRENCY", "8")])
        .await;
    world.publish_all(&events(0..200)).await;
    shop.receives(20).await;

    // The broker cancels the consumers of a queue that is deleted.
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    for queue in ["posthorn.jobs.v1.0", "posthorn.ingest.v1"] {
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
    }
    eventually("both notice", async || {
        dispatcher
            .metric("posthorn_amqp_reconnects_total")
            .await
            .unwrap()
            >= 1.0
            && ingest
                .metric("posthorn_amqp_reconnects_total")
                .await
                .unwrap()
                >= 1.0
    })
    .await;
    eventually("both are ready again", async || {
        let ready = async |url: String| http().get(url).send().await.unwrap().status() == 200;
        ready(ingest.url("/readyz")).await && ready(dispatcher.url("/readyz")).await
    })
    .await;
    let publication = Publication::json(TENANT, "order.created", "afterwards", "{}");
    world.producer().await.publish(&publication).await.unwrap();

    // Events that ingest hadn't taken are lost with their queue. All accepted events
    // arrive.
    eventually("the last event is accepted", async || {
        world.count("events WHERE id = 'afterwards'").await == 1
    })
    .await;
    world.settles().await;
    let arrived: BTreeSet<String> = arrivals_by_id(&shop).into_keys().collect();
    assert_eq!(arrived.len() as i64, world.count("events").await);
    world.finish().await;
}

#[tokio::test]
async fn while_rabbitmq_blocks_publishers_its_jobs_are_still_delivered() {
    let world = World::with_own_servers(&[]).await;
    let ingest = world.ingest().await;
    let shop = world
        .subscribed(&ingest, answering_after(Duration::from_millis(50)))
        .await;
    world.publish_all(&events(0..300)).await;
    world.accepts(300).await;
    let dispatcher = world
        .service("posthorn-dispatcher", &[("CONCURRENCY", "16")])
        .await;
    shop.receives(20).await;

    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    rabbitmq
        .rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1MB"])
        .await
        .unwrap();
    let publish = async |id: &str| {
        let event = json!({"type": "order.created", "id": id, "data": {}});
        world
            .ask(&ingest, "POST", "/api/v1/events", Some(event))
            .await
    };
    // RabbitMQ tells of the alarm when something is published: the first event is
    // written by then, so it is accepted, and its job waits.
    let held_up = publish("held-up").await;
    assert_eq!(held_up.status, 202, "{}", held_up.body);
    assert_eq!(
        ingest.metric("posthorn_amqp_blocked").await.unwrap() as i64,
        1
    );
    // From then on nothing is begun that could only wait: not confirmed, so not accepted.
    let refused = publish("refused").await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(world.count("events").await, 301);
    // Acks go over a connection of their own.
    shop.receives(300).await;
    eventually("all but one are settled", async || {
        world
            .count("deliveries WHERE state IN ('queued', 'retrying')")
            .await
            == 1
    })
    .await;

    rabbitmq
        .rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"])
        .await
        .unwrap();
    world
        .publish("order.created", "afterwards", &json!({}))
        .await;
    for id in ["held-up", "afterwards"] {
        eventually("what waited and the last event arrive", async || {
            shop.arrivals().iter().any(|arrival| arrival.id() == id)
        })
        .await;
    }
    world.settles().await;
    let swept = dispatcher.metric("posthorn_sweeper_requeued_total").await;
    assert_eq!(swept.unwrap(), 0.0);
    assert_eq!(
        ingest.metric("posthorn_amqp_blocked").await.unwrap() as i64,
        0
    );
    assert_eq!(
        dispatcher
            .metric("posthorn_amqp_reconnects_total")
            .await
            .unwrap() as i64,
        0
    );
    world.finish().await;
}
