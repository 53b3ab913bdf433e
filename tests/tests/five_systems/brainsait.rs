//! BrainSAIT Store: a multi-tenant shop. See docs/systems/brainsait.md.

use harness::receiver::answering;
use serde_json::{Value, json};

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
