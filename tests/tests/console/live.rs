//! Live parts: they change without a reload, for those alone who may see them, and move nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use harness::browser::{Browser, Tab};
use harness::receiver::{Reply, Script, answering};
use harness::service::{free_address, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::json;

use crate::shop::{Shop, is_live};

fn answering_as_told(status: &Arc<AtomicU16>) -> Script {
    let status = status.clone();
    Arc::new(move |_, _| Reply::status(status.load(Ordering::Relaxed)))
}

/// The cookie of a tab, to ask as its browser does.
async fn cookie(tab: &Tab) -> String {
    let cookie = tab.client.get_named_cookie("__Host-posthorn").await;
    format!("__Host-posthorn={}", cookie.unwrap().value())
}

#[tokio::test]
async fn when_an_endpoint_goes_down_its_page_says_so_within_5_s_and_when_it_is_back_too() {
    let (world, browser) = tokio::join!(World::start(), Browser::start());
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let status = Arc::new(AtomicU16::new(200));
    let shop = world.receiver(answering_as_told(&status)).await;
    let policy =
        json!({"description": "Warehouse", "retry_policy": {"delays": [1000, 1000, 1000, 1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    let tab = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    tab.sign_in(ADMIN_TOKEN).await;
    tab.goto(&format!("/console/{TENANT}/webhooks/{}", webhook.id))
        .await;
    is_live(&tab).await;
    tab.script("window.same = true").await;

    status.store(503, Ordering::Relaxed);
    for n in 0..30 {
        world
            .publish("order.created", &format!("evt-{n}"), &json!({}))
            .await;
    }
    eventually("it is down", async || {
        world.count("endpoints WHERE circuit <> 'closed'").await == 1
    })
    .await;
    let down = Instant::now();
    tab.says("Down since").await;
    assert!(
        down.elapsed() < Duration::from_secs(5),
        "{:?}",
        down.elapsed()
    );
    tab.says("Ask now").await;
    // The statistics have what the dispatcher itself says.
    let statistics = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    statistics.sign_in(ADMIN_TOKEN).await;
    let path = format!("/console/{TENANT}/webhooks/{}/statistics", webhook.id);
    statistics.goto(&path).await;
    statistics.says("What dispatchers say just now").await;
    statistics
        .says("Nothing is sent before the next request.")
        .await;
    statistics.has("[data-live=dispatchers] tbody tr", 1).await;

    status.store(200, Ordering::Relaxed);
    // The note's button belongs to a form beside it, which isn't replaced. The note says it all
    // again each second, so it is pressed at once.
    tab.script("document.querySelector('[form=probe]').click()")
        .await;
    tab.says("It is asked within a few seconds").await;
    tab.script("window.same = true").await;
    eventually("it is up", async || {
        world.count("endpoints WHERE circuit <> 'closed'").await == 0
    })
    .await;
    let up = Instant::now();
    eventually("the page says so", async || {
        !tab.text().await.contains("Down since")
    })
    .await;
    assert!(up.elapsed() < Duration::from_secs(5), "{:?}", up.elapsed());
    statistics
        .says("The endpoint is up for the dispatcher")
        .await;
    assert_eq!(tab.script("return window.same").await, true, "no reload");
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    world.settles().await;
    world.finish().await;
}

#[tokio::test]
async fn new_deliveries_do_not_move_the_rows_that_are_on_screen() {
    let shop = Shop::open().await;
    let (tab, without) = (
        shop.operator().await,
        shop.browser.tab_without_javascript(&shop.base()).await,
    );
    without.sign_in(ADMIN_TOKEN).await;
    let list = format!("/console/{TENANT}/deliveries");
    for tab in [&tab, &without] {
        tab.goto(&list).await;
    }
    is_live(&tab).await;
    let rows = "return [...document.querySelectorAll('tbody tr')].map((row) => row.innerText + row.getBoundingClientRect().x).join()";
    let before = tab.script(rows).await;
    for n in 0..3 {
        shop.world
            .publish("invoice.paid", &format!("inv-{n}"), &json!({}))
            .await;
    }
    shop.world.accepts(4).await;
    tab.says("3 newer deliveries").await;
    assert_eq!(tab.script(rows).await, before);
    tab.press("[data-live=newer]").await;
    tab.says("5 deliveries shown").await;
    // Of a filter, only what passes it.
    tab.goto(&format!("{list}?q=type:order.*")).await;
    is_live(&tab).await;
    shop.world
        .publish("order.paid", "order-2", &json!({}))
        .await;
    tab.says("2 newer deliveries").await;
    // Without JavaScript the page is whole, and says nothing of being live.
    let text = without.text().await;
    assert!(
        text.contains("2 deliveries shown") && !text.contains("Live"),
        "{text}"
    );
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn when_ingest_restarts_the_page_says_that_it_is_not_live_and_is_again_within_15_s() {
    let (world, browser) = tokio::join!(World::start(), Browser::start());
    let address = free_address().unwrap();
    let ingest = world.ingest_at(&address).await;
    let shop = world.receiver(answering(200)).await;
    world
        .webhook(&ingest, &shop, json!({"description": "Warehouse"}))
        .await;
    let tab = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    tab.sign_in(ADMIN_TOKEN).await;
    tab.goto("/console/_/health").await;
    is_live(&tab).await;
    ingest.stop().await.unwrap();
    tab.says("Connecting again; this is from").await;
    let _ingest = world.ingest_at(&address).await;
    let ready = Instant::now();
    is_live(&tab).await;
    assert!(
        ready.elapsed() < Duration::from_secs(15),
        "{:?}",
        ready.elapsed()
    );
    world.finish().await;
}

#[tokio::test]
async fn a_live_part_ends_with_its_session_and_shows_nothing_of_others() {
    let shop = Shop::with(json!({"id": "order-4711"})).await;
    let hostile = "<img src=x onerror=document.title='gone'>";
    let webhook = format!("/api/v1/webhooks/{}", shop.bad.id);
    let disabled = format!(
        "UPDATE webhooks SET disabled_reason = '{}', status = 'disabled'",
        hostile.replace('\'', "''")
    );
    let (id, token) = shop.token("viewer").await;
    let tab = shop.browser.tab(&shop.base()).await;
    tab.sign_in(&token).await;
    let page = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    tab.goto(&page).await;
    is_live(&tab).await;
    shop.world
        .sql()
        .await
        .batch_execute(&disabled)
        .await
        .unwrap();
    tab.says("<img src=x onerror=").await;
    assert_eq!(tab.many("main img").await, 0);
    // What a manager may press isn't sent to a viewer, nor the secret of anybody's forms.
    let live = shop.ingest.url(&format!(
        "/console/{TENANT}/live?part=webhook&id={}",
        shop.bad.id
    ));
    let cookie = cookie(&tab).await;
    let ask = |url: String| http().get(url).header("cookie", &cookie).send();
    let answer = ask(live.clone()).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let mut stream = answer.bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    let first = String::from_utf8_lossy(&first).into_owned();
    assert!(
        first.contains("event: part") && !first.contains("csrf"),
        "{first}"
    );

    // Another tenant's ids are unknown, as everywhere.
    shop.world
        .ask_as_operator(
            &shop.ingest,
            "PUT",
            "/api/v1/admin/tenants/globex",
            Some(json!({})),
        )
        .await;
    for (path, status) in [
        (
            format!("/console/globex/live?part=webhook&id={}", shop.bad.id),
            404,
        ),
        (
            format!("/console/{TENANT}/live?part=webhook&id=wh_01kb4v2p8zf5sttdw3m8e7h2xk"),
            404,
        ),
        (format!("/console/{TENANT}/live?part=nothing"), 404),
        ("/console/_/live?part=health".to_owned(), 403),
    ] {
        let answer = ask(shop.ingest.url(&path)).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    let operator = shop.operator().await;
    let of_operator = self::cookie(&operator).await;
    let path = format!("/console/globex/live?part=webhook&id={}", shop.bad.id);
    let answer = http()
        .get(shop.ingest.url(&path))
        .header("cookie", &of_operator);
    assert_eq!(answer.send().await.unwrap().status(), 404);

    // Five of a session: the tab has one, the stream above another.
    let mut open = Vec::new();
    for _ in 0..3 {
        let answer = ask(live.clone()).await.unwrap();
        assert_eq!(answer.status(), 200);
        open.push(answer);
    }
    assert_eq!(ask(live.clone()).await.unwrap().status(), 429);
    drop(open);

    let token = format!("/api/v1/admin/tokens/{id}");
    let revoked = shop
        .world
        .ask_as_operator(&shop.ingest, "DELETE", &token, None)
        .await;
    assert_eq!(revoked.status, 204);
    // It is looked up every five seconds.
    let ends = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::time::timeout(Duration::from_secs(20), ends)
        .await
        .unwrap();
    tab.says("Connecting again").await;
    shop.world
        .ask(
            &shop.ingest,
            "PATCH",
            &webhook,
            Some(json!({"status": "active"})),
        )
        .await;
    shop.close().await;
}

#[tokio::test]
async fn a_delivery_that_waits_shows_its_end_and_the_log_its_new_lines() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let log = shop.operator().await;
    log.goto(&format!("/console/{TENANT}/webhooks/{}/log", shop.bad.id))
        .await;
    is_live(&log).await;
    // One that is held, and then sent.
    shop.hold_one().await;
    let held = shop.delivery(&shop.bad).await;
    tab.goto(&format!("/console/{TENANT}/deliveries/{held}"))
        .await;
    tab.says("Held").await;
    is_live(&tab).await;
    let lines = log.many(".tail li").await;
    // Space holds the log: nothing moves until it is pressed again.
    log.keys(" ").await;
    log.says("Held.").await;
    shop.set_bad("active").await;
    tab.says("Nothing more comes").await;
    tab.says("Given up").await;
    log.says("lines not shown").await;
    assert_eq!(log.many(".tail li").await, lines);
    log.keys(" ").await;
    eventually("the log goes on", async || {
        log.many(".tail li").await > lines
    })
    .await;
    for tab in [&tab, &log] {
        assert_eq!(tab.complaints().await, Vec::<String>::new());
    }
    shop.close().await;
}

#[tokio::test]
async fn the_overview_says_how_many_deliveries_wait_without_a_reload() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    tab.goto(&format!("/console/{TENANT}")).await;
    is_live(&tab).await;
    tab.says("Waiting\n0\nnothing").await;
    tab.script("window.same = true").await;
    shop.set_bad("paused").await;
    for n in 0..2 {
        let id = format!("held-{n}");
        shop.world.publish("order.held", &id, &json!({})).await;
    }
    tab.says("Waiting\n2\noldest").await;
    shop.set_bad("active").await;
    tab.says("Waiting\n0\nnothing").await;
    assert_eq!(tab.script("return window.same").await, true, "no reload");
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn charts_are_drawn_anew_within_a_minute_or_so_unless_their_table_is_open() {
    let shop = Shop::open().await;
    let page = format!("/console/{TENANT}/webhooks/{}/statistics", shop.bad.id);
    let (tab, reader) = (shop.operator().await, shop.operator().await);
    for tab in [&tab, &reader] {
        tab.goto(&page).await;
        is_live(tab).await;
        tab.script("window.same = true").await;
    }
    // Somebody reads the numbers.
    reader.press("[data-live=chart-outcomes] summary").await;
    let chart = "[data-live=chart-outcomes] svg[role=img]";
    let label = async |tab: &Tab| tab.attribute(chart, "aria-label").await.unwrap();
    assert!(label(&tab).await.contains("1 5xx"));
    shop.world
        .publish("order.paid", "order-2", &json!({}))
        .await;
    shop.world.accepts(2).await;
    shop.world.settles().await;
    tab.says("0 of 2 that ended").await;
    let begun = Instant::now();
    while !label(&tab).await.contains("2 5xx") {
        assert!(begun.elapsed() < Duration::from_secs(120));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(label(&reader).await.contains("1 5xx"));
    reader.press("[data-live=chart-outcomes] summary").await;
    // The summary has the focus now, and the part waits for that, too.
    reader.script("document.activeElement.blur()").await;
    eventually("the other page's chart is drawn, too", async || {
        label(&reader).await.contains("2 5xx")
    })
    .await;
    for tab in [&tab, &reader] {
        assert_eq!(tab.script("return window.same").await, true, "no reload");
        assert_eq!(tab.complaints().await, Vec::<String>::new());
    }
    // The overview and the system's health have charts, too, with JavaScript and without.
    let without = shop.browser.tab_without_javascript(&shop.base()).await;
    without.sign_in(ADMIN_TOKEN).await;
    for (page, charts) in [
        (page.as_str(), 2),
        (&format!("/console/{TENANT}"), 1),
        ("/console/_/health", 2),
    ] {
        without.goto(page).await;
        without
            .has("[data-live^=chart-] svg[role=img]", charts)
            .await;
    }
    shop.close().await;
}
