//! Why an event went where it did, before and after it was published; and who changed what.

#![allow(clippy::unwrap_used)]

use harness::receiver::answering;
use harness::service::Service;
use harness::world::World;
use serde_json::{Value, json};

async fn get(world: &World, ingest: &Service, path: &str) -> Value {
    let answer = world.ask(ingest, "GET", path, None).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

async fn post(world: &World, ingest: &Service, path: &str, body: Value) -> Value {
    let answer = world.ask(ingest, "POST", path, Some(body)).await;
    assert!(
        answer.status < 300,
        "{path}: {} {}",
        answer.status,
        answer.body
    );
    answer.body
}

#[tokio::test]
async fn an_event_says_which_pattern_and_clause_decided_for_each_webhook() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let filter = json!({"total": {"$gte": 100}, "$or": [{"city": "Linz"}, {"city": "Graz"}]});
    let wants = json!({"events": ["user.*", "order.*"], "filters": filter});
    let wants = world.webhook(&ingest, &shop, wants).await;
    let refuses = json!({"events": ["order.paid"], "filters": {"total": {"$gt": 500}}});
    let refuses = world.webhook(&ingest, &shop, refuses).await;
    let deaf = world
        .webhook(&ingest, &shop, json!({"events": ["user.*"]}))
        .await;
    let event =
        json!({"type": "order.paid", "id": "evt-1", "data": {"total": 120, "city": "Graz"}});
    post(&world, &ingest, "/api/v1/events", event.clone()).await;
    world.accepts(1).await;

    let shown = get(&world, &ingest, "/api/v1/events/evt-1").await;
    let of = |list: &Value, id: &str| {
        let mut rows = list.as_array().unwrap().iter();
        rows.find(|row| row["webhook_id"] == id).unwrap().clone()
    };
    let matched = of(&shown["matching"], &wants.id);
    assert_eq!(matched["result"], "matched");
    assert_eq!(matched["pattern"], "order.*");
    let mut clauses: Vec<_> = matched["clauses"].as_array().unwrap().clone();
    clauses.sort_by_key(|clause| clause["at"].as_str().unwrap().to_owned());
    assert_eq!(
        json!(clauses),
        json!([
            {"at": "/$or/1/city", "clause": "city $eq \"Graz\"", "found": "\"Graz\""},
            {"at": "/total/$gte", "clause": "total $gte 100", "found": "120"},
        ])
    );
    let refused = of(&shown["matching"], &refuses.id);
    assert_eq!(refused["result"], "refused");
    assert_eq!(refused["pattern"], "order.paid");
    assert_eq!(refused["at"], "/total/$gt");
    assert_eq!(of(&shown["matching"], &deaf.id)["result"], "not_listening");

    // A dry run says the same, and publishes nothing.
    let asked = json!({"type": "order.paid", "data": {"total": 120, "city": "Graz"}});
    let path = "/api/v1/events?dry_run=true";
    let dry = world.ask(&ingest, "POST", path, Some(asked)).await;
    assert_eq!(dry.status, 200, "{}", dry.body);
    assert_eq!(dry.body["accepted"], true);
    assert_eq!(dry.body["matched"], 1);
    assert_eq!(dry.body["matching"][0]["webhook_id"], wants.id.as_str());
    assert_eq!(dry.body["matching"][0]["clauses"], matched["clauses"]);
    assert_eq!(of(&dry.body["matching"], &refuses.id)["result"], "refused");
    world.settles().await;
    assert_eq!(world.count("events").await, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_dry_run_says_what_the_types_schema_has_against_an_event() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let path = "/api/v1/event-types/order.paid";
    let schema = json!({"schema": {"type": "object", "required": ["total"]}});
    let made = world.ask(&ingest, "PUT", path, Some(schema)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let dry = |data: Value| {
        let body = json!({"type": "order.paid", "data": data});
        post(&world, &ingest, "/api/v1/events?dry_run=true", body)
    };
    let refused = dry(json!({})).await;
    assert_eq!(refused["accepted"], false);
    assert!(refused["detail"].as_str().unwrap().contains("total"));
    let taken = dry(json!({"total": 1})).await;
    assert_eq!(
        (&taken["accepted"], &taken["detail"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(world.count("events").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_preview_says_what_a_webhook_with_the_same_filter_then_gets() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let totals = [50, 150, 20, 700, 100];
    for (n, total) in totals.iter().enumerate() {
        let event =
            json!({"type": "order.paid", "id": format!("evt-{n}"), "data": {"total": total}});
        post(&world, &ingest, "/api/v1/events", event).await;
    }
    let other = json!({"type": "user.created", "data": {"total": 900}});
    post(&world, &ingest, "/api/v1/events", other).await;
    world.accepts(6).await;

    let form = json!({"events": ["order.*"], "filters": {"total": {"$gte": 100}}});
    let preview = post(&world, &ingest, "/api/v1/webhooks/preview", form.clone()).await;
    assert_eq!(preview["looked_at"], 6);
    assert_eq!(preview["all"], true);
    assert_eq!(preview["listening"], 5);
    assert_eq!(preview["matched"], 3);
    assert_eq!(
        preview["by_clause"],
        json!([{"at": "/total/$gte", "clause": "total $gte 100", "refused": 2}])
    );
    let events = preview["events"].as_array().unwrap();
    let wanted = events.iter().filter(|event| event["result"] == "matched");
    let mut wanted: Vec<_> = wanted.map(|event| event["id"].as_str().unwrap()).collect();
    wanted.sort_unstable();
    assert_eq!(wanted, ["evt-1", "evt-3", "evt-4"]);
    assert_eq!(world.count("webhooks").await, 0);

    // The same webhook gets the same of the same events.
    let shop = world.receiver(answering(200)).await;
    world.webhook(&ingest, &shop, form).await;
    for (n, total) in totals.iter().enumerate() {
        let event =
            json!({"type": "order.paid", "id": format!("again-{n}"), "data": {"total": total}});
        post(&world, &ingest, "/api/v1/events", event).await;
    }
    let mut got: Vec<_> = shop
        .receives(3)
        .await
        .iter()
        .map(|a| a.id().to_owned())
        .collect();
    got.sort_unstable();
    assert_eq!(got, ["again-1", "again-3", "again-4"]);

    for (form, field) in [
        (json!({"events": ["ord*"]}), "events[0]"),
        (
            json!({"events": ["*"], "filters": {"a": {"$odd": 1}}}),
            "filters",
        ),
    ] {
        let path = "/api/v1/webhooks/preview";
        let answer = world.ask(&ingest, "POST", path, Some(form)).await;
        assert_eq!((answer.status, &answer.body["field"]), (422, &json!(field)));
    }
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_that_previews_without_end_is_told_to_wait() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let others = world.another_tenant(&ingest, "globex").await;
    let path = "/api/v1/webhooks/preview";
    let form = json!({"events": ["order.*"]});
    let begun = std::time::Instant::now();
    // Ten may come at once, and five more each second. So some of sixty are refused, unless they
    // take ten seconds.
    let previews = (0..60).map(|_| world.ask(&ingest, "POST", path, Some(form.clone())));
    let answers = futures_util::future::join_all(previews).await;
    let allowed = 10 + 5 * (begun.elapsed().as_secs() as usize + 1);
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(accepted <= allowed, "{accepted} of at most {allowed}");
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("previews"), "{}", refused.body);
    // Another tenant has a limit of its own.
    let asked = world
        .ask_as(&others, &ingest, "POST", path, Some(form))
        .await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    world.finish().await;
}

#[tokio::test]
async fn events_say_how_they_came_and_those_that_nobody_wanted_are_found() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    world
        .webhook(&ingest, &shop, json!({"events": ["order.*"]}))
        .await;
    world.publish("order.paid", "evt-1", &json!({})).await;
    world.publish("user.created", "evt-2", &json!({})).await;
    world.accepts(2).await;
    let event = json!({"type": "user.deleted", "id": "evt-3", "data": {}});
    post(&world, &ingest, "/api/v1/events", event).await;
    world.accepts(3).await;

    for (id, came_by) in [("evt-1", "amqp"), ("evt-2", "amqp"), ("evt-3", "http")] {
        let shown = get(&world, &ingest, &format!("/api/v1/events/{id}")).await;
        assert_eq!(shown["came_by"], came_by, "{id}");
    }
    for (filter, expected) in [
        ("matched=0", vec!["evt-3", "evt-2"]),
        ("matched=0&type=user.created", vec!["evt-2"]),
        ("type=user.*", vec!["evt-3", "evt-2"]),
        ("type=user.deleted,order.*", vec!["evt-3", "evt-1"]),
    ] {
        let found = get(&world, &ingest, &format!("/api/v1/events?{filter}")).await;
        let found = found["events"].as_array().unwrap().iter();
        let ids: Vec<_> = found.map(|event| event["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{filter}");
    }
    let refused = world
        .ask(&ingest, "GET", "/api/v1/events?matched=1", None)
        .await;
    assert_eq!(refused.status, 422);
    world.finish().await;
}

#[tokio::test]
async fn the_history_says_who_changed_what_and_holds_no_secret() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let secret = "whsec_aGlzdG9yeSBoYXMgbm8gc2VjcmV0";
    let more = json!({"secret": secret, "headers": {"X-Key": "opensesame"}});
    let webhook = world.webhook(&ingest, &shop, more).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let made = get(&world, &ingest, &path).await;
    let change = json!({"description": "the shop", "events": ["order.*"]});
    world.ask(&ingest, "PATCH", &path, Some(change)).await;
    let rotated = world
        .ask(&ingest, "POST", &format!("{path}/rotate-secret"), None)
        .await;
    let new_secret = rotated.body["secret"].as_str().unwrap().to_owned();
    assert!(
        rotated.body["secret_made_at"].as_str() > made["secret_made_at"].as_str(),
        "{}",
        rotated.body
    );
    let limits = json!({"limits": {"webhooks": 7}});
    world
        .ask_as_operator(&ingest, "PATCH", "/api/v1/admin/tenants/acme", Some(limits))
        .await;

    let history = format!("/api/v1/changes?object={}", webhook.id);
    let shown = get(&world, &ingest, &history).await;
    let changes = shown["changes"].as_array().unwrap();
    let actions: Vec<_> = changes
        .iter()
        .map(|c| c["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["changed", "changed", "created"], "{shown}");
    assert_eq!(changes[1]["before"]["events"], json!(["*"]));
    assert_eq!(changes[1]["after"]["events"], json!(["order.*"]));
    assert_eq!(changes[1]["after"]["description"], "the shop");
    assert_eq!(changes[1]["after"].as_object().unwrap().len(), 2, "{shown}");
    assert_eq!(changes[0]["after"]["secret"], "…");
    let actor = changes[0]["actor"].as_str().unwrap();
    assert!(
        actor.starts_with("token pht_") && actor.len() < 30,
        "{actor}"
    );

    let all = get(&world, &ingest, "/api/v1/changes").await;
    let latest = &all["changes"][0];
    assert_eq!(latest["actor"], "operator");
    assert_eq!(latest["kind"], "tenant");
    assert_eq!(latest["before"], json!({"limits.webhooks": 100}));
    assert_eq!(latest["after"], json!({"limits.webhooks": 7}));

    let stored: String = world
        .sql()
        .await
        .query_one(
            "SELECT coalesce(string_agg(c::text, ' '), '') FROM changes c",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    for hidden in [secret, &new_secret, "opensesame", "\\x"] {
        assert!(!stored.contains(hidden), "{hidden} in {stored}");
    }

    // What is deleted leaves no URL behind.
    world.ask(&ingest, "DELETE", &path, None).await;
    let gone = get(&world, &ingest, &history).await;
    assert_eq!(gone["changes"][0]["action"], "deleted");
    for change in gone["changes"].as_array().unwrap() {
        assert_eq!(
            (&change["before"], &change["after"]),
            (&Value::Null, &Value::Null)
        );
    }
    // Another tenant sees none of it.
    let token = world.another_tenant(&ingest, "globex").await;
    let others = world.ask_as(&token, &ingest, "GET", &history, None).await;
    assert_eq!(others.body["changes"], json!([]));
    world.finish().await;
}
