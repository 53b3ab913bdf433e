//! A webhook's settings: each value, and where it comes from (the webhook, its tenant or the
//! dialect), and who changed it. Also pauses, disables and deletes the webhook.

mod effective;
mod history;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use shared::ids::WebhookId;

use crate::api::access::role::Role;
use crate::api::http::problem::Problem;
use crate::api::http::request::Id;
use crate::api::webhooks;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::frame::csrf;
use crate::console::moments::at;
use crate::console::pages::log::changed;
use crate::console::pages::secret::Params;
use crate::console::pages::webhook::tabs::{Tab, page};
use crate::console::pages::webhook::trouble::that_wait;
use crate::console::pages::webhooks::name;
use crate::console::parts::done;
use crate::console::state::Console;
use crate::console::text::{block, line, plain};
use crate::console::visit::{At, ManagerVisit, Posted, Visit};

use effective::{Inherited, panel};
use history::history;

/// `GET /console/{tenant}/webhooks/{id}/settings`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(webhook): At<WebhookId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let settings = console.api.subscriptions.tenant(&visit.tenant);
    let tenants = settings.as_ref().map(|tenant| tenant.dialect.as_str());
    let tenants = tenants.unwrap_or_default();
    let dialects = &console.api.dialects;
    let inherited = Inherited {
        dialect: dialects
            .get(webhook.dialect.as_deref().unwrap_or(tenants))
            .map(AsRef::as_ref),
        tenant: settings.as_ref(),
        dialects_per_hour: dialects
            .get(tenants)
            .and_then(|dialect| dialect.policy().deliveries_per_hour),
    };
    // A part that can't be read leaves the rest of the page alone.
    let changes = changed(&console, &visit, webhook.id).await.ok();
    let log = visit.path(&format!("/webhooks/{}/log", webhook.id));
    let content = html! {
        @if params.done.as_deref() == Some("saved") { (done("Saved. What is sent from now on goes by it.")) }
        div class="cols wide" {
            div class="stack" {
                (definition(&visit, &webhook, tenants))
                (panel(&webhook, &inherited))
                (history(changes.as_deref(), &log))
            }
            div class="stack" {
                (about(&webhook))
                @if visit.by.may(Role::Manager) { (stop(&visit, &webhook)) }
            }
        }
        @if visit.by.may(Role::Manager) { (delete_dialog(&visit, &webhook)) }
    };
    Ok(page(&visit, &webhook, Tab::Settings, &content))
}

fn definition(visit: &Visit, webhook: &WebhookView, tenants: &str) -> Markup {
    let edit = visit.path(&format!("/webhooks/{}/edit", webhook.id));
    html! {
        section class="panel" {
            header {
                h2 { "What it gets, and where" }
                @if visit.by.may(Role::Manager) { a class="btn tiny" href=(edit) data-key="e" { "Edit " kbd aria-hidden="true" { "e" } } }
            }
            dl class="kv pad" {
                dt { "URL" } dd { (line(&webhook.url)) }
                dt { "Events" }
                dd {
                    @for (n, pattern) in webhook.events.iter().enumerate() { @if n > 0 { ", " } code { (line(pattern)) } }
                    @if webhook.operational { br; span class="soft" { "operational events alone" } }
                }
                dt { "Filter" }
                @match &webhook.filters {
                    Some(filter) => dd { pre class="small" { (block(&format!("{filter:#}"))) } },
                    None => dd class="soft" { "None: all that match" },
                }
                dt { "Dialect" }
                dd { @match &webhook.dialect {
                    Some(own) => { (line(own)) " " span class="soft" { "(its own)" } },
                    None => { (line(tenants)) " " span class="soft" { "(" (visit.tenant) "'s)" } },
                } }
                dt { "Own headers" }
                dd {
                    @if webhook.headers.is_empty() { span class="soft" { "None" } }
                    @for header in webhook.headers.keys() { code { (line(header)) ": …" } br; }
                    @if !webhook.headers.is_empty() { span class="soft small" { "values are never shown" } }
                }
                dt { "Description" }
                @if webhook.description.is_empty() { dd class="soft" { "None" } } @else { dd { (block(&webhook.description)) } }
                @if webhook.metadata.as_object().is_some_and(|members| !members.is_empty()) {
                    dt { "Metadata" } dd { pre class="small" { (block(&webhook.metadata.to_string())) } }
                }
            }
        }
    }
}

fn about(webhook: &WebhookView) -> Markup {
    html! {
        section class="panel" {
            header { h2 { "About it" } }
            dl class="kv pad" {
                dt { "Id" } dd { code class="break" { (webhook.id) } }
                dt { "Made" } dd { (at(webhook.created_at.0)) }
                dt { "Changed" } dd { (at(webhook.updated_at.0)) }
                dt { "Made by" }
                dd { @match &webhook.key {
                    Some(key) => { "a file, as " code { (line(key)) } " " span class="soft" { "change it there: the next apply undoes changes made here" } },
                    None => { "the API or the console" },
                } }
                @if webhook.too_costly_events > 0 {
                    dt { "Filter too costly" } dd class="bad" { (webhook.too_costly_events) " events were left out" }
                }
            }
        }
    }
}

fn stop(visit: &Visit, webhook: &WebhookView) -> Markup {
    let base = visit.path(&format!("/webhooks/{}", webhook.id));
    let way = |to: &str, class: &str, what: &str, why: &str| {
        html! {
            form class="row apart" method="post" action={ (base) "/status" } {
                (csrf(&visit.by))
                div { b { (what) } p class="soft small" { (why) } }
                button class=(class) name="status" value=(to) { (what) }
            }
        }
    };
    html! {
        section class="panel" {
            header { h2 { "Stop it" } }
            div class="pad stack" {
                @match webhook.status {
                    "active" => {
                        (way("paused", "btn", "Pause", "Deliveries are held and sent later. They age meanwhile."))
                        (way("inactive", "btn risk", "Switch off", "Gets nothing. What waits is cancelled; a replay can send it."))
                    },
                    "paused" => {
                        (way("active", "btn", "Resume", "What is held is sent, a few at first."))
                        (way("inactive", "btn risk", "Switch off", "Gets nothing. What is held is cancelled; a replay can send it."))
                    },
                    _ => (way("active", "btn", "Make active", "It gets the events that are published from then on.")),
                }
                div class="row apart" {
                    div { b { "Delete" } p class="soft small" { "What waits is cancelled. Its log stays for as long as others'." } }
                    a class="btn risk" href={ (base) "/delete" } data-dialog="delete" { "Delete…" }
                }
            }
        }
    }
}

/// The same text is a page, for browsers without JavaScript.
fn delete_dialog(visit: &Visit, webhook: &WebhookView) -> Markup {
    html! {
        dialog id="delete" aria-labelledby="del-h" { (delete_form(visit, webhook, None, true)) }
    }
}

fn delete_form<const ROLE: u8>(
    visit: &Visit<ROLE>,
    webhook: &WebhookView,
    error: Option<&str>,
    is_dialog: bool,
) -> Markup {
    let base = visit.path(&format!("/webhooks/{}", webhook.id));
    html! {
        form method="post" action={ (base) "/delete" } class="stack" {
            (csrf(&visit.by))
            div {
                h2 id="del-h" { "Delete “" (line(name(webhook))) "”?" }
                p class="soft" {
                    @if webhook.waiting == 0 { "No delivery waits for it." }
                    @else { (that_wait(webhook)) " for it. What waits is cancelled." }
                    " It can't be undone, but its log stays."
                }
                div class="field section-gap" data-error[error.is_some()] {
                    label for="del-in" { "Type the name to go on" }
                    input id="del-in" name="name" autocomplete="off" required aria-describedby=[error.map(|_| "del-error")];
                    @if let Some(error) = error { p class="error" id="del-error" { (error) } }
                }
            }
            footer class="row" {
                @if is_dialog { button class="btn" type="button" data-close autofocus { "Keep it" } }
                @else { a class="btn" href={ (base) "/settings" } { "Keep it" } }
                button class="btn risk" { "Delete" }
            }
        }
    }
}

/// `GET …/delete`
pub async fn ask_delete(visit: ManagerVisit, At(webhook): At<WebhookId>) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let content = delete_form(&visit, &webhook, None, false);
    Ok(page(&visit, &webhook, Tab::Settings, &content))
}

/// A name as people read it on a page and type it: controls as the page shows them, white space
/// as a browser shows it, and without the ellipsis that ends a long name.
fn as_shown(name: &str) -> String {
    let words: Vec<_> = name.split_whitespace().map(plain).collect();
    words.join(" ").trim_end_matches('…').trim_end().to_owned()
}

/// `POST …/delete`
pub async fn delete(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(id): At<WebhookId>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let webhook = visit.webhook(id).await?;
    let name = name(&webhook);
    let (typed, whole) = (as_shown(fields.text("name")), as_shown(&name));
    if typed.is_empty() || typed != whole {
        let content = delete_form(&visit, &webhook, Some("That isn't its name."), false);
        return Ok(Err(page(&visit, &webhook, Tab::Settings, &content)));
    }
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    let answer = webhooks::delete(acting, api, Id(id), Default::default()).await;
    let _: StatusCode = answer.map_err(|problem: Problem| problem)?;
    Ok(Ok(Redirect::to(&visit.path("/webhooks"))))
}
