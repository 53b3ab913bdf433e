//! A batch of verdicts is counted, per webhook and per tenant.
//!
//! Called by `settle` in its transaction, with what was applied: so a verdict
//! counts exactly once, and whoever reads the log and the statistics finds them
//! in agreement. The rows are a replica's own (its slot) and are written in
//! order, so that replicas don't wait for each other, let alone in a circle.

use std::collections::{BTreeMap, HashSet};

use deadpool_postgres::Transaction;
use shared::attempt::{Failure, Report};
use shared::clock;
use shared::ids::DeliveryId;
use shared::stats::{BUCKETS, OUTCOMES, PERIOD, Subject, Tally};
use time::OffsetDateTime;

use crate::judge::Verdict;
use crate::settlement::Settlement;

/// How many slots there are. Replicas that chance upon the same one take turns.
const SLOTS: i16 = 16;

/// A slot for a replica.
pub fn any_slot() -> i16 {
    fastrand::i16(..SLOTS)
}

/// Adds a batch to the rows of the current quarter of an hour.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn add(
    transaction: &Transaction<'_>,
    slot: i16,
    batch: &[Settlement],
    applied: &HashSet<DeliveryId>,
) -> anyhow::Result<()> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for settlement in batch {
        if applied.contains(&settlement.job.delivery) {
            let job = &settlement.job;
            for subject in [Subject::Tenant(&job.tenant), Subject::Webhook(job.webhook)] {
                count(tallies.entry(subject.to_string()).or_default(), settlement);
            }
        }
    }
    if tallies.is_empty() {
        return Ok(());
    }
    add_stats(transaction, slot, clock::now(), &tallies).await
}

fn count(tally: &mut Tally, settlement: &Settlement) {
    let first = settlement.job.attempt_since_began() == 1;
    if let Some(report) = &settlement.report {
        tally.attempt(report.outcome(), !first, waited(report));
    }
    match settlement.verdict {
        Verdict::Delivered => {
            tally.delivered += 1;
            tally.delivered_at_once += i64::from(first);
        }
        Verdict::Failed(_) => tally.failed += 1,
        Verdict::Expired => tally.expired += 1,
        Verdict::Cancelled => tally.cancelled += 1,
        Verdict::RetryAt { .. } | Verdict::Deferred { .. } | Verdict::Held => {}
    }
}

/// How long the endpoint took. A connection that was refused says nothing of that.
fn waited(report: &Report) -> Option<std::time::Duration> {
    matches!(report.result, Ok(_) | Err(Failure::Timeout)).then_some(report.took)
}

async fn add_stats(
    transaction: &Transaction<'_>,
    slot: i16,
    now: OffsetDateTime,
    tallies: &BTreeMap<String, Tally>,
) -> anyhow::Result<()> {
    let statement = transaction.prepare_cached(ADD_STATS).await?;
    let subjects: Vec<_> = tallies.keys().collect();
    macro_rules! column {
        ($field:ident) => {
            &tallies
                .values()
                .map(|tally| tally.$field as i32)
                .collect::<Vec<_>>()
        };
        ($field:ident each) => {
            &tallies
                .values()
                .flat_map(|tally| tally.$field.map(|count| count as i32))
                .collect::<Vec<_>>()
        };
    }
    let attempts: Vec<_> = tallies
        .values()
        .map(|tally| tally.attempts() as i32)
        .collect();
    let response_ms: Vec<_> = tallies.values().map(|tally| tally.response_ms).collect();
    transaction
        .execute(
            &statement,
            &[
                &subjects,
                &slot,
                &now,
                column!(outcomes each),
                column!(response_times each),
                &response_ms,
                column!(retries),
                column!(delivered),
                column!(delivered_at_once),
                column!(failed),
                column!(expired),
                column!(cancelled),
                &attempts,
                &(OUTCOMES.len() as i32),
                &(BUCKETS as i32),
                &(PERIOD as f64),
            ],
        )
        .await?;
    Ok(())
}

// An array of arrays is one long array to `unnest`: each row takes its part.
const ADD_STATS: &str = "-- add_stats
INSERT INTO stats AS s (subject, quarter, slot, outcomes, response_times, response_ms, retries,
                        delivered, delivered_at_once, failed, expired, cancelled,
                        last_attempt_at, last_delivered_at, last_failed_at)
SELECT v.subject,
       to_timestamp(floor(extract(epoch FROM $3::timestamptz)::float8 / $16::float8) * $16::float8),
       $2,
       ($4::int4[])[(v.i - 1) * $14::int4 + 1 : v.i * $14::int4],
       ($5::int4[])[(v.i - 1) * $15::int4 + 1 : v.i * $15::int4],
       v.response_ms, v.retries, v.delivered, v.delivered_at_once, v.failed, v.expired, v.cancelled,
       CASE WHEN v.attempts > 0 THEN $3 END, CASE WHEN v.delivered > 0 THEN $3 END, CASE WHEN v.failed + v.expired > 0 THEN $3 END
FROM unnest($1::text[], $6::int8[], $7::int4[], $8::int4[], $9::int4[], $10::int4[], $11::int4[],
            $12::int4[], $13::int4[]) WITH ORDINALITY
AS v (subject, response_ms, retries, delivered, delivered_at_once, failed, expired, cancelled, attempts, i)
ON CONFLICT (subject, quarter, slot) DO UPDATE SET
    outcomes = add_counts(s.outcomes, excluded.outcomes),
    response_times = add_counts(s.response_times, excluded.response_times),
    response_ms = s.response_ms + excluded.response_ms,
    retries = s.retries + excluded.retries,
    delivered = s.delivered + excluded.delivered,
    delivered_at_once = s.delivered_at_once + excluded.delivered_at_once,
    failed = s.failed + excluded.failed,
    expired = s.expired + excluded.expired,
    cancelled = s.cancelled + excluded.cancelled,
    last_attempt_at = greatest(s.last_attempt_at, excluded.last_attempt_at),
    last_delivered_at = greatest(s.last_delivered_at, excluded.last_delivered_at),
    last_failed_at = greatest(s.last_failed_at, excluded.last_failed_at)";
