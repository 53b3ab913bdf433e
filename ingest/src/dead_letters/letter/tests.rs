use proptest::prelude::*;
use shared::ids::{DeliveryId, EventUid, WebhookId};
use shared::job::bundle::Bundle;
use shared::job::{FirstTries, Payload};

use super::*;

fn message(exchange: &str, routing_key: &str, body: &[u8]) -> Delivery {
    Delivery::mock(1, exchange.into(), routing_key.into(), false, body.to_vec())
}

/// The job of a first attempt.
fn first_attempt() -> Job {
    let event_uid = EventUid::generate();
    let delivery = DeliveryId::for_event(event_uid);
    Job {
        delivery,
        webhook: WebhookId::generate(),
        tenant: "acme".parse().unwrap(),
        event_uid,
        event_id: event_uid.into(),
        event_type: "order.created".parse().unwrap(),
        occurred_at: OffsetDateTime::now_utc(),
        attempt: 1,
        due_at: delivery.accepted_at(),
        recheck: false,
        payload: Payload::from_data("{}", None),
        restart: None,
        late: None,
        trace: None,
    }
}

#[test]
fn what_was_refused_becomes_the_message_that_it_was() {
    let mut published = message("posthorn.events", "acme.order.created", b"{\"a\":25.00}");
    let mut headers = FieldTable::default();
    headers.insert("tier".into(), AMQPValue::LongString("gold".into()));
    published.properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("evt-1".into())
        .with_content_type("application/json".into())
        .with_correlation_id("c-1".into())
        .with_headers(headers);
    let dead = Outgoing::dead(&published, "because");
    let mut parked = message("posthorn.dead", "acme.order.created", &dead.body);
    parked.properties = dead.properties;

    let letter = Letter::from_message(&parked, Origin::Parking);
    assert_eq!(letter.reason, "because");
    assert_eq!(letter.tenant.as_ref().unwrap().as_str(), "acme");
    assert_eq!(letter.message_id.as_deref(), Some("evt-1"));
    let again = letter.again(OffsetDateTime::now_utc(), 1).unwrap();
    assert_eq!(again.exchange, "posthorn.events");
    assert_eq!(again.routing_key.as_str(), "acme.order.created");
    assert_eq!(again.body, published.data);
    assert_eq!(again.properties, published.properties);
}

#[test]
fn only_who_parked_it_can_say_that_a_message_is_unreadable() {
    let known = Unreadable {
        why: "`message_id` is not UTF-8".to_owned(),
        routing_key: b"acme.\xFF".to_vec(),
        properties: vec![0x00, 0x80, 1, 0xFF],
        size: 4,
    };
    let mut headers = FieldTable::default();
    headers.insert(UNREADABLE_HEADER.into(), known.to_value());
    let mut parked = message("posthorn.dead", "acme.?", b"{}");
    parked.properties = BasicProperties::default().with_headers(headers.clone());
    let letter = Letter::from_message(&parked, Origin::Parking);
    assert_eq!(letter.unreadable(), Some(known));
    assert!(letter.again(OffsetDateTime::now_utc(), 1).is_err());
    let repair = Repair::new(Some("acme.order.created"), None, None).unwrap();
    let repaired = letter.repaired(&repair);
    assert_eq!(repaired.routing_key.as_str(), "acme.order.created");
    assert_eq!(*repaired.properties.headers(), None);

    // A producer's, wherever else it comes from.
    assert_eq!(
        Letter::from_message(&parked, Origin::Unrouted).unreadable(),
        None
    );
    let deaths = vec![AMQPValue::FieldTable(FieldTable::default())];
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
    parked.properties = BasicProperties::default().with_headers(headers);
    assert_eq!(
        Letter::from_message(&parked, Origin::Parking).unreadable(),
        None
    );
    assert!(decode_and_park_strips_it(&parked));
}

fn decode_and_park_strips_it(message: &Delivery) -> bool {
    let dead = Outgoing::dead(message, "because");
    let headers = dead.properties.headers().clone().unwrap_or_default();
    Unreadable::carried_by(&headers).is_none()
}

#[test]
fn a_repair_names_what_is_wrong_with_it() {
    let long = "x".repeat(256);
    for (key, id, content_type, fields) in [
        (None, None, None, &["routing_key"][..]),
        (Some("acme"), None, None, &["routing_key"][..]),
        (Some("ACME.a"), None, None, &["routing_key"][..]),
        (Some("acme.a"), Some("\u{e9}"), None, &["message_id"][..]),
        (
            Some("acme"),
            Some("\u{e9}"),
            Some(long.as_str()),
            &["routing_key", "message_id", "content_type"][..],
        ),
    ] {
        let refused = Repair::new(key, id, content_type).unwrap_err();
        let blamed: Vec<_> = refused.0.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(blamed, fields);
    }
}

#[test]
fn what_the_broker_gave_up_says_where_it_was() {
    let mut death = FieldTable::default();
    for (name, value) in [
        ("reason", "delivery_limit"),
        ("queue", "posthorn.ingest.v1"),
    ] {
        death.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let mut headers = FieldTable::default();
    // What its producer made up.
    for (name, value) in [
        (EXCHANGE_HEADER, "posthorn.jobs"),
        (ROUTING_KEY_HEADER, "other.order.created"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let deaths = vec![AMQPValue::FieldTable(death)];
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
    let mut parked = message("posthorn.dead", "acme.order.created", b"{}");
    parked.properties = BasicProperties::default().with_headers(headers);
    let letter = Letter::from_message(&parked, Origin::Parking);
    assert_eq!(letter.reason, "whoever took it failed every time");
    let again = letter.again(OffsetDateTime::now_utc(), 1).unwrap();
    assert_eq!(again.exchange, "posthorn.events");
    assert_eq!(again.routing_key.as_str(), "acme.order.created");
    assert!(
        again
            .properties
            .headers()
            .as_ref()
            .unwrap()
            .inner()
            .is_empty()
    );
}

#[test]
fn a_job_is_rechecked_and_goes_to_the_shard_that_is_its_now() {
    let now = OffsetDateTime::now_utc();
    let job = first_attempt();
    let unrouted = message("posthorn.jobs", "0.77", &job.encode());
    let letter = Letter::from_message(&unrouted, Origin::Unrouted);
    assert_eq!(letter.tenant, None);
    let again = letter.again(now, 1).unwrap();
    assert_eq!(
        (again.exchange, again.routing_key.as_str()),
        ("posthorn.jobs", "0.0")
    );
    assert!(Job::decode(&again.body).unwrap().recheck);
}

#[test]
fn a_bundle_of_jobs_is_replayed_as_one_dead_letter_for_each_job_and_not_as_a_whole() {
    let now = OffsetDateTime::now_utc();
    let jobs = [first_attempt(), first_attempt(), first_attempt()];
    let mut bundle = Bundle::new(
        &FirstTries::like(&jobs[0]),
        jobs[0].delivery,
        jobs[0].webhook,
    );
    for job in &jobs[1..] {
        bundle.add(&FirstTries::like(job), job.delivery, job.webhook);
    }
    let unrouted = message("posthorn.jobs", "0.77", &bundle.encode());
    // A version without bundles stores this letter.
    let whole = Letter::from_message(&unrouted, Origin::Unrouted);
    let refused = whole.again(now, 1).unwrap_err();
    assert!(matches!(refused, Unreplayable::Bundle(3)), "{refused}");
    assert!(refused.to_string().contains("discard it"), "{refused}");

    let letters = whole.one_per_job();
    assert_eq!(letters.len(), jobs.len());
    for (letter, job) in letters.iter().zip(&jobs) {
        let again = letter.again(now, 1).unwrap();
        let again = Job::decode(&again.body).unwrap();
        assert_eq!((again.delivery, again.recheck), (job.delivery, true));
    }
}

#[test]
fn what_came_around_the_exchange_has_no_way_to_take_again() {
    let published = message("", "posthorn.ingest.v1", b"{}");
    let dead = Outgoing::dead(&published, "published to exchange ``");
    let mut parked = message("posthorn.dead", "posthorn.ingest.v1", &dead.body);
    parked.properties = dead.properties;
    let letter = Letter::from_message(&parked, Origin::Parking);
    assert_eq!((letter.exchange.as_str(), &letter.tenant), ("", &None));
    assert!(matches!(
        letter.again(OffsetDateTime::now_utc(), 1),
        Err(Unreplayable::Elsewhere(_))
    ));
}

#[test]
fn any_text_can_be_stored() {
    let mut parked = message("a\0b", "c\0d", b"");
    parked.properties = BasicProperties::default().with_message_id("e\0f".into());
    let letter = Letter::from_message(&parked, Origin::Unrouted);
    let texts = [
        letter.exchange,
        letter.routing_key,
        letter.message_id.unwrap(),
    ];
    assert!(texts.iter().all(|text| !text.contains('\0')), "{texts:?}");
}

proptest! {
    /// What a stranger put into the parking queue, and what is stored of it.
    #[test]
    fn no_letter_panics_and_each_can_be_stored_and_read(
        exchange in "(posthorn[.](events|jobs|retry|dead)|.{0,20})", key in ".{0,40}", body: Vec<u8>,
        name in "(x-death|x-posthorn-(reason|exchange|routing-key)|.{0,8})", text in ".{0,40}", list: bool,
    ) {
        let mut headers = FieldTable::default();
        let mut value = AMQPValue::LongString(text.as_str().into());
        if list {
            let mut table = FieldTable::default();
            table.insert("queue".into(), value);
            value = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(table)].into());
        }
        headers.insert(name.as_str().into(), value);
        let mut parked = message("posthorn.dead", "a", &body);
        // Strings of the wire have at most 255 bytes: these have.
        parked.exchange = exchange.as_str().into();
        parked.routing_key = key.as_str().into();
        parked.properties = BasicProperties::default().with_headers(headers);
        for origin in [Origin::Parking, Origin::Unrouted] {
            let letter = Letter::from_message(&parked, origin);
            let _ = letter.again(OffsetDateTime::now_utc(), 1);
            let stored = rmp_serde::to_vec(&letter.properties).unwrap();
            let read: BasicProperties = rmp_serde::from_slice(&stored).unwrap();
            prop_assert_eq!(read, letter.properties);
        }
    }

    #[test]
    fn no_stored_properties_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = rmp_serde::from_slice::<BasicProperties>(&bytes);
    }
}
