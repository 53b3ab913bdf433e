//! The headers of answers, as the document declares them.
//!
//! A handler declares only that an answer has an `ETag`. All others follow from the status
//! and from the middleware. `tests/tests/described.rs` compares them with real answers.

use serde_json::{Map, Value, json};

/// The headers: names of their components, names, schemas, meanings.
const HEADERS: [(&str, &str, &str, &str); 8] = [
    (
        "RequestId",
        "x-request-id",
        "string",
        "The request's id: the client's own `x-request-id`, or a new one.",
    ),
    (
        "ETag",
        "ETag",
        "string",
        "The state that was answered with. For `If-Match` and `If-None-Match`.",
    ),
    (
        "Location",
        "Location",
        "string",
        "The path of what was created.",
    ),
    (
        "RetryAfter",
        "Retry-After",
        "integer",
        "After how many seconds to try again.",
    ),
    (
        "RateLimitLimit",
        "RateLimit-Limit",
        "integer",
        "How many requests may come at once.",
    ),
    (
        "RateLimitRemaining",
        "RateLimit-Remaining",
        "integer",
        "How many of them are left now.",
    ),
    (
        "RateLimitReset",
        "RateLimit-Reset",
        "integer",
        "In how many seconds all of them are there again.",
    ),
    (
        "WwwAuthenticate",
        "WWW-Authenticate",
        "string",
        "Always `Bearer`.",
    ),
];

/// What an operator may switch off isn't on every answer.
const ON_EVERY_ANSWER: [&str; 4] = [
    "x-request-id",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
];

/// Declares the headers of every answer, and 304 where an answer has an ETag.
pub(super) fn declare(document: &mut Value) {
    let components = HEADERS.iter().map(|(component, name, kind, meaning)| {
        let header = json!({
            "description": meaning,
            // `API_RATE_LIMIT=0` leaves the limits out.
            "required": !name.starts_with("RateLimit"),
            "schema": { "type": kind },
        });
        ((*component).to_owned(), header)
    });
    document["components"]["headers"] = components.collect::<Map<_, _>>().into();
    let shared = document["components"]["responses"].as_object_mut();
    let statuses = super::operations::REFUSALS.map(|(name, status, _)| (name, status));
    for (name, response) in shared.into_iter().flatten() {
        let status = statuses.iter().find(|(of, _)| of == name);
        add(response, status.map_or("", |(_, status)| status));
    }
    for (_, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if method == "get" {
                declare_not_modified(operation);
            }
            let responses = operation["responses"].as_object_mut().into_iter().flatten();
            for (status, response) in responses {
                if response.get("$ref").is_none() {
                    add(response, status);
                }
            }
        }
    }
}

fn add(response: &mut Value, status: &str) {
    let has_etag = response.pointer("/headers/ETag").is_some();
    let own: &[&str] = match status {
        "201" if has_etag => &["Location", "ETag"],
        "201" => &["Location"],
        "401" => &["WWW-Authenticate"],
        "429" | "503" => &["Retry-After"],
        _ if has_etag => &["ETag"],
        _ => &[],
    };
    let names = ON_EVERY_ANSWER.iter().chain(own);
    let headers = names.filter_map(|name| {
        let (component, ..) = HEADERS.iter().find(|(_, known, ..)| known == name)?;
        let reference = format!("#/components/headers/{component}");
        Some(((*name).to_owned(), json!({ "$ref": reference })))
    });
    response["headers"] = headers.collect::<Map<_, _>>().into();
}

fn declare_not_modified(operation: &mut Value) {
    if operation["responses"]["200"]["headers"]
        .get("ETag")
        .is_none()
    {
        return;
    }
    operation["responses"]["304"] = json!({
        "description": "The client has this state already.",
        "headers": { "ETag": {} },
    });
    let parameter = json!({
        "name": "If-None-Match", "in": "header", "required": false,
        "description": "The ETag of the state that the client has.",
        "schema": { "type": "string" },
    });
    let parameters = operation.get_mut("parameters");
    if let Some(parameters) = parameters.and_then(Value::as_array_mut) {
        parameters.push(parameter);
    }
}
