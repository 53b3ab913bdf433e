//! The log of a webhook: which lines it has, that no page skips one, and that it can be held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use harness::browser::{Browser, Tab};
use harness::receiver::Reply;
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::{Value, json};

use crate::shop::{Shop, is_live};

/// The attempts that a page has lines of: their addresses.
async fn attempts(tab: &Tab) -> Vec<String> {
    let links = "return [...document.querySelectorAll('.tail a[href*=\"attempt=\"]')].map((link) => link.getAttribute('href'))";
    let links = tab.script(links).await;
    let text = |link: &Value| link.as_str().unwrap().to_owned();
    links.as_array().unwrap().iter().map(text).collect()
}

#[tokio::test]
async fn the_log_has_attempts_waits_and_changes_and_shows_the_kinds_that_are_chosen() {
    let shop = Shop::open().await;
    shop.hold_one().await;
    let log = format!("/console/{TENANT}/webhooks/{}/log", shop.bad.id);
    let (attempt, wait, change) = (".tail .http", ".tail span.wait", ".tail li.mark");
    let (tab, without) = (
        shop.operator().await,
        shop.browser.tab_without_javascript(&shop.base()).await,
    );
    without.sign_in(ADMIN_TOKEN).await;
    for tab in [&tab, &without] {
        tab.goto(&log).await;
        tab.says("Webhook paused, until its webhook is active")
            .await;
        tab.says("Changed by").await;
        tab.has(attempt, 1).await;
        tab.has(wait, 1).await;
        // It was created and paused.
        tab.has(change, 2).await;
    }
    // A box chooses at once; without JavaScript there is a button.
    tab.press("input[value=attempts]").await;
    without.press("input[value=attempts]").await;
    without.press_text("Show").await;
    for tab in [&tab, &without] {
        tab.has(attempt, 0).await;
        tab.has(wait, 1).await;
        tab.has(change, 2).await;
        assert_eq!(tab.many("input[name=show]:checked").await, 2);
    }
    for (show, shown) in [
        ("attempts", [1, 0, 0]),
        ("waits", [0, 1, 0]),
        ("changes", [0, 0, 2]),
        ("attempts,changes", [1, 0, 2]),
    ] {
        without.goto(&format!("{log}?show={show}")).await;
        for (css, many) in [attempt, wait, change].into_iter().zip(shown) {
            assert_eq!(without.many(css).await, many, "{show}: {css}");
        }
    }
    // The chosen kinds stay the same while the page is live.
    tab.goto(&format!("{log}?show=attempts")).await;
    is_live(&tab).await;
    tab.has(attempt, 1).await;
    shop.set_bad("active").await;
    shop.world.publish("order.more", "more-1", &json!({})).await;
    tab.has(attempt, 3).await;
    assert_eq!((tab.many(wait).await, tab.many(change).await), (0, 0));
    shop.world.accepts(3).await;
    shop.world.settles().await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn older_pages_of_the_log_skip_no_attempt_and_show_none_twice() {
    let shop = Shop::open().await;
    for n in 0..44 {
        let id = format!("inv-{n}");
        shop.world.publish("invoice.paid", &id, &json!({})).await;
    }
    shop.world.accepts(45).await;
    shop.world.settles().await;
    // As many attempts as deliveries have that failed twice.
    let id: shared::ids::WebhookId = shop.good.id.parse().unwrap();
    let sql = shop.world.sql().await;
    for more in [
        "INSERT INTO attempts SELECT (jsonb_populate_record(a, jsonb_build_object('n', again))).* \
         FROM attempts a JOIN deliveries d ON d.id = a.delivery_id CROSS JOIN generate_series(2, 3) again \
         WHERE d.webhook_id = $1 AND a.n = 1",
        "UPDATE deliveries SET attempts = 3 WHERE webhook_id = $1",
    ] {
        sql.execute(more, &[&id]).await.unwrap();
    }
    let tab = shop.operator().await;
    tab.goto(&format!("/console/{TENANT}/webhooks/{}/log", shop.good.id))
        .await;
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        seen.extend(attempts(&tab).await);
        pages += 1;
        if tab.many(".pager a").await == 0 {
            break;
        }
        tab.goto(&tab.attribute(".pager a", "href").await.unwrap())
            .await;
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!(
        (seen.len(), distinct.len()),
        (45 * 3, 45 * 3),
        "{pages} pages"
    );
    assert_eq!(pages, 3);
    // The webhook's creation is on the page of its time, which is the last one.
    tab.says("Created by").await;

    // Of a delivery with many attempts the latest are shown, and that there are more.
    let many = "INSERT INTO attempts SELECT (jsonb_populate_record(a, jsonb_build_object('n', again))).* \
        FROM attempts a JOIN deliveries d ON d.id = a.delivery_id CROSS JOIN generate_series(4, 20) again \
        WHERE d.webhook_id = $1 AND a.n = 1 AND d.id = (SELECT max(id::text)::uuid FROM deliveries WHERE webhook_id = $1)";
    sql.execute(many, &[&id]).await.unwrap();
    let count = "UPDATE deliveries SET attempts = 20 \
        WHERE id = (SELECT max(id::text)::uuid FROM deliveries WHERE webhook_id = $1)";
    sql.execute(count, &[&id]).await.unwrap();
    tab.goto(&format!("/console/{TENANT}/webhooks/{}/log", shop.good.id))
        .await;
    tab.says("12 earlier attempts of this delivery").await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn a_button_holds_the_log_and_says_how_many_lines_are_not_shown() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    tab.goto(&format!("/console/{TENANT}/webhooks/{}/log", shop.good.id))
        .await;
    is_live(&tab).await;
    let lines = tab.many(".tail li").await;
    let pressed = async || tab.attribute("[data-hold]", "aria-pressed").await;
    assert_eq!(pressed().await.as_deref(), Some("false"));
    tab.press("[data-hold]").await;
    assert_eq!(pressed().await.as_deref(), Some("true"));
    tab.says("Held.").await;
    for n in 0..3 {
        let id = format!("inv-{n}");
        shop.world.publish("invoice.paid", &id, &json!({})).await;
    }
    tab.says("Held: 3 lines not shown.").await;
    assert_eq!(tab.many(".tail li").await, lines);
    // Space does the same, also on the button that has the focus.
    tab.keys(" ").await;
    eventually("the log goes on", async || {
        tab.many(".tail li").await == lines + 3
    })
    .await;
    assert_eq!(pressed().await.as_deref(), Some("false"));
    shop.world.settles().await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn the_log_says_when_an_endpoint_was_down_when_it_was_asked_and_when_it_was_up_again() {
    let (world, browser) = tokio::join!(World::start(), Browser::start());
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let status = Arc::new(AtomicU16::new(503));
    let answers = status.clone();
    let shop = world
        .receiver(Arc::new(move |_, _| {
            Reply::status(answers.load(Ordering::Relaxed))
        }))
        .await;
    let policy = json!({"retry_policy": {"delays": [1000, 1000, 1000, 1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    let tab = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    tab.sign_in(ADMIN_TOKEN).await;
    let log = format!("/console/{TENANT}/webhooks/{}/log", webhook.id);
    tab.goto(&log).await;
    tab.script("window.same = true").await;
    // Fewer deliveries than a page has, so that all lines are on one.
    for n in 0..15 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    tab.says("Down: ten requests in a row failed.").await;
    tab.says("Endpoint down, until").await;
    tab.says("Still down. It was asked 1 time since then, and failed.")
        .await;
    tab.says("Asked once while down:").await;
    status.store(200, Ordering::Relaxed);
    tab.says("Up again: a request succeeded.").await;
    assert_eq!(tab.script("return window.same").await, true, "no reload");
    // Outages belong to the waits.
    tab.goto(&format!("{log}?show=attempts")).await;
    tab.has(".tail li.mark", 0).await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    world.settles().await;
    world.finish().await;
}
