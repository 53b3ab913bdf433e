//! A streaming replica of a pair's PostgreSQL, which can be promoted.

use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio_postgres::NoTls;

use super::binaries;
use super::home::Home;
use super::watchdog::Watchdog;
use super::{Pair, Progress};

const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's text. Killed when dropped.
pub struct Standby {
    server: Child,
    port: u16,
    primary: String,
    watchdog: Option<Watchdog>,
    home: Arc<Home>,
}

impl Standby {
    /// Copies the primary, follows it, and waits until it does. `synchronous`: the primary
    /// answers a COMMIT only when the standby has it, too.
    ///
    /// # Errors
    /// If a program of PostgreSQL's fails.
    pub async fn start(pair: &Pair, folder: &Path, synchronous: bool) -> anyhow::Result<Self> {
        let say: Progress = Arc::new(|_| ());
        let home = Arc::new(Home::open(folder, &say).await?);
        let (bin, version) = binaries::postgres()?;
        let data = home.subfolder("postgres")?.join(format!("data-{version}"));
        let primary = pair.postgres().url().to_owned();
        let url = format!("{primary}?application_name=standby");
        let copied = home
            .command(&bin.join("pg_basebackup"), Some("postgres"))
            .args([
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .args(["--dbname", &url])
            .status()
            .context("running pg_basebackup")?;
        ensure!(copied.success(), "pg_basebackup: {copied}");
        let watchdog = Watchdog::start(&home)?;
        let port = home.ports().postgres;
        let server = home
            .command(&bin.join("postgres"), Some("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", &format!("port={port}")])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            .args(["-c", "max_connections=300"])
            .args(["-c", "dynamic_shared_memory_type=mmap"])
            .spawn()
            .context("starting the standby")?;
        let standby = Self {
            server,
            port,
            primary,
            watchdog: Some(watchdog),
            home,
        };
        standby.waits_until("SELECT pg_is_in_recovery()").await?;
        if synchronous {
            let primary = connect(&standby.primary).await?;
            for statement in [
                "ALTER SYSTEM SET synchronous_standby_names = 'standby'",
                "SELECT pg_reload_conf()",
            ] {
                primary.batch_execute(statement).await?;
            }
        }
        standby.has_caught_up().await?;
        Ok(standby)
    }

    /// The primary's URL with the standby as its second host: whoever connects to it finds the
    /// one that takes writes.
    #[must_use]
    pub fn both(&self, primary: &str) -> String {
        let (before, path) = primary.rsplit_once('/').unwrap_or((primary, ""));
        let port = self.port;
        format!("{before},127.0.0.1:{port}/{path}?target_session_attrs=read-write&sslmode=disable")
    }

    /// A connection to it.
    ///
    /// # Errors
    /// If it doesn't accept one.
    pub async fn sql(&self) -> anyhow::Result<tokio_postgres::Client> {
        connect(&format!(
            "postgres://posthorn@127.0.0.1:{}/posthorn",
            self.port
        ))
        .await
    }

    /// Waits until it has replayed what the primary has written.
    ///
    /// # Errors
    /// If that takes more than a minute.
    pub async fn has_caught_up(&self) -> anyhow::Result<()> {
        let primary = connect(&self.primary).await?;
        let written: String = primary
            .query_one("SELECT pg_current_wal_lsn()::text", &[])
            .await?
            .get(0);
        let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        self.waits_until(&caught_up).await
    }

    /// Ends the stream from the primary: the standby looks for it where nobody is.
    ///
    /// # Errors
    /// If it isn't a standby any more.
    pub async fn cut_off(&self) -> anyhow::Result<()> {
        let sql = self.sql().await?;
        for statement in [
            "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=9'",
            "SELECT pg_reload_conf()",
        ] {
            sql.batch_execute(statement).await?;
        }
        self.waits_until(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')",
        )
        .await
    }

    /// Makes it the primary.
    ///
    /// # Errors
    /// If it doesn't become one.
    pub async fn promote(&self) -> anyhow::Result<()> {
        let sql = self.sql().await?;
        sql.batch_execute("SELECT pg_promote(true, 60)").await?;
        // Nobody follows it yet, so it must wait for nobody.
        for statement in [
            "ALTER SYSTEM RESET synchronous_standby_names",
            "SELECT pg_reload_conf()",
        ] {
            sql.batch_execute(statement).await?;
        }
        self.waits_until("SELECT NOT pg_is_in_recovery()").await
    }

    async fn waits_until(&self, question: &str) -> anyhow::Result<()> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(sql) = self.sql().await
                && let Ok(row) = sql.query_one(question, &[]).await
                && row.get::<_, Option<bool>>(0) == Some(true)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the standby never said yes: {question}")
    }

    /// Kills it and deletes its folder.
    ///
    /// # Errors
    /// If the folder can't be deleted.
    pub async fn discard(mut self) -> anyhow::Result<()> {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss().await;
        }
        self.server.wait()?;
        self.home.delete()
    }
}

async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
