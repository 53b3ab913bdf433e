//! What the tests of the log share: an endpoint that answers by event type, and how the API is asked.

use std::sync::Arc;

use harness::receiver::{Reply, Script};
use harness::service::Service;
use harness::world::World;
use serde_json::Value;

/// Answers 500 to `order.broken`, 201 to `order.odd`, and 200 to all others.
pub(crate) fn by_type() -> Script {
    Arc::new(
        |_, arrival| match arrival.json()["type"].as_str().unwrap() {
            "order.broken" => Reply::status(500),
            "order.odd" => Reply::status(201),
            _ => Reply::status(200),
        },
    )
}

pub(crate) async fn get(world: &World, ingest: &Service, path: &str) -> Value {
    let answer = world.ask(ingest, "GET", path, None).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}
