//! What is wrong with the system, the worst first. "Everything runs" is said only if all of it
//! is known: processes report, queues are measured and consumed from, nothing is late or lost.

use time::{Duration, OffsetDateTime};

use crate::api::operations::{Process, Queue, System};
use crate::console::moments::{count, span};

/// A lag of this many seconds counts as trouble.
pub(super) const LATE: f64 = 30.0;
/// The sweeper runs every few seconds. If its last run is longer ago than this, it stands still.
const STANDS: Duration = Duration::minutes(5);
/// Queues are measured every ten seconds. Figures that are older than this count as out of date.
const OLD: Duration = Duration::minutes(1);
/// How many silent processes, and queues without consumers, are named.
const NAMED: usize = 3;

/// Something that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Whether something stands still, or may be lost; else it is a warning.
    pub fails: bool,
    /// A sentence.
    pub what: String,
}

/// All that is wrong.
pub(super) fn troubles(
    system: &System,
    processes: &[Process],
    queues: &[Queue],
    now: OffsetDateTime,
) -> Vec<Trouble> {
    let mut all = of_processes(processes, now);
    all.extend(of_the_log(system, now));
    if !system.rabbitmq.connected {
        all.push(fails(
            "This process has no connection to RabbitMQ: events that come over HTTP wait.",
        ));
    }
    all.extend(of_queues(queues, now));
    all.sort_by_key(|trouble| !trouble.fails);
    all
}

fn fails(what: impl Into<String>) -> Trouble {
    Trouble {
        fails: true,
        what: what.into(),
    }
}

fn warns(what: impl Into<String>) -> Trouble {
    Trouble {
        fails: false,
        what: what.into(),
    }
}

fn of_processes(processes: &[Process], now: OffsetDateTime) -> Vec<Trouble> {
    if processes.is_empty() {
        return vec![fails(
            "No process has reported to PostgreSQL: it isn't known whether anything runs.",
        )];
    }
    let runs = |kinds: &[&str]| {
        let mut alive = processes.iter().filter(|process| process.alive);
        alive.any(|process| kinds.contains(&process.kind.as_str()))
    };
    let mut all = Vec::new();
    if !runs(&["dispatcher"]) {
        all.push(fails("No dispatcher runs: nothing is delivered."));
    }
    if !runs(&["ingest", "intake"]) {
        all.push(fails("No ingest runs: events wait in RabbitMQ."));
    }
    let silent: Vec<_> = processes
        .iter()
        .filter(|process| !process.alive && !is_replaced(process, processes))
        .collect();
    for process in silent.iter().take(NAMED) {
        all.push(warns(format!(
            "The {} on {} has been silent for {}: it was killed, hangs, or can't reach PostgreSQL.",
            process.kind,
            process.host,
            span(now - process.told_at.0)
        )));
    }
    if let Some(more) = silent.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let more = match more {
            1 => "One more process is".to_owned(),
            more => format!("{more} more processes are"),
        };
        all.push(warns(format!("{more} silent.")));
    }
    all
}

/// Whether a process of the same kind was started on its host after it had gone silent.
fn is_replaced(process: &Process, processes: &[Process]) -> bool {
    processes.iter().any(|other| {
        other.alive
            && (&other.kind, &other.host) == (&process.kind, &process.host)
            && other.started_at > process.told_at
    })
}

fn of_the_log(system: &System, now: OffsetDateTime) -> Vec<Trouble> {
    let mut all = Vec::new();
    if system.sweep.unaccounted > 0 {
        let many = count(system.sweep.unaccounted, "delivery");
        all.push(fails(format!(
            "{many} can't be accounted for: nothing will finish them."
        )));
    }
    if system.lag_seconds > LATE {
        let lag = span(Duration::seconds_f64(system.lag_seconds));
        all.push(fails(format!(
            "The oldest delivery that could be sent now has waited for {lag}."
        )));
    }
    match system.sweep.swept_at {
        None => all.push(warns("The sweeper hasn't looked for lost jobs yet.")),
        Some(swept) if now - swept.0 > STANDS => all.push(fails(format!(
            "The sweeper hasn't looked for lost jobs for {}.",
            span(now - swept.0)
        ))),
        Some(_) => {}
    }
    all
}

fn of_queues(queues: &[Queue], now: OffsetDateTime) -> Vec<Trouble> {
    let Some(told) = queues.iter().map(|queue| queue.told_at.0).max() else {
        return vec![warns("The lengths of the queues aren't known yet.")];
    };
    if now - told > OLD {
        return vec![warns(format!(
            "The figures of the queues are {} old: no process could ask RabbitMQ since.",
            span(now - told)
        ))];
    }
    let idle: Vec<_> = queues
        .iter()
        .filter(|queue| queue.consumers == 0 && is_consumed(&queue.name))
        .collect();
    let mut all: Vec<_> = idle
        .iter()
        .take(NAMED)
        .map(|queue| {
            let what = format!(
                "Nothing consumes from {}: {} in it.",
                queue.name,
                count(queue.messages, "message")
            );
            match queue.messages > 0 {
                true => fails(what),
                false => warns(what),
            }
        })
        .collect();
    if let Some(more) = idle.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let more = count(more as i64, "other queue");
        all.push(warns(format!("Nothing consumes from {more} either.")));
    }
    all
}

/// Delay queues have no consumers: their messages go on by themselves, when their time is over.
pub(super) fn is_consumed(queue: &str) -> bool {
    !queue.contains(".retry.")
}

#[cfg(test)]
mod tests {
    use shared::ids::ProcessId;
    use time::macros::datetime;

    use super::*;
    use crate::api::operations::{PostgresqlState, RabbitmqState, Storage, Sweep};
    use crate::timestamp::Timestamp;

    const NOW: OffsetDateTime = datetime!(2026-11-26 10:42:18 UTC);

    fn process(kind: &str, alive: bool) -> Process {
        let age = if alive { 4 } else { 90 };
        Process {
            id: ProcessId::generate(),
            kind: kind.to_owned(),
            host: "a".to_owned(),
            version: "0.9.0".to_owned(),
            started_at: Timestamp(NOW - Duration::hours(1)),
            told_at: Timestamp(NOW - Duration::seconds(age)),
            alive,
            in_flight: None,
            concurrency: None,
            memory_bytes: None,
            events_per_second: 0.0,
            attempts_per_second: 0.0,
        }
    }

    fn queue(name: &str, messages: i64, consumers: i32) -> Queue {
        Queue {
            name: name.to_owned(),
            messages,
            consumers,
            told_at: Timestamp(NOW - Duration::seconds(9)),
        }
    }

    fn system() -> System {
        System {
            version: "0.9.0",
            now: Timestamp(NOW),
            lag_seconds: 0.4,
            events_per_second: 0.0,
            attempts_per_second: 0.0,
            in_flight: 0,
            first_attempt_p99_ms: None,
            postgresql: PostgresqlState {
                connections: 14,
                max_connections: 100,
                answered_in_ms: 1.2,
                clients: Vec::new(),
            },
            rabbitmq: RabbitmqState { connected: true },
            sweep: Sweep {
                swept_at: Some(Timestamp(NOW - Duration::seconds(2))),
                watermark: None,
                unaccounted: 0,
                oldest_due_at: None,
                requeued: 0,
            },
            storage: Storage {
                bytes: 0,
                forecast_bytes: 0,
                retention_days: 30,
                days: Vec::new(),
            },
        }
    }

    fn said(system: &System, processes: &[Process], queues: &[Queue]) -> Vec<(bool, String)> {
        let all = troubles(system, processes, queues, NOW);
        all.into_iter().map(|one| (one.fails, one.what)).collect()
    }

    #[test]
    fn everything_runs_only_if_all_of_it_is_known_and_runs() {
        let processes = || vec![process("dispatcher", true), process("ingest", true)];
        let queues = || {
            vec![
                queue("posthorn.ingest.v1", 3, 1),
                queue("posthorn.retry.v1.60s", 9, 0),
            ]
        };
        assert_eq!(said(&system(), &processes(), &queues()), []);

        let first = |system: &System, processes: &[Process], queues: &[Queue]| {
            let (fails, what) = said(system, processes, queues).remove(0);
            format!("{} {what}", if fails { "fails:" } else { "warns:" })
        };
        for (processes, expected) in [
            (vec![], "fails: No process has reported"),
            (vec![process("ingest", true)], "fails: No dispatcher runs"),
            (
                vec![process("dispatcher", true), process("api", true)],
                "fails: No ingest runs",
            ),
            (
                vec![
                    process("dispatcher", true),
                    process("ingest", true),
                    process("dispatcher", false),
                ],
                "warns: The dispatcher on a has been silent for 1 min 30 s",
            ),
        ] {
            let said = first(&system(), &processes, &queues());
            assert!(said.starts_with(expected), "{said}");
        }
        let mut old = queues();
        old[0].told_at = Timestamp(NOW - Duration::minutes(3));
        old[1].told_at = old[0].told_at;
        for (queues, expected) in [
            (vec![], "warns: The lengths of the queues aren't known"),
            (old, "warns: The figures of the queues are 3 min old"),
            (
                vec![queue("posthorn.jobs.v1.0", 12, 0)],
                "fails: Nothing consumes from posthorn.jobs.v1.0: 12 messages",
            ),
            (
                vec![queue("posthorn.parking.v1", 0, 0)],
                "warns: Nothing consumes from posthorn.parking.v1",
            ),
        ] {
            let said = first(&system(), &processes(), &queues);
            assert!(said.starts_with(expected), "{said}");
        }
        let unconnected = System {
            rabbitmq: RabbitmqState { connected: false },
            ..system()
        };
        let said = first(&unconnected, &processes(), &queues());
        assert!(said.contains("no connection to RabbitMQ"), "{said}");
    }

    #[test]
    fn a_process_that_was_started_again_is_not_missed() {
        let mut again = process("dispatcher", true);
        again.started_at = Timestamp(NOW - Duration::seconds(30));
        let processes = [process("dispatcher", false), again, process("ingest", true)];
        let queues = [queue("posthorn.ingest.v1", 0, 1)];
        assert_eq!(said(&system(), &processes, &queues), []);
    }
}
