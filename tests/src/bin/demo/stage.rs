//! Starts and stops all processes, in order.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use futures_util::future::{select_all, try_join_all};
use harness::pair::{Pair, PairConfig};
use harness::service::{Service, command};
use shared::seal::fill_random;
use shared::secret::Secret;
use tokio::net::TcpListener;

use crate::home::Home;
use crate::print::say;
use crate::shop::Shop;

/// The ports, unless they are taken.
const API: u16 = 8080;
const DISPATCHERS: [u16; 2] = [8081, 8082];
const SHOP: u16 = 8090;

/// The running processes. Dropping this kills them.
#[derive(Default)]
pub(crate) struct Stage {
    // In the order in which they are stopped.
    dispatchers: Vec<Service>,
    ingest: Option<Service>,
    shop: Option<Shop>,
    pair: Option<Pair>,
}

/// The addresses and secrets of everything.
pub(crate) struct Place {
    pub(crate) home: Home,
    /// The settings of Posthorn's processes.
    pub(crate) settings: Vec<(String, String)>,
    /// A global token.
    pub(crate) admin_token: String,
    /// The secret that the shop verifies with.
    pub(crate) webhook_secret: String,
    /// `host:port` of the API.
    pub(crate) api: String,
    /// `host:port` of the dispatchers' metrics.
    pub(crate) dispatchers: Vec<String>,
    /// `host:port` of the shop.
    pub(crate) shop: String,
    /// RabbitMQ, with its password.
    pub(crate) amqp_url: String,
    /// Whether RabbitMQ is external.
    pub(crate) amqp_is_external: bool,
}

impl Stage {
    /// Starts everything and waits until all of it is ready.
    pub(crate) async fn set(&mut self) -> anyhow::Result<Place> {
        let begun = Instant::now();
        let step = move |what: &str| {
            say(format_args!(
                "{:5.1} s  {what}",
                begun.elapsed().as_secs_f64()
            ));
        };
        let home = Home::open()?;
        let master_key = home.secret_or("master-key", || base64(&random()))?;
        let admin_token = home.secret_or("admin-token", || hex::encode(random()))?;
        let webhook_secret =
            home.secret_or("webhook-secret", || Secret::generate().expose().to_owned())?;

        let mut config = PairConfig::new(home.path("servers"));
        config.database_url = variable("DATABASE_URL");
        config.amqp_url = variable("AMQP_URL");
        config.progress = Some(Arc::new(step));
        if config.database_url.is_some() {
            step("using the PostgreSQL of DATABASE_URL; it gets Posthorn's tables");
        }
        if config.amqp_url.is_some() {
            step("using the RabbitMQ of AMQP_URL; it gets Posthorn's queues");
        }
        if config.database_url.is_none() || config.amqp_url.is_none() {
            step("starting servers of our own");
        }
        let pair = self.pair.insert(Pair::start(config).await?);
        if !pair.rabbitmq().is_external() {
            let program = pair.rabbitmq().command_script("rabbitmqctl")?;
            home.keep_program("rabbitmqctl", &program)?;
        }

        let settings = [
            ("DATABASE_URL", pair.postgres().url()),
            ("AMQP_URL", pair.rabbitmq().url()),
            ("MASTER_KEY", &master_key),
            ("ADMIN_TOKEN", &admin_token),
            // For the demonstration only: its endpoint is on this machine.
            ("ALLOW_HTTP", "true"),
            ("ALLOWED_NETWORKS", "127.0.0.0/8"),
            // Their output goes to files, so no colours.
            ("NO_COLOR", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let migrated = command("posthorn-ingest", &["migrate"], &settings).await;
        step(&format!(
            "the database is up to date: {}",
            migrated.context("preparing the database")?
        ));

        // All listeners are kept until all are chosen, so that no two are the same.
        let api = listen(API, "the API").await?;
        let mut dispatchers = Vec::new();
        for port in DISPATCHERS {
            dispatchers.push(listen(port, "a dispatcher").await?);
        }
        let shop = listen(SHOP, "the demo receiver").await?;
        let place = Place {
            api: api.local_addr()?.to_string(),
            dispatchers: dispatchers
                .iter()
                .map(|listener| Ok(listener.local_addr()?.to_string()))
                .collect::<anyhow::Result<_>>()?,
            shop: shop.local_addr()?.to_string(),
            amqp_url: pair.rabbitmq().url().to_owned(),
            amqp_is_external: pair.rabbitmq().is_external(),
            home,
            settings,
            admin_token,
            webhook_secret,
        };
        drop((api, dispatchers));

        self.shop = Some(Shop::start(shop, place.webhook_secret.clone()));
        let start = |name: &str, binary: &str, address: &str| {
            let log = place.home.new_log(name)?;
            Service::start(name, binary, address, &place.settings, &log)
        };
        let ingest = start("ingest", "posthorn-ingest", &place.api)?;
        let ingest = self.ingest.insert(ingest);
        for (address, name) in place
            .dispatchers
            .iter()
            .zip(["dispatcher-1", "dispatcher-2"])
        {
            self.dispatchers
                .push(start(name, "posthorn-dispatcher", address)?);
        }
        ingest.ready().await?;
        try_join_all(self.dispatchers.iter_mut().map(Service::ready)).await?;
        step("ingest and two dispatchers are ready");
        Ok(place)
    }

    /// The shop, and a future that ends when a process ends unexpectedly.
    pub(crate) fn parts(&mut self) -> anyhow::Result<(&Shop, impl Future<Output = anyhow::Error>)> {
        let Self {
            dispatchers,
            ingest: Some(ingest),
            shop: Some(shop),
            pair: Some(pair),
        } = self
        else {
            return Err(anyhow!("not everything has been started"));
        };
        let death = async {
            let dispatchers = dispatchers.iter_mut().map(|one| Box::pin(one.ended()));
            tokio::select! {
                (death, ..) = select_all(dispatchers) => death,
                death = ingest.ended() => death,
                death = pair.death() => death,
            }
        };
        Ok((shop, death))
    }

    /// Stops everything: the dispatchers while the shop still answers, the servers
    /// last.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let dispatchers = std::mem::take(&mut self.dispatchers);
        let dispatchers = try_join_all(dispatchers.into_iter().map(Service::stop)).await;
        let ingest = match self.ingest.take() {
            Some(ingest) => ingest.stop().await,
            None => Ok(()),
        };
        self.shop = None;
        let pair = match self.pair.take() {
            Some(pair) => pair.stop().await,
            None => Ok(()),
        };
        dispatchers?;
        ingest?;
        pair?;
        say("stopped; the stored data is there on the next run");
        Ok(())
    }
}

/// A listener on this port of 127.0.0.1, or on another port with the same ending.
async fn listen(port: u16, what: &str) -> anyhow::Result<TcpListener> {
    for candidate in (port..u16::MAX).step_by(1000) {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, candidate)).await {
            if candidate != port {
                say(format_args!(
                    "         port {port} is taken: {what} is on {candidate}"
                ));
            }
            return Ok(listener);
        }
    }
    Err(anyhow!("no free port for {what}"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    fill_random(&mut bytes);
    bytes
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
