//! The API's description and its answers agree: every JSON answer has an example of the same
//! shape, and every header that is declared is there.
//!
//! One walk visits every operation that answers with JSON. `ingest/src/api/openapi/examples.json`
//! has such a walk's answers; the description shows them. When an answer's shape changes,
//! `RECORD_EXAMPLES=1` with this test writes the file anew.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const EXAMPLES: &str = "../ingest/src/api/openapi/examples.json";

/// A walk through all operations.
struct Walk<'a> {
    ingest: &'a Service,
    document: Value,
    /// The answers, by operation and status.
    answers: BTreeMap<String, BTreeMap<String, Value>>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

async fn read(response: Response) -> Answer {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_default();
    Answer {
        status,
        headers,
        body,
    }
}

impl<'a> Walk<'a> {
    async fn new(ingest: &'a Service) -> Self {
        let document = http()
            .get(ingest.url("/openapi.json"))
            .send()
            .await
            .unwrap();
        Self {
            ingest,
            document: read(document).await.body,
            answers: BTreeMap::new(),
        }
    }

    /// The method, the path and the description of an operation.
    fn operation(&self, id: &str) -> (String, String, Value) {
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if operation["operationId"] == id {
                    return (method.to_uppercase(), path.clone(), operation.clone());
                }
            }
        }
        panic!("there is no operation {id}");
    }

    /// Asks for an operation with the parameters of its path, in their order. The answer is
    /// checked against what is declared, and kept.
    async fn visit(&mut self, id: &str, path: &[&str], query: &str, body: Value) -> Value {
        let (method, template, operation) = self.operation(id);
        let mut url = template;
        for value in path {
            let (start, end) = (url.find('{').unwrap(), url.find('}').unwrap());
            url.replace_range(start..=end, value);
        }
        let mut request = http()
            .request(
                method.parse().unwrap(),
                self.ingest.url(&format!("{url}{query}")),
            )
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", TENANT);
        if !body.is_null() {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let answer = read(request.send().await.unwrap()).await;
        assert!(
            answer.status < 300,
            "{id}: {} {}",
            answer.status,
            answer.body
        );
        let status = answer.status.to_string();
        let declared = operation["responses"][&status].clone();
        assert!(declared.is_object(), "{id}: {status} is not declared");
        self.has_declared_headers(id, &declared, &answer);
        if !declared["content"]["application/json"].is_null() {
            has_times_with_three_digits(id, &answer.body);
            let answers = self.answers.entry(id.to_owned()).or_default();
            answers.insert(status, answer.body.clone());
        }
        answer.body
    }

    fn has_declared_headers(&self, id: &str, declared: &Value, answer: &Answer) {
        for (name, header) in declared["headers"].as_object().unwrap() {
            let reference = header["$ref"].as_str().unwrap();
            let header = self.document.pointer(&reference[1..]).unwrap();
            let value = answer.headers.get(name);
            let value = value.unwrap_or_else(|| panic!("{id}: no {name}"));
            if header["schema"]["type"] == "integer" {
                let number = value.to_str().unwrap().parse::<u64>();
                assert!(number.is_ok(), "{id}: {name}: {value:?}");
            }
        }
    }

    /// Operations and statuses of the description that answer with JSON.
    fn described(&self) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for item in self.document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    if status.starts_with('2') && !response["content"]["application/json"].is_null()
                    {
                        let id = operation["operationId"].as_str().unwrap();
                        all.insert((id.to_owned(), status.clone()));
                    }
                }
            }
        }
        all
    }

    fn example(&self, id: &str, status: &str) -> Value {
        let (_, _, operation) = self.operation(id);
        operation["responses"][status]["content"]["application/json"]["example"].clone()
    }
}

/// Times are in UTC, with three digits after the second. What clients have written stays.
fn has_times_with_three_digits(at: &str, value: &Value) {
    match value {
        Value::String(text) if OffsetDateTime::parse(text, &Rfc3339).is_ok() => {
            let length = "2026-01-31T10:00:00.000Z".len();
            assert!(text.len() == length && text.ends_with('Z'), "{at}: {text}");
        }
        Value::Array(items) => {
            for item in items {
                has_times_with_three_digits(at, item);
            }
        }
        Value::Object(members) => {
            let theirs = ["attributes", "data", "example", "metadata", "schema"];
            let ours = members.iter();
            for (name, member) in ours.filter(|(name, _)| !theirs.contains(&name.as_str())) {
                has_times_with_three_digits(&format!("{at}/{name}"), member);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether two values have the same members of the same types. `null` goes with everything, an
/// empty list with every list. Members of free objects are data, not shape.
fn differs(at: &str, example: &Value, real: &Value) -> Option<String> {
    const FREE: [&str; 9] = [
        "data",
        "metadata",
        "filters",
        "headers",
        "failures_by_class",
        "schema",
        "example",
        "retry",
        "attributes",
    ];
    match (example, real) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Object(example), Value::Object(real)) => {
            let names = |it: &Map<String, Value>| it.keys().cloned().collect::<BTreeSet<_>>();
            if at
                .rsplit('/')
                .next()
                .is_some_and(|name| FREE.contains(&name))
            {
                return None;
            }
            if names(example) != names(real) {
                let (example, real) = (names(example), names(real));
                let other = example.symmetric_difference(&real);
                return Some(format!("{at}: {:?}", other.collect::<Vec<_>>()));
            }
            example
                .iter()
                .find_map(|(name, value)| differs(&format!("{at}/{name}"), value, &real[name]))
        }
        (Value::Array(example), Value::Array(real)) => {
            let tagged = example
                .iter()
                .any(|it| it["status"].is_string() || it["result"].is_string());
            if tagged && at.ends_with("results") {
                return None;
            }
            differs(&format!("{at}/0"), example.first()?, real.first()?)
        }
        _ => {
            let same = std::mem::discriminant(example) == std::mem::discriminant(real);
            (!same).then(|| format!("{at}: {example} and {real}"))
        }
    }
}

/// An example that shows nothing of this machine, and no whole secret.
fn presentable(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("pht_") && text.len() > 20 => "pht_Nlb0cA…".into(),
        Value::String(text) if text.starts_with("whsec_") && !text.contains('…') => {
            "whsec_…".into()
        }
        Value::String(text) => {
            let text = text
                .split("http://127.0.0.1:")
                .enumerate()
                .map(|(n, part)| match n {
                    0 => part.to_owned(),
                    _ => format!(
                        "https://example.com{}",
                        part.trim_start_matches(|c: char| c.is_ascii_digit())
                    ),
                });
            let text: String = text.collect();
            match text.strip_prefix("127.0.0.1:") {
                Some(_) => "203.0.113.7:443".into(),
                None => text.into(),
            }
        }
        Value::Array(items) => items.into_iter().take(2).map(presentable).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, member)| (name, presentable(member)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

#[tokio::test]
async fn every_json_answer_has_an_example_of_its_shape_and_every_declared_header_is_there() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let mut walk = Walk::new(&ingest).await;
    let nothing = || Value::Null;

    // Tenants and tokens.
    let limits = json!({"id": "globex", "name": "Globex", "limits": {"webhooks": 10}});
    walk.visit("create_tenant", &[], "", limits).await;
    walk.visit("list_tenants", &[], "", nothing()).await;
    walk.visit("show_tenant", &["globex"], "", nothing()).await;
    walk.visit(
        "change_tenant",
        &["globex"],
        "",
        json!({"name": "Globex Ltd"}),
    )
    .await;
    let issued = json!({"tenant": TENANT, "role": "viewer", "expires_at": "2099-01-01T00:00:00Z"});
    let token = text(&walk.visit("issue_token", &[], "", issued).await["id"]);
    walk.visit("list_tokens", &[], "", nothing()).await;
    let link = json!({"tenant": TENANT});
    walk.visit("create_portal_link", &[], "", link).await;
    walk.visit("show_token", &[&token], "", nothing()).await;
    walk.visit("revoke_token", &[&token], "", nothing()).await;
    walk.visit("show_me", &[], "", nothing()).await;

    // Catalogues and dialects.
    walk.visit("list_catalogues", &[], "", nothing()).await;
    walk.visit("show_catalogue", &["rishi"], "", nothing())
        .await;
    walk.visit("list_dialects", &[], "", nothing()).await;
    walk.visit("show_dialect", &["standard"], "", nothing())
        .await;
    let described = json!({
        "description": "A customer placed an order.", "example": {"total": 25.0},
        "schema": {"type": "object", "required": ["total"]}
    });
    walk.visit("put_event_type", &["order.created"], "", described.clone())
        .await;
    walk.visit("put_event_type", &["order.created"], "", described.clone())
        .await;
    walk.visit("show_event_type", &["order.created"], "", nothing())
        .await;
    walk.visit("list_event_types", &[], "", nothing()).await;
    walk.visit("import_event_types", &[], "", json!({"catalogue": "rishi"}))
        .await;
    let mut whole = described;
    whole["name"] = "order.created".into();
    walk.visit(
        "replace_event_types",
        &[],
        "",
        json!({"event_types": [whole]}),
    )
    .await;

    // Webhooks.
    let form = json!({
        "url": shop.url("/hooks"), "events": ["order.*"], "description": "the shop", "signing": "ed25519",
        "filters": {"total": {"$gte": 10}}, "headers": {"X-Api-Key": "k-1"}, "metadata": {"shop": 7},
        "rate_limit": {"limit": 1000, "per": "hour"}, "retry_policy": {"max_retries": 5, "retry_delay": 10_000},
        "debug_mode": true
    });
    let webhook = text(&walk.visit("create_webhook", &[], "", form).await["id"]);
    let webhook = webhook.as_str();
    walk.visit("list_webhooks", &[], "", nothing()).await;
    walk.visit("show_webhook", &[webhook], "", nothing()).await;
    walk.visit("show_webhook_keys", &[webhook], "", nothing())
        .await;
    walk.visit(
        "patch_webhook",
        &[webhook],
        "",
        json!({"description": "the new shop"}),
    )
    .await;
    walk.visit("put_webhook", &[webhook], "", json!({"timeout": 10_000}))
        .await;
    walk.visit(
        "test_webhook",
        &[webhook],
        "",
        json!({"data": {"total": 12}}),
    )
    .await;
    walk.visit(
        "test_webhook_by_id",
        &[],
        "",
        json!({"webhook_id": webhook}),
    )
    .await;
    walk.visit("rotate_secret", &[webhook], "", nothing()).await;
    walk.visit("revoke_previous_secret", &[webhook], "", nothing())
        .await;

    // Events and deliveries.
    let event =
        json!({"id": "order-4711-created", "type": "order.created", "data": {"total": 25.0}});
    walk.visit("publish_event", &[], "", event).await;
    let batch = json!({"events": [
        {"id": "order-4712-created", "type": "order.created", "data": {"total": 12.5}},
        {"id": "order 4713", "type": "order.created", "data": {"total": 7}}
    ]});
    walk.visit("publish_events", &[], "", batch).await;
    // With the two tests.
    shop.receives(4).await;
    world.settles().await;
    let event = "order-4711-created";
    walk.visit("search_events", &[], "", nothing()).await;
    walk.visit("show_event", &[event], "", nothing()).await;
    walk.visit("list_webhook_deliveries", &[webhook], "", nothing())
        .await;
    walk.visit("list_webhook_events", &[webhook], "", nothing())
        .await;
    walk.visit("list_webhook_logs", &[webhook], "", nothing())
        .await;
    let listed = walk
        .visit(
            "list_deliveries",
            &[],
            "?status=delivered&limit=1",
            nothing(),
        )
        .await;
    let delivery = text(&listed["deliveries"][0]["id"]);
    walk.visit("show_delivery", &[&delivery], "", nothing())
        .await;
    walk.visit("retry_delivery", &[&delivery], "", nothing())
        .await;
    shop.receives(5).await;
    world.settles().await;
    walk.visit("retry_event", &[webhook, event], "", nothing())
        .await;
    shop.receives(6).await;
    world.settles().await;
    walk.visit("webhook_health", &[webhook], "", nothing())
        .await;
    walk.visit("probe_webhook", &[webhook], "", nothing()).await;
    walk.visit("event_type_stats", &[], "", nothing()).await;
    walk.visit("export_tenant", &[], "", nothing()).await;
    for operation in ["list_processes", "list_queues", "show_system"] {
        walk.visit(operation, &[], "", nothing()).await;
    }
    walk.visit("webhook_stats", &[webhook], "", nothing()).await;
    walk.visit("tenant_stats", &[], "", nothing()).await;

    // What would match, what a receiver finds, who changed what.
    let looked = json!({"events": ["order.*"], "filters": {"total": {"$gte": 20}}});
    walk.visit("preview_webhook", &[], "", looked).await;
    walk.visit("check_signature", &[], "", json!({"delivery_id": delivery}))
        .await;
    walk.visit("list_changes", &[], "", nothing()).await;
    walk.visit("list_all_changes", &[], "", nothing()).await;
    let event = json!({"type": "order.created", "data": {"total": 25.0}});
    walk.visit("publish_event", &[], "?dry_run=true", event)
        .await;
    let event = "order-4711-created";
    walk.visit("retry_deliveries", &[], "", json!({"ids": [delivery]}))
        .await;
    shop.receives(7).await;
    world.settles().await;

    // Replays.
    let since = "2020-01-01T00:00:00Z";
    let replay = json!({"since": since, "status": "delivered", "dry_run": true});
    walk.visit("replay_deliveries", &[webhook], "", replay)
        .await;
    let replay = json!({"since": since, "status": ["failed"], "event_types": ["order.created"]});
    let replay = text(
        &walk
            .visit("replay_deliveries", &[webhook], "", replay)
            .await["id"],
    );
    walk.visit("show_replay", &[webhook, &replay], "", nothing())
        .await;
    walk.visit("list_replays", &[webhook], "", nothing()).await;
    walk.visit("cancel_replay", &[webhook, &replay], "", nothing())
        .await;
    let replay = json!({"since": since, "status": "delivered", "dry_run": true});
    walk.visit("replay_all", &[], "", replay).await;
    let replay = text(
        &walk
            .visit("replay_all", &[], "", json!({"since": since}))
            .await["id"],
    );
    walk.visit("list_all_replays", &[], "", nothing()).await;
    walk.visit("show_any_replay", &[&replay], "", nothing())
        .await;
    walk.visit("cancel_any_replay", &[&replay], "", nothing())
        .await;
    let backfill = json!({"since": since, "dry_run": true});
    walk.visit("backfill_webhook", &[webhook], "", backfill)
        .await;
    walk.visit("backfill_webhook", &[webhook], "", json!({"since": since}))
        .await;
    walk.visit("rematch_event", &[event], "", nothing()).await;
    let all = json!({"since": since, "until": "2099-01-01T00:00:00Z", "dry_run": true});
    walk.visit("rematch_events", &[], "", all).await;

    // Dead letters: confirmed by RabbitMQ, and no events.
    let producer = world.producer().await;
    for id in ["bad-1", "bad-2", "bad-3"] {
        let bad = Publication::json(TENANT, "order.created", id, "no JSON");
        producer.publish(&bad).await.unwrap();
    }
    let parked = async || world.count("dead_letters").await == 3;
    eventually("three events are parked", parked).await;
    let listed = walk.visit("list_dead_letters", &[], "", nothing()).await;
    walk.visit("list_dead_letter_reasons", &[], "", nothing())
        .await;
    walk.visit("list_rejected_events", &[], "", nothing()).await;
    let letter = |n: usize| text(&listed["dead_letters"][n]["id"]);
    walk.visit("replay_dead_letter", &[&letter(0)], "", nothing())
        .await;
    walk.visit("discard_dead_letter", &[&letter(1)], "", nothing())
        .await;
    walk.visit("replay_dead_letters", &[], "", json!({"queue": "parking"}))
        .await;
    walk.visit("discard_dead_letters", &[], "?queue=parking", nothing())
        .await;

    let listener = json!({"events": ["order.*"]});
    walk.visit("create_listener", &[], "", listener).await;
    walk.visit("expunge_event", &[event], "", nothing()).await;
    walk.visit("delete_tenant", &["globex"], "?confirm=globex", nothing())
        .await;
    walk.visit("show_tenant_deletion", &["globex"], "", nothing())
        .await;
    walk.visit("delete_event_type", &["order.created"], "", nothing())
        .await;
    walk.visit("delete_webhook", &[webhook], "", nothing())
        .await;

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
