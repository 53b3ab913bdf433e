//! Headers of answers that follow from the answer: `Location` of what was created, and 304
//! for a client that has the answer already.

use axum::Json;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::fmt::Display;

/// 201 with what was created, and where it is.
pub struct Created<T> {
    location: String,
    body: T,
}

impl<T> Created<T> {
    /// `collection` is the path of the list that the new thing is in.
    pub fn new(collection: &str, id: impl Display, body: T) -> Self {
        let location = format!("{collection}/{id}");
        Self { location, body }
    }

    /// `location` is the new thing's own path.
    pub fn at(location: String, body: T) -> Self {
        Self { location, body }
    }

    /// The new thing.
    pub fn into_body(self) -> T {
        self.body
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::CREATED, Json(self.body)).into_response();
        // Ids and names have only characters that a header may have.
        if let Ok(location) = HeaderValue::from_str(&self.location) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

/// 304 without a body, if the client has sent the answer's ETag in `If-None-Match`
/// (RFC 9110, section 13.1.2).
pub fn unless_known(method: &Method, wanted: Option<HeaderValue>, answer: Response) -> Response {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let etag = answer.headers().get(ETAG);
    let is_known = is_read
        && answer.status() == StatusCode::OK
        && wanted.is_some_and(|wanted| etag.is_some_and(|etag| names(&wanted, etag)));
    if !is_known {
        return answer;
    }
    let (mut parts, _) = answer.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(CONTENT_TYPE);
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, axum::body::Body::empty())
}

/// The value of `If-None-Match`, if there is one.
pub fn if_none_match(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(IF_NONE_MATCH).cloned()
}

/// Whether a list of ETags has this one. `W/` makes no difference here.
fn names(wanted: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(wanted), Ok(etag)) = (wanted.to_str(), etag.to_str()) else {
        return false;
    };
    let mut all = wanted.split(',').map(str::trim);
    all.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_the_answer_gets_304() {
        for (wanted, status) in [
            ("\"a\"", 304),
            ("W/\"a\"", 304),
            ("\"b\", \"a\"", 304),
            ("*", 304),
            ("\"b\"", 200),
            ("a", 200),
        ] {
            let answer = ([(ETAG, "\"a\"")], "text").into_response();
            let wanted_value = Some(HeaderValue::from_str(wanted).unwrap());
            let answer = unless_known(&Method::GET, wanted_value, answer);
            assert_eq!(answer.status().as_u16(), status, "{wanted}");
            assert_eq!(answer.headers().contains_key(CONTENT_TYPE), status == 200);
        }
        let answer = ([(ETAG, "\"a\"")], "text").into_response();
        let any = Some(HeaderValue::from_static("*"));
        assert_eq!(
            unless_known(&Method::PUT, any, answer).status().as_u16(),
            200
        );
    }
}
