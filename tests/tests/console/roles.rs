//! A viewer sees no way to what a viewer may not do, and every typed address and form is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use harness::service::http;
use harness::world::TENANT;

use crate::secrets::pages;
use crate::shop::Shop;

/// The addresses that take forms: of a tenant, and of the operator. They are read from the routes,
/// so a new one can't be forgotten here.
fn forms() -> (Vec<String>, Vec<String>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ingest/src/console/mod.rs");
    let source = fs::read_to_string(file).unwrap();
    let of_tenant = source.split("let of_tenant = ").nth(1).unwrap();
    let (of_tenant, of_operator) = of_tenant.split_once("fn operators()").unwrap();
    let taking = |source: &str| {
        let routes = source.split(".route(").skip(1);
        let routes = routes.filter(|route| route.contains("post("));
        let paths = routes.filter_map(|route| route.split('"').nth(1).map(str::to_owned));
        paths.collect::<Vec<_>>()
    };
    (taking(of_tenant), taking(of_operator))
}

#[tokio::test]
async fn a_viewers_pages_lead_nowhere_that_is_forbidden_and_every_form_is_refused() {
    let shop = Shop::open().await;
    let (id, token) = shop.token("viewer").await;
    let tab = shop.browser.tab(&shop.base()).await;
    tab.sign_in(&token).await;
    let cookie = tab.client.get_named_cookie("__Host-posthorn").await;
    let cookie = format!("__Host-posthorn={}", cookie.unwrap().value());
    let status = async |path: &str| {
        let asked = http()
            .get(shop.ingest.url(path))
            .header("cookie", &cookie)
            .header("sec-fetch-site", "same-origin");
        asked.send().await.unwrap().status().as_u16()
    };
    let (mut seen, mut refused) = (BTreeSet::new(), Vec::new());
    for page in pages(&shop).await {
        if status(&page).await == 403 {
            refused.push(page);
            continue;
        }
        tab.goto(&page).await;
        // The rail's forms are the theme and signing out. Those of the keys are everybody's.
        if page != "/console/_/keys" {
            let forms = tab
                .many("main form[method=post], main form .btn.risk")
                .await;
            assert_eq!(forms, 0, "{page}");
        }
        let links = "return [...document.querySelectorAll('a[href^=\"/console\"]')].map((a) => a.getAttribute('href'))";
        let links = tab.script(links).await;
        let links = links.as_array().unwrap().iter();
        seen.extend(links.map(|link| link.as_str().unwrap().to_owned()));
    }
    for page in ["/webhooks/new", "/events/new", "/replays/new", "/tokens"] {
        let page = format!("/console/{TENANT}{page}");
        assert!(refused.contains(&page), "{page}: {refused:?}");
    }
    for page in ["health", "tenants", "dead-letters"] {
        let page = format!("/console/_/{page}");
        assert!(refused.contains(&page), "{page}: {refused:?}");
    }
    assert!(seen.len() > 20, "{seen:?}");
    for link in &seen {
        assert_ne!(status(link).await, 403, "{link}");
    }
    // The rail, and its keys.
    tab.goto(&format!("/console/{TENANT}/webhooks")).await;
    let rail = tab.text_of("nav.navs").await;
    for hidden in ["Signature check", "Tokens", "System health", "Dead letters"] {
        assert!(!rail.contains(hidden), "{rail}");
    }
    let here = tab.path().await;
    for keys in ["gs", "gk", "gh", "c"] {
        tab.keys(keys).await;
        assert_eq!(tab.path().await, here, "{keys}");
    }

    // With the session's own secret: the role alone refuses.
    let csrf = "form[action$=sign-out] input[name=csrf]";
    let csrf = tab.attribute(csrf, "value").await.unwrap();
    let (of_tenant, of_operator) = forms();
    assert!(of_tenant.len() > 12, "{of_tenant:?}");
    assert!(of_operator.len() > 6, "{of_operator:?}");
    let of_tenant = of_tenant
        .iter()
        .map(|path| format!("/console/{TENANT}{path}"));
    let of_operator = of_operator.iter().map(|path| format!("/console/_{path}"));
    let delivery = shop.delivery(&shop.bad).await;
    let before = shop.world.count("changes").await;
    for path in of_tenant.chain(of_operator) {
        let what = match path.contains("/deliveries/") {
            true => &delivery,
            false => &shop.bad.id,
        };
        let path = path
            .replace("{id}", what)
            .replace("{name}", "order.paid")
            .replace("{token}", &id);
        let form = [("csrf", csrf.as_str()), ("sure", "1"), ("go", "1")];
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let sent = http()
            .post(shop.ingest.url(&path))
            .header("cookie", &cookie)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.finish());
        let answer = sent.send().await.unwrap();
        assert_eq!(answer.status(), 403, "{path}");
        let said = answer.text().await.unwrap();
        assert!(!said.contains("not from this session"), "{path}: {said}");
        assert!(
            said.contains("this page is"),
            "{path} doesn't say who can: {said}"
        );
    }
    assert_eq!(shop.world.count("changes").await, before);
    assert_eq!(shop.world.count("attempts WHERE n > 1").await, 0);
    shop.close().await;
}

#[tokio::test]
async fn an_error_page_has_the_visitors_theme() {
    let shop = Shop::open().await;
    for (theme, expected) in [("dark", true), ("light", false)] {
        let asked = http().get(shop.ingest.url("/console/_/nowhere"));
        let asked = asked.header("cookie", format!("posthorn-theme={theme}"));
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 404);
        let page = answer.text().await.unwrap();
        assert_eq!(page.contains("data-theme=\"dark\""), expected, "{page}");
    }
    shop.close().await;
}
