//! Sending again: many at once, now instead of later, all webhooks', and belatedly.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::receiver::{Reply, answering, answering_in_turn};
use harness::service::Service;
use harness::world::{World, eventually};
use serde_json::{Value, json};

async fn get(world: &World, ingest: &Service, path: &str) -> Value {
    let answer = world.ask(ingest, "GET", path, None).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

async fn publish_all(world: &World, ids: &[&str], event_type: &str) {
    for id in ids {
        world.publish(event_type, id, &json!({})).await;
    }
}

#[tokio::test]
async fn many_deliveries_are_retried_by_one_request_and_each_has_its_answer() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    // The first three requests fail, all later ones don't.
    let shop = world
        .receiver(answering_in_turn(&[404, 404, 404, 200]))
        .await;
    let webhook = world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    publish_all(&world, &["a", "b", "c"], "order.paid").await;
    shop.receives(3).await;
    world.settles().await;
    let failed = world.deliveries(&ingest, &webhook).await;
    let mut ids: Vec<_> = failed.iter().map(|d| d["id"].as_str().unwrap()).collect();
    let unknown = "whd_01kb4v2p8zf5sttdw3m8e7h2xk";
    ids.push(unknown);
    ids.push("nonsense");
    let path = "/api/v1/deliveries/retry";
    let body = json!({"ids": ids});
    let answer = world.ask(&ingest, "POST", path, Some(body.clone())).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        (&answer.body["retried"], &answer.body["refused"]),
        (&json!(3), &json!(2))
    );
    let results = answer.body["results"].as_array().unwrap();
    let statuses: Vec<_> = results
        .iter()
        .map(|r| r["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        ["restarted", "restarted", "restarted", "refused", "refused"]
    );
    shop.receives(6).await;
    world.settles().await;
    let delivered = world.deliveries(&ingest, &webhook).await;
    assert!(
        delivered.iter().all(|d| d["status"] == "delivered"),
        "{delivered:?}"
    );

    // Another tenant's are unknown.
    let token = world.another_tenant(&ingest, "globex").await;
    let others = world
        .ask_as(&token, &ingest, "POST", path, Some(body))
        .await;
    assert_eq!(others.body["retried"], 0);
    let too_many = json!({"ids": vec![unknown; 1_001]});
    let refused = world.ask(&ingest, "POST", path, Some(too_many)).await;
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("ids"))
    );
    shop.receives_no_more_than(6, Duration::from_millis(500))
        .await;
    world.finish().await;
}

#[tokio::test]
async fn a_delivery_that_waits_is_sent_now_and_once() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering_in_turn(&[500, 200])).await;
    // Its retry comes in four seconds.
    let policy = json!({"retry_policy": {"max_retries": 3, "retry_delay": 4000, "jitter": 0}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    world.publish("order.paid", "evt-1", &json!({})).await;
    shop.receives(1).await;
    eventually("it waits for its retry", async || {
        let shown = world.deliveries(&ingest, &webhook).await;
        shown.first().is_some_and(|d| d["status"] == "retrying")
    })
    .await;
    let delivery = world.deliveries(&ingest, &webhook).await.remove(0);
    let id = delivery["id"].as_str().unwrap();
    let path = format!("/api/v1/deliveries/{id}/retry");
    let now = world.ask(&ingest, "POST", &path, None).await;
    assert_eq!(now.status, 202, "{}", now.body);
    // The answer shows the delivery afterwards: it may have been sent by then.
    let attempts = now.body["attempts"].as_i64().unwrap();
    assert!([1, 2].contains(&attempts), "{attempts}");
    let arrivals = shop.receives(2).await;
    // Without the request it would have been four seconds.
    let waited = arrivals[1].at - arrivals[0].at;
    assert!(waited < Duration::from_millis(3_900), "{waited:?}");
    world.settles().await;
    let shown = world.delivery(&ingest, &delivery["id"]).await;
    assert_eq!(shown["status"], "delivered");
    assert_eq!(shown["attempts"], 2);
    // The job that waited in the delay queue comes after four seconds and is dropped.
    shop.receives_no_more_than(2, Duration::from_secs(5)).await;
    world.finish().await;
}

#[tokio::test]
async fn deliveries_are_found_by_webhook_patterns_classes_and_outcomes() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world
        .receiver(Arc::new(|_, arrival| match arrival.id() {
            "evt-500" => Reply::status(500),
            "evt-404" => Reply::status(404),
            _ => Reply::status(200),
        }))
        .await;
    let webhook = world
        .webhook(
            &ingest,
            &shop,
            json!({"retries": 0, "events": ["order.*", "user.*"]}),
        )
        .await;
    // Nobody listens there.
    let nowhere = json!({
        "url": "http://127.0.0.1:9/", "events": ["order.paid"], "retries": 0
    });
    let nowhere = world
        .ask(&ingest, "POST", "/api/v1/webhooks", Some(nowhere))
        .await;
    let nowhere = nowhere.body["id"].as_str().unwrap().to_owned();
    for (kind, id) in [
        ("order.paid", "evt-200"),
        ("order.lost", "evt-500"),
        ("user.lost", "evt-404"),
    ] {
        world.publish(kind, id, &json!({})).await;
    }
    shop.receives(3).await;
    world.settles().await;
    for (filter, expected) in [
        (
            format!("webhook_id={}", webhook.id),
            vec!["evt-200", "evt-404", "evt-500"],
        ),
        (format!("webhook_id={nowhere}"), vec!["evt-200"]),
        (
            format!("webhook_id={nowhere},{}&event_type=user.*", webhook.id),
            vec!["evt-404"],
        ),
        (
            "event_type=order.*,user.lost".to_owned(),
            vec!["evt-200", "evt-200", "evt-404", "evt-500"],
        ),
        ("response_code=5xx".to_owned(), vec!["evt-500"]),
        (
            "response_code=5xx,none".to_owned(),
            vec!["evt-200", "evt-500"],
        ),
        ("response_code=404,4xx".to_owned(), vec!["evt-404"]),
        ("outcome=connect".to_owned(), vec!["evt-200"]),
        (
            "outcome=server_error,client_error&status=failed".to_owned(),
            vec!["evt-404", "evt-500"],
        ),
        (
            "event_id=evt-200&response_code=none".to_owned(),
            vec!["evt-200"],
        ),
    ] {
        let page = get(&world, &ingest, &format!("/api/v1/deliveries?{filter}")).await;
        let found = page["deliveries"].as_array().unwrap().iter();
        let mut ids: Vec<_> = found.map(|d| d["event_id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, expected, "{filter}");
    }
    for wrong in [
        "response_code=6xx",
        "outcome=odd",
        "webhook_id=x",
        "event_type=ord*",
    ] {
        let path = format!("/api/v1/deliveries?{wrong}");
        let answer = world.ask(&ingest, "GET", &path, None).await;
        assert_eq!(answer.status, 422, "{wrong}: {}", answer.body);
        let field = wrong.split('=').next().unwrap();
        assert_eq!(answer.body["field"], field, "{wrong}");
    }
    // Replays filter in the same way.
    let since = "2020-01-01T00:00:00Z";
    let all = json!({
        "since": since, "dry_run": true, "status": ["failed", "delivered"],
        "event_types": ["order.*"], "response_code": ["5xx", "none", 200]
    });
    let dry = world
        .ask(&ingest, "POST", "/api/v1/replays", Some(all))
        .await;
    assert_eq!(dry.status, 200, "{}", dry.body);
    assert_eq!(dry.body["matching"], 3);
    assert_eq!(
        dry.body["by_type"],
        json!([{"event_type": "order.paid", "matching": 2}, {"event_type": "order.lost", "matching": 1}])
    );
    assert!(dry.body["oldest"].is_string());
    let by_status = dry.body["by_status"].as_array().unwrap();
    let states: Vec<_> = by_status.iter().map(|of| &of["status"]).collect();
    assert_eq!(states, ["delivered", "failed", "expired", "cancelled"]);
    let all = by_status
        .iter()
        .map(|of| of["deliveries"].as_i64().unwrap());
    assert_eq!(all.sum::<i64>(), 3, "{by_status:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_replay_of_the_whole_tenant_goes_through_its_webhooks_and_tells_its_results() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    // Each endpoint fails twice; the second goes on failing.
    let mended = world.receiver(answering_in_turn(&[404, 404, 200])).await;
    let broken = world.receiver(answering(404)).await;
    world.webhook(&ingest, &mended, json!({"retries": 0})).await;
    let off = world.webhook(&ingest, &broken, json!({"retries": 0})).await;
    world.webhook(&ingest, &broken, json!({"retries": 0})).await;
    publish_all(&world, &["a", "b"], "order.paid").await;
    mended.receives(2).await;
    broken.receives(4).await;
    world.settles().await;
    let path = format!("/api/v1/webhooks/{}", off.id);
    world
        .ask(&ingest, "PATCH", &path, Some(json!({"active": false})))
        .await;

    let body = json!({"since": "2020-01-01T00:00:00Z", "rate": 100});
    let made = world
        .ask(&ingest, "POST", "/api/v1/replays", Some(body))
        .await;
    assert_eq!(made.status, 202, "{}", made.body);
    assert_eq!(made.body["matching"], 4);
    assert_eq!(made.body["webhook_id"], Value::Null);
    let path = format!("/api/v1/replays/{}", made.body["id"].as_str().unwrap());
    mended.receives(4).await;
    broken.receives(6).await;
    eventually("the replay ends", async || {
        get(&world, &ingest, &path).await["status"] == "finished"
    })
    .await;
    world.settles().await;
    let shown = get(&world, &ingest, &path).await;
    assert_eq!(shown["replayed"], 4);
    let mut results = shown["results"].clone();
    let members = results.as_object_mut().unwrap();
    let series = members.remove("series").unwrap();
    let begun = series.as_array().unwrap().iter();
    let begun: i64 = begun.map(|step| step["begun"].as_i64().unwrap()).sum();
    assert_eq!(begun, 4, "{series}");
    assert_eq!(members.remove("step_seconds"), Some(json!(1)));
    assert_eq!(
        results,
        json!({
            "taken": 2, "waiting": 0, "failed_again": 2,
            "by_class": [{"class": "4xx", "deliveries": 2}], "counted": true
        })
    );
    let list = get(&world, &ingest, "/api/v1/replays?status=finished").await;
    assert_eq!(list["replays"][0]["id"], made.body["id"]);
    // A webhook that is switched off gets nothing.
    broken
        .receives_no_more_than(6, Duration::from_millis(500))
        .await;
    world.finish().await;
}

#[tokio::test]
async fn a_ramp_slows_down_while_the_endpoint_is_overloaded() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world
        .receiver(Arc::new(|n, _| {
            Reply::status(if n < 20 { 404 } else { 503 })
        }))
        .await;
    let webhook = world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    let ids: Vec<_> = (0..20).map(|n| format!("evt-{n}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    publish_all(&world, &ids, "order.paid").await;
    shop.receives(20).await;
    world.settles().await;
    let body = json!({"since": "2020-01-01T00:00:00Z", "rate": 100, "ramp": true});
    let path = format!("/api/v1/webhooks/{}/replay", webhook.id);
    let made = world.ask(&ingest, "POST", &path, Some(body)).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let path = format!("/api/v1/replays/{}", made.body["id"].as_str().unwrap());
    eventually("its rate has fallen below what it began with", async || {
        let rate = get(&world, &ingest, &path).await["rate_now"].as_f64();
        rate.is_some_and(|rate| rate < 2.0)
    })
    .await;
    let cancelled = world
        .ask(&ingest, "POST", &format!("{path}/cancel"), None)
        .await;
    assert_eq!(cancelled.body["status"], "cancelled");
    // Two a second at most: it can't have got through in this time.
    assert!(cancelled.body["replayed"].as_i64().unwrap() < 20);
    world.finish().await;
}

#[tokio::test]
async fn a_new_webhook_gets_the_events_that_it_would_have_matched_once() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    for (n, total) in [5, 500, 50, 700].iter().enumerate() {
        let data = json!({"total": total});
        world
            .publish("order.paid", &format!("evt-{n}"), &data)
            .await;
        world.accepts(n as i64 + 1).await;
    }
    world
        .publish("user.created", "evt-9", &json!({"total": 900}))
        .await;
    world.accepts(5).await;
    let shop = world.receiver(answering(200)).await;
    let form = json!({"events": ["order.*"], "filters": {"total": {"$gte": 100}}});
    let webhook = world.webhook(&ingest, &shop, form).await;
    world
        .publish("order.paid", "evt-new", &json!({"total": 800}))
        .await;
    shop.receives(1).await;
    world.settles().await;

    let path = format!("/api/v1/webhooks/{}/backfill", webhook.id);
    let ask = |dry_run: bool| {
        let body = json!({"since": "2020-01-01T00:00:00Z", "dry_run": dry_run, "rate": 100});
        world.ask(&ingest, "POST", &path, Some(body))
    };
    let dry = ask(true).await;
    assert_eq!(dry.status, 200, "{}", dry.body);
    assert_eq!(
        (&dry.body["matching"], &dry.body["counted"]),
        (&json!(2), &json!(true))
    );
    shop.receives_no_more_than(1, Duration::from_millis(300))
        .await;
    let made = ask(false).await;
    assert_eq!(made.status, 202, "{}", made.body);
    assert_eq!(made.body["kind"], "backfill");
    let mut got: Vec<_> = shop.receives(3).await[1..]
        .iter()
        .map(|arrival| arrival.id().to_owned())
        .collect();
    got.sort_unstable();
    assert_eq!(got, ["evt-1", "evt-3"]);
    let shown = format!("/api/v1/replays/{}", made.body["id"].as_str().unwrap());
    eventually("the backfill ends", async || {
        get(&world, &ingest, &shown).await["status"] == "finished"
    })
    .await;
    world.settles().await;
    let shown = get(&world, &ingest, &shown).await;
    assert_eq!(
        (&shown["replayed"], &shown["results"]["taken"]),
        (&json!(2), &json!(2))
    );
    // Twice sends nothing twice, and the audit finds events and deliveries equal.
    assert_eq!(ask(true).await.body["matching"], 0);
    assert!(
        world
            .audit()
            .await
            .contains("0 events with missing deliveries")
    );
    shop.receives_no_more_than(3, Duration::from_millis(300))
        .await;
    world.finish().await;
}

/// Nine counts, each of which looks for up to two seconds, and eight connections of the API's.
#[tokio::test]
async fn counts_of_what_webhooks_lack_leave_connections_for_other_requests() {
    const TENANTS: [&str; 3] = ["one", "two", "three"];
    /// One count looks for about two seconds where nine share two cores.
    const EVENTS: i32 = 40_000;
    /// A list takes milliseconds. A count may end meanwhile by chance, but not during each of these.
    const LISTS: usize = 20;
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    world.webhook(&ingest, &shop, json!({})).await;
    let sql = world.sql().await;
    let mut asked = Vec::new();
    for tenant in TENANTS {
        let token = world.another_tenant(&ingest, tenant).await;
        let form = json!({"url": shop.url("/all"), "events": ["order.*"], "filters": {"n": -1}});
        let path = "/api/v1/webhooks";
        let made = world
            .ask_as(&token, &ingest, "POST", path, Some(form))
            .await;
        let id = made.body["id"].as_str().unwrap().to_owned();
        asked.push((token, format!("{path}/{id}/backfill")));
        let events = format!(
            "INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched)
             SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - n), 12, '0')
                     || substr(replace(gen_random_uuid()::text, '-', ''), 13))::uuid,
                 '{tenant}', 'evt-' || n, 'order.paid', now(), '{{\"n\": ' || n || '}}', 0
             FROM generate_series(1, {EVENTS}) n"
        );
        sql.batch_execute(&events).await.unwrap();
    }
    sql.batch_execute("ANALYZE events").await.unwrap();
    // A tenant has three requests at a time. All count without a pause until the others are done.
    let (finished, are_done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let counts = asked
        .iter()
        .flat_map(|one| [one; 3])
        .map(|(token, path)| async {
            let body = json!({"since": "2020-01-01T00:00:00Z", "dry_run": true});
            while !are_done.load(Ordering::Relaxed) {
                let counted = world
                    .ask_as(token, &ingest, "POST", path, Some(body.clone()))
                    .await;
                assert_eq!(counted.body["matching"], 0, "{}", counted.body);
                finished.fetch_add(1, Ordering::Relaxed);
            }
        });
    let others = async {
        let looking = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND query LIKE '-- %_to_backfill%'";
        eventually("the counts look", async || {
            sql.query_one(looking, &[]).await.unwrap().get::<_, i64>(0) >= 8
        })
        .await;
        // If counts kept their connections, each list would wait until one has finished.
        let mut waited_for_none = false;
        for _ in 0..LISTS {
            let before = finished.load(Ordering::Relaxed);
            get(&world, &ingest, "/api/v1/webhooks").await;
            waited_for_none |= finished.load(Ordering::Relaxed) == before;
        }
        are_done.store(true, Ordering::Relaxed);
        waited_for_none
    };
    let (waited_for_none, _) = tokio::join!(others, futures_util::future::join_all(counts));
    assert!(waited_for_none, "each of {LISTS} lists waited for a count");
    world.finish().await;
}
