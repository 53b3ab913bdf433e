//! Why an attempt got no answer.

use crate::excerpt::{MAX_ERROR, excerpt};

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
}

/// A cause's text, so short that a failure's text has at most [`MAX_ERROR`] bytes, whatever an
/// endpoint or its certificate contains.
pub(crate) fn bounded(text: &str) -> String {
    // The longest prefix that `Failure` puts before a cause.
    const CLASS: usize = "forbidden destination: ".len();
    excerpt(text, MAX_ERROR - CLASS)
}
