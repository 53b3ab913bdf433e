//! RabbitMQ's permissions keep tenants apart: what a producer's user may do with the
//! permissions that docs/access.md gives it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use harness::producer::{Producer, Publication};
use harness::raw::RawProducer;
use harness::receiver::answering;
use harness::world::{TENANT, World};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::json;

const DOCS: &str = include_str!("../../docs/access.md");

#[tokio::test]
async fn a_producers_user_can_publish_its_tenants_events_and_do_nothing_else() {
    let world = World::with_own_servers(&[]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let other = json!({"id": "other"});
    world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(other))
        .await;
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    for line in commands("acme-producer") {
        let arguments: Vec<_> = line.iter().map(String::as_str).collect();
        rabbitmq.rabbitmqctl(&arguments).await.unwrap();
    }
    let url = world
        .amqp_url()
        .replace("posthorn:posthorn@", "acme-producer:the-password@");
    let shop = world.subscribed(&ingest, answering(200)).await;

    let own = |id: &str| Publication::json(TENANT, "order.created", id, "{}");
    let producer = Producer::connect(&url).await.unwrap();
    producer.publish(&own("evt-1")).await.unwrap();
    // Additional routing keys beside its own don't help it.
    for (n, name) in ["CC", "BCC"].into_iter().enumerate() {
        let mut headers = FieldTable::default();
        let keys = ["other.order.created", "posthorn.ingest.v1", "0.0"];
        let keys = keys.map(|key| AMQPValue::LongString(key.into()));
        headers.insert(name.into(), AMQPValue::FieldArray(keys.to_vec().into()));
        let event = own(&format!("evt-{}", n + 2));
        let properties = event.properties.clone().with_headers(headers);
        // Some brokers refuse this and close the channel.
        let producer = Producer::connect(&url).await.unwrap();
        let _ = producer.publish(&event.with(properties)).await;
    }
    for (exchange, key) in [
        ("posthorn.events", "other.order.created"),
        ("posthorn.events", "acme"),
        ("posthorn.events", "acmeother.order.created"),
        ("posthorn.events", "x.acme.order.created"),
        ("", "posthorn.ingest.v1"),
        ("", "posthorn.jobs.v1.0"),
        ("amq.topic", "acme.order.created"),
        ("posthorn.jobs", "0.0"),
        ("posthorn.retry", "1s.0"),
        ("posthorn.dead", "acme.order.created"),
        ("posthorn.unrouted", "acme.order.created"),
    ] {
        let mut forged = own("evt-forged");
        forged.routing_key = key.to_owned();
        let producer = Producer::connect(&url).await.unwrap();
        let refused = producer.publish_to(exchange, &forged).await.unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains("ACCESS"), "`{exchange}` {key}: {refused}");
    }
    // A routing key that isn't text, or isn't ASCII, is refused when it is
    // published.
    for key in [
        "acme.\u{e9}v\u{e9}nement".as_bytes(),
        b"acme.\xFF",
        b"acme.a b",
    ] {
        let mut raw = RawProducer::connect(&url).await.unwrap();
        let published = raw.publish("posthorn.events", key, &[0, 0], b"{}");
        let refused = format!("{:#}", published.await.unwrap_err());
        assert!(refused.contains("ACCESS"), "{refused}");
    }
    for queue in ["posthorn.ingest.v1", "posthorn.jobs.v1.0", "its-own"] {
        let connection = Connection::connect(&url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default);
        let taken = channel.basic_consume(queue.into(), "".into(), options, none());
        assert!(taken.await.is_err(), "{queue} can be read");
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions::default();
        let made = channel.queue_declare(queue.into(), options, none());
        assert!(made.await.is_err(), "{queue} can be declared");
    }

    shop.receives(1).await;
    shop.receives_no_more_than(3, Duration::from_secs(1)).await;
    assert_eq!(world.count("events WHERE tenant <> 'acme'").await, 0);
    assert_eq!(world.count("events WHERE id = 'evt-forged'").await, 0);
    assert_eq!(world.count("dead_letters").await, 0);
    world.finish().await;
}

/// The arguments of `rabbitmqctl` on the lines of docs/access.md about this user.
fn commands(user: &str) -> Vec<Vec<String>> {
    let lines = DOCS
        .lines()
        .filter_map(|line| line.strip_prefix("rabbitmqctl "));
    let lines: Vec<_> = lines
        .filter(|line| line.contains(user))
        .map(|line| {
            let words = line.split(' ');
            words
                .map(|word| word.trim_matches('\'').to_owned())
                .collect()
        })
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    lines
}
