//! Finds the verdicts that an earlier try of the same batch wrote, although the answer to its
//! COMMIT was lost.

use deadpool_postgres::Transaction;
use shared::column;
use shared::ids::DeliveryId;
use time::OffsetDateTime;

use crate::judge::Verdict;
use crate::settlement::Settlement;
use crate::upkeep::paused::PAUSED;

/// The deliveries whose rows are as this batch would leave them, with the same attempt and
/// the same times to the microsecond. No other process can have written them.
pub(super) async fn verdicts_that_stand(
    transaction: &Transaction<'_>,
    batch: &[Settlement],
) -> anyhow::Result<Vec<DeliveryId>> {
    let rows: Vec<_> = batch
        .iter()
        .filter(|settlement| settlement.mark.is_some())
        .map(Expected::after)
        .collect();
    let statement = transaction.prepare_cached(VERDICTS_THAT_STAND).await?;
    let stands = transaction
        .query(
            &statement,
            &[
                column!(rows, row => row.delivery),
                column!(rows, row => row.n),
                column!(rows, row => row.charged),
                column!(rows, row => row.state),
                column!(rows, row => row.due_at),
                column!(rows, row => row.deferred_because),
                column!(rows, row => row.started_at),
                column!(rows, row => row.restarted_at),
            ],
        )
        .await?;
    Ok(stands.iter().map(|row| row.get(0)).collect())
}

/// A delivery's row as it is after its verdict.
struct Expected {
    delivery: DeliveryId,
    n: i16,
    charged: bool,
    /// `None`: as before.
    state: Option<&'static str>,
    due_at: Option<OffsetDateTime>,
    deferred_because: Option<&'static str>,
    started_at: Option<OffsetDateTime>,
    restarted_at: Option<OffsetDateTime>,
}

impl Expected {
    fn after(settlement: &Settlement) -> Self {
        let verdict = &settlement.verdict;
        let (state, due_at, deferred_because) = match verdict {
            Verdict::RetryAt { at, .. } => (Some(verdict.as_str()), Some(*at), None),
            Verdict::Deferred { until, because } => (None, Some(*until), Some(because.as_str())),
            Verdict::Held => (None, None, Some(PAUSED)),
            Verdict::Delivered | Verdict::Failed(_) | Verdict::Expired(_) | Verdict::Cancelled => {
                (Some(verdict.as_str()), None, None)
            }
        };
        let charged = state.is_some() && settlement.report.is_some();
        Self {
            delivery: settlement.job.delivery,
            n: settlement.job.attempt as i16,
            charged,
            state,
            due_at,
            deferred_because,
            started_at: settlement.report.as_ref().map(|report| report.started_at),
            restarted_at: settlement.job.restart.map(|restart| restart.at),
        }
    }
}

const VERDICTS_THAT_STAND: &str = "-- verdicts_that_stand
SELECT d.id
FROM unnest($1::uuid[], $2::int2[], $3::bool[], $4::text[], $5::timestamptz[], $6::text[],
            $7::timestamptz[], $8::timestamptz[])
AS v (delivery_id, n, charged, state, due_at, deferred_because, started_at, restarted_at)
JOIN deliveries d ON d.id = v.delivery_id AND d.id = ANY($1)
WHERE d.attempts = CASE WHEN v.charged THEN v.n ELSE v.n - 1 END
  AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at
  AND d.due_at IS NOT DISTINCT FROM v.due_at
  AND d.deferred_because IS NOT DISTINCT FROM v.deferred_because
  AND CASE WHEN v.state IS NULL THEN d.state IN ('queued', 'retrying') ELSE d.state = v.state END
  AND (NOT v.charged OR EXISTS (
      SELECT FROM attempts a
      WHERE a.delivery_id = v.delivery_id AND a.n = v.n AND a.started_at = v.started_at))";
