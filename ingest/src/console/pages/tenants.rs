//! Tenants, for the operator: the list, with what each does.

pub mod form;
pub mod one;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;

use crate::api::http::request::Parameters;
use crate::api::tenants::{self, TenantQuery};
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{count, percent};
use crate::console::parts::{Head, dash, empty, num, pager, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{line, plain};
use crate::console::visit::Operation;
use crate::tenants::view::TenantView;

const PATH: &str = "/console/_/tenants";

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    q: String,
    cursor: Option<String>,
}

/// `GET /console/_/tenants?q=`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let wanted = TenantQuery {
        q: Some(params.q.trim().to_owned()).filter(|q| !q.is_empty()),
        limit: None,
        cursor: params.cursor.clone(),
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
                input name="q" value=(plain(&params.q)) aria-label="Filter tenants" placeholder="Part of an id or a name" maxlength="256" autocomplete="off" spellcheck="false"; }
            button class="btn" { "Filter" }
        }
        @if page.tenants.is_empty() {
            @if params.q.trim().is_empty() { (empty("No tenant yet", &html! { "A tenant owns events and webhooks." }, &html! {})) }
            @else { (empty("Nothing matches", &html! { "No tenant has that in its id or name." }, &html! { a class="btn" href=(PATH) { "All tenants" } })) }
        } @else { (table_of(&page.tenants)) }
        (pager(&html! { (count(page.tenants.len() as i64, "tenant")) " shown" },
            page.next_cursor.map(|cursor| format!("{PATH}{}", query(&[("q", params.q.trim()), ("cursor", &cursor)]))).as_deref()))
    };
    Ok(Page::of_operator(&operation, Section::Tenants, "Tenants").show(&content))
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
                    @if name(tenant) != tenant.id.to_string() { code class="small soft" { (tenant.id) } }
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
