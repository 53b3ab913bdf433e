//! Deliveries of all webhooks, and the list that a webhook's page has, too.

pub mod facets;
pub mod named;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::WebhookId;

use facets::{Counts, replay_link, state_filters};
use named::with_ids;

pub use facets::ready_filters;

use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::deliveries::view::Delivery;
use crate::api::http::request::{Id, Parameters};
use crate::console::failure::{Failure, Result};
use crate::console::fields::query;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{at, count, took};
use crate::console::pages::webhooks::names;
use crate::console::parts::{Head, dash, empty, num, pager, pick, table, td, tr, unreadable};
use crate::console::query::{OF_DELIVERIES, SearchQuery, bar, of_deliveries};
use crate::console::state::Console;
use crate::console::text::{excerpt, short};
use crate::console::visit::{Poll, Reads, Visit, Visitor};
use crate::console::watch::{Latest, Snapshot};
use crate::console::words;

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    pub q: String,
    /// What was typed behind the chips.
    #[serde(default)]
    pub add: String,
    pub cursor: Option<String>,
    /// What was just done: see [`what_was_done`].
    pub done: Option<String>,
}

impl Params {
    pub fn query(&self) -> SearchQuery {
        SearchQuery::parse(&format!("{} {}", self.q, self.add), &OF_DELIVERIES)
    }
}

/// `GET /console/{tenant}/deliveries?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let search = params.query();
    let (mut filter, mut beneath) = of_deliveries(&search, params.cursor.clone());
    if beneath.is_none() {
        beneath = with_ids(&console.reads, &visit, &mut filter).await?;
    }
    let replay = replay_link(&visit, &search, filter.webhook_id.as_deref());
    let mut unread = None;
    let found = match beneath {
        Some(_) => None,
        None => {
            let acting = visit.acting().await?;
            let found =
                deliveries::list(acting, State(console.reads.clone()), Parameters(filter)).await;
            match found {
                Ok(found) => Some(found.0),
                // A value that the API refuses: its sentence says what would be right.
                Err(problem) if problem.status().is_client_error() => {
                    beneath = Some(problem.lines().join("; "));
                    None
                }
                Err(problem) => {
                    unread = Some(problem);
                    None
                }
            }
        }
    };
    let shown = found.iter().flat_map(|page| &page.deliveries);
    let names = names(&console, &visit, shown.map(|one| one.webhook_id)).await?;
    let path = visit.path("/deliveries");
    let content = html! {
        div class="head" {
            div {
                h1 { "Deliveries" }
                p class="sub" { "Of all webhooks of " (visit.tenant) ", newest event first" }
            }
        }
        @if let Some(done) = params.done.as_deref().and_then(what_was_done) { (done) }
        (bar(&path, &search, "Filter deliveries", "status:failed type:order.paid code:503 webhook:Warehouse event:order-4711 since:1h", beneath.as_deref()))
        (state_filters(&path, &search, &Counts::default(), replay.as_deref()))
        (newer_place(&path, &search, params.cursor.is_none()))
        @if let Some(unread) = &unread { (unreadable("The list", unread.is_too_slow())) }
        @if let Some(page) = &found {
            @let rows: Vec<_> = page.deliveries.iter().map(|delivery| Row::new(delivery, Some(&names))).collect();
            (list(Some(&Bulk { by: &visit.by, query: &search, back: &path, webhook: None }), &visit.path(""), &rows))
            @if rows.is_empty() { (nothing(&path, &search, page.next_cursor.is_some())) }
            (more(&path, &search, rows.len(), page.next_cursor.map(|id| id.to_string())))
        }
    };
    let mut page = Page::of_tenant(&visit, Section::Deliveries, "Deliveries");
    if let (Some(found), None) = (&found, &params.cursor) {
        let newest = found.deliveries.first().map(|one| one.id.to_string());
        let (q, newest) = (search.without(None), newest.unwrap_or_default());
        page = page.live("deliveries", &[("q", &q), ("after", &newest)]);
    }
    Ok(page.show(&content))
}

/// A filter as all its viewers share it: in one spelling, and no longer than a query may be.
pub fn normal(q: &str) -> String {
    SearchQuery::parse(q, &OF_DELIVERIES).without(None)
}

/// The newest deliveries of a list, for pages to say how many are newer than theirs.
pub async fn live(poll: &Poll, of: Option<WebhookId>, q: &str) -> Result<Snapshot> {
    let (mut filter, mut wrong) = of_deliveries(&SearchQuery::parse(q, &OF_DELIVERIES), None);
    if wrong.is_none() {
        wrong = with_ids(&poll.api, poll, &mut filter).await?;
    }
    if wrong.is_some() {
        return Err(Failure::not_found("there is no such list"));
    }
    let api = State(poll.api.clone());
    let acting = poll.reading().await?;
    let found = match of {
        Some(id) => deliveries::list_of_webhook(acting, api, Id(id), Parameters(filter)).await?,
        None => deliveries::list(acting, api, Parameters(filter)).await?,
    };
    let ids = found.0.deliveries.iter().map(|delivery| delivery.id.uuid());
    Ok(Snapshot {
        latest: Some(Latest {
            ids: ids.collect(),
            more: found.0.next_cursor.is_some(),
            noun: "newer delivery",
        }),
        ..Snapshot::default()
    })
}

/// Where a list says that there are newer deliveries: rows that somebody reads aren't moved.
pub fn newer_place(path: &str, search: &SearchQuery, is_first: bool) -> Markup {
    let here = format!("{path}{}", query(&[("q", &search.without(None))]));
    html! { @if is_first { a href=(here) data-live="newer" class="newer" hidden {} } }
}

/// How many there are. `noun`: what one is, such as `newer delivery`.
pub fn newer(many: usize, and_more: bool, noun: &str) -> Markup {
    let counted = count(many as i64, noun);
    let counted = match counted.split_once(' ') {
        Some((number, nouns)) if and_more => format!("{number}+ {nouns}"),
        _ => counted,
    };
    html! { @if many > 0 { (counted) } }
}

/// One line of a list.
pub struct Row<'a> {
    delivery: &'a Delivery,
    /// Names of webhooks, if the list is of more than one.
    names: Option<&'a HashMap<WebhookId, String>>,
}

impl<'a> Row<'a> {
    pub fn new(delivery: &'a Delivery, names: Option<&'a HashMap<WebhookId, String>>) -> Self {
        Self { delivery, names }
    }
}

/// What can be done with the rows that somebody selects.
pub struct Bulk<'a> {
    pub by: &'a Visitor,
    pub query: &'a SearchQuery,
    /// The page itself.
    pub back: &'a str,
    /// The webhook that the list is of.
    pub webhook: Option<WebhookId>,
}

/// The list. `base`: the tenant's path. Without `bulk`, nothing can be selected.
pub fn list(bulk: Option<&Bulk<'_>>, base: &str, rows: &[Row<'_>]) -> Markup {
    if rows.is_empty() {
        return html! {};
    }
    let bulk = bulk.filter(|bulk| bulk.by.may(Role::Manager));
    let may_retry = bulk.is_some();
    let of_many = rows.iter().any(|row| row.names.is_some());
    let mut heads = Vec::new();
    if may_retry {
        heads.push(Head::Pick);
    }
    heads.extend([Head::Text("State"), Head::Text("Event type")]);
    if of_many {
        heads.push(Head::Text("Webhook"));
    }
    heads.extend([
        Head::Text("Answer"),
        Head::Text("Why, and what comes next"),
        Head::Number("Tries"),
        Head::Number("Took"),
        Head::Number("Accepted"),
    ]);
    html! {
        (table("tight", &heads, &html! { @for row in rows { (line_of(row, base, may_retry)) } }))
        @if let Some(bulk) = bulk { (bulk_bar(bulk, base)) }
    }
}

fn line_of(row: &Row<'_>, base: &str, may_retry: bool) -> Markup {
    let delivery = row.delivery;
    let word = words::delivery(&delivery.status, delivery.next_attempt_reason.as_deref());
    let path = format!("{base}/deliveries/{}", delivery.id);
    let name = row
        .names
        .map(|names| match names.get(&delivery.webhook_id) {
            Some(name) => excerpt(name, 32),
            None => html! { code { (short(&delivery.webhook_id.to_string())) } },
        });
    let took = match delivery.response_time_ms {
        Some(ms) => html! { (took(ms.into())) },
        None => dash(),
    };
    tr(&html! {
        @if may_retry { (pick(&delivery.id.to_string())) }
        (td("", &word.show()))
        (td("", &html! { a href=(path) { code { (excerpt(delivery.event_type.as_str(), 80)) } } }))
        @if let Some(name) = &name { (td("", name)) }
        (td("ans", &words::answer(delivery.response_code, delivery.attempts)))
        (td("grow", &html! { span class="cut soft" { (why(delivery)) } }))
        (num("hide", None, &html! { (delivery.attempts) }))
        (num("hide", None, &took))
        (num("last", None, &at(delivery.queued_at.0)))
    })
}

/// Why it is as it is, and what comes next.
fn why(delivery: &Delivery) -> Markup {
    let error = delivery.error.as_deref();
    match (delivery.status.as_str(), delivery.next_attempt_at) {
        ("delivered", _) => html! {},
        ("queued" | "retrying", Some(next)) => html! {
            @if let Some(reason) = &delivery.next_attempt_reason { (words::reason_in_short(reason)) ". " }
            @if delivery.attempts == 0 { "First try at " } @else { "Next at " }
            (at(next.0))
        },
        ("queued" | "retrying", None) => html! {
            @if let Some(reason) = &delivery.next_attempt_reason { (words::reason_in_short(reason)) }
        },
        ("failed", _) => html! {
            "Gave up after " (count(delivery.attempts.into(), "attempt"))
            @if let Some(error) = error { ". " (excerpt(error, 120)) }
        },
        ("expired", _) => html! {
            @if delivery.attempts == 0 { "Too old before it was ever tried" }
            @else { "Too old after " (count(delivery.attempts.into(), "attempt")) }
        },
        ("cancelled", _) => html! { "Its webhook was switched off, disabled or deleted" },
        _ => html! { @if let Some(error) = error { (excerpt(error, 160)) } },
    }
}

/// Appears with a selection. "All that match" is asked about on a page of its own.
fn bulk_bar(bulk: &Bulk<'_>, base: &str) -> Markup {
    let webhook = bulk.webhook.map(|id| id.to_string()).unwrap_or_default();
    html! {
        form class="bulk" id="bulk" method="post" action={ (base) "/deliveries/retry" } {
            (csrf(bulk.by))
            input type="hidden" name="back" value=(bulk.back);
            input type="hidden" name="q" value=(bulk.query.without(None));
            input type="hidden" name="webhook" value=(webhook);
            span { b class="num" data-count { "0" } " selected" }
            span class="row" {
                button class="btn" data-key="r" { (icon("retry")) "Retry these" }
                button class="btn" name="all" value="1" { "All that match…" }
                button class="btn js-only" type="button" data-copy-ids { (icon("copy")) "Copy ids" }
            }
        }
    }
}

/// Nothing yet, nothing matches, or nothing among those that were looked at.
pub fn nothing(path: &str, search: &SearchQuery, there_is_more: bool) -> Markup {
    let all = html! { a class="btn" href=(path) { "All deliveries" } };
    if there_is_more {
        return empty(
            "Nothing matches among the latest 5,000",
            &html! { "There are older ones: look further, or filter by time." },
            &all,
        );
    }
    if search.is_empty() {
        return empty(
            "No delivery yet",
            &html! { "When an event is published that a webhook listens to, its delivery is here." },
            &html! {},
        );
    }
    let last = search.terms.last().map(|term| term.word.clone());
    let without = format!(
        "{path}{}",
        query(&[("q", &search.without(last.as_deref()))])
    );
    empty(
        "Nothing matches",
        &html! { "No delivery that is still kept passes all of these filters." },
        &html! {
            @if search.terms.len() > 1 { a class="btn" href=(without) { "Drop the last filter" } }
            (all)
        },
    )
}

/// How many are shown, and the way to older ones.
pub fn more(path: &str, search: &SearchQuery, shown: usize, cursor: Option<String>) -> Markup {
    let older = cursor.map(|cursor| {
        format!(
            "{path}{}",
            query(&[("q", &search.without(None)), ("cursor", &cursor)])
        )
    });
    pager(
        &html! {
            (count(shown as i64, "delivery")) " shown"
            span class="js-only" { ". " kbd { "j" } " " kbd { "k" } " move, " kbd { "x" } " selects, " kbd { "/" } " goes to an id" }
        },
        older.as_deref(),
    )
}

/// What the query's `done` says in words; anything else says nothing.
pub fn what_was_done(done: &str) -> Option<Markup> {
    let (what, n) = done.split_once('-')?;
    let (n, not) = n.split_once('-').unwrap_or((n, "0"));
    let (n, not): (i64, i64) = (n.parse().ok()?, not.parse().ok()?);
    let said = match what {
        "retried" => format!("{} retried.", count(n, "delivery")),
        _ => return None,
    };
    let more = if not > 0 {
        format!(
            " {} not: they aren't finished, or their webhook takes nothing.",
            count(not, "delivery")
        )
    } else {
        String::new()
    };
    Some(crate::console::parts::done(&format!("{said}{more}")))
}
