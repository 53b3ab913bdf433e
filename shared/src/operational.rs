//! Operational events: they tell a tenant about its own webhooks. Their types, and the
//! thresholds beyond which a webhook is in trouble.
//!
//! `dispatcher` creates these events. `ingest` lets webhooks subscribe to them.

use std::sync::LazyLock;
use std::time::Duration;

use tokio_postgres::Row;

use crate::ids::EventType;

/// Posthorn disabled a webhook, because of an answer of its endpoint or because it
/// failed for too long.
pub static DISABLED: LazyLock<EventType> = LazyLock::new(|| named("webhook.disabled"));
/// More attempts fail than the tenant's threshold allows.
pub static FAILING: LazyLock<EventType> = LazyLock::new(|| named("webhook.failing"));
/// The endpoint answers more slowly than the tenant's threshold allows.
pub static SLOW: LazyLock<EventType> = LazyLock::new(|| named("webhook.slow"));
/// The endpoint gets no requests, except one now and then.
pub static DOWN: LazyLock<EventType> = LazyLock::new(|| named("webhook.down"));
/// A webhook that was failing, slow or down is none of these any more.
pub static RECOVERED: LazyLock<EventType> = LazyLock::new(|| named("webhook.recovered"));
/// Deliveries were given up.
pub static EXHAUSTED: LazyLock<EventType> = LazyLock::new(|| named("delivery.exhausted"));

fn named(name: &str) -> EventType {
    match name.parse() {
        Ok(name) => name,
        Err(error) => unreachable!("{error}"),
    }
}

/// Whether Posthorn itself creates events of this type. Producers may have events of the
/// same name.
#[must_use]
pub fn is_operational(event_type: &EventType) -> bool {
    [&DISABLED, &FAILING, &SLOW, &DOWN, &RECOVERED, &EXHAUSTED]
        .iter()
        .any(|known| ***known == *event_type)
}

/// Beyond what a tenant is told that a webhook of its own is in trouble.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Failing: more than this share of the attempts of a quarter of an hour failed.
    pub failure_rate: f64,
    /// Failing and slow: only if there were this many attempts.
    pub min_attempts: u32,
    /// Slow: the 95th percentile of response times is longer.
    pub slow: Duration,
    /// Down: only if it is for this long.
    pub down_after: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            failure_rate: 0.05,
            min_attempts: 20,
            slow: Duration::from_secs(5),
            down_after: Duration::from_secs(60),
        }
    }
}

impl Thresholds {
    /// Of a row of `tenants`, with `t` for its table.
    pub const COLUMNS: &str =
        "t.alert_failure_rate, t.alert_min_attempts, t.alert_slow_ms, t.alert_down_after_s";

    #[must_use]
    pub fn read(row: &Row) -> Self {
        let default = Self::default();
        let number = |column: &str| row.get::<_, Option<i32>>(column).map(|it| it as u32);
        Self {
            failure_rate: row
                .get::<_, Option<f64>>("alert_failure_rate")
                .unwrap_or(default.failure_rate),
            min_attempts: number("alert_min_attempts").unwrap_or(default.min_attempts),
            slow: number("alert_slow_ms")
                .map_or(default.slow, |ms| Duration::from_millis(ms.into())),
            down_after: number("alert_down_after_s").map_or(default.down_after, |seconds| {
                Duration::from_secs(seconds.into())
            }),
        }
    }
}
