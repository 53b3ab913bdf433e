//! How many deliveries wait for a webhook, and since when.
//!
//! An index of all open deliveries would cost each delivery a write. These don't:
//!
//! - Another attempt is planned: `deliveries_in_trouble`.
//! - The first attempt was put off: `deliveries_deferred`.
//! - The first attempt wasn't put off. Then its job is in a jobs queue, or was taken a moment
//!   ago. The sweeper's watermark says how far dispatchers have worked the queues off: every job that
//!   was due before has been taken. So these are due after the watermark, in `deliveries_due`,
//!   and few unless the queues are long.
//!
//! Open deliveries are of the last day or two, unless a webhook is paused or an endpoint is down.
//! Each day has indexes of its own. So it is looked up first which day is the oldest that has one.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_postgres::Client;
use shared::clock;
use shared::ids::{DeliveryId, Tenant, WebhookId, first_uuid_at};
use time::Time;
use uuid::Uuid;

use crate::api::http::problem::Result;

/// How far one webhook's are counted, and each of several.
const COUNTED: [i64; 2] = [10_000, 1_000];
/// The most webhooks of a tenant whose deliveries are counted together.
const WEBHOOKS: i64 = 1_000;
/// How far those in the queues are counted, of all webhooks of all tenants.
const IN_QUEUES: i64 = 10_000;

/// The most days whose open deliveries are looked up day by day. What is older is one range.
const DAYS: i64 = 60;

/// What waits for a webhook.
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    pub waiting: i64,
    /// `false`: there are more.
    pub counted: bool,
    /// The delivery of the oldest event.
    pub oldest: Option<DeliveryId>,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            waiting: 0,
            counted: true,
            oldest: None,
        }
    }
}

impl Backlog {
    /// What waits for another webhook, too.
    pub fn add(&mut self, other: Self) {
        self.waiting += other.waiting;
        self.counted &= other.counted;
        let both = self.oldest.into_iter().chain(other.oldest);
        self.oldest = both.min_by_key(|id| id.uuid());
    }
}

/// Of these webhooks.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn backlogs(
    client: &Client,
    webhooks: &[WebhookId],
) -> Result<HashMap<WebhookId, Backlog>> {
    let bound = COUNTED[usize::from(webhooks.len() > 1)];
    let to_come = to_come();
    let since = oldest_open_day(client).await?;
    // How rows are compared makes the planner take the index that is meant: see
    // `api::deliveries::search::look_at_deliveries`. An attempt takes a minute at most, and its verdict a moment.
    let statement = client
        .prepare_cached(
            "-- backlogs\n\
             WITH queued AS MATERIALIZED ( \
                 SELECT id, webhook_id FROM deliveries \
                 WHERE state IN ('queued', 'retrying') AND id < $4 AND id >= $5 AND due_at <= now() \
                   AND due_at >= (SELECT coalesce(watermark, now() - interval '1 hour') FROM sweep) \
                                 - interval '90 s' \
                   AND state = 'queued' AND deferred_because IS NULL \
                 ORDER BY due_at LIMIT $3) \
             SELECT w.id, r.waiting AS retrying, r.oldest AS retrying_oldest, \
                 d.waiting AS deferred, d.oldest AS deferred_oldest, \
                 q.waiting AS queued, q.oldest AS queued_oldest, \
                 (SELECT count(*) FROM queued) AS all_queued \
             FROM unnest($1::uuid[]) AS w (id) \
             CROSS JOIN LATERAL (SELECT count(*) AS waiting, (array_agg(id))[1] AS oldest FROM ( \
                 SELECT id FROM deliveries \
                 WHERE (webhook_id, state, id) >= (w.id, 'retrying', '00000000-0000-0000-0000-000000000000') \
                   AND (webhook_id, state, id) <= (w.id, 'retrying', 'ffffffff-ffff-ffff-ffff-ffffffffffff') \
                   AND webhook_id >= w.id AND webhook_id <= w.id \
                   AND state = 'retrying' AND id < $4 AND id >= $5 \
                 ORDER BY webhook_id, state, id LIMIT $2) a) r \
             CROSS JOIN LATERAL (SELECT count(*) AS waiting, (array_agg(id))[1] AS oldest FROM ( \
                 SELECT id FROM deliveries \
                 WHERE (webhook_id, id) >= (w.id, '00000000-0000-0000-0000-000000000000') \
                   AND (webhook_id, id) <= (w.id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') \
                   AND webhook_id >= w.id AND webhook_id <= w.id \
                   AND state = 'queued' AND deferred_because IS NOT NULL AND id < $4 AND id >= $5 \
                 ORDER BY webhook_id, id LIMIT $2) a) d \
             CROSS JOIN LATERAL (SELECT count(*) AS waiting, (array_agg(id ORDER BY id))[1] AS oldest \
                 FROM queued WHERE queued.webhook_id = w.id) q",
        )
        .await?;
    let rows = client
        .query(
            &statement,
            &[&webhooks, &(bound + 1), &(IN_QUEUES + 1), &to_come, &since],
        )
        .await?;
    let backlogs = rows.iter().map(|row| {
        let parts = ["retrying", "deferred", "queued"];
        let counts = parts.map(|part| row.get::<_, i64>(part));
        let oldest = parts.map(|part| {
            let column = format!("{part}_oldest");
            row.get::<_, Option<DeliveryId>>(column.as_str())
        });
        let waiting: i64 = counts.iter().sum();
        let all_queued: i64 = row.get("all_queued");
        let backlog = Backlog {
            waiting: waiting.min(bound),
            counted: waiting <= bound && all_queued <= IN_QUEUES,
            oldest: oldest.into_iter().flatten().min_by_key(|id| id.uuid()),
        };
        (row.get("id"), backlog)
    });
    Ok(backlogs.collect())
}

/// Of all webhooks of a tenant together. Beyond [`WEBHOOKS`] of them it isn't counted.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn of_tenant(client: &Client, tenant: &Tenant) -> Result<Backlog> {
    let statement = client
        .prepare_cached(
            "-- webhooks_that_may_wait\n\
             SELECT id FROM webhooks WHERE tenant = $1 AND status <> 'deleted' \
             ORDER BY id DESC LIMIT $2",
        )
        .await?;
    let rows = client.query(&statement, &[tenant, &(WEBHOOKS + 1)]).await?;
    let mut webhooks: Vec<WebhookId> = rows.iter().map(|row| row.get(0)).collect();
    let mut sum = Backlog {
        counted: webhooks.len() as i64 <= WEBHOOKS,
        ..Backlog::default()
    };
    webhooks.truncate(WEBHOOKS as usize);
    if webhooks.is_empty() {
        return Ok(sum);
    }
    for backlog in backlogs(client, &webhooks).await?.into_values() {
        sum.add(backlog);
    }
    Ok(sum)
}

/// The end of the ids that there are: future days have partitions, too.
pub fn to_come() -> Uuid {
    first_uuid_at(clock::now() + Duration::from_secs(600))
}

/// Where the oldest day begins that has an open delivery, of whichever webhook.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn oldest_open_day(client: &Client) -> Result<Uuid> {
    let today = clock::now().replace_time(Time::MIDNIGHT);
    let midnights = (0..DAYS).rev();
    let midnights = midnights.map(|age| first_uuid_at(today - time::Duration::days(age)));
    let begins: Vec<_> = [Uuid::nil()].into_iter().chain(midnights).collect();
    let ends: Vec<_> = begins[1..].iter().copied().chain([Uuid::max()]).collect();
    let statement = client
        .prepare_cached("-- oldest_open_day\nSELECT oldest_open_day($1, $2)")
        .await?;
    let row = client.query_one(&statement, &[&begins, &ends]).await?;
    // Nothing is open: then it is the same where one looks.
    Ok(row
        .get::<_, Option<Uuid>>(0)
        .unwrap_or_else(|| first_uuid_at(today)))
}
