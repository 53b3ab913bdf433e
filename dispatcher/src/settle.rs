//! Verdicts are written down, in batches; retries are queued; jobs are acked.
//!
//! In this order, which is the promise: first the rows (attempts and deliveries
//! in one statement), then the retry's job, confirmed by the broker, then the
//! ack. A crash between two of these leaves a job that is delivered again and
//! found settled; what follows from it is queued then, see [`crate::ticket`]. Never
//! a loss, and no second attempt of what is on record.
//!
//! A batch is whatever has gathered while the last one was written; `record`
//! writes it. Each row
//! changes only if it waits for this very attempt (the fence), so the verdict of
//! a duplicate changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use deadpool_postgres::Pool;
use futures_util::future::join_all;
use shared::attempt::Report;
use shared::clock;
use shared::ids::DeliveryId;
use shared::job::{Job, Late};
use shared::publish::{Outgoing, Publisher, Unconfirmed};
use shared::supervise::Backoff;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::judge::{Deferral, GaveUp, Verdict};
use crate::metrics::metrics;
use crate::record::Recorded;
use crate::settlement::{Receipt, Settlement};
use crate::ticket::Tickets;
use crate::upkeep::disable::Cause;
use crate::upkeep::paused::{PAUSED, note_paused};

/// The most verdicts in one statement.
const BATCH: usize = 512;

/// Writes what arrives until every sender is gone, or `hurry` says that time is up.
pub struct Settler {
    /// Where the rows are.
    pub pool: Pool,
    /// Which job each row waits for.
    pub tickets: Tickets,
    /// Where retries are queued.
    pub publisher: Publisher,
    /// Which of a webhook's rows of statistics this replica adds to.
    pub slot: i16,
    /// Cancelled when the process may wait no longer.
    pub hurry: CancellationToken,
}

impl Settler {
    /// Runs until the channel closes.
    pub async fn run(self: Arc<Self>, mut settlements: mpsc::Receiver<Settlement>) {
        let this = self;
        // What follows a batch's commit (queueing, acking) overlaps with the
        // next batch's writing.
        let follow_ups = TaskTracker::new();
        let mut batch = Vec::new();
        while settlements.recv_many(&mut batch, BATCH).await > 0 {
            metrics().settle_batch.observe(batch.len() as f64);
            let Some(recorded) = this.record(&batch).await else {
                break;
            };
            let this = this.clone();
            let batch = std::mem::take(&mut batch);
            follow_ups.spawn(async move { this.follow_up(batch, recorded).await });
        }
        follow_ups.close();
        follow_ups.wait().await;
    }

    /// Queues what has to come again and acks.
    async fn follow_up(&self, batch: Vec<Settlement>, recorded: Recorded) {
        let mut all = Vec::with_capacity(batch.len());
        for settlement in batch {
            all.push(self.finish(settlement, &recorded));
        }
        join_all(all).await;
        // What isn't confirmed is the sweeper's.
        self.publisher.publish_jobs(&recorded.told).await;
    }

    async fn finish(&self, settlement: Settlement, recorded: &Recorded) {
        let Settlement {
            job,
            verdict,
            report,
            asked: _,
            receipt,
            mark,
            held: _held,
        } = settlement;
        let is_copy = mark.is_none();
        if !is_copy && let Some(reason) = recorded.set_aside.get(&job.delivery) {
            if self.give_up(&job, reason).await {
                receipt.ack().await;
            }
            return;
        }
        let was_applied = is_copy || recorded.applied.contains(&job.delivery);
        log(&job, &verdict, report.as_ref(), was_applied);
        // From here on a copy of the job finds the row settled.
        drop(mark);
        if !was_applied {
            // Another copy of the job came first. It may have died before it queued
            // what follows.
            metrics().fenced.inc();
            return self.succeed(job, receipt).await;
        }
        count(&job, &verdict);
        let next = match verdict {
            Verdict::RetryAt { at, .. } => Some(Job {
                attempt: job.attempt + 1,
                due_at: at,
                recheck: false,
                late: None,
                ..job
            }),
            // Its row knows nothing of it: it keeps its ticket.
            Verdict::Deferred { until, .. } if is_copy => Some(Job {
                recheck: true,
                late: Some(Late::Until(until)),
                ..job
            }),
            Verdict::Deferred { until, .. } => Some(Job {
                due_at: until,
                recheck: true,
                late: None,
                ..job
            }),
            Verdict::Delivered
            | Verdict::Failed(_)
            | Verdict::Expired
            | Verdict::Cancelled
            | Verdict::Held => None,
        };
        if let Some(job) = next
            && !self.queue(job).await
        {
            return;
        }
        receipt.ack().await;
    }

    /// Publishes a job until it is confirmed, or another has taken its place. False if
    /// time is up: then the job it follows stays unacked, and comes again.
    async fn queue(&self, mut job: Job) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let message = Outgoing::job(&job, clock::now(), self.publisher.shards());
            let Some(published) = self.publish(message, &mut backoff).await else {
                return false;
            };
            match published {
                Ok(()) => return true,
                Err(Unconfirmed::Refused) => continue,
                Err(Unconfirmed::Lost(_) | Unconfirmed::Unavailable) => {}
            }
            // The lost answer may have been a yes. What the broker has of it comes
            // once there is a session again, and not before.
            let successor = tokio::select! {
                Ok(()) = self.publisher.session() => self.tickets.successor(&job).await,
                () = self.hurry.cancelled() => return false,
            };
            job = match successor {
                Some(Some(next)) => next,
                Some(None) => return true,
                None => return false,
            };
        }
    }

    /// Makes a dead letter of a job whose verdict can't be written. False if time is up.
    async fn give_up(&self, job: &Job, reason: &str) -> bool {
        let reason = format!("PostgreSQL refused what came of it: {reason}");
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let message = Outgoing::dead_job(job, &reason, self.publisher.shards());
            match self.publish(message, &mut backoff).await {
                Some(Ok(())) => return true,
                Some(Err(_)) => {}
                None => return false,
            }
        }
    }

    /// Publishes a message once, and pauses if it wasn't confirmed. `None` if time is up.
    async fn publish(
        &self,
        message: Outgoing,
        backoff: &mut Backoff,
    ) -> Option<Result<(), Unconfirmed>> {
        let unconfirmed = tokio::select! {
            published = self.publisher.publish(message) => match published {
                Ok(()) => return Some(Ok(())),
                Err(error) => error,
            },
            () = self.hurry.cancelled() => return None,
        };
        let pause = backoff.next();
        warn!(error = %unconfirmed, ?pause, "a job was not queued; trying again");
        tokio::time::sleep(pause).await;
        Some(Err(unconfirmed))
    }

    /// Sees to what follows from a job that was handed out again, if anything does.
    pub async fn succeed(&self, job: Job, receipt: Receipt) {
        match self.tickets.successor(&job).await {
            Some(Some(next)) => self.park(next, receipt).await,
            Some(None) => {
                metrics().jobs_stale.inc();
                receipt.ack().await;
            }
            None => receipt.give_back().await,
        }
    }

    /// Puts a job that isn't due yet on its next trip.
    pub async fn park(&self, job: Job, receipt: Receipt) {
        if self.queue(job).await {
            receipt.ack().await;
        }
    }
}

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
    note_paused(transaction, &holding).await?;
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

/// Of the webhooks whose endpoints said that they are gone.
pub(crate) fn causes(batch: &[Settlement], applied: &[DeliveryId]) -> Vec<Cause> {
    let gone = batch.iter().filter(|settlement| {
        settlement.verdict == Verdict::Failed(GaveUp::Gone)
            && applied.contains(&settlement.job.delivery)
    });
    let causes = gone.filter_map(|settlement| {
        let webhook = settlement.asked.as_ref()?;
        Some(Cause {
            webhook: webhook.id,
            url: Some(webhook.url.clone()),
            reason: format!("the endpoint answered {}", answer(settlement)),
            failing_since: None,
        })
    });
    causes.collect()
}

/// `410 Gone`
fn answer(settlement: &Settlement) -> String {
    let report = settlement.report.as_ref();
    let status = report.and_then(|report| report.result.as_ref().ok());
    // Only an answer disables, and HTTP's are all three digits.
    let status = status.and_then(|answer| StatusCode::from_u16(answer.status).ok());
    status.map_or_else(String::new, |status| status.to_string())
}

fn count(job: &Job, verdict: &Verdict) {
    match verdict {
        Verdict::RetryAt { .. } => metrics().retries.inc(),
        Verdict::Held => metrics().deferred.with_label_values(&[PAUSED]).inc(),
        Verdict::Deferred { because, .. } => {
            metrics()
                .deferred
                .with_label_values(&[because.as_str()])
                .inc();
        }
        ended => {
            metrics()
                .finished
                .with_label_values(&[ended.as_str()])
                .inc();
            if *ended == Verdict::Delivered {
                let latency = clock::now() - job.began_at();
                metrics().latency_seconds.observe(latency.as_seconds_f64());
            }
        }
    }
}

/// The one line of an attempt, or of a decision to make none.
fn log(job: &Job, verdict: &Verdict, report: Option<&Report>, applied: bool) {
    if let Verdict::Deferred {
        until,
        because: because @ (Deferral::EndpointFull | Deferral::InFlight | Deferral::RateLimited),
    } = verdict
    {
        let because = because.as_str();
        tracing::debug!(delivery = %job.delivery, webhook = %job.webhook, because, %until, "deferred");
        return;
    }
    let answer = report.and_then(|report| report.result.as_ref().ok());
    let next = match verdict {
        Verdict::RetryAt { at, .. } | Verdict::Deferred { until: at, .. } => Some(at.to_string()),
        _ => None,
    };
    info!(
        tenant = %job.tenant,
        event = %job.event_id,
        event_type = %job.event_type,
        webhook = %job.webhook,
        delivery = %job.delivery,
        attempt = job.attempt,
        outcome = report.map(Report::outcome),
        status = answer.map(|answer| answer.status),
        error = report.and_then(|report| report.result.as_ref().err()).map(tracing::field::display),
        duration_ms = report.map(|report| report.took.as_millis() as u64),
        next,
        duplicate = (!applied).then_some(true),
        "{}",
        verdict.as_str()
    );
}
