//! The connection pool to PostgreSQL, and the database schema.
//!
//! Statements are plain SQL beside the code that uses them. Each has its name in a
//! leading comment and is prepared once per connection.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{
    ClientWrapper as Client, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod,
    Runtime,
};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::supervise::until_done;
use crate::telemetry::metrics;
use crate::{clock, postgres_tls};

/// One column of many rows, as an array that a statement takes as a parameter:
/// `column!(rows, row => row.id)`.
#[macro_export]
macro_rules! column {
    ($rows:expr, $row:pat => $value:expr) => {
        &$rows.iter().map(|$row| $value).collect::<Vec<_>>()
    };
}

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// A connection attempt that takes longer is given up and repeated.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection whose peer acknowledges nothing for this long is closed.
const SILENT_PEER: Duration = Duration::from_secs(15);
/// A connection that is older is closed when it would be used next. What a session
/// of PostgreSQL's remembers of each day's partitions, and of statements on them,
/// would grow as long as it lives.
const OLDEST_CONNECTION: Duration = Duration::from_secs(3600);

/// Parses the database's URL and adds the options that all our connections have.
///
/// # Errors
/// If the URL can't be parsed. The message doesn't repeat the URL, which may contain
/// a password.
pub fn config(url: &SecretString, name: &str) -> anyhow::Result<Database> {
    let (url, tls) = postgres_tls::split(url.expose_secret());
    let mut config: Config = url
        .parse()
        .map_err(|_| anyhow::anyhow!("must be a valid PostgreSQL URL"))
        .context("DATABASE_URL")?;
    let tls = tls.apply(&mut config).context("DATABASE_URL")?;
    config
        .application_name(name)
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(SILENT_PEER)
        .tcp_user_timeout(SILENT_PEER);
    // Every frequent statement looks rows up by key. A new day's partition has no
    // statistics yet, so the planner would guess and scan all of it. A plan that was
    // made while the partition was empty would be kept while it fills. So each
    // execution is planned again, and sequential scans and merge joins are off. Hash
    // joins stay on: without them, joining a batch to its rows is a nested loop over
    // the batch squared. JIT is off: no statement runs long enough to be worth
    // compiling.
    let options = config.get_options().unwrap_or_default();
    let options = format!(
        "{options} -c enable_seqscan=off -c enable_mergejoin=off \
         -c plan_cache_mode=force_custom_plan -c jit=off \
         -c statement_timeout=30s -c idle_in_transaction_session_timeout=30s"
    );
    config.options(options.trim_start().to_owned());
    Ok(Database { config, tls })
}

/// How to connect to the database.
#[derive(Clone)]
pub struct Database {
    pub config: Config,
    /// The TLS connector. `None`: no connection uses TLS.
    pub tls: Option<MakeRustlsConnect>,
}

impl Database {
    /// For statements that look rows up by their keys, and are executed again and
    /// again: each is planned once for a connection, not at each execution.
    ///
    /// Only one kind of plan is left to the planner: nested loops over index scans,
    /// whose work grows with the batch and with nothing else. So a plan that was made
    /// while a partition was empty, or with statistics of another one, is the right
    /// one still.
    #[must_use]
    pub fn planned_once(self) -> Self {
        self.with_options("-c plan_cache_mode=force_generic_plan -c enable_hashjoin=off")
    }

    /// For the API and the console, most of whose statements read a page of a list: rows are read in
    /// an index's order, and no further than a page needs. A bitmap would be made of all rows that
    /// match, however many. The planner prefers it where it expects few.
    #[must_use]
    pub fn reading_pages(self) -> Self {
        self.with_options("-c enable_bitmapscan=off")
    }

    /// For statements that somebody waits for: none takes longer.
    #[must_use]
    pub fn giving_up_after(self, time: Duration) -> Self {
        self.with_options(&format!("-c statement_timeout={}ms", time.as_millis()))
    }

    /// With settings of PostgreSQL beside those that there are. The last of two values counts.
    fn with_options(mut self, more: &str) -> Self {
        let options = self.config.get_options().unwrap_or_default();
        let options = format!("{options} {more}");
        self.config.options(options);
        self
    }

    /// Whether anybody on the way to the server may read what is sent.
    #[must_use]
    pub fn may_be_plain(&self) -> bool {
        postgres_tls::may_be_plain(&self.config)
    }

    /// Warns if anybody on the way to the server may read what is sent.
    pub fn warn_if_plain(&self) {
        if self.may_be_plain() {
            warn!(
                "DATABASE_URL has no sslmode: the connection to PostgreSQL is not encrypted unless the \
                 server offers it; add sslmode=verify-full, or sslmode=disable if the network is trusted"
            );
        }
    }
}

/// Creates a pool. Connections are opened when they are first needed.
///
/// # Errors
/// If the pool can't be built.
pub fn pool(database: &Database, size: usize) -> anyhow::Result<Pool> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let config = database.config.clone();
    // Each host of the URL may take as long as that, when its machine is gone.
    let hosts = config.get_hosts().len().max(1) as u32;
    let manager = match &database.tls {
        None => Manager::from_config(config, NoTls, recycling),
        Some(tls) => Manager::from_config(config, tls.clone(), recycling),
    };
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT * hosts))
        .create_timeout(Some(CONNECT_TIMEOUT * hosts))
        .recycle_timeout(Some(CONNECT_TIMEOUT))
        .pre_recycle(Hook::sync_fn(|_, metrics| match metrics.age() {
            age if age < OLDEST_CONNECTION => Ok(()),
            _ => Err(HookError::message("it is old")),
        }))
        .post_create(Hook::sync_fn(|_, _| {
            metrics().postgres_connects.inc();
            Ok(())
        }))
        .build()
        .context("building the PostgreSQL pool")
}

/// Runs the pending migrations. Several processes may call this at once.
///
/// # Errors
/// If the database can't be reached, if its schema is a newer version's, or if a migration
/// that ran was edited since.
pub async fn migrate(pool: &Pool) -> anyhow::Result<usize> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let Schema { current, needed } = schema_of(&client).await?;
    anyhow::ensure!(
        current <= needed,
        "the database's schema is version {current}, and this binary knows versions up to {needed}: \
         nothing was changed; run `posthorn-ingest migrate` of the newer version"
    );
    // The key of an advisory lock, different from all our others: "posthorn" in
    // ASCII.
    const LOCK: i64 = 0x706f_7374_686f_726e;
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
        .await?;
    let report = embedded::migrations::runner()
        .set_migration_table_name("posthorn_migrations")
        .run_async(&mut **client)
        .await;
    client
        .execute("SELECT pg_advisory_unlock($1)", &[&LOCK])
        .await?;
    Ok(report
        .context("migrating the database")?
        .applied_migrations()
        .len())
}

/// Measures PostgreSQL's clock. Call this before anything else that uses the time.
///
/// # Errors
/// If the database can't be reached.
pub async fn measure_clock(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    clock::measure_first(&client).await
}

/// Waits until PostgreSQL has a schema that this process can work with, and measures its
/// clock. `None`: told to stop.
pub async fn wait_until_ready(pool: &Pool, stop: &CancellationToken) -> Option<()> {
    let problem = "not started yet: PostgreSQL or its schema is not ready";
    until_done(stop, problem, || async {
        check_schema(pool).await?;
        measure_clock(pool).await
    })
    .await
}

/// Checks that the schema is the one that this binary was built for.
///
/// # Errors
/// If the database can't be reached, or if `posthorn-ingest migrate` has to be run.
pub async fn check_schema(pool: &Pool) -> anyhow::Result<()> {
    let Schema { current, needed } = schema(pool).await?;
    anyhow::ensure!(
        current >= needed,
        "the database's schema is version {current}, this binary needs {needed}: \
         run `posthorn-ingest migrate`"
    );
    Ok(())
}

/// The version of the database's schema, and the one that this binary was built for. A newer
/// one is fine for a process: migrations only add.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// 0: there is none.
    pub current: i64,
    pub needed: i64,
}

/// Reads the version of the database's schema.
///
/// # Errors
/// If the database can't be reached.
pub async fn schema(pool: &Pool) -> anyhow::Result<Schema> {
    schema_of(&*pool.get().await.context("connecting to PostgreSQL")?).await
}

async fn schema_of(client: &Client) -> anyhow::Result<Schema> {
    let needed = embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(|migration| i64::from(migration.version()))
        .max()
        .unwrap_or_default();
    let current = match client
        .query_one(
            "SELECT coalesce(max(version), 0)::bigint FROM posthorn_migrations",
            &[],
        )
        .await
    {
        Ok(row) => row.get(0),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => 0,
        Err(error) => return Err(error).context("reading the schema's version"),
    };
    Ok(Schema { current, needed })
}
