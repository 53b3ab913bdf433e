use tokio::sync::oneshot;

use super::*;
use crate::decode::Event;
use crate::http_event::{Answer, Owner};
use crate::look_ahead::LookAhead;
use crate::turns::PILED_UP;

/// Takes nothing back.
struct Nobody;

impl Owner for Nobody {
    fn left(&self, _: &Tenant, _: usize) {}

    fn given_up(self: Arc<Self>, _: Arc<Event>, _: bool, _: oneshot::Sender<Answer>) {}
}

fn waiting(tenant: &Tenant) -> Arc<Waiting> {
    let event = Event {
        tenant: tenant.clone(),
        event_type: "order.created".parse().unwrap(),
        id: None,
        occurred_at: None,
        data: "{}".to_owned(),
        attributes: None,
        over_http: true,
        trace: None,
        presumed: None,
    };
    Waiting::new(Arc::new(event), Arc::new(Nobody), 0).0
}

fn push(batches: &mut Batches, tenant: &str, events: u64) {
    let tenant: Tenant = tenant.parse().unwrap();
    for _ in 0..events {
        let held = Held {
            message: Waits::Http(waiting(&tenant)),
            bytes: 0,
        };
        let owner = Some(tenant.clone());
        batches.turns.push(&owner, held, 1, Class::Free);
    }
}

/// Of whom a batch's events are, each tenant once.
fn whose(batch: Option<Batch>) -> Vec<String> {
    let events = batch.into_iter().flat_map(|batch| batch.events);
    let mut tenants: Vec<_> = events
        .map(|event| event.tenant.unwrap().to_string())
        .collect();
    tenants.dedup();
    tenants
}

#[test]
fn while_other_tenants_have_events_a_lane_is_kept_for_them() {
    let (mut batches, mut sources) = <(Batches, Sources)>::default();
    batches.gate.room = i64::MAX / 2;
    push(&mut batches, "loud", 4 * PILED_UP);
    push(&mut batches, "quiet", 1);
    assert_eq!(whose(batches.next(&mut sources)), ["quiet"]);
    assert_eq!(whose(batches.next(&mut sources)), ["loud"]);
    assert!(
        batches.next(&mut sources).is_none(),
        "the other lane is kept"
    );
    push(&mut batches, "quiet", 1);
    assert_eq!(whose(batches.next(&mut sources)), ["quiet"]);
    batches.free_at = None;
    assert_eq!(whose(batches.next(&mut sources)), ["loud"]);
}

#[test]
fn a_tenant_with_many_events_gets_every_fourth_batch_beside_others() {
    let (mut batches, mut sources) = <(Batches, Sources)>::default();
    batches.gate.room = i64::MAX / 2;
    push(&mut batches, "loud", 4 * PILED_UP);
    let turns: Vec<_> = (0..8)
        .flat_map(|_| {
            push(&mut batches, "quiet", 1);
            let turn = whose(batches.next(&mut sources));
            // The lane is through with it at once.
            batches.gate.batches = 0;
            turn
        })
        .collect();
    let [q, l] = ["quiet", "loud"];
    assert_eq!(turns, [q, q, q, l, q, q, q, l]);
}

#[test]
fn while_rabbitmq_is_congested_a_restrained_tenant_waits_if_others_have_events() {
    let (mut batches, mut sources) = <(Batches, Sources)>::default();
    batches.gate.room = i64::MAX / 2;
    push(&mut batches, "loud", 4 * PILED_UP);
    push(&mut batches, "quiet", 1);
    for confirm in [1, 500] {
        let (_, reserved) = batches.next(&mut sources).unwrap().open();
        let took = Duration::from_millis(confirm);
        batches.is_through(reserved, 1, Some(Confirm { messages: 1, took }));
    }
    assert!(batches.next(&mut sources).is_none(), "loud waits");
    assert!(batches.pause_ends().is_some_and(|end| end > Instant::now()));
    push(&mut batches, "quiet", 1);
    assert_eq!(whose(batches.next(&mut sources)), ["quiet"]);
    // No other tenant has had an event for a while.
    batches.free_at = None;
    assert_eq!(whose(batches.next(&mut sources)), ["loud"]);
}

#[tokio::test]
async fn events_that_a_lane_left_over_go_to_another_lane_before_the_first_is_through() {
    let (ahead, acme) = (LookAhead::default(), "acme".parse().unwrap());
    let _session = ahead.open();
    for _ in 0..3 {
        assert!(ahead.push_http(&acme, waiting(&acme), 0));
    }
    let (mut events, _not_through) = ahead.next_batch().await.open();
    let left = events.split_off(1);
    ahead.begun(events.iter().map(|one| (&one.tenant, 1)), left);
    let (left, _) = ahead.next_batch().await.open();
    assert_eq!((events.len(), left.len()), (1, 2));
}

#[tokio::test]
async fn a_tenant_whose_events_make_many_jobs_leaves_a_lane_to_others() {
    let (ahead, [loud, quiet]) = (LookAhead::default(), ["loud", "quiet"]);
    let (loud, quiet) = (loud.parse().unwrap(), quiet.parse().unwrap());
    let _session = ahead.open();
    for _ in 0..3 {
        assert!(ahead.push_http(&loud, waiting(&loud), 0));
    }
    // It has less waiting than sets a tenant aside, and each of its events has 500 webhooks.
    let (mut events, _not_through) = ahead.next_batch().await.open();
    let left = events.split_off(1);
    ahead.begun(events.iter().map(|one| (&one.tenant, 500)), left);
    assert!(ahead.push_http(&quiet, waiting(&quiet), 0));
    let (next, _) = ahead.next_batch().await.open();
    assert_eq!(next[0].tenant.as_ref(), Some(&quiet));
}
