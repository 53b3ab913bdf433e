//! Tenants, webhooks and event types in memory, as fresh as the last commit.
//!
//! Every change to a tenant, its event types or a webhook takes the next number of
//! one counter, the revision. A database trigger does that and announces the change
//! with NOTIFY. A [`Feed`] keeps its owner's cache up to date: it loads every row
//! whose revision is above the highest one that it knows. It does so when a
//! notification arrives, when its owner asks, and after a lost connection.
//!
//! Revisions commit in order. So loading "everything above the revision I know"
//! misses nothing, and a notification only says when to load.
//!
//! A change of one event type reads that type's schema, and the names of its tenant's
//! other types ([`event_types`]).
//!
//! Rows are read page by page, so that loading needs memory only for one page and
//! for the cache itself. A load of everything skips deleted webhooks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio_postgres::{AsyncMessage, NoTls, Row};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock;
use crate::ids::WebhookId;
use crate::postgres;
use crate::seal::Keyring;
use crate::supervise::{Backoff, Readiness};
use crate::telemetry::metrics;
use crate::tenant::TenantSettings;
use crate::webhook::{Sealed, Subscription, Unreadable, Webhook};
use event_types::Versions;
pub use event_types::{EventTypeRow, ReadSchema, TenantEventTypes};

mod event_types;

/// Webhooks per page. With the size limit of a webhook that is at most 12 MiB.
const PAGE: i64 = 200;
/// A listening connection is probed this often, so that a dead one is noticed.
const PROBE: Duration = Duration::from_secs(10);

/// Changed rows. One load may come as several of these, tenants first.
#[derive(Debug)]
pub struct Changes<W> {
    pub tenants: Vec<TenantSettings>,
    /// The event types of new or changed tenants, if the feed loads event types. A schema that
    /// didn't change isn't among them.
    pub event_types: Vec<TenantEventTypes>,
    pub webhooks: Vec<W>,
    /// Webhooks to remove from the cache: deleted ones, and changed ones that can't
    /// be read at all.
    pub gone: Vec<WebhookId>,
    /// After a load of everything: the only webhooks to keep.
    pub only: Option<HashSet<WebhookId>>,
}

// `#[derive(Default)]` would require `W: Default`.
impl<W> Default for Changes<W> {
    fn default() -> Self {
        Self {
            tenants: Vec::new(),
            event_types: Vec::new(),
            webhooks: Vec::new(),
            gone: Vec::new(),
            only: None,
        }
    }
}

/// What the feed's owner keeps in memory for each webhook.
pub trait Cached: Sized + Send {
    /// Whether the feed loads event types: matching needs them, delivering doesn't.
    const WITH_EVENT_TYPES: bool;

    /// The columns that [`Cached::from_row`] needs. `id` and `status` are among them.
    fn columns() -> String;

    /// Reads a row: the usable part, and the part that can't be read.
    fn from_row(row: &Row, keys: &Keyring) -> (Option<Self>, Option<Unreadable>);
}

impl Cached for Webhook {
    const WITH_EVENT_TYPES: bool = false;

    fn columns() -> String {
        Self::COLUMNS.to_owned()
    }

    /// Without its secret nothing can be sent, so its deliveries wait.
    fn from_row(row: &Row, keys: &Keyring) -> (Option<Self>, Option<Unreadable>) {
        match Self::read(row, keys) {
            Ok(webhook) => (Some(webhook), None),
            Err(unreadable) => (None, Some(unreadable)),
        }
    }
}

impl Cached for Subscription {
    const WITH_EVENT_TYPES: bool = true;

    fn columns() -> String {
        format!("{}, {}", Self::COLUMNS, Sealed::COLUMNS)
    }

    /// Matching needs no secret. The secret is opened all the same, to find out
    /// early that dispatchers with the same keys can't deliver.
    fn from_row(row: &Row, keys: &Keyring) -> (Option<Self>, Option<Unreadable>) {
        (Some(Self::read(row)), Sealed::open(row, keys).err())
    }
}

/// Loads changed rows and passes them to its owner's `apply`.
pub struct Feed<W> {
    pool: Pool,
    keys: Keyring,
    ready: Readiness,
    apply: Box<dyn Fn(Changes<W>) + Send + Sync>,
    /// The number of refreshes that have begun.
    begun: AtomicU64,
    /// What [`Feed::revision`] answers; below 0: nothing was loaded yet.
    applied: AtomicI64,
    /// Locked while loading, so that changes are applied in order.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The highest revision that was applied; `None` before the first load.
    revision: Option<i64>,
    /// The last successful refresh, numbered as in `begun`.
    refreshed: u64,
    /// Webhooks that can't be read, with their revision and whether a key is
    /// missing.
    unreadable: HashMap<WebhookId, (i64, bool)>,
    /// The schemas of event types that were applied.
    schemas: Versions,
}

impl<W: Cached> Feed<W> {
    /// A feed that has loaded nothing yet. It reports to `ready` how many webhooks
    /// are sealed with a key that isn't in `keys`.
    pub fn new(
        pool: Pool,
        keys: Keyring,
        ready: Readiness,
        apply: impl Fn(Changes<W>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            pool,
            keys,
            ready,
            apply: Box::new(apply),
            begun: AtomicU64::new(0),
            applied: AtomicI64::new(-1),
            known: Mutex::default(),
        })
    }

    /// Applies every change that was committed before this call.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut known = self.known.lock().await;
        // A refresh that began after this call has loaded everything that this call
        // must load. So two refreshes serve any number of callers.
        if known.refreshed > begun_before {
            return Ok(());
        }
        let this = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.load(&mut known).await?;
        known.refreshed = this;
        Ok(())
    }

    /// The revision up to which every change has been applied; `None` before the first
    /// load. Later changes may have been applied too. What was looked up after this call
    /// is as fresh as PostgreSQL if the catalogue still has this revision there.
    pub fn revision(&self) -> Option<i64> {
        Some(self.applied.load(Ordering::SeqCst)).filter(|revision| *revision >= 0)
    }

    async fn load(&self, known: &mut Known) -> anyhow::Result<()> {
        let client = self.pool.get().await.context("connecting to PostgreSQL")?;
        let current = client
            .prepare_cached("-- catalogue_revision\nSELECT revision FROM catalogue")
            .await?;
        let revision: i64 = client.query_one(&current, &[]).await?.get(0);
        if known.revision == Some(revision) {
            return Ok(());
        }
        let is_complete = known.revision.is_none();
        let since = known.revision.unwrap_or(-1);
        let tenants = client
            .prepare_cached(&format!(
                "-- changed_tenants\nSELECT {} FROM tenants WHERE revision > $1",
                TenantSettings::COLUMNS
            ))
            .await?;
        let tenants = client.query(&tenants, &[&since]).await?;
        let event_types = if W::WITH_EVENT_TYPES {
            if is_complete {
                // After a failover of PostgreSQL, versions may come again.
                known.schemas = Versions::default();
            }
            event_types::read_changed(&client, since, &mut known.schemas).await?
        } else {
            Vec::new()
        };
        (self.apply)(Changes {
            tenants: tenants.iter().map(TenantSettings::read).collect(),
            event_types,
            ..Changes::default()
        });
        let found = self.load_webhooks(&client, known, is_complete).await?;
        if is_complete {
            known
                .unreadable
                .retain(|webhook, _| found.contains(webhook));
            (self.apply)(Changes {
                only: Some(found),
                ..Changes::default()
            });
        }
        self.show_unreadable(known);
        // A row that changed during the load may or may not be included. Its
        // revision is higher than this one, so it will be loaded again.
        known.revision = Some(revision);
        self.applied.store(revision, Ordering::SeqCst);
        Ok(())
    }

    /// Applies the webhooks above the known revision, page by page, and returns
    /// their ids.
    async fn load_webhooks(
        &self,
        client: &Client,
        known: &mut Known,
        is_complete: bool,
    ) -> anyhow::Result<HashSet<WebhookId>> {
        let statement = client
            .prepare_cached(&format!(
                "-- changed_webhooks\nSELECT {}, revision FROM webhooks \
                 WHERE revision > $1 AND (status <> 'deleted' OR NOT $2) \
                 ORDER BY revision LIMIT $3",
                W::columns()
            ))
            .await?;
        let mut found = HashSet::new();
        let mut since = known.revision.unwrap_or(-1);
        loop {
            let rows = client
                .query(&statement, &[&since, &is_complete, &PAGE])
                .await?;
            let mut changes = Changes::default();
            for row in &rows {
                found.insert(row.get("id"));
                self.read(row, known, &mut changes);
            }
            (self.apply)(changes);
            match rows.last() {
                Some(last) if rows.len() as i64 == PAGE => since = last.get("revision"),
                _ => return Ok(found),
            }
        }
    }

    fn read(&self, row: &Row, known: &mut Known, changes: &mut Changes<W>) {
        let webhook: WebhookId = row.get("id");
        if row.get::<_, &str>("status") == "deleted" {
            known.unreadable.remove(&webhook);
            changes.gone.push(webhook);
            return;
        }
        let (usable, unreadable) = W::from_row(row, &self.keys);
        match usable {
            Some(usable) => changes.webhooks.push(usable),
            None => changes.gone.push(webhook),
        }
        let Some(unreadable) = unreadable else {
            known.unreadable.remove(&webhook);
            return;
        };
        let revision: i64 = row.get("revision");
        let is_missing_key = unreadable.is_missing_key();
        let before = known.unreadable.insert(webhook, (revision, is_missing_key));
        // Log an unreadable webhook once per change, however often it is loaded.
        if before.is_none_or(|(logged, _)| logged != revision) {
            let error = format!("{:#}", anyhow::Error::new(unreadable));
            error!(
                %webhook,
                error,
                "unreadable webhook: its secrets can't be opened; its deliveries wait until they can"
            );
        }
    }

    fn show_unreadable(&self, known: &Known) {
        let unreadable = known.unreadable.len();
        let missing_key = known.unreadable.values().filter(|(_, is)| *is).count();
        metrics().unreadable_webhooks.set(unreadable as i64);
        self.ready.unreadable(unreadable, missing_key);
    }

    /// Loads everything again.
    async fn reload(&self) -> anyhow::Result<()> {
        self.known.lock().await.revision = None;
        self.refresh().await
    }

    /// Keeps the cache fresh by listening to notifications, until `stop`.
    pub async fn listen(&self, url: &SecretString, name: &str, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        loop {
            let ended = tokio::select! {
                ended = self.listen_once(url, name, &mut backoff) => ended,
                () = stop.cancelled() => return,
            };
            self.ready.postgres(false);
            metrics().postgres_reconnects.inc();
            let pause = backoff.next();
            let error = ended
                .err()
                .map(|error| format!("{error:#}"))
                .unwrap_or_default();
            warn!(
                error,
                ?pause,
                "the connection that listens to PostgreSQL failed; changes of webhooks arrive late; \
                 connecting again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn listen_once(
        &self,
        url: &SecretString,
        name: &str,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let database = postgres::config(url, &format!("{name} (listen)"))?;
        let (client, mut messages) = if let Some(tls) = database.tls {
            let (client, mut connection) = database.config.connect(tls).await?;
            (
                client,
                poll_fn(move |cx| connection.poll_message(cx)).boxed(),
            )
        } else {
            let (client, mut connection) = database.config.connect(NoTls).await?;
            (
                client,
                poll_fn(move |cx| connection.poll_message(cx)).boxed(),
            )
        };
        let listen = async {
            client.batch_execute("LISTEN posthorn_catalogue").await?;
            clock::measure_first(&client).await?;
            // Load what was announced while nobody listened.
            self.reload().await?;
            info!("listening to PostgreSQL");
            self.ready.postgres(true);
            backoff.reset();
            loop {
                tokio::time::sleep(PROBE).await;
                tokio::time::timeout(PROBE, clock::measure(&client)).await??;
            }
        };
        let (announced, mut refreshes) = tokio::sync::mpsc::channel::<()>(1);
        let refresh = async {
            while refreshes.recv().await.is_some() {
                self.refresh().await?;
            }
            anyhow::Ok(())
        };
        let receive = async {
            while let Some(message) = messages.next().await {
                if let AsyncMessage::Notification(_) = message? {
                    // One pending refresh covers any number of notifications.
                    let _ = announced.try_send(());
                }
            }
            anyhow::bail!("the connection was closed")
        };
        tokio::select! {
            ended = receive => ended,
            ended = refresh => ended,
            ended = listen => ended,
        }
    }
}
