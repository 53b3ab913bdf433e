//! "Why didn't it arrive?"

use harness::world::TENANT;

use crate::shop::Shop;

#[tokio::test]
async fn without_javascript_one_finds_a_failed_delivery_reads_why_and_retries_it() {
    let shop = Shop::open().await;
    let (_, token) = shop.token("manager").await;
    let tab = shop.browser.tab_without_javascript(&shop.base()).await;
    assert_eq!(tab.sign_in(&token).await, format!("/console/{TENANT}"));

    tab.goto(&format!("/console/{TENANT}/deliveries")).await;
    tab.fill(".query input[name=q]", "status:failed").await;
    tab.press(".query button").await;
    tab.says("1 delivery shown").await;
    tab.press_text("order.paid").await;
    tab.says("Answered 503: the endpoint broke.").await;
    tab.says("Given up: the last attempt failed").await;
    tab.press_text("Retry").await;
    shop.attempts(&shop.bad, 2).await;
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn an_event_says_who_got_it_and_why_others_did_not() {
    let shop = Shop::open().await;
    let more =
        serde_json::json!({"description": "Big orders", "filters": {"total": {"$gte": 1000}}});
    let receiver = shop.world.receiver(harness::receiver::answering(200)).await;
    shop.world.webhook(&shop.ingest, &receiver, more).await;
    let more = serde_json::json!({"description": "Invoices", "events": ["invoice.*"]});
    shop.world.webhook(&shop.ingest, &receiver, more).await;
    let tab = shop.operator().await;
    // What somebody pastes from a log.
    tab.goto(&format!("/console/{TENANT}/deliveries")).await;
    tab.fill(".jump input[name=q]", "order-4711\n").await;
    tab.says("Who got it, and why not").await;
    assert_eq!(
        tab.path().await,
        format!("/console/{TENANT}/events/order-4711")
    );
    for words in [
        "{\"total\": {\"$gte\": 1000}}",
        "The event has 129.9",
        "Listens to invoice.*",
        "Changed after this event",
    ] {
        tab.says(words).await;
    }
    tab.press_text("Delivered").await;
    tab.says("Answered 200.").await;
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn a_copied_link_to_an_attempt_opens_that_attempt() {
    let shop = Shop::open().await;
    let (_, token) = shop.token("manager").await;
    let id = shop.delivery(&shop.bad).await;
    let path = format!("/api/v1/deliveries/{id}/retry");
    shop.world.ask(&shop.ingest, "POST", &path, None).await;
    shop.attempts(&shop.bad, 2).await;
    shop.world.settles().await;
    for tab in [
        shop.browser.tab(&shop.base()).await,
        shop.browser.tab_without_javascript(&shop.base()).await,
    ] {
        tab.sign_in(&token).await;
        tab.goto(&format!("/console/{TENANT}/deliveries/{id}#a1"))
            .await;
        let shown = tab.text_of("[data-attempts]").await;
        assert!(
            shown.contains("Attempt 1") && !shown.contains("Attempt 2"),
            "{shown}"
        );
        tab.goto(&format!("/console/{TENANT}/deliveries/{id}"))
            .await;
        let shown = tab.text_of("[data-attempts]").await;
        assert!(
            shown.contains("Attempt 2") && !shown.contains("Attempt 1\n"),
            "{shown}"
        );
    }
    shop.close().await;
}
