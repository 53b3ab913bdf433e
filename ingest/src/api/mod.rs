//! The API: JSON over HTTP, problems as RFC 9457.
//!
//! Each file is a resource with its routes, its SQL and its JSON. [`auth`] says
//! who asks; [`problem`] says no. A tenant's things are found by (tenant, id)
//! alone, so what is another's looks exactly like what doesn't exist.

// What `#[utoipa::path]` writes for a handler's parameters is qualified.
#![allow(unused_qualifications)]

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::from_fn_with_state;
use deadpool_postgres::Pool;
use secrecy::SecretString;
use serde_json::Value;
use shared::catalogue::Feed;
use shared::destination::Destinations;
use shared::dialect::Dialects;
use shared::publish::Publisher;
use shared::seal::Keyring;
use shared::tenant::LARGEST_MAX_PAYLOAD;
use shared::webhook::Subscription;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::door::Door;
use crate::event_types::EventTypes;
use crate::subscriptions::Subscriptions;
use crate::turn::TenantPlaces;
use changes::ChangeLimiter;
use jwt::Jwts;
use problem::Problem;
use rates::Rates;
use test_deliveries::Tester;
use token_lookup::TokenLookup;

pub mod around;
pub mod auth;
pub mod changes;
pub mod dead_letters;
pub mod deliveries;
pub mod delivery_merge;
pub mod delivery_search;
pub mod delivery_view;
pub mod dialects;
pub mod docs;
pub mod event_detail;
pub mod event_log;
pub mod event_type_form;
pub mod event_types;
pub mod events;
pub mod jwt;
pub mod keys;
pub mod openapi;
pub mod problem;
pub mod rates;
pub mod rematches;
pub mod replays;
pub mod request;
pub mod retries;
pub mod rotation;
pub mod stats;
pub mod tenants;
pub mod test_deliveries;
pub mod timestamp;
pub mod token_lookup;
pub mod tokens;
pub mod webhook_form;
pub mod webhook_shown;
pub mod webhook_store;
pub mod webhooks;

/// The largest request body, in bytes: an event's data and what is around it.
const MAX_BODY: usize = LARGEST_MAX_PAYLOAD + 256 * 1024;

/// What handlers need.
pub struct Api {
    /// To PostgreSQL: the API's own, so that no request keeps events waiting.
    pub pool: Pool,
    /// Looks tokens up: who asks is known however many others ask.
    pub tokens: TokenLookup,
    /// Lets a tenant's requests that use PostgreSQL in.
    pub places: TenantPlaces,
    /// Lets changes to the catalogue in.
    pub changes: ChangeLimiter,
    /// To `posthorn.events`.
    pub publisher: Publisher,
    /// Where events go.
    pub door: Arc<Door>,
    /// For the routing of jobs.
    pub shards: u16,
    /// Sends tests.
    pub tester: Tester,
    /// Seals secrets.
    pub keys: Keyring,
    /// Where webhooks may point.
    pub destinations: Destinations,
    /// What webhooks may look like.
    pub dialects: Dialects,
    /// The operator's own token.
    pub admin_token: Option<SecretString>,
    /// How often clients may ask, unless as often as they like.
    pub rates: Option<Rates>,
    /// What verifies JWTs, if any are accepted.
    pub jwts: Option<Jwts>,
    /// Brings the index up to date after a change.
    pub feed: Arc<Feed<Subscription>>,
    /// The index.
    pub subscriptions: Arc<Subscriptions>,
    /// What tenants say about their event types.
    pub event_types: Arc<EventTypes>,
}

impl Api {
    /// What webhooks are written with.
    fn writing(&self) -> webhook_store::Writing<'_> {
        webhook_store::Writing {
            keys: &self.keys,
            dialects: &self.dialects,
        }
    }
}

/// What every handler is given.
pub type Shared = Arc<Api>;

/// All routes, and the document that describes them.
pub fn routes(api: Api, cors_origins: &[HeaderValue]) -> Router {
    let (routes, document) = described();
    let api = Arc::new(api);
    let routes = routes
        .merge(docs::routes(&openapi::finished(&document)))
        .fallback(async |method: Method, uri: Uri| {
            Problem::not_found(format!("there is no {method} {}", uri.path()))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Problem::method_not_allowed(format!("{} does not take {method}", uri.path()))
        })
        .layer(from_fn_with_state(api.clone(), around::around))
        .with_state(api);
    if cors_origins.is_empty() {
        return routes;
    }
    // Outermost: a browser asks beforehand, without a token.
    routes.layer(around::cors(cors_origins))
}

/// The OpenAPI document, as `/openapi.json` has it.
pub fn document() -> Value {
    openapi::finished(&described().1)
}

fn described() -> (Router<Shared>, utoipa::openapi::OpenApi) {
    let events = events::routes()
        .merge(event_log::routes())
        .merge(event_detail::routes())
        .merge(rematches::of_event());
    let webhooks = || {
        webhooks::routes()
            .merge(rotation::routes())
            .merge(deliveries::of_webhook())
            .merge(retries::of_webhook())
            .merge(replays::of_webhook())
            .merge(stats::of_webhook())
            .merge(test_deliveries::of_webhook())
    };
    let deliveries = deliveries::routes().merge(retries::routes());
    let (routes, document) = OpenApiRouter::with_openapi(openapi::Base::openapi())
        .nest("/api/v1/webhooks", webhooks())
        .nest("/api/v1/deliveries", deliveries)
        .nest("/api/v1/stats", stats::routes())
        .nest("/api/v1/events", events)
        .nest("/api/v1/event-types", event_types::routes())
        .nest("/api/v1/catalogues", event_types::catalogues())
        .nest("/api/v1/dialects", dialects::routes())
        .nest("/api/v1/admin/dead-letters", dead_letters::routes())
        .nest("/api/v1/admin/events", rematches::of_all())
        .nest("/.well-known/webhook-keys", keys::routes())
        .nest("/api/v1/admin/tokens", tokens::routes())
        .nest("/api/v1/admin/tenants", tenants::routes())
        .split_for_parts();
    // Where some of the systems whose users we serve have them.
    (routes.nest("/api/webhooks", webhooks().into()), document)
}
