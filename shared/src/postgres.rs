//! The connection pool to PostgreSQL, and the database schema.
//!
//! Statements are plain SQL beside the code that uses them. Each has its name in a
//! leading comment and is prepared once per connection.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Hook, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::warn;

use crate::telemetry::metrics;
use crate::{clock, postgres_tls};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// A connection that takes longer to open is given up and tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that doesn't acknowledge for this long is gone.
const SILENT_PEER: Duration = Duration::from_secs(15);

/// The database's URL, parsed, with what every connection of ours has in common.
///
/// # Errors
/// If the URL can't be parsed. The message doesn't repeat it: it may hold a password.
pub fn config(url: &SecretString, name: &str) -> anyhow::Result<Database> {
    let (url, tls) = postgres_tls::split(url.expose_secret());
    let mut config: Config = url
        .parse()
        .map_err(|_| anyhow::anyhow!("it is not a PostgreSQL URL"))
        .context("DATABASE_URL")?;
    let tls = tls.apply(&mut config).context("DATABASE_URL")?;
    config
        .application_name(name)
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(SILENT_PEER)
        .tcp_user_timeout(SILENT_PEER);
    // Every statement of a hot path is a lookup by key. A fresh day's partition
    // has no statistics yet, and a plan guessed without them scans it whole; one
    // made while it was empty would be kept while it fills, so each execution
    // is planned anew. Hash joins stay: without them a batch joined to its rows
    // is a nested loop over the batch squared.
    // Without JIT: no statement is long enough to be worth compiling.
    let options = config.get_options().unwrap_or_default();
    let options = format!(
        "{options} -c enable_seqscan=off -c enable_mergejoin=off \
         -c plan_cache_mode=force_custom_plan -c jit=off \
         -c statement_timeout=30s -c idle_in_transaction_session_timeout=30s"
    );
    config.options(options.trim_start().to_owned());
    Ok(Database { config, tls })
}

/// Where the database is, and how it is connected to.
#[derive(Clone)]
pub struct Database {
    /// What tokio-postgres needs to know.
    pub config: Config,
    /// What connects with TLS. `None`: no connection does.
    pub tls: Option<MakeRustlsConnect>,
}

impl Database {
    /// Warns if anybody on the way to the server may read what is sent.
    pub fn warn_if_plain(&self) {
        if postgres_tls::may_be_plain(&self.config) {
            warn!(
                "DATABASE_URL has no sslmode: the connection to PostgreSQL is not encrypted unless the \
                 server offers it; add sslmode=verify-full, or sslmode=disable if the network is trusted"
            );
        }
    }
}

/// Opens a pool; connections are made when they are first needed.
///
/// # Errors
/// If the pool can't be built.
pub fn pool(database: &Database, size: usize) -> anyhow::Result<Pool> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let config = database.config.clone();
    let manager = match &database.tls {
        None => Manager::from_config(config, NoTls, recycling),
        Some(tls) => Manager::from_config(config, tls.clone(), recycling),
    };
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(CONNECT_TIMEOUT))
        .post_create(Hook::sync_fn(|_, _| {
            metrics().postgres_connects.inc();
            Ok(())
        }))
        .build()
        .context("building the PostgreSQL pool")
}

/// Brings the schema up to date. Safe to run by several processes at once.
///
/// # Errors
/// If the database can't be reached, or a migration that ran was edited since.
pub async fn migrate(pool: &Pool) -> anyhow::Result<usize> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    // Any number, as long as nothing else locks it: "posthorn" in ASCII.
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

/// Learns what time PostgreSQL's clock shows: before anything else is done.
///
/// # Errors
/// If the database can't be reached.
pub async fn measure_clock(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    clock::measure_first(&client).await
}

/// Fails unless the schema is the one that this binary was built for.
///
/// # Errors
/// If the database can't be reached, or `posthorn-ingest migrate` has to be run.
pub async fn check_schema(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    let latest = embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(|migration| i64::from(migration.version()))
        .max()
        .unwrap_or_default();
    let current: i64 = match client
        .query_one(
            "SELECT coalesce(max(version), 0)::bigint FROM posthorn_migrations",
            &[],
        )
        .await
    {
        Ok(row) => row.get(0),
        Err(error) if error.code().is_some() => 0,
        Err(error) => return Err(error).context("reading the schema's version"),
    };
    anyhow::ensure!(
        current >= latest,
        "the database's schema is version {current}, this binary needs {latest}: \
         run `posthorn-ingest migrate`"
    );
    Ok(())
}
