//! The rows of webhooks: create, change, delete, within the tenant's bounds.
//!
//! The API and `apply` pass a checked form and a transaction of their own. Rows
//! that a check depends on are read in that transaction, so a tenant or an event
//! type that it has just created counts.

use deadpool_postgres::Transaction;
use serde_json::{Map, Value, json};
use shared::dialect::Dialects;
use shared::ids::{Tenant, WebhookId};
use shared::seal::Keyring;
use shared::secret::{Secret, SigningKey};
use shared::webhook::{Rate, Status};

use crate::assignments::{Assignments, Insertion};
use crate::invalid::{Invalid, NotFound, Unsaved};
use crate::webhooks::bounds::{SIZES, check_external_id, check_offered, check_room, check_sizes};
use crate::webhooks::form::{CheckedWebhook, Signing, check_metadata};
use crate::webhooks::rules::check_rules;
use crate::webhooks::sealed::{seal_certificate, seal_headers, seal_key, seal_oauth2, seal_secret};

type Result<T> = std::result::Result<T, Unsaved>;

/// What deleting a webhook sets. Of its row stays what the log needs.
pub const FORGOTTEN: &str = "status = 'deleted', disabled_reason = NULL, secret = '', \
    previous_secret = NULL, previous_secret_until = NULL, signing_key = NULL, \
    previous_signing_key = NULL, headers = NULL, url = '', description = '', patterns = '{}', \
    filter = NULL, dialect = NULL, retry = NULL, rate_limit = NULL, rate_period_s = NULL, \
    metadata = '{}', key = NULL, external_id = NULL, owner = NULL, temporary_until = NULL, \
    client_certificate = NULL, oauth2 = NULL, \
    updated_at = now()";

/// What rows are written with.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    pub keys: &'a Keyring,
    /// The dialects that webhooks may choose.
    pub dialects: &'a Dialects,
}

/// A webhook that was just created.
pub struct Made {
    /// The id.
    pub id: WebhookId,
    /// Its secret: to be shown now, or never.
    pub secret: Secret,
}

/// Creates a webhook. `key` is its name in the file that declares it.
///
/// # Errors
/// If a required member is missing, the tenant has as many webhooks as it may, or it is strict
/// and none of its event types match.
pub async fn create(
    transaction: &Transaction<'_>,
    writing: Writing<'_>,
    tenant: &Tenant,
    key: Option<&str>,
    mut form: CheckedWebhook,
) -> Result<Made> {
    let url = form.url.take().ok_or_else(|| Invalid::missing("url"))?;
    let events = form
        .events
        .take()
        .ok_or_else(|| Invalid::missing("events"))?;
    let operational = form.operational.unwrap_or(false);
    if !operational {
        check_offered(transaction, tenant, &events).await?;
    }
    let dialect = form.dialect.take().flatten();
    let signs_with_key = form.signing == Some(Signing::Ed25519);
    check_rules(
        transaction,
        writing.dialects,
        tenant,
        dialect.as_deref(),
        &form,
    )
    .await?;
    check_room(transaction, tenant).await?;
    let external_id = form.external_id.flatten();
    check_external_id(transaction, tenant, None, external_id.as_ref()).await?;
    let secret = form.secret.unwrap_or_else(Secret::generate);
    let id = WebhookId::generate();
    let mut metadata = form.metadata.unwrap_or_default();
    metadata.extend(form.client_id.map(client_id));
    let keys = writing.keys;
    let mut row = Insertion::default();
    row.set("id", id);
    row.set("tenant", tenant);
    row.set("url", url);
    row.set("description", form.description.unwrap_or_default());
    row.set("patterns", events);
    row.set("filter", form.filters.flatten());
    row.set("dialect", dialect);
    row.set("secret", seal_secret(keys, id, &secret));
    let signing_key = signs_with_key.then(|| seal_key(keys, id, &SigningKey::generate()));
    row.set("signing_key", signing_key);
    let headers = form.headers.map(|headers| seal_headers(keys, id, &headers));
    row.set("headers", headers);
    row.set("timeout_ms", form.timeout.flatten());
    row.set("retry", form.retry.flatten().map(|retry| json!(retry)));
    let rate = RateColumns::new(form.rate.flatten());
    row.set("rate_limit", rate.limit);
    row.set("rate_period_s", rate.period_s);
    row.set("debug_mode", form.debug_mode.unwrap_or(false));
    row.set("metadata", Value::Object(metadata));
    row.set("status", form.status.unwrap_or(Status::Active).as_str());
    row.set("key", key);
    row.set("operational", operational);
    row.set("trace_header", form.trace_header.unwrap_or(true));
    row.set("external_id", external_id);
    row.set("owner", form.owner.flatten());
    let certificate = form.client_certificate.flatten();
    let certificate = certificate.map(|it| seal_certificate(keys, id, &it));
    row.set("client_certificate", certificate);
    let oauth2 = form.oauth2.flatten();
    row.set("oauth2", oauth2.map(|it| seal_oauth2(keys, id, &it)));
    row.set("revision", 0_i64);
    let statement = transaction
        .prepare_cached(&format!(
            "-- create_webhook\nINSERT INTO webhooks {} RETURNING {SIZES}",
            row.row()
        ))
        .await?;
    let sizes = transaction.query_one(&statement, &row.values()).await?;
    check_sizes(&sizes)?;
    Ok(Made { id, secret })
}

/// Changes the members that the form has, if the webhook still has the `expected` revision.
/// Answers whether it does.
///
/// # Errors
/// If there is no such webhook, or the change is not within its tenant's bounds.
pub async fn update(
    transaction: &Transaction<'_>,
    writing: Writing<'_>,
    tenant: &Tenant,
    id: WebhookId,
    expected: Option<i64>,
    form: CheckedWebhook,
) -> Result<bool> {
    let before = lock_webhook(transaction, tenant, id).await?;
    // A webhook that is older than the bound can still be switched off.
    let has_size = form.has_size();
    if let Some(events) = &form.events
        && !form.operational.unwrap_or(before.operational)
    {
        check_offered(transaction, tenant, events).await?;
    }
    let own_dialect = form.dialect.clone().unwrap_or(before.dialect);
    check_rules(
        transaction,
        writing.dialects,
        tenant,
        own_dialect.as_deref(),
        &form,
    )
    .await?;
    let metadata = match form.client_id {
        None => form.metadata,
        Some(client) => {
            let mut metadata = form.metadata.unwrap_or(before.metadata);
            metadata.extend([client_id(client)]);
            check_metadata(&metadata)?;
            Some(metadata)
        }
    };
    let external_id = form.external_id.as_ref().and_then(Option::as_ref);
    check_external_id(transaction, tenant, Some(id), external_id).await?;
    let keys = writing.keys;
    let mut changes = Assignments::default();
    let webhook = changes.parameter(id);
    let owner = changes.parameter(tenant);
    let expected = changes.parameter(expected);
    changes.set("url", form.url);
    changes.set("patterns", form.events);
    let secret = form.secret.map(|secret| seal_secret(keys, id, &secret));
    if secret.is_some() {
        changes.clause("secret_made_at = now()".to_owned());
    }
    changes.set("secret", secret);
    changes.set("description", form.description);
    let status = changes.parameter(form.status.map(Status::as_str));
    changes.clause(format!("status = coalesce({status}, status)"));
    changes.clause(format!(
        "disabled_reason = CASE WHEN {status} IS NULL THEN disabled_reason END"
    ));
    let headers = form.headers.map(|headers| seal_headers(keys, id, &headers));
    changes.set("headers", headers);
    changes.set("metadata", metadata.map(Value::Object));
    changes.set("debug_mode", form.debug_mode);
    changes.set("trace_header", form.trace_header);
    changes.set_nullable("filter", form.filters);
    changes.set_nullable("timeout_ms", form.timeout);
    let retry = form.retry.map(|retry| retry.map(|retry| json!(retry)));
    changes.set_nullable("retry", retry);
    changes.set_nullable("dialect", form.dialect);
    let rate = form.rate.map(RateColumns::new);
    let limit = rate.as_ref().map(|rate| rate.limit);
    changes.set_nullable("rate_limit", limit);
    changes.set_nullable("rate_period_s", rate.map(|rate| rate.period_s));
    let without_key = changes.parameter(form.signing == Some(Signing::Hmac));
    let new_key = (form.signing == Some(Signing::Ed25519))
        .then(|| seal_key(keys, id, &SigningKey::generate()));
    let new_key = changes.parameter(new_key);
    // A webhook that has a key keeps it.
    changes.clause(format!(
        "signing_key = CASE WHEN {without_key} THEN NULL ELSE coalesce(signing_key, {new_key}) END"
    ));
    changes.clause(format!(
        "previous_signing_key = CASE WHEN NOT {without_key} THEN previous_signing_key END"
    ));
    changes.set("operational", form.operational);
    changes.set_nullable("external_id", form.external_id);
    changes.set_nullable("owner", form.owner);
    let certificate = form.client_certificate;
    let certificate = certificate.map(|it| it.map(|it| seal_certificate(keys, id, &it)));
    changes.set_nullable("client_certificate", certificate);
    let oauth2 = form.oauth2;
    let oauth2 = oauth2.map(|it| it.map(|it| seal_oauth2(keys, id, &it)));
    changes.set_nullable("oauth2", oauth2);
    let statement = transaction
        .prepare_cached(&format!(
            "-- update_webhook\n\
             UPDATE webhooks SET {}, updated_at = now() \
             WHERE id = {webhook} AND tenant = {owner} AND status <> 'deleted' \
               AND ({expected}::int8 IS NULL OR revision = {expected}) \
             RETURNING {SIZES}",
            changes.clauses()
        ))
        .await?;
    let changed = transaction.query_opt(&statement, &changes.values()).await?;
    if let Some(sizes) = &changed
        && has_size
    {
        check_sizes(sizes)?;
    }
    Ok(changed.is_some())
}

/// Gives a webhook that was made over the API its name in a file.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn set_key(
    transaction: &Transaction<'_>,
    id: WebhookId,
    key: &str,
) -> std::result::Result<(), tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached("-- set_webhook_key\nUPDATE webhooks SET key = $2 WHERE id = $1")
        .await?;
    transaction.execute(&statement, &[&id, &key]).await?;
    Ok(())
}

/// Deletes a webhook, if it still has the `expected` revision. Its log stays, and of its row
/// what the log needs. Answers whether it was deleted.
///
/// # Errors
/// If there is no such webhook.
pub async fn delete(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: WebhookId,
    expected: Option<i64>,
) -> Result<bool> {
    lock_webhook(transaction, tenant, id).await?;
    let statement = transaction
        .prepare_cached(&format!(
            "-- delete_webhook\n\
             UPDATE webhooks SET {FORGOTTEN} \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted' \
               AND ($3::int8 IS NULL OR revision = $3)"
        ))
        .await?;
    let deleted = transaction
        .execute(&statement, &[&id, tenant, &expected])
        .await?;
    Ok(deleted > 0)
}

/// The members of the stored webhook that a change depends on.
struct Before {
    operational: bool,
    dialect: Option<String>,
    metadata: Map<String, Value>,
}

async fn lock_webhook(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: WebhookId,
) -> Result<Before> {
    let statement = transaction
        .prepare_cached(
            "-- lock_webhook\n\
             SELECT operational, dialect, metadata FROM webhooks \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted' FOR NO KEY UPDATE",
        )
        .await?;
    let row = transaction
        .query_opt(&statement, &[&id, tenant])
        .await?
        .ok_or_else(|| NotFound::webhook(id))?;
    Ok(Before {
        operational: row.get("operational"),
        dialect: row.get("dialect"),
        metadata: match row.get("metadata") {
            Value::Object(metadata) => metadata,
            // Only a hand-made row has other JSON.
            _ => Map::new(),
        },
    })
}

fn client_id(client: Value) -> (String, Value) {
    ("client_id".to_owned(), client)
}

/// A rate limit's two columns.
struct RateColumns {
    limit: Option<i32>,
    period_s: Option<i32>,
}

impl RateColumns {
    fn new(rate: Option<Rate>) -> Self {
        Self {
            limit: rate.map(|rate| rate.limit as i32),
            period_s: rate.map(|rate| rate.period.as_secs() as i32),
        }
    }
}
