//! The computation that one tenant can cause is bounded, and other tenants don't wait for it.

#![allow(clippy::unwrap_used)]

use harness::receiver::answering;
use harness::world::{TENANT, World, eventually};
use serde_json::{Value, json};

/// Another tenant.
const OTHER: &str = "other";
/// The number of events that need more than the budget.
const EVENTS: i64 = 40;

/// Issue 10: 50 webhooks that search for 100 values in an array of 33,000, and 40
/// events. These values can't be hashed, so the search stays expensive.
#[tokio::test]
async fn filters_over_the_budget_are_reported_and_delay_no_one() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let listed: Vec<_> = (0..100).map(|n| json!([n])).collect();
    let mut costly = Vec::new();
    for _ in 0..50 {
        let form = json!({"filters": {"items": {"$in": listed}}});
        costly.push(world.webhook(&ingest, &shop, form).await);
    }
    let cheap = json!({"filters": {"total": 7}});
    let cheap = world.webhook(&ingest, &shop, cheap).await;
    let tenant = json!({"id": OTHER, "name": "Another"});
    let made = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(tenant))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let token = json!({"tenant": OTHER, "role": "manager"});
    let token = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(token))
        .await;
    let token = token.body["token"].as_str().unwrap();

    let data = json!({"total": 7, "items": vec![json!([-1]); 33_000]});
    assert!(data.to_string().len() < 262_144);
    for n in 0..EVENTS {
        world
            .publish("order.created", &format!("evt-{n}"), &data)
            .await;
    }
    // While they are matched, the API still answers, also to a publication (no 503).
    let other = json!({"type": "order.created", "id": "others", "data": {}});
    let published = world
        .ask_as(token, &ingest, "POST", "/api/v1/events", Some(other))
        .await;
    assert_eq!(published.status, 202, "{}", published.body);

    world.accepts(EVENTS + 1).await;
    world.settles().await;
    // A cheap filter still gets its steps after expensive ones.
    let arrived = shop.arrivals();
    assert!(arrived.iter().all(|arrival| arrival.path == cheap.path));
    assert_eq!(arrived.len(), EVENTS as usize);

    let shown = world
        .ask(&ingest, "GET", "/api/v1/events/evt-0?limit=100", None)
        .await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    let matching = shown.body["matching"].as_array().unwrap();
    assert_eq!(matching.len(), 51);
    for webhook in matching {
        if webhook["webhook_id"] == json!(cheap.id) {
            assert_eq!(webhook["result"], "matched");
        } else {
            assert_eq!(webhook["result"], "refused", "{webhook}");
            let clause = webhook["clause"].as_str().unwrap();
            assert!(clause.starts_with("too costly"), "{webhook}");
        }
    }
    let path = format!("/api/v1/webhooks/{}", costly[49].id);
    let shown = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(shown["too_costly_events"], EVENTS, "{shown}");
    assert_ne!(shown["last_too_costly_at"], Value::Null);
    let path = format!("/api/v1/webhooks/{}", cheap.id);
    let shown = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(shown["too_costly_events"], 0, "{shown}");
    let counted = ingest.metric("posthorn_filters_too_costly_total").await;
    assert_eq!(counted.unwrap() as i64, EVENTS * 50);
    world.finish().await;
}

#[tokio::test]
async fn an_event_that_is_too_costly_to_check_is_refused_or_parked_with_that_reason() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let values: Vec<_> = (0..400).map(|n| json!(n)).chain([json!("x")]).collect();
    let schema = json!({"schema": {"items": {"enum": values}}});
    let path = "/api/v1/event-types/order.created";
    let made = world.ask(&ingest, "PUT", path, Some(schema.clone())).await;
    assert_eq!(made.status, 201, "{}", made.body);

    // Each item equals the last of 401 values, so checking takes 8,000 times 401
    // steps: over 2,000,000.
    let costly = json!(vec!["x"; 8_000]);
    let event = json!({"type": "order.created", "id": "evt-1", "data": costly});
    let refused = world
        .ask(&ingest, "POST", "/api/v1/events", Some(event))
        .await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.body["field"], "data");
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("too costly to check"), "{detail}");

    world.publish("order.created", "evt-2", &costly).await;
    world.publish("order.created", "evt-3", &json!(["x"])).await;
    world.accepts(1).await;
    let letters = format!("/api/v1/admin/dead-letters?tenant={TENANT}");
    eventually("the event is a dead letter", async || {
        let letters = world.ask_as_operator(&ingest, "GET", &letters, None).await;
        letters.body.to_string().contains("too costly to check")
    })
    .await;
    let rejected = r#"posthorn_events_rejected_total{reason="too_costly"}"#;
    assert_eq!(ingest.metric(rejected).await.unwrap() as i64, 1);

    // Examples are checked by the same rules.
    let costly = json!({"example": vec!["x"; 4_000], "schema": {"allOf": vec![schema["schema"].clone(); 2]}});
    let refused = world.ask(&ingest, "PUT", path, Some(costly)).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.body["field"], "example", "{}", refused.body);
    world.finish().await;
}
