//! The webhooks in memory, each with its places, its dialect and its limits:
//! what `admit` looks up.
//!
//! Filled by the shared catalogue's feed; a lookup never waits for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use shared::catalogue::Changes;
use shared::dialect::{Dialect, Dialects};
use shared::ids::{Tenant, WebhookId};
use shared::retry::Schedule;
use shared::settings::Defaults;
use shared::tenant::TenantSettings;
use shared::webhook::{Rate, Webhook};

use crate::endpoint::limiter::{Crowd, Gate};
use crate::endpoint::rate_limit::Limit;

/// One webhook.
#[derive(Clone)]
pub struct Endpoint {
    /// What to call and how.
    pub webhook: Arc<Webhook>,
    /// Whose it is.
    pub tenant: Arc<TenantSettings>,
    /// How deliveries look: the webhook's own dialect, else its tenant's. `None`
    /// if this replica has no dialect of that name.
    pub dialect: Option<Arc<Dialect>>,
    /// Kept when the webhook changes.
    pub gate: Arc<Gate>,
}

impl Endpoint {
    /// How long an attempt may take.
    pub fn timeout(&self, defaults: &Defaults, dialect: &Dialect) -> Duration {
        self.webhook.timeout_in(dialect, defaults.timeout)
    }

    /// When failures are repeated.
    pub fn schedule(&self, defaults: &Defaults, dialect: &Dialect) -> Schedule {
        let schedule = dialect.policy().schedule.with(&defaults.retry);
        match &self.webhook.retry {
            Some(retry) => schedule.with(retry),
            None => schedule,
        }
    }

    /// From the event's acceptance to its last attempt.
    pub fn max_age(&self, dialect: &Dialect) -> time::Duration {
        let tenants = self.tenant.max_age;
        let tenants = tenants.and_then(|age| time::Duration::try_from(age).ok());
        tenants.unwrap_or(dialect.policy().max_age)
    }

    /// What bounds its rate.
    pub fn limits(&self) -> Vec<Limit> {
        let tenants = self.tenant.deliveries_per_hour.map(|limit| {
            let period = Duration::from_secs(3600);
            let subject = format!("tenant/{}", self.tenant.tenant);
            Limit::new(&subject, Rate { limit, period })
        });
        let own = self.webhook.rate;
        let own = own.map(|rate| Limit::new(&format!("webhook/{}", self.webhook.id), rate));
        tenants.into_iter().chain(own).collect()
    }
}

/// All of them.
pub struct Endpoints {
    dialects: Dialects,
    crowd: Arc<Crowd>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    webhooks: HashMap<WebhookId, (Arc<Webhook>, Arc<Gate>)>,
    tenants: HashMap<Tenant, Arc<TenantSettings>>,
}

impl Endpoints {
    /// None yet. `capacity`: how many jobs this replica holds at a time.
    pub fn new(dialects: Dialects, capacity: usize) -> Self {
        Self {
            dialects,
            crowd: Crowd::new(capacity),
            known: RwLock::default(),
        }
    }

    /// Takes in what changed. A webhook that is gone leaves nothing behind.
    pub fn apply(&self, changes: Changes<Webhook>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for tenant in changes.tenants {
            known
                .tenants
                .insert(tenant.tenant.clone(), Arc::new(tenant));
        }
        for webhook in changes.gone {
            known.webhooks.remove(&webhook);
        }
        for webhook in changes.webhooks {
            let gate = known
                .webhooks
                .get(&webhook.id)
                .map_or_else(|| Gate::new(self.crowd.clone()), |(_, gate)| gate.clone());
            known.webhooks.insert(webhook.id, (Arc::new(webhook), gate));
        }
        if let Some(only) = changes.only {
            known.webhooks.retain(|id, _| only.contains(id));
            known.webhooks.shrink_to_fit();
        }
    }

    /// One of them.
    pub fn get(&self, id: WebhookId) -> Option<Endpoint> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (webhook, gate) = known.webhooks.get(&id)?;
        // A webhook's tenant is never loaded after it.
        let tenant = known.tenants.get(&webhook.tenant)?;
        let name = webhook.dialect.as_deref().unwrap_or(&tenant.dialect);
        Some(Endpoint {
            webhook: webhook.clone(),
            tenant: tenant.clone(),
            dialect: self.dialects.get(name).cloned(),
            gate: gate.clone(),
        })
    }
}
