//! Helper processes of the benchmark: the same binary again, with a hidden subcommand. Such
//! a process reports one line on standard output. It ends when its standard input
//! closes, which happens when its owner ends.

use std::io::{Read, Write};
use std::process::Stdio;

use anyhow::Context;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

/// A helper process, as its owner sees it. Killed when dropped.
pub struct Child {
    process: tokio::process::Child,
    pid: u32,
    said: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this binary with other arguments.
    pub fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {arguments:?}"))?;
        let pid = process.id().context("it ended at once")?;
        let output = process.stdout.take().context("it has no output")?;
        Ok(Self {
            process,
            pid,
            said: BufReader::new(output).lines(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next thing it says.
    pub async fn line(&mut self) -> anyhow::Result<String> {
        self.said
            .next_line()
            .await?
            .context("it ended without an answer")
    }

    /// Its result, once it is through.
    pub async fn result<T: DeserializeOwned>(mut self) -> anyhow::Result<T> {
        let line = self.line().await?;
        // Held until here: closing it means that the owner is gone.
        drop(self.process.stdin.take());
        self.process.wait().await?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Says a line to the owner.
pub fn say(line: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

/// Waits for the owner to be gone.
pub async fn owner_gone() {
    let (gone, noticed) = tokio::sync::oneshot::channel::<()>();
    // Not the runtime's thread: that would wait for it when it ends.
    std::thread::spawn(move || {
        // A failed read means the same as an end.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(gone);
    });
    let _ = noticed.await;
}
