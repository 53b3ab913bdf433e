//! `/healthz`, `/readyz` and `/metrics`, the same in both binaries.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::TextEncoder;

use crate::supervise::Readiness;

/// `/healthz`, `/readyz`, `/metrics`.
pub fn routes(ready: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .with_state(ready)
}

async fn readyz(State(ready): State<Readiness>) -> Response {
    let missing = ready.missing().into_iter();
    let mut missing: Vec<_> = missing.map(|part| format!("no {part}")).collect();
    let (unreadable, missing_key) = ready.unreadable_webhooks();
    if missing_key > 0 {
        missing.push(format!(
            "no key for {missing_key} webhooks: they were sealed with one that is neither \
             MASTER_KEY nor in MASTER_KEY_PREVIOUS"
        ));
    }
    if !missing.is_empty() {
        let text = format!("not ready: {}\n", missing.join(", "));
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    if unreadable > 0 {
        // No other process could read these: this one is as good as any.
        return format!("ready, but {unreadable} webhooks cannot be read: see the log\n")
            .into_response();
    }
    "ready\n".into_response()
}

async fn exposition() -> Response {
    match TextEncoder::new().encode_to_string(&prometheus::gather()) {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
