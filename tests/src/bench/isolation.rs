//! `make bench ARGS=isolation`: how much does a broken endpoint delay other endpoints?
//!
//! It answers four questions. Two of them compare healthy endpoints with and without
//! broken ones beside them, in alternating rounds; the result is the ratio of the two p99.
//! One measures how many requests a recovering endpoint gets. One measures the memory
//! that a backlog takes.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use shared::topology;

use super::generator::{Generator, Load, PAYLOAD};
use super::phoenix::{LATENCY, Phoenix, Second};
use super::stage::{Stage, TENANT, until};
use super::usage::resident;
use super::villains::{Villains, WAYS, Way};
use crate::pair::Pair;
use crate::service::Service;

/// Events published and delivered before measuring begins.
const WARM_UP: u64 = 500;
/// The target: with broken endpoints, the healthy endpoints' p99 may be this many
/// times the p99 without.
const TARGET: f64 = 1.5;
/// The size of the events that make a large backlog, in bytes.
const SMALL: usize = 200;
/// A recovered endpoint must have all waiting deliveries within this time.
const LONGEST_DRAIN: Duration = Duration::from_secs(1200);
/// One endpoint in so many is dead.
const DEAD_ONE_IN: u64 = 10;

/// The questions of this benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// One endpoint never answers and has a backlog.
    Hang,
    /// A tenth of many endpoints is dead, in all the ways there are.
    Dead,
    /// An endpoint recovers.
    Recovery,
    /// A backlog is large.
    Memory,
}

/// The sizes of the benchmark.
#[derive(Args)]
pub struct Isolation {
    /// A tenth of everything, and one round: a rough idea in minutes.
    #[arg(long)]
    quick: bool,
    /// Only this; may be repeated.
    #[arg(long)]
    only: Vec<Question>,
    /// How often each comparison is made.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each measures.
    #[arg(long)]
    seconds: Option<u64>,
    /// Events a second, over all endpoints together.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// hang: healthy endpoints.
    #[arg(long, default_value_t = 50)]
    healthy: u64,
    /// hang: jobs of the one that never answers.
    #[arg(long)]
    backlog: Option<u64>,
    /// dead: endpoints, of which a tenth is dead.
    #[arg(long)]
    endpoints: Option<u64>,
    /// recovery: jobs that wait for it.
    #[arg(long)]
    waiting: Option<u64>,
    /// recovery: seconds until it recovers.
    #[arg(long)]
    down: Option<u64>,
    /// memory: jobs.
    #[arg(long)]
    jobs: Option<u64>,
}

/// Milliseconds from publishing to arrival: p50, p95, p99.
type Latency = [f64; 3];

impl Isolation {
    /// Measures, and answers tables.
    pub async fn measure(&self, pair: &Pair, folder: &Path) -> anyhow::Result<String> {
        let asked = |question| self.only.is_empty() || self.only.contains(&question);
        let mut table = String::new();
        if asked(Question::Hang) || asked(Question::Dead) {
            let _ = writeln!(
                table,
                "{:<58} {:>8} {:>8} {:>8}",
                "milliseconds from publishing to arrival", "p50", "p95", "p99"
            );
        }
        if asked(Question::Hang) {
            self.compare_hang(pair, folder, &mut table).await?;
        }
        if asked(Question::Dead) {
            self.compare_dead(pair, folder, &mut table).await?;
        }
        if asked(Question::Recovery) {
            self.recovery(pair, folder, &mut table).await?;
        }
        if asked(Question::Memory) {
            self.memory(pair, folder, &mut table).await?;
        }
        Ok(table)
    }

    fn sized(&self, said: Option<u64>, full: u64) -> u64 {
        said.unwrap_or(if self.quick { full / 10 } else { full })
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 8 } else { 20 })
    }

    async fn compare_hang(
        &self,
        pair: &Pair,
        folder: &Path,
        table: &mut String,
    ) -> anyhow::Result<()> {
        let backlog = self.sized(self.backlog, 20_000);
        let (mut without, mut arriving, mut standing) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds() {
            without.push(self.beside_a_hang(pair, folder, 0).await?.1);
            let (while_it_arrives, while_it_stands) =
                self.beside_a_hang(pair, folder, backlog).await?;
            arriving.push(while_it_arrives);
            standing.push(while_it_stands);
        }
        let (healthy, rate) = (self.healthy, self.rate);
        let alone = format!("{healthy} endpoints at {rate}/s");
        row(table, &alone, &without, None);
        let beside = format!("beside {backlog} jobs for one that never answers");
        row(table, &beside, &standing, Some(&without));
        let while_they = "while these arrive, as fast as they can";
        row(table, while_they, &arriving, Some(&without));
        Ok(())
    }

    /// The healthy endpoints' latency while the backlog arrives, and afterwards.
    async fn beside_a_hang(
        &self,
        pair: &Pair,
        folder: &Path,
        backlog: u64,
    ) -> anyhow::Result<(Latency, Latency)> {
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let villains = Villains::start().await?;
        let ingest = stage.ingest(0).await?;
        for n in 0..self.healthy {
            let url = stage.receiver.url(n as usize);
            subscribe(&stage, &ingest, &url, &format!("order.{n}")).await?;
        }
        let url = villains.url(Way::Hang, 0)?;
        subscribe(&stage, &ingest, &url, "villain").await?;
        let dispatcher = stage.dispatcher().await?;
        self.flow(&stage, "order", self.healthy, WARM_UP, WARM_UP)
            .await?;
        stage.checkpoint().await?;

        let count = self.rate * self.seconds();
        let mut publishing = Vec::new();
        if backlog > 0 {
            let mut load = load(&stage, "villain", backlog);
            load.bytes = SMALL;
            publishing.push(Generator::start(&load)?);
        }
        let arriving = self
            .flow(&stage, "order", self.healthy, count, count)
            .await?;
        for generator in publishing {
            generator.finished().await?;
        }
        accepted(&ingest, WARM_UP + count + backlog).await?;
        // Each job has been taken once and deferred.
        until("working the backlog off", 1, async || {
            Ok(u64::from(jobs_waiting(&stage).await? == 0))
        })
        .await?;
        stage.checkpoint().await?;
        let standing = self
            .flow(&stage, "order", self.healthy, count, count)
            .await?;
        drop((ingest, dispatcher));
        stage.strike().await?;
        Ok((arriving, standing))
    }

    async fn compare_dead(
        &self,
        pair: &Pair,
        folder: &Path,
        table: &mut String,
    ) -> anyhow::Result<()> {
        let endpoints = self.sized(self.endpoints, 1_000);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds() {
            without.push(self.beside_the_dead(pair, folder, endpoints, false).await?);
            with.push(self.beside_the_dead(pair, folder, endpoints, true).await?);
        }
        let rate = self.rate;
        let alone = format!("{endpoints} endpoints at {rate}/s");
        row(table, &alone, &without, None);
        let dead = format!(
            "{} of them dead, in {} ways",
            endpoints / DEAD_ONE_IN,
            WAYS.len()
        );
        row(table, &dead, &with, Some(&without));
        Ok(())
    }

    async fn beside_the_dead(
        &self,
        pair: &Pair,
        folder: &Path,
        endpoints: u64,
        are_dead: bool,
    ) -> anyhow::Result<Latency> {
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let villains = Villains::start().await?;
        let allow = "UPDATE tenants SET max_webhooks = 1000000 WHERE id = $1";
        stage.sql().await?.execute(allow, &[&TENANT]).await?;
        let ingest = stage.ingest(0).await?;
        let is_dead = |n: u64| are_dead && n % DEAD_ONE_IN == DEAD_ONE_IN - 1;
        for n in 0..endpoints {
            let webhook = n as usize;
            let url = if is_dead(n) {
                villains.url(WAYS[webhook / DEAD_ONE_IN as usize % WAYS.len()], webhook)?
            } else {
                stage.receiver.url(webhook)
            };
            subscribe(&stage, &ingest, &url, &format!("order.{n}")).await?;
        }
        let dispatcher = stage.dispatcher().await?;
        let healthy = |count: u64| (0..count).filter(|n| !is_dead(n % endpoints)).count() as u64;
        // At the end of the warm-up the circuits of the dead endpoints are open.
        let before = self.rate * self.seconds() / 2;
        self.flow(&stage, "order", endpoints, before, healthy(before))
            .await?;
        stage.checkpoint().await?;
        let count = self.rate * self.seconds();
        let latency = self
            .flow(&stage, "order", endpoints, count, healthy(count))
            .await?;
        drop((ingest, dispatcher));
        stage.strike().await?;
        Ok(latency)
    }

    /// Publishes at the rate, waits for the expected arrivals, and returns the
    /// latency.
    async fn flow(
        &self,
        stage: &Stage<'_>,
        event_type: &str,
        spread: u64,
        count: u64,
        arriving: u64,
    ) -> anyhow::Result<Latency> {
        stage.receiver.reset().await?;
        let mut load = load(stage, event_type, count);
        (load.rate, load.spread) = (self.rate, spread);
        Generator::start(&load)?.finished().await?;
        until("arriving", arriving, async || {
            Ok(stage.receiver.seen().await?.count)
        })
        .await?;
        let seen = stage.receiver.reset().await?;
        let [p50, p95, p99, _] = seen.latency_ms.context("nothing arrived")?;
        Ok([p50, p95, p99])
    }

    async fn recovery(&self, pair: &Pair, folder: &Path, table: &mut String) -> anyhow::Result<()> {
        let jobs = self.sized(self.waiting, 50_000);
        let down = Duration::from_secs(self.sized(self.down, 120));
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let phoenix = Phoenix::start().await?;
        let ingest = stage.ingest(0).await?;
        // Without a circuit breaker these would be fifty failures of each.
        let webhook = json!({
            "url": phoenix.url(), "events": ["order"],
            "retry_policy": {"delays": vec![5_000; 49]},
        });
        stage.webhook(&ingest, &webhook).await?;
        let dispatcher = stage.dispatcher().await?;
        let begun = Instant::now();
        let mut load = load(&stage, "order", jobs);
        load.bytes = SMALL;
        Generator::start(&load)?.finished().await?;
        accepted(&ingest, jobs).await?;
        tokio::time::sleep(down.saturating_sub(begun.elapsed())).await;
        let before = phoenix.recover().await?.failures;
        let (down, recovered) = (begun.elapsed(), Instant::now());
        while phoenix.told().await?.answered < jobs {
            ensure!(recovered.elapsed() < LONGEST_DRAIN, "it never gets all");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let drained = recovered.elapsed();
        let told = phoenix.told().await?;
        drop((ingest, dispatcher));
        stage.strike().await?;

        let seconds = &told.seconds;
        let _ = writeln!(
            table,
            "\n{jobs} jobs for an endpoint that recovers after {:.0} s, in which it was asked \
             {before} times.\nIt answers in {LATENCY:.0?} then, is asked after {:.1} s, and has \
             all after {:.1} s.\n{:<26}{}",
            down.as_secs_f64(),
            told.asked_after,
            drained.as_secs_f64(),
            "second since it was asked",
            columns(seconds, |n, _| n as u64),
        );
        let _ = writeln!(
            table,
            "{:<26}{}",
            "arrivals",
            columns(seconds, |_, s| s.arrivals)
        );
        let most = columns(seconds, |_, second| second.in_flight);
        let _ = writeln!(table, "{:<26}{most}", "most requests in flight");
        Ok(())
    }

    async fn memory(&self, pair: &Pair, folder: &Path, table: &mut String) -> anyhow::Result<()> {
        let jobs = self.sized(self.jobs, 1_000_000);
        let watched = Duration::from_secs(3 * self.seconds());
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let villains = Villains::start().await?;
        let ingest = stage.ingest(0).await?;
        subscribe(&stage, &ingest, &villains.url(Way::Hang, 0)?, "villain").await?;
        let mut ingests = vec![resident(ingest.pid())];
        let mut dispatchers = Vec::new();
        // First a tenth, then the rest, to see what grows with the backlog.
        for (all, part) in [(jobs / 10, jobs / 10), (jobs, jobs - jobs / 10)] {
            let mut load = load(&stage, "villain", part);
            load.bytes = SMALL;
            Generator::start(&load)?.finished().await?;
            while accepted_so_far(&ingest).await < all {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            ingests.push(resident(ingest.pid()));
            let dispatcher = stage.dispatcher().await?;
            let begun = Instant::now();
            let mut most = 0_f64;
            while begun.elapsed() < watched {
                most = most.max(resident(dispatcher.pid()));
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            dispatchers.push(most);
            dispatcher.kill().await?;
        }
        ingest.kill().await?;
        let begun = Instant::now();
        let ingest = stage.ingest(0).await?;
        let ingest_ready = begun.elapsed();
        let begun = Instant::now();
        let dispatcher = stage.dispatcher().await?;
        let dispatcher_ready = begun.elapsed();
        drop((ingest, dispatcher));
        stage.strike().await?;
        let _ = writeln!(
            table,
            "\n{:<30} {:>10} {:>12} {:>12}\n{:<30} {:>10.0} {:>12.0} {:>12.0}\n{:<30} {:>10} {:>12.0} {:>12.0}",
            "MiB resident, with jobs:",
            0,
            jobs / 10,
            jobs,
            "ingest",
            ingests[0],
            ingests[1],
            ingests[2],
            "dispatcher, at most",
            "",
            dispatchers[0],
            dispatchers[1],
        );
        let _ = writeln!(
            table,
            "Killed with all of these waiting, ingest is ready again after {:.1} s, \
             a dispatcher after {:.1} s.",
            ingest_ready.as_secs_f64(),
            dispatcher_ready.as_secs_f64(),
        );
        Ok(())
    }
}

async fn subscribe(
    stage: &Stage<'_>,
    ingest: &Service,
    url: &str,
    event_type: &str,
) -> anyhow::Result<()> {
    let body = json!({"url": url, "events": [event_type]});
    stage.webhook(ingest, &body).await
}

fn load(stage: &Stage<'_>, event_type: &str, count: u64) -> Load {
    Load {
        to: stage.amqp_url.clone(),
        exchange: topology::EVENTS.to_owned(),
        routing_key: format!("{TENANT}.{event_type}"),
        spread: 0,
        token: String::new(),
        count,
        rate: 0,
        bytes: PAYLOAD,
    }
}

async fn accepted(ingest: &Service, count: u64) -> anyhow::Result<()> {
    until("accepting", count, async || {
        Ok(accepted_so_far(ingest).await)
    })
    .await?;
    Ok(())
}

/// A counter that doesn't appear in the metrics before its first increment.
async fn accepted_so_far(ingest: &Service) -> u64 {
    let counted = ingest.metric("posthorn_ingest_batch_size_sum").await;
    counted.unwrap_or(0.0) as u64
}

async fn jobs_waiting(stage: &Stage<'_>) -> anyhow::Result<u32> {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&stage.amqp_url, properties).await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let channel = connection.create_channel().await?;
    let queue = topology::jobs_queue(0);
    let queue = channel
        .queue_declare(queue.as_str().into(), options, FieldTable::default())
        .await?;
    let waiting = queue.message_count();
    connection.close(200, "done".into()).await?;
    Ok(waiting)
}

/// The median of each of the three percentiles.
fn median(rounds: &[Latency]) -> Latency {
    [0, 1, 2].map(|percentile| {
        let mut all: Vec<f64> = rounds.iter().map(|round| round[percentile]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

/// A row: the medians of the rounds compared with those of other rounds. Each
/// round's p99 is printed too, to show how stable the machine is.
fn row(table: &mut String, what: &str, rounds: &[Latency], than: Option<&[Latency]>) {
    let [p50, p95, p99] = median(rounds);
    let _ = write!(table, "{what:<58} {p50:>8.1} {p95:>8.1} {p99:>8.1}");
    if let Some(than) = than {
        let [_, _, without] = median(than);
        let ratio = p99 / without;
        let verdict = if ratio <= TARGET { "within" } else { "BEYOND" };
        let _ = write!(table, "   p99 x {ratio:.2}, {verdict} {TARGET}");
    }
    let p99s: Vec<_> = rounds.iter().map(|[.., p99]| format!("{p99:.0}")).collect();
    let _ = writeln!(table, "   ({})", p99s.join(", "));
}

/// The first seconds one by one, later ones in larger steps.
fn columns(seconds: &[Second], of: impl Fn(usize, &Second) -> u64) -> String {
    let shown = [0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 90, 120];
    let mut line = String::new();
    for (n, second) in seconds.iter().enumerate() {
        if shown.contains(&n) {
            let _ = write!(line, " {:>6}", of(n, second));
        }
    }
    line
}
