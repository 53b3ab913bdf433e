//! The statement that writes verdicts. A batch is a set of arrays, one for each column.
//!
//! Nearly all batches have deliveries of one day only. For these the statement names the
//! partitions of that day, so that its cost doesn't depend on the number of days. Older
//! deliveries (replays, late retries) are written to the parent tables.
//!
//! The statement has two forms. Alone it answers which deliveries were waiting for their
//! verdicts. Together with the statistics it writes all of a batch or nothing, so that one
//! round trip is a whole transaction.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use shared::attempt::Report;
use shared::ids::DeliveryId;
use shared::partitions::Day;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, ToSql};

use super::stats;
use crate::judge::Verdict;
use crate::settlement::Settlement;
use crate::upkeep::paused::PAUSED;

/// SQLSTATE of [`STALE_VERDICT`], in a class that no PostgreSQL has.
pub(crate) const STALE_VERDICT: &str = "PH001";

/// Verdicts on deliveries of one day, in the order of their ids: two batches that
/// have deliveries in common lock them in the same order.
pub(crate) type ByDay<'a> = BTreeMap<Option<Day>, Columns<'a>>;

/// Sorts a batch by days; `None`: older than yesterday. `bare`: why the attempts'
/// details are left out.
pub(crate) fn by_day<'a>(
    batch: &'a [Settlement],
    bare: Option<&str>,
    now: OffsetDateTime,
) -> ByDay<'a> {
    let mut rows: Vec<_> = batch
        .iter()
        .filter_map(|settlement| Row::new(settlement, bare))
        .collect();
    rows.sort_unstable_by_key(|row| row.delivery_id);
    let mut days = ByDay::new();
    for row in rows {
        let day = Day::from_id(row.delivery_id.uuid()).filter(|day| day.is_recent(now));
        days.entry(day).or_default().push(row);
    }
    days
}

/// Rows with a field for each column, and the columns with a value for each row.
macro_rules! columns {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// One verdict as the statement takes it.
        struct Row<'a> {
            $($(#[$doc])* $field: $type,)*
        }

        /// Verdicts as the statement takes them: an array for each column.
        #[derive(Default)]
        pub(crate) struct Columns<'a> {
            $($field: Vec<$type>,)*
        }

        impl<'a> Columns<'a> {
            fn push(&mut self, row: Row<'a>) {
                $(self.$field.push(row.$field);)*
            }

            /// In the order of the statement's parameters.
            pub(crate) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
                vec![$(&self.$field),*]
            }
        }
    };
}

columns! {
    delivery_id: DeliveryId,
    n: i16,
    /// Whether an attempt was made.
    charged: bool,
    /// `None`: the delivery is deferred, and its state stays.
    state: Option<&'static str>,
    due_at: Option<OffsetDateTime>,
    deferred_because: Option<&'static str>,
    status_code: Option<i16>,
    error: Option<String>,
    started_at: Option<OffsetDateTime>,
    duration_ms: Option<i32>,
    outcome: Option<&'static str>,
    remote_address: Option<String>,
    response_headers: Option<Json<&'a [(String, String)]>>,
    response_body: Option<&'a [u8]>,
    request_host: Option<&'a str>,
    request_headers: Option<Json<&'a [(String, String)]>>,
    request_bytes: Option<i32>,
    request_body: Option<&'a [u8]>,
    next_reason: Option<&'static str>,
    restarted_at: Option<OffsetDateTime>,
    /// Why the delivery ended, if its last attempt doesn't say it.
    ended_because: Option<String>,
}

impl Columns<'_> {
    /// Whose rows they are.
    pub(crate) fn deliveries(&self) -> &[DeliveryId] {
        &self.delivery_id
    }
}

impl<'a> Row<'a> {
    /// None if the job is a copy that was put off: its row knows nothing of it.
    fn new(settlement: &'a Settlement, bare: Option<&str>) -> Option<Self> {
        let verdict = &settlement.verdict;
        let (state, due_at, next_reason, deferred_because) = match verdict {
            Verdict::Deferred { .. } | Verdict::Held if settlement.mark.is_none() => return None,
            Verdict::Deferred { until, because } => {
                (None, Some(*until), None, Some(because.as_str()))
            }
            Verdict::Held => (None, None, None, Some(PAUSED)),
            Verdict::RetryAt { at, because } => (
                Some(verdict.as_str()),
                Some(*at),
                Some(because.as_str()),
                None,
            ),
            Verdict::Delivered | Verdict::Failed(_) | Verdict::Expired(_) | Verdict::Cancelled => {
                (Some(verdict.as_str()), None, None, None)
            }
        };
        // A deferral is no attempt's.
        let report = settlement.report.as_ref().filter(|_| state.is_some());
        let mut row = Self {
            delivery_id: settlement.job.delivery,
            n: settlement.job.attempt as i16,
            charged: report.is_some(),
            state,
            due_at,
            deferred_because,
            status_code: None,
            error: None,
            started_at: report.map(|report| report.started_at),
            duration_ms: report.map(|report| report.took.as_millis() as i32),
            outcome: report.map(Report::outcome),
            remote_address: None,
            response_headers: None,
            response_body: None,
            request_host: None,
            request_headers: None,
            request_bytes: None,
            request_body: None,
            next_reason,
            restarted_at: settlement.job.restart.map(|restart| restart.at),
            ended_because: match verdict {
                Verdict::Expired(too_old) => Some(too_old.to_string()),
                _ => None,
            },
        };
        if let Some(report) = report {
            row.status_code = report.result.as_ref().ok().map(|it| it.status as i16);
            match bare {
                Some(reason) => {
                    let error = "PostgreSQL refused the details of this attempt";
                    row.error = Some(format!("{error}: {reason}"));
                }
                None => row.set_details(report),
            }
        }
        Some(row)
    }

    /// All that an endpoint may have chosen.
    fn set_details(&mut self, report: &'a Report) {
        self.remote_address = report.remote.map(|address| address.to_string());
        match &report.result {
            Ok(answer) => {
                self.response_headers = Some(Json(&answer.headers));
                self.response_body = Some(&answer.body);
            }
            // PostgreSQL's text has no NUL; a stranger's message may.
            Err(failure) => self.error = Some(failure.to_string().replace('\0', " ")),
        }
        if let Some(request) = &report.request {
            self.request_host = Some(&request.host);
            self.request_headers = Some(Json(&request.headers));
            self.request_bytes = Some(request.bytes as i32);
            self.request_body = request.body.as_deref();
        }
    }
}

/// What both forms begin with.
///
/// The planner must not be offered another way than from the batch to each row by
/// its primary key. So the open states aren't named: `deliveries_due` is an index
/// on them, and the planner that expects few of them would read all that waits for
/// each verdict of the batch. And the ids aren't compared by `=`: for that, the planner
/// also considers walking the whole index in its order, as a merge join would need it,
/// and takes that walk while a day's statistics say that the day has few rows.
macro_rules! apply {
    () => {
        "WITH applied AS (
    UPDATE deliveries{day} d
    SET state = coalesce(v.state, d.state),
        attempts = CASE WHEN v.charged THEN v.n ELSE d.attempts END,
        due_at = v.due_at,
        deferred_because = v.deferred_because,
        waits = CASE WHEN v.deferred_because IS NULL THEN d.waits
                ELSE add_wait(d.waits, v.deferred_because, d.attempts, v.due_at) END,
        finished_at = CASE WHEN v.state IS NOT NULL AND v.due_at IS NULL THEN now() END,
        status_code = CASE WHEN v.charged THEN v.status_code ELSE d.status_code END,
        error = coalesce(v.ended_because, CASE WHEN v.charged THEN v.error ELSE d.error END)
    FROM unnest($1::uuid[], $2::int2[], $3::bool[], $4::text[], $5::timestamptz[], $6::text[],
                $7::int2[], $8::text[], $9::timestamptz[], $10::int4[], $11::text[],
                $12::text[], $13::jsonb[], $14::bytea[], $15::text[], $16::jsonb[],
                $17::int4[], $18::bytea[], $19::text[], $20::timestamptz[], $21::text[])
    AS v (delivery_id, n, charged, state, due_at, deferred_because,
          status_code, error, started_at, duration_ms, outcome,
          remote_address, response_headers, response_body, request_host, request_headers,
          request_bytes, request_body, next_reason, restarted_at, ended_because)
    WHERE d.id = ANY (ARRAY[v.delivery_id])
      AND d.attempts = v.n - 1 AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at
      AND d.state NOT IN ('delivered', 'failed', 'expired', 'cancelled')
    RETURNING v.*
), recorded AS (
    INSERT INTO attempts{day} (delivery_id, n, started_at, duration_ms, outcome, status_code,
                          error, remote_address, response_headers, response_body, request_host,
                          request_headers, request_bytes, request_body, debug,
                          next_attempt_at, next_attempt_reason)
    SELECT delivery_id, n, started_at, duration_ms, outcome, status_code,
           error, remote_address, response_headers, response_body, request_host,
           request_headers, request_bytes, request_body, request_body IS NOT NULL,
           due_at, next_reason
    FROM applied WHERE charged
)"
    };
}

/// How many parameters the statement alone has.
const PARAMETERS: usize = 21;

/// Writes attempts and what they mean for their deliveries; answers which
/// deliveries were waiting for it.
pub(crate) const SETTLE_DELIVERIES: &str = concat!(
    "-- settle_deliveries\n",
    apply!(),
    "\nSELECT delivery_id FROM applied"
);

/// The same, and adds the batch to the statistics: the parameters of
/// [`stats::Sums`] follow. If a delivery doesn't wait for its verdict, nothing is
/// written, and the SQLSTATE is [`STALE_VERDICT`].
pub(crate) static SETTLE_AND_COUNT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "-- settle_deliveries\n{},\ncounted AS ({})\n\
         SELECT CASE WHEN count(*) = cardinality($1) THEN true ELSE refuse_stale_verdict() END \
         FROM applied",
        apply!(),
        stats::add(PARAMETERS)
    )
});
