//! Refuses query parameters that an operation doesn't have, as unknown members of a body
//! are refused. A misspelt filter would otherwise list everything.
//!
//! The names come from the API's own description, so that an operation declares them once.
//! The description also says which operations are deprecated. Their answers get the headers of
//! [`deprecation`](super::deprecation) here.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::api::http::code::Code;
use crate::api::http::deprecation::Deprecation;
use crate::api::http::problem::{Blame, Problem, Result};

/// The most unknown parameters that are named.
const MAX_ERRORS: usize = 16;

/// Each operation's parameters, by method and path.
pub struct Queries(HashMap<(String, String), Operation>);

struct Operation {
    /// The names of its query parameters.
    known: Vec<String>,
    /// `None`: it isn't deprecated.
    deprecation: Option<Deprecation>,
}

impl Queries {
    /// Reads them from the OpenAPI document.
    #[must_use]
    pub fn from_document(document: &Value) -> Self {
        let mut operations = HashMap::new();
        let paths = document["paths"].as_object().into_iter().flatten();
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let names = parameters
                    .map(|parameter| match parameter["$ref"].as_str() {
                        Some(reference) => document
                            .pointer(reference.trim_start_matches('#'))
                            .unwrap_or(&Value::Null),
                        None => parameter,
                    })
                    .filter(|parameter| parameter["in"] == "query")
                    .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned));
                let described = Operation {
                    known: names.collect(),
                    deprecation: Deprecation::from_operation(operation),
                };
                let path = path.trim_end_matches('/').to_owned();
                operations.insert((method.to_uppercase(), path), described);
            }
        }
        Self(operations)
    }

    /// `None`: pages for people, and answers to requests that no operation takes.
    fn operation(&self, method: &str, path: &str) -> Option<&Operation> {
        // The other path of the same operations.
        let path = match path.strip_prefix("/api/webhooks") {
            Some(rest) => format!("/api/v1/webhooks{rest}"),
            None => path.to_owned(),
        };
        let key = (method.to_owned(), path.trim_end_matches('/').to_owned());
        self.0.get(&key)
    }
}

impl Operation {
    fn check(&self, query: &str) -> Result<()> {
        let names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
        let unknown: Vec<_> = names
            .filter(|name| !self.known.iter().any(|known| known == name))
            .take(MAX_ERRORS)
            .map(|name| blame(&name, &self.known))
            .collect();
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(Problem::unknown_parameters(unknown)),
        }
    }
}

/// A longer name isn't meant to be a known one. Comparing costs its length times theirs, and whoever
/// asks needs no token.
const LONGEST_COMPARED: usize = 64;

/// Names the parameter, and the known one that it may be meant for.
fn blame(name: &str, known: &[String]) -> Blame {
    if known.is_empty() {
        let none = "this operation takes no query parameters";
        return Blame::new(Code::UnknownMember, name, none);
    }
    let distance = |known: &&String| strsim::damerau_levenshtein(name, known);
    let nearest = (name.len() <= LONGEST_COMPARED).then(|| known.iter().min_by_key(distance));
    let meant = nearest
        .flatten()
        .map(|nearest| format!("did you mean `{nearest}`? "));
    let detail = format!(
        "is not a parameter of this operation; {}It takes `{}`",
        meant.unwrap_or_default(),
        known.join("`, `")
    );
    Blame::new(Code::UnknownMember, name, detail)
}

/// Middleware: the innermost layer, next to the handlers.
pub async fn refuse_unknown(
    State(queries): State<Arc<Queries>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().as_str();
    let Some(operation) = path.and_then(|path| queries.operation(method, path.as_str())) else {
        return next.run(request).await;
    };
    let query = request.uri().query().unwrap_or_default();
    match operation.check(query) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Middleware around everything that may refuse a request: a client that is over its limit must
/// hear of a deprecation, too.
pub async fn announce_deprecation(
    State(queries): State<Arc<Queries>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().as_str();
    let operation = path.and_then(|path| queries.operation(method, path.as_str()));
    let deprecation = operation.and_then(|operation| operation.deprecation.as_ref());
    let mut answer = next.run(request).await;
    if let Some(deprecation) = deprecation {
        deprecation.announce(answer.headers_mut());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    #[test]
    fn an_unknown_parameter_is_refused_with_the_nearest_known_one() {
        let queries = Queries::from_document(&document());
        let check = |path: &str, query: &str| match queries.operation("GET", path) {
            Some(operation) => operation.check(query),
            None => Ok(()),
        };
        for (path, query) in [
            ("/api/v1/webhooks", "limit=5&cursor=x"),
            ("/api/webhooks", "limit=5"),
            ("/api/webhooks/{id}/deliveries", "status=failed&since=2026"),
            ("/docs", "theme=dark"),
            ("/api/v1/webhooks/{id}", ""),
        ] {
            assert!(check(path, query).is_ok(), "{path}?{query}");
        }
        let long = "s".repeat(LONGEST_COMPARED + 1);
        let refused = check("/api/v1/deliveries", &long).unwrap_err().to_string();
        assert!(!refused.contains("did you mean"), "{refused}");
        for (path, query, nearest) in [
            ("/api/v1/deliveries", "stauts=failed", "`status`"),
            (
                "/api/webhooks/{id}/deliveries",
                "event-type=a",
                "`event_type`",
            ),
            ("/api/v1/webhooks/{id}", "verbose", "no query parameters"),
        ] {
            let refused = check(path, query).unwrap_err().to_string();
            assert!(refused.contains(nearest), "{refused}");
        }
    }
}
