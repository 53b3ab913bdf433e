//! The buttons of a webhook that take effect at once: pause, resume, switch on and off, and ask the
//! endpoint now.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use shared::ids::WebhookId;

use crate::api::http::request::{Body, Id};
use crate::api::webhooks::view::WebhookView;
use crate::api::webhooks::{self, endpoint};
use crate::console::confirm::{Question, SURE};
use crate::console::failure::Result;
use crate::console::pages::webhook::tabs::{Tab, page};
use crate::console::pages::webhook::trouble::that_wait;
use crate::console::pages::webhooks::name;
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{At, ManagerVisit, Posted};

/// `POST /console/{tenant}/webhooks/{id}/status`: pause, resume, switch on and off.
pub async fn set_status(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let before = visit.webhook(webhook).await?;
    if fields.text("status") == "inactive" && !fields.has(SURE) {
        let content = ask_switch_off(&visit, &before);
        return Ok(Err(page(&visit, &before, Tab::Settings, &content)));
    }
    let form = fields.json(&["status"]);
    let form = serde_json::from_value(form).map_err(anyhow::Error::new)?;
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    let answer = webhooks::update(acting, api, Id(webhook), Default::default(), Body(form)).await?;
    let done = match (before.status, answer.1.status) {
        ("paused", "active") => "resumed",
        (_, status) => status,
    };
    let path = visit.path(&format!("/webhooks/{webhook}?done={done}"));
    Ok(Ok(Redirect::to(&path)))
}

fn ask_switch_off(visit: &ManagerVisit, webhook: &WebhookView) -> Markup {
    let base = visit.path(&format!("/webhooks/{}", webhook.id));
    Question {
        asks: html! { "Switch off “" (line(name(webhook))) "”?" },
        says: html! {
            p { "It gets nothing until somebody makes it active again." }
            p {
                @if webhook.waiting == 0 { "No delivery waits for it." }
                @else { (that_wait(webhook)) " for it. What waits is cancelled; a replay can send it." }
            }
        },
        action: &format!("{base}/status"),
        fields: &[("status", "inactive")],
        does: "Switch it off",
        back: (&format!("{base}/settings"), "Leave it on"),
    }
    .part(&visit.by)
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
