//! What requests of one tenant may hold of memory, processors and places at a time, and how much
//! memory connections to RabbitMQ take.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{World, eventually};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The most memory that a process has had so far, in MiB.
fn peak(service: &Service) -> u64 {
    status(service, "VmHWM:")
}

/// The memory of a process that isn't a file's, in MiB.
fn own_memory(service: &Service) -> u64 {
    status(service, "RssAnon:")
}

/// A line of a process's status, in MiB.
fn status(service: &Service, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn connections_to_rabbitmq_without_messages_take_no_memory_for_them() {
    /// Two in each session: to publish and to consume. Ingest has sessions for events, dead letters
    /// and publishing, and a dispatcher has one.
    const CONNECTIONS: [u64; 2] = [6, 2];
    /// What the client keeps for a connection: 32 frames to send and 32 to receive. They have
    /// 128 KiB each, unless the process asks for less.
    const BUFFERS: u64 = 2 * 32 * 128 / 1024;
    let world = World::start().await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    for (service, connections) in [ingest, dispatcher].iter().zip(CONNECTIONS) {
        let taken = own_memory(service);
        assert!(taken < connections * BUFFERS, "{taken} MiB");
    }
    world.finish().await;
}

/// Sends a body of any content type to the API, and answers the status and what was said.
async fn post(world: &World, ingest: &Service, path: &str, kind: &str, body: &str) -> (u16, Value) {
    let asked = http().post(ingest.url(path)).bearer_auth(world.token());
    let asked = asked.header("content-type", kind).body(body.to_owned());
    let answer = asked.send().await.unwrap();
    let status = answer.status().as_u16();
    let said = answer.text().await.unwrap();
    (status, serde_json::from_str(&said).unwrap())
}

#[tokio::test]
async fn a_request_of_eight_mebibytes_takes_no_hundred_mebibytes_of_memory() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let zeros = |n: usize| vec!["0"; n].join(",");
    let (many, events) = (zeros(4_000_000), "/api/v1/events");
    let batch = format!("{events}/batch");
    let (json, cloud) = ("application/json", "application/cloudevents-batch+json");
    let bodies = [
        // Refused, and not read again.
        (
            &*batch,
            json,
            format!("{{\"events\":{{\"a\":[{many}]}}}}"),
            400,
        ),
        // Four million entries.
        (&*batch, json, format!("{{\"events\":[{many}]}}"), 422),
        (events, cloud, format!("[{many}]"), 422),
        // One entry with all of it.
        (
            events,
            cloud,
            format!(
                "[{{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"a\",\"data\":[{many}]}}]"
            ),
            202,
        ),
    ];
    let before = peak(&ingest);
    for (path, kind, body, status) in bodies {
        let (answered, said) = post(&world, &ingest, path, kind, &body).await;
        assert_eq!(answered, status, "{said}");
        if status == 202 {
            assert_eq!(said["results"][0]["code"], "too_large", "{said}");
        }
    }
    // The body, a copy of what is kept of it, and what the allocator keeps.
    let grown = peak(&ingest) - before;
    assert!(grown < 100, "{grown} MiB");
    world.finish().await;
}

#[tokio::test]
async fn refused_events_of_a_batch_are_read_again_for_a_bounded_number_of_bytes() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let zeros = vec!["0"; 30_000].join(",");
    let unknown: Vec<_> = (1..=16).map(|n| format!("\"u{n:02}\":0")).collect();
    let event = format!(
        "{{\"type\":\"a\",\"data\":[{zeros}],{}}}",
        unknown.join(",")
    );
    let body = format!("{{\"events\":[{}]}}", vec![event; 128].join(","));
    let path = "/api/v1/events/batch";
    let (status, said) = post(&world, &ingest, path, "application/json", &body).await;
    assert_eq!(status, 202, "{said}");
    let results = said["results"].as_array().unwrap();
    let errors: Vec<usize> = results
        .iter()
        .map(|result| result["errors"].as_array().unwrap().len())
        .collect();
    assert_eq!(errors.len(), 128);
    assert!(errors.iter().all(|told| *told >= 1), "{errors:?}");
    // Each further error costs 60 KB of reading, and a request has 512 KiB of it.
    assert!(errors.iter().sum::<usize>() <= 128 + 9, "{errors:?}");
    world.finish().await;
}

#[tokio::test]
async fn bodies_under_way_are_bounded_in_bytes_per_tenant() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let globex = world.another_tenant(&ingest, "globex").await;
    let path = "/api/v1/events/batch";
    let size = 8 * 1024 * 1024;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: {size}\r\n\r\n",
        world.token()
    );
    // All but the last byte: 32 MiB together, nearly.
    let mut slow = Vec::new();
    for _ in 0..4 {
        let address = ingest.url("").replace("http://", "");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; size - 1]).await.unwrap();
        slow.push(stream);
    }
    // An event that came earlier could take the room of the last chunk.
    let held = "posthorn_http_request_body_bytes";
    eventually("all that was sent is read", async || {
        ingest.metric(held).await.unwrap() as usize == 4 * (size - 1)
    })
    .await;
    let event = || Some(json!({"type": "order.paid", "data": {}}));
    let refused = world.ask(&ingest, "POST", "/api/v1/events", event()).await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.body["code"], "too_many_at_once");
    let others = world.ask_as(&globex, &ingest, "POST", "/api/v1/events", event());
    assert_eq!(others.await.status, 202);
    // A connection that ends gives its bytes back.
    drop(slow);
    eventually("the tenant's events are taken again", async || {
        let taken = world.ask(&ingest, "POST", "/api/v1/events", event()).await;
        taken.status == 202
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_request_beyond_the_tenants_waiting_ones_is_refused_at_once() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let globex = world.another_tenant(&ingest, "globex").await;
    let mut sql = world.sql().await;
    let lock = sql.transaction().await.unwrap();
    let taken = "LOCK TABLE replays IN ACCESS EXCLUSIVE MODE";
    lock.batch_execute(taken).await.unwrap();
    let path = format!("/api/v1/webhooks/{}/replays", webhook.id);
    // Three are under way, 64 wait, and there is no place for the other 33.
    let crowded = AtomicUsize::new(0);
    let reads = (0..100).map(|_| async {
        let answer = world.ask(&ingest, "GET", &path, None).await;
        let said = answer.body["detail"].as_str().unwrap_or_default();
        if said.contains("64 requests of this tenant") {
            assert_eq!(answer.status, 429);
            crowded.fetch_add(1, Ordering::SeqCst);
        }
        answer.status
    });
    let meanwhile = async {
        eventually("33 requests are refused", async || {
            crowded.load(Ordering::SeqCst) == 33
        })
        .await;
        let path = "/api/v1/webhooks";
        let other = world.ask_as(&globex, &ingest, "GET", path, None).await;
        assert_eq!(other.status, 200, "{}", other.body);
        lock.commit().await.unwrap();
    };
    let (reads, ()) = tokio::join!(join_all(reads), meanwhile);
    assert!(reads.iter().filter(|status| **status == 200).count() <= 3 + 64);
    world.finish().await;
}
