//! Tenants, for the operator: what they use, their limits, their tokens, links to their portal.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::ids::{Tenant, TokenId};

use crate::api::access::auth::{Administering, permit};
use crate::api::http::problem::Problem;
use crate::api::http::request::{Body, Id, Name, Parameters};
use crate::api::portal_links::{self, NewPortalLink};
use crate::api::tenants::{self, TenantQuery};
use crate::api::tokens as api_tokens;
use crate::console::failure::{Failure, Result};
use crate::console::fields::{Fields, query};
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{at, bytes, count, percent, span};
use crate::console::pages::tokens::{all, issue_form, issued, list as token_list, shown_once};
use crate::console::parts::{Head, code, dash, empty, field, note, num, pager, table, td, tr};
use crate::console::session::shown_once::{keep_secret, take_secret};
use crate::console::state::Console;
use crate::console::text::{line, plain};
use crate::console::visit::{Operation, Posted, Visitor};
use crate::tenants::view::TenantView;

const PATH: &str = "/console/_/tenants";

#[derive(Deserialize, Default)]
pub struct Asked {
    #[serde(default)]
    q: String,
    cursor: Option<String>,
}

/// `GET /console/_/tenants?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Query(asked): Query<Asked>,
) -> Result<Html<String>> {
    let wanted = TenantQuery {
        q: Some(asked.q.trim().to_owned()).filter(|q| !q.is_empty()),
        limit: None,
        cursor: asked.cursor.clone(),
    };
    let api = State(console.reads.clone());
    let page = tenants::list(operation.operating(), api, Parameters(wanted))
        .await?
        .0;
    let content = html! {
        div class="head" {
            div { h1 { "Tenants" } p class="sub" { span { "Figures of 24 hours" } } }
            a class="btn main-btn" href={ (PATH) "/new" } data-key="c" { (icon("plus")) "New tenant " kbd aria-hidden="true" { "c" } }
        }
        form class="query" action=(PATH) role="search" aria-label="Tenants" {
            div class="chips" { (icon("search"))
                input name="q" value=(plain(&asked.q)) aria-label="Filter tenants" placeholder="Part of an id or a name" maxlength="256" autocomplete="off" spellcheck="false"; }
            button class="btn" { "Filter" }
        }
        @if page.tenants.is_empty() {
            @if asked.q.trim().is_empty() { (empty("No tenant yet", &html! { "A tenant owns events and webhooks." }, &html! {})) }
            @else { (empty("Nothing matches", &html! { "No tenant has that in its id or name." }, &html! { a class="btn" href=(PATH) { "All tenants" } })) }
        } @else { (table_of(&page.tenants)) }
        (pager(&html! { (count(page.tenants.len() as i64, "tenant")) " shown" },
            page.next_cursor.map(|cursor| format!("{PATH}{}", query(&[("q", asked.q.trim()), ("cursor", &cursor)]))).as_deref()))
    };
    Ok(Page::of_all(&operation, Section::Tenants, "Tenants").show(&content))
}

fn table_of(tenants: &[TenantView]) -> Markup {
    let heads = [
        Head::Text("Health"),
        Head::Text("Tenant"),
        Head::Number("Deliveries"),
        Head::Number("Success"),
        Head::Number("Webhooks"),
    ];
    let rows = html! {
        @for tenant in tenants {
            (tr(&html! {
                (td("", &health(tenant)))
                (td("grow first", &html! {
                    a class="cut" href={ (PATH) "/" (tenant.id) } { b { (line(name(tenant))) } }
                    code class="small soft" { (tenant.id) }
                }))
                @match &tenant.usage {
                    Some(usage) => {
                        (num("", Some("deliveries"), &usage.deliveries_24h))
                        (num("", None, &html! { @match usage.success_rate_24h { Some(rate) => (percent(rate)), None => (dash()) } }))
                        (num("last", Some("webhooks"), &html! { (usage.webhooks) " of " (tenant.limits.webhooks) }))
                    },
                    None => { (num("", None, &dash())) (num("", None, &dash())) (num("last", None, &dash())) },
                }
            }))
        }
    };
    table("", &heads, &rows)
}

fn name(tenant: &TenantView) -> String {
    match tenant.name.trim() {
        "" => tenant.id.to_string(),
        name => name.to_owned(),
    }
}

/// By its deliveries of the last 24 hours.
fn health(tenant: &TenantView) -> Markup {
    let rate = tenant
        .usage
        .as_ref()
        .and_then(|usage| usage.success_rate_24h);
    let (tone, symbol, word) = match rate {
        None => ("none", "queued", "Nothing sent"),
        Some(rate) if rate >= 0.95 => ("good", "ok", "Healthy"),
        Some(rate) if rate >= 0.5 => ("slow", "warn", "Degraded"),
        Some(_) => ("fail", "fail", "Failing"),
    };
    html! { span class={ "st " (tone) } { (icon(symbol)) (word) } }
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

/// `GET /console/_/tenants/new`
pub async fn new(operation: Operation) -> Html<String> {
    form_page(&operation, None, &Fields::default(), None)
}

/// `POST /console/_/tenants`
pub async fn create(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let mut body = change(&fields);
    body.insert("id".to_owned(), fields.text("id").trim().into());
    let api = State(console.api.clone());
    let made = match serde_json::from_value(Value::Object(body)) {
        Ok(new) => tenants::create(operation.operating(), api, Body(new)).await,
        Err(error) => Err(Problem::bad_request(error.to_string())),
    };
    Ok(match made {
        Ok(made) => Ok(Redirect::to(&format!("{PATH}/{}", made.into_body().id))),
        Err(problem) if problem.status().is_client_error() => Err(form_page(
            &operation,
            None,
            &fields,
            Some(&problem.to_string()),
        )),
        Err(problem) => return Err(problem.into()),
    })
}

#[derive(Deserialize)]
pub struct Which {
    pub which: String,
}

#[derive(Deserialize)]
pub struct WhichToken {
    pub which: String,
    pub token: TokenId,
}

/// `GET /console/_/tenants/{which}`
pub async fn show_one(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(which): Path<Which>,
) -> Result<Html<String>> {
    let api = || State(console.api.clone());
    let id = Name(which.which);
    let tenant = tenants::show(operation.operating(), api(), id).await?.0;
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
    Ok(Page::of_all(&operation, Section::Tenants, name(&tenant)).show(&content))
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

fn parsed(which: &str) -> Result<Tenant> {
    which
        .parse()
        .map_err(|_| Failure::not_found(format!("there is no tenant {which}")))
}

/// `POST /console/_/tenants/{which}/tokens`
pub async fn issue(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(which): Path<Which>,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let tenant = parsed(&which.which)?;
    let own = administering(&console, &operation, &tenant).await?;
    let token = issued(&console.api, own, &fields).await?;
    keep_secret(&console.api, &operation.by.session, "token", &token).await?;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// `POST /console/_/tenants/{which}/tokens/{token}/revoke`
pub async fn revoke(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(which): Path<WhichToken>,
) -> Result<Redirect> {
    let tenant = parsed(&which.which)?;
    let own = administering(&console, &operation, &tenant).await?;
    api_tokens::revoke(own, State(console.api.clone()), Id(which.token)).await?;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// `POST /console/_/tenants/{which}/portal`
pub async fn portal_link(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(which): Path<Which>,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let tenant = parsed(&which.which)?;
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

/// `POST /console/_/tenants/{which}/portal/end`
pub async fn end_portal(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(which): Path<Which>,
) -> Result<Redirect> {
    let tenant = parsed(&which.which)?;
    portal_links::end_sessions(&console.api, &tenant).await?;
    let _ = operation;
    Ok(Redirect::to(&format!("{PATH}/{tenant}")))
}

/// `GET /console/_/tenants/{which}/edit`
pub async fn edit(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(which): Path<Which>,
) -> Result<Html<String>> {
    let api = State(console.api.clone());
    let tenant = tenants::show(operation.operating(), api, Name(which.which))
        .await?
        .0;
    Ok(form_page(
        &operation,
        Some(&tenant),
        &Fields::default(),
        None,
    ))
}

/// `POST /console/_/tenants/{which}`
pub async fn save(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Path(which): Path<Which>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let api = || State(console.api.clone());
    let change = serde_json::from_value(Value::Object(change(&fields)));
    let changed = match change {
        Ok(change) => {
            let name = Name(which.which.clone());
            tenants::change(operation.operating(), api(), name, Body(change)).await
        }
        Err(error) => Err(Problem::bad_request(error.to_string())),
    };
    Ok(match changed {
        Ok(changed) => Ok(Redirect::to(&format!("{PATH}/{}", changed.0.id))),
        Err(problem) if problem.status().is_client_error() => {
            let tenant = tenants::show(operation.operating(), api(), Name(which.which))
                .await?
                .0;
            let wrong = problem.to_string();
            Err(form_page(&operation, Some(&tenant), &fields, Some(&wrong)))
        }
        Err(problem) => return Err(problem.into()),
    })
}

/// What a form says, as the API takes it. An empty number is no limit.
fn change(fields: &Fields) -> Map<String, Value> {
    let number = |name: &str| match fields.filled(name) {
        None => Value::Null,
        Some(text) => text.parse::<i64>().map_or_else(|_| text.into(), Into::into),
    };
    let mut limits = Map::new();
    if let Some(webhooks) = fields.filled("webhooks") {
        let webhooks = webhooks.parse::<i64>();
        limits.insert(
            "webhooks".to_owned(),
            webhooks.map_or(Value::Null, Into::into),
        );
    }
    for name in ["deliveries_per_hour", "payload_bytes", "max_age_seconds"] {
        limits.insert(name.to_owned(), number(name));
    }
    let origins = fields.text("frame_ancestors").split_whitespace();
    let mut body = Map::new();
    body.insert("name".to_owned(), fields.text("name").trim().into());
    if let Some(dialect) = fields.filled("dialect") {
        body.insert("dialect".to_owned(), dialect.into());
    }
    body.insert("strict_event_types".to_owned(), fields.has("strict").into());
    body.insert(
        "frame_ancestors".to_owned(),
        json!(origins.collect::<Vec<_>>()),
    );
    body.insert("limits".to_owned(), Value::Object(limits));
    body
}

/// `sent`: what was entered, where that couldn't be saved.
fn form_page(
    operation: &Operation,
    tenant: Option<&TenantView>,
    sent: &Fields,
    wrong: Option<&str>,
) -> Html<String> {
    let value = |name: &str, stored: Option<String>| match wrong {
        Some(_) => sent.text(name).to_owned(),
        None => stored.unwrap_or_default(),
    };
    let number = |text: Option<i32>| text.map(|n| n.to_string());
    let strict = match wrong {
        Some(_) => sent.has("strict"),
        None => tenant.is_some_and(|tenant| tenant.strict_event_types),
    };
    let limits = tenant.map(|tenant| &tenant.limits);
    let (title, action) = match tenant {
        None => ("New tenant".to_owned(), PATH.to_owned()),
        Some(tenant) => (
            format!("Change {}", tenant.id),
            format!("{PATH}/{}", tenant.id),
        ),
    };
    let text = |id: &str, name: &str, label: &str, hint: &str, stored: Option<String>| {
        let shown = value(name, stored);
        let hint = html! { (hint) };
        let hint = Some(&hint).filter(|hint| !hint.0.is_empty());
        field(id, &html! { (label) }, hint, None, &|id, described| {
            html! {
                input id=(id) name=(name) value=(shown) maxlength="1024" spellcheck="false" autocomplete="off" aria-describedby=[described];
            }
        })
    };
    let content = html! {
        div class="head" { div { h1 { (line(&title)) } } }
        @if let Some(wrong) = wrong { (note("fail", "fail", &html! { "That can't be saved." }, &html! { (line(wrong)) }, &html! {})) }
        form class="form" method="post" action=(action) {
            (csrf(&operation.by))
            @if tenant.is_none() { (text("ti", "id", "Id", "a–z, 0–9, _ and -. It is the beginning of its events' routing keys and can't be changed.", None)) }
            (text("tn", "name", "Name", "", tenant.map(|tenant| tenant.name.clone())))
            (text("td", "dialect", "Dialect", "Of webhooks that choose none; standard unless given.", tenant.map(|tenant| tenant.dialect.clone())))
            div class="pair" {
                (text("tw", "webhooks", "Webhooks", "At most; 100 unless given.", limits.map(|limits| limits.webhooks.to_string())))
                (text("th", "deliveries_per_hour", "Attempts an hour", "At most; empty: no limit.", limits.and_then(|limits| number(limits.deliveries_per_hour))))
            }
            div class="pair" {
                (text("tp", "payload_bytes", "Data of an event, bytes", "At most; empty: 262,144.", limits.map(|limits| limits.payload_bytes.to_string())))
                (text("ta", "max_age_seconds", "Oldest event, seconds", "Empty: the dialect's.", limits.and_then(|limits| number(limits.max_age_seconds))))
            }
            (text("tf", "frame_ancestors", "The portal may be framed by", "Origins, such as https://app.example.com; several with spaces. Empty: nobody.",
                tenant.map(|tenant| tenant.frame_ancestors.join(" "))))
            label class="check" { input type="checkbox" name="strict" checked[strict]; " Strict" span class="hint" { "Only event types of its catalogue may be published and subscribed to." } }
            div class="row" { button class="btn main-btn" { "Save" } a class="btn quiet" href=(if tenant.is_some() { action.as_str() } else { PATH }) { "Leave it" } }
        }
    };
    Page::of_all(operation, Section::Tenants, title).show(&content)
}
