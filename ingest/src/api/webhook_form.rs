//! What a client sends to make or change a webhook, and what it may be.
//!
//! One form for all: the names of Posthorn and the documented ones of the
//! systems whose users it serves (`target_url`, `event_type`, `retries`,
//! `retryPolicy`). Everything is optional here; making a webhook insists on a
//! URL and events. Pure, but for the operator's rules on destinations.

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use shared::destination::Destinations;
use shared::dialect::Dialects;
use shared::retry::Retry;
use shared::secret::Secret;
use shared::webhook::Rate;
use std::collections::BTreeMap;
use std::time::Duration;

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
/// The highest rate limit, in deliveries a period.
const MAX_RATE: u32 = 100_000_000;
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    #[serde(alias = "target_url")]
    url: Option<String>,
    #[serde(default, alias = "event_type", deserialize_with = "one_or_many")]
    events: Option<Vec<String>>,
    secret: Option<String>,
    description: Option<String>,
    active: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    filters: Option<Option<Value>>,
    headers: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "present")]
    timeout: Option<Option<u64>>,
    retries: Option<u16>,
    #[serde(default, alias = "retryPolicy", deserialize_with = "present")]
    retry_policy: Option<Option<Retry>>,
    #[serde(default, alias = "rateLimit", deserialize_with = "present")]
    rate_limit: Option<Option<Value>>,
    #[serde(alias = "debugMode")]
    debug_mode: Option<bool>,
    signing: Option<Signing>,
    /// Kept in `metadata`: a webhook belongs to the tenant that makes it.
    client_id: Option<Value>,
    /// Another way to say `active`.
    status: Option<StatusForm>,
    #[serde(default, deserialize_with = "present")]
    dialect: Option<Option<String>>,
    metadata: Option<Map<String, Value>>,
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
    /// What it says of retries; `Some(None)`: nothing.
    pub retry: Option<Option<Retry>>,
    /// How many attempts in what time; `Some(None)`: no limit.
    pub rate: Option<Option<Rate>>,
    /// Whether requests and answers are kept whole.
    pub debug_mode: Option<bool>,
    /// Whether an ed25519 key signs besides the secret.
    pub signs_with_key: Option<bool>,
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
        let mut metadata = self.metadata;
        if let Some(client) = self.client_id {
            let metadata = metadata.get_or_insert_default();
            metadata.entry("client_id").or_insert(client);
        }
        if let Some(metadata) = &metadata {
            let metadata = Value::Object(metadata.clone());
            if metadata.to_string().len() > MAX_METADATA {
                let bound = format!("must be at most {MAX_METADATA} bytes of JSON");
                return Err(Problem::field("metadata", bound));
            }
            storable("metadata", &metadata)?;
        }
        if self.active.is_some() && self.status.is_some() {
            return Err(Problem::field("status", "and `active` exclude each other"));
        }
        let status = self.status.map(|status| status == StatusForm::Active);
        let retry = retry(self.retries, self.retry_policy)?;
        let rate = match self.rate_limit {
            Some(Some(form)) => Some(Some(rate(form)?)),
            other => other.map(|_| None),
        };
        Ok(Checked {
            url: self.url,
            events: self.events,
            secret,
            description: self.description,
            active: self.active.or(status),
            filters: self.filters,
            headers: self.headers.map(|headers| headers.into_iter().collect()),
            timeout,
            retry,
            rate,
            debug_mode: self.debug_mode,
            signs_with_key: self
                .signing
                .map(|signing| matches!(signing, Signing::Ed25519)),
            dialect: self.dialect,
            metadata,
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

/// From `retries`, which is a number alone, or from all that can be said.
fn retry(retries: Option<u16>, policy: Option<Option<Retry>>) -> Result<Option<Option<Retry>>> {
    let (field, retry) = match (retries, policy) {
        (Some(_), Some(_)) => {
            return Err(Problem::field(
                "retries",
                "and `retry_policy` exclude each other",
            ));
        }
        (None, None) => return Ok(None),
        (None, Some(None)) => return Ok(Some(None)),
        (Some(retries), None) => {
            let retry = Retry {
                max_retries: Some(retries),
                ..Retry::default()
            };
            ("retries", retry)
        }
        (None, Some(Some(retry))) => ("retry_policy", retry),
    };
    retry
        .check()
        .map_err(|error| Problem::field(field, error.to_string()))?;
    Ok(Some(Some(retry)))
}

/// A rate as it is sent, unless it is a number of deliveries a second.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateForm {
    limit: u32,
    per: Period,
}

/// A rate limit's period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Period {
    /// Its length in seconds.
    pub fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }

    /// Of that length.
    pub fn of(length: Duration) -> Option<Self> {
        [Self::Second, Self::Minute, Self::Hour]
            .into_iter()
            .find(|period| u64::from(period.seconds()) == length.as_secs())
    }
}

fn rate(form: Value) -> Result<Rate> {
    let form = match form {
        Value::Number(limit) => json!({ "limit": limit, "per": "second" }),
        form => form,
    };
    let RateForm { limit, per } = serde_json::from_value(form).map_err(|error| {
        let forms = "must be deliveries a second, or have `limit` and `per` (second, minute, hour)";
        Problem::field("rate_limit", format!("{forms}: {error}"))
    })?;
    if !(1..=MAX_RATE).contains(&limit) {
        return Err(Problem::field(
            "rate_limit",
            format!("must be between 1 and {MAX_RATE}"),
        ));
    }
    Ok(Rate {
        limit,
        period: Duration::from_secs(u64::from(per.seconds())),
    })
}

/// `status` as Corp Astro's clients send it.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StatusForm {
    Active,
    Inactive,
}

/// What a webhook signs with besides its secret.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Signing {
    Hmac,
    Ed25519,
}

/// A string stands for a list of one.
fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an event type or a list of them")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
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
        let said = |body| check(body).unwrap().retry.unwrap().unwrap();
        assert_eq!(said(json!({"retries": 3})).max_retries, Some(3));
        let retry = said(json!({"retryPolicy": {"maxRetries": 2, "retryDelay": 5000}}));
        assert_eq!(
            (retry.max_retries, retry.retry_delay),
            (Some(2), Some(5000))
        );
        let retry = said(json!({"retry_policy": {"delays": [1, 2]}}));
        assert_eq!(retry.delays, Some(vec![1, 2]));
        let none = check(json!({"retry_policy": null})).unwrap().retry;
        assert_eq!(none, Some(None));
        assert!(check(json!({})).unwrap().retry.is_none());
    }

    #[test]
    fn a_rate_is_a_number_a_second_or_of_a_period() {
        let rate = |body| check(json!({"rate_limit": body})).unwrap().rate.unwrap();
        let of = |limit, seconds| {
            let period = Duration::from_secs(seconds);
            Some(Rate { limit, period })
        };
        assert_eq!(rate(json!(5)), of(5, 1));
        assert_eq!(rate(json!({"limit": 1000, "per": "hour"})), of(1000, 3600));
        assert_eq!(rate(Value::Null), None);
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
            (json!({"rate_limit": 0}), ["rate_limit", "1 and 100000000"]),
            (
                json!({"rate_limit": {"limit": 1, "per": "day"}}),
                ["rate_limit", "limit"],
            ),
            (json!({"signing": "rsa"}), ["ed25519", "rsa"]),
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
