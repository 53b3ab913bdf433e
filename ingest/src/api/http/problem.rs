//! Refusals and failures as HTTP answers: RFC 9457 problem details.
//!
//! Domain errors become problems here and nowhere else ([`crate::invalid`]).

use std::fmt;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::excerpt::{MAX_ERROR, excerpt};
use shared::ids::WebhookId;
use shared::webhook::Unreadable;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tracing::error;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::api::http::code::Code;
use crate::api::http::request_id;
use crate::invalid::{Conflict, Invalid, Invalids, NotFound, Unsaved};

/// The longest name of a field that is shown, in bytes: a client may have chosen it.
const MAX_FIELD: usize = 256;
/// The longest text about one field, in bytes.
const MAX_DETAIL: usize = 512;

/// The most errors of one answer: a catalogue may have thousands.
const MAX_ERRORS: usize = 100;

/// `application/problem+json` with `title`, `status`, `code`, `detail` and, where one is
/// to blame, the `field`.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: Code,
    detail: String,
    /// Everything that is wrong. The first is the problem's own `field` and `detail`.
    errors: Vec<Blame>,
    /// In seconds.
    retry_after: Option<u64>,
}

/// What is wrong with one member, parameter or header.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ProblemError)]
pub struct Blame {
    /// The member, parameter or header: `url`, `events[3]`, `If-Match`.
    #[schema(example = "limit")]
    pub field: String,
    pub code: Code,
    /// What is wrong with it, and what would be right.
    #[schema(example = "must be between 1 and 250")]
    pub detail: String,
}

impl Blame {
    /// Both texts are cut: a client may have chosen parts of them.
    pub fn new(code: Code, field: impl AsRef<str>, detail: impl AsRef<str>) -> Self {
        Self {
            field: excerpt(field.as_ref(), MAX_FIELD),
            code,
            detail: excerpt(detail.as_ref(), MAX_DETAIL),
        }
    }
}

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

pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: excerpt(&detail.into(), MAX_ERROR),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// This member or header is to blame.
    pub fn of_field(mut self, name: &str) -> Self {
        self.errors = vec![Blame::new(self.code, name, &self.detail)];
        self
    }

    /// Another kind of problem with the same status.
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// 400: these members can't be read. There is at least one.
    pub fn wrong(errors: Vec<Blame>) -> Self {
        Self::all_of(StatusCode::BAD_REQUEST, errors)
    }

    /// The first error is the problem's own.
    fn all_of(status: StatusCode, mut errors: Vec<Blame>) -> Self {
        let first = errors.first();
        let code = first.map_or(Code::MalformedRequest, |first| first.code);
        let detail = first.map_or("", |first| &first.detail);
        let problem = Self::new(status, code, detail);
        errors.truncate(MAX_ERRORS);
        Self { errors, ..problem }
    }

    /// This, and what is wrong besides.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.errors.extend(other.errors);
        self.errors.truncate(MAX_ERRORS);
        self
    }

    /// What is wrong with which member.
    pub fn errors(&self) -> &[Blame] {
        &self.errors
    }

    /// 400: the request can't be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::MalformedRequest, detail)
    }

    /// 422: a field is out of its bounds.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let error = Blame::new(Code::InvalidValue, field.into(), detail.into());
        Self::all_of(StatusCode::UNPROCESSABLE_ENTITY, vec![error])
    }

    /// 422: the operation has no such query parameters. There is at least one.
    pub fn unknown_parameters(errors: Vec<Blame>) -> Self {
        Self::all_of(StatusCode::UNPROCESSABLE_ENTITY, errors)
    }

    /// 401: no valid token.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Code::Unauthorized,
            "a valid `Authorization: Bearer` token is needed",
        )
        .of_field("Authorization")
    }

    /// 401: a JWT that isn't accepted, and why.
    pub fn bad_jwt(reason: &str) -> Self {
        let detail = format!("this JWT is not accepted: {reason}");
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, detail).of_field("Authorization")
    }

    /// 403: the token's role is not enough.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::Forbidden, detail)
    }

    /// 404: it doesn't exist, or not for this tenant.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, detail)
    }

    /// 405: the path doesn't take this method.
    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::MethodNotAllowed,
            detail,
        )
    }

    /// 406: the client doesn't accept JSON.
    pub fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            Code::NotAcceptable,
            "the API answers with `application/json`: add it to `Accept`",
        )
        .of_field("Accept")
    }

    /// 409: the request contradicts what is stored.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, Code::Conflict, detail)
    }

    /// 412: the webhook has changed since the client read it.
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            Code::ChangedMeanwhile,
            detail,
        )
        .of_field("If-Match")
    }

    /// 413: the body or the data is too large.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, detail)
    }

    /// 415: the body is not JSON.
    pub fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::UnsupportedMediaType,
            "send `Content-Type: application/json`",
        )
        .of_field("Content-Type")
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether PostgreSQL needed longer than a statement may take.
    pub fn is_too_slow(&self) -> bool {
        self.code == Code::TooSlow
    }

    /// All that is wrong, for people: a line for each.
    pub fn lines(&self) -> Vec<String> {
        if self.errors.is_empty() {
            return vec![self.detail.clone()];
        }
        let lines = self.errors.iter();
        lines
            .map(|Blame { field, detail, .. }| format!("{field}: {detail}"))
            .collect()
    }

    /// When it may be tried again, in seconds.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// The code, the detail, and what is wrong with which member.
    pub fn into_blame(self) -> (Code, String, Vec<Blame>) {
        (self.code, self.detail, self.errors)
    }

    /// 429: too many requests; how long until the next.
    pub fn too_many(wait: Duration) -> Self {
        Self {
            // Whole seconds, and not a moment too early.
            retry_after: Some(wait.as_secs() + 1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::RateLimited,
                "this token or address sends more requests than API_RATE_LIMIT allows",
            )
        }
    }

    /// 429: a tenant does more of something than it may in a second.
    pub fn too_many_of(what: &str, most: u32, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait.as_secs() + 1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::RateLimited,
                format!("a tenant may have {most} {what} a second"),
            )
        }
    }

    /// 429: this many changes of a tenant wait for their turn already.
    pub fn too_many_changes(most: usize) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyAtOnce,
                format!(
                    "{most} changes of this tenant are waiting already, which is the most: send them one after another"
                ),
            )
        }
    }

    /// 429: this many requests of a tenant are under way, and none has ended in time.
    pub fn too_many_at_once(most: usize) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyAtOnce,
                format!(
                    "{most} requests of this tenant are under way, which is the most at a time, and none of \
                     them finished in time: send fewer at once"
                ),
            )
        }
    }

    /// 503: what is sealed of a webhook can't be opened. The feed's line in the
    /// log says so too, once.
    pub fn unreadable(id: WebhookId, unreadable: Unreadable) -> Self {
        let cause = anyhow::Error::new(unreadable);
        Self::unavailable(format!("webhook {id} cannot be read: {cause:#}"))
            .with_code(Code::UnreadableWebhook)
    }

    /// 503: try again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, detail)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.first() {
            Some(Blame { field, .. }) => write!(f, "{field}: {}", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

/// A failure that the client can't do anything about. The log has the cause; the answer doesn't.
impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        if was_given_up(&error) {
            error!(
                error = format!("{error:#}"),
                "a statement of a request took longer than statement_timeout, and was answered with 503"
            );
            let detail = "PostgreSQL took too long for this, and it was given up: ask for less, or try again";
            return Self::unavailable(detail).with_code(Code::TooSlow);
        }
        error!(
            error = format!("{error:#}"),
            "a request failed and was answered with 503"
        );
        Self::unavailable("PostgreSQL or RabbitMQ cannot be reached; try again")
    }
}

/// PostgreSQL ended a statement: because of `statement_timeout`, unless somebody did it by hand.
fn was_given_up(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let mut codes = causes.filter_map(tokio_postgres::Error::code);
    codes.any(|code| *code == SqlState::QUERY_CANCELED)
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Invalids(vec![invalid]).into()
    }
}

impl From<Invalids> for Problem {
    fn from(Invalids(all): Invalids) -> Self {
        let blame = |invalid: Invalid| {
            let code = if invalid.is_missing {
                Code::MissingMember
            } else {
                Code::InvalidValue
            };
            Blame::new(code, invalid.field, invalid.reason)
        };
        let errors = all.into_iter().map(blame).collect();
        Self::all_of(StatusCode::UNPROCESSABLE_ENTITY, errors)
    }
}

impl From<NotFound> for Problem {
    fn from(error: NotFound) -> Self {
        Self::not_found(error.to_string())
    }
}

impl From<Conflict> for Problem {
    fn from(error: Conflict) -> Self {
        let code = match error {
            Conflict::Limit(_) => Code::LimitReached,
            Conflict::Exists(_) => Code::Conflict,
        };
        Self::conflict(error.to_string()).with_code(code)
    }
}

impl From<Unsaved> for Problem {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::Invalid(error) => error.into(),
            Unsaved::NotFound(error) => error.into(),
            Unsaved::Conflict(error) => error.into(),
            Unsaved::Postgres(error) => error.into(),
        }
    }
}

impl From<deadpool_postgres::PoolError> for Problem {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        anyhow::Error::new(error).into()
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        anyhow::Error::new(error).into()
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
        let details = Details {
            r#type: self.code.uri(),
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            field: self.errors.first().map(|first| first.field.clone()),
            errors: self.errors,
            request_id: request_id::current(),
        };
        let mut response = (self.status, Json(details)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
