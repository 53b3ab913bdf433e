//! Beside a webhook's form: which of the latest events it would get, and why not the others.

use axum::extract::State;
use maud::{Markup, html};
use serde_json::Value;

use super::values::{Blames, Values};
use crate::api::http::request::Body;
use crate::api::webhooks::preview::{self, NewPreview, Preview, PreviewedEvent};
use crate::console::failure::Result;
use crate::console::moments::{at, number};
use crate::console::state::Console;
use crate::console::text::{excerpt, line};
use crate::console::visit::ManagerVisit;
use crate::console::words::Word;
use crate::matching::Explanation;

/// What the patterns and the filter would have got, without anything stored.
pub(super) async fn previewed(
    console: &Console,
    visit: &ManagerVisit,
    values: &Values,
) -> Result<(Markup, Blames)> {
    let (body, blames) = values.body(None);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = body["events"]
        .as_array()
        .map(|events| events.iter().map(text).collect());
    let wanted = NewPreview {
        events,
        filters: body
            .get("filters")
            .filter(|filter| !filter.is_null())
            .cloned(),
        dialect: Some(values.dialect.clone()).filter(|name| !name.is_empty()),
    };
    if !blames.is_empty() {
        let others = wanted.check(&console.api.dialects).err();
        let others = others.map(|wrong| Blames::from_problem(wrong.into()));
        return Ok((unasked(), blames.and(others.unwrap_or_default())));
    }
    let acting = visit.acting().await?;
    match preview::preview(acting, State(console.api.clone()), Body(wanted)).await {
        Ok(preview) => Ok((beside(&preview.0), Blames::default())),
        Err(problem) if problem.status().is_client_error() => {
            Ok((unasked(), Blames::from_problem(problem)))
        }
        Err(problem) => Err(problem.into()),
    }
}

pub(super) fn unasked() -> Markup {
    html! {
        aside class="panel stick" aria-labelledby="pv" data-preview {
            header { h2 id="pv" { "Preview" } }
            div class="pad" { p class="soft" { "“Preview” asks the latest 1,000 events which of them this webhook would get. Nothing is sent or stored." } }
        }
    }
}

pub(super) fn beside(preview: &Preview) -> Markup {
    html! {
        aside class="panel stick" aria-labelledby="pv" data-preview="shown" {
            header { h2 id="pv" { "Would get " (number(preview.matched as i64)) " of " (number(preview.looked_at as i64)) } }
            div class="pad" {
                p class="soft" {
                    @match preview.since {
                        Some(since) => { "The latest events, back to " (at(since.0)) "." @if !preview.all { " There are older ones." } },
                        None => "There is no event yet.",
                    }
                }
            }
            div class="scroll" {
                table class="tight list" {
                    thead class="sr" { tr { th { "Matches" } th { "Event and why" } } }
                    tbody { @for event in preview.events.iter().take(12) { (previewed_event(event)) } }
                }
            }
            div class="pad small soft" {
                @if !preview.by_clause.is_empty() {
                    "Turned away by "
                    @for (n, clause) in preview.by_clause.iter().take(5).enumerate() {
                        @if n > 0 { "; " }
                        code { (line(&clause.clause)) } ": " (number(clause.refused as i64))
                    }
                    ". "
                }
                "Not listening: " (number(preview.looked_at.saturating_sub(preview.listening) as i64)) "."
            }
        }
    }
}

pub(super) fn previewed_event(event: &PreviewedEvent) -> Markup {
    let (word, why) = match &event.explanation {
        Explanation::Matched { pattern, .. } => (
            Word {
                tone: "good",
                icon: "ok",
                word: "Yes",
                sentence: "",
            },
            html! { "Pattern " code { (line(pattern)) } },
        ),
        Explanation::Refused { refusal, .. } => (
            Word {
                tone: "none",
                icon: "x",
                word: "No",
                sentence: "",
            },
            html! { code { (line(&refusal.clause)) } ", found " mark { (excerpt(&refusal.found, 80)) } },
        ),
        Explanation::Unreadable { why } => (
            Word {
                tone: "slow",
                icon: "warn",
                word: "No",
                sentence: "",
            },
            html! { "Can't be read by a filter: " (excerpt(why, 80)) },
        ),
        Explanation::NotListening => (
            Word {
                tone: "none",
                icon: "x",
                word: "No",
                sentence: "",
            },
            html! { "No pattern listens to it" },
        ),
    };
    html! {
        tr {
            td { (word.show()) }
            td class="grow" {
                span class="cut" { code { (line(event.r#type.as_str())) } " " span class="soft" { (line(event.id.to_string())) } }
                span class="cut small" { (why) }
            }
        }
    }
}
