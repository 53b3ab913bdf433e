//! Jobs among the dead letters. A delivery whose job was parked is tried again an hour later, and
//! a replay of its job doesn't send what is finished.
//!
//! The tests take messages from the jobs queue themselves, in place of dispatchers.

#![allow(clippy::unwrap_used)]

use deadpool_postgres::Pool;
use dispatcher::ticket::Tickets;
use harness::producer::Publication;
use harness::receiver::answering;
use harness::world::{World, eventually};
use ingest::dead_letters::letter::{Letter, Origin};
use ingest::dead_letters::store::{self, Room};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use serde_json::{Value, json};
use shared::job::{Job, Late, bundle};
use shared::publish::Outgoing;
use shared::{clock, postgres};
use time::Duration;
use tokio_util::sync::CancellationToken;

/// The jobs queue of a world with one shard.
const JOBS: &str = "posthorn.jobs.v1.0";
/// The reason of a message that RabbitMQ gave up on.
const GIVEN_UP: &str = "whoever took it failed every time";

async fn next_message(channel: &Channel) -> Option<Delivery> {
    let taken = channel.basic_get(JOBS.into(), BasicGetOptions::default());
    taken.await.unwrap().map(|taken| taken.delivery)
}

/// Waits for the first message in the jobs queue, and takes it.
async fn first_message(channel: &Channel) -> Delivery {
    let mut first = None;
    eventually("a job is in its queue", async || {
        first = next_message(channel).await;
        first.is_some()
    })
    .await;
    first.unwrap()
}

/// Gives a message back, as RabbitMQ does when its dispatcher crashes.
async fn give_back(message: &Delivery) {
    let requeue = BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    };
    message.acker.nack(requeue).await.unwrap();
}

fn pool(world: &World) -> Pool {
    let url = world.database_url().to_owned().into();
    let config = postgres::config(&url, "dead_letters_of_jobs").unwrap();
    postgres::pool(&config, 1).unwrap()
}

#[tokio::test]
async fn a_late_copy_that_crashes_every_dispatcher_is_tried_again_an_hour_later() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    world.publish("order.created", "evt-1", &json!({})).await;
    let original = first_message(&channel).await;
    // The original is replaced by a late copy, which waits in a delay queue.
    let until = clock::now() + Duration::SECOND;
    let copy = Job {
        late: Some(Late::Until(until)),
        recheck: true,
        ..Job::decode(&original.data).unwrap()
    };
    let copy = Outgoing::job(&copy, clock::now(), 1);
    let message = Publication {
        routing_key: copy.routing_key.to_string(),
        properties: copy.properties,
        body: copy.body,
    };
    let producer = world.producer().await;
    producer.publish_to(copy.exchange, &message).await.unwrap();
    let ack = BasicAckOptions::default();
    original.acker.ack(ack).await.unwrap();

    // Every dispatcher that takes the copy claims it, and crashes.
    let tickets = Tickets {
        pool: pool(&world),
        grace_over: CancellationToken::new(),
    };
    eventually("RabbitMQ gives the copy up", async || {
        if let Some(message) = next_message(&channel).await {
            let mut copy = Job::decode(&message.data).unwrap();
            assert_eq!(copy.late, Some(Late::Until(until)));
            assert!(tickets.claim(&mut copy).await.unwrap());
            give_back(&message).await;
        }
        world.count("dead_letters").await == 1
    })
    .await;
    let waiting = "deliveries WHERE deferred_because = 'parked' AND attempts = 0 \
                   AND due_at > now() + interval '50 minutes'";
    assert_eq!(world.count(waiting).await, 1);

    // The cause is removed.
    let _dispatcher = world.dispatcher().await;
    let replayed = world
        .ask_dead_letters(&ingest, "POST", "/replay", json!({"reason": GIVEN_UP}))
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    shop.receives(1).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn the_dead_letter_of_a_job_goes_with_the_data_of_its_event() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let _shop = world.subscribed(&ingest, answering(200)).await;
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    let mut letters = Vec::new();
    for id in ["ada", "bob"] {
        world
            .publish("user.created", id, &json!({"name": id}))
            .await;
        let message = first_message(&channel).await;
        letters.push(Letter {
            origin: Origin::Parking,
            reason: GIVEN_UP.to_owned(),
            ..Letter::from_message(&message, Origin::Unrouted)
        });
    }
    let room = Room { all: i64::MAX };
    store::keep(&pool(&world), &letters, room).await.unwrap();
    let expunge = "/api/v1/events/ada/expunge";
    let expunged = world.ask(&ingest, "POST", expunge, None).await;
    assert_eq!(expunged.status, 200, "{}", expunged.body);
    let of =
        |name: &str| format!("dead_letters WHERE position('{name}' IN encode(body, 'escape')) > 0");
    assert_eq!(world.count(&of("ada")).await, 0);
    assert_eq!(world.count(&of("bob")).await, 1);
    connection.close(200, "done".into()).await.unwrap();
    let _dispatcher = world.dispatcher().await;
    world.finish().await;
}

#[tokio::test]
async fn a_bundle_that_an_older_version_stored_as_one_dead_letter_is_not_replayed() {
    const WEBHOOKS: usize = 2;
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    for _ in 0..WEBHOOKS {
        world.webhook(&ingest, &shop, json!({})).await;
    }
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    world.publish("order.created", "evt-1", &json!({})).await;
    let message = first_message(&channel).await;
    assert_eq!(bundle::decode(&message.data).unwrap().len(), WEBHOOKS);
    let letter = Letter {
        origin: Origin::Parking,
        reason: GIVEN_UP.to_owned(),
        ..Letter::from_message(&message, Origin::Unrouted)
    };
    let path = format!("/{}", letter.id);
    let room = Room { all: i64::MAX };
    store::keep(&pool(&world), &[letter], room).await.unwrap();
    give_back(&message).await;

    let reasons = world
        .ask_dead_letters(&ingest, "GET", "/reasons", Value::Null)
        .await
        .body;
    assert_eq!(reasons["reasons"][0]["replayable"], false, "{reasons}");
    let replay = format!("{path}/replay");
    let refused = world
        .ask_dead_letters(&ingest, "POST", &replay, Value::Null)
        .await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("a bundle of 2 jobs"), "{detail}");
    assert!(detail.contains("discard it"), "{detail}");
    let skipped = world
        .ask_dead_letters(&ingest, "POST", "/replay", json!({"reason": GIVEN_UP}))
        .await;
    assert_eq!(
        skipped.body,
        json!({"replayed": 0, "skipped": 1, "more": false})
    );
    let discarded = world
        .ask_dead_letters(&ingest, "DELETE", &path, Value::Null)
        .await;
    assert_eq!(discarded.status, 204);

    let _dispatcher = world.dispatcher().await;
    shop.receives(WEBHOOKS).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), WEBHOOKS);
    world.finish().await;
}
