//! Shown instead of the overview until the first delivery was made. Each step ticks by itself.

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};

use crate::api::access::role::Role;
use crate::api::events::log::{self, Search};
use crate::api::http::request::Parameters;
use crate::api::webhooks::stats;
use crate::api::webhooks::stats::window::{StatsQuery, Window};
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::pages::snippets::both;
use crate::console::pages::webhooks::all;
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{Poll, Reads, Visit};
use crate::console::watch::Snapshot;

pub(super) async fn show(
    console: &Console,
    visit: &Visit,
    origin: &str,
    webhooks: &[WebhookView],
) -> Result<Html<String>> {
    let is_published = is_published(console, visit).await?;
    let first = webhooks.first();
    let pattern = first.and_then(|webhook| webhook.events.first());
    let name = pattern.map_or("invoice.paid".to_owned(), |pattern| example_of(pattern));
    let base = visit.path("");
    let may = visit.by.may(Role::Manager);
    let content = html! {
        div class="head" { div { h1 { "Your first webhook" } p class="sub" { "Three steps. This page sees for itself how far you are." } } }
        ol class="steps form" {
            li {
                h2 { "Say where deliveries go" }
                div data-live="step-1" { (where_to(&base, first, may)) }
            }
            li {
                h2 { "Publish an event" }
                div data-live="step-2" { (published(&base, is_published)) }
                p class="soft" { "Over HTTP, with a manager's token:" }
                (both(origin, &visit.tenant, &name))
                @if may {
                    p class="row section-gap" { a class="btn" href={ (base) "/events/new?type=" (name) } { "Or publish one from here" } }
                }
            }
            li {
                h2 { "See it arrive" }
                div class="empty" data-live="first" { (arrival(&base, is_published, first.is_some())) }
            }
        }
    };
    let title = visit.tenant.to_string();
    Ok(Page::of_tenant(visit, Section::Overview, title)
        .live("first-steps", &[])
        .show(&content))
}

/// The live parts: each step.
pub async fn live(console: &Console, poll: &Poll) -> Result<Snapshot> {
    let query = Parameters(StatsQuery {
        window: Window::Day,
    });
    let acting = poll.reading().await?;
    let stats = stats::of_tenant(acting, State(poll.api.clone()), query).await?;
    let is_over = stats.0.totals.attempts > 0 || stats.0.last_delivery_at.is_some();
    let (webhooks, _) = all(console, poll, None).await?;
    let is_published = is_published(console, poll).await?;
    let base = poll.path("");
    let arrived = match is_over {
        true => html! {
            span data-done {}
            p { b { "The first attempt was made." } }
            p class="row" { a class="btn main-btn" href=(base) { "See the overview" } }
        },
        false => arrival(&base, is_published, !webhooks.is_empty()),
    };
    let step = |may| where_to(&base, webhooks.first(), may).into_string();
    let mut snapshot = Snapshot {
        parts: vec![("step-1".to_owned(), step(false))],
        for_managers: Some(vec![("step-1".to_owned(), step(true))]),
        is_over,
        ..Snapshot::default()
    };
    snapshot.add("step-2", &published(&base, is_published));
    snapshot.add("first", &arrived);
    Ok(snapshot)
}

async fn is_published(console: &Console, reader: &impl Reads) -> Result<bool> {
    let search = Search {
        matched: None,
        event_type: None,
        since: None,
        until: None,
        limit: Some(1),
        cursor: None,
    };
    let acting = reader.reading().await?;
    let api = State(reader.api(console).clone());
    let found = log::search(acting, api, Parameters(search)).await?;
    Ok(!found.0.events.is_empty())
}

fn where_to(base: &str, first: Option<&WebhookView>, may: bool) -> Markup {
    html! {
        @match first {
            Some(webhook) => p class="soft" data-done {
                (line(&webhook.url)) " gets "
                @for (n, pattern) in webhook.events.iter().take(5).enumerate() { @if n > 0 { ", " } code { (line(pattern)) } }
                ". " a href={ (base) "/webhooks/" (webhook.id) } { "Look at it" }
            },
            None => {
                p class="soft" { "A webhook is an address of yours, and which events it gets." }
                @if may {
                    p class="row section-gap" { a class="btn main-btn" href={ (base) "/webhooks/new" } data-key="c" { (icon("plus")) "New webhook" } }
                }
            },
        }
    }
}

fn published(base: &str, is_published: bool) -> Markup {
    html! {
        @if is_published { p class="soft" data-done { "The first event came. " a href={ (base) "/events" } { "Look at it" } } }
    }
}

fn arrival(base: &str, is_published: bool, has_webhook: bool) -> Markup {
    html! {
        @match (is_published, has_webhook) {
            (true, true) => p { "The first event came, and no attempt has ended yet. " a href={ (base) "/events" } { "See who gets it" } },
            (true, false) => p { "The first event came, and there is no webhook to get it." },
            _ => p { span class="live pulse" { "Waiting for the first event" } },
        }
        p class="row" { a class="btn" href=(base) { "Look again" } }
    }
}

/// A type that the pattern listens to.
fn example_of(pattern: &str) -> String {
    match pattern.strip_suffix('*') {
        Some("") => "invoice.paid".to_owned(),
        Some(prefix) => format!("{prefix}created"),
        None => pattern.to_owned(),
    }
}
