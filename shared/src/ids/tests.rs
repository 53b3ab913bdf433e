use time::macros::datetime;

use super::*;

#[test]
fn an_id_survives_its_text_and_refuses_another_kind() {
    let id = WebhookId::generate();
    assert_eq!(id.to_string().parse(), Ok(id));
    assert!(id.to_string().starts_with("wh_"));
    let error = id
        .to_string()
        .parse::<DeliveryId>()
        .unwrap_err()
        .to_string();
    assert!(error.contains("`whd_`"), "{error}");
}

#[test]
fn a_delivery_shares_its_events_millisecond() {
    let at = datetime!(2026-11-22 10:00:00.123 UTC);
    let event = EventUid::at(at);
    let delivery = DeliveryId::for_event(event);
    assert_eq!(delivery.accepted_at(), at);
    assert_eq!(delivery.uuid().get_version_num(), 7);
    let (first, last) = same_millisecond(event.uuid());
    assert!(first <= delivery.uuid() && delivery.uuid() <= last);
    assert!(first_uuid_at(at + time::Duration::MILLISECOND) > last);
}

#[test]
fn names_are_bounded_and_say_so() {
    for good in ["acme", "a", "0-9_x"] {
        assert!(good.parse::<Tenant>().is_ok(), "{good}");
    }
    for bad in ["", "Acme", "a.b", "-a", &"a".repeat(64)] {
        assert!(bad.parse::<Tenant>().is_err(), "{bad}");
    }
    assert!("a b".parse::<EventId>().is_err());
    assert!(
        "x".repeat(256)
            .parse::<EventId>()
            .unwrap_err()
            .to_string()
            .contains("255")
    );
}

#[test]
fn an_event_type_is_refused_with_what_is_wrong_and_the_bound() {
    for (text, reason) in [
        ("", "1 to 128 bytes, not 0"),
        (&"a".repeat(129), "1 to 128 bytes, not 129"),
        ("order created", "' '"),
        ("ordér", "'é'"),
        ("order.*", "'*'"),
        (".order", "start with a letter"),
        ("-order", "start with a letter"),
        ("order.", "no dot at its end"),
        ("order..created", "no two dots"),
    ] {
        let refused = text.parse::<EventType>().unwrap_err().to_string();
        assert!(
            refused.starts_with("event type ") && refused.contains(reason),
            "{refused}"
        );
    }
}

#[test]
fn event_types_of_the_known_systems_are_accepted() {
    let longest = "a".repeat(MAX_EVENT_TYPE);
    for text in [
        "order.created",
        "user.subscription_changed",
        "astro_engine.chart_generated",
        "low-stock-alert",
        "1",
        "a--b",
        &longest,
    ] {
        assert!(text.parse::<EventType>().is_ok(), "{text}");
    }
}
