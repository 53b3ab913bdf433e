//! Acting on many, and on one twice: what is counted first, and what then happens.

use std::time::Duration;

use harness::receiver::{Receiver, answering};
use harness::world::{TENANT, Webhook, eventually};
use serde_json::json;
use tokio::process::Command;

use crate::shop::Shop;

/// Fails events of another type, so many. With 404 the endpoint isn't down.
async fn fail(shop: &Shop, many: usize) -> (Webhook, Receiver) {
    let receiver = shop.world.receiver(answering(404)).await;
    let more = json!({"description": "Lost", "events": ["order.lost"], "retries": 0});
    let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
    // It has them, and not the other one that fails.
    let path = format!("/api/v1/webhooks/{}", shop.bad.id);
    let paid = json!({"events": ["order.paid"]});
    shop.world
        .ask(&shop.ingest, "PATCH", &path, Some(paid))
        .await;
    for n in 0..many {
        let id = format!("failed-{n}");
        shop.world.publish("order.lost", &id, &json!({})).await;
    }
    shop.world.accepts(1 + many as i64).await;
    shop.world.settles().await;
    (webhook, receiver)
}

#[tokio::test]
async fn all_that_match_retries_what_matched_beyond_the_page_and_says_how_many() {
    let shop = Shop::open().await;
    let _lost = fail(&shop, 60).await;
    let tab = shop.operator().await;
    let list = format!("/console/{TENANT}/deliveries?q=status:failed+type:order.lost");
    tab.goto(&list).await;
    tab.says("50 deliveries shown").await;
    tab.press("td.pick input").await;
    tab.says("1 selected").await;
    tab.press_text("All that match…").await;
    tab.says("Retry 60 deliveries?").await;
    tab.press_text("Retry 60 deliveries").await;
    tab.says("60 deliveries retried.").await;
    // Each once more, and the one that doesn't match not.
    eventually("the attempts", async || {
        shop.world.count("attempts WHERE n = 2").await == 60
    })
    .await;
    shop.world.settles().await;
    assert_eq!(shop.world.count("attempts WHERE n > 2").await, 0);
    shop.close().await;
}

#[tokio::test]
async fn a_replay_shows_its_count_before_its_progress_during_and_can_be_cancelled() {
    let shop = Shop::open().await;
    let (lost, _receiver) = fail(&shop, 30).await;
    let tab = shop.operator().await;
    tab.goto(&format!(
        "/console/{TENANT}/replays/new?webhook={}",
        lost.id
    ))
    .await;
    tab.says("30 would begin again").await;
    tab.press("label:has([name=rate][value='2'])").await;
    tab.press("[name=ramp]").await;
    tab.press_text("Replay 30 deliveries").await;
    tab.says("Running").await;
    tab.says("of 30").await;
    // Without a reload.
    let page = tab.path().await;
    let progress = "return document.querySelector('progress').value";
    let before = tab.script(progress).await.as_f64().unwrap();
    eventually("it goes on", async || {
        tab.script(progress).await.as_f64().unwrap() > before
    })
    .await;
    tab.close().await;
    // A closed tab stops nothing.
    let replayed = async || {
        let sql = shop.world.sql().await;
        let row = sql
            .query_one("SELECT replayed FROM replays", &[])
            .await
            .unwrap();
        row.get::<_, i64>(0)
    };
    let then = replayed().await;
    eventually("it goes on", async || replayed().await > then).await;
    let tab = shop.operator().await;
    tab.goto(&page).await;
    tab.press_text("Cancel").await;
    tab.says("Cancelled").await;
    let end = replayed().await;
    assert!(end < 30, "{end}");
    shop.world.settles().await;
    assert_eq!(replayed().await, end);
    shop.close().await;
}

#[tokio::test]
async fn a_retry_button_pressed_twice_makes_one_retry_and_the_second_answer_says_so() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    let other = shop.operator().await;
    let page = format!(
        "/console/{TENANT}/deliveries/{}",
        shop.delivery(&shop.bad).await
    );
    // It stays under way while the second one is pressed.
    let path = format!("/api/v1/webhooks/{}", shop.bad.id);
    let paused = json!({"status": "paused"});
    shop.world
        .ask(&shop.ingest, "PATCH", &path, Some(paused))
        .await;
    for tab in [&tab, &other] {
        tab.goto(&page).await;
    }
    tab.script(
        "const button = document.querySelector('main .main-btn'); button.click(); button.click();",
    )
    .await;
    tab.says("Send now").await;
    other.press("main .main-btn").await;
    // It is held, or was due a moment ago. Either way it isn't begun a second time.
    other.says("That isn't possible now").await;
    let text = other.text().await;
    assert!(
        text.contains("is held, because its webhook is paused") || text.contains("was due at"),
        "{text}"
    );
    let active = json!({"status": "active"});
    shop.world
        .ask(&shop.ingest, "PATCH", &path, Some(active))
        .await;
    shop.attempts(&shop.bad, 2).await;
    shop.world.settles().await;
    assert_eq!(shop.world.count("attempts WHERE n > 2").await, 0);
    shop.close().await;
}

#[tokio::test]
async fn with_the_keyboard_alone_one_jumps_selects_retries_and_opens() {
    let shop = Shop::open().await;
    let tab = shop.operator().await;
    tab.goto(&format!("/console/{TENANT}/webhooks")).await;
    let focus = "return document.activeElement.name ?? ''";
    // None of them while typing.
    tab.keys("/").await;
    assert_eq!(tab.script(focus).await, "q");
    tab.keys("gdjxr?").await;
    let typed = "return document.activeElement.value";
    assert_eq!(tab.script(typed).await, "gdjxr?");
    assert_eq!(tab.many("dialog[open]").await, 0);
    tab.keys("\u{e00c}").await;
    assert_ne!(tab.script(focus).await, "q");

    tab.keys("gd").await;
    tab.says("2 deliveries shown").await;
    tab.keys("j").await;
    let row = "return document.querySelector('tr[data-cursor]').innerText";
    let first = tab.script(row).await;
    tab.keys("j").await;
    assert_ne!(tab.script(row).await, first);
    tab.keys("k").await;
    assert_eq!(tab.script(row).await, first);
    tab.keys("jx").await;
    tab.says("1 selected").await;
    tab.keys("r").await;
    tab.says("1 delivery retried.").await;
    tab.keys("?").await;
    tab.has("dialog[open]", 1).await;
    tab.keys("\u{e00c}").await;
    tab.has("dialog[open]", 0).await;
    tab.keys("j").await;
    tab.keys("\u{e007}").await;
    tab.says("What happened").await;
    // From any of a webhook's tabs.
    let webhook = format!("/console/{TENANT}/webhooks/{}", shop.bad.id);
    for (key, leads_to) in [("e", "edit"), ("t", "test")] {
        tab.goto(&format!("{webhook}/statistics")).await;
        tab.keys(key).await;
        eventually("the key leads there", async || {
            tab.path().await == format!("{webhook}/{leads_to}")
        })
        .await;
    }
    shop.world.settles().await;
    shop.close().await;
}

#[tokio::test]
async fn the_copied_curl_sends_the_same_bytes_and_signature_whatever_quotes_the_payload_has() {
    let shop = Shop::open().await;
    let receiver = shop.world.receiver(answering(200)).await;
    let tab = shop.operator().await;
    let data = json!({"a": "it's \"quoted\" $HOME `id` \\ ! %s\n@file", "b": "\u{202e}ü"});
    for (debug, name) in [(true, "kept"), (false, "composed")] {
        let more = json!({
            "events": [format!("{name}.it")], "debug_mode": debug, "headers": {"X-Own": "hunter2"},
        });
        let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
        shop.world.publish(&format!("{name}.it"), name, &data).await;
        shop.world.settles().await;
        eventually("it arrives", async || {
            receiver.arrivals().iter().any(|one| one.id() == name)
        })
        .await;
        shop.world.settles().await;
        let delivery = shop.delivery(&webhook).await;
        tab.goto(&format!("/console/{TENANT}/deliveries/{delivery}"))
            .await;
        let command = tab.attribute("[data-key=u]", "data-copy").await.unwrap();
        assert!(
            !command.contains("hunter2") && command.contains("$X_OWN"),
            "{command}"
        );
        let ran = Command::new("sh")
            .arg("-c")
            .arg(&command)
            .env("X_OWN", "hunter2")
            .output();
        let ran = tokio::time::timeout(Duration::from_secs(30), ran)
            .await
            .unwrap()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        let arrivals = receiver.arrivals();
        let both: Vec<_> = arrivals.iter().filter(|one| one.id() == name).collect();
        assert_eq!(both.len(), 2, "{command}");
        assert_eq!(both[0].body, both[1].body, "{command}");
        for header in [
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "content-type",
            "x-own",
        ] {
            assert_eq!(both[0].header(header), both[1].header(header), "{header}");
        }
        both[1].verify(&webhook.secret).unwrap();
    }
    shop.close().await;
}
