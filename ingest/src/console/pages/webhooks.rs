//! All webhooks of a tenant: what needs attention first.

mod choice;
mod figures;
mod naming;
mod table;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::EventType;

use crate::api::access::role::Role;
use crate::api::http::request::{MAX_PAGE, Parameters};
use crate::api::webhooks::view::WebhookView;
use crate::api::webhooks::{self, WebhookQuery};
use crate::console::failure::{Failure, Result};
use crate::console::fields::query;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::count;
use crate::console::parts::{empty, facets, unreadable};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{Poll, Reads, Visit};
use crate::console::watch::Snapshot;

use choice::{contains, health_key, listens_to};
use figures::figures;
use table::{health, list, waiting};

pub use choice::{pattern_for, urgency};
pub use naming::{name, name_of, names};

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    q: String,
    #[serde(default)]
    health: String,
    cursor: Option<String>,
    /// How many of the sorted ones are above this page.
    #[serde(default)]
    from: usize,
}

/// How many are shown: a page stays within its budget.
const SHOWN: usize = 40;

/// The tenant's webhooks, at most as many as a page of the API has: a tenant has a hundred
/// unless the operator allows more.
pub async fn all(
    console: &Console,
    reader: &impl Reads,
    cursor: Option<String>,
) -> Result<(Vec<WebhookView>, Option<String>)> {
    let page = WebhookQuery {
        limit: Some(MAX_PAGE),
        cursor,
        client_id: None,
        external_id: None,
    };
    let acting = reader.reading().await?;
    let answer =
        webhooks::list(acting, State(reader.api(console).clone()), Parameters(page)).await?;
    Ok((answer.0.webhooks, answer.0.next_cursor))
}

/// `GET /console/{tenant}/webhooks?q=&health=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let (mut webhooks, next) = match all(&console, &visit, params.cursor.clone()).await {
        Ok(listed) => listed,
        Err(failure) if failure.status().is_server_error() => {
            return Ok(without_list(&visit, &failure));
        }
        Err(failure) => return Err(failure),
    };
    let whole = next.is_none() && params.cursor.is_none();
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

    let asks = params.q.trim();
    let event_type: Option<EventType> = asks.parse().ok().filter(|_| asks.contains('.'));
    webhooks.retain(|webhook| {
        let listens = event_type
            .as_ref()
            .is_some_and(|name| listens_to(webhook, name));
        let fits = asks.is_empty() || listens || contains(webhook, asks);
        fits && (params.health.is_empty() || health_key(webhook) == params.health)
    });

    let matching = webhooks.len();
    let shown: Vec<_> = webhooks.into_iter().skip(params.from).take(SHOWN).collect();
    // If the figures can't be read, the list is shown without them.
    let figures = figures(&console, &visit, &shown).await.unwrap_or_default();
    let path = visit.path("/webhooks");
    let next = match params.from + shown.len() < matching {
        true => Some((params.cursor.clone(), params.from + shown.len())),
        false => next.map(|next| (Some(next), 0)),
    };
    let further = next.map(|(cursor, from)| {
        let from = if from == 0 {
            String::new()
        } else {
            from.to_string()
        };
        let cursor = cursor.unwrap_or_default();
        let kept = [
            ("q", asks),
            ("health", &params.health),
            ("cursor", &cursor),
            ("from", &from),
        ];
        format!("{path}{}", query(&kept))
    });
    let can_create = visit.by.may(Role::Manager);
    let content = html! {
        div class="head" {
            div {
                h1 { "Webhooks" }
                p class="sub" {
                    span { @if whole { (count(total as i64, "webhook")) } @else { (total) " of a longer list" } }
                    @if let Some(name) = event_type.as_ref().filter(|_| total > 0) {
                         span { (count(matching as i64, "webhook")) " would be asked about " code { (line(name.as_str())) } }
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
                    input name="q" value=(params.q) aria-label="Filter webhooks" maxlength="2048" autocomplete="off" spellcheck="false"
                        placeholder="Part of a name, URL or pattern, or an event type to see who gets it";
                }
                button class="btn" { "Filter" }
            }
            (health_facets(&path, &params, total, &counts))
            @if shown.is_empty() {
                (empty(
                    "Nothing matches",
                    &html! { "No webhook has this in its name, URL or patterns." },
                    &html! { a class="btn" href=(path) { "All webhooks" } },
                ))
            } @else {
                (list(&visit, &shown, &figures))
                p class="pager" {
                    span {
                        @if shown.len() == matching && whole { (count(matching as i64, "webhook")) }
                        @else { (params.from + 1) " to " (params.from + shown.len()) @if whole { " of " (matching) } }
                    }
                    @if let Some(further) = &further { a class="btn tiny" href=(further) rel="next" { "More" } }
                }
            }
        }
    };
    let page = Page::of_tenant(&visit, Section::Webhooks, "Webhooks");
    // Of the first page alone: that is what a poll reads.
    Ok(match total > 0 && params.cursor.is_none() {
        true => page.live("webhooks", &[]).show(&content),
        false => page.show(&content),
    })
}

/// The page when the list can't be read: its other parts work.
fn without_list(visit: &Visit, failure: &Failure) -> Html<String> {
    let content = html! {
        div class="head" {
            div { h1 { "Webhooks" } }
            @if visit.by.may(Role::Manager) {
                a class="btn main-btn" href=(visit.path("/webhooks/new")) data-key="c" { (icon("plus")) "New webhook" }
            }
        }
        (unreadable("The list of webhooks", failure.is_too_slow()))
    };
    Page::of_tenant(visit, Section::Webhooks, "Webhooks").show(&content)
}

/// The live parts: how each webhook does, and what waits for it.
pub async fn live(console: &Console, poll: &Poll) -> Result<Snapshot> {
    let (webhooks, _) = all(console, poll, None).await?;
    let parts = webhooks.iter().flat_map(|webhook| {
        [
            (
                format!("health-{}", webhook.id),
                health(webhook).into_string(),
            ),
            (
                format!("waiting-{}", webhook.id),
                waiting(webhook).into_string(),
            ),
        ]
    });
    Ok(Snapshot {
        parts: parts.collect(),
        ..Snapshot::default()
    })
}

fn health_facets(path: &str, params: &Params, total: usize, counts: &[(&str, usize)]) -> Markup {
    let link = |health: &str| format!("{path}{}", query(&[("q", &params.q), ("health", health)]));
    let mut links = vec![(link(""), html! { "All " (total) }, params.health.is_empty())];
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
            params.health == *kind,
        ));
    }
    facets(
        "Health",
        &links,
        &html! { "Sorted by what needs attention" },
    )
}
