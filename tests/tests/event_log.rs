//! Events over HTTP: batches, search, and why a webhook did or didn't get an event.

#![allow(clippy::unwrap_used)]

use harness::receiver::answering;
use harness::service::Service;
use harness::world::{Answer, TENANT, World};
use serde_json::{Value, json};

async fn ask(world: &World, ingest: &Service, method: &str, path: &str, body: Value) -> Answer {
    let body = (!body.is_null()).then_some(body);
    world.ask(ingest, method, path, body).await
}

fn names<'a>(list: &'a Value, member: &str) -> Vec<&'a str> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item[member].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_batch_answers_with_the_result_of_each_event() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    let batch = json!({"events": [
        {"type": "order.created", "id": "evt-1", "data": {"n": 1}},
        {"type": "a..b", "data": {}},
        {"eventType": "order.updated", "eventId": "evt-2", "occurredAt": "2026-01-31T10:00:00Z", "payload": {"n": 2}},
        {"type": "order.created", "id": "a b", "data": {}},
        {"type": "order.created"},
        {"type": "order.created", "data": {}, "occurred_at": "9999-12-31T23:59:59-05:00"},
        {"type": "order.created", "data": "x".repeat(300_000)},
        {"type": "order.created", "data": {"n": 3}},
    ]});
    let answer = ask(
        &world,
        &ingest,
        "POST",
        "/api/v1/events/batch",
        batch.clone(),
    )
    .await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let body = &answer.body;
    assert_eq!(
        (&body["accepted"], &body["refused"]),
        (&json!(3), &json!(5))
    );
    let results = body["results"].as_array().unwrap();
    let accepted =
        |id: &str, kind: &str| json!({"status": "accepted", "id": id, "type": kind, "matched": 1});
    assert_eq!(results[0], accepted("evt-1", "order.created"));
    assert_eq!(results[2], accepted("evt-2", "order.updated"));
    for (n, field, words) in [
        (1, json!("type"), "event type"),
        (3, json!("id"), "visible ASCII"),
        (4, json!("data"), "missing"),
        (5, json!("occurred_at"), "RFC 3339"),
        (6, json!("data"), "262144"),
    ] {
        assert_eq!(results[n]["status"], "refused", "{n}");
        assert_eq!(results[n]["field"], field, "{n}");
        assert!(
            results[n]["detail"].as_str().unwrap().contains(words),
            "{n}"
        );
    }
    assert!(results[7]["id"].as_str().unwrap().starts_with("evt_"));
    assert_eq!(shop.receives(3).await.len(), 3);

    // Again: the two events with their own ids are known, the third is a new one.
    ask(&world, &ingest, "POST", "/api/v1/events/batch", batch).await;
    shop.receives(4).await;
    world.settles().await;
    assert_eq!(world.count("events").await, 4);
    world.finish().await;
}

#[tokio::test]
async fn a_batch_has_bounds_of_its_own() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let event = json!({"type": "order.created", "data": {}});
    for (events, bound) in [
        (json!([]), "1 to 1000"),
        (json!(vec![event; 1001]), "1 to 1000"),
    ] {
        let body = json!({ "events": events });
        let answer = ask(&world, &ingest, "POST", "/api/v1/events/batch", body).await;
        assert_eq!(
            (answer.status, &answer.body["field"]),
            (422, &json!("events"))
        );
        assert!(answer.body["detail"].as_str().unwrap().contains(bound));
    }
    // Larger than any other request body may be, and larger than a batch may be.
    let large = json!({"type": "order.created", "data": "x".repeat(200_000)});
    let body = json!({"events": vec![large.clone(); 10]});
    let answer = ask(&world, &ingest, "POST", "/api/v1/events/batch", body).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(10)));
    let body = json!({"events": vec![large; 50]});
    let answer = ask(&world, &ingest, "POST", "/api/v1/events/batch", body).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
    assert!(answer.body["detail"].as_str().unwrap().contains("8388608"));
    world.accepts(10).await;
    world.finish().await;
}

#[tokio::test]
async fn an_event_is_shown_with_its_deliveries_and_why_others_did_not_get_it() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let wants = async |more: Value| world.webhook(&ingest, &shop, more).await.id;
    let all = wants(json!({})).await;
    let large = wants(json!({"filters": {"total": {"$gte": 100}}})).await;
    let other = wants(json!({"events": ["item-*"]})).await;
    let off = wants(json!({"active": false})).await;
    let event = json!({"type": "order.created", "id": "evt-1", "data": {"total": 25.00},
                       "occurred_at": "2026-01-31T11:00:00+01:00"});
    ask(&world, &ingest, "POST", "/api/v1/events", event).await;
    shop.receives(1).await;
    world.settles().await;

    let shown = ask(&world, &ingest, "GET", "/api/v1/events/evt-1", Value::Null).await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    let body = &shown.body;
    assert_eq!(
        (
            &body["id"],
            &body["type"],
            &body["matched"],
            &body["occurred_at"]
        ),
        (
            &json!("evt-1"),
            &json!("order.created"),
            &json!(1),
            &json!("2026-01-31T10:00:00.000Z")
        )
    );
    assert_eq!(body["data"], json!({"total": 25.0}));
    assert_eq!(body["deliveries"][0]["webhook_id"], json!(all));
    assert_eq!(body["deliveries"][0]["status"], "delivered");
    assert_eq!(body["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(
        names(&body["matching"], "webhook_id"),
        [&all, &large, &other, &off]
    );
    assert_eq!(
        names(&body["matching"], "result"),
        ["matched", "refused", "not_listening", "matched"]
    );
    let refused = &body["matching"][1];
    assert_eq!(refused["at"], "/total/$gte", "{refused}");
    assert!(
        refused["found"].as_str().unwrap().contains("25"),
        "{refused}"
    );
    assert_eq!(body["matching"][3]["webhook_status"], "inactive");
    assert_eq!(refused["changed_since"], false);

    // The matching shows the webhook as it is now, page by page.
    let path = format!("/api/v1/webhooks/{large}");
    ask(&world, &ingest, "PATCH", &path, json!({"filters": null})).await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/v1/events/evt-1?limit=1{cursor}");
        let page = ask(&world, &ingest, "GET", &path, Value::Null).await.body;
        assert_eq!(page["matching"].as_array().unwrap().len(), 1);
        seen.push(page["matching"][0].clone());
        match page["next_matching_cursor"].as_str() {
            Some(next) => cursor = format!("&matching_cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(
        (&seen[1]["result"], &seen[1]["changed_since"]),
        (&json!("matched"), &json!(true))
    );

    for path in ["/api/v1/events/evt-2", "/api/v1/events/a%20b"] {
        let answer = ask(&world, &ingest, "GET", path, Value::Null).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn events_are_found_by_type_and_time_and_only_by_their_tenant() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let made = json!({"id": "other"});
    world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(made))
        .await;
    for n in 0..7 {
        let kind = if n % 2 == 0 {
            "order.created"
        } else {
            "item-checkout"
        };
        // One after the other, so that each is accepted later than the one before.
        world.publish(kind, &format!("evt-{n}"), &json!({})).await;
        world.accepts(n + 1).await;
    }
    let search = async |query: &str| {
        let path = format!("/api/v1/events{query}");
        let answer = ask(&world, &ingest, "GET", &path, Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };
    let found = search("").await;
    let newest_first = [
        "evt-6", "evt-5", "evt-4", "evt-3", "evt-2", "evt-1", "evt-0",
    ];
    assert_eq!(names(&found["events"], "id"), newest_first);
    assert_eq!(found["next_cursor"], Value::Null);
    let found = search("?type=item-checkout").await;
    assert_eq!(names(&found["events"], "id"), ["evt-5", "evt-3", "evt-1"]);

    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = search(&format!("?limit=3{cursor}")).await;
        seen.extend(names(&page["events"], "id").into_iter().map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, newest_first);

    let at = search("").await["events"][3]["accepted_at"]
        .as_str()
        .unwrap()
        .to_owned();
    let (since, until) = (
        search(&format!("?since={at}")).await,
        search(&format!("?until={at}")).await,
    );
    assert!(names(&since["events"], "id").contains(&"evt-3"));
    assert!(!names(&until["events"], "id").contains(&"evt-3"));
    assert_eq!(
        since["events"].as_array().unwrap().len() + until["events"].as_array().unwrap().len(),
        7
    );

    for (query, field) in [
        ("?since=yesterday", "since"),
        ("?type=a..b", "type"),
        ("?limit=0", "limit"),
        ("?cursor=x", "cursor"),
    ] {
        let path = format!("/api/v1/events{query}");
        let answer = ask(&world, &ingest, "GET", &path, Value::Null).await;
        assert_eq!((answer.status, &answer.body["field"]), (422, &json!(field)));
    }
    // Another tenant finds none of them, by search or by id.
    let token = json!({"tenant": "other", "role": "viewer"});
    let made = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(token))
        .await;
    let theirs = made.body["token"].as_str().unwrap();
    let found = world
        .ask_as(theirs, &ingest, "GET", "/api/v1/events", None)
        .await;
    assert_eq!(found.body["events"], json!([]));
    let shown = world
        .ask_as(theirs, &ingest, "GET", "/api/v1/events/evt-1", None)
        .await;
    assert_eq!(shown.status, 404);
    assert_eq!(
        world
            .count(&format!("events WHERE tenant = '{TENANT}'"))
            .await,
        7
    );
    world.finish().await;
}

#[tokio::test]
async fn a_search_by_type_reads_a_bounded_number_of_events_and_returns_a_cursor() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    // 10,500 newer events of another type hide one rare event.
    let fill = "INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched) \
        SELECT (left(first_uuid_at(now() - make_interval(secs => 20) + n * interval '1 millisecond')::text, 19) \
                || lpad(to_hex(n), 16, '0'))::uuid, \
               $1, 'evt-' || n, CASE n WHEN 0 THEN 'rare.event' ELSE 'order.created' END, now(), '{}', 0 \
        FROM generate_series(0, 10500) n";
    world.sql().await.execute(fill, &[&TENANT]).await.unwrap();
    let path = "/api/v1/events?type=rare.event";
    let page = ask(&world, &ingest, "GET", path, Value::Null).await.body;
    assert_eq!(page["events"], json!([]), "the 10,000 newest have none");
    let cursor = page["next_cursor"].as_str().unwrap();
    let path = format!("{path}&cursor={cursor}");
    let page = ask(&world, &ingest, "GET", &path, Value::Null).await.body;
    assert_eq!(names(&page["events"], "id"), ["evt-0"]);
    assert_eq!(page["next_cursor"], Value::Null);
    world.finish().await;
}
