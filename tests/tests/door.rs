//! Events over HTTP go straight to the lanes, and keep every promise that those have which
//! come through RabbitMQ: whatever is away, dies, or stops in between.

#![allow(clippy::unwrap_used, missing_docs)]

use harness::proxy::{End, Way};
use harness::receiver::answering;
use harness::service::{Answer, Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use url::Url;

const EVENTS: &str = "/api/v1/events";

/// Copies of what was interrupted come soon, and long before the sweeper's jobs would.
const SOON: [(&str, &str); 2] = [("WEBHOOK_TIMEOUT", "1000"), ("SWEEP_GRACE", "4")];

fn event(id: &str) -> Value {
    json!({"type": "order.created", "id": id, "data": {"text": id}})
}

/// Publishes in the name of the operator: that needs no token from PostgreSQL.
async fn publish_as_operator(ingest: &Service, id: &str) -> Answer {
    let request = http()
        .post(ingest.url(EVENTS))
        .bearer_auth(ADMIN_TOKEN)
        .header("x-tenant-id", TENANT)
        .header("content-type", "application/json")
        .body(event(id).to_string());
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.text().await.unwrap();
    let body = serde_json::from_str(&body).unwrap();
    Answer { status, body }
}

async fn nothing_was_put_back(dispatcher: &Service) {
    let swept = dispatcher.metric("posthorn_sweeper_requeued_total").await;
    assert_eq!(swept.unwrap(), 0.0);
}

async fn is_held_up(world: &World) {
    eventually("an event waits to be written", async || {
        world.held_up().await >= 1
    })
    .await;
}

#[tokio::test]
async fn an_event_over_http_is_answered_with_how_many_webhooks_get_it() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    for _ in 0..2 {
        world.webhook(&ingest, &shop, json!({})).await;
    }
    let other = json!({"events": ["customer.*"]});
    world.webhook(&ingest, &shop, other).await;

    let answer = world
        .ask(&ingest, "POST", EVENTS, Some(event("evt-1")))
        .await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let told = json!({"id": "evt-1", "type": "order.created", "matched": 2});
    assert_eq!(answer.body, told);
    // It is written when it is answered.
    assert_eq!(world.count("deliveries").await, 2);

    // One that is known makes nothing, and nobody says how many.
    let again = world
        .ask(&ingest, "POST", EVENTS, Some(event("evt-1")))
        .await;
    assert_eq!(again.status, 202, "{}", again.body);
    assert_eq!(again.body, json!({"id": "evt-1", "type": "order.created"}));

    let batch =
        json!({"events": [event("evt-2"), event("evt-1"), {"type": "customer.left", "data": 1}]});
    let path = format!("{EVENTS}/batch");
    let answer = world.ask(&ingest, "POST", &path, Some(batch)).await;
    assert_eq!(answer.body["accepted"], 3, "{}", answer.body);
    let matched = |n: usize| answer.body["results"][n]["matched"].clone();
    assert_eq!(
        [matched(0), matched(1), matched(2)],
        [json!(2), Value::Null, json!(3)]
    );

    shop.receives(7).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 7);
    world.finish().await;
}

#[tokio::test]
async fn while_postgresql_stands_still_events_over_http_go_to_rabbitmq() {
    let world = World::with(&SOON).await;
    let (ingest, link) = world
        .ingest_through_proxy("DATABASE_URL", world.database_url())
        .await;
    let dispatcher = world.dispatcher().await;
    let shop = world.subscribed(&ingest, answering(200)).await;

    link.set(Way::Stalled, Way::Stalled);
    // The first finds out, the second needn't.
    for id in ["evt-1", "evt-2"] {
        let answer = publish_as_operator(&ingest, id).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!(answer.body.get("matched"), None, "{}", answer.body);
    }
    assert_eq!(world.count("events").await, 0);

    link.clear();
    shop.receives(2).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 2);
    nothing_was_put_back(&dispatcher).await;
    // From there on they take the short way again.
    eventually("an event over HTTP is written at once", async || {
        let answer = publish_as_operator(&ingest, &harness::world::unique()).await;
        answer.body["matched"] == 1
    })
    .await;
    world.settles().await;
    world.finish().await;
}

#[tokio::test]
async fn an_event_over_http_whose_commit_was_not_answered_is_delivered_once_and_at_once() {
    let world = World::start().await;
    let (ingest, proxy) = world
        .ingest_through_proxy("DATABASE_URL", world.database_url())
        .await;
    let dispatcher = world.dispatcher().await;
    let shop = world.subscribed(&ingest, answering(200)).await;

    // What follows an event's data in the message that has the statement's parameters.
    proxy.lose_answer("the-unanswered-one", "order.created");
    let answer = world
        .ask(&ingest, "POST", EVENTS, Some(event("the-unanswered-one")))
        .await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["matched"], 1, "{}", answer.body);
    assert_eq!(proxy.lost(), 1);
    shop.receives(1).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    assert_eq!(world.count("events").await, 1);
    nothing_was_put_back(&dispatcher).await;
    world.finish().await;
}

#[tokio::test]
async fn an_event_over_http_that_loses_rabbitmq_after_its_commit_is_delivered_once() {
    let world = World::with(&SOON).await;
    let (ingest, link) = world
        .ingest_through_proxy("AMQP_URL", world.amqp_url())
        .await;
    let dispatcher = world.dispatcher().await;
    let shop = world.subscribed(&ingest, answering(200)).await;

    // Nothing of what it says arrives at RabbitMQ.
    link.set(Way::Stalled, Way::Clear);
    let answer = world
        .ask(&ingest, "POST", EVENTS, Some(event("evt-1")))
        .await;
    // It is written, so there is no way back.
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["matched"], 1, "{}", answer.body);
    assert_eq!(shop.arrivals().len(), 0);
    link.end(End::Reset);
    link.clear();

    shop.receives(1).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    assert_eq!(world.count("events").await, 1);
    nothing_was_put_back(&dispatcher).await;
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_back_no_event() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;

    let held_up = world.hold_up_events().await;
    let url = Url::parse(&ingest.url(EVENTS)).unwrap();
    let address = format!("127.0.0.1:{}", url.port().unwrap());
    let mut client = TcpStream::connect(&address).await.unwrap();
    let body = event("evt-1").to_string();
    let request = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
         X-Tenant-ID: {TENANT}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    is_held_up(&world).await;
    drop(client);
    held_up.batch_execute("COMMIT").await.unwrap();

    shop.receives(1).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn what_is_asked_over_http_when_ingest_is_told_to_stop_is_answered_and_not_lost() {
    let world = World::with(&SOON).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;

    let held_up = world.hold_up_events().await;
    let (url, body) = (ingest.url(EVENTS), event("evt-1").to_string());
    let asked = tokio::spawn(async move {
        let request = http()
            .post(url)
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", TENANT)
            .header("content-type", "application/json");
        request.body(body).send().await.unwrap().status().as_u16()
    });
    is_held_up(&world).await;
    ingest.stop().await.unwrap();
    assert_eq!(asked.await.unwrap(), 202);
    held_up.batch_execute("COMMIT").await.unwrap();

    let _heir = world.ingest().await;
    shop.receives(1).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 1);
    assert_eq!(world.count("events").await, 1);
    nothing_was_put_back(&dispatcher).await;
    world.finish().await;
}

#[tokio::test]
async fn nothing_is_matched_or_refused_by_an_older_catalogue_than_its_publisher_knew() {
    let world = World::start().await;
    let (ingest, other) = (world.ingest().await, world.ingest().await);
    let shop = world.receiver(answering(200)).await;
    for n in 1..=15 {
        // Changed at one replica, and relied upon at the other one at once.
        let kind = if n % 2 == 0 { "string" } else { "integer" };
        let schema = json!({"schema": {"properties": {"of": {"type": kind}}}});
        let path = "/api/v1/event-types/order.created";
        let put = world.ask(&other, "PUT", path, Some(schema)).await;
        assert!(put.status < 300, "{}", put.body);
        world.webhook(&other, &shop, json!({})).await;
        let publish = async |of: Value| {
            let event = json!({"type": "order.created", "data": {"of": of}});
            world.ask(&ingest, "POST", EVENTS, Some(event)).await
        };
        let (good, bad) = match kind {
            "string" => (json!("a"), json!(1)),
            _ => (json!(1), json!("a")),
        };
        let answer = publish(good).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!(answer.body["matched"], n, "{}", answer.body);
        let answer = publish(bad).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.body["field"], "data", "{}", answer.body);
        let tenant = json!({"id": format!("new-{n}")});
        let made = world
            .ask_as_operator(&other, "POST", "/api/v1/admin/tenants", Some(tenant))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        let request = http()
            .post(ingest.url(EVENTS))
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", format!("new-{n}"))
            .header("content-type", "application/json");
        let answer = request.body(event("evt-1").to_string()).send().await;
        assert_eq!(answer.unwrap().status().as_u16(), 202);
    }
    // Who is told of a refusal over HTTP gets no dead letter as well.
    assert_eq!(world.count("dead_letters").await, 0);
    world.abandon().await;
}

#[tokio::test]
async fn a_tenant_that_changes_all_the_time_holds_up_no_event() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let sql = world.sql().await;
    let changing = tokio::spawn(async move {
        for n in 0.. {
            let change = format!("UPDATE tenants SET name = 'n{n}' WHERE id = '{TENANT}'");
            sql.batch_execute(&change).await.unwrap();
        }
    });
    for n in 0..200 {
        let answer = world
            .ask(&ingest, "POST", EVENTS, Some(event(&format!("evt-{n}"))))
            .await;
        assert_eq!(answer.body["matched"], 1, "{}", answer.body);
    }
    changing.abort();
    shop.receives(200).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 200);
    world.finish().await;
}

#[tokio::test]
async fn a_day_that_is_missing_or_detached_takes_no_event_out_of_the_log() {
    let world = World::with(&SOON).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;

    let sql = world.sql().await;
    let day = async |ago: i32| {
        let day =
            "SELECT to_char(now() AT TIME ZONE 'UTC' - make_interval(days => $1), 'YYYYMMDD')";
        sql.query_one(day, &[&ago])
            .await
            .unwrap()
            .get::<_, String>(0)
    };
    // Nothing of the day before is known, and nothing needs to be.
    let gone = format!("DROP TABLE events_{}", day(1).await);
    sql.batch_execute(&gone).await.unwrap();
    world.publish("order.created", "evt-2", &json!({})).await;
    shop.receives(2).await;

    // A table of that name takes rows still, which nobody would find.
    let today = format!("deliveries_{}", day(0).await);
    let bounds =
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = $1::text::regclass";
    let bounds: String = sql.query_one(bounds, &[&today]).await.unwrap().get(0);
    let detach = format!("ALTER TABLE deliveries DETACH PARTITION {today}");
    sql.batch_execute(&detach).await.unwrap();
    world.publish("order.created", "evt-3", &json!({})).await;
    eventually("ingest has tried to write it", async || {
        world
            .logs()
            .contains("a batch of events could not be written")
    })
    .await;
    let attach = format!("ALTER TABLE deliveries ATTACH PARTITION {today} {bounds}");
    sql.batch_execute(&attach).await.unwrap();
    shop.receives(3).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 3);
    world.finish().await;
}

#[tokio::test]
async fn a_process_without_an_intake_publishes_to_rabbitmq() {
    let world = World::start().await;
    let api = world.ingest_with(&["serve", "--only", "api"]).await;
    let answer = world.ask(&api, "POST", EVENTS, Some(event("evt-1"))).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body, json!({"id": "evt-1", "type": "order.created"}));
    let _intake = world.ingest_with(&["serve", "--only", "intake"]).await;
    world.accepts(1).await;
    world.finish().await;
}
