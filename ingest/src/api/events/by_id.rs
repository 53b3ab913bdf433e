//! Finds events by the ids that producers gave them.

use deadpool_postgres::Client;
use shared::ids::{EventId, EventUid, Tenant};

use crate::api::http::problem::Result;

/// The events of a tenant with this id: an id may be used again after a day. Read the rest of an
/// event by its uid: then PostgreSQL plans for that day alone.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn uids_of_event(
    client: &Client,
    tenant: &Tenant,
    id: &EventId,
) -> Result<Vec<EventUid>> {
    let statement = client
        .prepare_cached("-- uids_of_event\nSELECT uid FROM events WHERE tenant = $1 AND id = $2")
        .await?;
    let rows = client.query(&statement, &[tenant, id]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
