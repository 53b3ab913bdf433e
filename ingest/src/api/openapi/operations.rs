//! The operations of a document, and the ways in which each may refuse.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;

use crate::api::http::code::Code;
use crate::api::http::problem::Problem;
use crate::api::http::request::MAX_BODY;

/// The ways in which requests are refused: their names, statuses and reasons.
pub(super) const REFUSALS: [(&str, &str, &str); 9] = [
    ("Unreadable", "400", "The request is malformed."),
    ("Unknown", "401", "No valid token was sent."),
    ("Forbidden", "403", "The token's role is not enough."),
    (
        "Missing",
        "404",
        "It does not exist, or belongs to another tenant.",
    ),
    ("TooLarge", "413", "The body is too large."),
    ("NotJson", "415", "The body is not `application/json`."),
    (
        "OutOfBounds",
        "422",
        "A member, parameter or header is not within its bounds.",
    ),
    (
        "TooMany",
        "429",
        "Too many requests; `Retry-After` says when to try again.",
    ),
    (
        "Unavailable",
        "503",
        "PostgreSQL or RabbitMQ can't be reached; try again.",
    ),
];

/// A problem of this way to refuse.
pub(super) fn example_of(refusal: &str) -> Problem {
    match refusal {
        "Unreadable" => {
            Problem::bad_request("the body is not JSON: it ends too early, at line 1 column 12")
        }
        "Unknown" => Problem::unauthorized(),
        "Forbidden" => Problem::forbidden(
            "this token has the role `viewer`, which is not enough for this request",
        ),
        "Missing" => Problem::not_found("there is no webhook wh_01kb4v2p8zf5sttdw3m8e7h2xk"),
        "TooLarge" => Problem::too_large(format!("the body may have at most {MAX_BODY} bytes")),
        "NotJson" => Problem::media_type(),
        "TooMany" => Problem::too_many(Duration::ZERO),
        "Unavailable" => {
            Problem::unavailable("PostgreSQL or RabbitMQ cannot be reached; try again")
        }
        _ => Problem::field("limit", "must be between 1 and 250"),
    }
}

/// A problem of a refusal that an operation declares itself: its description says why.
pub(super) fn example_of_own(status: &str, description: &str) -> Option<Problem> {
    let status = StatusCode::from_bytes(status.as_bytes()).ok()?;
    let problem = Problem::of_status(status, description);
    let bounds = ["as it may", "than it may", "than a tenant may"];
    let is_limit = bounds.iter().any(|words| description.contains(words));
    Some(match status {
        StatusCode::CONFLICT if is_limit => problem.with_code(Code::LimitReached),
        StatusCode::PRECONDITION_FAILED => problem.of_field("If-Match"),
        _ => problem,
    })
}

/// All operations of the document.
pub(super) fn operations_mut(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().into_iter();
    let items = paths.flat_map(|paths| paths.values_mut());
    items
        .filter_map(Value::as_object_mut)
        .flat_map(|item| item.values_mut())
}
