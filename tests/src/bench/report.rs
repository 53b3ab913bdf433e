//! Prints the results as a table and writes them as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::scenario::{Kind, Measured, Past};
use super::usage::ByProcess;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    /// One line per kind of round, in the order in which they were first measured.
    pub summary: Vec<Summary>,
    /// The most memory each process had in any round, in MiB.
    pub peak_mib: ByProcess,
    /// Every round.
    pub rounds: Vec<Measured>,
}

/// All rounds of one thing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The kind of round.
    pub what: String,
    /// The number of rounds.
    pub rounds: usize,
    /// Events a second.
    pub events_per_s: Option<Spread>,
    /// Deliveries a second.
    pub deliveries_per_s: Option<Spread>,
    /// Milliseconds from publishing to arrival, of the median round by p50.
    pub latency_ms: Option<[f64; 4]>,
    /// Processor milliseconds per delivery (per event where nothing is
    /// delivered), that is, seconds per 1,000: medians by process.
    pub cpu_seconds_per_1000: BTreeMap<String, f64>,
}

impl Summary {
    /// What happens to each event or delivery, a second.
    fn rate(&self) -> Option<f64> {
        Some(self.deliveries_per_s.or(self.events_per_s)?.median)
    }

    /// Of everything that is measured: not of what makes and receives the load.
    fn cpu(&self) -> f64 {
        let ours = ["ingest", "dispatcher", "rabbitmq", "postgresql", "floor"];
        let all = self.cpu_seconds_per_1000.iter();
        all.filter(|(process, _)| ours.contains(&process.as_str()))
            .map(|(_, seconds)| seconds)
            .sum()
    }
}

/// Another run, as its report was written down.
#[derive(Debug, Default, Deserialize)]
pub struct Baseline {
    machine: BaselineMachine,
    summary: Vec<Summary>,
}

#[derive(Debug, Default, Deserialize)]
struct BaselineMachine {
    cores: usize,
    model: String,
    revision: String,
}

impl Baseline {
    /// From a file; an empty one if there is none, or if it is another version's.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

/// Several measurements of the same thing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    /// The lowest.
    pub least: f64,
    /// The highest.
    pub most: f64,
}

impl Spread {
    fn from_values(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: median(&values)?,
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len().checked_sub(1)? / 2;
    let upper = sorted.len() / 2;
    Some(f64::midpoint(sorted[middle], sorted[upper]))
}

impl Report {
    /// The report of all rounds.
    #[must_use]
    pub fn new(machine: Machine, rounds: Vec<Measured>) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let mut peak_mib = ByProcess::new();
        for round in &rounds {
            if !names.contains(&round.what.as_str()) {
                names.push(&round.what);
            }
            for (process, mib) in &round.peak_mib {
                let most = peak_mib.entry(*process).or_insert(0.0_f64);
                *most = most.max(*mib);
            }
        }
        let summary = names
            .iter()
            .map(|name| {
                let of_it: Vec<_> = rounds.iter().filter(|round| round.what == **name).collect();
                summarise(name, &of_it)
            })
            .collect();
        Self {
            machine,
            summary,
            peak_mib,
            rounds,
        }
    }

    /// As a table, with ratios to another run.
    #[must_use]
    pub fn table(&self, baseline: &Baseline) -> String {
        let mut text = String::new();
        // Writing to memory cannot fail.
        let _ = self.write(&mut text);
        let _ = self.compare_to(baseline, &mut text);
        text
    }

    /// Each row against the same row of another run: 1.00 is no change.
    fn compare_to(&self, baseline: &Baseline, text: &mut String) -> std::fmt::Result {
        if baseline.summary.is_empty() {
            return Ok(());
        }
        let revision = &baseline.machine.revision;
        writeln!(
            text,
            "\nRatios to {revision} on {} x {} (rates: more is better; processor time and latency: less)",
            baseline.machine.cores, baseline.machine.model
        )?;
        let width = self.width();
        writeln!(
            text,
            "{:width$}  {:>8} {:>8} {:>8} {:>8}",
            "", "rate", "CPU", "p50", "p99"
        )?;
        for row in &self.summary {
            let Some(before) = baseline.summary.iter().find(|one| one.what == row.what) else {
                continue;
            };
            write!(text, "{:width$} ", row.what)?;
            let latency = |n: usize| Some((row.latency_ms?[n], before.latency_ms?[n]));
            for pair in [
                row.rate().zip(before.rate()),
                Some((row.cpu(), before.cpu())),
                latency(0),
                latency(2),
            ] {
                match pair {
                    Some((now, then)) if then > 0.0 => write!(text, " {:>8.2}", now / then)?,
                    _ => write!(text, " {:>8}", "-")?,
                }
            }
            writeln!(text)?;
        }
        Ok(())
    }

    fn width(&self) -> usize {
        let widths = self.summary.iter().map(|row| row.what.len());
        widths.max().unwrap_or(0)
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Machine {
            cores,
            model,
            kernel,
            rabbitmq,
            postgresql,
            rustc,
            revision,
            ..
        } = &self.machine;
        writeln!(
            text,
            "\nPosthorn {revision}, {cores} x {model}, Linux {kernel}"
        )?;
        writeln!(
            text,
            "RabbitMQ {rabbitmq}, PostgreSQL {postgresql} with fsync on, {rustc}\n\
             Events of 1 KiB; everything on this machine, receiver and generator too; logs off \
             unless it says so.\nMedians (lowest to highest).\n"
        )?;
        let width = self.width();
        writeln!(
            text,
            "{:width$}  {:>22}  {:>22}",
            "", "events/s", "deliveries/s"
        )?;
        for row in &self.summary {
            let (events, deliveries) = (rate(row.events_per_s), rate(row.deliveries_per_s));
            writeln!(text, "{:width$}  {events:>22}  {deliveries:>22}", row.what)?;
        }

        writeln!(
            text,
            "\nProcessor seconds per 1,000 deliveries (accept alone: per 1,000 events). idle: what RabbitMQ\n\
             uses without messages, in a round at a steady rate"
        )?;
        let columns = [
            "ingest",
            "dispatcher",
            "rabbitmq",
            "idle",
            "postgresql",
            "receiver",
            "generator",
            "floor",
        ];
        write!(text, "{:width$}", "")?;
        for column in columns {
            write!(text, "  {column:>10}")?;
        }
        writeln!(text)?;
        for row in &self.summary {
            write!(text, "{:width$}", row.what)?;
            for column in columns {
                match row.cpu_seconds_per_1000.get(column) {
                    Some(seconds) => write!(text, "  {seconds:>10.3}")?,
                    None => write!(text, "  {:>10}", "-")?,
                }
            }
            writeln!(text)?;
        }

        writeln!(
            text,
            "\n{:width$}  {:>8} {:>8} {:>8} {:>8}",
            "From publishing to arrival, ms", "p50", "p95", "p99", "longest"
        )?;
        for row in &self.summary {
            if let Some([p50, p95, p99, longest]) = row.latency_ms {
                writeln!(
                    text,
                    "{:width$}  {p50:8.1} {p95:8.1} {p99:8.1} {longest:8.1}",
                    row.what
                )?;
            }
        }

        write!(text, "\nPeak memory, MiB:")?;
        for (process, mib) in &self.peak_mib {
            write!(text, "  {process} {mib:.0}")?;
        }
        writeln!(text)?;
        self.compare(text)
    }

    fn compare(&self, text: &mut String) -> std::fmt::Result {
        let deliveries = |name: &str| {
            let row = self.summary.iter().find(|row| row.what == name)?;
            Some(row.deliveries_per_s?.median)
        };
        let floor = deliveries(&Kind::Floor.name());
        if let (Some(ours), Some(floor)) = (deliveries(&Kind::backlog_name(1)), floor) {
            let share = 100.0 * ours / floor;
            writeln!(
                text,
                "A backlog is delivered at {share:.0} % of the floor's rate."
            )?;
        }
        for fresh in &self.summary {
            let month = format!("{}{}", fresh.what, Past::Month.suffix());
            let month = self.summary.iter().find(|row| row.what == month);
            if let Some((after, before)) = month.and_then(Summary::rate).zip(fresh.rate()) {
                let share = 100.0 * after / before;
                writeln!(
                    text,
                    "{}: after a month {share:.0} % of the rate on a fresh database.",
                    fresh.what
                )?;
            }
        }
        let [two, four] = [2, 4].map(|n| deliveries(&Kind::Dispatchers(n).name()));
        if let (Some(two), Some(four)) = (two, four) {
            let factor = four / two;
            writeln!(
                text,
                "Four dispatchers deliver {factor:.2} times what two do."
            )?;
        }
        Ok(())
    }
}

fn summarise(name: &str, rounds: &[&Measured]) -> Summary {
    let mut per_1000: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in rounds {
        for (process, seconds) in &round.cpu_seconds {
            let values = per_1000.entry(*process).or_default();
            values.push(seconds * 1000.0 / round.units.max(1) as f64);
        }
    }
    let mut latencies: Vec<_> = rounds.iter().filter_map(|round| round.latency_ms).collect();
    latencies.sort_by(|a, b| a[0].total_cmp(&b[0]));
    Summary {
        what: name.to_owned(),
        rounds: rounds.len(),
        events_per_s: Spread::from_values(rounds.iter().filter_map(|round| round.events_per_s)),
        deliveries_per_s: Spread::from_values(
            rounds.iter().filter_map(|round| round.deliveries_per_s),
        ),
        latency_ms: latencies.get(latencies.len() / 2).copied(),
        cpu_seconds_per_1000: per_1000
            .into_iter()
            .filter_map(|(process, values)| {
                Some((
                    process.to_owned(),
                    Spread::from_values(values.into_iter())?.median,
                ))
            })
            .collect(),
    }
}

fn rate(spread: Option<Spread>) -> String {
    match spread {
        Some(Spread {
            median,
            least,
            most,
        }) => format!("{median:.0} ({least:.0} to {most:.0})"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::from_values([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert!(Spread::from_values(std::iter::empty()).is_none());
    }
}
