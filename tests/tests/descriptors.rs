//! A dispatcher that has no free file descriptor.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use harness::receiver::answering;
use harness::service::Service;
use harness::world::{World, eventually};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

/// Sets the number that a new file descriptor of the service must be below.
fn limit_descriptors(service: &Service, limit: Option<u64>) {
    let pid = Pid::from_raw(service.pid() as i32);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limits = Rlimit {
        current: limit.or(maximum),
        maximum,
    };
    prlimit(pid, Resource::Nofile, limits).unwrap();
}

/// The number that the service's next file descriptor would have.
fn next_descriptor(service: &Service) -> u64 {
    let open: BTreeSet<u64> = fs::read_dir(format!("/proc/{}/fd", service.pid()))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

#[tokio::test]
async fn a_lack_of_file_descriptors_costs_no_endpoint_an_attempt() {
    let world = World::start().await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let known = world.receiver(answering(200)).await;
    let new = world.receiver(answering(200)).await;
    let events = |event_type: &str| json!({"events": [event_type]});
    world
        .webhook(&ingest, &known, events("order.created"))
        .await;
    world.webhook(&ingest, &new, events("item.sold")).await;
    // Afterwards the dispatcher's connections to PostgreSQL are open.
    for n in 0..20 {
        let id = format!("known-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    known.receives(20).await;
    world.settles().await;

    limit_descriptors(&dispatcher, Some(next_descriptor(&dispatcher)));
    for n in 0..5 {
        let id = format!("new-{n}");
        world.publish("item.sold", &id, &json!({})).await;
    }
    let deferred = "deliveries WHERE deferred_because = 'endpoint_full' AND attempts = 0";
    eventually("all of them are deferred", async || {
        world.count(deferred).await == 5
    })
    .await;
    assert_eq!(world.count("attempts").await, 20);

    limit_descriptors(&dispatcher, None);
    new.receives(5).await;
    world.settles().await;
    let successes = "attempts WHERE outcome = 'success' AND n = 1";
    assert_eq!(world.count(successes).await, 25);
    assert_eq!(world.count("attempts").await, 25);
    world.finish().await;
}
