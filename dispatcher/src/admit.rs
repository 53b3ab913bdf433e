//! Decides whether a job may be sent now.
//!
//! A job comes in from `deliver`, and an [`Admission`] goes back. The checks, in order:
//! is this still the job that its delivery waits for? Is its webhook active? Is the
//! delivery too old? Is the endpoint up, and has it a free permit? Is the rate limit used
//! up? The rate limit comes last, because a job that has passed it counts as sent.
//!
//! A first attempt is decided from memory alone, with four exceptions: its payload is too
//! large for the job, its webhook has a rate limit, another copy of the job may exist, or an
//! event of its tenant was expunged after the job was made. Every other job is looked up in
//! PostgreSQL.

use std::sync::Arc;

use deadpool_postgres::Pool;
use shared::clock;
use shared::dialect::Dialect;
use shared::ids::WebhookId;
use shared::job::{Content, Job, Payload};
use shared::revisions::Feed;
use shared::supervise::until_done;
use shared::webhook::{Status, Webhook};
use time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::endpoint::cache::{Endpoint, EndpointCache};
use crate::endpoint::limiter::{Permit, Refused};
use crate::endpoint::rate_limit::{Grant, RateLimits};
use crate::judge::{Deferral, Verdict};
use crate::ticket::Tickets;

/// How long a job is deferred whose webhook or dialect this replica does not know.
const UNKNOWN_DEFERRAL: Duration = Duration::seconds(30);
/// The processes' times differ by less ([`clock`]). A job that was made this much later than an
/// expunge may have been made before it.
const CLOCKS: Duration = Duration::seconds(1);

/// Admits jobs.
pub struct Admitter {
    pub endpoints: Arc<EndpointCache>,
    /// Keeps the endpoints current.
    pub feed: Arc<Feed<Webhook>>,
    pub rate_limits: RateLimits,
    pub tickets: Tickets,
    pub pool: Pool,
    /// When this is cancelled, nothing waits for PostgreSQL any longer.
    pub grace_over: CancellationToken,
}

/// What may happen to a job.
pub enum Admission {
    /// Send it now.
    Ready(Admitted),
    /// Don't send it. This is the verdict to record.
    Decided(Verdict),
    /// Its delivery is finished or gone, or waits for another job.
    Superseded,
    /// The process stops before PostgreSQL has answered.
    Stopping,
}

/// What an admitted job is sent with.
pub struct Admitted {
    pub endpoint: Endpoint,
    pub dialect: Arc<Dialect>,
    pub content: Content,
    /// Held during the request.
    pub permit: Permit,
}

impl Admitter {
    /// Decides about one job. It may wait a second for a permit. A late copy that may be sent
    /// becomes the delivery's job, with a new ticket.
    pub async fn admit(&self, job: &mut Job) -> Admission {
        let is_first = !job.recheck && job.attempt == 1;
        if !is_first && let Some(why_not) = self.look_up(job).await {
            return why_not;
        }
        let deferred = |until, because| Admission::Decided(Verdict::Deferred { until, because });
        let unknown = |because| deferred(clock::now() + UNKNOWN_DEFERRAL, because);
        let endpoint = match self.find_endpoint(job.webhook).await {
            Found::Endpoint(endpoint) => endpoint,
            Found::Deleted => return Admission::Decided(Verdict::Cancelled),
            Found::Unknown => return unknown(Deferral::UnknownWebhook),
        };
        // The job has a copy of the event's data, and only the row says that it was expunged.
        let expunged_at = endpoint.tenant.expunged_at;
        if is_first
            && expunged_at.is_some_and(|at| job.delivery.accepted_at() <= at + CLOCKS)
            && let Some(why_not) = self.look_up(job).await
        {
            return why_not;
        }
        match endpoint.webhook.status {
            Status::Active => {}
            Status::Paused => return Admission::Decided(Verdict::Held),
            Status::Inactive | Status::Disabled | Status::Deleted => {
                return Admission::Decided(Verdict::Cancelled);
            }
        }
        // `DIALECTS_DIR` of this replica may lack a file that others have.
        let Some(dialect) = endpoint.dialect.clone() else {
            return unknown(Deferral::UnknownDialect);
        };
        let now = clock::now();
        let max_age = endpoint.max_age(&dialect);
        if now - job.ages_from(max_age.since) > max_age.limit {
            return Admission::Decided(Verdict::Expired(max_age));
        }
        let content = match &job.payload {
            Payload::Inline(content) => content.clone(),
            Payload::Stored => match self.stored_content(job).await {
                Some(Some(content)) => content,
                // Retention has dropped the event, and the delivery with it; or the event was
                // expunged, and the delivery cancelled.
                Some(None) => return Admission::Superseded,
                None => return Admission::Stopping,
            },
        };
        let permit = match endpoint.limiter.acquire(now).await {
            Ok(permit) => permit,
            Err(Refused::Full(until)) => return deferred(until, Deferral::EndpointFull),
            Err(Refused::Down(until)) => return deferred(until, Deferral::EndpointDown),
        };
        let has_waited = job.due_at > job.began_at();
        let limits = endpoint.rate_limits();
        match self.rate_limits.request(limits, has_waited).await {
            Some(Grant::Now) => Admission::Ready(Admitted {
                endpoint,
                dialect,
                content,
                permit,
            }),
            Some(Grant::NotBefore(until)) => deferred(until, Deferral::RateLimited),
            None => Admission::Stopping,
        }
    }

    /// Looks the job's delivery up. `None` if it still waits for this job.
    async fn look_up(&self, job: &mut Job) -> Option<Admission> {
        match self.tickets.claim(job).await {
            Some(true) => None,
            Some(false) => Some(Admission::Superseded),
            None => Some(Admission::Stopping),
        }
    }

    /// Looks a webhook up, first in memory. One that is unknown there, or not active, may
    /// have been created or activated a moment ago. A cancelled delivery stays cancelled,
    /// so the cache is refreshed before that is decided. Deleted webhooks aren't cached:
    /// only their rows say that they were deleted.
    async fn find_endpoint(&self, webhook: WebhookId) -> Found {
        let cached = self.endpoints.get(webhook);
        if let Some(endpoint) = cached
            && endpoint.webhook.status == Status::Active
        {
            return Found::Endpoint(endpoint);
        }
        let looked_up = async {
            self.feed.refresh().await?;
            match self.endpoints.get(webhook) {
                Some(endpoint) => Ok(Found::Endpoint(endpoint)),
                None if is_deleted(&self.pool, webhook).await? => Ok(Found::Deleted),
                None => anyhow::Ok(Found::Unknown),
            }
        };
        looked_up.await.unwrap_or_else(|error| {
            warn!(
                %webhook,
                error = format!("{error:#}"),
                "a webhook could not be looked up; its job is deferred for 30 s"
            );
            Found::Unknown
        })
    }

    /// The event's payload; `Some(None)` if the event is gone. `None`: stopping.
    async fn stored_content(&self, job: &Job) -> Option<Option<Content>> {
        until_done(
            &self.grace_over,
            "an event's payload could not be read",
            || event_content(&self.pool, job),
        )
        .await
    }
}

/// What is known of a job's webhook.
enum Found {
    Endpoint(Endpoint),
    Deleted,
    /// It has no row, its row can't be decrypted, or PostgreSQL doesn't answer.
    Unknown,
}

async fn is_deleted(pool: &Pool, webhook: WebhookId) -> anyhow::Result<bool> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- is_deleted\nSELECT 1 FROM webhooks WHERE id = $1 AND status = 'deleted'",
        )
        .await?;
    Ok(client.query_opt(&statement, &[&webhook]).await?.is_some())
}

async fn event_content(pool: &Pool, job: &Job) -> anyhow::Result<Option<Content>> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- event_content\n\
             SELECT data, attributes FROM events WHERE uid = $1 AND expunged_at IS NULL",
        )
        .await?;
    let row = client.query_opt(&statement, &[&job.event_uid]).await?;
    Ok(row.map(|row| Content {
        data: row.get(0),
        attributes: row.get(1),
    }))
}
