//! The API as a whole: its OpenAPI document and its routes agree, every route requires
//! the role that it documents, and all routes follow the same conventions.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World};
use reqwest::{Method, Response};
use serde_json::{Value, json};

/// The roles, from the least to the most powerful.
const ROLES: [&str; 4] = ["viewer", "manager", "admin", "operator"];

/// One operation of the document, with a valid request.
struct Operation {
    id: String,
    method: Method,
    /// The path, with its parameters filled in.
    path: String,
    body: Option<Value>,
    /// The role that is required; `None` for public operations.
    role: Option<String>,
    /// Whether the path names a thing of a tenant.
    names_a_thing: bool,
}

/// A tenant's things, by the schema name of their ids.
type Things = BTreeMap<&'static str, String>;

async fn things(world: &World, ingest: &Service) -> Things {
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(ingest, &shop, json!({})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    let delivery = &world.deliveries(ingest, &webhook).await[0]["id"];
    let token = issued(world, ingest, Some(TENANT), "viewer").await;
    Things::from([
        ("WebhookId", webhook.id),
        ("DeliveryId", delivery.as_str().unwrap().to_owned()),
        ("EventId", "evt-1".to_owned()),
        ("TokenId", token["id"].as_str().unwrap().to_owned()),
    ])
}

async fn issued(world: &World, ingest: &Service, tenant: Option<&str>, role: &str) -> Value {
    let body = json!({"tenant": tenant, "role": role});
    let made = world
        .ask_as_operator(ingest, "POST", "/api/v1/admin/tokens", Some(body))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body
}

async fn token(world: &World, ingest: &Service, tenant: Option<&str>, role: &str) -> String {
    let issued = issued(world, ingest, tenant, role).await;
    issued["token"].as_str().unwrap().to_owned()
}

async fn document(ingest: &Service) -> Value {
    let answer = http()
        .get(ingest.url("/openapi.json"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

/// What a reference refers to, or the value itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix('#'));
    reference.map_or(value, |path| document.pointer(path).unwrap())
}

fn operations(document: &Value, things: &Things) -> Vec<Operation> {
    let mut found = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let mut path = template.clone();
            let mut names_a_thing = false;
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let parameter = resolved(document, parameter);
                if parameter["in"] != "path" {
                    continue;
                }
                let kind = parameter["schema"]["$ref"].as_str().unwrap_or_default();
                let thing = things.get(kind.trim_start_matches("#/components/schemas/"));
                names_a_thing |= thing.is_some();
                let name = parameter["name"].as_str().unwrap();
                let value = thing.map_or("unknown", String::as_str);
                path = path.replace(&format!("{{{name}}}"), value);
            }
            let example = &operation["requestBody"]["content"]["application/json"]["example"];
            found.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path,
                body: Some(example).filter(|body| !body.is_null()).cloned(),
                role: operation["security"][0]["token"][0]
                    .as_str()
                    .map(str::to_owned),
                names_a_thing,
            });
        }
    }
    found
}

impl Operation {
    async fn ask(&self, ingest: &Service, token: &str, tenant: Option<&str>) -> u16 {
        let mut request = http()
            .request(self.method.clone(), ingest.url(&self.path))
            .bearer_auth(token);
        if let Some(tenant) = tenant {
            request = request.header("x-tenant-id", tenant);
        }
        if let Some(body) = &self.body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        request.send().await.unwrap().status().as_u16()
    }
}

async fn problem(answer: Response) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn every_documented_operation_exists_and_no_other_method_does() {
    let world = World::with(&[("API_RATE_LIMIT", "0")]).await;
    let ingest = world.ingest().await;
    let document = document(&ingest).await;
    let operations = operations(&document, &Things::new());
    assert!(operations.len() > 10);
    let mut served = BTreeMap::<&str, Vec<&Method>>::new();
    for operation in &operations {
        served
            .entry(&operation.path)
            .or_default()
            .push(&operation.method);
        // Without a token every operation exists and asks for one.
        if operation.role.is_some() {
            let status = operation.ask(&ingest, "", None).await;
            assert_eq!(status, 401, "{}", operation.id);
        }
    }
    let all = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    for (path, methods) in served {
        for method in all.iter().filter(|method| !methods.contains(method)) {
            let answer = http()
                .request(method.clone(), ingest.url(path))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 405, "{method} {path}");
            let allowed = answer.headers()["allow"].to_str().unwrap().to_owned();
            for method in &methods {
                assert!(allowed.contains(method.as_str()), "{path}: {allowed}");
            }
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn every_operation_asks_for_the_role_it_documents() {
    let world = World::with(&[("API_RATE_LIMIT", "0")]).await;
    let ingest = world.ingest().await;
    let operations = operations(&document(&ingest).await, &Things::new());
    let mut tokens = Vec::new();
    for role in &ROLES[..3] {
        tokens.push(token(&world, &ingest, Some(TENANT), role).await);
    }
    tokens.push(token(&world, &ingest, None, "admin").await);
    for operation in &operations {
        let Some(role) = operation.role.as_deref() else {
            continue;
        };
        let needed = ROLES.iter().position(|known| *known == role).unwrap();
        for (has, token) in tokens.iter().enumerate() {
            // A request with a global token names its tenant.
            let tenant = (has == 3).then_some(TENANT);
            let status = operation.ask(&ingest, token, tenant).await;
            let who = format!("{} as {}", operation.id, ROLES[has]);
            if has < needed {
                assert_eq!(status, 403, "{who}");
            } else {
                assert!(
                    status != 401 && status != 403 && status < 500,
                    "{who}: {status}"
                );
            }
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn another_tenants_things_are_not_found() {
    let world = World::with(&[("API_RATE_LIMIT", "0")]).await;
    let ingest = world.ingest().await;
    let things = things(&world, &ingest).await;
    let other = json!({"id": "other"});
    let made = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(other))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let stranger = token(&world, &ingest, Some("other"), "admin").await;
    let (mut named, document) = (0, document(&ingest).await);
    for operation in operations(&document, &things) {
        let Some(role) = operation.role.as_deref() else {
            continue;
        };
        let forbidden = role == "operator";
        let claimed = operation.ask(&ingest, &stranger, Some(TENANT)).await;
        assert_eq!(
            claimed,
            if forbidden { 403 } else { 404 },
            "{}",
            operation.id
        );
        if operation.names_a_thing && !forbidden {
            named += 1;
            let status = operation.ask(&ingest, &stranger, None).await;
            assert_eq!(status, 404, "{}", operation.id);
        }
    }
    assert!(named >= 6, "{named}");
    for (table, column) in [
        ("webhooks", "status <> 'active'"),
        ("tokens", "revoked_at IS NOT NULL"),
    ] {
        assert_eq!(world.count(&format!("{table} WHERE {column}")).await, 0);
    }
    world.finish().await;
}

#[tokio::test]
async fn the_docs_page_loads_nothing_from_another_host() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let get = async |path: &str| http().get(ingest.url(path)).send().await.unwrap();
    // `http()` follows no redirect.
    let moved = get("/docs").await;
    assert_eq!(moved.headers()["location"], "/docs/");
    let page = get("/docs/").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");
    let page = page.text().await.unwrap();
    let named: Vec<_> = page
        .split(['"', '\''])
        .filter(|text| text.ends_with(".js") || text.ends_with(".css") || text.contains("//"))
        .collect();
    assert!(named.len() >= 4, "{page}");
    for name in named {
        let file = name.trim_start_matches("./");
        let answer = get(&format!("/docs/{file}")).await;
        assert_eq!(answer.status(), 200, "{name}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
    let start = get("/docs/swagger-initializer.js").await.text().await;
    let start = start.unwrap();
    assert!(start.contains("\"/openapi.json\""), "{start}");
    // Without this the page asks swagger.io to validate the document.
    assert!(start.contains("\"validatorUrl\": \"none\""), "{start}");
    assert_eq!(get("/docs/nothing.js").await.status(), 404);
    world.finish().await;
}

#[tokio::test]
async fn a_request_has_an_id_in_its_answer_its_problem_and_the_log() {
    let world = World::with(&[("RUST_LOG", "debug")]).await;
    let ingest = world.ingest().await;
    let ask = |id: &str| {
        let request = http()
            .get(ingest.url("/api/v1/nothing"))
            .header("x-request-id", id);
        async { request.send().await.unwrap() }
    };
    let answer = ask("trace-4711").await;
    assert_eq!(answer.headers()["x-request-id"], "trace-4711");
    assert_eq!(problem(answer).await["request_id"], "trace-4711");
    assert!(world.logs().contains("trace-4711"), "{}", world.logs());
    let answer = ask("no spaces please").await;
    let id = answer.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(id.len(), 36);
    assert_eq!(problem(answer).await["request_id"], id);
    world.finish().await;
}

#[tokio::test]
async fn http_errors_use_the_standard_status_codes() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let manager = token(&world, &ingest, Some(TENANT), "manager").await;
    let ask = |method: Method, path: &str| {
        http()
            .request(method, ingest.url(path))
            .bearer_auth(&manager)
    };
    let webhooks = "/api/v1/webhooks";
    let answer = ask(Method::GET, webhooks)
        .header("accept", "text/csv")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 406);
    assert_eq!(problem(answer).await["status"], 406);
    let answer = ask(Method::POST, webhooks)
        .body("url=x")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 415);
    let large = ask(Method::POST, webhooks)
        .header("content-type", "application/json")
        .body(" ".repeat(2 * 1024 * 1024));
    let answer = large.send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert!(
        problem(answer).await["detail"]
            .as_str()
            .unwrap()
            .contains("at most")
    );
    let answer = ask(Method::HEAD, webhooks).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().is_empty());
    let answer = ask(Method::DELETE, webhooks).send().await.unwrap();
    assert_eq!(answer.status(), 405);
    assert!(answer.headers().contains_key("allow"));
    world.finish().await;
}

#[tokio::test]
async fn requests_over_the_rate_limit_are_answered_with_retry_after() {
    let world = World::start().await;
    let ingest = world
        .service("posthorn-ingest", &[("API_RATE_LIMIT", "1")])
        .await;
    let ask = |token: &str| {
        let request = http()
            .get(ingest.url("/api/v1/dialects"))
            .bearer_auth(token);
        async { request.send().await.unwrap() }
    };
    let accepted = ask(ADMIN_TOKEN).await;
    assert_ne!(accepted.status(), 429);
    let mut refused = None;
    // A burst of two, then one per second: this test is too short for ten answers.
    for n in 0..10 {
        let answer = ask(&format!("made-up-{n}")).await;
        if answer.status() == 429 {
            refused = Some(answer);
        }
    }
    let answer = refused.expect("each made-up token has a rate of its own");
    let wait: u64 = answer.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(problem(answer).await["status"], 429);
    // This token was accepted before, so other requests from its address don't count
    // against it.
    let known = ask(ADMIN_TOKEN).await;
    assert_ne!(known.status(), 429);
    let health = http().get(ingest.url("/healthz"));
    assert_eq!(health.send().await.unwrap().status(), 200);
    world.finish().await;
}

#[tokio::test]
async fn only_named_origins_may_call_the_api_from_a_browser() {
    const OURS: &str = "https://app.example.com";
    let world = World::start().await;
    let (closed, open) = (
        world.ingest().await,
        world
            .service("posthorn-ingest", &[("CORS_ORIGINS", OURS)])
            .await,
    );
    let preflight = |ingest: &Service, origin: &str| {
        let request = http()
            .request(Method::OPTIONS, ingest.url("/api/v1/webhooks"))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            );
        async {
            let answer = request.send().await.unwrap();
            let allowed = answer.headers().get("access-control-allow-origin");
            allowed.map(|origin| origin.to_str().unwrap().to_owned())
        }
    };
    assert_eq!(preflight(&closed, OURS).await, None);
    assert_eq!(preflight(&open, OURS).await.as_deref(), Some(OURS));
    assert_eq!(preflight(&open, "https://evil.example.com").await, None);
    world.finish().await;
}
