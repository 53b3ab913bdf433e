//! One server of the pair: start, stop, kill, pause, measure.
//!
//! This code is the same for both servers. What is specific to one is its [`Recipe`]. An
//! external server, one that was given by its URL, has no recipe: everything except
//! reading its URLs is an error.
//!
//! A server is a family of processes (`process`). All of them are killed, paused and
//! measured together.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::process::{Pid, Signal};
use url::Url;

use super::Progress;
use super::home::Home;
use super::process::{self, Family};

/// How long a server may take to answer, or to stop. RabbitMQ writes about ten files to disk
/// before it answers, and beside others' writes a disk can need ten seconds for each.
const PATIENCE: Duration = Duration::from_secs(180);
/// A longer log is started anew at the next start.
const LONGEST_LOG: u64 = 32 << 20;

/// What is specific to PostgreSQL or to RabbitMQ.
pub trait Recipe: Send + Sync + 'static {
    /// The name of the server's folder and mark, also used in messages.
    const NAME: &'static str;
    /// The signal for an orderly shutdown of the main process.
    const STOP: Signal;

    fn url(&self) -> Url;
    /// The data folder, which `wipe` deletes.
    fn data(&self) -> PathBuf;
    /// Creates everything that has to exist before `command` runs.
    fn prepare(&self, say: &Progress) -> impl Future<Output = anyhow::Result<()>> + Send;
    /// The command that runs the server in the foreground.
    fn command(&self) -> Command;
    /// Whether the server speaks its protocol already.
    fn answers(&self) -> impl Future<Output = bool> + Send;
    /// Records that the server has started on this data.
    fn started(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A PostgreSQL or RabbitMQ, private or external.
pub struct Server<R: Recipe> {
    url: Url,
    private: Option<Private<R>>,
}

struct Private<R> {
    recipe: R,
    family: Family,
    log: PathBuf,
    /// The main process, our child. We have to reap it.
    child: Mutex<Option<Child>>,
    say: Progress,
    // Keeps the folder locked.
    _home: Arc<Home>,
}

impl<R: Recipe> Server<R> {
    pub(super) fn external(url: Url) -> Self {
        Self { url, private: None }
    }

    pub(super) fn private(recipe: R, home: &Arc<Home>, say: &Progress) -> Self {
        Self {
            url: recipe.url(),
            private: Some(Private {
                recipe,
                family: home.server(R::NAME),
                log: home.folder().join(format!("{}.log", R::NAME)),
                child: Mutex::new(None),
                say: Arc::clone(say),
                _home: Arc::clone(home),
            }),
        }
    }

    /// Whether the server was given by its URL. Then we never start or signal it.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.private.is_none()
    }

    /// The URL of the default vhost or database.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The same server's URL with another vhost or database.
    pub(super) fn url_with_path(&self, name: &str) -> String {
        let mut url = self.url.clone();
        // Can't fail: a URL with a host has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push(name);
        }
        url.into()
    }

    pub fn log(&self) -> anyhow::Result<&Path> {
        Ok(&self.ours()?.log)
    }

    /// Starts the server after `kill` or `stop`, on the same port and data. Waits at
    /// most 180 s for it to answer.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.ours()?.start().await
    }

    /// Waits until the server answers, and starts it again if it has stopped.
    pub async fn recover(&self) -> anyhow::Result<()> {
        let server = self.ours()?;
        let begun = Instant::now();
        loop {
            if server.has_ended() {
                server.kill().await?;
                return server.start().await;
            }
            if server.recipe.answers().await {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "{} doesn't recover", R::NAME);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Stops the server in order and starts it again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        let server = self.ours()?;
        server.stop().await?;
        server.start().await
    }

    /// Shuts the server down in order. If that takes more than 180 s, it is killed.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.ours()?.stop().await
    }

    /// Sends `SIGKILL` to all of its processes and waits until they are gone.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.ours()?.kill().await
    }

    /// Sends `SIGSTOP` to all of its processes: connections stay open, nothing
    /// answers.
    pub fn pause(&self) -> anyhow::Result<()> {
        process::pause_all(&self.ours()?.family)
    }

    /// Ends [`Server::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        process::resume_all(&self.ours()?.family)
    }

    /// Kills the server, deletes its data, and starts it empty.
    pub async fn wipe(&self) -> anyhow::Result<()> {
        let server = self.ours()?;
        server.kill().await?;
        let data = server.recipe.data();
        fs::remove_dir_all(&data).with_context(|| format!("deleting {}", data.display()))?;
        server.start().await
    }

    /// The ids of all its processes.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        Ok(self
            .processes()?
            .into_iter()
            .map(|pid| pid.as_raw_pid().unsigned_abs())
            .collect())
    }

    /// Processor time since the last start, user and system, including ended child
    /// processes.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        Ok(self
            .processes()?
            .into_iter()
            .map(process::cpu_seconds)
            .sum())
    }

    /// The sum of the peak resident memory of its running processes. For PostgreSQL
    /// this is an upper bound: each process counts the shared buffers that it has
    /// touched.
    pub fn peak_rss_bytes(&self) -> anyhow::Result<u64> {
        Ok(self
            .processes()?
            .into_iter()
            .map(process::peak_rss_bytes)
            .sum())
    }

    /// The memory that it has now. Shared memory is counted once (PSS).
    pub fn memory_bytes(&self) -> anyhow::Result<u64> {
        Ok(self.processes()?.into_iter().map(process::pss_bytes).sum())
    }

    /// An error if the main process ended by itself.
    pub(super) fn death(&self) -> Option<anyhow::Error> {
        let server = self.private.as_ref()?;
        let status = match server.child().as_mut()?.try_wait() {
            Ok(status) => status?,
            Err(error) => return Some(error.into()),
        };
        Some(server.failure(&format!("ended unasked, {status}")))
    }

    pub(super) async fn start_unless_external(&self) -> anyhow::Result<()> {
        match &self.private {
            Some(server) => server.start().await,
            None => Ok(()),
        }
    }

    pub(super) async fn stop_unless_external(&self) -> anyhow::Result<()> {
        match &self.private {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }

    pub(super) async fn kill_unless_external(&self) -> anyhow::Result<()> {
        match &self.private {
            Some(server) => server.kill().await,
            None => Ok(()),
        }
    }

    pub(super) fn recipe(&self) -> anyhow::Result<&R> {
        Ok(&self.ours()?.recipe)
    }

    fn processes(&self) -> anyhow::Result<Vec<Pid>> {
        Ok(self.ours()?.family.pids())
    }

    fn ours(&self) -> anyhow::Result<&Private<R>> {
        self.private
            .as_ref()
            .with_context(|| format!("this {} is external: only its URL is ours", R::NAME))
    }
}

impl<R: Recipe> Private<R> {
    async fn start(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        ensure!(self.child().is_none(), "{} runs already", R::NAME);
        self.recipe.prepare(&self.say).await?;
        let log = self.open_log()?;
        let child = self
            .recipe
            .command()
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", R::NAME))?;
        *self.child() = Some(child);

        while !self.recipe.answers().await {
            if self.has_ended() {
                self.kill().await?;
                return Err(self.failure("ended instead of starting"));
            }
            if begun.elapsed() > PATIENCE {
                self.kill().await?;
                return Err(self.failure("does not answer after 180 s"));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        self.recipe.started()?;
        (self.say)(&format!(
            "{} answers after {:.1} s",
            R::NAME,
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn stop(&self) -> anyhow::Result<()> {
        process::resume_all(&self.family)?;
        let main = self.child().as_ref().map(Child::id);
        if let Some(main) = main.and_then(|pid| Pid::from_raw(pid.cast_signed()))
            && !self.has_ended()
        {
            process::signal(main, R::STOP)?;
        }
        let begun = Instant::now();
        while main.is_some() && !self.has_ended() && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let in_time = begun.elapsed() < PATIENCE;
        // Erlang's port mapper doesn't end by itself.
        self.kill().await?;
        if in_time {
            return Ok(());
        }
        Err(self.failure("had to be killed: it did not stop within 180 s"))
    }

    async fn kill(&self) -> anyhow::Result<()> {
        let family = self.family.clone();
        let child = self.child().take();
        tokio::task::spawn_blocking(move || {
            process::kill_all(&family, || child.into_iter().collect())
        })
        .await
        .map_err(|panic| anyhow!(panic))?
        .with_context(|| format!("killing {}", R::NAME))
    }

    /// Whether the main process has ended. Reaps it if so.
    fn has_ended(&self) -> bool {
        match self.child().as_mut() {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => true,
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // The lock's holders only move a value, so a panic can't leave it half
        // changed.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_log(&self) -> anyhow::Result<File> {
        if fs::metadata(&self.log).is_ok_and(|log| log.len() > LONGEST_LOG) {
            fs::remove_file(&self.log)?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        let end = tail(&self.log).unwrap_or_default();
        let log = self.log.display();
        anyhow!("{} {what}. The end of {log}:\n{end}", R::NAME)
    }
}

impl<R: Recipe> Drop for Server<R> {
    fn drop(&mut self) {
        if let Some(server) = &self.private {
            let child = server.child().take();
            // There is nobody to report an error to. The watchdog tries again, then
            // the next start.
            let _ = process::kill_all(&server.family, || child.into_iter().collect());
        }
    }
}

/// The last 4 KiB of the file.
fn tail(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    if end.is_empty() {
        bail!("empty");
    }
    Ok(String::from_utf8_lossy(&end).into_owned())
}
