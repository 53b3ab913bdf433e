//! All webhooks of a tenant: what needs attention first.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::{EventType, WebhookId};

use crate::api::access::role::Role;
use crate::api::http::request::{MAX_PAGE, Parameters};
use crate::api::webhooks::stats::Health;
use crate::api::webhooks::view::WebhookView;
use crate::api::webhooks::{self, WebhookQuery};
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{ago, count, number};
use crate::console::parts::{Head, dash, empty, facets, num, pager, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{excerpt, line};
use crate::console::visit::Visit;
use crate::console::words;
use crate::matching::Pattern;

#[derive(Deserialize, Default)]
pub struct Filter {
    #[serde(default)]
    q: String,
    #[serde(default)]
    health: String,
    cursor: Option<String>,
}

/// What a webhook is called: the first line of its description, or its URL's host.
pub fn name(webhook: &WebhookView) -> String {
    name_of(&webhook.description, &webhook.url)
}

/// The same of its columns.
pub fn name_of(description: &str, url: &str) -> String {
    let first = description.lines().next().unwrap_or_default().trim();
    if !first.is_empty() {
        return first.to_owned();
    }
    let host = url::Url::parse(url).ok();
    let host = host.as_ref().and_then(|url| url.host_str());
    host.unwrap_or("a deleted webhook").to_owned()
}

/// The tenant's webhooks, at most as many as a page of the API has: a tenant has a hundred
/// unless the operator allows more.
pub async fn all<const ROLE: u8>(
    console: &Console,
    visit: &Visit<ROLE>,
    cursor: Option<String>,
) -> Result<(Vec<WebhookView>, Option<String>)> {
    let page = WebhookQuery {
        limit: Some(MAX_PAGE),
        cursor,
        client_id: None,
        external_id: None,
    };
    let acting = visit.acting().await?;
    let answer = webhooks::list(acting, State(console.api.clone()), Parameters(page)).await?;
    Ok((answer.0.webhooks, answer.0.next_cursor))
}

/// Names by id, for lists of deliveries.
pub async fn names<const ROLE: u8>(
    console: &Console,
    visit: &Visit<ROLE>,
) -> Result<HashMap<WebhookId, String>> {
    let (webhooks, _) = all(console, visit, None).await?;
    Ok(webhooks
        .iter()
        .map(|webhook| (webhook.id, name(webhook)))
        .collect())
}

/// `GET /console/{tenant}/webhooks?q=&health=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(filter): Query<Filter>,
) -> Result<Html<String>> {
    let (mut webhooks, next) = all(&console, &visit, filter.cursor.clone()).await?;
    let whole = next.is_none() && filter.cursor.is_none();
    webhooks.sort_by_cached_key(|webhook| (urgency(webhook), name(webhook).to_lowercase()));
    let of = |health: &str| {
        webhooks
            .iter()
            .filter(|webhook| health_key(webhook) == health)
            .count()
    };
    let kinds = [
        "failing", "disabled", "degraded", "paused", "inactive", "healthy", "unused",
    ];
    let counts: Vec<_> = kinds.iter().map(|kind| (*kind, of(kind))).collect();
    let total = webhooks.len();

    let asks = filter.q.trim();
    let event_type: Option<EventType> = asks.parse().ok().filter(|_| asks.contains('.'));
    webhooks.retain(|webhook| {
        let listens = event_type
            .as_ref()
            .is_some_and(|name| listens_to(webhook, name));
        let fits = asks.is_empty() || listens || contains(webhook, asks);
        fits && (filter.health.is_empty() || health_key(webhook) == filter.health)
    });

    let path = visit.path("/webhooks");
    let can_create = visit.by.may(Role::Manager);
    let content = html! {
        div class="head" {
            div {
                h1 { "Webhooks" }
                p class="sub" {
                    span { @if whole { (count(total as i64, "webhook")) } @else { (total) " of a longer list" } }
                    @if let Some(name) = event_type.as_ref().filter(|_| total > 0) {
                        span { (count(webhooks.len() as i64, "webhook")) " would be asked about " code { (line(name.as_str())) } }
                    }
                }
            }
            @if can_create {
                a class="btn main-btn" href={ (path) "/new" } data-key="c" { (icon("plus")) "New webhook " kbd aria-hidden="true" { "c" } }
            }
        }
        @if total == 0 {
            (empty(
                "No webhook yet",
                &html! { "A webhook says where deliveries go." },
                &html! { @if can_create { a class="btn main-btn" href={ (path) "/new" } { "New webhook" } } },
            ))
        } @else {
            form class="query" action=(path) role="search" aria-label="Webhooks" {
                div class="chips" {
                    (icon("search"))
                    input name="q" value=(filter.q) aria-label="Filter webhooks" maxlength="2048" autocomplete="off" spellcheck="false"
                        placeholder="Part of a name, URL or pattern, or an event type to see who gets it";
                }
                button class="btn" { "Filter" }
            }
            (health_facets(&path, &filter, total, &counts))
            @if webhooks.is_empty() {
                (empty(
                    "Nothing matches",
                    &html! { "No webhook has this in its name, URL or patterns." },
                    &html! { a class="btn" href=(path) { "All webhooks" } },
                ))
            } @else {
                (list(&visit, &webhooks))
                (pager(
                    &html! { (count(webhooks.len() as i64, "webhook")) },
                    next.as_deref().map(|next| format!("{path}{}", query(&[("cursor", next)]))).as_deref(),
                ))
            }
        }
    };
    Ok(Page::of(&visit, Section::Webhooks, "Webhooks").show(&content))
}

fn list(visit: &Visit, webhooks: &[WebhookView]) -> Markup {
    let heads = [
        Head::Text("Health"),
        Head::Text("Webhook"),
        Head::Text("Listens to"),
        Head::Number("Waiting"),
        Head::Number("Last call"),
    ];
    let rows = html! { @for webhook in webhooks { (row(visit, webhook)) } };
    table("", &heads, &rows)
}

fn row(visit: &Visit, webhook: &WebhookView) -> Markup {
    let word = words::webhook(webhook.status, webhook.health);
    let path = visit.path(&format!("/webhooks/{}", webhook.id));
    let health = if word.tone == "fail" {
        word.strong()
    } else {
        word.show()
    };
    let named = html! {
        a class="cut" href=(path) { b { (line(name(webhook))) } }
        span class="cut small" { (line(&webhook.url)) }
    };
    tr(&html! {
        (td("", &health))
        (td("grow first", &named))
        (td("hide", &patterns(webhook)))
        (num("", Some("waiting"), &waiting(webhook)))
        (num("last", None, &match webhook.last_triggered {
            Some(at) => html! { span class="soft" { (ago(at.0)) } },
            None => html! { span class="soft" { "never" } },
        }))
    })
}

/// How many wait, and the oldest for how long.
fn waiting(webhook: &WebhookView) -> Markup {
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
        @if webhook.filters.is_some() { br; small { "with a filter" } }
        @if webhook.events.is_empty() { (dash()) }
    }
}

fn health_facets(path: &str, filter: &Filter, total: usize, counts: &[(&str, usize)]) -> Markup {
    let link = |health: &str| format!("{path}{}", query(&[("q", &filter.q), ("health", health)]));
    let mut links = vec![(link(""), html! { "All " (total) }, filter.health.is_empty())];
    for (kind, count) in counts.iter().filter(|(_, count)| *count > 0) {
        let words = match *kind {
            "failing" => "Failing",
            "disabled" => "Disabled",
            "degraded" => "Degraded",
            "paused" => "Paused",
            "inactive" => "Switched off",
            "healthy" => "Healthy",
            _ => "Not used yet",
        };
        links.push((
            link(kind),
            html! { (words) " " (count) },
            filter.health == *kind,
        ));
    }
    facets(
        "Health",
        &links,
        &html! { "Sorted by what needs attention" },
    )
}

fn health_key(webhook: &WebhookView) -> &'static str {
    match (webhook.status, webhook.health) {
        ("active", Health::Failing) => "failing",
        ("active", Health::Degraded) => "degraded",
        ("active", Health::Healthy) => "healthy",
        ("active", Health::Unused) => "unused",
        (status, _) => status,
    }
}

/// What needs attention comes first: below 4 something does.
pub fn urgency(webhook: &WebhookView) -> u8 {
    match health_key(webhook) {
        "failing" => 0,
        "disabled" => 1,
        "degraded" => 2,
        "paused" => 3,
        "healthy" => 4,
        "unused" => 5,
        _ => 6,
    }
}

fn contains(webhook: &WebhookView, text: &str) -> bool {
    let text = text.to_lowercase();
    let has = |value: &str| value.to_lowercase().contains(&text);
    has(&webhook.description)
        || has(&webhook.url)
        || webhook.events.iter().any(|pattern| has(pattern))
}

fn listens_to(webhook: &WebhookView, name: &EventType) -> bool {
    let patterns = webhook
        .events
        .iter()
        .filter_map(|text| text.parse::<Pattern>().ok());
    patterns
        .into_iter()
        .any(|pattern| pattern.listens_to(name.as_str()))
}
