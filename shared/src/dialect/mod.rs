//! How a delivery looks on the wire: body, headers, signature, default policy.
//!
//! Pure: a message and the webhook's secrets go in, the exact bytes and headers
//! come out. The signature covers these bytes: they are made once and sent as
//! they are.
//!
//! Today there is one dialect, `standard`: Standard Webhooks 1.0
//! (<https://github.com/standard-webhooks/standard-webhooks>).

pub mod javascript;

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ids::{EventId, EventType};
use crate::retry::Schedule;
use crate::webhook::{Secret, Secrets};

/// The name of the dialect that a tenant has unless it chose another.
pub const STANDARD: &str = "standard";

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What is delivered.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The event's id: the same in every attempt.
    pub event_id: &'a EventId,
    /// The event's type.
    pub event_type: &'a EventType,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// The producer's JSON text.
    pub data: &'a str,
}

/// A request, but for its URL and the webhook's own headers.
#[derive(Debug, Clone)]
pub struct Wire {
    /// The exact bytes that were signed.
    pub body: Vec<u8>,
    /// Including `content-type`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The schedule of retries that the specification suggests.
#[must_use]
pub fn standard_schedule() -> Schedule {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    Schedule {
        jitter: 0.1,
        ..Schedule::of_seconds(&[
            5,
            5 * MINUTE,
            30 * MINUTE,
            2 * HOUR,
            5 * HOUR,
            10 * HOUR,
            14 * HOUR,
            20 * HOUR,
            24 * HOUR,
        ])
    }
}

/// How long an attempt may take unless the webhook says otherwise.
pub const STANDARD_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes and signs a delivery in the `standard` dialect.
#[must_use]
pub fn standard(message: &Message<'_>, secrets: &Secrets, now: OffsetDateTime) -> Wire {
    let timestamp = now.unix_timestamp().to_string();
    let body = standard_body(message);

    let mut signature = String::new();
    for secret in secrets.signing(now) {
        if !signature.is_empty() {
            signature.push(' ');
        }
        let signed = [message.event_id.as_str(), ".", &timestamp, "."];
        signature.push_str("v1,");
        signature.push_str(&BASE64.encode(hmac_sha256(
            secret,
            signed.iter().map(|s| s.as_bytes()).chain([body.as_slice()]),
        )));
    }

    // Ids, digits and base64 are visible ASCII, which every header value may be.
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let headers = vec![
        (
            axum::http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (WEBHOOK_ID, value(message.event_id.as_str())),
        (WEBHOOK_TIMESTAMP, value(&timestamp)),
        (WEBHOOK_SIGNATURE, value(&signature)),
    ];
    Wire { body, headers }
}

/// `{"type","timestamp","data"}`, with the producer's data as it was published.
fn standard_body(message: &Message<'_>) -> Vec<u8> {
    let timestamp = message.occurred_at.format(&Rfc3339).unwrap_or_default();
    let mut body = Vec::with_capacity(message.data.len() + 128);
    // Neither an event type nor an RFC 3339 time has a character to escape.
    body.extend_from_slice(b"{\"type\":\"");
    body.extend_from_slice(message.event_type.as_str().as_bytes());
    body.extend_from_slice(b"\",\"timestamp\":\"");
    body.extend_from_slice(timestamp.as_bytes());
    body.extend_from_slice(b"\",\"data\":");
    body.extend_from_slice(message.data.as_bytes());
    body.push(b'}');
    body
}

fn hmac_sha256<'a>(secret: &Secret, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let key = secret.key();
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose_secret()) else {
        // HMAC takes keys of any length (RFC 2104, section 2).
        unreachable!("HMAC refused a key");
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_standard_signature_is_the_specifications_own() {
        // The example of the Standard Webhooks specification's libraries.
        let secrets = Secrets::of(Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let signed = [
            "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.",
            r#"{"test": 2432232314}"#,
        ];
        let mac = hmac_sha256(secrets.current(), signed.iter().map(|s| s.as_bytes()));
        assert_eq!(
            BASE64.encode(mac),
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn data_is_carried_to_the_letter() {
        let (event_id, event_type) = ("evt-1".parse().unwrap(), "order.created".parse().unwrap());
        let message = Message {
            event_id: &event_id,
            event_type: &event_type,
            occurred_at: datetime!(2026-11-22 10:00:00.5 UTC),
            data: r#"{"n":12345678901234567890, "price":25.00}"#,
        };
        let wire = standard(
            &message,
            &Secrets::of(Secret::generate()),
            datetime!(2026-11-22 10:01 UTC),
        );
        assert_eq!(
            String::from_utf8(wire.body).unwrap(),
            r#"{"type":"order.created","timestamp":"2026-11-22T10:00:00.5Z","data":{"n":12345678901234567890, "price":25.00}}"#
        );
    }
}
