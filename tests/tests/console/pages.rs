//! Every page, in both themes and at two widths: looked at, weighed and checked.

use std::fs;
use std::path::{Path, PathBuf};

use harness::world::TENANT;

use crate::shop::Shop;

/// The widest page that still fits a phone, and a usual window.
const WIDTHS: [u32; 2] = [390, 1280];

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

#[tokio::test]
async fn every_page_fits_its_screen_its_budget_and_its_readers() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let axe = axe();
    let webhook = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    let delivery = format!(
        "/console/{TENANT}/deliveries/{}",
        shop.delivery(&shop.bad).await
    );
    let pages = [
        ("sign-in", "/console/_/sign-in".to_owned()),
        ("keys", "/console/_/keys".to_owned()),
        ("overview", format!("/console/{TENANT}")),
        ("webhooks", format!("/console/{TENANT}/webhooks")),
        ("webhook-new", format!("/console/{TENANT}/webhooks/new")),
        ("webhook", webhook.clone()),
        ("webhook-statistics", format!("{webhook}/statistics")),
        ("webhook-log", format!("{webhook}/log")),
        ("webhook-settings", format!("{webhook}/settings")),
        ("webhook-edit", format!("{webhook}/edit")),
        ("webhook-delete", format!("{webhook}/delete")),
        ("webhook-secret", format!("{webhook}/secret")),
        ("webhook-test", format!("{webhook}/test")),
        (
            "deliveries",
            format!("/console/{TENANT}/deliveries?q=status%3Afailed"),
        ),
        ("delivery", delivery),
        ("events", format!("/console/{TENANT}/events")),
        ("event", format!("/console/{TENANT}/events/order-4711")),
        ("error", format!("/console/{TENANT}/nowhere")),
    ];
    let mut wrong = Vec::new();
    for (name, path) in &pages {
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
                tab.client.execute(&axe, Vec::new()).await.unwrap();
                let found = tab.client.execute_async(CHECK, Vec::new()).await.unwrap();
                for violation in found.as_array().into_iter().flatten() {
                    wrong.push(format!("{name} at {width}{theme}: {violation}"));
                }
            }
        }
        tab.screen(320, 800, false).await;
        tab.goto(path).await;
        if tab
            .script("return document.documentElement.scrollWidth > innerWidth")
            .await
            == true
        {
            wrong.push(format!("{name} at 320 scrolls sideways"));
        }
        let size = tab
            .script("return fetch(location.href).then((r) => r.text()).then((t) => t.length)")
            .await;
        if size.as_i64().is_none_or(|size| size > 60 * 1024) {
            wrong.push(format!("{name} has {size} bytes"));
        }
        wrong.extend(
            tab.complaints()
                .await
                .into_iter()
                .map(|said| format!("{name}: {said}")),
        );
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    shop.close().await;
}
