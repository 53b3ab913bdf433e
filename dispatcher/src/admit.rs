//! May this job be sent now? Active? Too old? Settled already? A free place?
//! Within the rate?
//!
//! A job comes in from `intake`; an [`Admission`] goes on to `attempt`, or a
//! verdict without an attempt straight to `settle`. A first try reads only memory,
//! except for payloads that don't fit into a job and webhooks with a rate limit. Every
//! other job, and a first try that may exist twice, is looked up by its ticket.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use shared::clock;
use shared::dialect::Dialect;
use shared::ids::{DeliveryId, WebhookId};
use shared::job::{Content, Job, Payload};
use shared::supervise::until_done;
use shared::webhook::Status;
use time::Duration;
use tracing::warn;

use crate::endpoint::cache::Endpoint;
use crate::endpoint::limiter::{Closed, Place};
use crate::endpoint::rate_limit::Turn;
use crate::judge::{Deferral, Verdict};
use crate::run::Dispatcher;

/// When to look again for a webhook or a dialect that isn't known yet.
const UNKNOWN_PAUSE: Duration = Duration::seconds(30);
/// When to look again at a job whose other copy is under way here.
const IN_FLIGHT_PAUSE: Duration = Duration::seconds(2);

/// What may happen to a job.
pub enum Admission {
    /// Send it now.
    Ready {
        /// Where to.
        endpoint: Endpoint,
        /// How.
        dialect: Arc<Dialect>,
        /// What the event says.
        content: Content,
        /// Held during the attempt.
        place: Place,
    },
    /// Don't; this is what to write down.
    Decided(Verdict),
    /// It is settled already, another job has taken its place, or its row is gone.
    Stale,
    /// The process is stopping: give it back.
    GiveBack,
}

/// Decides it.
pub async fn admit(dispatcher: &Dispatcher, job: &Job) -> Admission {
    if job.recheck || job.attempt > 1 {
        match dispatcher.settler.tickets.is_current(job).await {
            Some(true) => {}
            Some(false) => return Admission::Stale,
            None => return Admission::GiveBack,
        }
    }
    let unknown = |because| {
        let until = clock::now() + UNKNOWN_PAUSE;
        Admission::Decided(Verdict::Deferred { until, because })
    };
    let endpoint = match find_endpoint(dispatcher, job).await {
        Found::Endpoint(endpoint) => endpoint,
        Found::Deleted => return Admission::Decided(Verdict::Cancelled),
        Found::Unknown => return unknown(Deferral::UnknownWebhook),
    };
    match endpoint.webhook.status {
        Status::Active => {}
        Status::Paused => return Admission::Decided(Verdict::Held),
        Status::Inactive | Status::Disabled | Status::Deleted => {
            return Admission::Decided(Verdict::Cancelled);
        }
    }
    // A file in `DIALECTS_DIR` that this replica doesn't have yet.
    let Some(dialect) = endpoint.dialect.clone() else {
        return unknown(Deferral::UnknownDialect);
    };
    let now = clock::now();
    if now - job.began_at() > endpoint.max_age(&dialect) {
        return Admission::Decided(Verdict::Expired);
    }
    let content = match &job.payload {
        Payload::Inline(content) => content.clone(),
        Payload::Stored => match stored_content(dispatcher, job).await {
            Some(Some(content)) => content,
            // Retention took the event, and with it the delivery.
            Some(None) => return Admission::Stale,
            None => return Admission::GiveBack,
        },
    };
    let deferred = |until, because| Admission::Decided(Verdict::Deferred { until, because });
    let place = match endpoint.gate.enter(now).await {
        Ok(place) => place,
        Err(Closed::Full(until)) => return deferred(until, Deferral::EndpointFull),
        Err(Closed::Down(until)) => return deferred(until, Deferral::EndpointDown),
    };
    // Last, so that no turn is taken that isn't used.
    let returns = job.due_at > job.began_at();
    match dispatcher.rates.ask(endpoint.limits(), returns).await {
        Some(Turn::Now) => Admission::Ready {
            endpoint,
            dialect,
            content,
            place,
        },
        Some(Turn::At(until)) => deferred(until, Deferral::RateLimited),
        None => Admission::GiveBack,
    }
}

/// The verdict on a job whose other copy is under way in this replica.
pub fn wait_for_other_copy() -> Verdict {
    let until = clock::now() + IN_FLIGHT_PAUSE;
    Verdict::Deferred {
        until,
        because: Deferral::InFlight,
    }
}

/// A job's webhook.
enum Found {
    /// It is known here.
    Endpoint(Endpoint),
    /// It was deleted.
    Deleted,
    /// It has no row, its row can't be read, or PostgreSQL can't be asked.
    Unknown,
}

/// Looks the webhook up. One that isn't known, or takes no deliveries, may have
/// been made or switched on a moment ago: a delivery is cancelled for good, so
/// not by what is remembered. Deleted webhooks aren't remembered at all: only
/// their row says that they were.
async fn find_endpoint(dispatcher: &Dispatcher, job: &Job) -> Found {
    let known = dispatcher.endpoints.get(job.webhook);
    if let Some(known) = known
        && known.webhook.status == Status::Active
    {
        return Found::Endpoint(known);
    }
    let looked_up = async {
        dispatcher.feed.refresh().await?;
        match dispatcher.endpoints.get(job.webhook) {
            Some(endpoint) => Ok(Found::Endpoint(endpoint)),
            None if is_deleted(dispatcher, job.webhook).await? => Ok(Found::Deleted),
            None => anyhow::Ok(Found::Unknown),
        }
    };
    looked_up.await.unwrap_or_else(|error| {
        warn!(webhook = %job.webhook, error = format!("{error:#}"), "looking a webhook up");
        Found::Unknown
    })
}

async fn is_deleted(dispatcher: &Dispatcher, webhook: WebhookId) -> anyhow::Result<bool> {
    let client = dispatcher.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- is_deleted\nSELECT 1 FROM webhooks WHERE id = $1 AND status = 'deleted'",
        )
        .await?;
    Ok(client.query_opt(&statement, &[&webhook]).await?.is_some())
}

/// What the event says, `Some(None)` if the event is gone. `None`: stopping.
async fn stored_content(dispatcher: &Dispatcher, job: &Job) -> Option<Option<Content>> {
    until_done(&dispatcher.hurry, "reading an event's data", || async {
        let client = dispatcher.pool.get().await?;
        let statement = client
            .prepare_cached("-- event_content\nSELECT data, attributes FROM events WHERE uid = $1")
            .await?;
        Ok(client
            .query_opt(&statement, &[&job.event_uid])
            .await?
            .map(|row| Content {
                data: row.get(0),
                attributes: row.get(1),
            }))
    })
    .await
}

/// The deliveries that this replica has under way, so that a second copy of a
/// job waits for the first.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<Mutex<HashSet<DeliveryId>>>);

/// Marks a delivery as under way until it is dropped.
pub struct Mark {
    under_way: UnderWay,
    delivery: DeliveryId,
}

impl UnderWay {
    /// Marks it; `None` if it is marked already.
    pub fn mark(&self, delivery: DeliveryId) -> Option<Mark> {
        let new = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(delivery);
        new.then(|| Mark {
            under_way: self.clone(),
            delivery,
        })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.under_way
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.delivery);
    }
}
