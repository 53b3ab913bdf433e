//! `make bench ARGS=long`: does anything grow or slow down while Posthorn runs at a steady rate?
//!
//! Events with one webhook each are posted at this rate for a quarter of an hour. Each minute
//! the benchmark looks at the latency and the processor time of that minute, at the memory of
//! all processes, and at the size of the tables. The result compares the second minute with
//! the last one. Nothing is deleted meanwhile. An event takes
//! about two kilobytes of the disk.

#![allow(clippy::print_stderr)] // It takes long: each minute it says how it goes.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;

use super::generator::Generator;
use super::kinds::{Door, Kind, Past};
use super::machine::Machine;
use super::scenario::Bench;
use super::space::Space;
use super::stage::Stage;
use super::steps::{Running, WARM_UP, arrived, load};
use super::usage::{ByProcess, MEASURED, Meter, between, total};
use crate::pair::Pair;

/// Seconds.
const MINUTE: u64 = 60;
/// The minute that the last one is compared with.
const EARLY: usize = 2;
/// Events of the round that measures the top rate: about ten seconds of it.
const TOP_RATE_EVENTS: u64 = 60_000;

/// The sizes of the benchmark.
#[derive(Args)]
pub struct Long {
    /// How long it runs, three minutes or more.
    #[arg(long, default_value_t = 15)]
    minutes: u64,
    /// The share of the top rate, if there is no --rate.
    #[arg(long, default_value_t = 0.8)]
    share: f64,
    /// Events a second. Without it, the top rate is measured first.
    #[arg(long)]
    rate: Option<u64>,
}

/// What a look at everything shows at the end of a minute.
struct Sample {
    /// Of this minute.
    deliveries_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_ms_per_delivery: f64,
    /// MiB by process.
    resident: ByProcess,
    space: Space,
    /// What the database has grown by since the beginning, per delivery.
    bytes_per_delivery: f64,
}

/// Looks at everything once a minute.
struct Watch<'a> {
    stage: &'a Stage<'a>,
    meter: Meter<'a>,
    sql: Client,
    /// The database's size in the beginning.
    empty: u64,
    /// Deliveries since the beginning, up to the last look.
    arrived: u64,
    /// Processor time and moment of the last look.
    cpu: ByProcess,
    looked_at: Instant,
}

impl Long {
    /// Measures, and answers a table.
    ///
    /// # Errors
    /// If something can't be started, or if not all events arrive.
    pub async fn measure(&self, pair: &Pair, folder: &Path) -> anyhow::Result<String> {
        ensure!(self.minutes as usize > EARLY, "--minutes is less than 3");
        let mut text = Machine::look(pair).await?.heading();
        let rate = match self.rate {
            Some(rate) => rate,
            None => {
                let top = top_rate(pair, folder).await?;
                let _ = writeln!(text, "Top rate: {top:.0} events/s.");
                (top * self.share) as u64
            }
        };
        ensure!(rate > 0, "the rate is less than one event a second");
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let samples = self.run(&stage, rate).await?;
        stage.strike().await?;
        let minutes = self.minutes;
        let _ = writeln!(text, "\n{rate} events/s for {minutes} minutes, HTTP:");
        write_table(&samples, &mut text)?;
        Ok(text)
    }

    async fn run(&self, stage: &Stage<'_>, rate: u64) -> anyhow::Result<Vec<Sample>> {
        let running = Running::start(stage, Door::Http, 1).await?;
        let mut watch = Watch::begin(stage, running.meter(stage)).await?;
        let count = rate * MINUTE * self.minutes;
        let mut load = load(stage, &running.ingest, Door::Http, count);
        load.rate = rate;
        let generator = Generator::start(&load)?;
        let (_, samples) = tokio::try_join!(generator.finished(), watch.minutes(self.minutes))?;
        // Nothing was lost on the way.
        arrived(stage, count.saturating_sub(watch.arrived)).await?;
        running.settled(WARM_UP + count).await?;
        Ok(samples)
    }
}

/// Events a second, as fast as they are accepted and delivered.
async fn top_rate(pair: &Pair, folder: &Path) -> anyhow::Result<f64> {
    let bench = Bench {
        pair,
        folder,
        events: TOP_RATE_EVENTS,
        seconds: 0,
        month: None,
    };
    let kind = Kind::Whole(Door::Http, 1, false);
    let measured = bench.round(kind, Past::None).await?;
    let rate = measured.first().and_then(|one| one.events_per_s);
    rate.context("the round has no rate")
}

impl<'a> Watch<'a> {
    async fn begin(stage: &'a Stage<'a>, meter: Meter<'a>) -> anyhow::Result<Self> {
        let sql = stage.sql().await?;
        let empty = Space::look(&sql).await?.database;
        Ok(Self {
            stage,
            cpu: meter.cpu(),
            meter,
            sql,
            empty,
            arrived: 0,
            looked_at: Instant::now(),
        })
    }

    async fn minutes(&mut self, minutes: u64) -> anyhow::Result<Vec<Sample>> {
        let begun = Instant::now();
        let mut samples = Vec::new();
        for minute in 1..=minutes {
            sleep_until(begun + Duration::from_secs(MINUTE * minute)).await;
            let sample = self.look().await?;
            eprintln!(
                "minute {minute} of {minutes}: {:.0} deliveries/s, p50 {:.1} ms, p99 {:.1} ms",
                sample.deliveries_per_s, sample.p50_ms, sample.p99_ms
            );
            samples.push(sample);
        }
        Ok(samples)
    }

    async fn look(&mut self) -> anyhow::Result<Sample> {
        let seen = self.stage.receiver.reset().await?;
        let (cpu, now) = (self.meter.cpu(), Instant::now());
        let used = total(&between(&self.cpu, &cpu));
        let seconds = (now - self.looked_at).as_secs_f64();
        (self.cpu, self.looked_at) = (cpu, now);
        self.arrived += seen.count;
        let [p50_ms, _, p99_ms, _] = seen.latency_ms.context("nothing arrived for a minute")?;
        let space = Space::look(&self.sql).await?;
        let grown = space.database.saturating_sub(self.empty);
        Ok(Sample {
            deliveries_per_s: seen.count as f64 / seconds,
            p50_ms,
            p99_ms,
            cpu_ms_per_delivery: used * 1_000.0 / seen.count as f64,
            resident: self.meter.resident(),
            bytes_per_delivery: grown as f64 / self.arrived as f64,
            space,
        })
    }
}

impl Sample {
    /// The lines of the table, the same in all samples.
    fn lines(&self) -> Vec<(String, f64)> {
        let mut lines = vec![
            ("deliveries/s".to_owned(), self.deliveries_per_s),
            ("p50, ms".to_owned(), self.p50_ms),
            ("p99, ms".to_owned(), self.p99_ms),
            ("CPU per delivery, ms".to_owned(), self.cpu_ms_per_delivery),
        ];
        for process in MEASURED {
            if let Some(mib) = self.resident.get(process) {
                lines.push((format!("{process}, MiB"), *mib));
            }
        }
        lines.extend(self.space.lines());
        let grown = "database, bytes per delivery".to_owned();
        lines.push((grown, self.bytes_per_delivery));
        lines
    }
}

fn write_table(samples: &[Sample], text: &mut String) -> anyhow::Result<()> {
    let (early, last) = (samples.get(EARLY - 1), samples.last());
    let (early, last) = early.zip(last).context("it ended early")?;
    let (first, second) = (
        format!("minute {EARLY}"),
        format!("minute {}", samples.len()),
    );
    writeln!(text, "{:<30} {first:>12} {second:>12} {:>8}", "", "ratio")?;
    for ((what, then), (_, now)) in early.lines().into_iter().zip(last.lines()) {
        let ratio = now / then;
        writeln!(text, "{what:<30} {then:>12.2} {now:>12.2} {ratio:>8.2}")?;
    }
    Ok(())
}
