//! What a webhook in the portal gets, and where; its secret, and how to replace it.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde::Deserialize;
use shared::ids::WebhookId;

use crate::api::http::request::{Id, OptionalBody};
use crate::api::webhooks::rotation;
use crate::api::webhooks::view::WebhookView;
use crate::console::confirm::{Question, SURE};
use crate::console::frame::csrf;
use crate::console::moments::at;
use crate::console::pages::secret::{signed_next, signs_once, still_signs};
use crate::console::parts::{code, done, note, payload};
use crate::console::portal::ended::Result;
use crate::console::portal::scope::Customer;
use crate::console::portal::webhook::{Tab, page_of, path};
use crate::console::session::shown_once::{keep_secret, take_for_page};
use crate::console::state::Console;
use crate::console::text::{block, line};
use crate::console::visit::Posted;

#[derive(Deserialize, Default)]
pub struct Params {
    done: Option<String>,
}

/// `GET /portal/webhooks/{id}/settings`
pub async fn show(
    customer: Customer,
    Id(id): Id<WebhookId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let webhook = customer.webhook(id).await?;
    let content = html! {
        @if params.done.as_deref() == Some("saved") { (done("Saved. It counts for events from now on.")) }
        (settings(&customer, &webhook))
    };
    Ok(page_of(&customer, &webhook, Tab::Settings, &content))
}

fn settings(customer: &Customer, webhook: &WebhookView) -> Markup {
    html! {
        section class="panel" {
            header {
                h2 { "What it gets, and where" }
                @if customer.may_change() { a class="btn tiny" href={ (path(webhook)) "/edit" } data-key="e" { "Edit" } }
            }
            dl class="kv pad" {
                dt { "URL" } dd class="break" { (line(&webhook.url)) }
                dt { "Events" }
                dd { @for (n, pattern) in webhook.events.iter().enumerate() { @if n > 0 { ", " } code { (line(pattern)) } } }
                dt { "Filter" }
                @match &webhook.filters {
                    Some(filter) => dd { (code(&payload(&filter.to_string()))) },
                    None => dd class="soft" { "None" },
                }
                dt { "Description" }
                @if webhook.description.is_empty() { dd class="soft" { "None" } } @else { dd { (block(&webhook.description)) } }
            }
        }
    }
}

/// `GET /portal/webhooks/{id}/secret`
pub async fn secret(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    method: Method,
    headers: HeaderMap,
) -> Result<Html<String>> {
    let webhook = customer.webhook(id).await?;
    let request = (&method, &headers);
    let new = take_for_page(&console.api, &customer.by.session, &about(id), request).await?;
    let content = html! {
        @match &new {
            Some(new) => {
                (note("good", "ok", &html! { "This is the new secret. It is shown once." }, &html! { "Give it to your receiver now." }, &html! {}))
                div class="section-gap" { (code(&line(new.expose_secret()))) }
            },
            None => dl class="kv" {
                dt { "Secret" }
                dd {
                    code { (line(&webhook.secret)) }
                    @if let Some(made) = webhook.secret_made_at { span class="soft" { " since " (at(made.0)) } }
                }
            },
        }
        @if let Some(until) = webhook.previous_secret_until {
            p class="soft section-gap" { "The secret before this one signs too, until " (at(until.0)) "." }
        }
        @if customer.may_change() {
            form class="section-gap" method="post" action={ (path(&webhook)) "/rotate" } {
                (csrf(&customer.by))
                p class="soft" { "A new secret is shown once. Where deliveries carry a list of signatures, the old secret signs too for a day." }
                p class="section-gap" { button class="btn" { "Rotate the secret" } }
            }
        }
    };
    Ok(page_of(&customer, &webhook, Tab::Secret, &content))
}

/// `POST /portal/webhooks/{id}/rotate`: asks before it does so.
pub async fn rotate(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    Posted(fields): Posted,
) -> Result<Response> {
    customer.must_change()?;
    let webhook = customer.webhook(id).await?;
    if !fields.has(SURE) {
        let single = signs_once(&console, &customer.tenant, &webhook);
        let asks = ask_rotate(&customer, &webhook, single);
        return Ok(page_of(&customer, &webhook, Tab::Secret, &asks).into_response());
    }
    let acting = customer.acting().await?;
    let api = State(console.api.clone());
    let answer = rotation::rotate(acting, api, Id(id), OptionalBody(Default::default())).await?;
    keep_secret(
        &console.api,
        &customer.by.session,
        &about(id),
        &answer.0.secret,
    )
    .await?;
    Ok(Redirect::to(&format!("{}/secret", path(&webhook))).into_response())
}

/// `single`: deliveries carry one signature.
fn ask_rotate(customer: &Customer, webhook: &WebhookView, single: bool) -> Markup {
    let base = path(webhook);
    Question {
        asks: html! { "Rotate the secret?" },
        says: html! {
            @if single {
                p { "From now on only the new secret signs. A receiver that accepts only the old one refuses deliveries until it has the new one." }
            } @else {
                p { "Both secrets sign for a day. Put the new one into your receiver within that time." }
            }
            (still_signs(webhook))
            p class="soft" { (signed_next(webhook)) }
        },
        action: &format!("{base}/rotate"),
        fields: &[],
        does: "Rotate the secret",
        back: (&format!("{base}/secret"), "Keep this one"),
    }
    .part(&customer.by)
}

/// What the sealed secret is about.
fn about(webhook: WebhookId) -> String {
    format!("secret of {webhook}")
}
