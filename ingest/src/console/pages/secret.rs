//! A webhook's secret: replace it, show the new one once, and revoke the previous one.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde::Deserialize;
use shared::clock;
use shared::ids::WebhookId;

use crate::api::http::request::{Id, OptionalBody};
use crate::api::webhooks::rotation::{self, Rotation};
use crate::api::webhooks::view::WebhookView;
use crate::console::confirm::{Question, SURE};
use crate::console::failure::Result;
use crate::console::frame::csrf;
use crate::console::moments::{at, span};
use crate::console::pages::webhook::tabs::{Tab, page};
use crate::console::pages::webhook::trouble::that_wait;
use crate::console::pages::webhooks::name;
use crate::console::parts::{code, done, note};
use crate::console::session::shown_once::{keep_secret, take_for_page};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{At, ManagerVisit, Posted};
use crate::webhooks::form::Signing;

/// For how long both secrets sign: seconds, and in words.
const OVERLAPS: [(&str, &str); 4] = [
    ("86400", "1 day"),
    ("3600", "1 hour"),
    ("604800", "7 days"),
    ("0", "not at all: revoke the old one at once"),
];

#[derive(Deserialize, Default)]
pub struct Params {
    pub done: Option<String>,
}

/// `GET /console/{tenant}/webhooks/{id}/secret`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
    Query(params): Query<Params>,
    method: Method,
    headers: HeaderMap,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let new = take_for_page(
        &console.api,
        &visit.by.session,
        &webhook.id.to_string(),
        (&method, &headers),
    )
    .await?;
    let base = visit.path(&format!("/webhooks/{}/secret", webhook.id));
    let single = signs_once(&console, &visit.tenant, &webhook);
    let content = html! {
        @if params.done.as_deref() == Some("revoked") && new.is_none() {
            (done("Revoked. Only the current secret signs."))
        }
        div class="cols wide" {
            div class="stack" {
                @match &new {
                    Some(secret) => (shown_once(&webhook, secret.expose_secret(), single)),
                    None => section class="panel" {
                        header { h2 { "Secret" } }
                        div class="pad stack" {
                            p { code { (line(&webhook.secret)) } }
                            p class="soft" { "Nobody can see it any more: it was shown once when it was made. If it is lost or leaked, make another." }
                        }
                    },
                }
            }
            div class="stack" {
                (signing(&visit, &webhook, &base))
                (rotate_form(&visit, &base, single))
            }
        }
    };
    Ok(page(&visit, &webhook, Tab::Secret, &content))
}

/// Whether only the current secret signs: the webhook's dialect has no room for a second signature.
/// The operator's own dialects say so in their files, too.
pub fn signs_once(console: &Console, tenant: &shared::ids::Tenant, webhook: &WebhookView) -> bool {
    let tenants = console.api.subscriptions.dialect(tenant);
    let name = webhook.dialect.clone().or(tenants).unwrap_or_default();
    let dialect = console.api.dialects.get(&name);
    dialect.is_some_and(|dialect| !dialect.signs_with_previous_secret())
}

fn shown_once(webhook: &WebhookView, secret: &str, single: bool) -> Markup {
    let until = html! {
        @match webhook.previous_secret_until {
            Some(until) if !single => { "Put it into the receiver now. Until " (at(until.0)) " every delivery is signed with both." },
            Some(_) | None if single => "The new one signs at once: a receiver that accepts only the old one refuses deliveries until it has this one.",
            _ => "Put it into the receiver now. Only this one signs.",
        }
    };
    html! {
        (note("good", "ok", &html! { "This is the new secret. It is shown once." }, &until, &html! {}))
        section class="panel" {
            header { h2 { "Secret" } }
            div class="pad stack" {
                (code(&line(secret)))
                ol class="steps" {
                    li data-done { b { "Rotate" } p class="soft" { "A new secret was made." @if webhook.previous_secret_until.is_some() { " The old one is still known." } } }
                    li { b { "Change the receiver" } p class="soft" { "Let it accept the new one, or either." } }
                    li { b { "Take the old one away" } p class="soft" {
                        @match webhook.previous_secret_until {
                            Some(until) => { "It ends by itself at " (at(until.0)) ". Revoke it sooner if it leaked." },
                            None => "It is revoked already.",
                        }
                    } }
                }
            }
        }
    }
}

fn signing(visit: &ManagerVisit, webhook: &WebhookView, base: &str) -> Markup {
    let until = webhook
        .previous_secret_until
        .filter(|until| until.0 > clock::now());
    html! {
        section class="panel" {
            header { h2 { "Now signing" } }
            dl class="kv pad" {
                dt { "Current" } dd { code { (line(&webhook.secret)) } }
                dt { "Made" }
                @match webhook.secret_made_at {
                    Some(made) => dd { (at(made.0)) " " span class="soft" { "(" (span(clock::now() - made.0)) " ago)" } },
                    None => dd class="soft" { "before Posthorn noted it" },
                }
                dt { "Scheme" }
                dd { @match webhook.signing { Signing::Hmac => "HMAC-SHA256", Signing::Ed25519 => "HMAC-SHA256, and ed25519 with a key" } }
                dt { "Before" }
                @match until {
                    Some(until) => dd { "signs for " (span(until.0 - clock::now())) " more" },
                    None => dd class="soft" { "none" },
                }
                @if let Some(key) = &webhook.public_key { dt { "Public key" } dd { code class="break" { (line(key)) } } }
            }
            p class="pad small" {
                a href={ (visit.path("/signature")) "?webhook=" (webhook.id) } { "Check a signature" }
                " if a receiver refuses it."
            }
            @if until.is_some() {
                form class="pad row" method="post" action={ (base) "/revoke" } {
                    (csrf(&visit.by))
                    button class="btn risk" { "Revoke the old one" }
                }
            }
        }
    }
}

fn rotate_form(visit: &ManagerVisit, base: &str, single: bool) -> Markup {
    html! {
        section class="panel" {
            header { h2 { "Rotate" } }
            form class="pad stack" method="post" action={ (base) "/rotate" } {
                (csrf(&visit.by))
                @if single {
                    p class="soft" { "This webhook's dialect has one signature: the new secret signs at once. Let the receiver accept both before." }
                }
                div class="field" {
                    label for="overlap" { "The old one is known for" }
                    select id="overlap" name="overlap" {
                        @for (seconds, words) in OVERLAPS { option value=(seconds) { (words) } }
                    }
                }
                button class="btn" { "Rotate the secret" }
            }
        }
    }
}

/// `POST …/secret/rotate`
pub async fn rotate(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    if !fields.has(SURE) {
        let shown = visit.webhook(webhook).await?;
        let single = signs_once(&console, &visit.tenant, &shown);
        let content = ask_rotate(&visit, &shown, single, fields.text("overlap"));
        return Ok(Err(page(&visit, &shown, Tab::Secret, &content)));
    }
    let rotation = Rotation {
        secret: None,
        overlap: fields.text("overlap").parse().ok(),
    };
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    let shown = rotation::rotate(acting, api, Id(webhook), OptionalBody(rotation))
        .await?
        .0;
    keep_secret(
        &console.api,
        &visit.by.session,
        &webhook.to_string(),
        &shown.secret,
    )
    .await?;
    let path = visit.path(&format!("/webhooks/{webhook}/secret"));
    Ok(Ok(Redirect::to(&path)))
}

fn ask_rotate(visit: &ManagerVisit, webhook: &WebhookView, single: bool, overlap: &str) -> Markup {
    let base = visit.path(&format!("/webhooks/{}/secret", webhook.id));
    let both = OVERLAPS.iter().find(|(seconds, _)| *seconds == overlap);
    let both = both.filter(|(seconds, _)| !single && *seconds != "0");
    Question {
        asks: html! { "Rotate the secret of “" (line(name(webhook))) "”?" },
        says: html! {
            @match both {
                Some((_, time)) => p { "Both secrets sign for " (time) ". Put the new one into the receiver within that time." },
                None => p { "From now on only the new secret signs. A receiver that accepts only the old one refuses deliveries until it has the new one." },
            }
            (still_signs(webhook))
            p class="soft" { (signed_next(webhook)) }
        },
        action: &format!("{base}/rotate"),
        fields: &[("overlap", overlap)],
        does: "Rotate the secret",
        back: (&base, "Keep this one"),
    }
    .part(&visit.by)
}

/// The secret before the current one, which a rotation takes away.
pub fn still_signs(webhook: &WebhookView) -> Markup {
    let until = webhook.previous_secret_until;
    html! {
        @if until.is_some_and(|until| until.0 > clock::now()) {
            p { "The secret before the current one still signs. It stops at once." }
        }
    }
}

/// How many deliveries wait. They are signed after the change.
pub fn signed_next(webhook: &WebhookView) -> Markup {
    html! {
        @if webhook.waiting == 0 { "No delivery waits for this webhook." }
        @else { (that_wait(webhook)) " for this webhook. A delivery is signed when it is sent." }
    }
}

/// `POST …/secret/revoke`
pub async fn revoke(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    if !fields.has(SURE) {
        let shown = visit.webhook(webhook).await?;
        let content = ask_revoke(&visit, &shown);
        return Ok(Err(page(&visit, &shown, Tab::Secret, &content)));
    }
    let acting = visit.acting().await?;
    let _: axum::Json<WebhookView> =
        rotation::revoke(acting, State(console.api.clone()), Id(webhook)).await?;
    let path = visit.path(&format!("/webhooks/{webhook}/secret?done=revoked"));
    Ok(Ok(Redirect::to(&path)))
}

fn ask_revoke(visit: &ManagerVisit, webhook: &WebhookView) -> Markup {
    let base = visit.path(&format!("/webhooks/{}/secret", webhook.id));
    Question {
        asks: html! { "Revoke the old secret of “" (line(name(webhook))) "”?" },
        says: html! {
            p { "From now on only the current secret signs. A receiver that has only the old one refuses deliveries." }
            p class="soft" { (signed_next(webhook)) }
        },
        action: &format!("{base}/revoke"),
        fields: &[],
        does: "Revoke the old one",
        back: (&base, "Keep it"),
    }
    .part(&visit.by)
}
