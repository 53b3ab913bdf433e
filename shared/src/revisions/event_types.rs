//! Reads the event types of changed tenants, and only those schemas that changed.
//!
//! A change of one event type gives its tenant a new revision. The names of all types of the
//! tenant are read then, because a deleted type leaves no other trace. A schema may have many
//! kilobytes, and a tenant many schemas. So a schema is read only if its row has another version
//! than the one that was read last. The version is PostgreSQL's `xmin`: the transaction that wrote
//! the row. Reading it doesn't read the schema.

use std::collections::HashMap;

use deadpool_postgres::Client;

use crate::ids::{EventType, Tenant};

/// How many schemas one statement reads.
const PAGE: usize = 200;

/// The event types of one tenant.
#[derive(Debug)]
pub struct TenantEventTypes {
    pub tenant: Tenant,
    /// Whether events of other types are refused.
    pub strict: bool,
    /// All of them: a type that isn't among them was deleted.
    pub types: Vec<EventTypeRow>,
}

/// One event type, as far as events are checked against it.
#[derive(Debug)]
pub struct EventTypeRow {
    pub name: EventType,
    pub schema: ReadSchema,
}

/// The schema of an event type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadSchema {
    /// As it was when it was last applied. It wasn't read again.
    Unchanged,
    /// A JSON Schema, as text; `None` if the type has no schema.
    Text(Option<String>),
}

/// The versions of the schemas that were read, by tenant and type.
#[derive(Default)]
pub(super) struct Versions(HashMap<Tenant, HashMap<EventType, i64>>);

/// A tenant, and its types with the version of each schema.
struct Listed {
    tenant: Tenant,
    strict: bool,
    types: Vec<(EventType, Option<i64>)>,
}

/// Reads the types of the tenants that have changed since this revision. The caller applies them
/// at once: the versions count as applied.
pub(super) async fn read_changed(
    client: &Client,
    since: i64,
    versions: &mut Versions,
) -> anyhow::Result<Vec<TenantEventTypes>> {
    let listed = list(client, since).await?;
    let wanted = listed.iter().flat_map(|listed| {
        let known = versions.0.get(&listed.tenant);
        let types = listed.types.iter().filter(move |(name, version)| {
            let known = known.and_then(|known| known.get(name));
            version.is_some() && version.as_ref() != known
        });
        types.map(|(name, _)| (listed.tenant.clone(), name.clone()))
    });
    let wanted: Vec<_> = wanted.collect();
    let mut read = HashMap::with_capacity(wanted.len());
    for page in wanted.chunks(PAGE) {
        read_schemas(client, page, &mut read).await?;
    }
    let apply = |listed| versions.apply(listed, &mut read);
    Ok(listed.into_iter().map(apply).collect())
}

/// A schema with its version.
type Read = HashMap<(Tenant, EventType), (i64, Option<String>)>;

impl Versions {
    /// Takes what was read, and remembers its versions.
    fn apply(&mut self, listed: Listed, read: &mut Read) -> TenantEventTypes {
        let Listed {
            tenant,
            strict,
            types,
        } = listed;
        let known = self.0.remove(&tenant).unwrap_or_default();
        let mut current = HashMap::new();
        let types = types.into_iter().filter_map(|(name, version)| {
            let Some(version) = version else {
                let schema = ReadSchema::Text(None);
                return Some(EventTypeRow { name, schema });
            };
            let (version, schema) = if known.get(&name) == Some(&version) {
                (version, ReadSchema::Unchanged)
            } else {
                // A type that was deleted meanwhile isn't there. Its tenant has a new revision.
                let (version, text) = read.remove(&(tenant.clone(), name.clone()))?;
                (version, ReadSchema::Text(text))
            };
            current.insert(name.clone(), version);
            Some(EventTypeRow { name, schema })
        });
        let types = types.collect();
        if !current.is_empty() {
            self.0.insert(tenant.clone(), current);
        }
        TenantEventTypes {
            tenant,
            strict,
            types,
        }
    }
}

/// The types of changed tenants. A type without a schema has no version.
async fn list(client: &Client, since: i64) -> anyhow::Result<Vec<Listed>> {
    let statement = client
        .prepare_cached(
            "-- event_types_of_changed_tenants\n\
             SELECT t.id, t.strict_event_types, e.name, \
                 CASE WHEN e.schema IS NOT NULL THEN e.xmin::text::int8 END AS version \
             FROM tenants t LEFT JOIN event_types e ON e.tenant = t.id \
             WHERE t.revision > $1 ORDER BY t.id",
        )
        .await?;
    let mut tenants: Vec<Listed> = Vec::new();
    for row in client.query(&statement, &[&since]).await? {
        let tenant: Tenant = row.get(0);
        if tenants.last().is_none_or(|last| last.tenant != tenant) {
            tenants.push(Listed {
                tenant,
                strict: row.get(1),
                types: Vec::new(),
            });
        }
        // A tenant without event types has one row without a type.
        if let (Some(of_tenant), Some(name)) = (tenants.last_mut(), row.get(2)) {
            of_tenant.types.push((name, row.get(3)));
        }
    }
    Ok(tenants)
}

/// Reads these schemas.
async fn read_schemas(
    client: &Client,
    wanted: &[(Tenant, EventType)],
    read: &mut Read,
) -> anyhow::Result<()> {
    let statement = client
        .prepare_cached(
            "-- changed_schemas\n\
             SELECT e.tenant, e.name, e.xmin::text::int8, e.schema \
             FROM unnest($1::text[], $2::text[]) AS wanted (tenant, name) \
             JOIN event_types e ON e.tenant = wanted.tenant AND e.name = wanted.name",
        )
        .await?;
    let tenants: Vec<_> = wanted.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let names: Vec<_> = wanted.iter().map(|(_, name)| name.as_str()).collect();
    for row in client.query(&statement, &[&tenants, &names]).await? {
        read.insert((row.get(0), row.get(1)), (row.get(2), row.get(3)));
    }
    Ok(())
}
