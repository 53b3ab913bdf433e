//! What others wrote is text, and other sites can't press our buttons.

use harness::service::http;
use harness::world::{TENANT, World};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test]
async fn hostile_text_is_shown_as_text() {
    let hostile =
        "\"><script>document.title='gone'</script><img src=x onerror=alert(1)>\u{202e}evil\0'";
    let shop = Shop::with(json!({"name": hostile})).await;
    let receiver = shop.world.receiver(harness::receiver::answering(200)).await;
    let more = json!({"description": hostile.replace('\0', ""), "events": ["invoice.*"], "filters": {"name": hostile.replace('\0', "")}});
    let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
    let id = "<script>document.title='gone'</script>/..?#";
    shop.world
        .publish("order.paid", id, &json!({"name": hostile}))
        .await;
    shop.world.accepts(2).await;
    shop.world.settles().await;
    let tab = shop.operator().await;
    let segment: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for page in [
        "webhooks".to_owned(),
        format!("webhooks?q={segment}"),
        format!("webhooks/{}", webhook.id),
        "events".to_owned(),
        format!("events/{segment}"),
        "events/order-4711".to_owned(),
        format!("deliveries?q={segment}"),
        format!("deliveries?q=status:{segment}"),
        format!("deliveries/{}", shop.delivery(&shop.bad).await),
        format!("nowhere/{segment}"),
    ] {
        tab.goto(&format!("/console/{TENANT}/{page}")).await;
        assert!(
            !tab.client.title().await.unwrap().starts_with("gone"),
            "{page}"
        );
        assert_eq!(tab.many("main script, main img").await, 0, "{page}");
        let text = tab.text().await;
        assert!(!text.contains(['\u{202e}', '\0']), "{page}: {text}");
        assert_eq!(tab.complaints().await, Vec::<String>::new(), "{page}");
    }
    tab.goto(&format!("/console/{TENANT}/events/{segment}"))
        .await;
    tab.says("U+202E").await;
    tab.says("<script>document.title='gone'</script>").await;
    shop.close().await;
}

#[tokio::test]
async fn a_form_that_is_not_ours_changes_nothing() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let delivery = shop.delivery(&shop.bad).await;
    let page = format!("/console/{TENANT}/deliveries/{delivery}");
    tab.goto(&page).await;
    let csrf = tab
        .attribute("main input[name=csrf]", "value")
        .await
        .unwrap();
    let cookie = tab
        .client
        .get_named_cookie("__Host-posthorn")
        .await
        .unwrap();
    let cookie = format!("__Host-posthorn={}", cookie.value());
    let retry = shop.ingest.url(&format!("{page}/retry"));
    for (site, csrf, status) in [
        (Some("cross-site"), csrf.as_str(), 403),
        (Some("same-site"), &csrf, 403),
        (None, &csrf, 403),
        (Some("same-origin"), "", 403),
        (Some("same-origin"), "nonsense", 403),
        (Some("same-origin"), &csrf, 303),
    ] {
        let mut request = http()
            .post(&retry)
            .header("cookie", &cookie)
            .body(format!("csrf={csrf}"));
        if let Some(site) = site {
            request = request.header("sec-fetch-site", site);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{site:?} {csrf}");
        let attempts = shop.world.deliveries(&shop.ingest, &shop.bad).await[0]["attempts"].clone();
        assert!(status == 303 || attempts == 1, "{attempts}");
    }
    shop.attempts(&shop.bad, 2).await;
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn every_answer_has_its_headers_and_the_console_can_be_off() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    for path in [
        "/console/_/sign-in",
        "/console",
        "/console/acme/webhooks",
        "/console/nowhere/x",
    ] {
        let answer = http().get(ingest.url(path)).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap();
        let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
            connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
        assert_eq!(header("content-security-policy"), policy, "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
    }
    let page = http()
        .get(ingest.url("/console/_/sign-in"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let style = page
        .split("href=\"")
        .find(|part| part.contains("console.css"))
        .unwrap();
    let style = style.split('"').next().unwrap();
    let answer = http().get(ingest.url(style)).send().await.unwrap();
    assert_eq!(
        answer.headers()["cache-control"],
        "public, max-age=31536000, immutable"
    );
    assert!(answer.text().await.unwrap().len() <= 25 * 1024);

    let off = world
        .service("posthorn-ingest", &[("CONSOLE", "off")])
        .await;
    assert_eq!(
        http()
            .get(off.url("/console/_/sign-in"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    world.finish().await;
}
