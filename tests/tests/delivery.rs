//! An event published over AMQP or HTTP reaches the webhooks that want it,
//! signed, once, and every attempt is on record.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use harness::producer::Publication;
use harness::receiver::{answering, unix_now};
use harness::world::{TENANT, World};
use serde_json::json;

#[tokio::test]
async fn a_thousand_events_reach_exactly_the_webhooks_that_want_them() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let (_a, _b) = (world.dispatcher().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let everything = world
        .webhook(&ingest, &shop, json!({"events": ["*"]}))
        .await;
    let orders = world
        .webhook(
            &ingest,
            &shop,
            json!({"events": ["order.*", "item-checkout"]}),
        )
        .await;
    let large = json!({"events": ["order.created"], "filters": {"total": {"$gte": 500}}});
    let large = world.webhook(&ingest, &shop, large).await;

    let types = [
        "order.created",
        "order.updated",
        "item-checkout",
        "item-checkin",
        "user-login",
    ];
    let events: Vec<_> = (0..1000)
        .map(|n| {
            let data = format!(r#"{{"n":{n},"total":{n}.00,"big":12345678901234567890}}"#);
            (types[n % types.len()], n, format!("evt-{n}"), data)
        })
        .collect();
    let publications: Vec<_> = events
        .iter()
        .map(|(kind, _, id, data)| Publication::json(TENANT, kind, id, data))
        .collect();
    world.publish_all(&publications).await;

    world.accepts(1000).await;
    world.settles().await;

    let wanted = |webhook: &str, kind: &str, n: usize| match webhook {
        "everything" => true,
        "orders" => kind.starts_with("order.") || kind == "item-checkout",
        _ => kind == "order.created" && n >= 500,
    };
    for (name, webhook) in [
        ("everything", &everything),
        ("orders", &orders),
        ("large", &large),
    ] {
        let expected: BTreeSet<String> = events
            .iter()
            .filter(|(kind, n, ..)| wanted(name, kind, *n))
            .map(|(.., id, _)| id.clone())
            .collect();
        let rows = format!("deliveries WHERE webhook_id = '{}'", uuid_of(&webhook.id));
        assert_eq!(world.count(&rows).await, expected.len() as i64, "{name}");
        let arrivals: Vec<_> = shop
            .arrivals()
            .into_iter()
            .filter(|arrival| arrival.path == webhook.path)
            .collect();
        let arrived: BTreeSet<String> = arrivals
            .iter()
            .map(|arrival| arrival.id().to_owned())
            .collect();
        assert_eq!(arrived, expected, "{name}");
        assert_eq!(
            arrivals.len(),
            expected.len(),
            "{name}: something arrived twice"
        );
        for arrival in &arrivals {
            arrival.verify(&webhook.secret).unwrap();
            let data = &events
                .iter()
                .find(|(.., id, _)| id == arrival.id())
                .unwrap()
                .3;
            let body = String::from_utf8(arrival.body.to_vec()).unwrap();
            assert!(body.ends_with(&format!(r#","data":{data}}}"#)), "{body}");
        }
    }
    let delivered = "deliveries d WHERE state = 'delivered' AND attempts = 1 AND status_code = 200 \
                     AND 1 = (SELECT count(*) FROM attempts a WHERE a.delivery_id = d.id AND a.outcome = 'success')";
    assert_eq!(
        world.count(delivered).await,
        world.count("deliveries").await
    );
    assert_eq!(
        ingest
            .metric("posthorn_events_received_total")
            .await
            .unwrap() as i64,
        1000
    );
    world.finish().await;
}

#[tokio::test]
async fn an_event_published_over_http_is_confirmed_and_arrives() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"headers": {"X-Shop": "seven"}}))
        .await;

    let event = json!({
        "type": "order.created", "id": "evt-http-1", "occurred_at": "2026-11-22T10:00:00+01:00",
        "data": {"price": 25.5}
    });
    let answer = world
        .ask(&ingest, "POST", "/api/v1/events", Some(event))
        .await;
    assert_eq!(
        (answer.status, &answer.body["id"]),
        (202, &json!("evt-http-1"))
    );

    let arrival = &shop.receives(1).await[0];
    arrival.verify(&webhook.secret).unwrap();
    assert_eq!(arrival.id(), "evt-http-1");
    assert_eq!(arrival.header("content-type"), "application/json");
    assert_eq!(arrival.header("x-shop"), "seven");
    assert!(arrival.header("user-agent").starts_with("Posthorn/"));
    assert!(unix_now().abs_diff(arrival.header("webhook-timestamp").parse().unwrap()) < 30);
    assert_eq!(
        arrival.json(),
        json!({"type": "order.created", "timestamp": "2026-11-22T09:00:00Z", "data": {"price": 25.5}})
    );
    world.finish().await;
}

/// The UUID behind a TypeID, for a query.
fn uuid_of(id: &str) -> String {
    id.parse::<shared::ids::WebhookId>()
        .unwrap()
        .uuid()
        .to_string()
}
