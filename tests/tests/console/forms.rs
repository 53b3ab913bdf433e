//! Forms: what they foresee is what happens, and nobody's work is overwritten.

use std::time::Duration;

use harness::receiver::answering;
use harness::script::headers;
use harness::world::{TENANT, eventually};
use serde_json::{Value, json};

use crate::shop::Shop;

#[tokio::test]
async fn the_preview_of_a_filter_says_what_the_same_webhook_then_really_gets() {
    let shop = Shop::with(json!({"total": 10, "currency": "EUR"})).await;
    let publish = async |round: &str| {
        for (n, data) in [
            json!({"total": 250, "currency": "EUR"}),
            json!({"total": 250, "currency": "USD"}),
            json!({"total": 99.99, "currency": "CHF"}),
            json!({"total": 100, "currency": "CHF"}),
            json!({"currency": "EUR"}),
        ]
        .iter()
        .enumerate()
        {
            shop.world
                .publish("order.paid", &format!("{round}-{n}"), data)
                .await;
        }
        shop.world
            .publish(
                "invoice.paid",
                &format!("{round}-invoice"),
                &json!({"total": 500}),
            )
            .await;
    };
    publish("before").await;
    shop.world.accepts(7).await;
    shop.world.settles().await;
    let (typing, plain) = (
        shop.operator().await,
        shop.browser.tab_without_javascript(&shop.base()).await,
    );
    plain.sign_in(harness::world::ADMIN_TOKEN).await;
    let mut receivers = Vec::new();
    for (tab, has_javascript) in [(&typing, true), (&plain, false)] {
        let receiver = shop.world.receiver(answering(200)).await;
        tab.goto(&format!("/console/{TENANT}/webhooks/new")).await;
        tab.fill("#url", &receiver.url("/in")).await;
        tab.fill(
            "#events",
            if has_javascript {
                "order.*\n"
            } else {
                "order.*"
            },
        )
        .await;
        if has_javascript {
            assert_eq!(tab.text_of(".chips .chip code").await, "order.*");
            tab.says("Would get 6 of 7").await;
        }
        tab.fill("[name=path]", "total").await;
        tab.press("[name=operator] option[value='$gte']").await;
        tab.fill("[name=value]", "100").await;
        tab.press("[name=clause]").await;
        // The script adds one row. The server answers with a page that has two empty ones.
        let rows = if has_javascript { 2 } else { 3 };
        tab.has("[data-row]", rows).await;
        let last = format!("[data-row]:nth-of-type({rows})");
        tab.fill(&format!("{last} [name=path]"), "currency").await;
        tab.press(&format!("{last} option[value='$in']")).await;
        tab.fill(&format!("{last} [name=value]"), "EUR, CHF").await;
        if !has_javascript {
            tab.press("[name=preview]").await;
        }
        tab.says("Would get 2 of 7").await;
        tab.says("currency $in").await;
        tab.press("main .main-btn").await;
        tab.says("It is shown once.").await;
        receivers.push(receiver);
    }
    publish("after").await;
    shop.world.accepts(13).await;
    for receiver in &receivers {
        let mut got: Vec<_> = receiver
            .receives(2)
            .await
            .iter()
            .map(|one| one.id().to_owned())
            .collect();
        got.sort();
        assert_eq!(got, ["after-0", "after-3"]);
    }
    shop.world.settles().await;
    for receiver in &receivers {
        assert_eq!(receiver.arrivals().len(), 2);
    }
    for tab in [&typing, &plain] {
        assert_eq!(tab.complaints().await, Vec::<String>::new());
    }
    shop.close().await;
}

#[tokio::test]
async fn of_two_people_who_edit_a_webhook_the_second_is_shown_the_difference() {
    let shop = Shop::open().await;
    let (_, token) = shop.token("manager").await;
    let (first, second) = (shop.operator().await, shop.browser.tab(&shop.base()).await);
    second.sign_in(&token).await;
    let path = format!("/api/v1/webhooks/{}", shop.bad.id);
    let now = async || shop.world.ask(&shop.ingest, "GET", &path, None).await.body;
    for tab in [&first, &second] {
        tab.goto(&format!("/console/{TENANT}/webhooks/{}/edit", shop.bad.id))
            .await;
    }
    second.fill("#description", "Big warehouse").await;
    second.press("main .main-btn").await;
    second.says("Big warehouse").await;
    first.fill("#description", "Small warehouse").await;
    first.press("main .main-btn").await;
    first
        .says("Somebody else changed this webhook meanwhile. Nothing of yours was saved.")
        .await;
    first.says(&token[..8]).await;
    for version in ["Big warehouse", "Small warehouse"] {
        assert!(
            first.text_of("main table").await.contains(version),
            "{version}"
        );
    }
    assert_eq!(now().await["description"], "Big warehouse");
    // Now it is a decision.
    first.press("main .main-btn").await;
    first.says("Small warehouse").await;
    eventually("it is saved", async || {
        now().await["description"] == "Small warehouse"
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn the_signature_check_shows_each_typical_mistake_in_every_dialect() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let other = shop.world.receiver(answering(200)).await;
    let others = json!({"events": ["nothing.else"]});
    let others = shop.world.webhook(&shop.ingest, &other, others).await;
    for dialect in [
        "standard",
        "cloudevents",
        "cloudevents-binary",
        "rishi",
        "brainsait",
        "auraconnect",
        "jossiedb",
        "corp-astro",
    ] {
        let receiver = shop.world.receiver(answering(200)).await;
        let more = json!({"dialect": dialect, "events": [format!("{dialect}.it")]});
        let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
        let data = r#"{"total": 129.90,  "city": "Linz"}"#;
        let event =
            harness::producer::Publication::json(TENANT, &format!("{dialect}.it"), dialect, data);
        shop.world.producer().await.publish(&event).await.unwrap();
        let arrival = receiver.receives(1).await.remove(0);
        shop.world.settles().await;
        let delivery = shop.delivery(&webhook).await;
        let body = String::from_utf8(arrival.body.to_vec()).unwrap();
        let all = headers(&arrival);
        let rewritten = {
            let value: Value = serde_json::from_str(&body).unwrap();
            serde_json::to_string_pretty(&value).unwrap()
        };
        let mut without = all.clone();
        without.retain(|name, _| !name.contains("signature"));
        let mut mistakes = vec![
            ("It verifies.", &all, &body, ""),
            ("It doesn't verify.", &all, &rewritten, ""),
            ("It doesn't verify.", &all, &body, others.secret.as_str()),
        ];
        // A dialect whose signature stands in the body has no header of it.
        if without.len() < all.len() {
            mistakes.push(("A header is missing", &without, &body, ""));
        } else {
            mistakes.remove(1);
        }
        for (words, headers, body, secret) in mistakes {
            // What the API says of the same.
            let mut asked = json!({"delivery_id": delivery, "headers": headers, "body": body});
            if !secret.is_empty() {
                asked["secret"] = json!(secret);
            }
            let path = "/api/v1/signatures/check";
            let told = shop
                .world
                .ask(&shop.ingest, "POST", path, Some(asked))
                .await
                .body;
            tab.goto(&format!("/console/{TENANT}/signature")).await;
            let lines: Vec<_> = headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.as_str().unwrap()))
                .collect();
            let fields = json!({"delivery": delivery, "headers": lines.join("\n"), "body": body, "secret": secret});
            tab.script(&format!(
                "for (const [name, value] of Object.entries({fields})) document.querySelector(`main form [name=${{name}}]`).value = value"
            ))
            .await;
            tab.press("main .main-btn").await;
            tab.says(words).await;
            let detail = told["detail"].as_str().unwrap();
            let shown = tab.text().await;
            assert!(shown.contains(detail), "{dialect}: {detail} in {shown}");
            assert!(!tab.html().await.contains(&webhook.secret));
            // Two checks were made, and a tenant has five a second.
            tokio::time::sleep(Duration::from_millis(450)).await;
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn a_form_says_everything_that_is_wrong_at_once() {
    let shop = Shop::open().await;
    let tab = shop.browser.tab_without_javascript(&shop.base()).await;
    tab.sign_in(harness::world::ADMIN_TOKEN).await;
    let pages = format!("/console/{TENANT}");
    let test = format!("{pages}/webhooks/{}/test", shop.good.id);
    // What can't be read, and what the API would refuse.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 7] = [
        (
            &format!("{pages}/webhooks/new"),
            &[
                ("url", "nonsense"),
                ("events", "ord*, order.*, a..b"),
                ("timeout", "soon"),
            ],
            "main .main-btn",
            &[
                "Not saved.",
                "must be a number of seconds",
                "is not a URL",
                "stands alone or follows",
                "no two dots together",
            ],
        ),
        (
            &format!("{pages}/event-types/new"),
            &[("name", "a..b"), ("example", "{"), ("schema", "[1")],
            "main .main-btn",
            &[
                "name: event type must have no dot at its end",
                "example: isn't JSON: it ends too early",
                "schema: isn't JSON: it ends too early",
            ],
        ),
        (
            &format!("{pages}/events/new"),
            &[("type", "a..b"), ("id", "ä"), ("data", "{\"a\": }")],
            "[name=go]",
            &[
                "no two dots together",
                "visible ASCII characters",
                "isn't JSON: the first error is at line 1, column 7",
            ],
        ),
        (
            &format!("{pages}/replays/new"),
            &[
                ("since", "whenever"),
                ("until", "later"),
                ("other_rate", "many"),
                ("types", "a..b"),
                ("code", "9xx"),
            ],
            "main form .btn.quiet:not([name])",
            &[
                "since: must be a time",
                "until: must be a time",
                "rate: must be a number",
                "event_types[0]: ",
                "response_code[0]: ",
            ],
        ),
        (
            &format!("{pages}/signature"),
            &[("webhook", "x"), ("delivery", "y")],
            "main .main-btn",
            &[
                "webhook_id: the id must be `wh_`",
                "delivery_id: the id must be `whd_`",
            ],
        ),
        (
            &test,
            &[("type", "a..b"), ("data", "{")],
            "main .main-btn",
            &["event_type: ", "data: isn't JSON: it ends too early"],
        ),
        (
            "/console/_/tenants/new",
            &[
                ("id", "No!"),
                ("dialect", "none"),
                ("payload_bytes", "many"),
            ],
            "main .main-btn",
            &["limits.payload_bytes: must be a whole number"],
        ),
    ];
    for (path, fields, button, sentences) in cases {
        tab.goto(path).await;
        if path.ends_with("/webhooks/new") {
            tab.press("details.panel summary").await;
        }
        for (name, value) in fields {
            tab.fill(&format!("main [name={name}]"), value).await;
        }
        tab.press(button).await;
        for sentence in sentences {
            tab.says(sentence).await;
        }
    }
    shop.close().await;
}
