//! Webhooks, tenants and tokens over HTTP: who may change them, and what is shown.

#![allow(clippy::unwrap_used)]

use harness::receiver::answering;
use harness::service::{Service, http};
use harness::setups::counts;
use harness::world::{Answer, TENANT, World};
use serde_json::{Value, json};

async fn token(
    world: &World,
    ingest: &Service,
    tenant: Option<&str>,
    role: &str,
) -> (String, String) {
    let body = json!({"tenant": tenant, "role": role});
    let made = world
        .ask_as_operator(ingest, "POST", "/api/v1/admin/tokens", Some(body))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let text = |name: &str| made.body[name].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

fn says(answer: &Answer, status: u16, field: Option<&str>, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.body["status"], status);
    assert_eq!(answer.body["field"].as_str(), field, "{}", answer.body);
    assert!(
        answer.body["detail"].as_str().unwrap().contains(words),
        "{} lacks {words}",
        answer.body
    );
}

#[tokio::test]
async fn a_webhook_lives_from_its_making_to_its_deletion() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let secret = "whsec_c2l4dGVlbiBieXRlcyBvciBtb3Jl";
    let body = json!({
        "url": shop.url("/hook"), "events": ["order.*"], "secret": secret, "description": "the shop",
        "headers": {"X-Api-Key": "hunter2-hunter2"}, "timeout": 5000, "retries": 2,
        "filters": {"total": {"$gte": 10}}, "metadata": {"team": "blue"}
    });
    let made = world
        .ask(&ingest, "POST", "/api/v1/webhooks", Some(body))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.body["secret"], secret, "shown once");
    let path = format!("/api/v1/webhooks/{}", made.body["id"].as_str().unwrap());

    let shown = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(shown["secret"], "whsec_…b3Jl");
    assert_eq!(shown["headers"], json!({"X-Api-Key": "…"}));
    assert_eq!(shown["retry_policy"]["max_retries"], 2);
    assert_eq!(shown["lastTriggered"], Value::Null);
    let expected = json!(["order.*"]);
    for name in [
        "events",
        "filters",
        "metadata",
        "timeout",
        "description",
        "url",
    ] {
        assert_eq!(shown[name], made.body[name], "{name}");
    }
    assert_eq!(shown["events"], expected);

    // Members that aren't sent stay; null removes one; both take effect at once.
    let change = json!({"filters": null, "timeout": null, "events": ["item-*"]});
    let changed = world.ask(&ingest, "PUT", &path, Some(change)).await.body;
    assert_eq!(
        (&changed["filters"], &changed["timeout"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&changed["description"], &changed["events"]),
        (&json!("the shop"), &json!(["item-*"]))
    );
    world
        .publish("order.created", "evt-1", &json!({"total": 50}))
        .await;
    world
        .publish("item-checkout", "evt-2", &json!({"total": 1}))
        .await;
    let arrival = &shop.receives(1).await[0];
    assert_eq!(
        (arrival.id(), arrival.header("x-api-key")),
        ("evt-2", "hunter2-hunter2")
    );
    arrival.verify(secret).unwrap();
    world.accepts(2).await;
    world.settles().await;

    let listed = world.ask(&ingest, "GET", "/api/webhooks", None).await.body;
    assert_eq!(listed["webhooks"].as_array().unwrap().len(), 1);
    assert!(
        listed["webhooks"][0]["lastTriggered"].is_string(),
        "{listed}"
    );
    assert_eq!(listed["webhooks"][0]["createdAt"], shown["created_at"]);

    // Switched off: it gets no new events. Deleted: it isn't found any more, and its
    // deliveries aren't either.
    world
        .ask(&ingest, "PATCH", &path, Some(json!({"active": false})))
        .await;
    world.publish("item-checkout", "evt-3", &json!({})).await;
    world.accepts(3).await;
    assert_eq!(world.count("deliveries").await, 1);
    assert_eq!(world.ask(&ingest, "DELETE", &path, None).await.status, 204);
    says(
        &world.ask(&ingest, "GET", &path, None).await,
        404,
        None,
        "there is no webhook",
    );
    assert_eq!(
        world
            .count("webhooks WHERE secret = '' AND headers IS NULL")
            .await,
        1
    );
    world.finish().await;
}

#[tokio::test]
async fn deliveries_of_a_webhook_that_goes_away_are_cancelled() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let doomed = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world
        .ask(
            &ingest,
            "DELETE",
            &format!("/api/v1/webhooks/{}", doomed.id),
            None,
        )
        .await;
    let _dispatcher = world.dispatcher().await;
    world.settles().await;
    assert_eq!(
        world
            .count("deliveries WHERE state = 'cancelled' AND attempts = 0")
            .await,
        1
    );
    assert_eq!(shop.arrivals().len(), 0);
    world.finish().await;
}

#[tokio::test]
async fn the_log_is_paged_and_filtered() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    for n in 0..7 {
        let kind = if n % 2 == 0 {
            "order.created"
        } else {
            "order.paid"
        };
        world.publish(kind, &format!("evt-{n}"), &json!({})).await;
    }
    world.accepts(7).await;
    world.settles().await;

    let path = format!("/api/v1/webhooks/{}/deliveries", webhook.id);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world
            .ask(&ingest, "GET", &format!("{path}?limit=3{cursor}"), None)
            .await
            .body;
        let rows = page["deliveries"].as_array().unwrap();
        assert!(rows.len() <= 3);
        seen.extend(
            rows.iter()
                .map(|row| row["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    let mut sorted = seen.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    assert_eq!(
        (seen.len(), &seen),
        (7, &sorted),
        "newest first, none twice, none missing"
    );

    let paid = world
        .ask(
            &ingest,
            "GET",
            &format!("{path}?event_type=order.paid"),
            None,
        )
        .await
        .body;
    assert_eq!(paid["deliveries"].as_array().unwrap().len(), 3);
    let failed = world
        .ask(&ingest, "GET", &format!("{path}?status=failed"), None)
        .await
        .body;
    assert_eq!(failed["deliveries"], json!([]));
    for (query, field, words) in [
        ("status=lost", "status", "queued"),
        ("limit=0", "limit", "1 and 250"),
        ("cursor=x", "cursor", "cursor"),
    ] {
        let refused = world
            .ask(&ingest, "GET", &format!("{path}?{query}"), None)
            .await;
        says(&refused, 422, Some(field), words);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_token_permits_only_what_its_role_and_tenant_allow() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    world.tenant(&ingest, "other").await;
    let again = world
        .ask_as_operator(
            &ingest,
            "POST",
            "/api/v1/admin/tenants",
            Some(json!({"id": "other"})),
        )
        .await;
    says(&again, 409, None, "exists already");

    let (id, viewer) = token(&world, &ingest, Some(TENANT), "viewer").await;
    assert_eq!(
        world
            .ask_as(&viewer, &ingest, "GET", &path, None)
            .await
            .status,
        200
    );
    says(
        &world.ask_as(&viewer, &ingest, "DELETE", &path, None).await,
        403,
        None,
        "viewer",
    );
    says(
        &world
            .ask_as(&viewer, &ingest, "GET", "/api/v1/admin/tenants", None)
            .await,
        403,
        None,
        "global admin",
    );

    // Another tenant's admin finds nothing, changes nothing, and learns nothing.
    let (_, stranger) = token(&world, &ingest, Some("other"), "admin").await;
    for (method, body) in [
        ("GET", None),
        ("PUT", Some(json!({"active": false}))),
        ("DELETE", None),
    ] {
        says(
            &world.ask_as(&stranger, &ingest, method, &path, body).await,
            404,
            None,
            "there is no webhook",
        );
    }
    let deliveries = format!("{path}/deliveries");
    says(
        &world
            .ask_as(&stranger, &ingest, "GET", &deliveries, None)
            .await,
        404,
        None,
        "there is no webhook",
    );
    assert_eq!(
        world
            .ask_as(&stranger, &ingest, "GET", "/api/v1/webhooks", None)
            .await
            .body["webhooks"],
        json!([])
    );
    let claimed = http()
        .get(ingest.url(&path))
        .bearer_auth(&stranger)
        .header("x-tenant-id", TENANT);
    assert_eq!(claimed.send().await.unwrap().status(), 404);

    // A request with a global token names its tenant.
    let (_, global) = token(&world, &ingest, None, "manager").await;
    says(
        &world.ask_as(&global, &ingest, "GET", &path, None).await,
        422,
        Some("X-Tenant-ID"),
        "global",
    );
    let acting = http()
        .get(ingest.url(&path))
        .bearer_auth(&global)
        .header("x-tenant-id", TENANT);
    assert_eq!(acting.send().await.unwrap().status(), 200);

    // Revoked, invented or missing: not accepted.
    let revoke = format!("/api/v1/admin/tokens/{id}");
    assert_eq!(
        world
            .ask_as_operator(&ingest, "DELETE", &revoke, None)
            .await
            .status,
        204
    );
    for nobody in [viewer.as_str(), "pht_made-up", ""] {
        let refused = world.ask_as(nobody, &ingest, "GET", &path, None).await;
        says(&refused, 401, Some("Authorization"), "Bearer");
    }
    let listed = world
        .ask_as_operator(&ingest, "GET", "/api/v1/admin/tokens", None)
        .await
        .body;
    assert!(
        !listed.to_string().contains(&stranger[..20]),
        "a token is shown again"
    );
    world.finish().await;
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_the_reason() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let post = async |body: Value| {
        world
            .ask(&ingest, "POST", "/api/v1/webhooks", Some(body))
            .await
    };
    says(
        &post(json!({"events": ["a.b"]})).await,
        422,
        Some("url"),
        "missing",
    );
    says(
        &post(json!({"url": "https://example.com"})).await,
        422,
        Some("events"),
        "missing",
    );
    says(
        &post(json!({"url": "https://10.0.0.1", "events": ["a"]})).await,
        422,
        Some("url"),
        "not a public",
    );
    says(
        &post(json!({"url": 7})).await,
        400,
        Some("url"),
        "must be a string, not a number",
    );
    says(
        &world.ask(&ingest, "GET", "/api/v1/nothing", None).await,
        404,
        None,
        "there is no GET",
    );
    says(
        &world.ask(&ingest, "POST", "/api/v1/webhooks/x", None).await,
        405,
        None,
        "does not take POST",
    );
    says(
        &world
            .ask(&ingest, "GET", "/api/v1/webhooks/wh_nonsense", None)
            .await,
        404,
        None,
        "wh_",
    );
    let text = http()
        .post(ingest.url("/api/v1/webhooks"))
        .bearer_auth("x")
        .body("{}");
    assert_eq!(
        text.send().await.unwrap().status(),
        401,
        "who asks comes first"
    );

    let publish = async |body: Value| {
        world
            .ask(&ingest, "POST", "/api/v1/events", Some(body))
            .await
    };
    says(
        &publish(json!({"type": "a..b", "data": {}})).await,
        422,
        Some("type"),
        "event type",
    );
    says(
        &publish(json!({"type": "a.b", "id": "a b", "data": {}})).await,
        422,
        Some("id"),
        "visible ASCII",
    );
    says(
        &publish(json!({"type": "a.b", "data": "x".repeat(300_000)})).await,
        413,
        Some("data"),
        "262144",
    );
    says(
        &publish(json!({"type": "a.b"})).await,
        400,
        Some("data"),
        "missing",
    );
    assert_eq!(world.count("events").await, 0);

    let limit = json!({"id": "small", "limits": {"webhooks": 1}});
    world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(limit))
        .await;
    let (_, manager) = token(&world, &ingest, Some("small"), "manager").await;
    let body = json!({"url": "https://example.com/", "events": ["*"]});
    let first = world
        .ask_as(
            &manager,
            &ingest,
            "POST",
            "/api/v1/webhooks",
            Some(body.clone()),
        )
        .await;
    assert_eq!(first.status, 201, "{}", first.body);
    let second = world
        .ask_as(&manager, &ingest, "POST", "/api/v1/webhooks", Some(body))
        .await;
    says(&second, 409, None, "at most 1");
    world.finish().await;
}

#[tokio::test]
async fn no_secret_is_printed_or_stored_in_the_clear() {
    let world = World::start().await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let more = json!({"headers": {"Authorization": "Bearer hunter2-hunter2"}});
    let webhook = world.webhook(&ingest, &shop, more).await;
    let (_, token) = token(&world, &ingest, Some(TENANT), "manager").await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;

    let mut said = world.logs();
    for service in [&ingest, &dispatcher] {
        said += &http()
            .get(service.url("/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
    }
    let rows = world.sql().await;
    for table in ["webhooks", "tokens", "events", "deliveries", "attempts"] {
        for row in rows
            .query(&format!("SELECT to_jsonb(t)::text FROM {table} t"), &[])
            .await
            .unwrap()
        {
            said += row.get(0);
        }
    }
    assert!(said.contains("evt-1"));
    let encoded = webhook.secret.trim_start_matches("whsec_");
    let hex = |text: &str| hex::encode(text.as_bytes());
    for secret in [
        encoded,
        "hunter2",
        &token,
        "the-operators-token",
        &hex("hunter2"),
        &hex(encoded),
    ] {
        assert!(!said.contains(secret), "{secret} is in the open");
    }
    world.finish().await;
}

#[tokio::test]
async fn health_and_metrics_show_the_state_of_a_process() {
    let world = World::start().await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    for service in [&ingest, &dispatcher] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(
                http().get(service.url(path)).send().await.unwrap().status(),
                200
            );
        }
        assert_eq!(
            service
                .metric("posthorn_deliveries_unaccounted")
                .await
                .unwrap() as i64,
            0
        );
    }
    counts(&ingest, "posthorn_events_received_total", 2.0).await;
    for (service, name, value) in [
        (&ingest, "posthorn_deliveries_enqueued_total", 1),
        (&ingest, "posthorn_subscriptions", 1),
        (&dispatcher, "posthorn_attempts_total", 1),
        (&dispatcher, "posthorn_attempt_duration_seconds_count", 1),
        (&dispatcher, "posthorn_delivery_latency_seconds_count", 1),
        (&dispatcher, "posthorn_deliveries_finished_total", 1),
        (&dispatcher, "posthorn_settle_batch_size_count", 1),
        (&dispatcher, "posthorn_attempts_in_flight", 0),
    ] {
        assert_eq!(service.metric(name).await.unwrap() as i64, value, "{name}");
    }
    world.finish().await;
}
