//! The operator policies of the docs do what the docs say, with RabbitMQ itself.

#![allow(clippy::unwrap_used)]

use harness::producer::Publication;
use harness::receiver::answering;
use harness::world::{TENANT, World, eventually};
use lapin::options::{BasicGetOptions, BasicNackOptions};
use serde_json::{Value, json};

/// The words of the docs' `rabbitmqctl` command that sets this policy.
fn command(page: &str, policy: &str) -> Vec<String> {
    let start = format!("rabbitmqctl set_operator_policy -p / {policy} ");
    let line = page.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no command sets {policy}"));
    let words = line.split_whitespace().skip(1);
    words
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

async fn run(world: &World, command: &[String]) {
    let words: Vec<_> = command.iter().map(String::as_str).collect();
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    rabbitmq.rabbitmqctl(&words).await.unwrap();
}

/// Whether RabbitMQ applies this limit to the queue, as its management API says.
async fn applies(world: &World, queue: &str, limit: &str) -> bool {
    let url = world.pair.as_ref().unwrap().rabbitmq().management_url();
    let answer = reqwest::get(format!("{}/api/queues/%2F/{queue}", url.unwrap())).await;
    let text = answer.unwrap().text().await.unwrap();
    let queue: Value = serde_json::from_str(&text).unwrap();
    !queue["effective_policy_definition"][limit].is_null()
}

#[tokio::test]
async fn a_full_queue_refuses_events_and_all_that_it_confirmed_arrive() {
    /// Much less than the docs' 10 GiB, and a few of these events.
    const LIMIT: &str = r#"{"max-length-bytes":200000}"#;
    const EVENT_BYTES: usize = 20_000;
    const QUEUE: &str = "posthorn.ingest.v1";
    let world = World::with_management(false, &[]).await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    world.webhook(&ingest, &shop, json!({})).await;
    ingest.stop().await.unwrap();

    let mut set = command(include_str!("../../docs/access.md"), "posthorn-events");
    let definition = set
        .iter_mut()
        .find(|word| word.contains("max-length-bytes"));
    LIMIT.clone_into(definition.unwrap());
    run(&world, &set).await;
    eventually("the policy applies", async || {
        applies(&world, QUEUE, "max-length-bytes").await
    })
    .await;

    let producer = world.producer().await;
    let data = json!({"text": "x".repeat(EVENT_BYTES)}).to_string();
    let mut confirmed = Vec::new();
    // Ten of these events are the limit. RabbitMQ refuses from the first one that is too many, and
    // it may notice late.
    for n in 0..100 {
        let id = format!("evt-{n:03}");
        let event = Publication::json(TENANT, "order.created", &id, &data);
        if producer.publish(&event).await.is_err() {
            break;
        }
        confirmed.push(id);
    }
    assert!((5..100).contains(&confirmed.len()), "{}", confirmed.len());

    let _ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    shop.receives(confirmed.len()).await;
    world.settles().await;
    let mut arrived: Vec<_> = shop
        .arrivals()
        .iter()
        .map(|one| one.id().to_owned())
        .collect();
    arrived.sort();
    // The refused event may be tried again by its producer, and nobody else does that.
    assert_eq!(arrived, confirmed);
    eventually("the queue takes events again", async || {
        let event = Publication::json(TENANT, "order.created", "evt-later", "{}");
        producer.publish(&event).await.is_ok()
    })
    .await;
    shop.receives(confirmed.len() + 1).await;
    world.finish().await;
}

/// RabbitMQ 4 drops a message of these queues after 20 deliveries without the policy. RabbitMQ 3 has
/// no such limit.
#[tokio::test]
async fn with_the_docs_policy_a_dead_letter_survives_25_failed_deliveries() {
    const QUEUE: &str = "posthorn.parking.v1";
    let world = World::with_management(false, &[]).await;
    let ingest = world.ingest().await;
    let set = command(
        include_str!("../../docs/dead-letters.md"),
        "posthorn-parked",
    );
    run(&world, &set).await;
    for queue in [QUEUE, "posthorn.unrouted.v1"] {
        eventually("the policy applies", async || {
            applies(&world, queue, "delivery-limit").await
        })
        .await;
    }
    ingest.stop().await.unwrap();
    let unreadable = Publication::json(TENANT, "order.created", "evt-1", "no JSON");
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    let published = channel.basic_publish(
        "".into(),
        QUEUE.into(),
        lapin::options::BasicPublishOptions::default(),
        &unreadable.body,
        unreadable.properties.clone(),
    );
    published.await.unwrap().await.unwrap();
    for _ in 0..25 {
        let mut message = None;
        eventually("the message is there again", async || {
            let got = channel.basic_get(QUEUE.into(), BasicGetOptions::default());
            message = got.await.unwrap();
            message.is_some()
        })
        .await;
        let requeue = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        let tag = message.unwrap().delivery.delivery_tag;
        channel.basic_nack(tag, requeue).await.unwrap();
    }
    let _ingest = world.ingest().await;
    world.has_dead_letters(1).await;
    world.finish().await;
}
