//! A dead letter as the API shows it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lapin::types::AMQPValue;
use serde::Serialize;
use serde_json::{Map, Value};
use shared::amqp::{UNREADABLE_HEADER, Unreadable};
use shared::ids::DeadLetterId;
use utoipa::ToSchema;

use crate::api::http::problem::Problem;
use crate::api::openapi::words::DeadLetterQueue;
use crate::dead_letters::query::StoredLetter;
use crate::decode::header_value;
use crate::timestamp::Timestamp;

/// A dead letter: a message that was refused or unroutable.
#[derive(Serialize, ToSchema)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    /// `parking`: it was refused, or given up on. `unrouted`: no queue was bound for it.
    #[schema(value_type = DeadLetterQueue)]
    pub queue: String,
    /// Why it was refused.
    #[schema(example = "tenant `acme` does not exist")]
    pub reason: String,
    /// When it was taken from its queue.
    pub parked_at: Timestamp,
    /// The exchange that it was published to.
    #[schema(example = "posthorn.events")]
    pub exchange: String,
    #[schema(example = "acme.order.created")]
    pub routing_key: String,
    /// The tenant that it was meant for, which may not exist.
    #[schema(required)]
    pub tenant: Option<String>,
    #[schema(required)]
    pub message_id: Option<String>,
    #[schema(required, example = "application/json")]
    pub content_type: Option<String>,
    /// Its AMQP headers.
    pub headers: Map<String, Value>,
    /// The part that the AMQP client can't read; `null` for most messages.
    #[schema(required)]
    pub unreadable: Option<Raw>,
    /// The size of the body as it was published, in bytes.
    pub size: u32,
    /// Whether only the beginning of the body was kept, because no event may be that large.
    /// Then it can't be replayed.
    pub truncated: bool,
    /// The SHA-256 of the whole body, in hexadecimal, if it was truncated.
    #[schema(required)]
    pub sha256: Option<String>,
    /// Whether it can be published again and may be accepted then. `false`: what is wrong is in
    /// the message itself, or it can't be published as it was.
    pub replayable: bool,
    /// The first 1,024 bytes of the body, as text.
    pub body_excerpt: String,
}

impl DeadLetter {
    pub(super) fn new(shown: StoredLetter) -> Self {
        let properties = &shown.properties;
        let headers = properties.headers().clone().unwrap_or_default();
        let replayable = shown.is_replayable();
        let unreadable = Unreadable::carried_by(&headers).map(Raw::new);
        let headers = headers
            .inner()
            .iter()
            .filter(|(name, _)| name.as_str() != UNREADABLE_HEADER);
        Self {
            id: shown.id,
            queue: shown.queue,
            reason: shown.reason,
            parked_at: Timestamp(shown.id.made_at()),
            exchange: shown.exchange,
            routing_key: shown.routing_key,
            tenant: shown.tenant,
            message_id: shown.message_id,
            content_type: properties.content_type().as_ref().map(ToString::to_string),
            headers: headers
                .map(|(name, value)| (name.to_string(), header(value)))
                .collect(),
            unreadable,
            replayable,
            // Never negative.
            size: shown.whole.as_ref().map_or(shown.size as u32, |w| w.size),
            truncated: shown.whole.is_some(),
            sha256: shown.whole.map(|whole| hex::encode(whole.sha256)),
            body_excerpt: String::from_utf8_lossy(&shown.excerpt).into_owned(),
        }
    }
}

/// What a message was published with, where that can't be read.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterUnreadable)]
pub struct Raw {
    /// What is wrong with it.
    #[schema(example = "`message_id` is not UTF-8")]
    pub why: String,
    pub routing_key: Bytes,
    /// AMQP's property flags and values as they were sent, the first 4,096 bytes.
    pub properties: Bytes,
    /// All of the properties, in bytes.
    pub properties_size: u64,
}

/// Bytes that needn't be text.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterBytes)]
pub struct Bytes {
    /// ASCII, with the other bytes as `\xff`.
    pub escaped: String,
    pub base64: String,
}

impl Raw {
    fn new(unreadable: Unreadable) -> Self {
        let bytes = |bytes: &[u8]| Bytes {
            escaped: bytes.escape_ascii().to_string(),
            base64: BASE64.encode(bytes),
        };
        Self {
            routing_key: bytes(&unreadable.routing_key),
            properties: bytes(&unreadable.properties),
            properties_size: unreadable.size,
            why: unreadable.why,
        }
    }
}

/// A header for people: AMQP has more types than JSON.
fn header(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::Void => Value::Null,
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(header).collect(),
        AMQPValue::FieldTable(table) => table
            .inner()
            .iter()
            .map(|(name, value)| (name.to_string(), header(value)))
            .collect::<Map<_, _>>()
            .into(),
        other => header_value(other).unwrap_or_else(|| format!("{other:?}").into()),
    }
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
pub struct DeadLetterPage {
    pub dead_letters: Vec<DeadLetter>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<DeadLetterId>,
}

impl DeadLetterPage {
    /// From what was found, which is one more than the limit if there is a next page.
    pub(super) fn new(mut shown: Vec<StoredLetter>, limit: i64) -> Self {
        let more = shown.len() > limit as usize;
        shown.truncate(limit as usize);
        let next_cursor = shown.last().filter(|_| more).map(|last| last.id);
        Self {
            dead_letters: shown.into_iter().map(DeadLetter::new).collect(),
            next_cursor,
        }
    }
}

pub(super) fn unknown(id: DeadLetterId) -> Problem {
    Problem::not_found(format!("there is no dead letter {id}"))
}
