//! HTTP clients, and peers of connections, that are slow or send what can't be processed:
//! idle connections, duplicate headers, text that PostgreSQL can't store, wrong
//! certificates, settings that can't work.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn connect(service: &Service, bytes: &str) -> TcpStream {
    let address = service.url("").replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may have closed the connection already.
    let _ = stream.write_all(bytes.as_bytes()).await;
    stream
}

/// Reads until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    let closed = tokio::time::timeout(Duration::from_secs(60), reading).await;
    // A reset is as good as a close: the connection has ended.
    let _ = closed.expect("the server closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn five_hundred_silent_or_incomplete_connections_are_closed_and_keep_no_client_out() {
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
        // A client at the same address gets its answers meanwhile, again and again.
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

/// Follows a schema's reference into the document.
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

/// Copies of this body. In each, one member (or a member's member) is replaced by
/// `text`, by a list of it, or by an object of it.
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

/// Every operation, with U+0000 in each parameter and in each member of its body.
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
                let parameter = resolved(document, parameter);
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
async fn text_that_postgresql_cannot_store_is_refused_in_every_member_and_parameter() {
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
    // The changes above may hold deliveries or send them nowhere, so don't check
    // them.
    world.abandon().await;
}

/// A certificate of the tests.
fn certificate(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    format!("{folder}/{name}.pem")
}

/// Starts a TLS server with this certificate that never answers; returns its
/// address.
async fn tls_endpoint(name: &str) -> String {
    let chain = CertificateDer::pem_file_iter(certificate(name)).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificate("key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            let config = config.clone();
            tokio::task::spawn_blocking(move || {
                let mut session = rustls::ServerConnection::new(config).unwrap();
                // Ends when the client refuses the certificate.
                while session
                    .complete_io(&mut stream)
                    .is_ok_and(|(read, _)| read > 0)
                {}
            });
        }
    });
    url
}

#[tokio::test]
async fn a_certificate_with_a_thousand_names_makes_no_row_log_or_answer_long() {
    let trusted = certificate("ca");
    let world = World::with(&[("SSL_CERT_FILE", &trusted)]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let url = tls_endpoint("many").await;
    let body = Some(json!({"url": url, "events": ["*"], "retries": 0}));
    let made = world.ask(&ingest, "POST", "/api/v1/webhooks", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    world.publish("order.created", "evt-1", &json!({})).await;
    eventually("it has been tried", async || {
        world.count("attempts WHERE outcome = 'tls'").await == 1
    })
    .await;
    let row = world.sql().await;
    let row = row
        .query_one("SELECT error FROM attempts", &[])
        .await
        .unwrap();
    let error: String = row.get(0);
    assert!(
        error.starts_with("TLS: ") && error.contains("not valid for name"),
        "{error}"
    );
    assert!(error.len() <= 1024 && error.ends_with('…'), "{error}");

    let path = format!(
        "/api/v1/webhooks/{}/test",
        made.body["id"].as_str().unwrap()
    );
    let tested = world.ask(&ingest, "POST", &path, None).await.body;
    assert_eq!(tested["outcome"], "tls");
    for member in ["error", "verdict"] {
        let said = tested[member].as_str().unwrap();
        assert!(said.len() < 2048, "{member}: {said}");
    }
    // Our own log line names the webhook. The library's lines would not.
    let logs = world.logs();
    let longest = logs.lines().map(str::len).max().unwrap();
    assert!(longest < 4096, "{longest} bytes in a line");
    assert!(!logs.contains("failed to verify TLS certificate"), "{logs}");
    world.finish().await;
}

#[tokio::test]
async fn a_client_cannot_make_the_answer_to_a_refusal_long() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let long = "ä".repeat(20_000);
    let webhook = json!({"url": "https://example.com/", "events": ["*"]});
    let mut unknown = webhook.clone();
    unknown[long.as_str()] = json!(1);
    let mut header = webhook;
    header["headers"] = json!({long: "b"});
    let path = "/api/v1/webhooks";
    for (method, path, body) in [
        ("POST", path.to_owned(), Some(unknown)),
        ("POST", path.to_owned(), Some(header)),
        ("GET", format!("/api/v1/{}", "a".repeat(20_000)), None),
        ("GET", format!("{path}?limit={}", "9".repeat(20_000)), None),
    ] {
        let refused = world.ask(&ingest, method, &path, body).await;
        assert!((400..500).contains(&refused.status), "{}", refused.body);
        let said = refused.body.to_string();
        assert!(said.len() < 2048, "{} bytes: {said}", said.len());
    }
    let logs = world.logs();
    assert!(logs.lines().all(|line| line.len() < 4096), "{logs}");
    world.finish().await;
}

#[tokio::test]
async fn a_request_with_two_authorization_tenant_or_host_headers_is_refused() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let ask = async |version: &str, headers: &[&str]| {
        let headers = headers.join("\r\n");
        let request =
            format!("GET /api/v1/webhooks {version}\r\n{headers}\r\nconnection: close\r\n\r\n");
        rest(connect(&ingest, &request).await).await
    };
    let token = format!("authorization: Bearer {ADMIN_TOKEN}");
    let token = token.as_str();
    let tenant = format!("x-tenant-id: {TENANT}");
    let tenant = tenant.as_str();
    let whole = ask("HTTP/1.1", &["host: a", token, tenant]).await;
    assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    let old = ask("HTTP/1.0", &[token, tenant]).await;
    assert!(old.starts_with("HTTP/1.0 200"), "{old}");
    for (version, headers, named) in [
        ("HTTP/1.1", vec![token, tenant], "Host"),
        (
            "HTTP/1.1",
            vec!["host: a", "Host: a", token, tenant],
            "Host",
        ),
        (
            "HTTP/1.0",
            vec!["host: a", "host: b", token, tenant],
            "Host",
        ),
        (
            "HTTP/1.1",
            vec!["host: a", token, "authorization: Bearer other", tenant],
            "Authorization",
        ),
        (
            "HTTP/1.1",
            vec!["host: a", token, tenant, "X-Tenant-Id: other"],
            "X-Tenant-ID",
        ),
    ] {
        let refused = ask(version, &headers).await;
        assert!(
            refused.contains(" 400 Bad Request"),
            "{headers:?}: {refused}"
        );
        assert!(refused.contains("application/problem+json"), "{refused}");
        assert!(refused.contains(&format!("`{named}`")), "{refused}");
    }
    world.finish().await;
}

#[tokio::test]
async fn answers_forbid_caching_of_secrets_and_content_type_sniffing() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let webhooks = "/api/v1/webhooks";
    let rotated = format!("{webhooks}/{}/rotate-secret", webhook.id);
    let new = json!({"url": "https://example.com/", "events": ["*"]});
    for (method, path, body, status, is_private) in [
        ("POST", "/api/v1/admin/tokens", json!({}), 201, true),
        ("POST", webhooks, new.clone(), 201, true),
        ("POST", "/api/webhooks", new, 201, true),
        ("POST", rotated.as_str(), json!({}), 200, true),
        ("GET", webhooks, Value::Null, 200, true),
        ("GET", "/api/v1/nothing", Value::Null, 404, true),
        ("GET", "/openapi.json", Value::Null, 200, false),
        ("GET", "/docs/", Value::Null, 200, false),
    ] {
        let mut request = http()
            .request(method.parse().unwrap(), ingest.url(path))
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", TENANT);
        if !body.is_null() {
            request = request.header("content-type", "application/json");
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let headers = answer.headers().clone();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let kept = headers.get("cache-control").map(|value| value.as_bytes());
        let expected: Option<&[u8]> = is_private.then_some(b"no-store");
        assert!(!is_private || kept == expected, "{path}: {headers:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn invalid_settings_are_refused_at_start_and_unencrypted_connections_are_warned_of() {
    let world = World::start().await;
    for (name, value) in [
        ("AMQP_URL", "amqp://u:hunter2@127.0.0.1:port/"),
        (
            "DATABASE_URL",
            "postgres://u:hunter2@127.0.0.1/d?sslmode=hunter2",
        ),
        ("ADMIN_TOKEN", "hunter2-hunter2-hunter2 "),
    ] {
        // In earlier versions the process tried to connect for ever.
        let line = "HTTP_ADDR=127.0.0.1:0 timeout 60 posthorn-ingest";
        let refused = world.shell(line, &[(name, value)]).await;
        assert_eq!(refused.status, 1, "{name}: {refused:?}");
        assert!(refused.said.contains(name), "{refused:?}");
        assert!(!refused.said.contains("hunter2"), "{refused:?}");
    }
    // An address of this machine that isn't a loopback address. Nobody listens at
    // this port.
    for (query, warned) in [("", true), ("?sslmode=disable", false)] {
        let url = format!("postgres://posthorn@0.0.0.0:1/posthorn{query}");
        let line = "HTTP_ADDR=127.0.0.1:0 timeout 3 posthorn-dispatcher";
        let ran = world.shell(line, &[("DATABASE_URL", &url)]).await;
        let output = format!("{}{}", ran.printed, ran.said);
        assert!(output.contains("not started yet"), "{output}");
        assert_eq!(output.contains("has no sslmode"), warned, "{output}");
    }
    world.finish().await;
}

/// Gives PostgreSQL one of the tests' certificates, for new connections.
async fn certified(world: &World, name: &str) {
    let sql = world.sql().await;
    for (source, file) in [(name, "server.crt"), ("key", "server.key")] {
        let text = std::fs::read_to_string(certificate(source)).unwrap();
        let lines = text.trim().lines().map(|line| format!("('{line}')"));
        let lines = lines.collect::<Vec<_>>().join(",");
        // In its data folder, as its own user.
        let write =
            format!("COPY (SELECT * FROM (VALUES {lines}) l) TO PROGRAM 'umask 077; cat > {file}'");
        sql.batch_execute(&write).await.unwrap();
    }
    sql.batch_execute("ALTER SYSTEM SET ssl = on")
        .await
        .unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

#[tokio::test]
async fn a_postgresql_without_a_trusted_certificate_gets_no_connection() {
    let world = World::with_own_servers(&[]).await;
    let ca = certificate("ca");
    let with = |mode: &str, root: &str| {
        let root = match root {
            "" => String::new(),
            root => format!("&sslrootcert={root}"),
        };
        format!("{}?sslmode={mode}{root}", world.database_url())
    };
    let connects = async |mode: &str, root: &str| {
        let url = with(mode, root);
        world
            .shell("posthorn-ingest audit", &[("DATABASE_URL", &url)])
            .await
            .status
            == 0
    };
    for (mode, expected) in [("verify-full", false), ("require", false), ("prefer", true)] {
        assert_eq!(connects(mode, &ca).await, expected, "without TLS, {mode}");
    }

    certified(&world, "localhost").await;
    eventually("PostgreSQL offers TLS", async || {
        connects("verify-full", &ca).await
    })
    .await;
    for (mode, root, expected) in [
        ("verify-ca", ca.as_str(), true),
        ("require", &ca, true),
        ("prefer", &ca, true),
        ("disable", "", true),
        // The system doesn't trust the tests' authority.
        ("verify-full", "", false),
        ("verify-ca", "system", false),
        ("prefer", "", false),
    ] {
        assert_eq!(connects(mode, root).await, expected, "{mode} {root}");
    }
    let url = with("verify-full", &ca);
    let (ingest, _dispatcher) = (
        world
            .service("posthorn-ingest", &[("DATABASE_URL", &url)])
            .await,
        world
            .service("posthorn-dispatcher", &[("DATABASE_URL", &url)])
            .await,
    );
    let shop = world.subscribed(&ingest, answering(200)).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    let ours = "pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                WHERE a.application_name LIKE 'posthorn-%'";
    assert!(world.count(&format!("{ours} AND s.ssl")).await >= 4);
    assert_eq!(world.count(&format!("{ours} AND NOT s.ssl")).await, 0);

    certified(&world, "other").await;
    eventually("PostgreSQL has another name", async || {
        !connects("verify-full", &ca).await
    })
    .await;
    assert!(!connects("require", &ca).await);
    assert!(connects("verify-ca", &ca).await, "the name doesn't count");
    // The world's own URL doesn't trust the tests' authority.
    let sql = world.sql().await;
    sql.batch_execute("ALTER SYSTEM RESET ssl").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("PostgreSQL offers no TLS", async || {
        connects("prefer", "").await
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn many_reads_of_one_tenant_keep_no_other_tenant_and_no_event_out() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let globex = world.another_tenant(&ingest, "globex").await;

    let mut sql = world.sql().await;
    let lock = sql.transaction().await.unwrap();
    let taken = "LOCK TABLE replays IN ACCESS EXCLUSIVE MODE";
    lock.batch_execute(taken).await.unwrap();
    let path = format!("/api/v1/webhooks/{}/replays", webhook.id);
    // More requests than the API has connections.
    let reads = (0..20).map(|_| world.ask(&ingest, "GET", &path, None));
    let meanwhile = async {
        let watching = world.sql().await;
        eventually("as many as may wait for PostgreSQL", async || {
            let reading = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND wait_event_type = 'Lock' AND query LIKE '%list_replays%'";
            let row = watching.query_one(reading, &[]).await.unwrap();
            row.get::<_, i64>(0) == 3
        })
        .await;
        let path = "/api/v1/webhooks";
        let other = world.ask_as(&globex, &ingest, "GET", path, None).await;
        assert_eq!(other.status, 200, "{}", other.body);
        let event = Some(json!({"type": "order.paid", "data": {}}));
        let event = world.ask(&ingest, "POST", "/api/v1/events", event).await;
        assert_eq!(event.status, 202, "{}", event.body);
        // Longer than a request waits for earlier ones.
        let refused = world.ask(&ingest, "GET", path, None).await;
        assert_eq!(refused.status, 429, "{}", refused.body);
        let said = refused.body["detail"].as_str().unwrap();
        assert!(said.contains("3 requests of this tenant"), "{said}");
        lock.commit().await.unwrap();
    };
    let (reads, ()) = tokio::join!(join_all(reads), meanwhile);
    let count = |status| reads.iter().filter(|read| read.status == status).count();
    assert_eq!((count(200), count(429)), (3, 17));
    shop.receives(1).await;
    world.finish().await;
}
