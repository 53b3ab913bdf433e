//! What a client sends to make or change a webhook, and what it may be.
//!
//! One form for all: the names of Posthorn and the documented ones of the
//! systems whose users it serves (`target_url`, `event_type`, `retries`,
//! `retryPolicy`). Everything is optional here; making a webhook insists on a
//! URL and events. Pure, but for the operator's rules on destinations.

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::destination::Destinations;
use shared::dialect::Dialects;
use shared::headers::is_reserved;
use shared::retry::Retry;
use shared::secret::Secret;
use shared::webhook::{Rate, Status};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

use crate::form::{OneOrMany, check_dialect, one_or_many, present};
use crate::invalid::Invalid;
use crate::json_text::check_storable;
use crate::matching::{Filter, Pattern};

type Result<T> = std::result::Result<T, Invalid>;

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
/// The largest filter, in bytes of JSON.
pub const MAX_FILTER: usize = 16 * 1024;
/// The highest rate limit, in deliveries a period.
const MAX_RATE: u32 = 100_000_000;
/// The body of a create or an update.
#[derive(Deserialize, ToSchema)]
#[schema(
    as = WebhookForm,
    example = json!({
        "url": "https://example.com/hooks", "events": ["order.*"], "description": "the shop",
        "filters": {"total": {"$gte": 10}}, "retry_policy": {"max_retries": 5, "retry_delay": 10_000}
    })
)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// Where deliveries go: HTTPS, at a public address.
    #[serde(alias = "target_url", alias = "targetUrl")]
    #[schema(
        max_length = 2048, example = "https://example.com/hooks",
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
    #[schema(value_type = OneOrMany, required = false, example = json!(["order.*"]))]
    events: Option<Vec<String>>,
    /// Generated unless given.
    #[schema(min_length = 8, max_length = 256)]
    secret: Option<String>,
    /// For people.
    #[schema(max_length = 1024, example = "the shop")]
    description: Option<String>,
    /// Whether it gets deliveries.
    active: Option<bool>,
    /// Instead of `active`. `paused`: deliveries are held until it is active again.
    status: Option<StatusForm>,
    /// Whether it gets operational events (`webhook.disabled`), and those alone.
    operational: Option<bool>,
    /// Which events it wants; `null`: all that match `events`. At most 16,384 bytes of JSON.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>, example = json!({"total": {"$gte": 10}}))]
    filters: Option<Option<Value>>,
    /// Sent with every delivery.
    #[schema(example = json!({"X-Api-Key": "…"}))]
    headers: Option<BTreeMap<String, String>>,
    /// How long the endpoint has to answer, in milliseconds; `null`: the dialect's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 1000, maximum = 60_000, example = 30_000)]
    timeout: Option<Option<u64>>,
    /// How many retries, of the dialect's schedule. Instead of `retry_policy`.
    #[schema(maximum = 49)]
    retries: Option<u16>,
    /// What is said here changes the dialect's schedule; `null`: nothing does.
    #[serde(default, alias = "retryPolicy", deserialize_with = "present")]
    #[schema(value_type = Option<Retry>)]
    retry_policy: Option<Option<Retry>>,
    /// At most so many attempts: a number a second, or in a period; `null`: no limit.
    #[serde(default, alias = "rateLimit", deserialize_with = "present")]
    #[schema(value_type = Option<RateLimit>)]
    rate_limit: Option<Option<Value>>,
    /// Keeps requests and answers whole while it is on.
    #[serde(alias = "debugMode")]
    #[schema(extensions(("x-also" = json!(["debugMode"]))))]
    debug_mode: Option<bool>,
    /// `ed25519`: a key signs besides the secret, where the dialect has a place for it.
    signing: Option<Signing>,
    /// `null`: the tenant's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "standard")]
    dialect: Option<Option<String>>,
    /// For programs: at most 4,096 bytes of JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// Kept in `metadata`: a webhook belongs to the tenant that makes it.
    #[serde(alias = "clientId")]
    #[schema(value_type = String, required = false)]
    client_id: Option<Value>,
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
    pub status: Option<Status>,
    /// Whether it gets operational events.
    pub operational: Option<bool>,
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
    /// What signs.
    pub signing: Option<Signing>,
    /// `Some(None)`: the tenant's.
    pub dialect: Option<Option<String>>,
    /// For programs.
    pub metadata: Option<Map<String, Value>>,
    /// To be put into `metadata`, whatever else is there.
    pub client_id: Option<Value>,
}

impl Checked {
    /// Whether it says anything that may make a webhook's definition larger.
    pub fn has_size(&self) -> bool {
        self.url.is_some()
            || self.events.is_some()
            || self.description.is_some()
            || self.filters.is_some()
            || self.headers.is_some()
            || self.retry.is_some()
            || self.metadata.is_some()
            || self.client_id.is_some()
    }
}

impl Form {
    /// Checks every member.
    ///
    /// # Errors
    /// Names the member and its bound.
    pub fn check(self, destinations: &Destinations, dialects: &Dialects) -> Result<Checked> {
        if let Some(url) = &self.url {
            // A URL parser drops some and escapes others; the table has what was sent.
            if url.chars().any(char::is_control) {
                return Err(Invalid::new(
                    "url",
                    "must not contain control characters such as U+0000",
                ));
            }
            destinations
                .check(url)
                .map_err(|error| Invalid::new("url", error))?;
        }
        if let Some(events) = &self.events {
            check_events(events)?;
        }
        let secret = self.secret.as_deref().map(Secret::parse).transpose();
        let secret = secret.map_err(|error| Invalid::new("secret", error))?;
        if self
            .description
            .as_ref()
            .is_some_and(|text| text.len() > MAX_DESCRIPTION || text.contains('\0'))
        {
            return Err(Invalid::new(
                "description",
                format!("must be at most {MAX_DESCRIPTION} bytes, without NUL"),
            ));
        }
        if let Some(Some(filter)) = &self.filters {
            check_filter_size(filter)?;
            Filter::parse(filter).map_err(|error| Invalid::new("filters", error))?;
            check_storable("filters", filter)?;
        }
        if let Some(headers) = &self.headers {
            check_headers(headers)?;
        }
        let timeout = match self.timeout {
            Some(Some(ms)) if !(1_000..=60_000).contains(&ms) => {
                return Err(Invalid::new(
                    "timeout",
                    "must be between 1000 and 60000 (ms)",
                ));
            }
            other => other.map(|ms| ms.map(|ms| ms as i32)),
        };
        if let Some(Some(dialect)) = &self.dialect {
            check_dialect(dialect, dialects)?;
        }
        // What `metadata` says of it goes first.
        let said = |metadata: &Map<_, _>| metadata.contains_key("client_id");
        let client_id = self
            .client_id
            .filter(|_| !self.metadata.as_ref().is_some_and(said));
        let mut metadata = self.metadata.clone().unwrap_or_default();
        metadata.extend(
            client_id
                .iter()
                .map(|id| ("client_id".to_owned(), id.clone())),
        );
        check_metadata(&metadata)?;
        if self.active.is_some() && self.status.is_some() {
            return Err(Invalid::new("status", "and `active` exclude each other"));
        }
        let active = self.active.map(|active| match active {
            true => StatusForm::Active,
            false => StatusForm::Inactive,
        });
        let status = active.or(self.status).map(Status::from);
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
            status,
            operational: self.operational,
            filters: self.filters,
            headers: self.headers.map(|headers| headers.into_iter().collect()),
            timeout,
            retry,
            rate,
            debug_mode: self.debug_mode,
            signing: self.signing,
            dialect: self.dialect,
            metadata: self.metadata,
            client_id,
        })
    }
}

/// Refuses metadata that is too large, or that can't be stored.
///
/// # Errors
/// Names the bound.
pub fn check_metadata(metadata: &Map<String, Value>) -> Result<()> {
    let metadata = Value::Object(metadata.clone());
    if metadata.to_string().len() > MAX_METADATA {
        let bound = format!("must be at most {MAX_METADATA} bytes of JSON");
        return Err(Invalid::new("metadata", bound));
    }
    check_storable("metadata", &metadata)
}

/// First, so that parsing it costs little. What is allowed is what a webhook's
/// filter may cost every ingest in memory.
fn check_filter_size(filter: &Value) -> Result<()> {
    let bytes = filter.to_string().len();
    if bytes > MAX_FILTER {
        let bound = format!("is {bytes} bytes of JSON; at most {MAX_FILTER} are allowed");
        return Err(Invalid::new("filters", bound));
    }
    Ok(())
}

fn check_events(events: &[String]) -> Result<()> {
    if events.is_empty() || events.len() > MAX_PATTERNS {
        return Err(Invalid::new(
            "events",
            format!("must have 1 to {MAX_PATTERNS} entries"),
        ));
    }
    for (at, event) in events.iter().enumerate() {
        event
            .parse::<Pattern>()
            .map_err(|error| Invalid::new(format!("events[{at}]"), error))?;
    }
    Ok(())
}

fn check_headers(headers: &BTreeMap<String, String>) -> Result<()> {
    if headers.len() > MAX_HEADERS {
        return Err(Invalid::new(
            "headers",
            format!("must have at most {MAX_HEADERS} entries"),
        ));
    }
    for (name, value) in headers {
        let wrong = |reason: &str| Invalid::new(format!("headers.{name}"), reason.to_owned());
        let parsed =
            HeaderName::try_from(name).map_err(|_| wrong("is not a header name (RFC 9110)"))?;
        if is_reserved(parsed.as_str()) || parsed.as_str().starts_with("webhook-") {
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
            return Err(Invalid::new(
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
    retry.check().map_err(|error| Invalid::new(field, error))?;
    Ok(Some(Some(retry)))
}

/// So many in any period. A number stands for that many a second.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// At most so many.
    #[schema(minimum = 1, maximum = 100_000_000, example = 1000)]
    limit: u32,
    /// In any such period.
    per: Period,
}

impl From<Rate> for RateLimit {
    fn from(rate: Rate) -> Self {
        let periods = [Period::Second, Period::Minute, Period::Hour].into_iter();
        let mut periods = periods.filter(|per| per.seconds() == rate.period.as_secs());
        Self {
            limit: rate.limit,
            // The table's CHECK has no fourth.
            per: periods.next().unwrap_or(Period::Hour),
        }
    }
}

/// A rate limit's period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Period {
    fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }
}

fn rate(form: Value) -> Result<Rate> {
    let form = match form {
        Value::Number(limit) => json!({ "limit": limit, "per": "second" }),
        form => form,
    };
    let RateLimit { limit, per } = serde_json::from_value(form).map_err(|error| {
        let forms = "must be deliveries a second, or have `limit` and `per` (second, minute, hour)";
        Invalid::new("rate_limit", format!("{forms}: {error}"))
    })?;
    if !(1..=MAX_RATE).contains(&limit) {
        return Err(Invalid::new(
            "rate_limit",
            format!("must be between 1 and {MAX_RATE}"),
        ));
    }
    Ok(Rate {
        limit,
        period: Duration::from_secs(per.seconds()),
    })
}

/// `status` as an owner can set it; Corp Astro's clients send it.
#[derive(Clone, Copy, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum StatusForm {
    Active,
    Paused,
    Inactive,
}

impl From<StatusForm> for Status {
    fn from(form: StatusForm) -> Self {
        match form {
            StatusForm::Active => Self::Active,
            StatusForm::Paused => Self::Paused,
            StatusForm::Inactive => Self::Inactive,
        }
    }
}

/// What signs a webhook's deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// The secret.
    Hmac,
    /// The secret, and a key whose public half is published.
    Ed25519,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: Value) -> Result<Checked> {
        let form: Form = serde_json::from_value(body).map_err(|error| Invalid::new("", error))?;
        form.check(&Destinations::default(), &Dialects::embedded())
    }

    fn refused(body: Value) -> String {
        format!("{:?}", check(body).unwrap_err())
    }

    #[test]
    fn a_client_id_is_not_all_of_the_metadata() {
        let form = check(json!({"client_id": "c-7"})).unwrap();
        assert_eq!((form.metadata, form.client_id), (None, Some(json!("c-7"))));
        let both = check(json!({"client_id": 7, "metadata": {"client_id": "c-7"}})).unwrap();
        assert_eq!(both.client_id, None);
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
    fn no_header_splits_a_request_or_is_the_connections_own() {
        for name in [
            "Connection",
            "content-length",
            "Transfer-Encoding",
            "HOST",
            "TE",
            "Trailer",
            "Upgrade",
            "Keep-Alive",
            "Expect",
            "Proxy-Authorization",
            "proxy-connection",
            "Proxy-Status",
            "HTTP2-Settings",
            "Content-Encoding",
            "Content-Type",
            "User-Agent",
            "webhook-id",
            "Webhook-Signature",
            "X\r\nY",
            "X:",
            "X Y",
            "",
            "\u{0}",
            "Ｈost",
        ] {
            let error = refused(json!({"headers": {name: "x"}}));
            assert!(error.contains("headers."), "{name}: {error}");
        }
        for value in ["a\r\nHost: b", "a\nb", "a\rb", "a\u{0}b", "a\u{b}b"] {
            let error = refused(json!({"headers": {"X-Key": value}}));
            assert!(error.contains("headers.X-Key"), "{value:?}: {error}");
            assert!(
                !error.contains("Host: b"),
                "what may be a secret isn't repeated: {error}"
            );
        }
        assert!(
            check(json!({"headers": {"Authorization": "Bearer a\tb", "X-Proxy-To": "x"}})).is_ok()
        );
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
            (
                json!({"filters": {"a": "x".repeat(MAX_FILTER)}}),
                ["filters", "16384"],
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
