//! Who watches what: the live parts of pages, polled once for all who look at them.
//!
//! A [`Subject`] is what one page shows of what changes. All viewers of a subject share its
//! latest [`Snapshot`]. There is no task that polls: whichever viewer finds the snapshot too
//! old reads the next one, and the others wait for it ([`Watched::next`]). So a subject is
//! asked at most once in its interval, and nothing is asked when nobody watches.
//!
//! This file knows no page and no SQL: what is read comes as a closure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use maud::Markup;
use shared::ids::{DeliveryId, ReplayId, Tenant, WebhookId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use uuid::Uuid;

use crate::tenant_permits::TenantPermits;

/// The most viewers of one session: a browser has six connections to one host.
pub const OF_A_SESSION: usize = 5;
/// The most viewers of a tenant's pages.
const OF_A_TENANT: usize = 40;
/// The most live parts of a tenant that are read at a time: fewer than there are connections
/// for it, so that one tenant's slow parts don't keep another's waiting.
pub const READS_OF_A_TENANT: usize = 1;
/// The most viewers of this process. There are never more subjects than viewers.
const IN_ALL: usize = 200;
/// How long charts stay as they were drawn. They have many bytes, and steps of a quarter of an hour
/// or more.
const DRAWN: Duration = Duration::from_secs(60);
/// How long reading a snapshot may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a page shows of what changes. `None` as the tenant: all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub tenant: Option<Tenant>,
    pub part: LivePart,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LivePart {
    /// With its window.
    Overview(&'static str),
    FirstSteps,
    Webhooks,
    Webhook(WebhookId),
    /// A webhook's statistics, with their window.
    Statistics(WebhookId, &'static str),
    /// With the kinds of its lines.
    Log(WebhookId, String),
    /// A list of deliveries: of one webhook or of all, and its filter.
    Deliveries(Option<WebhookId>, String),
    Delivery(DeliveryId),
    /// A list of events, and its filter.
    Events(String),
    Replays(Vec<ReplayId>),
    /// In the portal: a webhook, and its list with a filter.
    PortalWebhook(WebhookId, String),
    /// In the portal.
    PortalDelivery(DeliveryId),
    /// With its window.
    Health(&'static str),
}

impl LivePart {
    /// How often it is read at most.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Webhook(_) | Self::Delivery(_) | Self::PortalDelivery(_) | Self::Replays(_) => 1,
            Self::Overview(_) | Self::FirstSteps | Self::Health(_) => 2,
            Self::Log(..) | Self::Deliveries(..) | Self::PortalWebhook(..) | Self::Events(_) => 2,
            Self::Webhooks | Self::Statistics(..) => 5,
        })
    }
}

/// The first page of a list.
#[derive(Debug, Clone)]
pub struct Latest {
    /// Newest first. Their order is that of time.
    pub ids: Vec<Uuid>,
    /// Whether the list goes on.
    pub more: bool,
    /// What one of them is.
    pub noun: &'static str,
}

/// What a subject was at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Parts of the page by name, as HTML without anything of one visitor: the same for all.
    pub parts: Vec<(String, String)>,
    /// The same parts for those who may change something, if theirs differ.
    pub for_managers: Option<Vec<(String, String)>>,
    /// Its charts, if it has any.
    pub charts: Option<Arc<Charts>>,
    /// What is on top of a list.
    pub latest: Option<Latest>,
    /// What it was made of, for a reader that can tell cheaply that nothing has changed.
    pub mark: String,
    /// It won't change any more.
    pub is_over: bool,
}

impl Snapshot {
    /// Another part, the same for all.
    pub fn add(&mut self, name: &str, part: &Markup) {
        if let Some(parts) = &mut self.for_managers {
            parts.push((name.to_owned(), part.0.clone()));
        }
        self.parts.push((name.to_owned(), part.0.clone()));
    }
}

/// The charts of a subject, as parts of its page. They are drawn once a minute, however often the
/// subject is read.
#[derive(Debug)]
pub struct Charts {
    parts: Vec<(&'static str, String)>,
    drawn_at: Instant,
}

impl Charts {
    pub fn new(parts: impl IntoIterator<Item = (&'static str, Markup)>) -> Arc<Self> {
        let parts = parts.into_iter().map(|(name, html)| (name, html.0));
        Arc::new(Self {
            parts: parts.collect(),
            drawn_at: Instant::now(),
        })
    }

    pub fn parts(&self) -> &[(&'static str, String)] {
        &self.parts
    }

    /// Those of the snapshot before, if they needn't be drawn again.
    pub fn kept(before: Option<&Snapshot>) -> Option<Arc<Self>> {
        let charts = before?.charts.clone()?;
        (charts.drawn_at.elapsed() < DRAWN).then_some(charts)
    }
}

/// A subject couldn't be read, with the status of HTTP that says why: its viewers come again.
#[derive(Debug, Clone, Copy)]
pub struct Unread(pub StatusCode);

const UNAVAILABLE: Unread = Unread(StatusCode::SERVICE_UNAVAILABLE);

type LatestRead = Option<Result<Arc<Snapshot>, Unread>>;

/// A subject that somebody watches.
pub struct Watched {
    pub subject: Subject,
    /// Whoever has it reads the next snapshot.
    turn: Semaphore,
    read_at: Mutex<Option<Instant>>,
    latest: watch::Sender<LatestRead>,
}

impl Watched {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            turn: Semaphore::new(1),
            read_at: Mutex::default(),
            latest: watch::Sender::new(None),
        }
    }

    /// What was read last, if anything was.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.borrow().as_ref()?.as_ref().ok().cloned()
    }

    /// Waits until the interval is over, and answers what is read then: by this viewer or by
    /// another one.
    ///
    /// # Errors
    /// If it couldn't be read.
    pub async fn next<F>(
        &self,
        read: impl Fn(Option<Arc<Snapshot>>) -> F,
    ) -> Result<Arc<Snapshot>, Unread>
    where
        F: Future<Output = Result<Snapshot, Unread>>,
    {
        let mut latest = self.latest.subscribe();
        loop {
            let wait = self.wait();
            tokio::select! {
                // Somebody else has read it.
                Ok(()) = latest.changed() => return latest_of(&mut latest),
                () = tokio::time::sleep(wait) => {}
            }
            // Its holder may go away in the middle: then another viewer reads.
            let Ok(_turn) = self.turn.try_acquire() else {
                tokio::select! {
                    Ok(()) = latest.changed() => return latest_of(&mut latest),
                    Ok(turn) = self.turn.acquire() => drop(turn),
                }
                continue;
            };
            if !self.wait().is_zero() {
                continue;
            }
            let read = tokio::time::timeout(PATIENCE, read(self.latest())).await;
            *lock(&self.read_at) = Some(Instant::now());
            let read = match read {
                Ok(read) => read.map(Arc::new),
                Err(_) => Err(UNAVAILABLE),
            };
            self.latest.send_replace(Some(read.clone()));
            return read;
        }
    }

    /// How long its snapshot is still good.
    fn wait(&self) -> Duration {
        let read_at = *lock(&self.read_at);
        read_at.map_or(Duration::ZERO, |at| {
            self.subject.part.interval().saturating_sub(at.elapsed())
        })
    }
}

/// What is watched, with the number of its viewers.
type Subjects = HashMap<Subject, (Arc<Watched>, usize)>;

/// All that is watched in this process.
pub struct Watching {
    subjects: Arc<Mutex<Subjects>>,
    sessions: Arc<Mutex<HashMap<[u8; 32], usize>>>,
    tenants: TenantPermits,
    all: Arc<Semaphore>,
}

impl Default for Watching {
    fn default() -> Self {
        Self {
            subjects: Arc::default(),
            sessions: Arc::default(),
            tenants: TenantPermits::new(OF_A_TENANT),
            all: Arc::new(Semaphore::new(IN_ALL)),
        }
    }
}

impl Watching {
    /// A viewer of this session begins to watch. `None`: there are as many as there may be.
    pub fn begin(&self, session: [u8; 32], subject: Subject) -> Option<Watcher> {
        let place = self.all.clone().try_acquire_owned().ok()?;
        let of_tenant = match &subject.tenant {
            Some(tenant) => Some(self.tenants.try_acquire(tenant)?),
            None => None,
        };
        {
            let mut sessions = lock(&self.sessions);
            let count = sessions.entry(session).or_default();
            if *count >= OF_A_SESSION {
                return None;
            }
            *count += 1;
        }
        let mut subjects = lock(&self.subjects);
        let (watched, viewers) = subjects
            .entry(subject)
            .or_insert_with_key(|subject| (Arc::new(Watched::new(subject.clone())), 0));
        *viewers += 1;
        let watched = watched.clone();
        drop(subjects);
        Some(Watcher {
            watched,
            session,
            subjects: self.subjects.clone(),
            sessions: self.sessions.clone(),
            _places: (place, of_tenant),
        })
    }
}

/// One viewer's place. The last one to leave a subject takes it away.
pub struct Watcher {
    pub watched: Arc<Watched>,
    session: [u8; 32],
    subjects: Arc<Mutex<Subjects>>,
    sessions: Arc<Mutex<HashMap<[u8; 32], usize>>>,
    _places: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut sessions = lock(&self.sessions);
        if let Some(count) = sessions.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                sessions.remove(&self.session);
            }
        }
        drop(sessions);
        let mut subjects = lock(&self.subjects);
        if let Some((_, viewers)) = subjects.get_mut(&self.watched.subject) {
            *viewers -= 1;
            if *viewers == 0 {
                subjects.remove(&self.watched.subject);
            }
        }
    }
}

fn latest_of(latest: &mut watch::Receiver<LatestRead>) -> Result<Arc<Snapshot>, Unread> {
    let latest = latest.borrow_and_update().clone();
    latest.unwrap_or(Err(UNAVAILABLE))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    fn subject(tenant: &str) -> Subject {
        Subject {
            tenant: tenant.parse().ok(),
            part: LivePart::FirstSteps,
        }
    }

    #[tokio::test]
    async fn all_viewers_of_a_subject_share_what_one_of_them_reads() {
        let watching = Watching::default();
        let reads = AtomicUsize::new(0);
        let read = |_| {
            reads.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await;
                Ok(Snapshot::default())
            }
        };
        let viewers: Vec<_> = (0..20)
            .filter_map(|n| watching.begin([n; 32], subject("acme")))
            .collect();
        let looks = viewers.iter().map(|viewer| viewer.watched.next(read));
        assert!(join_all(looks).await.iter().all(Result::is_ok));
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        drop(viewers);
        assert!(lock(&watching.subjects).is_empty());
        assert!(lock(&watching.sessions).is_empty());
    }

    #[tokio::test]
    async fn who_reads_may_go_away_and_a_failure_is_told_to_all() {
        let watching = Watching::default();
        let viewer = watching.begin([1; 32], subject("acme")).unwrap();
        let never = |_| std::future::pending();
        let gone = tokio::time::timeout(Duration::from_millis(10), viewer.watched.next(never));
        assert!(gone.await.is_err());
        let fails = |_| std::future::ready(Err(UNAVAILABLE));
        let (one, other) = (viewer.watched.next(fails), viewer.watched.next(fails));
        let (one, other) = tokio::join!(one, other);
        assert!(one.is_err() && other.is_err());
        assert!(viewer.watched.latest().is_none());
    }

    #[test]
    fn charts_are_drawn_once_a_minute() {
        let snapshot = |age| Snapshot {
            charts: Instant::now().checked_sub(age).map(|drawn_at| {
                Arc::new(Charts {
                    parts: Vec::new(),
                    drawn_at,
                })
            }),
            ..Snapshot::default()
        };
        let young = snapshot(Duration::from_secs(50));
        assert!(Charts::kept(Some(&young)).is_some());
        assert!(Charts::kept(Some(&snapshot(DRAWN))).is_none());
        assert!(Charts::kept(Some(&Snapshot::default())).is_none());
        assert!(Charts::kept(None).is_none());
    }

    #[test]
    fn viewers_are_bounded_by_session_tenant_and_in_all() {
        let watching = Watching::default();
        let begin = |session: usize, tenant: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&session.to_be_bytes());
            watching.begin(id, subject(&format!("t{tenant}")))
        };
        let mut of_one: Vec<_> = (0..5).filter_map(|_| begin(0, 0)).collect();
        assert_eq!(of_one.len(), 5);
        assert!(begin(0, 1).is_none(), "of a session");
        of_one.extend((1..=35).filter_map(|session| begin(session, 0)));
        assert!(begin(100, 0).is_none(), "of a tenant");
        of_one.extend((0..160).filter_map(|n| begin(200 + n, 1 + n / 32)));
        assert_eq!(of_one.len(), 200);
        assert!(begin(1_000, 99).is_none(), "in all");
        of_one.pop();
        assert!(begin(1_000, 99).is_some());
    }
}
