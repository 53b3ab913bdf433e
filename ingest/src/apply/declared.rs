//! What files declare, checked, and each with its place in a file.

use shared::ids::Tenant;

use super::place::Place;
use crate::event_types::store::Entry;
use crate::tenants::form::TenantChange;
use crate::webhooks::form::CheckedWebhook;

/// A tenant as a file declares it.
pub struct DeclaredTenant {
    /// Where it is declared.
    pub place: Place,
    pub id: Tenant,
    /// Settings that the file doesn't mention stay as they are.
    pub settings: TenantChange,
    /// Each type is declared whole.
    pub event_types: Vec<Entry>,
    /// Each webhook is declared whole.
    pub webhooks: Vec<DeclaredWebhook>,
    /// Whether the file has a list of webhooks, even an empty one.
    pub lists_webhooks: bool,
}

/// A webhook as a file declares it.
pub struct DeclaredWebhook {
    /// Where it is declared.
    pub place: Place,
    /// Its name in files, unique within its tenant.
    pub key: String,
    /// Its checked members.
    pub form: CheckedWebhook,
}
