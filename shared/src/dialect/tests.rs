//! The bytes that each embedded dialect sends, compared exactly.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use time::macros::datetime;

use serde_json::Value;
use time::OffsetDateTime;

use super::*;
use crate::ids::{DeliveryId, WebhookId};
use crate::secret::{Secret, Secrets, SigningKey};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const EVENT_AT: OffsetDateTime = datetime!(2026-11-22 10:00:00.5 UTC);
const SENT_AT: OffsetDateTime = datetime!(2026-11-22 10:01 UTC);

/// The body, and the headers by name.
fn wire(
    dialect: &str,
    data: &str,
    attributes: Option<Value>,
) -> (String, BTreeMap<String, String>) {
    let uuid = uuid::Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001);
    let (event_id, event_type) = ("evt-\"1".parse().unwrap(), "order.created".parse().unwrap());
    let attributes = attributes.map(|value| value.as_object().unwrap().clone());
    let message = Message {
        event_id: &event_id,
        event_type: &event_type,
        occurred_at: EVENT_AT,
        data,
        attributes: attributes.as_ref(),
        tenant: &"acme".parse().unwrap(),
        webhook_id: WebhookId::from_uuid(uuid),
        external_id: None,
        delivery_id: DeliveryId::from_uuid(uuid),
    };
    let secrets = Secrets::new(Secret::parse(SECRET).unwrap(), None);
    let dialects = Dialects::embedded();
    let wire = dialects
        .get(dialect)
        .unwrap()
        .compose(&message, &secrets, SENT_AT);
    let headers = wire.headers.into_iter();
    (
        String::from_utf8(wire.body).unwrap(),
        headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
    )
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex_hmac(message: &str) -> String {
    hex::encode(hmac(SECRET.as_bytes(), message))
}

const DATA: &str = r#"{"n":12345678901234567890, "price":25.00,"2":"\u00e9"}"#;
const IN_JAVASCRIPT: &str = r#"{"2":"é","n":12345678901234567000,"price":25}"#;

fn id(prefix: &str) -> String {
    let uuid = uuid::Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001);
    match prefix {
        "whd" => DeliveryId::from_uuid(uuid).to_string(),
        _ => WebhookId::from_uuid(uuid).to_string(),
    }
}

fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let json = [("content-type", "application/json")];
    json.iter()
        .chain(pairs)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn standard_carries_data_to_the_letter() {
    let (body, sent) = wire("standard", DATA, None);
    assert_eq!(
        body,
        format!(r#"{{"type":"order.created","timestamp":"2026-11-22T10:00:00.5Z","data":{DATA}}}"#)
    );
    let key = BASE64.decode(&SECRET["whsec_".len()..]).unwrap();
    let mac = BASE64.encode(hmac(&key, &format!("evt-\"1.1795341660.{body}")));
    let expected = [
        ("webhook-id", "evt-\"1"),
        ("webhook-timestamp", "1795341660"),
        ("webhook-signature", &format!("v1,{mac}")),
    ];
    assert_eq!(sent, headers(&expected));
}

#[test]
fn an_ed25519_key_signs_beside_the_secret() {
    let key = SigningKey::generate();
    let uuid = uuid::Uuid::now_v7();
    let message = Message {
        event_id: &"evt-1".parse().unwrap(),
        event_type: &"order.created".parse().unwrap(),
        occurred_at: EVENT_AT,
        data: "{}",
        attributes: None,
        tenant: &"acme".parse().unwrap(),
        webhook_id: WebhookId::from_uuid(uuid),
        external_id: None,
        delivery_id: DeliveryId::from_uuid(uuid),
    };
    let secrets = Secrets::new(Secret::parse(SECRET).unwrap(), Some(key.clone()));
    for dialect in Dialects::embedded().iter() {
        let wire = dialect.compose(&message, &secrets, SENT_AT);
        let headers = wire.headers.iter();
        let signatures: Vec<_> = headers
            .filter_map(|(_, value)| value.to_str().unwrap().split_once(" v1a,"))
            .collect();
        assert_eq!(
            !signatures.is_empty(),
            dialect.takes_signing_keys(),
            "{}",
            dialect.name()
        );
        for (_, signature) in signatures {
            let signed = [b"evt-1.1795341660.".as_slice(), &wire.body].concat();
            ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key.public_bytes())
                .verify(&signed, &BASE64.decode(signature).unwrap())
                .unwrap();
        }
    }
    let takes: Vec<_> = Dialects::embedded()
        .iter()
        .filter(|dialect| dialect.takes_signing_keys())
        .map(|dialect| dialect.name().to_owned())
        .collect();
    assert_eq!(takes, ["cloudevents", "cloudevents-binary", "standard"]);
}

#[test]
fn the_standard_signature_is_the_specifications_own() {
    // The example in the libraries of the Standard Webhooks specification.
    let key = Secret::parse(SECRET).unwrap().key();
    let signed = r#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
    assert_eq!(
        BASE64.encode(hmac(secrecy::ExposeSecret::expose_secret(&key), signed)),
        "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    );
}

#[test]
fn rishi_signs_the_request_and_the_body_without_its_signature() {
    let (body, sent) = wire("rishi", DATA, None);
    let unsigned =
        format!(r#"{{"event":"order.created","data":{DATA},"timestamp":"2026-11-22T10:00:00.5Z""#);
    let own = hex_hmac(&format!("{unsigned}}}"));
    assert_eq!(body, format!(r#"{unsigned},"signature":"sha256={own}"}}"#));
    let expected = [("x-rishi-signature", &*format!("sha256={}", hex_hmac(&body)))];
    assert_eq!(sent, headers(&expected));
}

#[test]
fn brainsait_is_written_as_javascript_would() {
    let (body, sent) = wire("brainsait", DATA, None);
    assert_eq!(
        body,
        format!(
            r#"{{"id":"evt-\"1","event":"order.created","created":"2026-11-22T10:00:00.5Z","data":{{"object":{IN_JAVASCRIPT}}},"tenant_id":"acme","api_version":"2024-01-01"}}"#
        )
    );
    assert_eq!(
        sent,
        headers(&[("x-brainsait-signature", &hex_hmac(&body))])
    );
}

#[test]
fn auraconnect_names_event_and_webhook_in_headers() {
    let (body, sent) = wire("auraconnect", DATA, None);
    assert_eq!(
        body,
        format!(
            r#"{{"id":"evt-\"1","type":"order.created","created":"2026-11-22T10:00:00.5Z","data":{{"object":{DATA}}}}}"#
        )
    );
    let expected = [
        ("x-auraconnect-event", "order.created"),
        (
            "x-auraconnect-signature",
            &*format!("sha256={}", hex_hmac(&body)),
        ),
        ("x-auraconnect-event-id", "evt-\"1"),
        ("x-auraconnect-timestamp", "1795341660"),
        ("x-auraconnect-webhook-id", &id("wh")),
    ];
    assert_eq!(sent, headers(&expected));
}

#[test]
fn jossiedb_signs_the_data_alone() {
    let (body, sent) = wire("jossiedb", DATA, None);
    assert_eq!(
        body,
        format!(
            r#"{{"id":"evt-\"1","event":"order.created","timestamp":"2026-11-22T10:00:00.5Z","data":{IN_JAVASCRIPT}}}"#
        )
    );
    let expected = [
        ("x-webhook-signature", &*hex_hmac(IN_JAVASCRIPT)),
        ("x-webhook-id", &id("wh")),
        ("x-event-type", "order.created"),
    ];
    assert_eq!(sent, headers(&expected));
}

#[test]
fn corp_astro_is_known_by_the_deliverys_id() {
    let (body, sent) = wire("corp-astro", DATA, None);
    let delivery = id("whd");
    assert_eq!(
        body,
        format!(
            r#"{{"id":"{delivery}","timestamp":"2026-11-22T10:01:00.000Z","event_type":"order.created","data":{IN_JAVASCRIPT}}}"#
        )
    );
    let expected = [
        ("x-corp-astro-webhook-id", &*delivery),
        ("x-corp-astro-event", "order.created"),
        ("x-corp-astro-signature", &hex_hmac(&body)),
        ("x-corp-astro-timestamp", "2026-11-22T10:01:00.000Z"),
    ];
    assert_eq!(sent, headers(&expected));
}

#[test]
fn data_that_a_producer_wrapped_already_is_not_wrapped_again() {
    for dialect in ["auraconnect", "brainsait"] {
        let (plain, _) = wire(dialect, r#"{"n":1}"#, None);
        for wrapped in [r#"{"object":{"n":1}}"#, r#" { "object" : {"n":1} } "#] {
            assert_eq!(wire(dialect, wrapped, None).0, plain);
        }
        // These only look like it.
        for other in [
            r#"{"object":1}"#,
            r#"{"object":{},"n":1}"#,
            r#"{"objects":{}}"#,
        ] {
            let (body, _) = wire(dialect, other, None);
            assert!(
                body.contains(&format!(r#""data":{{"object":{other}}}"#)),
                "{body}"
            );
        }
    }
    let (body, _) = wire("standard", r#"{"object":{"n":1}}"#, None);
    assert!(body.ends_with(r#""data":{"object":{"n":1}}}"#), "{body}");
}

#[test]
fn a_binary_cloudevent_is_the_data_and_its_attributes_are_headers() {
    let attributes = json!({
        "specversion": "1.0", "source": "/shop %1", "subject": "Zoë \"1\"", "level": 3,
        "datacontenttype": "application/msgpack",
    });
    let (body, sent) = wire("cloudevents-binary", DATA, Some(attributes));
    assert_eq!(body, DATA);
    let key = BASE64.decode(&SECRET["whsec_".len()..]).unwrap();
    let mac = BASE64.encode(hmac(&key, &format!("evt-\"1.1795341660.{body}")));
    let mut expected = vec![
        ("ce-specversion", "1.0"),
        ("ce-id", "evt-%221"),
        ("ce-source", "/shop%20%251"),
        ("ce-type", "order.created"),
        ("ce-time", "2026-11-22T10:00:00.5Z"),
        ("ce-subject", "Zo%C3%AB%20%221%22"),
        ("ce-level", "3"),
        ("webhook-id", "evt-\"1"),
        ("webhook-timestamp", "1795341660"),
    ];
    let signature = format!("v1,{mac}");
    expected.push(("webhook-signature", &signature));
    assert_eq!(sent, headers(&expected));
    let dialects = Dialects::embedded();
    assert!(
        dialects
            .get("cloudevents-binary")
            .unwrap()
            .sets_header("ce-anything")
    );
}

#[test]
fn cloudevents_carry_their_producers_attributes() {
    let (body, sent) = wire("cloudevents", DATA, None);
    assert_eq!(
        body,
        format!(
            r#"{{"specversion":"1.0","id":"evt-\"1","source":"/tenants/acme","type":"order.created","time":"2026-11-22T10:00:00.5Z","datacontenttype":"application/json","data":{DATA}}}"#
        )
    );
    assert_eq!(sent["content-type"], "application/cloudevents+json");
    assert_eq!(sent["webhook-id"], "evt-\"1");
    let own = json!({"specversion": "1.0", "source": "/shop", "type": "com.shop.created",
        "tier": 3, "subject": "a\"b", "data": "not this"});
    let (body, _) = wire("cloudevents", "[]", Some(own));
    assert_eq!(
        body,
        r#"{"specversion":"1.0","id":"evt-\"1","source":"/shop","type":"com.shop.created","time":"2026-11-22T10:00:00.5Z","datacontenttype":"application/json","subject":"a\"b","tier":3,"data":[]}"#
    );
    // Other dialects don't send attributes.
    let (body, _) = wire("standard", "[]", Some(json!({"type": "x"})));
    assert!(body.contains("order.created"), "{body}");
}

#[test]
fn bodies_in_javascripts_form_are_what_javascript_would_write() {
    for dialect in ["brainsait", "corp-astro", "jossiedb"] {
        for data in [
            DATA,
            "{}",
            "[1.0,-0,1e400]",
            r#"{"__proto__":1,"10":2,"9":3}"#,
            r#""\uD800\/""#,
        ] {
            let (body, _) = wire(dialect, data, None);
            assert_eq!(javascript::rewrite(&body).unwrap(), body, "{dialect}");
        }
    }
}

/// The times of all attempts in seconds after the first one, without jitter.
fn attempt_times(dialect: &Dialect) -> Vec<u64> {
    let mut times = vec![0];
    for n in 1.. {
        let Some(pause) = dialect.policy().schedule.pause_after(n, 0.0) else {
            return times;
        };
        times.push(times.last().unwrap() + pause.as_secs());
    }
    times
}

#[test]
fn attempts_are_made_when_each_system_promises() {
    const M: u64 = 60;
    const H: u64 = 3600;
    let standard = vec![
        0,
        5,
        5 + 5 * M,
        5 + 35 * M,
        5 + 35 * M + 2 * H,
        5 + 35 * M + 7 * H,
        5 + 35 * M + 17 * H,
        5 + 35 * M + 31 * H,
        5 + 35 * M + 51 * H,
        5 + 35 * M + 75 * H,
    ];
    let table = [
        ("auraconnect", vec![0, 10, 40, 100, 400, 2200], 0.0),
        (
            "brainsait",
            vec![
                0,
                5 * M,
                35 * M,
                35 * M + 2 * H,
                35 * M + 14 * H,
                35 * M + 38 * H,
            ],
            0.0,
        ),
        ("cloudevents", standard.clone(), 0.1),
        ("cloudevents-binary", standard.clone(), 0.1),
        ("corp-astro", vec![0, 30, 90, 210, 450], 0.0),
        ("jossiedb", vec![0, 5, 15, 35], 0.0),
        ("rishi", vec![0, 1, 3, 7], 0.0),
        ("standard", standard, 0.1),
    ];
    let dialects = Dialects::embedded();
    assert!(dialects.names().eq(table.iter().map(|(name, ..)| *name)));
    for (name, times, jitter) in table {
        let dialect = dialects.get(name).unwrap();
        assert_eq!(attempt_times(dialect), times, "{name}");
        assert_eq!(dialect.policy().schedule.jitter, jitter, "{name}");
        let timeout = if name == "corp-astro" { 10 } else { 30 };
        assert_eq!(dialect.policy().timeout.as_secs(), timeout, "{name}");
        assert_eq!(dialect.policy().max_age, time::Duration::days(7), "{name}");
    }
}

#[test]
fn answers_mean_what_each_system_promises() {
    use Meaning::{Delivered, Disable, Retry, Stop};
    for (names, meanings) in [
        (
            ["standard", "cloudevents", "cloudevents-binary"].as_slice(),
            [Delivered, Delivered, Retry, Retry, Disable, Retry, Retry],
        ),
        (
            &["brainsait"],
            [Delivered, Delivered, Retry, Stop, Stop, Retry, Retry],
        ),
        (
            &["auraconnect", "corp-astro", "jossiedb", "rishi"],
            [Delivered, Delivered, Retry, Retry, Retry, Retry, Retry],
        ),
    ] {
        for name in names {
            let dialects = Dialects::embedded();
            let answers = &dialects.get(name).unwrap().policy().answers;
            let said = [200, 299, 301, 404, 410, 429, 500].map(|s| answers.meaning(s));
            assert_eq!(said, meanings, "{name}");
        }
    }
}

#[test]
fn a_folder_adds_dialects_or_says_what_is_wrong_with_each_file() {
    let folder = std::env::temp_dir().join(format!("posthorn-dialects-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let standard = EMBEDDED
        .iter()
        .find(|(name, _)| name.starts_with(DEFAULT))
        .unwrap()
        .1;
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("shop.toml", standard);
    write("README.md", "not a dialect");
    write(".hidden.toml", "not a dialect");
    let dialects = Dialects::with_folder(&folder).unwrap();
    assert_eq!(dialects.names().count(), EMBEDDED.len() + 1);
    assert_eq!(dialects.get("shop").unwrap().definition(), standard);

    write("standard.toml", standard);
    write("bad.toml", &standard.replace("[retry]", "[retries]"));
    let error = Dialects::with_folder(&folder).unwrap_err().to_string();
    for words in [
        "standard.toml: a dialect named",
        "bad.toml: `retry` is missing",
    ] {
        assert!(error.contains(words), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(Dialects::with_folder(&folder).is_err());
}

proptest::proptest! {
    /// People make mistakes in these files. Each mistake is an error, never a panic.
    #[test]
    fn no_damaged_file_panics(
        dialect in proptest::sample::select(Dialects::embedded().names().map(str::to_owned).collect::<Vec<_>>()),
        at in proptest::prelude::any::<proptest::sample::Index>(),
        text in "[\\[\\]{}.='\"$a-z0-9%\\n]{0,8}",
        cut in 0_usize..20,
    ) {
        let dialects = Dialects::embedded();
        let good = dialects.get(&dialect).unwrap().definition();
        let places: Vec<usize> = good.char_indices().map(|(at, _)| at).collect();
        let at = at.index(places.len());
        let until = places.get(at + cut).copied().unwrap_or(good.len());
        let damaged = format!("{}{text}{}", &good[..places[at]], &good[until..]);
        let _ = file::read("damaged.toml", &damaged);
    }

    #[test]
    fn no_text_is_a_dialect_that_panics(text in "(\\[[a-z.]{1,12}\\]\n|[a-z_]{1,8} = ('\\{[a-z.]{0,9}\\}'|\\[\\]|-?[0-9]{1,20}|\\{\\})\n){0,12}") {
        let _ = file::read("any.toml", &text);
        let _ = file::read("any.json", &text);
    }
}

#[test]
fn no_file_overflows_the_stack() {
    for (name, text) in [
        (
            "deep.toml",
            format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        ("deep.toml", format!("[{}a]\n", "a.".repeat(20_000))),
        (
            "deep.json",
            format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
        ),
    ] {
        assert!(file::read(name, &text).is_err());
    }
}
