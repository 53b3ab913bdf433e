//! Runs a command with a private RabbitMQ and PostgreSQL that all its tests share.
//!
//! `with_servers cargo nextest run …` starts the pair of servers, names it in the
//! environment (see `harness::shared_servers`), runs the command, and stops the pair.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use harness::pair::{Management, Pair, PairConfig};
use harness::shared_servers::{AMQP_URL, DATABASE_URL, MANAGEMENT_URL};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// How long the command may take to end when it is interrupted.
const GOODBYE: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments
        .next()
        .context("usage: with_servers COMMAND [ARGUMENT …]")?;

    let folder = std::env::temp_dir().join(format!("posthorn-test-servers-{}", std::process::id()));
    let mut config = PairConfig::new(folder);
    config.management = Management::Objects;
    // Tests that kill a server have their own, with fsync on.
    config.fsync = false;
    let pair = Pair::start(config).await?;

    let mut command = Command::new(program)
        .args(arguments)
        .env(DATABASE_URL, pair.postgres().url())
        .env(AMQP_URL, pair.rabbitmq().url())
        .env(MANAGEMENT_URL, pair.rabbitmq().management_url()?)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let status = tokio::select! {
        status = command.wait() => Some(status?),
        // Ctrl-C in the terminal reaches the command as well.
        _ = interrupt.recv() => None,
        _ = terminate.recv() => {
            if let Some(pid) = command.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                kill_process(pid, Signal::TERM)?;
            }
            None
        }
    };
    if status.is_none() {
        // The command ends its tests first. If it doesn't, it is killed below.
        let _ = tokio::time::timeout(GOODBYE, command.wait()).await;
    }
    drop(command);
    pair.discard().await?;
    let code = status
        .and_then(|status| status.code())
        .and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
