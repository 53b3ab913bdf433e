//! One webhook: its head and tabs, and its deliveries. The other tabs have files of their own.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use shared::ids::WebhookId;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::http::request::{Body, Id, Parameters};
use crate::api::webhooks::view::{self, WebhookView};
use crate::api::webhooks::{self, endpoint};
use crate::console::failure::Result;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{ago, at, number};
use crate::console::pages::deliveries::{
    Bulk, Params, Row, list, more, newer_place, nothing, ready_filters, what_was_done,
};
use crate::console::pages::webhooks::name;
use crate::console::parts::{done, id, note, unreadable};
use crate::console::query::{bar, of_deliveries};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{At, ManagerVisit, Poll, Posted, Reads, Visit};
use crate::console::watch::Snapshot;
use crate::console::words;

/// The pages of a webhook, in the order of their tabs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Deliveries,
    Statistics,
    Log,
    Settings,
    Secret,
    Test,
}

impl Tab {
    fn parts(self) -> (&'static str, &'static str, Role) {
        match self {
            Self::Deliveries => ("", "Deliveries", Role::Viewer),
            Self::Statistics => ("/statistics", "Statistics", Role::Viewer),
            Self::Log => ("/log", "Log", Role::Viewer),
            Self::Settings => ("/settings", "Settings", Role::Viewer),
            Self::Secret => ("/secret", "Secret", Role::Manager),
            Self::Test => ("/test", "Test", Role::Manager),
        }
    }
}

/// The tabs that there are.
const TABS: [Tab; 6] = [
    Tab::Deliveries,
    Tab::Statistics,
    Tab::Log,
    Tab::Settings,
    Tab::Secret,
    Tab::Test,
];

/// `GET /console/{tenant}/webhooks/{id}?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(webhook): At<WebhookId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let query = params.query();
    let (filter, mut beneath) = of_deliveries(&query, params.cursor.clone());
    let (mut found, mut unread) = (None, None);
    if beneath.is_none() {
        let acting = visit.acting().await?;
        let answer = deliveries::list_of_webhook(
            acting,
            State(console.reads.clone()),
            Id(webhook.id),
            Parameters(filter),
        );
        match answer.await {
            Ok(page) => found = Some(page.0),
            Err(problem) if problem.status().is_client_error() => {
                beneath = Some(problem.lines().join("; "));
            }
            Err(problem) => unread = Some(problem),
        }
    }
    let path = visit.path(&format!("/webhooks/{}", webhook.id));
    let content = html! {
        @if let Some(said) = params.done.as_deref().and_then(confirmation) { (said) }
        (bar(&path, &query, "Filter deliveries", "status:failed type:order.paid code:503 event:order-4711 since:1h", beneath.as_deref()))
        (ready_filters(&path, &query))
        (newer_place(&path, &query, params.cursor.is_none()))
        @if let Some(unread) = &unread { (unreadable("The list", unread.is_too_slow())) }
        @if let Some(page) = &found {
            @let rows: Vec<_> = page.deliveries.iter().map(|delivery| Row::new(delivery, None)).collect();
            @if rows.is_empty() && query.is_empty() && page.next_cursor.is_none() {
                (unused(&visit, &webhook))
            } @else {
                (list(Some(&Bulk { by: &visit.by, query: &query, back: &path, webhook: Some(webhook.id) }), &visit.path(""), &rows))
                @if rows.is_empty() { (nothing(&path, &query, page.next_cursor.is_some())) }
                (more(&path, &query, rows.len(), page.next_cursor.map(|id| id.to_string())))
            }
        }
    };
    let mut page = Page::of_tenant(&visit, Section::Webhooks, name(&webhook));
    if let (Some(found), None) = (&found, &params.cursor) {
        let newest = found.deliveries.first().map(|one| one.id.to_string());
        let (id, q) = (webhook.id.to_string(), query.without(None));
        let newest = newest.unwrap_or_default();
        page = page.live("deliveries", &[("id", &id), ("q", &q), ("after", &newest)]);
    }
    Ok(page.show(&body(&visit, &webhook, Tab::Deliveries, &content)))
}

/// A page of a webhook: its head, what is wrong with it, its tabs, and what the tab shows.
pub fn page<const ROLE: u8>(
    visit: &Visit<ROLE>,
    webhook: &WebhookView,
    tab: Tab,
    content: &Markup,
) -> Html<String> {
    let (_, words, _) = tab.parts();
    let base = visit.path(&format!("/webhooks/{}", webhook.id));
    let id = webhook.id.to_string();
    let part = if tab == Tab::Log { "log" } else { "webhook" };
    Page::of_tenant(visit, Section::Webhooks, words)
        .below(base, line(name(webhook)))
        .live(part, &[("id", &id)])
        .show(&body(visit, webhook, tab, content))
}

fn body<const ROLE: u8>(
    visit: &Visit<ROLE>,
    webhook: &WebhookView,
    tab: Tab,
    content: &Markup,
) -> Markup {
    let base = visit.path(&format!("/webhooks/{}", webhook.id));
    html! {
        (head(visit, webhook))
        @if visit.by.may(Role::Manager) {
            // Of the button in the note, which all visitors share.
            form id="probe" method="post" action={ (base) "/probe" } hidden { (csrf(&visit.by)) }
        }
        div data-live="trouble" { (trouble(visit.by.may(Role::Manager), webhook)) }
        (tabs(visit, &base, tab))
        (content)
    }
}

/// The live parts of its head: how it does, and what is wrong with it.
pub async fn live(poll: &Poll, id: WebhookId) -> Result<Snapshot> {
    let _permit: Reading = poll.reading().await?;
    let webhook = view::find(&poll.api, &poll.tenant, id).await?;
    Ok(head_parts(&webhook))
}

/// The same of a webhook that was read.
pub fn head_parts(webhook: &WebhookView) -> Snapshot {
    let of = |may_change| {
        vec![
            ("state".to_owned(), state(webhook).into_string()),
            (
                "trouble".to_owned(),
                trouble(may_change, webhook).into_string(),
            ),
        ]
    };
    Snapshot {
        parts: of(false),
        for_managers: Some(of(true)),
        ..Snapshot::default()
    }
}

fn state(webhook: &WebhookView) -> Markup {
    words::webhook(webhook.status, webhook.health).strong()
}

fn head<const ROLE: u8>(visit: &Visit<ROLE>, webhook: &WebhookView) -> Markup {
    let base = visit.path(&format!("/webhooks/{}", webhook.id));
    html! {
        div class="head" {
            div {
                h1 { (line(name(webhook))) }
                p class="sub" {
                    span data-live="state" { (state(webhook)) }
                    span class="break" { (line(&webhook.url)) }
                    (id(&webhook.id.to_string()))
                }
            }
            @if visit.by.may(Role::Manager) {
                div class="row" {
                    a class="btn" href={ (base) "/test" } data-key="t" { "Send a test" }
                    (pause(visit, webhook, &base))
                }
            }
        }
    }
}

fn pause<const ROLE: u8>(visit: &Visit<ROLE>, webhook: &WebhookView, base: &str) -> Markup {
    let (to, words, symbol) = match webhook.status {
        "active" => ("paused", "Pause", "pause"),
        "paused" => ("active", "Resume", "send"),
        _ => ("active", "Make active", "send"),
    };
    html! {
        form method="post" action={ (base) "/status" } {
            (csrf(&visit.by))
            button class="btn" name="status" value=(to) data-key="p" { (icon(symbol)) (words) }
        }
    }
}

/// What is wrong with it, since when, what happens now.
fn trouble(may_change: bool, webhook: &WebhookView) -> Markup {
    let word = words::webhook(webhook.status, webhook.health);
    match webhook.status {
        "disabled" => {
            let reason = webhook
                .disabled_reason
                .as_deref()
                .unwrap_or("no reason is known");
            note(
                "fail",
                "warn",
                &html! { "Disabled by Posthorn: " (line(reason)) "." },
                &html! { "It gets nothing, and what waited for it was cancelled. Make it active when its endpoint answers again, and replay what it missed." },
                &html! {},
            )
        }
        "paused" => note(
            "slow",
            "held",
            &html! { "Paused since " (at(webhook.updated_at.0)) "." },
            &html! { "Deliveries are held. They are sent when it is active again, unless they get older than seven days." },
            &html! {},
        ),
        "inactive" => note(
            "none",
            "cancelled",
            &html! { "Switched off." },
            &html! { "It gets nothing: no delivery is made for events that are published now." },
            &html! {},
        ),
        _ if webhook.down_since.is_some() => down(may_change, webhook),
        _ if word.tone == "fail" => note(
            "fail",
            "warn",
            &html! { "More than half of its attempts failed of late." },
            &html! { "Each delivery is tried again as the retry schedule says. Its latest answers are below." },
            &html! {},
        ),
        _ => html! {},
    }
}

/// Its circuit breaker is open.
fn down(may_change: bool, webhook: &WebhookView) -> Markup {
    let since = webhook.down_since.unwrap_or(webhook.updated_at);
    let what = html! {
        "Down since " (at(since.0)) ". "
        span class="soft" {
            "Ten requests in a row failed, so it is asked with one at a time."
            @if let Some(next) = webhook.next_probe_at { " The next is at " (at(next.0)) "." }
        }
    };
    let more = html! {
        @if webhook.waiting > 0 {
            (waiting(webhook)) " wait"
            @if let Some(oldest) = webhook.oldest_waiting_at { ", the oldest for " (ago(oldest.0)) }
            ". They are sent once it answers, a few at first."
        }
    };
    let action = html! {
        @if may_change { button class="btn tiny" form="probe" { "Ask now" } }
    };
    note("fail", "warn", &what, &more, &action)
}

/// How many deliveries wait for it: counted to a bound, which is said.
pub fn waiting(webhook: &WebhookView) -> Markup {
    html! { (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } @if webhook.waiting == 1 { " delivery" } @else { " deliveries" } }
}

/// `POST …/probe`: the endpoint is asked now, not when its circuit breaker would.
pub async fn ask_now(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
) -> Result<Redirect> {
    let acting = visit.acting().await?;
    let _: (_, _) = endpoint::probe(acting, State(console.api.clone()), Id(webhook)).await?;
    Ok(Redirect::to(
        &visit.path(&format!("/webhooks/{webhook}?done=asked")),
    ))
}

fn tabs<const ROLE: u8>(visit: &Visit<ROLE>, base: &str, current: Tab) -> Markup {
    html! {
        nav class="tabs" aria-label="Sections" {
            @for tab in TABS {
                @let (path, words, role) = tab.parts();
                @if visit.by.may(role) {
                    a href={ (base) (path) } aria-current=[(tab == current).then_some("page")] { (words) }
                }
            }
        }
    }
}

fn unused(visit: &Visit, webhook: &WebhookView) -> Markup {
    let test = visit.path(&format!("/webhooks/{}/test", webhook.id));
    crate::console::parts::empty(
        "Nothing was sent to it yet",
        &html! {
            "Its patterns: "
            @for (n, pattern) in webhook.events.iter().take(10).enumerate() { @if n > 0 { ", " } code { (line(pattern)) } }
            "."
        },
        &html! { @if visit.by.may(Role::Manager) && TABS.contains(&Tab::Test) { a class="btn" href=(test) { "Send a test" } } },
    )
}

/// `POST /console/{tenant}/webhooks/{id}/status`: pause, resume, switch on and off.
pub async fn set_status(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let form = fields.json(&["status"]);
    let form = serde_json::from_value(form).map_err(anyhow::Error::new)?;
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    let answer = webhooks::update(acting, api, Id(webhook), Default::default(), Body(form)).await?;
    let path = visit.path(&format!("/webhooks/{webhook}?done={}", answer.1.status));
    Ok(Redirect::to(&path))
}

fn confirmation(change: &str) -> Option<Markup> {
    Some(match change {
        "paused" => done("Paused. Deliveries are held until it is active again."),
        "active" => done("Active. What was held is sent now, a few at a time."),
        "asked" => done("It is asked within a few seconds."),
        "inactive" => done("Switched off. What waited for it was cancelled."),
        other => return what_was_done(other),
    })
}
