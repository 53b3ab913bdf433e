use proptest::prelude::*;
use time::macros::datetime;

use super::*;

fn job() -> Job {
    let event_uid = EventUid::at(datetime!(2026-11-22 10:00 UTC));
    Job {
        delivery: DeliveryId::for_event(event_uid),
        webhook: WebhookId::generate(),
        tenant: "acme".parse().unwrap(),
        event_uid,
        event_id: event_uid.into(),
        event_type: "order.created".parse().unwrap(),
        occurred_at: datetime!(2026-11-22 09:59:59.123456 UTC),
        attempt: 3,
        due_at: datetime!(2026-11-22 10:05 UTC),
        recheck: true,
        payload: Payload::from_data(
            r#"{"price":25.00}"#,
            Some(&serde_json::json!({"source": "/shop", "tier": 3})),
        ),
        restart: None,
        late: None,
        trace: None,
    }
}

#[test]
fn a_job_survives_its_bytes() {
    let until = Late::Until(datetime!(2026-11-22 10:06:00.123456 UTC));
    for late in [None, Some(Late::Behind), Some(until)] {
        let job = Job { late, ..job() };
        assert_eq!(Job::decode(&job.encode()).unwrap(), job);
    }
}

#[test]
fn an_events_first_tries_are_written_like_any_job() {
    let mut job = job();
    let tries = FirstTries::like(&job);
    for _ in 0..3 {
        job.delivery = DeliveryId::for_event(job.event_uid);
        job.webhook = WebhookId::generate();
        assert_eq!(tries.encode(job.delivery, job.webhook), job.encode());
    }
}

#[test]
fn a_reader_from_before_there_were_late_copies_reads_one_as_the_job_that_it_copies() {
    let original = job();
    let copy = Job {
        late: Some(Late::Behind),
        ..original.clone()
    };
    // An older version reads all fields that it knows.
    let read: Job = rmp_serde::from_slice(&copy.encode()[1..]).unwrap();
    assert_eq!(read, original);
}

#[test]
fn a_late_copy_waits_for_its_own_moment_and_keeps_its_ticket() {
    let at = job().due_at + Duration::minutes(1);
    let copy = Job {
        late: Some(Late::Until(at)),
        ..job()
    };
    assert_eq!((copy.when(), copy.due_at), (at, job().due_at));
    // A copy of a job that isn't due yet is never sent before that job's time.
    let at = job().due_at - Duration::minutes(1);
    let copy = Job {
        late: Some(Late::Until(at)),
        ..job()
    };
    assert_eq!(copy.when(), job().due_at);
}

#[test]
fn a_delivery_that_begins_again_counts_from_there() {
    let at = datetime!(2026-12-24 10:00 UTC);
    let again = Job {
        attempt: 12,
        restart: Some(Restart {
            attempts_before: 10,
            at,
        }),
        ..job()
    };
    let again = Job::decode(&again.encode()).unwrap();
    assert_eq!((again.attempt_since_began(), again.began_at()), (2, at));
    assert_eq!(job().attempt_since_began(), 3);
    assert_eq!(job().began_at(), datetime!(2026-11-22 10:00 UTC));
}

#[test]
fn a_first_try_waits_for_no_clock() {
    let mut first = Job {
        attempt: 1,
        ..job()
    };
    first.due_at = first.delivery.accepted_at();
    let slow_clock = first.due_at - Duration::minutes(3);
    assert_eq!(first.wait(slow_clock), Duration::ZERO);
    let deferred = Job {
        due_at: first.due_at + Duration::seconds(1),
        ..first.clone()
    };
    assert!(deferred.wait(slow_clock) > Duration::minutes(3));
    let retry = Job {
        attempt: 2,
        ..first
    };
    assert_eq!(retry.wait(slow_clock), Duration::minutes(3));
}

#[test]
fn a_job_of_another_version_is_refused_by_number() {
    let mut bytes = job().encode();
    bytes[0] = 9;
    assert!(
        Job::decode(&bytes)
            .unwrap_err()
            .to_string()
            .contains("version 9")
    );
}

#[test]
fn a_large_payload_stays_in_postgres() {
    assert_eq!(
        Payload::from_data(&"x".repeat(MAX_INLINE + 1), None),
        Payload::Stored
    );
    let attributes = serde_json::json!({"subject": "x".repeat(MAX_INLINE)});
    assert_eq!(Payload::from_data("{}", Some(&attributes)), Payload::Stored);
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Job::decode(&bytes);
        let _ = Job::decode(&[&[VERSION], bytes.as_slice()].concat());
    }

    #[test]
    fn no_damaged_job_panics(
        at in any::<prop::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 1..9),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut damaged = job().encode();
        let at = at.index(damaged.len());
        damaged.splice(at..(at + bytes.len()).min(damaged.len()), bytes);
        let _ = Job::decode(&damaged[..cut.index(damaged.len())]);
        if let Ok(job) = Job::decode(&damaged) {
            // Whatever the job contains, these functions return and it can be
            // queued.
            let now = datetime!(2026-11-22 10:00 UTC);
            let _ = (job.attempt_since_began(), job.began_at());
            let _ = crate::publish::Outgoing::job(&job, now, 3);
        }
    }
}
