//! Error pages: what went wrong, the likely reason, what to do, and the request's id.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;

use crate::api::http::problem::Problem;
use crate::api::http::request_id;
use crate::console::fields::query;
use crate::console::parts::reasons;
use crate::console::shell::{Appearance, alone};
use crate::console::text::line;

pub type Result<T> = std::result::Result<T, Failure>;

/// Why there is no page.
#[derive(Debug)]
pub enum Failure {
    /// Nobody is signed in: to the sign-in page, and back here afterwards.
    SignIn {
        next: String,
    },
    /// Something else than a page, made by us.
    Elsewhere(String),
    Problem(Problem),
}

impl Failure {
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::Problem(Problem::not_found(detail))
    }

    /// What it is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Problem(problem) => problem.status(),
            Self::SignIn { .. } | Self::Elsewhere(_) => StatusCode::SEE_OTHER,
        }
    }

    /// Whether PostgreSQL needed longer than a statement may take.
    pub fn is_too_slow(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.is_too_slow())
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::Problem(Problem::forbidden(detail))
    }
}

impl<E: Into<Problem>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Problem(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::SignIn { next } => {
                let next = query(&[("next", &next)]);
                Redirect::to(&format!("/console/_/sign-in{next}")).into_response()
            }
            Self::Elsewhere(path) => Redirect::to(&path).into_response(),
            Self::Problem(problem) => page(&problem),
        }
    }
}

fn page(problem: &Problem) -> Response {
    let status = problem.status();
    let (what, why) = match problem.is_too_slow() {
        true => TOO_SLOW,
        false => words(status),
    };
    let content = html! {
        section {
            h1 { (what) }
            p class="break" { (reasons(problem)) }
            p class="soft" { (why) }
        }
        form class="row" action="/console/_/go" {
            label class="sr" for="eq" { "Go to" }
            input id="eq" name="q" placeholder="Another id" size="24";
            button class="btn" { "Go" }
        }
        p class="row" { a class="btn" href="/console" { "Overview" } }
        p class="small soft" {
            (status.as_u16())
            @if let Some(id) = request_id::current() { " · request " code { (line(id)) } }
        }
    };
    let mut response = (status, alone(Appearance::current(), what, &content)).into_response();
    if let Some(seconds) = problem.retry_after() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// What is said of a page whose statement was given up.
const TOO_SLOW: (&str, &str) = (
    "That took too long",
    "Nothing is lost, and deliveries go on. Narrow the filter or the time, or try again in a moment.",
);

/// What it is, and why it may be or what to do.
fn words(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => (
            "That can't be done as it was asked",
            "The sentence above says what would be right. Go back and change it: what you entered is still in the form.",
        ),
        StatusCode::UNAUTHORIZED => ("You aren't signed in", "Sign in and try again."),
        StatusCode::FORBIDDEN => (
            "Your role may not do that",
            "Somebody with that role can, or can give you a token that may.",
        ),
        StatusCode::NOT_FOUND => (
            "There is nothing here",
            "It may be older than this log is kept, it may be deleted, or it may be another tenant's.",
        ),
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => (
            "That isn't possible now",
            "It isn't in the state that this needs. Look at it as it is now, and decide again.",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => ("That is too large", "Send less."),
        StatusCode::TOO_MANY_REQUESTS => (
            "Too many requests",
            "Wait a moment and try again. Nothing was changed.",
        ),
        StatusCode::SERVICE_UNAVAILABLE => (
            "Something that Posthorn needs is away",
            "Nothing is lost: deliveries go on by themselves when it is back. Try again in a moment, and tell the operator the request's id if it stays so.",
        ),
        _ => (
            "This page could not be made",
            "Try again, and tell the operator the request's id if it stays so.",
        ),
    }
}
