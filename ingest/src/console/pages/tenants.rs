//! Tenants, for the operator: the list, with what each does and how it does.

pub mod form;
pub mod one;
mod sessions;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::clock;
use shared::ids::Tenant;
use time::Duration;

use crate::api::http::request::Parameters;
use crate::api::state::Shared;
use crate::api::tenants::{self, TenantQuery};
use crate::console::chart::spark;
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{count, number, percent};
use crate::console::pages::statistics::tone;
use crate::console::parts::{Head, dash, empty, facets, num, pager, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{line, plain};
use crate::console::visit::Operation;
use crate::tenants::health::{TenantCounts, TenantHealth};
use crate::tenants::view::{TenantView, Usage};

const PATH: &str = "/console/_/tenants";

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    q: String,
    /// One of the facets; anything else is all of them.
    #[serde(default)]
    health: String,
    cursor: Option<String>,
}

/// The facets: their values in the address, and their words.
const FACETS: [(Option<TenantHealth>, &str); 5] = [
    (None, "All"),
    (Some(TenantHealth::Failing), "Failing"),
    (Some(TenantHealth::Degraded), "Degraded"),
    (Some(TenantHealth::Healthy), "Healthy"),
    (Some(TenantHealth::Unused), "Nothing sent"),
];
/// The steps of the small charts: twelve of two hours.
const STEPS: usize = 12;
const STEP: i64 = 2 * 3_600;

/// How many of each tenant's deliveries were delivered, and how many given up, in each step.
type Charts = HashMap<Tenant, Vec<(i64, i64)>>;

/// `GET /console/_/tenants?q=&health=`
pub async fn show(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let mut known = FACETS.iter().filter_map(|(health, _)| *health);
    let health = known.find(|known| known.as_str() == params.health);
    let wanted = TenantQuery {
        q: Some(params.q.trim().to_owned()).filter(|q| !q.is_empty()),
        health,
        limit: None,
        cursor: params.cursor.clone(),
    };
    let api = State(console.reads.clone());
    let page = tenants::list(operation.operating(), api, Parameters(wanted))
        .await?
        .0;
    // A list without its small charts is still a list.
    let charts = charts(&console.reads, &page.tenants)
        .await
        .unwrap_or_default();
    let content = html! {
        div class="head" {
            div { h1 { "Tenants" } p class="sub" { span { (count(page.counts.all, "tenant")) } } }
            a class="btn main-btn" href={ (PATH) "/new" } data-key="c" { (icon("plus")) "New tenant " kbd aria-hidden="true" { "c" } }
        }
        form class="query" action=(PATH) role="search" aria-label="Tenants" {
            div class="chips" { (icon("search"))
                input name="q" value=(plain(&params.q)) aria-label="Filter tenants" placeholder="Part of an id or a name" maxlength="256" autocomplete="off" spellcheck="false"; }
            button class="btn" { "Filter" }
        }
        (ready_filters(&page.counts, params.q.trim(), health))
        @if page.tenants.is_empty() {
            @if health.is_some() { (empty("Nothing matches", &html! { "No tenant does so just now." }, &html! { a class="btn" href=(PATH) { "All tenants" } })) }
            @else if params.q.trim().is_empty() { (empty("No tenant yet", &html! { "A tenant owns events and webhooks." }, &html! {})) }
            @else { (empty("Nothing matches", &html! { "No tenant has that in its id or name." }, &html! { a class="btn" href=(PATH) { "All tenants" } })) }
        } @else { (table_of(&page.tenants, &charts)) }
        (pager(&html! { (number(page.tenants.len() as i64)) " of " (number(shown_of(&page.counts, health))) },
            page.next_cursor.map(|cursor| format!("{PATH}{}", query(&[("q", params.q.trim()), ("health", &params.health), ("cursor", &cursor)]))).as_deref()))
    };
    Ok(Page::of_operator(&operation, Section::Tenants, "Tenants").show(&content))
}

fn shown_of(counts: &TenantCounts, health: Option<TenantHealth>) -> i64 {
    match health {
        None => counts.all,
        Some(TenantHealth::Unused) => counts.unused,
        Some(TenantHealth::Healthy) => counts.healthy,
        Some(TenantHealth::Degraded) => counts.degraded,
        Some(TenantHealth::Failing) => counts.failing,
    }
}

fn ready_filters(counts: &TenantCounts, q: &str, current: Option<TenantHealth>) -> Markup {
    let links: Vec<_> = FACETS
        .iter()
        .map(|(health, words)| {
            let name = health.map(TenantHealth::as_str).unwrap_or_default();
            let path = format!("{PATH}{}", query(&[("q", q), ("health", name)]));
            let words = html! { (words) " " (number(shown_of(counts, *health))) };
            (path, words, *health == current)
        })
        .collect();
    let beside = html! { "Health of the last hour, figures of 24 hours" };
    facets("Health", &links, &beside)
}

/// What ended in the last 24 hours.
async fn charts(api: &Shared, tenants: &[TenantView]) -> Result<Charts> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- charts_of_tenants\n\
             SELECT t.id, floor((extract(epoch FROM s.quarter)::float8 - $2::float8) / $3::float8)::int4 AS step, \
                 sum(s.delivered)::int8 AS good, sum(s.failed + s.expired)::int8 AS bad \
             FROM unnest($1::text[]) AS t (id) CROSS JOIN LATERAL ( \
                 SELECT quarter, delivered, failed, expired FROM stats \
                 WHERE subject = 'tenant/' || t.id AND quarter >= to_timestamp($2::float8)) s \
             GROUP BY 1, 2",
        )
        .await?;
    let ids: Vec<_> = tenants.iter().map(|tenant| tenant.id.clone()).collect();
    let since = (clock::now() - Duration::seconds(STEP * STEPS as i64)).unix_timestamp();
    let rows = client
        .query(&statement, &[&ids, &(since as f64), &(STEP as f64)])
        .await?;
    let mut charts = Charts::new();
    for row in &rows {
        let chart = charts
            .entry(row.get("id"))
            .or_insert_with(|| vec![(0, 0); STEPS]);
        let step = usize::try_from(row.get::<_, i32>("step")).unwrap_or_default();
        let (good, bad) = &mut chart[step.min(STEPS - 1)];
        *good += row.get::<_, i64>("good");
        *bad += row.get::<_, i64>("bad");
    }
    Ok(charts)
}

/// What waits for its webhooks.
fn waiting(usage: &Usage) -> Markup {
    html! {
        @match usage.waiting {
            Some(waiting) => { (number(waiting)) @if !usage.waiting_counted { "+" } },
            None => (dash()),
        }
    }
}

fn table_of(tenants: &[TenantView], charts: &Charts) -> Markup {
    let heads = [
        Head::Text("Health"),
        Head::Text("Tenant"),
        Head::Text("Ended, 24 h"),
        Head::Number("Deliveries"),
        Head::Number("Success"),
        Head::Number("Waiting"),
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
                (td("hide", &spark(charts.get(&tenant.id).map(Vec::as_slice).unwrap_or_default())))
                @match &tenant.usage {
                    Some(usage) => {
                        (num("", Some("deliveries"), &number(usage.deliveries_24h)))
                        (num("", None, &html! { @match usage.success_rate_24h { Some(rate) => span class=(tone(Some(rate))) { (percent(rate)) }, None => (dash()) } }))
                        (num("", Some("waiting"), &waiting(usage)))
                        (num("last", Some("webhooks"), &html! { (usage.webhooks) " of " (tenant.limits.webhooks) }))
                    },
                    None => { @for _ in 0..3 { (num("", None, &dash())) } (num("last", None, &dash())) },
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

/// How the tenant's deliveries do, judged by the attempts of the last hour.
fn health(tenant: &TenantView) -> Markup {
    let health = tenant.usage.as_ref().map(|usage| usage.health);
    let (tone, symbol, word) = match health.unwrap_or_default() {
        TenantHealth::Unused => ("none", "queued", "Nothing sent"),
        TenantHealth::Healthy => ("good", "ok", "Healthy"),
        TenantHealth::Degraded => ("slow", "warn", "Degraded"),
        TenantHealth::Failing => ("fail", "fail", "Failing"),
    };
    html! { span class={ "st " (tone) } { (icon(symbol)) (word) } }
}
