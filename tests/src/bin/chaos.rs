//! `make chaos`: see `harness::chaos`. It takes the services from its own folder.

#![allow(clippy::print_stdout)] // Its table is its purpose.

use std::time::Instant;

use clap::Parser;
use harness::chaos::fault::{deck, short_deck};
use harness::chaos::{Plan, run};
use harness::pair::disk::own_mounts;

/// Injects faults into everything while events flow, on a private RabbitMQ and
/// PostgreSQL. Judges after each round that nothing was lost. Fails at the first
/// faulty round.
#[derive(Parser)]
struct Arguments {
    /// The seed of everything random. Without it, a seed is drawn and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The number of rounds. By default one per kind of fault.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only rounds whose fault contains this text, as printed in the table.
    #[arg(long)]
    only: Option<String>,
    /// Events per second; each goes to about five webhooks.
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// Run only the rounds of `make test`.
    #[arg(long)]
    short: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // This starts the process again, so nothing else may have begun.
    let small_disk = own_mounts();
    if !small_disk {
        println!("no full disk among these: only root can mount one");
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(play(arguments, small_disk))
}

async fn play(arguments: Arguments, small_disk: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut faults = Vec::new();
    let wanted = arguments.rounds.unwrap_or(0);
    loop {
        faults.extend(if arguments.short {
            short_deck()
        } else {
            deck(&mut rng, small_disk)
        });
        if let Some(part) = &arguments.only {
            faults.retain(|fault| fault.to_string().contains(part));
            anyhow::ensure!(
                !faults.is_empty(),
                "with seed {seed} nothing is called {part}"
            );
        }
        if faults.len() >= wanted {
            break;
        }
    }
    if wanted > 0 {
        faults.truncate(wanted);
    }
    println!("seed {seed}, {} rounds", faults.len());
    let plan = Plan {
        seed,
        faults,
        rate: arguments.rate,
    };
    run(plan, &|line| println!("{line}")).await?;
    println!("nothing lost, in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}
