//! Publishing over HTTP as CloudEvents, under an idempotency key, and twice under one id.

#![allow(clippy::unwrap_used)]

use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Publishes a body with these headers, and answers the status and the answer's body.
async fn publish(ingest: &Service, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let mut request = http()
        .post(ingest.url("/api/v1/events"))
        .bearer_auth(ADMIN_TOKEN)
        .header("X-Tenant-ID", TENANT);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.body(body.to_owned()).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap())
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn hash(data: &str) -> String {
    hex::encode(Sha256::digest(data))
}

#[tokio::test]
async fn cloudevents_are_taken_in_every_mode_and_delivered_in_both() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let binary = json!({"dialect": "cloudevents-binary"});
    let binary = world.webhook(&ingest, &shop, binary).await;
    let structured = json!({"dialect": "cloudevents"});
    let structured = world.webhook(&ingest, &shop, structured).await;

    let event = |id: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"order.created","time":"2026-01-31T10:00:00Z","subject":"Zoë 1","data":{{"total":25.00}}}}"#
        )
    };
    let one = (
        "content-type",
        "application/cloudevents+json; charset=utf-8",
    );
    let (status, taken) = publish(&ingest, &[one], &event("ce-1")).await;
    assert_eq!((status, &taken["id"]), (202, &json!("ce-1")), "{taken}");
    let in_headers = [
        JSON,
        ("ce-specversion", "1.0"),
        ("ce-id", "ce-2"),
        ("ce-source", "/shop"),
        ("ce-type", "order.created"),
        ("ce-time", "2026-01-31T10:00:00Z"),
        ("ce-subject", "Zo%C3%AB%201"),
    ];
    let (status, taken) = publish(&ingest, &in_headers, r#"{"total":25.00}"#).await;
    assert_eq!((status, &taken["matched"]), (202, &json!(2)), "{taken}");
    let batch = ("content-type", "application/cloudevents-batch+json");
    let many = format!(r#"[{}, {{"specversion":"1.0"}}]"#, event("ce-3"));
    let (status, taken) = publish(&ingest, &[batch], &many).await;
    assert_eq!(status, 202, "{taken}");
    assert_eq!(
        (&taken["accepted"], &taken["refused"]),
        (&json!(1), &json!(1)),
        "{taken}"
    );

    let arrivals = shop.receives(6).await;
    let of = |path: &str| -> Vec<_> {
        let arrivals = arrivals.iter();
        arrivals.filter(|arrival| arrival.path == path).collect()
    };
    assert_eq!(of(&binary.path).len(), 3);
    for arrival in of(&binary.path) {
        assert_eq!(&arrival.body[..], br#"{"total":25.00}"#);
        assert_eq!(arrival.header("content-type"), "application/json");
        assert_eq!(arrival.header("ce-id"), arrival.id());
        assert_eq!(arrival.header("ce-source"), "/shop");
        assert_eq!(arrival.header("ce-type"), "order.created");
        assert_eq!(arrival.header("ce-time"), "2026-01-31T10:00:00Z");
        assert_eq!(arrival.header("ce-subject"), "Zo%C3%AB%201");
        arrival.verify(&binary.secret).unwrap();
    }
    for arrival in of(&structured.path) {
        let body = arrival.json();
        assert_eq!(body["id"], arrival.id());
        assert_eq!(body["source"], "/shop");
        assert_eq!(body["subject"], "Zoë 1");
        assert_eq!(body["data"], json!({"total": 25.0}));
        arrival.verify(&structured.secret).unwrap();
    }

    let (status, refused) =
        publish(&ingest, &[one], r#"{"specversion":"0.3","type":"a..b"}"#).await;
    assert_eq!(status, 422, "{refused}");
    let blamed = refused["errors"].as_array().unwrap().iter();
    let blamed: Vec<_> = blamed.map(|error| error["field"].clone()).collect();
    assert_eq!(blamed, ["specversion", "id", "source", "type"]);
    for (headers, body, blamed) in [
        (
            vec![one],
            r#"{"specversion":"1.0","id":"x","type":"a","data":1}"#,
            "source",
        ),
        (in_headers[..3].to_vec(), "{}", "ce-source"),
        (vec![one], "[]", "CloudEvent"),
    ] {
        let (status, refused) = publish(&ingest, &headers, body).await;
        assert!(matches!(status, 400 | 422), "{refused}");
        assert!(refused.to_string().contains(blamed), "{refused}");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_makes_a_repeated_request_harmless() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let headers = [
        JSON,
        (
            "idempotency-key",
            "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        ),
    ];
    let body = r#"{"type":"order.created","data":{"total":25.00}}"#;
    for matched in [json!(1), Value::Null] {
        let (status, taken) = publish(&ingest, &headers, body).await;
        assert_eq!(status, 202, "{taken}");
        assert_eq!(taken["id"], "8e03978e-40d5-43dd-bc93-6894a57f9324");
        assert_eq!(taken["matched"], matched);
    }
    let (status, refused) =
        publish(&ingest, &headers, r#"{"type":"order.created","data":{}}"#).await;
    assert_eq!(status, 409, "{refused}");
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn the_same_id_with_other_data_is_refused_with_both_hashes_over_http_and_parked_over_amqp() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let first = r#"{"total":25.00,"n":[1,2]}"#;
    let event = |kind: &str, data: &str| format!(r#"{{"type":"{kind}","id":"e-1","data":{data}}}"#);
    let (status, taken) = publish(&ingest, &[JSON], &event("order.created", first)).await;
    assert_eq!(status, 202, "{taken}");
    // The same data, perhaps written in another order.
    for same in [first, r#"{ "n": [1, 2], "total": 25.00 }"#] {
        let (status, taken) = publish(&ingest, &[JSON], &event("order.created", same)).await;
        assert_eq!(status, 202, "{taken}");
        let again = Publication::json(TENANT, "order.created", "e-1", same);
        world.producer().await.publish(&again).await.unwrap();
    }
    let other = r#"{"total":26.00,"n":[1,2]}"#;
    let (status, refused) = publish(&ingest, &[JSON], &event("order.created", other)).await;
    assert_eq!(status, 409, "{refused}");
    for data in [first, other] {
        assert!(
            refused["detail"].as_str().unwrap().contains(&hash(data)),
            "{refused}"
        );
    }
    let (status, refused) = publish(&ingest, &[JSON], &event("order.paid", first)).await;
    assert_eq!(status, 409, "{refused}");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("`order.created`"),
        "{refused}"
    );
    // In a batch it is refused by itself.
    let batch = format!(
        r#"{{"events":[{},{{"type":"order.created","id":"e-2","data":1}}]}}"#,
        event("order.created", other)
    );
    let batch: Value = serde_json::from_str(&batch).unwrap();
    let answer = world
        .ask(&ingest, "POST", "/api/v1/events/batch", Some(batch))
        .await;
    assert_eq!(
        (&answer.body["accepted"], &answer.body["refused"]),
        (&json!(1), &json!(1))
    );

    world
        .publish("order.created", "e-1", &json!({"total": 27}))
        .await;
    let mut letters = Value::Null;
    eventually("the other one is parked", async || {
        let path = "/api/v1/admin/dead-letters";
        let found = world.ask_as_operator(&ingest, "GET", path, None).await;
        letters = found.body["dead_letters"].clone();
        letters.as_array().unwrap().len() == 1
    })
    .await;
    let reason = letters[0]["reason"].as_str().unwrap();
    for data in [first, r#"{"total":27}"#] {
        assert!(reason.contains(&hash(data)), "{reason}");
    }
    let parked = ingest
        .metric("posthorn_events_rejected_total{reason=\"conflict\"}")
        .await;
    assert_eq!(parked.unwrap(), 1.0);
    world.settles().await;
    // One delivery of each event.
    assert_eq!(shop.arrivals().len(), 2);
    world.finish().await;
}
