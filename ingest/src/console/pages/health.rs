//! The operator's view of the whole system: one sentence on top, then processes, queues, storage.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};
use shared::clock;

use crate::actor::Actor;
use crate::api::access::auth::Operating;
use crate::api::operations::{self, Process, Queue, System};
use crate::api::state::Shared;
use crate::console::failure::Result;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{ago, at, bytes, count};
use crate::console::parts::{Figure, Head, dash, empty, figures, note, num, panel, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{line, short};
use crate::console::visit::Operation;
use crate::console::watch::Snapshot;

/// A lag of so many seconds is said.
const LATE: f64 = 30.0;
/// The sweeper goes round each few seconds: longer ago than this it stands still.
const STANDS: time::Duration = time::Duration::minutes(5);

/// `GET /console/_/health`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
) -> Result<Html<String>> {
    let now = Now::read(&console.reads, || operation.operating()).await?;
    let content = html! {
        div class="head" { div { h1 { "System health" } p class="sub" { span { "Version " (now.system.version) } } } }
        div data-live="trouble" { (now.trouble()) }
        div data-live="figures" { (figures(&the_figures(&now.system))) }
        section { h2 { "Processes" } div data-live="processes" { (the_processes(&now.processes)) } }
        section { h2 { "Queues" } div data-live="queues" { (the_queues(&now.queues)) } }
        (storage(&now.system))
    };
    Ok(
        Page::of_operator(&operation, Section::Health, "System health")
            .live("health", &[])
            .show(&content),
    )
}

/// The live parts: all but how much is stored.
pub async fn live(console: &Console) -> Result<Snapshot> {
    let poll = || Operating {
        actor: Actor::other("the console"),
    };
    let now = Now::read(&console.live, poll).await?;
    let parts = [
        ("trouble", now.trouble()),
        ("figures", figures(&the_figures(&now.system))),
        ("processes", the_processes(&now.processes)),
        ("queues", the_queues(&now.queues)),
    ];
    let parts = parts.map(|(name, html)| (name.to_owned(), html.into_string()));
    Ok(Snapshot {
        parts: parts.into(),
        ..Snapshot::default()
    })
}

/// The system at one moment.
struct Now {
    system: System,
    processes: Vec<Process>,
    queues: Vec<Queue>,
}

impl Now {
    async fn read(api: &Shared, by: impl Fn() -> Operating) -> Result<Self> {
        let api = || State(api.clone());
        let system = operations::show_system(by(), api()).await?;
        let processes = operations::list_processes(by(), api()).await?;
        let queues = operations::list_queues(by(), api()).await?;
        Ok(Self {
            system: system.0,
            processes: processes.0.processes,
            queues: queues.0.queues,
        })
    }

    fn trouble(&self) -> Markup {
        let wrong = what_is_wrong(&self.system, &self.processes);
        match wrong.split_first() {
            None => note(
                "good",
                "ok",
                &html! { "Everything runs." },
                &html! {},
                &html! {},
            ),
            Some((first, more)) => note(
                "fail",
                "warn",
                &html! { (first) },
                &html! { (more.join(" ")) },
                &html! {},
            ),
        }
    }
}

/// What is wrong, the worst first.
fn what_is_wrong(system: &System, processes: &[Process]) -> Vec<String> {
    let mut wrong = Vec::new();
    let alive = |kind: &str| {
        let mut running = processes.iter();
        running.any(|process| process.alive && process.kind.contains(kind))
    };
    if !processes.is_empty() && !alive("dispatcher") {
        wrong.push("No dispatcher runs: nothing is delivered.".to_owned());
    }
    if system.sweep.unaccounted > 0 {
        let many = count(system.sweep.unaccounted, "delivery");
        wrong.push(format!(
            "{many} can't be accounted for: nothing will finish them."
        ));
    }
    if system.lag_seconds > LATE {
        wrong.push(format!(
            "The oldest delivery that could go now has waited for {:.0} s.",
            system.lag_seconds
        ));
    }
    let swept = system.sweep.swept_at.map(|swept| clock::now() - swept.0);
    if swept.is_some_and(|since| since > STANDS) {
        wrong.push("The sweeper hasn't gone round for more than five minutes.".to_owned());
    }
    wrong
}

fn the_figures(system: &System) -> Vec<Figure<'static>> {
    vec![
        Figure {
            name: "Events",
            value: html! { (format!("{:.1}", system.events_per_second)) " /s" },
            tone: "",
            meaning: html! { "accepted" },
        },
        Figure {
            name: "Attempts",
            value: html! { (format!("{:.1}", system.attempts_per_second)) " /s" },
            tone: "",
            meaning: html! { (system.in_flight) " in flight" },
        },
        Figure {
            name: "Lag",
            value: html! { (format!("{:.1}", system.lag_seconds)) " s" },
            tone: if system.lag_seconds > LATE {
                "bad"
            } else {
                "ok"
            },
            meaning: html! { "of the oldest that could go now" },
        },
        Figure {
            name: "Oldest waiting",
            value: html! { @match system.sweep.oldest_due_at { Some(due) => (ago(due.0)), None => (dash()) } },
            tone: "",
            meaning: html! { "its endpoint may be down" },
        },
        Figure {
            name: "Swept",
            value: html! { @match system.sweep.swept_at { Some(swept) => { (ago(swept.0)) " ago" }, None => (dash()) } },
            tone: "",
            meaning: html! { (system.sweep.requeued) " put back in all" },
        },
    ]
}

fn the_processes(processes: &[Process]) -> Markup {
    if processes.is_empty() {
        return empty(
            "None has told yet",
            &html! { "Processes tell of themselves each few seconds." },
            &html! {},
        );
    }
    let heads = [
        Head::Text("State"),
        Head::Text("Process"),
        Head::Text("Version"),
        Head::Number("In flight"),
        Head::Number("Memory"),
        Head::Number("A second"),
        Head::Number("Started"),
    ];
    let rows = html! {
        @for process in processes {
            (tr(&html! {
                (td("", &html! {
                    @if process.alive { span class="st good" { (icon("ok")) "Runs" } }
                    @else { span class="st fail" { (icon("fail")) "Silent" } }
                }))
                (td("grow first", &html! {
                    b { (line(&process.kind)) } " "
                    span class="small soft" { (line(&process.host)) " " code { (short(&process.id.to_string())) } }
                }))
                (td("", &html! { (line(&process.version)) }))
                (num("", Some("in flight"), &html! {
                    @match (process.in_flight, process.concurrency) {
                        (Some(now), Some(most)) => { (now) " of " (most) },
                        (Some(now), None) => (now),
                        _ => (dash()),
                    }
                }))
                (num("hide", None, &html! { @match process.memory_bytes { Some(memory) => (bytes(memory)), None => (dash()) } }))
                (num("hide", None, &html! { (format!("{:.1}", process.events_per_second + process.attempts_per_second)) }))
                (num("last", None, &at(process.started_at.0)))
            }))
        }
    };
    table("tight", &heads, &rows)
}

fn the_queues(queues: &[Queue]) -> Markup {
    if queues.is_empty() {
        return empty(
            "None is known yet",
            &html! { "Depths are asked for each ten seconds." },
            &html! {},
        );
    }
    let heads = [
        Head::Text("Queue"),
        Head::Number("Messages"),
        Head::Number("Consumers"),
        Head::Number("Told"),
    ];
    // Deliveries wait in delay queues for their time. There are about twenty, most of them empty.
    let is_idle = |queue: &&Queue| queue.messages == 0 && queue.name.contains(".retry.");
    let mut shown: Vec<_> = queues.iter().filter(|queue| !is_idle(queue)).collect();
    shown.sort_by_key(|queue| in_order(&queue.name));
    let idle = queues.len() - shown.len();
    let rows = html! {
        @for queue in shown {
            (tr(&html! {
                (td("grow first", &html! { code { (line(&queue.name)) } }))
                (num("", Some("messages"), &queue.messages))
                (num("", Some("consumers"), &queue.consumers))
                (num("last", None, &html! { (ago(queue.told_at.0)) " ago" }))
            }))
        }
    };
    html! {
        (table("tight", &heads, &rows))
        @if idle > 0 { p class="small soft" { (count(idle as i64, "delay queue")) " more, with nothing in " @if idle == 1 { "it" } @else { "them" } "." } }
    }
}

/// Numbers in names are compared as numbers: `…retry.v1.10s` is before `…retry.v1.300s`.
fn in_order(name: &str) -> (&str, u64) {
    let (beginning, end) = name.rsplit_once('.').unwrap_or((name, ""));
    match end.trim_end_matches('s').parse() {
        Ok(number) => (beginning, number),
        Err(_) => (name, 0),
    }
}

fn storage(system: &System) -> Markup {
    let storage = &system.storage;
    let hint = html! { (bytes(storage.bytes)) " now, about " (bytes(storage.forecast_bytes)) " after " (count(storage.retention_days, "day")) };
    // The coming days have partitions, too, with nothing in them.
    let today = clock::now().date().to_string();
    let days = storage.days.iter().filter(|day| day.day <= today);
    panel(
        "Storage",
        &hint,
        true,
        &html! {
            dl class="kv" { @for day in days.rev().take(14) {
                dt { (line(&day.day)) } dd class="num" { (bytes(day.bytes)) }
            } }
        },
    )
}
