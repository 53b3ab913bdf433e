//! A tenant's own dead letters, read only: events that were published for it and refused.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::html;
use serde::Deserialize;
use shared::ids::DeadLetterId;

use super::{messages, one};
use crate::api::dead_letters;
use crate::api::http::request::{Id, Page as Part, Parameters};
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section};
use crate::console::moments::count;
use crate::console::parts::{empty, pager};
use crate::console::state::Console;
use crate::console::visit::{At, Visit};

#[derive(Deserialize)]
pub struct Params {
    cursor: Option<String>,
}

/// `GET /console/{tenant}/dead-letters`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let part = Part {
        limit: None,
        cursor: params.cursor,
    };
    let api = State(console.reads.clone());
    let page = dead_letters::list_of_tenant(visit.acting().await?, api, Parameters(part))
        .await?
        .0;
    let path = visit.path("/dead-letters");
    let older = page.next_cursor.map(|cursor| {
        let cursor = cursor.to_string();
        format!("{path}{}", query(&[("cursor", &cursor)]))
    });
    let content = html! {
        div class="head" { div {
            h1 { "Rejected events" }
            p class="sub" { span { "Events that RabbitMQ took for this tenant and Posthorn then refused. The operator can replay or discard them." } }
        } }
        @if page.dead_letters.is_empty() {
            (empty("None", &html! { "An event that was published over AMQP and refused would be here, with the reason." }, &html! {}))
        } @else {
            (messages(&page.dead_letters, &path, false))
            (pager(&html! { (count(page.dead_letters.len() as i64, "event")) " shown" }, older.as_deref()))
        }
    };
    Ok(Page::of_tenant(&visit, Section::Rejected, "Rejected events").show(&content))
}

/// `GET /console/{tenant}/dead-letters/{id}`
pub async fn show_one(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(id): At<DeadLetterId>,
) -> Result<Html<String>> {
    let api = State(console.reads.clone());
    let letter = dead_letters::show_of_tenant(visit.acting().await?, api, Id(id))
        .await?
        .0;
    let content = one::content(&letter, &html! {});
    Ok(Page::of_tenant(&visit, Section::Rejected, one::title(&letter)).show(&content))
}
