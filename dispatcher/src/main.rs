//! `posthorn-dispatcher`: run as many as are needed. All of them are equal.
//! `posthorn-dispatcher healthy` asks one whether it is ready.

use std::net::SocketAddr;

use clap::{Parser, Subcommand};
use dispatcher::run::run;
use dispatcher::settings::{HELP, Settings};
use shared::{health_check, settings, supervise, telemetry, trace};
use tokio_util::sync::CancellationToken;

/// Posthorn's dispatcher: sends events to webhooks, repeats failed attempts, and records
/// every attempt. Its settings come from the environment.
#[derive(Parser)]
#[command(name = "posthorn-dispatcher", version, after_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask the dispatcher that listens on `HTTP_ADDR` whether it is ready.
    Healthy,
}

#[tokio::main]
#[allow(clippy::print_stdout)] // The command for operators prints its answer.
async fn main() -> anyhow::Result<()> {
    let variable = settings::environment();
    if let Some(Command::Healthy) = Arguments::parse().command {
        let default = SocketAddr::from(([127, 0, 0, 1], 8081));
        println!("{}", health_check::ask(&variable, default)?);
        return Ok(());
    }
    let settings = Settings::read(&variable)?;
    telemetry::log_to_stderr(settings.common.log_format);
    supervise::die_on_panic();
    let stop = CancellationToken::new();
    supervise::stop_on_signals(stop.clone())?;
    trace::start(&settings.common.tracing, "posthorn-dispatcher")?;
    let ended = run(settings, stop).await;
    trace::stop().await;
    ended
}
