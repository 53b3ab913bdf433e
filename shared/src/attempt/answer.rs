//! Reads an endpoint's answer: its status, its first headers, and the beginning of its body.

use std::time::Duration;

use axum::http::header;
use reqwest::Response;
use time::OffsetDateTime;

use super::report::{Answer, KEPT_HEADERS};

/// Reads the status, the headers, and as much of the body as is kept.
pub(super) async fn read_answer(
    mut response: Response,
    keep: usize,
    patience: Duration,
    now: OffsetDateTime,
) -> Answer {
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, now));
    let mut room = KEPT_HEADERS;
    let headers = response.headers().iter().map_while(|(name, value)| {
        room = room.checked_sub(name.as_str().len() + value.len())?;
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Some((name.to_string(), value))
    });
    let headers = headers.collect();
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after,
        headers,
        body: Vec::new(),
    };
    let body = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = keep - answer.body.len();
            answer
                .body
                .extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
    };
    // The part of the body that arrived until then is kept. The rest is dropped with
    // the connection.
    let _ = tokio::time::timeout(patience, body).await;
    answer
}

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date.
pub fn parse_retry_after(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number with more digits than fit into a u64 is longer than any cap.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let wait = OffsetDateTime::from(date) - now;
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests;
