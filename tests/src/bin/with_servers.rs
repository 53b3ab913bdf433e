//! Runs a command with a private RabbitMQ and PostgreSQL that all its tests share.
//!
//! `with_servers cargo nextest run …` starts the pair of servers, names it in the
//! environment (see `harness::world`), runs the command, and stops the pair.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use harness::pair::{Pair, PairConfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// One for each test that shares the servers.
const VHOSTS: usize = 400;
/// How long the command may take to end when it is interrupted.
const GOODBYE: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments
        .next()
        .context("usage: with_servers COMMAND [ARGUMENT …]")?;

    let folder = std::env::temp_dir().join(format!("posthorn-test-servers-{}", std::process::id()));
    let leases = folder.with_extension("leases");
    std::fs::create_dir_all(&leases)?;
    let mut config = PairConfig::new(folder);
    config.vhosts = VHOSTS;
    // Tests that kill a server have their own, with fsync on.
    config.fsync = false;
    let pair = Pair::start(config).await?;

    let mut command = Command::new(program)
        .args(arguments)
        .env("POSTHORN_TEST_DATABASE_URL", pair.postgres().url())
        .env("POSTHORN_TEST_AMQP_URL", pair.rabbitmq().url())
        .env("POSTHORN_TEST_LEASES", &leases)
        .env("POSTHORN_TEST_VHOSTS", VHOSTS.to_string())
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
    remove(leases);
    let code = status
        .and_then(|status| status.code())
        .and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

fn remove(folder: PathBuf) {
    // The folder is in the temporary folder. Anything that can't be removed now is
    // removed with that.
    let _ = std::fs::remove_dir_all(folder);
}
