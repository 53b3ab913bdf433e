//! Rate limits that all replicas share: may this attempt begin now, and if not, when?
//!
//! `admit` requests a [`Grant`] from [`RateLimits`]. One task per replica, the
//! [`RateLimiter`], answers. The use of each limit is a row of `rate_usage`, which the
//! replicas lock in turn. All requests that arrive during one transaction are answered by
//! the next one. So an attempt of a limited webhook costs one round trip, and attempts of
//! other webhooks cost nothing.
//!
//! [`window`] decides, and knows no database.
//!
//! If PostgreSQL crashes, it may forget the attempts of its last milliseconds. Apart from
//! these the limit is never exceeded.

mod window;

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Pool;
use serde_json::json;
use shared::supervise::until_done;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use window::{Grant, Limit};
use window::{Usage, grant};

/// The most requests in one transaction.
const BATCH: usize = 512;

/// Requests grants from a [`RateLimiter`].
pub struct RateLimits(mpsc::Sender<Request>);

struct Request {
    limits: Vec<Limit>,
    has_waited: bool,
    grant: oneshot::Sender<Grant>,
}

impl RateLimits {
    /// Requests a grant within these limits. `has_waited`: whether the job was deferred
    /// before. `None`: stopping.
    pub async fn request(&self, limits: Vec<Limit>, has_waited: bool) -> Option<Grant> {
        if limits.is_empty() {
            return Some(Grant::Now);
        }
        let (sender, grant) = oneshot::channel();
        let request = Request {
            limits,
            has_waited,
            grant: sender,
        };
        self.0.send(request).await.ok()?;
        grant.await.ok()
    }
}

/// Answers the requests of this replica.
pub struct RateLimiter {
    pool: Pool,
    requests: mpsc::Receiver<Request>,
    grace_over: CancellationToken,
}

impl RateLimiter {
    /// After `grace_over` is cancelled, nothing waits for PostgreSQL any longer.
    pub fn new(pool: Pool, grace_over: CancellationToken) -> (RateLimits, Self) {
        let (sender, requests) = mpsc::channel(BATCH);
        let limiter = Self {
            pool,
            requests,
            grace_over,
        };
        (RateLimits(sender), limiter)
    }

    /// Runs until there is no [`RateLimits`] any more, or the grace is over.
    pub async fn run(mut self) {
        let problem = "rate limits could not be read, their jobs wait";
        let mut batch = Vec::new();
        while self.requests.recv_many(&mut batch, BATCH).await > 0 {
            let decided = until_done(&self.grace_over, problem, || decide(&self.pool, &batch));
            let Some(grants) = decided.await else {
                return;
            };
            for (request, grant) in batch.drain(..).zip(grants) {
                // If the requester is gone, its grant stays unused.
                let _ = request.grant.send(grant);
            }
        }
    }
}

/// Decides requests in their order.
async fn decide(pool: &Pool, requests: &[Request]) -> anyhow::Result<Vec<Grant>> {
    let limits = requests.iter().flat_map(|request| &request.limits);
    let keys: BTreeSet<&str> = limits.map(|limit| limit.key.as_str()).collect();
    let keys: Vec<&str> = keys.into_iter().collect();
    let mut client = pool.get().await?;
    loop {
        if let Some(grants) = try_to_decide(&mut client, &keys, requests).await? {
            return Ok(grants);
        }
        // Rows are inserted while none is locked. Otherwise two replicas could deadlock.
        begin_usage(&client, &keys).await?;
    }
}

/// `None` if a limit has no row yet.
async fn try_to_decide(
    client: &mut deadpool_postgres::Client,
    keys: &[&str],
    requests: &[Request],
) -> anyhow::Result<Option<Vec<Grant>>> {
    let transaction = client.transaction().await?;
    // A crash of PostgreSQL may forget some milliseconds of a limit.
    transaction
        .batch_execute("SET LOCAL synchronous_commit = off")
        .await?;
    let rows = lock_usage(&transaction, keys).await?;
    if rows.len() < keys.len() {
        return Ok(None);
    }
    let mut usage = BTreeMap::new();
    let mut now = OffsetDateTime::UNIX_EPOCH;
    for row in rows {
        now = now.max(row.get("now"));
        usage.insert(
            row.get::<_, String>("subject"),
            Usage {
                first_slot: row.get("first_slot"),
                used: serde_json::from_value(row.get("used"))?,
                horizon: row.get("horizon"),
            },
        );
    }
    let grants = requests
        .iter()
        .map(|request| grant(&request.limits, request.has_waited, &mut usage, now))
        .collect();
    let write = transaction
        .prepare_cached(
            "-- write_usage\n\
             UPDATE rate_usage u SET first_slot = v.first_slot, used = v.used, horizon = v.horizon \
             FROM unnest($1::text[], $2::int8[], $3::jsonb[], $4::timestamptz[]) \
                 AS v (subject, first_slot, used, horizon) \
             WHERE u.subject = ANY($1) AND u.subject = v.subject",
        )
        .await?;
    let (mut subjects, mut firsts, mut used, mut horizons) = (vec![], vec![], vec![], vec![]);
    for (subject, usage) in &usage {
        subjects.push(subject.as_str());
        firsts.push(usage.first_slot);
        used.push(json!(usage.used));
        horizons.push(usage.horizon);
    }
    transaction
        .execute(&write, &[&subjects, &firsts, &used, &horizons])
        .await?;
    transaction.commit().await?;
    Ok(Some(grants))
}

async fn begin_usage(client: &deadpool_postgres::Client, keys: &[&str]) -> anyhow::Result<()> {
    let statement = client
        .prepare_cached(
            "-- begin_usage\n\
             INSERT INTO rate_usage (subject, first_slot, used, horizon) \
             SELECT k, 0, '[]', 'epoch' FROM unnest($1::text[]) k ORDER BY k \
             ON CONFLICT DO NOTHING",
        )
        .await?;
    client.execute(&statement, &[&keys]).await?;
    Ok(())
}

/// Locks rows in the order of their names, so that two replicas cannot deadlock, and reads
/// PostgreSQL's clock, which is the same for all replicas.
async fn lock_usage(
    transaction: &deadpool_postgres::Transaction<'_>,
    keys: &[&str],
) -> anyhow::Result<Vec<tokio_postgres::Row>> {
    let statement = transaction
        .prepare_cached(
            "-- lock_usage\n\
             WITH locked AS MATERIALIZED ( \
                 SELECT subject, first_slot, used, horizon FROM rate_usage \
                 WHERE subject = ANY($1) ORDER BY subject FOR UPDATE) \
             SELECT *, clock_timestamp() AS now FROM locked",
        )
        .await?;
    Ok(transaction.query(&statement, &[&keys]).await?)
}
