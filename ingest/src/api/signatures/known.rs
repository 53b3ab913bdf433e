//! What is known beside the request whose signature is checked: dialect, secrets, what was sent.

use std::sync::Arc;

use shared::dialect::{Dialect, Received};
use shared::ids::{DeliveryId, EventId, Tenant, WebhookId};
use shared::secret::Secret;
use shared::webhook::Webhook;
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::form::NewCheck;
use crate::api::deliveries::composed::{Composed, webhook_of};
use crate::api::http::problem::{Problem, Result};
use crate::api::state::Api;
use crate::invalid::NotFound;

/// How many other webhooks' secrets are tried.
const OTHERS: i64 = 100;

/// What is known beside the request itself.
pub(super) struct Known {
    pub(super) dialect: Arc<Dialect>,
    /// The receiver's, or the webhook's.
    pub(super) secret: Option<Secret>,
    /// The webhook's current and previous one.
    pub(super) webhooks: Option<[Option<Secret>; 2]>,
    pub(super) webhook: Option<WebhookId>,
    /// The bodies of the attempt, and when it was sent.
    pub(super) sent: Option<(String, OffsetDateTime)>,
}

pub(super) async fn known(
    api: &Api,
    tenant: &Tenant,
    new: &NewCheck,
    received: &Received<'_>,
) -> Result<Known> {
    let own = match &new.secret {
        // A secret that nobody could have is a finding, not an error: see the step.
        Some(text) if !text.trim().is_empty() => Secret::parse(text.trim()).ok(),
        _ => None,
    };
    let mut webhook = new
        .webhook_id
        .as_deref()
        .map(|text| text.parse::<WebhookId>())
        .transpose()
        .map_err(|error| Problem::field("webhook_id", error.to_string()))?;
    let delivery = new
        .delivery_id
        .as_deref()
        .map(|text| text.parse::<DeliveryId>())
        .transpose()
        .map_err(|error| Problem::field("delivery_id", error.to_string()))?;
    let named = match new.dialect.as_deref() {
        None => None,
        Some(name) => Some(api.dialects.get(name).cloned().ok_or_else(|| {
            Problem::field("dialect", crate::form::unknown_dialect(name, &api.dialects))
        })?),
    };
    let delivery = match (delivery, webhook, &named) {
        (Some(delivery), ..) => Some(delivery),
        // The event's id leads to the delivery.
        (None, Some(webhook), named) => {
            delivery_of_event(api, tenant, webhook, named.as_deref(), received).await?
        }
        (None, None, _) => None,
    };
    let composed = match delivery {
        Some(delivery) => Composed::read(api, tenant, delivery).await?,
        None => None,
    };
    if composed.is_none() && new.delivery_id.is_some() {
        let id = new.delivery_id.clone().unwrap_or_default();
        return Err(Problem::not_found(format!("there is no delivery {id}")));
    }
    let stored = match (&composed, webhook) {
        (Some(composed), _) => {
            webhook = Some(composed.webhook.id);
            Some((composed.webhook.secrets.clone(), composed.dialect.clone()))
        }
        (None, Some(id)) => {
            let client = api.pool.get().await?;
            let found = webhook_of(api, &client, tenant, id).await?;
            let (webhook, dialect) = found.ok_or_else(|| NotFound::webhook(id))?;
            Some((webhook.secrets, dialect))
        }
        (None, None) => None,
    };
    let dialect = named
        .or_else(|| stored.as_ref().map(|(_, dialect)| dialect.clone()))
        .or_else(|| {
            let tenants = api.subscriptions.dialect(tenant)?;
            api.dialects.get(&tenants).cloned()
        })
        .unwrap_or_else(|| api.dialects.default().clone());
    let webhooks = stored
        .as_ref()
        .map(|(secrets, _)| [Some(secrets.current().clone()), secrets.replaced().cloned()]);
    let sent = match (&composed, delivery) {
        (Some(composed), Some(delivery)) => {
            let said = dialect.sent_at(received);
            let at = attempt_at(api, delivery, new.attempt, said).await?;
            at.map(|at| {
                let body = composed.at(at).body;
                (String::from_utf8_lossy(&body).into_owned(), at)
            })
        }
        _ => None,
    };
    let secret = own.or_else(|| {
        let given = new
            .secret
            .as_ref()
            .is_some_and(|text| !text.trim().is_empty());
        webhooks
            .as_ref()
            .filter(|_| !given)
            .and_then(|[current, _]| current.clone())
    });
    Ok(Known {
        dialect,
        secret,
        webhooks,
        webhook,
        sent,
    })
}

/// The delivery of the event whose id a header has.
async fn delivery_of_event(
    api: &Api,
    tenant: &Tenant,
    webhook: WebhookId,
    named: Option<&Dialect>,
    received: &Received<'_>,
) -> Result<Option<DeliveryId>> {
    let client = api.pool.get().await?;
    let found = webhook_of(api, &client, tenant, webhook).await?;
    drop(client);
    let own = found.map(|(_, dialect)| dialect);
    let Some(dialect) = named.or(own.as_deref()) else {
        return Ok(None);
    };
    let event = dialect
        .received_event_id(received)
        .map(str::parse::<EventId>);
    let Some(Ok(event)) = event else {
        return Ok(None);
    };
    crate::api::deliveries::retries::find_delivery(api, tenant, webhook, &event).await
}

/// When the attempt was sent: this one, or the one that was nearest to a time.
async fn attempt_at(
    api: &Api,
    delivery: DeliveryId,
    n: Option<i16>,
    said: Option<OffsetDateTime>,
) -> Result<Option<OffsetDateTime>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- attempt_to_check\n\
             SELECT started_at FROM attempts WHERE delivery_id = $1 AND ($2::int2 IS NULL OR n = $2) \
             ORDER BY abs(extract(epoch FROM started_at - $3::timestamptz)), n DESC LIMIT 1",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[&delivery, &n, &said])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// A tenant's latest webhooks, but this one.
pub(super) async fn other_webhooks(
    api: &Api,
    tenant: &Tenant,
    but: Option<WebhookId>,
) -> Result<Vec<Row>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- secrets_to_check\n\
             SELECT {} FROM webhooks \
             WHERE tenant = $1 AND status <> 'deleted' AND id IS DISTINCT FROM $2 \
             ORDER BY id DESC LIMIT $3",
            Webhook::COLUMNS
        ))
        .await?;
    Ok(client.query(&statement, &[tenant, &but, &OTHERS]).await?)
}
