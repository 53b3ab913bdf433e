//! What an operator looks at: after a run with failures of each kind a real
//! Prometheus has an answer to every panel's and every rule's query, and the alerts
//! that the failures deserve are firing.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use harness::load::Load;
use harness::monitoring::{Monitoring, Watched};
use harness::receiver::{Receiver, Reply, Script, answering, answering_after};
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// A webhook counts as failing after six seconds, and is disabled after a minute.
const BRISK: [(&str, &str); 4] = [
    ("WEBHOOK_METRICS", "true"),
    ("SWEEP_INTERVAL", "1"),
    ("WEBHOOK_DISABLE_AFTER", "60"),
    ("WEBHOOK_TIMEOUT", "2000"),
];

#[tokio::test]
async fn every_panel_and_every_rule_has_an_answer_after_a_run_with_failures_of_each_kind() {
    let world = World::with_metrics(&BRISK).await;
    let ingest = world.ingest().await;
    let dispatchers = [world.dispatcher().await, world.dispatcher().await];
    let reader_url = make_reader(&world).await;
    let monitoring = watch(&world, &ingest, &dispatchers, &reader_url).await;
    let asks = async |query: &str| monitoring.values(query).await.unwrap();

    let receivers = fail_in_every_way(&world, &ingest).await;
    let [gone, left] = dispatchers;
    let is_known = [
        "sum(posthorn_webhook_down)",
        "sum(posthorn_webhook_failed_attempts)",
        "sum(posthorn_dead_letters)",
        "sum(posthorn_webhooks_disabled_total)",
        "sum(posthorn_filters_too_costly_total)",
        "sum(posthorn_open_deliveries{reason=\"endpoint_down\"})",
        "sum(posthorn_open_deliveries{reason=\"paused\"})",
        "sum(posthorn_attempts_total{outcome=\"timeout\"})",
        "posthorn:attempt_failures:ratio_rate5m",
        "sum(rabbitmq_global_messages_dead_lettered_confirmed_total)",
    ];
    for query in is_known {
        eventually(query, async || asks(query).await.iter().any(|v| *v > 0.0)).await;
    }
    eventually("a webhook is known to fail", async || {
        world.count("troubles").await > 0
    })
    .await;
    // One is killed: Prometheus says so.
    gone.kill().await.unwrap();
    eventually("it is missed", async || {
        asks("sum(up{job=\"posthorn-dispatcher\"})").await == [1.0]
    })
    .await;

    for alert in [
        "PosthornFailureRateHigh",
        "PosthornEndpointDown",
        "PosthornWebhooksDisabled",
        "PosthornDeadLetters",
        "PosthornFiltersTooCostly",
        "PosthornDown",
        "PosthornWebhookDown",
        "PosthornWebhookFailing",
    ] {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        eventually(&firing, async || !asks(&firing).await.is_empty()).await;
    }
    for service in [&ingest, &left] {
        check_metrics(&service.url("/metrics")).await;
    }
    check_metrics(&ingest.url("/metrics/webhooks")).await;
    let alerts = ask_every_rule(&monitoring).await;
    // Failing endpoints are no fault of Posthorn's.
    for alert in [
        "PosthornUnaccounted",
        "PosthornNoneLeft",
        "PosthornVerdictsSetAside",
        "PosthornDeliveriesStuck",
    ] {
        assert!(
            !alerts.contains(&alert.to_owned()),
            "{alert} is firing: {alerts:?}"
        );
    }
    ask_every_panel(&monitoring, &reader_url).await;

    // What fails still would stay open for a while.
    drop(receivers);
    for webhook in world
        .sql()
        .await
        .query("SELECT id FROM webhooks", &[])
        .await
        .unwrap()
    {
        let id: shared::ids::WebhookId = webhook.get(0);
        world
            .ask(&ingest, "DELETE", &format!("/api/v1/webhooks/{id}"), None)
            .await;
    }
    world.finish().await;
}

/// Draws `docs/images` with `tests/render_dashboards.py`: failures of each kind, and a hundred
/// events a second for three minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "draws docs/images, in four minutes: tests/render_dashboards.py says how"]
async fn gallery() {
    const MINUTES: u64 = 3;
    let world = World::with_metrics(&BRISK).await;
    let ingest = world.ingest().await;
    let dispatchers = [world.dispatcher().await, world.dispatcher().await];
    let reader_url = make_reader(&world).await;
    let monitoring = watch(&world, &ingest, &dispatchers, &reader_url).await;
    let _receivers = fail_in_every_way(&world, &ingest).await;
    let load = Load::start(world.amqp_url(), "picture");
    tokio::time::sleep(Duration::from_secs(MINUTES * 60)).await;
    let python = std::env::var("PYTHON").unwrap_or("python3".to_owned());
    let drawn = tokio::process::Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/render_dashboards.py"))
        .arg(monitoring.url())
        .arg(Path::new(DEPLOY).join("../docs/images"))
        .env("DATABASE_URL", &reader_url)
        .env("TENANT", TENANT)
        .env("MINUTES", MINUTES.to_string())
        .status()
        .await
        .unwrap();
    assert!(drawn.success());
    load.stop().await;
    world.abandon().await;
}

async fn watch(
    world: &World,
    ingest: &Service,
    dispatchers: &[Service],
    reader_url: &str,
) -> Monitoring {
    let address = |service: &Service| service.url("").replace("http://", "");
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    let watched = Watched {
        ingests: vec![address(ingest)],
        dispatchers: dispatchers.iter().map(address).collect(),
        rabbitmq: rabbitmq.metrics_address().unwrap(),
        database_url: reader_url,
        operator_token: ADMIN_TOKEN,
    };
    let monitoring = Monitoring::start(&watched).await.unwrap();
    // Rates are of what changed since Prometheus saw a counter first.
    monitoring.sees_all().await.unwrap();
    monitoring
}

/// Makes the role with which Grafana and `postgres_exporter` read. Returns the database's URL for it.
async fn make_reader(world: &World) -> String {
    let make = format!("psql \"$DATABASE_URL\" --file={DEPLOY}/postgres-reader.sql");
    let ran = world
        .shell(&make, &[("READER_PASSWORD", "the-readers-password")])
        .await;
    assert_eq!(ran.status, 0, "{ran:?}");
    let url = world.database_url();
    let as_reader = url.replace("posthorn@", "posthorn_reader@");
    assert_ne!(as_reader, url);
    as_reader
}

async fn connected(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Webhooks that succeed and fail in each way there is, and events for them.
async fn fail_in_every_way(world: &World, ingest: &Service) -> Vec<Receiver> {
    let ask = async |method: &str, path: &str, body: Value| {
        let answer = world.ask(ingest, method, path, Some(body)).await;
        assert!(answer.status < 300, "{method} {path}: {}", answer.body);
        answer.body
    };
    let redirecting: Script = Arc::new(|_, _| Reply::status(302).with("location", "/elsewhere"));
    let scripts = [
        answering(200),
        answering(400),
        answering(410),
        answering(503),
        redirecting,
        answering_after(Duration::from_secs(5)),
    ];
    let mut receivers = Vec::new();
    for script in scripts {
        let receiver = world.receiver(script).await;
        let policy = json!({"retry_policy": {"delays": [1000, 2000]}});
        world.webhook(ingest, &receiver, policy).await;
        receivers.push(receiver);
    }
    let no_tls = receivers[0].url("/").replace("http:", "https:");
    for url in [
        "http://127.0.0.1:9/",
        "http://does-not-exist.invalid/",
        &no_tls,
    ] {
        ask(
            "POST",
            "/api/v1/webhooks",
            json!({"url": url, "events": ["*"], "retries": 1}),
        )
        .await;
    }
    let url = receivers[0].url("/");
    let paused = json!({"url": url, "events": ["*"], "status": "paused"});
    ask("POST", "/api/v1/webhooks", paused).await;
    let limited = json!({"url": url, "events": ["*"], "rate_limit": 10});
    ask("POST", "/api/v1/webhooks", limited).await;
    let listed: Vec<_> = (0..100).map(|n| json!([n])).collect();
    for _ in 0..50 {
        let costly =
            json!({"url": url, "events": ["costly"], "filters": {"items": {"$in": listed}}});
        ask("POST", "/api/v1/webhooks", costly).await;
    }
    for n in 0..40 {
        world
            .publish("order.created", &format!("evt-{n}"), &json!({"n": n}))
            .await;
    }
    // A duplicate, a costly one, one for nobody, and one that can't be read.
    world.publish("order.created", "evt-1", &json!({})).await;
    let items = json!({"items": vec![json!([-1]); 33_000]});
    world.publish("costly", "evt-costly", &items).await;
    let producer = world.producer().await;
    for (tenant, body) in [("nobody", "{}"), (TENANT, "{\"open\":")] {
        let event = harness::producer::Publication::json(tenant, "order.created", "evt-bad", body);
        producer.publish(&event).await.unwrap();
    }
    receivers[0].receives(40).await;
    receivers
}

/// `promtool check metrics` has nothing to say of a process's metrics.
async fn check_metrics(url: &str) {
    let metrics = http().get(url).bearer_auth(ADMIN_TOKEN).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    assert!(metrics.contains("# HELP posthorn_"), "{url}: {metrics}");
    let mut promtool = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).await.unwrap();
    drop(input);
    let said = promtool.wait_with_output().await.unwrap();
    let text =
        String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.trim().is_empty(), "{text}");
}

/// Every rule's query has an answer, and every alert its section in the runbook.
/// Answers the alerts that are firing.
async fn ask_every_rule(monitoring: &Monitoring) -> Vec<String> {
    let runbook = std::fs::read_to_string(Path::new(DEPLOY).join("../docs/runbook.md")).unwrap();
    let mut wrong = Vec::new();
    let mut firing = Vec::new();
    let rules = monitoring.ask("rules", &[]).await.unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    for rule in rules {
        let (name, query) = (
            rule["name"].as_str().unwrap(),
            rule["query"].as_str().unwrap(),
        );
        if rule["health"] != "ok" {
            wrong.push(format!("{name}: {}", rule["lastError"]));
        }
        if rule["type"] == "recording" {
            let recorded = monitoring.values(name).await;
            check(&mut wrong, name, query, recorded);
            continue;
        }
        if rule["state"] == "firing" {
            firing.push(name.to_owned());
        }
        // A healthy alert's query has no answer; what it compares must have one.
        let comparison = [" > ", " < "].map(|sign| query.rsplit_once(sign));
        let Some((value, _)) = comparison
            .into_iter()
            .flatten()
            .max_by_key(|(value, _)| value.len())
        else {
            wrong.push(format!("{name}: compares nothing: {query}"));
            continue;
        };
        check(&mut wrong, name, value, monitoring.values(value).await);
        let link = rule["annotations"]["runbook_url"]
            .as_str()
            .unwrap_or_default();
        let anchor = link.rsplit('#').next().unwrap_or_default();
        if anchor != name.to_lowercase() || !runbook.contains(&format!("\n### {name}\n")) {
            wrong.push(format!("{name}: no section in docs/runbook.md for {link}"));
        }
    }
    // What the runbook says to ask may have no answer, but can be asked.
    let blocks = runbook.split("```promql\n").skip(1);
    let queries = blocks.filter_map(|block| block.split("```").next());
    for query in queries.flat_map(str::lines) {
        if let Err(error) = monitoring.values(query).await {
            wrong.push(format!("docs/runbook.md: {query}: {error:#}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n{}",
        wrong.join("\n"),
        monitoring.log()
    );
    firing
}

/// Every panel's queries have an answer, and so have those of variables. As Grafana asks: PostgreSQL
/// as a role that sees little.
async fn ask_every_panel(monitoring: &Monitoring, reader_url: &str) {
    let database = connected(reader_url).await;
    let mut wrong = Vec::new();
    let mut asked = 0;
    for file in std::fs::read_dir(Path::new(DEPLOY).join("grafana/dashboards")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let name = format!("{}, variable {}", dashboard["title"], variable["name"]);
            let query = variable["query"].as_str().unwrap();
            let values = check_sql(&mut wrong, &name, query, &database).await;
            assert_eq!(variable["name"], "tenant", "{name}");
            if !values.contains(&TENANT.to_owned()) {
                wrong.push(format!("{name}: {TENANT} is not among {values:?}"));
            }
        }
        for panel in dashboard["panels"].as_array().unwrap() {
            let name = format!("{}, {}", dashboard["title"], panel["title"]);
            for target in panel["targets"].as_array().into_iter().flatten() {
                asked += 1;
                if let Some(query) = target["expr"].as_str() {
                    // As Grafana replaces it for a scrape every second, and an hour shown.
                    let query = query.replace("$__rate_interval", "2m");
                    check(&mut wrong, &name, &query, monitoring.values(&query).await);
                    continue;
                }
                let query = as_grafana_fills_it_in(target["rawSql"].as_str().unwrap());
                check_sql(&mut wrong, &name, &query, &database).await;
            }
        }
    }
    assert!(asked > 100, "{asked} queries were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Answers the values of all columns. A row of nothing but NULLs, such as a sum of no rows, is no
/// answer.
async fn check_sql(
    wrong: &mut Vec<String>,
    name: &str,
    query: &str,
    database: &Client,
) -> Vec<String> {
    let messages = match database.simple_query(query).await {
        Ok(messages) => messages,
        Err(error) => {
            wrong.push(format!("{name}: {error:?} at {query}"));
            return Vec::new();
        }
    };
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let values = rows.flat_map(|row| (0..row.len()).filter_map(|column| row.get(column)));
    let values: Vec<_> = values.map(str::to_owned).collect();
    if values.is_empty() {
        wrong.push(format!("{name}: no rows, or only NULLs, of {query}"));
    }
    values
}

fn check(wrong: &mut Vec<String>, name: &str, query: &str, answer: anyhow::Result<Vec<f64>>) {
    match answer {
        Ok(values) if values.is_empty() => wrong.push(format!("{name}: no answer to {query}")),
        Ok(_) => {}
        Err(error) => wrong.push(format!("{name}: {error:#} at {query}")),
    }
}

fn as_grafana_fills_it_in(query: &str) -> String {
    let query = query.replace("${tenant:sqlstring}", &format!("'{TENANT}'"));
    let mut filled = String::new();
    let mut rest = query.as_str();
    while let Some((before, after)) = rest.split_once("$__timeFilter(") {
        let (column, after) = after.split_once(')').unwrap();
        filled += &format!("{before}{column} BETWEEN now() - interval '1 hour' AND now()");
        rest = after;
    }
    filled + rest
}
