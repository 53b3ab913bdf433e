//! Jossiedb: inventory of items. See docs/systems/jossiedb.md.

use harness::receiver::answering;
use serde_json::{Value, json};

use super::walk::{Walk, hex_hmac};

#[tokio::test]
async fn jossiedbs_filters_signature_history_and_retries_work_as_documented() {
    let walk = Walk::start("jossiedb", "/api/v1/webhooks", answering(200)).await;
    let made = walk
        .webhook(json!({
            "url": walk.endpoint.url("/stock"), "events": ["low-stock-alert"],
            "secret": "a-secret-of-the-store",
            "filters": {"locations": ["loc-123"], "categories": ["cat-456"], "minStockThreshold": 5},
            "retryPolicy": {"maxRetries": 3, "retryDelay": 5000}, "timeout": 30000,
            "headers": {"Authorization": "Bearer xyz"},
        }))
        .await;
    let id = made["id"].as_str().unwrap();
    for (event, data) in [
        (
            "e-1",
            json!({"location_id": "loc-123", "category": "cat-456", "quantity": 5}),
        ),
        // One level down, as the examples have them.
        (
            "e-2",
            json!({"item": {"location": "loc-123", "category": "cat-456", "quantity": 3}}),
        ),
        (
            "e-3",
            json!({"item": {"location": "loc-123", "category": "cat-456", "quantity": 6}}),
        ),
    ] {
        walk.publish(json!({"id": event, "type": "low-stock-alert", "data": data}))
            .await;
    }
    let arrivals = walk.endpoint.receives(2).await;
    for arrival in &arrivals {
        let data = arrival.json()["data"].to_string();
        let signature = hex_hmac("a-secret-of-the-store", data.as_bytes());
        assert_eq!(arrival.header("x-webhook-signature"), signature, "{data}");
        assert_eq!(arrival.header("x-webhook-id"), id);
        assert_eq!(arrival.header("x-event-type"), "low-stock-alert");
        assert_eq!(arrival.header("authorization"), "Bearer xyz");
    }
    walk.delivery_in(&made, &["delivered"]).await;
    walk.world.settles().await;

    // The list shows a delivery's id as `id`. A client retries with that, or with the event's.
    let events = walk.get(&format!("/{id}/events")).await;
    let first = &events["events"][0];
    for again in [&first["id"], &first["event_id"]] {
        let path = format!("/{id}/events/{}/retry", again.as_str().unwrap());
        let (status, begun) = walk.ask("POST", &path, Value::Null).await;
        assert_eq!((status, &begun["id"]), (202, &first["id"]), "{begun}");
        walk.world.settles().await;
    }
    walk.endpoint.receives(4).await;
    let foreign = walk
        .webhook(json!({"url": walk.endpoint.url("/other"), "events": ["item-*"]}))
        .await;
    let path = format!(
        "/{}/events/{}/retry",
        foreign["id"].as_str().unwrap(),
        first["id"].as_str().unwrap()
    );
    assert_eq!(
        walk.ask("POST", &path, Value::Null).await.0,
        404,
        "another webhook's"
    );

    let stats = walk.get(&format!("/{id}/stats")).await;
    for member in [
        "total_deliveries",
        "success_rate",
        "failed_deliveries",
        "last_delivery_at",
    ] {
        assert!(!stats[member].is_null(), "{member} of {stats}");
    }
    assert!(stats.get("last_failure_at").is_some(), "{stats}");
    walk.finish().await;
}

#[tokio::test]
async fn jossiedbs_timeouts_are_5_to_60_seconds_and_its_headers_cant_be_replaced() {
    let walk = Walk::start("jossiedb", "/api/v1/webhooks", answering(200)).await;
    let form = |more: Value| {
        let mut form = json!({"url": walk.endpoint.url("/stock"), "events": ["item-*"]});
        form.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        form
    };
    for (more, field) in [
        (json!({"timeout": 4999}), "timeout"),
        (json!({"timeout": 60_001}), "timeout"),
        (
            json!({"headers": {"x-webhook-id": "mine"}}),
            "headers.x-webhook-id",
        ),
    ] {
        let (status, refused) = walk.ask("POST", "", form(more)).await;
        assert_eq!(
            (status, &refused["field"]),
            (422, &json!(field)),
            "{refused}"
        );
    }
    walk.webhook(form(json!({"timeout": 5000}))).await;
    // In another dialect the same is allowed.
    walk.webhook(form(json!({"timeout": 1000, "dialect": "rishi"})))
        .await;
    walk.finish().await;
}
