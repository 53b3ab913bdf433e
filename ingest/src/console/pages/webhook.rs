//! One webhook: the page of its deliveries, which is its first tab.
//!
//! [`tabs`] has what stands around every tab, and [`status`] what its buttons do. The other tabs
//! have files of their own, beside this one.

mod kept;
mod lately;
pub mod status;
pub mod tabs;
pub mod trouble;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use shared::ids::WebhookId;

use tabs::{TABS, Tab, body, state};
use trouble::trouble;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::http::request::{Id, Parameters};
use crate::api::webhooks::view::{self, WebhookView};
use crate::console::failure::Result;
use crate::console::frame::{Page, Section};
use crate::console::pages::deliveries::facets::{replay_link, state_filters};
use crate::console::pages::deliveries::named::with_ids;
use crate::console::pages::deliveries::{
    Bulk, Params, Row, list, more, newer_place, nothing, what_was_done,
};
use crate::console::pages::webhooks::name;
use crate::console::parts::{done, unreadable};
use crate::console::query::{bar, of_deliveries};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{At, Poll, Reads, Visit};
use crate::console::watch::Snapshot;

/// `GET /console/{tenant}/webhooks/{id}?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(webhook): At<WebhookId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let query = params.query();
    let (mut filter, mut beneath) = of_deliveries(&query, params.cursor.clone());
    if beneath.is_none() {
        beneath = with_ids(&console.reads, &visit, &mut filter).await?;
    }
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
    // If these can't be read, the list is shown without them.
    let (counts, limited) = {
        let _permit: Reading = visit.acting().await?;
        let counts = lately::counts(&console.reads, &webhook).await;
        let limited = lately::limited(&console.reads, &webhook).await;
        (counts.unwrap_or_default(), limited.unwrap_or_default())
    };
    let replay = replay_link(&visit, &query, Some(&webhook.id.to_string()));
    let path = visit.path(&format!("/webhooks/{}", webhook.id));
    let content = html! {
        @if let Some(said) = params.done.as_deref().and_then(confirmation) { (said) }
        (bar(&path, &query, "Filter deliveries", "status:failed type:order.paid code:503 event:order-4711 since:1h", beneath.as_deref()))
        (state_filters(&path, &query, &counts, replay.as_deref()))
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
    let body = body(
        &visit,
        &webhook,
        limited.as_ref(),
        Tab::Deliveries,
        &content,
    );
    Ok(page.show(&body))
}

/// The live parts of its head: how it does, and what is wrong with it.
pub async fn live(poll: &Poll, id: WebhookId) -> Result<Snapshot> {
    let _permit: Reading = poll.reading().await?;
    let webhook = view::find(&poll.api, &poll.tenant, id).await?;
    let limited = lately::limited(&poll.api, &webhook).await?;
    let of = |may_change| {
        vec![
            ("state".to_owned(), state(&webhook).into_string()),
            (
                "trouble".to_owned(),
                trouble(may_change, &webhook, limited.as_ref()).into_string(),
            ),
        ]
    };
    Ok(Snapshot {
        parts: of(false),
        for_managers: Some(of(true)),
        ..Snapshot::default()
    })
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

fn confirmation(change: &str) -> Option<Markup> {
    Some(match change {
        "paused" => done("Paused. Deliveries are held until it is active again."),
        "resumed" => done("Active. What was held is sent now, a few at a time."),
        "active" => done("Active. It gets the events that are published from now on."),
        "asked" => done("It is asked within a few seconds."),
        "inactive" => done("Switched off. What waits for it is being cancelled."),
        other => return what_was_done(other),
    })
}
