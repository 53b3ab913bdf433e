//! Figures beside the log: what waits, what tenants use, why dead letters are there.

#![allow(clippy::unwrap_used)]

use harness::producer::Publication;
use harness::receiver::{Reply, answering};
use harness::world::{TENANT, World, eventually};
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn a_webhook_says_how_many_of_its_deliveries_wait_and_since_when() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(500)).await;
    let policy = json!({"retry_policy": {"delays": [600_000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    let idle = world
        .webhook(&ingest, &shop, json!({"events": ["nothing"]}))
        .await;
    let shown = async |id: &str| {
        let path = format!("/api/v1/webhooks/{id}");
        world.ask(&ingest, "GET", &path, None).await.body
    };
    // No dispatcher runs: all wait for their first attempt.
    for n in 0..3 {
        world
            .publish("order.paid", &format!("evt-{n}"), &json!({}))
            .await;
        world.accepts(n + 1).await;
    }
    let queued = shown(&webhook.id).await;
    assert_eq!(
        (&queued["waiting"], &queued["waiting_counted"]),
        (&json!(3), &json!(true))
    );
    let first = world
        .ask(&ingest, "GET", "/api/v1/events/evt-0", None)
        .await;
    assert_eq!(queued["oldest_waiting_at"], first.body["accepted_at"]);
    let nothing = shown(&idle.id).await;
    assert_eq!(
        (&nothing["waiting"], &nothing["oldest_waiting_at"]),
        (&json!(0), &Value::Null)
    );

    // Each has failed once and waits for its retry.
    let dispatcher = world.dispatcher().await;
    eventually("three wait for a retry", async || {
        let state = "deliveries WHERE state = 'retrying'";
        world.count(state).await == 3
    })
    .await;
    assert_eq!(shown(&webhook.id).await["waiting"], 3);
    // What a paused webhook holds waits, too.
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    world
        .ask(&ingest, "PATCH", &path, Some(json!({"status": "paused"})))
        .await;
    world.publish("order.paid", "evt-9", &json!({})).await;
    eventually("one is held", async || {
        world
            .count("deliveries WHERE deferred_because = 'paused'")
            .await
            >= 1
    })
    .await;
    assert_eq!(shown(&webhook.id).await["waiting"], 4);
    let list = world.ask(&ingest, "GET", "/api/v1/webhooks", None).await;
    let waiting: Vec<_> = list.body["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|webhook| webhook["waiting"].as_i64().unwrap())
        .collect();
    assert_eq!(waiting, [0, 4]);
    drop(dispatcher);
    world.abandon().await;
}

#[tokio::test]
async fn a_delivery_that_is_delivered_at_once_writes_nothing_to_the_indexes_of_the_console() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    for n in 0..20 {
        world
            .publish("order.paid", &format!("evt-{n}"), &json!({}))
            .await;
    }
    shop.receives(20).await;
    world.settles().await;
    // An index of PostgreSQL's that never had an entry is one page.
    let rows = world
        .sql()
        .await
        .query(
            "SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index \
             WHERE pg_get_indexdef(indexrelid) ~ '(deferred_because IS NOT NULL|restarted_at IS NOT NULL|matched < 1)' \
               AND indrelid::regclass::text ~ '_[0-9]{8}$'",
            &[],
        )
        .await
        .unwrap();
    assert!(rows.len() > 10);
    for row in rows {
        let (index, bytes): (String, i64) = (row.get(0), row.get(1));
        assert_eq!(bytes, 8192, "{index}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_operator_sees_what_tenants_use_and_finds_them_by_name() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world
        .receiver(Arc::new(|n, _| {
            Reply::status(if n == 0 { 404 } else { 200 })
        }))
        .await;
    world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    for n in 0..4 {
        world
            .publish("order.paid", &format!("evt-{n}"), &json!({}))
            .await;
    }
    shop.receives(4).await;
    world.settles().await;
    let tenants = "/api/v1/admin/tenants";
    let made = json!({"id": "globex", "name": "Globex Corporation"});
    world
        .ask_as_operator(&ingest, "POST", tenants, Some(made))
        .await;
    let shown = world
        .ask_as_operator(&ingest, "GET", &format!("{tenants}/acme"), None)
        .await;
    let usage = &shown.body["usage"];
    assert_eq!(
        (&usage["webhooks"], &usage["attempts_this_hour"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(
        (&usage["deliveries_24h"], &usage["success_rate_24h"]),
        (&json!(4), &json!(0.75))
    );
    // One of four attempts failed, and nothing waits.
    assert_eq!(
        (&usage["health"], &usage["waiting"]),
        (&json!("degraded"), &json!(0))
    );
    let all = world
        .ask_as_operator(
            &ingest,
            "GET",
            &format!("{tenants}?q=a&health=failing"),
            None,
        )
        .await;
    assert_eq!(
        all.body["counts"],
        json!({"all": 2, "unused": 1, "healthy": 0, "degraded": 1, "failing": 0})
    );
    for (q, expected) in [
        ("", 2),
        ("?q=CORP", 1),
        ("?q=acm", 1),
        ("?q=nobody", 0),
        ("?health=degraded", 1),
        ("?health=unused&q=corp", 1),
        ("?health=failing", 0),
    ] {
        let found = world
            .ask_as_operator(&ingest, "GET", &format!("{tenants}{q}"), None)
            .await;
        let found = found.body["tenants"].as_array().unwrap().len();
        assert_eq!(found, expected, "{q}");
    }
    world.finish().await;
}

#[tokio::test]
async fn dead_letters_are_told_by_reason_and_a_tenant_sees_its_own_alone() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let producer = world.producer().await;
    for (key, body) in [
        ("acme.order.paid", "not json"),
        ("acme.order.paid", "nor this"),
        ("later.order.paid", "{}"),
    ] {
        let mut message = Publication::json(TENANT, "x", &harness::world::unique(), body);
        message.routing_key = key.to_owned();
        producer.publish(&message).await.unwrap();
    }
    eventually("three dead letters", async || {
        world.count("dead_letters").await == 3
    })
    .await;
    let admin = "/api/v1/admin/dead-letters";
    let reasons = world
        .ask_as_operator(&ingest, "GET", &format!("{admin}/reasons"), None)
        .await;
    assert_eq!(reasons.status, 200, "{}", reasons.body);
    let reasons = reasons.body["reasons"].as_array().unwrap().clone();
    let counts: Vec<_> = reasons
        .iter()
        .map(|of| of["count"].as_i64().unwrap())
        .collect();
    assert_eq!(counts.iter().sum::<i64>(), 3, "{reasons:?}");
    let later = reasons.iter().find(|of| of["tenant"] == "later").unwrap();
    assert_eq!(
        (&later["count"], &later["replayable"]),
        (&json!(1), &json!(true))
    );
    let broken = reasons.iter().filter(|of| of["tenant"] == "acme");
    for of in broken {
        assert_eq!(of["replayable"], false, "no JSON comes back as it is: {of}");
    }
    let found = world
        .ask_as_operator(&ingest, "GET", &format!("{admin}?q=LATER.order"), None)
        .await;
    let found = found.body["dead_letters"].as_array().unwrap().clone();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0]["tenant"], &found[0]["replayable"]),
        (&json!("later"), &json!(true))
    );
    let one = format!("{admin}/{}", found[0]["id"].as_str().unwrap());
    let shown = world.ask_as_operator(&ingest, "GET", &one, None).await;
    assert_eq!(shown.body, found[0]);
    let not_its_own = one.replace("/admin", "");
    let refused = world.ask(&ingest, "GET", &not_its_own, None).await;
    assert_eq!(refused.status, 404, "{}", refused.body);

    let own = world
        .ask(&ingest, "GET", "/api/v1/dead-letters", None)
        .await;
    let own = own.body["dead_letters"].as_array().unwrap().clone();
    assert_eq!(own.len(), 2, "{own:?}");
    assert!(own.iter().all(|letter| letter["tenant"] == "acme"));
    let one = format!("/api/v1/dead-letters/{}", own[0]["id"].as_str().unwrap());
    let shown = world.ask(&ingest, "GET", &one, None).await;
    assert_eq!((shown.status, &shown.body), (200, &own[0]));

    // By ids: one of them is discarded, and one is replayed and comes back.
    let id = own[0]["id"].as_str().unwrap();
    let gone = world
        .ask_as_operator(&ingest, "DELETE", &format!("{admin}?ids={id}"), None)
        .await;
    assert_eq!(gone.body["discarded"], 1, "{}", gone.body);
    let body = json!({"ids": [own[1]["id"]]});
    let replayed = world
        .ask_as_operator(&ingest, "POST", &format!("{admin}/replay"), Some(body))
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    eventually("it is back", async || {
        world.count("dead_letters").await == 2
    })
    .await;
    world.finish().await;
}
