//! The webhooks in memory, with all that `admit` and `deliver` need of them: dialect,
//! tenant, rate limits, and the limiter of their endpoint.
//!
//! The feed of the shared catalogue fills the cache. A lookup never waits for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use shared::dialect::{Dialect, Dialects};
use shared::ids::{Tenant, WebhookId};
use shared::retry::Schedule;
use shared::revisions::Changes;
use shared::settings::Defaults;
use shared::tenant::TenantSettings;
use shared::webhook::{Rate, Webhook};
use time::OffsetDateTime;

use crate::endpoint::bulkhead::{SharedCapacity, TenantShare};
use crate::endpoint::limiter::{Limiter, Trouble};
use crate::endpoint::rate_limit::Limit;
use crate::judge::TooOld;

/// A webhook, as it was when it was looked up.
#[derive(Clone)]
pub struct Endpoint {
    pub webhook: Arc<Webhook>,
    pub tenant: Arc<TenantSettings>,
    /// The webhook's own dialect, or else its tenant's. `None` if this replica has no
    /// dialect of that name.
    pub dialect: Option<Arc<Dialect>>,
    /// The most attempts of the tenant in any hour: its own limit, or its dialect's.
    per_hour: Option<u32>,
    /// The same one for as long as the webhook exists, whatever changes.
    pub limiter: Arc<Limiter>,
}

impl Endpoint {
    /// The longest that an attempt may take.
    pub fn timeout(&self, defaults: &Defaults, dialect: &Dialect) -> Duration {
        self.webhook.timeout_in(dialect, defaults.timeout)
    }

    /// The pauses between attempts. The webhook's own policy goes before the settings, and
    /// these go before the dialect.
    pub fn schedule(&self, defaults: &Defaults, dialect: &Dialect) -> Schedule {
        let schedule = dialect.policy().schedule.with(&defaults.retry);
        match &self.webhook.retry {
            Some(retry) => schedule.with(retry),
            None => schedule,
        }
    }

    /// The longest time to the last attempt.
    pub fn max_age(&self, dialect: &Dialect) -> TooOld {
        let tenants = self.tenant.max_age;
        let tenants = tenants.and_then(|age| time::Duration::try_from(age).ok());
        TooOld {
            limit: tenants.unwrap_or(dialect.policy().max_age),
            since: dialect.policy().since,
        }
    }

    /// The tenant's rate limit and the webhook's, as far as they have one.
    pub fn rate_limits(&self) -> Vec<Limit> {
        let tenants = self.per_hour.map(|limit| {
            let period = Duration::from_secs(3600);
            let subject = format!("tenant/{}", self.tenant.tenant);
            Limit::new(&subject, Rate { limit, period })
        });
        let own = self.webhook.rate;
        let own = own.map(|rate| Limit::new(&format!("webhook/{}", self.webhook.id), rate));
        tenants.into_iter().chain(own).collect()
    }
}

/// All webhooks that aren't deleted.
pub struct EndpointCache {
    dialects: Dialects,
    capacity: Arc<SharedCapacity>,
    cached: RwLock<Cached>,
}

#[derive(Default)]
struct Cached {
    webhooks: HashMap<WebhookId, (Arc<Webhook>, Arc<Limiter>)>,
    tenants: HashMap<Tenant, Arc<TenantSettings>>,
    /// What each tenant with a webhook holds of this replica.
    shares: HashMap<Tenant, Arc<TenantShare>>,
}

impl EndpointCache {
    /// An empty cache, of a replica that may hold `capacity` jobs at a time.
    pub fn new(dialects: Dialects, capacity: usize) -> Self {
        Self {
            dialects,
            capacity: SharedCapacity::new(capacity),
            cached: RwLock::default(),
        }
    }

    /// Takes changes in. A webhook that is gone leaves nothing behind.
    pub fn apply(&self, changes: Changes<Webhook>) {
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        for tenant in changes.tenants {
            if tenant.is_deleted {
                cached.tenants.remove(&tenant.tenant);
                cached.shares.remove(&tenant.tenant);
                continue;
            }
            let tenant = Arc::new(tenant);
            cached.tenants.insert(tenant.tenant.clone(), tenant);
        }
        for webhook in changes.gone {
            cached.webhooks.remove(&webhook);
        }
        for webhook in changes.webhooks {
            let known = cached.webhooks.get(&webhook.id);
            let known = known.map(|(_, limiter)| limiter.clone());
            let limiter = known.unwrap_or_else(|| {
                let share = cached.shares.entry(webhook.tenant.clone());
                let share = share.or_insert_with(|| TenantShare::new(self.capacity.clone()));
                Limiter::new(share.clone())
            });
            let id = webhook.id;
            cached.webhooks.insert(id, (Arc::new(webhook), limiter));
        }
        if let Some(only) = changes.only {
            cached.webhooks.retain(|id, _| only.contains(id));
            cached.webhooks.shrink_to_fit();
        }
    }

    /// Endpoints that are down or full. This looks at every limiter, which takes a
    /// millisecond for ten thousand.
    pub fn in_trouble(&self, now: OffsetDateTime) -> Vec<(WebhookId, Trouble)> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        let all = cached.webhooks.iter();
        all.filter_map(|(id, (_, limiter))| Some((*id, limiter.trouble(now)?)))
            .collect()
    }

    pub fn get(&self, id: WebhookId) -> Option<Endpoint> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        let (webhook, limiter) = cached.webhooks.get(&id)?;
        // The feed never loads a webhook before its tenant.
        let tenant = cached.tenants.get(&webhook.tenant)?;
        let name = webhook.dialect.as_deref().unwrap_or(&tenant.dialect);
        let per_hour = tenant.deliveries_per_hour.or_else(|| {
            let tenants = self.dialects.get(&tenant.dialect)?;
            tenants.policy().deliveries_per_hour
        });
        Some(Endpoint {
            per_hour,
            webhook: webhook.clone(),
            tenant: tenant.clone(),
            dialect: self.dialects.get(name).cloned(),
            limiter: limiter.clone(),
        })
    }
}
