//! The folder of one pair of servers: its lock, its owner, and the state kept in it.
//!
//! The owner *and* its watchdog hold the lock. If an owner is killed, the next start in
//! the same folder waits until the old watchdog has ended. Otherwise the old watchdog
//! would end the new servers.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf, absolute};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::Progress;
use super::process::{self, Family};
use super::user::User;

/// How long an earlier owner and its watchdog may take to end.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// Below Linux's range for outgoing connections (32768 and up), so that no outgoing
/// connection can take a server's port while the server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// One pair's folder, locked.
pub(super) struct Home {
    folder: PathBuf,
    /// A link to `folder`, at the place that the caller asked for.
    signpost: Option<PathBuf>,
    user: User,
    lock: File,
    memory: Memory,
}

/// What stays the same between runs: `pair.json`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Random. Our processes carry it in their environment.
    id: String,
    /// RabbitMQ's data is bound to this node name.
    pub(super) node: String,
    pub(super) ports: Ports,
}

/// Ports on 127.0.0.1.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) postgres: u16,
    pub(super) amqp: u16,
    /// The port on which `rabbitmqctl` reaches the node.
    pub(super) distribution: u16,
    /// The port of a private Erlang port mapper.
    pub(super) epmd: u16,
    /// RabbitMQ's metrics, if they were asked for.
    #[serde(default)]
    pub(super) metrics: u16,
    /// RabbitMQ's management API, if it was asked for.
    #[serde(default)]
    pub(super) management: u16,
}

impl Home {
    /// Creates and locks the folder, ends processes that an earlier owner left, and
    /// chooses the ports.
    pub(super) async fn open(wanted: &Path, say: &Progress) -> anyhow::Result<Self> {
        let wanted = resolved(wanted)?;
        let (folder, user) = place(&wanted, say)?;
        let signpost = (folder != wanted).then(|| wanted.join("servers-are-here"));
        if let Some(signpost) = &signpost {
            fs::create_dir_all(&wanted)?;
            let _ = fs::remove_file(signpost);
            symlink(&folder, signpost)?;
        }

        let lock = open_private(&folder.join("lock"), user)
            .with_context(|| format!("{} belongs to another user?", folder.display()))?;
        take_lock(&lock, &folder, say).await?;

        let mut memory = Memory::read(&folder);
        let mut home = Self {
            folder,
            signpost,
            user,
            lock,
            memory: memory.clone(),
        };
        let leftovers = home.everything();
        if !leftovers.pids().is_empty() {
            say("ending the servers that an earlier run left behind");
            process::kill_all(&leftovers, Vec::new)?;
        }
        memory.ports.settle()?;
        home.memory = memory;
        home.write("pair.json", &serde_json::to_string_pretty(&home.memory)?)?;
        Ok(home)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn ports(&self) -> Ports {
        self.memory.ports
    }

    /// A second handle on the lock. The lock is held until both handles are closed.
    pub(super) fn share_lock(&self) -> anyhow::Result<File> {
        Ok(self.lock.try_clone()?)
    }

    /// The value of `POSTHORN_PAIR` in the environment of all our processes.
    pub(super) fn mark(&self) -> String {
        // Includes the path, because otherwise the processes of a copied folder
        // would be ours too.
        format!("{}-{:016x}", self.memory.id, hash(&self.folder))
    }

    /// All processes that were started for this folder, by this run or an earlier
    /// one.
    pub(super) fn everything(&self) -> Family {
        Family::new(&self.mark(), None, Some(self.folder.join("postgres")))
    }

    /// The processes of one server.
    pub(super) fn server(&self, name: &str) -> Family {
        let postgres = (name == "postgres").then(|| self.folder.join("postgres"));
        Family::new(&self.mark(), Some(name), postgres)
    }

    /// Creates a subfolder that only the servers' user can read.
    pub(super) fn subfolder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        create_private(&path, self.user)?;
        Ok(path)
    }

    /// Writes a file that only the servers' user may read.
    pub(super) fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        let fresh = self.folder.join(format!("{name}.new"));
        let _ = fs::remove_file(&fresh);
        drop(open_private(&fresh, self.user)?);
        fs::write(&fresh, content)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// A command that runs as the servers' user, with only `PATH` of our
    /// environment, and with our mark.
    pub(super) fn command(&self, program: &Path, server: Option<&str>) -> Command {
        let mut command = self.unmarked_command(program);
        command.env(process::PAIR, self.mark());
        if let Some(server) = server {
            command.env(process::SERVER, server);
        }
        command
    }

    /// As [`Home::command`], without the mark: for a process that must outlive the
    /// servers.
    pub(super) fn unmarked_command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("HOME", &self.folder)
            // The servers' user may not be able to read our working directory.
            .current_dir(&self.folder)
            // Ctrl-C in the terminal must reach only the owner, which stops the
            // servers.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some((uid, gid)) = self.user.change() {
            // std also drops root's supplementary groups here.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Deletes the folder. All processes must have ended.
    pub(super) fn delete(&self) -> anyhow::Result<()> {
        if let Some(signpost) = &self.signpost {
            let _ = fs::remove_file(signpost);
            // Fails if the folder has anything else in it, which is fine.
            let _ = signpost.parent().map(fs::remove_dir);
        }
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("deleting {}", self.folder.display()))
    }
}

impl Memory {
    fn read(folder: &Path) -> Self {
        fs::read(folder.join("pair.json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_else(|| {
                let id = format!("{:016x}", fastrand::u64(..));
                Self {
                    node: format!("posthorn-{id}@localhost"),
                    id,
                    ports: Ports::default(),
                }
            })
    }
}

impl Ports {
    /// Keeps each port that is still free, and chooses new ones for the others.
    fn settle(&mut self) -> anyhow::Result<()> {
        // All ports stay bound until the end, so no two can be the same.
        let mut bound = Vec::new();
        for port in [
            &mut self.postgres,
            &mut self.amqp,
            &mut self.distribution,
            &mut self.epmd,
            &mut self.metrics,
            &mut self.management,
        ] {
            let listener = std::iter::once(*port)
                .filter(|port| *port != 0)
                .chain(std::iter::repeat_with(|| fastrand::u16(PORTS)).take(200))
                .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
                .context("no free port on 127.0.0.1")?;
            *port = listener.local_addr()?.port();
            bound.push(listener);
        }
        Ok(())
    }
}

/// The folder to use and its user. It is the wanted folder, or one in `/var/tmp` in
/// two cases: the servers' user can't reach the wanted one (for example below
/// `/root`), or its path would have to be quoted. RabbitMQ passes its path unquoted
/// to `df`, and would then see a full disk.
fn place(wanted: &Path, say: &Progress) -> anyhow::Result<(PathBuf, User)> {
    let user = User::for_servers(wanted)?;
    let plain = is_plain(wanted);
    if plain && user.reaches(wanted) {
        create_private(wanted, user)?;
        if user.may_enter(&fs::metadata(wanted)?) {
            return Ok((wanted.to_owned(), user));
        }
    }
    let elsewhere = PathBuf::from(format!("/var/tmp/posthorn-{:016x}", hash(wanted)));
    let user = User::for_servers(&elsewhere)?;
    ensure!(
        !plain || user.change().is_some(),
        "uid {} cannot enter {}",
        user.uid,
        wanted.display()
    );
    create_private(&elsewhere, user)?;
    let found = fs::symlink_metadata(&elsewhere)?;
    // Every user may create names in /var/tmp.
    ensure!(
        found.is_dir() && found.uid() == user.uid && found.mode() & 0o077 == 0,
        "{} is not a private folder of uid {}: remove it",
        elsewhere.display(),
        user.uid
    );
    say(&format!(
        "the servers (uid {}) cannot work in {}: their data is in {}",
        user.uid,
        wanted.display(),
        elsewhere.display()
    ));
    Ok((elsewhere, user))
}

/// Whether a shell would take the path as one word.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| {
        path.chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-+@,:".contains(c))
    })
}

/// Creates the folder and the ones above it. An existing folder is left as it is,
/// unless it is empty and root's: then it is given to the user.
fn create_private(path: &Path, user: User) -> anyhow::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).with_context(|| format!("creating {}", above.display()))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => user.own(path),
        Err(_) if path.is_dir() => {
            let owner = fs::symlink_metadata(path)?.uid();
            if owner == 0 && fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_none()) {
                user.own(path)?;
            }
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("creating {}", path.display())),
    }
}

fn open_private(path: &Path, user: User) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    user.own(path)?;
    Ok(file)
}

async fn take_lock(lock: &File, folder: &Path, say: &Progress) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + LOCK_WAIT;
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error).context("locking the folder"),
            Err(TryLockError::WouldBlock) => {}
        }
        if tokio::time::Instant::now() > deadline {
            bail!(
                "{} is in use by another run: end that, or use another folder",
                folder.display()
            );
        }
        if !told {
            say("waiting for another run to release the servers' folder");
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The absolute path, with symbolic links resolved as far as it exists.
fn resolved(path: &Path) -> anyhow::Result<PathBuf> {
    let path = absolute(path)?;
    for existing in path.ancestors() {
        if let Ok(real) = existing.canonicalize() {
            return Ok(match path.strip_prefix(existing) {
                Ok(rest) if rest.as_os_str().is_empty() => real,
                Ok(rest) => real.join(rest),
                Err(_) => real,
            });
        }
    }
    Ok(path)
}

/// `DefaultHasher::new()` has fixed keys, so all processes of one build agree. If a
/// later build hashes a path differently, the only cost is a new folder.
fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}
