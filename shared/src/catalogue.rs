//! Tenants, webhooks and event types in memory, as fresh as the last commit.
//!
//! Every change to a tenant, its event types or a webhook takes the next
//! revision (a trigger does it) and is announced with NOTIFY. A [`Feed`] keeps
//! what its owner built from the rows up to date: it loads whatever is above the
//! revision it knows, when it is notified, when its owner asks, and after a lost
//! connection.
//!
//! Revisions commit in order, so nothing can be missed by loading "everything
//! above": the announcement only says when to look.
//!
//! Rows are read a page at a time, so that loading needs memory for a page and
//! for what its owner keeps. A load of everything skips deleted webhooks.

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
use crate::ids::{EventType, Tenant, WebhookId};
use crate::postgres;
use crate::seal::Keyring;
use crate::supervise::{Backoff, Readiness};
use crate::telemetry::metrics;
use crate::tenant::TenantSettings;
use crate::webhook::{Sealed, Subscription, Unreadable, Webhook};

/// Webhooks read at once: with what one may have in bytes, at most 12 MiB.
const PAGE: i64 = 200;
/// How long a dead listening connection may go unnoticed: it is asked for the time
/// this often.
const PROBE: Duration = Duration::from_secs(10);

/// What changed. A load may come in several of these: tenants first.
#[derive(Debug)]
pub struct Changes<W> {
    /// New or changed tenants.
    pub tenants: Vec<TenantSettings>,
    /// The event types of new or changed tenants, if the feed brings them.
    pub event_types: Vec<TenantEventTypes>,
    /// New or changed webhooks.
    pub webhooks: Vec<W>,
    /// Webhooks to forget: deleted ones, and changed ones of which nothing can
    /// be used any more.
    pub gone: Vec<WebhookId>,
    /// After everything was loaded: the only webhooks to be kept.
    pub only: Option<HashSet<WebhookId>>,
}

// Derived, it would ask the same of `W`.
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

/// What a feed's owner keeps of a webhook.
pub trait Cached: Sized + Send {
    /// Whether the feed brings event types: matching wants them, delivering doesn't.
    const WITH_EVENT_TYPES: bool;

    /// The columns that [`Cached::of`] wants. `id` and `status` are among them.
    fn columns() -> String;

    /// From its row: what can be used of it, and what can't be read in it.
    fn of(row: &Row, keys: &Keyring) -> (Option<Self>, Option<Unreadable>);
}

impl Cached for Webhook {
    const WITH_EVENT_TYPES: bool = false;

    fn columns() -> String {
        Self::COLUMNS.to_owned()
    }

    /// Without its secret nothing can be sent: its deliveries wait.
    fn of(row: &Row, keys: &Keyring) -> (Option<Self>, Option<Unreadable>) {
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

    /// Matching needs no secret. It is opened all the same, to be told in time
    /// that dispatchers with the same keys can't deliver.
    fn of(row: &Row, keys: &Keyring) -> (Option<Self>, Option<Unreadable>) {
        (Some(Self::read(row)), Sealed::open(row, keys).err())
    }
}

/// All that a tenant says about its event types.
#[derive(Debug)]
pub struct TenantEventTypes {
    /// Whose they are.
    pub tenant: Tenant,
    /// Whether there are to be no others.
    pub strict: bool,
    /// Each of them.
    pub types: Vec<EventTypeRow>,
}

/// One event type, as far as events are checked against it.
#[derive(Debug)]
pub struct EventTypeRow {
    /// Its name.
    pub name: EventType,
    /// A JSON Schema, as text.
    pub schema: Option<String>,
}

/// Loads changes and hands them to its owner's `apply`.
pub struct Feed<W> {
    pool: Pool,
    keys: Keyring,
    ready: Readiness,
    apply: Box<dyn Fn(Changes<W>) + Send + Sync>,
    /// How many refreshes have begun.
    begun: AtomicU64,
    /// What [`Feed::revision`] answers; below 0: nothing was loaded yet.
    applied: AtomicI64,
    /// Held while loading, so that changes are applied in order.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The revision that has been applied; none before the first load.
    revision: Option<i64>,
    /// Which refresh succeeded last, counted as in `begun`.
    refreshed: u64,
    /// Webhooks that can't be read: their revision, and whether a key is missing.
    unreadable: HashMap<WebhookId, (i64, bool)>,
}

impl<W: Cached> Feed<W> {
    /// A feed that has loaded nothing yet. It tells `ready` how many webhooks are
    /// sealed with a key that isn't among `keys`.
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
    ///
    /// # Errors
    /// If PostgreSQL can't be asked.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut known = self.known.lock().await;
        // One that began after this call has seen all that this one is to see:
        // however many ask at once, two refreshes serve them.
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
            changed_event_types(&client, since).await?
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
        // What has been changed since it was asked for may have been seen or not;
        // it is above this revision, and so loaded again.
        known.revision = Some(revision);
        self.applied.store(revision, Ordering::SeqCst);
        Ok(())
    }

    /// Applies the webhooks above the known revision, a page at a time; answers
    /// which these are.
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
        let (usable, unreadable) = W::of(row, &self.keys);
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
        // Once for each change of it, however often it is loaded.
        if before.is_none_or(|(logged, _)| logged != revision) {
            let error = format!("{:#}", anyhow::Error::new(unreadable));
            error!(%webhook, error, "unreadable webhook: its deliveries wait");
        }
    }

    fn show_unreadable(&self, known: &Known) {
        let unreadable = known.unreadable.len();
        let missing_key = known.unreadable.values().filter(|(_, is)| *is).count();
        metrics().unreadable_webhooks.set(unreadable as i64);
        self.ready.unreadable(unreadable, missing_key);
    }

    /// Loads everything again, known or not.
    async fn reload(&self) -> anyhow::Result<()> {
        self.known.lock().await.revision = None;
        self.refresh().await
    }

    /// Keeps fresh by listening for announcements, until `stop`.
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
            warn!(error, ?pause, "not listening to PostgreSQL; trying again");
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
            // What was announced while nobody listened.
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
                    // One waiting refresh covers any number of announcements.
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

/// The types of tenants that changed, all of each tenant's: what was deleted is
/// what is missing.
async fn changed_event_types(client: &Client, since: i64) -> anyhow::Result<Vec<TenantEventTypes>> {
    let statement = client
        .prepare_cached(
            "-- changed_event_types\n\
             SELECT t.id, t.strict_event_types, e.name, e.schema \
             FROM tenants t LEFT JOIN event_types e ON e.tenant = t.id \
             WHERE t.revision > $1 ORDER BY t.id",
        )
        .await?;
    let mut tenants: Vec<TenantEventTypes> = Vec::new();
    for row in client.query(&statement, &[&since]).await? {
        let tenant: Tenant = row.get(0);
        if tenants.last().is_none_or(|last| last.tenant != tenant) {
            tenants.push(TenantEventTypes {
                tenant,
                strict: row.get(1),
                types: Vec::new(),
            });
        }
        // Without types the row is the tenant's alone.
        if let (Some(of_tenant), Some(name)) = (tenants.last_mut(), row.get(2)) {
            of_tenant.types.push(EventTypeRow {
                name,
                schema: row.get(3),
            });
        }
    }
    Ok(tenants)
}
