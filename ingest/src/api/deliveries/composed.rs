//! A delivery's request composed again, as it was or would be sent at a time.
//!
//! Without debug mode a request's body isn't stored, but its event is: the same code composes
//! the same bytes, unless the webhook's dialect or secret has changed since.

use std::sync::Arc;

use serde_json::{Map, Value};
use shared::dialect::{Dialect, Message, Wire};
use shared::ids::{DeliveryId, EventId, EventType, Tenant, WebhookId};
use shared::webhook::Webhook;
use time::OffsetDateTime;

use crate::api::http::problem::Result;
use crate::api::state::Api;

/// What a delivery's requests are composed of.
pub struct Composed {
    pub tenant: Tenant,
    pub webhook: Webhook,
    pub dialect: Arc<Dialect>,
    delivery: DeliveryId,
    webhook_id: WebhookId,
    event_id: EventId,
    event_type: EventType,
    occurred_at: OffsetDateTime,
    data: String,
    attributes: Option<Map<String, Value>>,
}

impl Composed {
    /// Of a tenant's delivery. `None`: there is no such delivery, its webhook is deleted or can't
    /// be read, or this server doesn't have its dialect.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn read(api: &Api, tenant: &Tenant, delivery: DeliveryId) -> Result<Option<Self>> {
        let client = api.pool.get().await?;
        let statement = client
            .prepare_cached(
                "-- event_to_compose\n\
                 SELECT d.webhook_id, e.id, e.type, e.occurred_at, e.data, e.attributes \
                 FROM deliveries d \
                 CROSS JOIN LATERAL (SELECT * FROM events WHERE uid = d.event_uid \
                     AND uid BETWEEN millisecond_floor($1) AND millisecond_ceiling($1) LIMIT 1) e \
                 WHERE d.id = $1 AND e.tenant = $2 AND e.expunged_at IS NULL",
            )
            .await?;
        let Some(event) = client.query_opt(&statement, &[&delivery, tenant]).await? else {
            return Ok(None);
        };
        let webhook_id: WebhookId = event.get("webhook_id");
        let Some((webhook, dialect)) = webhook_of(api, &client, tenant, webhook_id).await? else {
            return Ok(None);
        };
        let attributes = match event.get("attributes") {
            Some(Value::Object(attributes)) => Some(attributes),
            _ => None,
        };
        Ok(Some(Self {
            tenant: tenant.clone(),
            webhook,
            dialect,
            delivery,
            webhook_id,
            event_id: event.get("id"),
            event_type: event.get("type"),
            occurred_at: event.get("occurred_at"),
            data: event.get("data"),
            attributes,
        }))
    }

    /// The request as it is sent at a time.
    #[must_use]
    pub fn at(&self, sent_at: OffsetDateTime) -> Wire {
        let message = Message {
            event_id: &self.event_id,
            event_type: &self.event_type,
            occurred_at: self.occurred_at,
            data: &self.data,
            attributes: self.attributes.as_ref(),
            tenant: &self.tenant,
            webhook_id: self.webhook_id,
            external_id: self.webhook.external_id.as_ref(),
            delivery_id: self.delivery,
        };
        self.dialect
            .compose(&message, &self.webhook.secrets, sent_at)
    }
}

/// A webhook that isn't deleted, with its dialect. `None`: there is none, or it can't be read.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn webhook_of(
    api: &Api,
    client: &deadpool_postgres::Client,
    tenant: &Tenant,
    id: WebhookId,
) -> Result<Option<(Webhook, Arc<Dialect>)>> {
    let statement = client
        .prepare_cached(&format!(
            "-- webhook_to_compose\n\
             SELECT {}, (SELECT t.dialect FROM tenants t WHERE t.id = tenant) AS tenants_dialect \
             FROM webhooks WHERE id = $1 AND tenant = $2 AND status <> 'deleted'",
            Webhook::COLUMNS
        ))
        .await?;
    let row = client.query_opt(&statement, &[&id, tenant]).await?;
    Ok(row.and_then(|row| {
        let webhook = Webhook::read(&row, &api.keys).ok()?;
        let tenants: String = row.get("tenants_dialect");
        let name = webhook.dialect.as_ref().unwrap_or(&tenants);
        let dialect = api.dialects.get(name)?.clone();
        Some((webhook, dialect))
    }))
}
