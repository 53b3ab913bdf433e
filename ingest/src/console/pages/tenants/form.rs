//! The form of a tenant: a new one, or a change.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde_json::{Map, Value};
use shared::ids::Tenant;

use super::PATH;
use crate::api::http::json;
use crate::api::http::request::{Body, Name};
use crate::api::tenants;
use crate::console::failure::Result;
use crate::console::fields::Fields;
use crate::console::frame::{Page, Section, csrf};
use crate::console::parts::{field, note, reasons};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{At, Operation, Posted};
use crate::tenants::view::TenantView;

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
    let made = match json::read(Value::Object(body).to_string().as_bytes()) {
        Ok(new) => tenants::create(operation.operating(), api, Body(new)).await,
        Err(problem) => Err(problem),
    };
    Ok(match made {
        Ok(made) => Ok(Redirect::to(&format!("{PATH}/{}", made.into_body().id))),
        Err(problem) if problem.status().is_client_error() => Err(form_page(
            &operation,
            None,
            &fields,
            Some(&reasons(&problem)),
        )),
        Err(problem) => return Err(problem.into()),
    })
}

/// `GET /console/_/tenants/{id}/edit`
pub async fn edit(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(id): At<Tenant>,
) -> Result<Html<String>> {
    let api = State(console.api.clone());
    let tenant = tenants::show(operation.operating(), api, Name(id.to_string()))
        .await?
        .0;
    Ok(form_page(
        &operation,
        Some(&tenant),
        &Fields::default(),
        None,
    ))
}

/// `POST /console/_/tenants/{id}`
pub async fn save(
    State(console): State<Arc<Console>>,
    operation: Operation,
    At(id): At<Tenant>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let api = || State(console.api.clone());
    let change = json::read(Value::Object(change(&fields)).to_string().as_bytes());
    let changed = match change {
        Ok(change) => {
            let name = Name(id.to_string());
            tenants::change(operation.operating(), api(), name, Body(change)).await
        }
        Err(problem) => Err(problem),
    };
    Ok(match changed {
        Ok(changed) => Ok(Redirect::to(&format!("{PATH}/{}", changed.0.id))),
        Err(problem) if problem.status().is_client_error() => {
            let tenant = tenants::show(operation.operating(), api(), Name(id.to_string()))
                .await?
                .0;
            let wrong = reasons(&problem);
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
        Value::Array(origins.map(Value::from).collect()),
    );
    body.insert("limits".to_owned(), Value::Object(limits));
    body
}

/// `sent`: what was entered, where that couldn't be saved.
fn form_page(
    operation: &Operation,
    tenant: Option<&TenantView>,
    sent: &Fields,
    wrong: Option<&Markup>,
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
        @if let Some(wrong) = wrong { (note("fail", "fail", &html! { "That can't be saved." }, wrong, &html! {})) }
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
    Page::of_operator(operation, Section::Tenants, title).show(&content)
}
