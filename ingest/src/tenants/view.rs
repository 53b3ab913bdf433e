//! A tenant as it is shown.

use serde::Serialize;
use shared::ids::Tenant;
use shared::operational::Thresholds;
use shared::tenant::MAX_PAYLOAD;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::tenants::health::TenantHealth;
use crate::timestamp::Timestamp;

/// A tenant: the owner of events and webhooks.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
pub struct TenantView {
    /// The id.
    pub id: Tenant,
    /// A text for people.
    #[schema(example = "Acme Ltd")]
    pub name: String,
    /// The dialect of webhooks that choose none.
    #[schema(example = "standard")]
    pub dialect: String,
    /// The tenant's limits.
    pub limits: Limits,
    /// Beyond what the tenant's operational webhooks are told of a webhook.
    pub alerts: Alerts,
    /// Whether only event types of its catalogue may be published and subscribed to.
    pub strict_event_types: bool,
    /// Origins whose pages may have its portal in a frame.
    #[schema(example = json!(["https://app.example.com"]))]
    pub frame_ancestors: Vec<String>,
    /// The name of the proxy that its deliveries leave through; `null`: that of all tenants, if
    /// there is one.
    #[schema(required, example = "eu")]
    pub egress_proxy: Option<String>,
    pub created_at: Timestamp,
    /// What it uses; only where tenants are listed or shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub usage: Option<Usage>,
}

/// What a tenant uses of its limits, and how its deliveries do.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = TenantUsage)]
pub struct Usage {
    /// How its deliveries do, judged by the attempts of the last hour.
    pub health: TenantHealth,
    /// Its webhooks.
    #[schema(example = 8)]
    pub webhooks: i64,
    /// Attempts in the last hour, in whole quarters of an hour.
    #[schema(example = 412)]
    pub attempts_this_hour: i64,
    /// Deliveries that ended in the last 24 hours.
    #[schema(example = 9_120)]
    pub deliveries_24h: i64,
    /// Successful deliveries of those as a share of successful and failed ones, from 0 to 1.
    #[schema(required, example = 0.998)]
    pub success_rate_24h: Option<f64>,
    /// When an attempt was last made, in the last 24 hours.
    #[schema(required)]
    pub last_attempt_at: Option<Timestamp>,
    /// How many deliveries wait, at most 1,000 of each webhook; `null`: the tenants that are listed
    /// together have too many webhooks to count.
    #[schema(required, example = 12)]
    pub waiting: Option<i64>,
    /// Whether all were counted; `false`: there are more.
    #[schema(example = true)]
    pub waiting_counted: bool,
}

/// A tenant's limits.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantLimits)]
pub struct Limits {
    /// The most webhooks.
    #[schema(example = 100)]
    pub webhooks: i32,
    /// The most attempts in any hour, over all webhooks; `null`: as its dialect says, which is
    /// no limit in most.
    #[schema(required)]
    pub deliveries_per_hour: Option<i32>,
    /// The largest data of an event, in bytes.
    #[schema(example = 262_144)]
    pub payload_bytes: i32,
    /// The longest time from an event to its last attempt; `null`: the dialect's.
    #[schema(required)]
    pub max_age_seconds: Option<i32>,
}

/// When operational events tell that a webhook is failing, slow or down.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantAlerts)]
pub struct Alerts {
    /// `webhook.failing`: more than this share of the attempts of the last quarter of an hour
    /// failed.
    #[schema(example = 0.05)]
    pub failure_rate: f64,
    /// `webhook.failing` and `webhook.slow`: only if there were this many attempts.
    #[schema(example = 20)]
    pub min_attempts: i32,
    /// `webhook.slow`: the 95th percentile of response times is longer, in milliseconds.
    #[schema(example = 5000)]
    pub slow_ms: i32,
    /// `webhook.down`: the endpoint is down for this long, in seconds.
    #[schema(example = 60)]
    pub down_after_seconds: i32,
}

/// What is read to show a tenant.
pub const COLUMNS: &str = "id, name, dialect, max_webhooks, deliveries_per_hour, max_payload, \
                       max_age_s, strict_event_types, frame_ancestors, egress_proxy, created_at, alert_failure_rate, \
                       alert_min_attempts, alert_slow_ms, alert_down_after_s";

impl TenantView {
    #[must_use]
    pub fn from_row(row: &Row) -> Self {
        let alerts = Thresholds::read(row);
        Self {
            id: row.get("id"),
            name: row.get("name"),
            dialect: row.get("dialect"),
            limits: Limits {
                webhooks: row.get("max_webhooks"),
                deliveries_per_hour: row.get("deliveries_per_hour"),
                payload_bytes: row
                    .get::<_, Option<i32>>("max_payload")
                    .unwrap_or(MAX_PAYLOAD as i32),
                max_age_seconds: row.get("max_age_s"),
            },
            alerts: Alerts {
                failure_rate: alerts.failure_rate,
                min_attempts: alerts.min_attempts as i32,
                slow_ms: alerts.slow.as_millis() as i32,
                down_after_seconds: alerts.down_after.as_secs() as i32,
            },
            strict_event_types: row.get("strict_event_types"),
            frame_ancestors: row.get("frame_ancestors"),
            egress_proxy: row.get("egress_proxy"),
            created_at: row.get("created_at"),
            usage: None,
        }
    }
}
