//! The delivery log: which deliveries a search finds, and what it shows of them.

#![allow(clippy::unwrap_used)]

mod asking;
mod entries;
mod statistics;

use std::sync::Arc;

use asking::{by_type, get};
use harness::receiver::{Reply, Script, answering};
use harness::service::Service;
use harness::world::World;
use serde_json::{Value, json};

fn event_ids(page: &Value, list: &str) -> Vec<String> {
    let rows = page[list].as_array().unwrap();
    let id = |row: &Value| row["event_id"].as_str().unwrap().to_owned();
    rows.iter().map(id).collect()
}

/// All pages of a list, as event ids.
async fn all_pages(world: &World, ingest: &Service, path: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get(world, ingest, &format!("{path}{cursor}")).await;
        ids.extend(event_ids(&page, "deliveries"));
        let Some(next) = page["next_cursor"].as_str() else {
            return ids;
        };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn deliveries_are_found_by_each_filter_under_each_name() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(by_type()).await;
    let webhook = world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    let other = world
        .webhook(&ingest, &shop, json!({"events": ["order.paid"]}))
        .await;
    for (n, kind) in ["order.paid", "order.broken", "order.odd", "order.paid"]
        .into_iter()
        .enumerate()
    {
        world.publish(kind, &format!("evt-{n}"), &json!({})).await;
        world.accepts(n as i64 + 1).await;
    }
    world.settles().await;

    let path = format!("/api/v1/webhooks/{}/deliveries", webhook.id);
    for (filter, expected) in [
        ("", vec!["evt-3", "evt-2", "evt-1", "evt-0"]),
        ("status=failed", vec!["evt-1"]),
        (
            "status=failed,delivered",
            vec!["evt-3", "evt-2", "evt-1", "evt-0"],
        ),
        (
            "status=success&event_type=order.paid",
            vec!["evt-3", "evt-0"],
        ),
        ("response_code=201", vec!["evt-2"]),
        ("response_code=500&status=failed", vec!["evt-1"]),
        ("event_id=evt-1", vec!["evt-1"]),
        ("event_id=evt-1&status=delivered", vec![]),
        ("event_type=order.lost", vec![]),
        ("since=2100-01-01T00:00:00Z", vec![]),
        (
            "until=2100-01-01T00:00:00Z&since=2020-01-01T00:00:00Z",
            vec!["evt-3", "evt-2", "evt-1", "evt-0"],
        ),
    ] {
        let page = get(&world, &ingest, &format!("{path}?{filter}")).await;
        assert_eq!(event_ids(&page, "deliveries"), expected, "{filter}");
        assert_eq!(page["next_cursor"], Value::Null, "{filter}");
        let by_page = all_pages(&world, &ingest, &format!("{path}?limit=1&{filter}")).await;
        assert_eq!(by_page, expected, "{filter}, page by page");
    }
    let all = get(&world, &ingest, &path).await;
    let second = &all["deliveries"][1];
    let from = second["queued_at"].as_str().unwrap();
    let since = get(&world, &ingest, &format!("{path}?since={from}")).await;
    assert_eq!(event_ids(&since, "deliveries"), ["evt-3", "evt-2"]);
    let until = get(&world, &ingest, &format!("{path}?until={from}")).await;
    assert_eq!(event_ids(&until, "deliveries"), ["evt-1", "evt-0"]);

    // All deliveries of the tenant, newest first, and the other names of this list.
    let tenants = all_pages(&world, &ingest, "/api/v1/deliveries?limit=2").await;
    let mut sorted = tenants.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    assert_eq!((tenants.len(), &tenants), (6, &sorted));
    let failed = get(
        &world,
        &ingest,
        "/api/v1/deliveries?status=failed&event_type=order.broken",
    )
    .await;
    assert_eq!(event_ids(&failed, "deliveries"), ["evt-1"]);
    let events = format!("/api/v1/webhooks/{}/events?status=failed", webhook.id);
    assert_eq!(
        event_ids(&get(&world, &ingest, &events).await, "events"),
        ["evt-1"]
    );
    let logs = format!("/api/v1/webhooks/{}/logs", webhook.id);
    let logs = get(&world, &ingest, &logs).await;
    let (odd, broken) = (&logs["logs"][1], &logs["logs"][2]);
    assert_eq!(
        (
            &odd["status"],
            &odd["event_type"],
            &odd["attempts"],
            &odd["response_code"]
        ),
        (
            &json!("success"),
            &json!("order.odd"),
            &json!(1),
            &json!(201)
        )
    );
    assert!(
        odd["response_time_ms"].is_u64() && odd["timestamp"].is_string(),
        "{odd}"
    );
    assert_eq!(
        (&broken["status"], &logs["debug"]),
        (&json!("failed"), &json!(false))
    );

    // Corp Astro's names, at Corp Astro's path.
    let documented = format!("/api/webhooks/{}/deliveries", webhook.id);
    let listed = get(&world, &ingest, &documented).await;
    let (taken, failed) = (&listed["deliveries"][0], &listed["deliveries"][2]);
    for name in ["queued_at", "processing_started_at", "delivered_at"] {
        assert!(taken[name].is_string(), "{name} is missing in {taken}");
    }
    assert_eq!(
        (&taken["failed_at"], &taken["response_body"]),
        (&Value::Null, &json!("noted\n"))
    );
    assert!(
        failed["failed_at"].is_string() && failed["delivered_at"].is_null(),
        "{failed}"
    );

    for wrong in [
        "status=lost",
        "response_code=7",
        "event_id=a%20b",
        "event_type=a..b",
        "limit=251",
    ] {
        let answer = world
            .ask(&ingest, "GET", &format!("{path}?{wrong}"), None)
            .await;
        let field = wrong.split('=').next().unwrap();
        assert_eq!(
            (answer.status, answer.body["field"].as_str()),
            (422, Some(field)),
            "{}",
            answer.body
        );
    }
    assert_eq!(
        get(
            &world,
            &ingest,
            &format!("/api/v1/webhooks/{}/deliveries", other.id)
        )
        .await["deliveries"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    world.finish().await;
}

#[tokio::test]
async fn an_attempt_shows_its_request_and_when_and_why_the_next_comes() {
    let script: Script = Arc::new(|n, _| match n {
        0 => Reply::status(503).with("retry-after", "2"),
        1 => Reply::status(500),
        _ => Reply::status(200),
    });
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(script).await;
    let more = json!({
        "retry_policy": {"delays": [100, 100]}, "headers": {"X-Api-Key": "hunter2-hunter2"}
    });
    let webhook = world.webhook(&ingest, &shop, more).await;
    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;
    shop.receives(3).await;
    world.settles().await;

    let id = &world.deliveries(&ingest, &webhook).await[0]["id"];
    let delivery = world.delivery(&ingest, id).await;
    let attempts = delivery["attempt_log"].as_array().unwrap();
    let reasons: Vec<_> = attempts.iter().map(|a| &a["next_attempt_reason"]).collect();
    assert_eq!(
        reasons,
        [&json!("retry_after"), &json!("schedule"), &Value::Null]
    );
    assert!(attempts[0]["next_attempt_at"].is_string());
    let first = &attempts[0];
    assert_eq!(first["request_method"], "POST");
    assert_eq!(
        first["request_host"],
        shop.url("").trim_start_matches("http://")
    );
    assert_eq!(first["request_bytes"], shop.arrivals()[0].body.len());
    // Not stored, but composed again: with the time of that attempt.
    for (attempt, arrival) in attempts.iter().zip(shop.arrivals()) {
        let body = String::from_utf8(arrival.body.to_vec()).unwrap();
        assert_eq!(attempt["request_body"], body.as_str());
        assert_eq!(
            (&attempt["composed"], &attempt["debug"]),
            (&json!(true), &json!(false))
        );
    }
    let sent = first["request_headers"].as_array().unwrap();
    let signature = shop.arrivals()[0].header("webhook-signature").to_owned();
    assert!(
        sent.contains(&json!(["webhook-signature", signature])),
        "{sent:?}"
    );
    assert!(sent.contains(&json!(["x-api-key", "…"])), "{sent:?}");
    assert!(!delivery.to_string().contains("hunter2"));
    assert_eq!(
        (
            &delivery["next_attempt_at"],
            &delivery["next_attempt_reason"]
        ),
        (&Value::Null, &Value::Null)
    );
    world.finish().await;
}

#[tokio::test]
async fn in_debug_mode_requests_and_answers_are_kept_whole() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"debug_mode": true}))
        .await;
    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;
    shop.receives(1).await;
    world.settles().await;

    let logs = get(
        &world,
        &ingest,
        &format!("/api/v1/webhooks/{}/logs", webhook.id),
    )
    .await;
    assert_eq!(
        (&logs["debug"], &logs["logs"][0]["debug"]),
        (&json!(true), &json!(true))
    );
    let delivery = world
        .delivery(&ingest, &logs["logs"][0]["delivery_id"])
        .await;
    let attempt = &delivery["attempt_log"][0];
    let sent = String::from_utf8(shop.arrivals()[0].body.to_vec()).unwrap();
    assert_eq!(
        (&attempt["request_body"], &attempt["debug"]),
        (&json!(sent), &json!(true))
    );
    world.finish().await;
}

#[tokio::test]
async fn another_tenants_log_is_not_found() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    let id = world.deliveries(&ingest, &webhook).await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    world.tenant(&ingest, "other").await;
    let token = json!({"tenant": "other", "role": "admin"});
    let token = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(token))
        .await;
    let stranger = token.body["token"].as_str().unwrap();

    let hook = format!("/api/v1/webhooks/{}", webhook.id);
    let replay = json!({"since": "2020-01-01T00:00:00Z"});
    for (method, path, body) in [
        ("GET", format!("/api/v1/deliveries/{id}"), None),
        ("POST", format!("/api/v1/deliveries/{id}/retry"), None),
        ("GET", format!("{hook}/deliveries"), None),
        ("GET", format!("{hook}/events"), None),
        ("GET", format!("{hook}/logs"), None),
        ("GET", format!("{hook}/attempts"), None),
        ("GET", format!("{hook}/waits"), None),
        ("GET", format!("{hook}/outages"), None),
        ("GET", format!("{hook}/stats"), None),
        ("POST", format!("{hook}/events/evt-1/retry"), None),
        ("POST", format!("{hook}/replay"), Some(replay)),
        ("GET", format!("{hook}/replays"), None),
        ("POST", format!("{hook}/test"), None),
    ] {
        let answer = world.ask_as(stranger, &ingest, method, &path, body).await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.body);
    }
    let listed = world
        .ask_as(
            stranger,
            &ingest,
            "GET",
            "/api/v1/deliveries?event_id=evt-1",
            None,
        )
        .await;
    assert_eq!(listed.body["deliveries"], json!([]));
    let stats = world
        .ask_as(stranger, &ingest, "GET", "/api/v1/stats", None)
        .await;
    assert_eq!(stats.body["attempts"], 0);
    assert_eq!(shop.arrivals().len(), 1, "something was sent again");
    world.finish().await;
}
