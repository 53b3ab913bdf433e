//! The webhooks that a link covers. With one alone, its page is the portal.

use axum::extract::Query;
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::WebhookId;

use crate::api::webhooks::health::Health;
use crate::api::webhooks::view::WebhookView;
use crate::console::icons::icon;
use crate::console::moments::{count, number};
use crate::console::pages::webhooks::name;
use crate::console::parts::{Head, empty, num, table, td, tr};
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::page;
use crate::console::text::{excerpt, line};

#[derive(Deserialize, Default)]
pub struct Params {
    /// The last webhook of the page before.
    cursor: Option<String>,
}

/// `GET /portal?cursor=`
pub async fn show(customer: Customer, Query(params): Query<Params>) -> Result<Response> {
    let after = params.cursor.as_deref().map(str::parse::<WebhookId>);
    let after = after.transpose().map_err(|_| Ended::Nothing)?;
    let (webhooks, more) = customer.webhooks(after).await?;
    if let ([only], None) = (webhooks.as_slice(), after) {
        return Ok(Redirect::to(&format!("/portal/webhooks/{}", only.id)).into_response());
    }
    let content = html! {
        div class="head" { div { h1 { "Your webhooks" } p class="sub" { span { (count(webhooks.len() as i64, "webhook")) @if more || after.is_some() { " on this page" } } } } }
        @if webhooks.is_empty() { (empty("No webhook yet", &html! { "A webhook says where your deliveries go." }, &html! {})) }
        @else { (list(&webhooks)) }
        @if let Some(last) = webhooks.last().filter(|_| more) {
            p class="pager" { span { "There are more." } a class="btn tiny" href={ "/portal?cursor=" (last.id) } rel="next" { "Older" } }
        }
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
                (num("last", Some("waiting"), &html! { (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } }))
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
        (_, _) if webhook.down_since.is_some() => ("fail", "fail", "Down"),
        (_, Health::Healthy) => ("good", "ok", "Healthy"),
        (_, Health::Degraded) => ("slow", "warn", "Degraded"),
        (_, Health::Failing) => ("fail", "fail", "Failing"),
        (_, _) => ("none", "queued", "Not used yet"),
    };
    html! { span class={ "st strong " (tone) } { (icon(symbol)) (word) } }
}
