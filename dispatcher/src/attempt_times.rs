//! How long an attempt may take until it is on record.

use std::sync::Arc;
use std::time::Duration;

use shared::ids::WebhookId;
use shared::settings::Defaults;

use crate::endpoint::cache::EndpointCache;
use crate::upkeep::watermark::LossCriteria;

/// Knows the timeouts of webhooks.
#[derive(Clone)]
pub struct AttemptTimes {
    pub endpoints: Arc<EndpointCache>,
    /// Timeout of webhooks that set none.
    pub defaults: Defaults,
    pub criteria: LossCriteria,
}

impl AttemptTimes {
    /// How long after a job of this webhook was taken its attempt is on record, at the latest.
    pub fn until_recorded(&self, webhook: WebhookId) -> Duration {
        let endpoint = self.endpoints.get(webhook);
        let timeout = endpoint.and_then(|endpoint| {
            let dialect = endpoint.dialect.as_deref()?;
            Some(endpoint.timeout(&self.defaults, dialect))
        });
        self.criteria.time_until_recorded(timeout)
    }
}
