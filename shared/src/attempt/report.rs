//! What an attempt is told, and what it reports.
//!
//! A report may be stored and shown. So it leaves out the values of the webhook's
//! custom headers: many of them are credentials.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderName;
use time::OffsetDateTime;

use crate::dialect::{Dialect, Message};
use crate::failure::Failure;
use crate::trace::TraceContext;
use crate::webhook::Webhook;

/// Marks test deliveries, for receivers that want to recognise them.
pub const TEST_HEADER: HeaderName = HeaderName::from_static("x-posthorn-test");

/// How many bytes of an answer's headers are kept.
pub(super) const KEPT_HEADERS: usize = 16 * 1024;

/// One request to make.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    pub message: &'a Message<'a>,
    pub webhook: &'a Webhook,
    pub dialect: &'a Dialect,
    pub timeout: Duration,
    pub purpose: Purpose,
    pub keep: Keep,
    /// The proxy that the tenant names; `None`: the one of all tenants, if there is one.
    pub egress: Option<&'a str>,
    /// What is above the endpoint's own spans. Sent unless the webhook switches that off, or
    /// has a header `traceparent` of its own.
    pub trace: Option<TraceContext>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Delivery,
    /// A test of the endpoint, marked with [`TEST_HEADER`].
    Test,
}

/// How much of the request's and the answer's body a report keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// 16 KiB of the answer.
    Excerpt,
    /// The whole request body (the size of an event's data is bounded, see ingest's
    /// `decode`), and 64 KiB of the answer.
    Everything,
}

impl Keep {
    /// How many bytes of an answer's body are read and kept.
    #[must_use]
    pub const fn of_answer(self) -> usize {
        match self {
            Self::Excerpt => 16 * 1024,
            Self::Everything => 64 * 1024,
        }
    }
}

/// An attempt and its result.
#[derive(Debug)]
pub struct Report {
    /// The request. `None` if the URL wasn't an allowed destination.
    pub request: Option<Sent>,
    pub started_at: OffsetDateTime,
    pub took: Duration,
    /// The address of the endpoint that answered.
    pub remote: Option<SocketAddr>,
    pub result: Result<Answer, Failure>,
}

/// A request as it may be shown: without credentials.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The URL's host and port. Its path may hold a credential.
    pub host: String,
    /// The headers; the values of the webhook's custom headers are masked.
    pub headers: Vec<(String, String)>,
    /// The size of the body.
    pub bytes: usize,
    /// The body, with [`Keep::Everything`].
    pub body: Option<Bytes>,
}

#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    /// The `Retry-After` of the answer.
    pub retry_after: Option<Duration>,
    /// The first headers, up to [`KEPT_HEADERS`].
    pub headers: Vec<(String, String)>,
    /// The beginning of the body.
    pub body: Vec<u8>,
}

impl Report {
    /// How many bytes of headers and bodies it keeps.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let of_headers = |headers: &[(String, String)]| -> usize {
            let sizes = headers.iter().map(|(name, value)| name.len() + value.len());
            sizes.sum()
        };
        let answer = self
            .result
            .as_ref()
            .map_or(0, |answer| of_headers(&answer.headers) + answer.body.len());
        let request = self.request.as_ref().map_or(0, |request| {
            of_headers(&request.headers) + request.body.as_ref().map_or(0, Bytes::len)
        });
        answer + request
    }

    /// The class of the outcome, as in metrics and in the table of attempts.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match &self.result {
            Ok(answer) => match answer.status {
                200..=299 => "success",
                300..=399 => "redirect",
                400..=499 => "client_error",
                _ => "server_error",
            },
            Err(failure) => match failure {
                Failure::Forbidden(_) => "forbidden",
                Failure::Dns(_) | Failure::NoTurn => "dns",
                Failure::Connect(_) | Failure::NoDescriptor => "connect",
                Failure::Tls(_) => "tls",
                Failure::Timeout => "timeout",
                Failure::Broken(_) => "broken",
            },
        }
    }
}
