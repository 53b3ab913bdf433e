//! What is known beside the request whose signature is checked: dialect, secrets, what was sent.

use std::str::FromStr;
use std::sync::Arc;

use shared::dialect::{Dialect, Received};
use shared::ids::{DeliveryId, EventId, Malformed, Tenant, WebhookId};
use shared::secret::Secret;
use shared::webhook::Webhook;
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::form::NewCheck;
use crate::api::deliveries::composed::{Composed, webhook_of};
use crate::api::http::problem::{Problem, Result};
use crate::api::state::Api;
use crate::form::check_dialect;
use crate::invalid::{Gathered, Invalid, Invalids, NotFound};

/// The longest secret and the longest signature that are compared, in bytes.
const MAX_TEXT: usize = 512;
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

/// What the request names, checked.
pub(super) struct Named {
    webhook: Option<WebhookId>,
    delivery: Option<DeliveryId>,
    dialect: Option<Arc<Dialect>>,
}

impl Named {
    /// Checks every member that has a bound of its own.
    ///
    /// # Errors
    /// Names each that is out of its bounds.
    pub(super) fn read(api: &Api, new: &NewCheck) -> std::result::Result<Self, Invalids> {
        let mut wrong = Gathered::default();
        let webhook = wrong.take(id("webhook_id", new.webhook_id.as_deref()));
        let delivery = wrong.take(id("delivery_id", new.delivery_id.as_deref()));
        let dialect = wrong.take(dialect(api, new.dialect.as_deref()));
        if new.attempt.is_some_and(|n| n < 1) {
            wrong.add(Invalid::new("attempt", "must be at least 1"));
        }
        for (field, text) in [("secret", &new.secret), ("computed", &new.computed)] {
            if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
                let bound = format!("must have at most {MAX_TEXT} bytes");
                wrong.add(Invalid::new(field, bound));
            }
        }
        wrong.finish(Self {
            webhook,
            delivery,
            dialect,
        })
    }
}

fn id<T: FromStr<Err = Malformed>>(
    field: &str,
    text: Option<&str>,
) -> std::result::Result<Option<T>, Invalid> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error| Invalid::new(field, error))
}

fn dialect(api: &Api, name: Option<&str>) -> std::result::Result<Option<Arc<Dialect>>, Invalid> {
    let Some(name) = name else {
        return Ok(None);
    };
    check_dialect(name, &api.dialects)?;
    Ok(api.dialects.get(name).cloned())
}

pub(super) async fn known(
    api: &Api,
    tenant: &Tenant,
    (new, named): (&NewCheck, Named),
    received: &Received<'_>,
) -> Result<Known> {
    // White space around a secret is a part of it. A secret that nobody could have is a finding, not
    // an error: see the step.
    let given = new.secret.as_deref().filter(|text| !text.trim().is_empty());
    let own = given.and_then(|text| Secret::parse(text).ok());
    let mut webhook = named.webhook;
    let delivery = match (named.delivery, webhook, &named.dialect) {
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
    if composed.is_none()
        && let Some(id) = named.delivery
    {
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
        .dialect
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
        webhooks
            .as_ref()
            .filter(|_| given.is_none())
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
