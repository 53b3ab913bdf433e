//! The system under test: two ingests, two dispatchers, their own RabbitMQ and
//! PostgreSQL, thirty webhooks of three tenants, and a proxy on every connection.
//!
//! Each replica has its own proxies, so that a fault can cut off one replica while the
//! other one works. The broker then gives the other one the jobs that the first still holds.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::json;
use url::Url;

use super::endpoints::Endpoints;
use super::ledger::{Kind, Ledger, TENANTS, Wants, everyone};
use crate::pair::Pair;
use crate::proxy::Proxy;
use crate::service::{Service, free_address};
use crate::world::World;

/// Replicas of each service.
pub const REPLICAS: usize = 2;
/// The heartbeat, in seconds. A peer that is silent for twice this long is
/// disconnected.
const HEARTBEAT: u32 = 2;
/// The timeout of an attempt, in milliseconds.
const TIMEOUT: u32 = 5_000;
/// `SWEEP_GRACE`, in seconds. A lost job is put back within half a minute, not within minutes.
/// A dispatcher that is cut off or frozen for less than this keeps its jobs.
pub const SWEEP_GRACE: u64 = 15;
/// The retry schedule of every webhook. It outlasts every fault.
const RETRIES: [u32; 40] = [1_000; 40];
/// The retry schedule of dead endpoints: no second attempt during the test.
const RETRIES_OF_THE_DEAD: [u32; 1] = [24 * 3_600_000];

/// A process that can be killed or frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// One of the ingests.
    Ingest(usize),
    /// One of the dispatchers.
    Dispatcher(usize),
    /// All processes of the broker.
    RabbitMq,
    /// All processes of the database.
    PostgreSql,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingest(n) => write!(f, "ingest {n}"),
            Self::Dispatcher(n) => write!(f, "dispatcher {n}"),
            Self::RabbitMq => f.write_str("rabbitmq"),
            Self::PostgreSql => f.write_str("postgresql"),
        }
    }
}

/// A connection between two parts, with a proxy on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    ProducerToRabbitMq,
    IngestToRabbitMq(usize),
    IngestToPostgreSql(usize),
    DispatcherToRabbitMq(usize),
    DispatcherToPostgreSql(usize),
    /// Between all dispatchers and the endpoints.
    ToReceivers,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProducerToRabbitMq => f.write_str("producer-rabbitmq"),
            Self::IngestToRabbitMq(n) => write!(f, "ingest {n}-rabbitmq"),
            Self::IngestToPostgreSql(n) => write!(f, "ingest {n}-postgresql"),
            Self::DispatcherToRabbitMq(n) => write!(f, "dispatcher {n}-rabbitmq"),
            Self::DispatcherToPostgreSql(n) => write!(f, "dispatcher {n}-postgresql"),
            Self::ToReceivers => f.write_str("dispatchers-receivers"),
        }
    }
}

/// A replica of a service. It is started again after every kill; its proxies stay.
struct Replica {
    binary: &'static str,
    running: Option<Service>,
    to_rabbitmq: Proxy,
    to_postgresql: Proxy,
}

/// See the module's text.
pub struct Field {
    /// The tests' world, with servers that may be killed.
    pub world: World,
    pub ledger: Arc<Ledger>,
    ingests: Vec<Replica>,
    dispatchers: Vec<Replica>,
    from_producer: Proxy,
    to_receivers: Proxy,
    endpoints: Endpoints,
}

impl Field {
    /// Starts everything. The behaviour of the endpoints follows from the seed.
    /// `small_disk`: see [`World::with_small_disk`].
    pub async fn set(seed: u64, small_disk: bool) -> anyhow::Result<Self> {
        let (timeout, grace) = (TIMEOUT.to_string(), SWEEP_GRACE.to_string());
        let settings = [
            ("WEBHOOK_TIMEOUT", timeout.as_str()),
            ("SWEEP_GRACE", &grace),
            ("SWEEP_INTERVAL", "1"),
            ("RUST_LOG", "info,lapin=off"),
        ];
        let world = match small_disk {
            true => World::with_small_disk(&settings).await,
            false => World::with_own_servers(&settings).await,
        };
        let ledger = Arc::new(Ledger::new(everyone()));
        let endpoints = Endpoints::start(ledger.clone(), seed).await?;
        let amqp = address(world.amqp_url())?;
        let database = address(world.database_url())?;
        let mut replicas = Vec::new();
        for n in 0..2 * REPLICAS {
            replicas.push(Replica {
                binary: ["posthorn-ingest", "posthorn-dispatcher"][n / REPLICAS],
                running: None,
                to_rabbitmq: Proxy::to(&amqp).await?,
                to_postgresql: Proxy::to(&database).await?,
            });
        }
        let mut field = Self {
            dispatchers: replicas.split_off(REPLICAS),
            ingests: replicas,
            from_producer: Proxy::to(&amqp).await?,
            to_receivers: Proxy::to(&endpoints.address().to_string()).await?,
            world,
            ledger,
            endpoints,
        };
        for n in 0..REPLICAS {
            field.start(Victim::Ingest(n)).await?;
            field.start(Victim::Dispatcher(n)).await?;
        }
        field.subscribe().await?;
        // If RabbitMQ is killed, it forgets queues that are younger than about three
        // seconds.
        field.servers()?.rabbitmq().flush_declarations().await?;
        Ok(field)
    }

    /// Creates the tenants and their webhooks.
    async fn subscribe(&self) -> anyhow::Result<()> {
        let ingest = self.ingests[0].running.as_ref().context("no ingest")?;
        let nobody = free_address()?;
        for tenant in TENANTS {
            let tenants = "/api/v1/admin/tenants";
            let body = json!({"id": tenant});
            let made = self
                .world
                .ask_as_operator(ingest, "POST", tenants, Some(body));
            let made = made.await;
            // The world's own tenant exists already.
            ensure!(matches!(made.status, 201 | 409), "{tenant}: {}", made.body);
            let token = self
                .world
                .command(&["token", "create", "--tenant", tenant])
                .await;
            for (webhook, subscriber) in self.ledger.subscribers().iter().enumerate() {
                if subscriber.tenant != tenant {
                    continue;
                }
                let (host, retries) = match subscriber.kind {
                    Kind::Dead => (nobody.clone(), RETRIES_OF_THE_DEAD.as_slice()),
                    _ => (self.to_receivers.address().to_string(), RETRIES.as_slice()),
                };
                let (events, filters) = match subscriber.wants {
                    Wants::All => ("*", json!({})),
                    Wants::Orders => ("order.*", json!({})),
                    Wants::Checkouts => ("item-checkout", json!({})),
                    Wants::Even => ("*", json!({"even": true})),
                };
                let body = json!({
                    "url": format!("http://{host}/{webhook}"),
                    "events": [events],
                    "filters": filters,
                    "timeout": TIMEOUT,
                    "retry_policy": {"delays": retries},
                });
                let path = "/api/v1/webhooks";
                let made = self.world.ask_as(&token, ingest, "POST", path, Some(body));
                let made = made.await;
                ensure!(made.status == 201, "a webhook: {}", made.body);
                let secret = made.body["secret"].as_str().unwrap_or_default();
                self.endpoints.trust(webhook, secret)?;
            }
        }
        Ok(())
    }

    /// The servers, for killing.
    pub fn servers(&self) -> anyhow::Result<&Pair> {
        self.world.pair.as_ref().context("they are shared")
    }

    /// The URL that the producer publishes to.
    pub fn producers_url(&self) -> anyhow::Result<String> {
        through(self.world.amqp_url(), &self.from_producer)
    }

    #[must_use]
    pub fn link(&self, link: Link) -> &Proxy {
        match link {
            Link::ProducerToRabbitMq => &self.from_producer,
            Link::IngestToRabbitMq(n) => &self.ingests[n].to_rabbitmq,
            Link::IngestToPostgreSql(n) => &self.ingests[n].to_postgresql,
            Link::DispatcherToRabbitMq(n) => &self.dispatchers[n].to_rabbitmq,
            Link::DispatcherToPostgreSql(n) => &self.dispatchers[n].to_postgresql,
            Link::ToReceivers => &self.to_receivers,
        }
    }

    /// Starts a killed process again and waits until it is ready.
    pub async fn start(&mut self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::RabbitMq => return self.servers()?.rabbitmq().start_again().await,
            Victim::PostgreSql => return self.servers()?.postgres().start_again().await,
            Victim::Ingest(_) | Victim::Dispatcher(_) => {}
        }
        let replica = self.replica(victim)?;
        let amqp = through(self.world.amqp_url(), &replica.to_rabbitmq)?;
        let amqp = format!("{amqp}?heartbeat={HEARTBEAT}");
        let database = through(self.world.database_url(), &replica.to_postgresql)?;
        let links = [("AMQP_URL", amqp.as_str()), ("DATABASE_URL", &database)];
        let service = self.world.service(replica.binary, &links).await;
        self.replica_mut(victim)?.running = Some(service);
        Ok(())
    }

    /// kill -9.
    pub async fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::RabbitMq => self.servers()?.rabbitmq().kill().await,
            Victim::PostgreSql => self.servers()?.postgres().kill().await,
            Victim::Ingest(_) | Victim::Dispatcher(_) => self.take(victim)?.kill().await,
        }
    }

    /// Sends SIGTERM and waits for a successful exit.
    pub async fn stop(&mut self, victim: Victim) -> anyhow::Result<()> {
        self.take(victim)?.stop().await
    }

    /// SIGSTOP.
    pub fn freeze(&self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::RabbitMq => self.servers()?.rabbitmq().pause(),
            Victim::PostgreSql => self.servers()?.postgres().pause(),
            Victim::Ingest(_) | Victim::Dispatcher(_) => self.running(victim)?.pause(),
        }
    }

    /// SIGCONT.
    pub fn thaw(&self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::RabbitMq => self.servers()?.rabbitmq().resume(),
            Victim::PostgreSql => self.servers()?.postgres().resume(),
            Victim::Ingest(_) | Victim::Dispatcher(_) => self.running(victim)?.resume(),
        }
    }

    fn running(&self, victim: Victim) -> anyhow::Result<&Service> {
        let running = self.replica(victim)?.running.as_ref();
        running.with_context(|| format!("{victim} doesn't run"))
    }

    fn take(&mut self, victim: Victim) -> anyhow::Result<Service> {
        let running = self.replica_mut(victim)?.running.take();
        running.with_context(|| format!("{victim} doesn't run"))
    }

    fn replica(&self, victim: Victim) -> anyhow::Result<&Replica> {
        match victim {
            Victim::Ingest(n) => self.ingests.get(n),
            Victim::Dispatcher(n) => self.dispatchers.get(n),
            Victim::RabbitMq | Victim::PostgreSql => None,
        }
        .with_context(|| format!("{victim} is no replica"))
    }

    fn replica_mut(&mut self, victim: Victim) -> anyhow::Result<&mut Replica> {
        match victim {
            Victim::Ingest(n) => self.ingests.get_mut(n),
            Victim::Dispatcher(n) => self.dispatchers.get_mut(n),
            Victim::RabbitMq | Victim::PostgreSql => None,
        }
        .with_context(|| format!("{victim} is no replica"))
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> anyhow::Result<String> {
    let url = Url::parse(url)?;
    let host = url.host_str().context("a URL without a host")?;
    let port = url.port().context("a URL without a port")?;
    Ok(format!("{host}:{port}"))
}

/// The same URL, but through a proxy.
fn through(url: &str, proxy: &Proxy) -> anyhow::Result<String> {
    let mut url = Url::parse(url)?;
    let port = Some(proxy.address().port());
    ensure!(url.set_port(port).is_ok(), "a URL without a host");
    Ok(url.into())
}
