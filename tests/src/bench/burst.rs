//! `make bench ARGS=burst`: how much does one tenant's burst delay another tenant's events?
//!
//! One tenant publishes at a low, steady rate. Its latency from publishing to arrival is
//! measured twice: while nobody else publishes, and while another tenant publishes a burst
//! (many events, or a few that are expensive to match). Two ingests and one dispatcher
//! run. The result is the difference of the two p99.
//!
//! First the same two tenants publish without Posthorn: a queue each, and a program that takes
//! the quiet tenant's messages and POSTs them ([`floor`]). Nobody takes the others. That difference
//! is a lower bound for what RabbitMQ and both publishers add on this machine.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use shared::topology;

use super::floor::{self, Floor};
use super::generator::{Generator, Load, PAYLOAD, event_id};
use super::kinds::Door;
use super::receiver::Receiver;
use super::stage::{Stage, TENANT, until};
use crate::pair::Pair;
use crate::producer::{Producer, Publication};
use crate::service::{Service, ask};

/// Whose burst it is.
const LOUD: &str = "loud";
/// Events published and delivered before measuring begins.
const WARM_UP: u64 = 200;
/// The exchange for what doesn't go through Posthorn.
const ALONE: &str = "bench.alone";
const BROKER_ALONE: &str = "RabbitMQ alone";
/// The target: the p99 may grow by this many milliseconds.
const TARGET: f64 = 250.0;
/// A burst must be delivered within this time.
const LONGEST: Duration = Duration::from_secs(300);
/// Webhooks whose filters are expensive, and the size of those filters.
const HEAVY_WEBHOOKS: usize = 50;
const HEAVY_VALUES: u32 = 33_000;

/// The sizes of the benchmark.
#[derive(Args)]
pub struct Burst {
    /// Events of the burst.
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Events of the burst that take long to match.
    #[arg(long, default_value_t = 200)]
    heavy: u64,
    /// Events a second of the quiet tenant.
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// How long each measures.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only bursts whose name contains this; may be repeated.
    #[arg(long)]
    only: Vec<String>,
}

/// The events that are published at once.
#[derive(Clone, Copy)]
enum Kind {
    /// Events with this many matches each.
    Many(Door, usize),
    /// As many events with this many matches each, half of them over AMQP and half over HTTP at
    /// the same time.
    Both(usize),
    /// Events without a match that are expensive to match.
    Heavy,
}

impl Burst {
    /// Measures, and answers a table.
    pub async fn measure(&self, pair: &Pair, folder: &Path) -> anyhow::Result<String> {
        let mut table = format!(
            "{:<44} {:>8} {:>8} {:>8} {:>8}\n",
            "milliseconds from publishing to arrival", "p50", "p95", "p99", "max"
        );
        if self.is_wanted(BROKER_ALONE) {
            self.broker_alone(pair, folder, &mut table).await?;
        }
        for kind in [
            Kind::Many(Door::Amqp, 1),
            Kind::Many(Door::Amqp, 10),
            Kind::Many(Door::Http, 1),
            Kind::Many(Door::Http, 10),
            Kind::Both(1),
            Kind::Both(10),
            Kind::Heavy,
        ] {
            let name = self.name(kind);
            if self.is_wanted(&name) {
                self.beside(pair, folder, kind, &name, &mut table).await?;
            }
        }
        Ok(table)
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only))
    }

    fn name(&self, kind: Kind) -> String {
        match kind {
            Kind::Many(Door::Amqp, n) => format!("{} events over AMQP, {n} each", self.events),
            Kind::Many(Door::Http, n) => format!("{} events over HTTP, {n} each", self.events),
            Kind::Both(n) => format!("{} over AMQP and HTTP at once, {n} each", self.events),
            Kind::Heavy => format!("{} heavy events over AMQP", self.heavy),
        }
    }

    /// How much RabbitMQ alone delays the quiet tenant's messages.
    async fn broker_alone(
        &self,
        pair: &Pair,
        folder: &Path,
        table: &mut String,
    ) -> anyhow::Result<()> {
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        declare_alone(&stage.amqp_url).await?;
        let floor = floor::start(&Floor {
            amqp_url: stage.amqp_url.clone(),
            queue: queue_alone(TENANT),
            target: stage.receiver.url(0),
            places: floor::PLACES,
        })?;
        let measured = self.rate * self.seconds;
        self.flow(&stage, ALONE, WARM_UP).await?;
        let quiet = self.flow(&stage, ALONE, measured).await?;
        let name = format!("{BROKER_ALONE}: nobody else publishes");
        row(table, &name, quiet, None);
        let mut burst = load(&stage, LOUD, self.events);
        ALONE.clone_into(&mut burst.exchange);
        let burst = Generator::start(&burst)?;
        let (beside, _) = tokio::try_join!(self.flow(&stage, ALONE, measured), burst.finished())?;
        let name = format!("{BROKER_ALONE}: {} events that nobody takes", self.events);
        row(table, &name, beside, None);
        let _ = writeln!(table, "{:<44} p99 + {:.0}", "", beside[2] - quiet[2]);
        drop(floor);
        delete_alone(&stage.amqp_url).await?;
        stage.strike().await
    }

    async fn beside(
        &self,
        pair: &Pair,
        folder: &Path,
        kind: Kind,
        name: &str,
        table: &mut String,
    ) -> anyhow::Result<()> {
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let ingest = stage.ingest(1).await?;
        let second = stage.ingest(0).await?;
        let token = stage.tenant(LOUD).await?;
        let receiver = Receiver::start(Duration::ZERO).await?;
        let webhooks = match kind {
            Kind::Many(_, webhooks) | Kind::Both(webhooks) => webhooks,
            Kind::Heavy => HEAVY_WEBHOOKS,
        };
        for webhook in 0..webhooks {
            let mut body = json!({"url": receiver.url(webhook), "events": ["*"]});
            if let Kind::Heavy = kind {
                let absent: Vec<u32> = (0..100).map(|n| HEAVY_VALUES + n).collect();
                body["filters"] = json!({"values": {"$in": absent}});
            }
            let answer = ask(&ingest.url("/api/v1/webhooks"), &token, "POST", Some(&body)).await?;
            ensure!(answer.status == 201, "a webhook: {}", answer.body);
        }
        let dispatcher = stage.dispatcher().await?;
        self.flow(&stage, topology::EVENTS, WARM_UP).await?;
        stage.checkpoint().await?;
        let measured = self.rate * self.seconds;
        let quiet = self.flow(&stage, topology::EVENTS, measured).await?;
        row(table, "nobody else publishes", quiet, None);

        let begun = Instant::now();
        let (beside, published) = tokio::try_join!(
            self.flow(&stage, topology::EVENTS, measured),
            self.publish(&stage, &ingest, &token, kind),
        )?;
        row(table, name, beside, Some(quiet));
        let expected = match kind {
            Kind::Many(_, webhooks) | Kind::Both(webhooks) => self.events * webhooks as u64,
            Kind::Heavy => 0,
        };
        while receiver.seen().await?.count < expected {
            ensure!(begun.elapsed() < LONGEST, "the burst is never delivered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = writeln!(
            table,
            "{:<44} published after {:.1} s, {expected} delivered after {:.1} s",
            "",
            published.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
        drop((ingest, second, dispatcher));
        stage.strike().await
    }

    /// Publishes the burst; answers how long that took.
    async fn publish(
        &self,
        stage: &Stage<'_>,
        ingest: &Service,
        token: &str,
        kind: Kind,
    ) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        match kind {
            Kind::Many(door, _) => {
                let burst = load_of(stage, ingest, token, door, self.events);
                Generator::start(&burst)?.finished().await?;
            }
            Kind::Both(_) => {
                let half = self.events / 2;
                let amqp = load_of(stage, ingest, token, Door::Amqp, half);
                let http = load_of(stage, ingest, token, Door::Http, self.events - half);
                let (amqp, http) = (Generator::start(&amqp)?, Generator::start(&http)?);
                tokio::try_join!(amqp.finished(), http.finished())?;
            }
            Kind::Heavy => {
                let values: Vec<u32> = (0..HEAVY_VALUES).collect();
                let data: Value = json!({"values": values});
                let data = data.to_string();
                let events: Vec<_> = (0..self.heavy)
                    .map(|n| Publication::json(LOUD, "order.created", &event_id(n), &data))
                    .collect();
                Producer::connect(&stage.amqp_url)
                    .await?
                    .publish_all(&events)
                    .await?;
            }
        }
        Ok(begun.elapsed())
    }

    /// Publishes so many of the quiet tenant's events at its rate; answers the
    /// latencies.
    async fn flow(
        &self,
        stage: &Stage<'_>,
        exchange: &str,
        count: u64,
    ) -> anyhow::Result<[f64; 4]> {
        stage.receiver.reset().await?;
        let mut load = load(stage, TENANT, count);
        exchange.clone_into(&mut load.exchange);
        load.rate = self.rate;
        Generator::start(&load)?.finished().await?;
        until("arriving", count, async || {
            Ok(stage.receiver.seen().await?.count)
        })
        .await?;
        let seen = stage.receiver.reset().await?;
        seen.latency_ms.context("nothing arrived")
    }
}

/// A durable exchange with a quorum queue for each tenant's messages.
async fn declare_alone(amqp_url: &str) -> anyhow::Result<()> {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let none = FieldTable::default;
    channel
        .exchange_declare(ALONE.into(), ExchangeKind::Topic, durable, none())
        .await?;
    for tenant in [TENANT, LOUD] {
        let queue = queue_alone(tenant);
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let mut quorum = FieldTable::default();
        quorum.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        channel
            .queue_declare(queue.as_str().into(), durable, quorum)
            .await?;
        let (key, options) = (format!("{tenant}.#"), QueueBindOptions::default());
        channel
            .queue_bind(queue.into(), ALONE.into(), key.into(), options, none())
            .await?;
    }
    Ok(())
}

/// Deletes them, with the messages that nobody took.
async fn delete_alone(amqp_url: &str) -> anyhow::Result<()> {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for tenant in [TENANT, LOUD] {
        channel
            .queue_delete(queue_alone(tenant).into(), QueueDeleteOptions::default())
            .await?;
    }
    channel
        .exchange_delete(ALONE.into(), ExchangeDeleteOptions::default())
        .await?;
    Ok(())
}

fn queue_alone(tenant: &str) -> String {
    format!("{ALONE}.{tenant}")
}

fn load(stage: &Stage<'_>, tenant: &str, count: u64) -> Load {
    Load {
        to: stage.amqp_url.clone(),
        exchange: topology::EVENTS.to_owned(),
        routing_key: format!("{tenant}.order.created"),
        spread: 0,
        token: String::new(),
        count,
        rate: 0,
        bytes: PAYLOAD,
    }
}

/// So many events of the burst's tenant, over AMQP or HTTP.
fn load_of(stage: &Stage<'_>, ingest: &Service, token: &str, door: Door, count: u64) -> Load {
    let mut load = load(stage, LOUD, count);
    if door == Door::Http {
        load.to = ingest.url("");
        token.clone_into(&mut load.token);
    }
    load
}

fn row(table: &mut String, what: &str, latency: [f64; 4], than: Option<[f64; 4]>) {
    let [p50, p95, p99, max] = latency;
    let _ = write!(
        table,
        "{what:<44} {p50:>8.1} {p95:>8.1} {p99:>8.1} {max:>8.1}"
    );
    if let Some([_, _, quiet, _]) = than {
        let longer = p99 - quiet;
        let verdict = if longer <= TARGET { "within" } else { "BEYOND" };
        let _ = write!(table, "   p99 + {longer:.0}, {verdict} {TARGET}");
    }
    let _ = writeln!(table);
}
