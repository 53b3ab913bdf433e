//! Corp Astro: astrology reports for businesses. See docs/systems/corp-astro.md.

use std::time::Duration;

use harness::receiver::{Reply, answering};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::walk::{Walk, has_milliseconds, hex_hmac, members};

#[tokio::test]
async fn corp_astros_clients_read_their_members_in_every_answer() {
    let walk = Walk::start("corp-astro", "/api/webhooks", answering(200)).await;
    let form = |client: &str| {
        json!({
            "event_type": "user.created", "target_url": walk.endpoint.url("/users"),
            "client_id": client, "status": "active", "secret": "a-secret", "description": "users",
        })
    };
    let made = walk.webhook(form("client-7")).await;
    walk.webhook(form("client-8")).await;
    let id = made["id"].as_str().unwrap();
    let one = format!("/{id}");
    let (_, changed) = walk
        .ask("PUT", &one, json!({"description": "all users"}))
        .await;
    let mine = walk.get("?client_id=client-7").await;
    assert_eq!(mine["webhooks"].as_array().unwrap().len(), 1, "{mine}");
    for shown in [&made, &walk.get(&one).await, &changed, &mine["webhooks"][0]] {
        assert_eq!(shown["event_type"], "user.created", "{shown}");
        assert_eq!(shown["target_url"], shown["url"], "{shown}");
        assert_eq!(shown["client_id"], "client-7", "{shown}");
        assert_eq!(shown["status"], "active", "{shown}");
        assert!(has_milliseconds(&shown["created_at"]), "{shown}");
    }
    // A client reads it, changes one of its own members, and sends all of it back.
    let mut whole = walk.get(&one).await;
    whole["event_type"] = json!("user.updated");
    let (status, back) = walk.ask("PUT", &one, whole).await;
    assert_eq!(status, 200, "{back}");
    assert_eq!(back["events"], json!(["user.updated"]));

    let (status, tested) = walk.ask("POST", &format!("{one}/test"), Value::Null).await;
    assert_eq!(
        (status, &tested["success"]),
        (200, &json!(true)),
        "{tested}"
    );
    let arrival = &walk.endpoint.receives(1).await[0];
    assert_eq!(arrival.header("x-posthorn-test"), "true");
    let header = |name: &str| arrival.header(&format!("x-corp-astro-{name}")).to_owned();
    assert_eq!(header("event"), tested["event_type"].as_str().unwrap());
    assert_eq!(header("signature"), hex_hmac("a-secret", &arrival.body));
    assert_eq!(header("webhook-id"), arrival.json()["id"]);
    assert_eq!(header("timestamp"), arrival.json()["timestamp"]);
    walk.finish().await;
}

#[tokio::test]
async fn corp_astros_deliveries_show_payload_and_processing_and_the_time_of_sending() {
    let slow = std::sync::Arc::new(|n: usize, _: &_| match n {
        0 => Reply::status(503).after(Duration::from_secs(2)),
        _ => Reply::status(200),
    });
    let walk = Walk::start("corp-astro", "/api/webhooks", slow).await;
    let made = walk
        .webhook(json!({
            "event_type": "user.created", "target_url": walk.endpoint.url("/users"),
            "secret": "a-secret", "retry_policy": {"max_retries": 1, "retry_delay": 5000},
        }))
        .await;
    let id = made["id"].as_str().unwrap();
    walk.publish(json!({
        "event_type": "user.created", "id": "u-1", "timestamp": "2026-01-01T00:00:00Z",
        "data": {"name": "Zoë", "n": 1},
    }))
    .await;
    walk.endpoint.receives(1).await;
    // The endpoint takes two seconds: the attempt is under way.
    let under_way = walk.delivery_in(&made, &["processing"]).await;
    assert_eq!(
        under_way["payload"],
        json!({"name": "Zoë", "n": 1}),
        "{under_way}"
    );
    let found = walk
        .get(&format!("/{id}/deliveries?status=processing"))
        .await;
    assert_eq!(found["deliveries"][0]["id"], under_way["id"], "{found}");
    // It waits for its retry, in 5 s: not under way.
    let waits = walk.delivery_in(&made, &["retrying"]).await;
    let found = walk
        .get(&format!("/{id}/deliveries?status=processing"))
        .await;
    assert_eq!(found["deliveries"], json!([]));
    let pending = walk.get(&format!("/{id}/deliveries?status=pending")).await;
    assert_eq!(pending["deliveries"][0]["id"], waits["id"]);
    for member in ["queued_at", "processing_started_at", "response_code"] {
        assert!(!waits[member].is_null(), "{member} of {waits}");
    }
    for member in [
        "delivered_at",
        "failed_at",
        "response_body",
        "error_message",
    ] {
        assert!(waits.get(member).is_some(), "{member} of {waits}");
    }

    let arrivals = walk.endpoint.receives(2).await;
    for arrival in &arrivals {
        assert_eq!(members(arrival), ["id", "timestamp", "event_type", "data"]);
        let body = arrival.json();
        assert_eq!(body["id"], waits["id"]);
        let header = |name: &str| arrival.header(&format!("x-corp-astro-{name}")).to_owned();
        assert_eq!(header("webhook-id"), waits["id"]);
        assert_eq!(header("event"), "user.created");
        assert_eq!(header("signature"), hex_hmac("a-secret", &arrival.body));
        assert_eq!(header("timestamp"), body["timestamp"]);
        assert!(has_milliseconds(&body["timestamp"]), "{body}");
    }
    // Receivers that check freshness accept the retry of an event of January.
    let sent = |n: usize| {
        let text = arrivals[n].json()["timestamp"].as_str().unwrap().to_owned();
        OffsetDateTime::parse(&text, &Rfc3339).unwrap()
    };
    // The first attempt took two seconds, the pause is five.
    assert!(sent(1) - sent(0) >= time::Duration::seconds(6));
    assert!(OffsetDateTime::now_utc() - sent(1) < time::Duration::minutes(1));
    let delivered = walk.delivery_in(&made, &["delivered"]).await;
    let (status, detail) = {
        let path = format!("/api/v1/deliveries/{}", delivered["id"].as_str().unwrap());
        super::ask(&walk.ingest, "GET", &path, walk.system, &Value::Null).await
    };
    assert_eq!(
        (status, &detail["payload"]["n"]),
        (200, &json!(1)),
        "{detail}"
    );
    walk.finish().await;
}
