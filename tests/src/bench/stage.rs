//! What one round runs on: a new database and virtual host, a tenant with webhooks, a
//! receiver, and the services that the round asks for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use shared::topology;
use tokio_postgres::NoTls;

use super::receiver::Receiver;
use crate::history;
use crate::pair::Pair;
use crate::service::{Service, ask, command, free_address};

/// The virtual hosts of the pair. Rounds use them in turn.
pub const VHOSTS: usize = 40;
pub const TENANT: &str = "acme";
/// What seals secrets.
pub const MASTER_KEY: &str = "dGhlIGJlbmNobWFyayBoYXMgYSBtYXN0ZXIga2V5ISE=";
const ADMIN_TOKEN: &str = "the-operators-token-of-the-benchmark";
/// How long to wait for a condition.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module's text.
pub struct Stage<'a> {
    /// The servers.
    pub pair: &'a Pair,
    /// The receiver of all deliveries.
    pub receiver: Receiver,
    /// The tenant's API token.
    pub token: String,
    /// The virtual host.
    pub amqp_url: String,
    database: String,
    folder: PathBuf,
    settings: Vec<(String, String)>,
    services: AtomicU32,
}

impl<'a> Stage<'a> {
    /// Sets up a stage: logs at this level, and a receiver with this latency.
    pub async fn set(
        pair: &'a Pair,
        folder: &Path,
        log_level: &str,
        latency: Duration,
    ) -> anyhow::Result<Self> {
        Self::set_on(pair, folder, log_level, latency, None).await
    }

    /// Sets one on a copy of a database that has a past.
    ///
    /// # Errors
    /// If something can't be made.
    pub async fn set_on(
        pair: &'a Pair,
        folder: &Path,
        log_level: &str,
        latency: Duration,
        past: Option<&Month>,
    ) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let database = format!("bench_{n}");
        let amqp_url = pair
            .rabbitmq()
            .amqp_url(&format!("t{}", n as usize % VHOSTS));
        let admin = sql(pair, "posthorn").await?;
        let template = past.map_or_else(String::new, |Month { database }| {
            format!(" TEMPLATE {database} STRATEGY file_copy")
        });
        admin
            .batch_execute(&format!("CREATE DATABASE {database}{template}"))
            .await?;
        let database_url = pair.postgres().database_url(&database);
        let settings = [
            ("DATABASE_URL", database_url.as_str()),
            ("AMQP_URL", &amqp_url),
            ("MASTER_KEY", MASTER_KEY),
            ("ADMIN_TOKEN", ADMIN_TOKEN),
            // Measure the possible speed, not the allowed one.
            ("API_RATE_LIMIT", "0"),
            ("ALLOW_HTTP", "true"),
            ("ALLOWED_NETWORKS", "127.0.0.0/8"),
            ("RUST_LOG", log_level),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        command("posthorn-ingest", &["migrate"], &settings).await?;
        sql(pair, &database)
            .await?
            .execute(
                "INSERT INTO tenants (id, revision) VALUES ($1, 0) ON CONFLICT DO NOTHING",
                &[&TENANT],
            )
            .await?;
        let token = ["token", "create", "--tenant", TENANT];
        Ok(Self {
            token: command("posthorn-ingest", &token, &settings).await?,
            receiver: Receiver::start(latency).await?,
            folder: folder.join(&database),
            pair,
            amqp_url,
            database,
            settings,
            services: AtomicU32::new(0),
        })
    }

    /// A running ingest, with this many webhooks that want every event.
    pub async fn ingest(&self, webhooks: usize) -> anyhow::Result<Service> {
        let ingest = self.service("posthorn-ingest").await?;
        for webhook in 0..webhooks {
            let body = json!({"url": self.receiver.url(webhook), "events": ["*"]});
            self.webhook(&ingest, &body).await?;
        }
        Ok(ingest)
    }

    /// Creates another tenant and returns its API token.
    pub async fn tenant(&self, name: &str) -> anyhow::Result<String> {
        let tenant = "INSERT INTO tenants (id, revision, max_webhooks) VALUES ($1, 0, 10000)";
        self.sql().await?.execute(tenant, &[&name]).await?;
        let token = ["token", "create", "--tenant", name];
        command("posthorn-ingest", &token, &self.settings).await
    }

    /// Creates a webhook from the body of an API request.
    pub async fn webhook(&self, ingest: &Service, body: &Value) -> anyhow::Result<()> {
        let url = ingest.url("/api/v1/webhooks");
        let answer = ask(&url, &self.token, "POST", Some(body)).await?;
        ensure!(answer.status == 201, "a webhook: {}", answer.body);
        Ok(())
    }

    /// A running dispatcher.
    pub async fn dispatcher(&self) -> anyhow::Result<Service> {
        self.service("posthorn-dispatcher").await
    }

    /// A running dispatcher that holds at most this many jobs at a time.
    pub async fn dispatcher_holding(&self, jobs: u16) -> anyhow::Result<Service> {
        let concurrency = ("CONCURRENCY".to_owned(), jobs.to_string());
        self.service_with("posthorn-dispatcher", &[concurrency])
            .await
    }

    /// A running service.
    ///
    /// # Errors
    /// If it doesn't become ready.
    pub async fn service(&self, binary: &str) -> anyhow::Result<Service> {
        self.service_with(binary, &[]).await
    }

    async fn service_with(
        &self,
        binary: &str,
        more: &[(String, String)],
    ) -> anyhow::Result<Service> {
        std::fs::create_dir_all(&self.folder)?;
        let n = self.services.fetch_add(1, Ordering::Relaxed);
        let name = format!("{binary}-{n}");
        let log = self.folder.join(format!("{name}.log"));
        let settings = [self.settings.as_slice(), more].concat();
        let mut service = Service::start(&name, binary, &free_address()?, &settings, &log)?;
        service.ready().await?;
        Ok(service)
    }

    /// Declares the queues where no service does.
    pub async fn declare(&self) -> anyhow::Result<()> {
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await?;
        // Closed together with the connection.
        let channel = connection.create_channel().await?;
        topology::declare(&channel, 1).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// The database.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.pair.postgres().database_url(&self.database)
    }

    /// A connection to the database.
    pub async fn sql(&self) -> anyhow::Result<tokio_postgres::Client> {
        sql(self.pair, &self.database).await
    }

    /// Makes PostgreSQL write its dirty pages now, so that this doesn't happen in
    /// one round and not in another.
    pub async fn checkpoint(&self) -> anyhow::Result<()> {
        let client = sql(self.pair, &self.database).await?;
        Ok(client.batch_execute("CHECKPOINT").await?)
    }

    /// Removes the database, the queues and the logs.
    pub async fn strike(self) -> anyhow::Result<()> {
        let admin = sql(self.pair, "posthorn").await?;
        admin
            .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.database))
            .await?;
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let named = [
            topology::INGEST_QUEUE,
            topology::PARKING_QUEUE,
            topology::UNROUTED_QUEUE,
        ];
        let queues = named
            .map(str::to_owned)
            .into_iter()
            .chain(topology::OVERFLOW_QUEUES.map(str::to_owned))
            .chain([topology::jobs_queue(0)])
            .chain(topology::TIERS.map(|tier| format!("posthorn.retry.v1.{tier}s")));
        for queue in queues {
            channel
                .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                .await?;
        }
        connection.close(200, "done".into()).await?;
        // Leftovers are in the benchmark's own folder.
        let _ = std::fs::remove_dir_all(&self.folder);
        Ok(())
    }
}

/// A database with a month of deliveries, analyzed, that stages can be copies of.
pub struct Month {
    database: String,
}

impl Month {
    /// Makes one.
    ///
    /// # Errors
    /// If PostgreSQL or the migration fails.
    pub async fn fill(pair: &Pair, deliveries: u32) -> anyhow::Result<Self> {
        const DAYS: u32 = 31;
        let database = "bench_month".to_owned();
        let admin = sql(pair, "posthorn").await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .await?;
        let url = pair.postgres().database_url(&database);
        let amqp_url = pair.rabbitmq().amqp_url("t0");
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("AMQP_URL", &amqp_url),
            ("MASTER_KEY", MASTER_KEY),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        command("posthorn-ingest", &["migrate"], &settings).await?;
        let client = sql(pair, &database).await?;
        let tenant = "INSERT INTO tenants (id, revision) VALUES ($1, 0)";
        client.execute(tenant, &[&TENANT]).await?;
        history::fill(&client, TENANT, DAYS, deliveries / DAYS).await?;
        client.batch_execute("VACUUM ANALYZE").await?;
        // A database with sessions can't be copied.
        drop(client);
        until("the last session's end", 1, async || {
            let sessions = "SELECT (count(*) = 0)::int4::int8 FROM pg_stat_activity \
                            WHERE datname = $1 AND backend_type = 'client backend'";
            let ended = admin.query_one(sessions, &[&database]).await?;
            Ok(ended.get::<_, i64>(0) as u64)
        })
        .await?;
        Ok(Self { database })
    }
}

/// A connection that serves itself.
///
/// # Errors
/// If there is none to be had.
pub async fn sql(pair: &Pair, database: &str) -> anyhow::Result<tokio_postgres::Client> {
    let url = pair.postgres().database_url(database);
    let (client, connection) = tokio_postgres::connect(&url, NoTls)
        .await
        .context("connecting to PostgreSQL")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Waits until a number has grown to this, and returns the number.
pub async fn until(
    what: &str,
    least: u64,
    mut look: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is = look().await?;
        if is >= least {
            return Ok(is);
        }
        ensure!(
            Instant::now() < deadline,
            "{what}: {is} of {least} after two minutes"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
