//! One event: who got it, and who didn't and why.

mod filter;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::{EventId, WebhookId};

use filter::marked;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::event_types;
use crate::api::events::detail::{self, EventDetail, Matching, Pages};
use crate::api::events::log::{CameBy, Neighbour, neighbour};
use crate::api::http::request::{Id, Parameters};
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::fields::{query, segment};
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{at, bytes, exactly};
use crate::console::pages::events::came_by;
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
    /// `next` or `before`: the page of a neighbour is meant.
    #[serde(default)]
    to: String,
}

/// `GET /console/{tenant}/events/{id}?to=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(event): At<EventId>,
    Query(params): Query<Params>,
) -> Result<Response> {
    let which = match params.to.as_str() {
        "next" => Some(Neighbour::Newer),
        "before" => Some(Neighbour::Older),
        _ => None,
    };
    let pages = Pages {
        limit: Some(if which.is_some() { 1 } else { ROWS }),
        deliveries_cursor: params.deliveries,
        matching_cursor: params.matching,
    };
    let acting = visit.acting().await?;
    let api = State(console.reads.clone());
    let shown = detail::show(acting, api, Id(event), Parameters(pages))
        .await?
        .0;
    if let Some(which) = which {
        return Ok(beside(&console, &visit, &shown, which)
            .await?
            .into_response());
    }
    let (webhooks, _) = all(&console, &visit, None).await?;
    let webhooks: HashMap<_, _> = webhooks
        .iter()
        .map(|webhook| (webhook.id, webhook))
        .collect();
    let verdict = schema_verdict(&console, &visit, &shown).await;
    let content = html! {
        (head(&visit, &shown))
        div class="cols wide" {
            div class="stack" { (who_got_it(&visit, &shown, &webhooks)) }
            div class="stack" { (data(&shown)) (origin(&console, &visit, &shown, &verdict)) (deleted(&visit, &shown, &webhooks)) (neighbours(&visit, &shown)) }
        }
    };
    let title = shown.event.id.to_string();
    let page = Page::of_tenant(&visit, Section::Events, title).show(&content);
    Ok(page.into_response())
}

fn path_of(visit: &Visit, id: &EventId) -> String {
    visit.path(&format!("/events/{}", segment(&id.to_string())))
}

/// The way to the event that was accepted after this one, or before it; the same one if there
/// is none.
async fn beside(
    console: &Console,
    visit: &Visit,
    shown: &EventDetail,
    which: Neighbour,
) -> Result<Redirect> {
    let acting: Reading = visit.acting().await?;
    let event = &shown.event;
    let found = neighbour(&console.reads, &acting.tenant, event.uid, which).await?;
    Ok(Redirect::to(&path_of(
        visit,
        found.as_ref().unwrap_or(&event.id),
    )))
}

fn neighbours(visit: &Visit, shown: &EventDetail) -> Markup {
    let path = path_of(visit, &shown.event.id);
    html! {
        p class="row small" {
            a class="btn tiny" href={ (path) "?to=before" } data-key="p" rel="prev" { "The event before " kbd aria-hidden="true" { "p" } }
            a class="btn tiny" href={ (path) "?to=next" } data-key="n" rel="next" { "The next event " kbd aria-hidden="true" { "n" } }
        }
    }
}

/// What the catalogue's schema says of the event's data now.
enum Schema {
    /// The type has no schema, or isn't described.
    None,
    Holds,
    /// The data violates the schema. The event was accepted, so the schema is newer.
    Violated(String),
    /// The data couldn't be checked.
    Unknown,
}

async fn schema_verdict(console: &Console, visit: &Visit, shown: &EventDetail) -> Schema {
    let event = &shown.event;
    if event.expunged_at.is_some() {
        return Schema::Unknown;
    }
    let api = State(console.reads.clone());
    let Ok(acting) = visit.acting().await else {
        return Schema::Unknown;
    };
    match event_types::show(acting, api, Id(event.r#type.clone())).await {
        Ok(known) if known.0.schema.is_some() => {}
        Ok(_) => return Schema::None,
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => return Schema::None,
        Err(_) => return Schema::Unknown,
    }
    let data = shown.data.get();
    let catalogue = &console.reads.event_types;
    let checked = catalogue.check_in_turn(&visit.tenant, &event.r#type, data);
    match checked.await {
        Ok(Ok(())) => Schema::Holds,
        Ok(Err(unfit)) => Schema::Violated(unfit.to_string()),
        Err(_) => Schema::Unknown,
    }
}

fn head(visit: &Visit, shown: &EventDetail) -> Markup {
    let event = &shown.event;
    let like = query(&[("like", &event.id.to_string())]);
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
                @if visit.by.may(Role::Manager) {
                    a class="btn" href={ (visit.path("/events/new")) (like) } { "Publish one like it" }
                }
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
    let path = path_of(visit, &shown.event.id);
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
                @match webhook.and_then(|webhook| marked(webhook.filters.as_ref()?, &refusal.at)) {
                    Some(filter) => p class="small break" { code { (filter) } },
                    None => p class="small break" { code { mark { (line(&refusal.clause)) } } },
                }
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

fn origin(console: &Console, visit: &Visit, shown: &EventDetail, verdict: &Schema) -> Markup {
    let event = &shown.event;
    let name = event.r#type.as_str();
    let of_type = visit.path(&format!("/event-types/{}", segment(name)));
    html! {
        section class="panel" {
            header { h2 { "Where it came from" } }
            dl class="kv pad" {
                dt { "Id" }
                dd { code { (line(event.id.to_string())) } " " span class="soft" { "its producer's" } }
                @if let Some(by) = event.came_by {
                    dt { "By" }
                    dd {
                        (came_by(by))
                        @if by == CameBy::Amqp { ", " code { (visit.tenant) "." (line(name)) } }
                    }
                }
                @match verdict {
                    Schema::Unknown => {},
                    Schema::None => { dt { "Schema" } dd class="soft" { "None for its type" } },
                    Schema::Holds => {
                        dt { "Schema" }
                        dd { span class="st good" { (icon("ok")) "Holds " } a href=(of_type) { (line(name)) } }
                    },
                    Schema::Violated(why) => {
                        dt { "Schema" }
                        dd {
                            span class="st slow" { (icon("warn")) "Wouldn't hold now: " } a href=(of_type) { (line(name)) }
                            p class="small soft" { (excerpt(why, 300)) }
                        }
                    },
                }
                dt { "Attributes" }
                @match &shown.attributes {
                    Some(attributes) => dd { pre class="small" { (block(&format!("{attributes:#}"))) } },
                    None => dd class="soft" { "None" },
                }
                dt { "Kept until" }
                dd { (at(event.accepted_at.0 + console.api.retention)) " " span class="soft" { "or up to a day longer" } }
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
