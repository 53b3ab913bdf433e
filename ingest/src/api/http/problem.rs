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
use tracing::error;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::api::http::request_id;
use crate::invalid::{Conflict, Invalid, NotFound, Unsaved};

/// The longest name of a field that is shown, in bytes: a client may have chosen it.
const MAX_FIELD: usize = 256;

/// `application/problem+json` with `title`, `status`, `detail` and, where one is
/// to blame, the `field`.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    field: Option<String>,
    /// In seconds.
    retry_after: Option<u64>,
}

/// Why a request was refused (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "type": "about:blank", "title": "Unprocessable Entity", "status": 422,
    "detail": "must be between 1 and 250", "field": "limit"
}))]
struct Details {
    /// Always `about:blank`: the status says what kind of problem it is.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and what would be right.
    detail: String,
    /// The member, parameter or header that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// The answer's `x-request-id`, for asking what happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
}

pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: excerpt(&detail.into(), MAX_ERROR),
            field: None,
            retry_after: None,
        }
    }

    /// 400: the request can't be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 422: a field is out of its bounds.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: Some(excerpt(&field.into(), MAX_FIELD)),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
    }

    /// 401: no valid token.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "a valid `Authorization: Bearer` token is needed",
        )
    }

    /// 401: a JWT that isn't accepted, and why.
    pub fn bad_jwt(reason: &str) -> Self {
        let detail = format!("this JWT is not accepted: {reason}");
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 403: the token's role is not enough.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 404: it doesn't exist, or not for this tenant.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405: the path doesn't take this method.
    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    /// 406: the client doesn't accept JSON.
    pub fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "the API answers with `application/json`: add it to `Accept`",
        )
    }

    /// 409: the request contradicts what is stored.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 412: the webhook has changed since the client read it.
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, detail)
    }

    /// 413: the body or the data is too large.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 415: the body is not JSON.
    pub fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send `Content-Type: application/json`",
        )
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// When it may be tried again, in seconds.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// The field to blame, if there is one, and the detail.
    pub fn into_blame(self) -> (Option<String>, String) {
        (self.field, self.detail)
    }

    /// 429: too many requests; how long until the next.
    pub fn too_many(wait: Duration) -> Self {
        Self {
            // Whole seconds, and not a moment too early.
            retry_after: Some(wait.as_secs() + 1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "this token or address sends more requests than API_RATE_LIMIT allows",
            )
        }
    }

    /// 429: this many changes of a tenant wait for their turn already.
    pub fn too_many_changes(most: usize) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
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
    }

    /// 503: try again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

/// A failure that the client can't do anything about. The log has the cause; the answer doesn't.
impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        error!(
            error = format!("{error:#}"),
            "a request failed and was answered with 503"
        );
        Self::unavailable("PostgreSQL or RabbitMQ cannot be reached; try again")
    }
}

impl From<Invalid> for Problem {
    fn from(Invalid { field, reason }: Invalid) -> Self {
        Self::field(field, reason)
    }
}

impl From<NotFound> for Problem {
    fn from(error: NotFound) -> Self {
        Self::not_found(error.to_string())
    }
}

impl From<Conflict> for Problem {
    fn from(error: Conflict) -> Self {
        Self::conflict(error.to_string())
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

impl ToSchema for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = Details {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: self.detail,
            field: self.field,
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
