//! One event: who got it, and who didn't and why.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::{EventId, WebhookId};

use crate::api::events::detail::{self, EventDetail, Matching, Pages};
use crate::api::http::request::{Id, Parameters};
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::fields::{query, segment};
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{bytes, exactly};
use crate::console::pages::webhooks::{all, name};
use crate::console::parts::{COLOURED, Head, code, copy, payload, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{block, excerpt, line, plain, short};
use crate::console::visit::{At, Visit};
use crate::console::words::{self, Word};
use crate::matching::Explanation;

/// The most rows of each list.
const ROWS: i64 = 100;

#[derive(Deserialize, Default)]
pub struct Params {
    deliveries: Option<String>,
    matching: Option<String>,
}

/// `GET /console/{tenant}/events/{id}`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(event): At<EventId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let pages = Pages {
        limit: Some(ROWS),
        deliveries_cursor: params.deliveries,
        matching_cursor: params.matching,
    };
    let acting = visit.acting().await?;
    let api = State(console.reads.clone());
    let shown = detail::show(acting, api, Id(event), Parameters(pages))
        .await?
        .0;
    let (webhooks, _) = all(&console, &visit, None).await?;
    let webhooks: HashMap<_, _> = webhooks
        .iter()
        .map(|webhook| (webhook.id, webhook))
        .collect();
    let content = html! {
        (head(&shown))
        div class="cols wide" {
            div class="stack" { (who_got_it(&visit, &shown, &webhooks)) }
            div class="stack" { (data(&shown)) (origin(&shown)) (deleted(&visit, &shown, &webhooks)) }
        }
    };
    let title = shown.event.id.to_string();
    Ok(Page::of_tenant(&visit, Section::Events, title).show(&content))
}

fn head(shown: &EventDetail) -> Markup {
    let event = &shown.event;
    html! {
        div class="head" {
            div {
                h1 { (line(event.id.to_string())) }
                p class="sub" {
                    code { (line(event.r#type.as_str())) }
                    span { "accepted " (exactly(event.accepted_at.0)) }
                    span { "happened " (exactly(event.occurred_at.0)) }
                    span { "matched " (event.matched) " when it came" }
                }
            }
            div class="row" {
                button class="btn js-only" type="button" data-copy-link data-key="y" { (icon("link")) "Copy link" }
            }
        }
    }
}

fn who_got_it(
    visit: &Visit,
    shown: &EventDetail,
    webhooks: &HashMap<WebhookId, &WebhookView>,
) -> Markup {
    let mut matching: Vec<_> = shown.matching.iter().collect();
    matching.sort_by_key(|one| match one.explanation {
        Explanation::Matched { .. } => 0,
        Explanation::Refused { .. } => 1,
        Explanation::Unreadable { .. } => 2,
        Explanation::NotListening => 3,
    });
    let heads = [
        Head::Text("Result"),
        Head::Text("Webhook and what decided"),
        Head::Number("Delivery"),
    ];
    let rows = html! { @for one in &matching { (row(visit, shown, one, webhooks.get(&one.webhook_id).copied())) } };
    let path = visit.path(&format!("/events/{}", segment(&shown.event.id.to_string())));
    html! {
        section {
            h2 { "Who got it, and why not" }
            @if matching.is_empty() {
                div class="empty" { h2 { "There is no webhook" } p { "So nobody could get it." } }
            } @else {
                (table("", &heads, &rows))
            }
            @if let Some(next) = shown.next_matching_cursor {
                p class="pager" { span { "There are more webhooks" } a class="btn tiny" href={ (path) (query(&[("matching", &next.to_string())])) } { "More" } }
            }
            p class="small soft" { "Webhooks are asked as they are now." }
        }
    }
}

fn row(
    visit: &Visit,
    shown: &EventDetail,
    one: &Matching,
    webhook: Option<&WebhookView>,
) -> Markup {
    let (tone, symbol, word) = match &one.explanation {
        Explanation::Matched { .. } => ("good", "ok", "Matched"),
        Explanation::Refused { .. } => ("none", "x", "Filtered out"),
        Explanation::NotListening => ("none", "queued", "Not listening"),
        Explanation::Unreadable { .. } => ("slow", "warn", "Unreadable"),
    };
    let word = Word {
        tone,
        icon: symbol,
        word,
        sentence: "",
    };
    let delivery = shown
        .deliveries
        .iter()
        .find(|delivery| delivery.webhook_id == one.webhook_id);
    let id = one.webhook_id.to_string();
    let decided = html! {
        a class="cut" href=(visit.path(&format!("/webhooks/{id}"))) {
            b { @match webhook { Some(webhook) => (line(name(webhook))), None => (short(&id)) } }
        }
        (what_decided(one, webhook))
    };
    let got = html! {
        @match delivery {
            Some(delivery) => a href=(visit.path(&format!("/deliveries/{}", delivery.id))) { (words::delivery(&delivery.status, None).show()) },
            None => span class="soft" { "no delivery" },
        }
    };
    tr(&html! { (td("", &word.show())) (td("grow full", &decided)) (td("last right", &got)) })
}

fn what_decided(one: &Matching, webhook: Option<&WebhookView>) -> Markup {
    let patterns = webhook
        .map(|webhook| webhook.events.as_slice())
        .unwrap_or_default();
    let listed = html! {
        @for (n, pattern) in patterns.iter().take(5).enumerate() { @if n > 0 { ", " } code { (excerpt(pattern, 80)) } }
        @if patterns.len() > 5 { " and " (patterns.len() - 5) " more" }
    };
    let because = match one.webhook_status.as_str() {
        "active" => None,
        "paused" => Some("It is paused: it gets what is held for it later."),
        "inactive" => Some("It is switched off."),
        "disabled" => Some("It is disabled."),
        _ => None,
    };
    html! {
        @match &one.explanation {
            Explanation::Matched { pattern, clauses } => span class="small" {
                "Pattern " code { (excerpt(pattern, 128)) } ". "
                @if webhook.is_some_and(|webhook| webhook.filters.is_none()) { "No filter." }
                @else if clauses.is_empty() { "Its filter takes everything." }
                @else {
                    @match clauses.len() { 1 => "The clause holds: ", 2 => "Both clauses hold: ", _ => "All clauses hold: " }
                    @for (n, holding) in clauses.iter().enumerate() {
                        @if n > 0 { "; " }
                        code { (line(&holding.clause)) } ", found " code { (line(&holding.found)) }
                    }
                    "."
                }
            },
            Explanation::Refused { pattern, refusal } => {
                span class="small" {
                    "Pattern " code { (excerpt(pattern, 128)) } " listens, the filter said no"
                    @if !refusal.at.is_empty() { " at " code { (line(&refusal.at)) } }
                    ":"
                }
                pre class="small" { mark { (line(&refusal.clause)) } }
                span class="small" { "The event has " code { (line(&refusal.found)) } "." }
            },
            Explanation::NotListening => span class="small" {
                @if webhook.is_some_and(|webhook| webhook.operational) { "Gets operational events alone." }
                @else { "Listens to " (listed) "." }
            },
            Explanation::Unreadable { why } => span class="small" {
                "It has a filter, and this data can't be read by one: " (line(why))
            },
        }
        @if let Some(because) = because { span class="small" { " " (because) } }
        @if one.changed_since { p class="small wait" { "Changed after this event: it may have been another then." } }
    }
}

fn data(shown: &EventDetail) -> Markup {
    let text = shown.data.get();
    html! {
        section class="panel" {
            header {
                h2 { "Data" }
                span class="soft small" { (bytes(text.len() as i64)) ", as it was published "
                    // A long one is beneath as it is, with a button of its own.
                    @if text.len() <= COLOURED { (copy(text, "Copy the data")) }
                }
            }
            div class="pad" { (code(&payload(text))) }
        }
    }
}

fn origin(shown: &EventDetail) -> Markup {
    html! {
        section class="panel" {
            header { h2 { "Where it came from" } }
            dl class="kv pad" {
                dt { "Id" }
                dd { code { (line(shown.event.id.to_string())) } " " span class="soft" { "its producer's" } }
                dt { "Attributes" }
                @match &shown.attributes {
                    Some(attributes) => dd { pre class="small" { (block(&format!("{attributes:#}"))) } },
                    None => dd class="soft" { "None" },
                }
            }
        }
    }
}

/// Deliveries whose webhook isn't among the tenant's any more.
fn deleted(
    visit: &Visit,
    shown: &EventDetail,
    webhooks: &HashMap<WebhookId, &WebhookView>,
) -> Markup {
    let listed = |id: &WebhookId| {
        webhooks.contains_key(id) || shown.matching.iter().any(|one| one.webhook_id == *id)
    };
    let others: Vec<_> = shown
        .deliveries
        .iter()
        .filter(|delivery| !listed(&delivery.webhook_id))
        .collect();
    html! {
        @if !others.is_empty() {
            section class="panel" {
                header { h2 { "To webhooks that are deleted" } }
                ul class="pad" {
                    @for delivery in others {
                        li {
                            a href=(visit.path(&format!("/deliveries/{}", delivery.id))) title=(plain(delivery.id.to_string())) {
                                code { (short(&delivery.webhook_id.to_string())) }
                            }
                            " " (words::delivery(&delivery.status, None).show())
                        }
                    }
                }
            }
        }
    }
}
