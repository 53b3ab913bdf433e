//! Checks a signature that a receiver can't verify, and shows which step fails.
//!
//! The answer is the page that the form is sent to. Nothing is stored, and the secret isn't shown
//! again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::{DeliveryId, Tenant, WebhookId};

use crate::api::deliveries;
use crate::api::http::problem::Problem;
use crate::api::http::request::Id;
use crate::api::signatures::{Checked, Difference, NewCheck, check_bytes, checked};
use crate::api::state::Api;
use crate::console::failure::Result;
use crate::console::fields::Fields;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::parts::{field, note, reasons};
use crate::console::state::Console;
use crate::console::text::{line, plain};
use crate::console::visit::{ManagerVisit, Posted};

/// What the form shows.
#[derive(Default)]
struct FormValues {
    dialect: String,
    headers: String,
    body: String,
    webhook: String,
    delivery: String,
}

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    delivery: String,
    attempt: Option<i16>,
    #[serde(default)]
    webhook: String,
}

/// `GET /console/{tenant}/signature?delivery=&attempt=`, or `?webhook=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let mut shown = FormValues::default();
    let mut unknown = None;
    if let Ok(webhook) = params.webhook.parse::<WebhookId>() {
        shown.webhook = webhook.to_string();
    }
    let wanted = params.delivery.trim();
    if let Ok(id) = wanted.parse::<DeliveryId>() {
        let acting = visit.acting().await?;
        let found = deliveries::show(acting, State(console.api.clone()), Id(id)).await?;
        let attempts = found.0.attempt_log.iter();
        let is_wanted = |n: i16| params.attempt.is_none_or(|attempt| attempt == n);
        if let Some(attempt) = attempts.rev().find(|attempt| is_wanted(attempt.n)) {
            let headers = attempt
                .request_headers
                .as_ref()
                .and_then(|all| all.as_array());
            for pair in headers.into_iter().flatten() {
                let text = |at: usize| pair[at].as_str().unwrap_or_default();
                if text(1) != "…" {
                    shown
                        .headers
                        .push_str(&format!("{}: {}\n", text(0), text(1)));
                }
            }
            shown.body = attempt.request_body.clone().unwrap_or_default();
        }
        shown.delivery = id.to_string();
        shown.webhook = found.0.delivery.webhook_id.to_string();
    } else if !wanted.is_empty() {
        unknown = Some(note(
            "slow",
            "warn",
            &html! { "That isn't the id of a delivery." },
            &html! { "It begins with " code { "whd_" } ". A delivery's page has it, and a link that leads here." },
            &html! {},
        ));
    }
    Ok(page(&console, &visit, &shown, unknown.as_ref()))
}

/// `POST /console/{tenant}/signature`
pub async fn check(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(fields): Posted,
) -> Result<Html<String>> {
    let shown = FormValues {
        dialect: fields.text("dialect").to_owned(),
        headers: fields.text("headers").to_owned(),
        body: fields.text("body").to_owned(),
        webhook: fields.text("webhook").trim().to_owned(),
        delivery: fields.text("delivery").trim().to_owned(),
    };
    let _permit = visit
        .acting::<{ crate::api::access::role::Role::Manager as u8 }, false>()
        .await?;
    let found = match check_sent(&console.api, &visit.tenant, &shown, &fields).await {
        Ok(found) => found_out(&found),
        Err(problem) if problem.status().is_client_error() => note(
            "slow",
            "warn",
            &html! { "That can't be checked." },
            &reasons(&problem),
            &html! {},
        ),
        Err(problem) => return Err(problem.into()),
    };
    Ok(page(&console, &visit, &shown, Some(&found)))
}

async fn check_sent(
    api: &Api,
    tenant: &Tenant,
    shown: &FormValues,
    fields: &Fields,
) -> std::result::Result<Checked, Problem> {
    check_bytes(shown.headers.len() + shown.body.len())?;
    let given = |name: &str| fields.filled(name).map(str::to_owned);
    let check = NewCheck {
        dialect: given("dialect"),
        headers: headers(&shown.headers),
        // Browsers send a text's lines with CR and LF; what was pasted had neither, mostly.
        body: shown.body.replace("\r\n", "\n"),
        secret: given("secret"),
        webhook_id: given("webhook"),
        delivery_id: given("delivery"),
        attempt: None,
        computed: given("computed"),
    };
    checked(api, tenant, check).await
}

fn headers(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

fn page(
    console: &Console,
    visit: &ManagerVisit,
    shown: &FormValues,
    found: Option<&Markup>,
) -> Html<String> {
    let dialects: Vec<&str> = console.api.dialects.names().collect();
    let content = html! {
        div class="head" {
            div {
                h1 { "Signature check" }
                p class="sub" { "Why doesn't it verify? Paste what the receiver got. Nothing of it is stored or logged." }
            }
            @if shown.delivery.is_empty() { a class="btn" href="#fill" { "Fill in from a delivery" } }
        }
        div class="cols" {
            form class="form" method="post" action=(visit.path("/signature")) autocomplete="off" {
                (csrf(&visit.by))
                div class="pair" {
                    (field("sd", &html! { "Dialect" }, None, None, &|id, described| html! {
                        select id=(id) name="dialect" aria-describedby=[described] {
                            option value="" selected[shown.dialect.is_empty()] { "the webhook's" }
                            @for name in &dialects { option value=(name) selected[*name == shown.dialect] { (name) } }
                        }
                    }))
                    (field("ss", &html! { "Secret" }, Some(&html! { "That the receiver has; the webhook's unless given." }), None, &|id, described| html! {
                        input id=(id) name="secret" type="password" maxlength="512" autocomplete="off" spellcheck="false" aria-describedby=[described];
                    }))
                }
                div class="pair" {
                    (field("sw", &html! { "Webhook" }, None, None, &|id, _| html! {
                        input id=(id) name="webhook" value=(plain(&shown.webhook)) placeholder="wh_…" maxlength="64" spellcheck="false";
                    }))
                    (field("sl", &html! { "Delivery" }, Some(&html! { "To compare with what was sent." }), None, &|id, described| html! {
                        input id=(id) name="delivery" value=(plain(&shown.delivery)) placeholder="whd_…" maxlength="64" spellcheck="false" aria-describedby=[described];
                    }))
                }
                (field("sh", &html! { "Headers" }, None, None, &|id, _| html! {
                    textarea id=(id) name="headers" rows="5" spellcheck="false" placeholder="webhook-id: …" { (shown.headers) }
                }))
                (field("sb", &html! { "Body, as it came" }, None, None, &|id, _| html! {
                    textarea id=(id) name="body" rows="9" spellcheck="false" { "\n" (shown.body) }
                }))
                (field("sc", &html! { "What your code computes" }, Some(&html! { "If it computes another signature: which one. Then mistakes in the use of the secret are recognised." }), None, &|id, described| html! {
                    input id=(id) name="computed" maxlength="512" spellcheck="false" aria-describedby=[described];
                }))
                div class="row" { button class="btn main-btn" { "Check" } }
            }
            div class="stack" {
                section role="status" { @if let Some(found) = found { (found) } }
                @if shown.delivery.is_empty() { (fill_in(visit)) }
            }
        }
    };
    Page::of_tenant(visit, Section::Signature, "Signature check").show(&content)
}

/// Asks for a delivery, whose request the form then begins with.
fn fill_in(visit: &ManagerVisit) -> Markup {
    html! {
        section class="panel" id="fill" {
            header { h2 { "Fill in from a delivery" } }
            form class="pad row" action=(visit.path("/signature")) {
                label class="row" { "Id " input name="delivery" placeholder="whd_…" size="24" maxlength="64" required autocomplete="off" spellcheck="false"; }
                button class="btn" { "Fill in" }
            }
            p class="pad small soft" { "Or go to " a href=(visit.path("/deliveries")) { "a delivery" } ": each of its attempts has the link “Check its signature”." }
        }
    }
}

fn found_out(found: &Checked) -> Markup {
    let (tone, symbol, what) = match found.verifies {
        true => ("good", "ok", "It verifies"),
        false => ("fail", "fail", "It doesn't verify"),
    };
    html! {
        (note(tone, symbol, &html! { (what) "." }, &html! { (line(&found.detail)) }, &html! {}))
        ol class="line section-gap" {
            @for step in &found.steps {
                @let (tone, symbol) = match step.passed {
                    Some(true) => ("good", "check"),
                    Some(false) => ("fail", "x"),
                    None => ("none", "queued"),
                };
                li class=(tone) {
                    span class="dot" { (icon(symbol)) }
                    div class="what" { b { (words(step.step, step.passed)) } }
                    p { (line(&step.detail)) }
                    @if let Some(difference) = found.difference.as_ref().filter(|_| step.step == "body") {
                        (differs(difference))
                    }
                }
            }
        }
    }
}

fn differs(difference: &Difference) -> Markup {
    html! {
        div class="code small" { pre tabindex="0" {
            "sent  " (line(&difference.sent)) "\n"
            "here  " (line(&difference.received))
        } }
    }
}

/// What a step is about, as it turned out.
fn words(step: &str, passed: Option<bool>) -> &str {
    match (step, passed) {
        ("headers", Some(true)) => "The headers are there",
        ("headers", _) => "A header is missing",
        ("form", Some(true)) => "The signature has the form that it should have",
        ("form", _) => "The signature doesn't have the form that it should have",
        ("time", Some(true)) => "The time was right when it came",
        ("time", _) => "The time isn't right",
        ("secret", Some(true)) => "The secret has the form that it should have",
        ("secret", Some(false)) => "That is no secret",
        ("secret", None) => "There is no secret to check with",
        ("body", Some(true)) => "The body is the one that was sent",
        ("body", Some(false)) => "The body isn't the one that was sent",
        ("body", None) => "What was sent isn't known",
        ("signature", Some(true)) => "The signature is right",
        ("signature", _) => "The signature is another one",
        (other, _) => other,
    }
}
