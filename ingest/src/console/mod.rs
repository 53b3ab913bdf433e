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
use guard::LIVE;
use pages::{
    dead_letters, deliveries, delivery, edit, event, event_types, events, go, health, log,
    overview, publish, replays, retry, secret, settings, sign_in, signature, statistics, tenants,
    test, tokens, webhook, webhooks,
};
use state::Console;

pub mod assets;
pub mod chart;
pub mod clauses;
pub mod confirm;
pub mod failure;
pub mod fields;
pub mod frame;
pub mod guard;
pub mod icons;
pub mod live;
pub mod moments;
pub mod pages;
pub mod parts;
pub mod portal;
pub mod query;
pub mod rail;
pub mod session;
pub mod shell;
pub mod state;
pub mod text;
pub mod visit;
pub mod watch;
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
        .merge(operators())
        .fallback(nowhere);
    let of_tenant = Router::new()
        .route(LIVE, get(live::of_tenant))
        .route("/webhooks", get(webhooks::show))
        .route("/webhooks/new", get(edit::new).post(edit::create))
        .route("/webhooks/{id}", get(webhook::show))
        .route("/webhooks/{id}/edit", get(edit::edit).post(edit::save))
        .route("/webhooks/{id}/status", post(webhook::status::set_status))
        .route("/webhooks/{id}/probe", post(webhook::status::ask_now))
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
        .route("/deliveries/{id}/raw", get(delivery::attempt::raw))
        .route("/deliveries/{id}/retry", post(delivery::retry))
        .route("/events", get(events::show))
        .route("/events/new", get(publish::show).post(publish::send))
        .route("/events/{id}", get(event::show))
        .merge(beside())
        .fallback(nowhere);
    Router::new()
        .route("/console", get(sign_in::home))
        .route("/console/{tenant}", get(overview::show))
        .nest("/console/_", nobodys)
        .nest("/console/{tenant}", of_tenant)
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Failure::not_found(format!("{} does not take {method}", uri.path()))
        })
        .layer(from_fn_with_state(console.clone(), guard::guard))
        .merge(portal::routes(console.clone()))
        .with_state(console)
}

/// Pages of a tenant beside its webhooks, deliveries and events.
fn beside() -> Router<Arc<Console>> {
    Router::new()
        .route(
            "/event-types",
            get(event_types::show).post(event_types::form::save),
        )
        .route("/event-types/new", get(event_types::form::new))
        .route(
            "/event-types/import",
            get(event_types::form::import_page).post(event_types::form::import),
        )
        .route("/event-types/{name}", get(event_types::show_one))
        .route("/event-types/{name}/edit", get(event_types::form::edit))
        .route(
            "/event-types/{name}/delete",
            post(event_types::form::delete),
        )
        .route("/replays", get(replays::show).post(replays::new::create))
        .route("/replays/new", get(replays::new::show))
        .route("/replays/{id}", get(replays::show_one))
        .route("/replays/{id}/cancel", post(replays::cancel))
        .route("/dead-letters", get(dead_letters::of_tenant::show))
        .route("/dead-letters/{id}", get(dead_letters::of_tenant::show_one))
        .route("/signature", get(signature::show).post(signature::check))
        .route("/tokens", get(tokens::show).post(tokens::issue))
        .route("/tokens/{id}/revoke", post(tokens::revoke))
}

/// Pages of all tenants.
fn operators() -> Router<Arc<Console>> {
    Router::new()
        .route(LIVE, get(live::of_all))
        .route("/health", get(health::show))
        .route("/tenants", get(tenants::show).post(tenants::form::create))
        .route("/tenants/new", get(tenants::form::new))
        .route(
            "/tenants/{id}",
            get(tenants::one::show).post(tenants::form::save),
        )
        .route("/tenants/{id}/edit", get(tenants::form::edit))
        .route("/tenants/{id}/tokens", post(tenants::one::issue))
        .route(
            "/tenants/{id}/tokens/{token}/revoke",
            post(tenants::one::revoke),
        )
        .route("/tenants/{id}/portal", post(tenants::one::portal_link))
        .route("/tenants/{id}/portal/end", post(tenants::one::end_portal))
        .route("/dead-letters", get(dead_letters::show))
        .route("/dead-letters/act", post(dead_letters::act::act))
        .route("/dead-letters/{id}", get(dead_letters::one::show))
        .route("/dead-letters/{id}/replay", post(dead_letters::one::replay))
}

async fn nowhere() -> Failure {
    Failure::not_found("there is no such page")
}
