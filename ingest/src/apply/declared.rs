//! What files declare, checked, and each with its place in a file.

use shared::ids::Tenant;

use super::place::Place;
use crate::event_types::store::Entry;
use crate::tenants::Change;
use crate::webhooks::form::CheckedWebhook;

/// What a file says of a tenant.
pub struct DeclaredTenant {
    /// Where it says so.
    pub place: Place,
    pub id: Tenant,
    /// What it doesn't say stays as it is.
    pub settings: Change,
    /// Each as a whole.
    pub event_types: Vec<Entry>,
    /// Each as a whole.
    pub webhooks: Vec<DeclaredWebhook>,
    /// Whether it has a list of webhooks, if only an empty one.
    pub lists_webhooks: bool,
}

/// What a file says of a webhook.
pub struct DeclaredWebhook {
    /// Where it says so.
    pub place: Place,
    /// What it is called, among its tenant's.
    pub key: String,
    /// What it is to be.
    pub form: CheckedWebhook,
}
