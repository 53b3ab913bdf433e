//! Reads the forms in which an event can be published over HTTP.
//!
//! | `Content-Type` | is |
//! |---|---|
//! | `application/json` | [`NewEvent`] |
//! | `application/json` and others with JSON in them, with the header `ce-specversion` | the data of a CloudEvent, whose attributes are `ce-` headers (binary mode) |
//! | `application/cloudevents+json` | a CloudEvent (structured mode) |
//! | `application/cloudevents-batch+json` | a list of them (batch mode) |
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>
//!
//! `Idempotency-Key` is the id of an event that has none.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use shared::tenant::LARGEST_MESSAGE;

use crate::api::events::new_event::{MAX_BATCH_BODY, NewEvent};
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{MAX_BODY, read_body, read_json};
use crate::decode::{self, Content, Rejected};
use crate::invalid::{Gathered, Invalid};
use crate::plain_words::of_json;

/// The prefix of headers with CloudEvents attributes.
const PREFIX: &str = "ce-";
/// The header with an event's id.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// A header's name that stands for [`IDEMPOTENCY_KEY`] in texts.
const IDEMPOTENCY_KEY_SHOWN: &str = "Idempotency-Key";

/// What a request publishes.
pub enum Incoming {
    One(Box<NewEvent>),
    /// Each is refused by itself.
    Batch(Vec<Result<NewEvent>>),
}

impl From<NewEvent> for Incoming {
    fn from(event: NewEvent) -> Self {
        Self::One(Box::new(event))
    }
}

impl<S: Send + Sync> FromRequest<S> for Incoming {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let headers = request.headers().clone();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = text(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default();
        let media_type = media_type.trim().to_ascii_lowercase();
        let key = idempotency_key(&headers)?;
        match media_type.as_str() {
            "application/cloudevents+json" => {
                let body = read_body(request, LARGEST_MESSAGE).await?;
                Ok(of_cloudevent(decode::structured(&body).map_err(unreadable)?)?.into())
            }
            "application/cloudevents-batch+json" => {
                let body = read_body(request, MAX_BATCH_BODY).await?;
                let events: Vec<&RawValue> = serde_json::from_slice(&body).map_err(|error| {
                    let reason = of_json(&error);
                    Problem::bad_request(format!(
                        "the body is not a batch of CloudEvents in JSON: {reason}"
                    ))
                })?;
                let event = |event: &RawValue| {
                    let content = decode::structured(event.get().as_bytes());
                    of_cloudevent(content.map_err(unreadable)?)
                };
                Ok(Self::Batch(events.into_iter().map(event).collect()))
            }
            _ if headers.contains_key("ce-specversion") => {
                let body = read_body(request, LARGEST_MESSAGE).await?;
                let data = decode::data(&media_type, content_type, &body).map_err(unreadable)?;
                let attributes = attributes(&headers)?;
                Ok(of_cloudevent(Content { data, attributes })?.into())
            }
            _ => {
                let mut event: NewEvent = read_json(request, MAX_BODY).await?;
                event.id = event.id.or(key);
                Ok(event.into())
            }
        }
    }
}

/// A text, in quotes or without.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let refuse = |reason: &str| Problem::field(IDEMPOTENCY_KEY_SHOWN, reason.to_owned());
    if keys.next().is_some() {
        return Err(refuse("is there more than once"));
    }
    let key = key.to_str().map_err(|_| refuse("must be visible ASCII"))?;
    let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
    let key = quoted.unwrap_or(key);
    key.parse::<shared::ids::EventId>()
        .map_err(|_| refuse("must be 1 to 255 visible ASCII characters"))?;
    Ok(Some(key.to_owned()))
}

/// The attributes among the headers. Their values are percent-encoded.
fn attributes(headers: &HeaderMap) -> Result<Map<String, Value>> {
    let mut attributes = Map::new();
    let mut wrong = Gathered::default();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        let value = value.to_str().ok();
        let value = value.and_then(|value| percent_decode_str(value).decode_utf8().ok());
        let value = value.filter(|value| !value.contains('\0'));
        let value = value.ok_or_else(|| {
            let bound = "must be ASCII, with other characters percent-encoded";
            Invalid::new(name.as_str(), bound)
        });
        let value = wrong.take(value).into_owned();
        attributes.insert(attribute.to_owned(), value.into());
    }
    for required in ["id", "source", "type"] {
        if !attributes.contains_key(required) {
            wrong.add(Invalid::missing(format!("{PREFIX}{required}")));
        }
    }
    Ok(wrong.finish(attributes)?)
}

fn of_cloudevent(content: Content) -> Result<NewEvent> {
    let mut attributes = content.attributes;
    if attributes.get("specversion").and_then(Value::as_str) != Some("1.0") {
        return Err(Problem::field("specversion", "must be `1.0`"));
    }
    let mut take = |name: &str| match attributes.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (id, event_type, occurred_at) = (take("id"), take("type"), take("time"));
    let attributes = Value::Object(attributes);
    crate::json_text::check_storable("attributes", &attributes)?;
    Ok(NewEvent {
        event_type: event_type.unwrap_or_default(),
        id,
        occurred_at,
        tenant_id: None,
        api_version: None,
        data: RawValue::from_string(content.data).map_err(anyhow::Error::new)?,
        attributes: Some(attributes),
    })
}

/// A body that isn't what its content type says.
fn unreadable(rejected: Rejected) -> Problem {
    match rejected {
        Rejected::ContentType(_) => Problem::media_type(),
        other => Problem::bad_request(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request as HttpRequest;

    use super::*;

    async fn read(headers: &[(&str, &str)], body: &str) -> Result<Incoming> {
        let mut request = HttpRequest::post("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        Incoming::from_request(request, &()).await
    }

    async fn one(headers: &[(&str, &str)], body: &str) -> NewEvent {
        match read(headers, body).await.unwrap() {
            Incoming::One(event) => *event,
            Incoming::Batch(_) => panic!("a batch"),
        }
    }

    #[tokio::test]
    async fn an_idempotency_key_is_the_id_of_an_event_without_one() {
        let json = ("content-type", "application/json");
        for (key, body, id) in [
            ("k-1", r#"{"type":"a","data":1}"#, "k-1"),
            ("\"k 1\"", r#"{"type":"a","data":1}"#, ""),
            ("\"k-1\"", r#"{"type":"a","data":1}"#, "k-1"),
            ("k-1", r#"{"type":"a","data":1,"id":"own"}"#, "own"),
        ] {
            let headers = [json, ("idempotency-key", key)];
            match read(&headers, body).await {
                Ok(Incoming::One(event)) => assert_eq!(event.id.as_deref(), Some(id)),
                Ok(Incoming::Batch(_)) => panic!("a batch"),
                Err(problem) => assert!(id.is_empty(), "{problem}"),
            }
        }
    }

    #[tokio::test]
    async fn a_cloudevent_has_the_same_meaning_in_each_mode() {
        let structured = r#"{"specversion":"1.0","id":"e 1","source":"/a%b","type":"order.created",
            "time":"2026-01-31T10:00:00Z","subject":"Zoë","data":{"total":25.00}}"#;
        let first = one(
            &[("content-type", "application/cloudevents+json")],
            structured,
        )
        .await;
        let binary = [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "e%201"),
            ("CE-Source", "/a%25b"),
            ("ce-type", "order.created"),
            ("ce-time", "2026-01-31T10:00:00Z"),
            ("ce-subject", "Zo%C3%AB"),
        ];
        let second = one(&binary, r#"{"total":25.00}"#).await;
        let batch = ("content-type", "application/cloudevents-batch+json");
        let Ok(Incoming::Batch(batch)) = read(&[batch], &format!("[{structured}, 1]")).await else {
            panic!("no batch");
        };
        let [Ok(third), Err(_)] = batch.as_slice() else {
            panic!("not one event and one refusal");
        };
        for event in [&second, third] {
            assert_eq!(event.id, first.id);
            assert_eq!(event.event_type, "order.created");
            assert_eq!(event.occurred_at, first.occurred_at);
            assert_eq!(event.data.get(), r#"{"total":25.00}"#);
            assert_eq!(event.attributes, first.attributes);
        }
        let missing = &binary[..3];
        assert!(read(missing, "{}").await.is_err());
    }
}
