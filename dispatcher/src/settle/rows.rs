//! The statements that write verdicts: of a batch, in arrays.

use std::collections::BTreeSet;

use shared::attempt::Report;
use shared::ids::DeliveryId;
use time::OffsetDateTime;

use super::Settlement;
use crate::hold::{PAUSED, note_holds};
use crate::judge::Verdict;

/// Writes attempts and what they mean for their deliveries; answers which
/// deliveries were waiting for it. `bare`: why the attempts' details are left out.
pub(crate) async fn settle_deliveries(
    transaction: &deadpool_postgres::Transaction<'_>,
    batch: &[Settlement],
    bare: Option<&str>,
) -> anyhow::Result<Vec<DeliveryId>> {
    let mut rows: Vec<Row<'_>> = batch.iter().filter_map(Row::of).collect();
    if let Some(reason) = bare {
        rows.iter_mut()
            .for_each(|row| row.leave_out_details(reason));
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction.prepare_cached(SETTLE_DELIVERIES).await?;
    macro_rules! column {
        ($field:ident) => {
            &rows.iter().map(|row| row.$field).collect::<Vec<_>>()
        };
    }
    let ids = rows.iter().map(|row| row.delivery).collect::<Vec<_>>();
    let applied = transaction
        .query(
            &statement,
            &[
                &ids,
                column!(n),
                column!(charged),
                column!(state),
                column!(due_at),
                column!(status_code),
                &rows
                    .iter()
                    .map(|row| row.error.as_deref())
                    .collect::<Vec<_>>(),
                column!(started_at),
                column!(duration_ms),
                column!(outcome),
                &rows
                    .iter()
                    .map(|row| row.remote.as_deref())
                    .collect::<Vec<_>>(),
                &rows
                    .iter()
                    .map(|row| row.headers.as_ref())
                    .collect::<Vec<_>>(),
                column!(body),
                &rows.iter().map(|row| row.request_host).collect::<Vec<_>>(),
                &rows
                    .iter()
                    .map(|row| row.request_headers.as_ref())
                    .collect::<Vec<_>>(),
                column!(request_bytes),
                column!(request_body),
                column!(next_reason),
                column!(restarted_at),
            ],
        )
        .await?;
    Ok(applied.iter().map(|row| row.get(0)).collect())
}

// `ANY` says which rows to look up before anything is joined. Bounds on the id,
// or the open states by name, which `deliveries_due` is an index on, would offer
// a planner that knows nothing of a fresh partition to read all that waits.
const SETTLE_DELIVERIES: &str = "-- settle_deliveries
WITH applied AS (
    UPDATE deliveries d
    SET state = v.state,
        attempts = CASE WHEN v.charged THEN v.n ELSE d.attempts END,
        due_at = v.due_at,
        finished_at = CASE WHEN v.due_at IS NULL THEN now() END,
        status_code = CASE WHEN v.charged THEN v.status_code ELSE d.status_code END,
        error = CASE WHEN v.charged THEN v.error ELSE d.error END,
        deferred_because = NULL
    FROM unnest($1::uuid[], $2::int2[], $3::bool[], $4::text[], $5::timestamptz[],
                $6::int2[], $7::text[], $8::timestamptz[], $9::int4[], $10::text[],
                $11::text[], $12::jsonb[], $13::bytea[], $14::text[], $15::jsonb[],
                $16::int4[], $17::bytea[], $18::text[], $19::timestamptz[])
    AS v (delivery_id, n, charged, state, due_at, status_code, error, started_at, duration_ms,
          outcome, remote_address, response_headers, response_body, request_host,
          request_headers, request_bytes, request_body, next_reason, restarted_at)
    WHERE d.id = ANY($1) AND d.id = v.delivery_id
      AND d.attempts = v.n - 1 AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at
      AND d.state NOT IN ('delivered', 'failed', 'expired', 'cancelled')
    RETURNING v.*
), recorded AS (
    INSERT INTO attempts (delivery_id, n, started_at, duration_ms, outcome, status_code, error,
                          remote_address, response_headers, response_body, request_host,
                          request_headers, request_bytes, request_body, debug,
                          next_attempt_at, next_attempt_reason)
    SELECT delivery_id, n, started_at, duration_ms, outcome, status_code, error,
           remote_address, response_headers, response_body, request_host,
           request_headers, request_bytes, request_body, request_body IS NOT NULL,
           due_at, next_reason
    FROM applied WHERE charged
)
SELECT delivery_id FROM applied";

/// One verdict as the statement takes it.
struct Row<'a> {
    delivery: DeliveryId,
    n: i16,
    charged: bool,
    state: &'static str,
    due_at: Option<OffsetDateTime>,
    status_code: Option<i16>,
    error: Option<String>,
    started_at: Option<OffsetDateTime>,
    duration_ms: Option<i32>,
    outcome: Option<&'static str>,
    remote: Option<String>,
    headers: Option<serde_json::Value>,
    body: Option<&'a [u8]>,
    request_host: Option<&'a str>,
    request_headers: Option<serde_json::Value>,
    request_bytes: Option<i32>,
    request_body: Option<&'a [u8]>,
    next_reason: Option<&'static str>,
    restarted_at: Option<OffsetDateTime>,
}

impl<'a> Row<'a> {
    /// Of a verdict that ends in a state; deferrals have a statement of their own.
    fn of(settlement: &'a Settlement) -> Option<Self> {
        let (due_at, next_reason) = match settlement.verdict {
            Verdict::RetryAt { at, because } => (Some(at), Some(because.as_str())),
            Verdict::Deferred { .. } | Verdict::Held => return None,
            _ => (None, None),
        };
        let report = settlement.report.as_ref();
        let answer = report.and_then(|report| report.result.as_ref().ok());
        let request = report.and_then(|report| report.request.as_ref());
        Some(Self {
            delivery: settlement.job.delivery,
            n: settlement.job.attempt as i16,
            charged: report.is_some(),
            state: settlement.verdict.as_str(),
            due_at,
            status_code: answer.map(|answer| answer.status as i16),
            error: report
                .and_then(|report| report.result.as_ref().err())
                // PostgreSQL's text has no NUL; a stranger's message may.
                .map(|failure| failure.to_string().replace('\0', " ")),
            started_at: report.map(|report| report.started_at),
            duration_ms: report.map(|report| report.took.as_millis() as i32),
            outcome: report.map(Report::outcome),
            remote: report
                .and_then(|report| report.remote)
                .map(|address| address.to_string()),
            headers: answer.map(|answer| serde_json::json!(answer.headers)),
            body: answer.map(|answer| answer.body.as_slice()),
            request_host: request.map(|request| request.host.as_str()),
            request_headers: request.map(|request| serde_json::json!(request.headers)),
            request_bytes: request.map(|request| request.bytes as i32),
            request_body: request.and_then(|request| request.body.as_deref()),
            next_reason,
            restarted_at: settlement.job.restart.map(|restart| restart.at),
        })
    }

    /// Leaves out all that an endpoint may have chosen.
    fn leave_out_details(&mut self, reason: &str) {
        self.error = self
            .charged
            .then(|| format!("PostgreSQL refused the details of this attempt: {reason}"));
        self.remote = None;
        self.headers = None;
        self.body = None;
        self.request_host = None;
        self.request_headers = None;
        self.request_bytes = None;
        self.request_body = None;
    }
}

/// Writes down until when jobs were put off and why, for the sweeper and the log.
pub(crate) async fn defer_deliveries(
    transaction: &deadpool_postgres::Transaction<'_>,
    batch: &[Settlement],
) -> anyhow::Result<Vec<DeliveryId>> {
    let mut ids = Vec::new();
    let mut attempts = Vec::new();
    let mut until = Vec::new();
    let mut reasons = Vec::new();
    let mut restarts = Vec::new();
    let mut holding = BTreeSet::new();
    for settlement in batch.iter().filter(|settlement| settlement.mark.is_some()) {
        let (at, because) = match settlement.verdict {
            Verdict::Deferred { until, because } => (Some(until), because.as_str()),
            Verdict::Held => {
                holding.insert(settlement.job.webhook);
                (None, PAUSED)
            }
            _ => continue,
        };
        ids.push(settlement.job.delivery);
        attempts.push(settlement.job.attempt as i16);
        until.push(at);
        reasons.push(because);
        restarts.push(settlement.job.restart.map(|restart| restart.at));
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    note_holds(transaction, &holding).await?;
    let statement = transaction
        .prepare_cached(
            "-- defer_deliveries\n\
             UPDATE deliveries d SET due_at = v.until, deferred_because = v.because \
             FROM unnest($1::uuid[], $2::int2[], $3::timestamptz[], $4::text[], $5::timestamptz[]) \
                 AS v (delivery_id, n, until, because, restarted_at) \
             WHERE d.id = ANY($1) AND d.id = v.delivery_id \
               AND d.attempts = v.n - 1 \
               AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at \
               AND d.state NOT IN ('delivered', 'failed', 'expired', 'cancelled') \
             RETURNING d.id",
        )
        .await?;
    let applied = transaction
        .query(&statement, &[&ids, &attempts, &until, &reasons, &restarts])
        .await?;
    Ok(applied.iter().map(|row| row.get(0)).collect())
}
