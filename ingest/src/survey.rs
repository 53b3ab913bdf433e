//! Asks PostgreSQL for what the metrics show and no process knows by itself: what
//! open deliveries wait for, how far ahead the log's days are made, which tokens
//! are about to expire.
//!
//! The intake does it every 15 seconds. Each query reads a bounded number of rows
//! by an index, so that a backlog of millions makes no query slow. The reasons are
//! labels, so they are a fixed list.

use anyhow::Context;
use deadpool_postgres::{Client, Pool};

use crate::metrics::metrics;

/// What an open delivery can wait for. `none`: its first attempt. `retry`: the
/// next attempt's time. The others are why it was put off: of the endpoint or its
/// owner, or of ours. `other` is a reason that a newer dispatcher has written.
const REASONS: [&str; 10] = [
    "none",
    "retry",
    "endpoint_full",
    "endpoint_down",
    "rate_limited",
    "paused",
    "in_flight",
    "unknown_webhook",
    "unknown_dialect",
    "other",
];
/// The most open deliveries that are looked at, and the most held ones.
const LOOKED_AT: i64 = 20_000;

/// Sets the metrics.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn survey(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    count_open(&client)
        .await
        .context("counting open deliveries")?;
    let ahead = partitions_ahead(&client).await;
    metrics()
        .partitions_ahead
        .set(ahead.context("counting the log's partitions")?);
    let expiring = one(&client, TOKENS_EXPIRING).await;
    metrics()
        .tokens_expiring
        .set(expiring.context("counting tokens that expire")?);
    Ok(())
}

/// For how many days after today the log has partitions.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn partitions_ahead(client: &Client) -> anyhow::Result<i64> {
    one(client, PARTITIONS_AHEAD).await
}

async fn count_open(client: &Client) -> anyhow::Result<()> {
    let statement = client.prepare_cached(OPEN_DELIVERIES).await?;
    let rows = client.query(&statement, &[&LOOKED_AT]).await?;
    let mut found = [(0, 0); REASONS.len()];
    for row in rows {
        let reason: &str = row.get(0);
        let (deliveries, age): (i64, i64) = (row.get(1), row.get(2));
        let known = REASONS.iter().position(|known| *known == reason);
        let entry = &mut found[known.unwrap_or(REASONS.len() - 1)];
        *entry = (entry.0 + deliveries, entry.1.max(age));
    }
    for (reason, (deliveries, age)) in REASONS.iter().zip(found) {
        let metrics = metrics();
        metrics
            .open_deliveries
            .with_label_values(&[reason])
            .set(deliveries);
        metrics.oldest_open.with_label_values(&[reason]).set(age);
    }
    Ok(())
}

async fn one(client: &Client, query: &str) -> anyhow::Result<i64> {
    let statement = client.prepare_cached(query).await?;
    Ok(client.query_one(&statement, &[]).await?.get(0))
}

// The first 48 bits of an id are the milliseconds since 1970.
const OPEN_DELIVERIES: &str = "-- open_deliveries
WITH open AS (
    (SELECT id, state, deferred_because, restarted_at FROM deliveries
     WHERE state IN ('queued', 'retrying') AND due_at IS NOT NULL
     ORDER BY due_at LIMIT $1)
    UNION ALL
    (SELECT id, state, deferred_because, restarted_at FROM deliveries
     WHERE state IN ('queued', 'retrying') AND deferred_because = 'paused' LIMIT $1)
)
SELECT coalesce(deferred_because, CASE state WHEN 'retrying' THEN 'retry' ELSE 'none' END),
    count(*),
    greatest(0, extract(epoch FROM now()) - min(coalesce(extract(epoch FROM restarted_at),
        ('x0000' || left(replace(id::text, '-', ''), 12))::bit(64)::bigint / 1000.0)))::bigint
FROM open GROUP BY 1";

const PARTITIONS_AHEAD: &str = "-- partitions_ahead
SELECT coalesce(min(ahead), -1)::bigint FROM (
    SELECT max(to_date(right(c.relname, 8), 'YYYYMMDD')) - (now() AT TIME ZONE 'UTC')::date AS ahead
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('events'::regclass, 'deliveries'::regclass, 'attempts'::regclass)
    GROUP BY i.inhparent) of_tables";

const TOKENS_EXPIRING: &str = "-- tokens_expiring
SELECT count(*) FROM tokens
WHERE revoked_at IS NULL AND expires_at > now() AND expires_at < now() + interval '7 days'
    AND last_used_at > now() - interval '7 days'";
