//! Creates a webhook, or changes one.
//!
//! The form is turned into the request that a client of the API would send. All errors are shown
//! at once, each beside its field. A change carries the webhook's revision from when the form was
//! shown. If somebody else has changed the webhook since, both versions are shown and nothing is
//! overwritten.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::{Map, Value};
use shared::ids::WebhookId;

use crate::api::access::auth::OwnReading;
use crate::api::changes::Change;
use crate::api::event_types::{self, EventTypeQuery};
use crate::api::http::json;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Body, Id, MAX_PAGE, Parameters};
use crate::api::state::Shared;
use crate::api::webhooks;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::fields::Fields;
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::ago;
use crate::console::pages::log::changed;
use crate::console::pages::webhooks::name;
use crate::console::parts::note;
use crate::console::session::shown_once::keep_secret;
use crate::console::state::Console;
use crate::console::text::{excerpt, line};
use crate::console::visit::{At, ManagerVisit, Posted};
use crate::webhooks::form::WebhookForm;

mod foreseen;
mod form;
mod values;

use foreseen::{previewed, unasked};
use form::{fields, summary};
use values::{Blames, Values, is_shown_again};

/// The most bytes of a form. All of a webhook's definition has at most 64 KiB. Its filter is sent
/// twice, with the white space that indents it.
const MAX_FORM: usize = 256 * 1024;

/// Refuses a form that no webhook needs, before its filter is parsed and its patterns are split.
fn check_size(sent: &Fields) -> Result<()> {
    match sent.bytes() {
        0..=MAX_FORM => Ok(()),
        bytes => {
            let bound = format!("the form has {bytes} bytes; at most {MAX_FORM} are allowed");
            Err(Problem::too_large(bound).into())
        }
    }
}

/// `GET /console/{tenant}/webhooks/new`
pub async fn new(State(console): State<Arc<Console>>, visit: ManagerVisit) -> Html<String> {
    let values = Values {
        clauses: Some(Vec::new()),
        empty_rows: 1,
        per: "second".to_owned(),
        ..Values::default()
    };
    new_page(&console, &visit, &values, &Blames::default(), &unasked()).await
}

async fn new_page(
    console: &Console,
    visit: &ManagerVisit,
    values: &Values,
    blames: &Blames,
    beside: &Markup,
) -> Html<String> {
    let path = visit.path("/webhooks");
    let known = known_types(console, visit).await;
    let content = html! {
        div class="head" { div { h1 { "New webhook" } p class="sub" { "Where deliveries go, and which events." } } }
        (summary(blames))
        div class="cols wide" {
            form class="form" method="post" action={ (path) "/new" } {
                (csrf(&visit.by))
                (fields(console, visit, values, blames, (false, &known)))
                div class="row" {
                    button class="btn main-btn" { "Create" }
                    button class="btn" name="then" value="test" { "Create and test" }
                    button class="btn quiet" name="preview" value="1" formnovalidate { "Preview" }
                    a class="btn quiet" href=(path) { "Cancel" }
                }
            }
            (beside)
        }
    };
    Page::of_tenant(visit, Section::Webhooks, "New webhook").show(&content)
}

/// `POST /console/{tenant}/webhooks/new`
pub async fn create(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(sent): Posted,
) -> Result<Response> {
    check_size(&sent)?;
    let values = Values::of_form(&sent);
    if is_shown_again(&sent) {
        let (beside, blames) = previewed(&console, &visit, &values).await?;
        let page = new_page(&console, &visit, &values, &blames, &beside).await;
        return Ok(page.into_response());
    }
    let (body, blames) = values.body(None);
    let form = read(body);
    if !blames.is_empty() {
        let check = |form: WebhookForm| -> std::result::Result<(), Problem> {
            let api = &console.api;
            form.check_new(&api.destinations, &api.dialects)?;
            Ok(())
        };
        let blames = blames.and(Blames::of_result(form.and_then(check)));
        let page = new_page(&console, &visit, &values, &blames, &unasked()).await;
        return Ok(refused(page));
    }
    let made = match form {
        Ok(form) => {
            let acting = visit.acting().await?;
            webhooks::create(acting, State(console.api.clone()), Body(form)).await
        }
        Err(problem) => Err(problem),
    };
    match made {
        Ok(made) => {
            let webhook = made.1;
            keep_secret(
                &console.api,
                &visit.by.session,
                &webhook.id.to_string(),
                &webhook.secret,
            )
            .await?;
            let then = match sent.text("then") {
                "test" => "test",
                _ => "secret",
            };
            let path = visit.path(&format!("/webhooks/{}/{then}", webhook.id));
            Ok(Redirect::to(&path).into_response())
        }
        Err(problem) if problem.status().is_client_error() => {
            let blames = Blames::from_problem(problem);
            let page = new_page(&console, &visit, &values, &blames, &unasked()).await;
            Ok(refused(page))
        }
        Err(problem) => Err(problem.into()),
    }
}

fn refused(page: Html<String>) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
}

fn read(body: Map<String, Value>) -> std::result::Result<WebhookForm, Problem> {
    json::read(Value::Object(body).to_string().as_bytes())
}

/// `GET …/edit`
pub async fn edit(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let values = Values::of_webhook(&webhook);
    let parts = (&html! {}, &unasked());
    Ok(edit_page(
        &console,
        &visit,
        &webhook,
        &values,
        &Blames::default(),
        parts,
    )
    .await)
}

async fn edit_page(
    console: &Console,
    visit: &ManagerVisit,
    webhook: &WebhookView,
    values: &Values,
    blames: &Blames,
    (above, beside): (&Markup, &Markup),
) -> Html<String> {
    let path = visit.path(&format!("/webhooks/{}", webhook.id));
    let etag = webhook.etag().to_str().unwrap_or_default().to_owned();
    let known = known_types(console, visit).await;
    let content = html! {
        div class="head" { div { h1 { "Edit " (line(name(webhook))) } } }
        (above)
        @if let Some(key) = &webhook.key {
            (note("slow", "warn", &html! { "A file made this webhook, as " code { (line(key)) } "." },
                &html! { "Change it there: the next apply undoes what is changed here." }, &html! {}))
        }
        (summary(blames))
        div class="cols wide" {
            form class="form" method="post" action={ (path) "/edit" } {
                (csrf(&visit.by))
                input type="hidden" name="etag" value=(etag);
                (fields(console, visit, values, blames, (true, &known)))
                div class="row" {
                    button class="btn main-btn" { "Save" }
                    button class="btn quiet" name="preview" value="1" formnovalidate { "Preview" }
                    a class="btn quiet" href={ (path) "/settings" } { "Cancel" }
                }
            }
            (beside)
        }
    };
    Page::of_tenant(visit, Section::Webhooks, "Edit")
        .below(path, line(name(webhook)))
        .show(&content)
}

/// `POST …/edit`
pub async fn save(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(id): At<WebhookId>,
    Posted(sent): Posted,
) -> Result<Response> {
    check_size(&sent)?;
    let webhook = visit.webhook(id).await?;
    let (values, now) = (Values::of_form(&sent), Values::of_webhook(&webhook));
    let etag = sent.text("etag");
    if is_shown_again(&sent) {
        let (beside, blames) = previewed(&console, &visit, &values).await?;
        let beside = (&html! {}, &beside);
        let page = edit_page(&console, &visit, &webhook, &values, &blames, beside).await;
        return Ok(page.into_response());
    }
    if webhook.etag().to_str().ok() != Some(etag) {
        return Ok(changed_meanwhile(&console, &visit, &webhook, &values).await);
    }
    let (body, blames) = values.body(Some(&now));
    if !blames.is_empty() {
        let check = |form: WebhookForm| -> std::result::Result<(), Problem> {
            let api = &console.api;
            form.check(&api.destinations, &api.dialects)?;
            Ok(())
        };
        let blames = blames.and(Blames::of_result(read(body).and_then(check)));
        let parts = (&html! {}, &unasked());
        let page = edit_page(&console, &visit, &webhook, &values, &blames, parts);
        return Ok(refused(page.await));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_MATCH, webhook.etag());
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    match webhooks::update(acting, api, Id(id), headers, Body(body)).await {
        Ok(_) => Ok(
            Redirect::to(&visit.path(&format!("/webhooks/{id}/settings?done=saved")))
                .into_response(),
        ),
        // Between our look and the change.
        Err(problem) if problem.status() == StatusCode::PRECONDITION_FAILED => {
            let webhook = visit.webhook(id).await?;
            Ok(changed_meanwhile(&console, &visit, &webhook, &values).await)
        }
        Err(problem) if problem.status().is_client_error() => {
            let (blames, parts) = (Blames::from_problem(problem), (&html! {}, &unasked()));
            let page = edit_page(&console, &visit, &webhook, &values, &blames, parts);
            Ok(refused(page.await))
        }
        Err(problem) => Err(problem.into()),
    }
}

/// The event types that the tenant has described: they are offered.
pub async fn known_types(console: &Console, visit: &ManagerVisit) -> Vec<String> {
    match visit.acting().await {
        Ok(acting) => described_types(acting, console.api.clone()).await,
        Err(_) => Vec::new(),
    }
}

/// Their names. Without them the form works, too.
pub async fn described_types(acting: OwnReading, api: Shared) -> Vec<String> {
    let query = EventTypeQuery {
        archived: Some(false),
        limit: Some(MAX_PAGE),
        cursor: None,
    };
    let page = event_types::list(acting, State(api), Parameters(query)).await;
    let all = page.map(|page| page.0.event_types).unwrap_or_default();
    all.iter().map(|one| one.name.to_string()).collect()
}

/// A table of the rows that differ: what it is, as it is now, and as it was entered.
pub fn compared(rows: &[(&str, &String, &String)]) -> Markup {
    html! {
        div class="scroll" {
            table class="tight" {
                thead { tr { th { "" } th { "As it is now" } th { "As you entered it" } } }
                tbody {
                    @for (what, now, yours) in rows.iter().filter(|(_, now, yours)| now != yours) {
                        tr { td { (what) } td { code { (excerpt(now, 400)) } } td { code { (excerpt(yours, 400)) } } }
                    }
                }
            }
        }
    }
}

/// The form again, with what was entered. Above it is what differs from the webhook as it is now.
/// Saving the form again is a decision now.
async fn changed_meanwhile(
    console: &Console,
    visit: &ManagerVisit,
    webhook: &WebhookView,
    values: &Values,
) -> Response {
    let changes = changed(console, visit, webhook.id).await;
    let changes = changes.unwrap_or_default();
    let above = both_versions(&Values::of_webhook(webhook), values, changes.first());
    let (blames, parts) = (Blames::default(), (&above, &unasked()));
    let page = edit_page(console, visit, webhook, values, &blames, parts).await;
    (StatusCode::CONFLICT, page).into_response()
}

/// Both versions of what differs.
fn both_versions(now: &Values, yours: &Values, last: Option<&Change>) -> Markup {
    let rows: [(&str, &String, &String); 9] = [
        ("URL", &now.url, &yours.url),
        ("Description", &now.description, &yours.description),
        ("Events", &now.events, &yours.events),
        ("Filter", &now.filters, &yours.filters),
        ("Dialect", &now.dialect, &yours.dialect),
        ("Time to answer", &now.timeout, &yours.timeout),
        ("Retries", &now.retries, &yours.retries),
        ("At most", &now.rate, &yours.rate),
        ("in each", &now.per, &yours.per),
    ];
    html! {
        (note(
            "slow", "warn",
            &html! { "Somebody else changed this webhook meanwhile. Nothing of yours was saved." },
            &html! {
                @if let Some(last) = last { "Changed " (ago(last.at.0)) " ago by " (line(&last.actor)) ". " }
                "Below is what you entered. Compare it with how the webhook is now, and save again what you still want."
            },
            &html! {},
        ))
        (compared(&rows))
    }
}
