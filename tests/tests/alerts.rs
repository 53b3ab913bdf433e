//! Owners find out: operational events tell once when a webhook is failing, slow or down, when
//! it has recovered, and when deliveries were given up. Operators have the same as metrics.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use harness::receiver::{Receiver, Reply, Script, answering, answering_after};
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, Webhook, World, eventually};
use serde_json::{Value, json};
use shared::ids::WebhookId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A fast sweeper; six sweeps make a check.
const BRISK: [(&str, &str); 2] = [("SWEEP_GRACE", "2"), ("SWEEP_INTERVAL", "1")];

fn answering_as_told(status: &Arc<AtomicU16>) -> Script {
    let status = status.clone();
    Arc::new(move |_, _| Reply::status(status.load(Ordering::Relaxed)))
}

async fn thresholds(world: &World, ingest: &Service, alerts: Value) {
    let path = format!("/api/v1/admin/tenants/{TENANT}");
    let change = json!({"alerts": alerts});
    let answer = world
        .ask_as_operator(ingest, "PATCH", &path, Some(change))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (name, value) in alerts.as_object().unwrap() {
        assert_eq!(answer.body["alerts"][name], *value, "{}", answer.body);
    }
}

/// The endpoint of a webhook for all operational events.
async fn desk(world: &World, ingest: &Service) -> Receiver {
    let desk = world.receiver(answering(200)).await;
    let operational = json!({"operational": true, "events": ["*"]});
    world.webhook(ingest, &desk, operational).await;
    desk
}

/// How many times the data has. Fails if one hasn't three digits after the second.
fn times(data: &Value) -> usize {
    match data {
        Value::Object(members) => members.values().map(times).sum(),
        Value::Array(entries) => entries.iter().map(times).sum(),
        Value::String(text) if OffsetDateTime::parse(text, &Rfc3339).is_ok() => {
            assert_eq!(text.len(), "2026-01-31T10:00:00.123Z".len(), "{text}");
            1
        }
        _ => 0,
    }
}

/// The data of the events of this type that the desk got. Each says when it happened.
fn told(desk: &Receiver, event_type: &str) -> Vec<Value> {
    let events = desk
        .arrivals()
        .iter()
        .map(harness::receiver::Arrival::json)
        .collect::<Vec<_>>();
    let of_type = events
        .into_iter()
        .filter(|event| event["type"] == event_type);
    let data: Vec<Value> = of_type.map(|event| event["data"].clone()).collect();
    for one in &data {
        assert!(times(one) > 0, "{one}");
    }
    data
}

/// An event's data has exactly the members that the API's description has.
async fn is_as_described(ingest: &Service, event_type: &str, data: &Value) {
    let answer = http().get(ingest.url("/openapi.json")).send().await;
    let document: Value = serde_json::from_str(&answer.unwrap().text().await.unwrap()).unwrap();
    let at = |reference: &Value| {
        let path = reference.as_str().unwrap().trim_start_matches('#');
        document.pointer(path).unwrap()
    };
    let body = &document["webhooks"][event_type]["post"]["requestBody"];
    let event = at(&body["content"]["application/json"]["schema"]["$ref"]);
    assert_eq!(event["properties"]["type"]["enum"], json!([event_type]));
    let schema = at(&event["properties"]["data"]["$ref"]);
    let described = schema["properties"].as_object().unwrap().keys();
    let sent = data.as_object().unwrap().keys();
    assert_eq!(
        described.collect::<BTreeSet<_>>(),
        sent.collect::<BTreeSet<_>>(),
        "{event_type}"
    );
    for (name, value) in data.as_object().unwrap() {
        let kind = &schema["properties"][name]["type"];
        let is_right = match value {
            Value::Number(number) => kind.to_string().contains(match number.is_f64() {
                true => "number",
                false => "integer",
            }),
            Value::Array(_) => *kind == "array",
            // Ids, times and objects are references.
            _ => true,
        };
        assert!(is_right, "{event_type}: {name}: {value} is not {kind}");
    }
}

async fn publish(world: &World, ids: std::ops::Range<usize>) {
    for n in ids {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
}

#[tokio::test]
async fn owners_are_told_once_that_a_webhook_fails_and_once_that_it_has_recovered() {
    let world = World::with(&BRISK).await;
    let ingest = world.ingest().await;
    let alerts = json!({"min_attempts": 5, "failure_rate": 0.5});
    thresholds(&world, &ingest, alerts).await;
    let desk = desk(&world, &ingest).await;
    let status = Arc::new(AtomicU16::new(404));
    let shop = world.receiver(answering_as_told(&status)).await;
    let webhook = world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    publish(&world, 0..8).await;
    world.accepts(8).await;
    let dispatcher = world.dispatcher().await;

    eventually("its owner is told", async || {
        told(&desk, "webhook.failing").len() + told(&desk, "delivery.exhausted").len() == 2
    })
    .await;
    let failing = &told(&desk, "webhook.failing")[0];
    assert_eq!(failing["webhook_id"], json!(webhook.id));
    assert_eq!(
        (
            &failing["attempts"],
            &failing["failed_attempts"],
            &failing["failure_rate"]
        ),
        (&json!(8), &json!(8), &json!(1.0))
    );
    // What was given up is told in one, with the way to replay it.
    let given_up = &told(&desk, "delivery.exhausted")[0];
    is_as_described(&ingest, "webhook.failing", failing).await;
    is_as_described(&ingest, "delivery.exhausted", given_up).await;
    assert_eq!(
        (&given_up["webhook_id"], &given_up["count"]),
        (&json!(webhook.id), &json!(8)),
        "{given_up}"
    );
    let replay = &given_up["replay"];
    let mut dry_run = replay["body"].clone();
    dry_run["dry_run"] = json!(true);
    let path = replay["path"].as_str().unwrap();
    let found = world.ask(&ingest, "POST", path, Some(dry_run)).await;
    assert_eq!(
        (found.status, &found.body["matching"]),
        (200, &json!(8)),
        "{}",
        found.body
    );

    // Others check now, and tell nothing again.
    dispatcher.kill().await.unwrap();
    let _dispatchers = (world.dispatcher().await, world.dispatcher().await);
    status.store(200, Ordering::Relaxed);
    // 8 of 40 is less than half of the threshold.
    publish(&world, 8..40).await;
    eventually("its owner is told that it is well", async || {
        !told(&desk, "webhook.recovered").is_empty()
    })
    .await;
    let recovered = told(&desk, "webhook.recovered");
    assert_eq!(recovered[0]["was"], json!(["failing"]), "{recovered:?}");
    assert_eq!(recovered[0]["since"], failing["since"]);
    is_as_described(&ingest, "webhook.recovered", &recovered[0]).await;
    assert_eq!(world.count("webhook_alerts").await, 0);
    world.settles().await;
    for (event, times) in [
        ("webhook.failing", 1),
        ("webhook.recovered", 1),
        ("delivery.exhausted", 1),
        ("webhook.down", 0),
        ("webhook.slow", 0),
    ] {
        assert_eq!(told(&desk, event).len(), times, "{event}");
    }
    world.finish().await;
}

#[tokio::test]
async fn deliveries_that_are_given_up_are_told_at_most_once_a_minute_with_their_number() {
    let world = World::with(&BRISK).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let desk = desk(&world, &ingest).await;
    let shop = world.receiver(answering(404)).await;
    let webhook = |events: &str| {
        let form = json!({"retries": 0, "events": [events]});
        world.webhook(&ingest, &shop, form)
    };
    let (orders, users) = (webhook("order.*").await, webhook("user.*").await);
    let counts = |webhook: &Webhook| -> Vec<i64> {
        let exhausted = told(&desk, "delivery.exhausted").into_iter();
        let own = exhausted.filter(|data| data["webhook_id"] == webhook.id);
        own.map(|data| data["count"].as_i64().unwrap()).collect()
    };
    publish(&world, 0..3).await;
    eventually("its owner is told", async || !counts(&orders).is_empty()).await;

    // The minute begins now, however long the test has taken until here.
    let sql = world.sql().await;
    let now = "UPDATE exhausted_told SET told_at = now()";
    sql.execute(now, &[]).await.unwrap();
    publish(&world, 3..5).await;
    shop.receives(5).await;
    world.settles().await;
    // The check that tells of another webhook has seen these two.
    world.publish("user.created", "user-1", &json!({})).await;
    eventually("the other webhook is told of", async || {
        !counts(&users).is_empty()
    })
    .await;
    assert_eq!(counts(&orders).len(), 1);

    let over = "UPDATE exhausted_told SET told_at = told_at - interval '1 minute'";
    sql.execute(over, &[]).await.unwrap();
    eventually("all five are told of", async || {
        counts(&orders).iter().sum::<i64>() == 5
    })
    .await;
    assert_eq!((counts(&orders).len(), counts(&users)), (2, vec![1]));
    world.finish().await;
}

#[tokio::test]
async fn owners_and_operators_are_told_that_an_endpoint_is_down_and_that_it_is_back() {
    let metrics = ("WEBHOOK_METRICS", "true");
    let world = World::with(&[BRISK[0], BRISK[1], metrics]).await;
    let ingest = world.ingest().await;
    let alerts = json!({"down_after_seconds": 0, "failure_rate": 1.0});
    thresholds(&world, &ingest, alerts).await;
    let desk = desk(&world, &ingest).await;
    let status = Arc::new(AtomicU16::new(503));
    let shop = world.receiver(answering_as_told(&status)).await;
    let policy = json!({"retry_policy": {"delays": [1000, 1000, 1000, 1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    publish(&world, 0..60).await;
    let dispatcher = world.dispatcher().await;
    eventually("its owner is told", async || {
        !told(&desk, "webhook.down").is_empty()
    })
    .await;
    let down = told(&desk, "webhook.down").remove(0);
    is_as_described(&ingest, "webhook.down", &down).await;
    assert_eq!(down["webhook_id"], json!(webhook.id));
    assert!(
        down["last_failed_at"].as_str() >= down["since"].as_str(),
        "{down}"
    );

    let metric = format!(
        "posthorn_webhook_down{{tenant=\"acme\",webhook=\"{}\"}}",
        webhook.id
    );
    let text = scraped(&ingest, ADMIN_TOKEN).await.unwrap();
    assert!(text.contains(&format!("\n{metric} 1\n")), "{text}");
    assert!(
        text.contains("# TYPE posthorn_webhook_failed_attempts gauge"),
        "{text}"
    );
    let series = text.lines().filter(|line| !line.starts_with('#'));
    assert!(series.count() <= 500);
    assert_eq!(scraped(&ingest, "no-token").await, Err(401));

    // A dispatcher that is started anew knows of no outage. That is no recovery.
    dispatcher.kill().await.unwrap();
    let silent =
        "UPDATE processes SET told_at = now() - interval '31 seconds' WHERE kind = 'dispatcher'";
    world.sql().await.execute(silent, &[]).await.unwrap();
    let _dispatcher = world.dispatcher().await;
    eventually("the new one has failed, too", async || {
        world.count("endpoints WHERE circuit <> 'closed'").await == 2
    })
    .await;
    status.store(200, Ordering::Relaxed);
    let probe = format!("/api/v1/webhooks/{}/probe", webhook.id);
    let asked = world.ask(&ingest, "POST", &probe, None).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    eventually("its owner is told that it is back", async || {
        !told(&desk, "webhook.recovered").is_empty()
    })
    .await;
    let recovered = told(&desk, "webhook.recovered").remove(0);
    assert_eq!(
        (&recovered["was"], &recovered["since"]),
        (&json!(["down"]), &down["since"])
    );
    let text = scraped(&ingest, ADMIN_TOKEN).await.unwrap();
    assert!(text.contains(&format!("\n{metric} 0\n")), "{text}");
    world.settles().await;
    assert_eq!(told(&desk, "webhook.down").len(), 1);
    assert_eq!(told(&desk, "webhook.recovered").len(), 1);
    world.finish().await;
}

/// The metrics of webhooks, or the status of a refusal.
async fn scraped(ingest: &Service, token: &str) -> Result<String, u16> {
    let request = http()
        .get(ingest.url("/metrics/webhooks"))
        .bearer_auth(token);
    let answer = request.send().await.unwrap();
    match answer.status().as_u16() {
        200 => Ok(answer.text().await.unwrap()),
        status => Err(status),
    }
}

#[tokio::test]
async fn metrics_of_webhooks_are_of_those_in_trouble_and_the_busiest_in_500_series() {
    let world = World::with(&[("WEBHOOK_METRICS", "true")]).await;
    let ingest = world.ingest().await;
    let path = format!("/api/v1/admin/tenants/{TENANT}");
    let more = json!({"limits": {"webhooks": 150}});
    let changed = world
        .ask_as_operator(&ingest, "PATCH", &path, Some(more))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let shop = world.receiver(answering(200)).await;
    let mut ids = Vec::new();
    for _ in 0..130 {
        ids.push(world.webhook(&ingest, &shop, json!({})).await.id);
    }
    // Busier than all others, and deleted: they take no place from those that exist.
    let mut deleted = Vec::new();
    for _ in 0..20 {
        let webhook = world.webhook(&ingest, &shop, json!({})).await;
        let path = format!("/api/v1/webhooks/{}", webhook.id);
        let gone = world.ask(&ingest, "DELETE", &path, None).await;
        assert_eq!(gone.status, 204, "{}", gone.body);
        deleted.push(webhook.id);
    }
    // As if one attempt of the first had been made, two of the second, and so on.
    let sql = world.sql().await;
    let attempts = "INSERT INTO stats (subject, quarter, slot, outcomes, response_times, \
                        response_ms, retries, delivered, delivered_at_once, failed, expired, \
                        cancelled) \
                    SELECT 'webhook/' || id, date_bin('15 minutes', now(), 'epoch'::timestamptz), \
                        1, ARRAY[n::int4], ARRAY[n::int4], n, 0, n, n, 0, 0, 0 \
                    FROM unnest($1::text[]) WITH ORDINALITY AS w (id, n)";
    let all: Vec<_> = ids.iter().chain(&deleted).collect();
    sql.execute(attempts, &[&all]).await.unwrap();
    let first: WebhookId = ids[0].parse().unwrap();
    let trouble = "INSERT INTO webhook_alerts (webhook_id, kind, since) VALUES ($1, 'slow', now())";
    sql.execute(trouble, &[&first]).await.unwrap();

    let text = scraped(&ingest, ADMIN_TOKEN).await.unwrap();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(series.count(), 500, "{text}");
    for (before, id) in ids.iter().enumerate() {
        // 125 webhooks: the one in trouble, and the 124 with most attempts.
        let is_shown = before == 0 || before >= 6;
        assert_eq!(text.contains(id.as_str()), is_shown, "number {before}");
    }
    assert!(deleted.iter().all(|id| !text.contains(id.as_str())));
    world.finish().await;
}

#[tokio::test]
async fn owners_are_told_of_a_slow_endpoint_and_metrics_of_webhooks_are_off_by_default() {
    let world = World::with(&BRISK).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    thresholds(&world, &ingest, json!({"min_attempts": 5, "slow_ms": 100})).await;
    let desk = desk(&world, &ingest).await;
    let shop = world
        .receiver(answering_after(Duration::from_millis(300)))
        .await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    publish(&world, 0..6).await;
    eventually("its owner is told", async || {
        !told(&desk, "webhook.slow").is_empty()
    })
    .await;
    let slow = told(&desk, "webhook.slow").remove(0);
    is_as_described(&ingest, "webhook.slow", &slow).await;
    assert_eq!(
        (&slow["webhook_id"], &slow["threshold_ms"]),
        (&json!(webhook.id), &json!(100))
    );
    assert!(
        slow["p95_response_time_ms"].as_i64().unwrap() > 200,
        "{slow}"
    );
    assert_eq!(scraped(&ingest, ADMIN_TOKEN).await, Err(404));

    let path = format!("/api/v1/admin/tenants/{TENANT}");
    for (member, value) in [
        ("failure_rate", json!(0)),
        ("min_attempts", json!(0)),
        ("slow_ms", json!(60_001)),
        ("down_after_seconds", json!(-1)),
    ] {
        let change = json!({"alerts": {member: value}});
        let refused = world
            .ask_as_operator(&ingest, "PATCH", &path, Some(change))
            .await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (422, &json!(format!("alerts.{member}"))),
            "{}",
            refused.body
        );
    }
    world.finish().await;
}
