//! `make bench ARGS=growth`: does a delivery cost more when a tenant has many webhooks?
//!
//! Each event matches ten webhooks, and the tenant has only these, a thousand, or a hundred
//! thousand. Everything runs together at full speed, as in the row "accept and deliver, AMQP,
//! 10 per event". The rounds take turns. The result is the ratio of each rate to the first
//! one, and the memory that a webhook takes.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;

use super::kinds::{Kind, MATCHING, Past};
use super::machine::Machine;
use super::report::{Report, Spread, Summary};
use super::scenario::Bench;
use crate::pair::Pair;

/// The tenant's webhooks: the fewest, some, and the most.
const WEBHOOKS: [usize; 3] = [MATCHING, 1_000, 100_000];
/// The target: no rate is lower than this share of the first one.
const TARGET: f64 = 0.9;
/// The processes with a column for their memory.
const PROCESSES: [&str; 4] = ["ingest", "dispatcher", "rabbitmq", "postgresql"];
/// The processes that have all webhooks in memory.
const SERVICES: [&str; 2] = ["ingest", "dispatcher"];

/// The sizes of the benchmark.
#[derive(Args)]
pub struct Growth {
    /// Events of a round; each is delivered ten times.
    #[arg(long, default_value_t = 6_000)]
    events: u64,
    /// Rounds with each number of webhooks.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Growth {
    /// Measures, and answers a table.
    ///
    /// # Errors
    /// If a round doesn't come to its end.
    pub async fn measure(&self, pair: &Pair, folder: &Path) -> anyhow::Result<String> {
        let machine = Machine::look(pair).await?;
        let bench = Bench {
            pair,
            folder,
            events: self.events,
            seconds: 0,
            month: None,
        };
        let mut measured = Vec::new();
        for _ in 0..self.rounds {
            for webhooks in WEBHOOKS {
                measured.extend(bench.round(Kind::Among(webhooks), Past::None).await?);
            }
        }
        Ok(table(&Report::new(machine, measured)))
    }
}

fn table(report: &Report) -> String {
    let mut text = report.machine.heading();
    // Writing to a string can't fail.
    let _ = write!(
        text,
        "\n{:<34} {:>12} {:>6} {:>10} {:>6}",
        "Medians; memory now, in MiB", "deliveries/s", "ratio", "CPU, ms", "ratio"
    );
    for process in PROCESSES {
        let _ = write!(text, " {process:>10}");
    }
    let _ = writeln!(text);
    let first = report.summary.first();
    for row in &report.summary {
        write_row(report, row, first.unwrap_or(row), &mut text);
    }
    write_memory_per_webhook(report, &mut text);
    text
}

fn write_row(report: &Report, row: &Summary, first: &Summary, text: &mut String) {
    let rate = |row: &Summary| row.rate().unwrap_or_default();
    let ratio = rate(row) / rate(first);
    let _ = write!(
        text,
        "{:<34} {:>12.0} {ratio:>6.2} {:>10.3} {:>6.2}",
        row.what,
        rate(row),
        row.cpu(),
        row.cpu() / first.cpu()
    );
    for process in PROCESSES {
        let _ = write!(text, " {:>10.1}", resident(report, &row.what, process));
    }
    let verdict = if ratio >= TARGET { "at least" } else { "BELOW" };
    let _ = writeln!(text, "   {verdict} {TARGET}");
}

fn write_memory_per_webhook(report: &Report, text: &mut String) {
    let [fewest, _, most] = WEBHOOKS;
    for service in SERVICES {
        let with = |webhooks| resident(report, &Kind::Among(webhooks).name(), service);
        let bytes = (with(most) - with(fewest)) * f64::from(1 << 20) / (most - fewest) as f64;
        let _ = writeln!(
            text,
            "A webhook takes {bytes:.0} bytes of {service}'s memory."
        );
    }
}

/// What a process had in memory after the rounds of a row, in MiB: the median.
fn resident(report: &Report, row: &str, process: &str) -> f64 {
    let rounds = report.rounds.iter().filter(|round| round.what == row);
    let values = rounds.filter_map(|round| round.resident_mib.get(process).copied());
    Spread::from_values(values).map_or(0.0, |spread| spread.median)
}
