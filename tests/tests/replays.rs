//! Replays under difficult conditions: two replicas, a broker that goes away, retention.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use harness::producer::Publication;
use harness::receiver::{Receiver, Reply, answering};
use harness::service::Service;
use harness::world::{TENANT, Webhook, World, eventually};
use serde_json::{Value, json};

/// A webhook with this many failed deliveries, whose endpoint is healthy again.
async fn recovered(world: &World, ingest: &Service, failed: usize) -> (Receiver, Webhook) {
    let events: Vec<_> = (0..failed)
        .map(|n| Publication::json(TENANT, "order.paid", &format!("evt-{n}"), "{}"))
        .collect();
    let receiver = world
        .receiver(std::sync::Arc::new(move |n, _| {
            // 404 doesn't open the endpoint's circuit.
            Reply::status(if n < failed { 404 } else { 200 })
        }))
        .await;
    let webhook = world
        .webhook(ingest, &receiver, json!({"retries": 0}))
        .await;
    let producer = world.producer().await;
    producer.publish_all(&events).await.unwrap();
    receiver.receives(failed).await;
    world.settles().await;
    (receiver, webhook)
}

async fn replay(world: &World, ingest: &Service, webhook: &Webhook, rate: u32) -> String {
    let path = format!("/api/v1/webhooks/{}/replay", webhook.id);
    let body = json!({"since": "2020-01-01T00:00:00Z", "rate": rate});
    let made = world.ask(ingest, "POST", &path, Some(body)).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let id = made.body["id"].as_str().unwrap();
    format!("/api/v1/webhooks/{}/replays/{id}", webhook.id)
}

/// The least time from the request for a replay until the last of its deliveries arrives.
///
/// A step takes at most one second's worth, which is `rate` deliveries. The next step comes
/// after the time that these take at that rate. Before the last step, all deliveries but its
/// own, which are `rate` at most, were taken: `(count - rate) / rate` seconds.
fn least(count: usize, rate: u32) -> Duration {
    Duration::from_secs_f64(count as f64 / f64::from(rate) - 1.0)
}

async fn shown(world: &World, ingest: &Service, path: &str) -> Value {
    world.ask(ingest, "GET", path, None).await.body
}

#[tokio::test]
async fn two_replicas_step_one_replay_at_its_rate_and_send_nothing_twice() {
    const FAILED: usize = 40;
    const RATE: u32 = 10;
    let world = World::start().await;
    let (ingest, _other, _dispatcher) = (
        world.ingest().await,
        world.ingest().await,
        world.dispatcher().await,
    );
    let (receiver, webhook) = recovered(&world, &ingest, FAILED).await;
    let asked = Instant::now();
    let replay = replay(&world, &ingest, &webhook, RATE).await;
    let arrivals = receiver.receives(2 * FAILED).await;
    world.settles().await;
    eventually("the replay ends", async || {
        shown(&world, &ingest, &replay).await["status"] == "finished"
    })
    .await;
    assert_eq!(shown(&world, &ingest, &replay).await["replayed"], FAILED);

    let again = &arrivals[FAILED..];
    let mut times: HashMap<&str, usize> = HashMap::new();
    for arrival in again {
        *times.entry(arrival.id()).or_default() += 1;
    }
    assert!(
        times.len() == FAILED && times.values().all(|n| *n == 1),
        "{times:?}"
    );
    let took = again[FAILED - 1].at - asked;
    assert!(took >= least(FAILED, RATE), "{took:?}");
    receiver
        .receives_no_more_than(2 * FAILED, Duration::from_millis(500))
        .await;
    world.finish().await;
}

#[tokio::test]
async fn a_backfill_keeps_its_rate() {
    const EVENTS: usize = 30;
    const RATE: u32 = 6;
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let events: Vec<_> = (0..EVENTS)
        .map(|n| Publication::json(TENANT, "order.paid", &format!("evt-{n}"), "{}"))
        .collect();
    world.publish_all(&events).await;
    world.accepts(EVENTS as i64).await;
    let receiver = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &receiver, json!({})).await;

    let path = format!("/api/v1/webhooks/{}/backfill", webhook.id);
    let body = json!({"since": "2020-01-01T00:00:00Z", "rate": RATE});
    let asked = Instant::now();
    let made = world.ask(&ingest, "POST", &path, Some(body)).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let arrivals = receiver.receives(EVENTS).await;
    let took = arrivals[EVENTS - 1].at - asked;
    assert!(took >= least(EVENTS, RATE), "{took:?}");
    let ids: HashSet<_> = arrivals.iter().map(|arrival| arrival.id()).collect();
    assert_eq!(ids.len(), EVENTS);
    let path = format!("/api/v1/replays/{}", made.body["id"].as_str().unwrap());
    eventually("the backfill ends", async || {
        shown(&world, &ingest, &path).await["status"] == "finished"
    })
    .await;
    assert_eq!(shown(&world, &ingest, &path).await["replayed"], EVENTS);
    world.settles().await;
    world.finish().await;
}

#[tokio::test]
async fn while_rabbitmq_is_away_a_replay_waits() {
    const FAILED: usize = 30;
    let world = World::with_own_servers(&[("SWEEP_GRACE", "3600")]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let (receiver, webhook) = recovered(&world, &ingest, FAILED).await;
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    rabbitmq.kill().await.unwrap();
    eventually("ingest has noticed", async || {
        let ready = harness::service::http().get(ingest.url("/readyz"));
        !ready.send().await.unwrap().status().is_success()
    })
    .await;
    let replay = replay(&world, &ingest, &webhook, 5).await;
    // The time of several steps.
    receiver
        .receives_no_more_than(FAILED, Duration::from_secs(3))
        .await;
    assert_eq!(shown(&world, &ingest, &replay).await["replayed"], 0);
    assert_eq!(
        world.count("deliveries WHERE state = 'failed'").await as usize,
        FAILED
    );

    rabbitmq.start_again().await.unwrap();
    // Without the sweeper, whose grace period is an hour.
    receiver.receives(2 * FAILED).await;
    world.settles().await;
    assert_eq!(shown(&world, &ingest, &replay).await["replayed"], FAILED);
    world.finish().await;
}

#[tokio::test]
async fn old_finished_replays_are_deleted_and_running_ones_are_kept() {
    let world = World::with(&[("WEBHOOK_EVENT_TTL", "864000")]).await;
    let ingest = world.ingest().await;
    let _receiver = world.subscribed(&ingest, answering(200)).await;
    let sql = world.sql().await;
    sql.batch_execute(&format!(
        "INSERT INTO replays (id, tenant, webhook_id, since, until, states, rate, state, matching, \
             counted, position, next_step_at, created_at, finished_at) \
         SELECT gen_random_uuid(), '{TENANT}', w.id, now(), now(), '{{failed}}', 1, \
             CASE WHEN days IS NULL THEN 'running' ELSE 'finished' END, 0, true, w.id, \
             now() + interval '1 day', now() - interval '30 days', now() - days * interval '1 day' \
         FROM webhooks w, unnest(ARRAY[11, 9, NULL]) AS days; \
         INSERT INTO stats SELECT 'tenant/{TENANT}', date_trunc('hour', now()) - hours * interval '1 hour', \
             0, array_fill(0, ARRAY[10]), 0, 1, 1, 0, 0, 0, array_fill(0, ARRAY[34]), 5, now(), now(), NULL \
         FROM unnest(ARRAY[0, 3, 30, 200, 300]) AS hours;"
    ))
    .await
    .unwrap();

    // Counts older than the current quarter of an hour belong to their own time.
    for (window, delivered) in [("1h", 1), ("24h", 2), ("7d", 3), ("30d", 5)] {
        let path = format!("/api/v1/stats?window={window}");
        let stats = shown(&world, &ingest, &path).await;
        assert_eq!(
            stats["successful_deliveries"], delivered,
            "{window}: {stats}"
        );
    }

    // A replica does this work at its start.
    let _another = world.ingest().await;
    eventually("ten days are kept", async || {
        world.count("replays").await == 2 && world.count("stats").await == 4
    })
    .await;
    assert_eq!(world.count("replays WHERE state = 'running'").await, 1);
    sql.execute(
        "UPDATE replays SET state = 'finished', finished_at = now() WHERE state = 'running'",
        &[],
    )
    .await
    .unwrap();
    world.finish().await;
}
