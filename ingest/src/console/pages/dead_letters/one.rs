//! One dead letter: where it was published, why it was refused, its headers and its body.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde_json::Value;
use shared::ids::DeadLetterId;

use super::PATH;
use crate::api::dead_letters;
use crate::api::dead_letters::replay::replay as replay_one;
use crate::api::dead_letters::view::DeadLetter;
use crate::api::http::request::{Id, OptionalBody};
use crate::console::failure::Result;
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::{at, bytes};
use crate::console::parts::{code, panel};
use crate::console::state::Console;
use crate::console::text::{block, line, short};
use crate::console::visit::{At, Operation};

/// `GET /console/_/dead-letters/{id}`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(id): At<DeadLetterId>,
) -> Result<Html<String>> {
    let api = State(console.reads.clone());
    let letter = dead_letters::show(operation.operating(), api, Id(id))
        .await?
        .0;
    let buttons = html! {
        div class="row" {
            @if letter.replayable {
                form method="post" action={ (PATH) "/" (id) "/replay" } {
                    (csrf(&operation.by))
                    button class="btn main-btn" { "Replay" }
                }
            }
            form method="post" action={ (PATH) "/act" } {
                (csrf(&operation.by))
                input type="hidden" name="id" value=(id);
                button class="btn risk" name="do" value="ask" { "Discard" }
            }
        }
    };
    let content = content(&letter, &buttons);
    Ok(Page::of_operator(&operation, Section::DeadLetters, title(&letter)).show(&content))
}

pub fn title(letter: &DeadLetter) -> String {
    format!("Dead letter {}", short(&letter.id.to_string()))
}

/// All that is known of it. `buttons`: what its reader may do.
pub fn content(letter: &DeadLetter, buttons: &Markup) -> Markup {
    let headers = Value::Object(letter.headers.clone());
    html! {
        div class="head" {
            div {
                h1 { (title(letter)) }
                p class="sub" { span class="break" { (line(&letter.reason)) } }
            }
            (buttons)
        }
        dl class="kv" {
            dt { "Queue" } dd { (letter.queue) }
            dt { "Published to" } dd { code { (line(&letter.exchange)) } " with " code class="break" { (line(&letter.routing_key)) } }
            dt { "Tenant" } dd { @match &letter.tenant { Some(tenant) => code { (line(tenant)) }, None => "none" } }
            dt { "Message id" } dd { @match &letter.message_id { Some(id) => code class="break" { (line(id)) }, None => "none" } }
            dt { "Content type" } dd { @match &letter.content_type { Some(kind) => code { (line(kind)) }, None => "none" } }
            dt { "Since" } dd { (at(letter.parked_at.0)) }
            @if !letter.replayable {
                dt { "Replay" } dd { "It would be refused again as it is: publish it anew with what was wrong repaired." }
            }
        }
        @if let Some(unreadable) = &letter.unreadable {
            (panel("Unreadable", &html! {}, true, &html! {
                p { (line(&unreadable.why)) }
                p class="soft small" { "The operator can replay it with a new routing key over the API: POST /api/v1/admin/dead-letters/{id}/replay." }
                (code(&html! { (line(&unreadable.properties.escaped)) }))
            }))
        }
        (panel("Headers", &html! {}, !letter.headers.is_empty(), &code(&block(&serde_json::to_string_pretty(&headers).unwrap_or_default()))))
        (panel("Body", &html! { (bytes(letter.size.into())) ", the first 1,024 bytes" }, true, &code(&block(&letter.body_excerpt))))
    }
}

/// `POST /console/_/dead-letters/{id}/replay`
pub async fn replay(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(id): At<DeadLetterId>,
) -> Result<Redirect> {
    let answer = replay_one(
        operation.operating(),
        State(console.api.clone()),
        Id(id),
        OptionalBody(Default::default()),
    );
    let replayed = answer.await?.0.replayed;
    Ok(Redirect::to(&format!("{PATH}?done=replayed-{replayed}")))
}
