//! The events that a tenant's producers published, newest first.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;

use crate::api::access::role::Role;
use crate::api::events::log::{self, CameBy, EventView, Search};
use crate::api::http::request::Parameters;
use crate::api::webhooks::stats::window::{StatsQuery, Window};
use crate::api::webhooks::type_stats::{self, EventTypeCount, EventTypeStats};
use crate::console::failure::{Failure, Result};
use crate::console::fields::{query, segment};
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{at, count};
use crate::console::pages::snippets::{both, type_or_example};
use crate::console::parts::{Head, empty, facets, num, pager, table, td, tr, unreadable};
use crate::console::query::{SearchQuery, bar, moment};
use crate::console::state::Console;
use crate::console::text::{excerpt, line};
use crate::console::visit::{Origin, Poll, Reads, Visit};
use crate::console::watch::{Latest, Snapshot};

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
    Origin(origin): Origin,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let wanted = SearchQuery::parse(&format!("{} {}", params.q, params.add), &WORDS);
    let is_first = params.cursor.is_none();
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
    let seen = seen(&console, &visit, Window::Hour).await;
    let is_live = is_first && found.is_some();
    let may = visit.by.may(Role::Manager);
    let path = visit.path("/events");
    let here = format!("{path}{}", query(&[("q", &wanted.without(None))]));
    let content = html! {
        div class="head" {
            div {
                h1 { "Events" }
                p class="sub" {
                    span { "What was published for " (visit.tenant) ", newest first" }
                    @if let Some(seen) = &seen { span { (a_minute(seen)) } }
                }
            }
            div class="row" {
                @if is_live {
                    button class="btn js-only" type="button" data-follow data-key="f" aria-pressed="false" { (icon("pulse")) "Follow " kbd aria-hidden="true" { "f" } }
                }
                @if may { a class="btn main-btn" href={ (path) "/new" } data-key="c" { "Publish a test event" } }
            }
        }
        (bar(&path, &wanted, "Filter events", "type:order.* since:1h until:2026-11-26", beneath.as_deref()))
        (ready_filters(&path, &wanted, seen.as_ref()))
        @if is_live { a href=(here) data-live="newer" class="newer" hidden {} }
        @if let Some(unread) = &unread { (unreadable("The list", unread.is_too_slow())) }
        div data-list {
            @if let Some(page) = &found {
                @if page.events.is_empty() && wanted.is_empty() { (none_yet(&visit, &origin, may)) }
                @else if page.events.is_empty() { (nothing(&path)) }
                @else { (list(&visit, &page.events)) }
                (pager(
                    &html! { (count(page.events.len() as i64, "event")) " shown" },
                    page.next_cursor.map(|cursor| {
                        format!("{path}{}", query(&[("q", &wanted.without(None)), ("cursor", &cursor.to_string())]))
                    }).as_deref(),
                ))
            }
        }
    };
    let page = Page::of_tenant(&visit, Section::Events, "Events");
    Ok(match found.filter(|_| is_first) {
        None => page.show(&content),
        Some(found) => {
            let newest = found.events.first().map(|event| event.uid.to_string());
            let (q, newest) = (wanted.without(None), newest.unwrap_or_default());
            page.live("events", &[("q", &q), ("after", &newest)])
                .show(&content)
        }
    })
}

/// A filter as all its viewers share it.
pub fn normal(q: &str) -> String {
    SearchQuery::parse(q, &WORDS).without(None)
}

/// The newest events of a list, for pages to say how many are newer than theirs.
pub async fn live(poll: &Poll, q: &str) -> Result<Snapshot> {
    let (search, wrong) = search(&SearchQuery::parse(q, &WORDS), None);
    if wrong.is_some() {
        return Err(Failure::not_found("there is no such list"));
    }
    let acting = poll.reading().await?;
    let found = log::search(acting, State(poll.api.clone()), Parameters(search)).await?;
    let ids = found.0.events.iter().map(|event| event.uid.uuid());
    Ok(Snapshot {
        latest: Some(Latest {
            ids: ids.collect(),
            more: found.0.next_cursor.is_some(),
            noun: "newer event",
        }),
        ..Snapshot::default()
    })
}

/// How many events of each type there were. Without them the page is right.
pub async fn seen(
    console: &Console,
    reader: &impl Reads,
    window: Window,
) -> Option<EventTypeStats> {
    let acting = reader.reading().await.ok()?;
    let query = Parameters(StatsQuery { window });
    let api = State(reader.api(console).clone());
    let stats = type_stats::of_event_types(acting, api, query).await;
    stats.ok().map(|stats| stats.0)
}

/// How many events there were each minute of the last hour, on average.
pub fn a_minute(seen: &EventTypeStats) -> Markup {
    let of_types = seen.event_types.iter().map(|one| one.events);
    let events: i64 = of_types.sum::<i64>() + seen.other_events;
    let minutes = (seen.until.0 - seen.since.0).whole_minutes().max(1);
    html! {
        @match events / minutes {
            0 if events == 0 => "no event in the last hour",
            0 => { (count(events, "event")) " in the last hour" },
            many => { (count(many, "event")) " a minute in the last hour" },
        }
    }
}

/// The most types among the ready-made filters.
const TYPES: usize = 4;

/// Patterns for the types with most events: those that begin alike, if there are several.
fn common_types(seen: &EventTypeStats) -> Vec<String> {
    let mut patterns: Vec<(String, i64, usize)> = Vec::new();
    for one in &seen.event_types {
        let begin = one.event_type.split('.').next().unwrap_or_default();
        match patterns.iter_mut().find(|(known, ..)| known == begin) {
            Some((_, events, types)) => {
                *events += one.events;
                *types += 1;
            }
            None => patterns.push((begin.to_owned(), one.events, 1)),
        }
    }
    patterns.sort_by_key(|(_, events, _)| std::cmp::Reverse(*events));
    let pattern = |(begin, _, types): &(String, i64, usize)| {
        let alone =
            |one: &&EventTypeCount| one.event_type.split('.').next() == Some(begin.as_str());
        match (*types, seen.event_types.iter().find(alone)) {
            (1, Some(one)) => one.event_type.clone(),
            _ => format!("{begin}.*"),
        }
    };
    patterns.iter().take(TYPES).map(pattern).collect()
}

/// "That matched nothing" is a filter because it is the question.
fn ready_filters(path: &str, wanted: &SearchQuery, seen: Option<&EventTypeStats>) -> Markup {
    let kept = wanted.without(Some("matched"));
    let unmatched = wanted.get("matched").is_some();
    let chosen = wanted.get("type");
    let times = wanted
        .terms
        .iter()
        .filter(|term| matches!(term.word.as_str(), "since" | "until"));
    let times = SearchQuery {
        terms: times.cloned().collect(),
        rest: String::new(),
    };
    let to = |q: &str| format!("{path}{}", query(&[("q", q.trim())]));
    let mut links = vec![
        (
            to(&times.without(None)),
            html! { "All" },
            !unmatched && chosen.is_none(),
        ),
        (
            to(&format!("{kept} matched:0")),
            html! { "That matched nothing" },
            unmatched,
        ),
    ];
    let others = wanted.without(Some("type"));
    for pattern in seen.map(common_types).unwrap_or_default() {
        let link = to(&format!("{others} type:{pattern}"));
        let is_chosen = chosen == Some(pattern.as_str());
        links.push((link, html! { code { (excerpt(&pattern, 40)) } }, is_chosen));
    }
    facets(
        "Ready filters",
        &links,
        &html! { "By when they were accepted" },
    )
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
        Head::Text("Event type"),
        Head::Text("Id"),
        Head::Text("Matched"),
        Head::Text("Came by"),
        Head::Number("Accepted"),
    ];
    let rows = html! {
        @for event in events {
            @let path = visit.path(&format!("/events/{}", segment(&event.id.to_string())));
            (tr(&html! {
                (td("", &html! { a href=(path) { code { (excerpt(event.r#type.as_str(), 80)) } } }))
                (td("grow first", &html! { code class="soft cut" { (line(event.id.to_string())) } }))
                (td("num", &matched(event.matched)))
                (td("hide soft", &html! { @if let Some(by) = event.came_by { (came_by(by)) } }))
                (num("last", None, &at(event.accepted_at.0)))
            }))
        }
    };
    table("tight", &heads, &rows)
}

fn matched(many: i32) -> Markup {
    html! {
        @match many {
            0 => span class="st none" { (icon("queued")) "Nobody" },
            many => (count(many.into(), "webhook")),
        }
    }
}

/// How it came, as people call it.
pub fn came_by(by: CameBy) -> &'static str {
    match by {
        CameBy::Amqp => "AMQP",
        CameBy::Http => "HTTP",
    }
}

fn none_yet(visit: &Visit, origin: &str, may: bool) -> Markup {
    let publish = visit.path("/events/new");
    html! {
        (empty(
            "No event yet",
            &html! { "The newest is here as soon as it is accepted. This is how to publish one:" },
            &html! { @if may { a class="btn" href=(publish) { "Publish one from here" } } },
        ))
        section class="form" { (both(origin, &visit.tenant, &type_or_example(""))) }
    }
}

fn nothing(path: &str) -> Markup {
    empty(
        "Nothing matches",
        &html! { "No event of these is among those that were looked at." },
        &html! { a class="btn" href=(path) { "All events" } },
    )
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::timestamp::Timestamp;

    #[test]
    fn types_that_begin_alike_are_one_filter() {
        let count = |event_type: &str, events| EventTypeCount {
            event_type: event_type.to_owned(),
            events,
        };
        let seen = EventTypeStats {
            window: Window::Hour,
            since: Timestamp(datetime!(2026-11-26 09:45 UTC)),
            until: Timestamp(datetime!(2026-11-26 10:45 UTC)),
            event_types: vec![
                count("invoice.paid", 50),
                count("order.paid", 40),
                count("order.created", 30),
                count("ping", 1),
            ],
            other_events: 0,
        };
        assert_eq!(common_types(&seen), ["order.*", "invoice.paid", "ping"]);
        assert_eq!(a_minute(&seen).0, "2 events a minute in the last hour");
    }
}
