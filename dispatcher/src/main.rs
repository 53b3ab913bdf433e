//! `posthorn-dispatcher`: run as many as are needed. All of them are equal.

use clap::Parser;
use dispatcher::run::run;
use dispatcher::settings::{HELP, Settings};
use shared::{settings, supervise, telemetry};
use tokio_util::sync::CancellationToken;

/// Posthorn's dispatcher: sends events to webhooks, repeats failed attempts, and records
/// every attempt. It takes no arguments. Its settings come from the environment.
#[derive(Parser)]
#[command(name = "posthorn-dispatcher", version, after_help = HELP)]
struct Arguments {}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Arguments::parse();
    let settings = Settings::read(&settings::environment())?;
    telemetry::log_to_stderr(settings.common.log_format);
    supervise::die_on_panic();
    let stop = CancellationToken::new();
    supervise::stop_on_signals(stop.clone())?;
    run(settings, stop).await
}
