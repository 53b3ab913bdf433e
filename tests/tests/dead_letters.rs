//! Dead letters are listed, replayed after a fix, and discarded; none is lost.

#![allow(clippy::unwrap_used)]

use harness::producer::Publication;
use harness::receiver::answering;
use harness::setups::counts;
use harness::world::{TENANT, World, eventually};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/admin/dead-letters";

#[tokio::test]
async fn a_refused_event_is_delivered_unchanged_after_a_fix() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let producer = world.producer().await;
    let mut headers = FieldTable::default();
    let at = AMQPValue::LongString("2026-01-31T10:00:00Z".into());
    headers.insert("occurred_at".into(), at);
    let early = Publication::json("later", "order.created", "evt-1", r#"{"price":25.00}"#);
    let properties = early.properties.clone().with_headers(headers);
    producer
        .publish(&early.clone().with(properties))
        .await
        .unwrap();
    world.has_dead_letters(1).await;

    let listed = world
        .ask_dead_letters(&ingest, "GET", "", Value::Null)
        .await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    let letter = &listed.body["dead_letters"][0];
    for (member, value) in [
        ("queue", json!("parking")),
        ("reason", json!("tenant `later` does not exist")),
        ("exchange", json!("posthorn.events")),
        ("routing_key", json!("later.order.created")),
        ("tenant", json!("later")),
        ("message_id", json!("evt-1")),
        ("content_type", json!("application/json")),
        ("headers", json!({"occurred_at": "2026-01-31T10:00:00Z"})),
        ("size", json!(15)),
        ("body_excerpt", json!(r#"{"price":25.00}"#)),
    ] {
        assert_eq!(letter[member], value, "{member} in {letter}");
    }
    counts(&ingest, "posthorn_dead_letters", 1.0).await;

    // Without a fix it comes back under a new id.
    let replay = format!("/{}/replay", letter["id"].as_str().unwrap());
    let replayed = world
        .ask_dead_letters(&ingest, "POST", &replay, Value::Null)
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    eventually("it is back", async || {
        let listed = world
            .ask_dead_letters(&ingest, "GET", "", Value::Null)
            .await
            .body;
        listed["dead_letters"][0]["id"].is_string()
            && listed["dead_letters"][0]["id"] != letter["id"]
    })
    .await;
    assert_eq!(
        world
            .ask_dead_letters(&ingest, "POST", &replay, Value::Null)
            .await
            .status,
        404
    );

    let fix = json!({"id": "later"});
    world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(fix))
        .await;
    let reason = json!({"reason": "tenant `later` does not exist"});
    let replayed = world
        .ask_dead_letters(&ingest, "POST", "/replay", reason)
        .await;
    assert_eq!(
        replayed.body,
        json!({"replayed": 1, "skipped": 0, "more": false})
    );
    world.accepts(1).await;
    world.has_dead_letters(0).await;
    let event = "SELECT id, data, occurred_at::text FROM events";
    let row = world.sql().await.query_one(event, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("evt-1", r#"{"price":25.00}"#));
    assert!(row.get::<_, &str>(2).starts_with("2026-01-31"));
    world.finish().await;
}

#[tokio::test]
async fn a_dead_letter_that_comes_back_during_a_replay_is_not_replayed_again() {
    const LETTERS: i64 = 300;
    let world = World::start().await;
    let ingest = world.ingest().await;
    let events: Vec<_> = (0..LETTERS)
        .map(|n| Publication::json("nobody", "order.created", &format!("evt-{n}"), "{}"))
        .collect();
    let producer = world.producer().await;
    producer.publish_all(&events).await.unwrap();
    world.has_dead_letters(LETTERS).await;
    for _ in 0..3 {
        let nobodys = json!({"tenant": "nobody"});
        let replayed = world
            .ask_dead_letters(&ingest, "POST", "/replay", nobodys)
            .await;
        assert_eq!(
            replayed.body,
            json!({"replayed": LETTERS, "skipped": 0, "more": false})
        );
        world.has_dead_letters(LETTERS).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn an_event_without_an_id_that_is_replayed_twice_is_known_the_second_time() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let nameless = Publication::json("later", "order.created", "unused", "{}");
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into());
    let producer = world.producer().await;
    producer.publish(&nameless.with(properties)).await.unwrap();
    world.has_dead_letters(1).await;
    let fix = json!({"id": "later"});
    world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(fix))
        .await;
    // The state after a crash: published and confirmed, but still in the table.
    let sql = world.sql().await;
    sql.batch_execute("CREATE TABLE kept AS SELECT * FROM dead_letters")
        .await
        .unwrap();
    let later = || json!({"tenant": "later"});
    let replayed = world
        .ask_dead_letters(&ingest, "POST", "/replay", later())
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    world.accepts(1).await;
    sql.batch_execute(
        "INSERT INTO dead_letters SELECT * FROM kept; \
         UPDATE dead_letter_use u SET letters = letters + 1, bytes = u.bytes + kept.bytes FROM kept",
    )
    .await
    .unwrap();
    let replayed = world
        .ask_dead_letters(&ingest, "POST", "/replay", later())
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    counts(&ingest, "posthorn_events_deduplicated_total", 1.0).await;
    assert_eq!(world.count("events WHERE id LIKE 'dl\\_%'").await, 1);
    world.finish().await;
}

#[tokio::test]
async fn dead_letters_are_chosen_by_reason_tenant_and_queue_page_by_page() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let producer = world.producer().await;
    for n in 0..5 {
        let nobody = Publication::json("nobody", "a.b", &format!("evt-{n}"), "{}");
        producer.publish(&nobody).await.unwrap();
        world.has_dead_letters(n + 1).await;
    }
    let of_type = BasicProperties::default().with_content_type("text/csv".into());
    let csv = Publication::json(TENANT, "a.b", "x", "a;b").with(of_type);
    producer.publish(&csv).await.unwrap();
    let unrouted = Publication {
        routing_key: "0.77".to_owned(),
        properties: BasicProperties::default(),
        body: vec![1, 2, 3],
    };
    producer
        .publish_to("posthorn.jobs", &unrouted)
        .await
        .unwrap();
    world.has_dead_letters(7).await;

    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("?tenant=nobody&limit=2{cursor}");
        let page = world
            .ask_dead_letters(&ingest, "GET", &path, Value::Null)
            .await
            .body;
        let letters = page["dead_letters"].as_array().unwrap().clone();
        seen.extend(
            letters
                .iter()
                .map(|l| l["message_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["evt-4", "evt-3", "evt-2", "evt-1", "evt-0"]);
    let found = world
        .ask_dead_letters(&ingest, "GET", "?queue=unrouted", Value::Null)
        .await
        .body;
    assert_eq!(
        found["dead_letters"][0]["reason"],
        "no queue is bound for its routing key"
    );
    assert_eq!(found["dead_letters"][0]["exchange"], "posthorn.jobs");

    let everything = world
        .ask_dead_letters(&ingest, "DELETE", "", Value::Null)
        .await;
    assert_eq!(
        (everything.status, &everything.body["field"]),
        (422, &json!("reason"))
    );
    let bad = world
        .ask_dead_letters(&ingest, "GET", "?queue=x", Value::Null)
        .await;
    assert_eq!((bad.status, &bad.body["field"]), (422, &json!("queue")));
    let gone = world
        .ask_dead_letters(&ingest, "DELETE", "?tenant=nobody", Value::Null)
        .await;
    assert_eq!(gone.body, json!({"discarded": 5, "more": false}));
    let found = world
        .ask_dead_letters(&ingest, "GET", "", Value::Null)
        .await
        .body;
    for letter in found["dead_letters"].as_array().unwrap() {
        let path = format!("/{}", letter["id"].as_str().unwrap());
        assert_eq!(
            world
                .ask_dead_letters(&ingest, "DELETE", &path, Value::Null)
                .await
                .status,
            204
        );
        assert_eq!(
            world
                .ask_dead_letters(&ingest, "DELETE", &path, Value::Null)
                .await
                .status,
            404
        );
    }
    assert_eq!(world.count("dead_letters").await, 0);
    assert_eq!(
        world
            .count("dead_letter_use WHERE letters > 0 OR bytes > 0")
            .await,
        0
    );
    // A tenant's own token isn't enough, even with the role `admin`.
    let token = json!({"tenant": TENANT, "role": "admin"});
    let made = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(token))
        .await;
    let token = made.body["token"].as_str().unwrap();
    assert_eq!(
        world.ask_as(token, &ingest, "GET", PATH, None).await.status,
        403
    );
    world.finish().await;
}

#[tokio::test]
async fn a_dead_letter_that_did_not_come_through_an_exchange_is_not_replayed() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let producer = world.producer().await;
    let mut around = Publication::json(TENANT, "order.created", "evt-1", "{}");
    around.routing_key = "posthorn.ingest.v1".to_owned();
    producer.publish_to("", &around).await.unwrap();
    world.has_dead_letters(1).await;
    let listed = world
        .ask_dead_letters(&ingest, "GET", "", Value::Null)
        .await
        .body;
    let path = format!(
        "/{}/replay",
        listed["dead_letters"][0]["id"].as_str().unwrap()
    );
    let refused = world
        .ask_dead_letters(&ingest, "POST", &path, Value::Null)
        .await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let skipped = world
        .ask_dead_letters(&ingest, "POST", "/replay", json!({"queue": "parking"}))
        .await;
    assert_eq!(
        skipped.body,
        json!({"replayed": 0, "skipped": 1, "more": false})
    );
    assert_eq!(world.count("dead_letters").await, 1);
    world.finish().await;
}

#[tokio::test]
async fn an_unreadable_job_is_parked_again_when_it_is_replayed() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let nonsense = Publication {
        routing_key: "0.0".to_owned(),
        properties: BasicProperties::default(),
        body: vec![9, 9, 9],
    };
    world
        .producer()
        .await
        .publish_to("posthorn.jobs", &nonsense)
        .await
        .unwrap();
    world.has_dead_letters(1).await;
    let replayed = world
        .ask_dead_letters(&ingest, "POST", "/replay", json!({"queue": "parking"}))
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    world.has_dead_letters(1).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.finish().await;
}
