//! Who may come in, how long they stay, and what they may do.

use harness::service::http;
use harness::world::{ADMIN_TOKEN, TENANT, World};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test]
async fn wrong_expired_and_revoked_tokens_get_one_answer_and_the_sixth_try_waits() {
    let shop = Shop::open().await;
    let tab = shop.browser.tab(&shop.base()).await;
    let (id, revoked) = shop.token("viewer").await;
    let path = format!("/api/v1/admin/tokens/{id}");
    assert_eq!(
        shop.world
            .ask_as_operator(&shop.ingest, "DELETE", &path, None)
            .await
            .status,
        204
    );
    let (id, expired) = shop.token("viewer").await;
    let gone = "UPDATE tokens SET expires_at = now() WHERE tenant = 'acme' AND revoked_at IS NULL AND role = 'viewer'";
    shop.world.sql().await.execute(gone, &[]).await.unwrap();
    assert!(id.starts_with("tok_"), "{id}");
    for wrong in ["pht_nonsense", &revoked, &expired, "a.b.c", "pht_more"] {
        tab.sign_in(wrong).await;
        tab.says("This token isn't valid here.").await;
    }
    tab.sign_in(ADMIN_TOKEN).await;
    tab.says("Try again in").await;
    shop.close().await;
}

#[tokio::test]
async fn a_revoked_token_ends_its_sessions_and_signing_out_ends_one() {
    let shop = Shop::open().await;
    let (id, token) = shop.token("viewer").await;
    let tab = shop.browser.tab(&shop.base()).await;
    assert_eq!(tab.sign_in(&token).await, format!("/console/{TENANT}"));
    assert!(!tab.html().await.contains(&token));
    let path = format!("/api/v1/admin/tokens/{id}");
    shop.world
        .ask_as_operator(&shop.ingest, "DELETE", &path, None)
        .await;
    tab.goto(&format!("/console/{TENANT}/deliveries?q=status:failed"))
        .await;
    tab.says("Sign in").await;

    // The page that was wanted comes afterwards.
    let (_, token) = shop.token("viewer").await;
    tab.fill("#token", &token).await;
    tab.press("form button").await;
    tab.says("Warehouse").await;
    assert_eq!(
        tab.path().await,
        format!("/console/{TENANT}/deliveries?q=status:failed")
    );
    assert_eq!(shop.world.count("sessions").await, 2);
    tab.press(".who form[action$=sign-out] button").await;
    tab.says("With an API token").await;
    assert_eq!(shop.world.count("sessions").await, 1);
    shop.close().await;
}

#[tokio::test]
async fn a_sign_in_leads_nowhere_else_and_a_link_works_once() {
    let shop = Shop::open().await;
    let link = shop
        .world
        .command(&["console-link", "--url", &shop.base(), "--tenant", TENANT])
        .await;
    for (n, expected) in [(1, "Warehouse"), (2, "This link was used already")] {
        let tab = shop.browser.tab(&shop.base()).await;
        tab.goto(link.trim()).await;
        tab.press("form button").await;
        tab.says(expected).await;
        assert!(!tab.path().await.contains("link="), "{n}");
    }
    for next in [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/console/../metrics",
        "/console/acme/%2e%2e/%2e%2e/metrics",
        "javascript:alert(1)",
    ] {
        let tab = shop.browser.tab(&shop.base()).await;
        let encoded: String = next.bytes().map(|byte| format!("%{byte:02X}")).collect();
        tab.goto(&format!("/console/_/sign-in?next={encoded}"))
            .await;
        let (_, token) = shop.token("viewer").await;
        tab.fill("#token", &token).await;
        tab.press("form button").await;
        tab.says("Warehouse").await;
        let path = tab.path().await;
        assert_eq!(path, "/console/acme", "{next}");
        tab.close().await;
    }
    shop.close().await;
}

#[tokio::test]
async fn a_viewer_sees_no_button_they_may_not_press_and_nobody_sees_another_tenant() {
    let shop = Shop::open().await;
    shop.world
        .ask_as_operator(
            &shop.ingest,
            "PUT",
            "/api/v1/admin/tenants/globex",
            Some(json!({})),
        )
        .await;
    let (_, token) = shop.token("viewer").await;
    let tab = shop.browser.tab(&shop.base()).await;
    tab.sign_in(&token).await;
    let delivery = shop.delivery(&shop.bad).await;
    for page in [
        "webhooks".to_owned(),
        "deliveries".to_owned(),
        format!("deliveries/{delivery}"),
        format!("webhooks/{}", shop.bad.id),
    ] {
        tab.goto(&format!("/console/{TENANT}/{page}")).await;
        assert_eq!(tab.many("main form[method=post]").await, 0, "{page}");
        tab.goto(&format!("/console/globex/{page}")).await;
        tab.says("404").await;
    }
    tab.goto("/console/_/tenants").await;
    let operator = shop.operator().await;
    // Her own pages, of the other tenant: its ids lead nowhere.
    operator
        .goto(&format!("/console/globex/deliveries/{delivery}"))
        .await;
    operator.says("404").await;
    operator
        .goto(&format!("/console/globex/webhooks/{}", shop.bad.id))
        .await;
    operator.says("404").await;

    let session = tab
        .client
        .get_named_cookie("__Host-posthorn")
        .await
        .unwrap();
    assert!(session.http_only().unwrap() && session.secure().unwrap());
    shop.close().await;
}

#[tokio::test]
async fn a_jwt_begins_a_session_unless_it_is_for_the_webhooks_of_one_owner() {
    let secret = "a-secret-of-the-tests-with-32-bytes";
    let world = World::with(&[("JWT_SECRET", secret), ("JWT_OWNER_CLAIM", "sub")]).await;
    let ingest = world.ingest().await;
    for (claims, status) in [
        (
            json!({"tenant": TENANT, "role": "manager", "exp": 4_000_000_000_u64}),
            303,
        ),
        (
            json!({"tenant": TENANT, "role": "manager", "exp": 4_000_000_000_u64, "sub": "ada"}),
            401,
        ),
        (json!({"tenant": TENANT, "role": "manager", "exp": 1}), 401),
        (
            json!({"tenant": "nobody", "role": "manager", "exp": 4_000_000_000_u64}),
            401,
        ),
    ] {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&Default::default(), &claims, &key).unwrap();
        let answer = http()
            .post(ingest.url("/console/_/sign-in"))
            .header("sec-fetch-site", "same-origin")
            .body(format!("token={token}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{claims}");
    }
    world.finish().await;
}
