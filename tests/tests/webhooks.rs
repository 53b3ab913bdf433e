//! Webhooks over HTTP: conditional changes (`If-Match`), rotation of secrets, health.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use harness::receiver::{Reply, Script, answering};
use harness::service::{Service, http};
use harness::world::{World, eventually};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A request by the operator with `If-Match`.
async fn conditional(
    ingest: &Service,
    method: Method,
    path: &str,
    etag: &str,
    body: Value,
) -> Response {
    http()
        .request(method, ingest.url(path))
        .bearer_auth(harness::world::ADMIN_TOKEN)
        .header("x-tenant-id", harness::world::TENANT)
        .header("if-match", etag)
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .unwrap()
}

fn etag(answer: &Response) -> String {
    answer.headers()["etag"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_change_with_if_match_is_refused_after_another_change() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let ask = async |method: Method, etag: &str, text: &str| {
        let body = json!({ "description": text });
        conditional(&ingest, method, &path, etag, body).await
    };
    let shown = ask(Method::GET, "*", "").await;
    let first = etag(&shown);
    let changed = ask(Method::PATCH, &first, "mine").await;
    let second = etag(&changed);
    assert_eq!(changed.status(), 200);
    assert_ne!(first, second);

    for stale in [first.as_str(), "\"never\"", "W/\"1\"", "nonsense"] {
        for method in [Method::PATCH, Method::PUT, Method::DELETE] {
            let refused = ask(method.clone(), stale, "theirs").await;
            assert_eq!(refused.status(), 412, "{method} {stale}");
            let problem: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("If-Match"), "{detail}");
        }
    }
    let shown = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(shown["description"], "mine");
    // A webhook that doesn't exist is answered with 404, whatever the header says.
    let other = "/api/v1/webhooks/wh_01h455vb4pex5vsknk084sn02q";
    let unknown = conditional(&ingest, Method::PATCH, other, &second, json!({})).await;
    assert_eq!(unknown.status(), 404);

    assert_eq!(ask(Method::PUT, "*", "anyone's").await.status(), 200);
    assert_eq!(ask(Method::DELETE, &second, "").await.status(), 412);
    let last = etag(&ask(Method::GET, "*", "").await);
    assert_eq!(ask(Method::DELETE, &last, "").await.status(), 204);
    world.finish().await;
}

#[tokio::test]
async fn of_two_concurrent_changes_only_one_is_made() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let state = etag(&conditional(&ingest, Method::GET, &path, "*", json!({})).await);
    let change = |n: i32| {
        let body = json!({"metadata": { "n": n }});
        conditional(&ingest, Method::PATCH, &path, &state, body)
    };
    let answers = tokio::join!(change(1), change(2), change(3), change(4));
    let answers = [answers.0, answers.1, answers.2, answers.3];
    let mut statuses = answers.map(|answer| answer.status().as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412]);
    world.finish().await;
}

#[tokio::test]
async fn after_a_rotation_both_secrets_sign_until_the_overlap_ends_by_itself() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let path = format!("/api/v1/webhooks/{}/rotate-secret", webhook.id);
    let body = Some(json!({"overlap": 4}));
    let rotated = world.ask(&ingest, "POST", &path, body).await.body;
    let new = rotated["secret"].as_str().unwrap();
    let until = rotated["previous_secret_until"].as_str().unwrap();
    let until = OffsetDateTime::parse(until, &Rfc3339).unwrap();

    let (mut n, mut both) = (0, 0);
    eventually("the new secret alone signs", async || {
        world
            .publish("order.created", &format!("evt-{n}"), &json!({}))
            .await;
        n += 1;
        let arrival = shop.receives(n).await.remove(n - 1);
        let by = |secret: &str| arrival.verify(secret).is_ok();
        match (by(&webhook.secret), by(new)) {
            (true, true) => both += 1,
            (false, true) => {
                assert!(OffsetDateTime::now_utc() >= until, "too early");
                return true;
            }
            // The dispatcher learns of it within a second.
            (old, _) => assert!(old && both == 0, "nobody's secret, or the old one again"),
        }
        false
    })
    .await;
    assert!(both > 0, "never both");
    world.finish().await;
}

#[tokio::test]
async fn a_webhooks_health_shows_its_endpoints_recent_answers() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let script: Script = Arc::new(|_, arrival| {
        let fails = arrival.json()["type"] == "order.broken";
        Reply::status(if fails { 500 } else { 200 })
    });
    let shop = world.receiver(script).await;
    let made = async |events: &str| {
        let more = json!({"events": [events], "retries": 0});
        world.webhook(&ingest, &shop, more).await
    };
    let unused = made("order.none").await;
    let healthy = made("order.paid").await;
    let degraded = made("order.*").await;
    let failing = made("order.broken").await;
    for (n, kind) in ["paid", "paid", "broken"].into_iter().enumerate() {
        world
            .publish(&format!("order.{kind}"), &format!("evt-{n}"), &json!({}))
            .await;
    }
    shop.receives(6).await;
    world.settles().await;
    let listed = world.ask(&ingest, "GET", "/api/v1/webhooks", None).await;
    for (webhook, health) in [
        (&unused, "unused"),
        (&healthy, "healthy"),
        (&degraded, "degraded"),
        (&failing, "failing"),
    ] {
        let path = format!("/api/v1/webhooks/{}", webhook.id);
        let shown = world.ask(&ingest, "GET", &path, None).await.body;
        assert_eq!(shown["health"], health, "{shown}");
        let triggered = shown["lastTriggered"].is_string();
        assert_eq!(triggered, health != "unused");
        let webhooks = listed.body["webhooks"].as_array().unwrap();
        let of_list = webhooks.iter().find(|one| one["id"] == shown["id"]);
        assert_eq!(of_list.unwrap()["health"], health);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_client_id_as_long_as_metadata_may_be_is_taken_and_found() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    // An index takes 2,704 bytes, and this doesn't compress.
    let client: String = (0..3_000).map(|_| fastrand::alphanumeric()).collect();
    let other = format!("{}-", &client[..2_999]);
    for client in [&client, &other] {
        let webhook = world.webhook(&ingest, &shop, json!({"client_id": client}));
        webhook.await;
    }
    let path = format!("/api/v1/webhooks?client_id={client}");
    let found = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(found.status, 200, "{}", found.body);
    let webhooks = found.body["webhooks"].as_array().unwrap();
    assert_eq!(webhooks.len(), 1);
    assert_eq!(webhooks[0]["metadata"]["client_id"], json!(client));
    world.finish().await;
}
