//! Counts a batch of verdicts, per webhook and per tenant.
//!
//! They are counted in the transaction that applies them. So every verdict counts exactly
//! once, and the delivery log agrees with the statistics. Each replica has rows of its own
//! (its slot) and writes them in order, so that replicas don't wait for each other and cannot
//! deadlock.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use shared::attempt::{Failure, Report};
use shared::ids::{Tenant, WebhookId};
use shared::stats::{BUCKETS, OUTCOMES, PERIOD, Subject, Tally, WAITS};
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;

use crate::judge::Verdict;
use crate::settlement::Settlement;
use crate::upkeep::paused::PAUSED;

/// The number of slots. Replicas that draw the same one wait for each other.
const SLOTS: i16 = 16;

/// Draws a slot for a replica.
pub fn any_slot() -> i16 {
    fastrand::i16(..SLOTS)
}

/// What a batch adds to the statistics: an array for each column.
pub(crate) struct Sums {
    subjects: Vec<String>,
    slot: i16,
    /// The quarter of an hour, and now.
    quarter: OffsetDateTime,
    now: OffsetDateTime,
    /// Each subject's counts, one after the other.
    outcomes: Vec<i32>,
    response_times: Vec<i32>,
    response_ms: Vec<i64>,
    retries: Vec<i32>,
    delivered: Vec<i32>,
    delivered_at_once: Vec<i32>,
    failed: Vec<i32>,
    expired: Vec<i32>,
    cancelled: Vec<i32>,
    attempts: Vec<i32>,
    /// Deferrals, and each subject's counts of them by reason.
    deferrals: Vec<i32>,
    waits: Vec<i32>,
}

impl Sums {
    /// A copy of a job that was deferred isn't counted: its row knows nothing of it.
    pub(crate) fn new<'a>(
        settlements: impl Iterator<Item = &'a Settlement>,
        slot: i16,
        now: OffsetDateTime,
    ) -> Self {
        let mut tenants: BTreeMap<&Tenant, Tally> = BTreeMap::new();
        let mut webhooks: BTreeMap<WebhookId, Tally> = BTreeMap::new();
        for settlement in settlements {
            let is_copy = settlement.mark.is_none();
            if is_copy && matches!(settlement.verdict, Verdict::Deferred { .. } | Verdict::Held) {
                continue;
            }
            let job = &settlement.job;
            count(tenants.entry(&job.tenant).or_default(), settlement);
            count(webhooks.entry(job.webhook).or_default(), settlement);
        }
        let tenants = tenants
            .into_iter()
            .map(|(tenant, tally)| (Subject::Tenant(tenant).to_string(), tally));
        let webhooks = webhooks
            .into_iter()
            .map(|(webhook, tally)| (Subject::Webhook(webhook).to_string(), tally));
        // Tenants before webhooks, each in order: replicas lock rows in this order.
        let (subjects, tallies): (Vec<_>, Vec<_>) = tenants.chain(webhooks).unzip();
        let column = |value: fn(&Tally) -> i64| -> Vec<i32> {
            tallies.iter().map(|tally| value(tally) as i32).collect()
        };
        let counts = |values: fn(&Tally) -> &[i64]| -> Vec<i32> {
            let all = tallies.iter().flat_map(values);
            all.map(|value| *value as i32).collect()
        };
        Self {
            slot,
            quarter: quarter(now),
            now,
            outcomes: counts(|tally| &tally.outcomes),
            response_times: counts(|tally| &tally.response_times),
            response_ms: tallies.iter().map(|tally| tally.response_ms).collect(),
            retries: column(|tally| tally.retries),
            delivered: column(|tally| tally.delivered),
            delivered_at_once: column(|tally| tally.delivered_at_once),
            failed: column(|tally| tally.failed),
            expired: column(|tally| tally.expired),
            cancelled: column(|tally| tally.cancelled),
            attempts: column(Tally::attempts),
            deferrals: column(Tally::deferrals),
            waits: counts(|tally| &tally.waits),
            subjects,
        }
    }

    /// Whether there is nothing to add.
    pub(crate) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// In the order of the statement's parameters.
    pub(crate) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![
            &self.subjects,
            &self.slot,
            &self.quarter,
            &self.now,
            &self.outcomes,
            &self.response_times,
            &self.response_ms,
            &self.retries,
            &self.delivered,
            &self.delivered_at_once,
            &self.failed,
            &self.expired,
            &self.cancelled,
            &self.attempts,
            &self.deferrals,
            &self.waits,
        ]
    }
}

/// The beginning of a moment's quarter of an hour.
fn quarter(at: OffsetDateTime) -> OffsetDateTime {
    let begins = at.unix_timestamp().div_euclid(PERIOD) * PERIOD;
    // It is no later than a moment that there is.
    OffsetDateTime::from_unix_timestamp(begins).unwrap_or(at)
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
        Verdict::Expired(_) => tally.expired += 1,
        Verdict::Cancelled => tally.cancelled += 1,
        Verdict::RetryAt { .. } => {}
        Verdict::Deferred { because, .. } => tally.wait(because.as_str()),
        Verdict::Held => tally.wait(PAUSED),
    }
}

/// How long the endpoint took. A connection that was refused says nothing of that.
fn waited(report: &Report) -> Option<std::time::Duration> {
    matches!(report.result, Ok(_) | Err(Failure::Timeout)).then_some(report.took)
}

/// Adds sums to their rows, as a statement of its own.
pub(crate) static ADD_STATS: LazyLock<String> =
    LazyLock::new(|| format!("-- add_stats\n{}", add(0)));

/// The part of a statement that adds sums to their rows. `before`: how many parameters
/// come before its own.
///
/// The counts are added one by one. A function in SQL would be planned anew at each
/// execution; `array_agg` sorts. A row of a newer version may have more counts: they
/// stay.
pub(crate) fn add(before: usize) -> String {
    // `$n` of this part of the statement.
    let [
        subjects,
        slot,
        quarter,
        now,
        outcomes,
        response_times,
        response_ms,
        retries,
        delivered,
        at_once,
        failed,
        expired,
        cancelled,
        attempts,
        deferrals,
        waits,
    ] = std::array::from_fn(|n| format!("${}", before + 1 + n));
    // An array of arrays is one long array to `unnest`: each row takes its part.
    let part = |array: &str, length: usize| {
        format!("({array}::int4[])[(v.i - 1) * {length} + 1 : v.i * {length}]")
    };
    let sum = |column: &str, length: usize| {
        let counts: Vec<_> = (1..=length)
            .map(|i| format!("coalesce(s.{column}[{i}], 0) + excluded.{column}[{i}]"))
            .collect();
        let counts = counts.join(", ");
        format!("ARRAY[{counts}] || s.{column}[{}:]", length + 1)
    };
    format!(
        "INSERT INTO stats AS s (subject, quarter, slot, outcomes, response_times, response_ms,
    retries, delivered, delivered_at_once, failed, expired, cancelled,
    last_attempt_at, last_delivered_at, last_failed_at, waits)
SELECT v.subject, {quarter}::timestamptz, {slot}::int2, {outcome_part}, {response_times_part},
    v.response_ms, v.retries, v.delivered, v.at_once, v.failed, v.expired, v.cancelled,
    CASE WHEN v.attempts > 0 THEN {now}::timestamptz END,
    CASE WHEN v.delivered > 0 THEN {now}::timestamptz END,
    CASE WHEN v.failed + v.expired > 0 THEN {now}::timestamptz END,
    CASE WHEN v.deferrals > 0 THEN {waits_part} END
FROM unnest({subjects}::text[], {response_ms}::int8[], {retries}::int4[], {delivered}::int4[],
            {at_once}::int4[], {failed}::int4[], {expired}::int4[], {cancelled}::int4[],
            {attempts}::int4[], {deferrals}::int4[]) WITH ORDINALITY
AS v (subject, response_ms, retries, delivered, at_once, failed, expired, cancelled, attempts,
      deferrals, i)
ON CONFLICT (subject, quarter, slot) DO UPDATE SET
    outcomes = {outcome_sum},
    response_times = {response_times_sum},
    response_ms = s.response_ms + excluded.response_ms,
    retries = s.retries + excluded.retries,
    delivered = s.delivered + excluded.delivered,
    delivered_at_once = s.delivered_at_once + excluded.delivered_at_once,
    failed = s.failed + excluded.failed,
    expired = s.expired + excluded.expired,
    cancelled = s.cancelled + excluded.cancelled,
    last_attempt_at = greatest(s.last_attempt_at, excluded.last_attempt_at),
    last_delivered_at = greatest(s.last_delivered_at, excluded.last_delivered_at),
    last_failed_at = greatest(s.last_failed_at, excluded.last_failed_at),
    waits = CASE WHEN excluded.waits IS NULL THEN s.waits ELSE {waits_sum} END",
        outcome_part = part(&outcomes, OUTCOMES.len()),
        response_times_part = part(&response_times, BUCKETS),
        outcome_sum = sum("outcomes", OUTCOMES.len()),
        response_times_sum = sum("response_times", BUCKETS),
        waits_part = part(&waits, WAITS.len()),
        waits_sum = sum("waits", WAITS.len()),
    )
}
