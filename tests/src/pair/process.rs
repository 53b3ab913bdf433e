//! Which processes are ours, signals to them, and what they have used.
//!
//! A process is ours when its environment contains the mark of our folder. The mark is
//! random and is given only to processes that we start. PostgreSQL's child processes
//! overwrite their environment to show a title in `ps`. Those are recognised by their
//! binary, `postgres`, together with their working directory, our data folder. Nothing
//! else gets a signal, whatever a pid file says.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The environment variable with the mark of the folder.
pub(super) const PAIR: &str = "POSTHORN_PAIR";
/// The environment variable with the name of the server.
pub(super) const SERVER: &str = "POSTHORN_PAIR_SERVER";

/// How long killed processes may take to disappear. A process that waits for a slow
/// disk ends only afterwards.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// A set of our processes, looked up again each time.
#[derive(Clone, Debug)]
pub(super) struct Family {
    marks: Vec<Vec<u8>>,
    /// The folder above PostgreSQL's data folder, if PostgreSQL is included.
    postgres: Option<PathBuf>,
}

impl Family {
    pub(super) fn new(mark: &str, server: Option<&str>, postgres: Option<PathBuf>) -> Self {
        let mut marks = vec![format!("{PAIR}={mark}").into_bytes()];
        marks.extend(server.map(|server| format!("{SERVER}={server}").into_bytes()));
        Self { marks, postgres }
    }

    /// All processes that run now. Zombies don't count.
    pub(super) fn pids(&self) -> Vec<Pid> {
        let data: HashSet<(u64, u64)> = self
            .postgres
            .iter()
            .flat_map(|postgres| fs::read_dir(postgres).into_iter().flatten().flatten())
            .filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_dir))
            .map(|folder| (folder.dev(), folder.ino()))
            .collect();
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .filter(|pid| self.is_marked(*pid) || is_postgres_in(*pid, &data))
            .collect()
    }

    fn is_marked(&self, pid: Pid) -> bool {
        let Ok(environment) = fs::read(proc(pid).join("environ")) else {
            return false;
        };
        self.marks.iter().all(|mark| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark)
        })
    }
}

fn is_postgres_in(pid: Pid, data: &HashSet<(u64, u64)>) -> bool {
    if data.is_empty() {
        return false;
    }
    let in_data = fs::metadata(proc(pid).join("cwd"))
        .is_ok_and(|folder| data.contains(&(folder.dev(), folder.ino())));
    in_data
        && fs::read_link(proc(pid).join("exe")).is_ok_and(|binary| {
            // The name ends with "(deleted)" after the package was upgraded.
            let name = binary.file_name().unwrap_or_default().to_string_lossy();
            name.trim_end_matches(" (deleted)") == "postgres"
        })
}

/// Signals a process. It isn't an error if the process has ended.
pub(super) fn signal(pid: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signalling process {pid:?}")),
    }
}

/// Kills the whole family. Returns when no process is left and `children`, our
/// direct children, are reaped.
pub(super) fn kill_all(
    family: &Family,
    children: impl FnOnce() -> Vec<Child>,
) -> anyhow::Result<()> {
    let mut children = children();
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        // A child that hasn't reached its `exec` yet carries no mark.
        for child in &mut children {
            let _ = child.kill();
        }
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let pids = family.pids();
        if pids.is_empty() && children.is_empty() {
            return Ok(());
        }
        for pid in &pids {
            signal(*pid, Signal::KILL)?;
        }
        if Instant::now() > deadline {
            bail!("killed, but still there after {GONE_WITHIN:?}: {pids:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Stops the family until [`resume_all`], including processes that start meanwhile.
pub(super) fn pause_all(family: &Family) -> anyhow::Result<()> {
    let mut stopped = HashSet::new();
    loop {
        let running: Vec<Pid> = family
            .pids()
            .into_iter()
            .filter(|pid| !stopped.contains(pid))
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        for pid in running {
            signal(pid, Signal::STOP)?;
            stopped.insert(pid);
        }
    }
}

/// Continues a stopped family.
pub(super) fn resume_all(family: &Family) -> anyhow::Result<()> {
    family
        .pids()
        .into_iter()
        .try_for_each(|pid| signal(pid, Signal::CONT))
}

/// User and system seconds, with those of children that ended and were waited
/// for: `utime stime cutime cstime`, fields 14 to 17 of `/proc/<pid>/stat`.
pub(super) fn cpu_seconds(pid: Pid) -> f64 {
    let stat = fs::read_to_string(proc(pid).join("stat")).unwrap_or_default();
    // The name (field 2) may contain anything, but ends at the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "ticks stay far below 2^52")]
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    seconds
}

/// The highest resident memory of the process so far.
pub(super) fn peak_rss_bytes(pid: Pid) -> u64 {
    kilobytes(&proc(pid).join("status"), "VmHWM:")
}

/// The memory of the process now, with its share of shared memory.
pub(super) fn pss_bytes(pid: Pid) -> u64 {
    kilobytes(&proc(pid).join("smaps_rollup"), "Pss:")
}

fn kilobytes(file: &Path, field: &str) -> u64 {
    fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| value.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

fn proc(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{}", pid.as_raw_pid()))
}
