//! Each row's ratios: to the floor of the same run, and to the same row of another run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::{Report, Summary};
use crate::bench::kinds::Kind;

/// Another run, as its report was written down.
#[derive(Debug, Deserialize)]
pub struct Baseline {
    machine: BaselineMachine,
    summary: Vec<Summary>,
}

#[derive(Debug, Deserialize)]
struct BaselineMachine {
    cores: usize,
    model: String,
    revision: String,
}

impl Baseline {
    /// From a file.
    ///
    /// # Errors
    /// If there is none, or if it isn't a report of this version.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let name = || file.display().to_string();
        let text = std::fs::read(file).with_context(name)?;
        serde_json::from_slice(&text).with_context(name)
    }
}

/// Writes a table with one line per row of the report. What has no counterpart is `-`.
pub(super) fn write(
    report: &Report,
    baseline: &anyhow::Result<Baseline>,
    text: &mut String,
) -> std::fmt::Result {
    let floor = report.find(&Kind::Floor.name());
    writeln!(
        text,
        "\nRatios (rates: more is better; processor time and latency: less)"
    )?;
    if floor.is_none() {
        writeln!(text, "No ratios to the floor: it wasn't measured.")?;
    }
    match baseline {
        Ok(Baseline { machine, .. }) => writeln!(
            text,
            "The baseline is {} on {} x {}.",
            machine.revision, machine.cores, machine.model
        )?,
        Err(error) => writeln!(text, "No ratios to a baseline: {error:#}.")?,
    }
    let width = report.width();
    writeln!(
        text,
        "{:width$}  {:>17}  {:>35}\n{:width$}  {:>8} {:>8}  {:>8} {:>8} {:>8} {:>8}",
        "", "to the floor", "to the baseline", "", "rate", "CPU", "rate", "CPU", "p50", "p99"
    )?;
    for row in &report.summary {
        let rows = baseline.as_ref().map(|baseline| &baseline.summary);
        let before = rows.into_iter().flatten().find(|one| one.what == row.what);
        write!(text, "{:width$} ", row.what)?;
        write_ratios(&to_the_floor(row, floor), text)?;
        write!(text, " ")?;
        write_ratios(&to_before(row, before), text)?;
        writeln!(text)?;
    }
    Ok(())
}

/// Rate and processor time.
fn to_the_floor(row: &Summary, floor: Option<&Summary>) -> [Option<f64>; 2] {
    // A row with a latency has a steady rate, which says nothing about what is possible.
    let rate = row.rate().filter(|_| row.latency_ms.is_none());
    [
        ratio(rate, floor.and_then(Summary::rate)),
        ratio(Some(row.cpu()), floor.map(Summary::cpu)),
    ]
}

/// Rate, processor time, p50 and p99.
fn to_before(row: &Summary, before: Option<&Summary>) -> [Option<f64>; 4] {
    let latency = |n: usize| {
        let of = |row: &Summary| Some(row.latency_ms?[n]);
        ratio(of(row), before.and_then(of))
    };
    [
        ratio(row.rate(), before.and_then(Summary::rate)),
        ratio(Some(row.cpu()), before.map(Summary::cpu)),
        latency(0),
        latency(2),
    ]
}

fn ratio(now: Option<f64>, then: Option<f64>) -> Option<f64> {
    let (now, then) = now.zip(then)?;
    (then > 0.0).then(|| now / then)
}

fn write_ratios(ratios: &[Option<f64>], text: &mut String) -> std::fmt::Result {
    for ratio in ratios {
        match ratio {
            Some(ratio) => write!(text, " {ratio:>8.2}")?,
            None => write!(text, " {:>8}", "-")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::machine::Machine;
    use crate::bench::scenario::Measured;

    fn report(rates: &[(String, f64)]) -> Report {
        let measured = |(what, rate): &(String, f64)| Measured {
            what: what.clone(),
            deliveries_per_s: Some(*rate),
            units: 1_000,
            cpu_seconds: [("rabbitmq", 2.0)].into(),
            ..Measured::default()
        };
        Report::new(Machine::default(), rates.iter().map(measured).collect())
    }

    /// The lines about ratios, each with single spaces.
    fn lines(report: &Report, baseline: &anyhow::Result<Baseline>) -> Vec<String> {
        let mut text = String::new();
        write(report, baseline, &mut text).unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    }

    #[test]
    fn each_row_has_its_ratios_to_the_floor_and_to_the_same_row_of_another_run() {
        let before = report(&[("both".to_owned(), 500.0)]);
        let baseline = serde_json::from_slice(&serde_json::to_vec(&before).unwrap()).unwrap();
        let now = report(&[
            (Kind::Floor.name(), 4_000.0),
            ("both".to_owned(), 1_000.0),
            ("new".to_owned(), 2_000.0),
        ]);
        let lines = lines(&now, &Ok(baseline));
        assert!(lines.contains(&"floor: consume, POST, ack 1.00 1.00 - - - -".to_owned()));
        assert!(lines.contains(&"both 0.25 1.00 2.00 1.00 - -".to_owned()));
        assert!(lines.contains(&"new 0.50 1.00 - - - -".to_owned()));
    }

    #[test]
    fn a_missing_baseline_and_a_missing_floor_are_said_in_a_line_each() {
        let now = report(&[("one".to_owned(), 1_000.0)]);
        let missing = Baseline::read(Path::new("/there/is/none.json"));
        let lines = lines(&now, &missing);
        let begins = |with: &str| lines.iter().filter(|line| line.starts_with(with)).count();
        assert_eq!(begins("No ratios to the floor:"), 1);
        assert_eq!(begins("No ratios to a baseline: /there/is/none.json:"), 1);
        assert!(lines.contains(&"one - - - - - -".to_owned()));
    }
}
