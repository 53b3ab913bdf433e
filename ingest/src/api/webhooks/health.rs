//! How webhooks' endpoints are doing, judged by their latest answers.
//!
//! Lists show it for many webhooks at once. So it is read from the latest rows of each webhook's
//! statistics, by one query for all of them.

use std::collections::HashMap;

use deadpool_postgres::Client;
use serde::Serialize;
use shared::ids::WebhookId;
use shared::stats::Subject;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::api::http::problem::Result;
use crate::timestamp::Timestamp;

/// The state of a webhook's endpoint, judged by its latest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing was sent to it lately.
    Unused,
    /// At most one attempt in twenty failed.
    Healthy,
    /// At most half of the attempts failed.
    Degraded,
    /// More than half of the attempts failed.
    Failing,
}

/// What a list of webhooks shows of each webhook's deliveries.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// The state of the endpoint.
    pub health: Health,
    /// When the last attempt was made.
    pub last_triggered: Option<Timestamp>,
}

impl Summary {
    /// The summary of a webhook that nothing was sent to.
    pub const UNUSED: Self = Self {
        health: Health::Unused,
        last_triggered: None,
    };
}

/// The summaries of these webhooks. A missing one is [`Summary::UNUSED`].
///
/// # Errors
/// If PostgreSQL fails.
pub async fn summaries(
    client: &Client,
    webhooks: &[WebhookId],
) -> Result<HashMap<WebhookId, Summary>> {
    /// Four quarters of an hour, for four dispatchers.
    const LATE: i64 = 16;
    let statement = client
        .prepare_cached(
            "-- summaries\n\
             SELECT w.id, s.last, s.attempts, s.successes \
             FROM unnest($1::uuid[], $2::text[]) AS w (id, subject) CROSS JOIN LATERAL ( \
                 SELECT max(last_attempt_at) AS last, sum(outcomes[1]) AS successes, \
                     sum((SELECT sum(o) FROM unnest(outcomes) AS o))::int8 AS attempts \
                 FROM (SELECT last_attempt_at, outcomes FROM stats WHERE subject = w.subject \
                     ORDER BY quarter DESC LIMIT $3) late) s \
             WHERE s.last IS NOT NULL",
        )
        .await?;
    let subjects: Vec<_> = webhooks
        .iter()
        .map(|id| Subject::Webhook(*id).to_string())
        .collect();
    let rows = client
        .query(&statement, &[&webhooks, &subjects, &LATE])
        .await?;
    let read = |row: &Row| {
        let summary = Summary {
            health: health(row.get("successes"), row.get::<_, i64>("attempts")),
            last_triggered: row.get("last"),
        };
        (row.get("id"), summary)
    };
    Ok(rows.iter().map(read).collect())
}

fn health(successes: i64, attempts: i64) -> Health {
    let failures = attempts - successes;
    if attempts == 0 {
        Health::Unused
    } else if failures * 20 <= attempts {
        Health::Healthy
    } else if failures * 2 <= attempts {
        Health::Degraded
    } else {
        Health::Failing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_what_was_answered_of_late() {
        for (successes, attempts, expected) in [
            (0, 0, Health::Unused),
            (19, 20, Health::Healthy),
            (18, 20, Health::Degraded),
            (10, 20, Health::Degraded),
            (9, 20, Health::Failing),
        ] {
            assert_eq!(
                health(successes, attempts),
                expected,
                "{successes} of {attempts}"
            );
        }
    }
}
