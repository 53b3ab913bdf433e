//! Prints the results as a table and writes them as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::machine::Machine;
use super::scenario::{Kind, Measured};
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

/// All rounds of one kind.
#[derive(Debug, Serialize)]
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
    /// Processor milliseconds per delivery (per event if nothing is delivered). That
    /// is the same as seconds per 1,000. Medians, by process.
    pub cpu_seconds_per_1000: ByProcess,
}

/// Several measurements of the same thing.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    /// The lowest.
    pub least: f64,
    /// The highest.
    pub most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
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
    pub fn of(machine: Machine, rounds: Vec<Measured>) -> Self {
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

    /// The report as a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to memory cannot fail.
        let _ = self.write(&mut text);
        text
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
        let width = self
            .summary
            .iter()
            .map(|row| row.what.len())
            .max()
            .unwrap_or(0);
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
            "\nProcessor seconds per 1,000 deliveries (accept alone: per 1,000 events)"
        )?;
        let columns = [
            "ingest",
            "dispatcher",
            "rabbitmq",
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
            "\nFrom publishing to arrival, ms  {:>8} {:>8} {:>8} {:>8}",
            "p50", "p95", "p99", "longest"
        )?;
        for row in &self.summary {
            if let Some([p50, p95, p99, longest]) = row.latency_ms {
                writeln!(
                    text,
                    "{:30}  {p50:8.1} {p95:8.1} {p99:8.1} {longest:8.1}",
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
        events_per_s: Spread::of(rounds.iter().filter_map(|round| round.events_per_s)),
        deliveries_per_s: Spread::of(rounds.iter().filter_map(|round| round.deliveries_per_s)),
        latency_ms: latencies.get(latencies.len() / 2).copied(),
        cpu_seconds_per_1000: per_1000
            .into_iter()
            .filter_map(|(process, values)| Some((process, Spread::of(values.into_iter())?.median)))
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
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert!(Spread::of(std::iter::empty()).is_none());
    }
}
