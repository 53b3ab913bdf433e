//! The states of deliveries under random histories, on the statements that write
//! them: settle, defer, hold, release, restart and sweep, as the services call them.
//!
//! There is no broker. A set of jobs stands for its queues; the test loses, repeats and
//! reorders jobs in it. A crash is a call that is dropped at a random await: its
//! transaction is committed or isn't, and its jobs are delivered again. After every step
//! the test reads the rows and compares them with the rows before the step
//! ([`checks`]). At the end every endpoint accepts everything, and no delivery may
//! be left open.
//!
//! `POSTHORN_SEED` repeats a history, except for the await at which a crash happens. A
//! failure names its seed.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod acting;
mod checks;
mod machine;
mod settling;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::world::World;
use machine::{DELIVERIES, Machine};
use shared::job::{Job, Late};

/// Histories per test.
const HISTORIES: u64 = 3;

#[tokio::test]
async fn no_history_of_a_delivery_breaks_its_states_or_leaves_it_open() {
    let world = World::start().await;
    let seeds: Vec<u64> = match std::env::var("POSTHORN_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        // The same histories in every run, and a new one.
        Err(_) => (1..HISTORIES).chain([fastrand::u64(..)]).collect(),
    };
    for seed in seeds {
        eprintln!("POSTHORN_SEED={seed}");
        Machine::new(&world, seed).await.live().await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_late_copy_that_is_sent_is_the_only_job_of_its_delivery() {
    let world = World::start().await;
    let mut machine = Machine::new(&world, 1).await;
    // The sweeper has published a job of each delivery. An outage follows that is longer
    // than the sweeper's grace. After it, two late copies of a job wait until different times.
    machine.time_passes().await;
    let mut original = machine.bag[0].clone();
    original.due_at = machine.rows[&original.delivery].due_at.unwrap();
    let copy = |ago: u64| Job {
        late: Some(Late::Until(shared::clock::now() - Duration::from_secs(ago))),
        ..original.clone()
    };
    let (mut sent, mut other) = (copy(2), copy(1));
    // RabbitMQ may deliver the message again while the copy is being sent.
    let mut message = Job::decode(&sent.encode()).unwrap();
    let tickets = machine.tickets.clone();

    assert!(tickets.claim(&mut sent).await.unwrap());
    assert!(!tickets.claim(&mut other).await.unwrap());
    assert!(!tickets.claim(&mut original).await.unwrap());
    assert!(tickets.claim(&mut message).await.unwrap());
    assert_eq!(sent, message);
    machine.bag.clear();
    machine.sweep().await;
    let swept: BTreeSet<_> = machine.bag.iter().map(|job| job.delivery).collect();
    assert_eq!(swept.len(), DELIVERIES - 1, "{}", machine.history());
    assert!(!swept.contains(&sent.delivery), "{}", machine.history());
    // What follows if its dispatcher dies and RabbitMQ loses the message as well.
    machine.time_passes().await;
    machine.sweep().await;
    let swept = machine
        .bag
        .iter()
        .filter(|job| job.delivery == sent.delivery);
    assert_eq!(swept.count(), 1, "{}", machine.history());
    machine.close().await;
    world.finish().await;
}
