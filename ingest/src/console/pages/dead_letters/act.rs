//! What is done with several dead letters: those of a reason, or those that were selected.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::html;
use shared::ids::{DeadLetterId, Malformed};

use super::PATH;
use crate::api::dead_letters::replay::replay_many;
use crate::api::dead_letters::selection::Selection;
use crate::api::dead_letters::{self, Discardable};
use crate::api::http::request::{Body, Id, Parameters};
use crate::console::confirm::Question;
use crate::console::failure::{Failure, Result};
use crate::console::fields::Fields;
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::count;
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{Operation, Posted};

/// `POST /console/_/dead-letters/act`
pub async fn act(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Posted(fields): Posted,
) -> Result<Response> {
    let filled = |name: &str| fields.filled(name).map(str::to_owned);
    let ids: Vec<_> = fields.all("id").map(str::to_owned).collect();
    let is_narrow = ["reason", "tenant", "queue"]
        .iter()
        .any(|name| fields.filled(name).is_some());
    if ids.is_empty() && !is_narrow {
        return Ok(Redirect::to(PATH).into_response());
    }
    let api = || State(console.api.clone());
    let done = match fields.text("do") {
        "replay" => {
            let selection = Selection {
                reason: filled("reason"),
                tenant: filled("tenant"),
                queue: filled("queue"),
                ids: Some(ids).filter(|ids| !ids.is_empty()),
            };
            let answer = replay_many(operation.operating(), api(), Body(selection)).await?;
            match answer.0.skipped {
                0 => format!("replayed-{}", answer.0.replayed),
                skipped => format!("replayed-{}-{skipped}", answer.0.replayed),
            }
        }
        "discard" => {
            let parameters = Parameters(meant(&fields));
            let answer = dead_letters::discard_many(operation.operating(), api(), parameters);
            format!("discarded-{}", answer.await?.0.discarded)
        }
        "ask" => return Ok(ask(&console, &operation, &fields).await?.into_response()),
        _ => return Err(Failure::not_found("there is no such action")),
    };
    Ok(Redirect::to(&format!("{PATH}?done={done}")).into_response())
}

/// What the form means. The question counts the same messages that are discarded then.
fn meant(fields: &Fields) -> Discardable {
    let filled = |name: &str| fields.filled(name).map(str::to_owned);
    let ids: Vec<_> = fields.all("id").collect();
    Discardable {
        reason: filled("reason"),
        tenant: filled("tenant"),
        queue: filled("queue"),
        ids: Some(ids.join(",")).filter(|ids| !ids.is_empty()),
    }
}

/// Asks before messages are gone for good.
async fn ask(console: &Console, operation: &Operation, fields: &Fields) -> Result<Html<String>> {
    let ids: Vec<_> = fields.all("id").collect();
    if let [id] = ids.as_slice() {
        return ask_about_one(console, operation, id).await;
    }
    let many = match ids.len() {
        0 => dead_letters::discardable(&console.reads, meant(fields)).await?,
        many => many as i64,
    };
    let content = html! {
        div class="head" { div { h1 { "Discard " (count(many, "message")) "?" } } }
        @if let Some(reason) = fields.filled("reason") { p { "Refused for: " b { (line(reason)) } } }
        p class="soft" { "They are gone for good. What was in them is delivered to nobody." }
        form class="row" method="post" action={ (PATH) "/act" } {
            (csrf(&operation.by))
            @for name in ["reason", "tenant", "queue"] { input type="hidden" name=(name) value=(fields.text(name)); }
            @for id in ids { input type="hidden" name="id" value=(id); }
            a class="btn" href=(PATH) autofocus { "Keep them" }
            button class="btn risk" name="do" value="discard" { "Discard " (count(many, "message")) }
        }
    };
    Ok(Page::of_operator(operation, Section::DeadLetters, "Discard").show(&content))
}

async fn ask_about_one(console: &Console, operation: &Operation, id: &str) -> Result<Html<String>> {
    let id: DeadLetterId = id
        .parse()
        .map_err(|error: Malformed| Failure::not_found(error.to_string()))?;
    let api = State(console.reads.clone());
    let letter = dead_letters::show(operation.operating(), api, Id(id))
        .await?
        .0;
    let back = format!("{PATH}/{id}");
    let question = Question {
        asks: html! { "Discard this message?" },
        says: html! {
            p { "Refused for: " b { (line(&letter.reason)) } }
            p class="soft" { "It is gone for good. What is in it is delivered to nobody." }
        },
        action: &format!("{PATH}/act"),
        fields: &[("id", &id.to_string()), ("do", "discard")],
        does: "Discard it",
        back: (&back, "Keep it"),
    };
    let page = Page::of_operator(operation, Section::DeadLetters, "Discard");
    Ok(page.show(&question.page(&operation.by)))
}
