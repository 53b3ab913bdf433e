//! The edges of the HTTP servers and of what clients send: slow clients, headers
//! that are there twice, text that PostgreSQL can't hold.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(service: &Service, bytes: &str) -> TcpStream {
    let address = service.url("").replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // One that has been closed already is closed, too.
    let _ = stream.write_all(bytes.as_bytes()).await;
    stream
}

/// Reads until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    let closed = tokio::time::timeout(Duration::from_secs(60), reading).await;
    // Reset instead of closed is fine: what counts is that it ended.
    let _ = closed.expect("the server closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn five_hundred_silent_and_half_sent_connections_are_closed_and_keep_nobody_out() {
    let world = World::with(&[("HTTP_IDLE_TIMEOUT", "2")]).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    for service in [&ingest, &dispatcher] {
        let mut slow = Vec::new();
        for n in 0..500 {
            let half = [
                "",
                "GET /metrics HTT",
                "GET /metrics HTTP/1.1\r\nhost: a\r\nx-a: ",
            ];
            slow.push(connect(service, half[n % half.len()]).await);
        }
        // A client of the same address has its answer meanwhile, at once and again and again.
        for _ in 0..20 {
            let open = service.metric("posthorn_http_connections").await.unwrap();
            assert!(open <= 256.0, "{open} are open");
        }
        for stream in slow {
            assert_eq!(rest(stream).await, "");
        }
        let cut = "posthorn_http_connections_cut_total";
        assert!(service.metric(cut).await.unwrap() >= 500.0);
    }
    world.finish().await;
}

const NUL: &str = "a\u{0}b";

/// An operation of the document: method, path and body.
struct Operation {
    method: String,
    path: String,
    body: Option<Value>,
}

/// A schema, wherever it is in the document.
fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    let one_of = ["oneOf", "anyOf", "allOf"]
        .iter()
        .find_map(|name| schema[*name].as_array())
        .and_then(|all| all.iter().find(|one| one["type"] != "null"));
    if let Some(one) = one_of {
        return resolved(document, one);
    }
    match schema["$ref"].as_str() {
        Some(name) => resolved(document, document.pointer(&name[1..]).unwrap()),
        None => schema,
    }
}

/// This body with each of its members, and of their members, being `text`, a list
/// of it, and an object of it.
fn spoilt(document: &Value, schema: &Value, body: &Value) -> Vec<Value> {
    let mut bodies = Vec::new();
    let properties = resolved(document, schema)["properties"].as_object();
    for (name, schema) in properties.into_iter().flatten() {
        let mut values = vec![
            json!(NUL),
            json!([NUL]),
            json!({NUL: NUL}),
            json!({"k": NUL}),
        ];
        let inner = body.get(name).cloned().unwrap_or_else(|| json!({}));
        values.extend(spoilt(document, schema, &inner));
        let items = resolved(document, &resolved(document, schema)["items"]);
        if items["properties"].is_object() {
            let named = json!({"name": "order.created"});
            let entries = spoilt(document, items, &named).into_iter();
            values.extend(entries.map(|entry| json!([entry])));
        }
        for value in values {
            let mut body = body.clone();
            body[name.as_str()] = value;
            bodies.push(body);
        }
    }
    bodies
}

/// Every operation with U+0000 in each parameter and in each member of its body.
fn with_nul(document: &Value, webhook: &str) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let filled = template.replace("{id}", webhook);
            let mut add = |path: String, body: Option<Value>| {
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path,
                    body,
                });
            };
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                match parameter["in"].as_str().unwrap() {
                    "query" => add(format!("{filled}?{name}=a%00b"), None),
                    "path" => add(template.replace(&format!("{{{name}}}"), "a%00b"), None),
                    _ => {}
                }
            }
            let content = &operation["requestBody"]["content"]["application/json"];
            if !content["schema"].is_null() && method != "delete" {
                let example = Some(&content["example"]).filter(|body| body.is_object());
                let example = example.cloned().unwrap_or_else(|| json!({}));
                for body in spoilt(document, &content["schema"], &example) {
                    add(filled.clone(), Some(body));
                }
            }
        }
    }
    operations
}

#[tokio::test]
async fn text_that_postgresql_cannot_hold_is_refused_by_name_wherever_it_is_sent() {
    let world = World::with(&[("API_RATE_LIMIT", "0")]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;

    let path = "/api/v1/webhooks";
    for url in ["https://example.com/\u{0}", "https://example.com/a\u{1f}b"] {
        let made = Some(json!({"url": url, "events": ["*"]}));
        let made = world.ask(&ingest, "POST", path, made).await;
        let path = format!("{path}/{}", webhook.id);
        let changed = Some(json!({"url": url}));
        let changed = world.ask(&ingest, "PATCH", &path, changed).await;
        for refused in [made, changed] {
            let found = (refused.status, &refused.body["field"]);
            assert_eq!(found, (422, &json!("url")), "{}", refused.body);
        }
    }

    let document = http().get(ingest.url("/openapi.json")).send();
    let document = document.await.unwrap().text().await.unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let operations = with_nul(&document, &webhook.id);
    assert!(operations.len() > 200, "{}", operations.len());
    for Operation { method, path, body } in operations {
        let mut request = http()
            .request(method.parse().unwrap(), ingest.url(&path))
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", TENANT);
        if let Some(body) = &body {
            let body = body.to_string();
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let said = answer.text().await.unwrap();
        let asked = format!("{method} {path} {body:?}: {status} {said}");
        assert!(status < 500, "{asked}");
        if status == 422 {
            assert!(said.contains("\"field\""), "{asked}");
        }
    }
    assert!(
        !world.logs().contains("a request failed"),
        "{}",
        world.logs()
    );
    // What was changed on the way may hold deliveries, or send them nowhere.
    world.abandon().await;
}
