//! Prints the results as a table and writes them as JSON.

mod ratios;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::kinds::{Kind, Past};
use super::machine::Machine;
use super::scenario::Measured;
use super::usage::{ByProcess, MEASURED};
pub use ratios::Baseline;

/// The columns of the table of processor time.
const PROCESSES: [&str; 8] = [
    "ingest",
    "dispatcher",
    "rabbitmq",
    "idle",
    "postgresql",
    "receiver",
    "generator",
    "floor",
];

/// The columns of the table of memory.
const RESIDENT: [&str; 4] = ["ingest", "dispatcher", "rabbitmq", "postgresql"];

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
    /// MiB of memory at the end, where everything ran together: medians by process.
    #[serde(default)]
    pub resident_mib: BTreeMap<String, f64>,
}

impl Summary {
    /// Deliveries a second; events, if nothing is delivered.
    pub(super) fn rate(&self) -> Option<f64> {
        Some(self.deliveries_per_s.or(self.events_per_s)?.median)
    }

    /// Processor milliseconds per delivery, of the processes in [`MEASURED`] together.
    pub(super) fn cpu(&self) -> f64 {
        let all = self.cpu_seconds_per_1000.iter();
        all.filter(|(process, _)| MEASURED.contains(&process.as_str()))
            .map(|(_, seconds)| seconds)
            .sum()
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
    pub(super) fn from_values(values: impl Iterator<Item = f64>) -> Option<Self> {
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

    /// As tables, with ratios to the floor and to another run.
    #[must_use]
    pub fn table(&self, baseline: &anyhow::Result<Baseline>) -> String {
        let mut text = self.machine.heading();
        // Writing to memory cannot fail.
        let _ = self.write(baseline, &mut text);
        text
    }

    fn write(&self, baseline: &anyhow::Result<Baseline>, text: &mut String) -> std::fmt::Result {
        self.write_rates(text)?;
        self.write_processor_time(text)?;
        self.write_latency(text)?;
        self.write_memory(text)?;
        ratios::write(self, baseline, text)?;
        self.compare_rows(text)
    }

    fn find(&self, what: &str) -> Option<&Summary> {
        self.summary.iter().find(|row| row.what == what)
    }

    fn width(&self) -> usize {
        let widths = self.summary.iter().map(|row| row.what.len());
        widths.max().unwrap_or(0)
    }

    fn write_rates(&self, text: &mut String) -> std::fmt::Result {
        let width = self.width();
        writeln!(
            text,
            "\n{:width$}  {:>22}  {:>22}",
            "Medians (lowest to highest)", "events/s", "deliveries/s"
        )?;
        for row in &self.summary {
            let (events, deliveries) = (rate(row.events_per_s), rate(row.deliveries_per_s));
            writeln!(text, "{:width$}  {events:>22}  {deliveries:>22}", row.what)?;
        }
        Ok(())
    }

    fn write_processor_time(&self, text: &mut String) -> std::fmt::Result {
        let width = self.width();
        writeln!(
            text,
            "\nProcessor seconds per 1,000 deliveries (accept alone: per 1,000 events). idle: what RabbitMQ\n\
             uses without messages, in a round at a steady rate"
        )?;
        write!(text, "{:width$}", "")?;
        for column in PROCESSES {
            write!(text, "  {column:>10}")?;
        }
        writeln!(text)?;
        for row in &self.summary {
            write!(text, "{:width$}", row.what)?;
            for column in PROCESSES {
                match row.cpu_seconds_per_1000.get(column) {
                    Some(seconds) => write!(text, "  {seconds:>10.3}")?,
                    None => write!(text, "  {:>10}", "-")?,
                }
            }
            writeln!(text)?;
        }
        Ok(())
    }

    fn write_latency(&self, text: &mut String) -> std::fmt::Result {
        let width = self.width();
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
        Ok(())
    }

    fn write_memory(&self, text: &mut String) -> std::fmt::Result {
        write!(text, "\nPeak memory, MiB:")?;
        for (process, mib) in &self.peak_mib {
            write!(text, "  {process} {mib:.0}")?;
        }
        writeln!(text)?;
        let width = self.width();
        write!(text, "{:width$}", "Memory at the end, MiB")?;
        for column in RESIDENT {
            write!(text, "  {column:>10}")?;
        }
        writeln!(text)?;
        for row in &self.summary {
            if row.resident_mib.is_empty() {
                continue;
            }
            write!(text, "{:width$}", row.what)?;
            for column in RESIDENT {
                match row.resident_mib.get(column) {
                    Some(mib) => write!(text, "  {mib:>10.0}")?,
                    None => write!(text, "  {:>10}", "-")?,
                }
            }
            writeln!(text)?;
        }
        Ok(())
    }

    /// What the rows of this run say of each other.
    fn compare_rows(&self, text: &mut String) -> std::fmt::Result {
        for fresh in &self.summary {
            let month = self.find(&format!("{}{}", fresh.what, Past::Month.suffix()));
            if let Some((after, before)) = month.and_then(Summary::rate).zip(fresh.rate()) {
                let share = 100.0 * after / before;
                writeln!(
                    text,
                    "{}: after a month {share:.0} % of the rate on a fresh database.",
                    fresh.what
                )?;
            }
        }
        let dispatchers = |n| self.find(&Kind::Dispatchers(n).name())?.rate();
        for n in [2, 4, 8] {
            if let (Some(one), Some(several)) = (dispatchers(1), dispatchers(n)) {
                let factor = several / one;
                let share = factor / n as f64;
                writeln!(
                    text,
                    "{n} dispatchers deliver {factor:.2} times what one does: {share:.2} of linear."
                )?;
            }
        }
        Ok(())
    }
}

fn summarise(name: &str, rounds: &[&Measured]) -> Summary {
    let per_1000 = |round: &Measured| {
        let per_unit = 1000.0 / round.units.max(1) as f64;
        let used = round.cpu_seconds.iter();
        used.map(|(process, seconds)| (*process, seconds * per_unit))
            .collect()
    };
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
        cpu_seconds_per_1000: medians(rounds.iter().map(|round| per_1000(round))),
        resident_mib: medians(rounds.iter().map(|round| round.resident_mib.clone())),
    }
}

/// The median of each process's figures.
fn medians(rounds: impl Iterator<Item = ByProcess>) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (process, figure) in rounds.flatten() {
        all.entry(process).or_default().push(figure);
    }
    let medians = all.into_iter().filter_map(|(process, figures)| {
        let spread = Spread::from_values(figures.into_iter())?;
        Some((process.to_owned(), spread.median))
    });
    medians.collect()
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
    fn a_row_has_the_memory_that_each_process_had_at_its_end() {
        let round = |ingest| Measured {
            what: "both".to_owned(),
            resident_mib: [("ingest", ingest), ("dispatcher", 40.0)].into(),
            ..Measured::default()
        };
        let report = Report::new(Machine::default(), [50.0, 70.0].map(round).into());
        let mut text = String::new();
        report.write_memory(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with("both")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["both", "60", "40", "-", "-"]);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::from_values([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert!(Spread::from_values(std::iter::empty()).is_none());
    }
}
