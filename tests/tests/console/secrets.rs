//! Secrets: each is shown once, on the page of its subject, and is nowhere else afterwards.

use harness::browser::Tab;
use harness::receiver::answering;
use harness::service::http;
use harness::world::{ADMIN_TOKEN, TENANT};
use serde_json::json;

use crate::shop::Shop;

/// Sends the form with this address, and doesn't look at the page that follows.
async fn send_unseen(tab: &Tab, action: &str) {
    let script = format!(
        "const form = document.querySelector('main form[action$=\"{action}\"]'); \
         const body = new URLSearchParams(new FormData(form)); \
         return fetch(form.action, {{method: 'POST', body, redirect: 'manual'}}).then((r) => r.type)"
    );
    assert_eq!(tab.script(&script).await, "opaqueredirect", "{action}");
}

/// Goes on by a link of the page: an address that is typed shows no secret.
async fn follow(tab: &Tab, path: &str) {
    tab.script(&format!(
        "const link = document.createElement('a'); link.href = '{path}'; \
         document.body.append(link); link.click()"
    ))
    .await;
}

async fn cookie(tab: &Tab) -> String {
    let cookie = tab.client.get_named_cookie("__Host-posthorn").await;
    format!("__Host-posthorn={}", cookie.unwrap().value())
}

#[tokio::test]
async fn a_portal_link_that_is_made_in_the_console_is_shown_and_opens() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let tenant = format!("/console/_/tenants/{TENANT}");
    tab.goto(&tenant).await;
    tab.press_text("Make a link").await;
    tab.says("This is the link to the portal.").await;
    let link = tab.text_of("main .code pre").await;
    assert!(link.starts_with("/portal/open?link="), "{link}");
    follow(&tab, &tenant).await;
    tab.says("Make a link").await;
    assert!(!tab.html().await.contains(&link), "it is shown once");
    let customer = shop.browser.tab(&shop.base()).await;
    customer.goto(&link).await;
    customer.says("Warehouse").await;
    shop.close().await;
}

#[tokio::test]
async fn each_new_secret_is_shown_once_whatever_was_made_or_opened_meanwhile() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let tenant = format!("/console/_/tenants/{TENANT}");
    let secret = format!("/console/{TENANT}/webhooks/{}/secret", shop.bad.id);
    tab.goto(&tenant).await;
    send_unseen(&tab, "/tokens").await;
    send_unseen(&tab, "/portal").await;
    // The page of another subject takes neither, and neither does whoever sees no page.
    follow(&tab, &secret).await;
    tab.says("Nobody can see it any more").await;
    let cookie = cookie(&tab).await;
    let headed = http()
        .head(shop.ingest.url(&tenant))
        .header("cookie", &cookie);
    assert_eq!(headed.send().await.unwrap().status(), 200);
    let linked = http().get(shop.ingest.url(&tenant));
    let linked = linked
        .header("cookie", &cookie)
        .header("sec-fetch-site", "cross-site");
    let linked = linked.send().await.unwrap().text().await.unwrap();
    assert!(!linked.contains("It is shown once"), "{linked}");
    follow(&tab, &tenant).await;
    tab.says("This is the new token. It is shown once.").await;
    tab.says("This is the link to the portal.").await;
    follow(&tab, &tenant).await;
    tab.says("Make a link").await;
    let again = tab.html().await;
    assert!(!again.contains("shown once"), "{again}");
    shop.close().await;
}

#[tokio::test]
async fn the_page_after_create_and_test_shows_the_new_secret() {
    let shop = Shop::open().await;
    let receiver = shop.world.receiver(answering(200)).await;
    let tab = shop.browser.tab_without_javascript(&shop.base()).await;
    tab.sign_in(ADMIN_TOKEN).await;
    tab.goto(&format!("/console/{TENANT}/webhooks/new")).await;
    tab.fill("#url", &receiver.url("/in")).await;
    tab.fill("#events", "till.*").await;
    tab.press("[name=then]").await;
    tab.says("This is the webhook's secret. It is shown once.")
        .await;
    let secret = tab.text_of("main .code pre").await;
    assert!(secret.starts_with("whsec_"), "{secret}");
    // It is the one that signs.
    tab.press("main form[action$='/test'] .main-btn").await;
    let test = receiver.receives(1).await.remove(0);
    assert_eq!(test.verify(&secret), Ok(()));
    tab.says("What was sent").await;
    assert!(!tab.html().await.contains(&secret));
    shop.close().await;
}

/// Every page of a signed-in operator.
pub(crate) async fn pages(shop: &Shop) -> Vec<String> {
    let webhook = format!("/webhooks/{}", shop.bad.id);
    let delivery = format!("/deliveries/{}", shop.delivery(&shop.bad).await);
    let of_tenant = [
        "",
        "/webhooks",
        "/webhooks/new",
        &webhook,
        &format!("{webhook}/statistics"),
        &format!("{webhook}/log"),
        &format!("{webhook}/settings"),
        &format!("{webhook}/edit"),
        &format!("{webhook}/delete"),
        &format!("{webhook}/secret"),
        &format!("{webhook}/test"),
        "/deliveries",
        &delivery,
        "/events",
        "/events/order-4711",
        "/events/new",
        "/event-types",
        "/event-types/new",
        "/replays",
        "/replays/new",
        &format!("/signature?delivery={}", &delivery["/deliveries/".len()..]),
        "/tokens",
        "/nowhere",
    ]
    .map(|rest| format!("/console/{TENANT}{rest}"));
    let of_all =
        ["health", "tenants", "dead-letters", "keys"].map(|page| format!("/console/_/{page}"));
    let mut all = [of_tenant.as_slice(), &of_all].concat();
    all.push(format!("/console/_/tenants/{TENANT}"));
    all.push(format!("/console/_/tenants/{TENANT}/edit"));
    all
}

#[tokio::test]
async fn no_page_no_log_and_no_history_has_a_secret_and_no_page_is_kept_by_browsers() {
    let shop = Shop::open().await;
    let path = format!("/api/v1/webhooks/{}", shop.bad.id);
    let own = json!({"headers": {"X-Api-Key": "hunter2-own-header"}});
    shop.world
        .ask(&shop.ingest, "PATCH", &path, Some(own))
        .await;
    let tab = shop.operator().await;
    let tenant = format!("/console/_/tenants/{TENANT}");
    let mut secrets = vec![
        ADMIN_TOKEN.to_owned(),
        "hunter2-own-header".to_owned(),
        shop.good.secret.clone(),
        shop.bad.secret.clone(),
    ];
    // A token, a link and a webhook's secret: each was on one page.
    let secret = format!("/console/{TENANT}/webhooks/{}/secret", shop.bad.id);
    for (page, buttons) in [
        (&tenant, &["main form[action$='/tokens'] button"][..]),
        (&tenant, &["main form[action$='/portal'] button"]),
        (
            &secret,
            &["main form[action$='/rotate'] button", "main .risk"],
        ),
    ] {
        tab.goto(page).await;
        for button in buttons {
            tab.press(button).await;
        }
        tab.says("It is shown once").await;
        let shown = tab.text_of("main .code pre").await;
        let secret = shown.replace("/portal/open?link=", "");
        assert!(secret.len() > 20, "{shown}");
        secrets.push(secret);
    }
    let cookie = cookie(&tab).await;
    for page in pages(&shop).await {
        let asked = http().get(shop.ingest.url(&page)).header("cookie", &cookie);
        let answer = asked.header("sec-fetch-site", "same-origin").send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store", "{page}");
        let html = answer.text().await.unwrap();
        for secret in &secrets {
            assert!(!html.contains(secret.as_str()), "{page} has {secret}");
        }
        tab.goto(&page).await;
        let here = tab.path().await;
        assert!(!secrets.iter().any(|one| here.contains(one)), "{here}");
    }
    let sql = shop.world.sql().await;
    let all = "SELECT coalesce(string_agg(c::text, ' '), '') FROM changes c";
    let history: String = sql.query_one(all, &[]).await.unwrap().get(0);
    let logs = shop.world.logs();
    for secret in &secrets {
        assert!(
            !history.contains(secret.as_str()),
            "the history has {secret}"
        );
        assert!(!logs.contains(secret.as_str()), "the logs have {secret}");
    }
    shop.close().await;
}
