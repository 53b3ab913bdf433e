//! A dead letter that was taken without an ack, because RabbitMQ seemed unable to deliver it, is
//! in the table in the end.
//!
//! The test takes it in place of ingest.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use harness::producer::Publication;
use harness::world::{World, eventually};
use ingest::dead_letters::Keeper;
use ingest::dead_letters::letter::Origin;
use ingest::dead_letters::store::Room;
use shared::amqp::Broker;
use shared::postgres;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A session that takes one message at a time ends after five seconds, to become a normal one, and
/// any session can be lost. RabbitMQ doesn't have the message any more then.
#[tokio::test]
async fn a_dead_letter_that_was_taken_without_an_ack_outlives_its_session() {
    let world = World::start().await;
    let broker = Broker::new(world.amqp_url().to_owned().into(), "a test", 1);
    let session = broker.open().await.unwrap();
    let url = world.database_url().to_owned().into();
    let database = postgres::config(&url, "dead_letters_unacked").unwrap();
    let keeper = Keeper {
        pool: postgres::pool(&database, 1).unwrap(),
        room: Room { all: 1 << 20 },
        stop: CancellationToken::new(),
        unacked: TaskTracker::new(),
    };
    // Nothing is bound for it.
    let event = Publication::json("nobody", "order.created", "evt-1", "{}");
    let producer = world.producer().await;
    producer
        .publish_to("posthorn.unrouted", &event)
        .await
        .unwrap();
    let queue = Origin::Unrouted.queue();
    eventually("it is unrouted", async || {
        world.messages_in(queue).await == 1
    })
    .await;

    let mut sql = world.sql().await;
    let lock = sql.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE dead_letters").await.unwrap();
    let taking = keeper.take_without_ack(&session, Origin::Unrouted);
    let taken = async {
        eventually("RabbitMQ has forgotten it", async || {
            world.messages_in(queue).await == 0
        })
        .await;
        // Longer than it takes to be read, so it waits for the table.
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tokio::select! {
        taken = taking => panic!("it was written in spite of the lock: {taken:?}"),
        () = taken => {}
    }
    session.close().await;
    lock.rollback().await.unwrap();

    keeper.unacked.close();
    keeper.unacked.wait().await;
    assert_eq!(world.count("dead_letters").await, 1);
    world.finish().await;
}
