//! AuraConnect: restaurants. See docs/systems/auraconnect.md.

use harness::receiver::{answering, unix_now};
use harness::world::eventually;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::walk::{Walk, hex_hmac, members};

#[tokio::test]
async fn auraconnects_deliveries_carry_its_headers_and_a_wrapped_object_once() {
    let walk = Walk::start("auraconnect", "/api/v1/webhooks", answering(200)).await;
    let secret = "a-secret-of-the-kitchen";
    let made = walk
        .webhook(json!({
            "url": walk.endpoint.url("/kitchen"), "events": ["order.*"], "secret": secret,
            "active": true, "description": "orders", "filters": {"restaurant_id": 1},
        }))
        .await;
    let id = made["id"].as_str().unwrap();
    for (event, data) in [
        ("evt_123", json!({"restaurant_id": 1, "total": 7})),
        (
            "evt_124",
            json!({"object": {"restaurant_id": 1, "total": 7}}),
        ),
        // For another restaurant.
        (
            "evt_125",
            json!({"object": {"restaurant_id": 2, "total": 7}}),
        ),
    ] {
        walk.publish(json!({"id": event, "type": "order.created", "data": data}))
            .await;
    }
    let mut arrived: Vec<_> = Vec::new();
    for arrival in walk.endpoint.receives(2).await {
        assert_eq!(members(&arrival), ["id", "type", "created", "data"]);
        let object = json!({"object": {"restaurant_id": 1, "total": 7}});
        assert_eq!(arrival.json()["data"], object);
        let header = |name: &str| arrival.header(&format!("x-auraconnect-{name}")).to_owned();
        assert_eq!(
            header("signature"),
            format!("sha256={}", hex_hmac(secret, &arrival.body))
        );
        assert_eq!(header("event"), "order.created");
        assert_eq!(header("webhook-id"), id);
        let sent: u64 = header("timestamp").parse().unwrap();
        assert!(unix_now().abs_diff(sent) < 60);
        arrived.push(header("event-id"));
    }
    arrived.sort_unstable();
    assert_eq!(arrived, ["evt_123", "evt_124"]);

    // `{"logs":[{"event_id","event_type","status","attempts","response_code",…}]}`
    let logs = format!("/{id}/logs");
    let mut log = Value::Null;
    eventually("both are in the log as successes", async || {
        log = walk.get(&format!("{logs}?status=success")).await["logs"].clone();
        log.as_array().unwrap().len() == 2
    })
    .await;
    for member in [
        "event_id",
        "event_type",
        "status",
        "attempts",
        "response_code",
        "response_time_ms",
        "timestamp",
    ] {
        assert!(!log[0][member].is_null(), "{member} of {log}");
    }
    for status in ["pending", "failed"] {
        let none = walk.get(&format!("{logs}?status={status}")).await;
        assert_eq!(none["logs"], json!([]));
    }
    // A misspelt filter doesn't list everything.
    let (status, refused) = walk
        .ask("GET", &format!("{logs}?state=failed"), Value::Null)
        .await;
    assert_eq!((status, &refused["field"]), (422, &json!("state")));
    assert!(
        refused["detail"].as_str().unwrap().contains("`status`"),
        "{refused}"
    );

    let test = json!({"webhook_id": id, "event_type": "order.created"});
    let (status, tested) = walk.ask("POST", "/test", test).await;
    assert_eq!(
        (status, &tested["success"]),
        (200, &json!(true)),
        "{tested}"
    );
    // Without a body, but with the content type that clients always send.
    let (status, tested) = walk.ask("POST", &format!("/{id}/test"), Value::Null).await;
    assert_eq!(
        (status, &tested["success"]),
        (200, &json!(true)),
        "{tested}"
    );
    walk.finish().await;
}

#[tokio::test]
async fn a_preview_and_a_backfill_see_a_wrapped_object_as_deliveries_do() {
    let walk = Walk::start("auraconnect", "/api/v1/webhooks", answering(200)).await;
    for (event, restaurant) in [("evt_1", 1), ("evt_2", 2)] {
        let data = json!({"object": {"restaurant_id": restaurant}});
        walk.publish(json!({"id": event, "type": "order.created", "data": data}))
            .await;
    }
    walk.world.accepts(2).await;
    let wanted = json!({"events": ["order.*"], "filters": {"restaurant_id": 1}});
    // In another dialect a filter sees the data as it was published.
    for (dialect, matched) in [
        (Value::Null, 1),
        (json!("auraconnect"), 1),
        (json!("standard"), 0),
    ] {
        let mut asked = wanted.clone();
        asked["dialect"] = dialect.clone();
        let (status, preview) = walk.ask("POST", "/preview", asked).await;
        assert_eq!(
            (status, &preview["matched"]),
            (200, &json!(matched)),
            "{dialect}: {preview}"
        );
    }
    let mut unknown = wanted.clone();
    unknown["dialect"] = json!("auraconect");
    let (status, refused) = walk.ask("POST", "/preview", unknown).await;
    assert_eq!((status, &refused["field"]), (422, &json!("dialect")));

    let mut form = wanted;
    form["url"] = json!(walk.endpoint.url("/kitchen"));
    let made = walk.webhook(form).await;
    let backfill = format!("/{}/backfill", made["id"].as_str().unwrap());
    let since = json!({"since": "2020-01-01T00:00:00Z", "dry_run": true});
    let (_, counted) = walk.ask("POST", &backfill, since).await;
    assert_eq!(counted["matching"], 1, "{counted}");
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let (status, begun) = walk.ask("POST", &backfill, since).await;
    assert_eq!(status, 202, "{begun}");
    let arrived = walk.endpoint.receives(1).await;
    assert_eq!(arrived[0].header("x-auraconnect-event-id"), "evt_1");
    walk.finish().await;
}

#[tokio::test]
async fn auraconnects_age_counts_from_when_the_event_happened_and_says_so_when_it_ends() {
    let walk = Walk::start("auraconnect", "/api/v1/webhooks", answering(500)).await;
    let form = json!({"url": walk.endpoint.url("/kitchen"), "events": ["*"], "retries": 1});
    let made = walk.webhook(form).await;
    let ago = |span: time::Duration| (OffsetDateTime::now_utc() - span).format(&Rfc3339).unwrap();
    // Too old when it comes.
    let eight_days = ago(time::Duration::days(8));
    walk.publish(json!({"type": "order.created", "data": {}, "created": eight_days}))
        .await;
    let delivery = walk.delivery_in(&made, &["expired"]).await;
    assert_eq!(delivery["attempts"], 0, "{delivery}");
    let reason = "7 days after the event happened";
    assert!(
        delivery["error"].as_str().unwrap().contains(reason),
        "{delivery}"
    );
    assert!(walk.endpoint.arrivals().is_empty());
    // Too old for its retry, which would come 10 s later.
    let nearly = ago(time::Duration::days(7) - time::Duration::seconds(8));
    walk.publish(json!({"type": "order.created", "data": {}, "created": nearly}))
        .await;
    eventually("it expired after an attempt", async || {
        let delivery = walk.delivery_in(&made, &["expired"]).await;
        delivery["attempts"] == 1 && delivery["response_code"] == 500
    })
    .await;
    let delivery = walk.delivery_in(&made, &["expired"]).await;
    assert!(
        delivery["error"].as_str().unwrap().contains(reason),
        "{delivery}"
    );
    walk.finish().await;
}

#[tokio::test]
async fn auraconnects_tenants_have_a_thousand_deliveries_an_hour_unless_they_say_otherwise() {
    let walk = Walk::start("auraconnect", "/api/v1/webhooks", answering(200)).await;
    let form = json!({"url": walk.endpoint.url("/kitchen"), "events": ["*"]});
    let made = walk.webhook(form).await;
    let publish = async |n: usize| {
        let event = json!({"type": "order.created", "data": {"n": n}});
        walk.publish(event).await;
    };
    publish(1).await;
    walk.endpoint.receives(1).await;
    // As if the hour's deliveries had been made.
    let used = "UPDATE rate_usage SET used = jsonb_build_array(1000), \
                first_slot = floor(extract(epoch FROM now()) / 60)::int8 \
                WHERE subject = 'tenant/auraconnect/3600'";
    let changed = walk.world.sql().await.execute(used, &[]).await.unwrap();
    assert_eq!(changed, 1, "its use is counted");
    publish(2).await;
    eventually("the second is put off", async || {
        let delivery = walk.delivery_in(&made, &["queued", "delivered"]).await;
        delivery["next_attempt_reason"] == "rate_limited"
    })
    .await;
    // In the log it is pending, and is found by that word.
    let pending = format!("/{}/logs?status=pending", made["id"].as_str().unwrap());
    eventually("the log has it as pending", async || {
        let log = walk.get(&pending).await["logs"].clone();
        log.as_array().unwrap().len() == 1 && log[0]["status"] == "pending"
    })
    .await;
    walk.world.abandon().await;
}
