//! Headers of deliveries that neither a webhook nor a dialect may set.

/// Those that frame a message or are one connection's own (RFC 9110, sections 7.6
/// and 8.6; RFC 9112, section 6), and those that every delivery has.
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

/// Whether a header is Posthorn's or the connection's. In lower case.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("proxy-")
}
