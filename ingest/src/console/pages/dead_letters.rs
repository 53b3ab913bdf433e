//! Dead letters, for the operator: grouped by reason, because all letters of one reason are fixed
//! together. Below them the messages, with a search field and boxes to select some.

pub mod act;
pub mod of_tenant;
pub mod one;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;

use crate::api::dead_letters::view::DeadLetter;
use crate::api::dead_letters::{self, DeadLetterQuery, DeadLetterReason, REASONS, WhoseReasons};
use crate::api::http::request::Parameters;
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{at, count};
use crate::console::parts::{Head, done, empty, num, pager, pick, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{excerpt, line, plain};
use crate::console::visit::{Operation, Visitor};

pub const PATH: &str = "/console/_/dead-letters";

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    queue: String,
    /// Part of a reason, a routing key or a message id.
    #[serde(default)]
    q: String,
    cursor: Option<String>,
    /// `replayed-3`, `replayed-3-1` (one was skipped), `discarded-3`.
    #[serde(default)]
    done: String,
}

impl Params {
    /// What the list is filtered by: names and values.
    fn filter(&self) -> [(&'static str, &str); 4] {
        [
            ("reason", &self.reason),
            ("tenant", &self.tenant),
            ("queue", &self.queue),
            ("q", self.q.trim()),
        ]
    }

    /// The page's address with these pairs of its filter.
    fn path(pairs: &[(&str, &str)]) -> String {
        format!("{PATH}{}", query(pairs))
    }
}

/// `GET /console/_/dead-letters?reason=&q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let api = || State(console.reads.clone());
    let whose = WhoseReasons { tenant: None };
    let reasons = dead_letters::list_reasons(operation.operating(), api(), Parameters(whose));
    let reasons = reasons.await?.0.reasons;
    let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let which = DeadLetterQuery {
        reason: filled(&params.reason),
        tenant: filled(&params.tenant),
        queue: filled(&params.queue),
        q: filled(params.q.trim()),
        limit: None,
        cursor: params.cursor.clone(),
    };
    let page = dead_letters::list(operation.operating(), api(), Parameters(which))
        .await?
        .0;
    let all: i64 = reasons.iter().map(|of| of.count).sum();
    let older = page.next_cursor.map(|cursor| {
        let cursor = cursor.to_string();
        let mut pairs = params.filter().to_vec();
        pairs.push(("cursor", &cursor));
        Params::path(&pairs)
    });
    let content = html! {
        div class="head" { div {
            h1 { "Dead letters" }
            p class="sub" { span { (count(all, "message")) " that couldn't be processed" } }
        } }
        @if let Some(said) = what_was_done(&params.done) { (said) }
        @if reasons.is_empty() {
            (empty("None", &html! { "What can't be processed would be here." }, &html! {}))
        } @else {
            section { h2 { "By reason" } (by_reason(&operation.by, &reasons)) }
            section {
                h2 { "Messages" }
                (filter(&params))
                @if page.dead_letters.is_empty() { (empty("Nothing matches", &html! { "No message passes this filter." }, &html! { a class="btn" href=(PATH) { "All messages" } })) }
                @else {
                    (messages(&page.dead_letters, PATH, true))
                    (bulk_bar(&operation.by))
                }
                (pager(&html! { (page.dead_letters.len()) " of " (all) }, older.as_deref()))
            }
        }
    };
    Ok(Page::of_operator(&operation, Section::DeadLetters, "Dead letters").show(&content))
}

/// The address has only a word and numbers. So a link can't put words of its own on the page.
fn what_was_done(text: &str) -> Option<Markup> {
    let (what, numbers) = text.split_once('-')?;
    let (n, skipped) = numbers.split_once('-').unwrap_or((numbers, "0"));
    let (n, skipped): (i64, i64) = (n.parse().ok()?, skipped.parse().ok()?);
    let verb = match what {
        "replayed" => "published again. What is still wrong with them comes back",
        "discarded" => "discarded",
        _ => return None,
    };
    let rest = match skipped {
        0 => String::new(),
        skipped => format!(
            " {} can't be published again and stayed.",
            count(skipped, "message")
        ),
    };
    Some(done(&format!("{} {verb}.{rest}", count(n, "message"))))
}

/// Whether some tenant's letters may have been refused for the same reason as these, which name no
/// tenant. No filter finds letters without a tenant alone. So then these can't be acted on at once.
fn shares(of: &DeadLetterReason, all: &[DeadLetterReason]) -> bool {
    let is_same = |other: &DeadLetterReason| other.reason == of.reason && other.queue == of.queue;
    let of_a_tenant = |other: &DeadLetterReason| other.tenant.is_some() && is_same(other);
    // There may be more than are listed.
    let listed_all = (all.len() as i64) < REASONS;
    of.tenant.is_none() && (!listed_all || all.iter().any(of_a_tenant))
}

fn by_reason(by: &Visitor, reasons: &[DeadLetterReason]) -> Markup {
    let heads = [
        Head::Text("Reason"),
        Head::Text("Tenant"),
        Head::Number("Messages"),
        Head::Text("Since"),
        Head::Number("What to do"),
    ];
    let rows = html! {
        @for of in reasons {
            @let tenant = of.tenant.as_deref().unwrap_or_default();
            @let to = Params::path(&[("reason", &of.reason), ("tenant", tenant), ("queue", &of.queue)]);
            (tr(&html! {
                (td("grow first", &html! { a href=(to) { b { (excerpt(&of.reason, 300)) } } }))
                (td("", &html! { @if tenant.is_empty() { span class="soft" { "none" } } @else { code { (line(tenant)) } } }))
                (num("", Some("messages"), &of.count))
                (td("soft", &at(of.first_at.0)))
                (td("right last", &html! {
                    @if shares(of, reasons) { a class="btn tiny quiet" href=(to) { "Select some" } }
                    @else { form class="row" method="post" action={ (PATH) "/act" } {
                        (csrf(by))
                        input type="hidden" name="reason" value=(of.reason);
                        input type="hidden" name="tenant" value=(tenant);
                        input type="hidden" name="queue" value=(of.queue);
                        @if of.replayable { button class="btn tiny" name="do" value="replay" { "Replay " (of.count.min(1_000)) } }
                        button class="btn tiny quiet" name="do" value="ask" { "Discard" }
                    } }
                }))
            }))
        }
    };
    table("tight", &heads, &rows)
}

/// The search field, with a chip for each other part of the filter.
fn filter(params: &Params) -> Markup {
    let all = params.filter();
    let chips: Vec<_> = all
        .iter()
        .filter(|(name, value)| *name != "q" && !value.is_empty())
        .collect();
    let without = |name: &str| {
        let kept: Vec<_> = all.into_iter().filter(|(key, _)| *key != name).collect();
        Params::path(&kept)
    };
    html! {
        form class="query" action=(PATH) role="search" aria-label="Messages" {
            div class="chips" {
                (icon("search"))
                @for (name, value) in &chips {
                    input type="hidden" name=(name) value=(value);
                    a class="chip" href=(without(name)) aria-label={ "Remove " (name) } { b { (name) } " " (excerpt(value, 120)) " ×" }
                }
                input name="q" value=(plain(&params.q)) aria-label="Search messages"
                    placeholder="Part of a reason, a routing key or a message id" maxlength="256" autocomplete="off" spellcheck="false";
            }
            button class="btn" { "Search" }
        }
    }
}

/// A list of dead letters. `path`: of the list; `may_select`: whether rows have boxes.
fn messages(letters: &[DeadLetter], path: &str, may_select: bool) -> Markup {
    let mut heads = vec![
        Head::Text("Reason and beginning"),
        Head::Text("Tenant"),
        Head::Text("Routing key"),
        Head::Number("Bytes"),
        Head::Number("Since"),
    ];
    if may_select {
        heads.insert(0, Head::Pick);
    }
    let rows = html! {
        @for letter in letters {
            (tr(&html! {
                @if may_select { (pick(&letter.id.to_string())) }
                (td("grow full", &html! {
                    a href={ (path) "/" (letter.id) } { b { (excerpt(&letter.reason, 200)) } }
                    code class="cut soft small" { (excerpt(&letter.body_excerpt, 200)) }
                }))
                (td("", &html! { @if let Some(tenant) = &letter.tenant { code { (line(tenant)) } } }))
                (td("hide", &html! { code class="soft" { (excerpt(&letter.routing_key, 100)) } }))
                (num("hide", None, &letter.size))
                (num("last", None, &at(letter.parked_at.0)))
            }))
        }
    };
    table("tight", &heads, &rows)
}

/// Appears with a selection.
fn bulk_bar(by: &Visitor) -> Markup {
    html! {
        form class="bulk" id="bulk" method="post" action={ (PATH) "/act" } {
            (csrf(by))
            span { b class="num" data-count { "0" } " selected" }
            span class="row" {
                button class="btn" name="do" value="replay" data-key="r" { (icon("retry")) "Replay these" }
                button class="btn" name="do" value="ask" { "Discard these…" }
                button class="btn js-only" type="button" data-copy-ids { (icon("copy")) "Copy ids" }
            }
        }
    }
}
