//! Disables webhooks, and tells their tenants by operational events.
//!
//! The event is written in the transaction that disables the webhook ([`announce`]), so that
//! neither happens without the other.

use deadpool_postgres::Transaction;
use serde::Serialize;
use serde_json::json;
use shared::column;
use shared::ids::{EventUid, Tenant, WebhookId};
use shared::job::Job;
use shared::operational::DISABLED;
use shared::timestamp::with_milliseconds;
use time::OffsetDateTime;

use super::announce::{Announcement, announce};

/// Why a webhook is to be disabled.
#[derive(Debug)]
pub struct Cause {
    pub webhook: WebhookId,
    /// If given, the webhook is disabled only if this still is its URL.
    pub url: Option<String>,
    /// For people.
    pub reason: String,
    /// See [`Disabled::failing_since`].
    pub failing_since: Option<OffsetDateTime>,
    /// Of the event that tells of it.
    pub uid: EventUid,
}

/// A webhook that was disabled just now.
#[derive(Debug)]
pub struct Disabled {
    pub webhook: WebhookId,
    pub tenant: Tenant,
    /// For people.
    pub reason: String,
    /// If known: the webhook got every event from before this time.
    pub failing_since: Option<OffsetDateTime>,
    /// Of the event that tells of it.
    pub uid: EventUid,
}

/// Disables those of the webhooks that are active. The caller has to [`announce_disabled`]
/// them in the same transaction. Rows are locked in order, so that two batches cannot deadlock.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn disable(
    transaction: &Transaction<'_>,
    causes: &[Cause],
) -> anyhow::Result<Vec<Disabled>> {
    if causes.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction
        .prepare_cached(
            "-- disable_webhooks\n\
             WITH locked AS MATERIALIZED ( \
                 SELECT w.id FROM webhooks w WHERE w.id = ANY($1) AND w.status = 'active' \
                 ORDER BY w.id FOR UPDATE) \
             UPDATE webhooks w SET status = 'disabled', disabled_reason = cause.reason, \
                 updated_at = now() \
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[]) \
                 AS cause (id, url, reason, failing_since, uid) \
             WHERE w.id = cause.id AND (cause.url IS NULL OR w.url = cause.url) \
               AND w.id IN (SELECT id FROM locked) \
             RETURNING w.id, w.tenant, cause.reason, cause.failing_since, cause.uid",
        )
        .await?;
    let rows = transaction
        .query(
            &statement,
            &[
                column!(causes, cause => &cause.webhook),
                column!(causes, cause => &cause.url),
                column!(causes, cause => &cause.reason),
                column!(causes, cause => &cause.failing_since),
                column!(causes, cause => &cause.uid),
            ],
        )
        .await?;
    let disabled = rows.iter().map(|row| Disabled {
        webhook: row.get(0),
        tenant: row.get(1),
        reason: row.get(2),
        failing_since: row.get(3),
        uid: row.get(4),
    });
    Ok(disabled.collect())
}

/// The data of a `webhook.disabled` event.
#[derive(Serialize)]
struct WebhookDisabled<'a> {
    webhook_id: WebhookId,
    reason: &'a str,
    disabled_at: String,
    failing_since: Option<String>,
}

/// Writes the operational events of webhooks that were disabled. Answers their jobs, which
/// the caller has to publish after the commit.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn announce_disabled(
    transaction: &Transaction<'_>,
    disabled: &[Disabled],
) -> anyhow::Result<Vec<Job>> {
    let mut announcements = Vec::new();
    for one in disabled {
        let failing_since = one.failing_since.map(with_milliseconds).transpose()?;
        let data = WebhookDisabled {
            webhook_id: one.webhook,
            reason: &one.reason,
            disabled_at: with_milliseconds(one.uid.accepted_at())?,
            failing_since,
        };
        announcements.push(Announcement {
            uid: one.uid,
            tenant: one.tenant.clone(),
            about: one.webhook,
            event_type: &DISABLED,
            data: json!(data).to_string(),
        });
    }
    announce(transaction, &announcements).await
}
