//! `make bench`: see `harness::bench`. Build the services in release mode first: this
//! program takes them from its own folder.

#![allow(clippy::print_stdout, clippy::print_stderr)] // Its table is its purpose, progress its manners.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use harness::bench::burst::Burst;
use harness::bench::catalogue::Catalogue;
use harness::bench::floor::door::{self, FloorDoor};
use harness::bench::floor::{self, Floor};
use harness::bench::generator::{self, Load};
use harness::bench::growth::Growth;
use harness::bench::isolation::Isolation;
use harness::bench::kinds::{Door, Kind, Past};
use harness::bench::lists::Lists;
use harness::bench::log::Log;
use harness::bench::long::Long;
use harness::bench::machine::Machine;
use harness::bench::report::{Baseline, Report};
use harness::bench::scenario::Bench;
use harness::bench::stage::{Month, VHOSTS};
use harness::bench::start::Start;
use harness::bench::{phoenix, receiver, villains};
use harness::pair::{Pair, PairConfig};

/// Measures throughput, latency and cost on a private RabbitMQ and PostgreSQL,
/// prints tables and writes JSON: in about ten minutes on two cores, if nothing else is
/// asked for. Logs are off unless RUST_LOG is set.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// One round with few events, on fresh databases alone: rough figures in two minutes.
    #[arg(long)]
    quick: bool,
    /// Three rounds and longer ones: for figures that are compared or published.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only scenarios whose name contains this; may be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// Events in a round.
    #[arg(long)]
    events: Option<u64>,
    /// Rounds of each scenario.
    #[arg(long)]
    rounds: Option<usize>,
    /// Deliveries of the month that some scenarios have behind them; 0: leaves them out.
    #[arg(long)]
    history: Option<u32>,
    /// What the table's ratios are to: the JSON of another run.
    #[arg(long, default_value = "tests/bench/baseline.json")]
    baseline: PathBuf,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
}

/// Another benchmark, or the role of one of the benchmark's own processes.
#[derive(Subcommand)]
enum Role {
    /// Measures the delivery log with few deliveries and with many.
    Log(Log),
    /// Measures the console's pages and the API's lists with a month of deliveries.
    Lists(Lists),
    /// Measures how much broken endpoints slow down healthy ones.
    Isolation(Isolation),
    /// Measures how much one tenant's catalogue changes delay another tenant.
    Catalogue(Catalogue),
    /// Measures how much one tenant's burst delays another tenant's events.
    Burst(Burst),
    /// Measures how soon services are ready that find many webhooks.
    Start(Start),
    /// Measures whether a delivery costs more when a tenant has many webhooks.
    Growth(Growth),
    /// Measures whether anything grows or slows down at a steady rate for a quarter of an hour.
    Long(Long),
    #[command(hide = true)]
    Villains,
    #[command(hide = true)]
    Phoenix,
    #[command(hide = true)]
    Receiver {
        #[arg(long)]
        latency_ms: u64,
    },
    #[command(hide = true)]
    Publish(Load),
    #[command(hide = true)]
    Floor(Floor),
    #[command(hide = true)]
    FloorDoor(FloorDoor),
}

/// How much is measured.
struct Sizes {
    rounds: usize,
    events: u64,
    /// At a steady rate.
    seconds: u64,
    /// Deliveries of the month that some rounds have behind them.
    history: u32,
}

impl Arguments {
    fn sizes(&self) -> Sizes {
        let (rounds, events, seconds, history) = match (self.quick, self.full) {
            (true, _) => (1, 3_000, 5, 0),
            (_, true) => (3, 12_000, 15, 1_200_000),
            _ => (2, 12_000, 10, 1_200_000),
        };
        Sizes {
            rounds: self.rounds.unwrap_or(rounds),
            events: self.events.unwrap_or(events),
            seconds,
            history: self.history.unwrap_or(history),
        }
    }
}

/// In the order of a round: what is compared lies close together.
const KINDS: [(Kind, Past); 22] = [
    (Kind::Floor, Past::None),
    (Kind::Halves(Door::Amqp, 1), Past::None),
    (Kind::Halves(Door::Amqp, 10), Past::None),
    (Kind::Halves(Door::Http, 1), Past::None),
    (Kind::Whole(Door::Amqp, 1, false), Past::None),
    (Kind::Whole(Door::Amqp, 1, false), Past::Month),
    (Kind::Whole(Door::Amqp, 1, true), Past::None),
    (Kind::Whole(Door::Http, 1, false), Past::None),
    (Kind::Whole(Door::Amqp, 10, false), Past::None),
    (Kind::Whole(Door::Amqp, 10, false), Past::Month),
    (Kind::Whole(Door::Http, 10, false), Past::None),
    (Kind::Dispatchers(1), Past::None),
    (Kind::Dispatchers(2), Past::None),
    (Kind::Dispatchers(4), Past::None),
    (Kind::Dispatchers(8), Past::None),
    (Kind::FloorPace(50), Past::None),
    (Kind::Pace(Door::Amqp, 50), Past::None),
    (Kind::Pace(Door::Http, 50), Past::None),
    (Kind::Pace(Door::Http, 50), Past::Month),
    (Kind::Pace(Door::Http, 300), Past::None),
    (Kind::Pace(Door::Http, 1_000), Past::None),
    (Kind::Pace(Door::Http, 1_500), Past::None),
];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // The tools need one thread; the floor has as many as a dispatcher.
    let mut runtime = match arguments.role {
        Some(Role::Receiver { .. } | Role::Publish(_) | Role::Villains | Role::Phoenix) => {
            tokio::runtime::Builder::new_current_thread()
        }
        Some(
            Role::Floor(_)
            | Role::FloorDoor(_)
            | Role::Log(_)
            | Role::Lists(_)
            | Role::Isolation(_)
            | Role::Catalogue(_)
            | Role::Burst(_)
            | Role::Start(_)
            | Role::Growth(_)
            | Role::Long(_),
        )
        | None => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(async {
        match arguments.role {
            Some(Role::Receiver { latency_ms }) => {
                receiver::run(Duration::from_millis(latency_ms)).await
            }
            Some(Role::Publish(load)) => generator::run(load).await,
            Some(Role::Floor(floor)) => floor::run(floor).await,
            Some(Role::FloorDoor(door)) => door::run(door).await,
            Some(Role::Villains) => villains::run().await,
            Some(Role::Phoenix) => phoenix::run().await,
            Some(Role::Log(log)) => {
                on_a_pair(async |pair, folder| log.measure(pair, folder).await).await
            }
            Some(Role::Lists(lists)) => {
                println!("{}", lists.measure().await?);
                Ok(())
            }
            Some(Role::Isolation(isolation)) => {
                on_a_pair(async |pair, folder| isolation.measure(pair, folder).await).await
            }
            Some(Role::Catalogue(catalogue)) => {
                on_a_pair(async |pair, folder| catalogue.measure(pair, folder).await).await
            }
            Some(Role::Burst(burst)) => {
                on_a_pair(async |pair, folder| burst.measure(pair, folder).await).await
            }
            Some(Role::Start(start)) => {
                on_a_pair(async |pair, folder| start.measure(pair, folder).await).await
            }
            Some(Role::Growth(growth)) => {
                on_a_pair(async |pair, folder| growth.measure(pair, folder).await).await
            }
            Some(Role::Long(long)) => {
                on_a_pair(async |pair, folder| long.measure(pair, folder).await).await
            }
            None => bench(arguments).await,
        }
    })
}

async fn on_a_pair(
    measure: impl AsyncFnOnce(&Pair, &Path) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("posthorn-bench-{}", std::process::id()));
    let mut config = PairConfig::new(&folder);
    config.vhosts = VHOSTS;
    let pair = Pair::start(config).await?;
    let logs = folder.with_extension("logs");
    let table = measure(&pair, &logs).await?;
    pair.discard().await?;
    // What is left is in the temporary folder.
    let _ = std::fs::remove_dir_all(&logs);
    println!("{table}");
    Ok(())
}

async fn bench(arguments: Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    // Before ten minutes of measuring, not after them. The baseline's folder isn't there at first.
    let out = arguments.out.display();
    if let Some(folder) = arguments.out.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder of {out}"))?;
    }
    let folder = std::env::temp_dir().join(format!("posthorn-bench-{}", std::process::id()));
    let mut config = PairConfig::new(&folder);
    config.vhosts = VHOSTS;
    let pair = Pair::start(config).await?;
    let logs = folder.with_extension("logs");
    let sizes = arguments.sizes();
    let wanted = |(kind, past): &(Kind, Past)| {
        let name = kind.name() + past.suffix();
        let only = arguments.only.iter();
        (*past == Past::None || sizes.history > 0)
            && (arguments.only.is_empty()
                || only.into_iter().any(|part| name.contains(part.as_str())))
    };
    let needs_month = KINDS
        .iter()
        .any(|kind| kind.1 == Past::Month && wanted(kind));
    let month = match needs_month {
        true => Some(Month::fill(&pair, sizes.history).await?),
        false => None,
    };
    let bench = Bench {
        month,
        pair: &pair,
        folder: &logs,
        events: sizes.events,
        seconds: sizes.seconds,
    };
    let machine = Machine::look(&pair).await?;

    let mut measured = Vec::new();
    let mut failed = 0;
    for round in 1..=sizes.rounds {
        for (kind, past) in KINDS.into_iter().filter(wanted) {
            // One round tells enough of these: most of it is waiting.
            if matches!(
                kind,
                Kind::Pace(..) | Kind::FloorPace(_) | Kind::Dispatchers(_)
            ) && round > 1
            {
                continue;
            }
            eprintln!(
                "{:4.0} s  round {round} of {}: {}{}",
                begun.elapsed().as_secs_f64(),
                sizes.rounds,
                kind.name(),
                past.suffix()
            );
            match bench.round(kind, past).await {
                Ok(result) => measured.extend(result),
                // The others are still worth knowing.
                Err(error) => {
                    eprintln!("failed: {error:#}");
                    failed += 1;
                }
            }
        }
    }
    pair.discard().await?;
    // What is left is in the temporary folder.
    let _ = std::fs::remove_dir_all(&logs);

    let report = Report::new(machine, measured);
    println!("{}", report.table(&Baseline::read(&arguments.baseline)));
    std::fs::write(&arguments.out, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("writing {out}"))?;
    println!("Everything: {out}");
    anyhow::ensure!(failed == 0, "{failed} rounds failed");
    Ok(())
}
