//! The rows of the declared tenants, read and locked until the transaction ends.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use deadpool_postgres::Transaction;
use shared::ids::{EventType, Tenant, WebhookId};
use shared::seal::Keyring;
use shared::webhook::{Subscription, Webhook};

use super::declared::DeclaredTenant;
use super::webhook::Now;
use crate::event_types::store::{self, MAX_EVENT_TYPES};
use crate::tenants::view::{COLUMNS, TenantView};

pub struct Present {
    /// The declared tenants that exist.
    pub tenants: HashMap<Tenant, TenantView>,
    /// All event types of each.
    pub event_types: HashMap<Tenant, HashMap<EventType, store::EventTypeView>>,
    /// The webhooks of each that have a key, by that key.
    pub webhooks: HashMap<Tenant, BTreeMap<String, Now>>,
}

impl Present {
    /// Reads and locks the rows of the declared tenants.
    ///
    /// # Errors
    /// If PostgreSQL fails, or what is sealed doesn't open.
    pub async fn read(
        transaction: &Transaction<'_>,
        keys: &Keyring,
        declared: &[DeclaredTenant],
    ) -> anyhow::Result<Self> {
        let ids: Vec<&Tenant> = declared.iter().map(|tenant| &tenant.id).collect();
        let tenants = lock_tenants(transaction, &ids).await?;
        let webhooks = lock_webhooks(transaction, keys, &ids, &ids_as_keys(declared)).await?;
        let mut event_types = HashMap::new();
        for id in tenants.keys() {
            let listed = store::list(transaction, id, None, None, MAX_EVENT_TYPES).await?;
            let by_name = listed.into_iter().map(|shown| (shown.name.clone(), shown));
            event_types.insert(id.clone(), by_name.collect());
        }
        Ok(Self {
            tenants,
            event_types,
            webhooks,
        })
    }
}

async fn lock_tenants(
    transaction: &Transaction<'_>,
    ids: &[&Tenant],
) -> anyhow::Result<HashMap<Tenant, TenantView>> {
    let columns = COLUMNS;
    let rows = transaction
        .query(
            &format!(
                "-- lock_declared_tenants\n\
                 SELECT {columns} FROM tenants \
                 WHERE id = ANY ($1) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE"
            ),
            &[&ids],
        )
        .await?;
    let shown = rows.iter().map(TenantView::from_row);
    Ok(shown.map(|shown| (shown.id.clone(), shown)).collect())
}

/// The declared keys that are the id of a webhook: an export has such keys.
fn ids_as_keys(declared: &[DeclaredTenant]) -> Vec<WebhookId> {
    let webhooks = declared.iter().flat_map(|tenant| &tenant.webhooks);
    webhooks
        .filter_map(|webhook| webhook.key.parse().ok())
        .collect()
}

/// Webhooks that have a key, and those without whose id a file declares as a key.
async fn lock_webhooks(
    transaction: &Transaction<'_>,
    keys: &Keyring,
    tenants: &[&Tenant],
    ids: &[WebhookId],
) -> anyhow::Result<HashMap<Tenant, BTreeMap<String, Now>>> {
    let columns = Webhook::COLUMNS;
    let rows = transaction
        .query(
            &format!(
                "-- lock_declared_webhooks\n\
                 SELECT {columns}, patterns, filter, operational, key, description, metadata, owner \
                 FROM webhooks \
                 WHERE tenant = ANY ($1) AND (key IS NOT NULL OR id = ANY ($2)) \
                   AND status <> 'deleted' \
                 ORDER BY id FOR NO KEY UPDATE"
            ),
            &[&tenants, &ids],
        )
        .await?;
    let mut webhooks: HashMap<Tenant, BTreeMap<String, Now>> = HashMap::new();
    for row in &rows {
        let webhook = Webhook::read(row, keys)
            .with_context(|| format!("reading webhook {}", row.get::<_, WebhookId>("id")))?;
        let key: Option<String> = row.get("key");
        let has_key = key.is_some();
        let key = key.unwrap_or_else(|| webhook.id.to_string());
        let tenant = webhook.tenant.clone();
        let now = Now::new(
            webhook,
            Subscription::read(row),
            row.get("description"),
            row.get("metadata"),
            has_key,
            row.get("owner"),
        );
        webhooks.entry(tenant).or_default().insert(key, now);
    }
    Ok(webhooks)
}
