//! The portal: pages with a tenant's webhooks for that tenant's customers, by themselves or in a
//! frame.
//!
//! A link ([`portal_links`](crate::api::portal_links)) begins a session with a cookie of its own.
//! This session opens no page under `/console`. [`guard`] decides which sites may show the portal
//! in a frame. The pages call the API's functions, and only for the webhooks that the link names
//! ([`scope`]). They show no tenant's name, no address of Posthorn's network ([`said`]), no limit and
//! no other webhook.

use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::console::guard::LIVE;
use crate::console::state::Console;

pub mod delivery;
pub mod edit;
pub mod ended;
pub mod event;
pub mod guard;
pub mod list;
pub mod live;
pub mod open;
pub mod retry;
pub mod said;
pub mod scope;
pub mod settings;
pub mod shell;
pub mod test;
pub mod webhook;
pub mod webhooks;

/// `/portal…`
pub fn routes(console: Arc<Console>) -> Router<Arc<Console>> {
    Router::new()
        .route("/portal", get(webhooks::show))
        .route("/portal/open", get(open::open))
        .route("/portal/webhooks/{id}", get(webhook::show))
        .route(
            "/portal/webhooks/{id}/edit",
            get(edit::show).post(edit::save),
        )
        .route("/portal/webhooks/{id}/settings", get(settings::show))
        .route("/portal/webhooks/{id}/secret", get(settings::secret))
        .route("/portal/webhooks/{id}/rotate", post(settings::rotate))
        .route("/portal/webhooks/{id}/status", post(webhook::set_status))
        .route(
            "/portal/webhooks/{id}/test",
            get(test::show).post(test::send),
        )
        .route("/portal/deliveries/retry", post(retry::retry_many))
        .route("/portal/deliveries/{id}", get(delivery::show))
        .route("/portal/deliveries/{id}/retry", post(retry::retry))
        .route("/portal/events/{id}", get(event::show))
        .route(&format!("/portal{LIVE}"), get(live::show))
        .route("/portal/{*rest}", get(nowhere))
        .layer(from_fn_with_state(console, guard::guard))
}

async fn nowhere(_: Uri) -> ended::Ended {
    ended::Ended::Nothing
}
