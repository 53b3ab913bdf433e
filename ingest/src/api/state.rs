//! State that all handlers share: connections, keys, limits and caches.
//!
//! `run` builds it once; axum hands it to each handler. This file knows no route,
//! so every handler may import it.

use std::sync::Arc;

use deadpool_postgres::Pool;
use secrecy::SecretString;
use shared::destination::Destinations;
use shared::dialect::Dialects;
use shared::egress::Egress;
use shared::publish::Publisher;
use shared::revisions::Feed;
use shared::seal::Keyring;
use shared::webhook::Subscription;

use crate::api::access::change_limit::ChangeLimiter;
use crate::api::access::jwt::Jwts;
use crate::api::access::rate_limit::Rates;
use crate::api::access::token_lookup::TokenLookup;
use crate::api::webhooks::tester::Tester;
use crate::door::Door;
use crate::event_types::EventTypes;
use crate::loads::Loads;
use crate::subscriptions::Subscriptions;
use crate::tenant_permits::TenantPermits;
use crate::webhooks::store::Writing;

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    /// Connections to PostgreSQL for the API alone, so that requests don't delay events.
    pub pool: Pool,
    /// Looks tokens up on connections of its own, so that tokens are verified while
    /// requests wait for the others.
    pub tokens: Arc<TokenLookup>,
    /// Bounds a tenant's requests that use PostgreSQL.
    pub permits: Arc<TenantPermits>,
    /// Bounds a tenant's streams of deliveries.
    pub streams: Arc<TenantPermits>,
    /// Bounds changes to webhooks, tenants and event types.
    pub changes: Arc<ChangeLimiter>,
    /// Bounds a tenant's checks of signatures, which take CPU time.
    pub checks: Arc<Rates>,
    /// Bounds a tenant's previews, which read and match up to 1,000 events.
    pub previews: Arc<Rates>,
    /// Publishes to RabbitMQ.
    pub publisher: Publisher,
    /// Takes events.
    pub door: Arc<Door>,
    /// Sends test deliveries.
    pub tester: Arc<Tester>,
    pub keys: Keyring,
    /// The operator's rules on where deliveries may go.
    pub destinations: Destinations,
    /// The proxies that tenants can name.
    pub egress: Egress,
    /// All dialects, built-in and from `DIALECTS_DIR`.
    pub dialects: Dialects,
    pub admin_token: Option<SecretString>,
    /// Rate limits of clients; `None`: no limit.
    pub rates: Option<Arc<Rates>>,
    /// Verifies JWTs, if any are accepted.
    pub jwts: Option<Arc<Jwts>>,
    /// Loads what has changed into the index.
    pub feed: Arc<Feed<Subscription>>,
    pub subscriptions: Arc<Subscriptions>,
    /// Tenants' event types.
    pub event_types: Arc<EventTypes>,
    /// `WEBHOOK_EVENT_TTL`: how long the log is kept.
    pub retention: time::Duration,
    /// What all tenants together do.
    pub loads: Arc<Loads>,
    /// `WEBHOOK_METRICS`: whether `/metrics/webhooks` is served.
    pub webhook_metrics: bool,
}

impl Api {
    /// What rows of webhooks are written with.
    pub fn writing(&self) -> Writing<'_> {
        Writing {
            keys: &self.keys,
            dialects: &self.dialects,
        }
    }
}

/// The type of axum's state.
pub type Shared = Arc<Api>;
