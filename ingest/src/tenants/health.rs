//! How tenants do: judged by the attempts of the last hour, as webhooks are judged by their latest.
//!
//! Statistics have a row for each tenant and quarter of an hour. So all tenants are judged by a
//! few rows each, however much they send.

use deadpool_postgres::GenericClient;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of a tenant's deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantHealth {
    /// No attempt was made in the last hour.
    #[default]
    Unused,
    /// At most one attempt in twenty failed.
    Healthy,
    /// At most half of the attempts failed.
    Degraded,
    /// More than half of the attempts failed.
    Failing,
}

impl TenantHealth {
    /// Its name, as [`judged`] has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }

    /// `successes`, `attempts`: those of the last hour.
    pub fn of(successes: i64, attempts: i64) -> Self {
        let failures = attempts - successes;
        match attempts {
            0 => Self::Unused,
            _ if failures * 20 <= attempts => Self::Healthy,
            _ if failures * 2 <= attempts => Self::Degraded,
            _ => Self::Failing,
        }
    }
}

/// How many tenants there are, and how they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TenantCounts {
    #[schema(example = 46)]
    pub all: i64,
    #[schema(example = 12)]
    pub unused: i64,
    #[schema(example = 32)]
    pub healthy: i64,
    #[schema(example = 1)]
    pub degraded: i64,
    #[schema(example = 1)]
    pub failing: i64,
}

/// SQL of the tenants whose ids or names have a text in them: `id` and `health`. `q`: the parameter
/// of the text, such as `$1`.
pub fn judged(q: &str) -> String {
    format!(
        "SELECT t.id, CASE WHEN s.attempts = 0 THEN 'unused' \
             WHEN (s.attempts - s.successes) * 20 <= s.attempts THEN 'healthy' \
             WHEN (s.attempts - s.successes) * 2 <= s.attempts THEN 'degraded' \
             ELSE 'failing' END AS health \
         FROM tenants t CROSS JOIN LATERAL ( \
             SELECT coalesce(sum(outcomes[1]), 0)::int8 AS successes, \
                 coalesce(sum((SELECT sum(o) FROM unnest(outcomes) o)), 0)::int8 AS attempts \
             FROM stats WHERE subject = 'tenant/' || t.id \
               AND quarter >= now() - interval '1 hour') s \
         WHERE t.deleted_at IS NULL AND ({q}::text IS NULL \
             OR position(lower({q}) IN t.id) > 0 OR position(lower({q}) IN lower(t.name)) > 0)"
    )
}

/// Counts the tenants with this text in their ids or names, by the state of their deliveries.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn counts(
    client: &impl GenericClient,
    q: Option<&str>,
) -> Result<TenantCounts, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(&format!(
            "-- count_tenants\n\
             SELECT health, count(*) AS tenants FROM ({}) judged GROUP BY health",
            judged("$1")
        ))
        .await?;
    let mut counts = TenantCounts::default();
    for row in client.query(&statement, &[&q]).await? {
        let tenants: i64 = row.get("tenants");
        counts.all += tenants;
        let of = match row.get("health") {
            "healthy" => &mut counts.healthy,
            "degraded" => &mut counts.degraded,
            "failing" => &mut counts.failing,
            _ => &mut counts.unused,
        };
        *of += tenants;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_judged_by_the_share_of_attempts_that_failed() {
        for (successes, attempts, health) in [
            (0, 0, TenantHealth::Unused),
            (19, 20, TenantHealth::Healthy),
            (18, 20, TenantHealth::Degraded),
            (10, 20, TenantHealth::Degraded),
            (9, 20, TenantHealth::Failing),
        ] {
            assert_eq!(TenantHealth::of(successes, attempts), health);
        }
    }
}
