//! Measures what each process has used: processor time, and its peak memory.

use std::collections::BTreeMap;

use super::stage::Stage;
use crate::pair::Pair;

/// Figures by process: `ingest`, `dispatcher`, `rabbitmq`, `postgresql`, `receiver`,
/// `generator`, `floor`. `idle`: what RabbitMQ uses without messages.
pub type ByProcess = BTreeMap<&'static str, f64>;

/// What runs in production, and the floor in its place: not what makes and receives the load.
pub const MEASURED: [&str; 5] = ["ingest", "dispatcher", "rabbitmq", "postgresql", "floor"];

/// The processes that are measured.
pub struct Meter<'a> {
    pair: &'a Pair,
    /// Our own processes with their names. Several dispatchers are added up.
    ours: Vec<(&'static str, u32)>,
}

impl<'a> Meter<'a> {
    /// Both servers and the receiver. Add the others with [`Meter::with`].
    #[must_use]
    pub fn new(stage: &Stage<'a>) -> Self {
        Self {
            pair: stage.pair,
            ours: vec![("receiver", stage.receiver.pid())],
        }
    }

    /// Adds a process.
    #[must_use]
    pub fn with(mut self, what: &'static str, pid: u32) -> Self {
        self.ours.push((what, pid));
        self
    }

    /// Processor seconds used so far. An external server counts as nothing.
    #[must_use]
    pub fn cpu(&self) -> ByProcess {
        let mut used = BTreeMap::new();
        for (server, seconds) in [
            ("rabbitmq", self.pair.rabbitmq().cpu_seconds()),
            ("postgresql", self.pair.postgres().cpu_seconds()),
        ] {
            if let Ok(seconds) = seconds {
                used.insert(server, seconds);
            }
        }
        for (what, pid) in &self.ours {
            *used.entry(*what).or_default() += cpu_seconds(*pid);
        }
        used
    }

    /// The peak memory of each process, in MiB. Of several dispatchers, the largest.
    /// Of PostgreSQL, its memory now, with shared memory counted once.
    #[must_use]
    pub fn memory(&self) -> ByProcess {
        let mut peaks = BTreeMap::new();
        if let Ok(bytes) = self.pair.rabbitmq().peak_rss_bytes() {
            peaks.insert("rabbitmq", mebibytes(bytes));
        }
        if let Ok(bytes) = self.pair.postgres().memory_bytes() {
            peaks.insert("postgresql", mebibytes(bytes));
        }
        for (what, pid) in &self.ours {
            let peak = mebibytes(peak_rss(*pid));
            let entry: &mut f64 = peaks.entry(*what).or_default();
            *entry = entry.max(peak);
        }
        peaks
    }

    /// The memory of each process now, in MiB. Several dispatchers are added up. Of the
    /// servers, shared memory is counted once.
    #[must_use]
    pub fn resident(&self) -> ByProcess {
        let mut now = BTreeMap::new();
        for (server, bytes) in [
            ("rabbitmq", self.pair.rabbitmq().memory_bytes()),
            ("postgresql", self.pair.postgres().memory_bytes()),
        ] {
            if let Ok(bytes) = bytes {
                now.insert(server, mebibytes(bytes));
            }
        }
        for (what, pid) in &self.ours {
            *now.entry(*what).or_default() += resident(*pid);
        }
        now
    }
}

/// The usage between two measurements.
#[must_use]
pub fn between(before: &ByProcess, after: &ByProcess) -> ByProcess {
    after
        .iter()
        .map(|(what, seconds)| (*what, seconds - before.get(what).unwrap_or(&0.0)))
        .collect()
}

/// The sum over the processes in [`MEASURED`].
#[must_use]
pub fn total(figures: &ByProcess) -> f64 {
    let measured = MEASURED.iter().filter_map(|process| figures.get(process));
    measured.sum()
}

/// All processor time of a process; 0 if it has ended.
#[must_use]
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name (field 2) may contain anything, but ends at the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .sum();
    f64::from(ticks) / rustix::param::clock_ticks_per_second() as f64
}

fn peak_rss(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// The resident memory of a process now, in MiB; 0 if it has ended.
#[must_use]
pub fn resident(pid: u32) -> f64 {
    mebibytes(status(pid, "VmRSS:"))
}

/// A line of `/proc/PID/status`, in bytes.
fn status(pid: u32, line: &str) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|is| is.strip_prefix(line))
        .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

/// In MiB.
#[must_use]
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
