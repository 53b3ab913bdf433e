//! BrainSAIT Store: a multi-tenant shop. See docs/systems/brainsait.md.

use std::sync::Arc;

use harness::receiver::{Reply, Script, answering};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::walk::{Walk, ask, hex_hmac, members};

#[tokio::test]
async fn brainsaits_envelope_is_published_as_it_is_documented_and_arrives_as_documented() {
    let walk = Walk::start("brainsait", "/api/v1/webhooks", answering(200)).await;
    let made = walk
        .webhook(json!({
            "url": walk.endpoint.url("/books"), "events": ["payment.completed"],
            "description": "the shop's books", "filters": {"amount": {"$gte": 10}},
        }))
        .await;
    let secret = made["secret"].as_str().unwrap();
    // As a producer's code has it, wrapped already.
    walk.publish(json!({
        "id": "evt_1", "type": "payment.completed", "created": "2024-01-15T10:30:00Z",
        "data": {"object": {"amount": 25, "name": "Zoë"}}, "tenant_id": "company_xyz",
        "api_version": "2024-01-01",
    }))
    .await;
    // And not wrapped.
    walk.publish(json!({
        "id": "evt_2", "event": "payment.completed", "created": "2024-01-15T10:30:00Z",
        "data": {"amount": 25, "name": "Zoë"},
    }))
    .await;
    // The filter sees the inner object of this one, too.
    walk.publish(json!({
        "id": "evt_3", "type": "payment.completed", "data": {"object": {"amount": 9}},
    }))
    .await;
    for arrival in walk.endpoint.receives(2).await {
        assert_eq!(
            members(&arrival),
            ["id", "event", "created", "data", "tenant_id", "api_version"]
        );
        let body = arrival.json();
        assert_eq!(body["created"], "2024-01-15T10:30:00Z");
        assert_eq!(
            body["data"],
            json!({"object": {"amount": 25, "name": "Zoë"}})
        );
        assert_eq!(
            body["tenant_id"], "brainsait",
            "the token says whose event it is"
        );
        let signature = hex_hmac(secret, &arrival.body);
        assert_eq!(arrival.header("x-brainsait-signature"), signature);
    }
    walk.delivery_in(&made, &["delivered"]).await;
    let (status, third) = ask(
        &walk.ingest,
        "GET",
        "/api/v1/events/evt_3",
        walk.system,
        &Value::Null,
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(third["matching"][0]["result"], "refused", "{third}");
    assert_eq!(third["matching"][0]["found"], "9", "{third}");
    walk.finish().await;
}

#[tokio::test]
async fn brainsaits_deliveries_are_retried_or_given_up_as_the_answer_says() {
    let walk = Walk::start("brainsait", "/api/v1/webhooks", answering(200)).await;
    let elsewhere = walk.endpoint.url("/elsewhere");
    let redirecting: Script =
        Arc::new(move |_, _| Reply::status(302).with("location", elsewhere.clone()));
    let busy: Script = Arc::new(|_, _| Reply::status(429).with("retry-after", "1200"));
    // What the endpoint answers, the delivery's status, and the minutes until the next attempt.
    let cases: [(Script, i64, &str, Option<i64>); 7] = [
        (answering(204), 204, "delivered", None),
        (redirecting, 302, "retrying", Some(5)),
        (answering(400), 400, "failed", None),
        (answering(404), 404, "failed", None),
        (answering(429), 429, "retrying", Some(5)),
        (busy, 429, "retrying", Some(20)),
        (answering(503), 503, "retrying", Some(5)),
    ];
    // Each has an endpoint of its own, so that one's trouble delays no other.
    let mut made = Vec::new();
    for (script, answer, status, minutes) in cases {
        let endpoint = walk.world.receiver(script).await;
        let form = json!({"url": endpoint.url("/books"), "events": ["order.*"]});
        let webhook = walk.webhook(form).await;
        made.push((endpoint, webhook, answer, status, minutes));
    }
    let published = OffsetDateTime::now_utc();
    walk.publish(json!({"type": "order.created", "data": {}}))
        .await;
    for (endpoint, webhook, answer, status, minutes) in &made {
        let delivery = walk.delivery_in(webhook, &[status]).await;
        assert_eq!(delivery["response_code"], *answer, "{delivery}");
        assert_eq!(delivery["attempts"], 1, "{delivery}");
        assert_eq!(endpoint.arrivals().len(), 1, "{delivery}");
        let next = delivery["next_attempt_at"].as_str();
        let next = next.map(|text| OffsetDateTime::parse(text, &Rfc3339).unwrap() - published);
        assert_eq!(next.is_some(), minutes.is_some(), "{delivery}");
        if let (Some(next), Some(minutes)) = (next, minutes) {
            // It counts from the answer. A pause that the endpoint asked for has some jitter.
            let expected = *minutes..*minutes + 4;
            assert!(expected.contains(&next.whole_minutes()), "{delivery}");
        }
    }
    // No redirect is followed.
    assert!(walk.endpoint.arrivals().is_empty());
    walk.world.abandon().await;
}

#[tokio::test]
async fn brainsaits_statistics_have_its_names_and_a_rotation_names_no_overlap_that_isnt_there() {
    let walk = Walk::start("brainsait", "/api/v1/webhooks", answering(200)).await;
    let form = json!({"url": walk.endpoint.url("/books"), "events": ["payment.*"]});
    let made = walk.webhook(form).await;
    let id = made["id"].as_str().unwrap();
    walk.publish(json!({"type": "payment.refunded", "data": {}}))
        .await;
    walk.delivery_in(&made, &["delivered"]).await;

    let stats = async |path: &str| {
        ask(&walk.ingest, "GET", path, walk.system, &Value::Null)
            .await
            .1
    };
    for path in ["/api/v1/stats", &format!("/api/v1/webhooks/{id}/stats")] {
        let shown = stats(path).await;
        assert_eq!(shown["total_deliveries"], 1, "{shown}");
        assert_eq!(
            shown["average_response_time"], shown["average_response_time_ms"],
            "{shown}"
        );
        let endpoint = &shown["endpoints"][id];
        assert_eq!(endpoint["success_rate"], 1.0, "{shown}");
        assert_eq!(endpoint["url"], made["url"], "{shown}");
        assert!(endpoint["average_response_time"].is_number(), "{shown}");
    }

    // There is space for one signature, so the old secret doesn't sign.
    let (status, rotated) = walk
        .ask("POST", &format!("/{id}/rotate-secret"), Value::Null)
        .await;
    assert_eq!(status, 200, "{rotated}");
    assert_eq!(rotated["previous_secret_until"], Value::Null, "{rotated}");
    let standard = json!({"dialect": "standard"});
    let (_, shown) = walk.ask("PATCH", &format!("/{id}"), standard).await;
    assert!(shown["previous_secret_until"].is_string(), "{shown}");
    walk.finish().await;
}
