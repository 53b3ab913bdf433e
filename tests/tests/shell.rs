//! A shell is enough: `posthorn-ingest events`, `webhooks` and `listen` over the API.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use harness::receiver::answering;
use harness::service::{Service, binary_path};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// A token of the tenant's manager.
async fn token(world: &World) -> String {
    world
        .command(&["token", "create", "--tenant", "acme"])
        .await
}

/// One of the commands, with only what it needs in its environment.
fn command(ingest: &Service, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary_path("posthorn-ingest").unwrap());
    command
        .args(arguments)
        .env_clear()
        .env("POSTHORN_URL", ingest.url(""))
        .env("POSTHORN_TOKEN", token)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn running(ingest: &Service, token: &str, arguments: &[&str]) -> Child {
    command(ingest, token, arguments).spawn().unwrap()
}

async fn output(ingest: &Service, token: &str, arguments: &[&str]) -> (bool, String, String) {
    ended(running(ingest, token, arguments)).await
}

/// Whether it succeeded, what it printed, and what it said on standard error.
async fn ended(running: Child) -> (bool, String, String) {
    let ran = running.wait_with_output().await.unwrap();
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
    interrupt(listen).await;
    assert_eq!(world.count("webhooks WHERE status <> 'deleted'").await, 0);
    world.finish().await;
}

/// Presses Ctrl-C, after which the command must end with success.
async fn interrupt(mut listen: Child) {
    let process = listen.id().unwrap().to_string();
    let stopped = Command::new("kill")
        .args(["-INT", &process])
        .status()
        .await
        .unwrap();
    assert!(stopped.success());
    assert!(listen.wait().await.unwrap().success());
}

#[tokio::test]
async fn listen_takes_another_dialect_and_a_secret_that_stays_the_same() {
    const SECRET: &str = "a-secret-of-my-machine";
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let forward = receiver.url("/hooks");
    let token = token(&world).await;
    let arguments = [
        "listen",
        "--forward",
        &forward,
        "--dialect",
        "auraconnect",
        "--events",
        "order.*",
    ];
    for run in 1..=2 {
        let mut listen = command(&ingest, &token, &arguments)
            .env("POSTHORN_LISTEN_SECRET", SECRET)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(listen.stdout.take().unwrap()).lines();
        let id = line(&mut lines).await;
        assert!(id.starts_with("Listening as wh_"), "{id}");
        assert!(line(&mut lines).await.ends_with(&format!(" {SECRET}")));
        let event = format!("evt-{run}");
        world
            .publish("order.created", &event, &json!({"n": run}))
            .await;
        let arrival = receiver.receives(run).await.pop().unwrap();
        assert_eq!(arrival.header("x-auraconnect-event-id"), event);
        assert_eq!(arrival.json()["data"], json!({"object": {"n": run}}));
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&arrival.body);
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        assert_eq!(arrival.header("x-auraconnect-signature"), signature);
        // It has answered, too: nothing of this run is left for the next one.
        assert!(line(&mut lines).await.contains("200 in"));
        interrupt(listen).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_global_token_names_its_tenant_and_data_can_come_from_standard_input() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.subscribed(&ingest, answering(200)).await;
    let publish = async |more: &[&str], data: &str| {
        let mut arguments = vec![
            "events",
            "publish",
            "--type",
            "order.created",
            "--data",
            "-",
        ];
        arguments.extend(more);
        let mut publishing = command(&ingest, ADMIN_TOKEN, &arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = publishing.stdin.take().unwrap();
        input.write_all(data.as_bytes()).await.unwrap();
        // The end of the data.
        drop(input);
        ended(publishing).await
    };
    let for_tenant = ["--tenant", TENANT, "--id", "evt-1"];
    let (done, said, error) = publish(&for_tenant, "{\"total\": 25.00}\n").await;
    assert!(done && said.contains("evt-1"), "{said}{error}");
    let arrivals = receiver.receives(1).await;
    assert_eq!(arrivals[0].id(), "evt-1");
    let body = String::from_utf8_lossy(&arrivals[0].body);
    assert!(body.contains(r#"{"total": 25.00}"#), "{body}");
    let (done, _, said) = publish(&for_tenant, "no JSON").await;
    assert!(!done && said.contains("--data is not JSON"), "{said}");

    // The other commands take it as well, and a variable in its place.
    for (more, variable, is_known) in [
        (["--tenant", TENANT].as_slice(), "", true),
        (&[], TENANT, true),
        // The argument goes first.
        (&["--tenant", "nobody"], TENANT, false),
        (&[], "", false),
    ] {
        for (what, expected) in [("events", "evt-1"), ("webhooks", "wh_")] {
            let mut arguments = vec![what, "list"];
            arguments.extend(more);
            let listing = command(&ingest, ADMIN_TOKEN, &arguments)
                .env("POSTHORN_TENANT", variable)
                .spawn()
                .unwrap();
            let (done, listed, said) = ended(listing).await;
            assert_eq!(done, is_known, "{arguments:?} {variable}: {said}");
            assert_eq!(listed.contains(expected), is_known, "{listed}");
        }
    }
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
