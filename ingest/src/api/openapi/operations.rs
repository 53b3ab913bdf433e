//! The operations of a document, and the ways in which each may refuse.

use serde_json::Value;

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

/// All operations of the document.
pub(super) fn operations_mut(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().into_iter();
    let items = paths.flat_map(|paths| paths.values_mut());
    items
        .filter_map(Value::as_object_mut)
        .flat_map(|item| item.values_mut())
}
