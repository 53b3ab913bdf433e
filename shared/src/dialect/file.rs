//! Reads a dialect's file into a [`Dialect`], or reports what is wrong with it.
//!
//! TOML and JSON are read into the same tree. Its tables keep their order, because the
//! members of the body are sent in the order of the file. Each parser removes the keys that
//! it knows from the tree. A key that is left at the end is refused as unknown.
//!
//! | key | is |
//! |---|---|
//! | `description` | text for people |
//! | `form` | `as-published` (the default) or `javascript` |
//! | `content_type` | `application/json` by default |
//! | `timeout`, `min_timeout`, `max_age` | durations: `500ms`, `10s`, `5m`, `2h`, `7d` |
//! | `max_age_since` | `accepted_at` (the default) or `occurred_at` |
//! | `deliveries_per_hour` | the limit of tenants that set none |
//! | `unwrap` | a member's name: data that consists of this member alone stands for the member's value |
//! | `api` | what the API's answers have in addition |
//! | `body` | its members in order: texts, numbers, booleans, tables. `{data}` alone is the event's data. Or the text `{data}`: the body is the event's data. The key `...` with `{attributes}` inserts CloudEvents attributes |
//! | `headers` | texts. A key like `ce-...` with `{attributes}` inserts CloudEvents attributes with that prefix |
//! | `signatures.<name>` | `signs` and `encoding` (texts), `key` (`text` or `whsec`), `secrets` (`current` or `all`), `ed25519` (how a signature by a key pair is written) |
//! | `retry` | `delays`, or `first`, `factor`, `cap`, `retries`; `jitter` |
//! | `answers` | lists of statuses: `success`, `stop`, `disable` |

use std::time::Duration;

use axum::http::HeaderValue;
use toml::Table;

use super::api::{self, Additions};
use super::definition::{Dialect, Form, Member, Value};
use super::policy::{Answers, Policy, Since, Statuses};
use super::section::{Invalid, Result, Section, duration};
use super::shape::Names;
use super::signatures::{check_signatures, signatures};
use crate::retry::{MAX_DELAY, Pauses, Schedule};

/// The timeout of an attempt if no file, setting or webhook sets one.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time from an event's acceptance to its last attempt.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Reads a file. The file's name without `.toml` or `.json` is the dialect's name.
pub(super) fn read(file: &str, text: &str) -> Result<Dialect> {
    let refuse = |reason: String| Invalid {
        file: file.to_owned(),
        key: String::new(),
        reason,
    };
    let (name, table) = match file.rsplit_once('.') {
        Some((name, "toml")) => {
            let table = text.parse::<Table>().map_err(|error| {
                let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
                let line = before.matches('\n').count() + 1;
                refuse(format!("is not TOML: {} (line {line})", error.message()))
            })?;
            (name, table)
        }
        Some((name, "json")) => {
            let table = serde_json::from_str(text)
                .map_err(|error| refuse(format!("is not a dialect in JSON: {error}")))?;
            (name, table)
        }
        _ => return Err(refuse("must end with `.toml` or `.json`".to_owned())),
    };
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    if bytes.len() > 63
        || !bytes.first().is_some_and(plain)
        || !bytes.iter().all(|b| plain(b) || matches!(b, b'_' | b'-'))
    {
        return Err(refuse(
            "must be named with 1 to 63 of `a-z`, `0-9`, `_`, `-`, and start with a letter or digit"
                .to_owned(),
        ));
    }
    let section = Section {
        file: file.to_owned(),
        path: String::new(),
        table,
    };
    dialect(name, text, section)
}

fn dialect(name: &str, text: &str, mut top: Section) -> Result<Dialect> {
    let file = top.file.clone();
    let description = top.text("description")?.unwrap_or_default();
    let form = top.one_of(
        "form",
        &[
            ("as-published", Form::AsPublished),
            ("javascript", Form::JavaScript),
        ],
    )?;
    let content_type = top.text("content_type")?;
    let content_type = HeaderValue::from_str(content_type.as_deref().unwrap_or("application/json"))
        .map_err(|_| {
            top.invalid(
                "content_type",
                "has characters that are not allowed in a header",
            )
        })?;
    let timeout = top.duration("timeout", Duration::from_secs(1)..=Duration::from_secs(60))?;
    let min_timeout = top.duration(
        "min_timeout",
        Duration::from_secs(1)..=Duration::from_secs(60),
    )?;
    let max_age = top.duration("max_age", Duration::from_secs(1)..=MAX_AGE)?;
    let since = top.one_of(
        "max_age_since",
        &[
            ("accepted_at", Since::AcceptedAt),
            ("occurred_at", Since::OccurredAt),
        ],
    )?;
    let per_hour = top.whole_number("deliveries_per_hour", 1..=u32::MAX)?;
    let unwrap = top.text("unwrap")?;
    let schedule = schedule(top.section("retry")?)?;
    let answers = answers(top.section("answers")?)?;

    let is_bare =
        matches!(top.table.get("body"), Some(toml::Value::String(text)) if text == "{data}");
    // `None`: the body is the event's data alone.
    let body = match is_bare {
        true => top.table.remove("body").and(None),
        false => Some(top.section("body")?),
    };
    let headers = top.section("headers")?;
    let signing = top.section("signatures")?;
    let additions = if top.table.contains_key("api") {
        api::additions(top.section("api")?)?
    } else {
        Additions::default()
    };
    let timeout = timeout.unwrap_or(TIMEOUT);
    let min_timeout = min_timeout.unwrap_or(Duration::from_secs(1));
    if timeout < min_timeout {
        return Err(top.invalid("min_timeout", "must not be longer than `timeout`"));
    }
    top.finish()?;
    let names = Names {
        signatures: signing.table.keys().cloned().collect(),
        form: form.unwrap_or(Form::AsPublished),
    };
    let body = match body {
        Some(body) => names.body(body, 0)?,
        None => vec![Member {
            name: "data".to_owned(),
            value: Value::Data,
        }],
    };
    let (headers, spread) = names.headers(headers)?;
    let signatures = signatures(signing, &body)?;
    let dialect = Dialect {
        name: name.to_owned(),
        description,
        definition: text.to_owned(),
        policy: Policy {
            timeout,
            min_timeout,
            since: since.unwrap_or(Since::AcceptedAt),
            deliveries_per_hour: per_hour,
            max_age: max_age
                .unwrap_or(MAX_AGE)
                .try_into()
                .unwrap_or(time::Duration::WEEK),
            schedule,
            answers,
        },
        form: names.form,
        unwrap,
        additions,
        content_type,
        body,
        is_bare,
        headers,
        spread,
        signatures,
    };
    check_signatures(&dialect).map_err(|(key, reason)| Invalid { file, key, reason })?;
    Ok(dialect)
}

fn schedule(mut retry: Section) -> Result<Schedule> {
    let delays = retry.texts("delays")?;
    let jitter = retry.number("jitter")?.unwrap_or(0.0);
    let pauses = if let Some(delays) = delays {
        let millis = |text: &String| duration(text).map(|delay| delay.as_millis() as u64);
        let delays: std::result::Result<_, String> = delays.iter().map(millis).collect();
        Pauses::Delays(delays.map_err(|reason| retry.invalid("delays", reason))?)
    } else {
        let first = retry.duration("first", Duration::ZERO..=MAX_DELAY)?;
        let first = first.ok_or_else(|| retry.invalid("first", "or `delays` must be set"))?;
        let cap = retry.duration("cap", Duration::ZERO..=MAX_DELAY)?;
        let retries = retry
            .number("retries")?
            .ok_or_else(|| retry.invalid("retries", "is missing"))?;
        if retries.fract() != 0.0 || !(0.0..=f64::from(u16::MAX)).contains(&retries) {
            return Err(retry.invalid("retries", "must be a whole number"));
        }
        Pauses::Exponential {
            first: first.as_millis() as u64,
            factor: retry.number("factor")?.unwrap_or(2.0),
            cap: cap.unwrap_or(MAX_DELAY).as_millis() as u64,
            retries: retries as u16,
        }
    };
    let schedule = Schedule { pauses, jitter };
    schedule.check().map_err(|error| Invalid {
        file: retry.file.clone(),
        key: retry.path.clone(),
        reason: format!("is out of bounds: {error}"),
    })?;
    retry.finish()?;
    Ok(schedule)
}

fn answers(mut section: Section) -> Result<Answers> {
    let mut statuses = |key| {
        let entries = section.texts(key)?.unwrap_or_default();
        Statuses::parse(entries.iter().map(String::as_str))
            .map_err(|reason| section.invalid(key, reason))
    };
    let answers = Answers {
        success: statuses("success")?,
        stop: statuses("stop")?,
        disable: statuses("disable")?,
    };
    if !(100..600).any(|status| answers.success.contain(status)) {
        return Err(section.invalid("success", "must have at least one status"));
    }
    if let Some(status) = answers.contradiction() {
        let reason = format!("and the other lists give the status {status} two meanings");
        return Err(section.invalid("success", reason));
    }
    section.finish()?;
    Ok(answers)
}

#[cfg(test)]
mod tests;
