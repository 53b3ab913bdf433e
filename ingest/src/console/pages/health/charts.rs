//! The charts of the system's health: what all tenants do, and how large the log is.

use maud::{Markup, html};
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use crate::api::operations::System;
use crate::api::operations::load::Load;
use crate::api::webhooks::stats::window::Window;
use crate::console::chart::{Chart, Series};
use crate::console::moments::bytes;

/// Events and attempts a second.
pub(super) fn rates(load: &Load) -> Markup {
    let steps: Vec<_> = load.series.iter().map(|step| step.at.0).collect();
    let (_, length) = load.window.lengths();
    // The last step isn't over.
    let seconds = |at: OffsetDateTime| {
        let passed = (load.until.0 - at).as_seconds_f64();
        passed.clamp(1.0, length as f64)
    };
    let rate = |count: Option<i64>, at| count.map(|count| count as f64 / seconds(at));
    let series = [
        Series {
            name: "attempts",
            class: "l1",
            values: load
                .series
                .iter()
                .map(|step| rate(step.attempts, step.at.0))
                .collect(),
        },
        Series {
            name: "events",
            class: "l2",
            values: load
                .series
                .iter()
                .map(|step| rate(step.events, step.at.0))
                .collect(),
        },
    ];
    let most = |series: &Series| {
        let values = series.values.iter().flatten();
        per_second(values.copied().fold(0.0, f64::max))
    };
    let sentence = format!(
        "At most {} attempts and {} events a second.",
        most(&series[0]),
        most(&series[1])
    );
    html! {
        (Chart {
            title: "Events and attempts a second",
            sentence: &sentence,
            steps: &steps,
            series: &series,
            unit: per_second,
        }
        .levels())
        @if !load.complete {
            p class="small soft" { "The older part is still being added up. Load the page again to see more of it." }
        }
    }
}

fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 10.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

/// The size of each day of the log.
pub(super) fn storage(system: &System, window: Window) -> Markup {
    let storage = &system.storage;
    let shown = match window {
        Window::Week => 7,
        _ => 30,
    };
    let today = system.now.0.date();
    let format = format_description!("[year]-[month]-[day]");
    // The coming days have partitions, too, with nothing in them.
    let days = storage.days.iter().filter_map(|day| {
        let date = Date::parse(&day.day, format).ok()?;
        (date <= today).then_some((date, day.bytes))
    });
    let mut days: Vec<_> = days.collect();
    days.drain(..days.len().saturating_sub(shown));
    let steps: Vec<_> = days
        .iter()
        .map(|(date, _)| date.midnight().assume_utc())
        .collect();
    let series = [Series {
        name: "on disk",
        class: "f1",
        values: days.iter().map(|(_, bytes)| Some(*bytes as f64)).collect(),
    }];
    let sentence = format!(
        "The log has {} now, and about {} when it is {} days old.",
        bytes(storage.bytes),
        bytes(storage.forecast_bytes),
        storage.retention_days
    );
    html! {
        (Chart {
            title: "Storage by day",
            sentence: &sentence,
            steps: &steps,
            series: &series,
            unit: |value| bytes(value as i64),
        }
        .bars())
        p class="small soft" { (sentence) }
    }
}
