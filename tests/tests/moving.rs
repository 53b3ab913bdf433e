//! Webhooks that come from another system: their ids, their secrets, and `posthorn-ingest import`.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use harness::documents::{fenced, without_ids};
use harness::receiver::answering;
use harness::service::Service;
use harness::world::{TENANT, World, eventually};
use serde_json::{Value, json};

const DOCUMENT: &str = include_str!("../../docs/moving.md");

async fn webhooks(world: &World, ingest: &Service) -> Vec<Value> {
    let listed = world.ask(ingest, "GET", "/api/v1/webhooks", None).await;
    listed.body["webhooks"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_webhook_that_moved_here_shows_its_old_id_where_the_old_system_did() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let dialects = [
        ("auraconnect", "x-auraconnect-webhook-id"),
        ("jossiedb", "x-webhook-id"),
    ];
    let mut expected = Vec::new();
    for (dialect, header) in dialects {
        let old = format!("old-{dialect}");
        let moved = json!({"dialect": dialect, "external_id": old});
        let moved = world.webhook(&ingest, &receiver, moved).await;
        expected.push((moved.path, header, old));
        let new = json!({"dialect": dialect});
        let new = world.webhook(&ingest, &receiver, new).await;
        expected.push((new.path, header, new.id));
    }
    world.publish("order.created", "evt-1", &json!({})).await;
    let arrivals = receiver.receives(4).await;
    for (path, header, id) in expected {
        let arrival = arrivals.iter().find(|arrival| arrival.path == path);
        assert_eq!(arrival.unwrap().header(header), id);
    }
    world.finish().await;
}

#[tokio::test]
async fn an_external_id_is_unique_within_its_tenant_and_can_be_taken_away() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let first = json!({"external_id": "webhook_123"});
    let first = world.webhook(&ingest, &receiver, first).await;
    let second = world.webhook(&ingest, &receiver, json!({})).await;
    let path = |webhook: &harness::world::Webhook| format!("/api/v1/webhooks/{}", webhook.id);
    let same = json!({"external_id": "webhook_123"});
    let taken = world
        .ask(&ingest, "PATCH", &path(&second), Some(same.clone()))
        .await;
    assert_eq!(taken.status, 409, "{}", taken.body);
    assert!(taken.body.to_string().contains(&first.id));
    // A program that knows the old id alone finds the webhook by it.
    for (old, found) in [
        ("webhook_123", json!([first.id])),
        ("webhook_12", json!([])),
    ] {
        let path = format!("/api/v1/webhooks?external_id={old}");
        let listed = world.ask(&ingest, "GET", &path, None).await;
        let listed = listed.body["webhooks"].as_array().unwrap().iter();
        assert_eq!(listed.map(|it| it["id"].clone()).collect::<Value>(), found);
    }
    let no_id = "/api/v1/webhooks?external_id=a%20b&limit=0";
    let refused = world.ask(&ingest, "GET", no_id, None).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.body["errors"][1]["field"], "external_id");
    // Its own id is no conflict.
    let own = world
        .ask(&ingest, "PATCH", &path(&first), Some(same.clone()))
        .await;
    assert_eq!(
        (own.status, &own.body["external_id"]),
        (200, &same["external_id"])
    );
    for bad in [json!(""), json!("a b"), json!("x".repeat(129)), json!("é")] {
        let body = json!({"external_id": bad});
        let refused = world
            .ask(&ingest, "PATCH", &path(&second), Some(body))
            .await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(refused.body["field"], "external_id");
    }
    let without = json!({"external_id": null});
    let freed = world
        .ask(&ingest, "PATCH", &path(&first), Some(without))
        .await;
    assert_eq!(freed.body["external_id"], Value::Null);
    let now = world
        .ask(&ingest, "PATCH", &path(&second), Some(same.clone()))
        .await;
    assert_eq!(now.status, 200, "{}", now.body);
    // A deleted webhook's id is free again.
    let deleted = world.ask(&ingest, "DELETE", &path(&second), None).await;
    assert_eq!(deleted.status, 204);
    world.webhook(&ingest, &receiver, same).await;
    world.finish().await;
}

#[tokio::test]
async fn a_file_of_apply_declares_external_ids() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let file = |external: &str| {
        let webhook = json!({
            "key": "a", "url": "http://127.0.0.1:9/", "events": ["*"], "external_id": external,
        });
        json!({"tenants": [{"id": TENANT, "webhooks": [webhook]}]}).to_string()
    };
    world.file("first.json", &file("old-1"));
    world.file("second.json", &file("old-2"));
    world
        .shell("posthorn-ingest apply -f first.json", &[])
        .await;
    assert_eq!(webhooks(&world, &ingest).await[0]["external_id"], "old-1");
    let again = world
        .shell("posthorn-ingest apply -f first.json", &[])
        .await;
    assert!(again.printed.contains("0 changed"), "{again:?}");
    let changed = world
        .shell("posthorn-ingest apply -f second.json", &[])
        .await;
    let line = r#"external_id: "old-1" → "old-2""#;
    assert!(changed.printed.contains(line), "{changed:?}");
    world.finish().await;
}

#[tokio::test]
async fn the_commands_of_the_moving_guide_print_what_it_shows() {
    let world = World::start().await;
    for file in fenced(DOCUMENT, "csv") {
        let (first, rest) = file.split_once('\n').unwrap();
        world.file(first.trim_start_matches("# "), rest);
    }
    let mut ran = String::new();
    for console in fenced(DOCUMENT, "console") {
        for command in console.split("$ ").skip(1) {
            let (line, expected) = command.split_once('\n').unwrap();
            // As in production: the files name public URLs with HTTPS.
            let said = world.shell(line, &[("ALLOW_HTTP", "false")]).await;
            let output = format!("{}{}", said.printed, said.said);
            assert!(!output.contains("billing-secret"), "{output}");
            ran.push_str(&format!("$ {line}\n{output}\n"));
            assert_eq!(
                without_ids(&output),
                without_ids(expected),
                "all of it:\n{ran}"
            );
        }
    }
    assert_eq!(world.count("webhooks WHERE status = 'inactive'").await, 2);
    world.finish().await;
}

#[tokio::test]
async fn an_imported_webhook_delivers_as_the_old_system_did() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let row = json!({
        "id": "webhook_7", "target_url": receiver.url("/old"), "events": ["order.*"], "secret": "the-old-secret",
        "headers": {"X-Key": "hunter2-hunter2"}, "createdAt": "2020-01-01T00:00:00Z",
    });
    let bad = json!({"id": "webhook_8", "url": receiver.url("/"), "events": ["*"], "surprise": "the-old-secret"});
    world.file("old.jsonl", &format!("{row}\n{bad}\n"));
    let import = "posthorn-ingest import old.jsonl --tenant acme --from auraconnect";
    let refused = world.shell(import, &[]).await;
    assert_eq!((refused.status, world.count("webhooks").await), (1, 0));
    assert!(refused.printed.contains("unknown field"), "{refused:?}");
    let done = world
        .shell(&format!("{import} --ignore surprise"), &[])
        .await;
    assert_eq!(done.status, 0, "{done:?}");
    for output in [&refused, &done].map(|ran| format!("{ran:?}")) {
        assert!(
            !output.contains("the-old-secret") && !output.contains("hunter2"),
            "{output}"
        );
    }
    // An ingest that was running already knows it.
    world
        .publish("order.created", "evt-1", &json!({"a": 1}))
        .await;
    let arrivals = receiver.receives(2).await;
    let arrival = arrivals
        .iter()
        .find(|arrival| arrival.path == "/old")
        .unwrap();
    assert_eq!(arrival.header("x-auraconnect-webhook-id"), "webhook_7");
    assert_eq!(arrival.header("x-key"), "hunter2-hunter2");
    let expected = hmac_hex("the-old-secret", &arrival.body);
    assert_eq!(
        arrival.header("x-auraconnect-signature"),
        format!("sha256={expected}")
    );
    eventually("the deliveries are finished", async || {
        webhooks(&world, &ingest).await.len() == 2
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn an_import_needs_a_tenant_that_exists_and_a_file_within_bounds() {
    let world = World::start().await;
    world.file("a.csv", "id,url,events\n1,https://example.com/,*\n");
    for (command, why) in [
        (
            "posthorn-ingest import a.csv --tenant nobody",
            "no tenant `nobody`",
        ),
        (
            "posthorn-ingest import a.csv --tenant acme --dialect x",
            "`x` does not exist",
        ),
        (
            "posthorn-ingest import a.csv --tenant acme --map x",
            "NAME=MEMBER",
        ),
        (
            "posthorn-ingest import none.csv --tenant acme",
            "reading none.csv",
        ),
        (
            "head -c 8388609 /dev/zero | tr '\\0' 'x' | posthorn-ingest import - --tenant acme",
            "more than 8388608 bytes",
        ),
        (
            "printf '' | posthorn-ingest import - --tenant acme",
            "has no rows",
        ),
    ] {
        let ran = world.shell(command, &[]).await;
        assert!(
            ran.status == 1 && ran.said.contains(why),
            "{command}: {ran:?}"
        );
    }
    // One tenant's limit holds for imports too, and the rows before it are not kept.
    let limit = "UPDATE tenants SET max_webhooks = 1";
    world.sql().await.execute(limit, &[]).await.unwrap();
    world.file(
        "two.csv",
        "id,url,events\n1,https://a.example/,*\n2,https://b.example/,*\n",
    );
    let ran = world
        .shell("posthorn-ingest import two.csv --tenant acme", &[])
        .await;
    assert!(ran.printed.contains("at most 1"), "{ran:?}");
    assert_eq!(world.count("webhooks").await, 0);
    world.finish().await;
}

/// HMAC-SHA256 by openssl, whose code is not Posthorn's.
fn hmac_hex(secret: &str, message: &[u8]) -> String {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", secret, "-r"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(message).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_guides_dialects_sign_as_the_other_products_do() {
    let world = World::start().await;
    for file in fenced(DOCUMENT, "toml") {
        let name = file.lines().next().unwrap().trim_start_matches("# ");
        world.file(name, file);
    }
    let preview = async |dialect: &str, secret: &str| {
        let line = format!(
            "posthorn-ingest dialect preview {dialect} --data '{{\"a\": 1.50}}' --id msg_1 --secret {secret}"
        );
        let ran = world.shell(&line, &[("DIALECTS_DIR", ".")]).await;
        assert_eq!(ran.status, 0, "{ran:?}");
        let (headers, body) = ran.printed.split_once("\n\n").unwrap();
        // The payload alone, byte for byte.
        assert_eq!(body, r#"{"a": 1.50}"#);
        let headers = headers.lines().map(|line| line.split_once(": ").unwrap());
        headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<std::collections::HashMap<_, _>>()
    };
    let body = br#"{"a": 1.50}"#;
    let secret = "whsec_c2VjcmV0LWZvci1leGFtcGxlcy1vbmx5";
    let svix = preview("svix", secret).await;
    let verifier = standardwebhooks::Webhook::new(secret).unwrap();
    let mut headers = axum::http::HeaderMap::new();
    for name in ["id", "timestamp", "signature"] {
        let value = svix[&format!("svix-{name}")].parse().unwrap();
        let name = format!("webhook-{name}");
        headers.insert(axum::http::HeaderName::try_from(name).unwrap(), value);
    }
    verifier.verify(body, &headers).unwrap();

    let secret = "6b8a3e2c-0000-4000-8000-000000000000";
    for (dialect, header, version, between) in [
        ("convoy", "x-convoy-signature", "v1", ","),
        ("hook0", "x-hook0-signature", "v0", "."),
    ] {
        let sent = preview(dialect, secret).await;
        let (time, signature) = sent[header].split_once(',').unwrap();
        let time = time.strip_prefix("t=").unwrap();
        let signed = [time.as_bytes(), between.as_bytes(), body].concat();
        let expected = format!("{version}={}", hmac_hex(secret, &signed));
        assert_eq!(signature, expected, "{dialect}");
    }
    world.finish().await;
}
