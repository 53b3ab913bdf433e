//! Finished deliveries begin again: single retries, retries of an event, and replays.
//! Also the test request of a webhook, which stores nothing.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use harness::receiver::{Reply, Script, answering, answering_in_turn};
use harness::service::Service;
use harness::world::{Answer, Webhook, World, eventually};
use serde_json::{Value, json};

const LONG_AGO: &str = "2020-01-01T00:00:00Z";

async fn post(world: &World, ingest: &Service, path: &str, body: Option<Value>) -> Answer {
    world.ask(ingest, "POST", path, body).await
}

/// Answers with the status that is set at the time.
fn answering_as_told(status: &Arc<AtomicU16>) -> Script {
    let status = status.clone();
    Arc::new(move |_, _| Reply::status(status.load(Ordering::Relaxed)))
}

async fn only_delivery(world: &World, ingest: &Service, webhook: &Webhook) -> Value {
    let deliveries = world.deliveries(ingest, webhook).await;
    assert_eq!(deliveries.len(), 1);
    world.delivery(ingest, &deliveries[0]["id"]).await
}

#[tokio::test]
async fn a_failed_delivery_that_is_retried_begins_its_schedule_again() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world
        .receiver(answering_in_turn(&[500, 500, 500, 200]))
        .await;
    let policy = json!({"retry_policy": {"delays": [100]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;
    shop.receives(2).await;
    world.settles().await;
    let failed = only_delivery(&world, &ingest, &webhook).await;
    assert_eq!(
        (&failed["status"], &failed["attempts"]),
        (&json!("failed"), &json!(2))
    );

    let path = format!("/api/v1/webhooks/{}/events/evt-1/retry", webhook.id);
    let again = post(&world, &ingest, &path, None).await;
    assert_eq!(again.status, 202, "{}", again.body);
    assert_eq!(again.body["id"], failed["id"]);
    // The third attempt fails like the first one of a schedule, and another one
    // follows.
    let arrivals = shop.receives(4).await;
    world.settles().await;
    let delivered = only_delivery(&world, &ingest, &webhook).await;
    assert_eq!(
        (&delivered["status"], &delivered["attempts"]),
        (&json!("delivered"), &json!(4))
    );
    let numbers: Vec<_> = delivered["attempt_log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["n"].clone())
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    for arrival in &arrivals {
        assert_eq!(arrival.id(), "evt-1", "the same message id");
        arrival.verify(&webhook.secret).unwrap();
    }

    // A delivered delivery can be sent again, too.
    let path = format!(
        "/api/v1/deliveries/{}/retry",
        delivered["id"].as_str().unwrap()
    );
    assert_eq!(post(&world, &ingest, &path, None).await.status, 202);
    shop.receives(5).await;
    world.settles().await;
    assert_eq!(
        only_delivery(&world, &ingest, &webhook).await["attempts"],
        5
    );
    world.finish().await;
}

#[tokio::test]
async fn a_delivery_that_cannot_be_retried_is_refused_with_the_reason() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(500)).await;
    // A delivery whose next attempt is less than 2 s ahead isn't sent sooner on request.
    let policy = json!({"retry_policy": {"delays": [1900], "jitter": 0}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    eventually("it waits for its retry", async || {
        world.count("deliveries WHERE state = 'retrying'").await == 1
    })
    .await;
    let hook = format!("/api/v1/webhooks/{}", webhook.id);
    let open = post(&world, &ingest, &format!("{hook}/events/evt-1/retry"), None).await;
    assert_eq!(open.status, 409, "{}", open.body);
    // In words that depend on whether it is due yet.
    let detail = open.body["detail"].as_str().unwrap();
    assert!(detail.contains("attempt"), "{detail}");
    let unknown = post(&world, &ingest, &format!("{hook}/events/evt-2/retry"), None).await;
    assert_eq!(unknown.status, 404);

    world.settles().await;
    world
        .ask(&ingest, "PATCH", &hook, Some(json!({"active": false})))
        .await;
    let replay = json!({"since": LONG_AGO, "dry_run": true});
    for (path, body) in [
        (format!("{hook}/events/evt-1/retry"), None),
        (format!("{hook}/replay"), Some(replay.clone())),
    ] {
        let off = post(&world, &ingest, &path, body).await;
        assert_eq!(off.status, 409, "{}", off.body);
        assert!(
            off.body["detail"].as_str().unwrap().contains("inactive"),
            "{}",
            off.body
        );
    }
    world
        .ask(&ingest, "PATCH", &hook, Some(json!({"active": true})))
        .await;
    for (field, body) in [
        ("status", json!({"since": LONG_AGO, "status": "queued"})),
        ("rate", json!({"since": LONG_AGO, "rate": 0})),
        ("rate", json!({"since": LONG_AGO, "rate": 1001})),
        ("since", json!({"since": "2100-01-01T00:00:00Z"})),
        (
            "event_types[1]",
            json!({"since": LONG_AGO, "event_types": ["a.b", "a..b"]}),
        ),
    ] {
        let refused = post(&world, &ingest, &format!("{hook}/replay"), Some(body)).await;
        assert_eq!(
            (refused.status, refused.body["field"].as_str()),
            (422, Some(field)),
            "{}",
            refused.body
        );
    }
    world.finish().await;
}

/// Waits for the end of a replay.
async fn ended(world: &World, ingest: &Service, path: &str) -> Value {
    eventually("the replay ends", async || {
        world.ask(ingest, "GET", path, None).await.body["status"] != "running"
    })
    .await;
    world.ask(ingest, "GET", path, None).await.body
}

#[tokio::test]
async fn a_replay_sends_what_failed_again_oldest_first_at_its_rate() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let status = Arc::new(AtomicU16::new(500));
    let shop = world.receiver(answering_as_told(&status)).await;
    let webhook = world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    for n in 0..6 {
        let kind = if n == 5 { "order.odd" } else { "order.paid" };
        world.publish(kind, &format!("evt-{n}"), &json!({})).await;
        world.accepts(n + 1).await;
    }
    shop.receives(6).await;
    world.settles().await;
    status.store(200, Ordering::Relaxed);
    world.publish("order.paid", "evt-good", &json!({})).await;
    shop.receives(7).await;
    world.settles().await;

    let path = format!("/api/v1/webhooks/{}/replay", webhook.id);
    let wanted = |more: Value| {
        let mut body = json!({"since": LONG_AGO, "event_types": ["order.paid"]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Some(body)
    };
    let dry = post(&world, &ingest, &path, wanted(json!({"dry_run": true}))).await;
    assert_eq!(dry.status, 200);
    let counts = [
        &dry.body["dry_run"],
        &dry.body["matching"],
        &dry.body["counted"],
    ];
    assert_eq!(counts, [&json!(true), &json!(5), &json!(true)]);
    let by_type = json!([{"event_type": "order.paid", "matching": 5}]);
    assert_eq!(dry.body["by_type"], by_type);
    assert_eq!(shop.arrivals().len(), 7);

    let made = post(&world, &ingest, &path, wanted(json!({"rate": 2}))).await;
    assert_eq!(
        (made.status, &made.body["matching"]),
        (202, &json!(5)),
        "{}",
        made.body
    );
    let another = post(&world, &ingest, &path, wanted(json!({}))).await;
    assert_eq!(another.status, 409, "{}", another.body);
    let replay = format!(
        "/api/v1/webhooks/{}/replays/{}",
        webhook.id,
        made.body["id"].as_str().unwrap()
    );
    let finished = ended(&world, &ingest, &replay).await;
    assert_eq!(
        (&finished["status"], &finished["replayed"]),
        (&json!("finished"), &json!(5))
    );
    let arrivals = shop.receives(12).await;
    let again: Vec<_> = arrivals[7..].iter().map(|a| a.id().to_owned()).collect();
    let mut sorted = again.clone();
    sorted.sort();
    assert_eq!(sorted, ["evt-0", "evt-1", "evt-2", "evt-3", "evt-4"]);
    // Two per second: five take two pauses of a second.
    let took = arrivals[11].at - arrivals[7].at;
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    world.settles().await;
    assert_eq!(world.count("deliveries WHERE state = 'failed'").await, 1);
    let listed = world
        .ask(
            &ingest,
            "GET",
            &format!("/api/v1/webhooks/{}/replays", webhook.id),
            None,
        )
        .await;
    assert_eq!(listed.body["replays"][0]["id"], made.body["id"]);
    world.finish().await;
}

#[tokio::test]
async fn a_replay_outlives_its_ingest_and_ends_when_it_is_cancelled() {
    // If ingest is killed before it publishes a job, the sweeper finds that.
    let world = World::with(&[("SWEEP_GRACE", "1"), ("SWEEP_INTERVAL", "1")]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    // 404 doesn't open the endpoint's circuit.
    let status = Arc::new(AtomicU16::new(404));
    let shop = world.receiver(answering_as_told(&status)).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"retries": 0, "timeout": 1000}))
        .await;
    for n in 0..30 {
        world
            .publish("order.paid", &format!("evt-{n}"), &json!({}))
            .await;
    }
    shop.receives(30).await;
    world.settles().await;
    status.store(200, Ordering::Relaxed);
    let path = format!("/api/v1/webhooks/{}/replay", webhook.id);
    let body = json!({"since": LONG_AGO, "rate": 2});
    let made = post(&world, &ingest, &path, Some(body.clone())).await;
    let replay = format!(
        "/api/v1/webhooks/{}/replays/{}",
        webhook.id,
        made.body["id"].as_str().unwrap()
    );
    shop.receives(31).await;
    ingest.kill().await.unwrap();

    let ingest = world.ingest().await;
    let seen = shop.arrivals().len();
    shop.receives(seen + 4).await;
    let cancelled = post(&world, &ingest, &format!("{replay}/cancel"), None).await;
    assert_eq!(
        (cancelled.status, &cancelled.body["status"]),
        (200, &json!("cancelled"))
    );
    world.settles().await;
    let replayed = world.ask(&ingest, "GET", &replay, None).await.body["replayed"]
        .as_i64()
        .unwrap();
    assert!(replayed < 30, "{replayed}");
    // Each was restarted once.
    assert_eq!(world.count("deliveries WHERE attempts = 2").await, replayed);
    shop.receives_no_more_than(30 + replayed as usize, Duration::from_millis(1500))
        .await;

    // The rest, and the end of the replay when the webhook is switched off.
    let rest = post(&world, &ingest, &path, Some(body)).await;
    assert_eq!(rest.status, 202, "{}", rest.body);
    let hook = format!("/api/v1/webhooks/{}", webhook.id);
    world
        .ask(&ingest, "PATCH", &hook, Some(json!({"active": false})))
        .await;
    let replay = format!(
        "/api/v1/webhooks/{}/replays/{}",
        webhook.id,
        rest.body["id"].as_str().unwrap()
    );
    let off = ended(&world, &ingest, &replay).await;
    assert!(
        off["cancelled_because"]
            .as_str()
            .unwrap()
            .contains("switched off"),
        "{off}"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_test_delivery_returns_the_endpoints_answer_and_stores_nothing() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering_in_turn(&[200, 401])).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"events": ["order.*", "order.paid"], "headers": {"X-Api-Key": "hunter2-hunter2"}}))
        .await;
    let path = format!("/api/v1/webhooks/{}/test", webhook.id);
    let said = post(&world, &ingest, &path, None).await;
    assert_eq!(said.status, 200, "{}", said.body);
    assert_eq!(
        (&said.body["success"], &said.body["response_code"]),
        (&json!(true), &json!(200))
    );
    assert_eq!(
        (&said.body["event_type"], &said.body["response_body"]),
        (&json!("order.paid"), &json!("noted\n"))
    );
    assert!(!said.body.to_string().contains("hunter2"));
    let arrival = &shop.arrivals()[0];
    arrival.verify(&webhook.secret).unwrap();
    assert_eq!(
        (
            arrival.header("x-posthorn-test"),
            arrival.header("x-api-key")
        ),
        ("true", "hunter2-hunter2")
    );
    assert!(arrival.id().starts_with("evt_test_"), "{}", arrival.id());
    assert_eq!(said.body["event_id"], arrival.id());

    let body = json!({"webhook_id": webhook.id, "event_type": "order.created", "data": {"n": 1}});
    let refused = post(&world, &ingest, "/api/v1/webhooks/test", Some(body)).await;
    assert_eq!(
        (refused.status, &refused.body["success"]),
        (200, &json!(false)),
        "{}",
        refused.body
    );
    assert!(
        refused.body["verdict"].as_str().unwrap().contains("secret"),
        "{}",
        refused.body
    );
    assert_eq!(shop.arrivals()[1].json()["data"], json!({"n": 1}));

    for (url, outcome) in [
        ("http://127.0.0.1:9/", "connect"),
        ("http://does-not-exist.invalid/", "dns"),
    ] {
        world
            .ask(
                &ingest,
                "PATCH",
                &format!("/api/v1/webhooks/{}", webhook.id),
                Some(json!({"url": url})),
            )
            .await;
        let failed = post(&world, &ingest, &path, Some(json!({}))).await;
        assert_eq!(
            (failed.status, &failed.body["outcome"]),
            (200, &json!(outcome)),
            "{}",
            failed.body
        );
    }
    assert_eq!(
        world.count("events").await + world.count("deliveries").await + world.count("stats").await,
        0
    );
    world.finish().await;
}
