//! The API's description and its answers agree: every JSON answer has an example of the same
//! shape, and every header that is declared is there.
//!
//! One walk visits every operation that answers with JSON. `ingest/src/api/openapi/examples.json`
//! has such a walk's answers; the description shows them. When an answer's shape changes,
//! `RECORD_EXAMPLES=1` with this test writes the file anew.

#![allow(clippy::unwrap_used)]

mod shape;
mod steps;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::http;
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::json;
use shape::{differs, presentable};
use steps::{
    visit_a_listener_and_deletions, visit_backfills_and_rematches,
    visit_catalogues_and_event_types, visit_dead_letters, visit_events_and_deliveries,
    visit_previews_and_changes, visit_replays, visit_tenants_and_tokens, visit_webhooks,
};
use walk::{Walk, read, text};

const EXAMPLES: &str = "../ingest/src/api/openapi/examples.json";

/// A fast sweeper.
const BRISK: [(&str, &str); 2] = [("SWEEP_GRACE", "2"), ("SWEEP_INTERVAL", "1")];

#[tokio::test]
async fn every_json_answer_has_an_example_of_its_shape_and_every_declared_header_is_there() {
    let world = World::with(&BRISK).await;
    let ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let mut walk = Walk::new(&ingest).await;

    visit_tenants_and_tokens(&world, &mut walk).await;
    visit_catalogues_and_event_types(&mut walk).await;
    let webhook = visit_webhooks(&mut walk, &shop).await;
    // A webhook that listens to other events until these are accepted.
    let belated = world.receiver(answering(200)).await;
    let late = json!({"events": ["other.*"]});
    let late = world.webhook(&ingest, &belated, late).await;
    let delivery = visit_events_and_deliveries(&world, &mut walk, &shop, &webhook).await;
    visit_previews_and_changes(&world, &mut walk, &shop, &delivery).await;
    visit_replays(&mut walk, &webhook).await;
    visit_backfills_and_rematches(&world, &mut walk, &webhook, (&late, &belated)).await;
    visit_dead_letters(&world, &mut walk).await;
    visit_a_listener_and_deletions(&mut walk, &webhook).await;

    if std::env::var_os("RECORD_EXAMPLES").is_some() {
        let answers: BTreeMap<_, _> = walk.answers.iter().collect();
        let answers = presentable(serde_json::to_value(answers).unwrap());
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLES);
        let text = serde_json::to_string_pretty(&answers).unwrap();
        std::fs::write(file, format!("{text}\n")).unwrap();
        return world.abandon().await;
    }
    for (id, status) in walk.described() {
        let answer = walk
            .answers
            .get(&id)
            .and_then(|answers| answers.get(&status));
        let answer = answer.unwrap_or_else(|| panic!("{id} {status}: add a step to this walk"));
        let example = walk.example(&id, &status);
        assert!(!example.is_null(), "{id}/{status} has no example");
        let difference = differs(&format!("{id}/{status}"), &example, answer);
        assert_eq!(difference, None, "see this file's first lines");
    }
    world.finish().await;
}

/// The words that a column may have, by its `CHECK`; sorted.
async fn words_of_column(world: &World, table: &str, column: &str) -> BTreeSet<String> {
    let statement = "SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c \
                     JOIN pg_class t ON t.oid = c.conrelid \
                     JOIN pg_namespace n ON n.oid = t.relnamespace \
                     WHERE c.contype = 'c' AND t.relname = $1 AND n.nspname = current_schema()";
    let sql = world.sql().await;
    let rows = sql.query(statement, &[&table]).await.unwrap();
    let begin = format!("CHECK (({column} = ANY (ARRAY[");
    let checks = rows.iter().map(|row| row.get::<_, String>(0));
    let mut lists = checks.filter(|check| check.starts_with(&begin) && check.ends_with("])))"));
    let list = lists
        .next()
        .unwrap_or_else(|| panic!("{table}.{column} has no list of words"));
    let words = list.split('\'').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

#[tokio::test]
async fn closed_enums_have_the_words_that_postgresql_allows() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let walk = Walk::new(&ingest).await;
    for (schema, table, column) in [
        ("DeliveryState", "deliveries", "state"),
        ("WebhookStatus", "webhooks", "status"),
        ("ReplayStatus", "replays", "state"),
        ("ReplayKind", "replays", "kind"),
        ("ProcessKind", "processes", "kind"),
        ("DeadLetterQueue", "dead_letters", "queue"),
        ("PortalTheme", "links", "theme"),
        ("PortalAccent", "links", "accent"),
        ("WebhookTrouble", "webhook_alerts", "kind"),
    ] {
        let described = &walk.document["components"]["schemas"][schema]["enum"];
        let described: BTreeSet<_> = described.as_array().unwrap().iter().map(text).collect();
        let mut stored = words_of_column(&world, table, column).await;
        // A deleted webhook is not shown.
        stored.remove("deleted");
        assert_eq!(described, stored, "{schema} and {table}.{column}");
    }
    // Parameters and members refer to the same lists.
    let document = walk.document.to_string();
    for pattern in [
        "^(parking|unrouted)$",
        "^(light|dark)$",
        "^(running|finished|cancelled)$",
    ] {
        assert!(!document.contains(pattern), "{pattern} is an enum");
    }
    world.finish().await;
}

/// Requests with these statuses were refused for what they say.
const REFUSED: [u16; 4] = [400, 413, 415, 422];

#[tokio::test]
async fn no_example_of_a_request_is_refused_for_what_it_says() {
    let world = World::with(&[("EGRESS_PROXIES", "eu=http://127.0.0.1:9")]).await;
    let ingest = world.ingest().await;
    let walk = Walk::new(&ingest).await;
    let shop = world.receiver(answering(200)).await;
    let globex = json!({"id": "globex", "name": "Globex"});
    let path = "/api/v1/admin/tenants";
    let made = world.ask_as_operator(&ingest, "POST", path, Some(globex));
    assert_eq!(made.await.status, 201);
    let producer = world.producer().await;
    let bad = Publication::json(TENANT, "order.created", "bad-1", "no JSON");
    producer.publish(&bad).await.unwrap();
    let parked = async || world.count("dead_letters").await == 1;
    eventually("an event is parked", parked).await;
    let listed = "/api/v1/admin/dead-letters";
    let listed = world.ask_as_operator(&ingest, "GET", listed, None).await;
    let letter = text(&listed.body["dead_letters"][0]["id"]);

    let mut sent = 0;
    for (path, item) in walk.document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = text(&operation["operationId"]);
            let contents = operation["requestBody"]["content"].as_object();
            for (media_type, content) in contents.into_iter().flatten() {
                assert!(
                    content["example"].is_object() || content["example"].is_array(),
                    "{id}"
                );
                // One that was changed by an example before may lead nowhere.
                let webhook = world.webhook(&ingest, &shop, json!({})).await;
                let name = match path.split('/').nth(3) {
                    Some("webhooks") => webhook.id.as_str(),
                    Some("event-types") => "order.created",
                    _ if path.contains("dead-letters") => &letter,
                    _ => "globex",
                };
                let url = path.replace("{id}", name).replace("{name}", name);
                let request = http()
                    .request(method.to_uppercase().parse().unwrap(), ingest.url(&url))
                    .bearer_auth(ADMIN_TOKEN)
                    .header("x-tenant-id", TENANT)
                    .header("content-type", media_type)
                    .body(content["example"].to_string());
                let answer = read(request.send().await.unwrap()).await;
                let at = format!("{id}: {} {}", answer.status, answer.body);
                assert!(
                    answer.status < 500 && !REFUSED.contains(&answer.status),
                    "{at}"
                );
                sent += 1;
            }
        }
    }
    assert!(sent > 20, "{sent} examples were sent");
    world.abandon().await;
}
