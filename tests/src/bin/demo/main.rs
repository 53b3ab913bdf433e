//! `make run`: all of Posthorn on this machine, with a demonstration.
//!
//! It starts a private RabbitMQ and PostgreSQL (or uses those of `AMQP_URL` and
//! `DATABASE_URL`), ingest, two dispatchers and a demo endpoint. It publishes a few
//! events, shows them arriving, prints where everything is, and stays up until Ctrl-C. The
//! stored data is there on the next run.
//!
//! | file | |
//! |---|---|
//! | `stage` | starts and stops the processes |
//! | `home` | the folder that is kept between runs |
//! | `show` | the demonstration, over AMQP and the API |
//! | `more` | what the console's other pages show |
//! | `shop` | the demo endpoint |
//! | `readme` | runs README.md's commands |

mod home;
mod more;
mod print;
mod readme;
mod shop;
mod show;
mod stage;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use print::say;
use stage::Stage;

/// Posthorn on this machine, with a demonstration.
#[derive(Parser)]
struct Arguments {
    /// Run README.md's commands after the demonstration and stop. Fails unless
    /// everything arrived, verified.
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("\nfailed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut stage = Stage::default();
    let outcome = tokio::select! {
        outcome = perform(&mut stage, arguments.once) => outcome,
        () = signals.next() => {
            say("\nstopping; once more kills");
            if arguments.once { Err(anyhow::anyhow!("interrupted")) } else { Ok(()) }
        }
    };
    let stopped = tokio::select! {
        stopped = stage.stop() => stopped,
        // Processes that still run are killed when they are dropped.
        () = signals.next() => Err(anyhow::anyhow!("killed before everything had stopped")),
    };
    outcome.and(stopped)
}

async fn perform(stage: &mut Stage, once: bool) -> anyhow::Result<()> {
    let place = stage.set().await?;
    let (shop, watch) = stage.parts()?;
    let show = async {
        show::events(&place, shop).await?;
        if once {
            return show::readme(&place, shop).await;
        }
        show::overview(&place).await?;
        std::future::pending().await
    };
    tokio::select! {
        outcome = show => outcome,
        death = watch => Err(death),
    }
}

/// The signals that stop the program.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            // The terminal was closed.
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
