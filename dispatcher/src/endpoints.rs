//! The webhooks in memory, each with its places: what `admit` looks up.
//!
//! Filled by the shared catalogue's feed; a lookup never waits for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use shared::catalogue::Changes;
use shared::ids::WebhookId;
use shared::webhook::Webhook;

use crate::gate::Gate;

/// A webhook and the places at its endpoint.
#[derive(Clone)]
pub struct Endpoint {
    /// What to call and how.
    pub webhook: Arc<Webhook>,
    /// Kept when the webhook changes.
    pub gate: Arc<Gate>,
}

/// All of them.
#[derive(Default)]
pub struct Endpoints(RwLock<HashMap<WebhookId, Endpoint>>);

impl Endpoints {
    /// Takes in what changed.
    pub fn apply(&self, changes: Changes) {
        let mut endpoints = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for webhook in changes.webhooks {
            let gate = endpoints
                .get(&webhook.id)
                .map(|known| known.gate.clone())
                .unwrap_or_default();
            endpoints.insert(
                webhook.id,
                Endpoint {
                    webhook: Arc::new(webhook),
                    gate,
                },
            );
        }
    }

    /// One of them.
    pub fn get(&self, id: WebhookId) -> Option<Endpoint> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }
}
