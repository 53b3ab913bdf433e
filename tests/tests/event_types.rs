//! The catalogue of event types: types are described and imported, and events are checked
//! against their schemas.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use harness::receiver::answering;
use harness::service::Service;
use harness::world::{Answer, TENANT, World, eventually};
use serde_json::{Value, json};
use shared::postgres;
use shared::revisions::{Changes, Feed, ReadSchema, TenantEventTypes};
use shared::seal::Keyring;
use shared::supervise::Readiness;
use shared::webhook::Subscription;

async fn ask(world: &World, ingest: &Service, method: &str, path: &str, body: Value) -> Answer {
    let body = (!body.is_null()).then_some(body);
    world.ask(ingest, method, path, body).await
}

async fn be_strict(world: &World, ingest: &Service) {
    let path = format!("/api/v1/admin/tenants/{TENANT}");
    let strict = json!({"strict_event_types": true});
    let changed = world
        .ask_as_operator(ingest, "PATCH", &path, Some(strict))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(changed.body["strict_event_types"], true);
}

#[tokio::test]
async fn an_event_type_lives_from_its_description_to_its_deletion() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let path = "/api/v1/event-types/order.created";
    let body = json!({
        "description": "A customer placed an order.", "example": {"total": 1},
        "schema": {"type": "object", "required": ["total"]},
    });
    let made = ask(&world, &ingest, "PUT", path, body.clone()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let shown = ask(&world, &ingest, "GET", path, Value::Null).await;
    assert_eq!(shown.body, made.body);
    for member in ["description", "example", "schema"] {
        assert_eq!(shown.body[member], body[member], "{member}");
    }
    // The same request changes nothing. Leaving a member out clears it.
    let again = ask(&world, &ingest, "PUT", path, body).await;
    assert_eq!((again.status, &again.body), (200, &shown.body));
    let changed = ask(&world, &ingest, "PUT", path, json!({"archived": true})).await;
    assert_eq!(
        (changed.status, &changed.body["archived"]),
        (200, &json!(true))
    );
    assert_eq!(changed.body["schema"], Value::Null);
    assert_ne!(changed.body["updated_at"], shown.body["updated_at"]);

    let list = "/api/v1/event-types?archived=false";
    let listed = ask(&world, &ingest, "GET", list, Value::Null).await;
    assert_eq!(listed.body["event_types"], json!([]));
    assert_eq!(
        ask(&world, &ingest, "DELETE", path, Value::Null)
            .await
            .status,
        204
    );
    for method in ["GET", "DELETE"] {
        assert_eq!(
            ask(&world, &ingest, method, path, Value::Null).await.status,
            404
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn the_five_systems_catalogues_are_one_call_or_one_command_each() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let offered = ask(&world, &ingest, "GET", "/api/v1/catalogues", Value::Null)
        .await
        .body;
    let offered = offered["catalogues"].as_array().unwrap();
    assert_eq!(offered.len(), 5);
    let import = "/api/v1/event-types/import";
    for catalogue in offered.iter().take(4) {
        let body = json!({"catalogue": catalogue["name"]});
        let imported = ask(&world, &ingest, "POST", import, body).await;
        assert_eq!(imported.status, 200, "{}", imported.body);
        let (created, changed) = (&imported.body["created"], &imported.body["changed"]);
        let total = created.as_u64().unwrap() + changed.as_u64().unwrap();
        assert_eq!(json!(total), catalogue["event_types"], "{catalogue}");
    }
    let printed = world
        .command(&["catalogue", "import", "--tenant", TENANT, "rishi"])
        .await;
    assert_eq!(printed, "24 created, 0 changed, 0 deleted");
    let printed = world
        .command(&["catalogue", "import", "--tenant", TENANT, "rishi"])
        .await;
    assert_eq!(printed, "0 created, 0 changed, 0 deleted");
    assert!(
        world
            .command(&["catalogue", "list"])
            .await
            .contains("auraconnect")
    );

    // A whole catalogue, as it is shown; then one that replaces everything.
    let whole = ask(
        &world,
        &ingest,
        "GET",
        "/api/v1/catalogues/jossiedb",
        Value::Null,
    )
    .await;
    let imported = ask(&world, &ingest, "POST", import, whole.body).await.body;
    assert_eq!(imported["created"], 0, "{imported}");
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/v1/event-types?limit=20{cursor}");
        let page = ask(&world, &ingest, "GET", &path, Value::Null).await.body;
        let types = page["event_types"].as_array().unwrap();
        names.extend(types.iter().map(|t| t["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names.len() as i64, world.count("event_types").await);
    assert!(names.contains(&"low-stock-alert".to_owned()));
    let one = json!({"event_types": [{"name": "order.created"}]});
    let replaced = ask(&world, &ingest, "PUT", "/api/v1/event-types", one)
        .await
        .body;
    assert_eq!(replaced["changed"], 1);
    assert_eq!(world.count("event_types").await, 1);
    world.finish().await;
}

#[tokio::test]
async fn events_that_fail_their_schema_are_refused_at_once_or_parked_with_the_reason() {
    let world = World::start().await;
    let (ingest, other) = (world.ingest().await, world.ingest().await);
    let _dispatcher = world.dispatcher().await;
    let shop = world.subscribed(&ingest, answering(200)).await;
    let schema = json!({"properties": {"total": {"type": "number"}}, "required": ["total"]});
    let body = json!({ "schema": schema });
    ask(
        &world,
        &ingest,
        "PUT",
        "/api/v1/event-types/order.created",
        body,
    )
    .await;

    // Over HTTP, also at the replica that didn't get the change.
    let bad = json!({"type": "order.created", "data": {"total": "hunter2"}});
    eventually("the other replica knows too", async || {
        ask(&world, &other, "POST", "/api/v1/events", bad.clone())
            .await
            .status
            == 422
    })
    .await;
    let refused = ask(&world, &ingest, "POST", "/api/v1/events", bad.clone()).await;
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("data"))
    );
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(
        detail.contains("/total") && detail.contains("number"),
        "{detail}"
    );
    assert!(!detail.contains("hunter2"), "{detail}");
    let batch =
        json!({"events": [bad, {"type": "order.created", "id": "evt-1", "data": {"total": 1}}]});
    let answer = ask(&world, &ingest, "POST", "/api/v1/events/batch", batch)
        .await
        .body;
    assert_eq!(
        (&answer["accepted"], &answer["refused"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(answer["results"][0]["field"], "data");

    // Over AMQP: the event is parked, and others are delivered.
    world
        .publish("order.created", "evt-2", &json!({"total": "hunter2"}))
        .await;
    world
        .publish("order.created", "evt-3", &json!({"total": 3}))
        .await;
    let parked = "dead_letters WHERE message_id = 'evt-2' \
                  AND reason LIKE '%`order.created`%at /total: %'";
    eventually("it is parked", async || world.count(parked).await == 1).await;
    let mut ids: Vec<_> = shop
        .receives(2)
        .await
        .iter()
        .map(|a| a.id().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, ["evt-1", "evt-3"]);
    assert!(!world.logs().contains("hunter2"));

    // Without the schema it is a valid event.
    let gone = ask(
        &world,
        &ingest,
        "DELETE",
        "/api/v1/event-types/order.created",
        Value::Null,
    )
    .await;
    assert_eq!(gone.status, 204);
    world.publish("order.created", "evt-4", &json!({})).await;
    shop.receives(3).await;
    world.finish().await;
}

#[tokio::test]
async fn a_strict_tenant_has_only_types_of_its_catalogue() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let types =
        json!({"event_types": [{"name": "order.created"}, {"name": "item-old", "archived": true}]});
    ask(&world, &ingest, "PUT", "/api/v1/event-types", types).await;
    world
        .webhook(&ingest, &shop, json!({"events": ["user.*"]}))
        .await;
    be_strict(&world, &ingest).await;

    for (events, status) in [
        (json!(["order.*"]), 201),
        (json!(["*"]), 201),
        (json!(["order.created", "user.*"]), 422),
        (json!(["item-*"]), 422),
    ] {
        let body = json!({"url": shop.url("/x"), "events": events});
        let made = ask(&world, &ingest, "POST", "/api/v1/webhooks", body).await;
        assert_eq!(made.status, status, "{events}: {}", made.body);
        if status == 422 {
            assert_eq!(made.body["field"], "events");
        } else {
            let path = format!("/api/v1/webhooks/{}", made.body["id"].as_str().unwrap());
            let change = json!({"events": ["nothing"]});
            let changed = ask(&world, &ingest, "PATCH", &path, change).await;
            assert_eq!(changed.status, 422, "{}", changed.body);
        }
    }
    for (kind, status) in [
        ("order.created", 202),
        ("item-old", 202),
        ("user.created", 422),
    ] {
        let event = json!({"type": kind, "data": {}});
        let published = ask(&world, &ingest, "POST", "/api/v1/events", event).await;
        assert_eq!(published.status, status, "{kind}");
    }
    world.publish("user.created", "evt-1", &json!({})).await;
    eventually("it is parked", async || {
        world
            .count("dead_letters WHERE reason LIKE '%`user.created` is not in the catalogue%'")
            .await
            == 1
    })
    .await;
    let rejected = ingest
        .metric("posthorn_events_rejected_total")
        .await
        .unwrap();
    assert_eq!(rejected as i64, 1);
    world.accepts(2).await;
    world
        .sql()
        .await
        .execute(
            "UPDATE deliveries SET state = 'cancelled', due_at = NULL, finished_at = now()",
            &[],
        )
        .await
        .unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_bad_schema_is_refused_by_its_place_and_nothing_is_fetched() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let path = "/api/v1/event-types/order.created";
    for (schema, words) in [
        (
            json!({"properties": {"a": {"type": "nonsense"}}}),
            "/properties/a/type",
        ),
        (
            json!({"$ref": "http://127.0.0.1:1/x"}),
            "nothing is fetched",
        ),
        (json!({"$ref": "file:///etc/passwd"}), "nothing is fetched"),
        (json!({"items": {"$ref": "#"}}), "refers back"),
        (json!({"description": "x".repeat(40_000)}), "32768"),
    ] {
        let refused = ask(&world, &ingest, "PUT", path, json!({ "schema": schema })).await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (422, &json!("schema"))
        );
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail} lacks {words}");
    }
    let unlike = json!({"schema": {"type": "object"}, "example": 1});
    let refused = ask(&world, &ingest, "PUT", path, unlike).await;
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("example"))
    );
    assert_eq!(world.count("event_types").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_tenants_catalogue_is_bounded_and_separate_from_other_tenants() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let types: Vec<_> = (0..1000)
        .map(|n| json!({"name": format!("t.{n}")}))
        .collect();
    let body = json!({ "event_types": types });
    let put = ask(&world, &ingest, "PUT", "/api/v1/event-types", body).await;
    assert_eq!(put.body["created"], 1000);
    let more = ask(
        &world,
        &ingest,
        "PUT",
        "/api/v1/event-types/one.more",
        json!({}),
    )
    .await;
    assert_eq!(more.status, 409, "{}", more.body);
    assert_eq!(world.count("event_types").await, 1000);

    let other = json!({"id": "other"});
    world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(other))
        .await;
    let token = json!({"tenant": "other", "role": "manager"});
    let made = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(token))
        .await;
    let theirs = made.body["token"].as_str().unwrap();
    for method in ["GET", "DELETE"] {
        let answer = world
            .ask_as(theirs, &ingest, method, "/api/v1/event-types/t.1", None)
            .await;
        assert_eq!(answer.status, 404, "{method}");
    }
    let viewer = json!({"tenant": TENANT, "role": "viewer"});
    let made = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(viewer))
        .await;
    let viewer = made.body["token"].as_str().unwrap();
    let body = Some(json!({}));
    let answer = world
        .ask_as(viewer, &ingest, "PUT", "/api/v1/event-types/t.1", body)
        .await;
    assert_eq!(answer.status, 403);
    world.finish().await;
}

/// The schemas that were read, by type, and how many weren't read again.
fn schemas_read(applied: &Mutex<Vec<TenantEventTypes>>) -> (Vec<String>, usize) {
    let applied = std::mem::take(&mut *applied.lock().unwrap());
    let (mut read, mut unchanged) = (Vec::new(), 0);
    for row in applied.into_iter().flat_map(|of_tenant| of_tenant.types) {
        match row.schema {
            ReadSchema::Text(Some(_)) => read.push(row.name.to_string()),
            ReadSchema::Text(None) => {}
            ReadSchema::Unchanged => unchanged += 1,
        }
    }
    read.sort();
    (read, unchanged)
}

#[tokio::test]
async fn a_change_of_one_event_type_reads_its_schema_and_no_other() {
    const TYPES: usize = 300;
    let world = World::start().await;
    let ingest = world.ingest().await;
    let put = async |name: &str, body: Value| {
        let path = format!("/api/v1/event-types/{name}");
        let put = ask(&world, &ingest, "PUT", &path, body).await;
        assert!(put.status < 300, "{}", put.body);
    };
    let name = |n: usize| format!("order.n{n:03}");
    let types: Vec<_> = (0..TYPES)
        .map(|n| json!({"name": name(n), "schema": {"type": "object"}}))
        .collect();
    let catalogue = json!({"event_types": types});
    let made = ask(&world, &ingest, "PUT", "/api/v1/event-types", catalogue).await;
    assert_eq!(made.body["created"], TYPES, "{}", made.body);
    put("order.free", json!({"description": "Without a schema."})).await;

    let applied: Arc<Mutex<Vec<TenantEventTypes>>> = Arc::default();
    let database = postgres::config(&world.database_url().into(), "a test").unwrap();
    let pool = postgres::pool(&database, 1).unwrap();
    let keys = Keyring::from_base64(["dGVzdHMgaGF2ZSBhIG1hc3RlciBrZXkgdG9vISEhISE="]).unwrap();
    let feed = Feed::<Subscription>::new(pool, keys, Readiness::with_sessions(1), {
        let applied = applied.clone();
        move |changes: Changes<Subscription>| applied.lock().unwrap().extend(changes.event_types)
    });
    let nothing: Vec<String> = Vec::new();
    feed.refresh().await.unwrap();
    let all: Vec<_> = (0..TYPES).map(name).collect();
    assert_eq!(schemas_read(&applied), (all, 0));
    feed.refresh().await.unwrap();
    assert_eq!(schemas_read(&applied), (nothing.clone(), 0));

    put(
        &name(7),
        json!({"schema": {"type": "object", "required": ["total"]}}),
    )
    .await;
    feed.refresh().await.unwrap();
    assert_eq!(schemas_read(&applied), (vec![name(7)], TYPES - 1));
    // Without its schema, and without the type.
    put(&name(8), json!({"description": "Anything goes."})).await;
    feed.refresh().await.unwrap();
    assert_eq!(schemas_read(&applied), (nothing.clone(), TYPES - 1));
    let path = format!("/api/v1/event-types/{}", name(9));
    let deleted = ask(&world, &ingest, "DELETE", &path, Value::Null).await;
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    feed.refresh().await.unwrap();
    assert_eq!(schemas_read(&applied), (nothing.clone(), TYPES - 2));
    // A deleted type that comes back has another version.
    put(&name(9), json!({"schema": {"type": "object"}})).await;
    feed.refresh().await.unwrap();
    assert_eq!(schemas_read(&applied), (vec![name(9)], TYPES - 2));
    // A change of the tenant itself.
    be_strict(&world, &ingest).await;
    feed.refresh().await.unwrap();
    assert_eq!(schemas_read(&applied), (nothing, TYPES - 1));

    // Ingest, which has read all of them one after the other, checks events by the latest ones.
    let publish = async |n: usize| {
        let event = json!({"type": name(n), "id": format!("evt-{n}"), "data": {}});
        ask(&world, &ingest, "POST", "/api/v1/events", event)
            .await
            .status
    };
    eventually("the changed schema is known", async || {
        publish(7).await == 422
    })
    .await;
    assert_eq!([publish(8).await, publish(9).await], [202, 202]);
    world.finish().await;
}
