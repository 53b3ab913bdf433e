//! The headers of answers, as the document declares them.
//!
//! A handler declares only that an answer has an `ETag`. All others follow from the status
//! and from the middleware. `tests/tests/described/main.rs` compares them with real answers.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// The headers: names of their components, names, schemas, meanings.
const HEADERS: [(&str, &str, &str, &str); 10] = [
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
    (
        "Deprecation",
        "Deprecation",
        "string",
        "Since when the operation is deprecated: `@` and seconds since 1970 (RFC 9745).",
    ),
    (
        "Sunset",
        "Sunset",
        "string",
        "When the operation stops working, as an HTTP date (RFC 8594).",
    ),
];

/// On every answer of a deprecated operation.
const OF_DEPRECATED: [&str; 2] = ["Deprecation", "Sunset"];

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
    let refusals = document["components"]["responses"].clone();
    let refusals = refusals.as_object().into_iter().flatten();
    let refusals: HashMap<_, _> = refusals
        .map(|(name, it)| (format!("#/components/responses/{name}"), it))
        .collect();
    for (_, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if method == "get" {
                declare_not_modified(operation);
            }
            let is_deprecated = operation["deprecated"] == true;
            let responses = operation["responses"].as_object_mut().into_iter().flatten();
            for (status, response) in responses {
                let shared = response["$ref"]
                    .as_str()
                    .and_then(|it| refusals.get(it).copied());
                if let Some(shared) = shared.filter(|_| is_deprecated) {
                    // The shared answer is of other operations, too.
                    *response = shared.clone();
                }
                if response.get("$ref").is_none() {
                    add(response, status);
                    if is_deprecated {
                        add_all(response, &OF_DEPRECATED);
                    }
                }
            }
        }
    }
    // No operation is deprecated, most of the time.
    let text = document.to_string();
    if let Some(headers) = document["components"]["headers"].as_object_mut() {
        headers.retain(|name, _| text.contains(&format!("\"#/components/headers/{name}\"")));
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
    response["headers"] = json!({});
    add_all(response, &ON_EVERY_ANSWER);
    add_all(response, own);
}

fn add_all(response: &mut Value, names: &[&str]) {
    for name in names {
        if let Some((component, ..)) = HEADERS.iter().find(|(_, known, ..)| known == name) {
            let reference = format!("#/components/headers/{component}");
            response["headers"][*name] = json!({ "$ref": reference });
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// No operation is deprecated today, so this document is not the API's own.
    #[test]
    fn every_answer_of_a_deprecated_operation_declares_since_when_and_until_when() {
        let shared = json!({ "description": "Too many requests." });
        let answers = json!({
            "200": { "description": "It." },
            "429": { "$ref": "#/components/responses/TooMany" },
        });
        let mut document = json!({
            "components": { "responses": { "TooMany": shared } },
            "paths": { "/old": {
                "get": { "deprecated": true, "responses": answers },
                "post": { "responses": answers },
            }},
        });
        declare(&mut document);
        for (method, status, is_there) in [
            ("get", "200", true),
            ("get", "429", true),
            ("post", "200", false),
        ] {
            let response = &document["paths"]["/old"][method]["responses"][status];
            for name in OF_DEPRECATED {
                let reference = &response["headers"][name]["$ref"];
                assert_eq!(reference.is_string(), is_there, "{method} {status}: {name}");
                let place = format!("/components/headers/{name}");
                assert!(document.pointer(&place).is_some(), "{place}");
            }
        }
        let other = &document["paths"]["/old"]["post"]["responses"]["429"];
        assert_eq!(other["$ref"], "#/components/responses/TooMany");
        let limited = &document["paths"]["/old"]["get"]["responses"]["429"]["headers"];
        assert!(limited["Retry-After"].is_object(), "{limited}");
    }
}
