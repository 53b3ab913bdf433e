//! What bounds a webhook beside its own members: its tenant's limits, its tenant's other
//! webhooks, and the size of the whole definition.
//!
//! The rows are read in the transaction that writes the webhook, so a tenant or an event
//! type that it has just created counts.

use deadpool_postgres::Transaction;
use shared::ids::{ExternalId, Tenant, WebhookId};
use tokio_postgres::Row;

use crate::invalid::{Conflict, Invalid, NotFound, Unsaved};
use crate::matching::Pattern;

type Result<T> = std::result::Result<T, Unsaved>;

/// The most bytes of a webhook's whole definition, as it is stored.
const MAX_DEFINITION: i32 = 64 * 1024;

/// The sizes of the members that a definition consists of, under the API's names. The
/// statements that write a definition return them.
pub(super) const SIZES: &str = "octet_length(url) AS url, octet_length(description) AS description, \
    octet_length(array_to_string(patterns, ' ')) AS events, \
    coalesce(octet_length(filter::text), 0) AS filters, \
    coalesce(octet_length(headers), 0) AS headers, \
    coalesce(octet_length(retry::text), 0) AS retry_policy, \
    coalesce(octet_length(client_certificate), 0) AS client_certificate, \
    coalesce(octet_length(oauth2), 0) AS oauth2, \
    octet_length(metadata::text) AS metadata";

/// Refuses a definition that is too large, and names its largest member.
pub(super) fn check_sizes(row: &Row) -> Result<()> {
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

/// Refuses if the tenant has as many webhooks as it may. Locks the tenant's row, so that two
/// requests at a time don't both create the last one.
pub(super) async fn check_room(transaction: &Transaction<'_>, tenant: &Tenant) -> Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- lock_tenant\n\
             SELECT max_webhooks FROM tenants WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE",
        )
        .await?;
    let found = transaction.query_opt(&statement, &[tenant]).await?;
    let limit: i32 = found.ok_or_else(|| NotFound::tenant(tenant))?.get(0);
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

/// Refuses an external id that another webhook of the tenant has. Whoever changes the id of a
/// webhook holds the tenant's row, so that two requests at a time don't both take one id.
pub(super) async fn check_external_id(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    own: Option<WebhookId>,
    external_id: Option<&ExternalId>,
) -> Result<()> {
    let Some(external_id) = external_id else {
        return Ok(());
    };
    let statement = transaction
        .prepare_cached("-- lock_external_ids\nSELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE")
        .await?;
    transaction.query(&statement, &[tenant]).await?;
    let statement = transaction
        .prepare_cached(
            "-- webhook_with_external_id\n\
             SELECT id FROM webhooks \
             WHERE tenant = $1 AND external_id = $2 AND status <> 'deleted' \
               AND id IS DISTINCT FROM $3",
        )
        .await?;
    match transaction
        .query_opt(&statement, &[tenant, external_id, &own])
        .await?
    {
        None => Ok(()),
        Some(other) => Err(Conflict::external_id(other.get(0)).into()),
    }
}

/// Refuses patterns that no type of a strict tenant's catalogue can match.
pub(super) async fn check_offered(
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
        // A strict tenant has a row even without types, so this one isn't strict.
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
                "`{pattern}` matches no event type of the catalogue, and events of other types aren't taken"
            ),
        )
        .into()),
    }
}

/// The first of these patterns that matches none of these types.
fn useless<'p>(offered: &[&str], patterns: &'p [String]) -> Option<&'p str> {
    let useful = |pattern: &&String| {
        // Invalid patterns were refused before.
        pattern
            .parse::<Pattern>()
            .is_ok_and(|pattern| offered.iter().any(|name| pattern.listens_to(name)))
    };
    patterns
        .iter()
        .find(|pattern| !useful(pattern))
        .map(String::as_str)
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
