//! Pages say what is true, and lose nothing that somebody entered.

use harness::receiver::answering;
use harness::service::http;
use harness::world::{ADMIN_TOKEN, TENANT, eventually};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test]
async fn ctrl_and_enter_publish_and_do_not_only_ask() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    tab.goto(&format!("/console/{TENANT}/events/new")).await;
    tab.fill("[name=type]", "order.paid").await;
    tab.fill("[name=id]", "order-4712").await;
    // Control is held while Enter is pressed.
    tab.fill("[name=data]", "{}\u{e009}\u{e007}").await;
    eventually("it is published", async || {
        tab.path().await == format!("/console/{TENANT}/events/order-4712")
    })
    .await;
    shop.world.accepts(2).await;
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn paused_since_is_when_it_was_paused_whatever_was_changed_since() {
    let shop = Shop::open().await;
    let path = format!("/api/v1/webhooks/{}", shop.bad.id);
    let change = async |what: serde_json::Value| {
        let changed = shop
            .world
            .ask(&shop.ingest, "PATCH", &path, Some(what))
            .await;
        assert_eq!(changed.status, 200, "{}", changed.body);
    };
    change(json!({"status": "paused"})).await;
    let sql = shop.world.sql().await;
    // An hour ago.
    let earlier =
        "UPDATE changes SET at = at - interval '1 hour' WHERE after ->> 'status' = 'paused'";
    assert_eq!(sql.execute(earlier, &[]).await.unwrap(), 1);
    change(json!({"description": "Big warehouse"})).await;
    let since = "SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM changes \
        WHERE after ->> 'status' = 'paused'";
    let since: String = sql.query_one(since, &[]).await.unwrap().get(0);
    let tab = shop.operator().await;
    for page in ["", "/settings", "/statistics"] {
        tab.goto(&format!("/console/{TENANT}/webhooks/{}{page}", shop.bad.id))
            .await;
        tab.says("Paused since").await;
        let shown = tab.attribute(".note time", "title").await.unwrap();
        assert!(shown.starts_with(&since), "{page}: {shown}, not {since}");
    }
    // History that is too old to be kept.
    sql.execute("DELETE FROM changes", &[]).await.unwrap();
    tab.goto(&format!("/console/{TENANT}/webhooks/{}", shop.bad.id))
        .await;
    tab.says("Paused.").await;
    shop.close().await;
}

#[tokio::test]
async fn an_attempt_says_which_host_was_asked_although_the_webhook_has_another_url_now() {
    let shop = Shop::open().await;
    let delivery = shop.delivery(&shop.bad).await;
    let path = format!("/api/v1/webhooks/{}", shop.bad.id);
    let webhook = shop.world.ask(&shop.ingest, "GET", &path, None).await;
    let url: url::Url = webhook.body["url"].as_str().unwrap().parse().unwrap();
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let other = shop.world.receiver(answering(200)).await;
    let moved = json!({"url": other.url("/moved")});
    let moved = shop
        .world
        .ask(&shop.ingest, "PATCH", &path, Some(moved))
        .await;
    assert_eq!(moved.status, 200, "{}", moved.body);
    let tab = shop.operator().await;
    let page = format!("/console/{TENANT}/deliveries/{delivery}");
    tab.goto(&page).await;
    tab.says(&format!("POST {host}")).await;
    assert!(!tab.text_of("[data-attempts] .kv").await.contains("/moved"));
    let curl = tab.html().await;
    assert!(curl.contains("The webhook has another URL since this attempt"));
    // From here to the signature check, and back by an id.
    tab.press_text("Check its signature").await;
    tab.says("Signature check").await;
    let here = format!("/console/{TENANT}/signature?delivery={delivery}&attempt=1");
    assert_eq!(tab.path().await, here);
    let headers = "return document.querySelector('[name=headers]').value";
    let headers = tab.script(headers).await;
    assert!(headers.as_str().unwrap().contains("webhook-signature"));
    for tab_of_webhook in ["secret", "test"] {
        tab.goto(&format!(
            "/console/{TENANT}/webhooks/{}/{tab_of_webhook}",
            shop.bad.id
        ))
        .await;
        tab.press("main a[href*='/signature?webhook=']").await;
        tab.says("Fill in from a delivery").await;
        let webhook = "return document.querySelector('[name=webhook]').value";
        assert_eq!(tab.script(webhook).await, shop.bad.id.as_str());
    }
    tab.fill("#fill [name=delivery]", "nonsense\n").await;
    tab.says("That isn't the id of a delivery.").await;
    tab.fill("#fill [name=delivery]", &format!("{delivery}\n"))
        .await;
    eventually("it is filled in", async || {
        let value = "return document.querySelector('main [name=delivery]').value";
        tab.script(value).await == delivery.as_str()
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn every_running_replay_is_listed_and_a_refused_one_keeps_its_form() {
    let shop = Shop::open().await;
    let world = &shop.world;
    let receiver = world.receiver(answering(404)).await;
    let mut webhooks = Vec::new();
    for n in 0..7 {
        let more = json!({"description": format!("Lost {n}"), "events": ["lost.it"], "retries": 0});
        webhooks.push(world.webhook(&shop.ingest, &receiver, more).await);
    }
    for n in 0..30 {
        world
            .publish("lost.it", &format!("lost-{n}"), &json!({}))
            .await;
    }
    world.accepts(31).await;
    receiver.receives(7 * 30).await;
    world.settles().await;
    let mut replays = Vec::new();
    for webhook in &webhooks {
        let path = format!("/api/v1/webhooks/{}/replay", webhook.id);
        let slowly = json!({"since": "2020-01-01T00:00:00Z", "rate": 1});
        let replay = world.ask(&shop.ingest, "POST", &path, Some(slowly)).await;
        replays.push(replay.body["id"].as_str().unwrap().to_owned());
    }
    let tab = shop.browser.tab_without_javascript(&shop.base()).await;
    tab.sign_in(ADMIN_TOKEN).await;
    tab.goto(&format!("/console/{TENANT}/replays")).await;
    tab.says("Also running").await;
    let page = tab.html().await;
    for replay in &replays {
        assert!(page.contains(replay), "{replay} isn't in {page}");
    }
    for replay in &replays {
        let path = format!("/console/{TENANT}/replays/{replay}");
        tab.goto(&path).await;
        tab.press("main .risk").await;
        tab.says("Cancelled").await;
    }

    tab.goto(&format!("/console/{TENANT}/replays/new?since=2h"))
        .await;
    tab.fill("[name=since]", "whenever").await;
    tab.fill("[name=types]", "order.paid").await;
    tab.press("[name=go]").await;
    tab.says("Not started.").await;
    tab.says("since: must be a time").await;
    for (field, entered) in [("since", "whenever"), ("types", "order.paid")] {
        let shown = tab.attribute(&format!("[name={field}]"), "value").await;
        assert_eq!(shown.as_deref(), Some(entered), "{field}");
    }
    // Without a state it isn't guessed which are meant.
    tab.fill("[name=since]", "2h").await;
    tab.says("Choose at least one. Deliveries in other states")
        .await;
    for state in ["failed", "expired"] {
        tab.press(&format!("[name=status][value={state}]")).await;
    }
    tab.press("[name=go]").await;
    tab.says("status: choose at least one state").await;
    let running = "replays WHERE state = 'running'";
    assert_eq!(world.count(running).await, 0);
    world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn a_list_of_webhooks_that_cannot_be_read_leaves_the_rest_of_its_pages_alone() {
    let shop = Shop::open().await;
    let path = "/api/v1/event-types/order.paid";
    let described = json!({"description": "It was paid."});
    shop.world
        .ask(&shop.ingest, "PUT", path, Some(described))
        .await;
    let tab = shop.operator().await;
    let cookie = tab.client.get_named_cookie("__Host-posthorn").await;
    let cookie = format!("__Host-posthorn={}", cookie.unwrap().value());
    // Which endpoints are down is read for lists of webhooks alone.
    let sql = shop.world.sql().await;
    let lock = "BEGIN; LOCK TABLE endpoints IN ACCESS EXCLUSIVE MODE";
    sql.batch_execute(lock).await.unwrap();
    for (page, lost, left) in [
        (
            "",
            "The list of webhooks can't be read just now",
            "Latest trouble",
        ),
        (
            "/webhooks",
            "The list of webhooks can't be read just now",
            "New webhook",
        ),
        ("/event-types", "", "It was paid."),
        (
            "/event-types/order.paid",
            "The list of webhooks can't be read just now",
            "It was paid.",
        ),
    ] {
        let page = format!("/console/{TENANT}{page}");
        let asked = http().get(shop.ingest.url(&page)).header("cookie", &cookie);
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{page}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(lost), "{page}: {text}");
        assert!(text.contains(left), "{page}: {text}");
    }
    sql.batch_execute("ROLLBACK").await.unwrap();
    shop.close().await;
}
