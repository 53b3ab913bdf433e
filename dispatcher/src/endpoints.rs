//! The webhooks in memory, each with its places and its dialect: what `admit`
//! looks up.
//!
//! Filled by the shared catalogue's feed; a lookup never waits for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use shared::catalogue::Changes;
use shared::dialect::{Dialect, Dialects};
use shared::ids::{Tenant, WebhookId};
use shared::webhook::Webhook;

use crate::gate::Gate;

/// A webhook and the places at its endpoint.
#[derive(Clone)]
pub struct Endpoint {
    /// What to call and how.
    pub webhook: Arc<Webhook>,
    /// How deliveries look: the webhook's own dialect, else its tenant's. `None`
    /// if this replica has no dialect of that name.
    pub dialect: Option<Arc<Dialect>>,
    /// Kept when the webhook changes.
    pub gate: Arc<Gate>,
}

/// All of them.
pub struct Endpoints {
    dialects: Dialects,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    webhooks: HashMap<WebhookId, (Arc<Webhook>, Arc<Gate>)>,
    /// Their default dialects.
    tenants: HashMap<Tenant, String>,
}

impl Endpoints {
    /// None yet.
    pub fn new(dialects: Dialects) -> Self {
        Self {
            dialects,
            known: RwLock::default(),
        }
    }

    /// Takes in what changed.
    pub fn apply(&self, changes: Changes) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.tenants.extend(changes.tenants);
        for webhook in changes.webhooks {
            let gate = known
                .webhooks
                .get(&webhook.id)
                .map(|(_, gate)| gate.clone())
                .unwrap_or_default();
            known.webhooks.insert(webhook.id, (Arc::new(webhook), gate));
        }
    }

    /// One of them.
    pub fn get(&self, id: WebhookId) -> Option<Endpoint> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (webhook, gate) = known.webhooks.get(&id)?;
        let name = webhook
            .dialect
            .as_ref()
            .or_else(|| known.tenants.get(&webhook.tenant));
        let dialect = match name {
            Some(name) => self.dialects.get(name).cloned(),
            None => Some(self.dialects.default().clone()),
        };
        Some(Endpoint {
            webhook: webhook.clone(),
            dialect,
            gate: gate.clone(),
        })
    }
}
