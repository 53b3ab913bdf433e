//! Reads a message as an event, or says why it isn't one. Pure.
//!
//! Formats are JSON, MessagePack and CloudEvents 1.0 (structured JSON, and binary
//! with `ce-`, `cloudEvents:` or `cloudEvents_` headers). The tenant and the event
//! type come from the routing key alone, because RabbitMQ's topic permissions can
//! restrict a producer's routing keys, but not its payloads.
//!
//! JSON data is kept as the producer wrote it, byte for byte.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use shared::amqp::Unreadable;
use shared::ids::{EventId, EventType, EventUid, Malformed, Tenant};
use shared::publish::HTTP_HEADER;
use shared::tenant::{LARGEST_MAX_PAYLOAD, LARGEST_MESSAGE};
use shared::topology;
use shared::trace::TraceContext;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event_types::Unfit;
use crate::json_text::{MAX_DEPTH, check_storable, depth};
use crate::plain_words::{of_json, of_messagepack};

/// The largest data of any tenant, in bytes. `intake` checks the tenant's own limit.
pub const MAX_DATA: usize = LARGEST_MAX_PAYLOAD;

/// What a structured CloudEvent must be.
const FORMAT: &str = "a CloudEvent in JSON";
/// What a CloudEvent may have besides its data over HTTP, in bytes.
const MAX_ATTRIBUTES: usize = LARGEST_MESSAGE - LARGEST_MAX_PAYLOAD;

/// The prefixes by which binary CloudEvents mark attributes: HTTP's, and AMQP's two.
const CLOUDEVENTS_PREFIXES: [&str; 3] = ["ce-", "cloudEvents:", "cloudEvents_"];

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub tenant: Tenant,
    pub event_type: EventType,
    /// Its id, if the producer gave one.
    pub id: Option<EventId>,
    /// When it happened, if the producer says.
    pub occurred_at: Option<OffsetDateTime>,
    /// The data, as JSON text.
    pub data: String,
    /// CloudEvents attributes that have no place above.
    pub attributes: Option<Value>,
    /// It came over HTTP, not over AMQP.
    pub over_http: bool,
    /// The trace that the producer has begun.
    pub trace: Option<TraceContext>,
    /// It came over HTTP with this token, which was valid within the last minute. It may be
    /// accepted only if the token still is.
    pub presumed: Option<TokenHash>,
}

/// The SHA-256 of an API token.
pub type TokenHash = [u8; 32];

/// Why a message isn't an event. Each has a short name for the metric.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The guard took out a part that the AMQP client can't read.
    #[error("{0}")]
    Unreadable(Unreadable),
    /// It didn't come through `posthorn.events`, whose permissions restrict producers.
    #[error("published to exchange `{0}` instead of `posthorn.events`")]
    WrongExchange(String),
    /// The routing key is not `<tenant>.<event type>`.
    #[error("routing key `{0}` is not `<tenant>.<event type>`")]
    RoutingKey(String),
    /// A member is out of bounds.
    #[error("{0}")]
    Name(#[from] Malformed),
    /// There is no such tenant.
    #[error("tenant `{0}` does not exist")]
    UnknownTenant(Tenant),
    /// The message or its data is too large.
    #[error("{what} is {size} bytes; at most {limit} are allowed")]
    TooLarge {
        /// `message` or `data`.
        what: &'static str,
        size: usize,
        limit: usize,
    },
    /// The data is nested too deeply.
    #[error("the data is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// The body isn't what its content type says.
    #[error("the body is not {expected}: {reason}")]
    Malformed {
        /// The format that was expected.
        expected: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The content type is unknown.
    #[error(
        "content type `{0}` is not supported: use application/json, application/msgpack or application/cloudevents+json"
    )]
    ContentType(String),
    /// Another event was accepted with its id.
    #[error(
        "an event with this id was accepted with {}: the SHA-256 of its data is {stored}, of this data {sent}",
        match stored_type { Some(stored) => format!("the type `{stored}`"), None => "other data".to_owned() }
    )]
    Conflict {
        /// Of the accepted event's data, in hex.
        stored: String,
        /// Of this event's data.
        sent: String,
        /// The accepted event's type, if it is another one.
        stored_type: Option<String>,
    },
    /// PostgreSQL can't store a value in it.
    #[error("it cannot be stored: {0}")]
    Unstorable(String),
    /// The token that it came with isn't valid any more.
    #[error("its token was revoked or has expired")]
    Revoked,
    /// It doesn't conform to the tenant's catalogue.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A time is malformed.
    #[error("{0} is not an RFC 3339 time")]
    Time(&'static str),
}

/// How the reasons begin that lie in a message itself, whoever publishes it and whenever.
const OF_THE_MESSAGE: [&str; 4] = [
    "routing key `",
    "the data is nested more than ",
    "the body is not ",
    "it cannot be stored: ",
];

/// Whether a message that was refused for this reason is refused each time that it is
/// published.
pub fn is_final(reason: &str) -> bool {
    OF_THE_MESSAGE.iter().any(|begin| reason.starts_with(begin))
}

impl Rejected {
    /// The metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::WrongExchange(_) => "wrong_exchange",
            Self::RoutingKey(_) => "routing_key",
            Self::Name(_) => "name",
            Self::UnknownTenant(_) => "unknown_tenant",
            Self::TooLarge { .. } => "too_large",
            Self::TooDeep => "too_deep",
            Self::Malformed { .. } => "malformed",
            Self::ContentType(_) => "content_type",
            Self::Conflict { .. } => "conflict",
            Self::Unstorable(_) => "unstorable",
            Self::Revoked => "revoked",
            Self::Unfit(Unfit::UnknownType(..)) => "unknown_type",
            Self::Unfit(Unfit::Schema(..)) => "schema",
            Self::Unfit(Unfit::TooCostly(..)) => "too_costly",
            Self::Time(_) => "time",
        }
    }
}

/// Reads a message as an event.
///
/// # Errors
/// Says what is wrong with it.
pub fn decode(message: &Delivery) -> Result<Event, Rejected> {
    if let Some(unreadable) = Unreadable::from_message(message) {
        return Err(Rejected::Unreadable(unreadable));
    }
    if message.exchange.as_str() != topology::EVENTS {
        return Err(Rejected::WrongExchange(message.exchange.to_string()));
    }
    read(
        message.routing_key.as_str(),
        &message.properties,
        &message.data,
    )
}

pub(crate) fn read(
    routing_key: &str,
    properties: &BasicProperties,
    body: &[u8],
) -> Result<Event, Rejected> {
    let (tenant, event_type) = routing_key
        .split_once('.')
        .ok_or_else(|| Rejected::RoutingKey(routing_key.to_owned()))?;
    let (tenant, event_type) = (tenant.parse()?, event_type.parse()?);
    at_most("the message", body.len(), LARGEST_MESSAGE)?;

    let content_type = properties
        .content_type()
        .as_ref()
        .map_or("application/json", |t| t.as_str());
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let binary = binary_attributes(properties);
    let content = match media_type.as_str() {
        // What came over HTTP may be larger than it was there.
        "application/cloudevents+json" => structured(body)?,
        _ if binary.contains_key("specversion") => Content {
            data: data(&media_type, content_type, body)?,
            attributes: binary,
            size_of_attributes: 0,
        },
        _ => Content {
            data: data(&media_type, content_type, body)?,
            attributes: Map::new(),
            size_of_attributes: 0,
        },
    };
    at_most("the data", content.data.len(), MAX_DATA)?;
    if depth(&content.data) > MAX_DEPTH {
        return Err(Rejected::TooDeep);
    }

    let mut attributes = content.attributes;
    let mut take = |name: &str| match attributes.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let id = take("id").or_else(|| properties.message_id().as_ref().map(ToString::to_string));
    let occurred_at = match take("time") {
        Some(text) => Some(parse_time("the attribute `time`", &text)?),
        None => occurred_at(properties)?,
    };
    if attributes.get("type").and_then(Value::as_str) == Some(EventType::as_str(&event_type)) {
        attributes.remove("type");
    }
    let attributes = Value::Object(attributes);
    check_storable("the attributes", &attributes)
        .map_err(|invalid| Rejected::Unstorable(invalid.to_string()))?;
    Ok(Event {
        tenant,
        event_type,
        id: id.map(|id| id.parse()).transpose()?,
        occurred_at,
        data: content.data,
        attributes: Some(attributes).filter(|attributes| *attributes != Value::Object(Map::new())),
        over_http: properties
            .headers()
            .as_ref()
            .is_some_and(|headers| headers.contains_key(HTTP_HEADER)),
        trace: TraceContext::of_headers(properties.headers().as_ref()),
        presumed: None,
    })
}

/// An event's data, and its CloudEvents attributes.
pub struct Content {
    pub data: String,
    pub attributes: Map<String, Value>,
    /// How many bytes of JSON the attributes were; 0 if they were none.
    pub size_of_attributes: usize,
}

/// Reads a body that is the data alone, in one of the formats.
///
/// # Errors
/// If it isn't what its content type says, or that is unknown.
pub fn data(media_type: &str, content_type: &str, body: &[u8]) -> Result<String, Rejected> {
    match media_type {
        "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
            from_msgpack(body)
        }
        "" | "application/json" | "text/json" => from_json(body),
        other if other.starts_with("application/") && other.ends_with("+json") => from_json(body),
        _ => Err(Rejected::ContentType(
            content_type.chars().take(100).collect(),
        )),
    }
}

fn from_json(body: &[u8]) -> Result<String, Rejected> {
    let text: &RawValue =
        serde_json::from_slice(body).map_err(|error| malformed("JSON", &of_json(&error)))?;
    Ok(text.get().to_owned())
}

fn from_msgpack(body: &[u8]) -> Result<String, Rejected> {
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(body));
    reader.set_max_depth(MAX_DEPTH + 1);
    let value = Value::deserialize(&mut reader);
    let read = reader.get_ref().position();
    let value = value.map_err(|error| {
        let reason = of_messagepack(&error, read);
        malformed("MessagePack that JSON can express", &reason)
    })?;
    let rest = body.len() as u64 - read;
    if rest > 0 {
        return Err(malformed("MessagePack", &format!("{rest} bytes follow it")));
    }
    Ok(value.to_string())
}

/// The attributes that every CloudEvent has.
pub const REQUIRED_ATTRIBUTES: [&str; 4] = ["specversion", "id", "source", "type"];

/// CloudEvents' JSON event format, as it comes over HTTP. The event may lack
/// [`REQUIRED_ATTRIBUTES`].
///
/// # Errors
/// If it isn't JSON, or its data isn't, or its attributes are too large.
pub fn read_structured(body: &[u8]) -> Result<Content, Rejected> {
    structured_within(body, MAX_ATTRIBUTES)
}

/// The same, as it comes over AMQP: it has all [`REQUIRED_ATTRIBUTES`].
fn structured(body: &[u8]) -> Result<Content, Rejected> {
    let content = structured_within(body, LARGEST_MESSAGE)?;
    for required in REQUIRED_ATTRIBUTES {
        let attribute = content.attributes.get(required);
        if !attribute.is_some_and(Value::is_string) {
            return Err(malformed(FORMAT, &format!("`{required}` is missing")));
        }
    }
    Ok(content)
}

fn structured_within(body: &[u8], most_attributes: usize) -> Result<Content, Rejected> {
    // Two passes: serde's `flatten` buffers, and a buffer can't lend raw text.
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    at_most("the CloudEvent", body.len(), LARGEST_MESSAGE)?;
    let raw: Data<'_> = serde_json::from_slice(body).map_err(|error| no_cloudevent(&error))?;
    let beside = attributes_beside_data(body, most_attributes)?;
    let data = match (raw.data, beside.data_base64) {
        (Some(data), None) => data.get().to_owned(),
        (None, None) => "null".to_owned(),
        (None, Some(encoded)) => {
            let bytes = BASE64
                .decode(encoded)
                .map_err(|_| malformed(FORMAT, &"`data_base64` is not base64"))?;
            from_json(&bytes)?
        }
        (Some(_), Some(_)) => {
            return Err(malformed(
                FORMAT,
                &"`data` and `data_base64` exclude each other",
            ));
        }
    };
    Ok(Content {
        data,
        attributes: beside.attributes,
        size_of_attributes: beside.size,
    })
}

/// The members of a CloudEvent besides `data`.
#[derive(Default)]
struct Beside {
    attributes: Map<String, Value>,
    /// Of the attributes, as JSON.
    size: usize,
    data_base64: Option<String>,
}

/// The members besides `data`. The data isn't parsed, and nothing is before its size is
/// checked: as a `Value`, JSON takes up to 25 times its size.
fn attributes_beside_data(body: &[u8], most: usize) -> Result<Beside, Rejected> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(body).map_err(|error| no_cloudevent(&error))?;
    let mut beside = Beside::default();
    for (name, value) in members {
        if name == "data" {
            continue;
        }
        if name == "data_base64" {
            // Its size isn't bounded as the attributes' is, so only a text is parsed.
            let text = serde_json::from_str(value.get());
            let text = text.map_err(|_| malformed(FORMAT, &"`data_base64` is not base64"))?;
            beside.data_base64 = Some(text);
            continue;
        }
        beside.size += name.len() + value.get().len();
        at_most("what it has besides its data", beside.size, most)?;
        let value = serde_json::from_str(value.get()).map_err(|error| no_cloudevent(&error))?;
        beside.attributes.insert(name, value);
    }
    Ok(beside)
}

fn no_cloudevent(error: &serde_json::Error) -> Rejected {
    malformed(FORMAT, &of_json(error))
}

/// The CloudEvents attributes among a message's headers.
fn binary_attributes(properties: &BasicProperties) -> Map<String, Value> {
    let mut attributes = Map::new();
    let Some(headers) = properties.headers() else {
        return attributes;
    };
    for (key, value) in headers.inner() {
        let name = CLOUDEVENTS_PREFIXES
            .iter()
            .find_map(|prefix| key.as_str().strip_prefix(prefix));
        if let (Some(name), Some(value)) = (name, header_value(value)) {
            attributes.insert(name.to_ascii_lowercase(), value);
        }
    }
    attributes
}

/// A header's value as JSON, if an attribute can have it.
pub fn header_value(value: &AMQPValue) -> Option<Value> {
    Some(match value {
        AMQPValue::LongString(text) => {
            Value::String(String::from_utf8_lossy(text.as_bytes()).into_owned())
        }
        AMQPValue::ShortString(text) => Value::String(text.to_string()),
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Timestamp(seconds) => {
            let at = OffsetDateTime::from_unix_timestamp(i64::try_from(*seconds).ok()?).ok()?;
            at.format(&Rfc3339).ok()?.into()
        }
        _ => return None,
    })
}

/// The header `occurred_at`, or else the property `timestamp` (Unix seconds).
fn occurred_at(properties: &BasicProperties) -> Result<Option<OffsetDateTime>, Rejected> {
    let header = properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get("occurred_at"));
    if let Some(value) = header {
        let text = header_value(value);
        let text = text
            .as_ref()
            .and_then(Value::as_str)
            .ok_or(Rejected::Time("the header `occurred_at`"))?;
        return parse_time("the header `occurred_at`", text).map(Some);
    }
    let Some(seconds) = *properties.timestamp() else {
        return Ok(None);
    };
    let at = i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    at.map(Some)
        .ok_or(Rejected::Time("the property `timestamp`"))
}

/// An RFC 3339 time, in UTC.
///
/// # Errors
/// Says what isn't one.
pub fn parse_time(what: &'static str, text: &str) -> Result<OffsetDateTime, Rejected> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        // The year 9999 in New York can be the year 10000 in UTC.
        .and_then(|at| at.checked_to_offset(time::UtcOffset::UTC))
        // PostgreSQL's resolution, so that a retry has the same time as the first try.
        .map(OffsetDateTime::truncate_to_microsecond)
        .ok_or(Rejected::Time(what))
}

/// Refuses what is larger than it may be.
///
/// # Errors
/// Names what, its size and the limit.
pub fn at_most(what: &'static str, size: usize, limit: usize) -> Result<(), Rejected> {
    if size > limit {
        Err(Rejected::TooLarge { what, size, limit })
    } else {
        Ok(())
    }
}

fn malformed(expected: &'static str, reason: &impl ToString) -> Rejected {
    Rejected::Malformed {
        expected,
        reason: reason.to_string(),
    }
}

/// The id of an event whose producer gave none.
pub fn id_for(event: &Event, uid: EventUid) -> EventId {
    event.id.clone().unwrap_or_else(|| uid.into())
}

#[cfg(test)]
mod tests;
