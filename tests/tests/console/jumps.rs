//! A pasted id leads to its page: for those who may see it, and for nobody else.

use harness::producer::Publication;
use harness::service::http;
use harness::world::{TENANT, eventually};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test]
async fn a_pasted_id_leads_to_its_page_and_to_nobody_elses() {
    let shop = Shop::open().await;
    let world = &shop.world;
    let published = json!({"type": "order.paid", "data": {}});
    let event = world
        .ask(&shop.ingest, "POST", "/api/v1/events", Some(published))
        .await;
    let event = event.body["id"].as_str().unwrap().to_owned();
    assert!(event.starts_with("evt_"), "{event}");
    world.accepts(2).await;
    world.settles().await;
    let path = format!("/api/v1/webhooks/{}/replay", shop.bad.id);
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let replay = world.ask(&shop.ingest, "POST", &path, Some(since)).await;
    let replay = replay.body["id"].as_str().unwrap().to_owned();
    let broken = Publication::json(TENANT, "order.paid", "broken", "{not json");
    let letter = shop.becomes_dead_letter(&broken).await;
    let delivery = shop.delivery(&shop.bad).await;
    let of_tenant = [
        (shop.bad.id.clone(), "webhooks"),
        (delivery, "deliveries"),
        (event, "events"),
        (replay, "replays"),
        ("order-4711".to_owned(), "events"),
    ];

    let (_, token) = shop.token("viewer").await;
    let viewer = shop.browser.tab(&shop.base()).await;
    viewer.sign_in(&token).await;
    for (id, page) in &of_tenant {
        viewer.goto(&format!("/console/{TENANT}")).await;
        viewer.fill(".jump input[name=q]", &format!("{id}\n")).await;
        let to = format!("/console/{TENANT}/{page}/{id}");
        eventually(&to, async || viewer.path().await == to).await;
        assert!(
            !viewer.text().await.contains("There is nothing here"),
            "{to}"
        );
    }
    // From a page of all tenants, where nothing says whose it is. A producer's id doesn't, either.
    let operator = shop.operator().await;
    let letters = [(
        letter.to_string(),
        format!("/console/_/dead-letters/{letter}"),
    )];
    let ours = of_tenant[..4].iter();
    let ours = ours.map(|(id, page)| (id.clone(), format!("/console/{TENANT}/{page}/{id}")));
    for (id, to) in ours.chain(letters) {
        operator.goto("/console/_/tenants").await;
        operator
            .fill(".jump input[name=q]", &format!("{id}\n"))
            .await;
        eventually(&to, async || operator.path().await == to).await;
        assert!(
            !operator.text().await.contains("There is nothing here"),
            "{to}"
        );
    }

    // Whoever belongs to another tenant ends at 404 or at a search of their own.
    let others = world.another_tenant(&shop.ingest, "globex").await;
    let other = shop.browser.tab(&shop.base()).await;
    other.sign_in(&others).await;
    let cookie = other.client.get_named_cookie("__Host-posthorn").await;
    let cookie = format!("__Host-posthorn={}", cookie.unwrap().value());
    let ask = async |path: &str| {
        let asked = http().get(shop.ingest.url(path)).header("cookie", &cookie);
        asked.send().await.unwrap()
    };
    for (id, page) in &of_tenant {
        for tenant in ["", "&tenant=globex", "&tenant=acme"] {
            let jumped = ask(&format!("/console/_/go?q={id}{tenant}")).await;
            if jumped.status() == 303 {
                let to = jumped.headers()["location"].to_str().unwrap().to_owned();
                assert!(to.starts_with("/console/globex/"), "{id}: {to}");
                let landed = ask(&to).await;
                let is_search = to.starts_with("/console/globex/webhooks?q=");
                assert!(landed.status() == 404 || is_search, "{id}: {to}");
                assert!(!landed.text().await.unwrap().contains("Warehouse"));
            } else {
                assert_eq!(jumped.status(), 404, "{id}");
            }
        }
        for tenant in [TENANT, "globex"] {
            let path = format!("/console/{tenant}/{page}/{id}");
            assert_eq!(ask(&path).await.status(), 404, "{path}");
        }
        for part in ["webhook", "log", "delivery", "replays"] {
            let path = format!("/console/globex/live?part={part}&id={id}");
            assert_eq!(ask(&path).await.status(), 404, "{path}");
        }
    }
    world.settles().await;
    shop.close().await;
}
