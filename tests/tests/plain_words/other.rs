//! Requests of which the description doesn't say everything: events in all their formats, and JWTs.

use harness::world::TENANT;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::sent::Sent;
use crate::values::{bodies, values};

/// The key that ingest checks JWTs with.
pub(crate) const JWT_SECRET: &str = "the-secret-of-the-identity-provider";

/// CloudEvents in all modes, MessagePack, and batches.
pub(crate) fn events() -> Vec<Sent> {
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
pub(crate) fn jwts() -> Vec<Sent> {
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
