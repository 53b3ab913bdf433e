//! No secret leaves Posthorn: not in a log line, a metric, a job, a row or an answer.
//!
//! Every secret of the deployment is a unique mark. The real servers and processes go
//! through ordinary work and through failures, at the most verbose log level. Then all
//! their output is searched for each mark, in plain text, in base64 and in hex.

#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use harness::producer::Publication;
use harness::receiver::{Receiver, answering};
use harness::service::{Service, http};
use harness::world::{TENANT, World, eventually};
use lapin::options::BasicGetOptions;
use serde_json::{Value, json};

const OLD_KEY: &[u8; 32] = b"mark-old-master-key-_-_-_-_-_-_1";
const NEW_KEY: &[u8; 32] = b"mark-new-master-key-_-_-_-_-_-_2";
const ADMIN: &str = "mark-admin-token-of-the-operator";
const JWT: &str = "mark-jwt-secret-of-32-bytes-or-so";
const DATABASE: &str = "mark-database-password";
const BROKER: &str = "mark-broker-password";
const FIRST: &str = "mark-first-secret-of-the-webhook";
const SECOND: &str = "mark-second-secret-of-the-webhook";
const HEADER: &str = "mark-header-value";
const PATH: &str = "mark-path-of-the-url";
const QUERY: &str = "mark-query-of-the-url";
const USERINFO: &str = "mark-userinfo-of-a-url";
const MISPLACED: &str = "mark-in-the-wrong-place";

/// The forms in which a text may be found: itself and its encodings.
fn forms(mark: &str) -> [String; 5] {
    let encoded = STANDARD.encode(mark);
    [
        mark.to_owned(),
        encoded.trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(mark),
        hex::encode(mark),
        // A column of bytes that contains base64.
        hex::encode(encoded.trim_end_matches('=')),
    ]
}

fn search(place: &str, text: &str, marks: &[String]) {
    for mark in marks {
        for form in forms(mark) {
            if let Some(at) = text.find(&form) {
                let around = text.get(at.saturating_sub(300)..).unwrap_or_default();
                let around: String = around.chars().take(600).collect();
                panic!("`{mark}` is in {place}, as {form}: …{around}…");
            }
        }
    }
}

/// Every row of every table, as text. A URL column may contain its URL.
async fn stored(world: &World) -> String {
    let client = world.sql().await;
    let tables = "SELECT table_name::text FROM information_schema.tables \
                  WHERE table_schema = 'public' AND table_type = 'BASE TABLE'";
    let mut all = String::new();
    for table in client.query(tables, &[]).await.unwrap() {
        let table: &str = table.get(0);
        let rows = format!("SELECT (to_jsonb(t) - 'url')::text FROM \"{table}\" t");
        for row in client.query(&rows, &[]).await.unwrap() {
            all.push_str(&format!("{table}: {}\n", row.get::<_, &str>(0)));
        }
    }
    assert!(all.contains("attempts") && all.contains("dead_letters"));
    all
}

/// The messages in a queue, as text and as hex.
async fn queued(world: &World, queue: &str) -> String {
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    let mut all = String::new();
    eventually(&format!("{queue} has a message"), async || {
        let options = BasicGetOptions::default();
        let got = channel.basic_get(queue.into(), options).await.unwrap();
        if let Some(got) = &got {
            let text = String::from_utf8_lossy(&got.delivery.data);
            all.push_str(&format!("{text} {}", hex::encode(&got.delivery.data)));
            all.push_str(&format!("{:?}", got.delivery.properties));
        }
        got.is_some()
    })
    .await;
    all
}

async fn metrics(service: &Service) -> String {
    let asked = http().get(service.url("/metrics")).send().await;
    asked.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn no_secret_is_printed_stored_or_queued() {
    let keys = [OLD_KEY, NEW_KEY].map(|key| STANDARD.encode(key));
    let world = World::with_own_servers(&[
        ("MASTER_KEY", &keys[0]),
        ("ADMIN_TOKEN", ADMIN),
        ("JWT_SECRET", JWT),
        ("RUST_LOG", "trace"),
    ])
    .await;
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    for arguments in [
        ["add_user", "marked", BROKER].as_slice(),
        &["set_permissions", "-p", "/", "marked", ".*", ".*", ".*"],
    ] {
        rabbitmq.rabbitmqctl(arguments).await.unwrap();
    }
    let broker = world
        .amqp_url()
        .replace("posthorn:posthorn@", &format!("marked:{BROKER}@"));
    let mut database = url::Url::parse(world.database_url()).unwrap();
    database.set_password(Some(DATABASE)).unwrap();
    let database = database.to_string();
    let urls = [("AMQP_URL", broker.as_str()), ("DATABASE_URL", &database)];
    let ingest = world.service("posthorn-ingest", &urls).await;
    let dispatcher = world.service("posthorn-dispatcher", &urls).await;
    let operators = async |method: &str, path: &str, body: Value| {
        let body = (!body.is_null()).then_some(body);
        world.ask_as(ADMIN, &ingest, method, path, body).await
    };

    // Posthorn generates tokens itself, so they are marks too.
    let token = json!({"tenant": TENANT, "role": "admin"});
    let made = operators("POST", "/api/v1/admin/tokens", token).await;
    let token = made.body["token"].as_str().unwrap().to_owned();
    let ask = async |method: &str, path: &str, body: Value| {
        let body = (!body.is_null()).then_some(body);
        world.ask_as(&token, &ingest, method, path, body).await
    };

    let (well, ill) = (
        world.receiver(answering(200)).await,
        world.receiver(answering(500)).await,
    );
    let of = |receiver: &Receiver| {
        json!({
            "url": receiver.url(&format!("/{PATH}?token={QUERY}")), "events": ["*"],
            "secret": FIRST, "headers": {"X-Api-Key": HEADER, "Authorization": format!("Bearer {HEADER}")},
            "retry_policy": {"delays": [3_600_000]}, "signing": "ed25519",
        })
    };
    let mut webhooks = Vec::new();
    for receiver in [&well, &ill] {
        let made = ask("POST", "/api/v1/webhooks", of(receiver)).await;
        assert_eq!(made.status, 201, "{}", made.body);
        webhooks.push(format!(
            "/api/v1/webhooks/{}",
            made.body["id"].as_str().unwrap()
        ));
    }
    let rotation = json!({"secret": SECOND});
    for webhook in &webhooks {
        let rotated = ask(
            "POST",
            &format!("{webhook}/rotate-secret"),
            rotation.clone(),
        )
        .await;
        assert_eq!(rotated.status, 200, "{}", rotated.body);
        let shown = ask("GET", webhook, Value::Null).await;
        search(
            "an answer",
            &shown.body["secret"].to_string(),
            &[FIRST.into(), SECOND.into()],
        );
        search(
            "an answer",
            &shown.body["headers"].to_string(),
            &[HEADER.into()],
        );
    }

    // Successful and failed deliveries, tests of both, and debug mode.
    ask("PATCH", &webhooks[1], json!({"debug_mode": true})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    well.receives(1).await;
    ill.receives(1).await;
    for webhook in &webhooks {
        let tested = ask("POST", &format!("{webhook}/test"), Value::Null).await;
        let marks = [FIRST, SECOND, HEADER, PATH, QUERY].map(str::to_owned);
        search("a test's answer", &tested.body.to_string(), &marks);
    }

    // Secrets in the wrong places.
    for body in [
        json!({"url": format!("https://user:{USERINFO}@example.com/"), "events": ["*"]}),
        json!({"url": format!("https://{MISPLACED} x/"), "events": ["*"]}),
        json!({"secret": {"is": MISPLACED}}),
        json!({"secret": format!("whsec_%{MISPLACED}")}),
        json!({"headers": {"X-Key": format!("{MISPLACED}\r\n")}}),
        json!({"headers": MISPLACED}),
    ] {
        let refused = ask("POST", "/api/v1/webhooks", body.clone()).await;
        assert!(
            (400..=422).contains(&refused.status),
            "{body}: {}",
            refused.body
        );
    }
    let unknown = [
        format!("mark-{MISPLACED}"),
        format!("{token}x"),
        jwt_of(MISPLACED),
    ];
    for wrong in &unknown {
        let refused = world.ask_as(wrong, &ingest, "GET", "/api/v1/webhooks", None);
        assert_eq!(refused.await.status, 401);
    }
    let nobodys = Publication::json("nobody", "order.created", "evt-2", "{}");
    world.producer().await.publish(&nobodys).await.unwrap();
    world.file(
        "webhooks.yaml",
        "tenants:\n- id: acme\n  webhooks:\n  - key: a\n    url: https://example.com/\n    \
         events: ['*']\n    secret: {env: POSTHORN_APPLY_SECRET}\n    headers: {X-A: {env: POSTHORN_APPLY_HEADER}}\n",
    );
    let variables = [
        ("POSTHORN_APPLY_SECRET", FIRST),
        ("POSTHORN_APPLY_HEADER", HEADER),
        urls[0],
        urls[1],
    ];
    let mut printed = String::new();
    let wrong = [
        (
            "DATABASE_URL",
            "postgres://user:mark-database-password@[bad/x",
        ),
        ("AMQP_URL", "amqp://user:mark-broker-password@[bad/x"),
        ("MASTER_KEY", "mark-in-the-wrong-place"),
        ("ADMIN_TOKEN", "mark-short"),
    ];
    for (line, settings) in [
        (
            "posthorn-ingest apply -f webhooks.yaml",
            variables.as_slice(),
        ),
        ("posthorn-ingest audit", &wrong),
        ("posthorn-ingest audit", &wrong[..1]),
        ("posthorn-ingest serve", &wrong[1..2]),
    ] {
        let line = format!("timeout 5 {line}");
        let ran = world.shell(&line, settings).await;
        printed.push_str(&format!("{line}: {} {}\n", ran.printed, ran.said));
    }
    assert!(printed.contains("1 created"), "{printed}");

    // Jobs: one that waits for its retry, and one that nobody has taken yet.
    let mut queued_jobs = queued(&world, "posthorn.retry.v1.3600s").await;
    eventually("a message is parked", async || {
        world.count("dead_letters").await > 0
    })
    .await;
    let counted = format!("{}{}", metrics(&ingest).await, metrics(&dispatcher).await);
    dispatcher.stop().await.unwrap();
    world.publish("order.created", "evt-3", &json!({})).await;
    queued_jobs.push_str(&queued(&world, "posthorn.jobs.v1.0").await);

    // And a new master key.
    let both = [
        ("MASTER_KEY", keys[1].as_str()),
        ("MASTER_KEY_PREVIOUS", &keys[0]),
    ];
    let rekeyed = world.shell("posthorn-ingest rekey", &both).await;
    assert_eq!(rekeyed.status, 0, "{rekeyed:?}");
    printed.push_str(&format!("{} {}", rekeyed.printed, rekeyed.said));

    let key = |key: &[u8; 32]| String::from_utf8(key.to_vec()).unwrap();
    let mut marks: Vec<String> = [
        ADMIN, JWT, DATABASE, BROKER, FIRST, SECOND, HEADER, PATH, QUERY, USERINFO, MISPLACED,
    ]
    .map(str::to_owned)
    .to_vec();
    marks.extend([key(OLD_KEY), key(NEW_KEY), token.clone()]);
    let logs = world.logs();
    assert!(
        logs.contains("DEBUG") && logs.contains("delivered"),
        "nothing was searched"
    );
    // The applied file is among the logs. It contains no mark.
    search("what was printed", &printed, &marks);
    search("the logs", &logs, &marks);
    search("the metrics", &counted, &marks);
    search("a job", &queued_jobs, &marks);
    search("the database", &stored(&world).await, &marks);
    world.abandon().await;
}

fn jwt_of(text: &str) -> String {
    let part = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "sub": text}).to_string());
    format!("{part}.{part}.{part}")
}

#[tokio::test]
async fn after_a_rekey_the_old_master_key_can_be_dropped() {
    const NOBODYS: i64 = 450;
    let [old, new, unknown] = [1_u8, 2, 3].map(|seed| STANDARD.encode([seed; 32]));
    let world = World::with(&[("MASTER_KEY", &old)]).await;
    let shop = world.receiver(answering(200)).await;
    let ingest = world.ingest().await;
    let everything = json!({
        "secret": FIRST, "headers": {"X-Api-Key": HEADER}, "signing": "ed25519",
    });
    let webhook = world.webhook(&ingest, &shop, everything).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let rotation = json!({"secret": SECOND});
    let rotate = format!("{path}/rotate-secret");
    let rotated = world.ask(&ingest, "POST", &rotate, Some(rotation));
    let keys = rotated.await.body["public_key"].clone();
    let gone = world.webhook(&ingest, &shop, json!({})).await;
    let gone = format!("/api/v1/webhooks/{}", gone.id);
    world.ask(&ingest, "DELETE", &gone, None).await;
    ingest.stop().await.unwrap();

    // With both keys, and with more webhooks than one batch, each sealed for itself.
    let both = [("MASTER_KEY", new.as_str()), ("MASTER_KEY_PREVIOUS", &old)];
    let ingest = world.service("posthorn-ingest", &both).await;
    let many = json!({"limits": {"webhooks": 1000}});
    let tenant = format!("/api/v1/admin/tenants/{TENANT}");
    world
        .ask_as_operator(&ingest, "PATCH", &tenant, Some(many))
        .await;
    let copies = "INSERT INTO webhooks (id, tenant, url, patterns, secret, status, revision) \
        SELECT gen_random_uuid(), 'acme', 'https://example.com/', '{*}', w.secret, 'inactive', 0 \
        FROM webhooks w, generate_series(1, $1::int8) WHERE w.secret <> ''";
    let client = world.sql().await;
    client.execute(copies, &[&NOBODYS]).await.unwrap();

    // A locked row is skipped and visited again.
    let mut holding = world.sql().await;
    let transaction = holding.transaction().await.unwrap();
    let lock = "SELECT FROM webhooks WHERE headers IS NOT NULL FOR UPDATE";
    transaction.execute(lock, &[]).await.unwrap();
    let rekeying = world.shell("posthorn-ingest rekey", &both);
    let letting_go = async {
        eventually("the others were looked at", async || {
            let left = "pg_stat_activity WHERE query LIKE '%sealed_webhooks%' \
                        AND pid <> pg_backend_pid()";
            world.count(left).await > 0
        })
        .await;
        transaction.commit().await.unwrap();
    };
    let (rekeyed, ()) = tokio::join!(rekeying, letting_go);
    // A value that isn't authentic stays as it is, and the command says so.
    assert_eq!(rekeyed.status, 1, "{rekeyed:?}");
    assert!(
        rekeyed.printed.starts_with("1 webhooks resealed with key "),
        "{rekeyed:?}"
    );
    let left = format!("{NOBODYS} webhooks left with key ");
    assert!(rekeyed.printed.contains(&left), "{rekeyed:?}");
    let forgeries = "DELETE FROM webhooks WHERE url = 'https://example.com/'";
    client.execute(forgeries, &[]).await.unwrap();

    // Again: nothing to do, nothing left.
    let again = world.shell("posthorn-ingest rekey", &both).await;
    assert_eq!(again.status, 0, "{again:?}");
    assert!(
        again.printed.starts_with("0 webhooks resealed"),
        "{again:?}"
    );
    assert!(
        again.printed.ends_with("no webhook needs another key"),
        "{again:?}"
    );
    // A key that opens nothing rewrites nothing.
    let none = world
        .shell("posthorn-ingest rekey", &[("MASTER_KEY", &unknown)])
        .await;
    assert_eq!(none.status, 1, "{none:?}");
    assert!(none.printed.contains("0 webhooks resealed"), "{none:?}");
    assert!(
        none.printed.contains("1 webhooks left with key "),
        "{none:?}"
    );

    // The old key is gone. Deliveries are signed as before, with both secrets and
    // key pairs.
    ingest.stop().await.unwrap();
    let only = [("MASTER_KEY", new.as_str())];
    let ingest = world.service("posthorn-ingest", &only).await;
    let _dispatcher = world.service("posthorn-dispatcher", &only).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    let arrival = &shop.receives(1).await[0];
    assert_eq!(arrival.header("x-api-key"), HEADER);
    for secret in [FIRST, SECOND] {
        let secret = format!("whsec_{}", STANDARD.encode(secret));
        arrival.verify(&secret).unwrap();
    }
    let signatures = arrival.header("webhook-signature").split(' ');
    assert_eq!(signatures.filter(|one| one.starts_with("v1a,")).count(), 2);
    let shown = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(shown.body["public_key"], keys);
    world.finish().await;
}
