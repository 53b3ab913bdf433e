//! Sends a test to a webhook, and shows what its endpoint said. Nothing is stored.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Html;
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shared::ids::{EventType, WebhookId};

use crate::api::http::problem::Problem;
use crate::api::http::request::{Id, OptionalBody};
use crate::api::webhooks::test::{self as api_test, NewTest, Tested};
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::frame::csrf;
use crate::console::moments::took;
use crate::console::pages::webhook::tabs::{Tab, page};
use crate::console::parts::{code, headers, note, panel, payload, reasons};
use crate::console::session::shown_once::take_for_page;
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{At, ManagerVisit, Posted};
use crate::console::words;
use crate::event_types::store::example_of;
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::plain_words::of_json;

/// `GET /console/{tenant}/webhooks/{id}/test`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
    method: Method,
    headers: HeaderMap,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let named: Option<EventType> = webhook.events.iter().find_map(|name| name.parse().ok());
    let example = match &named {
        Some(name) => {
            let _held = visit.hold().await?;
            let client = console.api.pool.get().await?;
            example_of(&client, &visit.tenant, name).await?
        }
        None => None,
    };
    // After "Create and test" this is the page that follows the secret's creation.
    // It is used up when it is taken, so that nothing after this may fail.
    let about = webhook.id.to_string();
    let request = (&method, &headers);
    let secret = take_for_page(&console.api, &visit.by.session, &about, request).await?;
    let example = example.unwrap_or_else(|| r#"{"test": true}"#.to_owned());
    let name = named.map_or_else(String::new, |name| name.to_string());
    let form = both(
        &visit,
        &webhook,
        &name,
        &pretty(&example),
        &html! {
            div class="empty" { h2 { "Nothing sent yet" } p { "The endpoint's answer is shown here." } }
        },
    );
    let content = html! {
        @if let Some(secret) = &secret {
            (note("good", "ok", &html! { "This is the webhook's secret. It is shown once." },
                &html! { "Put it into the receiver, which verifies signatures with it. Then send a test." }, &html! {}))
            div class="section-gap" { (code(&line(secret.expose_secret()))) }
        }
        (form)
    };
    Ok(page(&visit, &webhook, Tab::Test, &content))
}

/// `POST …/test`: the answer is the page, and is gone with it.
pub async fn send(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
    Posted(fields): Posted,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let (name, data) = (fields.text("type").trim(), fields.text("data"));
    let shown = match sent(&console, &visit, webhook.id, name, data).await {
        Ok(tested) => answered(&tested),
        Err(problem) if problem.status().is_client_error() => note(
            "slow",
            "warn",
            &html! { "Not sent." },
            &reasons(&problem),
            &html! {},
        ),
        Err(problem) => return Err(problem.into()),
    };
    let content = both(&visit, &webhook, name, data, &shown);
    Ok(page(&visit, &webhook, Tab::Test, &content))
}

/// The test that the fields of the form ask for.
///
/// # Errors
/// Names each field that is wrong.
pub fn new_test(name: &str, data: &str) -> std::result::Result<NewTest, Invalids> {
    let mut wrong = Gathered::default();
    let data = match data.trim() {
        "" => None,
        text => wrong.keep(RawValue::from_string(text.to_owned()).map_err(|error| {
            let reason = of_json(&error);
            Invalid::new("data", format!("isn't JSON: {reason}"))
        })),
    };
    let new = NewTest {
        event_type: Some(name.to_owned()).filter(|name| !name.is_empty()),
        data,
    };
    wrong.take(new.check());
    wrong.finish(new)
}

async fn sent(
    console: &Console,
    visit: &ManagerVisit,
    webhook: WebhookId,
    name: &str,
    data: &str,
) -> std::result::Result<Tested, Problem> {
    let new = new_test(name, data)?;
    let acting = match visit.acting().await {
        Ok(acting) => acting,
        Err(_) => return Err(Problem::unavailable("too many requests are under way")),
    };
    let api = State(console.api.clone());
    api_test::test(acting, api, Id(webhook), OptionalBody(new))
        .await
        .map(|tested| tested.0)
}

fn both(
    visit: &ManagerVisit,
    webhook: &WebhookView,
    name: &str,
    data: &str,
    beside: &Markup,
) -> Markup {
    html! {
        div class="cols" {
            section class="panel" {
                header { h2 { "Send a test" } }
                form class="pad stack" method="post" action=(visit.path(&format!("/webhooks/{}/test", webhook.id))) {
                    (csrf(&visit.by))
                    p class="soft" { "A real, signed request with " code { "X-Posthorn-Test: true" } ". Nothing of it is stored, retried or counted." }
                    div class="field" {
                        label for="tt" { "Event type" }
                        input id="tt" name="type" value=(name) list="types" maxlength="255" spellcheck="false" placeholder="posthorn.test";
                        datalist id="types" { @for pattern in &webhook.events { option value=(pattern) {} } }
                    }
                    div class="field" {
                        label for="td" { "Data" }
                        textarea id="td" name="data" rows="9" spellcheck="false" { "\n" (data) }
                    }
                    button class="btn main-btn" { "Send" }
                }
            }
            section class="stack" role="status" { (beside) }
        }
        p class="small section-gap" {
            "The receiver doesn't verify it? "
            a href={ (visit.path("/signature")) "?webhook=" (webhook.id) } { "Check its signature" }
            "."
        }
    }
}

fn answered(tested: &Tested) -> Markup {
    let tone = match (tested.success, tested.outcome) {
        (true, _) => "good",
        (_, "redirect") => "slow",
        _ => "fail",
    };
    let symbol = if tested.success { "ok" } else { "fail" };
    let code_ = tested.response_code.map(|code| code as i16);
    html! {
        (note(tone, symbol, &line(&tested.verdict), &html! {
            @if let Some(error) = &tested.error { code { (line(error)) } }
        }, &html! {}))
        section class="panel" {
            header {
                h2 { "Answer" }
                span class="row" {
                    (words::answer(code_, 1))
                    span class="soft num" {
                        (took(tested.response_time_ms as i64))
                        @if let Some(address) = &tested.remote_address { " from " (line(address)) }
                    }
                }
            }
            div class="pad stack" { (answer_received(tested)) }
        }
        (request_sent(tested))
    }
}

/// The headers and the body of the endpoint's answer.
pub fn answer_received(tested: &Tested) -> Markup {
    html! {
        @if let Some(received) = pairs(&tested.response_headers) { (code(&headers(&received))) }
        @match tested.response_body.as_deref() {
            Some(body) if !body.is_empty() => (code(&payload(body))),
            Some(_) => p class="soft" { "The answer has no body." },
            None => p class="soft" { "There is no answer." },
        }
    }
}

/// The headers and the body of the request.
pub fn request_sent(tested: &Tested) -> Markup {
    panel(
        "What was sent",
        &line(tested.event_id.to_string()),
        false,
        &html! {
            @if let Some(sent) = pairs(&tested.request_headers) { (code(&headers(&sent))) }
            @if let Some(body) = &tested.request_body { (code(&payload(body))) }
        },
    )
}

/// As the API has the headers of an attempt.
fn pairs(headers: &Option<Vec<(String, String)>>) -> Option<Value> {
    headers.as_ref().map(|headers| json!(headers))
}

/// For a field: an example is stored in one line.
pub fn pretty(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    value.map_or_else(|| text.to_owned(), |value| format!("{value:#}"))
}
