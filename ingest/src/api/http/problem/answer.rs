//! A problem as the answer to a request: its body, and the headers that go with its status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::api::http::code::Code;
use crate::api::http::problem::{Blame, Problem};
use crate::api::http::request_id;

/// Why a request was refused (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "type": "/docs/errors#invalid_value", "title": "Unprocessable Entity", "status": 422,
    "code": "invalid_value", "detail": "must be between 1 and 250", "field": "limit",
    "errors": [{"field": "limit", "code": "invalid_value", "detail": "must be between 1 and 250"}],
    "request_id": "0199a6e2-7d0f-7cc1-8a43-5b0c6d1e2f3a"
}))]
struct Details {
    /// Where the code is explained, as a reference relative to the API's address.
    r#type: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    code: Code,
    /// What is wrong, and what would be right.
    detail: String,
    /// The member, parameter or header that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// Everything that is wrong with members, parameters and headers, this `field` first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(nullable = false, required = false)]
    errors: Vec<Blame>,
    /// The answer's `x-request-id`, for asking what happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
}

impl Details {
    fn new(problem: Problem, request_id: Option<String>) -> Self {
        Self {
            r#type: problem.code.uri(),
            title: problem.status.canonical_reason().unwrap_or_default(),
            status: problem.status.as_u16(),
            code: problem.code,
            detail: problem.detail,
            field: problem.errors.first().map(|first| first.field.clone()),
            errors: problem.errors,
            request_id,
        }
    }
}

impl Problem {
    /// As a client sees it, for the API's description.
    pub fn into_example(self) -> Value {
        let id = "0199a6e2-7d0f-7cc1-8a43-5b0c6d1e2f3a".to_owned();
        // Texts and numbers: there is nothing in it that JSON can't say.
        serde_json::to_value(Details::new(self, Some(id))).unwrap_or_default()
    }
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        Details::schema()
    }
}

impl ToSchema for Problem {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Details::schemas(schemas);
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let details = Details::new(self, request_id::current());
        let mut response = (status, Json(details)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
