//! A tenant as the processes know it: its dialect and its limits.

use std::time::Duration;

use tokio_postgres::Row;

use crate::ids::Tenant;

/// The largest data of an event, in bytes, unless the tenant has another limit.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// The largest that such a limit may be, in bytes.
pub const LARGEST_MAX_PAYLOAD: usize = 1024 * 1024;
/// The largest body of an event's message, in bytes: data, and CloudEvents'
/// attributes around it. A larger one can't become an event, whatever is changed.
pub const LARGEST_MESSAGE: usize = LARGEST_MAX_PAYLOAD + 64 * 1024;

/// What holds for a tenant's events and webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSettings {
    /// Whose.
    pub tenant: Tenant,
    /// How deliveries look where a webhook says nothing.
    pub dialect: String,
    /// Attempts in any hour, over all webhooks; without one, no limit.
    pub deliveries_per_hour: Option<u32>,
    /// The largest data of an event, in bytes.
    pub max_payload: usize,
    /// From an event's acceptance to its last attempt; the dialect's, if none.
    pub max_age: Option<Duration>,
}

impl TenantSettings {
    /// The columns that [`TenantSettings::read`] wants.
    pub const COLUMNS: &'static str = "id, dialect, deliveries_per_hour, max_payload, max_age_s";

    /// From its row.
    #[must_use]
    pub fn read(row: &Row) -> Self {
        // The table's CHECKs have none below zero.
        let number = |column: &str| row.get::<_, Option<i32>>(column).map(|n| n as u32);
        Self {
            tenant: row.get("id"),
            dialect: row.get("dialect"),
            deliveries_per_hour: number("deliveries_per_hour"),
            max_payload: number("max_payload").map_or(MAX_PAYLOAD, |bytes| bytes as usize),
            max_age: number("max_age_s").map(|s| Duration::from_secs(u64::from(s))),
        }
    }
}
