//! The webhooks that a link covers. With one alone, its page is the portal.

use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};

use crate::api::webhooks::stats::Health;
use crate::api::webhooks::view::WebhookView;
use crate::console::icons::icon;
use crate::console::moments::count;
use crate::console::pages::webhooks::name;
use crate::console::parts::{Head, empty, num, table, td, tr};
use crate::console::portal::ended::Result;
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::page;
use crate::console::text::{excerpt, line};

/// `GET /portal`
pub async fn show(customer: Customer) -> Result<Response> {
    let webhooks = customer.webhooks().await?;
    if let [only] = webhooks.as_slice() {
        return Ok(Redirect::to(&format!("/portal/webhooks/{}", only.id)).into_response());
    }
    let content = html! {
        div class="head" { div { h1 { "Your webhooks" } p class="sub" { span { (count(webhooks.len() as i64, "webhook")) } } } }
        @if webhooks.is_empty() { (empty("No webhook yet", &html! { "A webhook says where your deliveries go." }, &html! {})) }
        @else { (list(&webhooks)) }
    };
    let shown: Html<String> = page(&customer, "Your webhooks", &[], &content);
    Ok(shown.into_response())
}

fn list(webhooks: &[WebhookView]) -> Markup {
    let heads = [
        Head::Text("Health"),
        Head::Text("Webhook"),
        Head::Number("Waiting"),
    ];
    let rows = html! {
        @for webhook in webhooks {
            (tr(&html! {
                (td("", &health(webhook)))
                (td("grow first", &html! {
                    a class="cut" href={ "/portal/webhooks/" (webhook.id) } { b { (line(name(webhook))) } }
                    span class="small soft cut" { (excerpt(&webhook.url, 200)) }
                }))
                (num("last", Some("waiting"), &html! { (webhook.waiting) @if !webhook.waiting_counted { "+" } }))
            }))
        }
    };
    table("", &heads, &rows)
}

/// Its state, or how its endpoint does.
pub fn health(webhook: &WebhookView) -> Markup {
    let (tone, symbol, word) = match (webhook.status, webhook.health) {
        ("paused", _) => ("slow", "held", "Paused"),
        ("inactive", _) => ("none", "cancelled", "Switched off"),
        ("disabled", _) => ("fail", "fail", "Disabled"),
        (_, Health::Healthy) => ("good", "ok", "Healthy"),
        (_, Health::Degraded) => ("slow", "warn", "Degraded"),
        (_, Health::Failing) => ("fail", "fail", "Failing"),
        (_, _) => ("none", "queued", "Not used yet"),
    };
    html! { span class={ "st strong " (tone) } { (icon(symbol)) (word) } }
}
