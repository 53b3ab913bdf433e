//! What waits says why and until when, and what is away is said.

use std::sync::Arc;
use std::time::Duration;

use harness::browser::Browser;
use harness::receiver::{Reply, answering, answering_after};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test]
async fn a_paused_a_full_a_down_a_limited_and_a_parked_delivery_say_why_they_wait_and_until_when() {
    let (world, browser) = tokio::join!(World::start(), Browser::start());
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let quick = world.receiver(answering(200)).await;
    let slow = world
        .receiver(answering_after(Duration::from_secs(20)))
        .await;
    let broken = world.receiver(answering(503)).await;
    let make = async |receiver, events: &str, more: serde_json::Value| {
        let mut body = json!({"events": [events], "description": events});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        world.webhook(&ingest, receiver, body).await
    };
    let paused = make(&quick, "held.it", json!({"status": "paused"})).await;
    let limited = make(
        &quick,
        "limited.it",
        json!({"rate_limit": {"limit": 1, "per": "hour"}}),
    )
    .await;
    let full = make(&slow, "full.it", json!({"timeout": 30_000})).await;
    let down = make(
        &broken,
        "down.it",
        json!({"retry_policy": {"delays": [1000, 1000, 1000]}}),
    )
    .await;
    let parked = make(
        &quick,
        "parked.it",
        json!({"rate_limit": {"limit": 1, "per": "hour"}}),
    )
    .await;
    for (name, many) in [
        ("held", 1),
        ("limited", 2),
        ("full", 12),
        ("down", 30),
        ("parked", 2),
    ] {
        for n in 0..many {
            let (event_type, id) = (format!("{name}.it"), format!("{name}-{n}"));
            world.publish(&event_type, &id, &json!({})).await;
        }
    }
    // What a dispatcher writes when sending has failed fifty times on our side.
    let park = "UPDATE deliveries SET deferred_because = 'parked' WHERE deferred_because = 'rate_limited' AND webhook_id = $1";
    let parked_id: shared::ids::WebhookId = parked.id.parse().unwrap();
    let sql = world.sql().await;
    eventually("it is parked", async || {
        sql.execute(park, &[&parked_id]).await.unwrap() == 1
    })
    .await;
    let tab = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    tab.sign_in(ADMIN_TOKEN).await;
    for (webhook, reason, sentence) in [
        (
            &paused,
            "paused",
            "Its webhook is paused; there is no set time.",
        ),
        (&limited, "rate_limited", "rate limit is used up until then"),
        (
            &full,
            "endpoint_full",
            "As many requests are in flight as the endpoint, or the dispatcher, can take",
        ),
        (&down, "endpoint_down", "Ten requests in a row failed"),
        (
            &parked,
            "parked",
            "Sending it failed fifty times on our side",
        ),
    ] {
        let mut id = String::new();
        eventually(reason, async || {
            let all = world.deliveries(&ingest, webhook).await;
            let found = all.iter().find(|one| one["next_attempt_reason"] == reason);
            id = found.map_or_else(String::new, |one| one["id"].as_str().unwrap().to_owned());
            !id.is_empty()
        })
        .await;
        tab.goto(&format!("/console/{TENANT}/deliveries/{id}"))
            .await;
        let text = tab.text().await;
        // A wait may be over before the page is asked for: then it is among what happened.
        assert!(text.contains(sentence), "{reason}: {text}");
        if reason != "paused" {
            let until = tab.many("[data-live=timeline] li:last-child time").await;
            assert!(until > 0, "{reason} has a time: {text}");
        }
    }
    let waiting = async || {
        let listed = world.ask(&ingest, "GET", "/api/v1/webhooks", None).await;
        let webhooks = listed.body["webhooks"].as_array().unwrap();
        let waiting = webhooks.iter().map(|one| one["waiting"].as_i64().unwrap());
        waiting.sum::<i64>()
    };
    // Three wait for an hour, or until somebody resumes their webhook.
    eventually("the overview says how many wait", async || {
        let before = waiting().await;
        tab.goto(&format!("/console/{TENANT}")).await;
        let text = tab.text().await;
        let after = waiting().await;
        before >= 3 && before == after && text.contains(&format!("Waiting\n{before}\noldest "))
    })
    .await;
    world.abandon().await;
}

#[tokio::test]
async fn postgresql_or_rabbitmq_away_is_said_and_what_works_without_goes_on() {
    let (world, browser) = tokio::join!(World::with_own_servers(&[]), Browser::start());
    let ingest = world.ingest().await;
    let receiver = world.receiver(Arc::new(|_, _| Reply::status(200))).await;
    world
        .webhook(&ingest, &receiver, json!({"description": "Warehouse"}))
        .await;
    let tab = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    tab.sign_in(ADMIN_TOKEN).await;
    let page = format!("/console/{TENANT}/webhooks");
    tab.goto(&page).await;
    tab.says("Warehouse").await;
    let pair = world.pair.as_ref().unwrap();

    pair.rabbitmq().stop().await.unwrap();
    tab.goto(&page).await;
    tab.says("Warehouse").await;
    tab.goto(&format!("/console/{TENANT}/events/new")).await;
    tab.fill("[name=type]", "order.paid").await;
    tab.fill("[name=data]", "{}").await;
    tab.press("main .main-btn").await;
    tab.says("RabbitMQ").await;
    pair.rabbitmq().start_again().await.unwrap();

    pair.postgres().stop().await.unwrap();
    tab.goto(&page).await;
    tab.says("Something that Posthorn needs is away").await;
    tab.says("request").await;
    pair.postgres().start_again().await.unwrap();
    eventually("the page is right again", async || {
        tab.goto(&page).await;
        tab.text().await.contains("Warehouse")
    })
    .await;
    // The browser says that a page was answered with 503: that was on purpose.
    assert_eq!(tab.complaints().await, Vec::<String>::new());
    // What was sent may have been accepted, and no dispatcher runs.
    world.abandon().await;
}

#[tokio::test]
async fn pausing_resuming_switching_off_and_deleting_do_what_they_say_to_what_waits() {
    let shop = Shop::open().await;
    let receiver = shop.world.receiver(answering(200)).await;
    let more = json!({"description": "Till", "events": ["till.*"]});
    let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
    let tab = shop.operator().await;
    let page = format!("/console/{TENANT}/webhooks/{}", webhook.id);
    let publish = async |id: &str| shop.world.publish("till.closed", id, &json!({})).await;
    let held = async |many: i64| {
        eventually("it is held", async || {
            let held = "deliveries WHERE deferred_because = 'paused' AND state = 'queued'";
            shop.world.count(held).await == many
        })
        .await;
    };
    let cancelled = async |many: i64| {
        eventually("it is cancelled", async || {
            let cancelled = "deliveries WHERE state = 'cancelled'";
            shop.world.count(cancelled).await == many
        })
        .await;
    };
    tab.goto(&format!("{page}/settings")).await;
    tab.says("Deliveries are held and sent later.").await;
    tab.press("main button[value=paused]").await;
    tab.says("Paused. Deliveries are held until it is active again.")
        .await;
    publish("till-1").await;
    held(1).await;
    receiver
        .receives_no_more_than(0, Duration::from_millis(300))
        .await;
    tab.goto(&format!("{page}/settings")).await;
    tab.says("What is held is sent, a few at first.").await;
    tab.press(".panel button[value=active]").await;
    tab.says("What was held is sent now").await;
    receiver.receives(1).await;
    shop.world.settles().await;

    let set = async |status: &str| {
        tab.goto(&format!("{page}/settings")).await;
        tab.press(&format!(".panel button[value={status}]")).await;
        // The form is on its way when the button has been pressed.
        let now = format!("webhooks WHERE description = 'Till' AND status = '{status}'");
        eventually("the form is through", async || {
            shop.world.count(&now).await == 1
        })
        .await;
    };
    set("paused").await;
    publish("till-2").await;
    held(1).await;
    tab.goto(&format!("{page}/settings")).await;
    tab.says("What is held is cancelled; a replay can send it.")
        .await;
    tab.press(".panel button[value=inactive]").await;
    // It asks first, with the number.
    tab.says("Switch off “Till”?").await;
    tab.says("1 delivery waits for it. What waits is cancelled")
        .await;
    assert_eq!(
        shop.world.count("webhooks WHERE status = 'paused'").await,
        1
    );
    tab.press_text("Switch it off").await;
    tab.says("What waits for it is being cancelled.").await;
    tab.says("Cancelled").await;
    // A dispatcher cancels it, in a moment.
    cancelled(1).await;
    set("active").await;
    publish("till-3").await;
    receiver.receives(2).await;
    shop.world.settles().await;

    set("paused").await;
    publish("till-4").await;
    held(1).await;
    tab.goto(&format!("{page}/settings")).await;
    tab.press_text("Delete…").await;
    tab.says("1 delivery waits for it. What waits is cancelled.")
        .await;
    tab.fill("#delete #del-in", "Till").await;
    tab.press("#delete .risk").await;
    tab.says("Warehouse").await;
    shop.world.settles().await;
    assert_eq!(receiver.arrivals().len(), 2);
    cancelled(2).await;
    shop.close().await;
}

#[tokio::test]
async fn rotating_and_revoking_a_secret_do_what_they_say_to_receivers() {
    let shop = Shop::open().await;
    let receiver = shop.world.receiver(answering(200)).await;
    let more = json!({"description": "Till", "events": ["till.*"]});
    let webhook = shop.world.webhook(&shop.ingest, &receiver, more).await;
    let tab = shop.operator().await;
    let page = format!("/console/{TENANT}/webhooks/{}/secret", webhook.id);
    tab.goto(&page).await;
    tab.press_text("Rotate the secret").await;
    tab.says("Rotate the secret of “Till”?").await;
    tab.says("Both secrets sign for 1 day.").await;
    tab.press("main .risk").await;
    tab.says("It is shown once.").await;
    tab.says("every delivery is signed with both").await;
    let new = tab.text_of("main .code pre").await;
    assert!(new.starts_with("whsec_") && new != webhook.secret, "{new}");
    shop.world
        .publish("till.closed", "till-1", &json!({}))
        .await;
    let both = receiver.receives(1).await.remove(0);
    assert_eq!(
        (both.verify(&webhook.secret), both.verify(&new)),
        (Ok(()), Ok(()))
    );
    // A reload shows the mask.
    tab.goto(&page).await;
    assert!(!tab.html().await.contains(&new));
    tab.press_text("Revoke the old one").await;
    tab.says("Revoke the old secret of “Till”?").await;
    tab.press("main form[action$='/revoke'] .risk").await;
    tab.says("Only the current secret signs.").await;
    shop.world
        .publish("till.closed", "till-2", &json!({}))
        .await;
    let one = receiver.receives(2).await.remove(1);
    assert!(one.verify(&webhook.secret).is_err() && one.verify(&new).is_ok());
    shop.world.settles().await;
    shop.close().await;
}
