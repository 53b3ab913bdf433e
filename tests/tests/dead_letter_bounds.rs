//! Dead letters of one tenant can't harm others: they are bounded in bytes, in total and
//! per tenant. An event that RabbitMQ gave up on is tried once more, and only once. Text
//! from outside stays inside its field of the log.

#![allow(clippy::unwrap_used)]

use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::Service;
use harness::world::{TENANT, World, eventually};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

async fn counted(ingest: &Service, metric: &str) -> i64 {
    ingest.metric(metric).await.unwrap_or_default() as i64
}

/// The peak memory of a process, in bytes.
fn peak_memory(service: &Service) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

#[tokio::test]
async fn a_body_too_large_for_any_event_is_kept_as_an_excerpt_with_its_size_and_hash() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let body = "0123456789abcdef".repeat(120_000);
    let huge = Publication::json(TENANT, "order.created", "evt-1", &body);
    world.producer().await.publish(&huge).await.unwrap();
    world.has_dead_letters(1).await;

    let listed = world
        .ask_dead_letters(&ingest, "GET", "", Value::Null)
        .await
        .body;
    let letter = &listed["dead_letters"][0];
    assert_eq!(letter["size"], 1_920_000, "{letter}");
    assert_eq!(letter["truncated"], true, "{letter}");
    // The sha256sum of these 1,920,000 bytes.
    let sha256 = "185267494d5bf8ed0bc40d1a4b4680ccbaaade222e6f6e8f32157f71a74ff7fc";
    assert_eq!(letter["sha256"], sha256, "{letter}");
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.contains("1920000 bytes"), "{reason}");
    assert_eq!(
        world.count("dead_letters WHERE length(body) = 65536").await,
        1
    );

    // An excerpt can't be replayed, because it isn't the original message.
    let path = format!("/{}/replay", letter["id"].as_str().unwrap());
    let refused = world
        .ask_dead_letters(&ingest, "POST", &path, Value::Null)
        .await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("65536 of its 1920000 bytes"), "{detail}");
    let all = json!({"tenant": TENANT});
    let replayed = world
        .ask_dead_letters(&ingest, "POST", "/replay", all)
        .await
        .body;
    assert_eq!(
        replayed,
        json!({"replayed": 0, "skipped": 1, "more": false})
    );
    world.has_dead_letters(1).await;
    world.finish().await;
}

#[tokio::test]
async fn large_dead_letters_are_taken_a_few_at_a_time_and_kept_small() {
    const LETTERS: usize = 64;
    let world = World::start().await;
    let ingest = world.ingest().await;
    let before = peak_memory(&ingest);
    // As RabbitMQ parks a message that it gave up on: as a whole.
    let huge = Publication {
        routing_key: "acme.order.created".to_owned(),
        properties: BasicProperties::default(),
        body: vec![b'x'; 2 * MIB],
    };
    let producer = world.producer().await;
    for _ in 0..LETTERS {
        producer.publish_to("posthorn.dead", &huge).await.unwrap();
    }
    world.has_dead_letters(LETTERS as i64).await;
    // Four are taken at a time, and each is in memory twice while its frames are put together.
    // All of them would be 128 MiB.
    let grown = peak_memory(&ingest) - before;
    assert!(grown < 48 * MIB, "{} MiB", grown / MIB);
    let small =
        "dead_letters WHERE length(body) = 65536 AND bytes < 70000 AND whole_size = 2097152";
    assert_eq!(world.count(small).await, LETTERS as i64);
    world.finish().await;
}

#[tokio::test]
async fn one_tenants_dead_letters_push_out_only_its_own_oldest() {
    // 16 MiB in all, and 4 MiB for each.
    let world = World::with(&[("DEAD_LETTERS_BYTES", "16777216")]).await;
    let ingest = world.ingest().await;
    let producer = world.producer().await;
    for n in 0..2 {
        let small = Publication::json(TENANT, "a.b", &format!("small-{n}"), "no JSON");
        producer.publish(&small).await.unwrap();
    }
    // Larger than the tenant's limit of 256 KiB, and kept whole, because the limit
    // may be raised.
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    let of = |tenant: &str, n: usize| {
        Publication::json(tenant, "a.b", &format!("{tenant}-{n:02}"), &large)
    };
    for tenant in ["loud", "b", "c", "d", "e"] {
        let new = json!({"id": tenant});
        world
            .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(new))
            .await;
    }
    for n in 0..10 {
        producer.publish(&of("loud", n)).await.unwrap();
        // Published one after the other, because two lanes could reorder them.
        let newest = format!("dead_letters WHERE message_id = 'loud-{n:02}'");
        eventually(&newest, async || world.count(&newest).await == 1).await;
    }
    let dropped = async || counted(&ingest, "posthorn_dead_letters_dropped_total").await;
    assert_eq!(dropped().await, 6);
    let kept = "dead_letters WHERE owner = 'loud' AND message_id >= 'loud-06'";
    assert_eq!(world.count(kept).await, 4);
    assert_eq!(world.count("dead_letters WHERE owner = 'acme'").await, 2);

    // Each tenant is within its share, but all together are too many. The tenant
    // with the most must drop some.
    for tenant in ["b", "c", "d", "e", "nobody", "nobody-else"] {
        for n in 0..4 {
            producer.publish(&of(tenant, n)).await.unwrap();
        }
    }
    eventually("all of them have come", async || {
        dropped().await + world.count("dead_letters").await == 2 + 10 + 24
    })
    .await;
    assert_eq!(world.count("dead_letters WHERE owner = 'acme'").await, 2);
    let sql = world.sql().await;
    let query = "SELECT sum(bytes)::int8, max(bytes)::int8 FROM dead_letter_use";
    let row = sql.query_one(query, &[]).await.unwrap();
    let (bytes, most): (i64, i64) = (row.get(0), row.get(1));
    assert!(bytes <= 16_777_216, "{bytes} bytes");
    // Tenants that don't exist share one quota, so inventing tenant names gains
    // nothing.
    assert!(most <= 4_194_304, "{most} bytes");
    let wrong = "dead_letter_use u LEFT JOIN ( \
             SELECT owner, count(*) AS letters, sum(bytes) AS bytes FROM dead_letters GROUP BY owner) d \
             USING (owner) \
         WHERE (u.letters, u.bytes) <> (COALESCE(d.letters, 0), COALESCE(d.bytes, 0))";
    assert_eq!(world.count(wrong).await, 0);
    assert!(world.logs().contains("no room for dead letters"));
    world.finish().await;
}

#[tokio::test]
async fn an_event_that_rabbitmq_gave_up_on_is_tried_once_more() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    ingest.kill().await.unwrap();
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    // The event wasn't at fault: its consumers lost their connections.
    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;
    assert_eq!(world.count("events").await, 0);
    world.gives_up_on_events(&channel).await;

    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    shop.receives(1).await;
    world.settles().await;
    assert_eq!(counted(&ingest, "posthorn_events_returned_total").await, 1);
    assert_eq!(world.count("dead_letters").await, 0);
    assert_eq!(world.count("events WHERE id = 'evt-1'").await, 1);
    world.finish().await;
}

#[tokio::test]
async fn an_event_that_rabbitmq_gave_up_on_twice_stays_a_dead_letter_until_it_is_replayed() {
    let world = World::start().await;
    world.ingest().await.kill().await.unwrap();
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    // As the event comes back the first time.
    let mut headers = FieldTable::default();
    headers.insert("x-posthorn-returned".into(), AMQPValue::Boolean(true));
    let event = Publication::json(TENANT, "order.created", "evt-1", "{}");
    let properties = event.properties.clone().with_headers(headers);
    let producer = world.producer().await;
    producer.publish(&event.with(properties)).await.unwrap();
    assert_eq!(world.count("events").await, 0);
    world.gives_up_on_events(&channel).await;

    let ingest = world.ingest().await;
    world.has_dead_letters(1).await;
    let listed = world
        .ask_dead_letters(&ingest, "GET", "", Value::Null)
        .await
        .body;
    let letter = &listed["dead_letters"][0];
    assert_eq!(letter["reason"], "whoever took it failed every time");
    assert_eq!(letter["headers"], json!({}), "as it was published");
    assert_eq!(world.count("events").await, 0);
    let path = format!("/{}/replay", letter["id"].as_str().unwrap());
    let replayed = world
        .ask_dead_letters(&ingest, "POST", &path, Value::Null)
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    world.accepts(1).await;
    world.finish().await;
}

#[tokio::test]
async fn no_message_of_a_producer_can_forge_a_log_line() {
    let world = World::start().await;
    let forged = "text/x\n2026-11-29T16:00:00.000000Z ERROR FORGED\r\u{1b}[2K\u{202e}\u{2028}";
    let properties = BasicProperties::default()
        .with_content_type(forged.into())
        .with_message_id(forged.into());
    for (n, format) in ["pretty", "json"].into_iter().enumerate() {
        let settings = [("LOG_FORMAT", format)];
        let ingest = world.service("posthorn-ingest", &settings).await;
        // As a type, as an id, and as the name of a tenant.
        let event = Publication::json(TENANT, "order.created", "", "{}");
        let event = event.with(properties.clone());
        let producer = world.producer().await;
        producer.publish(&event).await.unwrap();
        let mut nobodys = event.clone();
        nobodys.routing_key = format!("{forged}.order.created");
        producer.publish(&nobodys).await.unwrap();
        world.has_dead_letters(2 * (n as i64 + 1)).await;
        ingest.stop().await.unwrap();
    }
    let logs = world.logs();
    let mut told = 0;
    for line in logs.split('\n').filter(|line| line.contains("FORGED")) {
        assert!(line.contains("event parked"), "{line:?}");
        assert!(!line.contains(['\r', '\u{202e}', '\u{2028}']), "{line:?}");
        assert!(!line.contains("\u{1b}[2K"), "{line:?}");
        if line.starts_with('{') {
            let line: Value = serde_json::from_str(line).unwrap();
            let event = line["event"].as_str().unwrap();
            assert!(event.contains(forged), "{line}");
        }
        told += 1;
    }
    assert_eq!(told, 4, "{logs}");
    world.finish().await;
}
