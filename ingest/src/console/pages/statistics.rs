//! A webhook's statistics: success rate, response times, and errors by kind.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::WebhookId;
use time::OffsetDateTime;

use crate::api::http::request::{Id, Parameters};
use crate::api::webhooks::stats::{self, Stats, StatsQuery, Window};
use crate::console::chart::{Chart, Series};
use crate::console::failure::Result;
use crate::console::moments::{ago, at, number, percent, took};
use crate::console::pages::webhook::{Tab, page};
use crate::console::parts::{Figure, choice, figures};
use crate::console::state::Console;
use crate::console::visit::{At, Visit};

#[derive(Deserialize, Default)]
pub struct WindowParams {
    /// An unknown window is the day.
    #[serde(default)]
    window: String,
}

impl WindowParams {
    pub fn new(window: &str) -> Self {
        Self {
            window: window.to_owned(),
        }
    }

    /// The name of the window that is meant.
    pub fn name(&self) -> &'static str {
        match self.window() {
            Window::Hour => "1h",
            Window::Day => "24h",
            Window::Week => "7d",
            Window::Month => "30d",
        }
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
    let query = Parameters(StatsQuery { window });
    let acting = visit.acting().await?;
    let api = State(console.reads.clone());
    let stats = stats::of_one_webhook(acting, api, Id(webhook.id), query)
        .await?
        .0;
    let path = visit.path(&format!("/webhooks/{}/statistics", webhook.id));
    let deliveries = visit.path(&format!("/webhooks/{}", webhook.id));
    let content = html! {
        div class="row apart" {
            (windows(&path, window))
            span class="small soft" { "Counted as attempts end, a quarter of an hour at a time. Tests don't count." }
        }
        section { (totals(&stats)) }
        div class="cols" {
            div { (ended(&stats)) }
            div { (response_times(&stats)) }
        }
        section { h2 { "What went wrong" } (classes(&stats, &deliveries)) }
    };
    Ok(page(&visit, &webhook, Tab::Statistics, &content))
}

/// The choice of a window.
pub fn windows(path: &str, current: Window) -> Markup {
    let all = [
        ("1h", "1 h", Window::Hour),
        ("24h", "24 h", Window::Day),
        ("7d", "7 d", Window::Week),
        ("30d", "30 d", Window::Month),
    ];
    let links: Vec<_> = all
        .iter()
        .map(|(name, words, window)| (format!("{path}?window={name}"), *words, *window == current))
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
            meaning: html! { (number(totals.successful_deliveries)) " of " (number(totals.successful_deliveries + totals.failed_deliveries)) " that ended" },
        },
        Figure {
            name: "First try",
            value: html! { (share(totals.first_try_success_rate)) },
            tone: "",
            meaning: html! { "took no retry" },
        },
        Figure {
            name: "Attempts",
            value: html! { (number(totals.attempts)) },
            tone: "",
            meaning: html! { (number(totals.retries)) " were retries" },
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
    let of = |value: fn(&stats::Figures) -> i64| {
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

fn classes(stats: &Stats, deliveries: &str) -> Markup {
    let mut all: Vec<_> = stats.failures_by_class.iter().collect();
    all.sort_by_key(|(_, count)| -**count);
    let most = all.first().map_or(1, |(_, count)| **count).max(1);
    html! {
        @if all.is_empty() {
            div class="empty" { h2 { "Nothing went wrong" } p { "Every attempt of this window was answered with a success." } }
        } @else {
            div class="scroll" {
                table class="tight" {
                    thead { tr { th { "Outcome" } th class="right" { "Attempts" } th { "Share" } } }
                    tbody {
                        @for (class, count) in all {
                            tr {
                                td { (class_in_words(class)) " " code class="soft small" { (class) } }
                                td class="right num" { (number(*count)) }
                                td {
                                    progress class="bar fail" value=(count) max=(most) aria-label={ (percent(*count as f64 / stats.totals.attempts.max(1) as f64)) " of all attempts" } {}
                                }
                            }
                        }
                    }
                }
            }
            p class="small" { a href={ (deliveries) "?q=status%3Afailed" } { "Deliveries that failed" } }
        }
    }
}

fn class_in_words(class: &str) -> &str {
    match class {
        "redirect" => "A redirect",
        "client_error" => "Answered 4xx",
        "server_error" => "Answered 5xx",
        "timeout" => "No answer in time",
        "dns" => "The host has no address",
        "connect" => "No connection",
        "tls" => "No secure connection",
        "broken" => "The answer wasn't HTTP, or ended too early",
        "forbidden" => "The address isn't allowed",
        _ => "",
    }
}
