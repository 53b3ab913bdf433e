//! No problem is told in a library's words: they name types of Rust and functions of C, not what a
//! client can do. Requests that are wrong in many ways go to every operation of the API's description.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use futures_util::StreamExt;
use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JWT_SECRET: &str = "the-secret-of-the-identity-provider";

/// Parts of what libraries say: serde, serde_json, serde_urlencoded, axum, hyper, url, uuid, typeid,
/// time, base64, jsonwebtoken, rmp, regex, rustls, PostgreSQL, and Rust itself.
const LIBRARIES_WORDS: &[&str] = &[
    "invalid type",
    "invalid value:",
    "invalid length",
    "expected ",
    "missing field",
    "unknown field",
    "unknown variant",
    "duplicate field",
    "did not match any variant",
    "untagged",
    "struct ",
    "tuple",
    "enum ",
    "newtype",
    "unit value",
    "usize",
    "u8",
    "u16",
    "u32",
    "u64",
    "i16",
    "i32",
    "i64",
    "f64",
    "1 column",
    "EOF",
    "trailing comma",
    "trailing characters",
    "key must be",
    "recursion limit",
    "out of range",
    "surrogate",
    "code point",
    "control character (",
    "invalid escape",
    "invalid number",
    "invalid digit",
    "cannot parse",
    "target type",
    "provided string",
    "invalid float",
    "Failed to",
    "Invalid URL",
    "Invalid UTF",
    "invalid utf",
    "utf-8 sequence",
    "relative URL",
    "empty host",
    "port number",
    "domain name",
    "IPv6 address",
    "Invalid symbol",
    "Invalid byte",
    "Invalid padding",
    "Invalid input length",
    "last symbol",
    "InvalidToken",
    "InvalidSignature",
    "ExpiredSignature",
    "ImmatureSignature",
    "InvalidIssuer",
    "InvalidAudience",
    "Missing required claim",
    "JSON error",
    "Base64 error",
    "TypeID",
    "does not match expected",
    "optional prefix",
    "character literal",
    "component",
    "the input",
    "marker",
    "fill whole buffer",
    "regex parse",
    "unclosed",
    "look-around",
    "os error",
    "error reading",
    "db error",
    "syntax for type",
    "Error(",
];

/// Everything that a problem, or a result within an answer, says for people.
fn sentences(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(text) if ["detail", "reason", "error"].contains(&name.as_str()) => {
                        found.push(text.to_owned());
                    }
                    _ => sentences(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| sentences(item, found)),
        _ => {}
    }
}

/// Names of members are between backticks, and may be any word.
fn without_names(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("…")
}

fn words_of_a_library(sentence: &str) -> Option<&'static str> {
    let text = without_names(sentence);
    // Not a part of an id, such as `u8`.
    let is_there = |words: &&str| {
        let mut found = text.match_indices(*words);
        found.any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + words.len()..].chars().next();
            let goes_on = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            words.contains(' ') || !(goes_on(before) || goes_on(after))
        })
    };
    LIBRARIES_WORDS.iter().copied().find(is_there)
}

/// A request that may be wrong.
#[derive(Debug, Clone)]
struct Sent {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

impl Sent {
    fn new(method: &str, path: &str) -> Self {
        let sent = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: None,
        };
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        sent.with("authorization", bearer.as_bytes())
            .with("x-tenant-id", TENANT.as_bytes())
    }

    fn with(mut self, name: &str, value: &[u8]) -> Self {
        let name: HeaderName = name.parse().unwrap();
        let value = HeaderValue::from_bytes(value).unwrap();
        self.headers.insert(name, value);
        self
    }

    fn json(self, body: impl Into<Vec<u8>>) -> Self {
        self.saying("application/json", body)
    }

    fn saying(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.with("content-type", content_type.as_bytes())
    }

    /// The status, and sentences with a library's words, each with the request.
    async fn ask(self, ingest: &Service) -> (u16, Vec<(String, String)>) {
        let shown = format!(
            "{} {} {:?}",
            self.method,
            self.path,
            self.body.as_deref().map(String::from_utf8_lossy)
        );
        let mut request = http()
            .request(self.method.parse().unwrap(), ingest.url(&self.path))
            .headers(self.headers);
        if let Some(body) = self.body {
            request = request.body(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type");
        let is_json = kind.is_some_and(|kind| kind.to_str().unwrap().ends_with("json"));
        // A stream has no end.
        if !is_json || kind.is_some_and(|kind| kind == "application/x-ndjson") {
            return (status, Vec::new());
        }
        let text = answer.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap();
        let mut said = Vec::new();
        sentences(&body, &mut said);
        let found = said.iter().filter_map(|sentence| {
            let words = words_of_a_library(sentence)?;
            let told = format!("`{words}` in \"{sentence}\"");
            Some((told, format!("{status} to {shown}")))
        });
        (status, found.collect())
    }
}

/// One operation of the description, with ids of things that exist.
struct Operation {
    method: String,
    template: String,
    path: String,
    queries: Vec<String>,
    headers: Vec<String>,
    /// A valid body, and the places in it that can be wrong.
    body: Option<(Value, Vec<Vec<Step>>)>,
}

#[derive(Debug, Clone)]
enum Step {
    Member(String),
    Item,
}

fn resolved<'a>(document: &'a Value, mut value: &'a Value) -> &'a Value {
    while let Some(reference) = value["$ref"].as_str() {
        value = document.pointer(reference.trim_start_matches('#')).unwrap();
    }
    value
}

/// Each member of a schema, and each member of those, some levels deep.
fn places(document: &Value, schema: &Value, levels: u8) -> Vec<Vec<Step>> {
    let schema = resolved(document, schema);
    let mut found = Vec::new();
    if levels == 0 {
        return found;
    }
    let mut below = |step: Step, schema: &Value| {
        found.push(vec![step.clone()]);
        for mut rest in places(document, schema, levels - 1) {
            rest.insert(0, step.clone());
            found.push(rest);
        }
    };
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        below(Step::Member(name.clone()), member);
    }
    if schema["items"].is_object() {
        below(Step::Item, &schema["items"]);
    }
    for way in schema["oneOf"].as_array().into_iter().flatten() {
        found.extend(places(document, way, levels));
    }
    found
}

/// The body with another value at this place.
fn replaced(mut body: Value, place: &[Step], value: &Value) -> Value {
    let mut at = &mut body;
    for step in place {
        at = match step {
            Step::Member(name) => {
                if !at.is_object() {
                    *at = json!({});
                }
                &mut at[name]
            }
            Step::Item => {
                if at.as_array().is_none_or(Vec::is_empty) {
                    *at = json!([null]);
                }
                &mut at[0]
            }
        };
    }
    *at = value.clone();
    body
}

fn operations(document: &Value, things: &BTreeMap<&str, String>) -> Vec<Operation> {
    let mut found = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let mut path = template.clone();
            let (mut queries, mut headers) = (Vec::new(), Vec::new());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let parameter = resolved(document, parameter);
                let name = parameter["name"].as_str().unwrap();
                let kind = parameter["schema"]["$ref"].as_str().unwrap_or_default();
                let kind = kind.trim_start_matches("#/components/schemas/");
                match parameter["in"].as_str().unwrap() {
                    "path" => {
                        let thing = things.get(kind).map_or("standard", String::as_str);
                        path = path.replace(&format!("{{{name}}}"), thing);
                    }
                    "query" => queries.push(name.to_owned()),
                    _ => headers.push(name.to_owned()),
                }
            }
            let content = &operation["requestBody"]["content"]["application/json"];
            let body = content.is_object().then(|| {
                let schema = resolved(document, &content["schema"]);
                let examples = [&content["example"], &schema["example"]];
                let example = examples.into_iter().find(|example| example.is_object());
                let example = example.cloned().unwrap_or(json!({}));
                (example, places(document, schema, 3))
            });
            found.push(Operation {
                method: method.to_uppercase(),
                template: template.clone(),
                path,
                queries,
                headers,
                body,
            });
        }
    }
    found
}

/// Values that most members don't take.
fn values() -> Vec<Value> {
    let mut values = vec![
        Value::Null,
        json!(true),
        json!(7),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!([]),
        json!([7]),
        json!([null]),
        json!(["x", {}]),
        json!({}),
        json!({"x": 1}),
        // Filters and schemas.
        json!({"a": {"$gte": []}}),
        json!({"$or": 7}),
        json!({"a": {"$regex": "("}}),
        json!({"type": "no"}),
        json!({"pattern": "("}),
        json!({"properties": {"a": {"multipleOf": 0}}}),
        json!({"$ref": "http://example.com/"}),
    ];
    let texts = [
        "",
        "x",
        "wh_",
        "wh_01k9zw6q9veq5r2m4d8x3h7c1!",
        "8a6e0804-2bd0-4672-b79d-d97027f9071a",
        "whsec_!!!",
        "2026-13-45",
        "2026-01-31T25:00:00Z",
        "http://",
        "http://[::1",
        "https://example.com:99999/",
        "https://exa mple/",
        "//x",
        "a..b",
        "ord*",
        "(",
        "\u{0}",
        "é",
        "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----",
    ];
    values.extend(texts.map(Value::from));
    values.push("x".repeat(3_000).into());
    values
}

/// Bodies that are no JSON, or not an object.
fn bodies() -> Vec<Vec<u8>> {
    let texts = [
        "",
        " ",
        "{",
        "}",
        "[",
        "[]",
        "[1]",
        "[1,2,3]",
        "null",
        "7",
        "\"x\"",
        "true",
        "nonsense",
        "{\"a\"",
        "{\"a\" 1}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":01}",
        "{\"a\":1e999}",
        "{\"a\":+1}",
        "{} {}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":1,\"a\":2}",
        "{\"type\":\"a\",\"type\":\"b\",\"url\":1,\"url\":2}",
    ];
    let mut bodies: Vec<_> = texts.map(|text| text.as_bytes().to_vec()).into();
    bodies.push(b"{\"a\":\"\xff\"}".to_vec());
    bodies.push(b"\xff\xfe{}".to_vec());
    bodies.push(format!("{{\"data\":{}", "[".repeat(5_000)).into_bytes());
    bodies.push(format!("{{\"filters\":{}{}}}", "[".repeat(200), "]".repeat(200)).into_bytes());
    bodies
}

impl Operation {
    fn sent(&self) -> Sent {
        Sent::new(&self.method, &self.path)
    }

    /// Everything that is wrong in its path, its query and its headers.
    fn requests(&self) -> Vec<Sent> {
        let mut all = Vec::new();
        if self.template.contains('{') {
            for id in [
                "x",
                "wh_",
                "%20",
                "%ff",
                "%00",
                "a%2Fb",
                "wh_01k9zw6q9veq5r2m4d8x3h7c1!",
                "-1",
                "8a6e0804-2bd0-4672-b79d-d97027f9071a",
                "whd_zzzzzzzzzzzzzzzzzzzzzzzzzz",
            ] {
                let parts = self.template.split('/');
                let parts = parts.map(|part| if part.starts_with('{') { id } else { part });
                let path = parts.collect::<Vec<_>>().join("/");
                all.push(Sent::new(&self.method, &path).json("{}"));
            }
        }
        // Nothing that exists is deleted.
        let all_of_it = || {
            if self.method == "DELETE" {
                "?x=1&"
            } else {
                "?"
            }
        };
        for name in &self.queries {
            for value in [
                "",
                "x",
                "-1",
                "1.5",
                "99999999999999999999",
                "%ff",
                "%00",
                "wh_",
                "2026-13-45",
                "a..b",
                "ord*",
                "5xx,6xx",
                "%5B%5D",
                "yes",
                "é",
            ] {
                let mut sent = self.sent();
                sent.path += &format!("{}{name}={value}", all_of_it());
                all.push(sent);
            }
            let mut sent = self.sent();
            sent.path += &format!("{}{name}=1&{name}=2", all_of_it());
            all.push(sent);
        }
        let mut sent = self.sent();
        sent.path += "?unheard=1";
        all.push(sent);
        if self.method == "DELETE" {
            return all;
        }
        let mut headers = self.headers.clone();
        headers.extend(["accept", "if-none-match"].map(str::to_owned));
        for name in headers {
            for value in [
                &b""[..],
                b"x",
                b"No!",
                b"\"",
                b"\xff",
                b"text/xml; q=x",
                b"00-x-y-01",
            ] {
                all.push(self.sent().json("{}").with(&name, value));
            }
        }
        for token in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearer x",
            b"Basic eDp5",
            b"Bearer \xff",
            b"Bearer a.b.c",
            b"Bearer eyJhbGciOiJub25lIn0.e30.",
            b"Bearer eyJhbGciOiJIUzI1NiJ9.e30.x",
        ] {
            all.push(self.sent().with("authorization", token));
        }
        all
    }

    /// Everything that is wrong in its body.
    fn requests_with_bodies(&self) -> Vec<Sent> {
        let Some((example, places)) = &self.body else {
            return Vec::new();
        };
        let mut all: Vec<_> = bodies()
            .into_iter()
            .map(|body| self.sent().json(body))
            .collect();
        for kind in [
            "",
            "text/plain",
            "application/xml",
            "application/json; charset=x",
            "\"",
            "a/b/c",
        ] {
            all.push(self.sent().saying(kind, "{}"));
        }
        let mut sent = self.sent();
        sent.body = Some(b"{}".to_vec());
        all.push(sent);
        let values = values();
        for place in places {
            for value in &values {
                let body = replaced(example.clone(), place, value).to_string();
                all.push(self.sent().json(body));
                // Without the rest, of which something may be wrong already.
                if place.len() == 1 && !value.is_string() {
                    let body = replaced(json!({}), place, value).to_string();
                    all.push(self.sent().json(body));
                }
            }
        }
        all
    }
}

/// CloudEvents in all modes, MessagePack, and batches.
fn events() -> Vec<Sent> {
    let mut all = Vec::new();
    let publish = |path: &str| Sent::new("POST", path);
    let event = json!({"specversion": "1.0", "id": "e", "source": "/", "type": "a.b", "data": 1});
    for path in [
        "/api/v1/events",
        "/api/v1/events/batch",
        "/api/v1/events?dry_run=true",
    ] {
        for kind in [
            "application/cloudevents+json",
            "application/cloudevents-batch+json",
            "application/msgpack",
            "application/cloudevents+avro",
        ] {
            for body in bodies() {
                all.push(publish(path).saying(kind, body));
            }
            for value in values() {
                for name in [
                    "specversion",
                    "id",
                    "source",
                    "type",
                    "time",
                    "data_base64",
                    "subject",
                    "x",
                ] {
                    let mut event = event.clone();
                    event[name] = value.clone();
                    let batch = json!([event, 1, {}]);
                    all.push(publish(path).saying(kind, event.to_string()));
                    all.push(publish(path).saying(kind, batch.to_string()));
                }
            }
        }
        // Binary mode.
        for (name, value) in [
            ("ce-type", &b"a..b"[..]),
            ("ce-type", b"\xff"),
            ("ce-time", b"soon"),
            ("ce-id", b"%ff"),
            ("ce-specversion", b"0.3"),
            ("ce-source", b"%00"),
            ("content-type", b"application/msgpack"),
            ("content-type", b"text/plain"),
            ("traceparent", b"\xff"),
        ] {
            for body in [
                &b"{"[..],
                b"\x81",
                b"\xc1",
                b"\xa1\xff",
                b"\x81\x01\x02",
                b"\xc4\x01\x00",
                b"1",
            ] {
                let sent = publish(path)
                    .json(body)
                    .with("ce-specversion", b"1.0")
                    .with("ce-id", b"e-1")
                    .with("ce-source", b"/")
                    .with("ce-type", b"a.b");
                all.push(sent.with(name, value));
            }
        }
    }
    all
}

/// JWTs that are signed rightly, and wrong in another way.
fn jwts() -> Vec<Sent> {
    let now = harness::receiver::unix_now();
    let good =
        json!({"tenant": TENANT, "role": "viewer", "exp": now + 60, "iss": "us", "aud": "it"});
    let mut all = Vec::new();
    let mut add = |claims: &Value, algorithm, secret: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = encode(&Header::new(algorithm), claims, &key).unwrap();
        let bearer = format!("Bearer {token}");
        all.push(Sent::new("GET", "/api/v1/me").with("authorization", bearer.as_bytes()));
    };
    for name in ["tenant", "role", "exp", "iss", "aud", "nbf", "sub", "owner"] {
        for value in [
            json!(null),
            json!(7),
            json!("x"),
            json!(now + 600),
            json!([]),
            json!({}),
            json!("a b"),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            add(&claims, Algorithm::HS256, JWT_SECRET);
        }
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        add(&claims, Algorithm::HS256, JWT_SECRET);
    }
    add(&good, Algorithm::HS512, JWT_SECRET);
    add(
        &good,
        Algorithm::HS256,
        "another-secret-of-32-bytes-or-more",
    );
    add(
        &json!({"tenant": TENANT, "role": "viewer", "exp": 1, "iss": "us", "aud": "it"}),
        Algorithm::HS256,
        JWT_SECRET,
    );
    all
}

/// Sends all, a few at a time. Answers how many got each status.
async fn send(ingest: &Service, all: Vec<Sent>) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    let mut told = BTreeMap::new();
    let answers = futures_util::stream::iter(all).map(|sent| sent.ask(ingest));
    let mut answers = answers.buffer_unordered(8);
    while let Some((status, found)) = answers.next().await {
        *statuses.entry(status).or_default() += 1;
        told.extend(found);
    }
    let lines = told.iter().map(|(told, of)| format!("{told}: {of}"));
    let lines: Vec<_> = lines.take(60).collect();
    assert!(
        lines.is_empty(),
        "{} in all:\n{}",
        told.len(),
        lines.join("\n")
    );
    statuses
}

/// A body that ends early.
async fn half_a_body(ingest: &Service) -> Value {
    let url = url::Url::parse(&ingest.url("/")).unwrap();
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\
         x-tenant-id: {TENANT}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    serde_json::from_str(body).unwrap_or_default()
}

#[tokio::test]
async fn no_problem_has_the_words_of_a_library() {
    let world = World::with(&[
        ("API_RATE_LIMIT", "0"),
        ("JWT_SECRET", JWT_SECRET),
        ("JWT_ISSUER", "us"),
        ("JWT_AUDIENCE", "it"),
        ("JWT_OWNER_CLAIM", "owner"),
        ("WEBHOOK_METRICS", "true"),
    ])
    .await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    let delivery = world.deliveries(&ingest, &webhook).await[0]["id"].clone();
    let replay = format!("/api/v1/webhooks/{}/replay", webhook.id);
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let replay = world.ask(&ingest, "POST", &replay, Some(since)).await.body;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let things = BTreeMap::from([
        ("WebhookId", webhook.id.clone()),
        ("DeliveryId", text(&delivery)),
        ("EventId", "evt-1".to_owned()),
        ("ReplayId", text(&replay["id"])),
        ("TenantId", TENANT.to_owned()),
        ("EventTypeName", "order.created".to_owned()),
    ]);
    let document = http()
        .get(ingest.url("/openapi.json"))
        .send()
        .await
        .unwrap();
    let document = serde_json::from_str(&document.text().await.unwrap()).unwrap();
    let operations = operations(&document, &things);

    let others = operations.iter().flat_map(Operation::requests);
    let statuses = send(&ingest, others.collect()).await;
    assert!(statuses[&401] > 500 && statuses[&404] > 300, "{statuses:?}");
    assert!(statuses[&400] > 100 && statuses[&422] > 200, "{statuses:?}");
    let bodies = operations.iter().flat_map(Operation::requests_with_bodies);
    let statuses = send(&ingest, bodies.collect()).await;
    assert!(
        statuses[&400] > 2_000 && statuses[&422] > 500,
        "{statuses:?}"
    );
    let statuses = send(&ingest, events()).await;
    assert!(statuses[&400] > 500 && statuses[&422] > 100, "{statuses:?}");
    let statuses = send(&ingest, jwts()).await;
    assert!(statuses[&401] > 30, "{statuses:?}");

    let half = half_a_body(&ingest).await;
    let why = half["detail"].as_str().unwrap();
    assert!(why.starts_with("the body is not whole"), "{half}");
    assert_eq!(words_of_a_library(why), None, "{why}");
    world.abandon().await;
}

#[tokio::test]
async fn no_reason_of_a_rejected_event_has_the_words_of_a_library() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let producer = world.producer().await;
    let mut sent = 0;
    for kind in [
        "application/json",
        "application/msgpack",
        "application/cloudevents+json",
        "text/plain",
    ] {
        for body in bodies() {
            let id = format!("evt-{sent}");
            let mut event = Publication::json(TENANT, "order.created", &id, "");
            event.properties = event.properties.with_content_type(kind.into());
            event.body = body;
            producer.publish(&event).await.unwrap();
            sent += 1;
        }
    }
    eventually("those that are wrong are parked", async || {
        world.count("dead_letters").await + world.count("events").await == sent
    })
    .await;
    let path = "/api/v1/dead-letters?limit=250";
    let letters = world.ask(&ingest, "GET", path, None).await.body;
    let mut said = Vec::new();
    sentences(&letters, &mut said);
    assert!(said.len() > 50, "{}", said.len());
    let found = said
        .iter()
        .filter(|reason| words_of_a_library(reason).is_some());
    assert_eq!(found.collect::<Vec<_>>(), Vec::<&String>::new());
    world.finish().await;
}
