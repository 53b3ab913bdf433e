//! Publishes one event by hand: says first whether it would be taken, and who would get it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::ids::{EventId, EventType, Tenant, WebhookId};

use crate::api::event_types;
use crate::api::events::detail::{self, Pages};
use crate::api::events::dry_run::EventDryRun;
use crate::api::events::{NewEvent, publish_now, would_happen};
use crate::api::http::problem::{Blame, Problem};
use crate::api::http::request::{Id, Parameters};
use crate::console::failure::{Failure, Result};
use crate::console::fields::{query, segment};
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::pages::edit::known_types;
use crate::console::pages::snippets::{over_amqp, over_http, type_or_example};
use crate::console::pages::webhooks::names;
use crate::console::parts::{field, note, panel, reasons};
use crate::console::state::Console;
use crate::console::text::{line, plain, short};
use crate::console::visit::{ManagerVisit, Origin, Posted};
use crate::event_types::store::EventTypeView;
use crate::matching::Explanation;
use crate::plain_words::of_json;

/// How many webhooks that would get it are shown, or why they wouldn't.
const SHOWN: usize = 50;

#[derive(Deserialize, Default)]
pub struct Params {
    /// An event to begin with.
    #[serde(default)]
    like: String,
    /// A type whose example to begin with.
    #[serde(default, rename = "type")]
    event_type: String,
}

#[derive(Default)]
struct Form {
    event_type: String,
    id: String,
    data: String,
}

impl Form {
    fn event(&self, tenant: &Tenant) -> std::result::Result<NewEvent, Problem> {
        let id = Some(self.id.trim().to_owned()).filter(|id| !id.is_empty());
        let with = |data| NewEvent::by_hand(self.event_type.trim().to_owned(), id, data);
        match RawValue::from_string(self.data.clone()) {
            Ok(data) => Ok(with(data)),
            Err(error) => {
                let reason = of_json(&error);
                let of_data = Problem::field("data", format!("isn't JSON: {reason}"));
                // What else is wrong is said at once.
                let others = with(RawValue::NULL.to_owned()).check(tenant).err();
                Err(others.into_iter().fold(of_data, Problem::and))
            }
        }
    }
}

/// `GET /console/{tenant}/events/new?like=&type=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Origin(origin): Origin,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let mut form = Form {
        event_type: params.event_type,
        id: String::new(),
        data: "{\n}".to_owned(),
    };
    if let Ok(id) = params.like.parse::<EventId>() {
        let pages = Pages {
            limit: Some(1),
            deliveries_cursor: None,
            matching_cursor: None,
        };
        let acting = visit.acting().await?;
        let api = State(console.api.clone());
        let like = detail::show(acting, api, Id(id), Parameters(pages))
            .await?
            .0;
        form.event_type = like.event.r#type.to_string();
        form.data = like.data.get().to_owned();
    } else if let Some(known) = described(&console, &visit, &form.event_type).await
        && let Some(example) = known.example
    {
        form.data = example.get().to_owned();
    }
    page(&console, &visit, &origin, &form, None).await
}

/// `POST /console/{tenant}/events/new`: asks, or publishes.
pub async fn send(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Origin(origin): Origin,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let form = Form {
        event_type: fields.text("type").to_owned(),
        id: fields.text("id").to_owned(),
        data: fields.text("data").replace("\r\n", "\n"),
    };
    if !fields.has("go") {
        return Ok(Err(page(&console, &visit, &origin, &form, None).await?));
    }
    let problem = match form.event(&visit.tenant) {
        Err(problem) => problem,
        Ok(event) => {
            // 403 for whoever may not publish.
            let publishing = visit.publishing()?;
            match publish_now(&console.api, &publishing.tenant, event).await {
                Ok(id) => {
                    let path = format!("/events/{}", segment(&id.to_string()));
                    return Ok(Ok(Redirect::to(&visit.path(&path))));
                }
                Err(problem) => problem,
            }
        }
    };
    if !problem.status().is_client_error() {
        return Err(problem.into());
    }
    Ok(Err(
        page(&console, &visit, &origin, &form, Some(problem)).await?
    ))
}

async fn page(
    console: &Console,
    visit: &ManagerVisit,
    origin: &str,
    form: &Form,
    wrong: Option<Problem>,
) -> Result<Html<String>> {
    let (dry_run, wrong) = match (wrong, form.event_type.trim().is_empty()) {
        (Some(wrong), _) => (None, Some(wrong)),
        (None, true) => (None, None),
        (None, false) => match form.event(&visit.tenant) {
            Err(problem) => (None, Some(problem)),
            Ok(event) => {
                let _acting = visit.acting::<1, false>().await?;
                match would_happen(&console.api, &visit.tenant, event).await {
                    Ok(dry_run) => (Some(dry_run), None),
                    Err(problem) if problem.status().is_client_error() => (None, Some(problem)),
                    Err(problem) => return Err(Failure::Problem(problem)),
                }
            }
        },
    };
    let matching = dry_run.iter().flat_map(|one| &one.matching).take(SHOWN);
    let names = names(console, visit, matching.map(|one| one.webhook_id)).await?;
    let known = known_types(console, visit).await;
    let described = described(console, visit, &form.event_type).await;
    let [of_type, of_id, others] = wrong.as_ref().map(by_field).unwrap_or_default();
    let of_data = others.or_else(|| {
        let dry_run = dry_run.as_ref()?;
        let detail = dry_run.detail.as_ref()?;
        Some(match &dry_run.field {
            Some(field) => format!("{field}: {detail}"),
            None => detail.clone(),
        })
    });
    let of_schema = described.as_ref().filter(|one| one.schema.is_some());
    let of_schema = of_schema.map(|one| {
        let path = visit.path(&format!("/event-types/{}", segment(one.name.as_str())));
        html! { "Checked against the schema of " a href=(path) { (line(one.name.as_str())) } "." }
    });
    let example = described.as_ref().filter(|one| one.example.is_some());
    let content = html! {
        div class="head" { div {
            h1 { "Publish an event" }
            p class="sub" { span { "A real event of " (visit.tenant) ": whoever matches gets it. To ask one endpoint alone, use its test." } }
        } }
        div class="cols wide" {
            form class="form" method="post" action=(visit.path("/events/new")) {
                (csrf(&visit.by))
                div class="pair" {
                    (field("pt", &html! { "Event type" }, None, of_type.as_deref(), &|id, described| html! {
                        input id=(id) name="type" value=(plain(&form.event_type)) list="types" required maxlength="128" spellcheck="false" autocomplete="off" aria-describedby=[described] aria-invalid=[of_type.as_ref().map(|_| "true")];
                    }))
                    (field("pi", &html! { "Id " span class="soft" { "made unless given" } }, None, of_id.as_deref(), &|id, described| html! {
                        input id=(id) name="id" value=(plain(&form.id)) maxlength="255" spellcheck="false" autocomplete="off" aria-describedby=[described] aria-invalid=[of_id.as_ref().map(|_| "true")];
                    }))
                }
                datalist id="types" { @for name in &known { option value=(name) {} } }
                (field("pd", &html! { "Data" }, of_schema.as_ref(), of_data.as_deref(), &|id, described| html! {
                    textarea id=(id) name="data" rows="14" spellcheck="false" aria-describedby=[described] aria-invalid=[of_data.as_ref().map(|_| "true")] { "\n" (form.data) }
                }))
                div class="row" {
                    button class="btn main-btn" name="go" value="1" data-key="mod+Enter" { "Publish" }
                    button class="btn quiet" name="preview" value="1" formnovalidate { "Who would get it?" }
                    @if let Some(one) = example {
                        a class="btn quiet" href={ (visit.path("/events/new")) (query(&[("type", one.name.as_str())])) } { "The catalogue's example" }
                    }
                }
            }
            // What is typed is asked about while it is typed.
            aside class="stack" data-preview="shown" {
                @match (&dry_run, &wrong) {
                    (Some(dry_run), _) => (would_get_it(dry_run, &names)),
                    (None, Some(wrong)) => (note("fail", "fail", &html! { "It can't be published like this." }, &reasons(wrong), &html! {})),
                    (None, None) => {},
                }
                (from_code(visit, origin, form))
            }
        }
    };
    Ok(Page::of_tenant(visit, Section::Events, "Publish").show(&content))
}

/// The type as the catalogue has it, if it has it.
async fn described(
    console: &Console,
    visit: &ManagerVisit,
    event_type: &str,
) -> Option<EventTypeView> {
    let name: EventType = event_type.trim().parse().ok()?;
    let acting = visit.acting().await.ok()?;
    let shown = event_types::show(acting, State(console.api.clone()), Id(name)).await;
    shown.ok().map(|shown| shown.0)
}

/// What is wrong with the type, with the id, and with anything else.
fn by_field(problem: &Problem) -> [Option<String>; 3] {
    let mut sorted = [None, None, None];
    if problem.errors().is_empty() {
        sorted[2] = problem.lines().into_iter().next();
    }
    for Blame { field, detail, .. } in problem.errors() {
        let (at, text) = match field.as_str() {
            "type" => (0, detail.clone()),
            "id" => (1, detail.clone()),
            "data" => (2, detail.clone()),
            other => (2, format!("{other}: {detail}")),
        };
        let before = sorted[at].take().map(|before: String| before + "; ");
        sorted[at] = Some(before.unwrap_or_default() + &text);
    }
    sorted
}

fn would_get_it(dry_run: &EventDryRun, names: &HashMap<WebhookId, String>) -> Markup {
    html! {
        @if !dry_run.accepted {
            (note("fail", "fail", &html! { "It would be refused." }, &html! {
                @if let Some(detail) = &dry_run.detail { (line(detail)) }
            }, &html! {}))
        }
        section class="panel" {
            header { h2 { "Would get it" } span class="soft small" { (dry_run.matched) @if !dry_run.all { " of the first 1,000" } span class="js-only" { ", as you type" } } }
            @if dry_run.matching.is_empty() { p class="pad soft" { "There is no webhook." } }
            @else { div class="scroll" tabindex="0" { table class="tight" { tbody {
                @for one in dry_run.matching.iter().take(SHOWN) { tr {
                    @let (tone, symbol, word) = match &one.explanation {
                        Explanation::Matched { .. } => ("good", "ok", "Matched"),
                        Explanation::Refused { .. } => ("none", "x", "Filtered out"),
                        Explanation::NotListening => ("none", "queued", "Not listening"),
                        Explanation::Unreadable { .. } => ("slow", "warn", "Unreadable"),
                    };
                    td { span class={ "st " (tone) } { (icon(symbol)) (word) } }
                    td class="break" { b { @match names.get(&one.webhook_id) {
                        Some(name) => (line(name)),
                        None => code { (short(&one.webhook_id.to_string())) },
                    } } }
                    td class="small" {
                        @match &one.explanation {
                            Explanation::Refused { refusal, .. } => code { (line(&refusal.clause)) },
                            _ if one.webhook_status != "active" => span class="wait" { (line(&one.webhook_status)) },
                            _ => "",
                        }
                    }
                } }
            } } } }
        }
    }
}

fn from_code(visit: &ManagerVisit, origin: &str, form: &Form) -> Markup {
    let name = type_or_example(&form.event_type);
    panel(
        "From your code",
        &html! {},
        true,
        &html! { (over_http(origin, &name, "{…}")) (over_amqp(&visit.tenant, &name, "{…}")) },
    )
}
