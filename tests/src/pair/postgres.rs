//! The private PostgreSQL: `initdb` once, then `postgres` in the foreground.
//!
//! Everybody who can open a TCP connection from this machine is superuser (`trust`): the
//! data isn't secret. There is no Unix socket.
//!
//! The name of the data folder has the major version in it. So a machine that was
//! upgraded starts with an empty database instead of failing to read the old one.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::Progress;
use super::binaries;
use super::home::Home;
use super::server::{Recipe, Server};

/// How to create and run a private PostgreSQL.
pub struct Postgres {
    home: Arc<Home>,
    bin: PathBuf,
    data: PathBuf,
    fsync: bool,
    url: Url,
}

impl Postgres {
    pub(super) fn new(home: &Arc<Home>, fsync: bool) -> anyhow::Result<Self> {
        let (bin, version) = binaries::postgres()?;
        let port = home.ports().postgres;
        Ok(Self {
            data: home.subfolder("postgres")?.join(format!("data-{version}")),
            home: Arc::clone(home),
            bin,
            fsync,
            url: Url::parse(&format!("postgres://posthorn@127.0.0.1:{port}/posthorn"))?,
        })
    }

    /// Creates the data folder with the database `posthorn`. It is created under
    /// another name and renamed at the end, so a half-made one is never used.
    async fn create(&self) -> anyhow::Result<()> {
        let fresh = self.data.with_extension("new");
        let _ = fs::remove_dir_all(&fresh);
        let mut initdb = self.command_of("initdb");
        initdb
            .arg("--pgdata")
            .arg(&fresh)
            .args(["--username=posthorn", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8"]);
        run(initdb, "").await.context("initdb")?;
        let mut single = self.command_of("postgres");
        single.arg("--single").arg("-D").arg(&fresh);
        single.args(["-c", "fsync=off", "postgres"]);
        run(single, "CREATE DATABASE posthorn\n")
            .await
            .context("creating the database `posthorn`")?;
        fs::rename(&fresh, &self.data).context("naming PostgreSQL's data folder")
    }

    fn command_of(&self, program: &str) -> Command {
        self.home.command(&self.bin.join(program), Some(Self::NAME))
    }

    /// Whether the library exists. PostgreSQL doesn't start if
    /// `shared_preload_libraries` names a missing one.
    fn has_library(&self, name: &str) -> bool {
        let file = format!("{name}.so");
        let beside = self.bin.join("../lib");
        [beside.join(&file), beside.join("postgresql").join(&file)]
            .iter()
            .any(|path| path.is_file())
    }
}

impl Recipe for Postgres {
    const NAME: &'static str = "postgres";
    /// "Fast" shutdown: ends sessions instead of waiting for them.
    const STOP: Signal = Signal::INT;

    fn url(&self) -> Url {
        self.url.clone()
    }

    fn data(&self) -> PathBuf {
        self.data.clone()
    }

    async fn prepare(&self, say: &Progress) -> anyhow::Result<()> {
        if !self.data.join("PG_VERSION").is_file() {
            say("creating a PostgreSQL database");
            self.create().await?;
        }
        // PostgreSQL refuses to start while a process with the id in this file
        // exists: perhaps a zombie, or after a reboot an unrelated process. We hold
        // the folder's lock and have found no PostgreSQL in it, so the file is
        // stale.
        let _ = fs::remove_file(self.data.join("postmaster.pid"));
        Ok(())
    }

    fn command(&self) -> Command {
        let mut settings = vec![
            format!("port={}", self.home.ports().postgres),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            format!("fsync={}", if self.fsync { "on" } else { "off" }),
            "shared_buffers=256MB".to_owned(),
            "max_connections=300".to_owned(),
            // In the data folder. In /dev/shm, the memory of a killed server would
            // stay.
            "dynamic_shared_memory_type=mmap".to_owned(),
            "log_line_prefix=%m [%p] %d ".to_owned(),
        ];
        if self.has_library("pg_stat_statements") {
            settings.push("shared_preload_libraries=pg_stat_statements".to_owned());
        }
        let mut command = self.command_of("postgres");
        command.arg("-D").arg(&self.data);
        for setting in settings {
            command.args(["-c", &setting]);
        }
        command
    }

    async fn answers(&self) -> bool {
        let greeting = accepts_sessions(self.home.ports().postgres);
        matches!(
            tokio::time::timeout(Duration::from_secs(2), greeting).await,
            Ok(Ok(true))
        )
    }
}

impl Server<Postgres> {
    /// The URL of one database of this server. Only `posthorn` (and `postgres`)
    /// exist; the caller must create others.
    #[must_use]
    pub fn database_url(&self, database: &str) -> String {
        self.url_with_path(database)
    }
}

/// Whether a session is accepted. While PostgreSQL recovers after a crash it accepts
/// connections and answers `SSLRequest`, but refuses sessions (57P03). So this sends
/// a real startup packet.
async fn accepts_sessions(port: u16) -> std::io::Result<bool> {
    let parameters = b"user\0posthorn\0database\0postgres\0\0";
    let mut packet = Vec::new();
    packet.extend(
        u32::try_from(8 + parameters.len())
            .map_err(std::io::Error::other)?
            .to_be_bytes(),
    );
    packet.extend(196_608_u32.to_be_bytes()); // protocol 3.0
    packet.extend(parameters);

    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(&packet).await?;
    // 'R': AuthenticationOk. 'E': an error.
    let let_in = stream.read_u8().await? == b'R';
    if let_in {
        stream.write_all(b"X\0\0\0\x04").await?;
    }
    Ok(let_in)
}

/// Runs one of PostgreSQL's programs to its end.
async fn run(mut command: Command, input: &str) -> anyhow::Result<()> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("running {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "{name}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
