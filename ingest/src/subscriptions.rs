//! The webhooks in memory, indexed by event type, and the tenants with their limits.
//!
//! The shared catalogue's feed fills it; `intake` asks it for every event. Webhooks
//! that are switched off are left out, and so are those for operational events,
//! which are not published by producers.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use shared::dialect::Dialects;
use shared::ids::{Tenant, WebhookId};
use shared::revisions::Changes;
use shared::tenant::TenantSettings;
use shared::webhook::Subscription;
use tracing::error;

use crate::cpu::run_blocking;
use crate::decode::{self, Event, Rejected};
use crate::matching::filter::MAX_STEPS;
use crate::matching::{Data, Filter, Found, Index, Pattern, Within};
use crate::metrics::metrics;

/// Data of at most so many bytes is parsed on the async worker: that takes a fraction of a
/// millisecond.
const QUICK_DATA: usize = 32 * 1024;
/// Filters of at most so many steps together are evaluated there, too.
const QUICK_STEPS: u32 = 20_000;

pub struct Subscriptions {
    dialects: Dialects,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    tenants: HashMap<Tenant, TenantSettings>,
    index: Index<WebhookId, ()>,
}

impl Subscriptions {
    /// Without any webhook.
    pub fn new(dialects: Dialects) -> Self {
        let state = RwLock::default();
        Self { dialects, state }
    }

    /// Applies what has changed.
    pub fn apply(&self, changes: Changes<Subscription>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for settings in changes.tenants {
            if settings.is_deleted {
                state.tenants.remove(&settings.tenant);
            } else {
                state.tenants.insert(settings.tenant.clone(), settings);
            }
        }
        for webhook in changes.gone {
            state.index.remove(webhook);
        }
        for webhook in changes.webhooks {
            if !webhook.status.is_on() || webhook.operational {
                state.index.remove(webhook.id);
                continue;
            }
            match compile(&webhook, &self.dialects) {
                Ok((patterns, filter)) => {
                    state
                        .index
                        .upsert(webhook.id, webhook.tenant.as_str(), patterns, filter, ());
                }
                Err(reason) => {
                    // It was checked when it was saved, so this is a hand-made row.
                    state.index.remove(webhook.id);
                    error!(webhook = %webhook.id, reason, "a stored webhook's patterns or filter are invalid; it gets no events until it is changed");
                }
            }
        }
        if let Some(only) = changes.only {
            state.index.retain(|id| only.contains(&id));
        }
        metrics().subscriptions.set(state.index.len() as i64);
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest data of a tenant's events, in bytes; `None` if there is no such
    /// tenant.
    pub fn max_payload(&self, tenant: &Tenant) -> Option<usize> {
        let state = self.state();
        state
            .tenants
            .get(tenant)
            .map(|settings| settings.max_payload)
    }

    /// Refuses an event of an unknown tenant, and data beyond its tenant's limit.
    ///
    /// # Errors
    /// Says which.
    pub fn check(&self, event: &Event) -> Result<(), Rejected> {
        let Some(limit) = self.max_payload(&event.tenant) else {
            return Err(Rejected::UnknownTenant(event.tenant.clone()));
        };
        decode::at_most("the data", event.data.len(), limit)
    }

    /// The dialect of a tenant's webhooks that choose none.
    pub fn dialect(&self, tenant: &Tenant) -> Option<String> {
        let state = self.state();
        state
            .tenants
            .get(tenant)
            .map(|settings| settings.dialect.clone())
    }

    /// A tenant's settings; `None` if there is no such tenant.
    pub fn tenant(&self, tenant: &Tenant) -> Option<TenantSettings> {
        self.state().tenants.get(tenant).cloned()
    }

    /// The name of the proxy that a tenant's deliveries leave through, if it has its own.
    pub fn egress(&self, tenant: &Tenant) -> Option<String> {
        let state = self.state();
        let settings = state.tenants.get(tenant);
        settings.and_then(|settings| settings.egress_proxy.clone())
    }

    /// The webhooks that want an event. Their filters are evaluated without the index's lock,
    /// and off the async workers if that may take long.
    pub async fn matching(
        &self,
        tenant: &Tenant,
        event_type: &str,
        data: &str,
    ) -> Found<WebhookId> {
        let candidates = {
            let state = self.state();
            let settings = state.tenants.get(tenant);
            let dialect = settings.and_then(|settings| self.dialects.get(&settings.dialect));
            let member = dialect.and_then(|dialect| dialect.unwraps());
            let candidates = state.index.candidates(tenant.as_str(), event_type);
            candidates.within(member.map(Arc::from))
        };
        if !candidates.have_filters() || data.len() <= QUICK_DATA {
            let found = candidates.evaluate(&Data::new(data), QUICK_STEPS);
            if found.too_costly.is_empty() {
                return found;
            }
        }
        let data = data.to_owned();
        run_blocking(move || candidates.evaluate(&Data::new(&data), MAX_STEPS)).await
    }
}

fn compile(
    webhook: &Subscription,
    dialects: &Dialects,
) -> Result<(Vec<Pattern>, Option<Filter>), String> {
    let patterns = webhook
        .patterns
        .iter()
        .map(|pattern| {
            pattern
                .parse::<Pattern>()
                .map_err(|error| error.to_string())
        })
        .collect::<Result<_, _>>()?;
    let filter = webhook
        .filter
        .as_ref()
        .map(Filter::parse)
        .transpose()
        .map_err(|error| error.to_string())?;
    let within = match &webhook.dialect {
        None => Within::Tenants,
        Some(name) => within(name, dialects),
    };
    Ok((patterns, filter.map(|filter| filter.on(within))))
}

/// What filters of webhooks with this dialect see.
pub fn within(dialect: &str, dialects: &Dialects) -> Within {
    let dialect = dialects.get(dialect);
    match dialect.and_then(|dialect| dialect.unwraps()) {
        Some(member) => Within::Member(member.into()),
        None => Within::AsPublished,
    }
}
