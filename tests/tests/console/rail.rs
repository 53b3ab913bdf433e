//! The counts in the rail: they are the tenant's own, and change without a reload.

use harness::producer::Publication;
use harness::world::{ADMIN_TOKEN, TENANT, eventually};
use serde_json::json;

use crate::shop::Shop;

/// What stands beside these entries of the rail.
const WEBHOOKS: &str = "[data-live=rail-webhooks]";
const REJECTED: &str = "[data-live=rail-rejected]";

#[tokio::test]
async fn the_rail_counts_what_is_the_tenants_and_changes_without_a_reload() {
    let shop = Shop::open().await;
    let world = &shop.world;
    let others = world.another_tenant(&shop.ingest, "globex").await;
    let (_, token) = shop.token("manager").await;
    let (tab, operator, theirs, without) = (
        shop.browser.tab(&shop.base()).await,
        shop.operator().await,
        shop.browser.tab(&shop.base()).await,
        shop.browser.tab_without_javascript(&shop.base()).await,
    );
    tab.sign_in(&token).await;
    tab.goto(&format!("/console/{TENANT}/webhooks")).await;
    // One takes everything, the other one has failed.
    tab.says("2, 1 failing").await;
    tab.script("window.same = true").await;
    operator.goto("/console/_/health").await;
    operator.says("Everything runs.").await;
    assert_eq!(operator.text_of("[data-live=rail-tenants]").await, "2");

    // An event that is refused, and a replay that takes its time.
    let broken = Publication::json(TENANT, "order.paid", "broken", "{not json");
    world.producer().await.publish(&broken).await.unwrap();
    world.has_dead_letters(1).await;
    for n in 0..30 {
        let id = format!("inv-{n}");
        world.publish("invoice.paid", &id, &json!({})).await;
    }
    world.accepts(31).await;
    world.settles().await;
    let slowly = json!({"since": "2020-01-01T00:00:00Z", "status": "delivered", "rate": 1});
    let path = format!("/api/v1/webhooks/{}/replay", shop.good.id);
    let begun = world.ask(&shop.ingest, "POST", &path, Some(slowly)).await;
    let replay = begun.body["id"].as_str().unwrap();
    tab.says("1 running").await;
    eventually("the tenant's rail says so", async || {
        tab.text_of(REJECTED).await == "1"
    })
    .await;
    eventually("the operator's rail says so", async || {
        operator.text_of("[data-live=rail-dead-letters]").await == "1"
    })
    .await;
    assert_eq!(tab.script("return window.same").await, true, "no reload");
    tab.goto(&format!("/console/{TENANT}/replays/{replay}"))
        .await;
    tab.press("main .risk").await;
    tab.says("Cancelled").await;
    for tab in [&tab, &operator] {
        assert_eq!(tab.complaints().await, Vec::<String>::new());
    }

    // Without JavaScript the page has them when it is loaded.
    without.sign_in(ADMIN_TOKEN).await;
    without.goto(&format!("/console/{TENANT}/replays")).await;
    assert_eq!(without.text_of(WEBHOOKS).await, "2, 1 failing");
    assert_eq!(without.text_of(REJECTED).await, "1");

    // Of another tenant nothing is counted, and nothing of all tenants.
    theirs.sign_in(&others).await;
    theirs.goto("/console/globex/webhooks").await;
    for part in [WEBHOOKS, REJECTED] {
        assert_eq!(theirs.text_of(part).await, "", "{part}");
    }
    assert_eq!(theirs.many("[data-live=rail-dead-letters]").await, 0);
    // Whoever makes a webhook finds it counted on the next page.
    theirs.goto("/console/globex/webhooks/new").await;
    theirs.fill("#url", "https://example.com/hooks").await;
    theirs.fill("#events", "order.*\n").await;
    theirs.press("main .main-btn").await;
    theirs.says("It is shown once.").await;
    theirs.goto("/console/globex/webhooks").await;
    assert_eq!(theirs.text_of(WEBHOOKS).await, "1");
    world.settles().await;
    shop.close().await;
}
