//! The page that is shown when a session of the portal has ended or its link doesn't work.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::html;

use crate::api::http::problem::Problem;
use crate::console::failure::Failure;
use crate::console::shell::{Appearance, document};
use crate::console::text::line;

pub type Result<T> = std::result::Result<T, Ended>;

/// Why there is no page.
#[derive(Debug)]
pub enum Ended {
    /// No session, or not any more.
    Over,
    /// It doesn't exist, or the link doesn't cover it.
    Nothing,
    Problem(Problem),
}

impl<E: Into<Problem>> From<E> for Ended {
    fn from(error: E) -> Self {
        let problem = error.into();
        match problem.status() {
            StatusCode::NOT_FOUND => Self::Nothing,
            _ => Self::Problem(problem),
        }
    }
}

/// The portal's page for a failure that the console's parts answer with.
pub fn ended(failure: Failure) -> Ended {
    match failure {
        Failure::Problem(problem) => problem.into(),
        Failure::SignIn { .. } | Failure::Elsewhere(_) => Ended::Over,
    }
}

impl IntoResponse for Ended {
    fn into_response(self) -> Response {
        let (status, what, why) = match &self {
            Self::Over => (
                StatusCode::UNAUTHORIZED,
                "This page has ended.",
                "Open it again from where you came.".to_owned(),
            ),
            Self::Nothing => (
                StatusCode::NOT_FOUND,
                "There is nothing here.",
                "It may be older than this log is kept, or it isn't yours.".to_owned(),
            ),
            // Of what is away, no more is said than that.
            Self::Problem(problem) if problem.status().is_server_error() => (
                problem.status(),
                "This can't be shown just now.",
                "Nothing is lost. Try again in a moment.".to_owned(),
            ),
            // The problem's own words are about a tenant's limits, and a client of the API.
            Self::Problem(problem) if problem.status() == StatusCode::TOO_MANY_REQUESTS => (
                problem.status(),
                "Too many requests at once.",
                "Nothing was changed. Wait a moment and try again.".to_owned(),
            ),
            Self::Problem(problem) if problem.status() == StatusCode::FORBIDDEN => (
                problem.status(),
                "This link doesn't allow that.",
                "Nothing was changed.".to_owned(),
            ),
            Self::Problem(problem) if problem.status() == StatusCode::PAYLOAD_TOO_LARGE => (
                problem.status(),
                "That is too large.",
                "Nothing was changed. Send less.".to_owned(),
            ),
            // Of a conflict, too: it may name limits, or what only the operator sees.
            Self::Problem(problem) => (
                problem.status(),
                "That isn't possible now.",
                "Nothing was changed. Go back and look at the page again.".to_owned(),
            ),
        };
        let content = html! {
            main class="portal" id="main" {
                section { h1 { (what) } p class="soft" { (line(why)) } }
            }
        };
        let page = document(Appearance::default(), what, None, &content);
        let mut response = (status, page).into_response();
        if let Self::Problem(problem) = &self
            && let Some(seconds) = problem.retry_after()
        {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
