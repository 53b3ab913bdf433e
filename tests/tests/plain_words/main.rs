//! No problem is told in a library's words: they name types of Rust and functions of C, not what a
//! client can do. Requests that are wrong in many ways go to every operation of the API's description.

#![allow(clippy::unwrap_used)]

mod library;
mod operations;
mod other;
mod sent;
mod values;

use std::collections::BTreeMap;

use futures_util::StreamExt;
use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use library::{sentences, words_of_a_library};
use operations::{Operation, operations};
use other::{JWT_SECRET, events, jwts};
use sent::Sent;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use values::bodies;

/// Sends all, a few at a time. Answers how many got each status.
async fn send(ingest: &Service, all: Vec<Sent>) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    let mut told = BTreeMap::new();
    let answers = futures_util::stream::iter(all).map(|sent| sent.ask(ingest));
    let mut answers = answers.buffer_unordered(8);
    while let Some((status, found)) = answers.next().await {
        *statuses.entry(status).or_default() += 1;
        told.extend(found);
    }
    let lines = told.iter().map(|(told, of)| format!("{told}: {of}"));
    let lines: Vec<_> = lines.take(60).collect();
    assert!(
        lines.is_empty(),
        "{} in all:\n{}",
        told.len(),
        lines.join("\n")
    );
    statuses
}

/// A body that ends early.
async fn half_a_body(ingest: &Service) -> Value {
    let url = url::Url::parse(&ingest.url("/")).unwrap();
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\
         x-tenant-id: {TENANT}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    serde_json::from_str(body).unwrap_or_default()
}

#[tokio::test]
async fn no_problem_has_the_words_of_a_library() {
    let world = World::with(&[
        ("API_RATE_LIMIT", "0"),
        ("JWT_SECRET", JWT_SECRET),
        ("JWT_ISSUER", "us"),
        ("JWT_AUDIENCE", "it"),
        ("JWT_OWNER_CLAIM", "owner"),
        ("WEBHOOK_METRICS", "true"),
    ])
    .await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    let delivery = world.deliveries(&ingest, &webhook).await[0]["id"].clone();
    let replay = format!("/api/v1/webhooks/{}/replay", webhook.id);
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let replay = world.ask(&ingest, "POST", &replay, Some(since)).await.body;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let things = BTreeMap::from([
        ("WebhookId", webhook.id.clone()),
        ("DeliveryId", text(&delivery)),
        ("EventId", "evt-1".to_owned()),
        ("ReplayId", text(&replay["id"])),
        ("TenantId", TENANT.to_owned()),
        ("EventTypeName", "order.created".to_owned()),
    ]);
    let document = http()
        .get(ingest.url("/openapi.json"))
        .send()
        .await
        .unwrap();
    let document = serde_json::from_str(&document.text().await.unwrap()).unwrap();
    let operations = operations(&document, &things);

    let others = operations.iter().flat_map(Operation::requests);
    let statuses = send(&ingest, others.collect()).await;
    assert!(statuses[&401] > 500 && statuses[&404] > 300, "{statuses:?}");
    assert!(statuses[&400] > 100 && statuses[&422] > 200, "{statuses:?}");
    let bodies = operations.iter().flat_map(Operation::requests_with_bodies);
    let statuses = send(&ingest, bodies.collect()).await;
    assert!(
        statuses[&400] > 2_000 && statuses[&422] > 500,
        "{statuses:?}"
    );
    let statuses = send(&ingest, events()).await;
    assert!(statuses[&400] > 500 && statuses[&422] > 100, "{statuses:?}");
    let statuses = send(&ingest, jwts()).await;
    assert!(statuses[&401] > 30, "{statuses:?}");

    let half = half_a_body(&ingest).await;
    let why = half["detail"].as_str().unwrap();
    assert!(why.starts_with("the body is not whole"), "{half}");
    assert_eq!(words_of_a_library(why), None, "{why}");
    world.abandon().await;
}

#[tokio::test]
async fn no_reason_of_a_rejected_event_has_the_words_of_a_library() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let producer = world.producer().await;
    let mut sent = 0;
    for kind in [
        "application/json",
        "application/msgpack",
        "application/cloudevents+json",
        "text/plain",
    ] {
        for body in bodies() {
            let id = format!("evt-{sent}");
            let mut event = Publication::json(TENANT, "order.created", &id, "");
            event.properties = event.properties.with_content_type(kind.into());
            event.body = body;
            producer.publish(&event).await.unwrap();
            sent += 1;
        }
    }
    eventually("those that are wrong are parked", async || {
        world.count("dead_letters").await + world.count("events").await == sent
    })
    .await;
    let path = "/api/v1/dead-letters?limit=250";
    let letters = world.ask(&ingest, "GET", path, None).await.body;
    let mut said = Vec::new();
    sentences(&letters, &mut said);
    assert!(said.len() > 50, "{}", said.len());
    let found = said
        .iter()
        .filter(|reason| words_of_a_library(reason).is_some());
    assert_eq!(found.collect::<Vec<_>>(), Vec::<&String>::new());
    world.finish().await;
}
