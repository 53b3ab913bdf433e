//! The libraries that customers use accept the deliveries that Posthorn signed, and
//! nothing else.
//!
//! The crate `standardwebhooks` verifies in every other test. Here the packages of that
//! name from PyPI and npm, installed by `make deps`, verify too.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use harness::receiver::{Arrival, answering};
use harness::world::World;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const PYTHON: &str = "
import json, sys
from standardwebhooks import Webhook
sent = json.load(sys.stdin)
print(json.dumps(Webhook(sent['secret']).verify(sent['body'].encode(), sent['headers'])))
";

const NODE: &str = "
const { Webhook } = require('standardwebhooks');
const sent = JSON.parse(require('fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify(new Webhook(sent.secret).verify(sent.body, sent.headers)));
";

/// Verifies as the specification says, with Node's own cryptography, because no
/// known library supports `v1a` yet. The key is the published JSON Web Key.
const ED25519: &str = "
const { createPublicKey, verify } = require('crypto');
const { secret: key, body, headers } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`;
const publicKey = createPublicKey({ key, format: 'jwk' });
const accepted = headers['webhook-signature'].split(' ').some(signature => {
  const [version, bytes] = signature.split(',');
  return version === 'v1a' && verify(null, Buffer.from(signed), publicKey, Buffer.from(bytes, 'base64'));
});
if (!accepted) throw new Error('no signature matches');
console.log(body);
";

/// A verifier: a program with the packages that `make deps` installed for it.
struct Verifier {
    program: PathBuf,
    arguments: [&'static str; 2],
}

fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.posthorn")
        .join(path)
}

/// All installed verifiers. CI has all of them.
fn verifiers() -> Vec<Verifier> {
    let python = (
        installed("venv/bin/python"),
        ["-c", PYTHON],
        "venv/bin/python",
    );
    let node = (
        PathBuf::from("node"),
        ["-e", NODE],
        "node_modules/standardwebhooks",
    );
    let mut found = Vec::new();
    for (program, arguments, needs) in [python, node] {
        if installed(needs).exists() {
            found.push(Verifier { program, arguments });
            continue;
        }
        let needs = installed(needs);
        assert!(
            std::env::var_os("CI").is_none(),
            "`make deps` has not installed {}",
            needs.display()
        );
        eprintln!("SKIPPED: no {}; run `make deps`", needs.display());
    }
    found
}

impl Verifier {
    /// The payload that it read, or why it refused.
    async fn verify(&self, secret: &Value, arrival: &Arrival) -> Result<Value, String> {
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
        let mut child = Command::new(&self.program)
            .args(self.arguments)
            .current_dir(installed(""))
            .stdin(pipe())
            .stdout(pipe())
            .stderr(pipe())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(sent.to_string().as_bytes()).await.unwrap();
        drop(input);
        let output = child.wait_with_output().await.unwrap();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    async fn accepts(&self, secret: &Value, arrival: &Arrival) {
        let payload = self.verify(secret, arrival).await.unwrap();
        assert_eq!(payload, arrival.json(), "{:?}", self.program);
    }

    async fn refuses(&self, secret: &Value, arrival: &Arrival) {
        let refused = self.verify(secret, arrival).await.unwrap_err();
        let reasons = [
            "WebhookVerificationError",
            "no signature matches",
            "No matching signature",
        ];
        assert!(
            reasons.iter().any(|reason| refused.contains(reason)),
            "{:?}: {refused}",
            self.program
        );
    }
}

fn with_a_byte_flipped(arrival: &Arrival) -> Arrival {
    let mut body = arrival.body.to_vec();
    let last = body.len() - 3;
    body[last] ^= 1;
    Arrival {
        body: body.into(),
        ..arrival.clone()
    }
}

#[tokio::test]
async fn every_library_accepts_deliveries_and_rejects_a_flipped_byte_also_during_a_rotation() {
    let verifiers = verifiers();
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let data = json!({"name": "Zoë ☕", "n": 1});
    let old = json!(webhook.secret);

    world.publish("order.created", "evt-1", &data).await;
    let arrival = shop.receives(1).await.remove(0);
    arrival.verify(&webhook.secret).unwrap();
    for verifier in &verifiers {
        verifier.accepts(&old, &arrival).await;
        verifier.refuses(&old, &with_a_byte_flipped(&arrival)).await;
    }

    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let rotated = world
        .ask(&ingest, "POST", &format!("{path}/rotate-secret"), None)
        .await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    let new = rotated.body["secret"].clone();
    assert!(new != old && rotated.body["previous_secret_until"].is_string());
    // The secret is shown only once.
    let shown = world.ask(&ingest, "GET", &path, None).await.body;
    assert!(shown["secret"].as_str().unwrap().starts_with("whsec_…"));
    let in_force = json!({"event": "order.updated"});
    let mut n = 1;
    let arrival = loop {
        n += 1;
        world
            .publish("order.updated", &format!("evt-{n}"), &in_force)
            .await;
        let arrival = shop.receives(n).await.remove(n - 1);
        // Dispatchers learn of the rotation within a second.
        if arrival.header("webhook-signature").contains(' ') {
            break arrival;
        }
    };
    for secret in [&old, &new] {
        arrival.verify(secret.as_str().unwrap()).unwrap();
        for verifier in &verifiers {
            verifier.accepts(secret, &arrival).await;
            verifier
                .refuses(secret, &with_a_byte_flipped(&arrival))
                .await;
        }
    }

    let revoked = world
        .ask(&ingest, "DELETE", &format!("{path}/previous-secret"), None)
        .await;
    assert_eq!(revoked.body["previous_secret_until"], Value::Null);
    let arrival = loop {
        n += 1;
        world
            .publish("order.updated", &format!("evt-{n}"), &in_force)
            .await;
        let arrival = shop.receives(n).await.remove(n - 1);
        if !arrival.header("webhook-signature").contains(' ') {
            break arrival;
        }
    };
    for verifier in &verifiers {
        verifier.accepts(&new, &arrival).await;
        verifier.refuses(&old, &arrival).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn the_published_key_verifies_deliveries_without_a_secret() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"signing": "ed25519"}))
        .await;
    let other = world.webhook(&ingest, &shop, json!({})).await;
    let node = Verifier {
        program: "node".into(),
        arguments: ["-e", ED25519],
    };

    world
        .publish("order.created", "evt-1", &json!({"n": 1}))
        .await;
    let arrivals = shop.receives(2).await;
    let arrival = arrivals.iter().find(|a| a.path == webhook.path).unwrap();
    arrival.verify(&webhook.secret).unwrap();

    let keys = format!("/.well-known/webhook-keys/{}", webhook.id);
    let published = world.ask_as("", &ingest, "GET", &keys, None).await;
    assert_eq!(published.status, 200, "{}", published.body);
    let key = &published.body["keys"][0];
    if Command::new("node").arg("--version").output().await.is_ok() {
        node.accepts(key, arrival).await;
        node.refuses(key, &with_a_byte_flipped(arrival)).await;
    } else {
        assert!(std::env::var_os("CI").is_none(), "node is not installed");
        eprintln!("SKIPPED: no `node`: nobody verified an ed25519 signature");
    }
    let public_key = key["public_key"].as_str().unwrap();
    assert_eq!(
        BASE64.decode(&public_key["whpk_".len()..]).unwrap().len(),
        32
    );
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let shown = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(shown["public_key"], public_key);

    // A webhook without a key pair, and a dialect without a place for its signature.
    let none = format!("/.well-known/webhook-keys/{}", other.id);
    assert_eq!(
        world.ask_as("", &ingest, "GET", &none, None).await.status,
        404
    );
    let rishi = json!({"dialect": "rishi"});
    let moved = world.ask(&ingest, "PATCH", &path, Some(rishi)).await;
    assert_eq!(moved.status, 200, "its secret still signs");
    let wrong = json!({
        "url": shop.url("/x"), "events": ["*"], "dialect": "rishi", "signing": "ed25519",
    });
    let refused = world
        .ask(&ingest, "POST", "/api/v1/webhooks", Some(wrong))
        .await;
    assert_eq!(
        (refused.status, refused.body["field"].as_str()),
        (422, Some("signing"))
    );
    world.finish().await;
}
