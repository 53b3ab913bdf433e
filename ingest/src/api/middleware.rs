//! Middleware around every handler: request id, rate limit, header checks, CORS.
//!
//! In this order: the request gets its id ([`request_id`]), its client's rate limit
//! is charged, and requests with contradicting headers or without a usable
//! `Accept` are refused before a handler sees them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, IF_MATCH, IF_NONE_MATCH,
    LOCATION, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use shared::excerpt::{MAX_ERROR, excerpt};
use shared::serve::network;
use tower_http::cors::CorsLayer;
use tracing::{Instrument, debug, info_span};

use crate::api::access::auth::{TENANT_HEADER, bearer};
use crate::api::access::rate_limit::{Client, Left, Rates, Refused};
use crate::api::access::tokens::hash;
use crate::api::http::deprecation::{DEPRECATION, SUNSET};
use crate::api::http::headers::{if_none_match, unless_known};
use crate::api::http::held_bodies::HeldBody;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::query::{Queries, announce_deprecation, refuse_unknown};
use crate::api::http::request_id::{self, REQUEST_ID};

/// The most requests at once, how many of them are left, and the seconds until all are back.
const RATE_LIMITS: [&str; 3] = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
/// How long a browser may remember what CORS allows.
const CORS_AGE: std::time::Duration = std::time::Duration::from_secs(3600);

/// Puts the middleware around routes: from the inside, unknown parameters, everything of this file,
/// and what answers say of deprecated operations.
pub fn around<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    queries: Arc<Queries>,
    rates: Option<Arc<Rates>>,
) -> Router<S> {
    routes
        .layer(from_fn_with_state(queries.clone(), refuse_unknown))
        .layer(from_fn_with_state(rates, handle))
        .layer(from_fn_with_state(queries, announce_deprecation))
}

async fn handle(State(rates): State<Option<Arc<Rates>>>, request: Request, next: Next) -> Response {
    let id = request_id::from_headers(request.headers());
    let is_private = request.uri().path().starts_with("/api/");
    let span = info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = excerpt(request.uri().path(), MAX_ERROR),
    );
    let (asked, known) = (request.method().clone(), if_none_match(request.headers()));
    let answer = async {
        let begun = Instant::now();
        let (left, charged) = charge(rates.as_deref(), &request);
        let mut answer = match charged.and_then(|()| check(&request)) {
            Ok(()) => hold_body(request, next).await,
            Err(problem) => problem.into_response(),
        };
        if let Some(left) = left {
            say_what_is_left(answer.headers_mut(), left);
        }
        let answer = unless_known(&asked, known, answer);
        let ms = begun.elapsed().as_millis() as u64;
        debug!(status = answer.status().as_u16(), ms, "answered");
        answer
    };
    let mut answer = request_id::scope(id.clone(), answer.instrument(span)).await;
    let headers = answer.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if is_private {
        // The answer is for the token's holder alone, and may have a secret in it.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    answer
}

/// What is held of the body counts until the handler has answered.
async fn hold_body(mut request: Request, next: Next) -> Response {
    let held = Arc::<HeldBody>::default();
    request.extensions_mut().insert(held.clone());
    let answer = next.run(request).await;
    held.give_back();
    answer
}

/// Charges the client for the request. Answers what is left, if there is a limit.
fn charge(rates: Option<&Rates>, request: &Request) -> (Option<Left>, Result<()>) {
    let Some(rates) = rates else {
        return (None, Ok(()));
    };
    let Some(client) = client(rates, request.headers(), request.extensions()) else {
        return (None, Ok(()));
    };
    match rates.take(client, Instant::now()) {
        Ok(left) => (Some(left), Ok(())),
        Err(Refused { wait, left }) => (Some(left), Err(Problem::too_many(wait))),
    }
}

/// `RateLimit-…` as the IETF's draft has them up to version 6, which most clients know.
fn say_what_is_left(headers: &mut HeaderMap, left: Left) {
    let seconds = left.reset.as_secs_f64().ceil() as u64;
    headers.insert(RATE_LIMITS[0], left.limit.into());
    headers.insert(RATE_LIMITS[1], left.remaining.into());
    headers.insert(RATE_LIMITS[2], seconds.into());
}

fn check(request: &Request) -> Result<()> {
    check_single(request)?;
    if request.uri().path().starts_with("/api/") && !accepts_json(request.headers()) {
        return Err(Problem::not_acceptable());
    }
    Ok(())
}

/// Refuses a header that is there twice: a proxy may read one of the two, and we the
/// other. `Host` must be there once (RFC 9112, section 3.2).
fn check_single(request: &Request) -> Result<()> {
    let count = |name: HeaderName| request.headers().get_all(name).iter().count();
    let tenant = HeaderName::from_static(TENANT_HEADER);
    for (name, shown) in [
        (HOST, "Host"),
        (AUTHORIZATION, "Authorization"),
        (tenant, "X-Tenant-ID"),
    ] {
        if count(name) > 1 {
            let twice = format!("there is more than one `{shown}` header; send one");
            return Err(Problem::bad_request(twice));
        }
    }
    if count(HOST) == 0 && request.version() >= Version::HTTP_11 {
        return Err(Problem::bad_request("there is no `Host` header"));
    }
    Ok(())
}

/// The bucket that is charged: the token's, or its client's address for a token that
/// wasn't accepted yet. Tokens are looked up only after the charge.
fn client(rates: &Rates, headers: &HeaderMap, extensions: &Extensions) -> Option<Client> {
    let token = bearer(headers).map(hash);
    if let Some(token) = token.filter(|token| rates.knows(*token)) {
        return Some(Client::Token(token));
    }
    let ConnectInfo(from) = extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(Client::Address(network(from.ip())))
}

/// Whether an answer in JSON is among what the client accepts (RFC 9110, 12.5.1).
fn accepts_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            (media_type, refused)
        })
        .filter(|(media_type, _)| !media_type.is_empty())
        .peekable();
    if ranges.peek().is_none() {
        return true;
    }
    ranges.any(|(media_type, refused)| {
        let ours = [
            "*/*",
            "application/*",
            "application/json",
            "application/problem+json",
        ];
        !refused && ours.contains(&media_type.as_str())
    })
}

/// Lets pages of these origins use the API.
pub fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let tenant = HeaderName::from_static(TENANT_HEADER);
    let limits = RATE_LIMITS.map(HeaderName::from_static);
    let exposed = [ETAG, LOCATION, RETRY_AFTER, REQUEST_ID]
        .into_iter()
        .chain(limits)
        .chain([DEPRECATION, SUNSET]);
    let exposed: Vec<_> = exposed.collect();
    CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods(methods)
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            IF_MATCH,
            IF_NONE_MATCH,
            REQUEST_ID,
            tenant,
        ])
        .expose_headers(exposed)
        .max_age(CORS_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn json_is_what_most_clients_accept() {
        assert!(accepts_json(&HeaderMap::new()));
        for (accept, accepted) in [
            ("*/*", true),
            ("application/json", true),
            ("text/html, Application/JSON;q=0.5", true),
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/problem+json", true),
            ("", true),
            ("text/html", false),
            ("application/xml, application/json;q=0", false),
        ] {
            assert_eq!(accepts_json(&headers(ACCEPT, accept)), accepted, "{accept}");
        }
    }
}
