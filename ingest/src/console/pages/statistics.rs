//! A webhook's statistics: success rate, attempts by outcome, response times, and waits.

mod dispatchers;
mod tables;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::WebhookId;
use time::OffsetDateTime;

use dispatchers::dispatchers;
use tables::{classes, waits};

use crate::api::http::request::{Id, Parameters};
use crate::api::webhooks::endpoint;
use crate::api::webhooks::stats::figures::{EarlierFigures, Figures};
use crate::api::webhooks::stats::window::{StatsQuery, Window};
use crate::api::webhooks::stats::{self, Stats};
use crate::console::chart::{Chart, Series};
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::moments::{ago, at, number, percent, took};
use crate::console::pages::deliveries::normal;
use crate::console::pages::webhook;
use crate::console::pages::webhook::tabs::{Tab, page};
use crate::console::parts::{Figure, choice, figures};
use crate::console::state::Console;
use crate::console::visit::{At, Poll, Reads, Visit};
use crate::console::watch::{Charts, Snapshot};

/// The parts that change.
const FIGURES: &str = "figures";
const OUTCOMES: &str = "outcomes";
const WAITS: &str = "waits";
const DISPATCHERS: &str = "dispatchers";
const OUTCOMES_CHART: &str = "chart-outcomes";
const TIMES_CHART: &str = "chart-times";

/// As an address has it.
pub fn name_of(window: Window) -> &'static str {
    match window {
        Window::Hour => "1h",
        Window::Day => "24h",
        Window::Week => "7d",
        Window::Month => "30d",
    }
}

#[derive(Deserialize, Default)]
pub struct WindowParams {
    /// An unknown window is the day.
    #[serde(default)]
    window: String,
    /// The filter of deliveries, which other tabs have.
    #[serde(default)]
    q: String,
}

impl WindowParams {
    pub fn new(window: &str) -> Self {
        Self {
            window: window.to_owned(),
            q: String::new(),
        }
    }

    /// The name of the window that is meant.
    pub fn name(&self) -> &'static str {
        name_of(self.window())
    }

    pub fn window(&self) -> Window {
        match self.window.as_str() {
            "1h" => Window::Hour,
            "7d" => Window::Week,
            "30d" => Window::Month,
            _ => Window::Day,
        }
    }
}

/// `GET /console/{tenant}/webhooks/{id}/statistics?window=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(webhook): At<WebhookId>,
    Query(params): Query<WindowParams>,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let window = params.window();
    let wanted = Parameters(StatsQuery { window });
    let acting = visit.acting().await?;
    let api = State(console.reads.clone());
    let stats = stats::of_one_webhook(acting, api, Id(webhook.id), wanted)
        .await?
        .0;
    let (acting, api) = (visit.acting().await?, State(console.reads.clone()));
    let endpoint = endpoint::show_health(acting, api, Id(webhook.id)).await;
    let endpoint = endpoint.map(|endpoint| endpoint.0);
    let path = visit.path(&format!("/webhooks/{}/statistics", webhook.id));
    let q = normal(&params.q);
    let deliveries = visit.path(&format!("/webhooks/{}", webhook.id));
    let content = html! {
        div class="row apart" {
            (windows(&path, window, &q))
            span class="small soft" { "Counted as attempts end, a quarter of an hour at a time. Tests don't count." }
        }
        section data-live=(FIGURES) { (totals(&stats)) }
        div class="cols" {
            div data-live=(OUTCOMES_CHART) { (by_outcome(&stats)) }
            div data-live=(TIMES_CHART) { (response_times(&stats)) }
        }
        div class="cols" {
            section { h2 { "What went wrong" } div data-live=(OUTCOMES) { (classes(&stats, &deliveries, params.name())) } }
            section { h2 { "Waits that cost no attempt" } div data-live=(WAITS) { (waits(&stats)) } }
        }
        section { h2 { "What dispatchers say just now" } div data-live=(DISPATCHERS) { (dispatchers(&endpoint)) } }
    };
    Ok(page(&visit, &webhook, Tab::Statistics, &content))
}

/// The live parts: those of the webhook's head, the figures, the tables and the charts.
pub async fn live(
    poll: &Poll,
    id: WebhookId,
    window: &str,
    before: Option<&Snapshot>,
) -> Result<Snapshot> {
    let mut snapshot = webhook::live(poll, id).await?;
    let window = WindowParams::new(window).window();
    let wanted = Parameters(StatsQuery { window });
    let acting = poll.reading().await?;
    let stats = stats::of_one_webhook(acting, State(poll.api.clone()), Id(id), wanted)
        .await?
        .0;
    let deliveries = poll.path(&format!("/webhooks/{id}"));
    snapshot.add(FIGURES, &totals(&stats));
    snapshot.add(OUTCOMES, &classes(&stats, &deliveries, name_of(window)));
    snapshot.add(WAITS, &waits(&stats));
    let (acting, api) = (poll.reading().await?, State(poll.api.clone()));
    let endpoint = endpoint::show_health(acting, api, Id(id)).await;
    snapshot.add(
        DISPATCHERS,
        &dispatchers(&endpoint.map(|endpoint| endpoint.0)),
    );
    snapshot.charts = Charts::kept(before).or_else(|| {
        Some(Charts::new([
            (OUTCOMES_CHART, by_outcome(&stats)),
            (TIMES_CHART, response_times(&stats)),
        ]))
    });
    Ok(snapshot)
}

/// The choice of a window. `q`: the filter of deliveries, which the links keep.
pub fn windows(path: &str, current: Window, q: &str) -> Markup {
    let all = [
        ("1h", "1 h", Window::Hour),
        ("24h", "24 h", Window::Day),
        ("7d", "7 d", Window::Week),
        ("30d", "30 d", Window::Month),
    ];
    let links: Vec<_> = all
        .iter()
        .map(|(name, words, window)| {
            let link = format!("{path}{}", query(&[("window", *name), ("q", q)]));
            (link, *words, *window == current)
        })
        .collect();
    choice("Window", &links)
}

fn totals(stats: &Stats) -> Markup {
    let totals = &stats.totals;
    let ms = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), |ms| took(ms as i64));
    let share = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), percent);
    figures(&[
        Figure {
            name: "Success",
            value: html! { (share(totals.success_rate)) },
            tone: tone(totals.success_rate),
            meaning: html! {
                (number(totals.successful_deliveries)) " of " (number(totals.successful_deliveries + totals.failed_deliveries)) " that ended"
                (before(stats, totals.success_rate, |earlier| earlier.success_rate))
            },
        },
        Figure {
            name: "First try",
            value: html! { (share(totals.first_try_success_rate)) },
            tone: "",
            meaning: html! {
                "took no retry"
                (before(stats, totals.first_try_success_rate, |earlier| earlier.first_try_success_rate))
            },
        },
        Figure {
            name: "Attempts",
            value: html! { (number(totals.attempts)) },
            tone: "",
            meaning: html! {
                (number(totals.retries)) " were retries"
                @if let Some(earlier) = &stats.previous { br; (number(earlier.attempts)) " " (when_before(stats.window)) }
            },
        },
        Figure {
            name: "Half took",
            value: html! { (ms(totals.p50_response_time_ms)) },
            tone: "",
            meaning: html! { "p95 " (ms(totals.p95_response_time_ms)) ", p99 " (ms(totals.p99_response_time_ms)) },
        },
        Figure {
            name: "Last success",
            value: match stats.last_delivery_at {
                Some(last) => at(last.0),
                None => html! { "—" },
            },
            tone: "",
            meaning: match stats.last_delivery_at {
                Some(last) => html! { (ago(last.0)) " ago" },
                None => html! { "none yet" },
            },
        },
    ])
}

/// The window before this one, in words.
fn when_before(window: Window) -> &'static str {
    match window {
        Window::Hour => "the hour before",
        Window::Day => "the day before",
        Window::Week => "the week before",
        Window::Month => "the thirty days before",
    }
}

/// A share in the window before. It is red if it has fallen by a point or more since.
fn before(
    stats: &Stats,
    now: Option<f64>,
    earlier: impl Fn(&EarlierFigures) -> Option<f64>,
) -> Markup {
    let share = stats.previous.as_ref().and_then(earlier);
    html! {
        @if let Some(share) = share {
            br;
            span class=[now.is_some_and(|now| share - now >= POINT).then_some("bad")] { (percent(share)) " " (when_before(stats.window)) }
        }
    }
}

/// How a share has changed since the window before, in points of a hundred.
pub fn change(now: Option<f64>, earlier: Option<f64>) -> Option<Markup> {
    let points = now? - earlier?;
    Some(match points {
        less if less <= -POINT => {
            html! { span class="bad" { "down " (points_of(-less)) } }
        }
        more if more >= POINT => html! { "up " (points_of(more)) },
        _ => html! { "as before" },
    })
}

/// A change of less than this is none.
const POINT: f64 = 0.01;

fn points_of(share: f64) -> String {
    format!("{:.1} points", share * 100.0)
}

/// More than one in twenty that fails is worth a colour.
pub fn tone(success: Option<f64>) -> &'static str {
    match success {
        Some(share) if share < 0.95 => "bad",
        _ => "",
    }
}

/// Deliveries that ended, in each step of the window.
pub fn ended(stats: &Stats) -> Markup {
    let steps = steps(stats);
    let of = |value: fn(&Figures) -> i64| {
        stats
            .series
            .iter()
            .map(|step| Some(value(&step.figures) as f64))
            .collect()
    };
    let series = [
        Series {
            name: "delivered",
            class: "f1",
            values: of(|figures| figures.successful_deliveries),
        },
        Series {
            name: "given up",
            class: "f2",
            values: of(|figures| figures.failed_deliveries),
        },
    ];
    let totals = &stats.totals;
    let sentence = format!(
        "{} deliveries ended well, {} were given up.",
        number(totals.successful_deliveries),
        number(totals.failed_deliveries)
    );
    let title = format!("Deliveries that ended, {}", each(stats.window));
    Chart {
        title: &title,
        sentence: &sentence,
        steps: &steps,
        series: &series,
        unit: |value| number(value as i64),
    }
    .bars()
}

/// Attempts by what they were answered with, in each step of the window.
fn by_outcome(stats: &Stats) -> Markup {
    let steps = steps(stats);
    let of = |outcomes: &[&str]| {
        let in_step = |step: &stats::Step| {
            let counts = outcomes
                .iter()
                .map(|name| step.attempts_by_outcome.get(name));
            counts.flatten().sum::<i64>() as f64
        };
        stats
            .series
            .iter()
            .map(|step| Some(in_step(step)))
            .collect::<Vec<_>>()
    };
    let kinds: [(&str, &str, &[&str]); 4] = [
        ("success", "f1", &["success"]),
        ("3xx or 4xx", "f4", &["redirect", "client_error"]),
        ("5xx", "f2", &["server_error"]),
        (
            "no answer",
            "f3",
            &["timeout", "dns", "connect", "tls", "broken", "forbidden"],
        ),
    ];
    let series = kinds.map(|(name, class, outcomes)| Series {
        name,
        class,
        values: of(outcomes),
    });
    let sums = series.iter().map(|one| {
        let sum: f64 = one.values.iter().flatten().sum();
        format!("{} {}", number(sum as i64), one.name)
    });
    let sentence = format!("Attempts: {}.", sums.collect::<Vec<_>>().join(", "));
    Chart {
        title: "Attempts by outcome",
        sentence: &sentence,
        steps: &steps,
        series: &series,
        unit: |value| number(value as i64),
    }
    .bars()
}

fn response_times(stats: &Stats) -> Markup {
    let steps = steps(stats);
    let series = [
        Series {
            name: "half",
            class: "l1",
            values: stats
                .series
                .iter()
                .map(|step| step.figures.p50_response_time_ms)
                .collect(),
        },
        Series {
            name: "p95",
            class: "l2",
            values: stats
                .series
                .iter()
                .map(|step| step.figures.p95_response_time_ms)
                .collect(),
        },
    ];
    let ms = |value: Option<f64>| value.map_or_else(|| "nothing".to_owned(), |ms| took(ms as i64));
    let sentence = format!(
        "Half of the attempts took {} at most, 95 of a hundred {}.",
        ms(stats.totals.p50_response_time_ms),
        ms(stats.totals.p95_response_time_ms)
    );
    Chart {
        title: "Response time",
        sentence: &sentence,
        steps: &steps,
        series: &series,
        unit: |value| match value as i64 {
            ms @ ..1_000 => format!("{ms} ms"),
            ms => format!("{} s", ms / 1_000),
        },
    }
    .lines()
}

fn steps(stats: &Stats) -> Vec<OffsetDateTime> {
    stats.series.iter().map(|step| step.at.0).collect()
}

fn each(window: Window) -> &'static str {
    match window {
        Window::Hour => "each quarter of an hour",
        Window::Day => "each half hour",
        Window::Week => "each six hours",
        Window::Month => "each day",
    }
}
