//! The words that members of answers take, for the API's description alone.
//!
//! Rows have them as text. A client that is generated from the description gets enums.
//! These lists are closed: a new word is announced as a change of the API. Reasons are
//! open lists (`x-extensible-enum`): a client must expect others.

// Only their schemas are used.
#![allow(dead_code)]

use shared::stats::WAITS;
use utoipa::openapi::RefOr;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The state of a delivery.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum DeliveryState {
    Queued,
    Retrying,
    Delivered,
    Failed,
    Expired,
    Cancelled,
}

/// The state of a delivery, or `processing` while an attempt is due, which dialects such as
/// `corp-astro` show.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum DeliveryStatus {
    Queued,
    Processing,
    Retrying,
    Delivered,
    Failed,
    Expired,
    Cancelled,
}

/// The state of a delivery that is finished.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum FinishedState {
    Failed,
    Expired,
    Cancelled,
    Delivered,
}

/// One state or several.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum FinishedStates {
    One(FinishedState),
    Many(Vec<FinishedState>),
}

/// A delivery's state, in the words that AuraConnect's log has.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum LogStatus {
    Success,
    Failed,
    Pending,
}

/// Whether a webhook gets deliveries, and who switched it off if not.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum WebhookStatus {
    Active,
    Paused,
    Inactive,
    Disabled,
}

/// How an attempt ended.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum AttemptOutcome {
    Success,
    Redirect,
    ClientError,
    ServerError,
    Timeout,
    Dns,
    Connect,
    Tls,
    Broken,
    Forbidden,
}

/// How far a replay is.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ReplayStatus {
    Running,
    Finished,
    Cancelled,
}

/// The queue that a dead letter was taken from.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum DeadLetterQueue {
    /// It was refused, or given up on.
    Parking,
    /// No queue was bound for it.
    Unrouted,
}

/// Whether a replay repeats deliveries, or makes those that a webhook lacks.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ReplayKind {
    Replay,
    Backfill,
}

/// What a process is: all of ingest, a part of it, or a dispatcher.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ProcessKind {
    Ingest,
    Api,
    Intake,
    Dispatcher,
}

/// The colours of the portal's pages.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum PortalTheme {
    Light,
    Dark,
}

/// The accent of the portal's pages.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum PortalAccent {
    Petrol,
    Blue,
    Violet,
    Green,
    Brown,
    Gray,
}

/// A delivery was put off for this reason because its job is a dead letter.
const PARKED: &str = "parked";

/// Why a delivery was put off.
pub struct WaitReason;

impl PartialSchema for WaitReason {
    fn schema() -> RefOr<Schema> {
        let all: Vec<_> = WAITS.into_iter().chain([PARKED]).collect();
        open("Why a delivery was put off.", &all)
    }
}

impl ToSchema for WaitReason {}

/// Why the next attempt comes when it does.
pub struct NextAttemptReason;

impl PartialSchema for NextAttemptReason {
    fn schema() -> RefOr<Schema> {
        let planned = ["schedule", "first_attempt", "retry_after", "restarted"];
        let put_off = WAITS.into_iter().chain([PARKED]);
        let all: Vec<_> = planned.into_iter().chain(put_off).collect();
        open("Why the next attempt comes when it does.", &all)
    }
}

impl ToSchema for NextAttemptReason {}

/// An open list of words. The first is the example.
fn open(meaning: &str, all: &[&str]) -> RefOr<Schema> {
    let known = ExtensionsBuilder::new().add("x-extensible-enum", all);
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(meaning))
        .examples(all.first().copied())
        .extensions(Some(known.build()))
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::portal_links::{ACCENTS, THEMES};

    fn words<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()["enum"].clone()
    }

    #[test]
    fn the_lists_are_those_that_the_code_has() {
        assert_eq!(
            words::<DeliveryState>(),
            json!(crate::api::deliveries::search::STATES)
        );
        let mut finished = words::<FinishedState>();
        let mut known = json!(crate::restart::FINISHED);
        for list in [&mut finished, &mut known] {
            list.as_array_mut().unwrap().sort_by_key(Value::to_string);
        }
        assert_eq!(finished, known);
        assert_eq!(
            words::<AttemptOutcome>(),
            json!(crate::log_filter::OUTCOMES)
        );
        assert_eq!(words::<PortalTheme>(), json!(THEMES));
        assert_eq!(words::<PortalAccent>(), json!(ACCENTS));
    }

    #[test]
    fn reasons_are_open_lists_with_every_reason_that_dispatchers_write() {
        let document = crate::api::document();
        let schemas = &document["components"]["schemas"];
        for name in ["WaitReason", "NextAttemptReason"] {
            let schema = &schemas[name];
            assert!(schema["enum"].is_null(), "{name} is closed");
            let known = schema["x-extensible-enum"].as_array().unwrap();
            for reason in WAITS.into_iter().chain([PARKED]) {
                assert!(known.contains(&json!(reason)), "{name}: {reason}");
            }
        }
        let reason = &schemas["DeliveryWait"]["properties"]["reason"];
        assert!(reason.to_string().contains("/WaitReason\""), "{reason}");
        let reason = &schemas["Delivery"]["properties"]["next_attempt_reason"];
        assert!(
            reason.to_string().contains("/NextAttemptReason\""),
            "{reason}"
        );
    }
}
