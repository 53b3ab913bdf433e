//! Test deliveries: how each kind of broken endpoint is described in words.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use harness::receiver::{answering, answering_after};
use harness::service::http;
use harness::world::World;
use serde_json::{Value, json};

#[tokio::test]
async fn a_test_delivery_describes_the_endpoints_problem_in_words() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let (strict, slow) = (
        world.receiver(answering(401)).await,
        world
            .receiver(answering_after(Duration::from_secs(20)))
            .await,
    );
    let no_tls = strict.url("/").replace("http:", "https:");
    for (url, outcome, code, words) in [
        (
            "http://does-not-exist.invalid/",
            "dns",
            Value::Null,
            "does not resolve",
        ),
        (
            "http://127.0.0.1:9/",
            "connect",
            Value::Null,
            "Nothing accepts connections",
        ),
        (no_tls.as_str(), "tls", Value::Null, "certificate"),
        (&slow.url("/"), "timeout", Value::Null, "within 1."),
        (
            &strict.url("/"),
            "client_error",
            json!(401),
            "does it verify the signature with this webhook's secret",
        ),
    ] {
        let body = json!({"url": url, "events": ["order.paid"], "timeout": 1000});
        let made = world
            .ask(&ingest, "POST", "/api/v1/webhooks", Some(body))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        let path = format!(
            "/api/v1/webhooks/{}/test",
            made.body["id"].as_str().unwrap()
        );
        let said = world.ask(&ingest, "POST", &path, None).await;
        assert_eq!(said.status, 200, "{}", said.body);
        let said = said.body;
        assert_eq!(
            (&said["outcome"], &said["response_code"], &said["success"]),
            (&json!(outcome), &code, &json!(false)),
            "{said}"
        );
        let verdict = said["verdict"].as_str().unwrap();
        assert!(verdict.contains(words), "{verdict}");
        // One sentence end is enough, also after a question.
        assert!(
            !verdict.ends_with("?.") && !verdict.ends_with(".."),
            "{verdict}"
        );
        assert_eq!(said["error"].is_string(), code.is_null(), "{said}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_test_without_a_body_may_say_that_it_is_json() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let said = http()
        .post(ingest.url(&format!("/api/v1/webhooks/{}/test", webhook.id)))
        .bearer_auth(world.token())
        .header("content-type", "application/json");
    assert_eq!(said.send().await.unwrap().status(), 200);
    shop.receives(1).await;
    world.finish().await;
}

#[tokio::test]
async fn the_catalogues_example_is_what_a_test_sends() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"events": ["order.paid"]}))
        .await;
    let example = json!({"total": 25.5, "lines": [{"sku": "a"}]});
    let described = json!({ "example": example });
    let path = "/api/v1/event-types/order.paid";
    let put = world.ask(&ingest, "PUT", path, Some(described)).await;
    assert_eq!(put.status, 201, "{}", put.body);
    let path = format!("/api/v1/webhooks/{}/test", webhook.id);
    for (body, data) in [
        (json!({}), &example),
        (json!({"event_type": "order.paid"}), &example),
        (json!({"data": {"n": 1}}), &json!({"n": 1})),
    ] {
        let said = world.ask(&ingest, "POST", &path, Some(body)).await;
        assert_eq!(said.body["success"], true, "{}", said.body);
        let arrival = shop.arrivals().pop().unwrap();
        assert_eq!(&arrival.json()["data"], data);
        arrival.verify(&webhook.secret).unwrap();
    }
    world.finish().await;
}
