//! The operator's view of the whole system: one sentence on top, then figures, charts,
//! processes, queues, and the endpoints that hold the most.
//!
//! The oldest delivery that waits stands apart from the lag, which is of deliveries that nothing
//! keeps from being sent. So one broken endpoint doesn't look like a broken system.

mod charts;
mod tables;
mod trouble;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use shared::clock;

use trouble::{LATE, troubles};

use crate::actor::Actor;
use crate::api::access::auth::Operating;
use crate::api::http::problem;
use crate::api::http::request::Parameters;
use crate::api::operations::endpoints::{self, WaitingEndpoints};
use crate::api::operations::load;
use crate::api::operations::{self, Process, Queue, System};
use crate::api::state::Shared;
use crate::api::webhooks::stats::window::StatsQuery;
use crate::console::failure::Result;
use crate::console::frame::{Page, Section};
use crate::console::moments::{ago, count, number, took};
use crate::console::pages::statistics::{WindowParams, windows};
use crate::console::parts::{Figure, dash, figures, note, unreadable};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Operation;
use crate::console::watch::{Charts, Snapshot};

const PATH: &str = "/console/_/health";
const LOAD_CHART: &str = "chart-load";
const STORAGE_CHART: &str = "chart-storage";

/// `GET /console/_/health?window=`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Query(params): Query<WindowParams>,
) -> Result<Html<String>> {
    let window = params.window();
    let now = Now::read(&console.reads, || operation.operating()).await?;
    let query = Parameters(StatsQuery { window });
    let load = load::show_load(operation.operating(), State(console.reads.clone()), query).await;
    let content = html! {
        div class="head" {
            div { h1 { "System health" } p class="sub" { span { "Version " (now.system.version) } } }
            (windows(PATH, window, ""))
        }
        div data-live="trouble" { (now.trouble()) }
        div data-live="figures" { (figures(&now.figures())) }
        div class="cols" {
            div data-live=(LOAD_CHART) { @match &load {
                Ok(load) => (charts::rates(&load.0)),
                Err(unread) => (unreadable("What all tenants did", unread.is_too_slow())),
            } }
            div data-live=(STORAGE_CHART) { (charts::storage(&now.system, window)) }
        }
        section { h2 { "Processes" } div data-live="processes" { (tables::processes(&now.processes)) } }
        section { h2 { "Queues" } div data-live="queues" { (tables::queues(&now.queues)) } }
        section {
            div class="row apart" { h2 { "Endpoints that hold the most" } a class="small go" href="/console/_/tenants" { "All tenants" } }
            div data-live="endpoints" { (now.endpoints()) }
        }
        section { h2 { "Servers" } div data-live="servers" { (servers(&now.system)) } }
    };
    Ok(
        Page::of_operator(&operation, Section::Health, "System health")
            .live("health", &[("window", params.name())])
            .show(&content),
    )
}

/// The live parts. What all tenants did is read only when its chart is drawn again.
pub async fn live(console: &Console, window: &str, before: Option<&Snapshot>) -> Result<Snapshot> {
    let poll = || Operating {
        actor: Actor::other("the console"),
    };
    let now = Now::read(&console.live, poll).await?;
    let parts = [
        ("trouble", now.trouble()),
        ("figures", figures(&now.figures())),
        ("processes", tables::processes(&now.processes)),
        ("queues", tables::queues(&now.queues)),
        ("servers", servers(&now.system)),
        ("endpoints", now.endpoints()),
    ];
    let parts = parts.map(|(name, html)| (name.to_owned(), html.into_string()));
    let charts = match Charts::kept(before) {
        Some(kept) => Some(kept),
        None => drawn(console, poll(), &now.system, window)
            .await
            // Charts that can't be drawn just now stay as they are.
            .or_else(|| before.and_then(|before| before.charts.clone())),
    };
    Ok(Snapshot {
        parts: parts.into(),
        charts,
        ..Snapshot::default()
    })
}

async fn drawn(
    console: &Console,
    by: Operating,
    system: &System,
    window: &str,
) -> Option<Arc<Charts>> {
    let window = WindowParams::new(window).window();
    let query = Parameters(StatsQuery { window });
    let load = load::show_load(by, State(console.live.clone()), query).await;
    let load = load.ok()?;
    Some(Charts::new([
        (LOAD_CHART, charts::rates(&load.0)),
        (STORAGE_CHART, charts::storage(system, window)),
    ]))
}

/// The system at one moment.
struct Now {
    system: System,
    processes: Vec<Process>,
    queues: Vec<Queue>,
    /// A part that can't be read leaves the rest of the page alone.
    waiting: problem::Result<WaitingEndpoints>,
}

impl Now {
    async fn read(api: &Shared, by: impl Fn() -> Operating) -> Result<Self> {
        let api = || State(api.clone());
        let system = operations::show_system(by(), api()).await?;
        let processes = operations::list_processes(by(), api()).await?;
        let queues = operations::list_queues(by(), api()).await?;
        let waiting = endpoints::list_endpoints(by(), api()).await;
        Ok(Self {
            system: system.0,
            processes: processes.0.processes,
            queues: queues.0.queues,
            waiting: waiting.map(|waiting| waiting.0),
        })
    }

    fn trouble(&self) -> Markup {
        let all = troubles(&self.system, &self.processes, &self.queues, clock::now());
        let Some((first, more)) = all.split_first() else {
            return note(
                "good",
                "ok",
                &html! { "Everything runs." },
                &html! {},
                &html! {},
            );
        };
        let tone = if first.fails { "fail" } else { "slow" };
        let more: Vec<_> = more.iter().map(|trouble| trouble.what.as_str()).collect();
        note(
            tone,
            "warn",
            &line(&first.what),
            &line(more.join(" ")),
            &html! {},
        )
    }

    fn figures(&self) -> Vec<Figure<'static>> {
        let system = &self.system;
        let longest = match &self.waiting {
            Ok(waiting) => waiting.longest.as_ref(),
            Err(_) => None,
        };
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
                meaning: html! { (number(system.in_flight)) " in flight" },
            },
            Figure {
                name: "To the first attempt, p99",
                value: html! { @match system.first_attempt_p99_ms { Some(ms) => (took(ms as i64)), None => (dash()) } },
                tone: "",
                meaning: html! { "from the event, of the latest 1,000" },
            },
            Figure {
                name: "Oldest waiting",
                value: html! { @match longest { Some(longest) => (ago(longest.oldest_waiting_at.0)), None => (dash()) } },
                tone: "",
                meaning: html! { @match (longest, &self.waiting) {
                    (Some(longest), _) => (tables::oldest(longest)),
                    (None, Ok(_)) => "nothing waits",
                    (None, Err(_)) => "can't be read just now",
                } },
            },
            Figure {
                name: "Lag",
                value: html! { (format!("{:.1}", system.lag_seconds)) " s" },
                tone: if system.lag_seconds > LATE {
                    "bad"
                } else {
                    "ok"
                },
                meaning: html! { "of the oldest that could be sent now" },
            },
            Figure {
                name: "Unaccounted",
                value: html! { (number(system.sweep.unaccounted)) },
                tone: if system.sweep.unaccounted > 0 {
                    "bad"
                } else {
                    "ok"
                },
                meaning: html! { "always 0, or it is a fault" },
            },
        ]
    }

    fn endpoints(&self) -> Markup {
        match &self.waiting {
            Ok(waiting) => tables::endpoints(&waiting.endpoints),
            Err(unread) => unreadable("What waits", unread.is_too_slow()),
        }
    }
}

/// The sweeper, and the servers that everything stands on.
fn servers(system: &System) -> Markup {
    let (sweep, postgresql) = (&system.sweep, &system.postgresql);
    html! {
        div class="panel" {
            dl class="kv pad" {
                dt { "Sweeper" }
                dd { @match sweep.swept_at {
                    Some(swept) => { "looked for lost jobs " (ago(swept.0)) " ago" },
                    None => "hasn't looked for lost jobs yet",
                } }
                dt { "Put back" } dd { (count(sweep.requeued, "job")) " since the system exists" }
                dt { "Log" } dd { "kept for " (count(system.storage.retention_days, "day")) }
                dt { "PostgreSQL" }
                dd {
                    (number(postgresql.connections)) " of " (number(postgresql.max_connections)) " connections, answered in "
                    (format!("{:.1} ms", postgresql.answered_in_ms))
                    br;
                    span class="small soft" {
                        @for (n, client) in postgresql.clients.iter().enumerate() {
                            @if n > 0 { ", " }
                            @if client.name.is_empty() { "without a name" } @else { (line(&client.name)) }
                            " " (number(client.connections))
                        }
                    }
                }
                dt { "RabbitMQ" }
                dd { @if system.rabbitmq.connected { "connected" } @else { "no connection from this process" } }
            }
        }
    }
}
