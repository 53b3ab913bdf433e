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

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio_postgres::{AsyncMessage, NoTls};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::ids::{EventType, Tenant, WebhookId};
use crate::postgres;
use crate::seal::Keyring;
use crate::supervise::{Backoff, Readiness};
use crate::telemetry::metrics;
use crate::tenant::TenantSettings;
use crate::webhook::Webhook;

/// How long a dead listening connection may go unnoticed: it is asked this often.
const PROBE: Duration = Duration::from_secs(10);

/// What changed, in the order of revisions.
#[derive(Debug, Default)]
pub struct Changes {
    /// New or changed tenants.
    pub tenants: Vec<TenantSettings>,
    /// New, changed or deleted webhooks.
    pub webhooks: Vec<Webhook>,
    /// Changed ones that can't be read: what was known of them holds no longer.
    pub unreadable: Vec<WebhookId>,
    /// The event types of new or changed tenants, if the feed brings them.
    pub event_types: Vec<TenantEventTypes>,
    /// The revision after them.
    pub revision: i64,
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
pub struct Feed {
    pool: Pool,
    keys: Keyring,
    apply: Box<dyn Fn(Changes) + Send + Sync>,
    /// Whether its owner wants event types: matching does, delivering doesn't.
    with_event_types: bool,
    /// The revision that has been applied; held while loading, so that changes
    /// are applied in order.
    known: Mutex<i64>,
}

impl Feed {
    /// A feed that has loaded nothing yet.
    pub fn new(
        pool: Pool,
        keys: Keyring,
        apply: impl Fn(Changes) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::make(pool, keys, apply, false)
    }

    /// The same, for an owner that wants event types too.
    pub fn with_event_types(
        pool: Pool,
        keys: Keyring,
        apply: impl Fn(Changes) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::make(pool, keys, apply, true)
    }

    fn make(
        pool: Pool,
        keys: Keyring,
        apply: impl Fn(Changes) + Send + Sync + 'static,
        with_event_types: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            pool,
            keys,
            apply: Box::new(apply),
            with_event_types,
            known: Mutex::new(0),
        })
    }

    /// Applies every change that was committed before this call.
    ///
    /// # Errors
    /// If PostgreSQL can't be asked.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        let mut known = self.known.lock().await;
        let client = self.pool.get().await.context("connecting to PostgreSQL")?;
        let current = client
            .prepare_cached("-- catalogue_revision\nSELECT revision FROM catalogue")
            .await?;
        let revision: i64 = client.query_one(&current, &[]).await?.get(0);
        if revision == *known {
            return Ok(());
        }
        let tenants = client
            .prepare_cached(&format!(
                "-- changed_tenants\nSELECT {} FROM tenants \
                 WHERE revision > $1 AND revision <= $2",
                TenantSettings::COLUMNS
            ))
            .await?;
        let webhooks = client
            .prepare_cached(&format!(
                "-- changed_webhooks\nSELECT {} FROM webhooks \
                 WHERE revision > $1 AND revision <= $2 ORDER BY revision",
                Webhook::COLUMNS
            ))
            .await?;
        let tenants = client.query(&tenants, &[&*known, &revision]).await?;
        let webhooks = client.query(&webhooks, &[&*known, &revision]).await?;
        let event_types = if self.with_event_types {
            changed_event_types(&client, *known, revision).await?
        } else {
            Vec::new()
        };
        let (mut readable, mut unreadable) = (Vec::new(), Vec::new());
        for row in &webhooks {
            match self.read(row) {
                Ok(webhook) => readable.push(webhook),
                Err(webhook) => unreadable.push(webhook),
            }
        }
        let changes = Changes {
            tenants: tenants.iter().map(TenantSettings::read).collect(),
            webhooks: readable,
            unreadable,
            event_types,
            revision,
        };
        (self.apply)(changes);
        *known = revision;
        Ok(())
    }

    fn read(&self, row: &tokio_postgres::Row) -> Result<Webhook, WebhookId> {
        match Webhook::read(row, &self.keys) {
            Ok(webhook) => Ok(webhook),
            Err(cause) => {
                // Its deliveries wait until the row can be read again.
                let webhook: WebhookId = row.get("id");
                error!(%webhook, error = format!("{:#}", anyhow::Error::new(cause)), "unreadable webhook");
                metrics().unreadable_webhooks.inc();
                Err(webhook)
            }
        }
    }

    /// Loads everything again, known or not.
    async fn reload(&self) -> anyhow::Result<()> {
        *self.known.lock().await = -1;
        self.refresh().await
    }

    /// Keeps fresh by listening for announcements, until `stop`.
    pub async fn listen(
        &self,
        url: &SecretString,
        name: &str,
        ready: &Readiness,
        stop: &CancellationToken,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        loop {
            let ended = tokio::select! {
                ended = self.listen_once(url, name, ready, &mut backoff) => ended,
                () = stop.cancelled() => return,
            };
            ready.postgres(false);
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
        ready: &Readiness,
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
            // What was announced while nobody listened.
            self.reload().await?;
            info!("listening to PostgreSQL");
            ready.postgres(true);
            backoff.reset();
            loop {
                tokio::time::sleep(PROBE).await;
                tokio::time::timeout(PROBE, client.simple_query("SELECT 1")).await??;
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
async fn changed_event_types(
    client: &Client,
    known: i64,
    revision: i64,
) -> anyhow::Result<Vec<TenantEventTypes>> {
    let statement = client
        .prepare_cached(
            "-- changed_event_types\n\
             SELECT t.id, t.strict_event_types, e.name, e.schema \
             FROM tenants t LEFT JOIN event_types e ON e.tenant = t.id \
             WHERE t.revision > $1 AND t.revision <= $2 ORDER BY t.id",
        )
        .await?;
    let mut tenants: Vec<TenantEventTypes> = Vec::new();
    for row in client.query(&statement, &[&known, &revision]).await? {
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
