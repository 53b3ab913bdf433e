//! The bounds of a webhook's members: one function for each.
//!
//! `None` means everywhere that the client doesn't mention the member, and
//! `Some(None)` that it sends `null`, which takes a value away.

use std::collections::BTreeMap;

use axum::http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::destination::Destinations;
use shared::dialect::Dialects;
use shared::headers::is_reserved;
use shared::ids::{ExternalId, MAX_EXTERNAL_ID, MAX_OWNER, Owner};
use shared::retry::Retry;
use shared::secret::Secret;
use shared::webhook::{Rate, Status};
use utoipa::ToSchema;

use crate::form::check_dialect;
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::json_text::check_storable;
use crate::matching::{Filter, Pattern};
use crate::webhooks::rate_limit;

type Result<T> = std::result::Result<T, Invalid>;
/// Of a member with parts, several of which can be wrong.
type Several<T> = std::result::Result<T, Invalids>;

/// The most patterns of a webhook.
pub const MAX_PATTERNS: usize = 100;
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

/// `status` as an owner can set it; Corp Astro's clients send it.
#[derive(Clone, Copy, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StatusForm {
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

pub(super) fn url(url: Option<String>, destinations: &Destinations) -> Result<Option<String>> {
    if let Some(url) = &url {
        // A URL parser drops some control characters and escapes others; the table has what was sent.
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
    Ok(url)
}

/// # Errors
/// Names each pattern that is none.
pub fn events(events: Option<Vec<String>>) -> Several<Option<Vec<String>>> {
    let Some(patterns) = &events else {
        return Ok(None);
    };
    if patterns.is_empty() || patterns.len() > MAX_PATTERNS {
        let bound = format!("must have 1 to {MAX_PATTERNS} entries");
        return Err(Invalid::new("events", bound).into());
    }
    let mut wrong = Gathered::default();
    for (at, pattern) in patterns.iter().enumerate() {
        if let Err(error) = pattern.parse::<Pattern>() {
            wrong.add(Invalid::new(format!("events[{at}]"), error));
        }
    }
    wrong.finish(events)
}

pub(super) fn secret(secret: Option<&str>) -> Result<Option<Secret>> {
    let parsed = secret.map(Secret::parse).transpose();
    parsed.map_err(|error| Invalid::new("secret", error))
}

pub(super) fn description(description: Option<String>) -> Result<Option<String>> {
    let unfit = |text: &String| text.len() > MAX_DESCRIPTION || text.contains('\0');
    if description.as_ref().is_some_and(unfit) {
        let bound = format!("must be at most {MAX_DESCRIPTION} bytes, without NUL");
        return Err(Invalid::new("description", bound));
    }
    Ok(description)
}

/// # Errors
/// Says where in the filter, and why it is none.
pub fn filters(filters: Option<Option<Value>>) -> Result<Option<Option<Value>>> {
    if let Some(Some(filter)) = &filters {
        // The size first, so that parsing costs little. The bound is what a webhook's
        // filter may take of every ingest's memory.
        let bytes = filter.to_string().len();
        if bytes > MAX_FILTER {
            let bound = format!("is {bytes} bytes of JSON; at most {MAX_FILTER} are allowed");
            return Err(Invalid::new("filters", bound));
        }
        Filter::parse(filter).map_err(|error| Invalid::new("filters", error))?;
        check_storable("filters", filter)?;
    }
    Ok(filters)
}

/// An error doesn't repeat a value, which may be a credential.
pub(super) fn headers(
    headers: Option<BTreeMap<String, String>>,
) -> Several<Option<Vec<(String, String)>>> {
    let Some(headers) = headers else {
        return Ok(None);
    };
    if headers.len() > MAX_HEADERS {
        let bound = format!("must have at most {MAX_HEADERS} entries");
        return Err(Invalid::new("headers", bound).into());
    }
    let mut wrong = Gathered::default();
    for (name, value) in &headers {
        if let Err(reason) = header(name, value) {
            wrong.add(Invalid::new(format!("headers.{name}"), reason));
        }
    }
    wrong.finish(Some(headers.into_iter().collect()))
}

fn header(name: &str, value: &str) -> std::result::Result<(), String> {
    let parsed = HeaderName::try_from(name);
    let parsed = parsed.map_err(|_| "is not a header name (RFC 9110)".to_owned())?;
    if is_reserved(parsed.as_str()) || parsed.as_str().starts_with("webhook-") {
        return Err("is set by Posthorn or by the connection".to_owned());
    }
    if value.len() > MAX_HEADER {
        return Err(format!("must be at most {MAX_HEADER} bytes"));
    }
    match HeaderValue::from_str(value) {
        Ok(_) => Ok(()),
        Err(_) => Err("has characters that a header value can't have".to_owned()),
    }
}

pub(super) fn timeout(timeout: Option<Option<u64>>) -> Result<Option<Option<i32>>> {
    match timeout {
        Some(Some(ms)) if !(1_000..=60_000).contains(&ms) => Err(Invalid::new(
            "timeout",
            "must be between 1000 and 60000 (ms)",
        )),
        other => Ok(other.map(|ms| ms.map(|ms| ms as i32))),
    }
}

pub(super) fn dialect(
    dialect: Option<Option<String>>,
    dialects: &Dialects,
) -> Result<Option<Option<String>>> {
    if let Some(Some(name)) = &dialect {
        check_dialect(name, dialects)?;
    }
    Ok(dialect)
}

type MetadataAndClientId = (Option<Map<String, Value>>, Option<Value>);

/// The metadata, and the client id that is to be put into it. A `client_id` in the
/// metadata goes before the one beside it.
pub(super) fn metadata(
    metadata: Option<Map<String, Value>>,
    client_id: Option<Value>,
) -> Result<MetadataAndClientId> {
    let has_its_own = |metadata: &Map<_, _>| metadata.contains_key("client_id");
    let client_id = client_id.filter(|_| !metadata.as_ref().is_some_and(has_its_own));
    let mut both = metadata.clone().unwrap_or_default();
    both.extend(
        client_id
            .iter()
            .map(|id| ("client_id".to_owned(), id.clone())),
    );
    check_metadata(&both)?;
    Ok((metadata, client_id))
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

pub(super) fn external_id(id: Option<Option<String>>) -> Result<Option<Option<ExternalId>>> {
    let parse = |text: String| {
        let parsed = text.parse::<ExternalId>();
        parsed.map_err(|_| {
            let bound = format!("must be 1 to {MAX_EXTERNAL_ID} visible ASCII characters");
            Invalid::new("external_id", bound)
        })
    };
    id.map(|id| id.map(parse).transpose()).transpose()
}

pub(super) fn owner(owner: Option<Option<String>>) -> Result<Option<Option<Owner>>> {
    let parse = |text: String| {
        text.parse::<Owner>().map_err(|_| {
            let bound = format!("must be 1 to {MAX_OWNER} visible ASCII characters");
            Invalid::new("owner", bound)
        })
    };
    owner.map(|owner| owner.map(parse).transpose()).transpose()
}

pub(super) fn status(active: Option<bool>, status: Option<StatusForm>) -> Result<Option<Status>> {
    match (active, status) {
        (Some(active), Some(status)) if active == (status == StatusForm::Active) => {
            Ok(Some(status.into()))
        }
        (Some(_), Some(_)) => Err(Invalid::new(
            "status",
            "`status` and `active` contradict each other: send one of them",
        )),
        (Some(true), None) => Ok(Some(Status::Active)),
        (Some(false), None) => Ok(Some(Status::Inactive)),
        (None, status) => Ok(status.map(Status::from)),
    }
}

/// From `retries`, a number alone, or from `retry_policy`.
pub(super) fn retry(
    retries: Option<u16>,
    policy: Option<Option<Retry>>,
) -> Result<Option<Option<Retry>>> {
    let (field, retry) = match (retries, policy) {
        (Some(_), Some(_)) => {
            return Err(Invalid::new(
                "retries",
                "`retries` and `retry_policy` exclude each other: send one of them",
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

pub(super) fn rate(rate: Option<Option<Value>>) -> Result<Option<Option<Rate>>> {
    match rate {
        Some(Some(form)) => Ok(Some(Some(rate_limit::read(form)?))),
        other => Ok(other.map(|_| None)),
    }
}
