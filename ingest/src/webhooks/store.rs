//! The rows of webhooks: made, changed and deleted, and what they must not break.
//!
//! For the API and for `apply`: both hand in a checked form and a transaction of
//! their own. What depends on other rows is looked up in that transaction, so
//! that a tenant or an event type that it has just made counts.

use deadpool_postgres::Transaction;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use shared::dialect::Dialects;
use shared::ids::{Tenant, WebhookId};
use shared::seal::Keyring;
use shared::secret::{Secret, SigningKey};
use shared::webhook::{Rate, Status, seal_context};
use tokio_postgres::Row;

use crate::invalid::{Conflict, Invalid, NotFound, Unsaved};
use crate::matching::Pattern;
use crate::webhooks::form::{Checked, Signing, check_metadata};

type Result<T> = std::result::Result<T, Unsaved>;

/// The most that all of a webhook's definition may have, in bytes as it is stored.
const MAX_DEFINITION: i32 = 64 * 1024;

/// The parts of a definition whose size its owner chooses, as the API names them.
/// Returned by the statements that write them.
const SIZES: &str = "octet_length(url) AS url, octet_length(description) AS description, \
    octet_length(array_to_string(patterns, ' ')) AS events, \
    coalesce(octet_length(filter::text), 0) AS filters, \
    coalesce(octet_length(headers), 0) AS headers, \
    coalesce(octet_length(retry::text), 0) AS retry_policy, \
    octet_length(metadata::text) AS metadata";

/// What rows are written with: the same for all of a process's.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    /// Seals secrets.
    pub keys: &'a Keyring,
    /// What webhooks may look like.
    pub dialects: &'a Dialects,
}

/// A webhook that was just made.
pub struct Made {
    /// Its id.
    pub id: WebhookId,
    /// To be shown once, or never.
    pub secret: Secret,
}

/// Makes a webhook. `key` is what a file calls it.
///
/// # Errors
/// If something that it needs is missing, the tenant has no room for it, or it
/// is for event types that its strict tenant doesn't have.
pub async fn create(
    transaction: &Transaction<'_>,
    writing: Writing<'_>,
    tenant: &Tenant,
    key: Option<&str>,
    form: Checked,
) -> Result<Made> {
    let url = form.url.ok_or_else(|| Invalid::new("url", "is missing"))?;
    let events = form
        .events
        .ok_or_else(|| Invalid::new("events", "is missing"))?;
    let operational = form.operational.unwrap_or(false);
    if !operational {
        check_offered(transaction, tenant, &events).await?;
    }
    let dialect = form.dialect.flatten();
    let signs_with_key = form.signing == Some(Signing::Ed25519);
    if signs_with_key {
        let dialect = match &dialect {
            Some(own) => own.clone(),
            None => tenants_dialect(transaction, tenant).await?,
        };
        check_takes_keys(writing.dialects, &dialect)?;
    }
    check_room(transaction, tenant).await?;
    let secret = form.secret.unwrap_or_else(Secret::generate);
    let id = WebhookId::generate();
    let rate = Columns::of(form.rate.flatten());
    let mut metadata = form.metadata.unwrap_or_default();
    metadata.extend(form.client_id.map(client_id));
    let keys = writing.keys;
    let statement = transaction
        .prepare_cached(&format!(
            "-- create_webhook\n\
             INSERT INTO webhooks (id, tenant, url, description, patterns, filter, dialect, secret, \
                 signing_key, headers, timeout_ms, retry, rate_limit, rate_period_s, debug_mode, \
                 metadata, status, key, operational, revision) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, 0) \
             RETURNING {SIZES}"
        ))
        .await?;
    let sizes = transaction
        .query_one(
            &statement,
            &[
                &id,
                tenant,
                &url,
                &form.description.unwrap_or_default(),
                &events,
                &form.filters.flatten(),
                &dialect,
                &seal_secret(keys, id, &secret),
                &signs_with_key.then(|| seal_key(keys, id, &SigningKey::generate())),
                &form.headers.map(|headers| seal_headers(keys, id, &headers)),
                &form.timeout.flatten(),
                &form.retry.flatten().map(|retry| json!(retry)),
                &rate.limit,
                &rate.period_s,
                &form.debug_mode.unwrap_or(false),
                &Value::Object(metadata),
                &form.status.unwrap_or(Status::Active).as_str(),
                &key,
                &operational,
            ],
        )
        .await?;
    check_sizes(&sizes)?;
    Ok(Made { id, secret })
}

/// Changes what the form says, if the webhook is still of the `expected`
/// revision. Whether it is.
///
/// # Errors
/// If there is no such webhook, or the change is not within its tenant's bounds.
pub async fn update(
    transaction: &Transaction<'_>,
    writing: Writing<'_>,
    tenant: &Tenant,
    id: WebhookId,
    expected: Option<i64>,
    form: Checked,
) -> Result<bool> {
    let before = lock_webhook(transaction, tenant, id).await?;
    // A webhook from before there was a bound can still be switched off.
    let has_size = form.has_size();
    if let Some(events) = &form.events
        && !form.operational.unwrap_or(before.operational)
    {
        check_offered(transaction, tenant, events).await?;
    }
    let own_dialect = form.dialect.clone().unwrap_or(before.dialect);
    if form.signing == Some(Signing::Ed25519) {
        let dialect = match own_dialect {
            Some(own) => own,
            None => tenants_dialect(transaction, tenant).await?,
        };
        check_takes_keys(writing.dialects, &dialect)?;
    }
    let metadata = match form.client_id {
        None => form.metadata,
        Some(client) => {
            let mut metadata = form.metadata.unwrap_or(before.metadata);
            metadata.extend([client_id(client)]);
            check_metadata(&metadata)?;
            Some(metadata)
        }
    };
    let columns = Columns::of(form.rate.flatten());
    let keys = writing.keys;
    // The pairs say whether to change and to what: NULL is a value of its own.
    let statement = transaction
        .prepare_cached(&format!(
            "-- update_webhook\n\
             UPDATE webhooks SET \
                 url = coalesce($4, url), \
                 patterns = coalesce($5, patterns), \
                 secret = coalesce($6, secret), \
                 description = coalesce($7, description), \
                 status = coalesce($8, status), \
                 disabled_reason = CASE WHEN $8 IS NULL THEN disabled_reason END, \
                 headers = coalesce($9, headers), \
                 metadata = coalesce($10, metadata), \
                 debug_mode = coalesce($11, debug_mode), \
                 filter = CASE WHEN $12 THEN $13 ELSE filter END, \
                 timeout_ms = CASE WHEN $14 THEN $15 ELSE timeout_ms END, \
                 retry = CASE WHEN $16 THEN $17 ELSE retry END, \
                 dialect = CASE WHEN $18 THEN $19 ELSE dialect END, \
                 rate_limit = CASE WHEN $20 THEN $21 ELSE rate_limit END, \
                 rate_period_s = CASE WHEN $20 THEN $22 ELSE rate_period_s END, \
                 signing_key = CASE WHEN $23 THEN $24 ELSE coalesce(signing_key, $24) END, \
                 previous_signing_key = CASE WHEN NOT $23 THEN previous_signing_key END, \
                 operational = coalesce($25, operational), \
                 updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted' \
               AND ($3::int8 IS NULL OR revision = $3) \
             RETURNING {SIZES}"
        ))
        .await?;
    let changed = transaction
        .query_opt(
            &statement,
            &[
                &id,
                tenant,
                &expected,
                &form.url,
                &form.events,
                &form.secret.map(|secret| seal_secret(keys, id, &secret)),
                &form.description,
                &form.status.map(Status::as_str),
                &form.headers.map(|headers| seal_headers(keys, id, &headers)),
                &metadata.map(Value::Object),
                &form.debug_mode,
                &form.filters.is_some(),
                &form.filters.flatten(),
                &form.timeout.is_some(),
                &form.timeout.flatten(),
                &form.retry.is_some(),
                &form.retry.flatten().map(|retry| json!(retry)),
                &form.dialect.is_some(),
                &form.dialect.flatten(),
                &form.rate.is_some(),
                &columns.limit,
                &columns.period_s,
                &(form.signing == Some(Signing::Hmac)),
                &(form.signing == Some(Signing::Ed25519))
                    .then(|| seal_key(keys, id, &SigningKey::generate())),
                &form.operational,
            ],
        )
        .await?;
    if let Some(sizes) = &changed
        && has_size
    {
        check_sizes(sizes)?;
    }
    Ok(changed.is_some())
}

/// Deletes a webhook, if it is still of the `expected` revision: all that its log
/// doesn't need is forgotten, its log stays. Whether it is.
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
        .prepare_cached(
            "-- delete_webhook\n\
             UPDATE webhooks SET status = 'deleted', disabled_reason = NULL, secret = '', \
                 previous_secret = NULL, previous_secret_until = NULL, signing_key = NULL, \
                 previous_signing_key = NULL, headers = NULL, url = '', description = '', \
                 patterns = '{}', filter = NULL, dialect = NULL, retry = NULL, rate_limit = NULL, \
                 rate_period_s = NULL, metadata = '{}', key = NULL, updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted' \
               AND ($3::int8 IS NULL OR revision = $3)",
        )
        .await?;
    let deleted = transaction
        .execute(&statement, &[&id, tenant, &expected])
        .await?;
    Ok(deleted > 0)
}

/// Refuses a definition that is too large, and names its largest member.
fn check_sizes(row: &Row) -> Result<()> {
    let columns = row.columns().iter().enumerate();
    let sizes: Vec<(&str, i32)> = columns.map(|(at, of)| (of.name(), row.get(at))).collect();
    let bytes: i32 = sizes.iter().map(|(_, bytes)| bytes).sum();
    let largest = sizes.iter().max_by_key(|(_, bytes)| bytes);
    match largest {
        Some((member, most)) if bytes > MAX_DEFINITION => Err(Invalid::new(
            *member,
            format!(
                "is {most} bytes of the webhook's {bytes}; all of a webhook's definition may be \
                 at most {MAX_DEFINITION} bytes"
            ),
        )
        .into()),
        _ => Ok(()),
    }
}

/// What a change builds on.
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
            // Only a row made by hand has another.
            _ => Map::new(),
        },
    })
}

/// Refuses if the tenant has as many webhooks as it may. Holds the tenant's row,
/// so that two requests at a time don't both find the last place free.
async fn check_room(transaction: &Transaction<'_>, tenant: &Tenant) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- lock_tenant\nSELECT max_webhooks FROM tenants WHERE id = $1 FOR NO KEY UPDATE",
        )
        .await?;
    let limit: i32 = transaction.query_one(&statement, &[tenant]).await?.get(0);
    let statement = transaction
        .prepare_cached(
            "-- count_webhooks\nSELECT count(*) FROM webhooks WHERE tenant = $1 AND status <> 'deleted'",
        )
        .await?;
    let has: i64 = transaction.query_one(&statement, &[tenant]).await?.get(0);
    if has >= i64::from(limit) {
        return Err(Conflict::webhooks(has, limit).into());
    }
    Ok(())
}

/// Refuses patterns that no type of a strict tenant's catalogue can match.
async fn check_offered(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    patterns: &[String],
) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- offered_event_types\n\
             SELECT e.name FROM tenants t \
             LEFT JOIN event_types e ON e.tenant = t.id AND NOT e.archived \
             WHERE t.id = $1 AND t.strict_event_types",
        )
        .await?;
    let offered = transaction.query(&statement, &[tenant]).await?;
    if offered.is_empty() {
        // A strict tenant has a row, even without types.
        return Ok(());
    }
    let offered: Vec<_> = offered
        .iter()
        .filter_map(|row| row.get::<_, Option<&str>>(0))
        .collect();
    match useless(&offered, patterns) {
        None => Ok(()),
        Some(pattern) => Err(Invalid::new(
            "events",
            format!(
                "`{pattern}` matches no event type of the catalogue, and `{tenant}` takes no other"
            ),
        )
        .into()),
    }
}

/// The first of these patterns that would never see an event of these types.
fn useless<'p>(offered: &[&str], patterns: &'p [String]) -> Option<&'p str> {
    let useful = |pattern: &&String| {
        // What isn't a pattern has been refused for that.
        pattern
            .parse::<Pattern>()
            .is_ok_and(|pattern| offered.iter().any(|name| pattern.listens_to(name)))
    };
    patterns
        .iter()
        .find(|pattern| !useful(pattern))
        .map(String::as_str)
}

async fn tenants_dialect(transaction: &Transaction<'_>, tenant: &Tenant) -> Result<String> {
    let statement = transaction
        .prepare_cached("-- tenants_dialect\nSELECT dialect FROM tenants WHERE id = $1")
        .await?;
    Ok(transaction.query_one(&statement, &[tenant]).await?.get(0))
}

/// Refuses a key that the dialect has no place for.
fn check_takes_keys(dialects: &Dialects, name: &str) -> Result<()> {
    match dialects.get(name) {
        Some(dialect) if dialect.takes_signing_keys() => Ok(()),
        _ => Err(Invalid::new(
            "signing",
            format!("can't be `ed25519` in the dialect `{name}`, which has no place for it"),
        )
        .into()),
    }
}

fn client_id(client: Value) -> (String, Value) {
    ("client_id".to_owned(), client)
}

/// A rate limit's two columns.
struct Columns {
    limit: Option<i32>,
    period_s: Option<i32>,
}

impl Columns {
    fn of(rate: Option<Rate>) -> Self {
        Self {
            limit: rate.map(|rate| rate.limit as i32),
            period_s: rate.map(|rate| rate.period.as_secs() as i32),
        }
    }
}

/// A secret as its column has it.
pub fn seal_secret(keys: &Keyring, id: WebhookId, secret: &Secret) -> Vec<u8> {
    let context = seal_context(id, "secret");
    keys.seal(&context, secret.expose().as_bytes())
}

/// A signing key as its column has it.
pub fn seal_key(keys: &Keyring, id: WebhookId, key: &SigningKey) -> Vec<u8> {
    let context = seal_context(id, "signing key");
    keys.seal(&context, key.expose().expose_secret().as_bytes())
}

fn seal_headers(keys: &Keyring, id: WebhookId, headers: &[(String, String)]) -> Vec<u8> {
    let context = seal_context(id, "headers");
    keys.seal(&context, json!(headers).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_tenants_patterns_are_of_types_that_are_offered() {
        for (pattern, wanted) in [
            ("item.*", true),
            ("item.x", true),
            ("*", true),
            ("order.*", false),
            ("nothing", false),
        ] {
            let patterns = [pattern.to_owned()];
            assert_eq!(
                useless(&["item.x"], &patterns).is_none(),
                wanted,
                "{pattern}"
            );
            assert!(useless(&[], &patterns).is_some());
        }
    }
}
