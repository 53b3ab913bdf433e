//! The rows of event types.
//!
//! A change first [`touch`]es the tenant's row in its transaction. That takes the
//! next revision, which makes every process load the tenant's types again. It also
//! locks the row, so changes of one tenant's catalogue run one after another and
//! their number stays within its bound.

use std::fmt;

use deadpool_postgres::{Client, GenericClient, Transaction};
use serde::Serialize;
use serde_json::value::RawValue;
use shared::ids::{EventType, Tenant};
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::invalid::{Conflict, NotFound, Unsaved};
use crate::timestamp::Timestamp;

/// The most event types of a tenant.
pub const MAX_EVENT_TYPES: i64 = 1_000;

/// An event type to be stored.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `order.created`
    pub name: EventType,
    /// A text for people.
    pub description: String,
    /// An example of its data, JSON text.
    pub example: Option<String>,
    /// A JSON Schema for its data, JSON text.
    pub schema: Option<String>,
    /// Whether new webhooks may no longer subscribe to it.
    pub archived: bool,
}

/// An event type as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventType)]
pub struct EventTypeView {
    /// Its name.
    pub name: EventType,
    /// A text for people.
    pub description: String,
    /// An example of its data.
    #[schema(required, value_type = Option<serde_json::Value>)]
    pub example: Option<Box<RawValue>>,
    /// A JSON Schema that its data must conform to.
    #[schema(required, value_type = Option<Object>)]
    pub schema: Option<Box<RawValue>>,
    /// Whether new webhooks may no longer subscribe to it.
    pub archived: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl From<&Row> for EventTypeView {
    fn from(row: &Row) -> Self {
        // Stored text was JSON when it was saved. If a hand-made row has other text, it isn't
        // shown.
        let json = |column: &str| {
            row.get::<_, Option<String>>(column)
                .and_then(|text| RawValue::from_string(text).ok())
        };
        Self {
            name: row.get("name"),
            description: row.get("description"),
            example: json("example"),
            schema: json("schema"),
            archived: row.get("archived"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
        }
    }
}

/// What a change did to a catalogue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CatalogueChanges)]
pub struct Saved {
    /// The number of types that are new.
    pub created: u64,
    /// The number of types that were changed.
    pub changed: u64,
    /// The number of types that were deleted.
    pub deleted: u64,
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            created,
            changed,
            deleted,
        } = self;
        write!(f, "{created} created, {changed} changed, {deleted} deleted")
    }
}

/// Creates or replaces these types. With `alone`, all other types of the tenant are deleted.
///
/// # Errors
/// If there is no such tenant, there would be too many, or PostgreSQL fails.
/// The transaction must be rolled back then.
pub async fn save(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    entries: &[Entry],
    alone: bool,
) -> Result<Saved, Unsaved> {
    if !touch(transaction, tenant).await? {
        return Err(NotFound::tenant(tenant).into());
    }
    let deleted = if alone {
        delete_others(transaction, tenant, entries).await?
    } else {
        0
    };
    let (created, changed) = put(transaction, tenant, entries).await?;
    let has = count(transaction, tenant).await?;
    if has > MAX_EVENT_TYPES {
        return Err(Conflict::event_types(has, MAX_EVENT_TYPES).into());
    }
    Ok(Saved {
        created,
        changed,
        deleted,
    })
}

/// Locks the tenant's row until the transaction ends, and gives it the next revision. Answers
/// whether there is such a tenant.
async fn touch(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
) -> Result<bool, tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached("-- touch_tenant\nUPDATE tenants SET revision = revision WHERE id = $1 AND deleted_at IS NULL")
        .await?;
    Ok(transaction.execute(&statement, &[tenant]).await? == 1)
}

/// Writes the types that are new or differ. Answers how many were new, and how many changed.
async fn put(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    entries: &[Entry],
) -> Result<(u64, u64), tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached(
            "-- put_event_types\n\
             INSERT INTO event_types AS was (tenant, name, description, example, schema, archived) \
             SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bool[]) \
             ON CONFLICT (tenant, name) DO UPDATE SET description = excluded.description, \
                 example = excluded.example, schema = excluded.schema, \
                 archived = excluded.archived, updated_at = now() \
             WHERE (was.description, was.example, was.schema, was.archived) IS DISTINCT FROM \
                 (excluded.description, excluded.example, excluded.schema, excluded.archived) \
             RETURNING xmax = 0 AS is_new",
        )
        .await?;
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let descriptions: Vec<_> = entries.iter().map(|entry| &entry.description).collect();
    let examples: Vec<_> = entries.iter().map(|entry| &entry.example).collect();
    let schemas: Vec<_> = entries.iter().map(|entry| &entry.schema).collect();
    let archived: Vec<_> = entries.iter().map(|entry| entry.archived).collect();
    let written = transaction
        .query(
            &statement,
            &[
                tenant,
                &names,
                &descriptions,
                &examples,
                &schemas,
                &archived,
            ],
        )
        .await?;
    let new = written.iter().filter(|row| row.get("is_new")).count();
    Ok((new as u64, (written.len() - new) as u64))
}

async fn delete_others(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    entries: &[Entry],
) -> Result<u64, tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached(
            "-- delete_other_event_types\n\
             DELETE FROM event_types WHERE tenant = $1 AND name <> ALL ($2)",
        )
        .await?;
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    transaction.execute(&statement, &[tenant, &names]).await
}

async fn count(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
) -> Result<i64, tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached("-- count_event_types\nSELECT count(*) FROM event_types WHERE tenant = $1")
        .await?;
    Ok(transaction.query_one(&statement, &[tenant]).await?.get(0))
}

/// Deletes a type. Answers whether there was one.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    name: &EventType,
) -> Result<bool, tokio_postgres::Error> {
    touch(transaction, tenant).await?;
    let statement = transaction
        .prepare_cached(
            "-- delete_event_type\nDELETE FROM event_types WHERE tenant = $1 AND name = $2",
        )
        .await?;
    Ok(transaction.execute(&statement, &[tenant, name]).await? == 1)
}

/// A page of a tenant's types, by name.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn list(
    client: &impl GenericClient,
    tenant: &Tenant,
    archived: Option<bool>,
    after: Option<&EventType>,
    limit: i64,
) -> Result<Vec<EventTypeView>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- list_event_types\n\
             SELECT name, description, example, schema, archived, created_at, updated_at \
             FROM event_types WHERE tenant = $1 AND ($2::text IS NULL OR name > $2) \
               AND ($3::bool IS NULL OR archived = $3) \
             ORDER BY name LIMIT $4",
        )
        .await?;
    let rows = client
        .query(&statement, &[tenant, &after, &archived, &limit])
        .await?;
    Ok(rows.iter().map(EventTypeView::from).collect())
}

/// One type.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find(
    client: &Client,
    tenant: &Tenant,
    name: &EventType,
) -> Result<Option<EventTypeView>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- find_event_type\n\
             SELECT name, description, example, schema, archived, created_at, updated_at \
             FROM event_types WHERE tenant = $1 AND name = $2",
        )
        .await?;
    let row = client.query_opt(&statement, &[tenant, name]).await?;
    Ok(row.as_ref().map(EventTypeView::from))
}

/// The catalogue's example of this type, JSON text, for test deliveries.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn example_of(
    client: &Client,
    tenant: &Tenant,
    event_type: &EventType,
) -> Result<Option<String>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- example_of\nSELECT example FROM event_types WHERE tenant = $1 AND name = $2",
        )
        .await?;
    let row = client.query_opt(&statement, &[tenant, event_type]).await?;
    Ok(row.and_then(|row| row.get(0)))
}
