//! A shell is enough: `posthorn-ingest events`, `webhooks` and `listen` over the API.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use harness::receiver::answering;
use harness::service::{Service, binary_path};
use harness::world::{World, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A token of the tenant's manager.
async fn token(world: &World) -> String {
    world
        .command(&["token", "create", "--tenant", "acme"])
        .await
}

/// One of the commands, running, with only what it needs in its environment.
fn running(ingest: &Service, token: &str, arguments: &[&str]) -> Child {
    Command::new(binary_path("posthorn-ingest").unwrap())
        .args(arguments)
        .env_clear()
        .env("POSTHORN_URL", ingest.url(""))
        .env("POSTHORN_TOKEN", token)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn output(ingest: &Service, token: &str, arguments: &[&str]) -> (bool, String, String) {
    let ran = running(ingest, token, arguments)
        .wait_with_output()
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.success(), text(&ran.stdout), text(&ran.stderr))
}

/// Reads a line, or fails the test after a minute.
async fn line(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> String {
    let patience = std::time::Duration::from_secs(60);
    let read = tokio::time::timeout(patience, lines.next_line()).await;
    read.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn events_and_webhooks_can_be_looked_at_from_a_shell() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let token = token(&world).await;
    let secret = json!({"secret": "a-secret-that-is-not-shown"});
    let webhook = world.webhook(&ingest, &receiver, secret).await;

    let publish = [
        "events",
        "publish",
        "--type",
        "order.created",
        "--id",
        "evt-1",
        "--data",
        r#"{"total": 25.00}"#,
    ];
    let (done, said, _) = output(&ingest, &token, &publish).await;
    assert!(done && said.contains("evt-1"), "{said}");
    let arrivals = receiver.receives(1).await;
    let body = String::from_utf8_lossy(&arrivals[0].body);
    assert!(body.contains(r#"{"total": 25.00}"#), "{body}");
    let (_, listed, _) = output(&ingest, &token, &["events", "list"]).await;
    assert!(
        listed.contains("order.created") && listed.contains("1 webhooks"),
        "{listed}"
    );
    let (_, as_json, _) = output(
        &ingest,
        &token,
        &["events", "list", "--json", "--limit", "1"],
    )
    .await;
    let event: Value = serde_json::from_str(&as_json).unwrap();
    assert_eq!(event["id"], "evt-1");
    let (_, listed, _) = output(&ingest, &token, &["webhooks", "list"]).await;
    assert!(
        listed.contains(&webhook.id) && listed.contains("active"),
        "{listed}"
    );
    let (_, shown, _) = output(&ingest, &token, &["webhooks", "show", &webhook.id]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["id"], json!(webhook.id));
    assert!(!shown.to_string().contains("not-shown"));

    // What is wrong is said, and the token never.
    let (done, _, said) = output(
        &ingest,
        &token,
        &["events", "publish", "--type", "not a type"],
    )
    .await;
    assert!(!done && said.contains("the API answered 422"), "{said}");
    let (done, _, said) = output(&ingest, "pht_wrong", &["webhooks", "list"]).await;
    assert!(
        !done && said.contains("401") && !said.contains("pht_wrong"),
        "{said}"
    );
    let (done, _, said) = output(&ingest, "", &["webhooks", "list"]).await;
    assert!(
        !done && said.contains("POSTHORN_TOKEN is not set"),
        "{said}"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_token_or_a_link_for_a_tenant_that_is_not_there_is_refused_by_name() {
    let world = World::start().await;
    for arguments in [
        ["token", "create", "--tenant", "nobody"].as_slice(),
        &["console-link", "--tenant", "nobody"],
    ] {
        let error = world.try_command(arguments).await.unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("there is no tenant `nobody`"), "{said}");
    }
    world.finish().await;
}

#[tokio::test]
async fn tail_prints_each_event_once_as_it_is_accepted() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let token = token(&world).await;
    world.publish("order.created", "before", &json!({})).await;
    world.accepts(1).await;
    let mut tail = running(&ingest, &token, &["events", "tail", "--json"]);
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    // It may begin after some of these; from then on it misses none.
    let mut n = 0;
    while seen.is_empty() {
        world
            .publish("order.created", &format!("evt-{n}"), &json!({}))
            .await;
        n += 1;
        let patience = std::time::Duration::from_secs(2);
        if let Ok(read) = tokio::time::timeout(patience, lines.next_line()).await {
            seen.push(read.unwrap().unwrap());
        }
    }
    for more in n..n + 5 {
        world
            .publish("order.created", &format!("evt-{more}"), &json!({}))
            .await;
    }
    let last = format!("\"evt-{}\"", n + 4);
    while !seen.last().unwrap().contains(&last) {
        seen.push(line(&mut lines).await);
    }
    let ids: Vec<Value> = seen
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect();
    let first: usize = ids[0].as_str().unwrap()[4..].parse().unwrap();
    let expected: Vec<Value> = (first..n + 5).map(|n| json!(format!("evt-{n}"))).collect();
    assert_eq!(ids, expected);
    tail.kill().await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn listen_forwards_signed_deliveries_to_a_port_on_this_machine() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(202)).await;
    let token = token(&world).await;
    let forward = receiver.url("/hooks");
    let mut listen = running(
        &ingest,
        &token,
        &["listen", "--forward", &forward, "--events", "order.*"],
    );
    let mut lines = BufReader::new(listen.stdout.take().unwrap()).lines();
    let first = line(&mut lines).await;
    assert!(first.starts_with("Listening as wh_"), "{first}");
    let secret = line(&mut lines).await;
    let secret = secret.rsplit(' ').next().unwrap();
    for n in 0..30 {
        world
            .publish("order.created", &format!("evt-{n}"), &json!({"n": n}))
            .await;
    }
    world.publish("user.created", "other", &json!({})).await;
    let arrivals = receiver.receives(30).await;
    for arrival in &arrivals {
        assert_eq!(arrival.path, "/hooks");
        arrival.verify(secret).unwrap();
    }
    let mut ids: Vec<_> = arrivals
        .iter()
        .map(|arrival| arrival.id().to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 30);
    let said = line(&mut lines).await;
    assert!(
        said.contains("order.created") && said.contains("202 in"),
        "{said}"
    );
    // Ctrl-C deletes the webhook.
    let process = listen.id().unwrap().to_string();
    let stopped = Command::new("kill")
        .args(["-INT", &process])
        .status()
        .await
        .unwrap();
    assert!(stopped.success());
    assert!(listen.wait().await.unwrap().success());
    assert_eq!(world.count("webhooks WHERE status <> 'deleted'").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_listener_that_nobody_asks_any_more_is_deleted() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let path = "/api/v1/listeners";
    for n in 0..6 {
        let made = world.ask(&ingest, "POST", path, Some(json!({}))).await;
        let expected = if n < 5 { 201 } else { 409 };
        assert_eq!(made.status, expected, "{}", made.body);
    }
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    // As after two minutes in which nobody asked.
    let over = "UPDATE webhooks SET temporary_until = now() - interval '1 second'";
    world.sql().await.execute(over, &[]).await.unwrap();
    eventually("the listeners are deleted", async || {
        world.count("webhooks WHERE status <> 'deleted'").await == 0
    })
    .await;
    let again = world
        .ask(&ingest, "POST", path, Some(json!({"events": "order.*"})))
        .await;
    assert_eq!(again.status, 201, "{}", again.body);
    // An ordinary webhook has no such stream.
    let receiver = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &receiver, json!({})).await;
    let stream = format!("{path}/{}/deliveries", webhook.id);
    let refused = world.ask(&ingest, "GET", &stream, None).await;
    assert_eq!(refused.status, 404);
    world.finish().await;
}
