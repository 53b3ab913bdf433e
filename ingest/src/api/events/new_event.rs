//! An event as a client sends it, and what can be said of it without its tenant's catalogue.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use shared::ids::{EventId, EventType, EventUid, Tenant};
use shared::tenant::LARGEST_MAX_PAYLOAD;
use utoipa::ToSchema;

use crate::api::http::problem::{Problem, Result};
use crate::decode::{Event, Rejected, parse_time};
use crate::invalid::{Gathered, Invalid};
use crate::json_text::{MAX_DEPTH, depth};

/// The largest body of a batch, in bytes.
pub const MAX_BATCH_BODY: usize = 8 * 1024 * 1024;
/// The most events of a batch.
pub const MAX_BATCH: usize = 1_000;

/// Reads the events of a batch. Of more than [`MAX_BATCH`] it keeps one more than that, by
/// which the batch is refused: 8 MiB have room for four million entries.
///
/// # Errors
/// If it isn't a list, or an entry can't be read.
pub(super) fn read_batch<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> std::result::Result<Vec<T>, D::Error> {
    from.deserialize_seq(Entries(PhantomData))
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<T>, A::Error> {
        let mut entries = Vec::new();
        while entries.len() <= MAX_BATCH {
            match seq.next_element()? {
                Some(entry) => entries.push(entry),
                None => return Ok(entries),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(entries)
    }
}

/// Something that happened.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "order-4711-created", "type": "order.created",
    "occurred_at": "2026-01-31T10:00:00Z", "data": {"order": 4711, "total": 25.0}
}))]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    #[serde(
        rename = "type",
        alias = "event",
        alias = "event_type",
        alias = "eventType"
    )]
    #[schema(value_type = EventType)]
    pub event_type: String,
    /// Makes publishing idempotent: an event whose id is known isn't taken again.
    #[serde(alias = "event_id", alias = "eventId")]
    #[schema(value_type = Option<EventId>, extensions(("x-also" = json!(["event_id", "eventId"]))))]
    pub id: Option<String>,
    /// When it happened; now unless set.
    #[serde(alias = "occurredAt", alias = "timestamp", alias = "created")]
    #[schema(
        format = DateTime,
        extensions(("x-also" = json!(["occurredAt", "timestamp", "created"])))
    )]
    pub occurred_at: Option<String>,
    /// Taken because producers for BrainSAIT send it. The token says whose event it is.
    #[serde(alias = "tenantId")]
    #[schema(value_type = Option<String>)]
    pub tenant_id: Option<IgnoredAny>,
    /// Taken because producers for BrainSAIT send it. The dialect says what is delivered.
    #[serde(alias = "apiVersion")]
    #[schema(value_type = Option<String>)]
    pub api_version: Option<IgnoredAny>,
    /// Any JSON, at most 262,144 bytes unless the tenant has another limit, and 100 levels deep.
    /// Arrives as it was sent.
    #[serde(alias = "payload")]
    #[schema(
        value_type = serde_json::Value, example = json!({"total": 25.00, "currency": "EUR"}),
        extensions(("x-also" = json!(["payload"])))
    )]
    pub data: Box<RawValue>,
    /// A CloudEvent's other attributes.
    #[serde(skip)]
    pub attributes: Option<serde_json::Value>,
    /// What is wrong with it already: [`Self::check`] adds to it.
    #[serde(skip)]
    pub wrong: Gathered,
}

impl NewEvent {
    /// One that somebody entered.
    #[must_use]
    pub fn by_hand(event_type: String, id: Option<String>, data: Box<RawValue>) -> Self {
        Self {
            event_type,
            id,
            occurred_at: None,
            tenant_id: None,
            api_version: None,
            data,
            attributes: None,
            wrong: Gathered::default(),
        }
    }

    /// An event that is one, as far as that can be said without its tenant's catalogue.
    ///
    /// # Errors
    /// Names each member that is wrong, and its bound.
    pub fn check(self, tenant: &Tenant) -> Result<Event> {
        let mut wrong = self.wrong;
        // A CloudEvent without a type was blamed for that already.
        let event_type = match self.event_type.is_empty() && !wrong.is_empty() {
            true => None,
            false => {
                let event_type = self.event_type.parse::<EventType>();
                wrong.keep(event_type.map_err(|error| Invalid::new("type", error)))
            }
        };
        let id = self.id.map(|id| id.parse::<EventId>()).transpose();
        let id = wrong.take(id.map_err(|error| Invalid::new("id", error)));
        if self.data.get().len() > LARGEST_MAX_PAYLOAD {
            let size = self.data.get().len();
            let bound = format!("data is {size} bytes; at most {LARGEST_MAX_PAYLOAD} are allowed");
            return Err(Problem::too_large(bound).of_field("data"));
        }
        if depth(self.data.get()) > MAX_DEPTH {
            let bound = format!("is nested more than {MAX_DEPTH} levels deep");
            wrong.add(Invalid::new("data", bound));
        }
        let occurred_at = self.occurred_at.as_deref();
        let occurred_at = occurred_at.map(|text| parse_time("occurred_at", text));
        let no_time = |_| Invalid::new("occurred_at", "must be an RFC 3339 time");
        let occurred_at = wrong.take(occurred_at.transpose().map_err(no_time));
        let event = event_type.map(|event_type| Event {
            tenant: tenant.clone(),
            event_type,
            id: Some(id.unwrap_or_else(|| EventUid::generate().into())),
            occurred_at,
            data: Box::<str>::from(self.data).into_string(),
            attributes: self.attributes,
            over_http: true,
            trace: None,
            presumed: None,
        });
        Ok(wrong.finish_with(event)?)
    }
}

/// What an event's catalogue has against it.
pub(super) fn refused(reason: Rejected) -> Problem {
    match reason {
        Rejected::TooLarge { size, limit, .. } => {
            Problem::too_large(format!("data is {size} bytes; at most {limit} are allowed"))
                .of_field("data")
        }
        Rejected::Conflict { .. } => Problem::conflict(reason.to_string()).of_field("id"),
        Rejected::Unfit(unfit) => Problem::field(unfit.field(), unfit.to_string()),
        Rejected::Revoked => Problem::unauthorized(),
        other => Problem::field("data", other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_batch_with_too_many_entries_one_more_than_the_most_is_kept() {
        let read = |entries: usize| {
            let text = format!("[{}]", vec!["0"; entries].join(","));
            let mut from = serde_json::Deserializer::from_str(&text);
            let kept = read_batch::<_, &RawValue>(&mut from).unwrap().len();
            from.end().unwrap();
            kept
        };
        assert_eq!(read(MAX_BATCH), MAX_BATCH);
        assert_eq!(read(100_000), MAX_BATCH + 1);
    }
}
