//! A tenant's catalogue of event types, and one type: its schema as a table, its example, who
//! listens.

pub mod form;
mod schema;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::clock;
use shared::ids::{EventType, first_uuid_at};
use time::Duration;

use schema::schema_table;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::event_types::{self, EventTypeQuery};
use crate::api::http::request::{Id, Parameters};
use crate::api::webhooks::stats::window::{StatsQuery, Window};
use crate::api::webhooks::type_stats;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::fields::{query, segment};
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{count, number};
use crate::console::pages::webhooks::{all, name, pattern_for};
use crate::console::parts::{
    Head, choice, code, dash, empty, facets, num, pager, payload, table, td, tr, unreadable,
};
use crate::console::state::Console;
use crate::console::text::{excerpt, line, plain};
use crate::console::visit::{At, Visit};
use crate::event_types::store::EventTypeView;

/// How many types a page lists, within its budget.
const SHOWN: i64 = 80;

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    q: String,
    #[serde(default)]
    only: String,
    cursor: Option<String>,
}

/// `GET /console/{tenant}/event-types?q=&only=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let wanted = EventTypeQuery {
        archived: (params.only == "archived").then_some(true),
        limit: Some(SHOWN),
        cursor: params.cursor.clone(),
    };
    let acting = visit.acting().await?;
    let page = event_types::list(acting, State(console.reads.clone()), Parameters(wanted)).await?;
    let page = page.0;
    // Without them a column is empty, and the rest of the page is right.
    let webhooks = all(&console, &visit, None).await;
    let webhooks = webhooks.as_ref().ok().map(|(all, _)| all.as_slice());
    let seen = seen(&console, &visit).await;
    let undescribed = match (&seen, &params.cursor) {
        (Some(seen), None) => not_described(&console, &visit, seen)
            .await
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    let is_strict = is_strict(&console, &visit).await.ok();
    let q = params.q.trim().to_lowercase();
    let fits = |one: &&EventTypeView| {
        let has = |text: &str| text.to_lowercase().contains(&q);
        (q.is_empty() || has(one.name.as_str()) || has(&one.description))
            && (params.only != "bare" || one.schema.is_none())
    };
    let shown: Vec<_> = page.event_types.iter().filter(fits).collect();
    let path = visit.path("/event-types");
    let to = |only: &str| format!("{path}{}", query(&[("q", params.q.trim()), ("only", only)]));
    let ready = [
        (to(""), html! { "All" }, params.only.is_empty()),
        (
            to("bare"),
            html! { "Without a schema" },
            params.only == "bare",
        ),
        (
            to("seen"),
            html! { "Not described" @if !undescribed.is_empty() { " " (undescribed.len()) } },
            params.only == "seen",
        ),
        (
            to("archived"),
            html! { "Archived" },
            params.only == "archived",
        ),
    ];
    let lists_described = params.only != "seen";
    let may = visit.by.may(Role::Manager);
    let content = html! {
        div class="head" {
            div { h1 { "Event types" } p class="sub" {
                span {
                    (count(page.event_types.len() as i64, "type")) " described" @if page.next_cursor.is_some() { ", and more" }
                    @if !undescribed.is_empty() { ", " (undescribed.len()) " seen and not described" }
                }
                @match is_strict {
                    Some(true) => span { (visit.tenant) " is strict: events of other types are refused" },
                    Some(false) => span { (visit.tenant) " isn't strict: other types are taken, too" },
                    None => {},
                }
            } }
            @if may { div class="row" {
                a class="btn" href={ (path) "/import" } { "Import a catalogue" }
                a class="btn main-btn" href={ (path) "/new" } data-key="c" { (icon("plus")) "Describe one" }
            } }
        }
        @if page.event_types.is_empty() && params.only.is_empty() {
            (empty("None described", &html! { "Types that are described are offered to those who make webhooks, and events are checked against their schemas. Import a catalogue, or describe one." },
                &html! { @if may { a class="btn main-btn" href={ (path) "/new" } { "Describe one" } } }))
            @if !undescribed.is_empty() { (list_of_seen(&path, &undescribed, may)) }
        } @else {
            form class="query" action=(path) role="search" aria-label="Event types" {
                div class="chips" { (icon("search"))
                    input name="q" value=(plain(&params.q)) aria-label="Filter types" placeholder="Part of a name or description" maxlength="256" autocomplete="off" spellcheck="false"; }
                button class="btn" { "Filter" }
            }
            (facets("Ready filters", &ready, &html! { "Events of 24 hours" }))
            @if !lists_described {}
            @else if shown.is_empty() { (empty("Nothing matches", &html! { "No type of this page passes these filters." }, &html! { a class="btn" href=(path) { "All types" } })) }
            @else { (list(&path, &shown, webhooks, &seen)) }
            @if !undescribed.is_empty() { (list_of_seen(&path, &undescribed, may)) }
            @else if !lists_described { (empty("Every type is described", &html! { "No event of the last 24 hours had a type that the catalogue lacks." }, &html! { a class="btn" href=(path) { "All types" } })) }
            @if let Some(cursor) = &page.next_cursor {
                (pager(&html! { (shown.len()) " shown" }, Some(&format!("{path}{}", query(&[("only", &params.only), ("cursor", cursor.as_str())])))))
            }
        }
    };
    Ok(Page::of_tenant(&visit, Section::EventTypes, "Event types").show(&content))
}

/// How many events of each type there were in the last day. Without them the page is right.
async fn seen(console: &Console, visit: &Visit) -> Option<HashMap<String, i64>> {
    let acting = visit.acting().await.ok()?;
    let query = Parameters(StatsQuery {
        window: Window::Day,
    });
    let stats = type_stats::of_event_types(acting, State(console.reads.clone()), query).await;
    let counts = stats.ok()?.0.event_types.into_iter();
    Some(counts.map(|one| (one.event_type, one.events)).collect())
}

/// Types that came and aren't described, archived ones neither, most events first. Without them
/// the page is right.
async fn not_described(
    console: &Console,
    visit: &Visit,
    seen: &HashMap<String, i64>,
) -> Result<Vec<(String, i64)>> {
    let acting: Reading = visit.acting().await?;
    let client = console.reads.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- described_of_these\n\
             SELECT name FROM event_types WHERE tenant = $1 AND name = ANY($2)",
        )
        .await?;
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    let rows = client.query(&statement, &[&acting.tenant, &names]).await?;
    let known: HashSet<&str> = rows.iter().map(|row| row.get(0)).collect();
    let others = seen
        .iter()
        .filter(|(name, _)| !known.contains(name.as_str()));
    let mut others: Vec<_> = others
        .map(|(name, events)| (name.clone(), *events))
        .collect();
    others.sort_by_key(|(name, events)| (std::cmp::Reverse(*events), name.clone()));
    Ok(others)
}

/// Whether the tenant takes events of described types alone.
async fn is_strict(console: &Console, visit: &Visit) -> Result<bool> {
    let acting: Reading = visit.acting().await?;
    let client = console.reads.pool.get().await?;
    let statement = client
        .prepare_cached("-- is_strict\nSELECT strict_event_types FROM tenants WHERE id = $1")
        .await?;
    Ok(client
        .query_one(&statement, &[&acting.tenant])
        .await?
        .get(0))
}

/// How many letters are looked at.
const LETTERS: i64 = 1_000;

/// How many events of a type became dead letters in the last day because they aren't what its
/// schema says. The second: there may be more. What is refused over HTTP isn't kept.
async fn refused(console: &Console, visit: &Visit, name: &EventType) -> Result<(i64, bool)> {
    let acting: Reading = visit.acting().await?;
    let client = console.reads.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- refused_by_schema\n\
             SELECT count(*) FILTER (WHERE starts_with(reason, $3)) AS refused, count(*) AS seen \
             FROM (SELECT reason FROM dead_letters WHERE owner = $1 AND id >= $2 \
                 ORDER BY owner DESC, id DESC LIMIT $4) l",
        )
        .await?;
    let since = first_uuid_at(clock::now() - Duration::DAY);
    // As `event_types::Unfit` begins.
    let reason = format!("the data is not what the schema of `{name}` says");
    let row = client
        .query_one(&statement, &[&acting.tenant, &since, &reason, &LETTERS])
        .await?;
    Ok((row.get("refused"), row.get::<_, i64>("seen") >= LETTERS))
}

fn list_of_seen(path: &str, others: &[(String, i64)], may: bool) -> Markup {
    let rows = html! {
        @for (name, events) in others.iter().take(20) {
            (tr(&html! {
                (td("grow first", &html! { code { (excerpt(name, 80)) } }))
                (num("", Some("events"), &number(*events)))
                (td("last", &html! { @if may { a class="btn tiny" href={ (path) "/new" (query(&[("name", name)])) } { "Describe it" } } }))
            }))
        }
    };
    html! {
        section {
            h2 { "Seen in the last 24 hours, and not described" }
            (table("tight", &[Head::Text("Name"), Head::Number("Events, 24 h"), Head::Text("")], &rows))
            @if others.len() > 20 { p class="small soft" { (others.len() - 20) " more." } }
        }
    }
}

fn list(
    path: &str,
    shown: &[&EventTypeView],
    webhooks: Option<&[WebhookView]>,
    seen: &Option<HashMap<String, i64>>,
) -> Markup {
    let events = |one: &EventTypeView| {
        let seen = seen.as_ref()?;
        Some(seen.get(one.name.as_str()).copied().unwrap_or(0))
    };
    let heads = [
        Head::Text("Name"),
        Head::Text("What it means"),
        Head::Text("Schema"),
        Head::Number("Events, 24 h"),
        Head::Number("Webhooks"),
    ];
    let rows = html! {
        @for one in shown {
            (tr(&html! {
                (td("", &html! {
                    a href={ (path) "/" (segment(one.name.as_str())) } { code { (line(one.name.as_str())) } }
                    @if one.archived { " " span class="tag" { "archived" } }
                }))
                (td("grow full", &html! { span class="cut" { (excerpt(&one.description, 160)) } }))
                (td("", &has_schema(one)))
                (num("", Some("events"), &html! { @match events(one) { Some(events) => (number(events)), None => (dash()) } }))
                (num("last", Some("webhooks"), &html! { @match webhooks {
                    Some(webhooks) => (listeners(one.name.as_str(), webhooks).len()),
                    None => (dash()),
                } }))
            }))
        }
    };
    table("", &heads, &rows)
}

fn has_schema(one: &EventTypeView) -> Markup {
    html! {
        @if one.schema.is_some() { span class="st good" { (icon("ok")) "Checked" } }
        @else { span class="soft" { "none" } }
    }
}

/// The webhooks with a pattern for this type, and that pattern.
fn listeners<'a>(event_type: &str, webhooks: &'a [WebhookView]) -> Vec<(&'a WebhookView, &'a str)> {
    let listening = |webhook: &'a WebhookView| Some((webhook, pattern_for(webhook, event_type)?));
    let listening = webhooks.iter().filter_map(listening);
    listening
        .filter(|(webhook, _)| !webhook.operational)
        .collect()
}

#[derive(Deserialize, Default)]
pub struct View {
    #[serde(default)]
    view: String,
}

/// `GET /console/{tenant}/event-types/{name}?view=`
pub async fn show_one(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(event_type): At<EventType>,
    Query(view): Query<View>,
) -> Result<Html<String>> {
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    let one = event_types::show(acting, api, Id(event_type)).await?.0;
    let webhooks = all(&console, &visit, None).await;
    let came = seen(&console, &visit).await;
    let came = came.map(|seen| seen.get(one.name.as_str()).copied().unwrap_or(0));
    let refused = match one.schema {
        Some(_) => refused(&console, &visit, &one.name).await.ok(),
        None => None,
    };
    let path = visit.path(&format!("/event-types/{}", segment(one.name.as_str())));
    let may = visit.by.may(Role::Manager);
    let as_json = view.view == "json";
    let views = [
        (path.clone(), "Table", !as_json),
        (format!("{path}?view=json"), "JSON Schema", as_json),
    ];
    let title = one.name.to_string();
    let content = html! {
        div class="head" {
            div {
                h1 { (line(&title)) }
                p class="sub" { span { (line(&one.description)) } @if let Some(came) = came { span { (count(came, "event")) " in 24 hours" } } @if one.archived { span { "archived: new webhooks may not listen to it" } } }
            }
            @if may { div class="row" {
                a class="btn" href={ (visit.path("/events/new")) (query(&[("type", &title)])) } { "Publish one" }
                a class="btn" href={ (path) "/edit" } data-key="e" { "Edit " kbd aria-hidden="true" { "e" } }
            } }
        }
        div class="cols wide" {
            div class="stack" { section {
                div class="row apart" { h2 { "What its data looks like" } @if one.schema.is_some() { (choice("View", &views)) } }
                @match one.schema.as_ref() {
                    None => (empty("It has no schema", &html! { "Events of this type are taken whatever their data is." }, &html! {})),
                    Some(schema) if as_json => (code(&payload(schema.get()))),
                    Some(schema) => (schema_table(schema.get())),
                }
                @if one.schema.is_some() {
                    p class="small soft" { "Events that don't fit are refused: with 422 over HTTP, as dead letters over AMQP." @if let Some((many, more)) = refused { @if many > 0 { " " (number(many)) @if more { "+" } @if many == 1 { " was" } @else { " were" } ", over AMQP in 24 hours." } @else { " None was, over AMQP in 24 hours." } } }
                }
            } }
            div class="stack" {
                section class="panel" {
                    header { h2 { "Example" } }
                    div class="pad" { @match one.example.as_ref() {
                        Some(example) => (code(&payload(example.get()))),
                        None => span class="soft" { "None is given." },
                    } }
                }
                section class="panel" {
                    header { h2 { "Who listens" } }
                    @match &webhooks {
                        Ok((webhooks, _)) => (who_listens(&visit, &listeners(&title, webhooks))),
                        Err(unread) => (unreadable("The list of webhooks", unread.is_too_slow())),
                    }
                }
            }
        }
    };
    Ok(Page::of_tenant(&visit, Section::EventTypes, title).show(&content))
}

fn who_listens(visit: &Visit, listening: &[(&WebhookView, &str)]) -> Markup {
    html! {
        @if listening.is_empty() { p class="pad soft" { "Nobody." } }
        @else { div class="scroll" { table class="tight" { tbody {
            @for (webhook, pattern) in listening { tr {
                td class="break" { a href=(visit.path(&format!("/webhooks/{}", webhook.id))) { (line(name(webhook))) } }
                td class="break" {
                    code { (line(pattern)) }
                    @if webhook.filters.is_some() { span class="small" { " and a filter" } }
                }
            } }
        } } } }
    }
}
