//! The table of webhooks: a row shows how one webhook does, what it listens to, and what waits for it.

use std::collections::HashMap;

use maud::{Markup, html};
use shared::ids::WebhookId;

use crate::api::webhooks::view::WebhookView;
use crate::console::chart::spark;
use crate::console::clauses::in_short;
use crate::console::moments::{ago, number, percent, took};
use crate::console::pages::webhooks::figures::Figures;
use crate::console::pages::webhooks::naming::name;
use crate::console::parts::{Head, dash, num, table, td, tr};
use crate::console::text::excerpt;
use crate::console::visit::Visit;
use crate::console::words;

pub(super) fn list(
    visit: &Visit,
    webhooks: &[WebhookView],
    figures: &HashMap<WebhookId, Figures>,
) -> Markup {
    let heads = [
        Head::Text("Health"),
        Head::Text("Webhook"),
        Head::Text("Listens to"),
        Head::Text("Ended, 24 h"),
        Head::Number("Success"),
        Head::Number("p95, 1 h"),
        Head::Number("Waiting"),
        Head::Number("Last call"),
    ];
    let none = Figures::default();
    let rows = html! { @for webhook in webhooks { (row(visit, webhook, figures.get(&webhook.id).unwrap_or(&none))) } };
    table("", &heads, &rows)
}

fn row(visit: &Visit, webhook: &WebhookView, figures: &Figures) -> Markup {
    let path = visit.path(&format!("/webhooks/{}", webhook.id));
    let named = html! {
        a class="cut" href=(path) { b { (excerpt(&name(webhook), 200)) } }
        span class="cut small" { (excerpt(&webhook.url, 120)) }
    };
    let (good, bad) = figures
        .chart
        .iter()
        .fold((0, 0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
    let success = (good + bad > 0).then(|| good as f64 / (good + bad) as f64);
    tr(&html! {
        (td("", &html! { span data-live={ "health-" (webhook.id) } { (health(webhook)) } }))
        (td("grow first", &named))
        (td("hide", &patterns(webhook)))
        (td("hide", &spark(&figures.chart)))
        (num("", Some("success"), &html! { @match success {
            Some(share) => span class=(statistics_tone(share)) { (percent(share)) },
            None => (dash()),
        } }))
        (num("hide", None, &html! { @match figures.p95_ms { Some(ms) => (took(ms as i64)), None => (dash()) } }))
        (num("", Some("waiting"), &html! { span data-live={ "waiting-" (webhook.id) } { (waiting(webhook)) } }))
        (num("last", None, &match webhook.last_triggered {
            Some(at) => html! { span class="soft" { (ago(at.0)) } },
            None => html! { span class="soft" { "never" } },
        }))
    })
}

pub(super) fn health(webhook: &WebhookView) -> Markup {
    let word = words::webhook(webhook.status, webhook.health);
    match word.tone {
        "fail" => word.strong(),
        _ => word.show(),
    }
}

fn statistics_tone(share: f64) -> &'static str {
    if share < 0.5 { "bad" } else { "" }
}

/// How many wait, and the oldest for how long.
pub(super) fn waiting(webhook: &WebhookView) -> Markup {
    html! {
        @if webhook.waiting == 0 { span class="soft" { "0" } } @else {
            span class=[(webhook.down_since.is_some()).then_some("bad")] { (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } }
            @if let Some(oldest) = webhook.oldest_waiting_at { br; small { (ago(oldest.0)) } }
        }
    }
}

/// The first two patterns, and how many more.
fn patterns(webhook: &WebhookView) -> Markup {
    let more = webhook.events.len().saturating_sub(2);
    html! {
        @for (n, pattern) in webhook.events.iter().take(2).enumerate() {
            @if n > 0 { br; }
            code { (excerpt(pattern, 40)) }
        }
        @if more > 0 { " " small { "and " (more) " more" } }
        @if webhook.operational { br; small { "operational events" } }
        @if let Some(filter) = &webhook.filters { br; small { (excerpt(&in_short(filter), 60)) } }
        @if webhook.events.is_empty() { (dash()) }
    }
}
