//! Operational events: written into the log, with a delivery to each operational webhook of
//! the tenant.
//!
//! An operational event is an event with deliveries, retries and a log, like any other. But
//! it isn't published to RabbitMQ. It is written here, in the transaction that decides what
//! it tells, so that neither happens without the other. It goes to the operational webhooks
//! of the tenant alone, and these get no other events. So nobody who may publish events can
//! forge one.
//!
//! The caller publishes the jobs after the commit. The event's uid is chosen before: if the
//! COMMIT gets no answer, [`written_before`] tells whether the event was written, and answers
//! its jobs.

use deadpool_postgres::Transaction;
use shared::ids::{DeliveryId, EventId, EventType, EventUid, Tenant, WebhookId};
use shared::job::{Job, Payload};
use shared::{job_delivery_columns, job_event_columns};
use time::OffsetDateTime;

/// An operational event.
#[derive(Debug)]
pub struct Announcement {
    /// Says when it happened, too.
    pub uid: EventUid,
    pub tenant: Tenant,
    /// The webhook that it tells of. That one doesn't get it.
    pub about: WebhookId,
    pub event_type: &'static EventType,
    /// JSON.
    pub data: String,
}

/// Writes operational events. Answers their jobs, which the caller has to publish after the
/// commit.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn announce(
    transaction: &Transaction<'_>,
    announcements: &[Announcement],
) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for one in announcements {
        // A first try is due at the time in its id.
        let at = one.uid.accepted_at();
        let webhooks = operational_webhooks(transaction, one).await?;
        let first = webhooks.iter().map(|webhook| Job {
            delivery: DeliveryId::for_event(one.uid),
            webhook: *webhook,
            tenant: one.tenant.clone(),
            event_uid: one.uid,
            event_id: EventId::from(one.uid),
            event_type: one.event_type.clone(),
            occurred_at: at,
            attempt: 1,
            due_at: at,
            recheck: false,
            payload: Payload::from_data(&one.data, None),
            restart: None,
            late: None,
            trace: None,
        });
        let first: Vec<_> = first.collect();
        insert(transaction, one, at, &first).await?;
        jobs.extend(first);
    }
    Ok(jobs)
}

/// The jobs of those of these events that an earlier transaction has written, and that
/// nobody has tried yet.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn written_before(
    transaction: &Transaction<'_>,
    uids: &[EventUid],
) -> anyhow::Result<Vec<Job>> {
    if uids.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction.prepare_cached(WRITTEN_BEFORE).await?;
    let rows = transaction
        .query(&statement, &[&uids, &Job::ENOUGH_DATA])
        .await?;
    let due_at = |row: &tokio_postgres::Row| row.get::<_, OffsetDateTime>("due_at");
    Ok(rows.iter().map(|row| Job::read(row, due_at(row))).collect())
}

const WRITTEN_BEFORE: &str = concat!(
    "-- operational_events_written
SELECT d.due_at, ",
    job_delivery_columns!(),
    ", ",
    job_event_columns!("$2"),
    "
FROM events e CROSS JOIN LATERAL (
    SELECT * FROM deliveries
    WHERE id BETWEEN millisecond_floor(e.uid) AND millisecond_ceiling(e.uid)
      AND event_uid = e.uid AND state = 'queued' AND attempts = 0 AND due_at IS NOT NULL) d
WHERE e.uid = ANY($1)"
);

/// The tenant's operational webhooks that get this event.
async fn operational_webhooks(
    transaction: &Transaction<'_>,
    announcement: &Announcement,
) -> anyhow::Result<Vec<WebhookId>> {
    let statement = transaction
        .prepare_cached(
            "-- operational_webhooks\n\
             SELECT id FROM webhooks \
             WHERE tenant = $1 AND operational AND status IN ('active', 'paused') AND id <> $2 \
               AND patterns && $3::text[]",
        )
        .await?;
    let patterns = patterns(announcement.event_type);
    let rows = transaction
        .query(
            &statement,
            &[&announcement.tenant, &announcement.about, &&patterns[..]],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The patterns that listen to an operational event: `*`, `webhook.*`, and its own name.
pub fn patterns(event_type: &EventType) -> [String; 3] {
    let name = event_type.as_str();
    let subject = name.split('.').next().unwrap_or(name);
    ["*".to_owned(), format!("{subject}.*"), name.to_owned()]
}

async fn insert(
    transaction: &Transaction<'_>,
    announcement: &Announcement,
    at: OffsetDateTime,
    jobs: &[Job],
) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- tell_operational_event\n\
             WITH event AS ( \
                 INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched) \
                 VALUES ($1, $2, $3, $4, $5, $6, cardinality($7::uuid[]))) \
             INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, due_at) \
             SELECT d.id, $1, d.webhook_id, $4, 'queued', $5 \
             FROM unnest($7::uuid[], $8::uuid[]) AS d (id, webhook_id)",
        )
        .await?;
    let ids: Vec<_> = jobs.iter().map(|job| job.delivery).collect();
    let webhooks: Vec<_> = jobs.iter().map(|job| job.webhook).collect();
    let Announcement {
        uid,
        tenant,
        event_type,
        data,
        about: _,
    } = announcement;
    let id = EventId::from(*uid);
    transaction
        .execute(
            &statement,
            &[uid, tenant, &id, *event_type, &at, data, &ids, &webhooks],
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use shared::operational::{DISABLED, EXHAUSTED};

    use super::*;

    #[test]
    fn an_operational_event_has_three_patterns() {
        assert_eq!(patterns(&DISABLED), ["*", "webhook.*", "webhook.disabled"]);
        assert_eq!(
            patterns(&EXHAUSTED),
            ["*", "delivery.*", "delivery.exhausted"]
        );
    }
}
