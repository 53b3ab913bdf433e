//! One webhook in the portal: its head and tabs, and its deliveries. The other tabs have files of
//! their own.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::Map;
use shared::ids::{DeliveryId, WebhookId};

use crate::api::access::auth::Reading;
use crate::api::deliveries::{self, DeliveryPage};
use crate::api::http::problem::{self, Problem};
use crate::api::http::request::{Body, Id, Parameters};
use crate::api::webhooks;
use crate::api::webhooks::health::Health;
use crate::api::webhooks::view::{WebhookView, find};
use crate::console::failure::{self, Failure};
use crate::console::fields::query;
use crate::console::frame::csrf;
use crate::console::guard::LIVE;
use crate::console::icons::icon;
use crate::console::moments::{ago, at, number};
use crate::console::pages::deliveries::{Params, newer_place, nothing, what_was_done};
use crate::console::pages::webhooks::name;
use crate::console::parts::{done, note, unreadable};
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::list::{list, more, ready_filters, search, waiting};
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::{live_page, page};
use crate::console::portal::webhooks::health;
use crate::console::query::{SearchQuery, bar, of_deliveries};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{Poll, Posted, Reads};
use crate::console::watch::{Latest, Snapshot};

/// How many failed deliveries are counted.
const COUNTED: i64 = 100;

/// The pages of a webhook, in the order of their tabs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Deliveries,
    Settings,
    Secret,
    Test,
}

impl Tab {
    const ALL: [Self; 4] = [Self::Deliveries, Self::Settings, Self::Secret, Self::Test];

    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Deliveries => ("", "Deliveries"),
            Self::Settings => ("/settings", "Settings"),
            Self::Secret => ("/secret", "Secret"),
            Self::Test => ("/test", "Test"),
        }
    }
}

/// The page above a webhook's.
pub fn above() -> (String, Markup) {
    ("/portal".to_owned(), html! { "Your webhooks" })
}

pub fn path(webhook: &WebhookView) -> String {
    format!("/portal/webhooks/{}", webhook.id)
}

/// `GET /portal/webhooks/{id}?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    Query(params): Query<Params>,
) -> Result<Response> {
    // The id of a delivery, pasted into the search field, leads to its page.
    let typed = [&params.add, &params.q];
    let pasted = typed
        .into_iter()
        .find_map(|text| text.trim().parse::<DeliveryId>().ok());
    if let Some(pasted) = pasted
        && !customer.covered(&[pasted]).await?.is_empty()
    {
        return Ok(Redirect::to(&format!("/portal/deliveries/{pasted}")).into_response());
    }
    let webhook = customer.webhook(id).await?;
    let wanted = search(&params.q, &params.add);
    let (mut found, mut beneath, mut unread) = (None, None, None);
    match found_of(&console, &customer, id, &wanted, params.cursor.clone()).await? {
        Ok(page) => found = Some(page),
        // A value that the API refuses: its sentence says what would be right.
        Err(problem) if problem.status().is_client_error() => {
            beneath = Some(problem.lines().join("; "));
        }
        Err(problem) => unread = Some(problem),
    }
    let failed = match (&params.cursor, &unread) {
        (None, None) => failed(&console, &customer, id).await?,
        _ => None,
    };
    let path = path(&webhook);
    let content = html! {
        @if let Some(said) = params.done.as_deref().and_then(confirmation) { (said) }
        (bar(&path, &wanted, "Filter deliveries", "An event's or a delivery's id, or status:failed code:503 since:1h", beneath.as_deref()))
        (ready_filters(&path, &wanted, &webhook, failed))
        (newer_place(&path, &wanted, params.cursor.is_none()))
        @if let Some(unread) = &unread { (unreadable("The list", unread.is_too_slow())) }
        @if let Some(found) = &found {
            (list(&customer, webhook.id, &wanted, &found.deliveries))
            @if found.deliveries.is_empty() { (nothing(&path, &wanted, found.next_cursor.is_some())) }
            (more(&path, &wanted, found.deliveries.len(), found.next_cursor.map(|id| id.to_string())))
        }
    };
    let content = body(&customer, &webhook, Tab::Deliveries, &content);
    let events = match (&found, &params.cursor) {
        (Some(found), None) => {
            let newest = found.deliveries.first().map(|one| one.id.to_string());
            let (id, q) = (webhook.id.to_string(), wanted.without(None));
            let newest = newest.unwrap_or_default();
            Some(events(&[
                ("part", "webhook"),
                ("id", &id),
                ("q", &q),
                ("after", &newest),
            ]))
        }
        _ => None,
    };
    let page = live_page(
        &customer,
        &name(&webhook),
        &[above()],
        events.as_deref(),
        &content,
    );
    Ok(page.into_response())
}

/// Where the live parts of a page come from.
pub fn events(which: &[(&str, &str)]) -> String {
    format!("/portal{LIVE}{}", query(which))
}

/// A page of the list. The inner error is the list's alone: the rest of the page is right.
async fn found_of(
    console: &Console,
    customer: &Customer,
    webhook: WebhookId,
    wanted: &SearchQuery,
    cursor: Option<String>,
) -> Result<problem::Result<DeliveryPage>> {
    let (filter, wrong) = of_deliveries(wanted, cursor);
    if let Some(wrong) = wrong {
        return Ok(Err(Problem::bad_request(wrong)));
    }
    let acting = customer.acting().await?;
    let api = State(console.reads.clone());
    let found = deliveries::list_of_webhook(acting, api, Id(webhook), Parameters(filter)).await;
    Ok(found.map(|page| page.0))
}

/// How many deliveries failed, counted to a bound, and whether there are more.
async fn failed(
    console: &Console,
    customer: &Customer,
    webhook: WebhookId,
) -> Result<Option<(usize, bool)>> {
    let (mut filter, _) = of_deliveries(&search("status:failed", ""), None);
    filter.limit = Some(COUNTED);
    let acting = customer.acting().await?;
    let api = State(console.reads.clone());
    let found = deliveries::list_of_webhook(acting, api, Id(webhook), Parameters(filter)).await;
    // The page is right without the number.
    let found = found.ok().map(|page| page.0);
    Ok(found.map(|page| (page.deliveries.len(), page.next_cursor.is_some())))
}

/// A page of a webhook: its head, what is wrong with it, its tabs, and what the tab shows.
pub fn page_of(
    customer: &Customer,
    webhook: &WebhookView,
    tab: Tab,
    content: &Markup,
) -> Html<String> {
    let (_, words) = tab.parts();
    let above = [above(), (path(webhook), line(name(webhook)))];
    page(
        customer,
        words,
        &above,
        &body(customer, webhook, tab, content),
    )
}

fn body(customer: &Customer, webhook: &WebhookView, tab: Tab, content: &Markup) -> Markup {
    html! {
        (head(customer, webhook))
        div data-live="trouble" { (trouble(webhook)) }
        (tabs(customer, &path(webhook), tab))
        (content)
    }
}

fn head(customer: &Customer, webhook: &WebhookView) -> Markup {
    let path = path(webhook);
    let status = match webhook.status {
        "active" => Some(("paused", "Pause", "pause")),
        "paused" => Some(("active", "Resume", "send")),
        "disabled" => Some(("active", "Make active", "send")),
        _ => None,
    };
    html! {
        div class="head" {
            div {
                h1 { (line(name(webhook))) }
                p class="sub" {
                    span data-live="state" { (health(webhook)) }
                    span class="break" { (line(&webhook.url)) }
                }
            }
            @if customer.may_change() {
                div class="row" {
                    a class="btn" href={ (path) "/test" } { "Send a test" }
                    @if let Some((to, words, symbol)) = status {
                        form method="post" action={ (path) "/status" } {
                            (csrf(&customer.by))
                            button class="btn" name="status" value=(to) { (icon(symbol)) (words) }
                        }
                    }
                }
            }
        }
    }
}

/// What is wrong, in a sentence to whoever owns the endpoint.
fn trouble(webhook: &WebhookView) -> Markup {
    let none = html! {};
    let waiting = html! {
        @if webhook.waiting > 0 {
            (number(webhook.waiting)) @if !webhook.waiting_counted { "+" }
            @if webhook.waiting == 1 && webhook.waiting_counted { " delivery waits" } @else { " deliveries wait" }
            @if let Some(oldest) = webhook.oldest_waiting_at { ", the oldest for " (ago(oldest.0)) }
            ". They are sent once it answers."
        }
    };
    match (webhook.status, webhook.down_since) {
        ("paused", _) => note(
            "slow",
            "held",
            &html! { "It is paused." },
            &html! { "Your deliveries are held until it is resumed, unless they get too old." },
            &none,
        ),
        ("disabled", _) => note(
            "fail",
            "fail",
            &html! { "It is disabled." },
            &html! {
                @if let Some(reason) = &webhook.disabled_reason { "Why: " (line(reason)) ". " }
                "It gets nothing until it is made active."
            },
            &none,
        ),
        ("inactive", _) => note(
            "none",
            "cancelled",
            &html! { "It is switched off." },
            &html! { "It gets nothing." },
            &none,
        ),
        (_, Some(since)) => note(
            "fail",
            "warn",
            &html! { "Your endpoint has been down since " (at(since.0)) "." },
            &html! {
                "Ten requests in a row failed, so it gets one at a time. "
                (waiting)
                @if let Some(next) = webhook.next_probe_at { " The next request is at " (at(next.0)) "." }
            },
            &none,
        ),
        _ if webhook.health == Health::Failing => note(
            "fail",
            "warn",
            &html! { "Your endpoint doesn't answer as it should." },
            &waiting,
            &none,
        ),
        _ => none,
    }
}

fn tabs(customer: &Customer, path: &str, current: Tab) -> Markup {
    html! {
        nav class="tabs" aria-label="Sections" {
            @for tab in Tab::ALL {
                @let (rest, words) = tab.parts();
                @if tab != Tab::Test || customer.may_change() {
                    a href={ (path) (rest) } aria-current=[(tab == current).then_some("page")] { (words) }
                }
            }
        }
    }
}

/// The live parts of the page: how the webhook does, and the newest deliveries of its list.
pub async fn live(poll: &Poll, id: WebhookId, q: &str) -> failure::Result<Snapshot> {
    let webhook = {
        let _permit: Reading = poll.reading().await?;
        find(&poll.api, &poll.tenant, id).await?
    };
    let (filter, wrong) = of_deliveries(&search(q, ""), None);
    if webhook.operational || wrong.is_some() {
        return Err(Failure::not_found("there is no such list"));
    }
    let acting = poll.reading().await?;
    let api = State(poll.api.clone());
    let found = deliveries::list_of_webhook(acting, api, Id(id), Parameters(filter))
        .await?
        .0;
    let ids = found.deliveries.iter().map(|one| one.id.uuid());
    let part = |name: &str, content: Markup| (name.to_owned(), content.into_string());
    Ok(Snapshot {
        parts: vec![
            part("state", health(&webhook)),
            part("trouble", trouble(&webhook)),
            part("waiting", waiting(&webhook)),
        ],
        latest: Some(Latest {
            ids: ids.collect(),
            more: found.next_cursor.is_some(),
            noun: "newer delivery",
        }),
        ..Snapshot::default()
    })
}

/// `POST /portal/webhooks/{id}/status`: pauses, resumes, or makes active again.
pub async fn set_status(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    Posted(fields): Posted,
) -> Result<Redirect> {
    customer.must_change()?;
    let webhook = customer.webhook(id).await?;
    let status = match fields.text("status") {
        status @ ("active" | "paused") => status,
        _ => return Err(Ended::Nothing),
    };
    // The portal only pauses and resumes. A webhook that was switched off elsewhere is switched on there.
    if webhook.status == "inactive" {
        return Err(Problem::conflict("the webhook is switched off").into());
    }
    let form = Map::from_iter([("status".to_owned(), status.into())]);
    let acting = customer.acting().await?;
    let api = State(console.api.clone());
    webhooks::update(acting, api, Id(id), Default::default(), Body(form)).await?;
    Ok(Redirect::to(&format!("{}?done={status}", path(&webhook))))
}

fn confirmation(change: &str) -> Option<Markup> {
    Some(match change {
        "paused" => done("Paused. Deliveries are held until it is resumed."),
        "active" => done("Active. What was held is sent now, a few at a time."),
        other => return what_was_done(other),
    })
}
