//! `/openapi.json`, `/docs`, a page to read it and to try requests out, and
//! `/docs/errors`, the text of `docs/errors.md`.
//!
//! The page is Swagger UI, whose files the crate `utoipa-swagger-ui` compiles
//! in. The page loads nothing from another host: the content security policy
//! forbids it, and the online validator, which would send the document's
//! address to a stranger, is off.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa_swagger_ui::Config;

use crate::api::http::code;

/// Swagger UI writes `style` attributes and shows icons from `data:` URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What each code of a problem means.
const ERRORS: &str = include_str!("../../../../docs/errors.md");

/// The document's and the page's routes.
pub fn routes<S: Clone + Send + Sync + 'static>(document: &Value) -> Router<S> {
    let json = Bytes::from(document.to_string());
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&json)[..8]));
    let config = Config::from("/openapi.json")
        .validator_url("none")
        .deep_linking(true)
        .doc_expansion("none")
        .default_models_expand_depth(0);
    let config = Arc::new(config);
    let index = config.clone();
    Router::new()
        .route(
            "/openapi.json",
            get(async move || {
                (
                    [
                        (CONTENT_TYPE, "application/json".to_owned()),
                        (CACHE_CONTROL, "no-cache".to_owned()),
                        (ETAG, etag),
                    ],
                    json,
                )
            }),
        )
        // Problems' `type` leads here. A browser shows Markdown only as plain text.
        .route(
            code::PAGE,
            get(async || {
                (
                    [
                        (CONTENT_TYPE, "text/plain; charset=utf-8"),
                        (CACHE_CONTROL, "no-cache"),
                    ],
                    ERRORS,
                )
            }),
        )
        // The page's files are named relative to it, so its address ends with a slash.
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async move || file("", index)))
        .route(
            "/docs/{file}",
            get(async move |Path(name): Path<String>| file(&name, config)),
        )
}

/// One of Swagger UI's files.
fn file(name: &str, config: Arc<Config<'static>>) -> Response {
    // An error can only be a file of the crate's that isn't text.
    let Ok(Some(file)) = utoipa_swagger_ui::serve(name, config) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (CONTENT_TYPE, file.content_type.as_str()),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, file.bytes.into_owned()).into_response()
}
