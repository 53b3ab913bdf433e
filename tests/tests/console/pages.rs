//! Every page, in both themes and at two widths: looked at, weighed and checked, with data that
//! nobody would like to look at.

use std::fs;
use std::path::{Path, PathBuf};

use harness::browser::Tab;
use harness::producer::Publication;
use harness::receiver::Reply;
use harness::world::TENANT;
use serde_json::json;

use crate::shop::Shop;

/// The widest page that still fits a phone, and a usual window.
const WIDTHS: [u32; 2] = [390, 1280];
/// What a page may have in bytes.
const BUDGET: i64 = 60 * 1024;

/// Where pictures are kept for a reviewer: not in the repository.
fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// axe-core, which `deploy/deps.sh tests` installs.
fn axe() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(".posthorn/node_modules/axe-core/axe.min.js")).unwrap()
}

/// Runs the rules of WCAG 2.1 AA on the page that is open.
const CHECK: &str = "const done = arguments[0]; axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}) \
    .then((r) => done(r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.target + ' ' + (n.any[0]?.message ?? '')).slice(0, 3).join('; '))))";

/// The same for the contrast of text alone.
const CONTRAST: &str = "const done = arguments[0]; axe.run(document, {runOnly: {type: 'rule', values: ['color-contrast']}}) \
    .then((r) => done(r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.target + ' ' + (n.any[0]?.message ?? '')).slice(0, 3).join('; '))))";

/// The cells whose text runs into the next one.
const SPILT: &str = "return [...document.querySelectorAll('td, dd')] \
    .filter((cell) => cell.scrollWidth > cell.clientWidth + 1 && getComputedStyle(cell).overflowX == 'visible') \
    .map((cell) => cell.textContent.trim().slice(0, 60))";

/// What is wrong with the page at this address, in both themes and at all widths.
async fn wrong_with(tab: &Tab, axe: &str, name: &str, path: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for width in WIDTHS {
        for dark in [false, true] {
            tab.screen(width, 900, dark).await;
            tab.goto(path).await;
            let theme = if dark { "-dark" } else { "" };
            let file = pictures().join(format!("{name}-{width}{theme}.png"));
            fs::write(file, tab.picture().await).unwrap();
            let wide = tab
                .script("return document.documentElement.scrollWidth > innerWidth")
                .await;
            if wide == true {
                wrong.push(format!("{name} at {width} scrolls sideways"));
            }
            let spilt = tab.script(SPILT).await;
            for cell in spilt.as_array().into_iter().flatten() {
                wrong.push(format!(
                    "{name} at {width}: a cell is too narrow for {cell}"
                ));
            }
            // Each theme once, and each width once: the check takes longest of all.
            if dark == (width == WIDTHS[0]) {
                continue;
            }
            tab.client.execute(axe, Vec::new()).await.unwrap();
            let found = tab.client.execute_async(CHECK, Vec::new()).await.unwrap();
            for violation in found.as_array().into_iter().flatten() {
                wrong.push(format!("{name} at {width}{theme}: {violation}"));
            }
        }
    }
    // A usual window at 200 %, and the narrowest screen.
    for (width, dark) in [(640, false), (320, true), (320, false)] {
        tab.screen(width, 800, dark).await;
        tab.goto(path).await;
        let wide = tab
            .script("return document.documentElement.scrollWidth > innerWidth")
            .await;
        if wide == true {
            wrong.push(format!("{name} at {width} scrolls sideways"));
        }
        // The other themes and widths had all rules.
        if dark {
            tab.client.execute(axe, Vec::new()).await.unwrap();
            let found = tab
                .client
                .execute_async(CONTRAST, Vec::new())
                .await
                .unwrap();
            for violation in found.as_array().into_iter().flatten() {
                wrong.push(format!("{name} at {width}-dark: {violation}"));
            }
        }
    }
    let size = tab
        .script(
            "return fetch(location.href).then((r) => r.arrayBuffer()).then((b) => b.byteLength)",
        )
        .await;
    if size.as_i64().is_none_or(|size| size > BUDGET) {
        wrong.push(format!("{name} has {size} bytes"));
    }
    let said = tab.complaints().await.into_iter();
    wrong.extend(said.map(|said| format!("{name}: {said}")));
    wrong.dedup();
    wrong
}

/// Webhooks with long names and addresses, failed deliveries of long types with a large payload,
/// an answer full of quotes, forty attempts, text from right to left, a described type.
async fn make_ugly(shop: &Shop) -> String {
    let world = &shop.world;
    let quotes = "\"<&'\u{202e}עברית\u{7}".repeat(1_200);
    let answer = quotes.clone();
    let ugly = world
        .receiver(std::sync::Arc::new(move |_, _| {
            Reply::status(404).saying(answer.clone())
        }))
        .await;
    let long_type = format!("shipment.{}", "verylongname".repeat(8));
    let more = json!({
        "description": format!("שלום {}", "WarehouseWithoutSpaces".repeat(30)), "retries": 0, "debug_mode": true,
        "events": [long_type], "headers": {"X-Api-Key": "hunter2"},
    });
    let webhook = world.webhook(&shop.ingest, &ugly, more).await;
    for n in 0..40 {
        let more = json!({
            "description": format!("{n} {}", "long description ".repeat(50)),
            "url": ugly.url(&format!("/{}", "p".repeat(1_900))),
            "events": [format!("nothing.{}", "x".repeat(60)), "other.*", "third"],
        });
        world.webhook(&shop.ingest, &ugly, more).await;
    }
    let producer = world.producer().await;
    for n in 0..55 {
        let data = match n {
            0 => json!({"text": quotes, "list": vec![1; 2_000]}),
            _ => json!({"n": n}),
        };
        let id = format!("{}-{n}", "i".repeat(90));
        let event = Publication::json(TENANT, &long_type, &id, &data.to_string());
        producer.publish(&event).await.unwrap();
    }
    world.accepts(56).await;
    world.settles().await;
    let first = world.deliveries(&shop.ingest, &webhook).await;
    let first = first.last().unwrap()["id"].as_str().unwrap().to_owned();
    // As many attempts as a delivery has after some replays, and a reason from a newer version.
    let copies = "INSERT INTO attempts SELECT (jsonb_populate_record(a, jsonb_build_object('n', again))).* \
        FROM attempts a CROSS JOIN generate_series(2, 41) again WHERE a.delivery_id = $1 AND a.n = 1";
    let id: shared::ids::DeliveryId = first.parse().unwrap();
    let sql = world.sql().await;
    sql.execute(copies, &[&id]).await.unwrap();
    sql.execute("UPDATE deliveries SET attempts = 41 WHERE id = $1", &[&id])
        .await
        .unwrap();
    let path = "/api/v1/event-types/order.paid";
    let schema = json!({"description": "Something was paid. ".repeat(40), "schema": {"type": "object", "properties": {
        "total": {"type": "number", "description": "What was paid."}}}, "example": {"total": 1.10}});
    world.ask(&shop.ingest, "PUT", path, Some(schema)).await;
    // A message that isn't an event.
    let broken = Publication::json(TENANT, "order.paid", "broken", "{not json");
    shop.becomes_dead_letter(&broken).await;
    first
}

#[tokio::test]
async fn every_page_fits_its_screen_its_budget_and_its_readers() {
    let shop = Shop::open().await;
    let ugly = make_ugly(&shop).await;
    let axe = axe();
    let webhook = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    let of_tenant = |rest: &str| format!("/console/{TENANT}{rest}");
    let delivery = of_tenant(&format!("/deliveries/{}", shop.delivery(&shop.bad).await));
    let of_ugly = shop.world.delivery(&shop.ingest, &json!(ugly)).await;
    let ugly_webhook = of_ugly["webhook_id"].as_str().unwrap();
    let sql = shop.world.sql().await;
    let letter = sql
        .query_one("SELECT id FROM dead_letters", &[])
        .await
        .unwrap();
    let letter: shared::ids::DeadLetterId = letter.get(0);
    let pages = [
        ("sign-in", "/console/_/sign-in".to_owned()),
        ("keys", "/console/_/keys".to_owned()),
        ("overview", of_tenant("")),
        ("webhooks", of_tenant("/webhooks")),
        ("webhook-new", of_tenant("/webhooks/new")),
        ("webhook", webhook.clone()),
        ("webhook-statistics", format!("{webhook}/statistics")),
        ("webhook-log", format!("{webhook}/log")),
        (
            "webhook-log-ugly",
            of_tenant(&format!("/webhooks/{ugly_webhook}/log")),
        ),
        ("webhook-settings", format!("{webhook}/settings")),
        ("webhook-edit", format!("{webhook}/edit")),
        ("webhook-delete", format!("{webhook}/delete")),
        ("webhook-secret", format!("{webhook}/secret")),
        ("webhook-test", format!("{webhook}/test")),
        ("deliveries", of_tenant("/deliveries")),
        ("delivery", delivery),
        ("delivery-ugly", of_tenant(&format!("/deliveries/{ugly}"))),
        ("events", of_tenant("/events")),
        ("event", of_tenant("/events/order-4711")),
        ("publish", of_tenant("/events/new?like=order-4711")),
        ("event-types", of_tenant("/event-types")),
        ("event-type", of_tenant("/event-types/order.paid")),
        ("replays", of_tenant("/replays")),
        ("replay-new", of_tenant("/replays/new?since=1h")),
        (
            "signature",
            of_tenant(&format!("/signature?delivery={ugly}")),
        ),
        ("tokens", of_tenant("/tokens")),
        ("health", "/console/_/health".to_owned()),
        ("tenants", "/console/_/tenants".to_owned()),
        ("tenant", format!("/console/_/tenants/{TENANT}")),
        ("dead-letters", "/console/_/dead-letters".to_owned()),
        ("dead-letter", format!("/console/_/dead-letters/{letter}")),
        ("error", of_tenant("/nowhere")),
    ];
    // Three tabs, each with every third page.
    let checked = (0..3).map(async |first| {
        let tab = shop.operator().await;
        let mut wrong = Vec::new();
        for (name, path) in pages.iter().skip(first).step_by(3) {
            wrong.extend(wrong_with(&tab, &axe, name, path).await);
        }
        wrong
    });
    let mut wrong = futures_util::future::join_all(checked).await.concat();
    let portal = shop.browser.tab(&shop.base()).await;
    let asked = json!({"tenant": TENANT, "role": "manager"});
    let made = shop
        .world
        .ask_as_operator(
            &shop.ingest,
            "POST",
            "/api/v1/admin/portal-links",
            Some(asked),
        )
        .await;
    portal.goto(made.body["path"].as_str().unwrap()).await;
    for (name, path) in [
        ("portal", "/portal".to_owned()),
        (
            "portal-webhook",
            format!("/portal/webhooks/{}", shop.bad.id),
        ),
        ("portal-delivery", format!("/portal/deliveries/{ugly}")),
        (
            "portal-settings",
            format!("/portal/webhooks/{}/settings", shop.bad.id),
        ),
        (
            "portal-edit",
            format!("/portal/webhooks/{}/edit", shop.bad.id),
        ),
        (
            "portal-secret",
            format!("/portal/webhooks/{}/secret", shop.bad.id),
        ),
        (
            "portal-test",
            format!("/portal/webhooks/{}/test", shop.bad.id),
        ),
        ("portal-event", "/portal/events/order-4711".to_owned()),
    ] {
        wrong.extend(wrong_with(&portal, &axe, name, &path).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    shop.close().await;
}
