//! Partitions of the delivery log are created and dropped, and nobody waits for that.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use harness::receiver::answering;
use harness::world::{World, eventually};
use serde_json::json;

/// A day in the past, in each table.
async fn an_old_day(database: &tokio_postgres::Client) {
    for table in ["events", "deliveries", "attempts"] {
        let day = format!(
            "CREATE TABLE {table}_20200101 PARTITION OF {table} FOR VALUES \
             FROM ('016f5e66-e800-0000-0000-000000000000') TO ('016f638d-4400-0000-0000-000000000000')"
        );
        database.batch_execute(&day).await.unwrap();
    }
}

const OLD_DAY: &str = "pg_class WHERE relname LIKE '%_20200101'";

#[tokio::test]
async fn partitions_past_their_retention_are_dropped_and_future_ones_exist() {
    let world = World::start().await;
    let database = world.sql().await;
    an_old_day(&database).await;
    let tomorrow = "pg_class WHERE relname = 'events_' || to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD')";
    database
        .batch_execute("DO $$ BEGIN EXECUTE 'DROP TABLE events_' || to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD'); END $$")
        .await
        .unwrap();
    assert_eq!(world.count(tomorrow).await, 0);
    // One outage of that day is over. The other one lasts.
    let outages = "INSERT INTO outages (webhook_id, process_id, since, failed_at)
        SELECT gen_random_uuid(), gen_random_uuid(), '2020-01-01', failed_at
        FROM unnest(ARRAY['2020-01-01'::timestamptz, now()]) AS failed_at";
    database.batch_execute(outages).await.unwrap();

    let ingest = world.ingest().await;
    eventually("the old days are gone and tomorrow is there", async || {
        world.count(OLD_DAY).await == 0 && world.count(tomorrow).await == 1
    })
    .await;
    eventually("the old outage is gone", async || {
        world.count("outages").await == 1
    })
    .await;
    eventually("the log is weighed", async || {
        let size = ingest.metric("posthorn_storage_bytes").await;
        let forecast = ingest.metric("posthorn_storage_forecast_bytes").await;
        size.unwrap() > 100_000.0 && forecast.unwrap() > 100_000.0
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn deliveries_flow_while_an_old_day_waits_for_its_last_reader() {
    let world = World::start().await;
    let mut reader = world.sql().await;
    an_old_day(&reader).await;
    // A long query reads the tables, also the old day.
    let reading = reader.transaction().await.unwrap();
    for table in ["events", "deliveries", "attempts"] {
        let all = format!("SELECT count(*) FROM {table}");
        reading.query_one(&all, &[]).await.unwrap();
    }
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let waits = "pg_stat_activity WHERE query LIKE 'ALTER TABLE%DETACH%' AND wait_event_type = 'Lock' \
                 AND datname = current_database()";
    eventually("dropping waits", async || world.count(waits).await == 1).await;

    let receiver = world.subscribed(&ingest, answering(200)).await;
    for n in 0..50 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    tokio::time::timeout(Duration::from_secs(20), receiver.receives(50))
        .await
        .unwrap();
    assert_eq!(world.count(waits).await, 1, "all that while");

    reading.rollback().await.unwrap();
    eventually("the old day is gone", async || {
        world.count(OLD_DAY).await == 0
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_day_that_was_half_dropped_is_dropped_by_the_next_ingest() {
    let world = World::start().await;
    let database = world.sql().await;
    an_old_day(&database).await;
    // Stopped between two steps: one partition is detached, another one half.
    database
        .batch_execute("ALTER TABLE attempts DETACH PARTITION attempts_20200101")
        .await
        .unwrap();
    let mut reader = world.sql().await;
    let reading = reader.transaction().await.unwrap();
    reading
        .query_one("SELECT count(*) FROM deliveries", &[])
        .await
        .unwrap();
    let detach = "SET statement_timeout = '300ms'; \
                  ALTER TABLE deliveries DETACH PARTITION deliveries_20200101 CONCURRENTLY";
    let statements: Vec<_> = detach.split("; ").collect();
    for statement in statements {
        let _ = database.batch_execute(statement).await;
    }
    assert_eq!(world.count("pg_inherits WHERE inhdetachpending").await, 1);
    reading.rollback().await.unwrap();

    let _ingest = world.ingest().await;
    eventually("all of it is gone", async || {
        world.count(OLD_DAY).await == 0
    })
    .await;
    world.finish().await;
}
