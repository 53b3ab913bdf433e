//! Changes a webhook in the portal: its URL, its description, its event types.
//!
//! The form is turned into the request that a client of the API would send, and carries the
//! webhook's revision from when it was shown. If somebody else has changed the webhook since, the
//! page says so and nothing is overwritten.
//!
//! The filter can't be changed here, and nothing is previewed. A filter may be what separates one
//! customer's events from another's, and a preview would show the events of all.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::{Map, Value, json};
use shared::ids::WebhookId;
use url::Url;

use crate::api::http::problem::{Blame, Problem};
use crate::api::http::request::{Body, Id};
use crate::api::webhooks;
use crate::api::webhooks::view::WebhookView;
use crate::console::fields::Fields;
use crate::console::frame::csrf;
use crate::console::icons::icon;
use crate::console::pages::edit::{compared, described_types};
use crate::console::pages::webhooks::name;
use crate::console::parts::{code, field, note, payload};
use crate::console::portal::ended::Result;
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::page;
use crate::console::portal::webhook::{above, path};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Posted;

/// What is in the fields of the form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Values {
    url: String,
    description: String,
    events: String,
}

impl Values {
    fn from_form(fields: &Fields) -> Self {
        let text = |name: &str| fields.text(name).replace("\r\n", "\n").trim().to_owned();
        Self {
            url: text("url"),
            description: text("description"),
            events: text("events"),
        }
    }

    fn from_webhook(webhook: &WebhookView) -> Self {
        Self {
            url: webhook.url.clone(),
            description: webhook.description.clone(),
            events: webhook.events.join(", "),
        }
    }

    /// The body that a client would send: what differs, and nothing else.
    fn changes(&self, before: &Self) -> Map<String, Value> {
        let mut body = Map::new();
        if self.url != before.url {
            body.insert("url".to_owned(), json!(self.url));
        }
        if self.description != before.description {
            body.insert("description".to_owned(), json!(self.description));
        }
        if self.events != before.events {
            let events = self.events.split([',', ' ', '\n', '\t']);
            let events: Vec<_> = events.filter(|pattern| !pattern.is_empty()).collect();
            body.insert("events".to_owned(), json!(events));
        }
        body
    }
}

/// What is wrong with the fields: members of the API, and a sentence for each.
type Blames = [(String, String)];

/// Of `events[3]`, `events` is to blame.
fn to_blame<'a>(blames: &'a Blames, name: &str) -> Option<&'a str> {
    let found = blames.iter().find(|(field, _)| {
        let rest = field.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
    });
    found.map(|(_, detail)| detail.as_str())
}

/// `GET /portal/webhooks/{id}/edit`
pub async fn show(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
) -> Result<Html<String>> {
    customer.must_change()?;
    let webhook = customer.webhook(id).await?;
    let values = Values::from_webhook(&webhook);
    Ok(form(&console, &customer, &webhook, &values, &[], &html! {}).await)
}

/// `POST /portal/webhooks/{id}/edit`
pub async fn save(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<WebhookId>,
    Posted(fields): Posted,
) -> Result<Response> {
    customer.must_change()?;
    let webhook = customer.webhook(id).await?;
    let (values, now) = (Values::from_form(&fields), Values::from_webhook(&webhook));
    if fields.text("revision") != webhook.revision.to_string() {
        return Ok(changed_meanwhile(&console, &customer, &webhook, &values).await);
    }
    if would_move_credentials(&webhook, &values.url) {
        let blames = [("url".to_owned(), MUST_STAY.to_owned())];
        let page = form(&console, &customer, &webhook, &values, &blames, &html! {}).await;
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_MATCH, webhook.etag());
    let acting = customer.acting().await?;
    let (api, body) = (State(console.api.clone()), Body(values.changes(&now)));
    match webhooks::update(acting, api, Id(id), headers, body).await {
        Ok(_) => {
            let saved = format!("{}/settings?done=saved", path(&webhook));
            Ok(Redirect::to(&saved).into_response())
        }
        // Between our look and the change.
        Err(problem) if problem.status() == StatusCode::PRECONDITION_FAILED => {
            let webhook = customer.webhook(id).await?;
            Ok(changed_meanwhile(&console, &customer, &webhook, &values).await)
        }
        Err(problem) if problem.status() == StatusCode::TOO_MANY_REQUESTS => Err(problem.into()),
        Err(problem) if problem.status().is_client_error() => {
            let blames = blames(problem);
            let nothing = html! {};
            let page = form(&console, &customer, &webhook, &values, &blames, &nothing).await;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
        }
        Err(problem) => Err(problem.into()),
    }
}

const MUST_STAY: &str =
    "must stay at this host: its requests carry credentials that were set for it";

/// Whether another host would get credentials that the portal doesn't show. What isn't a URL is
/// refused anyway.
fn would_move_credentials(webhook: &WebhookView, to: &str) -> bool {
    // A webhook that can't be read may have credentials.
    let has_some = !webhook.headers.is_empty() || webhook.oauth2.is_some() || !webhook.readable;
    let origin = |text: &str| Url::parse(text).map(|url| url.origin()).ok();
    has_some && to != webhook.url && origin(to).is_some_and(|to| Some(to) != origin(&webhook.url))
}

fn blames(problem: Problem) -> Vec<(String, String)> {
    let (_, detail, errors) = problem.into_blame();
    if errors.is_empty() {
        return vec![(String::new(), detail)];
    }
    let errors = errors.into_iter();
    errors
        .map(|Blame { field, detail, .. }| (field, detail))
        .collect()
}

/// What differs. The form below has what this visitor entered: saving it again is a decision now.
async fn changed_meanwhile(
    console: &Console,
    customer: &Customer,
    webhook: &WebhookView,
    values: &Values,
) -> Response {
    let now = Values::from_webhook(webhook);
    let rows = [
        ("URL", &now.url, &values.url),
        ("Description", &now.description, &values.description),
        ("Events", &now.events, &values.events),
    ];
    let above = html! {
        (note(
            "slow", "warn",
            &html! { "Somebody else changed this webhook meanwhile. Nothing of yours was saved." },
            &html! { "Below is what you entered. Compare it with how the webhook is now, and save it again if you still want it." },
            &html! {},
        ))
        (compared(&rows))
    };
    let page = form(console, customer, webhook, values, &[], &above).await;
    (StatusCode::CONFLICT, page).into_response()
}

async fn form(
    console: &Console,
    customer: &Customer,
    webhook: &WebhookView,
    values: &Values,
    blames: &Blames,
    top: &Markup,
) -> Html<String> {
    let known = known_types(console, customer).await;
    let path = path(webhook);
    let content = html! {
        div class="head" { div { h1 { "Edit " (line(name(webhook))) } } }
        (top)
        @if webhook.key.is_some() {
            (note("slow", "warn", &html! { "This webhook is managed automatically." },
                &html! { "What is changed here may be set back." }, &html! {}))
        }
        (summary(blames))
        form class="form section-gap" method="post" action={ (path) "/edit" } {
            (csrf(&customer.by))
            input type="hidden" name="revision" value=(webhook.revision);
            (entry(("url", "URL"), &values.url, "2048", "HTTPS, at a public address.", to_blame(blames, "url")))
            (entry(("description", "Description"), &values.description, "1024", "Its first line is the webhook's name.", to_blame(blames, "description")))
            (patterns(&values.events, to_blame(blames, "events"), &known))
            @if let Some(filter) = &webhook.filters {
                div class="field" {
                    h2 { "Filter" }
                    (code(&payload(&filter.to_string())))
                    p class="hint" { "It can't be changed here. It stays as it is." }
                }
            }
            div class="row" {
                button class="btn main-btn" { "Save" }
                a class="btn quiet" href={ (path) "/settings" } { "Cancel" }
            }
        }
    };
    let above = [above(), (path, line(name(webhook)))];
    page(customer, "Edit", &above, &content)
}

/// All that is wrong, repeated on top with links to the fields.
fn summary(blames: &Blames) -> Markup {
    html! {
        @if !blames.is_empty() {
            div class="note fail" role="alert" {
                (icon("warn"))
                div {
                    b { "Not saved." }
                    ul {
                        @for (field, detail) in blames {
                            li {
                                @match field.split(['[', '.']).next() {
                                    Some(id @ ("url" | "description" | "events")) => { a href={ "#" (id) } { (line(field)) } ": " },
                                    _ => @if !field.is_empty() { code { (line(field)) } ": " },
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

fn entry(
    (id, label): (&str, &str),
    value: &str,
    most: &str,
    hint: &str,
    error: Option<&str>,
) -> Markup {
    field(
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

/// The patterns, with the described types to choose from.
fn patterns(events: &str, error: Option<&str>, known: &[String]) -> Markup {
    let hint = html! { "Names, beginnings with * such as order.*, or * for everything; commas between them." };
    field(
        "events",
        &html! { "Events" },
        Some(&hint),
        error,
        &|id, described| {
            html! {
                input id=(id) name=(id) value=(events) maxlength="8192" spellcheck="false" autocomplete="off" data-chips list="types"
                    aria-describedby=[described] aria-invalid=[error.map(|_| "true")];
                datalist id="types" { @for name in known { option value=(name) {} } }
            }
        },
    )
}

/// The event types that are described.
async fn known_types(console: &Console, customer: &Customer) -> Vec<String> {
    match customer.acting().await {
        Ok(acting) => described_types(acting, console.reads.clone()).await,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sends_only_what_differs_and_never_a_filter() {
        let before = Values {
            url: "https://a.example".into(),
            description: "Shop".into(),
            events: "order.*".into(),
        };
        let fields = Fields::parse(
            b"url=https%3A%2F%2Fa.example&description=Shop&events=order.*%2C+invoice.paid&filters=%7B%7D&status=inactive",
        );
        let changes = Values::from_form(&fields.unwrap()).changes(&before);
        assert_eq!(
            Value::Object(changes),
            json!({"events": ["order.*", "invoice.paid"]})
        );
    }
}
