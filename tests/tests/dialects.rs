//! Existing receivers of five systems accept the deliveries that Posthorn sends them.
//!
//! `receivers/` has one receiver in JavaScript and one in Python. They verify as each
//! system's documentation tells its users to, and contain no code of Posthorn's. The
//! deliveries that they check have gone the whole way: AMQP in, HTTP out.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use harness::producer::Publication;
use harness::receiver::{Arrival, Reply, Script, answering};
use harness::script::{headers, judged_by};
use harness::world::{TENANT, World, eventually, unique};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use shared::ids::DeliveryId;

const SYSTEMS: [&str; 5] = [
    "rishi",
    "brainsait",
    "auraconnect",
    "jossiedb",
    "corp-astro",
];
const NODE: &str = include_str!("receivers/receivers.js");
const PYTHON: &str = include_str!("receivers/receivers.py");

fn as_judged(system: &str, secret: &str, arrival: &Arrival) -> Value {
    json!({"system": system, "secret": secret, "headers": headers(arrival), "body": BASE64.encode(&arrival.body)})
}

/// Forged bodies. None of them differs only in white space, because a receiver that
/// rewrites the body doesn't see that.
fn forged(arrival: &Arrival) -> Vec<Arrival> {
    let body = &arrival.body;
    let word = body.windows(3).position(|bytes| bytes == b"Ada");
    let places = [Some(body.len() - 2), word.map(|place| place + 2)];
    let flipped = |place: usize| {
        let mut body = body.to_vec();
        body[place] ^= 3;
        Arrival {
            body: body.into(),
            ..arrival.clone()
        }
    };
    places.into_iter().flatten().map(flipped).collect()
}

/// Data of every kind that Python writes as JavaScript does.
fn ordinary_data() -> Vec<String> {
    let large = format!(r#"{{"text":"{}"}}"#, "Zoë ☕ ".repeat(28_800));
    assert!(large.len() > 250 * 1024 && large.len() <= 256 * 1024);
    [
        r#"{ "name": "Ada", "price": 25.00, "paid": true, "note": null }"#,
        r#"{"name":"Zoë ☕ 😀","line":"a\u2028b","slash":"\/","escape":"\u00e9\u0007\"\\"}"#,
        r#"{"big":9007199254740993,"huge":12345678901234567000,"half":0.5,"more":1e21,"small":5e-324}"#,
        "{}",
        r#"[1, "two", [3.5, {"four": null}], []]"#,
        &large,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Data that only JavaScript writes as JavaScript does.
fn strange_data() -> Vec<String> {
    [
        r#"{"b":1,"2":2,"a":3,"10":4,"1":5,"b":6}"#,
        r#"{"zero":-0,"tiny":1e-7,"over":1e400,"exact":12345678901234567890,"__proto__":{"x":1}}"#,
        r#""\ud800 \uDBFF\uDFFF \u007f""#,
        "25.00",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test]
async fn receivers_of_five_systems_accept_deliveries_and_reject_a_flipped_byte() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let mut webhooks = Vec::new();
    for system in SYSTEMS {
        let mut form = json!({"dialect": system, "headers": {"X-Custom": "seven"}});
        // The other systems use the generated secret unchanged, with its `whsec_`.
        if system != "auraconnect" && system != "brainsait" {
            form["secret"] = "shared-secret-of-a-customer".into();
        }
        webhooks.push((system, world.webhook(&ingest, &shop, form).await));
    }
    let (ordinary, strange) = (ordinary_data(), strange_data());
    let all: Vec<_> = ordinary.iter().chain(&strange).enumerate().collect();
    let publications: Vec<_> = all
        .iter()
        .map(|(n, data)| Publication::json(TENANT, "order.created", &format!("evt-{n}"), data))
        .collect();
    world.publish_all(&publications).await;
    let arrivals = shop.receives(all.len() * webhooks.len()).await;
    let ids = ids_of_deliveries(&world).await;

    for (program, script, judges_strange) in [
        ("node", ["-e", NODE], true),
        ("python3", ["-c", PYTHON], false),
    ] {
        let (mut cases, mut forgeries) = (Vec::new(), Vec::new());
        for arrival in &arrivals {
            let (system, webhook) = webhooks
                .iter()
                .find(|(_, webhook)| webhook.path == arrival.path)
                .unwrap();
            let event = &ids[&id_in(system, arrival)];
            if !judges_strange && event >= &ordinary.len() {
                continue;
            }
            cases.push(as_judged(system, &webhook.secret, arrival));
            for forged in forged(arrival) {
                forgeries.push(as_judged(system, &webhook.secret, &forged));
            }
        }
        let Some(verdicts) = judged_by::<Value>(program, &script, &json!(cases)) else {
            continue;
        };
        assert_eq!(verdicts.len(), cases.len());
        for (case, verdict) in cases.iter().zip(verdicts) {
            let checks = verdict.as_object().unwrap();
            assert!(checks.len() >= 2, "{verdict}");
            assert!(
                checks.values().all(|accepted| accepted == true),
                "{program}: {verdict} of {case}, {:?}",
                BASE64
                    .decode(case["body"].as_str().unwrap())
                    .map(String::from_utf8)
            );
        }
        let verdicts = judged_by::<Value>(program, &script, &json!(forgeries)).unwrap();
        assert!(verdicts.len() > cases.len());
        for (case, mut verdict) in forgeries.iter().zip(verdicts) {
            let checks = verdict.as_object_mut().unwrap();
            checks.remove("fields");
            assert!(
                checks.values().all(|accepted| accepted == false),
                "{program} accepted a forgery: {verdict:?} of {case}"
            );
        }
    }
    assert!(
        arrivals
            .iter()
            .all(|arrival| arrival.header("x-custom") == "seven")
    );
    world.finish().await;
}

/// The number of the event behind each id that a body may contain. From the database: the API
/// shows a payload as it was published, and no parser of Rust reads all of the strange ones.
async fn ids_of_deliveries(world: &World) -> std::collections::HashMap<String, usize> {
    world.settles().await;
    let sql = "SELECT d.id, e.id FROM deliveries d JOIN events e ON e.uid = d.event_uid";
    let mut ids = std::collections::HashMap::new();
    for row in world.sql().await.query(sql, &[]).await.unwrap() {
        let event: String = row.get(1);
        let n = event.trim_start_matches("evt-").parse().unwrap();
        ids.insert(row.get::<_, DeliveryId>(0).to_string(), n);
        ids.insert(event, n);
    }
    ids
}

/// The id in an arrival's body. `rishi` has none: its events are recognised by their
/// time, and its strange data by being none of the ordinary data.
fn id_in(system: &str, arrival: &Arrival) -> String {
    let body = String::from_utf8(arrival.body.to_vec()).unwrap();
    if system == "rishi" {
        let of = |data: &String| body.contains(&format!(r#""data":{data},"timestamp""#));
        let n = ordinary_data().iter().chain(&strange_data()).position(of);
        return format!("evt-{}", n.unwrap());
    }
    let id = body.split('"').nth(3).unwrap();
    id.to_owned()
}

#[tokio::test]
async fn a_webhook_without_a_dialect_uses_its_tenants() {
    let world = World::start().await;
    let sql = "UPDATE tenants SET dialect = 'auraconnect' WHERE id = $1";
    world.sql().await.execute(sql, &[&TENANT]).await.unwrap();
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let own = json!({"dialect": "standard"});
    let own = world.webhook(&ingest, &shop, own).await;
    let tenants = world.webhook(&ingest, &shop, json!({})).await;
    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;
    for arrival in shop.receives(2).await {
        if arrival.path == own.path {
            arrival.verify(&own.secret).unwrap();
        } else {
            assert_eq!(arrival.path, tenants.path);
            assert_eq!(arrival.header("x-auraconnect-event-id"), "evt-1");
            assert_eq!(arrival.header("x-auraconnect-webhook-id"), tenants.id);
            assert_eq!(arrival.json()["data"], json!({"object": {"n": 1}}));
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn a_cloudevents_attributes_arrive_with_it_however_large_it_is() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = json!({"dialect": "cloudevents"});
    let webhook = world.webhook(&ingest, &shop, webhook).await;
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("specversion", "1.0"),
        ("source", "/shop"),
        ("type", "com.shop.order"),
        ("tier", "gold"),
    ] {
        let name = format!("cloudEvents:{name}");
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let producer = world.producer().await;
    for (id, data) in [
        ("evt-1", r#"{"price":25.00}"#.to_owned()),
        ("evt-2", format!("\"{}\"", "x".repeat(100_000))),
    ] {
        let publication = Publication::json(TENANT, "order.created", id, &data);
        let properties = publication.properties.clone();
        let publication = publication.with(properties.with_headers(headers.clone()));
        producer.publish(&publication).await.unwrap();
    }
    for arrival in shop.receives(2).await {
        arrival.verify(&webhook.secret).unwrap();
        let media_type = arrival.header("content-type");
        assert_eq!(media_type, "application/cloudevents+json");
        let event = arrival.json();
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", arrival.id()),
            ("source", "/shop"),
            ("type", "com.shop.order"),
            ("tier", "gold"),
            ("datacontenttype", "application/json"),
        ] {
            assert_eq!(event[name], value, "{name}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn an_answer_is_judged_by_the_webhooks_dialect() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(404)).await;
    let stopping = json!({"dialect": "brainsait"});
    let stopping = world.webhook(&ingest, &shop, stopping).await;
    let retrying = json!({"dialect": "rishi", "retry_policy": {"delays": [0]}});
    let retrying = world.webhook(&ingest, &shop, retrying).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    for (webhook, attempts) in [(&stopping, 1), (&retrying, 2)] {
        let delivery = &world.deliveries(&ingest, webhook).await[0];
        assert_eq!(delivery["status"], "failed", "{delivery}");
        assert_eq!(delivery["attempts"], attempts, "{delivery}");
    }
    world.finish().await;
}

/// The dialect in the documentation.
fn documented_dialect() -> &'static str {
    let page = include_str!("../../docs/dialects.md");
    let (_, rest) = page.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// A folder that has this dialect, as `shop`.
fn folder_with_documented_dialect() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("posthorn-dialects-{}", unique()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("shop.toml"), documented_dialect()).unwrap();
    folder
}

#[tokio::test]
async fn custom_dialects_are_loaded_from_a_folder() {
    let folder = folder_with_documented_dialect();
    let world = World::with(&[("DIALECTS_DIR", folder.to_str().unwrap())]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);

    let answer = world.ask(&ingest, "GET", "/api/v1/dialects", None).await;
    let dialects = answer.body["dialects"].as_array().unwrap();
    assert_eq!(dialects.len(), 9);
    let shown = dialects.iter().find(|d| d["name"] == "shop").unwrap();
    assert_eq!(shown["definition"], documented_dialect());
    let unknown = json!({"url": "http://127.0.0.1/", "events": ["*"], "dialect": "klingon"});
    let refused = world
        .ask(&ingest, "POST", "/api/v1/webhooks", Some(unknown))
        .await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert!(
        refused.body.to_string().contains("`shop`"),
        "{}",
        refused.body
    );

    let shop = world.receiver(answering(200)).await;
    let webhook = json!({"dialect": "shop"});
    world.webhook(&ingest, &shop, webhook).await;
    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;
    let arrival = &shop.receives(1).await[0];
    let sent = arrival.json()["sent"].as_u64().unwrap();
    assert_eq!(
        arrival.json(),
        json!({"kind": "order.created", "sent": sent, "payload": {"of": TENANT, "data": {"n": 1}}})
    );
    let token = arrival.header("x-shop-token");
    assert!(token.starts_with(&format!("t={sent},v=")), "{token}");
    world.finish().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn the_apis_answers_have_what_a_custom_dialect_adds_to_them() {
    let folder = folder_with_documented_dialect();
    let world = World::with(&[("DIALECTS_DIR", folder.to_str().unwrap())]).await;
    let sql = "UPDATE tenants SET dialect = 'shop' WHERE id = $1";
    world.sql().await.execute(sql, &[&TENANT]).await.unwrap();
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    // The first attempt is under way for four seconds.
    let slow: Script = Arc::new(|n, _| match n {
        0 => Reply::status(503).after(Duration::from_secs(4)),
        _ => Reply::status(200),
    });
    let shop = world.receiver(slow).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let get = async |path: &str| {
        let answer = world.ask(&ingest, "GET", path, None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    };

    // [api.webhook]
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let listed = get("/api/v1/webhooks").await["webhooks"][0].clone();
    for shown in [get(&path).await, listed] {
        assert_eq!(shown["target"], shop.url(&webhook.path), "{shown}");
        assert_eq!(shown["url"], shown["target"], "{shown}");
    }

    // [api] processing, and [api.delivery]
    let data = json!({"price": 25, "name": "Zoë"});
    world.publish("order.created", "evt-1", &data).await;
    shop.receives(1).await;
    let processing = format!("{path}/deliveries?status=processing");
    let mut under_way = Value::Null;
    eventually("the attempt is shown as under way", async || {
        under_way = get(&processing).await["deliveries"][0].clone();
        !under_way.is_null()
    })
    .await;
    assert_eq!(under_way["status"], "processing", "{under_way}");
    assert_eq!(under_way["content"], data, "{under_way}");
    shop.receives(2).await;
    world.settles().await;
    let delivered = world.delivery(&ingest, &under_way["id"]).await;
    assert_eq!(delivered["status"], "delivered", "{delivered}");
    assert_eq!(delivered["content"], data, "{delivered}");

    // [api.stats]
    for path in ["/api/v1/stats", &format!("{path}/stats")] {
        let shown = get(path).await;
        let figures = &shown["by_webhook"][&webhook.id];
        assert_eq!(figures["url"], shop.url(&webhook.path), "{shown}");
        assert_eq!(figures["success_rate"], 1.0, "{shown}");
    }
    world.finish().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_preview_equals_the_delivery_to_the_byte() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let data = r#"{"b":1,"2":"\u00e9", "price":25.00}"#;
    let mut webhooks = Vec::new();
    for system in SYSTEMS {
        let form = json!({"dialect": system});
        webhooks.push((system, world.webhook(&ingest, &shop, form).await));
    }
    let publication = Publication::json(TENANT, "order.created", "evt-1", data);
    let producer = world.producer().await;
    producer.publish(&publication).await.unwrap();
    let arrivals = shop.receives(webhooks.len()).await;
    world.settles().await;
    let events = "SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM events";
    let row = world.sql().await.query_one(events, &[]).await.unwrap();
    let occurred_at: String = row.get(0);
    for (system, webhook) in &webhooks {
        let arrival = arrivals.iter().find(|a| a.path == webhook.path).unwrap();
        let delivery = world.deliveries(&ingest, webhook).await[0]["id"].clone();
        let mut arguments = vec!["dialect", "preview", system, "--type", "order.created"];
        arguments.extend([
            "--data",
            data,
            "--id",
            "evt-1",
            "--occurred-at",
            &occurred_at,
        ]);
        arguments.extend(["--secret", &webhook.secret, "--tenant", TENANT]);
        arguments.extend([
            "--webhook",
            &webhook.id,
            "--delivery",
            delivery.as_str().unwrap(),
        ]);
        // The time of sending is in the body.
        let body = arrival.json();
        if *system == "corp-astro" {
            arguments.extend(["--sent-at", body["timestamp"].as_str().unwrap()]);
        }
        // This command needs no server.
        let printed = harness::service::command("posthorn-ingest", &arguments, &[])
            .await
            .unwrap();
        let (headers, body) = printed.split_once("\n\n").unwrap();
        assert_eq!(body.as_bytes(), arrival.body, "{system}");
        for line in headers.lines().filter(|line| line.contains("signature")) {
            let (name, value) = line.split_once(": ").unwrap();
            assert_eq!(arrival.header(name), value, "{system}");
        }
    }
    world.finish().await;
}
