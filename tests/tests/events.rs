//! Events that producers publish: every format is understood, a message that isn't an
//! event is parked with the reason, and a duplicate is delivered once.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use harness::producer::Publication;
use harness::receiver::answering;
use harness::setups::counts;
use harness::world::{TENANT, World, eventually};
use ingest::accept::{Accepted, Matched, accept};
use ingest::decode::Event;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use shared::ids::EventUid;
use shared::postgres;
use time::{OffsetDateTime, Time};

/// The reason and the body of a parked message.
struct Parked {
    reason: String,
    exchange: String,
    routing_key: String,
    body: Vec<u8>,
}

/// Takes the only parked message.
async fn parked(world: &World) -> Parked {
    let sql = world.sql().await;
    let mut rows = Vec::new();
    eventually("a message is parked", async || {
        let take = "DELETE FROM dead_letters RETURNING reason, exchange, routing_key, body";
        rows = sql.query(take, &[]).await.unwrap();
        !rows.is_empty()
    })
    .await;
    assert_eq!(rows.len(), 1);
    Parked {
        reason: rows[0].get("reason"),
        exchange: rows[0].get("exchange"),
        routing_key: rows[0].get("routing_key"),
        body: rows[0].get("body"),
    }
}

#[tokio::test]
async fn the_same_event_published_twice_is_delivered_once() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;

    // Twice in one batch, and again long after it was delivered.
    let event = Publication::json(TENANT, "order.created", "evt-1", "{}");
    let producer = world.producer().await;
    producer
        .publish_all(&[event.clone(), event.clone()])
        .await
        .unwrap();
    shop.receives(1).await;
    producer.publish(&event).await.unwrap();
    counts(&ingest, "posthorn_events_deduplicated_total", 2.0).await;
    shop.receives_no_more_than(1, Duration::from_millis(500))
        .await;
    assert_eq!(world.count("deliveries").await, 1);

    // Another tenant's event of the same id is another event.
    world.tenant(&ingest, "other").await;
    producer
        .publish(&Publication::json("other", "order.created", "evt-1", "{}"))
        .await
        .unwrap();
    world.accepts(2).await;
    world.finish().await;
}

#[tokio::test]
async fn an_event_from_yesterday_is_recognised_as_a_duplicate_today() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let yesterday = "INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched) \
                     VALUES (first_uuid_at(now() - interval '1 day'), $1, 'evt-1', 'order.created', now(), '{}', 0)";
    world
        .sql()
        .await
        .execute(yesterday, &[&TENANT])
        .await
        .unwrap();
    world.publish("order.created", "evt-1", &json!({})).await;
    counts(&ingest, "posthorn_events_deduplicated_total", 1.0).await;
    assert_eq!(world.count("events").await, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_message_that_is_not_an_event_is_parked_with_the_reason_and_events_are_delivered() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let producer = world.producer().await;

    let good = |id: &str| Publication::json(TENANT, "order.created", id, "{}");
    let of_type = |kind: &str| BasicProperties::default().with_content_type(kind.into());
    let too_large = format!("\"{}\"", "x".repeat(256 * 1024));
    for (publication, reason) in [
        (
            Publication::json(TENANT, "order.created", "bad-1", "{\"a\":"),
            "the body is not JSON",
        ),
        (
            Publication::json(TENANT, "order.created", "bad-2", &too_large),
            "262146 bytes; at most 262144",
        ),
        (
            Publication::json("nobody", "order.created", "bad-3", "{}"),
            "tenant `nobody` does not exist",
        ),
        (
            Publication::json(TENANT, "order..created", "bad-4", "{}"),
            "no two dots together",
        ),
        (
            Publication::json(TENANT, "order.created", "bad-5", "{}").with(of_type("text/csv")),
            "`text/csv` is not supported",
        ),
        (
            Publication::json(TENANT, "order.created", "bad 6", "{}"),
            "event id must be",
        ),
    ] {
        producer.publish(&publication).await.unwrap();
        producer
            .publish(&good(&format!("after {reason}").replace(' ', "-")))
            .await
            .unwrap();
        let parked = parked(&world).await;
        let said = &parked.reason;
        assert!(said.contains(reason), "{said} instead of {reason}");
        assert_eq!(parked.exchange, "posthorn.events");
        assert_eq!(parked.routing_key, publication.routing_key);
        assert_eq!(parked.body, publication.body);
    }
    // Text that PostgreSQL can't store doesn't fail the other events of its batch.
    let nul =
        r#"{"specversion":"1.0","id":"bad-8","source":"\u0000","type":"order.created","data":1}"#;
    let unstorable = good("bad-8").with(of_type("application/cloudevents+json"));
    let unstorable = Publication {
        body: nul.into(),
        ..unstorable
    };
    let around = [good("before-8"), unstorable, good("after-8")];
    producer.publish_all(&around).await.unwrap();
    assert!(parked(&world).await.reason.contains("cannot be stored"));

    // Published without the exchange that restricts producers to their tenant.
    let mut around = good("bad-7");
    around.routing_key = "posthorn.ingest.v1".to_owned();
    producer.publish_to("", &around).await.unwrap();
    let parked = parked(&world).await;
    assert!(parked.reason.contains("instead of `posthorn.events`"));

    shop.receives(8).await;
    assert_eq!(
        ingest
            .metric("posthorn_events_rejected_total")
            .await
            .unwrap() as i64,
        8
    );
    world.finish().await;
}

#[tokio::test]
async fn every_format_arrives_as_the_same_delivery() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let producer = world.producer().await;
    let data = json!({"total": 12, "name": "Zoë"});
    let of_type = |kind: &str| BasicProperties::default().with_content_type(kind.into());
    let publication = |properties: BasicProperties, body: Vec<u8>| Publication {
        routing_key: format!("{TENANT}.order.created"),
        properties,
        body,
    };

    let msgpack = rmp_serde::to_vec_named(&data).unwrap();
    let properties = of_type("application/msgpack")
        .with_message_id("evt-1".into())
        .with_timestamp(1_700_000_000);
    producer
        .publish(&publication(properties, msgpack))
        .await
        .unwrap();

    let structured = json!({
        "specversion": "1.0", "id": "evt-2", "source": "/shop", "type": "order.created",
        "time": "2023-11-14T22:13:20Z", "data": data
    });
    let properties = of_type("application/cloudevents+json");
    producer
        .publish(&publication(
            properties,
            structured.to_string().into_bytes(),
        ))
        .await
        .unwrap();

    let mut headers = FieldTable::default();
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", "evt-3"),
        ("source", "/shop"),
        ("type", "order.created"),
        ("time", "2023-11-14T22:13:20Z"),
    ] {
        headers.insert(
            format!("cloudEvents:{name}").into(),
            AMQPValue::LongString(value.into()),
        );
    }
    let properties = of_type("application/json").with_headers(headers);
    producer
        .publish(&publication(properties, data.to_string().into_bytes()))
        .await
        .unwrap();

    let mut arrivals = shop.receives(3).await;
    arrivals.sort_by_key(|arrival| arrival.id().to_owned());
    for (arrival, id) in arrivals.iter().zip(["evt-1", "evt-2", "evt-3"]) {
        assert_eq!(arrival.id(), id);
        assert_eq!(
            arrival.json(),
            json!({"type": "order.created", "timestamp": "2023-11-14T22:13:20Z", "data": data}),
            "{id}"
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn a_payload_too_large_for_a_job_arrives_whole() {
    let world = World::with(&[("JOB_SHARDS", "3")]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    // Several webhooks, so that probably all shards are used.
    for _ in 0..8 {
        world.webhook(&ingest, &shop, json!({})).await;
    }
    let data = json!({"text": "ö".repeat(125_000)});
    world.publish("report.generated", "evt-1", &data).await;
    for arrival in shop.receives(8).await {
        assert_eq!(arrival.json()["data"], data);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_webhook_gets_the_event_that_is_published_right_after_it_was_made() {
    let world = World::start().await;
    // Two ingests: the one that creates a webhook may not be the one that matches.
    let (ingest, _other, _dispatcher) = (
        world.ingest().await,
        world.ingest().await,
        world.dispatcher().await,
    );
    let shop = world.receiver(answering(200)).await;
    for n in 0..20 {
        let kind = format!("round.{n}");
        world
            .webhook(&ingest, &shop, json!({"events": [kind]}))
            .await;
        world.publish(&kind, &format!("evt-{n}"), &json!({})).await;
    }
    shop.receives(20).await;
    world.finish().await;
}

#[tokio::test]
async fn an_event_without_a_matching_webhook_is_accepted() {
    let world = World::start().await;
    let _ingest = world.ingest().await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    assert_eq!(world.count("events WHERE matched = 0").await, 1);
    world.finish().await;
}

/// An outage of PostgreSQL, or the wait for a turn, carries a batch over midnight, and
/// another ingest has accepted its event meanwhile.
#[tokio::test]
async fn an_event_that_was_accepted_after_midnight_is_not_accepted_again_for_the_day_before() {
    let world = World::start().await;
    // It creates the partitions of both days.
    let _ingest = world.ingest().await;
    let url = world.database_url().to_owned().into();
    let config = postgres::config(&url, "midnight").unwrap();
    let pool = postgres::pool(&config.planned_once(), 1).unwrap();
    let new_at = async |at: OffsetDateTime, id: &str| {
        let event = Event {
            tenant: TENANT.parse().unwrap(),
            event_type: "order.created".parse().unwrap(),
            id: id.parse().ok(),
            occurred_at: Some(at),
            data: "{}".to_owned(),
            attributes: None,
            over_http: false,
            trace: None,
            presumed: None,
        };
        let matched = Matched {
            uid: EventUid::at(at),
            id: id.parse().unwrap(),
            event: Arc::new(event),
            deliveries: Vec::new(),
            too_costly: Vec::new(),
        };
        match accept(&pool, at, &[&matched], None, false).await.unwrap() {
            Accepted::New(new) => new.len(),
            other => panic!("there are no conditions here: {other:?}"),
        }
    };
    let midnight = OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT);
    let (before, after) = (
        midnight - Duration::from_secs(1),
        midnight + Duration::from_secs(1),
    );
    assert_eq!(new_at(after, "evt-1").await, 1);
    assert_eq!(new_at(before, "evt-1").await, 0);
    assert_eq!(new_at(before, "evt-2").await, 1);
    assert_eq!(new_at(after, "evt-2").await, 0);
    // A batch that has waited for longer than two minutes looks there, too.
    let long_before = midnight - Duration::from_secs(600);
    assert_eq!(new_at(long_before, "evt-1").await, 0);
    world.finish().await;
}
