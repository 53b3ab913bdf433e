//! The console: server-rendered pages for operators and tenants, under `/console`.
//!
//! A page's handler stands in [`pages`]. It calls the API's handlers, with the role and the
//! tenant of the visitor ([`visit`]), and writes what they answer as HTML. So a page shows
//! nothing that a program can't get, and may do nothing that its visitor's token may not.
//!
//! A request passes [`guard`] (session, rate limit, forms, headers), then the handler. Its
//! page stands in a [`frame`] and is made of [`parts`], [`words`] and [`text`]: what others
//! wrote is shown by `text` alone. Nothing outside of this folder but `run` knows it.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use failure::Failure;
use pages::{
    deliveries, delivery, edit, event, events, go, log, overview, retry, secret, settings, sign_in,
    statistics, test, webhook, webhooks,
};
use state::Console;

pub mod assets;
pub mod chart;
pub mod failure;
pub mod fields;
pub mod frame;
pub mod guard;
pub mod icons;
pub mod moments;
pub mod pages;
pub mod parts;
pub mod query;
pub mod session;
pub mod shell;
pub mod state;
pub mod text;
pub mod visit;
pub mod words;

/// All pages. Addresses of no tenant are below `/console/_`: no tenant's id begins so.
pub fn routes(console: Console) -> Router {
    let console = Arc::new(console);
    let nobodys = Router::new()
        .route("/assets/{name}", get(assets::show))
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/open", get(sign_in::link).post(sign_in::open))
        .route("/theme", post(sign_in::theme))
        .route("/keys", get(sign_in::show_keys).post(sign_in::set_keys))
        .route("/choose", get(sign_in::choose))
        .route("/go", get(go::go))
        .fallback(nowhere);
    let tenants = Router::new()
        .route("/webhooks", get(webhooks::show))
        .route("/webhooks/new", get(edit::new).post(edit::create))
        .route("/webhooks/{id}", get(webhook::show))
        .route("/webhooks/{id}/edit", get(edit::edit).post(edit::save))
        .route("/webhooks/{id}/status", post(webhook::set_status))
        .route("/webhooks/{id}/statistics", get(statistics::show))
        .route("/webhooks/{id}/log", get(log::show))
        .route("/webhooks/{id}/settings", get(settings::show))
        .route(
            "/webhooks/{id}/delete",
            get(settings::ask_delete).post(settings::delete),
        )
        .route("/webhooks/{id}/secret", get(secret::show))
        .route("/webhooks/{id}/secret/rotate", post(secret::rotate))
        .route("/webhooks/{id}/secret/revoke", post(secret::revoke))
        .route("/webhooks/{id}/test", get(test::show).post(test::send))
        .route("/deliveries", get(deliveries::show))
        .route("/deliveries/retry", post(retry::retry))
        .route("/deliveries/{id}", get(delivery::show))
        .route("/deliveries/{id}/retry", post(delivery::retry))
        .route("/events", get(events::show))
        .route("/events/{id}", get(event::show))
        .fallback(nowhere);
    Router::new()
        .route("/console", get(sign_in::home))
        .route("/console/{tenant}", get(overview::show))
        .nest("/console/_", nobodys)
        .nest("/console/{tenant}", tenants)
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Failure::not_found(format!("{} does not take {method}", uri.path()))
        })
        .layer(from_fn_with_state(console.clone(), guard::guard))
        .with_state(console)
}

async fn nowhere(uri: Uri) -> Failure {
    Failure::not_found(format!("there is no page {}", uri.path()))
}
