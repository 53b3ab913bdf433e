//! Verdicts take effect although PostgreSQL refuses a row or the answer to a COMMIT is
//! lost, and although the clock of a machine is wrong.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::clock;
use harness::proxy::Proxy;
use harness::receiver::{Arrival, Receiver, Reply, answering, unix_now};
use harness::service::{Service, http};
use harness::world::{World, eventually};
use serde_json::{Value, json};

/// The sweeper would be 75 s late. If it made no job, nothing waited for it.
async fn no_job_was_put_back(dispatcher: &Service) {
    let swept = dispatcher.metric("posthorn_sweeper_requeued_total").await;
    assert_eq!(swept.unwrap(), 0.0);
}

fn pauses(arrivals: &[Arrival]) -> Vec<Duration> {
    let pairs = arrivals.windows(2);
    pairs.map(|pair| pair[1].at - pair[0].at).collect()
}

#[tokio::test]
async fn an_event_whose_commit_was_not_answered_is_delivered_without_the_sweeper() {
    let world = World::start().await;
    let (proxy, url) = Proxy::before(world.database_url()).await.unwrap();
    let ingest = [("DATABASE_URL", url.as_str())];
    let ingest = world.service("posthorn-ingest", &ingest).await;
    let dispatcher = world.dispatcher().await;
    let shop = world.subscribed(&ingest, answering(200)).await;

    // What follows an event's data in the message that has the statement's parameters.
    proxy.lose_answer("the-unanswered-one", "order.created");
    let data = json!({"text": "the-unanswered-one"});
    world.publish("order.created", "evt-1", &data).await;
    assert_eq!(shop.receives(1).await[0].id(), "evt-1");

    assert_eq!(proxy.lost(), 1);
    no_job_was_put_back(&dispatcher).await;
    let known = ingest.metric("posthorn_events_deduplicated_total").await;
    assert_eq!(known.unwrap(), 0.0);
    assert_eq!(world.count("events").await, 1);
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_retry_whose_commit_was_not_answered_comes_when_it_is_due() {
    let world = World::start().await;
    let (proxy, url) = Proxy::before(world.database_url()).await.unwrap();
    let ingest = world.ingest().await;
    let dispatcher = [("DATABASE_URL", url.as_str())];
    let dispatcher = world.service("posthorn-dispatcher", &dispatcher).await;
    let script = |n, _: &Arrival| match n {
        0 => Reply::status(500).with("x-marker", "the-unanswered-one"),
        _ => Reply::status(200),
    };
    let shop = world.receiver(Arc::new(script)).await;
    let policy = json!({"retry_policy": {"delays": [1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;

    // The statement, prepared; then its execution, which is the commit.
    proxy.lose_answer("settle_deliveries", "the-unanswered-one");
    world.publish("order.created", "evt-1", &json!({})).await;
    let arrivals = shop.receives(2).await;

    assert_eq!(proxy.lost(), 1);
    // One second, rounding up to the next second, and the time to connect again.
    let pause = pauses(&arrivals)[0];
    assert!(
        pause >= Duration::from_secs(1) && pause < Duration::from_secs(15),
        "{pause:?}"
    );
    no_job_was_put_back(&dispatcher).await;
    world.settles().await;
    assert_eq!(world.count("attempts").await, 2);
    let stats = format!("/api/v1/webhooks/{}/stats", webhook.id);
    let stats = world.ask(&ingest, "GET", &stats, None).await.body;
    assert_eq!(stats["attempts"], 2, "counted once each: {stats}");
    world.finish().await;
}

#[tokio::test]
async fn a_deferral_whose_commit_was_not_answered_ends_when_it_is_due() {
    let world = World::start().await;
    let (proxy, url) = Proxy::before(world.database_url()).await.unwrap();
    let ingest = world.ingest().await;
    let dispatcher = [("DATABASE_URL", url.as_str())];
    let dispatcher = world.service("posthorn-dispatcher", &dispatcher).await;
    let shop = world.receiver(answering(200)).await;
    let limited = json!({"rate_limit": {"limit": 1, "per": "second"}});
    world.webhook(&ingest, &shop, limited).await;

    proxy.lose_answer("settle_deliveries", "rate_limited");
    for n in 0..8 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    shop.receives(8).await;

    assert_eq!(proxy.lost(), 1);
    no_job_was_put_back(&dispatcher).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 8);
    world.finish().await;
}

#[tokio::test]
async fn the_owner_is_told_at_once_of_a_webhook_that_was_disabled_though_the_commit_was_not_answered()
 {
    let world = World::start().await;
    let (proxy, url) = Proxy::before(world.database_url()).await.unwrap();
    let ingest = world.ingest().await;
    let dispatcher = [("DATABASE_URL", url.as_str())];
    let dispatcher = world.service("posthorn-dispatcher", &dispatcher).await;
    let gone = world.receiver(answering(410)).await;
    let webhook = world.webhook(&ingest, &gone, json!({})).await;
    let desk = world.receiver(answering(200)).await;
    let operational = json!({"operational": true, "events": ["webhook.disabled"]});
    world.webhook(&ingest, &desk, operational).await;

    proxy.lose_answer("tell_operational_event", "COMMIT");
    world.publish("order.created", "evt-1", &json!({})).await;
    let event = desk.receives(1).await[0].json();

    assert_eq!(proxy.lost(), 1);
    assert_eq!(event["data"]["webhook_id"], json!(webhook.id));
    no_job_was_put_back(&dispatcher).await;
    world.settles().await;
    let told = "events WHERE type = 'webhook.disabled'";
    assert_eq!(world.count(told).await, 1, "it is told once");
    assert_eq!(desk.arrivals().len(), 1);
    world.finish().await;
}

/// The API's answer about the only delivery of an event.
async fn delivery_of(world: &World, ingest: &Service, event: &str) -> Value {
    let path = format!("/api/v1/events/{event}");
    let answer = world.ask(ingest, "GET", &path, None).await;
    let id = answer.body["deliveries"][0]["id"].clone();
    world.delivery(ingest, &id).await
}

#[tokio::test]
async fn a_verdict_that_postgresql_refuses_does_not_delay_others() {
    let world = World::start().await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let database = world.sql().await;
    let refuse = "ALTER TABLE attempts \
                      ADD CONSTRAINT no_such_header CHECK (response_headers::text NOT LIKE '%poison%'), \
                      ADD CONSTRAINT no_such_status CHECK (status_code <> 299)";
    database.batch_execute(refuse).await.unwrap();
    let script = |_, arrival: &Arrival| match arrival.id() {
        "details" => Reply::status(200).with("x-header", "poison"),
        "verdict" => Reply::status(299),
        _ => Reply::status(200),
    };
    let shop = world.subscribed(&ingest, Arc::new(script)).await;

    for n in 0..20 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    for id in ["details", "verdict"] {
        world.publish("order.created", id, &json!({})).await;
    }
    for n in 20..40 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    let delivered = "deliveries WHERE state = 'delivered'";
    eventually("all but one are on record", async || {
        world.count(delivered).await == 41
    })
    .await;

    let without_details = delivery_of(&world, &ingest, "details").await;
    let attempt = &without_details["attempt_log"][0];
    assert_eq!(attempt["response_code"], 200, "{attempt}");
    assert!(
        attempt["error"]
            .as_str()
            .unwrap()
            .contains("no_such_header"),
        "{attempt}"
    );

    let letters = "dead_letters WHERE reason LIKE '%no_such_status%'";
    eventually("the job is a dead letter", async || {
        world.count(letters).await == 1
    })
    .await;
    let waits = "deliveries WHERE state = 'queued' AND deferred_because = 'parked' \
                 AND due_at BETWEEN now() + interval '50 minutes' AND now() + interval '1 hour'";
    assert_eq!(world.count(waits).await, 1);
    let set_aside = dispatcher
        .metric("posthorn_settlements_set_aside_total")
        .await;
    assert_eq!(set_aside.unwrap(), 3.0, "details twice, a verdict once");
    assert!(world.logs().contains("PostgreSQL refused a verdict"));
    assert_eq!(shop.arrivals().len(), 42, "nothing is sent again");

    // An operator removes the cause and replays the dead letter.
    let allow = "ALTER TABLE attempts DROP CONSTRAINT no_such_status";
    database.batch_execute(allow).await.unwrap();
    let letters = "/api/v1/admin/dead-letters";
    let listed = world.ask_as_operator(&ingest, "GET", letters, None).await;
    let id = listed.body["dead_letters"][0]["id"].as_str().unwrap();
    let replay = format!("{letters}/{id}/replay");
    let answer = world.ask_as_operator(&ingest, "POST", &replay, None).await;
    assert!(answer.status < 300, "{}", answer.body);
    eventually("it is on record, too", async || {
        world.count(delivered).await == 42
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_missing_partition_is_created_by_the_dispatcher_that_needs_it() {
    let world = World::start().await;
    let database = world.sql().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let drop_today = "DO $$ BEGIN EXECUTE 'DROP TABLE attempts_' \
                      || to_char((now() at time zone 'UTC')::date, 'YYYYMMDD'); END $$";
    database.batch_execute(drop_today).await.unwrap();

    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    assert_eq!(world.count("attempts").await, 1);
    world.finish().await;
}

#[tokio::test]
async fn dispatchers_create_tomorrows_partition_without_an_ingest() {
    let world = World::start().await;
    let database = world.sql().await;
    let drop_all = "DO $$ DECLARE day text; BEGIN \
                    FOR day IN SELECT inhrelid::regclass FROM pg_inherits \
                        WHERE inhparent IN ('events'::regclass, 'deliveries'::regclass, 'attempts'::regclass) \
                    LOOP EXECUTE 'DROP TABLE ' || day; END LOOP; END $$";
    database.batch_execute(drop_all).await.unwrap();
    // Several at once, as after an upgrade.
    let _dispatchers = (world.dispatcher().await, world.dispatcher().await);
    let days = "pg_class WHERE relkind = 'r' AND relname IN ( \
                    SELECT parent || to_char((now() at time zone 'UTC')::date + n, '_YYYYMMDD') \
                    FROM unnest(ARRAY['events', 'deliveries', 'attempts']) AS parent, \
                         generate_series(0, 1) AS n)";
    eventually("today and tomorrow are there", async || {
        world.count(days).await == 6
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn an_old_days_deliveries_are_dropped_before_its_attempts() {
    let world = World::start().await;
    let mut reader = world.sql().await;
    for table in ["events", "deliveries", "attempts"] {
        let day = format!(
            "CREATE TABLE {table}_20200101 PARTITION OF {table} FOR VALUES \
             FROM ('016f5e66-e800-0000-0000-000000000000') TO ('016f638d-4400-0000-0000-000000000000')"
        );
        reader.batch_execute(&day).await.unwrap();
    }
    let reading = reader.transaction().await.unwrap();
    let all = "SELECT count(*) FROM deliveries";
    reading.query_one(all, &[]).await.unwrap();
    let _ingest = world.ingest().await;
    let waits = "pg_stat_activity WHERE query LIKE 'ALTER TABLE%DETACH%' AND wait_event_type = 'Lock' \
                 AND datname = current_database()";
    eventually("dropping waits for the reader", async || {
        world.count(waits).await == 1
    })
    .await;
    let attempts = "pg_inherits WHERE inhrelid = to_regclass('attempts_20200101')";
    assert_eq!(world.count(attempts).await, 1);
    reading.rollback().await.unwrap();
    eventually("the old day is gone", async || {
        world
            .count("pg_class WHERE relname LIKE '%_20200101'")
            .await
            == 0
    })
    .await;
    world.finish().await;
}

async fn started(world: &World, binary: &str, offset: &str) -> Service {
    let settings = clock::off_by(offset);
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    world.started(binary, &settings).await
}

async fn is_not_ready_for_its_clock(service: &Service) {
    eventually("it says that its clock is why it isn't ready", async || {
        let answer = http().get(service.url("/readyz")).send().await.unwrap();
        let status = answer.status().as_u16();
        status == 503
            && answer.text().await.unwrap() == "not ready: no clock within 10 s of PostgreSQL's\n"
    })
    .await;
}

/// Publishes this many events and returns how long it took until all had arrived.
async fn time_to_receive(world: &World, shop: &Receiver, count: usize) -> Duration {
    let begun = Instant::now();
    for n in 0..count {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    shop.receives(count).await;
    begun.elapsed()
}

/// Much less than any clock here is wrong by, and enough for a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn events_arrive_at_once_though_the_clock_of_ingest_is_ahead() {
    let world = World::start().await;
    let ingest = started(&world, "posthorn-ingest", "+40s").await;
    let dispatcher = world.dispatcher().await;
    is_not_ready_for_its_clock(&ingest).await;
    let offset = ingest
        .metric("posthorn_clock_offset_seconds")
        .await
        .unwrap();
    assert!((-41.0..-39.0).contains(&offset), "{offset}");

    let shop = world.subscribed(&ingest, answering(200)).await;
    let took = time_to_receive(&world, &shop, 10).await;
    assert!(took < SOON, "{took:?}");
    // Ids use PostgreSQL's time too: no id is in the future.
    let to_come = "events WHERE uid > first_uuid_at(clock_timestamp())";
    assert_eq!(world.count(to_come).await, 0);
    no_job_was_put_back(&dispatcher).await;
    world.finish().await;
}

#[tokio::test]
async fn no_attempt_is_late_or_early_though_the_clock_of_a_dispatcher_is_ahead() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let ahead = started(&world, "posthorn-dispatcher", "+180s").await;
    is_not_ready_for_its_clock(&ahead).await;
    let right = world.dispatcher().await;

    let shop = world.receiver(answering(200)).await;
    let orders = json!({"events": ["order.*"]});
    world.webhook(&ingest, &shop, orders).await;
    let took = time_to_receive(&world, &shop, 10).await;
    assert!(took < SOON, "{took:?}");

    // A first attempt and two retries of each. Either dispatcher takes some.
    let seen: Mutex<HashMap<String, usize>> = Mutex::default();
    let script = move |_, arrival: &Arrival| {
        let mut seen = seen.lock().unwrap();
        let times = seen.entry(arrival.id().to_owned()).or_default();
        *times += 1;
        Reply::status(if *times < 3 { 500 } else { 200 })
    };
    let failing = world.receiver(Arc::new(script)).await;
    let policy = json!({
        "events": ["retry.*"],
        "retry_policy": {"delays": [4000, 4000]},
    });
    world.webhook(&ingest, &failing, policy).await;
    for n in 0..4 {
        let id = format!("again-{n}");
        world.publish("retry.this", &id, &json!({})).await;
    }
    let arrivals = failing.receives(12).await;
    for n in 0..4 {
        let id = format!("again-{n}");
        let of_one: Vec<_> = arrivals.iter().filter(|a| a.id() == id).cloned().collect();
        for pause in pauses(&of_one) {
            assert!(
                pause >= Duration::from_secs(4) && pause < SOON,
                "{id}: {pause:?}"
            );
        }
    }
    for arrival in &arrivals {
        let sent: u64 = arrival.header("webhook-timestamp").parse().unwrap();
        assert!(sent.abs_diff(unix_now()) < 60, "receivers refuse {sent}");
    }
    world.settles().await;
    for dispatcher in [&ahead, &right] {
        no_job_was_put_back(dispatcher).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_clock_that_is_slightly_wrong_is_logged_and_does_no_harm() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let behind = started(&world, "posthorn-dispatcher", "-3s").await;
    eventually("it is ready", async || {
        let answer = http().get(behind.url("/readyz")).send().await.unwrap();
        answer.status().is_success()
    })
    .await;
    let warning = "this machine's clock differs from PostgreSQL's";
    assert!(world.logs().contains(warning));
    let offset = behind
        .metric("posthorn_clock_offset_seconds")
        .await
        .unwrap();
    assert!((2.9..3.5).contains(&offset), "{offset}");
    let shop = world.subscribed(&ingest, answering(200)).await;
    assert!(time_to_receive(&world, &shop, 10).await < SOON);
    world.finish().await;
}
