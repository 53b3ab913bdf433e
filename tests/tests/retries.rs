//! The endpoint's answer decides whether and when a delivery is tried again.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use harness::receiver::{Arrival, Receiver, Reply, Script, answering, answering_in_turn};
use harness::service::Service;
use harness::world::{Webhook, World, eventually};
use serde_json::{Value, json};

/// A world with one webhook and one endpoint.
async fn one_endpoint(script: Script, more: Value) -> (World, [Service; 2], Receiver, Webhook) {
    let world = World::start().await;
    let services = [world.ingest().await, world.dispatcher().await];
    let endpoint = world.receiver(script).await;
    let webhook = world.webhook(&services[0], &endpoint, more).await;
    (world, services, endpoint, webhook)
}

fn pauses(arrivals: &[Arrival]) -> Vec<Duration> {
    arrivals
        .windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .collect()
}

/// The webhook's only delivery with its attempts, once it has this status.
async fn delivery(world: &World, ingest: &Service, webhook: &Webhook, status: &str) -> Value {
    eventually(&format!("the delivery is {status}"), async || {
        let deliveries = world.deliveries(ingest, webhook).await;
        deliveries.len() == 1 && deliveries[0]["status"] == status
    })
    .await;
    let id = world.deliveries(ingest, webhook).await[0]["id"].clone();
    world.delivery(ingest, &id).await
}

fn outcomes(delivery: &Value) -> Vec<&str> {
    let attempts = delivery["attempt_log"].as_array().unwrap();
    attempts
        .iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_failing_endpoint_is_asked_again_on_schedule_until_it_takes_the_event() {
    // There is no delay queue of 3 s: two passes, through 2 s and 1 s.
    let policy = json!({"retry_policy": {"delays": [1000, 3000]}});
    let (world, [ingest, _dispatcher], endpoint, webhook) =
        one_endpoint(answering_in_turn(&[500, 500, 200]), policy).await;
    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;

    let arrivals = endpoint.receives(3).await;
    let pauses = pauses(&arrivals);
    assert!(
        pauses[0] >= Duration::from_secs(1) && pauses[1] >= Duration::from_secs(3),
        "{pauses:?}"
    );
    let stamps: Vec<u64> = arrivals
        .iter()
        .map(|arrival| arrival.header("webhook-timestamp").parse().unwrap())
        .collect();
    assert!(
        stamps[0] < stamps[1] && stamps[1] + 2 <= stamps[2],
        "timestamps are fresh: {stamps:?}"
    );
    for arrival in &arrivals {
        assert_eq!(arrival.id(), "evt-1");
        assert_eq!(arrival.body, arrivals[0].body);
        arrival.verify(&webhook.secret).unwrap();
    }

    let delivery = delivery(&world, &ingest, &webhook, "delivered").await;
    assert_eq!(
        outcomes(&delivery),
        ["server_error", "server_error", "success"]
    );
    assert_eq!(delivery["attempt_log"][0]["response_code"], 500);
    assert_eq!(delivery["attempt_log"][2]["response_body"], "noted\n");
    world.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_never_recovers_is_given_up_after_the_last_attempt() {
    let policy = json!({"retryPolicy": {"maxRetries": 2, "retryDelay": 500}});
    let (world, [ingest, _dispatcher], endpoint, webhook) =
        one_endpoint(answering(503), policy).await;
    world.publish("order.created", "evt-1", &json!({})).await;

    let delivery = delivery(&world, &ingest, &webhook, "failed").await;
    assert_eq!(outcomes(&delivery), ["server_error"; 3]);
    assert_eq!(
        (&delivery["attempts"], &delivery["response_code"]),
        (&json!(3), &json!(503))
    );
    endpoint
        .receives_no_more_than(3, Duration::from_secs(2))
        .await;
    world.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_gets_nothing_more() {
    let (world, [ingest, _dispatcher], endpoint, webhook) =
        one_endpoint(answering(410), json!({})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    delivery(&world, &ingest, &webhook, "failed").await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let shown = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(
        (&shown["active"], &shown["status"]),
        (&json!(false), &json!("disabled"))
    );
    assert!(
        shown["disabled_reason"].as_str().unwrap().contains("410"),
        "{shown}"
    );

    world.publish("order.created", "evt-2", &json!({})).await;
    world.accepts(2).await;
    assert_eq!(world.count("deliveries").await, 1);
    endpoint
        .receives_no_more_than(1, Duration::from_millis(500))
        .await;

    // The owner switches it on again.
    let on = world
        .ask(&ingest, "PATCH", &path, Some(json!({"active": true})))
        .await;
    assert_eq!(
        (on.status, &on.body["status"], &on.body["disabled_reason"]),
        (200, &json!("active"), &Value::Null)
    );
    world.finish().await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let elsewhere = Receiver::start(answering(200)).await.unwrap();
    let there = elsewhere.url("/trap");
    let script: Script =
        std::sync::Arc::new(move |_, _| Reply::status(302).with("location", there.clone()));
    let (world, [ingest, _dispatcher], _endpoint, webhook) =
        one_endpoint(script, json!({"retries": 0})).await;
    world.publish("order.created", "evt-1", &json!({})).await;

    let delivery = delivery(&world, &ingest, &webhook, "failed").await;
    assert_eq!(outcomes(&delivery), ["redirect"]);
    assert_eq!(elsewhere.arrivals().len(), 0);
    world.finish().await;
}

#[tokio::test]
async fn retry_after_is_respected() {
    let script: Script = std::sync::Arc::new(|n, _| match n {
        0 => Reply::status(429).with("retry-after", "3"),
        _ => Reply::status(200),
    });
    let policy = json!({"retry_policy": {"delays": [100]}});
    let (world, [ingest, _dispatcher], endpoint, webhook) = one_endpoint(script, policy).await;
    world.publish("order.created", "evt-1", &json!({})).await;

    let pauses = pauses(&endpoint.receives(2).await);
    assert!(pauses[0] >= Duration::from_secs(3), "{pauses:?}");
    delivery(&world, &ingest, &webhook, "delivered").await;
    world.finish().await;
}

#[tokio::test]
async fn an_attempt_takes_no_longer_than_the_webhooks_timeout() {
    let script: Script = std::sync::Arc::new(|n, _| match n {
        0 => Reply::status(200).after(Duration::from_secs(20)),
        _ => Reply::status(200),
    });
    let policy = json!({"timeout": 1000, "retry_policy": {"delays": [500]}});
    let (world, [ingest, _dispatcher], endpoint, webhook) = one_endpoint(script, policy).await;
    world.publish("order.created", "evt-1", &json!({})).await;

    endpoint.receives(2).await;
    let delivery = delivery(&world, &ingest, &webhook, "delivered").await;
    assert_eq!(outcomes(&delivery), ["timeout", "success"]);
    assert_eq!(delivery["attempt_log"][0]["error"], "timed out");
    world.finish().await;
}

#[tokio::test]
async fn attempts_without_an_answer_are_classified_by_their_cause() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let secure = world.receiver(answering(200)).await;
    let no_tls = secure.url("/").replace("http:", "https:");
    for (url, outcome, words) in [
        // Nothing listens on the discard port.
        ("http://127.0.0.1:9/", "connect", "refused"),
        ("http://does-not-exist.invalid/", "dns", ""),
        (no_tls.as_str(), "tls", ""),
        ("http://localhost:9/", "connect", "refused"),
    ] {
        let body = json!({"url": url, "events": ["probe.sent"], "retries": 0});
        let made = world
            .ask(&ingest, "POST", "/api/v1/webhooks", Some(body))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        let id = made.body["id"].as_str().unwrap().to_owned();
        let webhook = Webhook {
            id: id.clone(),
            secret: String::new(),
            path: String::new(),
        };
        world
            .publish("probe.sent", &format!("evt-{id}"), &json!({}))
            .await;
        let delivery = delivery(&world, &ingest, &webhook, "failed").await;
        assert_eq!(outcomes(&delivery), [outcome], "{url}: {delivery}");
        let error = delivery["error"].as_str().unwrap();
        assert!(error.contains(words), "{url}: {error}");
        world
            .ask(&ingest, "DELETE", &format!("/api/v1/webhooks/{id}"), None)
            .await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_not_connected_to() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    // This replica allows no private addresses, unlike the tests' other processes.
    let _strict = world
        .service(
            "posthorn-dispatcher",
            &[("ALLOWED_NETWORKS", "192.0.2.0/24")],
        )
        .await;
    let endpoint = world.receiver(answering(200)).await;
    for url in [
        endpoint.url("/"),
        endpoint.url("/").replace("127.0.0.1", "localhost"),
    ] {
        let body = json!({"url": url, "events": ["*"], "retries": 0});
        let made = world
            .ask(&ingest, "POST", "/api/v1/webhooks", Some(body))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    assert_eq!(world.count("attempts WHERE outcome = 'forbidden'").await, 2);
    assert_eq!(endpoint.arrivals().len(), 0);
    world.finish().await;
}
