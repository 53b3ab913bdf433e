//! A private PostgreSQL and RabbitMQ, on which `make run`, the tests and the benchmarks run.
//!
//! [`Pair::start`] takes a folder and starts both servers in it from the
//! machine's installed binaries: unprivileged, on 127.0.0.1 only, on their own ports.
//! Data, ports and node name stay in the folder, so the next start finds them again. A
//! server whose URL is given is *external*: it is used as it is, never started and never
//! signalled. No other machine is contacted.
//!
//! No server outlives the owner, not even when the owner is killed with -9: see `watchdog`.
//!
//! | file | |
//! |---|---|
//! | `home` | the folder, who may use it, the state kept in it |
//! | `user` | root switches to an unprivileged user; which folders that user can reach |
//! | `binaries` | where the distributions install the servers |
//! | `server` | start, kill, pause, measure: the same for both servers |
//! | `postgres`, `rabbitmq` | what is specific to one server |
//! | `cluster` | three RabbitMQ nodes, and a balancer |
//! | `network` | proxies between these nodes |
//! | `standby` | a replica of PostgreSQL |
//! | [`disk`] | a small disk that a test can fill |
//! | `process` | which processes are ours, and signals to them |
//! | `watchdog` | ends all servers when the owner has ended |

mod binaries;
mod cluster;
pub mod disk;
mod home;
mod network;
mod postgres;
mod process;
mod rabbitmq;
mod server;
mod standby;
mod user;
mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use url::Url;

use disk::Disk;
use home::Home;
use watchdog::Watchdog;

pub use cluster::Cluster;
pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;
pub use server::{Recipe, Server};
pub use standby::Standby;

/// How often [`Pair::death`] checks the servers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Gets a message for each step that takes a while.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// What RabbitMQ's management API is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Management {
    /// RabbitMQ doesn't serve it.
    Off,
    /// To create and delete virtual hosts. It counts nothing, so it costs next to nothing.
    Objects,
    /// To read its statistics of queues and connections too.
    Statistics,
}

#[derive(Clone)]
pub struct PairConfig {
    /// The folder with the data. It is kept between runs and created if it doesn't
    /// exist. Only one pair at a time can use it.
    pub folder: PathBuf,
    /// RabbitMQ gets the vhosts `/` and `t0` to `t{vhosts - 1}`.
    pub vhosts: usize,
    /// RabbitMQ serves metrics for Prometheus.
    pub metrics: bool,
    /// RabbitMQ speaks AMQP 1.0 too. Version 4 always does.
    pub amqp10: bool,
    pub management: Management,
    /// PostgreSQL's `fsync`. If it is off, committed rows survive a crash of
    /// PostgreSQL but not of the machine.
    pub fsync: bool,
    /// PostgreSQL gets its own [`Disk`], which can be filled.
    pub small_disk: bool,
    /// Use this PostgreSQL instead of starting one.
    pub database_url: Option<String>,
    /// Use this RabbitMQ instead of starting one.
    pub amqp_url: Option<String>,
    pub progress: Option<Progress>,
}

impl PairConfig {
    /// Both servers private, safe against power loss, and only the vhost `/`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            vhosts: 0,
            metrics: false,
            amqp10: false,
            management: Management::Off,
            fsync: true,
            small_disk: false,
            database_url: None,
            amqp_url: None,
            progress: None,
        }
    }
}

/// Both servers, running. Dropping this kills the private ones.
pub struct Pair {
    // The order of the fields is the order of dropping. The watchdog is last: it
    // still guards while the servers are killed, and keeps the folder locked until
    // it has looked for leftovers.
    postgres: Server<Postgres>,
    rabbitmq: Server<RabbitMq>,
    disk: Option<Disk>,
    watchdog: Option<Watchdog>,
    home: Option<Arc<Home>>,
}

impl Pair {
    /// Starts the private servers concurrently and waits until both answer.
    ///
    /// Waits up to 20 s for an earlier owner of the folder to end, then up to 180 s
    /// for each server. An error contains the end of the server's log.
    pub async fn start(config: PairConfig) -> anyhow::Result<Self> {
        let say = config.progress.clone().unwrap_or_else(|| Arc::new(|_| ()));
        let database_url = external(config.database_url.as_deref(), "DATABASE_URL")?;
        let amqp_url = external(config.amqp_url.as_deref(), "AMQP_URL")?;
        if let (Some(database), Some(amqp)) = (&database_url, &amqp_url) {
            return Ok(Self {
                postgres: Server::external(database.clone()),
                rabbitmq: Server::external(amqp.clone()),
                disk: None,
                watchdog: None,
                home: None,
            });
        }

        let home = Arc::new(Home::open(&config.folder, &say).await?);
        let disk = match config.small_disk {
            true => Some(Disk::mount(&home.subfolder(Postgres::NAME)?)?),
            false => None,
        };
        let watchdog = Watchdog::start(&home)?;
        let postgres = match database_url {
            Some(url) => Server::external(url),
            None => Server::private(Postgres::new(&home, config.fsync)?, &home, &say),
        };
        let rabbitmq = match amqp_url {
            Some(url) => Server::external(url),
            None => {
                let recipe = RabbitMq::new(&home, &config)?;
                Server::private(recipe, &home, &say)
            }
        };
        let pair = Self {
            postgres,
            rabbitmq,
            disk,
            watchdog: Some(watchdog),
            home: Some(home),
        };
        tokio::try_join!(
            pair.postgres.start_unless_external(),
            pair.rabbitmq.start_unless_external(),
        )?;
        Ok(pair)
    }

    #[must_use]
    pub fn postgres(&self) -> &Server<Postgres> {
        &self.postgres
    }

    #[must_use]
    pub fn rabbitmq(&self) -> &Server<RabbitMq> {
        &self.rabbitmq
    }

    /// PostgreSQL's own disk, if there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The folder with the data. It isn't the configured one if the servers' user
    /// couldn't reach that. `None` if both servers are external.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.home.as_deref().map(Home::folder)
    }

    /// Waits until a private server ends by itself. The error says which server, and
    /// has the end of its log.
    pub async fn death(&self) -> anyhow::Error {
        loop {
            if let Some(death) = self.postgres.death().or_else(|| self.rabbitmq.death()) {
                return death;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Shuts both servers down in order and keeps the data.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shut_down().await
    }

    /// Kills both servers and deletes the folder.
    pub async fn discard(mut self) -> anyhow::Result<()> {
        self.postgres.kill_unless_external().await?;
        self.rabbitmq.kill_unless_external().await?;
        drop(self.disk.take());
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss().await;
        }
        match self.home.take() {
            Some(home) => home.delete(),
            None => Ok(()),
        }
    }

    async fn shut_down(&mut self) -> anyhow::Result<()> {
        let (postgres, rabbitmq) = tokio::join!(
            self.postgres.stop_unless_external(),
            self.rabbitmq.stop_unless_external(),
        );
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss().await;
        }
        postgres.and(rabbitmq)
    }
}

fn external(url: Option<&str>, name: &str) -> anyhow::Result<Option<Url>> {
    let Some(url) = url else { return Ok(None) };
    // The URL contains a password, so the error doesn't repeat it.
    let url = Url::parse(url).with_context(|| format!("{name} is not a URL"))?;
    ensure!(url.has_host(), "{name} names no host");
    Ok(Some(url))
}
