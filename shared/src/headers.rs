//! Headers of deliveries that neither a webhook nor a dialect may set.

/// Headers that frame a message or belong to one connection (RFC 9110, sections 7.6
/// and 8.6; RFC 9112, section 6), and headers that every delivery has.
const RESERVED: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Whether a header is reserved. `name` is in lower case.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("proxy-")
}
