//! The form of an event type, deleting one, and importing a catalogue.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use shared::ids::EventType;
use tokio::task::block_in_place;

use crate::api::event_types::{self, ImportForm};
use crate::api::http::json;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Body, Id};
use crate::console::confirm::{Question, SURE};
use crate::console::failure::Result;
use crate::console::fields::segment;
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::count;
use crate::console::pages::webhooks::all;
use crate::console::parts::{field, note, reasons};
use crate::console::state::Console;
use crate::console::text::{line, plain};
use crate::console::visit::{At, ManagerVisit, Posted, Visitor};
use crate::cpu;
use crate::event_types::collections::COLLECTIONS;
use crate::event_types::form::EventTypeForm;
use crate::invalid::{Gathered, Invalid};
use crate::plain_words::of_json;

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
pub async fn new(visit: ManagerVisit, Query(params): Query<Named>) -> Html<String> {
    let form = Form {
        name: params.name,
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
    let problem = match sent(&visit, &form).await {
        Err(problem) => problem,
        Ok((name, body)) => {
            let acting = visit.acting().await?;
            let api = State(console.api.clone());
            match event_types::put(acting, api, Id(name), Body(body)).await {
                Ok(_) => {
                    let path = format!("/event-types/{}", segment(&form.name));
                    return Ok(Ok(Redirect::to(&visit.path(&path))));
                }
                Err(problem) => problem,
            }
        }
    };
    if !problem.status().is_client_error() {
        return Err(problem.into());
    }
    let wrong = reasons(&problem);
    Ok(Err(form_page(&visit, &form, is_new, Some(&wrong))))
}

/// The name and the body that a client would send. What the API would refuse is checked here only
/// if something else is wrong already, so that all of it is said at once.
async fn sent(
    visit: &ManagerVisit,
    form: &Form,
) -> std::result::Result<(EventType, EventTypeForm), Problem> {
    let mut wrong = Gathered::default();
    let name = form.name.parse::<EventType>();
    let name = wrong.keep(name.map_err(|error| Invalid::new("name", error)));
    let mut body = Map::new();
    body.insert("description".to_owned(), form.description.clone().into());
    body.insert("archived".to_owned(), form.archived.into());
    let mut text = Value::Object(body).to_string();
    for (member, json) in [("example", &form.example), ("schema", &form.schema)] {
        if json.is_empty() {
            continue;
        }
        if let Err(error) = serde_json::from_str::<&RawValue>(json) {
            let reason = of_json(&error);
            wrong.add(Invalid::new(member, format!("isn't JSON: {reason}")));
            continue;
        }
        // As it was typed: no number loses a digit.
        text.truncate(text.len() - 1);
        text.push_str(&format!(",\"{member}\":{json}}}"));
    }
    let body: EventTypeForm = json::read(text.as_bytes())?;
    match name {
        Some(name) if wrong.is_empty() => Ok((name, body)),
        name => {
            let _permit = cpu::permit(&visit.tenant).await?;
            block_in_place(|| body.entry(name, "", &mut wrong));
            Err(wrong.into_invalids().into())
        }
    }
}

/// `POST /console/{tenant}/event-types/{name}/delete`
pub async fn delete(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(event_type): At<EventType>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    if !fields.has(SURE) {
        let content = ask_delete(&console, &visit, &event_type).await;
        let page = Page::of_tenant(&visit, Section::EventTypes, "Delete an event type");
        return Ok(Err(page.show(&content)));
    }
    let acting = visit.acting().await?;
    event_types::delete(acting, State(console.api.clone()), Id(event_type)).await?;
    Ok(Ok(Redirect::to(&visit.path("/event-types"))))
}

async fn ask_delete(console: &Console, visit: &ManagerVisit, event_type: &EventType) -> Markup {
    let name = event_type.as_str();
    // If the webhooks can't be read, the question leaves out their number.
    let webhooks = all(console, visit, None).await.ok();
    let listening =
        webhooks.map(|(all, more)| (super::listeners(name, &all).len(), more.is_some()));
    let path = visit.path(&format!("/event-types/{}", segment(name)));
    Question {
        asks: html! { "Delete the event type " code { (line(name)) } "?" },
        says: html! {
            p {
                "It leaves the catalogue, with its schema and its example. "
                @if let Some((many, more)) = listening {
                    (count(many as i64, "webhook")) @if more { " or more" }
                    @if many == 1 { " listens to it, and stays as it is." } @else { " listen to it, and stay as they are." }
                }
            }
            p class="soft" { "Events of it are what they were. In a strict tenant no more are taken." }
        },
        action: &format!("{path}/delete"),
        fields: &[],
        does: "Delete this type",
        back: (&path, "Keep it"),
    }
    .page(&visit.by)
}

fn form_page(
    visit: &ManagerVisit,
    form: &Form,
    is_new: bool,
    wrong: Option<&Markup>,
) -> Html<String> {
    let title = match is_new {
        true => "Describe an event type".to_owned(),
        false => format!("Edit {}", form.name),
    };
    let path = visit.path("/event-types");
    let content = html! {
        div class="head" { div { h1 { (line(&title)) } } }
        @if let Some(wrong) = wrong { (note("fail", "fail", &html! { "That can't be saved." }, wrong, &html! {})) }
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
    Page::of_tenant(visit, Section::EventTypes, title).show(&content)
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
    Page::of_tenant(&visit, Section::EventTypes, "Import a catalogue").show(&content)
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
