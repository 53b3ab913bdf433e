//! Describes where the figures come from: the machine, the servers' versions, the commit.

use std::process::Command;

use serde::Serialize;

use super::stage::sql;
use crate::pair::Pair;

/// The facts without which a figure means little.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Their model.
    pub model: String,
    /// `uname -r`
    pub kernel: String,
    /// MiB of memory.
    pub memory_mib: u64,
    /// RabbitMQ's version.
    pub rabbitmq: String,
    /// PostgreSQL's version.
    pub postgresql: String,
    /// The version of the compiler on this machine. It is assumed that it built the
    /// binaries.
    pub rustc: String,
    /// The commit, with `-dirty` if files differ from it.
    pub revision: String,
    /// How the benchmark was started.
    pub command: String,
}

impl Machine {
    /// This machine.
    pub async fn look(pair: &Pair) -> anyhow::Result<Self> {
        let rabbitmq = pair
            .rabbitmq()
            .rabbitmqctl(&["eval", "io:format(\"~s\", [rabbit_misc:version()])."])
            .await?;
        let version = sql(pair, "posthorn")
            .await?
            .query_one("SHOW server_version", &[])
            .await?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            model: field("/proc/cpuinfo", "model name"),
            kernel: said("uname", &["-r"]),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
                .map_or(0, |kilobytes| kilobytes / 1024),
            rabbitmq: rabbitmq
                .lines()
                .next()
                .unwrap_or_default()
                .replace("ok", ""),
            postgresql: version.get(0),
            rustc: said("rustc", &["--version"]),
            revision: said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            command: std::env::args().collect::<Vec<_>>().join(" "),
        })
    }

    /// The lines above a table.
    #[must_use]
    pub fn heading(&self) -> String {
        let Self {
            cores,
            model,
            kernel,
            rabbitmq,
            postgresql,
            rustc,
            revision,
            ..
        } = self;
        format!(
            "\nPosthorn {revision}, {cores} x {model}, Linux {kernel}\n\
             RabbitMQ {rabbitmq}, PostgreSQL {postgresql} with fsync on, {rustc}\n\
             Events of 1 KiB; everything on this machine, receiver and generator too; logs off \
             unless a row says otherwise.\n"
        )
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn field(file: &str, name: &str) -> String {
    std::fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
