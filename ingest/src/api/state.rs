//! State that all handlers share: connections, keys, limits and caches.
//!
//! `run` builds it once; axum hands it to each handler. This file knows no route,
//! so every handler may import it.

use std::sync::Arc;

use deadpool_postgres::Pool;
use secrecy::SecretString;
use shared::catalogue::Feed;
use shared::destination::Destinations;
use shared::dialect::Dialects;
use shared::publish::Publisher;
use shared::seal::Keyring;
use shared::webhook::Subscription;

use crate::api::access::change_limit::ChangeLimiter;
use crate::api::access::jwt::Jwts;
use crate::api::access::rate_limit::Rates;
use crate::api::webhooks::tester::Tester;
use crate::event_types::EventTypes;
use crate::subscriptions::Subscriptions;
use crate::tenant_permits::TenantPermits;
use crate::webhooks::store::Writing;

/// What handlers need.
pub struct Api {
    /// To PostgreSQL: the API's own, so that no request keeps events waiting.
    pub pool: Pool,
    /// To PostgreSQL, to look tokens up: who asks is known however many others ask.
    pub token_pool: Pool,
    /// Bounds a tenant's requests that use PostgreSQL.
    pub permits: TenantPermits,
    /// Lets changes to the catalogue in.
    pub changes: ChangeLimiter,
    /// To `posthorn.events`.
    pub publisher: Publisher,
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
    pub fn writing(&self) -> Writing<'_> {
        Writing {
            keys: &self.keys,
            dialects: &self.dialects,
        }
    }
}

/// What every handler is given.
pub type Shared = Arc<Api>;
