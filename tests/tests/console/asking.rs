//! What can't be undone is asked about first, with its number. The first press changes nothing.

use harness::producer::Publication;
use harness::receiver::answering_in_turn;
use harness::world::{ADMIN_TOKEN, TENANT, eventually};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test]
async fn risky_buttons_ask_first_say_how_many_and_change_nothing_until_then() {
    let shop = Shop::open().await;
    let world = &shop.world;
    let (id, token) = shop.token("viewer").await;
    let viewer = shop.browser.tab(&shop.base()).await;
    viewer.sign_in(&token).await;
    let described = json!({"description": "It was paid."});
    let path = "/api/v1/event-types/order.paid";
    world.ask(&shop.ingest, "PUT", path, Some(described)).await;
    let asked = json!({"tenant": TENANT, "role": "viewer"});
    let links = "/api/v1/admin/portal-links";
    let made = world
        .ask_as_operator(&shop.ingest, "POST", links, Some(asked))
        .await;
    let customer = shop.browser.tab(&shop.base()).await;
    customer.goto(made.body["path"].as_str().unwrap()).await;
    customer.says("Warehouse").await;
    let broken = Publication::json(TENANT, "order.paid", "broken", "{not json");
    let letter = shop.becomes_dead_letter(&broken).await;

    let tenant = format!("/console/_/tenants/{TENANT}");
    let webhook = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    let revoke = format!("main form[action$='/{id}/revoke'] .risk");
    let id: shared::ids::TokenId = id.parse().unwrap();
    let revoked = format!(
        "tokens WHERE revoked_at IS NOT NULL AND id = '{}'",
        id.uuid()
    );
    // The page, the button, what is asked, how many, what is true afterwards.
    let cases: [(String, &str, &str, &str, &str); 5] = [
        (
            format!("/console/{TENANT}/event-types/order.paid/edit"),
            "main form[action$='/delete'] .risk",
            "Delete the event type order.paid?",
            "2 webhooks listen to it",
            "event_types WHERE name = 'order.paid'",
        ),
        (
            tenant.clone(),
            "main form[action$='/portal/end'] .risk",
            "End 1 session of the portal?",
            "need a new link",
            "sessions WHERE kind = 'portal'",
        ),
        (
            format!("/console/_/dead-letters/{letter}"),
            "main form[action$='/act'] .risk",
            "Discard this message?",
            "It is gone for good.",
            "dead_letters",
        ),
        (
            tenant,
            &revoke,
            "Revoke the token",
            "Revoking it ends 1 session of the console.",
            &revoked,
        ),
        (
            format!("{webhook}/settings"),
            "main .panel button[value=inactive]",
            "Switch off “Warehouse”?",
            "No delivery waits for it.",
            "webhooks WHERE description = 'Warehouse' AND status = 'inactive'",
        ),
    ];
    let tab = shop.browser.tab_without_javascript(&shop.base()).await;
    tab.sign_in(ADMIN_TOKEN).await;
    for (page, button, question, number, what) in cases {
        let before = world.count(what).await;
        tab.goto(&page).await;
        tab.press(button).await;
        tab.says(question).await;
        tab.says(number).await;
        assert_eq!(world.count(what).await, before, "{question}");
        // Whoever doesn't want it goes back.
        tab.press("main form .row a.btn").await;
        assert_eq!(world.count(what).await, before, "{question}");
        tab.goto(&page).await;
        tab.press(button).await;
        tab.says(question).await;
        tab.press("main form .row .risk").await;
        eventually(question, async || world.count(what).await != before).await;
    }
    viewer.goto(&format!("/console/{TENANT}")).await;
    viewer.says("With an API token").await;
    customer.goto("/portal").await;
    customer.says("This page has ended").await;
    shop.close().await;
}

#[tokio::test]
async fn a_webhook_that_posthorn_disabled_says_why_and_is_made_active_again() {
    let shop = Shop::open().await;
    let world = &shop.world;
    let receiver = world.receiver(answering_in_turn(&[410, 200])).await;
    let more = json!({"description": "Till", "events": ["till.*"]});
    let webhook = world.webhook(&shop.ingest, &receiver, more).await;
    let tab = shop.operator().await;
    world.publish("till.closed", "till-1", &json!({})).await;
    receiver.receives(1).await;
    eventually("it is disabled", async || {
        world.count("webhooks WHERE status = 'disabled'").await == 1
    })
    .await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let shown = world.ask(&shop.ingest, "GET", &path, None).await;
    let reason = shown.body["disabled_reason"].as_str().unwrap().to_owned();
    tab.goto(&format!("/console/{TENANT}/webhooks/{}", webhook.id))
        .await;
    tab.says("Disabled by Posthorn").await;
    tab.says(&reason).await;
    tab.says("what waits for it is cancelled").await;
    tab.press_text("Make active").await;
    tab.says("Active. It gets the events that are published from now on.")
        .await;
    assert!(!tab.text().await.contains("What was held"));
    eventually("it is active", async || {
        world.count("webhooks WHERE status = 'disabled'").await == 0
    })
    .await;
    world.publish("till.closed", "till-2", &json!({})).await;
    receiver.receives(2).await;
    shop.world.settles().await;
    shop.close().await;
}
