//! What may be asked of a replay, and its bounds. No I/O.

use serde::Deserialize;
use serde_json::Value;
use shared::clock;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::api::openapi::words::FinishedStates;
use crate::form::{OneOrMany, one_or_many};
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::log_filter::{LogFilter, Source};
use crate::restart::FINISHED;
use crate::timestamp::Timestamp;

/// Deliveries per second by default.
const RATE: i32 = 10;
/// The most deliveries per second.
const MAX_RATE: i32 = 1_000;

/// Which deliveries begin again, and how quickly.
#[derive(Clone, Deserialize, ToSchema)]
#[schema(example = json!({
    "since": "2026-01-31T10:00:00.000Z", "until": "2026-02-01T10:00:00.000Z",
    "status": ["failed", "expired"], "event_types": ["order.*"], "response_code": ["5xx", "none"],
    "rate": 10, "ramp": true, "dry_run": true
}))]
#[serde(deny_unknown_fields)]
pub struct NewReplay {
    /// Only of events that were accepted at this time or later.
    pub since: Timestamp,
    /// Only of events that were accepted before this time; by default now.
    #[schema(nullable = false)]
    pub until: Option<Timestamp>,
    /// `failed`, `expired`, `cancelled` or `delivered`, or a list of them; `failed` by
    /// default.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(value_type = FinishedStates, required = false, example = json!(["failed", "expired"]))]
    pub status: Option<Vec<String>>,
    /// Only of these event types, at most 100: types and patterns such as `order.*`; all by default.
    #[serde(default, alias = "event_type", deserialize_with = "one_or_many")]
    #[schema(
        value_type = OneOrMany, required = false, example = json!(["order.*"]),
        extensions(("x-also" = json!(["event_type"])))
    )]
    pub event_types: Option<Vec<String>>,
    /// Only deliveries whose last attempt was answered so: a status, a class such as `5xx`, or
    /// `none`, which is no answer; or a list of them.
    #[serde(default, deserialize_with = "one_or_more_codes")]
    #[schema(value_type = OneOrMany, required = false, example = json!(["5xx", "none"]))]
    pub response_code: Option<Vec<String>>,
    /// Only deliveries whose last attempt had this outcome, such as `timeout`, or a list of them.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(value_type = OneOrMany, required = false, example = json!(["timeout", "tls"]))]
    pub outcome: Option<Vec<String>>,
    /// Whether to begin with two a second, and to halve the rate when the endpoint answers 429
    /// or 5xx, or not at all.
    #[serde(default)]
    pub ramp: bool,
    /// Whether to count the deliveries only.
    #[serde(default)]
    pub dry_run: bool,
    /// The rate, in deliveries per second.
    #[schema(minimum = 1, maximum = 1000, default = 10, nullable = false)]
    pub rate: Option<i32>,
}

/// A request for a replay, checked.
pub(crate) struct Checked {
    pub(in crate::api::deliveries) since: OffsetDateTime,
    pub(in crate::api::deliveries) until: OffsetDateTime,
    pub(in crate::api::deliveries) states: Vec<String>,
    pub(in crate::api::deliveries) event_types: Option<Vec<String>>,
    pub(in crate::api::deliveries) filter: LogFilter,
    pub(in crate::api::deliveries) pace: Pace,
}

/// How quickly a replay goes.
#[derive(Clone, Copy)]
pub(in crate::api::deliveries) struct Pace {
    pub(in crate::api::deliveries) rate: i32,
    pub(in crate::api::deliveries) ramp: bool,
}

/// Codes may be numbers.
fn one_or_more_codes<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(serde::de::Error::custom(
            "must be a code, such as `503`, `5xx` or `none`, or a list of them",
        )),
    };
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::Array(codes) => Some(
            codes
                .iter()
                .map(text)
                .collect::<std::result::Result<_, _>>()?,
        ),
        code => Some(vec![text(&code)?]),
    })
}

/// A rate within its bounds.
pub(in crate::api::deliveries) fn rate(rate: Option<i32>) -> std::result::Result<i32, Invalid> {
    let rate = rate.unwrap_or(RATE);
    match (1..=MAX_RATE).contains(&rate) {
        true => Ok(rate),
        false => {
            let bound = format!("must be between 1 and {MAX_RATE} a second");
            Err(Invalid::new("rate", bound))
        }
    }
}

/// A time within which events were accepted.
pub(in crate::api::deliveries) fn between(
    Timestamp(since): Timestamp,
    until: Option<Timestamp>,
) -> std::result::Result<(OffsetDateTime, OffsetDateTime), Invalid> {
    let until = until.map_or_else(clock::now, |Timestamp(at)| at);
    match since < until {
        true => Ok((since, until)),
        false => Err(Invalid::new("since", "must be before `until`")),
    }
}

impl NewReplay {
    /// Checks every member.
    ///
    /// # Errors
    /// Names each that is out of its bounds.
    pub(crate) fn check(self) -> std::result::Result<Checked, Invalids> {
        let mut wrong = Gathered::default();
        let never = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH);
        let (since, until) = wrong.take_or(never, between(self.since, self.until));
        let states = self.status.unwrap_or_else(|| vec!["failed".to_owned()]);
        wrong.take(finished(&states));
        let filter = wrong.take(filter(
            self.event_types.as_deref(),
            self.response_code.as_deref(),
            self.outcome.as_deref(),
        ));
        let rate = wrong.take(rate(self.rate));
        wrong.finish(Checked {
            since,
            until,
            states,
            event_types: self.event_types,
            filter,
            pace: Pace {
                rate,
                ramp: self.ramp,
            },
        })
    }
}

/// Refuses states that aren't final.
fn finished(states: &[String]) -> std::result::Result<(), Invalid> {
    if states.is_empty() || states.len() > FINISHED.len() {
        return Err(Invalid::new("status", "must have 1 to 4 entries"));
    }
    let unknown = states.iter().find(|s| !FINISHED.contains(&s.as_str()));
    match unknown {
        None => Ok(()),
        Some(unknown) => Err(Invalid::new(
            "status",
            format!("`{unknown}` is not one of {}", FINISHED.join(", ")),
        )),
    }
}

fn filter(
    types: Option<&[String]>,
    codes: Option<&[String]>,
    outcomes: Option<&[String]>,
) -> std::result::Result<LogFilter, Invalids> {
    LogFilter::read(
        (Source::Member("event_types"), types),
        (Source::Member("response_code"), codes),
        (Source::Member("outcome"), outcomes),
    )
}
