//! A tenant's catalogue of event types, and one type: its schema as a table, its example, who
//! listens.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use shared::ids::EventType;

use crate::api::access::role::Role;
use crate::api::event_types::{self, EventTypeQuery, ImportForm};
use crate::api::http::request::{Body, Id, Parameters};
use crate::api::webhooks::stats::{StatsQuery, Window};
use crate::api::webhooks::type_stats;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::fields::{query, segment};
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{count, number};
use crate::console::pages::webhooks::{all, name};
use crate::console::parts::{
    Head, choice, code, dash, empty, facets, field, note, num, pager, payload, table, td, tr,
};
use crate::console::state::Console;
use crate::console::text::{excerpt, line, plain};
use crate::console::visit::{At, ManagerVisit, Posted, Visit, Visitor};
use crate::event_types::collections::COLLECTIONS;
use crate::event_types::form::EventTypeForm;
use crate::event_types::store::EventTypeView;
use crate::matching::Pattern;

/// How deep a schema's table goes, and how many members it shows.
const DEPTH: usize = 4;
const MEMBERS: usize = 100;
/// How many types a page lists, within its budget.
const SHOWN: i64 = 80;

#[derive(Deserialize, Default)]
pub struct Asked {
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
    Query(asked): Query<Asked>,
) -> Result<Html<String>> {
    let wanted = EventTypeQuery {
        archived: (asked.only == "archived").then_some(true),
        limit: Some(SHOWN),
        cursor: asked.cursor.clone(),
    };
    let acting = visit.acting().await?;
    let page = event_types::list(acting, State(console.reads.clone()), Parameters(wanted)).await?;
    let page = page.0;
    let (webhooks, _) = all(&console, &visit, None).await?;
    let seen = seen(&console, &visit).await;
    let q = asked.q.trim().to_lowercase();
    let fits = |one: &&EventTypeView| {
        let has = |text: &str| text.to_lowercase().contains(&q);
        (q.is_empty() || has(one.name.as_str()) || has(&one.description))
            && (asked.only != "bare" || one.schema.is_none())
    };
    let shown: Vec<_> = page.event_types.iter().filter(fits).collect();
    let path = visit.path("/event-types");
    let to = |only: &str| format!("{path}{}", query(&[("q", asked.q.trim()), ("only", only)]));
    let ready = [
        (to(""), html! { "All" }, asked.only.is_empty()),
        (
            to("bare"),
            html! { "Without a schema" },
            asked.only == "bare",
        ),
        (
            to("archived"),
            html! { "Archived" },
            asked.only == "archived",
        ),
    ];
    let may = visit.by.may(Role::Manager);
    let content = html! {
        div class="head" {
            div { h1 { "Event types" } p class="sub" { (count(page.event_types.len() as i64, "type")) " described" @if page.next_cursor.is_some() { ", and more" } } }
            @if may { div class="row" {
                a class="btn" href={ (path) "/import" } { "Import a catalogue" }
                a class="btn main-btn" href={ (path) "/new" } data-key="c" { (icon("plus")) "Describe one" }
            } }
        }
        @if page.event_types.is_empty() && asked.only.is_empty() {
            (empty("None described", &html! { "Types that are described are offered to those who make webhooks, and events are checked against their schemas. Import a catalogue, or describe one." },
                &html! { @if may { a class="btn main-btn" href={ (path) "/new" } { "Describe one" } } }))
        } @else {
            form class="query" action=(path) role="search" aria-label="Event types" {
                div class="chips" { (icon("search"))
                    input name="q" value=(plain(&asked.q)) aria-label="Filter types" placeholder="Part of a name or description" maxlength="256" autocomplete="off" spellcheck="false"; }
                button class="btn" { "Filter" }
            }
            (facets("Ready filters", &ready, &html! {}))
            @if shown.is_empty() { (empty("Nothing matches", &html! { "No type of this page passes these filters." }, &html! { a class="btn" href=(path) { "All types" } })) }
            @else { (list(&path, &shown, &webhooks, &seen)) }
            @if let (Some(seen), None, None) = (&seen, &page.next_cursor, &asked.cursor) { (not_described(&path, seen, &page.event_types, may)) }
            @if let Some(cursor) = &page.next_cursor {
                (pager(&html! { (shown.len()) " shown" }, Some(&format!("{path}{}", query(&[("only", &asked.only), ("cursor", cursor.as_str())])))))
            }
        }
    };
    Ok(Page::of(&visit, Section::EventTypes, "Event types").show(&content))
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

/// Types that came and aren't described, most events first.
fn not_described(
    path: &str,
    seen: &HashMap<String, i64>,
    known: &[EventTypeView],
    may: bool,
) -> Markup {
    let is_known = |name: &str| known.iter().any(|one| one.name.as_str() == name);
    let mut others: Vec<_> = seen.iter().filter(|(name, _)| !is_known(name)).collect();
    others.sort_by_key(|(name, events)| (std::cmp::Reverse(**events), (*name).clone()));
    if others.is_empty() {
        return html! {};
    }
    let rows = html! {
        @for (name, events) in others.iter().take(20) {
            (tr(&html! {
                (td("grow first", &html! { code { (excerpt(name, 80)) } }))
                (num("", Some("events"), &number(**events)))
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
    webhooks: &[WebhookView],
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
                (num("last", Some("webhooks"), &listeners(one.name.as_str(), webhooks).len()))
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
    let listening = |webhook: &'a WebhookView| {
        let mut patterns = webhook.events.iter();
        let pattern = patterns.find(|text| {
            text.parse::<Pattern>()
                .is_ok_and(|pattern| pattern.listens_to(event_type))
        })?;
        Some((webhook, pattern.as_str()))
    };
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
    let (webhooks, _) = all(&console, &visit, None).await?;
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
                p class="sub" { span { (line(&one.description)) } @if one.archived { span { "archived: new webhooks may not listen to it" } } }
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
                    p class="small soft" { "Events that don't fit are refused: with 422 over HTTP, as dead letters over AMQP." }
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
                    (who_listens(&visit, &listeners(&title, &webhooks)))
                }
            }
        }
    };
    Ok(Page::of(&visit, Section::EventTypes, title).show(&content))
}

fn who_listens(visit: &Visit, listening: &[(&WebhookView, &str)]) -> Markup {
    html! {
        @if listening.is_empty() { p class="pad soft" { "Nobody." } }
        @else { div class="scroll" { table class="tight" { tbody {
            @for (webhook, pattern) in listening { tr {
                td { a href=(visit.path(&format!("/webhooks/{}", webhook.id))) { (line(name(webhook))) } }
                td {
                    code { (line(pattern)) }
                    @if webhook.filters.is_some() { span class="small" { " and a filter" } }
                }
            } }
        } } } }
    }
}

/// A row of a schema's table.
struct Member {
    depth: usize,
    name: String,
    kind: String,
    required: bool,
    meaning: String,
}

fn schema_table(schema: &str) -> Markup {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let mut members = Vec::new();
    collect(&schema, &schema, 0, &mut members);
    html! {
        @if members.is_empty() { (code(&payload(&schema.to_string()))) }
        @else { div class="scroll" { table class="tight" {
            thead { tr { th { "Member" } th { "Type" } th { "Required" } th { "Meaning" } } }
            tbody { @for member in &members { tr {
                td { code { @for _ in 0..member.depth { "\u{a0}\u{a0}" } (line(&member.name)) } }
                td { span class="soft" { (line(&member.kind)) } }
                td { @if member.required { "yes" } @else { span class="soft" { "no" } } }
                td class="grow soft" { (line(&member.meaning)) }
            } } }
        } } }
        @if members.len() == MEMBERS { p class="small soft" { "The first " (MEMBERS) " are shown; the JSON Schema has them all." } }
    }
}

/// What a reference within the schema leads to, followed once.
fn resolved<'a>(root: &'a Value, at: &'a Value) -> &'a Value {
    let reference = at["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
    reference.and_then(|path| root.pointer(path)).unwrap_or(at)
}

fn collect(root: &Value, at: &Value, depth: usize, members: &mut Vec<Member>) {
    let at = resolved(root, at);
    let Some(properties) = at["properties"].as_object() else {
        return;
    };
    let required: Vec<_> = at["required"].as_array().into_iter().flatten().collect();
    for (name, property) in properties {
        if members.len() >= MEMBERS {
            return;
        }
        let property = resolved(root, property);
        members.push(Member {
            depth,
            name: name.clone(),
            kind: kind(property),
            required: required.iter().any(|known| *known == name),
            meaning: property["description"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        });
        if depth + 1 < DEPTH {
            collect(root, property, depth + 1, members);
            collect(root, &property["items"], depth + 1, members);
        }
    }
}

/// A type in words: `number, at least 0`.
fn kind(property: &Value) -> String {
    if let Some(values) = property["enum"].as_array() {
        let values: Vec<_> = values.iter().take(8).map(Value::to_string).collect();
        return values.join(", ");
    }
    if !property["const"].is_null() {
        return property["const"].to_string();
    }
    let of = |kind: &Value| match kind {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
            kinds.join(" or ")
        }
        _ => "any".to_owned(),
    };
    let mut words = match of(&property["type"]).as_str() {
        "array" => format!("list of {}", of(&property["items"]["type"])),
        other => other.to_owned(),
    };
    for (member, said) in [
        ("minimum", "at least"),
        ("exclusiveMinimum", "more than"),
        ("maximum", "at most"),
        ("minLength", "characters, at least"),
        ("maxLength", "characters, at most"),
        ("maxItems", "items, at most"),
        ("format", "format"),
        ("pattern", "pattern"),
    ] {
        match &property[member] {
            Value::Number(number) => words.push_str(&format!(", {said} {number}")),
            Value::String(text) => words.push_str(&format!(", {said} {text}")),
            _ => {}
        }
    }
    words
}

/// The fields of a type's form.
#[derive(Default)]
struct Form {
    name: String,
    description: String,
    example: String,
    schema: String,
    archived: bool,
}

/// `GET /console/{tenant}/event-types/new`
pub async fn new(visit: ManagerVisit, Query(asked): Query<Named>) -> Html<String> {
    let form = Form {
        name: asked.name,
        ..Form::default()
    };
    form_page(&visit, &form, true, None)
}

#[derive(Deserialize, Default)]
pub struct Named {
    #[serde(default)]
    name: String,
}

/// `GET /console/{tenant}/event-types/{name}/edit`
pub async fn edit(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(event_type): At<EventType>,
) -> Result<Html<String>> {
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    let one = event_types::show(acting, api, Id(event_type)).await?.0;
    let text = |json: &Option<Box<RawValue>>| json.as_ref().map(|json| json.get().to_owned());
    let form = Form {
        name: one.name.to_string(),
        description: one.description.clone(),
        example: text(&one.example).unwrap_or_default(),
        schema: text(&one.schema).unwrap_or_default(),
        archived: one.archived,
    };
    Ok(form_page(&visit, &form, false, None))
}

/// `POST /console/{tenant}/event-types`: saves one.
pub async fn save(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let is_new = fields.has("new");
    let form = Form {
        name: fields.text("name").trim().to_owned(),
        description: fields.text("description").to_owned(),
        example: fields.text("example").trim().to_owned(),
        schema: fields.text("schema").trim().to_owned(),
        archived: fields.has("archived"),
    };
    let wrong = match (form.name.parse::<EventType>(), sent(&form)) {
        (Err(error), _) => format!("name: {error}"),
        (_, Err(wrong)) => wrong,
        (Ok(name), Ok(body)) => {
            let acting = visit.acting().await?;
            let api = State(console.api.clone());
            match event_types::put(acting, api, Id(name), Body(body)).await {
                Ok(_) => {
                    let path = format!("/event-types/{}", segment(&form.name));
                    return Ok(Ok(Redirect::to(&visit.path(&path))));
                }
                Err(problem) if problem.status().is_client_error() => problem.to_string(),
                Err(problem) => return Err(problem.into()),
            }
        }
    };
    Ok(Err(form_page(&visit, &form, is_new, Some(&wrong))))
}

fn sent(form: &Form) -> std::result::Result<EventTypeForm, String> {
    let mut body = Map::new();
    body.insert("description".to_owned(), form.description.clone().into());
    body.insert("archived".to_owned(), form.archived.into());
    let mut text = Value::Object(body).to_string();
    for (member, json) in [("example", &form.example), ("schema", &form.schema)] {
        if json.is_empty() {
            continue;
        }
        serde_json::from_str::<&RawValue>(json)
            .map_err(|error| format!("{member}: it isn't JSON: {error}"))?;
        // As it was typed: no number loses a digit.
        text.truncate(text.len() - 1);
        text.push_str(&format!(",\"{member}\":{json}}}"));
    }
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// `POST /console/{tenant}/event-types/{name}/delete`
pub async fn delete(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(event_type): At<EventType>,
) -> Result<Redirect> {
    let acting = visit.acting().await?;
    event_types::delete(acting, State(console.api.clone()), Id(event_type)).await?;
    Ok(Redirect::to(&visit.path("/event-types")))
}

fn form_page(visit: &ManagerVisit, form: &Form, is_new: bool, wrong: Option<&str>) -> Html<String> {
    let title = match is_new {
        true => "Describe an event type".to_owned(),
        false => format!("Edit {}", form.name),
    };
    let path = visit.path("/event-types");
    let content = html! {
        div class="head" { div { h1 { (line(&title)) } } }
        @if let Some(wrong) = wrong { (note("fail", "fail", &html! { "That can't be saved." }, &html! { (line(wrong)) }, &html! {})) }
        form class="form" method="post" action=(path) {
            (csrf(&visit.by))
            @if is_new { input type="hidden" name="new" value="1"; }
            (field("tn", &html! { "Name" }, None, None, &|id, _| html! {
                input id=(id) name="name" value=(plain(&form.name)) required readonly[!is_new] maxlength="128" spellcheck="false" autocomplete="off" placeholder="order.paid";
            }))
            (field("td", &html! { "What it means" }, None, None, &|id, _| html! {
                textarea id=(id) name="description" rows="2" maxlength="1024" { "\n" (form.description) }
            }))
            (field("te", &html! { "Example of its data" }, None, None, &|id, _| html! {
                textarea id=(id) name="example" rows="8" spellcheck="false" { "\n" (form.example) }
            }))
            (field("ts", &html! { "JSON Schema" }, Some(&html! { "Events that don't fit are refused. Empty: all are taken." }), None, &|id, described| html! {
                textarea id=(id) name="schema" rows="14" spellcheck="false" aria-describedby=[described] { "\n" (form.schema) }
            }))
            label class="check" { input type="checkbox" name="archived" checked[form.archived]; " Archived" span class="hint" { "New webhooks may not listen to it any more. Its events are still taken." } }
            div class="row" { button class="btn main-btn" { "Save" } a class="btn quiet" href=(path) { "Leave it" } }
        }
        @if !is_new { (delete_form(&visit.by, &format!("{path}/{}", segment(&form.name)))) }
    };
    Page::of(visit, Section::EventTypes, title).show(&content)
}

fn delete_form(by: &Visitor, path: &str) -> Markup {
    html! {
        form class="section-gap" method="post" action={ (path) "/delete" } {
            (csrf(by))
            p class="soft" { "Deleted, it leaves the catalogue. Events of it are what they were, and in a strict tenant no more are taken." }
            button class="btn risk" { "Delete this type" }
        }
    }
}

/// `GET /console/{tenant}/event-types/import`
pub async fn import_page(visit: ManagerVisit) -> Html<String> {
    let content = html! {
        div class="head" { div { h1 { "Import a catalogue" } p class="sub" { "Types of other names stay. Types of the same names are replaced." } } }
        section class="panel" {
            form class="pad row" method="post" action=(visit.path("/event-types/import")) {
                (csrf(&visit.by))
                label class="row" { "Catalogue " select name="catalogue" {
                    @for collection in &COLLECTIONS { option value=(collection.name) { (collection.name) } }
                } }
                button class="btn main-btn" { "Import" }
            }
        }
        p class="soft" { "One of your own: " code { "POST /api/v1/event-types/import" } ", or a file for " code { "posthorn-ingest apply" } "." }
    };
    Page::of(&visit, Section::EventTypes, "Import a catalogue").show(&content)
}

/// `POST /console/{tenant}/event-types/import`
pub async fn import(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let form = ImportForm {
        catalogue: fields.filled("catalogue").map(str::to_owned),
        name: String::new(),
        description: String::new(),
        event_types: None,
    };
    let acting = visit.acting().await?;
    let _: axum::Json<_> =
        event_types::import(acting, State(console.api.clone()), Body(form)).await?;
    Ok(Redirect::to(&visit.path("/event-types")))
}
