//! What an operator looks after: the system's health, dead letters, tenants; and a webhook's form
//! and settings.

use harness::browser::Browser;
use harness::producer::Publication;
use harness::receiver::answering;
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test]
async fn system_health_says_whose_delivery_waits_and_everything_only_when_it_is_known() {
    let (world, browser) = tokio::join!(World::start(), Browser::start());
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let takes = world.receiver(answering(200)).await;
    let held = json!({"description": "Held goods", "status": "paused", "events": ["order.held"]});
    let held = world.webhook(&ingest, &takes, held).await;
    let more = json!({"events": ["order.paid"]});
    world.webhook(&ingest, &takes, more).await;
    for (event_type, id) in [("order.held", "evt-1"), ("order.paid", "evt-2")] {
        world.publish(event_type, id, &json!({})).await;
    }
    takes.receives(1).await;
    eventually("it is held", async || world.count("holds").await == 1).await;
    let tab = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    tab.sign_in(ADMIN_TOKEN).await;
    tab.goto("/console/_/health").await;
    // When all queues were measured, ten seconds after the start at the latest.
    tab.says("Everything runs.").await;
    for words in [
        "To the first attempt, p99",
        "acme, Held goods",
        "webhook paused",
        "Unaccounted",
        "events that are to be matched",
        "looked for lost jobs",
        "posthorn-dispatcher ",
        "connected",
        "Endpoints that hold the most",
        "Events and attempts a second",
        "Storage by day",
    ] {
        tab.says(words).await;
    }
    tab.press_text("24 h").await;
    assert_eq!(tab.path().await, "/console/_/health?window=24h");
    tab.press_text("acme, Held goods").await;
    let page = format!("/console/{TENANT}/webhooks/{}", held.id);
    assert_eq!(tab.path().await, page);

    // A replica that is silent is said, and so is that nothing is delivered.
    dispatcher.kill().await.unwrap();
    let sql = world.sql().await;
    let silent =
        "UPDATE processes SET told_at = now() - interval '1 minute' WHERE kind = 'dispatcher'";
    sql.execute(silent, &[]).await.unwrap();
    tab.goto("/console/_/health").await;
    tab.says("No dispatcher runs: nothing is delivered.").await;
    tab.says("has been silent for").await;
    assert!(!tab.text().await.contains("Everything runs"));
    sql.execute("DELETE FROM processes", &[]).await.unwrap();
    sql.execute("DELETE FROM queues", &[]).await.unwrap();
    tab.goto("/console/_/health").await;
    let shown = tab.text().await;
    assert!(!shown.contains("Everything runs"), "{shown}");
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    world.abandon().await;
}

#[tokio::test]
async fn dead_letters_are_searched_selected_and_discarded_and_a_tenant_sees_its_own() {
    let shop = Shop::open().await;
    let producer = shop.world.producer().await;
    for (key, body) in [
        ("acme.order.broken", "no JSON"),
        ("acme.order.other", "nor this"),
        ("later.order.paid", "{}"),
    ] {
        let mut message = Publication::json(TENANT, "x", &harness::world::unique(), body);
        message.routing_key = key.to_owned();
        producer.publish(&message).await.unwrap();
    }
    eventually("three dead letters", async || {
        shop.world.count("dead_letters").await == 3
    })
    .await;
    let tab = shop.operator().await;
    tab.goto("/console/_/dead-letters").await;
    tab.says("3 messages that couldn't be processed").await;
    // What isn't JSON would come back as it is.
    assert_eq!(tab.many("button[name=do][value=replay].tiny").await, 1);
    tab.fill(".query input[name=q]", "ORDER.Broken").await;
    tab.press(".query button").await;
    tab.has("td.pick input", 1).await;
    tab.press("td.pick input").await;
    tab.says("1 selected").await;
    tab.press_text("Discard these…").await;
    tab.says("Discard this message?").await;
    tab.press_text("Discard it").await;
    tab.says("1 message discarded.").await;
    // An id that isn't one, and a parameter twice, are answered by a page.
    let twice = format!("/console/{TENANT}/deliveries?q=a&q=b");
    for path in [
        "/console/_/dead-letters/nonsense",
        "/console/_/dead-letters?q=a&q=b",
        &twice,
    ] {
        tab.goto(path).await;
        tab.has("main h1", 1).await;
        let shown = tab.text().await;
        assert!(!shown.starts_with('{'), "{path}: {shown}");
    }

    // The tenant's own: it reads them, and a pasted id leads there.
    let (_, token) = shop.token("viewer").await;
    let theirs = shop.browser.tab(&shop.base()).await;
    theirs.sign_in(&token).await;
    let list = format!("/console/{TENANT}/dead-letters");
    theirs.goto(&list).await;
    theirs.says("Rejected events").await;
    theirs.says("acme.order.other").await;
    assert!(!theirs.text().await.contains("later.order.paid"));
    assert_eq!(theirs.many("main form[method=post]").await, 0);
    let sql = shop.world.sql().await;
    let row = |tenant: &str| {
        let statement = format!("SELECT id FROM dead_letters WHERE tenant = '{tenant}'");
        let sql = &sql;
        async move { sql.query_one(&statement, &[]).await.unwrap().get(0) }
    };
    let own: shared::ids::DeadLetterId = row(TENANT).await;
    let other: shared::ids::DeadLetterId = row("later").await;
    theirs
        .fill(".jump input[name=q]", &format!("{own}\n"))
        .await;
    theirs.says("nor this").await;
    assert_eq!(theirs.path().await, format!("{list}/{own}"));
    theirs.goto(&format!("{list}/{other}")).await;
    assert!(!theirs.text().await.contains("later.order.paid"));
    shop.close().await;
}

#[tokio::test]
async fn clauses_are_removed_and_grouped_and_a_mistyped_type_is_replaced() {
    let shop = Shop::open().await;
    let described = json!({"description": "An order was paid."});
    let path = "/api/v1/event-types/order.paid";
    shop.world
        .ask(&shop.ingest, "PUT", path, Some(described))
        .await;
    let receiver = shop.world.receiver(answering(200)).await;
    for has_javascript in [false, true] {
        let tab = match has_javascript {
            true => shop.browser.tab(&shop.base()).await,
            false => shop.browser.tab_without_javascript(&shop.base()).await,
        };
        tab.sign_in(ADMIN_TOKEN).await;
        tab.goto(&format!("/console/{TENANT}/webhooks/new")).await;
        tab.fill("#url", &receiver.url("/in")).await;
        let typed = if has_javascript {
            "ordr.paid\n"
        } else {
            "ordr.paid"
        };
        tab.fill("#events", typed).await;
        if !has_javascript {
            tab.press("[name=preview]").await;
        }
        // With JavaScript the suggestion comes while one types.
        tab.says("Did you mean").await;
        tab.says("Not listening: 1.").await;
        tab.press("button[name=instead]").await;
        tab.has("button[name=instead]", 0).await;
        tab.says("Would get 1 of 1").await;

        tab.fill("[name=path]", "id").await;
        tab.fill("[name=value]", "nobody").await;
        if !has_javascript {
            tab.press("[name=preview]").await;
        }
        tab.says("Would get 0 of 1").await;
        tab.press("button[name=remove]").await;
        tab.says("Would get 1 of 1").await;

        tab.press("button[name=clause][value=either]").await;
        tab.says("one of these must hold, too").await;
        for (n, value) in [(1, "nobody"), (2, "order-4711")] {
            let row = format!("fieldset fieldset [data-row]:nth-of-type({n})");
            tab.fill(&format!("{row} [name=path]"), "id").await;
            tab.fill(&format!("{row} [name=value]"), value).await;
        }
        tab.press("[name=preview]").await;
        tab.says("Would get 1 of 1").await;
        tab.press("main .main-btn").await;
        tab.says("It is shown once.").await;
    }
    let listed = shop
        .world
        .ask(&shop.ingest, "GET", "/api/v1/webhooks", None)
        .await;
    let made = listed.body["webhooks"].as_array().unwrap().iter();
    let made: Vec<_> = made
        .filter(|webhook| webhook["events"] == json!(["order.paid"]))
        .collect();
    assert_eq!(made.len(), 2, "{}", listed.body);
    for webhook in made {
        assert_eq!(
            webhook["filters"],
            json!({"$or": [{"id": "nobody"}, {"id": "order-4711"}]})
        );
    }
    shop.close().await;
}

#[tokio::test]
async fn settings_say_each_value_and_whose_it_is_and_a_replay_begins_when_it_failed() {
    let shop = Shop::open().await;
    let path = format!("/api/v1/webhooks/{}", shop.bad.id);
    let change = json!({
        "retry_policy": {"delays": [5000, 300_000]}, "rate_limit": {"limit": 1000, "per": "minute"},
        "trace_header": true
    });
    let changed = shop
        .world
        .ask(&shop.ingest, "PATCH", &path, Some(change))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let tab = shop.operator().await;
    let page = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    tab.goto(&format!("{page}/settings")).await;
    for words in [
        "after 5 s, 5 min",
        "1,000 requests a minute",
        "Oldest event",
        "(the dialect's)",
        "Client certificate",
        "Bearer tokens",
        "traceparent",
        "History of changes",
    ] {
        tab.says(words).await;
    }
    tab.press("details.panel summary").await;
    tab.says("retry_policy").await;

    // From now on a delivery ends with its first attempt.
    let once = json!({"retry_policy": {"max_retries": 0}});
    let changed = shop
        .world
        .ask(&shop.ingest, "PATCH", &path, Some(once))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);

    // Every attempt has failed since before the replay's page is opened.
    let since = "INSERT INTO troubles (subject, since) \
                 VALUES ($1, '2026-01-02 03:04:30+00') \
                 ON CONFLICT (subject) DO UPDATE SET since = excluded.since";
    let subject = format!("webhook/{}", shop.bad.id);
    let sql = shop.world.sql().await;
    sql.execute(since, &[&subject]).await.unwrap();
    let new = format!("/console/{TENANT}/replays/new");
    tab.goto(&format!("{new}?webhook={}", shop.bad.id)).await;
    let from = tab.attribute("[name=since]", "value").await;
    assert_eq!(from.as_deref(), Some("2026-01-02 03:03"));
    tab.says("Failed 1").await;
    tab.says("Delivered 0").await;
    tab.press_text("Replay 1 delivery").await;
    tab.press_text("Look at them").await;
    tab.says("1 delivery shown").await;
    shop.attempts(&shop.bad, 2).await;
    shop.world.settles().await;

    // Of three attempts two failed.
    tab.goto("/console/_/tenants").await;
    tab.says("All 1").await;
    tab.press_text("Failing 1").await;
    tab.says("1 of 1").await;
    tab.press_text(TENANT).await;
    tab.says("Deliveries that ended").await;
    tab.says("0 waiting").await;
    shop.close().await;
}
