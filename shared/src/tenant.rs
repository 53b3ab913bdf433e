//! A tenant as the processes know it: its dialect and its limits.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::ids::Tenant;

/// The default limit on the data of an event, in bytes.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// The highest value of a tenant's own limit, in bytes.
pub const LARGEST_MAX_PAYLOAD: usize = 1024 * 1024;
/// The largest body of an event's message, in bytes: the data, and CloudEvents
/// attributes around it. A larger body can't become an event under any limit.
pub const LARGEST_MESSAGE: usize = LARGEST_MAX_PAYLOAD + 64 * 1024;

/// The settings of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSettings {
    pub tenant: Tenant,
    /// Whether the tenant was deleted. Its row stays until its log is gone.
    pub is_deleted: bool,
    /// The dialect of webhooks that name none.
    pub dialect: String,
    /// The name of the proxy that deliveries leave through; `None`: that of all tenants.
    pub egress_proxy: Option<String>,
    /// The most attempts in any hour, over all webhooks; `None` means no limit.
    pub deliveries_per_hour: Option<u32>,
    /// The largest data of an event, in bytes.
    pub max_payload: usize,
    /// The longest time from an event's acceptance to its last attempt; `None` means
    /// the dialect's.
    pub max_age: Option<Duration>,
    /// When an event was last expunged that a delivery waited to send for the first time.
    pub expunged_at: Option<OffsetDateTime>,
}

impl TenantSettings {
    /// The columns that [`TenantSettings::read`] needs.
    pub const COLUMNS: &'static str = "id, deleted_at IS NOT NULL AS is_deleted, dialect, egress_proxy, \
        deliveries_per_hour, max_payload, max_age_s, expunged_at";

    #[must_use]
    pub fn read(row: &Row) -> Self {
        // The table's CHECKs allow no negative value.
        let number = |column: &str| row.get::<_, Option<i32>>(column).map(|n| n as u32);
        Self {
            tenant: row.get("id"),
            is_deleted: row.get("is_deleted"),
            dialect: row.get("dialect"),
            egress_proxy: row.get("egress_proxy"),
            deliveries_per_hour: number("deliveries_per_hour"),
            max_payload: number("max_payload").map_or(MAX_PAYLOAD, |bytes| bytes as usize),
            max_age: number("max_age_s").map(|s| Duration::from_secs(u64::from(s))),
            expunged_at: row.get("expunged_at"),
        }
    }
}
