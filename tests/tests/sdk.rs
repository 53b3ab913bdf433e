//! Customers' own libraries accept what they are sent.
//!
//! The crate `standardwebhooks` verifies in every other test; here it is the
//! package of that name from PyPI, installed by `make deps`.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use std::path::PathBuf;

use harness::receiver::{Arrival, answering};
use harness::world::World;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const VERIFY: &str = "
import json, sys
from standardwebhooks import Webhook
sent = json.load(sys.stdin)
print(json.dumps(Webhook(sent['secret']).verify(sent['body'].encode(), sent['headers'])))
";

fn python() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.posthorn/venv/bin/python");
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "`make deps` has not installed {}",
        path.display()
    );
    eprintln!("SKIPPED: no {}; run `make deps`", path.display());
    None
}

async fn verify(python: &PathBuf, secret: &str, arrival: &Arrival) -> Result<String, String> {
    let header = |name: &str| arrival.header(name).to_owned();
    let sent = json!({
        "secret": secret,
        "body": String::from_utf8(arrival.body.to_vec()).unwrap(),
        "headers": {
            "webhook-id": header("webhook-id"),
            "webhook-timestamp": header("webhook-timestamp"),
            "webhook-signature": header("webhook-signature"),
        },
    });
    let pipe = std::process::Stdio::piped;
    let mut child = Command::new(python)
        .args(["-c", VERIFY])
        .stdin(pipe())
        .stdout(pipe())
        .stderr(pipe())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(sent.to_string().as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

#[tokio::test]
async fn the_python_package_accepts_deliveries_and_rejects_a_flipped_byte() {
    let Some(python) = python() else { return };
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world
        .publish("order.created", "evt-1", &json!({"name": "Zoë ☕", "n": 1}))
        .await;
    let mut arrival = shop.receives(1).await.remove(0);

    let verified = verify(&python, &webhook.secret, &arrival).await.unwrap();
    let payload: serde_json::Value = serde_json::from_str(&verified).unwrap();
    assert_eq!(payload["data"], json!({"name": "Zoë ☕", "n": 1}));

    let mut flipped = arrival.body.to_vec();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    arrival.body = flipped.into();
    let refused = verify(&python, &webhook.secret, &arrival)
        .await
        .unwrap_err();
    assert!(refused.contains("WebhookVerificationError"), "{refused}");
    world.finish().await;
}
