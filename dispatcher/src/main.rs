//! `posthorn-dispatcher`: as many of these as are needed, all the same.
//! `posthorn-dispatcher healthy` asks one whether it is ready.

use std::net::SocketAddr;

use clap::{Parser, Subcommand};
use dispatcher::run::run;
use dispatcher::settings::Settings;
use shared::telemetry;
use tokio_util::sync::CancellationToken;

/// Posthorn's dispatcher. Settings come from the environment, see README.md.
#[derive(Parser)]
#[command(name = "posthorn-dispatcher", version)]
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
    let variable = shared::settings::environment();
    if let Some(Command::Healthy) = Arguments::parse().command {
        let default = SocketAddr::from(([127, 0, 0, 1], 8081));
        println!("{}", shared::health::ask(&variable, default)?);
        return Ok(());
    }
    let settings = Settings::read(&variable)?;
    telemetry::log_to_stderr(settings.common.log_format);
    shared::supervise::die_on_panic();
    let stop = CancellationToken::new();
    shared::supervise::stop_on_signals(stop.clone())?;
    run(settings, stop).await
}
