//! Dead letters, for the operator: grouped by reason, because all letters of one reason are fixed
//! together.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::DeadLetterId;

use crate::api::dead_letters::replay::{replay as replay_one, replay_many};
use crate::api::dead_letters::selection::Selection;
use crate::api::dead_letters::view::DeadLetter;
use crate::api::dead_letters::{
    self, DeadLetterQuery, DeadLetterReason, Discardable, WhoseReasons,
};
use crate::api::http::request::{Id, OptionalBody, Parameters};
use crate::console::failure::{Failure, Result};
use crate::console::fields::{Fields, query};
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::{at, bytes, count};
use crate::console::parts::{Head, code, done, empty, num, pager, panel, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{block, excerpt, line, short};
use crate::console::visit::{Operation, Posted, Visitor};

const PATH: &str = "/console/_/dead-letters";

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    queue: String,
    cursor: Option<String>,
    /// `replayed-3`, `discarded-3`.
    #[serde(default)]
    done: String,
}

/// `GET /console/_/dead-letters?reason=`
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
        limit: None,
        cursor: params.cursor.clone(),
    };
    let page = dead_letters::list(operation.operating(), api(), Parameters(which))
        .await?
        .0;
    let all: i64 = reasons.iter().map(|of| of.count).sum();
    let older = page.next_cursor.map(|cursor| {
        let cursor = cursor.to_string();
        let pairs = [
            ("reason", params.reason.as_str()),
            ("tenant", &params.tenant),
            ("queue", &params.queue),
            ("cursor", &cursor),
        ];
        format!("{PATH}{}", query(&pairs))
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
                @else { (messages(&page.dead_letters)) }
                (pager(&html! { (page.dead_letters.len()) " of " (all) }, older.as_deref()))
            }
        }
    };
    Ok(Page::of_operator(&operation, Section::DeadLetters, "Dead letters").show(&content))
}

/// Only our own words: what the address says is a word and a number.
fn what_was_done(text: &str) -> Option<Markup> {
    let (what, n) = text.split_once('-')?;
    let n: i64 = n.parse().ok()?;
    let verb = match what {
        "replayed" => "published again. What is still wrong with them comes back",
        "discarded" => "discarded",
        _ => return None,
    };
    Some(done(&format!("{} {verb}.", count(n, "message"))))
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
            @let to = format!("{PATH}{}", query(&[("reason", &of.reason), ("tenant", tenant), ("queue", &of.queue)]));
            (tr(&html! {
                (td("grow first", &html! { a href=(to) { b { (excerpt(&of.reason, 300)) } } }))
                (td("", &html! { @if tenant.is_empty() { span class="soft" { "none" } } @else { code { (line(tenant)) } } }))
                (num("", Some("messages"), &of.count))
                (td("soft", &at(of.first_at.0)))
                (td("right last", &html! {
                    form class="row" method="post" action={ (PATH) "/act" } {
                        (csrf(by))
                        input type="hidden" name="reason" value=(of.reason);
                        input type="hidden" name="tenant" value=(tenant);
                        input type="hidden" name="queue" value=(of.queue);
                        @if of.replayable { button class="btn tiny" name="do" value="replay" { "Replay " (of.count.min(1_000)) } }
                        button class="btn tiny quiet" name="do" value="ask" { "Discard" }
                    }
                }))
            }))
        }
    };
    table("tight", &heads, &rows)
}

fn filter(params: &Params) -> Markup {
    let without = |name: &str| {
        let pairs = [
            ("reason", params.reason.as_str()),
            ("tenant", &params.tenant),
            ("queue", &params.queue),
        ];
        let kept: Vec<_> = pairs.into_iter().filter(|(key, _)| *key != name).collect();
        format!("{PATH}{}", query(&kept))
    };
    let chips = [
        ("reason", &params.reason),
        ("tenant", &params.tenant),
        ("queue", &params.queue),
    ];
    html! {
        @if chips.iter().any(|(_, value)| !value.is_empty()) {
            p class="row" { @for (name, value) in chips { @if !value.is_empty() {
                a class="chip" href=(without(name)) aria-label={ "Remove " (name) } { b { (name) } " " (excerpt(value, 120)) " ×" }
            } } }
        }
    }
}

fn messages(letters: &[DeadLetter]) -> Markup {
    let heads = [
        Head::Text("Reason and beginning"),
        Head::Text("Tenant"),
        Head::Text("Routing key"),
        Head::Number("Bytes"),
        Head::Number("Since"),
    ];
    let rows = html! {
        @for letter in letters {
            (tr(&html! {
                (td("grow full", &html! {
                    a href={ (PATH) "/" (letter.id) } { b { (excerpt(&letter.reason, 200)) } }
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

/// `GET /console/_/dead-letters/{id}`
pub async fn show_one(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Id(id): Id<DeadLetterId>,
) -> Result<Html<String>> {
    let letter = dead_letters::show_one(&console.api, id).await?;
    let headers = serde_json::Value::Object(letter.headers.clone());
    let title = format!("Dead letter {}", short(&id.to_string()));
    let path = format!("{PATH}/{id}");
    let content = html! {
        div class="head" {
            div {
                h1 { (title) }
                p class="sub" { span class="break" { (line(&letter.reason)) } }
            }
            div class="row" {
                form method="post" action={ (path) "/replay" } {
                    (csrf(&operation.by))
                    @if !letter.truncated && letter.unreadable.is_none() { button class="btn main-btn" { "Replay" } }
                }
                form method="post" action={ (PATH) "/act" } {
                    (csrf(&operation.by))
                    input type="hidden" name="id" value=(id);
                    button class="btn risk" name="do" value="discard" { "Discard" }
                }
            }
        }
        dl class="kv" {
            dt { "Queue" } dd { (letter.queue) }
            dt { "Published to" } dd { code { (line(&letter.exchange)) } " with " code class="break" { (line(&letter.routing_key)) } }
            dt { "Tenant" } dd { @match &letter.tenant { Some(tenant) => code { (line(tenant)) }, None => "none" } }
            dt { "Message id" } dd { @match &letter.message_id { Some(id) => code class="break" { (line(id)) }, None => "none" } }
            dt { "Content type" } dd { @match &letter.content_type { Some(kind) => code { (line(kind)) }, None => "none" } }
            dt { "Since" } dd { (at(letter.parked_at.0)) }
        }
        @if let Some(unreadable) = &letter.unreadable {
            (panel("Unreadable", &html! {}, true, &html! {
                p { (line(&unreadable.why)) }
                p class="soft small" { "Replay it with a new routing key over the API: POST /api/v1/admin/dead-letters/{id}/replay." }
                (code(&html! { (line(&unreadable.properties.escaped)) }))
            }))
        }
        (panel("Headers", &html! {}, !letter.headers.is_empty(), &code(&block(&serde_json::to_string_pretty(&headers).unwrap_or_default()))))
        (panel("Body", &html! { (bytes(letter.size.into())) ", the first 1,024 bytes" }, true, &code(&block(&letter.body_excerpt))))
    };
    Ok(Page::of_operator(&operation, Section::DeadLetters, title).show(&content))
}

/// `POST /console/_/dead-letters/{id}/replay`
pub async fn replay(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Id(id): Id<DeadLetterId>,
) -> Result<Redirect> {
    let api = State(console.api.clone());
    let answer = replay_one(
        operation.operating(),
        api,
        Id(id),
        OptionalBody(Default::default()),
    );
    let replayed = answer.await?.0.replayed;
    Ok(Redirect::to(&format!("{PATH}?done=replayed-{replayed}")))
}

/// `POST /console/_/dead-letters/act`: replays or discards those of a reason, or one.
pub async fn act(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let filled = |name: &str| fields.filled(name).map(str::to_owned);
    let api = || State(console.api.clone());
    let done = match fields.text("do") {
        "replay" => {
            let selection = Selection {
                reason: filled("reason"),
                tenant: filled("tenant"),
                queue: filled("queue"),
                ids: filled("id").map(|id| vec![id]),
            };
            let body = crate::api::http::request::Body(selection);
            let answer = replay_many(operation.operating(), api(), body).await?;
            format!("replayed-{}", answer.0.replayed)
        }
        "discard" => {
            let which = Discardable {
                reason: filled("reason"),
                tenant: filled("tenant"),
                queue: filled("queue"),
                ids: filled("id"),
            };
            let parameters = Parameters(which);
            let answer = dead_letters::discard_many(operation.operating(), api(), parameters);
            format!("discarded-{}", answer.await?.0.discarded)
        }
        "ask" => return Ok(Err(ask(&console, &operation, &fields).await?)),
        _ => return Err(Failure::not_found("there is no such action")),
    };
    Ok(Ok(Redirect::to(&format!("{PATH}?done={done}"))))
}

/// Asks before messages are gone for good.
async fn ask(console: &Console, operation: &Operation, fields: &Fields) -> Result<Html<String>> {
    let whose = WhoseReasons { tenant: None };
    let api = State(console.api.clone());
    let all = dead_letters::list_reasons(operation.operating(), api, Parameters(whose)).await?;
    let (reason, tenant) = (fields.text("reason"), fields.text("tenant"));
    let of = all
        .0
        .reasons
        .into_iter()
        .find(|of| of.reason == reason && of.tenant.as_deref().unwrap_or_default() == tenant);
    let many = of.map_or(0, |of| of.count).min(1_000);
    let content = html! {
        div class="head" { div { h1 { "Discard " (count(many, "message")) "?" } } }
        p { "Refused for: " b { (line(reason)) } }
        p class="soft" { "They are gone for good. What was in them is delivered to nobody." }
        form class="row" method="post" action={ (PATH) "/act" } {
            (csrf(&operation.by))
            @for name in ["reason", "tenant", "queue"] { input type="hidden" name=(name) value=(fields.text(name)); }
            a class="btn" href=(PATH) autofocus { "Keep them" }
            button class="btn risk" name="do" value="discard" { "Discard " (count(many, "message")) }
        }
    };
    Ok(Page::of_operator(operation, Section::DeadLetters, "Discard").show(&content))
}
