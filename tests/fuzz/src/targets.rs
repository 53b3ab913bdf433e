//! The fuzz targets. A target that needs several inputs splits its bytes at U+0000, or takes
//! choices from the first byte.

use std::sync::LazyLock;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::frame::parsing::parse_frame;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use ingest::api::access::jwt::{self, Jwts};
use ingest::api::deliveries::search;
use ingest::api::http::request::Page;
use ingest::apply::file::{self, Rules, Source};
use ingest::dead_letters::letter::{Letter, Origin};
use ingest::decode::{self, MAX_DATA};
use ingest::event_types::form::CatalogueForm;
use ingest::json_text::{self, MAX_DEPTH};
use ingest::matching::filter::{Budget, Filter};
use ingest::matching::pattern::Pattern;
use ingest::tenants::form::{NewTenant, TenantChange};
use ingest::webhooks::form::WebhookForm;
use ingest::webhooks::store::Writing;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::Sha256;
use shared::amqp;
use shared::attempt::parse_retry_after;
use shared::destination::Destinations;
use shared::dialect::{self, Dialect, Dialects, Message, javascript};
use shared::ids::{DeadLetterId, DeliveryId, EventId, EventType, EventUid, Tenant, WebhookId};
use shared::job::Job;
use shared::publish::{Outgoing, RETURNED_HEADER};
use shared::seal::Keyring;
use shared::secret::{Secret, Secrets};
use time::OffsetDateTime;

/// A function that runs on any bytes and panics if a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("apply", apply),
    ("compose", compose),
    ("cursors", cursors),
    ("destination", destination),
    ("dialect", dialect),
    ("event", event),
    ("filter", filter),
    ("forms", forms),
    ("guard", guard),
    ("job", job),
    ("jwks", jwks),
    ("jwt", jwt),
    ("letter", letter),
    ("pattern", pattern),
    ("retry_after", retry_after),
];

const SECRET: &str = "a-secret-of-at-least-32-bytes-it-is";

static DIALECTS: LazyLock<Dialects> = LazyLock::new(Dialects::embedded);
static DESTINATIONS: LazyLock<Destinations> = LazyLock::new(Destinations::default);

/// The bytes before the first U+0000, and those after it.
fn parted(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|byte| *byte == 0);
    at.map_or((data, &[]), |at| (&data[..at], &data[at + 1..]))
}

/// As many bytes as an AMQP short string holds.
fn short(text: &[u8]) -> ShortString {
    let text = String::from_utf8_lossy(text);
    let end = text.floor_char_boundary(255.min(text.len()));
    ShortString::from(&text[..end])
}

/// Pairs of name and value, one pair per line.
fn headers(text: &[u8]) -> FieldTable {
    let mut headers = FieldTable::default();
    for line in text.split(|byte| *byte == b'\n').take(50) {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let (name, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        let value = match std::str::from_utf8(value)
            .ok()
            .and_then(|v| v.parse::<i64>().ok())
        {
            Some(number) if number % 2 == 0 => AMQPValue::Timestamp(number as u64),
            Some(number) => AMQPValue::LongLongInt(number),
            None => AMQPValue::LongString(value.to_vec().into()),
        };
        headers.insert(short(name), value);
    }
    headers
}

/// A message of an event: its content type, routing key, headers and body.
fn message(data: &[u8]) -> Delivery {
    const TYPES: [&str; 6] = [
        "application/json",
        "application/msgpack",
        "application/cloudevents+json",
        "application/x+json; charset=utf-8",
        "",
        "text/plain",
    ];
    let (choice, rest) = data.split_first().unwrap_or((&0, &[]));
    let (mut key, mut properties) = (short(b"acme.order.created"), BasicProperties::default());
    let mut body = rest;
    if choice & 0x80 != 0 {
        let (first, rest) = parted(rest);
        let (second, rest) = parted(rest);
        key = short(first);
        properties = properties
            .with_headers(headers(second))
            .with_message_id(short(second));
        body = rest;
    }
    match TYPES.get(usize::from(choice & 0x0f)) {
        Some(content_type) => properties = properties.with_content_type((*content_type).into()),
        None => properties = properties.with_content_type(short(body)),
    }
    let mut message = Delivery::mock(1, "posthorn.events".into(), key, false, body.to_vec());
    message.properties = properties;
    message
}

fn event(data: &[u8]) {
    let message = message(data);
    match decode::decode(&message) {
        Ok(event) => {
            assert!(event.data.len() <= MAX_DATA && json_text::depth(&event.data) <= MAX_DEPTH);
            let again = serde_json::from_str::<&RawValue>(&event.data);
            assert!(again.is_ok(), "data is JSON");
        }
        Err(reason) => {
            let dead = Outgoing::dead(&message, &reason.to_string());
            assert!(dead.body.len() <= message.data.len());
        }
    }
}

/// A parked message, or one that RabbitMQ gave up on.
fn letter(data: &[u8]) {
    let mut parked = message(data);
    let mut death = FieldTable::default();
    let texts = headers(data);
    let texts = texts.inner();
    for name in ["reason", "queue"] {
        if let Some(value) = texts.get(name) {
            death.insert(name.into(), value.clone());
        }
    }
    if !death.inner().is_empty() {
        let mut headers = parked.properties.headers().clone().unwrap_or_default();
        let deaths = vec![AMQPValue::FieldTable(death)];
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
        parked.properties = parked.properties.with_headers(headers);
    }
    let now = OffsetDateTime::UNIX_EPOCH;
    for origin in [Origin::Parking, Origin::Unrouted] {
        let letter = Letter::from_message(&parked, origin);
        let _ = (letter.again(now, 4), letter.owner(), letter.job_given_up());
        if let Some(again) = letter.once_more(&parked) {
            let headers = again.properties.headers().clone().unwrap_or_default();
            assert!(headers.contains_key(RETURNED_HEADER), "it would go round");
        }
    }
    let _ = rmp_serde::from_slice::<BasicProperties>(data);
}

fn filter(data: &[u8]) {
    let (filter, data) = parted(data);
    let Ok(filter) = serde_json::from_slice::<Value>(filter) else {
        return;
    };
    let Ok(filter) = Filter::parse(&filter) else {
        return;
    };
    let data = serde_json::from_slice(data).unwrap_or(Value::Null);
    let budget = || Budget::new(100_000);
    let explained = filter.explain(&data, &mut budget());
    // Both give the same answer, unless the data is too costly for one of them.
    if let Ok(matches) = filter.matches(&data, &mut budget()) {
        assert!(matches || explained.is_err(), "{explained:?}");
    }
}

fn pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern, event_type) = text.split_once('\0').unwrap_or((&text, "order.created"));
    if let Ok(pattern) = pattern.parse::<Pattern>() {
        let _ = pattern.listens_to(event_type);
        assert_eq!(
            pattern.as_str().parse::<Pattern>().ok().as_ref(),
            Some(&pattern)
        );
    }
}

/// The bodies of the API's requests, as `request::Body` reads them.
fn forms(data: &[u8]) {
    if let Ok(form) = serde_json::from_slice::<WebhookForm>(data)
        && let Ok(checked) = form.check(&DESTINATIONS, &DIALECTS)
        && let Some(url) = checked.url
    {
        assert!(DESTINATIONS.check(&url).is_ok());
    }
    let _ = serde_json::from_slice::<CatalogueForm>(data);
    let _ = serde_json::from_slice::<NewTenant>(data);
    let _ = serde_json::from_slice::<TenantChange>(data);
}

fn apply(data: &[u8]) {
    static KEYS: LazyLock<Keyring> = LazyLock::new(|| {
        let key = "dGVzdHMgaGF2ZSBhIG1hc3RlciBrZXkgdG9vISEhISE=";
        Keyring::from_base64([key]).unwrap_or_else(|error| unreachable!("{error}"))
    });
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let rules = Rules {
        destinations: &DESTINATIONS,
        writing: Writing {
            keys: &KEYS,
            dialects: &DIALECTS,
        },
        variable: &|name| (name.len() < 20).then(|| name.to_owned()),
    };
    let source = Source {
        name: "webhooks.yaml".to_owned(),
        text: text.to_owned(),
    };
    let _ = file::read(vec![source], &rules);
}

/// An event's body as a dialect writes it.
fn write(dialect: &Dialect, data: &str) -> Vec<u8> {
    let (id, kind) = (
        "evt-1".parse::<EventId>(),
        "order.created".parse::<EventType>(),
    );
    let (Ok(event_id), Ok(event_type), Ok(tenant), Ok(secret)) = (
        id,
        kind,
        "acme".parse::<Tenant>(),
        Secret::parse("whsec_c2VjcmV0LWZvci1leGFtcGxlcy1vbmx5"),
    ) else {
        unreachable!("these are literals");
    };
    let uid = EventUid::at(OffsetDateTime::UNIX_EPOCH);
    let message = Message {
        event_id: &event_id,
        event_type: &event_type,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
        data,
        attributes: None,
        tenant: &tenant,
        webhook_id: WebhookId::generate(),
        external_id: None,
        delivery_id: DeliveryId::for_event(uid),
    };
    let secrets = Secrets::new(secret, None);
    dialect
        .compose(&message, &secrets, OffsetDateTime::UNIX_EPOCH)
        .body
}

fn dialect(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for file in ["mine.toml", "mine.json"] {
        if let Ok(dialect) = dialect::read(file, text) {
            let body = write(&dialect, "{\"a\":[1.50,\"\u{fc}\"]}");
            assert!(serde_json::from_slice::<&RawValue>(&body).is_ok());
        }
    }
}

fn compose(data: &[u8]) {
    let Ok(data) = serde_json::from_slice::<&RawValue>(data) else {
        return;
    };
    let data = data.get();
    if json_text::depth(data) > MAX_DEPTH {
        return;
    }
    for dialect in DIALECTS.iter() {
        let body = write(dialect, data);
        assert!(
            serde_json::from_slice::<&RawValue>(&body).is_ok(),
            "{}",
            dialect.name()
        );
    }
    if let Ok(written) = javascript::rewrite(data) {
        assert_eq!(javascript::rewrite(&written).ok().as_ref(), Some(&written));
    }
}

fn job(data: &[u8]) {
    if let Ok(job) = Job::decode(data) {
        assert_eq!(Job::decode(&job.encode()).ok().as_ref(), Some(&job));
        let now = OffsetDateTime::UNIX_EPOCH;
        let _ = (job.began_at(), job.attempt_since_began(), job.wait(now));
        let _ = Outgoing::job(&job, now, 4);
    }
}

fn retry_after(data: &[u8]) {
    let _ = parse_retry_after(&String::from_utf8_lossy(data), OffsetDateTime::UNIX_EPOCH);
}

fn destination(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(url) = DESTINATIONS.check(&text) {
        assert_eq!(url.scheme(), "https");
        assert!(url.username().is_empty() && url.password().is_none());
        // The stored URL is parsed again before each attempt.
        assert_eq!(DESTINATIONS.check(url.as_str()).as_ref(), Ok(&url));
    }
}

/// Ids, cursors and searches in URLs.
fn cursors(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let page = Page {
        limit: text.parse().ok(),
        cursor: Some(text.clone()),
    };
    let _ = page.limit();
    macro_rules! same {
        ($($id:ty),*) => {$(
            if let Ok(Some(id)) = page.after::<$id>() {
                assert_eq!(id.to_string().parse::<$id>().ok().as_ref(), Some(&id));
            }
        )*};
    }
    same!(
        DeadLetterId,
        DeliveryId,
        WebhookId,
        EventUid,
        EventId,
        EventType,
        Tenant
    );
    if let Ok(filter) = serde_json::from_slice::<search::DeliveryQuery>(data) {
        let _ = filter.check();
    }
}

fn jwts(jwks_file: Option<&str>) -> Option<Jwts> {
    let settings = jwt::Settings {
        secret: Some(SECRET.into()),
        jwks_file: jwks_file.map(Into::into),
        tenant_claim: "org.tenant".to_owned(),
        role_claim: "role".to_owned(),
        owner_claim: None,
        issuer: None,
        audience: None,
    };
    Jwts::new(settings).ok().flatten()
}

/// The bytes as a token, and as the payload of a correctly signed token.
fn jwt(data: &[u8]) {
    static JWTS: LazyLock<Option<Jwts>> = LazyLock::new(|| jwts(None));
    let Some(jwts) = JWTS.as_ref() else {
        unreachable!("there is a secret");
    };
    assert!(
        jwts.verify(&String::from_utf8_lossy(data)).is_err(),
        "nobody has signed it"
    );
    let signed = format!(
        "{}.{}",
        BASE64.encode(r#"{"alg":"HS256"}"#),
        BASE64.encode(data)
    );
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()) else {
        unreachable!("HMAC takes keys of any length");
    };
    mac.update(signed.as_bytes());
    let signature = BASE64.encode(mac.finalize().into_bytes());
    let _ = jwts.verify(&format!("{signed}.{signature}"));
}

fn jwks(data: &[u8]) {
    let file = std::env::temp_dir().join(format!("posthorn-fuzz-{}.json", std::process::id()));
    if std::fs::write(&file, data).is_err() {
        return;
    }
    let jwts = jwts(file.to_str());
    let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImVjIn0.e30.c2lnbmF0dXJl";
    if let Some(jwts) = jwts {
        assert!(jwts.verify(token).is_err(), "nobody has signed it");
    }
    let _ = std::fs::remove_file(file);
}

/// A routing key and properties as a broker passes them on: lapin reads what the guard
/// lets through. The bytes by themselves, as frames, do no harm either.
fn guard(data: &[u8]) {
    let (key, properties) = parted(data);
    let key = &key[..key.len().min(255)];
    let deliver: [&[u8]; 3] = [
        b"\x00\x3C\x00\x3C\x01c\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01e",
        &[key.len() as u8],
        key,
    ];
    let header: [&[u8]; 2] = [
        b"\x00\x3C\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03",
        properties,
    ];
    let frames = [
        frame(1, &deliver.concat()),
        frame(2, &header.concat()),
        frame(3, b"end"),
    ];
    let whole = frames.concat();
    let passed = amqp::guarded(&whole, whole.len());
    assert_eq!(passed, amqp::guarded(&whole, 1 + data.len() % 7));
    let mut rest = &passed[..];
    let mut kinds = Vec::new();
    while !rest.is_empty() {
        let (after, frame) = match parse_frame(rest) {
            Ok(read) => read,
            Err(error) => panic!("lapin can't read what the guard lets through: {error}"),
        };
        kinds.push(match frame {
            AMQPFrame::Method(1, _) => 1,
            AMQPFrame::Header(1, _) => 2,
            AMQPFrame::Body(1, body) if body == b"end" => 3,
            other => panic!("{other:?}"),
        });
        rest = after;
    }
    assert_eq!(kinds, [1, 2, 3]);

    assert_eq!(amqp::guarded(data, data.len()), amqp::guarded(data, 3));
}

/// A frame on the first channel.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, 1], &size[..], payload, &[0xCE]].concat()
}
