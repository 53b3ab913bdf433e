//! One webhook in the portal: its deliveries, its settings, its secret, a test.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde_json::{Map, json};
use shared::ids::WebhookId;

use crate::api::deliveries;
use crate::api::http::request::{Body, Id, OptionalBody, Parameters};
use crate::api::webhooks::stats::Health;
use crate::api::webhooks::view::WebhookView;
use crate::api::webhooks::{self, rotation, test as tests};
use crate::console::frame::csrf;
use crate::console::icons::icon;
use crate::console::moments::{ago, at};
use crate::console::pages::deliveries::{Bulk, Params, Row, list, more, nothing, ready_filters};
use crate::console::pages::webhooks::name;
use crate::console::parts::{code, headers, note, payload};
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::page;
use crate::console::portal::webhooks::health;
use crate::console::query::of_deliveries;
use crate::console::session::shown_once::{keep_secret, take_secret};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Posted;
use crate::console::words;

fn above() -> [(String, Markup); 1] {
    [("/portal".to_owned(), html! { "Your webhooks" })]
}

fn path(webhook: &WebhookView) -> String {
    format!("/portal/webhooks/{}", webhook.id)
}

/// `GET /portal/webhooks/{id}?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let webhook = customer.webhook(id).await?;
    let wanted = params.query();
    let (filter, wrong) = of_deliveries(&wanted, params.cursor.clone());
    let found = match wrong {
        Some(_) => None,
        None => {
            let api = State(console.api.clone());
            let acting = customer.acting().await?;
            let answer = deliveries::list_of_webhook(acting, api, Id(id), Parameters(filter)).await;
            match answer {
                Ok(found) => Some(found.0),
                Err(problem) if problem.status().is_client_error() => None,
                Err(problem) => return Err(problem.into()),
            }
        }
    };
    let path = path(&webhook);
    let content = html! {
        (head(&customer, &webhook))
        (trouble(&webhook))
        (tabs(&path, "deliveries"))
        (ready_filters(&path, &wanted))
        @if let Some(found) = &found {
            @let rows: Vec<_> = found.deliveries.iter().map(|delivery| Row::new(delivery, None)).collect();
            (list(Some(&Bulk { by: &customer.by, query: &wanted, back: &path, webhook: Some(webhook.id) }), "/portal", &rows))
            @if rows.is_empty() { (nothing(&path, &wanted, found.next_cursor.is_some())) }
            (more(&path, &wanted, rows.len(), found.next_cursor.map(|id| id.to_string())))
        } @else {
            p class="bad" { (line(wrong.unwrap_or_else(|| "That filter isn't understood.".to_owned()))) }
        }
    };
    Ok(page(&customer, &name(&webhook), &above(), &content))
}

fn head(customer: &Customer, webhook: &WebhookView) -> Markup {
    let path = path(webhook);
    let paused = webhook.status == "paused";
    html! {
        div class="head" {
            div {
                h1 { (line(name(webhook))) }
                p class="sub" { (health(webhook)) span class="break" { (line(&webhook.url)) } }
            }
            @if customer.may_change() {
                div class="row" {
                    form method="post" action={ (path) "/test" } { (csrf(&customer.by)) button class="btn" { "Send a test" } }
                    @if paused || webhook.status == "active" {
                        form method="post" action={ (path) "/status" } {
                            (csrf(&customer.by))
                            button class="btn" name="status" value=(if paused { "active" } else { "paused" }) {
                                @if paused { "Resume" } @else { (icon("pause")) "Pause" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What is wrong, in a sentence to whoever owns the endpoint.
fn trouble(webhook: &WebhookView) -> Markup {
    let waiting = html! {
        @if webhook.waiting > 0 {
            (webhook.waiting) @if !webhook.waiting_counted { "+" } " deliveries wait"
            @if let Some(oldest) = webhook.oldest_waiting_at { ", the oldest for " (ago(oldest.0)) }
            "; they are sent once it answers."
        }
    };
    match (webhook.status, webhook.health) {
        ("paused", _) => note(
            "slow",
            "held",
            &html! { "It is paused." },
            &html! { "Your deliveries are held until it is resumed." },
            &html! {},
        ),
        ("disabled", _) => note(
            "fail",
            "fail",
            &html! { "It is disabled." },
            &html! { @if let Some(reason) = &webhook.disabled_reason { (line(reason)) } },
            &html! {},
        ),
        ("active", Health::Failing) => note(
            "fail",
            "warn",
            &html! { "Your endpoint doesn't answer as it should." },
            &waiting,
            &html! {},
        ),
        _ => html! {},
    }
}

fn tabs(path: &str, current: &str) -> Markup {
    html! {
        nav class="tabs" aria-label="Sections" {
            a href=(path) aria-current=[(current == "deliveries").then_some("page")] { "Deliveries" }
            a href={ (path) "/settings" } aria-current=[(current == "settings").then_some("page")] { "Settings and secret" }
        }
    }
}

/// `GET /portal/webhooks/{id}/settings`
pub async fn settings(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
) -> Result<Html<String>> {
    let webhook = customer.webhook(id).await?;
    let about = format!("secret of {id}");
    let new = take_secret(&console.api, &customer.by.session, &about).await?;
    let path = path(&webhook);
    let content = html! {
        (head(&customer, &webhook))
        (tabs(&path, "settings"))
        @if let Some(new) = &new {
            (note("good", "ok", &html! { "This is the new secret. It is shown once." }, &html! { "Give it to your receiver now." }, &html! {}))
            div class="section-gap" { (code(&html! { (line(new.expose_secret())) })) }
        }
        dl class="kv" {
            dt { "Sends to" } dd class="break" { (line(&webhook.url)) }
            dt { "Listens to" } dd { @for pattern in &webhook.events { code { (line(pattern)) } " " } }
            dt { "Filter" } dd { @match &webhook.filters { Some(filter) => (code(&payload(&filter.to_string()))), None => "none" } }
            dt { "Secret" } dd {
                code { (line(&webhook.secret)) }
                @if let Some(made) = webhook.secret_made_at { span class="soft" { " since " (at(made.0)) } }
                @if let Some(until) = webhook.previous_secret_until { p class="soft small" { "The one before signs too, until " (at(until.0)) "." } }
            }
        }
        @if customer.may_change() {
            form class="section-gap" method="post" action={ (path) "/rotate" } {
                (csrf(&customer.by))
                p class="soft" { "A new secret is shown once. Where the dialect sends a list of signatures, the old one signs too for a day." }
                button class="btn" { "Rotate the secret" }
            }
        }
    };
    Ok(page(&customer, &name(&webhook), &above(), &content))
}

/// `POST /portal/webhooks/{id}/rotate`
pub async fn rotate(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
) -> Result<Redirect> {
    let webhook = customer.webhook(id).await?;
    let acting = customer.acting().await?;
    let api = State(console.api.clone());
    let answer = rotation::rotate(acting, api, Id(id), OptionalBody(Default::default())).await?;
    let about = format!("secret of {id}");
    keep_secret(&console.api, &customer.by.session, &about, &answer.0.secret).await?;
    Ok(Redirect::to(&format!("{}/settings", path(&webhook))))
}

/// `POST /portal/webhooks/{id}/status`: pauses or resumes.
pub async fn set_status(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let webhook = customer.webhook(id).await?;
    let status = match fields.text("status") {
        status @ ("active" | "paused") => status,
        _ => return Err(Ended::Nothing),
    };
    let form = Map::from_iter([("status".to_owned(), status.into())]);
    let acting = customer.acting().await?;
    let api = State(console.api.clone());
    webhooks::update(acting, api, Id(id), Default::default(), Body(form)).await?;
    Ok(Redirect::to(&path(&webhook)))
}

/// `POST /portal/webhooks/{id}/test`: the answer is shown, and not stored.
pub async fn test(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
) -> Result<Response> {
    let webhook = customer.webhook(id).await?;
    let acting = customer.acting().await?;
    let api = State(console.api.clone());
    let told = tests::test(acting, api, Id(id), OptionalBody(Default::default()))
        .await?
        .0;
    let (tone, symbol) = if told.success {
        ("good", "ok")
    } else {
        ("fail", "fail")
    };
    let content = html! {
        (head(&customer, &webhook))
        (note(tone, symbol, &html! { (line(&told.verdict)) }, &html! {}, &html! {}))
        dl class="kv" {
            dt { "Answer" } dd { (words::answer(told.response_code.map(|code| code as i16), 1)) }
            dt { "Took" } dd { (told.response_time_ms) " ms" }
        }
        @if let Some(sent) = &told.request_body { section { h2 { "What was sent" } (code(&payload(sent))) } }
        @if let Some(answer) = &told.response_body { section { h2 { "What came back" } (code(&payload(answer))) } }
        @if let Some(all) = &told.response_headers { (code(&headers(&json!(all)))) }
    };
    Ok(page(
        &customer,
        "Test",
        &[above()[0].clone(), (path(&webhook), line(name(&webhook)))],
        &content,
    )
    .into_response())
}
