//! The words that members of answers take, for the API's description alone.
//!
//! Rows have them as text. A client that is generated from the description gets enums.
//! These lists are closed: a new word is announced as a change of the API. Reasons are
//! open lists (`x-extensible-enum`): a client must expect others.

// Only their schemas are used.
#![allow(dead_code)]

use utoipa::ToSchema;

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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    use super::*;

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
    }
}
