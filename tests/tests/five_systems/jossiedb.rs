//! Jossiedb: inventory of items. See docs/systems/jossiedb.md.

use std::collections::BTreeMap;
use std::sync::Arc;

use harness::receiver::{Arrival, Reply, Script, answering};
use serde_json::value::RawValue;
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
async fn jossiedbs_failed_events_are_listed_alone_and_a_test_is_sent() {
    // Items can be deleted, and nothing else.
    let script: Script = Arc::new(|_, arrival: &Arrival| {
        let deleted = arrival.header("x-event-type") == "item-deleted";
        Reply::status(if deleted { 200 } else { 422 })
    });
    let walk = Walk::start("jossiedb", "/api/v1/webhooks", script).await;
    let made = walk
        .webhook(json!({
            "url": walk.endpoint.url("/stock"), "events": ["item-*"],
            "secret": "a-secret-of-the-store", "retryPolicy": {"maxRetries": 0, "retryDelay": 5000},
        }))
        .await;
    let id = made["id"].as_str().unwrap();
    for (event, event_type) in [
        ("e-1", "item-deleted"),
        ("e-2", "item-created"),
        ("e-3", "item-deleted"),
        ("e-4", "item-updated"),
    ] {
        walk.publish(json!({"id": event, "type": event_type, "data": {"item": 7}}))
            .await;
    }
    walk.endpoint.receives(4).await;
    walk.world.settles().await;
    let ids = async |filter: &str| {
        let listed = walk.get(&format!("/{id}/events{filter}")).await;
        let events = listed["events"].as_array().unwrap().clone();
        let mut ids: Vec<_> = events
            .iter()
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids("").await, ["e-1", "e-2", "e-3", "e-4"]);
    assert_eq!(ids("?status=failed").await, ["e-2", "e-4"]);
    let failed = walk.get(&format!("/{id}/events?status=failed")).await;
    for event in failed["events"].as_array().unwrap() {
        assert_eq!(
            (&event["status"], &event["response_code"]),
            (&json!("failed"), &json!(422)),
            "{event}"
        );
    }

    let (status, tested) = walk.ask("POST", &format!("/{id}/test"), Value::Null).await;
    // The endpoint's answer is shown, and this one refuses.
    assert_eq!(status, 200, "{tested}");
    assert_eq!(
        (&tested["success"], &tested["response_code"]),
        (&json!(false), &json!(422)),
        "{tested}"
    );
    let arrival = walk.endpoint.receives(5).await.pop().unwrap();
    assert_eq!(arrival.header("x-posthorn-test"), "true");
    assert_eq!(arrival.header("x-webhook-id"), id);
    let event_type = tested["event_type"].as_str().unwrap();
    assert_eq!(arrival.header("x-event-type"), event_type);
    // The signature is of the data as it is written, in its order.
    let body: BTreeMap<String, &RawValue> = serde_json::from_slice(&arrival.body).unwrap();
    let data = body["data"].get();
    let signature = hex_hmac("a-secret-of-the-store", data.as_bytes());
    assert_eq!(arrival.header("x-webhook-signature"), signature, "{data}");
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
