//! Finds the servers' binaries where Linux distributions install them.
//!
//! It doesn't use the wrappers in `/usr/bin` and `/usr/sbin`: Debian's require root or
//! the system's own user and folders.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// PostgreSQL's `bin` folder of the highest version, and that version.
pub(super) fn postgres() -> anyhow::Result<(PathBuf, u32)> {
    // Debian and Ubuntu, then the packages of postgresql.org for Red Hat.
    children("/usr/lib/postgresql")
        .chain(children("/usr").filter(|path| file_name(path).starts_with("pgsql-")))
        .filter_map(|path| {
            let version = file_name(&path).trim_start_matches("pgsql-").parse().ok()?;
            Some((path.join("bin"), version))
        })
        .filter(|(bin, _)| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .max_by_key(|(_, version)| *version)
        .context("PostgreSQL is not installed (/usr/lib/postgresql/*/bin): run `make deps`")
}

/// The folder with `rabbitmq-server` and `rabbitmqctl`.
pub(super) fn rabbitmq() -> anyhow::Result<PathBuf> {
    children("/usr/lib/rabbitmq/lib")
        .map(|release| release.join("sbin"))
        .chain([
            PathBuf::from("/usr/lib/rabbitmq/bin"),
            PathBuf::from("/opt/rabbitmq/sbin"),
        ])
        .rfind(|folder| folder.join("rabbitmq-server").is_file())
        .context("RabbitMQ is not installed (/usr/lib/rabbitmq): run `make deps`")
}

fn children(folder: &str) -> impl DoubleEndedIterator<Item = PathBuf> + use<> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.into_iter()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
