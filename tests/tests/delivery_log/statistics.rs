//! Statistics of a webhook and of a tenant.

use std::sync::Arc;
use std::time::Duration;

use harness::receiver::{Reply, Script, answering};
use harness::world::{Webhook, World};
use serde_json::{Value, json};

use crate::asking::get;

#[tokio::test]
async fn statistics_count_what_happened() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    // Every second event fails at the first attempt; `order.broken` always fails.
    let script: Script = Arc::new(|_, arrival| {
        let body = arrival.json();
        if body["type"] == "order.broken" {
            return Reply::status(500);
        }
        Reply::status(200).after(Duration::from_millis(20))
    });
    let shop = world.receiver(script).await;
    let policy = json!({"retry_policy": {"delays": [100]}});
    let webhook = world.webhook(&ingest, &shop, policy.clone()).await;
    let unused = world
        .webhook(&ingest, &shop, json!({"events": ["no.such"]}))
        .await;
    for n in 0..3 {
        world
            .publish("order.paid", &format!("evt-{n}"), &json!({}))
            .await;
    }
    world.publish("order.broken", "evt-b", &json!({})).await;
    shop.receives(5).await;
    world.settles().await;

    for window in ["", "?window=1h", "?window=7d", "?window=30d"] {
        let path = format!("/api/v1/webhooks/{}/stats{window}", webhook.id);
        let stats = get(&world, &ingest, &path).await;
        assert_eq!(stats["total_deliveries"], 4, "{stats}");
        assert_eq!(stats["successful_deliveries"], 3);
        assert_eq!(stats["failed_deliveries"], 1);
        assert_eq!(stats["success_rate"], 0.75);
        assert_eq!(stats["first_try_success_rate"], 0.75);
        assert_eq!(
            (&stats["attempts"], &stats["retries"], &stats["retry_rate"]),
            (&json!(5), &json!(1), &json!(0.2))
        );
        assert_eq!(stats["failures_by_class"], json!({"server_error": 2}));
        let p99 = stats["p99_response_time_ms"].as_f64().unwrap();
        assert!((18.0..500.0).contains(&p99), "{p99}");
        assert!(stats["last_delivery_at"].is_string() && stats["last_failure_at"].is_string());
        let series = stats["series"].as_array().unwrap();
        let charted: i64 = series
            .iter()
            .map(|step| step["attempts"].as_i64().unwrap())
            .sum();
        assert_eq!(charted, 5);
        let of = |outcome: &str| -> i64 {
            let counts = series
                .iter()
                .map(|step| &step["attempts_by_outcome"][outcome]);
            counts.filter_map(Value::as_i64).sum()
        };
        assert_eq!((of("success"), of("server_error")), (3, 2));
        // Nothing happened before. Statistics are kept for thirty days, so a month has no past.
        match window {
            "?window=30d" => assert_eq!(stats["previous"], Value::Null),
            _ => assert_eq!(stats["previous"]["attempts"], 0, "{stats}"),
        }
        assert!((5..=49).contains(&series.len()), "{}", series.len());
    }
    let nothing = get(
        &world,
        &ingest,
        &format!("/api/v1/webhooks/{}/stats", unused.id),
    )
    .await;
    assert_eq!(
        (
            &nothing["attempts"],
            &nothing["success_rate"],
            &nothing["last_delivery_at"]
        ),
        (&json!(0), &Value::Null, &Value::Null)
    );
    assert_eq!(get(&world, &ingest, "/api/v1/stats").await["attempts"], 5);
    let unknown = world
        .ask(
            &ingest,
            "GET",
            "/api/v1/webhooks/wh_01h455vb4pex5vsknk084sn02q/stats",
            None,
        )
        .await;
    assert_eq!(unknown.status, 404);
    assert_eq!(
        world
            .ask(&ingest, "GET", "/api/v1/stats?window=2h", None)
            .await
            .status,
        400
    );
    world.finish().await;
}

#[tokio::test]
async fn the_statistics_of_two_dispatchers_add_up() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let _both = (world.dispatcher().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhooks: Vec<Webhook> = vec![
        world.webhook(&ingest, &shop, json!({})).await,
        world.webhook(&ingest, &shop, json!({})).await,
    ];
    for n in 0..100 {
        world
            .publish("order.paid", &format!("evt-{n}"), &json!({}))
            .await;
    }
    shop.receives(200).await;
    world.settles().await;
    for webhook in &webhooks {
        let path = format!("/api/v1/webhooks/{}/stats", webhook.id);
        assert_eq!(
            get(&world, &ingest, &path).await["successful_deliveries"],
            100
        );
    }
    assert_eq!(get(&world, &ingest, "/api/v1/stats").await["attempts"], 200);
    world.finish().await;
}
