//! The signature check finds the typical mistakes of receivers, in every dialect.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use harness::receiver::answering;
use harness::script::headers;
use harness::service::Service;
use harness::world::{World, eventually};
use serde_json::{Value, json};

const DIALECTS: [&str; 8] = [
    "standard",
    "cloudevents",
    "cloudevents-binary",
    "rishi",
    "brainsait",
    "auraconnect",
    "jossiedb",
    "corp-astro",
];

async fn check(world: &World, ingest: &Service, body: Value) -> Value {
    let path = "/api/v1/signatures/check";
    let mut answer = world.ask(ingest, "POST", path, Some(body.clone())).await;
    // A tenant has five a second.
    while answer.status == 429 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        answer = world.ask(ingest, "POST", path, Some(body.clone())).await;
    }
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[tokio::test]
async fn each_typical_mistake_is_found_in_every_dialect() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let other = world.receiver(answering(200)).await;
    let others = world
        .webhook(&ingest, &other, json!({"events": ["nothing.else"]}))
        .await;
    for dialect in DIALECTS {
        let shop = world.receiver(answering(200)).await;
        let webhook = world
            .webhook(&ingest, &shop, json!({"dialect": dialect}))
            .await;
        let id = format!("order-{dialect}");
        // Written in a way that JSON libraries change.
        let data = r#"{"total": 129.90,  "city": "Linz"}"#;
        let event = harness::producer::Publication::json("acme", "order.paid", &id, data);
        world.producer().await.publish(&event).await.unwrap();
        let arrival = shop.receives(1).await.remove(0);
        world.settles().await;
        let delivery = &world.deliveries(&ingest, &webhook).await[0]["id"];
        let body = String::from_utf8(arrival.body.to_vec()).unwrap();
        let asked = |more: Value| {
            let mut asked = json!({"headers": headers(&arrival), "body": body});
            asked
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            asked
        };
        let rewritten = {
            let value: Value = serde_json::from_str(&body).unwrap();
            serde_json::to_string_pretty(&value).unwrap()
        };
        let generated = "whsec_YW5vdGhlciBzZWNyZXQgYWx0b2dldGhlcg==";
        let undecoded = webhook.secret.trim_start_matches("whsec_");
        for (more, finding) in [
            (json!({"delivery_id": delivery}), "verifies"),
            (json!({"webhook_id": webhook.id}), "verifies"),
            (
                json!({"secret": webhook.secret, "dialect": dialect}),
                "verifies",
            ),
            (
                json!({"delivery_id": delivery, "body": rewritten}),
                if dialect == "jossiedb" && rewritten == body {
                    "verifies"
                } else {
                    "body_changed"
                },
            ),
            (
                json!({"delivery_id": delivery, "secret": others.secret}),
                "other_webhooks_secret",
            ),
            (
                json!({"delivery_id": delivery, "secret": generated}),
                "wrong_secret",
            ),
            (
                json!({"delivery_id": delivery, "secret": undecoded}),
                "secret_not_decoded",
            ),
        ] {
            let told = check(&world, &ingest, asked(more.clone())).await;
            assert_eq!(told["finding"], finding, "{dialect} {more}: {told:#}");
            assert_eq!(told["verifies"], finding == "verifies", "{dialect}");
            assert!(!told.to_string().contains(&webhook.secret), "{told}");
        }
        let secret = format!("{}\n", webhook.secret);
        let told = check(
            &world,
            &ingest,
            asked(json!({"secret": secret, "dialect": dialect})),
        )
        .await;
        assert_eq!(told["finding"], "wrong_secret", "{dialect}: {told:#}");
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains("white space around it"), "{told:#}");
        // A header that is missing is named.
        let signed_in_header = arrival
            .headers
            .keys()
            .find(|name| name.as_str().contains("signature"))
            .map(ToString::to_string);
        if let Some(name) = signed_in_header {
            let mut without = asked(json!({"delivery_id": delivery}));
            without["headers"].as_object_mut().unwrap().remove(&name);
            let told = check(&world, &ingest, without).await;
            assert_eq!(told["finding"], "header_missing", "{dialect}");
            assert!(told["detail"].as_str().unwrap().contains(&name), "{told}");
            let mut cut = asked(json!({"delivery_id": delivery}));
            cut["headers"][&name] = json!("abc");
            let told = check(&world, &ingest, cut).await;
            assert_eq!(told["finding"], "wrong_form", "{dialect}");
        }
        // The secret before the rotation.
        let path = format!("/api/v1/webhooks/{}/rotate-secret", webhook.id);
        let rotation = json!({"overlap": 0});
        let rotated = world.ask(&ingest, "POST", &path, Some(rotation)).await;
        assert_eq!(rotated.status, 200, "{}", rotated.body);
        let again = format!("/api/v1/deliveries/{}/retry", delivery.as_str().unwrap());
        world.ask(&ingest, "POST", &again, None).await;
        let arrival = shop.receives(2).await.remove(1);
        let old = json!({
            "headers": headers(&arrival), "body": String::from_utf8(arrival.body.to_vec()).unwrap(),
            "webhook_id": webhook.id, "secret": webhook.secret,
        });
        let told = check(&world, &ingest, old).await;
        // An overlap of 0 keeps nothing of the one before.
        assert_eq!(told["finding"], "wrong_secret", "{dialect}: {told:#}");
        // The next dialect's event isn't for this webhook, whose receiver ends here.
        let path = format!("/api/v1/webhooks/{}", webhook.id);
        let deleted = world.ask(&ingest, "DELETE", &path, None).await;
        assert_eq!(deleted.status, 204, "{}", deleted.body);
    }
    world.finish().await;
}

#[tokio::test]
async fn the_receivers_own_computation_and_a_rotation_are_recognised() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.paid", "order-1", &json!({})).await;
    let arrival = shop.receives(1).await.remove(0);
    let body = String::from_utf8(arrival.body.to_vec()).unwrap();
    // A receiver that takes the secret's characters for the key.
    let text = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        webhook.secret.as_bytes(),
    );
    let mistaken = standardwebhooks::Webhook::new(&text).unwrap();
    let sent_at = arrival.header("webhook-timestamp").parse().unwrap();
    let computed = mistaken
        .sign(arrival.id(), sent_at, body.as_bytes())
        .unwrap();
    let asked = json!({
        "headers": headers(&arrival), "body": body, "webhook_id": webhook.id, "computed": computed,
    });
    let told = check(&world, &ingest, asked.clone()).await;
    assert_eq!(told["finding"], "secret_not_decoded", "{told:#}");

    // A clock that is off, or another request's header.
    let mut late = asked.clone();
    late["headers"]["webhook-timestamp"] = json!("1500000000");
    let told = check(&world, &ingest, late).await;
    assert_eq!(told["finding"], "time_off", "{told:#}");

    let path = format!("/api/v1/webhooks/{}/rotate-secret", webhook.id);
    world.ask(&ingest, "POST", &path, None).await;
    // A dispatcher learns of the new secret a moment later.
    let mut published = 1;
    let mut last = None;
    eventually("both secrets sign", async || {
        published += 1;
        let id = format!("order-{published}");
        world.publish("order.paid", &id, &json!({})).await;
        let arrival = shop.receives(published).await.remove(published - 1);
        let has_both = arrival.header("webhook-signature").contains(' ');
        last = Some(arrival);
        has_both
    })
    .await;
    let arrival = last.unwrap();
    let asked = json!({
        "headers": headers(&arrival), "body": String::from_utf8(arrival.body.to_vec()).unwrap(),
        "webhook_id": webhook.id,
    });
    // Both sign; without the old one's signature the old secret is recognised.
    let mut new_only = asked.clone();
    let both = arrival.header("webhook-signature").to_owned();
    new_only["headers"]["webhook-signature"] = json!(both.split(' ').next().unwrap());
    new_only["secret"] = json!(webhook.secret);
    let told = check(&world, &ingest, new_only).await;
    assert_eq!(told["finding"], "previous_secret", "{told:#}");
    world.finish().await;
}

#[tokio::test]
async fn a_viewer_and_another_tenant_check_nothing_of_ours() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let other = world.another_tenant(&ingest, "globex").await;
    let path = "/api/v1/signatures/check";
    let asked = json!({"webhook_id": webhook.id});
    let answer = world
        .ask_as(&other, &ingest, "POST", path, Some(asked))
        .await;
    assert_eq!(answer.status, 404, "{}", answer.body);
    let large = json!({"body": "x".repeat(300_000)});
    let answer = world.ask(&ingest, "POST", path, Some(large)).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_that_checks_without_end_is_told_to_wait() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let asked = json!({"webhook_id": webhook.id});
    let begun = std::time::Instant::now();
    let path = "/api/v1/signatures/check";
    // Ten may come at once, and five more each second. So some of sixty are refused, unless
    // they take ten seconds.
    let checks = (0..60).map(|_| world.ask(&ingest, "POST", path, Some(asked.clone())));
    let answers = futures_util::future::join_all(checks).await;
    let allowed = 10 + 5 * (begun.elapsed().as_secs() as usize + 1);
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(accepted <= allowed, "{accepted} of at most {allowed}");
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("signature checks"), "{}", refused.body);
    world.finish().await;
}
