use lapin::types::FieldTable;
use proptest::prelude::*;
use time::macros::datetime;

use super::*;

fn of_type(content_type: &str) -> BasicProperties {
    BasicProperties::default().with_content_type(content_type.into())
}

fn plain(body: &str) -> Result<Event, Rejected> {
    read(
        "acme.order.created",
        &BasicProperties::default(),
        body.as_bytes(),
    )
}

#[test]
fn the_routing_key_names_tenant_and_type() {
    let event = plain("{}").unwrap();
    assert_eq!(
        (event.tenant.as_str(), event.event_type.as_str()),
        ("acme", "order.created")
    );
    for (key, label) in [
        ("acme", "routing_key"),
        ("Acme.x", "name"),
        ("acme.", "name"),
        (".x", "name"),
    ] {
        let rejected = read(key, &BasicProperties::default(), b"{}").unwrap_err();
        assert_eq!(rejected.label(), label, "{key}");
    }
}

#[test]
fn json_is_kept_to_the_letter() {
    let text = r#"{"b":1, "a":12345678901234567890,"price":25.00,"a":"twice"}"#;
    assert_eq!(plain(&format!("  {text}\n")).unwrap().data, text);
}

#[test]
fn what_is_not_json_says_where() {
    let reason = plain(r#"{"a":}"#).unwrap_err().to_string();
    assert!(
        reason.contains("not JSON") && reason.contains("column 6"),
        "{reason}"
    );
    assert_eq!(plain("").unwrap_err().label(), "malformed");
    assert_eq!(plain("{} {}").unwrap_err().label(), "malformed");
}

#[test]
fn limits_are_named() {
    let large = format!("\"{}\"", "x".repeat(MAX_DATA));
    let reason = plain(&large).unwrap_err().to_string();
    assert!(
        reason.contains("1048578") && reason.contains("1048576"),
        "{reason}"
    );
    assert!(plain(&format!("\"{}\"", "x".repeat(MAX_DATA - 2))).is_ok());
    let nested = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(plain(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(
        plain(&nested(MAX_DEPTH + 1)).unwrap_err().label(),
        "too_deep"
    );
    assert!(
        plain(&format!("\"{}\"", "[".repeat(500))).is_ok(),
        "brackets in a string don't nest"
    );
    let rejected = read("a.b", &of_type("text/plain"), b"{}").unwrap_err();
    assert!(rejected.to_string().contains("text/plain"), "{rejected}");
}

#[test]
fn the_producer_says_when_it_happened() {
    let mut headers = FieldTable::default();
    headers.insert(
        "occurred_at".into(),
        AMQPValue::LongString("2026-11-22T11:00:00+01:00".into()),
    );
    let properties = BasicProperties::default().with_timestamp(1_000);
    let event = read("a.b", &properties, b"{}").unwrap();
    assert_eq!(event.occurred_at, Some(datetime!(1970-01-01 00:16:40 UTC)));
    let event = read("a.b", &properties.with_headers(headers), b"{}").unwrap();
    assert_eq!(event.occurred_at, Some(datetime!(2026-11-22 10:00 UTC)));
    let time = |text| parse_time("it", text);
    assert!(time("9999-12-31T23:59:59-05:00").is_err(), "the year 10000");
    assert_eq!(
        time("2026-11-22T10:00:00.123456789Z").unwrap(),
        datetime!(2026-11-22 10:00:00.123456 UTC)
    );
}

#[test]
fn msgpack_becomes_json() {
    let body =
        rmp_serde::to_vec_named(&serde_json::json!({"n": 18446744073709551615_u64, "s": "ü"}))
            .unwrap();
    let event = read("a.b", &of_type("application/msgpack"), &body).unwrap();
    assert_eq!(event.data, r#"{"n":18446744073709551615,"s":"ü"}"#);
    let trailing = [body.as_slice(), &[0xc0]].concat();
    assert_eq!(
        read("a.b", &of_type("application/msgpack"), &trailing)
            .unwrap_err()
            .label(),
        "malformed"
    );
}

#[test]
fn a_structured_cloudevent_is_taken_apart() {
    let body = br#"{"specversion":"1.0","id":"ce-1","source":"/shop","type":"order.created",
            "time":"2026-11-22T10:00:00Z","tier":"gold","data":{"price":25.00}}"#;
    let event = read(
        "acme.order.created",
        &of_type("application/cloudevents+json; charset=utf-8"),
        body,
    )
    .unwrap();
    assert_eq!(event.id.unwrap().as_str(), "ce-1");
    assert_eq!(event.data, r#"{"price":25.00}"#);
    assert_eq!(event.occurred_at, Some(datetime!(2026-11-22 10:00 UTC)));
    assert_eq!(
        event.attributes,
        Some(serde_json::json!({"specversion": "1.0", "source": "/shop", "tier": "gold"}))
    );
    let rejected = read(
        "a.b",
        &of_type("application/cloudevents+json"),
        b"{\"id\":\"1\"}",
    )
    .unwrap_err();
    assert!(
        rejected.to_string().contains("`specversion` is missing"),
        "{rejected}"
    );
}

#[test]
fn a_binary_cloudevent_is_told_by_its_headers() {
    for prefix in CLOUDEVENTS_PREFIXES {
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", "ce-2"),
            ("source", "/s"),
            ("type", "x.y"),
        ] {
            headers.insert(
                format!("{prefix}{name}").into(),
                AMQPValue::LongString(value.into()),
            );
        }
        let event = read(
            "acme.order.created",
            &of_type("application/json").with_headers(headers),
            b"[1]",
        )
        .unwrap();
        assert_eq!(event.id.unwrap().as_str(), "ce-2", "{prefix}");
        assert_eq!(
            event.attributes.unwrap()["type"],
            "x.y",
            "a type of its own is kept"
        );
        assert_eq!(event.data, "[1]");
    }
}

proptest! {
    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        for kind in ["application/json", "application/msgpack", "application/cloudevents+json"] {
            let _ = read("a.b", &of_type(kind), &body);
        }
    }

    #[test]
    fn no_damaged_body_panics_or_grows(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let event = serde_json::json!({
            "specversion": "1.0", "id": "1", "source": "/s", "type": "b",
            "time": "2026-11-22T10:00:00Z", "data_base64": "e30=", "n": [1.5, -3, null, "ü"],
        });
        for (kind, body) in [
            ("application/cloudevents+json", event.to_string().into_bytes()),
            ("application/json", event.to_string().into_bytes()),
            ("application/msgpack", rmp_serde::to_vec(&event).unwrap()),
        ] {
            let mut damaged = body.clone();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            for body in [&damaged[..], &damaged[..cut.index(damaged.len())]] {
                if let Ok(event) = read("a.b", &of_type(kind), body) {
                    prop_assert!(event.data.len() <= 8 * body.len());
                }
            }
        }
    }

    #[test]
    fn no_headers_panic(
        name in "(ce-|cloudEvents[:_]|occurred_at|)[a-zA-Z]{0,8}", text in ".{0,40}", number in any::<u64>(),
    ) {
        for value in [
            AMQPValue::LongString(text.as_str().into()),
            AMQPValue::LongString(number.to_be_bytes().to_vec().into()),
            AMQPValue::Timestamp(number),
            AMQPValue::LongLongInt(number as i64),
            AMQPValue::Double(f64::from_bits(number)),
            AMQPValue::FieldArray(vec![AMQPValue::Void].into()),
        ] {
            let mut headers = FieldTable::default();
            headers.insert("ce-specversion".into(), AMQPValue::LongString("1.0".into()));
            headers.insert(name.as_str().into(), value);
            let properties = BasicProperties::default().with_headers(headers).with_timestamp(number);
            let _ = read("a.b", &properties, b"{}");
        }
    }

    #[test]
    fn no_routing_key_panics(key in ".{0,80}") {
        let _ = read(&key, &BasicProperties::default(), b"{}");
    }
}

#[test]
fn an_attribute_that_postgresql_cannot_store_is_refused_before_a_batch_is_written() {
    let cloud = |subject: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"/","type":"b","subject":{subject},"data":1}}"#
        )
    };
    let read = |subject| {
        let kind = of_type("application/cloudevents+json");
        read("a.b", &kind, cloud(subject).as_bytes())
    };
    for subject in [r#""a\u0000b""#, r#"["\u0000"]"#, r#"{"\u0000":1}"#] {
        assert_eq!(read(subject).unwrap_err().label(), "unstorable");
    }
    // A backslash and five letters.
    assert!(read(r#""a\\u0000b""#).is_ok());
}

#[test]
fn what_a_cloudevent_has_besides_its_data_is_bounded_before_it_is_parsed() {
    let cloud = |name: &str, zeros: usize| {
        let zeros = vec!["0"; zeros].join(",");
        format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"b","{name}":[{zeros}]}}"#)
    };
    for (name, zeros, is_taken) in [
        ("data", 400_000, true),
        ("data", 4_000_000, false),
        ("subject", 20_000, true),
        ("subject", 40_000, false),
    ] {
        let content = read_structured(cloud(name, zeros).as_bytes());
        assert_eq!(content.is_ok(), is_taken, "{name}: {zeros}");
        if let Err(rejected) = content {
            assert_eq!(rejected.label(), "too_large");
        }
    }
}

#[test]
fn data_in_base64_is_a_text_and_nothing_else() {
    let cloud = |members: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"b",{members}}}"#)
    };
    for (members, is_taken) in [
        (r#""data_base64":"e30=""#, true),
        (r#""data_base64":"e30=","data":1"#, false),
        (r#""data_base64":null"#, false),
        (r#""data_base64":[0,0,0]"#, false),
    ] {
        let content = read_structured(cloud(members).as_bytes());
        assert_eq!(content.is_ok(), is_taken, "{members}");
    }
}

/// What a few bytes claim to be isn't believed before it is there, and no
/// nesting ends in the stack's overflow.
#[test]
fn no_bomb_goes_off() {
    let begun = std::time::Instant::now();
    let huge = [0xff; 4];
    let mut bombs: Vec<(&str, Vec<u8>)> = Vec::new();
    // str 32, bin 32, array 32, map 32, ext 32.
    for marker in [0xdb, 0xc6, 0xdd, 0xdf, 0xc9] {
        bombs.push(("application/msgpack", [&[marker], &huge[..]].concat()));
        let nested = [&[marker][..], &huge].concat().repeat(10_000);
        bombs.push(("application/msgpack", nested));
    }
    // Arrays of one, maps of one.
    bombs.push(("application/msgpack", vec![0x91; MAX_DATA]));
    bombs.push(("application/msgpack", [0x81, 0xa0].repeat(MAX_DATA / 2)));
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let times = MAX_DATA / 8;
        let closed = format!("{}1{}", open.repeat(times), close.repeat(times));
        let opened = open.repeat(times);
        let cloud =
            format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"b","data":{closed}}}"#);
        bombs.push(("application/json", closed.into_bytes()));
        bombs.push(("application/json", opened.clone().into_bytes()));
        bombs.push(("application/cloudevents+json", opened.into_bytes()));
        bombs.push(("application/cloudevents+json", cloud.into_bytes()));
    }
    for (kind, bomb) in bombs {
        let rejected = read("a.b", &of_type(kind), &bomb).unwrap_err();
        assert!(
            ["malformed", "too_deep"].contains(&rejected.label()),
            "{kind}: {rejected}"
        );
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn what_lies_in_a_message_itself_is_refused_each_time() {
    for rejected in [
        malformed("JSON", &"it ends too early"),
        Rejected::TooDeep,
        Rejected::Unstorable("it contains U+0000".to_owned()),
        Rejected::RoutingKey("acme".to_owned()),
    ] {
        assert!(is_final(&rejected.to_string()), "{rejected}");
    }
    let tenant = Rejected::UnknownTenant("acme".parse().unwrap());
    assert!(!is_final(&tenant.to_string()), "a tenant can be made");
}
