//! What Posthorn does about endpoints that are paused or broken: a paused webhook keeps its
//! deliveries, the circuit breaker spares a dead endpoint, a webhook that fails for too long
//! is disabled, and its owner is notified.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::receiver::{Reply, Script, answering};
use harness::service::{Service, command};
use harness::world::{Webhook, World, eventually};
use serde_json::{Value, json};

/// A fast sweeper.
const BRISK: [(&str, &str); 2] = [("SWEEP_GRACE", "2"), ("SWEEP_INTERVAL", "1")];

fn answering_as_told(status: &Arc<AtomicU16>) -> Script {
    let status = status.clone();
    Arc::new(move |_, _| Reply::status(status.load(Ordering::Relaxed)))
}

async fn change(world: &World, ingest: &Service, webhook: &Webhook, change: Value) -> Value {
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let answer = world.ask(ingest, "PATCH", &path, Some(change)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

async fn shown(world: &World, ingest: &Service, webhook: &Webhook) -> Value {
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    world.ask(ingest, "GET", &path, None).await.body
}

#[tokio::test]
async fn a_paused_webhook_holds_its_deliveries_and_gets_them_when_it_is_active_again() {
    let world = World::with(&BRISK).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let status = Arc::new(AtomicU16::new(500));
    let shop = world.receiver(answering_as_told(&status)).await;
    let policy = json!({"retry_policy": {"delays": [1000, 1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    let other = world.subscribed(&ingest, answering(200)).await;

    // One delivery is between two attempts when the webhook is paused.
    world.publish("order.created", "evt-0", &json!({})).await;
    shop.receives(1).await;
    let paused = change(&world, &ingest, &webhook, json!({"status": "paused"})).await;
    assert_eq!(
        (&paused["status"], &paused["active"]),
        (&json!("paused"), &json!(false))
    );
    status.store(200, Ordering::Relaxed);
    for n in 1..50 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({"n": n})).await;
    }
    other.receives(50).await;
    let held = "deliveries WHERE deferred_because = 'paused' AND due_at IS NULL";
    eventually("all are held", async || world.count(held).await == 50).await;
    assert_eq!(shop.arrivals().len(), 1);
    let audit = world.audit().await;
    assert!(audit.starts_with("0 unaccounted, 0 events"), "{audit}");
    let log = world.deliveries(&ingest, &webhook).await;
    assert_eq!(
        (
            &log[0]["status"],
            &log[0]["next_attempt_at"],
            &log[0]["next_attempt_reason"]
        ),
        (&json!("queued"), &Value::Null, &json!("paused"))
    );

    change(&world, &ingest, &webhook, json!({"status": "active"})).await;
    let arrivals = shop.receives(51).await;
    for arrival in &arrivals {
        arrival.verify(&webhook.secret).unwrap();
    }
    world.settles().await;
    assert_eq!(
        world.count("deliveries WHERE state = 'delivered'").await,
        100
    );
    assert_eq!(world.count("holds").await, 0);
    shop.receives_no_more_than(51, Duration::from_secs(1)).await;
    world.finish().await;
}

#[tokio::test]
async fn deliveries_held_by_a_paused_webhook_are_cancelled_when_it_is_switched_off() {
    let world = World::with(&BRISK).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"status": "paused"}))
        .await;
    world.publish("order.created", "evt-1", &json!({})).await;
    eventually("it is held", async || {
        world.count("deliveries WHERE due_at IS NULL").await == 1 && world.count("holds").await == 1
    })
    .await;
    change(&world, &ingest, &webhook, json!({"active": false})).await;
    eventually("it is cancelled", async || {
        world.count("deliveries WHERE state = 'cancelled'").await == 1
    })
    .await;
    shop.receives_no_more_than(0, Duration::from_millis(500))
        .await;
    world.finish().await;
}

#[tokio::test]
async fn after_a_hang_no_delivery_waits_for_much_longer_than_the_endpoint_hung() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    // Requests that arrive before this time are answered then.
    let hangs_until = Arc::new(Mutex::new(Instant::now()));
    let script: Script = Arc::new({
        let hangs_until = hangs_until.clone();
        move |_, _| {
            let left = hangs_until
                .lock()
                .unwrap()
                .saturating_duration_since(Instant::now());
            Reply::status(200).after(left)
        }
    });
    let shop = world.subscribed(&ingest, script).await;
    world.publish("order.created", "evt-0", &json!({})).await;
    shop.receives(1).await;

    let (hang, events) = (Duration::from_secs(5), 100);
    let until = Instant::now() + hang;
    *hangs_until.lock().unwrap() = until;
    for n in 1..=events {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
        tokio::time::sleep(hang / (events + 10)).await;
    }
    let arrivals = shop.receives(1 + events as usize).await;
    let last = arrivals.iter().map(|arrival| arrival.at).max().unwrap();
    // A job that is refused when the endpoint has hung for t comes back when it has hung for
    // 2 t, and 5 ms for each job that was refused before. The last pass through a delay queue
    // may take a second, and a job that finds no permit then waits for another second.
    let late = last.saturating_duration_since(until);
    let most = hang + events * Duration::from_millis(5) + Duration::from_secs(2);
    assert!(late < most, "{late:?}");
    world.settles().await;
    assert_eq!(world.count("attempts").await, 1 + i64::from(events));
    world.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_gets_only_probes_and_deferrals_cost_no_attempts() {
    let world = World::with(&BRISK).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let status = Arc::new(AtomicU16::new(503));
    let shop = world.receiver(answering_as_told(&status)).await;
    let policy = json!({"retry_policy": {"delays": [1000, 1000, 1000, 1000]}});
    world.webhook(&ingest, &shop, policy).await;
    for n in 0..200 {
        world
            .publish("order.created", &format!("evt-{n}"), &json!({}))
            .await;
    }
    let down = "deliveries WHERE deferred_because = 'endpoint_down'";
    eventually("the rest waits", async || world.count(down).await > 150).await;
    // About ten failures open the circuit. Then there is one probe after 5 s, 10 s,
    // …
    shop.receives_no_more_than(20, Duration::from_secs(4)).await;
    let attempts = world.count("attempts").await;
    assert!(attempts <= 20, "{attempts}");

    status.store(200, Ordering::Relaxed);
    let back = Instant::now();
    world.settles().await;
    assert_eq!(
        world.count("deliveries WHERE state = 'delivered'").await,
        200
    );
    println!(
        "everything was delivered {:?} after it was back",
        back.elapsed()
    );
    world.finish().await;
}

#[tokio::test]
async fn an_operational_event_tells_the_owner_that_the_endpoint_is_gone() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let gone = world.receiver(answering(410)).await;
    let webhook = world.webhook(&ingest, &gone, json!({})).await;
    let desk = world.receiver(answering(200)).await;
    let told = world
        .webhook(
            &ingest,
            &desk,
            json!({"operational": true, "events": ["webhook.disabled"]}),
        )
        .await;
    // A producer can't forge the event, and a webhook for all events doesn't get it.
    let all = world.receiver(answering(200)).await;
    world.webhook(&ingest, &all, json!({"events": ["*"]})).await;
    world
        .publish("webhook.disabled", "forged", &json!({}))
        .await;
    world.publish("order.created", "evt-1", &json!({})).await;

    let arrivals = desk.receives(1).await;
    arrivals[0].verify(&told.secret).unwrap();
    let event = arrivals[0].json();
    assert_eq!(event["type"], "webhook.disabled");
    assert_eq!(event["data"]["webhook_id"], json!(webhook.id));
    assert!(
        event["data"]["reason"].as_str().unwrap().contains("410"),
        "{event}"
    );
    let disabled_at = event["data"]["disabled_at"].as_str().unwrap();
    assert_eq!(disabled_at.len(), "2026-01-31T10:00:00.123Z".len());
    world.settles().await;
    all.receives_no_more_than(2, Duration::from_millis(300))
        .await;
    desk.receives_no_more_than(1, Duration::from_millis(300))
        .await;
    // It is in the log like any other event.
    let path = format!("/api/v1/events/{}", arrivals[0].id());
    let logged = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(
        (logged.status, &logged.body["deliveries"][0]["status"]),
        (200, &json!("delivered"))
    );
    world.finish().await;
}

#[tokio::test]
async fn a_webhook_that_fails_for_too_long_is_disabled_and_one_that_recovers_is_not() {
    let settings = [("WEBHOOK_DISABLE_AFTER", "4"), BRISK[0], BRISK[1]];
    let world = World::with(&settings).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let broken = world.receiver(answering(404)).await;
    let every_second =
        json!({"retry_policy": {"retry_delay": 1000, "factor": 1, "max_retries": 40}});
    let failing = world.webhook(&ingest, &broken, every_second.clone()).await;
    let status = Arc::new(AtomicU16::new(404));
    let flaky = world.receiver(answering_as_told(&status)).await;
    let recovering = world.webhook(&ingest, &flaky, every_second).await;
    let desk = world.receiver(answering(200)).await;
    world
        .webhook(
            &ingest,
            &desk,
            json!({"operational": true, "events": ["*"]}),
        )
        .await;
    world.publish("order.created", "evt-1", &json!({})).await;
    flaky.receives(2).await;
    status.store(200, Ordering::Relaxed);

    let event = desk.receives(1).await[0].json();
    assert_eq!(event["data"]["webhook_id"], json!(failing.id));
    let since = event["data"]["failing_since"].as_str().unwrap();
    assert_eq!(since.len(), "2026-01-31T10:00:00.123Z".len(), "{since}");
    let disabled = shown(&world, &ingest, &failing).await;
    assert_eq!(disabled["status"], "disabled");
    let reason = disabled["disabled_reason"].as_str().unwrap();
    assert!(
        reason.starts_with("every attempt has failed since 2"),
        "{reason}"
    );
    assert_eq!(
        shown(&world, &ingest, &recovering).await["status"],
        "active"
    );
    // Its open deliveries are cancelled, and can be replayed from the time when it
    // broke.
    world.settles().await;
    let path = format!("/api/v1/webhooks/{}/replay", failing.id);
    change(&world, &ingest, &failing, json!({"active": true})).await;
    let body = json!({"since": since, "status": ["cancelled"], "dry_run": true});
    let replay = world.ask(&ingest, "POST", &path, Some(body)).await;
    assert_eq!(replay.status, 200, "{}", replay.body);
    world.finish().await;
}

#[tokio::test]
async fn the_dispatcher_lists_its_settings_without_needing_any() {
    let help = command("posthorn-dispatcher", &["--help"], &[])
        .await
        .unwrap();
    assert!(
        help.contains("DATABASE_URL") && help.contains("SWEEP_GRACE"),
        "{help}"
    );
    let version = command("posthorn-dispatcher", &["--version"], &[])
        .await
        .unwrap();
    assert!(version.starts_with("posthorn-dispatcher "), "{version}");
    let unknown = command("posthorn-dispatcher", &["--verbose"], &[]).await;
    assert!(unknown.is_err());
}
