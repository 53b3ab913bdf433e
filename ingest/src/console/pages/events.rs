//! The events that a tenant's producers published, newest first.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;

use crate::api::events::log::{self, EventView, Search};
use crate::api::http::request::Parameters;
use crate::console::failure::Result;
use crate::console::fields::{query, segment};
use crate::console::frame::{Page, Section};
use crate::console::moments::{at, count};
use crate::console::parts::{Head, empty, facets, num, pager, table, td, tr, unreadable};
use crate::console::query::{SearchQuery, bar, moment};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Visit;

/// The words that events are filtered by.
const WORDS: [&str; 4] = ["type", "matched", "since", "until"];

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    q: String,
    #[serde(default)]
    add: String,
    cursor: Option<String>,
}

/// `GET /console/{tenant}/events?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let wanted = SearchQuery::parse(&format!("{} {}", params.q, params.add), &WORDS);
    let (search, mut beneath) = search(&wanted, params.cursor);
    let (mut found, mut unread) = (None, None);
    if beneath.is_none() {
        let acting = visit.acting().await?;
        match log::search(acting, State(console.reads.clone()), Parameters(search)).await {
            Ok(page) => found = Some(page.0),
            Err(problem) if problem.status().is_client_error() => {
                beneath = Some(problem.lines().join("; "));
            }
            Err(problem) => unread = Some(problem),
        }
    }
    let path = visit.path("/events");
    let content = html! {
        div class="head" {
            div { h1 { "Events" } p class="sub" { "What was published for " (visit.tenant) ", newest first" } }
        }
        (bar(&path, &wanted, "Filter events", "type:order.* since:1h until:2026-11-26", beneath.as_deref()))
        (ready_filters(&path, &wanted))
        @if let Some(unread) = &unread { (unreadable("The list", unread.is_too_slow())) }
        @if let Some(page) = &found {
            @if page.events.is_empty() { (nothing(&path, &wanted)) } @else { (list(&visit, &page.events)) }
            (pager(
                &html! { (count(page.events.len() as i64, "event")) " shown" },
                page.next_cursor.map(|cursor| {
                    format!("{path}{}", query(&[("q", &wanted.without(None)), ("cursor", &cursor.to_string())]))
                }).as_deref(),
            ))
        }
    };
    Ok(Page::of_tenant(&visit, Section::Events, "Events").show(&content))
}

/// "That matched nothing" is a filter because it is the question.
fn ready_filters(path: &str, wanted: &SearchQuery) -> Markup {
    let kept = wanted.without(Some("matched"));
    let unmatched = wanted.get("matched").is_some();
    let to = |q: &str| format!("{path}{}", query(&[("q", q.trim())]));
    let links = [
        (to(&kept), html! { "All" }, !unmatched),
        (
            to(&format!("{kept} matched:0")),
            html! { "That matched nothing" },
            unmatched,
        ),
    ];
    facets("Matched", &links, &html! { "Newest first" })
}

fn search(wanted: &SearchQuery, cursor: Option<String>) -> (Search, Option<String>) {
    let now = shared::clock::now();
    let mut wrong = None;
    if !wanted.rest.is_empty() {
        wrong = Some(format!(
            "`{}` isn't a filter. Filters are words like `type:order.paid` and `since:1h`.",
            wanted.rest
        ));
    }
    let matched = match wanted.get("matched") {
        None => None,
        Some("0") => Some(0),
        Some(other) => {
            wrong = Some(format!(
                "`matched:{other}` isn't a filter: `matched:0` finds events that matched nothing."
            ));
            None
        }
    };
    let mut time = |word: &str| {
        let text = wanted.get(word)?;
        let at = moment(text, now);
        if at.is_none() {
            wrong = Some(format!(
                "`{word}:{text}` isn't a time, like `{word}:1h`, `{word}:yesterday` or `{word}:2026-11-26 07:29` (UTC)."
            ));
        }
        at?.format(&time::format_description::well_known::Rfc3339)
            .ok()
    };
    let search = Search {
        matched,
        since: time("since"),
        until: time("until"),
        event_type: wanted.get("type").map(str::to_owned),
        limit: None,
        cursor,
    };
    (search, wrong)
}

fn list(visit: &Visit, events: &[EventView]) -> Markup {
    let heads = [
        Head::Text("Event"),
        Head::Text("Type"),
        Head::Number("Webhooks"),
        Head::Number("Accepted"),
    ];
    let rows = html! {
        @for event in events {
            @let path = visit.path(&format!("/events/{}", segment(&event.id.to_string())));
            (tr(&html! {
                (td("grow first", &html! { a class="cut" href=(path) { code { (line(event.id.to_string())) } } }))
                (td("", &html! { code { (line(event.r#type.as_str())) } }))
                (num("", Some("webhooks"), &html! {
                    @if event.matched == 0 { span class="soft" { "nobody" } } @else { (event.matched) }
                }))
                (num("last", None, &at(event.accepted_at.0)))
            }))
        }
    };
    table("tight", &heads, &rows)
}

fn nothing(path: &str, wanted: &SearchQuery) -> Markup {
    if wanted.is_empty() {
        return empty(
            "No event yet",
            &html! { "Events are published to RabbitMQ or with POST /api/v1/events. The newest is here as soon as it is accepted." },
            &html! {},
        );
    }
    empty(
        "Nothing matches",
        &html! { "No event of these is among those that were looked at." },
        &html! { a class="btn" href=(path) { "All events" } },
    )
}
