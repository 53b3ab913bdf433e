//! What a client sends to make or change a webhook, and what it may be.
//!
//! One form for all: the names of Posthorn and the documented ones of the
//! systems whose users it serves (`target_url`, `event_type`, `retries`,
//! `retryPolicy`). Everything is optional here; making a webhook insists on a
//! URL and events. Pure, but for the operator's rules on destinations.

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use shared::destination::Destinations;
use shared::dialect::Dialects;
use shared::retry::{MAX_ATTEMPTS, MAX_DELAY, Pauses, Schedule};
use shared::webhook::Secret;
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

use super::dialects::check_dialect;
use super::problem::{Problem, Result};
use crate::matching::{Filter, Pattern};

/// The most patterns of a webhook.
const MAX_PATTERNS: usize = 100;
/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 1024;
/// The most headers of a webhook.
const MAX_HEADERS: usize = 20;
/// The longest value of a header, in bytes.
const MAX_HEADER: usize = 1024;
/// The largest metadata, in bytes of JSON.
const MAX_METADATA: usize = 4096;
/// Headers that are Posthorn's or the connection's own.
const RESERVED_HEADERS: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// JSON that `jsonb` can hold: anything without U+0000.
fn storable(field: &str, value: &Value) -> Result<()> {
    if value.to_string().contains("\\u0000") {
        return Err(Problem::field(
            field,
            "must not contain the character U+0000",
        ));
    }
    Ok(())
}

/// The body of a create or an update.
#[derive(Deserialize, ToSchema)]
#[schema(as = WebhookForm)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// Where deliveries go: HTTPS, at a public address.
    #[serde(alias = "target_url", alias = "targetUrl")]
    #[schema(
        max_length = 2048, nullable = false, example = "https://example.com/hooks",
        extensions(("x-also" = json!(["target_url", "targetUrl"])))
    )]
    url: Option<String>,
    /// Patterns of event types: `order.created`, `order.*`, `*`. A string stands for a list of one.
    #[serde(
        default,
        alias = "event_type",
        alias = "eventType",
        deserialize_with = "one_or_many"
    )]
    #[schema(
        value_type = OneOrMany, required = false, example = json!(["order.*"]),
        extensions(("x-also" = json!(["event_type", "eventType"])))
    )]
    events: Option<Vec<String>>,
    /// Generated unless given.
    #[schema(min_length = 8, max_length = 256, nullable = false)]
    secret: Option<String>,
    /// For people.
    #[schema(max_length = 1024, nullable = false, example = "the shop")]
    description: Option<String>,
    /// Whether it gets deliveries.
    #[schema(nullable = false)]
    active: Option<bool>,
    /// Which events it wants; `null`: all that match `events`.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>, example = json!({"total": {"$gte": 10}}))]
    filters: Option<Option<Value>>,
    /// Sent with every delivery.
    #[schema(nullable = false, example = json!({"X-Api-Key": "…"}))]
    headers: Option<BTreeMap<String, String>>,
    /// How long the endpoint has to answer, in milliseconds; `null`: the dialect's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 1000, maximum = 60_000, example = 30_000)]
    timeout: Option<Option<u64>>,
    /// How many retries, doubling from a second. Instead of `retry_policy`.
    #[schema(maximum = 49, nullable = false)]
    retries: Option<u16>,
    /// `null`: the dialect's.
    #[serde(default, alias = "retryPolicy", deserialize_with = "present")]
    #[schema(value_type = Option<RetryPolicy>, extensions(("x-also" = json!(["retryPolicy"]))))]
    retry_policy: Option<Option<RetryPolicy>>,
    /// `null`: the tenant's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "standard")]
    dialect: Option<Option<String>>,
    /// For programs: at most 4,096 bytes of JSON.
    #[schema(value_type = Object, required = false)]
    metadata: Option<Map<String, Value>>,
}

/// When a delivery is tried again, in milliseconds throughout: `delays`, or the
/// others but `jitter`.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewRetryPolicy)]
#[serde(deny_unknown_fields)]
struct RetryPolicy {
    /// One pause per retry.
    #[schema(max_items = 49, nullable = false)]
    delays: Option<Vec<u64>>,
    #[serde(alias = "maxRetries")]
    #[schema(maximum = 49, nullable = false, extensions(("x-also" = json!(["maxRetries"]))))]
    max_retries: Option<u16>,
    /// The first pause.
    #[serde(alias = "retryDelay")]
    #[schema(maximum = 86_400_000, nullable = false, extensions(("x-also" = json!(["retryDelay"]))))]
    retry_delay: Option<u64>,
    /// Each pause is this many times the one before; 2 unless set.
    #[schema(minimum = 1, maximum = 10, nullable = false)]
    factor: Option<f64>,
    /// No pause is longer; a day unless set.
    #[schema(maximum = 86_400_000, nullable = false)]
    cap: Option<u64>,
    /// The share that is added at random.
    #[schema(minimum = 0, maximum = 1, nullable = false)]
    jitter: Option<f64>,
}

/// A form whose every member is within bounds. `None`: not to be changed.
#[derive(Debug, Default)]
pub struct Checked {
    /// Where deliveries go.
    pub url: Option<String>,
    /// Patterns of event types.
    pub events: Option<Vec<String>>,
    /// The signing secret.
    pub secret: Option<Secret>,
    /// For people.
    pub description: Option<String>,
    /// Whether it gets deliveries.
    pub active: Option<bool>,
    /// Which events it wants; `Some(None)` takes the filter away.
    pub filters: Option<Option<Value>>,
    /// Sent with every delivery.
    pub headers: Option<Vec<(String, String)>>,
    /// Milliseconds; `Some(None)`: the default.
    pub timeout: Option<Option<i32>>,
    /// The schedule of retries; `Some(None)`: the default.
    pub retry: Option<Option<Schedule>>,
    /// `Some(None)`: the tenant's.
    pub dialect: Option<Option<String>>,
    /// For programs.
    pub metadata: Option<Map<String, Value>>,
}

impl Form {
    /// Checks every member.
    ///
    /// # Errors
    /// Names the member and its bound.
    pub fn check(self, destinations: &Destinations, dialects: &Dialects) -> Result<Checked> {
        if let Some(url) = &self.url {
            destinations
                .check(url)
                .map_err(|error| Problem::field("url", error.to_string()))?;
        }
        if let Some(events) = &self.events {
            check_events(events)?;
        }
        let secret = self.secret.as_deref().map(Secret::parse).transpose();
        let secret = secret.map_err(|error| Problem::field("secret", error.to_string()))?;
        if self
            .description
            .as_ref()
            .is_some_and(|text| text.len() > MAX_DESCRIPTION || text.contains('\0'))
        {
            return Err(Problem::field(
                "description",
                format!("must be at most {MAX_DESCRIPTION} bytes, without NUL"),
            ));
        }
        if let Some(Some(filter)) = &self.filters {
            Filter::parse(filter).map_err(|error| Problem::field("filters", error.to_string()))?;
            storable("filters", filter)?;
        }
        if let Some(headers) = &self.headers {
            check_headers(headers)?;
        }
        let timeout = match self.timeout {
            Some(Some(ms)) if !(1_000..=60_000).contains(&ms) => {
                return Err(Problem::field(
                    "timeout",
                    "must be between 1000 and 60000 (ms)",
                ));
            }
            other => other.map(|ms| ms.map(|ms| ms as i32)),
        };
        if let Some(Some(dialect)) = &self.dialect {
            check_dialect(dialect, dialects)?;
        }
        if let Some(metadata) = &self.metadata {
            let metadata = Value::Object(metadata.clone());
            if metadata.to_string().len() > MAX_METADATA {
                let bound = format!("must be at most {MAX_METADATA} bytes of JSON");
                return Err(Problem::field("metadata", bound));
            }
            storable("metadata", &metadata)?;
        }
        let retry = schedule(self.retries, self.retry_policy)?;
        Ok(Checked {
            url: self.url,
            events: self.events,
            secret,
            description: self.description,
            active: self.active,
            filters: self.filters,
            headers: self.headers.map(|headers| headers.into_iter().collect()),
            timeout,
            retry,
            dialect: self.dialect,
            metadata: self.metadata,
        })
    }
}

fn check_events(events: &[String]) -> Result<()> {
    if events.is_empty() || events.len() > MAX_PATTERNS {
        return Err(Problem::field(
            "events",
            format!("must have 1 to {MAX_PATTERNS} entries"),
        ));
    }
    for (at, event) in events.iter().enumerate() {
        event
            .parse::<Pattern>()
            .map_err(|error| Problem::field(format!("events[{at}]"), error.to_string()))?;
    }
    Ok(())
}

fn check_headers(headers: &BTreeMap<String, String>) -> Result<()> {
    if headers.len() > MAX_HEADERS {
        return Err(Problem::field(
            "headers",
            format!("must have at most {MAX_HEADERS} entries"),
        ));
    }
    for (name, value) in headers {
        let wrong = |reason: &str| Problem::field(format!("headers.{name}"), reason.to_owned());
        let parsed =
            HeaderName::try_from(name).map_err(|_| wrong("is not a header name (RFC 9110)"))?;
        if RESERVED_HEADERS.contains(&parsed.as_str()) || parsed.as_str().starts_with("webhook-") {
            return Err(wrong("is set by Posthorn or by the connection"));
        }
        if value.len() > MAX_HEADER {
            return Err(wrong(&format!("must be at most {MAX_HEADER} bytes")));
        }
        HeaderValue::from_str(value)
            .map_err(|_| wrong("has characters that a header value can't have"))?;
    }
    Ok(())
}

/// From `retries` (doubling from a second) or a policy of its own.
fn schedule(
    retries: Option<u16>,
    policy: Option<Option<RetryPolicy>>,
) -> Result<Option<Option<Schedule>>> {
    let (field, schedule) = match (retries, policy) {
        (Some(_), Some(_)) => {
            return Err(Problem::field(
                "retries",
                "and `retry_policy` exclude each other",
            ));
        }
        (None, None) => return Ok(None),
        (None, Some(None)) => return Ok(Some(None)),
        (Some(retries), None) => (
            "retries",
            Schedule::doubling(Duration::from_secs(1), retries),
        ),
        (None, Some(Some(policy))) => ("retry_policy", policy.schedule()?),
    };
    schedule
        .check()
        .map_err(|error| Problem::field(field, error.to_string()))?;
    Ok(Some(Some(schedule)))
}

impl RetryPolicy {
    fn schedule(self) -> Result<Schedule> {
        let jitter = self.jitter.unwrap_or(0.0);
        let rule = self.max_retries.is_some()
            || self.retry_delay.is_some()
            || self.factor.is_some()
            || self.cap.is_some();
        let pauses = match (self.delays, rule) {
            (Some(delays), false) => Pauses::Delays(delays),
            (None, true) => Pauses::Exponential {
                first: self.retry_delay.unwrap_or(5_000),
                factor: self.factor.unwrap_or(2.0),
                cap: self.cap.unwrap_or(MAX_DELAY.as_millis() as u64),
                retries: self.max_retries.unwrap_or(3),
            },
            _ => {
                return Err(Problem::field(
                    "retry_policy",
                    format!(
                        "must have either `delays` (ms, at most {}) or `max_retries` and `retry_delay` (ms)",
                        MAX_ATTEMPTS - 1
                    ),
                ));
            }
        };
        Ok(Schedule { pauses, jitter })
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected an event type or a list of them")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A string stands for a list of one.
fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

/// Tells `null` (`Some(None)`) from what is missing (`None`).
fn present<'de, D, T>(deserializer: D) -> std::result::Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(body: Value) -> Result<Checked> {
        let form: Form = serde_json::from_value(body)
            .map_err(|error| Problem::bad_request(error.to_string()))?;
        form.check(&Destinations::default(), &Dialects::embedded())
    }

    fn refused(body: Value) -> String {
        format!("{:?}", check(body).unwrap_err())
    }

    #[test]
    fn both_vocabularies_are_understood() {
        let ours = check(json!({"url": "https://example.com/", "events": ["a.b"]})).unwrap();
        let theirs =
            check(json!({"target_url": "https://example.com/", "event_type": "a.b"})).unwrap();
        assert_eq!((ours.url, ours.events), (theirs.url, theirs.events));
    }

    #[test]
    fn retries_come_in_three_forms() {
        let millis = |checked: Checked| {
            let schedule = checked.retry.unwrap().unwrap();
            (1..)
                .map_while(|n| schedule.pause_after(n, 0.0))
                .map(|p| p.as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            millis(check(json!({"retries": 3})).unwrap()),
            [1_000, 2_000, 4_000]
        );
        let policy = json!({"retryPolicy": {"maxRetries": 2, "retryDelay": 5000}});
        assert_eq!(millis(check(policy).unwrap()), [5_000, 10_000]);
        assert_eq!(
            millis(check(json!({"retry_policy": {"delays": [1, 2]}})).unwrap()),
            [1, 2]
        );
        assert!(
            check(json!({"retry_policy": null}))
                .unwrap()
                .retry
                .unwrap()
                .is_none()
        );
        assert!(check(json!({})).unwrap().retry.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_bound() {
        for (body, words) in [
            (json!({"url": "http://example.com"}), ["\"url\"", "https"]),
            (
                json!({"url": "https://127.0.0.1/"}),
                ["\"url\"", "not a public"],
            ),
            (json!({"events": []}), ["\"events\"", "1 to 100"]),
            (json!({"events": ["a.b", "a*b"]}), ["events[1]", "*"]),
            (json!({"secret": "short"}), ["secret", "8 to 256"]),
            (
                json!({"filters": {"a": {"$near": 1}}}),
                ["filters", "$near"],
            ),
            (json!({"timeout": 10}), ["timeout", "1000 and 60000"]),
            (json!({"retries": 50}), ["retries", "49"]),
            (
                json!({"retries": 1, "retry_policy": {"delays": []}}),
                ["retries", "exclude"],
            ),
            (
                json!({"headers": {"Host": "x"}}),
                ["headers.Host", "Posthorn"],
            ),
            (
                json!({"headers": {"X": "a\r\nb: c"}}),
                ["headers.X", "characters"],
            ),
            (
                json!({"headers": {"a b": "x"}}),
                ["headers.a b", "header name"],
            ),
            (json!({"dialect": "klingon"}), ["dialect", "klingon"]),
            (
                json!({"metadata": {"a": "x".repeat(5000)}}),
                ["metadata", "4096"],
            ),
            (json!({"metadata": {"a": "\u{0}"}}), ["metadata", "U+0000"]),
            (json!({"urll": "x"}), ["urll", "unknown field"]),
        ] {
            let error = refused(body.clone());
            for word in words {
                assert!(
                    error.contains(word),
                    "{word} is missing in {error} for {body}"
                );
            }
        }
    }
}
