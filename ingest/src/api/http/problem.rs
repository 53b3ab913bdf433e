//! Refusals and failures as HTTP answers: RFC 9457 problem details.
//!
//! Here are the problems, each with its status and its code. Domain errors ([`crate::invalid`])
//! become problems in [`causes`] and nowhere else. [`answer`] writes a problem as an answer.

mod answer;
mod causes;

use std::fmt;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use shared::excerpt::{MAX_ERROR, excerpt};
use shared::ids::WebhookId;
use shared::webhook::Unreadable;
use utoipa::ToSchema;

use crate::api::http::code::Code;

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

    /// The problem of a status, in words of the API's description.
    pub fn of_status(status: StatusCode, detail: &str) -> Self {
        let code = match status {
            StatusCode::BAD_REQUEST => Code::MalformedRequest,
            StatusCode::UNAUTHORIZED => Code::Unauthorized,
            StatusCode::FORBIDDEN => Code::Forbidden,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::CONFLICT => Code::Conflict,
            StatusCode::PRECONDITION_FAILED => Code::ChangedMeanwhile,
            StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::TOO_MANY_REQUESTS => Code::RateLimited,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            _ => Code::InvalidValue,
        };
        Self::new(status, code, detail)
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

    /// 429: this many requests of a tenant wait already.
    pub fn too_many_waiting(most: usize) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyAtOnce,
                format!(
                    "{most} requests of this tenant wait for earlier ones already, which is the most: \
                     send fewer at once"
                ),
            )
        }
    }

    /// 429: the bodies of a tenant's requests under way have this many bytes.
    pub fn too_many_bytes_at_once(most: usize) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyAtOnce,
                format!(
                    "the bodies of this tenant's requests under way have {most} bytes, which is the most at a time: \
                     send fewer at once"
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
