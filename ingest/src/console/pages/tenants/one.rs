//! One tenant, for the operator: its limits, its tokens, links to its portal.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde::Deserialize;
use shared::ids::{Malformed, Tenant, TokenId};

use super::{PATH, health, name};
use crate::api::access::auth::{Administering, permit};
use crate::api::http::request::{Body, Id, Name};
use crate::api::portal_links::{self, NewPortalLink};
use crate::api::tenants;
use crate::api::tokens as api_tokens;
use crate::console::failure::{Failure, Result};
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{at, bytes, count, span};
use crate::console::pages::tokens::{all, issue_form, issued, list as token_list, shown_once};
use crate::console::parts::{code, note};
use crate::console::session::shown_once::{keep_secret, take_secret};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{At, Operation, Posted, Visitor};
use crate::tenants::view::TenantView;

/// A tenant and its token, in an address.
#[derive(Deserialize)]
pub struct TokenOfTenant {
    pub id: String,
    pub token: TokenId,
}

/// `GET /console/_/tenants/{id}`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(tenant): At<Tenant>,
) -> Result<Html<String>> {
    let api = || State(console.api.clone());
    let tenant = tenants::show(operation.operating(), api(), Name(tenant.to_string()))
        .await?
        .0;
    let own = administering(&console, &operation, &tenant.id).await?;
    let tokens = all(&console.api, own).await?;
    let session = &operation.by.session;
    let new_token = take_secret(&console.api, session, "token").await?;
    let new_link = match new_token {
        None => take_secret(&console.api, session, "portal").await?,
        Some(_) => None,
    };
    let open = portal_links::open_sessions(&console.api, &tenant.id).await?;
    let path = format!("{PATH}/{}", tenant.id);
    let usage = tenant.usage.clone().unwrap_or_default();
    let content = html! {
        div class="head" {
            div {
                h1 { (line(name(&tenant))) }
                p class="sub" { (health(&tenant)) code { (tenant.id) } span { "made " (at(tenant.created_at.0)) } }
            }
            div class="row" {
                a class="btn" href={ "/console/" (tenant.id) } { "Open its pages" }
                a class="btn" href={ (path) "/edit" } data-key="e" { "Change" }
            }
        }
        @if let Some(token) = &new_token { (shown_once(token.expose_secret())) }
        @if let Some(link) = &new_link {
            (note("good", "link", &html! { "This is the link. It is shown once, and opens once, within ten minutes." }, &html! {}, &html! {}))
            div class="section-gap" { (code(&html! { (line(link.expose_secret())) })) }
        }
        div class="cols wide" {
            div class="stack" {
                (token_list(&operation.by, &format!("{path}/tokens"), &tokens))
                (issue_form(&operation.by, &format!("{path}/tokens")))
                (portal(&operation.by, &path, &tenant, open))
            }
            div class="stack" {
                section class="panel" {
                    header { h2 { "Limits" } }
                    dl class="kv pad" {
                        dt { "Webhooks" } dd class="num" { (used(usage.webhooks, tenant.limits.webhooks.into())) }
                        dt { "Attempts an hour" } dd class="num" {
                            @match tenant.limits.deliveries_per_hour {
                                Some(most) => (used(usage.attempts_this_hour, most.into())),
                                None => { (usage.attempts_this_hour) " " span class="soft" { "(no limit)" } },
                            }
                        }
                        dt { "Data of an event" } dd { (bytes(tenant.limits.payload_bytes.into())) }
                        dt { "Oldest event" } dd { @match tenant.limits.max_age_seconds {
                            Some(seconds) => (span(time::Duration::seconds(seconds.into()))),
                            None => span class="soft" { "the dialect's" },
                        } }
                    }
                }
                section class="panel" {
                    header { h2 { "Settings" } }
                    dl class="kv pad" {
                        dt { "Dialect" } dd { (line(&tenant.dialect)) }
                        dt { "Event types" } dd { @if tenant.strict_event_types { "only those of its catalogue" } @else { "others are taken too " span class="soft" { "(not strict)" } } }
                    }
                }
            }
        }
    };
    Ok(Page::of_operator(&operation, Section::Tenants, name(&tenant)).show(&content))
}

fn portal(by: &Visitor, path: &str, tenant: &TenantView, open: i64) -> Markup {
    html! {
        section class="panel" {
            header { h2 { "Portal" } }
            dl class="kv pad" {
                dt { "May be framed by" }
                dd { @if tenant.frame_ancestors.is_empty() { "nobody" } @else {
                    @for origin in &tenant.frame_ancestors { code { (line(origin)) } " " }
                    span class="soft" { "and nobody else" }
                } }
                dt { "Open now" }
                dd {
                    (count(open, "session")) " "
                    @if open > 0 {
                        form method="post" action={ (path) "/portal/end" } { (csrf(by)) button class="btn tiny risk" { "End them" } }
                    }
                }
            }
            form class="pad row" method="post" action={ (path) "/portal" } {
                (csrf(by))
                label class="row" { "May " select name="role" {
                    option value="viewer" { "viewer: reads" }
                    option value="manager" { "manager: also retries, tests and changes" }
                } }
                label class="row" { "webhooks " input name="webhooks" placeholder="all; or wh_…, wh_…" maxlength="4096" spellcheck="false"; }
                label class="row" { "for " select name="expires_in" {
                    option value="3600" { "an hour" } option value="14400" { "four hours" } option value="86400" { "a day" }
                } }
                button class="btn main-btn" { (icon("link")) "Make a link" }
            }
        }
    }
}

async fn administering(
    console: &Console,
    operation: &Operation,
    tenant: &Tenant,
) -> Result<Administering> {
    Ok(Administering {
        tenant: Some(tenant.clone()),
        permit: Some(permit(tenant, &console.api).await?),
        actor: operation.by.session.actor(),
    })
}

/// `POST /console/_/tenants/{id}/tokens`
pub async fn issue(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(tenant): At<Tenant>,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let own = administering(&console, &operation, &tenant).await?;
    let token = issued(&console.api, own, &fields).await?;
    keep_secret(&console.api, &operation.by.session, "token", &token).await?;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// `POST /console/_/tenants/{id}/tokens/{token}/revoke`
pub async fn revoke(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(path): Path<TokenOfTenant>,
) -> Result<Redirect> {
    let tenant: Tenant = path
        .id
        .parse()
        .map_err(|error: Malformed| Failure::not_found(error.to_string()))?;
    let own = administering(&console, &operation, &tenant).await?;
    api_tokens::revoke(own, State(console.api.clone()), Id(path.token)).await?;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// `POST /console/_/tenants/{id}/portal`
pub async fn portal_link(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(tenant): At<Tenant>,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let webhooks = fields.filled("webhooks").map(|text| {
        let ids = text.split([',', ' ']).filter(|id| !id.is_empty());
        ids.map(str::to_owned).collect()
    });
    let new = NewPortalLink {
        tenant: tenant.to_string(),
        role: fields.text("role").parse().ok(),
        webhooks,
        expires_in: fields.text("expires_in").parse().ok(),
        theme: None,
        accent: None,
    };
    let api = State(console.api.clone());
    let made = portal_links::create(operation.operating(), api, Body(new)).await?;
    keep_secret(
        &console.api,
        &operation.by.session,
        "portal",
        &made.into_body().path,
    )
    .await?;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// `POST /console/_/tenants/{id}/portal/end`
pub async fn end_portal(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(tenant): At<Tenant>,
) -> Result<Redirect> {
    portal_links::end_sessions(&console.api, &tenant).await?;
    let _ = operation;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// What of a limit is used; amber from 80 % on.
fn used(of: i64, most: i64) -> Markup {
    let class = if most > 0 && of * 5 >= most * 4 {
        "bar slow"
    } else {
        "bar"
    };
    html! { (of) " of " (most) progress class=(class) value=(of.min(most)) max=(most.max(1)) {} }
}
