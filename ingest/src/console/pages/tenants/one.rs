//! One tenant, for the operator: its limits, its tokens, links to its portal.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde::Deserialize;
use shared::ids::{Malformed, Tenant, TokenId};

use super::sessions::sessions;
use super::{PATH, health, name, waiting};
use crate::api::access::auth::{Acting, Administering, permit};
use crate::api::http::request::{Body, Id, Name, Parameters};
use crate::api::portal_links::{self, ACCENTS, NewPortalLink};
use crate::api::portal_sessions::{self, PortalSessions};
use crate::api::tenants;
use crate::api::tokens as api_tokens;
use crate::api::webhooks::stats::window::{StatsQuery, Window};
use crate::api::webhooks::stats::{self, Stats};
use crate::console::confirm::{Question, SURE};
use crate::console::failure::{Failure, Result};
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{at, bytes, count, span};
use crate::console::pages::statistics::ended;
use crate::console::pages::tokens::{
    all, ask_revoke, issue_form, issued, list as token_list, new_token_of, shown_once,
};
use crate::console::parts::{code, note, unreadable};
use crate::console::session::shown_once::{keep_secret, take_for_page};
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
    method: Method,
    headers: HeaderMap,
) -> Result<Html<String>> {
    let api = || State(console.api.clone());
    let tenant = tenants::show(operation.operating(), api(), Name(tenant.to_string()))
        .await?
        .0;
    let own = administering(&console, &operation, &tenant.id).await?;
    let tokens = all(&console.api, own).await?;
    let name_of = Name(tenant.id.to_string());
    let open = portal_sessions::list(operation.operating(), api(), name_of)
        .await?
        .0;
    let path = format!("{PATH}/{}", tenant.id);
    let usage = tenant.usage.clone().unwrap_or_default();
    let stats = last_day(&console, &operation, &tenant.id).await;
    // They are used up when they are taken, so that nothing that can fail comes after this.
    let (session, request) = (&operation.by.session, (&method, &headers));
    let about = new_token_of(&tenant.id);
    let new_token = take_for_page(&console.api, session, &about, request).await?;
    let about = new_link_of(&tenant.id);
    // The token isn't kept any more, so a failure must not cost its page. The link stays kept.
    let new_link = take_for_page(&console.api, session, &about, request).await;
    let new_link = new_link.unwrap_or_default();
    let content = html! {
        div class="head" {
            div {
                h1 { (line(name(&tenant))) }
                p class="sub" { (health(&tenant)) code { (tenant.id) } span { (waiting(&usage)) " waiting" } span { "made " (at(tenant.created_at.0)) } }
            }
            div class="row" {
                a class="btn" href={ "/console/" (tenant.id) } { "Open its pages" }
                a class="btn" href={ (path) "/edit" } data-key="e" { "Change" }
            }
        }
        @if let Some(token) = &new_token { (shown_once(token.expose_secret())) }
        @if let Some(link) = &new_link {
            (note("good", "link", &html! { "This is the link to the portal. It is shown once, and opens once, within ten minutes." },
                &html! { "Put it behind the address under which people reach this Posthorn." }, &html! {}))
            div class="section-gap" { (code(&html! { (line(link.expose_secret())) })) }
        }
        @match &stats {
            Ok(stats) => (ended(stats)),
            Err(unread) => (unreadable("What ended in the last day", unread.is_too_slow())),
        }
        div class="cols wide" {
            div class="stack" {
                (token_list(&operation.by, &format!("{path}/tokens"), &tokens))
                (issue_form(&operation.by, &format!("{path}/tokens")))
                (portal(&operation.by, &path, &tenant, &open))
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

/// Under which subject a new link to the portal is kept until it is shown.
fn new_link_of(tenant: &Tenant) -> String {
    format!("portal link of {tenant}")
}

fn portal(by: &Visitor, path: &str, tenant: &TenantView, open: &PortalSessions) -> Markup {
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
                    (count(open.open, "session")) " "
                    @if open.open > 0 {
                        form method="post" action={ (path) "/portal/end" } { (csrf(by)) button class="btn tiny risk" { "End them" } }
                    }
                }
            }
            (sessions(open.open, &open.sessions))
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
                label class="row" { "theme " select name="theme" {
                    option value="" { "the browser's" } option value="light" { "light" } option value="dark" { "dark" }
                } }
                label class="row" { "accent " select name="accent" {
                    @for accent in ACCENTS { option value=(accent) { (accent) } }
                } }
                button class="btn main-btn" { (icon("link")) "Make a link" }
            }
        }
    }
}

/// The deliveries that ended in the last day.
async fn last_day(console: &Console, operation: &Operation, tenant: &Tenant) -> Result<Stats> {
    let acting = Acting {
        tenant: tenant.clone(),
        owner: None,
        permit: Some(permit(tenant, &console.reads).await?),
        actor: operation.by.session.actor(),
    };
    let window = Window::Day;
    let query = Parameters(StatsQuery { window });
    let stats = stats::of_tenant(acting, State(console.reads.clone()), query).await?;
    Ok(stats.0)
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
    let about = new_token_of(&tenant);
    keep_secret(&console.api, &operation.by.session, &about, &token).await?;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// `POST /console/_/tenants/{id}/tokens/{token}/revoke`
pub async fn revoke(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(path): Path<TokenOfTenant>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let tenant: Tenant = path
        .id
        .parse()
        .map_err(|error: Malformed| Failure::not_found(error.to_string()))?;
    let own = administering(&console, &operation, &tenant).await?;
    let back = format!("{PATH}/{tenant}");
    if !fields.has(SURE) {
        let action = format!("{back}/tokens/{}/revoke", path.token);
        let about = (path.token, action.as_str(), back.as_str());
        let content = ask_revoke(&console.api, &operation.by, own, about).await?;
        let page = Page::of_operator(&operation, Section::Tenants, "Revoke a token");
        return Ok(Err(page.show(&content)));
    }
    api_tokens::revoke(own, State(console.api.clone()), Id(path.token)).await?;
    Ok(Ok(Redirect::to(&back)))
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
        theme: fields.filled("theme").map(str::to_owned),
        accent: fields.filled("accent").map(str::to_owned),
    };
    let api = State(console.api.clone());
    let made = portal_links::create(operation.operating(), api, Body(new)).await?;
    keep_secret(
        &console.api,
        &operation.by.session,
        &new_link_of(&tenant),
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
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let back = format!("{PATH}/{tenant}");
    if !fields.has(SURE) {
        let open = portal_links::open_sessions(&console.api, &tenant).await?;
        let question = Question {
            asks: html! { "End " (count(open, "session")) " of the portal?" },
            says: html! {
                p { "Customers of " code { (tenant) } " who have the portal open need a new link. Links that weren't opened yet open no more." }
            },
            action: &format!("{back}/portal/end"),
            fields: &[],
            does: "End them",
            back: (&back, "Keep them"),
        };
        let page = Page::of_operator(&operation, Section::Tenants, "End sessions of the portal");
        return Ok(Err(page.show(&question.page(&operation.by))));
    }
    portal_links::end_sessions(&console.api, &tenant).await?;
    Ok(Ok(Redirect::to(&back)))
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
