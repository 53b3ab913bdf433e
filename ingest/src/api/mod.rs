//! The HTTP API: which path leads to which handler.
//!
//! Nothing else is here, and no handler imports it. Each folder or file beside it
//! is a resource with its routes, its SQL and its JSON. [`access`] decides who may
//! send a request, [`http`] reads requests and writes problems, [`state`] is what
//! handlers share.
//!
//! Rows are found by (tenant, id) alone. So another tenant's webhook looks exactly
//! like one that doesn't exist.

// What `#[utoipa::path]` writes for a handler's parameters is qualified.
#![allow(unused_qualifications)]

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, Method, Uri};
use serde_json::Value;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use deliveries::{all_replays, replays, retries, webhook_log};
use events::{expunge, rematches};
use http::problem::Problem;
use http::query::Queries;
use state::Shared;
use webhooks::{endpoint, keys, outages, rotation, stats, type_stats};

pub mod access;
pub mod beside;
pub mod changes;
pub mod dead_letters;
pub mod deliveries;
pub mod dialects;
pub mod event_types;
pub mod events;
pub mod export;
pub mod http;
pub mod listeners;
pub mod me;
pub mod middleware;
pub mod openapi;
pub mod operations;
pub mod portal_links;
pub mod portal_sessions;
pub mod signatures;
pub mod state;
pub mod tenant_deletion;
pub mod tenants;
pub mod tokens;
pub mod webhook_metrics;
pub mod webhooks;

/// All routes, and the document that describes them.
pub fn routes(api: Shared, cors_origins: &[HeaderValue]) -> Router {
    let (routes, document) = described();
    let document = openapi::finished(&document);
    let queries = Arc::new(Queries::from_document(&document));
    let routes = routes
        .merge(openapi::page::routes(&document))
        .fallback(async |method: Method, uri: Uri| {
            Problem::not_found(format!("there is no {method} {}", uri.path()))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Problem::method_not_allowed(format!("{} does not take {method}", uri.path()))
        });
    let routes = middleware::around(routes, queries, api.rates.clone()).with_state(api);
    if cors_origins.is_empty() {
        return routes;
    }
    // Outermost, because a browser's preflight request has no token.
    routes.layer(middleware::cors(cors_origins))
}

/// The OpenAPI document, as `/openapi.json` has it.
pub fn document() -> Value {
    openapi::finished(&described().1)
}

fn described() -> (Router<Shared>, utoipa::openapi::OpenApi) {
    let events = events::routes()
        .merge(events::log::routes())
        .merge(events::detail::routes())
        .merge(rematches::of_event())
        .merge(expunge::routes());
    let webhooks = || {
        webhooks::routes()
            .merge(rotation::routes())
            .merge(deliveries::of_webhook())
            .merge(webhook_log::of_webhook())
            .merge(retries::of_webhook())
            .merge(replays::of_webhook())
            .merge(all_replays::of_webhook())
            .merge(stats::of_webhook())
            .merge(endpoint::of_webhook())
            .merge(outages::of_webhook())
            .merge(webhooks::test::of_webhook())
            .merge(webhooks::preview::routes())
    };
    let deliveries = deliveries::routes().merge(retries::routes());
    let (routes, document) = OpenApiRouter::with_openapi(openapi::Base::openapi())
        .nest("/api/v1/webhooks", webhooks())
        .nest("/api/v1/deliveries", deliveries)
        .nest("/api/v1/replays", all_replays::routes())
        .nest("/api/v1/signatures", signatures::routes())
        .nest("/api/v1/stats", stats::routes().merge(type_stats::routes()))
        .nest("/api/v1/events", events)
        .nest("/api/v1/event-types", event_types::routes())
        .nest("/api/v1/catalogues", event_types::catalogues())
        .nest("/api/v1/dialects", dialects::routes())
        .nest("/api/v1/export", export::routes())
        .nest("/api/v1/listeners", listeners::routes())
        .nest("/api/v1/dead-letters", dead_letters::of_tenant())
        .nest("/api/v1/admin/dead-letters", dead_letters::routes())
        .nest("/api/v1/admin/events", rematches::of_all())
        .nest("/api/v1/changes", changes::routes())
        .nest("/api/v1/admin/changes", changes::of_all())
        .nest("/.well-known/webhook-keys", keys::routes())
        .nest("/api/v1/admin/tokens", tokens::routes())
        .nest(
            "/api/v1/admin/tenants",
            tenants::routes()
                .merge(tenant_deletion::routes())
                .merge(portal_sessions::routes()),
        )
        .nest("/api/v1/admin/portal-links", portal_links::routes())
        .nest("/api/v1/admin", operations::routes())
        .nest("/metrics", webhook_metrics::routes())
        .nest("/api/v1/me", me::routes())
        .split_for_parts();
    // The path that some of the supported systems use.
    (routes.nest("/api/webhooks", webhooks().into()), document)
}
