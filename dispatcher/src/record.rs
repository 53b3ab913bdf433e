//! Writes a batch of verdicts, and tries until it succeeds.
//!
//! `settle` passes a batch and gets back what became of each verdict. Two things can go
//! wrong beside an outage, and neither may hold up other verdicts:
//!
//! - PostgreSQL refuses a value. The batch is halved until the verdict with that value is
//!   alone. It is then written without the details of its attempt. If that is refused, too,
//!   the verdict is set aside: its job becomes a dead letter with the reason, which can be
//!   replayed, and its delivery waits for an hour, as every delivery whose job is a dead
//!   letter. After that the sweeper puts its job back.
//! - The answer to a COMMIT is lost. When the batch is written again, its rows don't wait for
//!   their verdicts any more. A row that is exactly as this batch would leave it was written
//!   by this batch, so what follows from its verdict is still to be done. The same holds for
//!   the operational events of webhooks that it disabled.

mod stand;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use axum::http::StatusCode;
use deadpool_postgres::{Client, Pool};
use shared::ids::{DeliveryId, EventUid, WebhookId};
use shared::job::Job;
use shared::supervise::until_done;
use shared::{clock, partitions};
use time::{Duration, OffsetDateTime};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::judge::{GaveUp, Verdict};
use crate::metrics::metrics;
use crate::settle::rows::{ByDay, SETTLE_AND_COUNT, SETTLE_DELIVERIES, STALE_VERDICT, by_day};
use crate::settle::stats::{ADD_STATS, Sums};
use crate::settlement::Settlement;
use crate::upkeep::announce::written_before;
use crate::upkeep::disable::{Cause, announce_disabled, disable};
use crate::upkeep::paused::note_paused;
use stand::verdicts_that_stand;

/// How long a delivery waits whose verdict was set aside. Ingest has the same time for every
/// job that becomes a dead letter.
const SET_ASIDE_FOR: Duration = Duration::HOUR;
/// Dispatchers create the partitions up to this many days from today.
pub(crate) const TOMORROW: i32 = 1;
/// The most characters of an error of PostgreSQL that are kept.
const MAX_REASON: usize = 300;

/// Writes batches of verdicts.
pub struct Recorder {
    /// Its connections plan each statement once.
    pub pool: Pool,
    /// Which row of a webhook's statistics this replica adds to.
    pub slot: i16,
    /// When this is cancelled, nothing waits for PostgreSQL any longer.
    pub grace_over: CancellationToken,
}

/// What became of a batch.
#[derive(Default)]
pub struct Recorded {
    /// The deliveries that changed.
    pub applied: HashSet<DeliveryId>,
    /// Jobs of operational events: webhooks that this batch disabled.
    pub announcements: Vec<Job>,
    /// The deliveries whose verdicts can't be written, with PostgreSQL's reasons.
    pub set_aside: HashMap<DeliveryId, String>,
}

/// Verdicts that are written together.
struct Part<'a> {
    settlements: &'a [Settlement],
    /// If the details of the attempt are left out: PostgreSQL's reason.
    bare: Option<String>,
    /// The events that tell of the webhooks that it disables, the same in every try.
    events: BTreeMap<WebhookId, EventUid>,
}

impl<'a> Part<'a> {
    fn new(settlements: &'a [Settlement], bare: Option<String>) -> Self {
        let gone = settlements.iter().filter(|settlement| is_gone(settlement));
        let now = clock::now().truncate_to_millisecond();
        Self {
            settlements,
            bare,
            events: gone
                .map(|gone| (gone.job.webhook, EventUid::at(now)))
                .collect(),
        }
    }
}

enum Written {
    All {
        applied: Vec<DeliveryId>,
        announcements: Vec<Job>,
    },
    /// Nothing was written. Trying again would not help.
    Refused(String),
}

impl Recorder {
    /// Writes a batch, and tries until it succeeds. `None` if the grace is over.
    pub async fn record(&self, batch: &[Settlement]) -> Option<Recorded> {
        let mut recorded = Recorded::default();
        let mut parts = vec![Part::new(batch, None)];
        while let Some(part) = parts.pop() {
            // After a refusal nothing is committed, so each half begins with a first try.
            let mut tried = false;
            let written = until_done(
                &self.grace_over,
                "a batch of verdicts could not be written",
                || {
                    let again = std::mem::replace(&mut tried, true);
                    self.write(&part, again)
                },
            )
            .await?;
            let reason = match written {
                Written::All {
                    applied,
                    announcements,
                } => {
                    recorded.applied.extend(applied);
                    recorded.announcements.extend(announcements);
                    continue;
                }
                Written::Refused(reason) => reason,
            };
            match part.settlements {
                [] => {}
                [one] if part.bare.is_none() && one.report.is_some() => {
                    log_refusal(one, &reason, "details");
                    parts.push(Part::new(part.settlements, Some(reason)));
                }
                [one] => {
                    log_refusal(one, &reason, "verdict");
                    if let Err(error) = self.defer_set_aside(one).await {
                        let error = format!("{error:#}");
                        warn!(delivery = %one.job.delivery, error, "a delivery whose verdict was set aside could not be deferred; the sweeper may try it again within the hour");
                    }
                    recorded.set_aside.insert(one.job.delivery, reason);
                }
                several => {
                    let (left, right) = several.split_at(several.len() / 2);
                    for settlements in [left, right] {
                        parts.push(Part::new(settlements, None));
                    }
                }
            }
        }
        Some(recorded)
    }

    /// Writes a part, or finds that PostgreSQL refuses it. `again`: an earlier try failed,
    /// perhaps after its commit.
    async fn write(&self, part: &Part<'_>, again: bool) -> anyhow::Result<Written> {
        let error = match self.write_once(part, again).await {
            Ok(written) => return Ok(written),
            Err(error) => error,
        };
        let Some(refused) = Refusal::from_error(&error) else {
            return Err(error);
        };
        // Ingest creates partitions ahead of time, but it may have been away for too long.
        if refused.no_partition && partitions::make(&self.pool, TOMORROW).await? > 0 {
            return Err(error);
        }
        Ok(Written::Refused(refused.reason))
    }

    async fn write_once(&self, part: &Part<'_>, again: bool) -> anyhow::Result<Written> {
        let mut client = self.pool.get().await?;
        let written = self.write_with(&mut client, part, again).await;
        if written.as_ref().is_err_and(names_a_day_that_is_gone) {
            // The statements that are prepared next name the parent tables.
            client.statement_cache.clear();
        }
        written
    }

    async fn write_with(
        &self,
        client: &mut Client,
        part: &Part<'_>,
        again: bool,
    ) -> anyhow::Result<Written> {
        let now = clock::now();
        let days = by_day(part.settlements, part.bare.as_deref(), now);
        if !again && let Some(applied) = self.write_at_once(client, part, &days, now).await? {
            let announcements = Vec::new();
            return Ok(Written::All {
                applied,
                announcements,
            });
        }
        self.write_in_steps(client, part, &days, now, again).await
    }

    /// Writes a part with one statement, which is its own transaction. `None`: it
    /// takes more than that, and nothing was written.
    async fn write_at_once(
        &self,
        client: &mut Client,
        part: &Part<'_>,
        days: &ByDay<'_>,
        now: OffsetDateTime,
    ) -> anyhow::Result<Option<Vec<DeliveryId>>> {
        let batch = part.settlements;
        let is_held = |settlement: &Settlement| settlement.verdict == Verdict::Held;
        if batch.iter().any(|it| is_held(it) || is_gone(it)) {
            return Ok(None);
        }
        let (day, rows) = match days.first_key_value() {
            Some((Some(day), rows)) if days.len() == 1 => (*day, rows),
            _ => return Ok(None),
        };
        let sums = Sums::new(batch.iter(), self.slot, now);
        let mut parameters = rows.parameters();
        parameters.extend(sums.parameters());
        let statement = partitions::prepare(client, &SETTLE_AND_COUNT, Some(day)).await?;
        match client.execute(&statement, &parameters).await {
            Ok(_) => Ok(Some(rows.deliveries().to_vec())),
            Err(error)
                if error
                    .code()
                    .is_some_and(|code| code.code() == STALE_VERDICT) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a part and what else follows from it, in a transaction.
    async fn write_in_steps(
        &self,
        client: &mut Client,
        part: &Part<'_>,
        days: &ByDay<'_>,
        now: OffsetDateTime,
        again: bool,
    ) -> anyhow::Result<Written> {
        let batch = part.settlements;
        // Before the transaction: a partition that is missing would end it.
        let mut statements = Vec::new();
        for (day, rows) in days {
            let statement = partitions::prepare(client, SETTLE_DELIVERIES, *day).await?;
            statements.push((statement, rows));
        }
        let transaction = client.transaction().await?;
        note_paused(&transaction, &paused_webhooks(batch)).await?;
        let mut applied: HashSet<DeliveryId> = HashSet::new();
        for (statement, rows) in statements {
            let written = transaction.query(&statement, &rows.parameters()).await?;
            applied.extend(written.iter().map(|row| row.get::<_, DeliveryId>(0)));
        }
        let disabled = disable(&transaction, &causes(part, &applied)).await?;
        let mut stands = Vec::new();
        let mut announcements = Vec::new();
        if again {
            stands = verdicts_that_stand(&transaction, batch).await?;
            let events: Vec<_> = part.events.values().copied().collect();
            announcements = written_before(&transaction, &events).await?;
        }
        announcements.extend(announce_disabled(&transaction, &disabled).await?);
        // Last, so that the rows of statistics are locked briefly. Verdicts that stand from
        // an earlier try were counted by it.
        let counted = batch
            .iter()
            .filter(|settlement| applied.contains(&settlement.job.delivery));
        let sums = Sums::new(counted, self.slot, now);
        if !sums.is_empty() {
            let statement = transaction.prepare_cached(&ADD_STATS).await?;
            transaction.execute(&statement, &sums.parameters()).await?;
        }
        transaction.commit().await?;
        metrics().webhooks_disabled.inc_by(disabled.len() as u64);
        let applied = applied.into_iter().chain(stands).collect();
        Ok(Written::All {
            applied,
            announcements,
        })
    }

    /// Defers a delivery whose verdict can't be written. Its job becomes a dead letter, so
    /// the sweeper would soon make another one.
    async fn defer_set_aside(&self, settlement: &Settlement) -> anyhow::Result<()> {
        let job = &settlement.job;
        let client = self.pool.get().await?;
        let statement = client
            .prepare_cached(
                "-- put_off_set_aside\n\
                 UPDATE deliveries SET due_at = $4, deferred_because = 'parked', \
                     waits = add_wait(waits, 'parked', attempts, $4) \
                 WHERE id = $1 AND attempts = $2 - 1 AND restarted_at IS NOT DISTINCT FROM $3 \
                   AND state NOT IN ('delivered', 'failed', 'expired', 'cancelled')",
            )
            .await?;
        let attempt = i32::from(job.attempt);
        let restarted_at = job.restart.map(|restart| restart.at);
        let until = clock::now() + SET_ASIDE_FOR;
        client
            .execute(
                &statement,
                &[&job.delivery, &attempt, &restarted_at, &until],
            )
            .await?;
        Ok(())
    }
}

/// Whether a statement names a partition that was dropped after it was prepared.
fn names_a_day_that_is_gone(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    let code = causes.find_map(|cause| cause.downcast_ref::<tokio_postgres::Error>()?.code());
    code == Some(&SqlState::UNDEFINED_TABLE)
}

fn log_refusal(settlement: &Settlement, reason: &str, what: &str) {
    let job = &settlement.job;
    let then = match what {
        "details" => "writing it without the details of the attempt",
        _ => "its job becomes a dead letter, and the delivery is tried again in an hour",
    };
    error!(
        tenant = %job.tenant,
        webhook = %job.webhook,
        delivery = %job.delivery,
        attempt = job.attempt,
        verdict = settlement.verdict.as_str(),
        reason,
        "PostgreSQL refused a verdict: {then}"
    );
    metrics().set_aside.with_label_values(&[what]).inc();
}

/// The webhooks that are paused, of deliveries in a batch.
fn paused_webhooks(batch: &[Settlement]) -> BTreeSet<WebhookId> {
    let held = batch
        .iter()
        .filter(|settlement| settlement.mark.is_some() && settlement.verdict == Verdict::Held);
    held.map(|settlement| settlement.job.webhook).collect()
}

/// The webhooks to disable, because their endpoints say that they are gone.
fn causes(part: &Part<'_>, applied: &HashSet<DeliveryId>) -> Vec<Cause> {
    let gone = part
        .settlements
        .iter()
        .filter(|settlement| is_gone(settlement) && applied.contains(&settlement.job.delivery));
    let causes = gone.filter_map(|settlement| {
        let webhook = settlement.webhook_as_sent.as_ref()?;
        Some(Cause {
            webhook: webhook.id,
            url: Some(webhook.url.clone()),
            reason: format!("the endpoint answered {}", answer(settlement)),
            failing_since: None,
            uid: *part.events.get(&webhook.id)?,
        })
    });
    causes.collect()
}

fn is_gone(settlement: &Settlement) -> bool {
    settlement.verdict == Verdict::Failed(GaveUp::Gone)
}

/// `410 Gone`
fn answer(settlement: &Settlement) -> String {
    let report = settlement.report.as_ref();
    let status = report.and_then(|report| report.result.as_ref().ok());
    // Only an answer disables, and HTTP's are all three digits.
    let status = status.and_then(|answer| StatusCode::from_u16(answer.status).ok());
    status.map_or_else(String::new, |status| status.to_string())
}

/// An error that PostgreSQL would give every time.
struct Refusal {
    reason: String,
    no_partition: bool,
}

impl Refusal {
    /// If it is the data that is refused: SQLSTATE classes 22 (data exception),
    /// 23 (a constraint, or no partition for the row) and 54 (beyond a limit).
    fn from_error(error: &anyhow::Error) -> Option<Self> {
        let error = error.chain().find_map(|cause| {
            let error = cause.downcast_ref::<tokio_postgres::Error>()?;
            error.as_db_error()
        })?;
        let code = error.code().code();
        let refused = ["22", "23", "54"]
            .iter()
            .any(|class| code.starts_with(class));
        refused.then(|| Self {
            reason: error.message().chars().take(MAX_REASON).collect(),
            // A constraint that has a name is another one.
            no_partition: code == "23514" && error.constraint().is_none(),
        })
    }
}
