//! The fields of a webhook's form, and what is wrong with them.

use maud::{Markup, html};

use super::values::{Blames, INSTEAD, Values};
use crate::console::clauses;
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::ManagerVisit;
use crate::matching::Pattern;
use crate::webhooks::form::MAX_PATTERNS;

/// Repeated on top, with links to the fields.
pub(super) fn summary(blames: &Blames) -> Markup {
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

pub(super) fn fields(
    console: &Console,
    visit: &ManagerVisit,
    values: &Values,
    blames: &Blames,
    (is_edit, known): (bool, &[String]),
) -> Markup {
    let tenants = console
        .api
        .subscriptions
        .dialect(&visit.tenant)
        .unwrap_or_default();
    let (of_requests, sealed) = (
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
        // The Enter key presses a form's first button. The others change the form.
        button class="sr" tabindex="-1" aria-hidden="true" {}
        (entry(("url", "URL"), &values.url, Size::Line("2048"), "HTTPS, at a public address. Credentials belong into a header.", blames.get("url")))
        (entry(("description", "Description"), &values.description, Size::Line("1024"), "For people. Its first line is the webhook's name.", blames.get("description")))
        (patterns(&values.events, blames.get("events"), known))
        (filter(values, blames.get("filters")))
        details class="panel" open[is_edit || has(&of_requests)] {
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
                    (entry(("timeout", "Time to answer"), &values.timeout, Size::Line("10"), "Seconds, 1 to 60. Empty: the dialect's.", blames.get("timeout")))
                }
                (entry(("retries", "Retries"), &values.retries, Size::Line("3"), "After the first attempt, 0 to 49. Empty: the dialect's schedule.", blames.get("retries").or(blames.get("retry_policy"))))
                div class="pair" {
                    (entry(("rate", "At most"), &values.rate, Size::Line("9"), "Requests. Empty: as many as there are.", blames.get("rate_limit")))
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
                (entry(("headers", "Headers"), "", Size::Rows("3"), "A line each, like X-Api-Key: value. Values are kept sealed and never shown.", blames.get("headers")))
                @if !is_edit {
                    (entry(("secret", "Secret"), "", Size::Line("256"), "Only if the receiver has one already.", blames.get("secret")))
                }
            }
        }
    }
}

/// The patterns, with the described types to choose from.
fn patterns(events: &str, error: Option<&str>, known: &[String]) -> Markup {
    let unknown = unknown_pattern(events, known).filter(|_| !known.is_empty());
    let hint = html! {
        span data-refreshed="known" {
            @if let Some((pattern, nearest)) = unknown {
                b class="slow" {
                    "No described event type matches " code { (line(pattern)) } "."
                    @if let Some(nearest) = nearest {
                        " Did you mean "
                        button class="link" name=(INSTEAD) value={ (pattern) " " (nearest) } formnovalidate { code { (line(nearest)) } }
                        "?"
                    }
                } " "
            }
        }
        "Names, beginnings with * such as order.*, or * for everything; commas between them."
    };
    crate::console::parts::field(
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

/// The filter: rows, and the same as JSON, which counts if it was changed.
fn filter(values: &Values, error: Option<&str>) -> Markup {
    let hint = r#"All clauses must hold: {"total": {"$gte": 100}}. Empty: all events of these types. If both are changed, this counts."#;
    html! {
        fieldset class="field" {
            legend { "Filter" }
            @match &values.clauses {
                Some(clauses) => {
                    (clauses::rows(clauses, values.empty_rows, values.empty_either))
                    input type="hidden" name="filters_shown" value=(values.filters);
                    details open[error.is_some()] { summary class="small soft" { "As JSON" } (entry(("filters", "Filter as JSON"), &values.filters, Size::Rows("4"), hint, error)) }
                },
                None => (entry(("filters", "Filter as JSON"), &values.filters, Size::Rows("6"), hint, error)),
            }
        }
    }
}

/// How much may be entered.
#[derive(Clone, Copy)]
enum Size {
    /// A line of so many characters.
    Line(&'static str),
    /// A text, in a field of so many rows.
    Rows(&'static str),
}

fn entry(
    (id, label): (&str, &str),
    value: &str,
    size: Size,
    hint: &str,
    error: Option<&str>,
) -> Markup {
    let hint = html! { (hint) };
    let invalid = error.map(|_| "true");
    crate::console::parts::field(
        id,
        &html! { (label) },
        Some(&hint),
        error,
        &|id, described| {
            html! {
                @match size {
                    Size::Line(most) => {
                        input id=(id) name=(id) value=(value) maxlength=(most) spellcheck="false" autocomplete="off"
                            aria-describedby=[described] aria-invalid=[invalid];
                    },
                    Size::Rows(rows) => {
                        textarea id=(id) name=(id) rows=(rows) spellcheck="false"
                            aria-describedby=[described] aria-invalid=[invalid] { "\n" (value) }
                    },
                }
            }
        },
    )
}

/// A pattern that no described type matches, and the described type that it may be meant to be.
fn unknown_pattern<'a>(events: &'a str, known: &'a [String]) -> Option<(&'a str, Option<&'a str>)> {
    let given = events.split([',', ' ', '\n', '\t']);
    let given = given.filter(|pattern| !pattern.is_empty());
    let mut given = given.take(MAX_PATTERNS);
    let unknown = given.find(|text| {
        let pattern = text.parse::<Pattern>();
        pattern.is_ok_and(|pattern| !known.iter().any(|name| pattern.listens_to(name)))
    })?;
    let far = |name: &&String| strsim::damerau_levenshtein(unknown, name);
    let nearest = known.iter().min_by_key(far).filter(|name| far(name) <= 3);
    Some((unknown, nearest.map(String::as_str)))
}
