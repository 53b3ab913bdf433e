//! The portal in a browser: in whose frames it is, for how long, and what it reaches.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use harness::receiver::answering;
use harness::world::{TENANT, eventually};
use serde_json::json;
use tokio::net::TcpListener;

use crate::shop::Shop;

/// A site of somebody else's that has this address in a frame. Answers its origin.
async fn site(framed: &str) -> String {
    let page = format!(
        "<!doctype html><title>Theirs</title><iframe src=\"{framed}\" width=600 height=600></iframe>"
    );
    let app = Router::new().route("/", get(move || async move { Html(page) }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    origin
}

async fn link(shop: &Shop, role: &str) -> String {
    let asked = json!({"tenant": TENANT, "role": role, "webhooks": [shop.bad.id]});
    let path = "/api/v1/admin/portal-links";
    let made = shop
        .world
        .ask_as_operator(&shop.ingest, "POST", path, Some(asked))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    format!("{}{}", shop.base(), made.body["path"].as_str().unwrap())
}

/// What one reads in the frame.
async fn framed(tab: &harness::browser::Tab) -> String {
    tab.client.enter_frame(0).await.unwrap();
    let text = tab.script("return document.body.innerText").await;
    tab.client.enter_parent_frame().await.unwrap();
    text.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_portal_link_opens_in_frames_of_allowed_pages_alone_and_nothing_after_ten_minutes() {
    let shop = Shop::open().await;
    let allowed = site(&link(&shop, "viewer").await).await;
    let other = site(&link(&shop, "viewer").await).await;
    let origins = json!({"frame_ancestors": [allowed]});
    let path = format!("/api/v1/admin/tenants/{TENANT}");
    let changed = shop
        .world
        .ask_as_operator(&shop.ingest, "PATCH", &path, Some(origins))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);

    let tab = shop.browser.tab(&shop.base()).await;
    tab.goto(&allowed).await;
    let shown = framed(&tab).await;
    assert!(
        shown.contains("Warehouse") && !shown.contains("Analytics"),
        "{shown}"
    );
    assert!(!shown.contains(TENANT), "{shown}");
    tab.goto(&other).await;
    let shown = framed(&tab).await;
    assert!(!shown.contains("Warehouse"), "{shown}");

    // Alone, it opens its webhooks and nothing else.
    let alone = shop.browser.tab(&shop.base()).await;
    alone.goto(&link(&shop, "viewer").await).await;
    alone.says("Warehouse").await;
    for page in [
        "/console/_/health".to_owned(),
        format!("/console/{TENANT}/webhooks"),
    ] {
        alone.goto(&page).await;
        alone.says("With an API token").await;
    }
    alone
        .goto(&format!("/portal/webhooks/{}", shop.good.id))
        .await;
    assert!(!alone.text().await.contains("Analytics"));

    // Not opened for ten minutes.
    let late = link(&shop, "viewer").await;
    let older =
        "UPDATE links SET ends_at = ends_at - interval '10 minutes' WHERE opened_at IS NULL";
    shop.world.sql().await.batch_execute(older).await.unwrap();
    let tab = shop.browser.tab(&shop.base()).await;
    tab.goto(&late).await;
    tab.says("This page has ended").await;
    shop.close().await;
}

#[tokio::test]
async fn a_portal_links_bulk_retry_reaches_no_webhook_that_it_does_not_cover() {
    let shop = Shop::open().await;
    // Another one that failed, of a webhook that the link doesn't cover.
    let receiver = shop.world.receiver(answering(404)).await;
    let more = json!({"description": "Payroll", "events": ["wage.*"], "retries": 0});
    let others = shop.world.webhook(&shop.ingest, &receiver, more).await;
    shop.world.publish("wage.paid", "wage-1", &json!({})).await;
    receiver.receives(1).await;
    shop.world.settles().await;
    let uncovered = shop.delivery(&others).await;
    let tab = shop.browser.tab(&shop.base()).await;
    tab.goto(&link(&shop, "manager").await).await;
    let mut attempts = 1;
    for button in ["[data-key=r]", "[name=all]"] {
        tab.goto(&format!("/portal/webhooks/{}", shop.bad.id)).await;
        tab.press("td.pick input").await;
        // As somebody would who knows its id.
        tab.script(&format!(
            "const more = document.createElement('input'); more.type = 'hidden'; more.name = 'id'; \
             more.value = '{uncovered}'; document.querySelector('#bulk').append(more)"
        ))
        .await;
        tab.press(&format!("#bulk {button}")).await;
        if button == "[name=all]" {
            tab.says("Retry 1 delivery?").await;
            tab.press_text("Retry 1 delivery").await;
        }
        tab.says("1 delivery retried.").await;
        attempts += 1;
        shop.attempts(&shop.bad, attempts).await;
        shop.world.settles().await;
    }
    assert_eq!(receiver.arrivals().len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn the_portal_is_live_finds_an_event_and_says_what_became_of_each_attempt() {
    let shop = Shop::open().await;
    let tab = shop.browser.tab(&shop.base()).await;
    tab.goto(&link(&shop, "viewer").await).await;
    tab.says("1 delivery shown").await;
    eventually("the page is live", async || {
        tab.text_of("[data-live-state]").await == "Live"
    })
    .await;
    let rows = "return [...document.querySelectorAll('tbody tr')].map((row) => row.innerText + row.getBoundingClientRect().x).join()";
    let before = tab.script(rows).await;
    for n in 0..2 {
        let id = format!("order-{n}");
        shop.world.publish("order.paid", &id, &json!({})).await;
    }
    tab.says("2 newer deliveries").await;
    assert_eq!(tab.script(rows).await, before, "nothing moves");
    shop.world.settles().await;

    // One word is an event's id.
    tab.fill("form.query input[name=q]", "order-4711").await;
    tab.press("form.query button").await;
    tab.says("Failed 3").await;
    tab.says("1 delivery shown").await;
    tab.press("tbody a").await;
    tab.says("Answered 503: the endpoint broke.").await;
    tab.press_text("order-4711").await;
    tab.says("as it was published").await;
    tab.says("129.9").await;
    assert!(!tab.text().await.contains("Analytics"));
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.close().await;
}

#[tokio::test]
async fn the_operator_sees_who_has_the_portal_open() {
    let shop = Shop::open().await;
    let customer = shop.browser.tab(&shop.base()).await;
    customer.goto(&link(&shop, "viewer").await).await;
    customer.says("Warehouse").await;
    let tab = shop.operator().await;
    tab.goto(&format!("/console/_/tenants/{TENANT}")).await;
    for words in ["1 session", "portal link ", "viewer", "1 webhook"] {
        tab.says(words).await;
    }
    tab.press("main form[action$='/portal/end'] .risk").await;
    tab.says("End 1 session of the portal?").await;
    tab.press_text("End them").await;
    tab.says("0 sessions").await;
    assert!(!tab.text().await.contains("portal link "));
    customer.goto("/portal").await;
    customer.says("This page has ended").await;
    shop.close().await;
}
