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
use tokio::task::yield_now;

use crate::api::events::new_event::{MAX_BATCH_BODY, NewEvent, read_batch};
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{MAX_BODY, read_body, read_json};
use crate::decode::{self, Content, REQUIRED_ATTRIBUTES, Rejected};
use crate::invalid::{Gathered, Invalid};
use crate::plain_words::of_json;

/// What all events of a batch may have besides their data, in bytes. Parsed, it takes up to 100
/// times as many.
const MAX_ATTRIBUTES: usize = 1024 * 1024;
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
                Ok(read_structured(&body)?.into())
            }
            "application/cloudevents-batch+json" => {
                let body = read_body(request, MAX_BATCH_BODY).await?;
                let (mut events, mut size) = (Vec::new(), 0);
                for event in entries(&body)? {
                    let content = content(event.get().as_bytes());
                    size += content.as_ref().map_or(0, |read| read.size_of_attributes);
                    if size > MAX_ATTRIBUTES {
                        return Err(Problem::too_large(format!(
                            "the events of a batch may have at most {MAX_ATTRIBUTES} bytes \
                             besides their data"
                        )));
                    }
                    let event =
                        content.and_then(|read| of_cloudevent(read, "", Gathered::default()));
                    events.push(event);
                    // So many take a while, and so do others' requests.
                    yield_now().await;
                }
                Ok(Self::Batch(events))
            }
            _ if headers.contains_key("ce-specversion") => {
                let body = read_body(request, LARGEST_MESSAGE).await?;
                let data = decode::data(&media_type, content_type, &body).map_err(unreadable)?;
                let mut wrong = Gathered::default();
                let attributes = attributes(&headers, &mut wrong);
                let content = Content {
                    data,
                    attributes,
                    size_of_attributes: 0,
                };
                Ok(of_cloudevent(content, PREFIX, wrong)?.into())
            }
            _ => {
                let mut event: NewEvent = read_json(request, MAX_BODY).await?;
                event.id = event.id.or(key);
                Ok(event.into())
            }
        }
    }
}

/// The entries of a batch of CloudEvents, as they are written.
fn entries(body: &[u8]) -> Result<Vec<&RawValue>> {
    let mut from = serde_json::Deserializer::from_slice(body);
    let entries = read_batch(&mut from).and_then(|entries| from.end().map(|()| entries));
    entries.map_err(|error| {
        let reason = of_json(&error);
        Problem::bad_request(format!(
            "the body is not a batch of CloudEvents in JSON: {reason}"
        ))
    })
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
fn attributes(headers: &HeaderMap, wrong: &mut Gathered) -> Map<String, Value> {
    let mut attributes = Map::new();
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
        // One that is wrong is there all the same: it is not missing.
        let value = wrong.keep(value).map(std::borrow::Cow::into_owned);
        attributes.insert(attribute.to_owned(), value.into());
    }
    attributes
}

fn read_structured(event: &[u8]) -> Result<NewEvent> {
    of_cloudevent(content(event)?, "", Gathered::default())
}

fn content(event: &[u8]) -> Result<Content> {
    decode::read_structured(event).map_err(unreadable)
}

/// What is wrong with the attributes is refused with what [`NewEvent::check`] finds. `prefix` is
/// what their names begin with in the request.
fn of_cloudevent(content: Content, prefix: &str, mut wrong: Gathered) -> Result<NewEvent> {
    let mut attributes = content.attributes;
    for required in REQUIRED_ATTRIBUTES {
        let field = format!("{prefix}{required}");
        match attributes.get(required) {
            Some(Value::String(text)) if !text.is_empty() => {
                if required == "specversion" && text != "1.0" {
                    wrong.add(Invalid::new(field, "must be `1.0`"));
                }
            }
            Some(Value::String(_)) | None => wrong.add(Invalid::missing(field)),
            // A header that can't be read was named already.
            Some(Value::Null) if !prefix.is_empty() => {}
            Some(_) => wrong.add(Invalid::new(field, "must be a string")),
        }
    }
    let time = attributes.get("time");
    if prefix.is_empty() && time.is_some_and(|time| !time.is_string()) {
        wrong.add(Invalid::new("time", "must be an RFC 3339 time"));
    }
    let mut take = |name: &str| match attributes.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (id, event_type, occurred_at) = (take("id"), take("type"), take("time"));
    let attributes = Value::Object(attributes);
    wrong.take(crate::json_text::check_storable("attributes", &attributes));
    Ok(NewEvent {
        event_type: event_type.unwrap_or_default(),
        id,
        occurred_at,
        tenant_id: None,
        api_version: None,
        data: RawValue::from_string(content.data).map_err(anyhow::Error::new)?,
        attributes: Some(attributes),
        wrong,
    })
}

/// A body that isn't what its content type says.
fn unreadable(rejected: Rejected) -> Problem {
    match rejected {
        Rejected::ContentType(_) => Problem::media_type(),
        Rejected::TooLarge { .. } => Problem::too_large(rejected.to_string()),
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
    }

    #[tokio::test]
    async fn what_the_events_of_a_batch_have_besides_their_data_is_bounded_together() {
        let kind = ("content-type", "application/cloudevents-batch+json");
        let subject = "a".repeat(60_000);
        let event = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/","type":"a","subject":"{subject}","data":1}}"#
        );
        for (events, is_taken) in [(17, true), (18, false)] {
            let body = format!("[{}]", vec![event.as_str(); events].join(","));
            let read = read(&[kind], &body).await;
            assert_eq!(read.is_ok(), is_taken, "{events}");
            if let Err(problem) = read {
                assert_eq!(problem.status(), 413);
            }
        }
    }

    #[tokio::test]
    async fn everything_that_is_wrong_with_a_cloudevent_is_named_at_once() {
        let blamed = |event: NewEvent| {
            let refused = event.check(&"acme".parse().unwrap());
            let problem = refused.map(|_| ()).unwrap_err();
            let (_, _, errors) = problem.into_blame();
            let errors = errors.into_iter();
            errors.map(|error| error.field).collect::<Vec<_>>()
        };
        let structured = ("content-type", "application/cloudevents+json");
        for (body, fields) in [
            ("{}", &["specversion", "id", "source", "type"][..]),
            (
                r#"{"specversion":"0.3","id":7,"source":"","type":"a..b","time":5}"#,
                &["specversion", "id", "source", "time", "type"][..],
            ),
            (
                r#"{"specversion":"1.0","id":"x","source":"/","type":"a..b"}"#,
                &["type"][..],
            ),
        ] {
            assert_eq!(blamed(one(&[structured], body).await), fields, "{body}");
        }
        let binary = [
            ("content-type", "application/json"),
            ("ce-specversion", "0.3"),
            ("ce-id", "%ff"),
            ("ce-type", "a..b"),
        ];
        let fields = ["ce-id", "ce-specversion", "ce-source", "type"];
        assert_eq!(blamed(one(&binary, "{}").await), fields);
    }
}
