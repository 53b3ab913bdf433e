//! The frame around a page: the rail with all pages, where one is, and the field to jump.
//!
//! ```text
//! Page::of_tenant(&visit, Section::Deliveries, "Deliveries").show(html! { … })
//! ```

use axum::response::Html;
use maud::{Markup, html};
use shared::ids::Tenant;

use crate::api::access::role::Role;
use crate::console::fields::query;
use crate::console::guard::LIVE;
use crate::console::icons::{icon, labelled};
use crate::console::rail::{self, Counts};
use crate::console::shell::document;
use crate::console::text::line;
use crate::console::visit::{Operation, Visit, Visitor};

/// Which entry of the rail a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Overview,
    Webhooks,
    Deliveries,
    Events,
    EventTypes,
    Replays,
    Rejected,
    Signature,
    Tokens,
    Health,
    Tenants,
    DeadLetters,
    /// Pages beside them, like the keys.
    None,
}

/// An entry of the rail.
struct Entry {
    section: Section,
    /// After the tenant, or after `/console/_`.
    path: &'static str,
    name: &'static str,
    icon: &'static str,
    key: &'static str,
    /// Who sees it.
    role: Role,
}

const fn entry(
    section: Section,
    path: &'static str,
    name: &'static str,
    icon: &'static str,
    key: &'static str,
) -> Entry {
    Entry {
        section,
        path,
        name,
        icon,
        key,
        role: Role::Viewer,
    }
}

/// Of a tenant.
const PAGES: [Entry; 9] = [
    entry(Section::Overview, "", "Overview", "overview", "g o"),
    entry(Section::Webhooks, "/webhooks", "Webhooks", "hook", "g w"),
    entry(
        Section::Deliveries,
        "/deliveries",
        "Deliveries",
        "send",
        "g d",
    ),
    entry(Section::Events, "/events", "Events", "event", "g e"),
    entry(
        Section::EventTypes,
        "/event-types",
        "Event types",
        "types",
        "g t",
    ),
    entry(Section::Replays, "/replays", "Replays", "replay", "g r"),
    entry(
        Section::Rejected,
        "/dead-letters",
        "Rejected events",
        "dead",
        "g j",
    ),
    Entry {
        role: Role::Manager,
        ..entry(
            Section::Signature,
            "/signature",
            "Signature check",
            "sign",
            "g s",
        )
    },
    Entry {
        role: Role::Admin,
        ..entry(Section::Tokens, "/tokens", "Tokens", "token", "g k")
    },
];

/// Of all tenants.
const OPERATORS_PAGES: [Entry; 3] = [
    entry(Section::Health, "/health", "System health", "pulse", "g h"),
    entry(Section::Tenants, "/tenants", "Tenants", "tenants", "g a"),
    entry(
        Section::DeadLetters,
        "/dead-letters",
        "Dead letters",
        "dead",
        "g l",
    ),
];

/// A page in its frame.
pub struct Page<'a> {
    by: &'a Visitor,
    tenant: Option<&'a Tenant>,
    section: Section,
    title: String,
    /// Pages above this one, between its section and itself: address and words.
    crumbs: Vec<(String, Markup)>,
    events: Option<String>,
}

impl<'a> Page<'a> {
    /// A page of a tenant.
    pub fn of_tenant<const ROLE: u8>(
        visit: &'a Visit<ROLE>,
        section: Section,
        title: impl Into<String>,
    ) -> Self {
        Self::new(&visit.by, Some(&visit.tenant), section, title.into())
    }

    /// A page of all tenants.
    pub fn of_operator(
        operation: &'a Operation,
        section: Section,
        title: impl Into<String>,
    ) -> Self {
        Self::new(&operation.by, None, section, title.into())
    }

    /// A page beside them.
    pub fn of_visitor(by: &'a Visitor, title: impl Into<String>) -> Self {
        Self::new(by, by.session.tenant.as_ref(), Section::None, title.into())
    }

    fn new(by: &'a Visitor, tenant: Option<&'a Tenant>, section: Section, title: String) -> Self {
        Self {
            by,
            tenant,
            section,
            title,
            crumbs: Vec::new(),
            events: None,
        }
    }

    /// A page above this one, below its section.
    #[must_use]
    pub fn below(mut self, path: impl Into<String>, words: Markup) -> Self {
        self.crumbs.push((path.into(), words));
        self
    }

    /// Its live parts: see [`live`](crate::console::live). `more`: which ones.
    #[must_use]
    pub fn live(mut self, part: &str, more: &[(&str, &str)]) -> Self {
        let base = match self.tenant {
            Some(tenant) => format!("/console/{tenant}"),
            None => "/console/_".to_owned(),
        };
        let parameters: Vec<_> = [("part", part)]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        self.events = Some(format!("{base}{LIVE}{}", query(&parameters)));
        self
    }

    /// The page with this content below where one is.
    pub fn show(self, content: &Markup) -> Html<String> {
        let body = html! {
            a class="skip" href="#main" { "Skip to the page" }
            div class="app" {
                header class="rail" { div { (self.rail()) } }
                main class="main" id="main" {
                    div class="top" {
                        (self.place())
                        @if self.events.is_some() { span class="live js-only" data-live-state { "Live" } }
                        (self.jump())
                    }
                    (content)
                }
            }
            (keys_dialog())
        };
        document(
            self.by.appearance,
            &self.title,
            self.events.as_deref(),
            &body,
        )
    }

    fn home(&self) -> String {
        match self.tenant {
            Some(tenant) => format!("/console/{tenant}"),
            None => "/console".to_owned(),
        }
    }

    fn rail(&self) -> Markup {
        let session = &self.by.session;
        let counts = Counts::current();
        let operator = session.is_operator();
        html! {
            a class="brand" href="/console" { (icon("horn")) "Posthorn" }
            @match (self.tenant, session.tenant.is_some()) {
                (Some(tenant), true) => div class="tenant" { span class="cut" { (tenant) } },
                (tenant, _) => a class="tenant" href=(if operator { "/console/_/tenants" } else { "/console/_/choose" }) {
                    span class="cut" { @match tenant { Some(tenant) => (tenant), None => "Choose a tenant" } }
                    (labelled("sort", "Change tenant"))
                },
            }
            nav class="navs" aria-label="Pages" {
                @if let Some(tenant) = self.tenant {
                    div class="nav" {
                        @for entry in PAGES.iter().filter(|entry| self.by.may(entry.role)) {
                            (self.link(entry, &format!("/console/{tenant}{}", entry.path), &counts))
                        }
                    }
                }
                @if operator {
                    p class="nav-label" { "All tenants" }
                    div class="nav" {
                        @for entry in &OPERATORS_PAGES {
                            (self.link(entry, &format!("/console/_{}", entry.path), &counts))
                        }
                    }
                }
            }
            div class="who" {
                div {
                    (role(self.by)) ", " code { (line(&session.shown)) } " "
                    a class="btn quiet tiny" href="/console/_/keys" data-dialog="keys" data-key="?" {
                        "Keys " kbd { "?" }
                    }
                }
                div class="row" {
                    form method="post" action="/console/_/theme" data-theme-form {
                        (csrf(self.by))
                        input type="hidden" name="back" value=(self.by.here);
                        button class="btn quiet tiny" name="theme" value=(self.by.appearance.theme.next().name()) data-theme-toggle aria-label="Theme" {
                            (icon("theme")) span { "Theme" }
                        }
                    }
                    form method="post" action="/console/_/sign-out" {
                        (csrf(self.by))
                        button class="btn quiet tiny" aria-label="Sign out" { (icon("out")) span { "Sign out" } }
                    }
                }
            }
        }
    }

    fn link(&self, entry: &Entry, path: &str, counts: &Counts) -> Markup {
        let current = (entry.section == self.section).then_some("page");
        html! {
            a href=(path) data-key=(entry.key) aria-current=[current] {
                (icon(entry.icon)) (entry.name)
                @if let Some(part) = counted(entry.section) {
                    " " span class="n" data-live=(part) { (counts.text(part)) }
                }
            }
        }
    }

    fn place(&self) -> Markup {
        let (all, base) = match self.tenant {
            Some(tenant) => (PAGES.as_slice(), format!("/console/{tenant}")),
            None => (OPERATORS_PAGES.as_slice(), "/console/_".to_owned()),
        };
        let section = all.iter().find(|entry| entry.section == self.section);
        let section =
            section.filter(|entry| entry.name != self.title && entry.section != Section::Overview);
        html! {
            nav aria-label="Where you are" {
                ol class="crumbs" {
                    li {
                        a href=(self.home()) {
                            @match self.tenant { Some(tenant) => (tenant), None => "All tenants" }
                        }
                    }
                    @if let Some(entry) = section {
                        li { a href={ (base) (entry.path) } { (entry.name) } }
                    }
                    @for (path, words) in &self.crumbs { li { a href=(path) { (words) } } }
                    @if self.section != Section::Overview { li { (line(&self.title)) } }
                }
            }
        }
    }

    fn jump(&self) -> Markup {
        let tenant = self.tenant.map(Tenant::as_str).unwrap_or_default();
        html! {
            form class="jump" role="search" action="/console/_/go" {
                (icon("search"))
                @if !tenant.is_empty() { input type="hidden" name="tenant" value=(tenant); }
                input name="q" aria-label="Go to an id, a URL or an event type"
                    placeholder="Go to an id, URL or type" data-key="/" maxlength="2048" autocomplete="off" spellcheck="false";
                kbd aria-hidden="true" { "/" }
            }
        }
    }
}

/// The part of the rail with the count of what a section lists.
fn counted(section: Section) -> Option<&'static str> {
    Some(match section {
        Section::Webhooks => rail::WEBHOOKS,
        Section::Replays => rail::REPLAYS,
        Section::Rejected => rail::REJECTED,
        Section::Tenants => rail::TENANTS,
        Section::DeadLetters => rail::DEAD_LETTERS,
        _ => return None,
    })
}

/// What every form has to send.
pub fn csrf(by: &Visitor) -> Markup {
    html! { input type="hidden" name="csrf" value=(by.session.csrf()); }
}

/// Their role as the rail shows it.
fn role(by: &Visitor) -> &'static str {
    match by.session.role {
        _ if by.session.is_operator() => "Operator",
        Role::Admin => "Admin",
        Role::Manager => "Manager",
        Role::Viewer => "Viewer",
    }
}

/// What the keys do.
pub fn keys() -> Markup {
    let rows: [(&[&str], &str); 12] = [
        (&["/"], "go to an id, a URL, an event type"),
        (
            &["g", "o"],
            "overview; then w webhooks, d deliveries, e events, t types, r replays, j rejected events, s signature, k tokens",
        ),
        (&["g", "h"], "system health; then a tenants, l dead letters"),
        (&["j", "k"], "down and up a list"),
        (&["Enter", "x"], "open, select"),
        (&["r", "c", "e"], "retry, new, edit"),
        (&["[", "]"], "the attempt before, and the next"),
        (
            &["f", "n", "p"],
            "follow events; of one, the next and the one before",
        ),
        (&["t", "p"], "of a webhook: send a test, pause or resume"),
        (&["y", "u"], "copy the link, copy as curl"),
        (&["Ctrl", "Enter"], "send the form that has the focus"),
        (&["Esc"], "leave a field, close"),
    ];
    html! {
        dl class="kv section-gap" {
            @for (keys, what) in rows {
                dt { @for key in keys { kbd { (key) } " " } }
                dd { (what) }
            }
        }
    }
}

fn keys_dialog() -> Markup {
    html! {
        dialog id="keys" aria-labelledby="keys-h" {
            div {
                h2 id="keys-h" { "Keys" }
                (keys())
                p class="section-gap" { a href="/console/_/keys" { "Single letters can be switched off" } }
            }
            footer { button class="btn" type="button" data-close { "Close" } }
        }
    }
}
