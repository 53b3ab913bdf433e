//! What stands around every tab of a webhook: its name and state, its buttons, a note that says
//! what is wrong with it, and the tabs.

use axum::response::Html;
use maud::{Markup, html};

use crate::api::access::role::Role;
use crate::api::webhooks::view::WebhookView;
use crate::console::fields::query;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::pages::webhook::kept::Kept;
use crate::console::pages::webhook::lately::Limited;
use crate::console::pages::webhook::trouble::trouble;
use crate::console::pages::webhooks::name;
use crate::console::parts::id;
use crate::console::text::line;
use crate::console::visit::Visit;
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
pub(super) const TABS: [Tab; 6] = [
    Tab::Deliveries,
    Tab::Statistics,
    Tab::Log,
    Tab::Settings,
    Tab::Secret,
    Tab::Test,
];

/// A page of a webhook: its head, what is wrong with it, its tabs, and what the tab shows.
pub fn page<const ROLE: u8>(
    visit: &Visit<ROLE>,
    webhook: &WebhookView,
    tab: Tab,
    content: &Markup,
) -> Html<String> {
    let id = webhook.id.to_string();
    let window = Kept::of(&visit.by.here).window;
    match tab {
        Tab::Statistics => {
            let more = [("id", id.as_str()), ("window", &window)];
            live_page(visit, webhook, (tab, "statistics", &more), content)
        }
        _ => live_page(visit, webhook, (tab, "webhook", &[("id", &id)]), content),
    }
}

/// The same with these live parts: see [`Page::live`].
pub fn live_page<const ROLE: u8>(
    visit: &Visit<ROLE>,
    webhook: &WebhookView,
    (tab, part, more): (Tab, &str, &[(&str, &str)]),
    content: &Markup,
) -> Html<String> {
    let (_, words, _) = tab.parts();
    let base = visit.path(&format!("/webhooks/{}", webhook.id));
    Page::of_tenant(visit, Section::Webhooks, words)
        .below(base, line(name(webhook)))
        .live(part, more)
        .show(&body(visit, webhook, None, tab, content))
}

pub(super) fn body<const ROLE: u8>(
    visit: &Visit<ROLE>,
    webhook: &WebhookView,
    limited: Option<&Limited>,
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
        div data-live="trouble" { (trouble(visit.by.may(Role::Manager), webhook, limited)) }
        (tabs(visit, &base, tab))
        (content)
    }
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
                    a class="btn" href={ (base) "/edit" } data-key="e" { "Edit" }
                    (pause(visit, webhook, &base))
                    a class="btn" href={ (visit.path("/replays/new")) (query(&[("webhook", &webhook.id.to_string())])) } { (icon("replay")) "Replay" }
                }
            }
        }
    }
}

pub(super) fn state(webhook: &WebhookView) -> Markup {
    words::webhook(webhook.status, webhook.health).strong()
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

fn tabs<const ROLE: u8>(visit: &Visit<ROLE>, base: &str, current: Tab) -> Markup {
    let kept = Kept::of(&visit.by.here);
    let kept = query(&[("q", &kept.q), ("window", &kept.window)]);
    html! {
        nav class="tabs" aria-label="Sections" {
            @for tab in TABS {
                @let (path, words, role) = tab.parts();
                @if visit.by.may(role) {
                    a href={ (base) (path) (kept) } aria-current=[(tab == current).then_some("page")] { (words) }
                }
            }
        }
    }
}
