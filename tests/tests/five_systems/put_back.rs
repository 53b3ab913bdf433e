//! What GET shows of a webhook can be PUT back: many clients read it, change a member and send
//! all of it.

use harness::receiver::answering;
use harness::service::Service;
use harness::world::{TENANT, World};
use serde_json::{Value, json};

use super::walk::ask;

/// A webhook with a value for every member that can be set.
fn everything(url: &str, dialect: &str) -> Value {
    let certificate = include_str!("../certificates/localhost.pem");
    let key = include_str!("../certificates/key.pem");
    let mut form = json!({
        "url": url, "events": ["order.*", "item-checkout"], "secret": "a-secret-of-the-shop",
        "description": "the shop", "status": "paused", "filters": {"total": {"$gte": 10.50}},
        "headers": {"X-Api-Key": "hunter2-hunter2", "X-Empty": ""}, "timeout": 30_000,
        "retry_policy": {"max_retries": 3, "retry_delay": 5000},
        "rate_limit": {"limit": 10, "per": "minute"}, "debug_mode": true, "trace_header": false,
        "dialect": dialect, "metadata": {"team": "users", "n": 1.0},
        "client_certificate": {"certificate": certificate, "private_key": key},
        "oauth2": {
            "token_url": url, "client_id": "posthorn", "client_secret": "s3cret-of-ours", "scope": "a b",
        },
        "external_id": "webhook_123", "owner": "user-7", "client_id": "client-7",
    });
    // The other dialects have no place for a second signature.
    if dialect == "standard" || dialect.starts_with("cloudevents") {
        form["signing"] = json!("ed25519");
    }
    form
}

/// Each dialect, which is a tenant too, and the paths of its webhooks. The first has been used
/// and its secret rotated, the second has every member.
async fn webhooks(world: &World, ingest: &Service) -> Vec<(String, [String; 2])> {
    let shop = world.receiver(answering(200)).await;
    let (_, listed) = ask(ingest, "GET", "/api/v1/dialects", TENANT, &Value::Null).await;
    let mut all = Vec::new();
    for dialect in listed["dialects"].as_array().unwrap() {
        let name = dialect["name"].as_str().unwrap();
        let tenant = json!({"id": name, "dialect": name});
        world
            .ask_as_operator(ingest, "POST", "/api/v1/admin/tenants", Some(tenant))
            .await;
        let make = async |form: Value| {
            let (status, made) = ask(ingest, "POST", "/api/v1/webhooks", name, &form).await;
            assert_eq!(status, 201, "{name}: {made}");
            format!("/api/v1/webhooks/{}", made["id"].as_str().unwrap())
        };
        let used = make(json!({"url": shop.url("/used"), "events": ["order.created"]})).await;
        let full = make(everything(&shop.url("/full"), name)).await;
        let event = json!({"type": "order.created", "data": {"total": 7}});
        let (status, taken) = ask(ingest, "POST", "/api/v1/events", name, &event).await;
        assert_eq!(status, 202, "{name}: {taken}");
        let rotate = format!("{used}/rotate-secret");
        let (status, rotated) = ask(ingest, "POST", &rotate, name, &json!({})).await;
        assert_eq!(status, 200, "{name}: {rotated}");
        all.push((name.to_owned(), [used, full]));
    }
    assert_eq!(all.len(), 8, "{listed}");
    shop.receives(all.len()).await;
    world.settles().await;
    all
}

#[tokio::test]
async fn what_get_shows_can_be_put_back_in_every_dialect_and_changes_nothing() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    for (dialect, paths) in webhooks(&world, &ingest).await {
        for path in paths {
            let show = async || ask(&ingest, "GET", &path, &dialect, &Value::Null).await.1;
            let shown = show().await;
            for method in ["PUT", "PATCH"] {
                let (status, back) = ask(&ingest, method, &path, &dialect, &shown).await;
                // Not even `updated_at` is another.
                assert_eq!((status, &back), (200, &shown), "{dialect}: {method}");
                assert_eq!(show().await, shown, "{dialect}: {method}");
            }
            // Together with a change, nothing else changes.
            let mut changed = shown.clone();
            changed["description"] = json!("another");
            let (status, mut back) = ask(&ingest, "PUT", &path, &dialect, &changed).await;
            assert_eq!(status, 200, "{dialect}: {back}");
            assert_ne!(back["updated_at"], shown["updated_at"]);
            back["updated_at"] = shown["updated_at"].clone();
            assert_eq!(back, changed, "{dialect}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn a_read_only_member_with_another_value_is_named_and_nothing_is_changed() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let read_only = [
        ("created_at", json!("2026-01-31T10:00:00.000Z")),
        ("createdAt", Value::Null),
        ("disabled_reason", json!("another")),
        ("id", json!("wh_01m8138b88eqwv0pvr0w5pev2q")),
        ("key", json!("another")),
        ("previous_secret_until", json!("2026-01-31T10:00:00.000Z")),
        ("public_key", json!("whpk_another")),
        ("readable", json!(false)),
        ("secret_made_at", json!(7)),
    ];
    // They change by themselves: a client can't know what they are now.
    let changing = [
        ("health", json!("failing")),
        ("lastTriggered", json!("2026-01-31T10:00:00.000Z")),
        ("updated_at", json!("2026-01-31T10:00:00.000Z")),
        ("waiting", json!(7)),
    ];
    for (dialect, paths) in webhooks(&world, &ingest).await {
        for path in paths {
            let show = async || ask(&ingest, "GET", &path, &dialect, &Value::Null).await.1;
            let shown = show().await;
            let put = async |others: &[(&str, Value)]| {
                let mut body = shown.clone();
                for (name, value) in others {
                    assert_ne!(body[name], *value, "{dialect}: {name}");
                    body[name] = value.clone();
                }
                ask(&ingest, "PUT", &path, &dialect, &body).await
            };
            for other in &read_only {
                let (status, problem) = put(std::slice::from_ref(other)).await;
                assert_eq!(status, 422, "{dialect}: {problem}");
                assert_eq!(problem["field"], other.0, "{problem}");
                assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
            }
            // All of them at once, and what can be set but not to this.
            let timeout = [("description", json!("another")), ("timeout", json!(1))];
            let (status, problem) = put(&[&read_only[..], &timeout].concat()).await;
            let errors = problem["errors"].as_array().unwrap();
            let fields = errors.iter().map(|error| error["field"].as_str().unwrap());
            let mut fields: Vec<_> = fields.collect();
            fields.sort_unstable();
            let mut names: Vec<_> = read_only.iter().map(|(name, _)| *name).collect();
            names.push("timeout");
            names.sort_unstable();
            assert_eq!((status, fields), (422, names), "{dialect}");
            let (status, same) = put(&changing).await;
            assert_eq!((status, &same), (200, &shown), "{dialect}");
            assert_eq!(show().await, shown, "{dialect}");
        }
    }
    world.finish().await;
}
