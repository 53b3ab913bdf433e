//! Figures and details: what pages say beyond a state, and what changes while they are open.

use harness::browser::{Browser, Tab};
use harness::receiver::{answering, answering_in_turn};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::json;

use crate::shop::Shop;

/// Waits until the page's live parts have come.
async fn is_live(tab: &Tab) {
    tab.has("[data-live-state][data-state=on]", 1).await;
}

#[tokio::test]
async fn statistics_say_what_attempts_came_to_and_change_without_a_reload() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let webhook = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    tab.goto(&format!("{webhook}/statistics")).await;
    for words in [
        "Attempts by outcome",
        "Waits that cost no attempt",
        "Nothing waited",
        "Answered 5xx",
        "0 the day before",
    ] {
        tab.says(words).await;
    }
    let chart = tab
        .attribute(".chart svg[role=img]", "aria-label")
        .await
        .unwrap();
    assert!(
        chart.contains("0 success") && chart.contains("1 5xx"),
        "{chart}"
    );
    is_live(&tab).await;
    tab.script("window.same = true").await;
    shop.world
        .publish("order.paid", "order-2", &json!({}))
        .await;
    shop.world.accepts(2).await;
    tab.says("0 of 2 that ended").await;
    assert_eq!(tab.script("return window.same").await, true, "no reload");

    // An outcome leads to its deliveries, and the tabs keep the filter and the window.
    tab.press_text("7 d").await;
    tab.press_text("Answered 5xx").await;
    tab.says("2 deliveries shown").await;
    tab.press_text("Log").await;
    tab.press_text("Statistics").await;
    tab.says("Attempts by outcome").await;
    let path = tab.path().await;
    assert!(path.contains("outcome%3Aserver_error"), "{path}");
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn a_delivery_says_what_let_it_in_and_when_it_expires_and_shows_its_next_attempt() {
    let shop = Shop::open().await;
    let receiver = shop.world.receiver(answering_in_turn(&[503, 200])).await;
    let more = json!({
        "description": "Slow to heal", "events": ["slow.*"], "timeout": 7000,
        "retry_policy": {"delays": [3_600_000]},
    });
    let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
    shop.world.publish("slow.heal", "slow-1", &json!({})).await;
    shop.attempts(&webhook, 1).await;
    let id = shop.delivery(&webhook).await;
    let path = format!("/api/v1/deliveries/{id}");
    let shown = shop.world.ask(&shop.ingest, "GET", &path, None).await;
    assert!(shown.body["expires_at"].is_string(), "{}", shown.body);
    let tab = shop.operator().await;
    tab.goto(&format!("/console/{TENANT}/deliveries/{id}"))
        .await;
    for words in [
        "and matched by slow.*",
        ", of 7.0 s that it has",
        "Expires at",
        "Answered 503",
    ] {
        tab.says(words).await;
    }
    is_live(&tab).await;
    tab.script("window.same = true").await;
    let sent = shop
        .world
        .ask(&shop.ingest, "POST", &format!("{path}/retry"), None)
        .await;
    assert!(sent.status < 300, "{}", sent.body);
    eventually("the panel of the next attempt", async || {
        let panels = tab.text_of("[data-attempts]").await;
        panels.contains("Attempt 2") && panels.contains("Answered 200.")
    })
    .await;
    tab.says("Nothing more comes").await;
    assert!(!tab.text().await.contains("Expires at"));
    assert_eq!(tab.script("return window.same").await, true, "no reload");
    // Finished deliveries expire no more.
    let shown = shop.world.ask(&shop.ingest, "GET", &path, None).await;
    assert!(shown.body["expires_at"].is_null(), "{}", shown.body);
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn new_events_are_announced_and_come_by_themselves_to_whoever_follows() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let events = format!("/console/{TENANT}/events");
    tab.goto(&events).await;
    tab.says("AMQP").await;
    tab.says("2 webhooks").await;
    is_live(&tab).await;
    shop.world
        .publish("order.paid", "order-2", &json!({}))
        .await;
    let body = json!({"type": "lonely.event", "id": "lonely-1", "data": {}});
    let sent = shop
        .world
        .ask(&shop.ingest, "POST", "/api/v1/events", Some(body))
        .await;
    assert!(sent.status < 300, "{}", sent.body);
    shop.world.accepts(3).await;
    tab.says("2 newer events").await;
    assert_eq!(tab.many("tbody tr").await, 1, "nothing moves by itself");
    tab.keys("f").await;
    tab.has("tbody tr", 3).await;
    tab.says("HTTP").await;
    for n in 3..5 {
        let id = format!("order-{n}");
        shop.world.publish("order.paid", &id, &json!({})).await;
        tab.has("tbody tr", n + 1).await;
    }
    // Types are counted every few seconds.
    eventually("a filter of a type", async || {
        tab.goto(&events).await;
        tab.text_of(".facets").await.contains("order.paid")
    })
    .await;
    tab.press_text("order.paid").await;
    tab.says("4 events shown").await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn an_event_says_how_it_came_whether_its_schema_holds_and_leads_to_its_neighbours() {
    let shop = Shop::open().await;
    shop.world
        .publish("order.paid", "order-2", &json!({}))
        .await;
    shop.world.accepts(2).await;
    shop.world.settles().await;
    let tab = shop.operator().await;
    let page = format!("/console/{TENANT}/events/order-4711");
    tab.goto(&page).await;
    tab.says(&format!("AMQP, {TENANT}.order.paid")).await;
    tab.says("None for its type").await;
    tab.says("Kept until").await;
    let catalogue = "/api/v1/event-types/order.paid";
    for (required, verdict) in [("total", "Holds"), ("missing", "Wouldn't hold now")] {
        let schema =
            json!({"description": "Paid.", "schema": {"type": "object", "required": [required]}});
        let put = shop
            .world
            .ask(&shop.ingest, "PUT", catalogue, Some(schema))
            .await;
        assert!(put.status < 300, "{}", put.body);
        eventually(verdict, async || {
            tab.goto(&page).await;
            tab.text().await.contains(verdict)
        })
        .await;
    }
    for (key, id) in [("n", "order-2"), ("n", "order-2"), ("p", "order-4711")] {
        tab.keys(key).await;
        let there = format!("/console/{TENANT}/events/{id}");
        eventually(id, async || tab.path().await == there).await;
        tab.says("Who got it, and why not").await;
    }
    tab.press_text("Publish one like it").await;
    tab.says("Would get it").await;
    assert!(tab.path().await.ends_with("like=order-4711"));
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn the_overview_says_the_cause_and_what_to_do_about_it() {
    let shop = Shop::open().await;
    let pause = json!({"status": "paused"});
    let path = format!("/api/v1/webhooks/{}", shop.good.id);
    let overview = format!("/console/{TENANT}");
    let tab = shop.operator().await;
    let paused = shop
        .world
        .ask(&shop.ingest, "PATCH", &path, Some(pause))
        .await;
    assert_eq!(paused.status, 200, "{}", paused.body);
    // One that holds nothing needs nothing.
    tab.goto(&overview).await;
    for words in ["Mostly 503", "2 of ", "Publish a test event", "Replay them"] {
        tab.says(words).await;
    }
    assert!(!tab.text().await.contains("Resume"));
    shop.world
        .publish("invoice.held", "held-1", &json!({}))
        .await;
    eventually("it is held, and the overview says so", async || {
        tab.goto(&overview).await;
        tab.text().await.contains("Resume")
    })
    .await;
    tab.press_text("Resume").await;
    tab.says("Active. What was held is sent now").await;
    shop.world.settles().await;

    tab.goto(&overview).await;
    tab.press_text("Replay them").await;
    tab.says("Replay 1 delivery").await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn the_first_steps_tick_by_themselves_and_have_the_real_address() {
    let (world, browser) = tokio::join!(World::start(), Browser::start());
    let ingest = world.ingest().await;
    let base = ingest.url("").replace("127.0.0.1", "localhost");
    let tab = browser.tab(&base).await;
    tab.sign_in(ADMIN_TOKEN).await;
    tab.goto(&format!("/console/{TENANT}")).await;
    tab.says("Your first webhook").await;
    tab.says(&format!(
        "curl {}/api/v1/events",
        base.trim_end_matches('/')
    ))
    .await;
    tab.says("Or publish one from here").await;
    is_live(&tab).await;
    tab.script("window.same = true").await;
    tab.has(".steps [data-done]", 0).await;
    let receiver = world.receiver(answering(200)).await;
    world.webhook(&ingest, &receiver, json!({})).await;
    tab.has(".steps [data-done]", 1).await;
    world.publish("order.paid", "order-1", &json!({})).await;
    world.accepts(1).await;
    tab.has(".steps [data-done]", 2).await;
    let _dispatcher = world.dispatcher().await;
    tab.says("The first attempt was made.").await;
    tab.has(".steps [data-done]", 3).await;
    assert_eq!(tab.script("return window.same").await, true, "no reload");
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    world.settles().await;
    world.finish().await;
}

#[tokio::test]
async fn a_webhooks_list_has_counts_and_leads_to_a_replay_and_a_name_finds_its_deliveries() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let webhook = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    tab.goto(&webhook).await;
    tab.says("Failed 1").await;
    tab.press_text("5xx").await;
    tab.says("1 delivery shown").await;
    assert!(tab.path().await.ends_with("q=code%3A5xx"));
    tab.press_text("Replay what matches").await;
    tab.says("Replay 1 delivery").await;
    let path = tab.path().await;
    assert!(
        path.contains(&shop.bad.id) && path.contains("code=5xx"),
        "{path}"
    );
    tab.goto(&webhook).await;
    tab.press_text("Replay").await;
    tab.says("Replay 1 delivery").await;

    let list = format!("/console/{TENANT}/deliveries?q=");
    for (q, said) in [
        ("webhook:WARE", "1 delivery shown"),
        ("webhook:%22warehouse%22+code:none", "Nothing matches"),
        (
            "webhook:%22no+such%22",
            "No webhook has `no such` in its name or URL.",
        ),
    ] {
        tab.goto(&format!("{list}{q}")).await;
        tab.says(said).await;
    }
    // All that match are those of the name, too.
    tab.goto(&format!("{list}webhook:ware")).await;
    tab.press("td.pick input").await;
    tab.press_text("All that match…").await;
    tab.says("Retry 1 delivery?").await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn a_webhook_at_its_rate_limit_says_so() {
    let shop = Shop::open().await;
    let receiver = shop.world.receiver(answering(200)).await;
    let more = json!({
        "description": "Slow", "events": ["slow.*"],
        "rate_limit": {"limit": 1, "per": "hour"},
    });
    let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
    for n in 0..3 {
        let id = format!("slow-{n}");
        shop.world.publish("slow.paid", &id, &json!({})).await;
    }
    let tab = shop.operator().await;
    tab.goto(&format!("/console/{TENANT}/webhooks/{}", webhook.id))
        .await;
    tab.says("At a rate limit: deliveries were put off").await;
    tab.goto(&format!(
        "/console/{TENANT}/webhooks/{}/statistics",
        webhook.id
    ))
    .await;
    tab.says("Rate limit rate_limited").await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.world.abandon().await;
}

#[tokio::test]
async fn publishing_says_who_would_get_it_as_one_types_and_offers_types() {
    let shop = Shop::open().await;
    let catalogue = "/api/v1/event-types/order.paid";
    let known = json!({"description": "Paid.", "schema": {"type": "object", "required": ["total"]},
        "example": {"total": 1.5}});
    let put = shop
        .world
        .ask(&shop.ingest, "PUT", catalogue, Some(known))
        .await;
    assert!(put.status < 300, "{}", put.body);
    let tab = shop.operator().await;
    let path = format!("/console/{TENANT}/events/new");
    tab.goto(&path).await;
    assert_eq!(
        tab.attribute("#types option", "value").await.as_deref(),
        Some("order.paid")
    );
    tab.script("window.same = true").await;
    tab.fill("[name=type]", "order.paid").await;
    tab.says("It would be refused.").await;
    tab.fill("[name=data]", "{\"total\": ").await;
    tab.says("It can't be published like this.").await;
    tab.fill("[name=data]", "{\"total\": 3}").await;
    eventually("who would get it", async || {
        let aside = tab.text_of("[data-preview]").await;
        aside.contains("Warehouse") && !aside.contains("refused")
    })
    .await;
    assert_eq!(tab.script("return window.same").await, true, "no reload");
    assert_eq!(shop.world.count("events").await, 1, "nothing was published");
    tab.goto(&format!("{path}?type=order.paid")).await;
    tab.says("Checked against the schema of order.paid").await;
    let data = tab
        .script("return document.querySelector('[name=data]').value")
        .await;
    assert!(data.as_str().unwrap().contains("1.5"), "{data}");
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn event_types_say_what_came_undescribed_and_what_a_schema_refused() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let types = format!("/console/{TENANT}/event-types");
    // Types are counted every few seconds.
    eventually("the type that came", async || {
        tab.goto(&format!("{types}?only=seen")).await;
        let text = tab.text().await;
        text.contains("order.paid") && text.contains("1 seen and not described")
    })
    .await;
    tab.says("isn't strict: other types are taken, too").await;
    let known =
        json!({"description": "Paid.", "schema": {"type": "object", "required": ["missing"]}});
    let put = shop
        .world
        .ask(
            &shop.ingest,
            "PUT",
            "/api/v1/event-types/order.paid",
            Some(known),
        )
        .await;
    assert!(put.status < 300, "{}", put.body);
    tab.goto(&format!("{types}?only=seen")).await;
    tab.says("Every type is described").await;
    let event = json!({"type": "order.paid", "data": {}});
    eventually("the schema is known", async || {
        let path = "/api/v1/events?dry_run=true";
        let asked = shop
            .world
            .ask(&shop.ingest, "POST", path, Some(event.clone()))
            .await;
        asked.body["accepted"] == false
    })
    .await;
    shop.world
        .publish("order.paid", "refused-1", &json!({}))
        .await;
    shop.world.has_dead_letters(1).await;
    tab.goto(&format!("{types}/order.paid")).await;
    tab.says("1 was, over AMQP in 24 hours.").await;
    tab.says("1 event in 24 hours").await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.world.settles().await;
    shop.close().await;
}
