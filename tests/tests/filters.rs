//! Filters decide which events a webhook gets, in every syntax that its users know.

#![allow(clippy::unwrap_used)]

use harness::receiver::answering;
use harness::world::World;
use serde_json::{Value, json};

#[tokio::test]
async fn filters_in_every_systems_syntax_select_the_right_events() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    // The event's number is what is expected to arrive.
    let events: Vec<Value> = vec![
        json!({"n": 0, "restaurant_id": 1}),
        json!({"n": 1, "restaurant_id": 2, "total": 99.5}),
        json!({"n": 2, "location_id": "loc-123", "category_id": "cat-456", "quantity": 5}),
        json!({"n": 3, "location": "loc-123", "category": "cat-456", "stock": 6}),
        json!({"n": 4, "locationId": "loc-9", "categoryId": "cat-456", "current_quantity": 0}),
        json!({"n": 5, "items": [{"sku": "a-1", "qty": 1}, {"sku": "b-2", "qty": 20}]}),
        json!({"n": 6}),
    ];
    let short =
        json!({"locations": ["loc-123"], "categories": ["cat-456"], "minStockThreshold": 5});
    let table = [
        (json!({"restaurant_id": 1}), vec![0]),
        (short, vec![2]),
        (json!({"locations": ["loc-123", "loc-9"]}), vec![2, 3, 4]),
        (json!({"minStockThreshold": 5}), vec![2, 4]),
        (json!({"total": {"$gt": 99, "$lte": 99.5}}), vec![1]),
        (json!({"restaurant_id": {"$in": [1, 2]}}), vec![0, 1]),
        (json!({"restaurant_id": {"$ne": 1}}), vec![1]),
        (json!({"items.sku": {"$startsWith": "b-"}}), vec![5]),
        (
            json!({"items": {"$exists": false}, "n": {"$gte": 5}}),
            vec![6],
        ),
        (
            json!({"$or": [{"restaurant_id": 2}, {"items.qty": {"$gte": 20}}]}),
            vec![1, 5],
        ),
        (
            json!({"$not": {"restaurant_id": {"$exists": true}}, "n": {"$lt": 3}}),
            vec![2],
        ),
    ];
    let mut webhooks = Vec::new();
    for (filter, expected) in table {
        let form = json!({"filters": filter});
        let webhook = world.webhook(&ingest, &shop, form.clone()).await;
        webhooks.push((webhook, form, expected));
    }
    for (n, data) in events.iter().enumerate() {
        world
            .publish("order.created", &format!("evt-{n}"), data)
            .await;
    }
    world.accepts(events.len() as i64).await;
    world.settles().await;
    let arrivals = shop.arrivals();
    for (webhook, form, expected) in webhooks {
        let mut arrived: Vec<_> = arrivals
            .iter()
            .filter(|arrival| arrival.path == webhook.path)
            .map(|arrival| arrival.json()["data"]["n"].as_u64().unwrap())
            .collect();
        arrived.sort_unstable();
        assert_eq!(arrived, expected, "{form}");
    }
    world.finish().await;
}
