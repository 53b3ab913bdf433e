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
use serde_json::{Map, Value, json};
use shared::ids::WebhookId;

use crate::api::http::problem::{Blame, Problem};
use crate::api::http::request::{Body, Id};
use crate::api::webhooks;
use crate::api::webhooks::preview::{self, NewPreview, Preview, PreviewedEvent};
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::{Failure, Result};
use crate::console::fields::Fields;
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::{at, number};
use crate::console::pages::webhooks::name;
use crate::console::parts::note;
use crate::console::session::keep_secret;
use crate::console::state::Console;
use crate::console::text::{excerpt, line};
use crate::console::visit::{At, ManagerVisit, Posted};
use crate::console::words::Word;
use crate::matching::Explanation;
use crate::webhooks::form::WebhookForm;

/// What is in the fields of the form.
#[derive(Default, Clone, PartialEq)]
struct Values {
    url: String,
    description: String,
    events: String,
    filters: String,
    dialect: String,
    /// In seconds.
    timeout: String,
    retries: String,
    rate: String,
    per: String,
    headers: String,
    secret: String,
    debug: bool,
}

impl Values {
    fn of_form(fields: &Fields) -> Self {
        let text = |name: &str| fields.text(name).replace("\r\n", "\n").trim().to_owned();
        Self {
            url: text("url"),
            description: text("description"),
            events: text("events"),
            filters: text("filters"),
            dialect: text("dialect"),
            timeout: text("timeout"),
            retries: text("retries"),
            rate: text("rate"),
            per: text("per"),
            headers: text("headers"),
            secret: text("secret"),
            debug: fields.has("debug_mode"),
        }
    }

    fn of_webhook(webhook: &WebhookView) -> Self {
        let rate = webhook
            .rate_limit
            .as_ref()
            .map(|rate| json!(rate))
            .unwrap_or_default();
        let retry = webhook.retry_policy.as_ref();
        let seconds = |ms: u64| match ms % 1_000 {
            0 => (ms / 1_000).to_string(),
            _ => (ms as f64 / 1_000.0).to_string(),
        };
        Self {
            url: webhook.url.clone(),
            description: webhook.description.clone(),
            events: webhook.events.join(", "),
            filters: webhook
                .filters
                .as_ref()
                .map(|filter| format!("{filter:#}"))
                .unwrap_or_default(),
            dialect: webhook.dialect.clone().unwrap_or_default(),
            timeout: webhook.timeout.map(seconds).unwrap_or_default(),
            retries: retry
                .and_then(|retry| retry.max_retries)
                .map(|n| n.to_string())
                .unwrap_or_default(),
            rate: rate["limit"]
                .as_u64()
                .map(|n| n.to_string())
                .unwrap_or_default(),
            per: rate["per"].as_str().unwrap_or("second").to_owned(),
            headers: String::new(),
            secret: String::new(),
            debug: webhook.debug_mode,
        }
    }

    /// The body that a client would send; of a change, only what it changes.
    fn body(&self, before: Option<&Self>) -> std::result::Result<Map<String, Value>, Blames> {
        let mut body = Map::new();
        let mut wrong = Vec::new();
        let differs = |of: fn(&Self) -> &String| before.is_none_or(|before| of(before) != of(self));
        let mut set = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        if differs(|values| &values.url) {
            set("url", json!(self.url));
        }
        if differs(|values| &values.description) {
            set("description", json!(self.description));
        }
        if differs(|values| &values.events) {
            let separated = self.events.split([',', ' ', '\n', '\t']);
            let events: Vec<_> = separated.filter(|pattern| !pattern.is_empty()).collect();
            set("events", json!(events));
        }
        if differs(|values| &values.filters) {
            match self.filters.as_str() {
                "" => set("filters", Value::Null),
                text => match serde_json::from_str::<Value>(text) {
                    Ok(filter) => set("filters", filter),
                    Err(error) => wrong.push(("filters", format!("isn't JSON: {error}"))),
                },
            }
        }
        if differs(|values| &values.dialect) {
            set(
                "dialect",
                Some(&self.dialect)
                    .filter(|name| !name.is_empty())
                    .map_or(Value::Null, |name| json!(name)),
            );
        }
        if differs(|values| &values.timeout) {
            match (self.timeout.as_str(), self.timeout.parse::<f64>()) {
                ("", _) => set("timeout", Value::Null),
                (_, Ok(seconds)) if (0.0..=3_600.0).contains(&seconds) => {
                    set("timeout", json!((seconds * 1_000.0).round() as u64));
                }
                _ => wrong.push(("timeout", "must be a number of seconds".to_owned())),
            }
        }
        if differs(|values| &values.retries) {
            match (self.retries.as_str(), self.retries.parse::<u16>()) {
                ("", _) => set("retry_policy", Value::Null),
                (_, Ok(retries)) => set("retries", json!(retries)),
                _ => wrong.push(("retries", "must be a number from 0 to 49".to_owned())),
            }
        }
        if differs(|values| &values.rate) || differs(|values| &values.per) {
            match (self.rate.as_str(), self.rate.parse::<u32>()) {
                ("", _) => set("rate_limit", Value::Null),
                (_, Ok(limit)) => set("rate_limit", json!({"limit": limit, "per": self.per})),
                _ => wrong.push(("rate_limit", "must be a number of requests".to_owned())),
            }
        }
        if !self.headers.is_empty() {
            let mut headers = Map::new();
            for text in self.headers.lines().filter(|text| !text.trim().is_empty()) {
                match text.split_once(':') {
                    Some((name, value)) => {
                        headers.insert(name.trim().to_owned(), json!(value.trim()));
                    }
                    // Never the line itself: there may be a credential in it.
                    None => wrong.push(("headers", "must be lines like `Name: value`".to_owned())),
                }
            }
            set("headers", Value::Object(headers));
        }
        if !self.secret.is_empty() {
            set("secret", json!(self.secret));
        }
        if before.is_none_or(|before| before.debug != self.debug) {
            set("debug_mode", json!(self.debug));
        }
        match wrong.is_empty() {
            true => Ok(body),
            false => Err(Blames(
                wrong
                    .into_iter()
                    .map(|(field, detail)| (field.to_owned(), detail))
                    .collect(),
            )),
        }
    }
}

/// What is wrong, by field.
#[derive(Default)]
struct Blames(Vec<(String, String)>);

impl Blames {
    fn of(problem: Problem) -> Self {
        let (_, detail, errors) = problem.into_blame();
        if errors.is_empty() {
            return Self(vec![(String::new(), detail)]);
        }
        Self(
            errors
                .into_iter()
                .map(|Blame { field, detail, .. }| (field, detail))
                .collect(),
        )
    }

    /// Of `events[3]`, `events` is to blame.
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| {
            field == name
                || field
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['[', '.']))
        });
        found.map(|(_, detail)| detail.as_str())
    }
}

/// `GET /console/{tenant}/webhooks/new`
pub async fn new(State(console): State<Arc<Console>>, visit: ManagerVisit) -> Html<String> {
    let values = Values {
        per: "second".to_owned(),
        ..Values::default()
    };
    new_page(&console, &visit, &values, &Blames::default(), &unasked())
}

fn new_page(
    console: &Console,
    visit: &ManagerVisit,
    values: &Values,
    blames: &Blames,
    beside: &Markup,
) -> Html<String> {
    let path = visit.path("/webhooks");
    let content = html! {
        div class="head" { div { h1 { "New webhook" } p class="sub" { "Where deliveries go, and which events." } } }
        (summary(blames))
        div class="cols wide" {
            form class="form" method="post" action={ (path) "/new" } {
                (csrf(&visit.by))
                (fields(console, visit, values, blames, false))
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
    Page::of(visit, Section::Webhooks, "New webhook").show(&content)
}

/// `POST /console/{tenant}/webhooks/new`
pub async fn create(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(sent): Posted,
) -> Result<Response> {
    let values = Values::of_form(&sent);
    if sent.has("preview") {
        let (beside, blames) = previewed(&console, &visit, &values).await?;
        return Ok(new_page(&console, &visit, &values, &blames, &beside).into_response());
    }
    let made = match values.body(None).and_then(form) {
        Ok(form) => {
            let acting = visit.acting().await?;
            webhooks::create(acting, State(console.api.clone()), Body(form)).await
        }
        Err(blames) => {
            return Ok(refused(new_page(
                &console,
                &visit,
                &values,
                &blames,
                &unasked(),
            )));
        }
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
        Err(problem) if problem.status().is_client_error() => Ok(refused(new_page(
            &console,
            &visit,
            &values,
            &Blames::of(problem),
            &unasked(),
        ))),
        Err(problem) => Err(problem.into()),
    }
}

fn refused(page: Html<String>) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
}

fn form(body: Map<String, Value>) -> std::result::Result<WebhookForm, Blames> {
    serde_json::from_value(Value::Object(body))
        .map_err(|error| Blames(vec![(String::new(), error.to_string())]))
}

/// `GET …/edit`
pub async fn edit(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(webhook): At<WebhookId>,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let values = Values::of_webhook(&webhook);
    Ok(edit_page(
        &console,
        &visit,
        &webhook,
        &values,
        &Blames::default(),
        (&html! {}, &unasked()),
    ))
}

fn edit_page(
    console: &Console,
    visit: &ManagerVisit,
    webhook: &WebhookView,
    values: &Values,
    blames: &Blames,
    (above, beside): (&Markup, &Markup),
) -> Html<String> {
    let path = visit.path(&format!("/webhooks/{}", webhook.id));
    let etag = webhook.etag().to_str().unwrap_or_default().to_owned();
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
                (fields(console, visit, values, blames, true))
                div class="row" {
                    button class="btn main-btn" { "Save" }
                    button class="btn quiet" name="preview" value="1" formnovalidate { "Preview" }
                    a class="btn quiet" href={ (path) "/settings" } { "Cancel" }
                }
            }
            (beside)
        }
    };
    Page::of(visit, Section::Webhooks, "Edit")
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
    let webhook = visit.webhook(id).await?;
    let (values, now) = (Values::of_form(&sent), Values::of_webhook(&webhook));
    let etag = sent.text("etag");
    if sent.has("preview") {
        let (beside, blames) = previewed(&console, &visit, &values).await?;
        let beside = (&html! {}, &beside);
        return Ok(edit_page(&console, &visit, &webhook, &values, &blames, beside).into_response());
    }
    if webhook.etag().to_str().ok() != Some(etag) {
        let above = changed_meanwhile(&now, &values);
        return Ok((
            StatusCode::CONFLICT,
            edit_page(
                &console,
                &visit,
                &webhook,
                &values,
                &Blames::default(),
                (&above, &unasked()),
            ),
        )
            .into_response());
    }
    let form = match values.body(Some(&now)) {
        Ok(form) => form,
        Err(blames) => {
            return Ok(refused(edit_page(
                &console,
                &visit,
                &webhook,
                &values,
                &blames,
                (&html! {}, &unasked()),
            )));
        }
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_MATCH, webhook.etag());
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    match webhooks::update(acting, api, Id(id), headers, Body(form)).await {
        Ok(_) => Ok(
            Redirect::to(&visit.path(&format!("/webhooks/{id}/settings?done=saved")))
                .into_response(),
        ),
        // Between our look and the change.
        Err(problem) if problem.status() == StatusCode::PRECONDITION_FAILED => Err(
            Failure::Elsewhere(visit.path(&format!("/webhooks/{id}/edit"))),
        ),
        Err(problem) if problem.status().is_client_error() => {
            let blames = Blames::of(problem);
            Ok(refused(edit_page(
                &console,
                &visit,
                &webhook,
                &values,
                &blames,
                (&html! {}, &unasked()),
            )))
        }
        Err(problem) => Err(problem.into()),
    }
}

/// What the patterns and the filter would have got, without anything stored.
async fn previewed(
    console: &Console,
    visit: &ManagerVisit,
    values: &Values,
) -> Result<(Markup, Blames)> {
    let body = match values.body(None) {
        Ok(body) => body,
        Err(blames) => return Ok((unasked(), blames)),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = body["events"]
        .as_array()
        .map(|events| events.iter().map(text).collect());
    let wanted = NewPreview {
        events,
        filters: body
            .get("filters")
            .filter(|filter| !filter.is_null())
            .cloned(),
    };
    let acting = visit.acting().await?;
    match preview::preview(acting, State(console.api.clone()), Body(wanted)).await {
        Ok(preview) => Ok((beside(&preview.0), Blames::default())),
        Err(problem) if problem.status().is_client_error() => Ok((unasked(), Blames::of(problem))),
        Err(problem) => Err(problem.into()),
    }
}

fn unasked() -> Markup {
    html! {
        aside class="panel stick" aria-labelledby="pv" {
            header { h2 id="pv" { "Preview" } }
            div class="pad" { p class="soft" { "“Preview” asks the latest 1,000 events which of them this webhook would get. Nothing is sent or stored." } }
        }
    }
}

fn beside(preview: &Preview) -> Markup {
    html! {
        aside class="panel stick" aria-labelledby="pv" role="status" {
            header { h2 id="pv" { "Would get " (number(preview.matched as i64)) " of " (number(preview.looked_at as i64)) } }
            div class="pad" {
                p class="soft" {
                    @match preview.since {
                        Some(since) => { "The latest events, back to " (at(since.0)) "." @if !preview.all { " There are older ones." } },
                        None => "There is no event yet.",
                    }
                    " " (number(preview.listening as i64)) " have a type that its patterns listen to."
                }
            }
            div class="scroll" {
                table class="tight list" {
                    thead class="sr" { tr { th { "Matches" } th { "Event and why" } } }
                    tbody { @for event in preview.events.iter().take(12) { (previewed_event(event)) } }
                }
            }
            @if !preview.by_clause.is_empty() {
                div class="pad small soft" {
                    "Turned away by "
                    @for (n, clause) in preview.by_clause.iter().take(5).enumerate() {
                        @if n > 0 { "; " }
                        code { (line(&clause.clause)) } ": " (number(clause.refused as i64))
                    }
                    "."
                }
            }
        }
    }
}

fn previewed_event(event: &PreviewedEvent) -> Markup {
    let (word, why) = match &event.explanation {
        Explanation::Matched { pattern, .. } => (
            Word {
                tone: "good",
                icon: "ok",
                word: "Yes",
                sentence: "",
            },
            html! { "Pattern " code { (line(pattern)) } },
        ),
        Explanation::Refused { refusal, .. } => (
            Word {
                tone: "none",
                icon: "x",
                word: "No",
                sentence: "",
            },
            html! { code { (line(&refusal.clause)) } ", found " mark { (excerpt(&refusal.found, 80)) } },
        ),
        Explanation::Unreadable { why } => (
            Word {
                tone: "slow",
                icon: "warn",
                word: "No",
                sentence: "",
            },
            html! { "Can't be read by a filter: " (excerpt(why, 80)) },
        ),
        Explanation::NotListening => (
            Word {
                tone: "none",
                icon: "x",
                word: "No",
                sentence: "",
            },
            html! { "No pattern listens to it" },
        ),
    };
    html! {
        tr {
            td { (word.show()) }
            td class="grow" {
                span class="cut" { code { (line(event.r#type.as_str())) } " " span class="soft" { (line(event.id.to_string())) } }
                span class="cut small" { (why) }
            }
        }
    }
}

/// Both versions of what differs. The form below has this visitor's; saving it again is
/// a decision now.
fn changed_meanwhile(now: &Values, yours: &Values) -> Markup {
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
            &html! { "Below is what you entered. Compare it with how the webhook is now, and save again what you still want." },
            &html! {},
        ))
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

/// Repeated on top, with links to the fields.
fn summary(blames: &Blames) -> Markup {
    html! {
        @if !blames.0.is_empty() {
            div class="note fail" role="alert" {
                (crate::console::icons::icon("warn"))
                div {
                    b { "Not saved." }
                    ul {
                        @for (field, detail) in &blames.0 {
                            li {
                                @match anchor(field) {
                                    Some((id, label)) => { a href={ "#" (id) } { (label) } ": " },
                                    None => @if !field.is_empty() { code { (line(field)) } ": " },
                                }
                                (line(detail))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The field of the form that a member of the API stands for.
fn anchor(field: &str) -> Option<(&'static str, &'static str)> {
    let name = field.split(['[', '.']).next().unwrap_or_default();
    Some(match name {
        "url" => ("url", "URL"),
        "description" => ("description", "Description"),
        "events" => ("events", "Events"),
        "filters" => ("filters", "Filter"),
        "dialect" => ("dialect", "Dialect"),
        "timeout" => ("timeout", "Time to answer"),
        "retries" | "retry_policy" => ("retries", "Retries"),
        "rate_limit" => ("rate", "At most"),
        "headers" => ("headers", "Headers"),
        "secret" => ("secret", "Secret"),
        _ => return None,
    })
}

fn fields(
    console: &Console,
    visit: &ManagerVisit,
    values: &Values,
    blames: &Blames,
    is_edit: bool,
) -> Markup {
    let tenants = console
        .api
        .subscriptions
        .dialect(&visit.tenant)
        .unwrap_or_default();
    let (asked, sealed) = (
        [
            "dialect",
            "timeout",
            "retries",
            "retry_policy",
            "rate_limit",
        ],
        ["headers", "secret"],
    );
    let has = |names: &[&str]| names.iter().any(|name| blames.get(name).is_some());
    html! {
        (text("url", "URL", &values.url, "HTTPS, at a public address. Credentials belong into a header.", blames.get("url"), "2048"))
        (text("description", "Description", &values.description, "For people. Its first line is the webhook's name.", blames.get("description"), "1024"))
        (text("events", "Events", &values.events, "Names, beginnings with * such as order.*, or * for everything; commas between them.", blames.get("events"), "8192"))
        (area("filters", "Filter", &values.filters, r#"JSON; all clauses must hold: {"total": {"$gte": 100}}. Empty: all events of these types."#, blames.get("filters"), "4"))
        details class="panel" open[is_edit || has(&asked)] {
            summary { h2 { "How it is asked" } span class="soft small" { "dialect, time to answer, retries, rate" } }
            div class="pad stack" {
                div class="pair" {
                    div class="field" data-error[blames.get("dialect").is_some()] {
                        label for="dialect" { "Dialect" }
                        select id="dialect" name="dialect" {
                            option value="" selected[values.dialect.is_empty()] { (visit.tenant) "'s: " (tenants) }
                            @for name in console.api.dialects.names() {
                                option value=(name) selected[values.dialect == name] { (name) }
                            }
                        }
                        @if let Some(error) = blames.get("dialect") { p class="error" { (line(error)) } }
                    }
                    (text("timeout", "Time to answer", &values.timeout, "Seconds, 1 to 60. Empty: the dialect's.", blames.get("timeout"), "10"))
                }
                (text("retries", "Retries", &values.retries, "After the first attempt, 0 to 49. Empty: the dialect's schedule.", blames.get("retries").or(blames.get("retry_policy")), "3"))
                div class="pair" {
                    (text("rate", "At most", &values.rate, "Requests. Empty: as many as there are.", blames.get("rate_limit"), "9"))
                    div class="field" {
                        label for="per" { "in each" }
                        select id="per" name="per" {
                            @for per in ["second", "minute", "hour"] { option value=(per) selected[values.per == per] { (per) } }
                        }
                    }
                }
                label class="check" {
                    input type="checkbox" name="debug_mode" checked[values.debug];
                    span { "Debug mode" }
                    span class="hint" { "Each attempt's request and answer are kept whole, up to 64 KiB." }
                }
            }
        }
        details class="panel" open[has(&sealed)] {
            summary {
                h2 { @if is_edit { "Headers" } @else { "Headers and secret" } }
                span class="soft small" { @if is_edit { "they stay as they are unless given" } @else { "a secret is made unless given" } }
            }
            div class="pad stack" {
                (area("headers", "Headers", "", "A line each, like X-Api-Key: value. Values are kept sealed and never shown.", blames.get("headers"), "3"))
                @if !is_edit {
                    (text("secret", "Secret", "", "Only if the receiver has one already.", blames.get("secret"), "256"))
                }
            }
        }
    }
}

fn text(id: &str, label: &str, value: &str, hint: &str, error: Option<&str>, most: &str) -> Markup {
    crate::console::parts::field(
        id,
        &html! { (label) },
        Some(&html! { (hint) }),
        error,
        &|id, described| {
            html! {
                input id=(id) name=(id) value=(value) maxlength=(most) spellcheck="false" autocomplete="off"
                    aria-describedby=[described] aria-invalid=[error.map(|_| "true")];
            }
        },
    )
}

fn area(id: &str, label: &str, value: &str, hint: &str, error: Option<&str>, rows: &str) -> Markup {
    crate::console::parts::field(
        id,
        &html! { (label) },
        Some(&html! { (hint) }),
        error,
        &|id, described| {
            html! {
                textarea id=(id) name=(id) rows=(rows) spellcheck="false" autocomplete="off"
                    aria-describedby=[described] aria-invalid=[error.map(|_| "true")] { "\n" (value) }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sends_only_what_it_changes() {
        let before = Values {
            url: "https://a.example".into(),
            events: "order.*".into(),
            ..Values::default()
        };
        let after = Values {
            events: "order.*, invoice.paid".into(),
            timeout: "2.5".into(),
            ..before.clone()
        };
        let body = after.body(Some(&before)).ok().map(Value::Object);
        assert_eq!(
            body,
            Some(json!({"events": ["order.*", "invoice.paid"], "timeout": 2_500}))
        );
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let values = Values {
            filters: "{".into(),
            retries: "many".into(),
            headers: "hunter2".into(),
            ..Values::default()
        };
        let Err(blames) = values.body(None) else {
            panic!("it is wrong");
        };
        let fields: Vec<_> = blames.0.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["filters", "retries", "headers"]);
        assert!(
            !blames
                .0
                .iter()
                .any(|(_, detail)| detail.contains("hunter2"))
        );
    }
}
