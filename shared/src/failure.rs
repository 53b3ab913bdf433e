//! Why an attempt got no answer.

use std::error::Error;
use std::io;

use crate::descriptors;
use crate::destination::Forbidden;
use crate::excerpt::{MAX_ERROR, excerpt};
use crate::resolver::{Awaited, Unresolved};

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The destination isn't allowed.
    #[error("forbidden destination: {0}")]
    Forbidden(String),
    /// The name could not be resolved.
    #[error("DNS: {0}")]
    Dns(String),
    /// No TCP connection could be opened.
    #[error("connect: {0}")]
    Connect(String),
    /// No TLS connection with a trusted certificate.
    #[error("TLS: {0}")]
    Tls(String),
    #[error("timed out")]
    Timeout,
    /// The connection was opened, but then broke off, or the answer wasn't HTTP.
    #[error("broken exchange: {0}")]
    Broken(String),
    /// This process had no free file descriptor. The endpoint was never asked.
    #[error("Posthorn had no free file descriptor for the connection")]
    NoDescriptor,
    /// The name was not looked up, because other lookups took all turns. The endpoint was never
    /// asked.
    #[error("Posthorn looks up too many names at the moment")]
    NoTurn,
}

impl Failure {
    /// Why an attempt failed whose time is over.
    pub(crate) fn timed_out(awaited: &Awaited) -> Self {
        match awaited.waits_for_turn() {
            true => Self::NoTurn,
            false => Self::Timeout,
        }
    }

    /// Whether this process lacked something, so that the endpoint was never asked.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::NoDescriptor | Self::NoTurn)
    }

    /// The failure that follows from a connection that could not be opened.
    pub(crate) fn of_connecting(error: &io::Error) -> Self {
        match descriptors::are_exhausted(error) {
            true => Self::NoDescriptor,
            false => Self::Connect(bounded(&error.to_string())),
        }
    }
}

impl From<Unresolved> for Failure {
    fn from(unresolved: Unresolved) -> Self {
        match unresolved {
            Unresolved::NoDescriptor => Self::NoDescriptor,
            Unresolved::TooMany => Self::NoTurn,
            Unresolved::Failed(_) => Self::Dns(bounded(&unresolved.to_string())),
        }
    }
}

/// A cause's text, so short that a failure's text has at most [`MAX_ERROR`] bytes, whatever an
/// endpoint or its certificate contains.
pub(crate) fn bounded(text: &str) -> String {
    // The longest prefix that `Failure` puts before a cause.
    const CLASS: usize = "forbidden destination: ".len();
    excerpt(text, MAX_ERROR - CLASS)
}

/// Finds out what went wrong from the chain of causes.
pub(crate) fn classify(error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return Failure::Forbidden(bounded(&forbidden.to_string()));
        }
        if let Some(unresolved) = error.downcast_ref::<Unresolved>() {
            return unresolved.clone().into();
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && descriptors::are_exhausted(io)
        {
            return Failure::NoDescriptor;
        }
        if let Some(tls) = find_tls(error) {
            return Failure::Tls(bounded(&tls.to_string()));
        }
        last = error.to_string();
        cause = error.source();
    }
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_connect() {
        Failure::Connect(bounded(&last))
    } else {
        Failure::Broken(bounded(&last))
    }
}

/// A TLS error is wrapped in one or more I/O errors, and their `source` skips what
/// they wrap.
fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    find_tls(error.downcast_ref::<io::Error>()?.get_ref()?)
}
