//! Rishi Platform: bookings and event staffing. See docs/systems/rishi.md.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use harness::receiver::{answering, answering_in_turn};
use serde_json::{Value, json};

use super::walk::{Walk, has_milliseconds, hex_hmac, members};

#[tokio::test]
async fn rishis_clients_create_list_and_change_webhooks_and_verify_deliveries() {
    let walk = Walk::start("rishi", "/api/webhooks", answering_in_turn(&[500, 200])).await;
    // Any secret goes: short, with spaces, with `whsec_` that isn't base64.
    for secret in ["x", "pass word", "whsec_not base64!", "Zoë"] {
        let form =
            json!({"url": walk.endpoint.url("/any"), "events": ["none.*"], "secret": secret});
        let made = walk.webhook(form).await;
        assert_eq!(made["secret"], secret, "shown once");
        let (status, _) = walk
            .ask(
                "DELETE",
                &format!("/{}", made["id"].as_str().unwrap()),
                Value::Null,
            )
            .await;
        assert_eq!(status, 204);
    }
    let (status, refused) = walk
        .ask(
            "POST",
            "",
            json!({"url": walk.endpoint.url("/any"), "events": ["a"], "secret": "x".repeat(257)}),
        )
        .await;
    assert_eq!((status, &refused["field"]), (422, &json!("secret")));

    let made = walk
        .webhook(json!({
            "url": walk.endpoint.url("/rishi"), "events": ["booking.*"], "secret": "a b",
            "active": true, "headers": {"X-Custom-Header": "v"}, "timeout": 30000, "retries": 3,
        }))
        .await;
    let id = made["id"].as_str().unwrap();
    walk.publish_text(
        r#"{"type":"booking.created","id":"b-1","occurred_at":"2025-01-16T10:30:01Z",
            "data":{"id":"b1","price":25.00}}"#,
    )
    .await;
    // The retry comes a second later, and 7 s of retries are the system's contract.
    let arrivals = walk.endpoint.receives(2).await;
    assert!(arrivals[1].at - arrivals[0].at >= std::time::Duration::from_secs(1));
    for arrival in &arrivals {
        assert_eq!(
            members(arrival),
            ["event", "data", "timestamp", "signature"]
        );
        let sha = format!("sha256={}", hex_hmac("a b", &arrival.body));
        assert_eq!(arrival.header("x-rishi-signature"), sha);
        assert_eq!(arrival.header("x-custom-header"), "v");
        // The member `signature`, which is the last, signs the body without it.
        let body = String::from_utf8(arrival.body.to_vec()).unwrap();
        let (before, signature) = body.split_once(r#","signature":""#).unwrap();
        let unsigned = format!("{before}}}");
        let sha = format!("sha256={}", hex_hmac("a b", unsigned.as_bytes()));
        assert_eq!(signature, format!("{sha}\"}}"));
        // A price keeps its zeros.
        assert!(
            before.contains(r#""data":{"id":"b1","price":25.00}"#),
            "{body}"
        );
    }
    walk.delivery_in(&made, &["delivered"]).await;

    // `{"webhooks":[{"id","url","events","active","createdAt","lastTriggered"}]}`
    let list = walk.get("").await;
    let shown = &list["webhooks"][0];
    assert_eq!(shown["id"], id);
    assert_eq!(shown["active"], true);
    assert!(has_milliseconds(&shown["createdAt"]), "{shown}");
    assert!(has_milliseconds(&shown["lastTriggered"]), "{shown}");

    // What GET returned can be sent back, with a change.
    let mut whole = walk.get(&format!("/{id}")).await;
    let (status, same) = walk.ask("PUT", &format!("/{id}"), whole.clone()).await;
    assert_eq!((status, &same["secret"]), (200, &whole["secret"]), "{same}");
    whole["active"] = json!(false);
    let (status, off) = walk.ask("PUT", &format!("/{id}"), whole.clone()).await;
    assert_eq!((status, &off["status"]), (200, &json!("inactive")), "{off}");
    whole["id"] = json!("wh_01m8138b88eqwv0pvr0w5pev2q");
    let (status, refused) = walk.ask("PUT", &format!("/{id}"), whole).await;
    assert_eq!(
        (status, &refused["field"]),
        (422, &json!("id")),
        "{refused}"
    );
    walk.finish().await;
}

/// A secret of this many bytes. It has fewer characters, because `é` has two bytes.
fn secret_of(bytes: usize) -> String {
    "é".repeat(bytes / 2) + &"x".repeat(bytes % 2)
}

#[tokio::test]
async fn secrets_of_1_to_256_bytes_sign_deliveries_and_no_others_are_taken() {
    const LENGTHS: [usize; 5] = [1, 2, 17, 255, 256];
    let walk = Walk::start("rishi", "/api/webhooks", answering(200)).await;
    for length in LENGTHS {
        for dialect in ["rishi", "standard"] {
            let url = walk.endpoint.url(&format!("/{dialect}/{length}"));
            let secret = secret_of(length);
            let form = json!({
                "url": url, "events": ["booking.*"], "secret": secret, "dialect": dialect,
            });
            let made = walk.webhook(form).await;
            assert_eq!(made["secret"], secret, "shown once");
        }
    }
    walk.publish(json!({"type": "booking.created", "id": "b-1", "data": {"id": "b1"}}))
        .await;
    let arrivals = walk.endpoint.receives(2 * LENGTHS.len()).await;
    for length in LENGTHS {
        let secret = secret_of(length);
        let arrived = |dialect: &str| {
            let path = format!("/{dialect}/{length}");
            let found = arrivals.iter().find(|arrival| arrival.path == path);
            found.unwrap_or_else(|| panic!("nothing arrived at {path}"))
        };
        let rishi = arrived("rishi");
        let signature = format!("sha256={}", hex_hmac(&secret, &rishi.body));
        assert_eq!(rishi.header("x-rishi-signature"), signature, "{length}");
        // The library of Standard Webhooks takes its keys in base64.
        let standard = arrived("standard");
        standard.verify(&BASE64.encode(&secret)).unwrap();
        let other = BASE64.encode(format!("{secret}x"));
        assert!(standard.verify(&other).is_err(), "{length}");
    }

    let kept = walk
        .webhook(json!({"url": walk.endpoint.url("/kept"), "events": ["none.*"]}))
        .await;
    let kept = format!("/{}", kept["id"].as_str().unwrap());
    let rotate = format!("{kept}/rotate-secret");
    let before = walk.get(&kept).await;
    for length in [0, 257] {
        let secret = json!({"secret": secret_of(length)});
        let mut new = json!({"url": walk.endpoint.url("/new"), "events": ["none.*"]});
        new["secret"] = secret["secret"].clone();
        for (method, below, body) in [
            ("POST", "", &new),
            ("PUT", kept.as_str(), &secret),
            ("PATCH", kept.as_str(), &secret),
            ("POST", rotate.as_str(), &secret),
        ] {
            let (status, refused) = walk.ask(method, below, body.clone()).await;
            let place = format!("{method} {below} with {length} bytes: {refused}");
            assert_eq!(
                (status, &refused["field"]),
                (422, &json!("secret")),
                "{place}"
            );
            let detail = refused["detail"].as_str().unwrap();
            assert!(detail.contains("1 to 256 bytes"), "{place}");
        }
    }
    assert_eq!(walk.get(&kept).await, before);
    walk.finish().await;
}

#[tokio::test]
async fn a_list_that_clients_read_whole_is_whole() {
    let walk = Walk::start("rishi", "/api/webhooks", answering_in_turn(&[200])).await;
    for n in 0..60 {
        let form = json!({"url": walk.endpoint.url(&format!("/{n}")), "events": ["booking.*"]});
        walk.webhook(form).await;
    }
    let list = walk.get("").await;
    assert_eq!(list["webhooks"].as_array().unwrap().len(), 60);
    assert_eq!(list["next_cursor"], Value::Null);
    let page = walk.get("?limit=50").await;
    assert_eq!(page["webhooks"].as_array().unwrap().len(), 50);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = walk.get(&format!("?limit=50&cursor={cursor}")).await;
    assert_eq!(rest["webhooks"].as_array().unwrap().len(), 10);
    walk.finish().await;
}
