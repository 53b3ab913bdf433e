//! Replays: the list of a tenant's replays, and one replay with its results.

pub mod new;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use shared::clock;
use shared::ids::{ReplayId, WebhookId};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::api::access::role::Role;
use crate::api::deliveries::all_replays::{self, ReplayQuery};
use crate::api::deliveries::replay_results::ReplayResults;
use crate::api::deliveries::replays::Replay;
use crate::api::http::request::{Id, Parameters};
use crate::console::chart::{Chart, Series};
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{ago, at, count, span};
use crate::console::pages::webhooks::names;
use crate::console::parts::{Figure, Head, empty, figures, num, pager, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{line, short};
use crate::console::visit::{At, ManagerVisit, Poll, Reads, Visit};
use crate::console::watch::Snapshot;
use crate::console::words::Word;

/// How many running replays are shown with their progress. Each is read on its own.
const PANELS: usize = 5;

#[derive(Deserialize, Default)]
pub struct Params {
    cursor: Option<String>,
}

/// `GET /console/{tenant}/replays`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let list = ReplayQuery {
        status: None,
        limit: None,
        cursor: params.cursor,
    };
    let api = State(console.reads.clone());
    let page = all_replays::list_all(visit.acting().await?, api, Parameters(list)).await?;
    let page = page.0;
    let ids = page.replays.iter().filter_map(|replay| replay.webhook_id);
    let names = names(&console, &visit, ids).await?;
    let (all_running, over): (Vec<_>, Vec<_>) = page
        .replays
        .iter()
        .partition(|replay| replay.status == "running");
    let (first, others) = all_running.split_at(all_running.len().min(PANELS));
    // Only `find` tells what became of the deliveries so far.
    let mut running = Vec::new();
    for replay in first {
        running.push(find(&console, &visit, replay.id).await?);
    }
    let path = visit.path("/replays");
    let content = html! {
        div class="head" {
            div {
                h1 { "Replays" }
                p class="sub" { "Finished deliveries that begin again, oldest first, under the same event ids" }
            }
            @if visit.by.may(Role::Manager) {
                a class="btn main-btn" href={ (path) "/new" } data-key="c" { (icon("replay")) "New replay" }
            }
        }
        @for replay in &running { (panel(&visit, replay, &names)) }
        @if page.replays.is_empty() {
            (empty("No replay yet", &html! { "Deliveries that failed while an endpoint was down can begin again, all at once and at a rate." }, &html! {}))
        }
        @if !others.is_empty() {
            section {
                h2 { "Also running" }
                (list_of(&visit, others, &names))
            }
        }
        @if !over.is_empty() {
            section {
                h2 { "Over" }
                (list_of(&visit, &over, &names))
            }
        }
        @if let Some(cursor) = &page.next_cursor {
            (pager(&html! { (count(page.replays.len() as i64, "replay")) " shown" },
                Some(&format!("{path}{}", query(&[("cursor", cursor)])))))
        }
    };
    let page = Page::of_tenant(&visit, Section::Replays, "Replays");
    Ok(with_live(page, running.iter()).show(&content))
}

/// The page with the progress of those that run.
fn with_live<'a, 'b>(page: Page<'a>, shown: impl Iterator<Item = &'b Replay>) -> Page<'a> {
    let running = shown.filter(|replay| replay.status == "running");
    let ids: Vec<_> = running.map(|replay| replay.id.to_string()).collect();
    match ids.is_empty() {
        true => page,
        false => page.live("replays", &[("id", &ids.join(","))]),
    }
}

/// The live parts: each one's state and progress.
pub async fn live(console: &Console, poll: &Poll, ids: &[ReplayId]) -> Result<Snapshot> {
    let mut snapshot = Snapshot {
        is_over: true,
        ..Snapshot::default()
    };
    for id in ids {
        let replay = find(console, poll, *id).await?;
        snapshot.is_over &= replay.status != "running";
        let parts = [
            ("state", state(&replay).show()),
            ("progress", how_far(&replay)),
        ];
        let parts = parts.map(|(part, html)| (format!("{part}-{id}"), html.into_string()));
        snapshot.parts.extend(parts);
    }
    Ok(snapshot)
}

async fn find(console: &Console, reader: &impl Reads, id: ReplayId) -> Result<Replay> {
    let acting = reader.reading().await?;
    let shown = all_replays::show_any(acting, State(reader.api(console).clone()), Id(id)).await?;
    Ok(shown.0)
}

/// `GET /console/{tenant}/replays/{id}`
pub async fn show_one(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(id): At<ReplayId>,
) -> Result<Html<String>> {
    let replay = find(&console, &visit, id).await?;
    let names = names(&console, &visit, replay.webhook_id).await?;
    let title = format!("Replay {}", short(&id.to_string()));
    let content = html! {
        div class="head" { div { h1 { (title) } p class="sub" { code { (id) } } } }
        (panel(&visit, &replay, &names))
    };
    let page = Page::of_tenant(&visit, Section::Replays, title);
    Ok(with_live(page, std::iter::once(&replay)).show(&content))
}

/// `POST /console/{tenant}/replays/{id}/cancel`
pub async fn cancel(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(id): At<ReplayId>,
) -> Result<Redirect> {
    let acting = visit.acting().await?;
    let _: axum::Json<_> =
        all_replays::cancel_any(acting, State(console.api.clone()), Id(id)).await?;
    Ok(Redirect::to(&visit.path(&format!("/replays/{id}"))))
}

fn state(replay: &Replay) -> Word<'_> {
    let (tone, symbol, word) = match replay.status.as_str() {
        "running" => ("slow", "retry", "Running"),
        "finished" => ("good", "ok", "Finished"),
        "cancelled" => ("none", "cancelled", "Cancelled"),
        other => ("none", "unknown", other),
    };
    Word {
        tone,
        icon: symbol,
        word,
        sentence: "",
    }
}

fn webhook_name(replay: &Replay, names: &HashMap<WebhookId, String>) -> Markup {
    html! {
        @match replay.webhook_id {
            None => "All webhooks",
            Some(id) => @match names.get(&id) { Some(name) => (line(name)), None => code { (short(&id.to_string())) } },
        }
    }
}

/// The list of the deliveries of the same events. What begins again changes its state, so the
/// list isn't filtered by it.
fn of_them<const ROLE: u8>(visit: &Visit<ROLE>, replay: &Replay) -> String {
    let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    let mut words = Vec::new();
    if let Some(webhook) = replay.webhook_id {
        words.push(format!("webhook:{webhook}"));
    }
    if let Some(types) = &replay.event_types {
        words.push(format!("type:{}", types.join(",")));
    }
    words.push(format!("since:{}", time(replay.since.0)));
    words.push(format!("until:{}", time(replay.until.0)));
    let q = words.join(" ");
    format!("{}{}", visit.path("/deliveries"), query(&[("q", &q)]))
}

/// What it is of, in a line.
fn description(replay: &Replay) -> Markup {
    let all = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(", "));
    html! {
        @if replay.kind == "backfill" { "events that it would have matched" } @else { (replay.statuses.join(", ")) }
        " · events of " (at(replay.since.0)) " to " (at(replay.until.0))
        " · " @match all(&replay.event_types) { Some(types) => (line(types)), None => "all types" }
        @if let Some(codes) = all(&replay.response_codes) { " · answered " (line(codes)) }
        @if let Some(outcomes) = all(&replay.outcomes) { " · " (line(outcomes)) }
    }
}

fn panel<const ROLE: u8>(
    visit: &Visit<ROLE>,
    replay: &Replay,
    names: &HashMap<WebhookId, String>,
) -> Markup {
    let running = replay.status == "running";
    let path = visit.path(&format!("/replays/{}", replay.id));
    html! {
        section class="panel" {
            header {
                h2 { (webhook_name(replay, names)) }
                span data-live={ "state-" (replay.id) } { (state(replay).show()) }
                span class="soft" { (description(replay)) }
                span class="row" {
                    a class="btn tiny" href=(path) { "Look at it" }
                    a class="btn tiny" href=(of_them(visit, replay)) { "Look at them" }
                    @if running && visit.by.may(Role::Manager) {
                        form method="post" action={ (path) "/cancel" } {
                            (csrf(&visit.by))
                            button class="btn tiny risk" { "Cancel" }
                        }
                    }
                }
            }
            div class="pad stack near" data-live={ "progress-" (replay.id) } { (how_far(replay)) }
        }
    }
}

fn how_far(replay: &Replay) -> Markup {
    let share = match replay.matching {
        0 => 100,
        all => (100 * replay.replayed / all).min(100),
    };
    html! {
        progress class="bar" value=(replay.replayed) max=(replay.matching.max(1)) { (share) " %" }
        (figures(&progress(replay, share)))
        @if let Some(results) = &replay.results { (speed(results)) }
        @if let Some(because) = &replay.cancelled_because { p class="soft" { "Ended because: " (line(because)) "." } }
    }
}

/// How quickly deliveries began again.
fn speed(results: &ReplayResults) -> Markup {
    // A chart of one step shows nothing.
    if results.series.len() < 2 {
        return html! {};
    }
    let steps: Vec<_> = results.series.iter().map(|step| step.at.0).collect();
    let rates: Vec<_> = results
        .series
        .iter()
        .map(|step| Some(step.begun as f64 / results.step_seconds.max(1) as f64))
        .collect();
    let most = rates.iter().flatten().copied().fold(0.0, f64::max);
    let sentence = format!("At most {most:.1} deliveries a second began again.");
    Chart {
        title: "Begun again each second",
        sentence: &sentence,
        steps: &steps,
        series: &[Series {
            name: "deliveries",
            class: "l1",
            values: rates,
        }],
        unit: |rate| match rate {
            rate if rate >= 10.0 => format!("{rate:.0}"),
            rate => format!("{rate:.1}"),
        },
    }
    .levels()
}

fn progress(replay: &Replay, share: i64) -> Vec<Figure<'static>> {
    let mut all = vec![Figure {
        name: "Begun again",
        value: html! { (replay.replayed) " " small { "of " (replay.matching) @if !replay.counted { "+" } } },
        tone: "",
        meaning: html! { (share) " %" },
    }];
    if let Some(results) = &replay.results {
        let tried = results.taken + results.failed_again;
        all.push(Figure {
            name: "Of these taken",
            value: html! { (results.taken) @if !results.counted { "+" } },
            tone: if results.failed_again == 0 { "ok" } else { "" },
            meaning: html! { @if tried > 0 { (100 * results.taken / tried) " % of those that were tried" } @else { "none was tried yet" } },
        });
        let classes = results.by_class.iter();
        let classes: Vec<_> = classes
            .map(|of| match of.class.as_str() {
                "none" => format!("no answer: {}", of.deliveries),
                class => format!("{class}: {}", of.deliveries),
            })
            .collect();
        all.push(Figure {
            name: "Failed again",
            value: html! { (results.failed_again) },
            tone: if results.failed_again > 0 { "bad" } else { "" },
            meaning: html! { (classes.join(", ")) },
        });
    }
    if let Some(rate) = replay.rate_now {
        all.push(Figure {
            name: "Rate",
            value: html! { (format!("{rate:.0}")) " /s" },
            tone: "",
            meaning: html! { "of " (replay.rate) @if replay.ramp { ", started slowly" } },
        });
        let left = (replay.matching - replay.replayed).max(0);
        let seconds = (left as f64 / f64::from(rate.max(0.1))).ceil();
        let until = Duration::seconds(seconds as i64);
        all.push(Figure {
            name: "Ready at",
            value: at(clock::now() + until),
            tone: "",
            meaning: html! { "in " (span(until)) },
        });
    }
    if let Some(ended) = replay.finished_at {
        all.push(Figure {
            name: "Ended",
            value: at(ended.0),
            tone: "",
            meaning: html! { (ago(ended.0)) " ago" },
        });
    }
    all
}

fn list_of(visit: &Visit, replays: &[&Replay], names: &HashMap<WebhookId, String>) -> Markup {
    let heads = [
        Head::Text("State"),
        Head::Text("Webhook"),
        Head::Text("What"),
        Head::Number("Sent"),
        Head::Number("When"),
    ];
    let rows = html! {
        @for replay in replays {
            @let path = visit.path(&format!("/replays/{}", replay.id));
            (tr(&html! {
                (td("", &state(replay).show()))
                (td("", &html! { a href=(path) { (webhook_name(replay, names)) } }))
                (td("grow full", &html! { span class="cut soft" {
                    (description(replay)) " · " (replay.rate) " a second"
                    @if let Some(because) = &replay.cancelled_because { ". Ended because: " (line(because)) }
                } }))
                (num("", Some("sent"), &html! {
                    (replay.replayed)
                    @if replay.replayed < replay.matching { " " small { "of " (replay.matching) } }
                }))
                (num("last", None, &at(replay.created_at.0)))
            }))
        }
    };
    table("", &heads, &rows)
}
