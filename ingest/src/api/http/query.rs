//! Refuses query parameters that an operation doesn't have, as unknown members of a body
//! are refused. A misspelt filter would otherwise list everything.
//!
//! The names come from the API's own description, so that an operation declares them once.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::api::http::code::Code;
use crate::api::http::problem::{Blame, Problem, Result};

/// The most unknown parameters that are named.
const MAX_ERRORS: usize = 16;

/// Each operation's parameters, by method and path.
pub struct Queries(HashMap<(String, String), Vec<String>>);

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
                let path = path.trim_end_matches('/').to_owned();
                operations.insert((method.to_uppercase(), path), names.collect());
            }
        }
        Self(operations)
    }

    fn check(&self, method: &str, path: &str, query: &str) -> Result<()> {
        // The other path of the same operations.
        let path = match path.strip_prefix("/api/webhooks") {
            Some(rest) => format!("/api/v1/webhooks{rest}"),
            None => path.to_owned(),
        };
        let key = (method.to_owned(), path.trim_end_matches('/').to_owned());
        // Pages for people, and answers to requests that no operation takes.
        let Some(known) = self.0.get(&key) else {
            return Ok(());
        };
        let names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
        let unknown: Vec<_> = names
            .filter(|name| !known.iter().any(|known| known == name))
            .take(MAX_ERRORS)
            .map(|name| blame(&name, known))
            .collect();
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(Problem::unknown_parameters(unknown)),
        }
    }
}

/// Names the parameter, and the known one that it may be meant for.
fn blame(name: &str, known: &[String]) -> Blame {
    let nearest = known
        .iter()
        .min_by_key(|known| strsim::damerau_levenshtein(name, known));
    let Some(nearest) = nearest else {
        let none = "this operation takes no query parameters";
        return Blame::new(Code::UnknownMember, name, none);
    };
    let others = known.join("`, `");
    Blame::new(
        Code::UnknownMember,
        name,
        format!(
            "is not a parameter of this operation; did you mean `{nearest}`? It takes `{others}`"
        ),
    )
}

/// Middleware, between the request's id and the handlers.
pub async fn refuse_unknown(
    State(queries): State<Arc<Queries>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    if let (Some(path), Some(query)) = (&path, request.uri().query())
        && let Err(problem) = queries.check(request.method().as_str(), path.as_str(), query)
    {
        return problem.into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    #[test]
    fn an_unknown_parameter_is_refused_with_the_nearest_known_one() {
        let queries = Queries::from_document(&document());
        let check = |path: &str, query: &str| queries.check("GET", path, query);
        for (path, query) in [
            ("/api/v1/webhooks", "limit=5&cursor=x"),
            ("/api/webhooks", "limit=5"),
            ("/api/webhooks/{id}/deliveries", "status=failed&since=2026"),
            ("/docs", "theme=dark"),
            ("/api/v1/webhooks/{id}", ""),
        ] {
            assert!(check(path, query).is_ok(), "{path}?{query}");
        }
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
