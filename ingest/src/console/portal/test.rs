//! Sends a test to a webhook in the portal, and shows what its endpoint answered. Nothing is
//! stored.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use maud::{Markup, html};
use shared::ids::{EventType, WebhookId};

use crate::api::access::auth::Reading;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Id, OptionalBody};
use crate::api::webhooks::test::{self as api_test, Tested};
use crate::api::webhooks::view::WebhookView;
use crate::console::frame::csrf;
use crate::console::moments::took;
use crate::console::pages::test::{answer_received, new_test, pretty, request_sent};
use crate::console::parts::{note, reasons};
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::said;
use crate::console::portal::scope::Customer;
use crate::console::portal::webhook::{Tab, page_of, path};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Posted;
use crate::console::words;
use crate::event_types::store::example_of;

/// `GET /portal/webhooks/{id}/test`
pub async fn show(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
) -> Result<Html<String>> {
    customer.must_change()?;
    let webhook = customer.webhook(id).await?;
    let named: Option<EventType> = webhook.events.iter().find_map(|name| name.parse().ok());
    let example = match &named {
        Some(name) => {
            let _permit: Reading = customer.acting().await?;
            let client = console.reads.pool.get().await?;
            example_of(&client, &customer.tenant, name).await?
        }
        None => None,
    };
    let example = example.unwrap_or_else(|| r#"{"test": true}"#.to_owned());
    let name = named.map_or_else(String::new, |name| name.to_string());
    let nothing = html! { p class="soft" { "The endpoint's answer is shown here." } };
    let content = form(&customer, &webhook, (&name, &pretty(&example)), &nothing);
    Ok(page_of(&customer, &webhook, Tab::Test, &content))
}

/// `POST /portal/webhooks/{id}/test`: the answer is the page, and is gone with it.
pub async fn send(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    Posted(fields): Posted,
) -> Result<Html<String>> {
    customer.must_change()?;
    let webhook = customer.webhook(id).await?;
    let (name, data) = (fields.text("type").trim(), fields.text("data"));
    let shown = match sent(&console, &customer, id, name, data).await {
        Ok(tested) => answered(&tested, webhook.timeout),
        Err(Ended::Problem(problem)) if is_of_form(&problem) => note(
            "slow",
            "warn",
            &html! { "Not sent." },
            &why_not(&problem),
            &html! {},
        ),
        Err(ended) => return Err(ended),
    };
    let content = form(&customer, &webhook, (name, data), &shown);
    Ok(page_of(&customer, &webhook, Tab::Test, &content))
}

/// Whether what was entered is to blame.
fn is_of_form(problem: &Problem) -> bool {
    matches!(problem.status().as_u16(), 400 | 413 | 422)
}

/// What is wrong with what was entered. The bound of the data is the tenant's, so it isn't told.
fn why_not(problem: &Problem) -> Markup {
    match problem.status() {
        StatusCode::PAYLOAD_TOO_LARGE => html! { "The data is too large. Send less." },
        _ => reasons(problem),
    }
}

async fn sent(
    console: &Console,
    customer: &Customer,
    webhook: WebhookId,
    name: &str,
    data: &str,
) -> Result<Tested> {
    let new = new_test(name, data)?;
    let acting = customer.acting().await?;
    let api = State(console.api.clone());
    let tested = api_test::test(acting, api, Id(webhook), OptionalBody(new)).await?;
    Ok(tested.0)
}

fn form(
    customer: &Customer,
    webhook: &WebhookView,
    (name, data): (&str, &str),
    answer: &Markup,
) -> Markup {
    html! {
        section class="panel" {
            header { h2 { "Send a test" } }
            form class="pad stack near" method="post" action={ (path(webhook)) "/test" } {
                (csrf(&customer.by))
                p class="soft" { "A real, signed request with " code { "X-Posthorn-Test: true" } ". It isn't stored, retried or counted." }
                div class="field" {
                    label for="tt" { "Event type" }
                    input id="tt" name="type" value=(name) list="types" maxlength="255" spellcheck="false" placeholder="posthorn.test";
                    datalist id="types" { @for pattern in &webhook.events { option value=(pattern) {} } }
                }
                div class="field" {
                    label for="td" { "Data" }
                    textarea id="td" name="data" rows="7" spellcheck="false" { "\n" (data) }
                }
                div { button class="btn main-btn" { "Send" } }
            }
        }
        section class="stack near" role="status" { (answer) }
    }
}

/// The API's verdict is for whoever runs Posthorn, so [`said`] has other words. Of a 2xx only the
/// verdict knows whether it counts, and of a 410 that a test disables nothing.
fn answered(tested: &Tested, timeout_ms: Option<u64>) -> Markup {
    let status = tested
        .response_code
        .and_then(|code| i16::try_from(code).ok());
    let (tone, symbol) = match tested.success {
        true => ("good", "ok"),
        false => ("fail", "fail"),
    };
    html! {
        @match (tested.outcome, status) {
            ("success", _) | (_, Some(410)) => (note(tone, symbol, &line(&tested.verdict), &html! {}, &html! {})),
            _ => (said::shown(&said::verdict(tested.outcome, status, timeout_ms))),
        }
        section class="panel" {
            header {
                h2 { "Answer" }
                span class="row" {
                    (words::answer(status, 1))
                    span class="soft num" { (took(i64::try_from(tested.response_time_ms).unwrap_or(i64::MAX))) }
                }
            }
            div class="pad stack near" { (answer_received(tested)) }
        }
        (request_sent(tested))
    }
}
