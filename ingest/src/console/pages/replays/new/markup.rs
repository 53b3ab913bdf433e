//! The form for a new replay as HTML, and the count that stands beside it.

use maud::{Markup, html};
use time::Duration;

use crate::api::deliveries::replays::DryRun;
use crate::api::webhooks::view::WebhookView;
use crate::console::frame::csrf;
use crate::console::moments::{at, count, number, span};
use crate::console::pages::replays::new::form::{ASKED_STATES, Form};
use crate::console::pages::webhooks::name;
use crate::console::parts::field;
use crate::console::text::{line, plain};
use crate::console::visit::Visitor;

/// The states that can begin again, and what people call them.
const STATES: [(&str, &str); 4] = [
    ("failed", "Failed"),
    ("expired", "Expired"),
    ("cancelled", "Cancelled"),
    ("delivered", "Delivered"),
];
/// Rates to choose from.
const RATES: [(&str, &str); 3] = [("2", "gently, 2 /s"), ("10", "10 /s"), ("100", "100 /s")];

pub(super) fn how_many(counted: &DryRun, form: &Form) -> Markup {
    let more = if counted.counted { "" } else { " and more" };
    let rate: f64 = form.rate.parse().unwrap_or(10.0);
    let takes = Duration::seconds((counted.matching as f64 / rate.max(0.1)).ceil() as i64);
    html! {
        section class="panel" data-live="dry-run" {
            header {
                h2 { (counted.matching) (more) @if form.kind == "backfill" { " would be sent" } @else { " would begin again" } }
                span class="soft small" { "counted, nothing sent" }
            }
            dl class="kv pad" {
                @if !counted.by_type.is_empty() {
                    dt { "By type" }
                    dd { @for of in counted.by_type.iter().take(10) { code { (line(&of.event_type)) } " " (of.matching) br; } }
                }
                @if let Some(oldest) = counted.oldest { dt { "Oldest" } dd { (at(oldest.0)) } }
                @if counted.matching > 0 { dt { "Takes about" } dd { (span(takes)) " at " (line(&form.rate)) " a second" } }
            }
        }
    }
}

pub(super) fn the_form(
    by: &Visitor,
    path: &str,
    form: &Form,
    webhooks: &[WebhookView],
    counted: Option<&DryRun>,
) -> Markup {
    let is_backfill = form.kind == "backfill";
    let many = counted.map_or(0, |counted| counted.matching);
    let known_rate = RATES.iter().any(|(rate, _)| *rate == form.rate);
    html! {
        form class="form" method="post" action=(path) {
            (csrf(by))
            div class="pair" {
                (field("rw", &html! { "Webhook" }, None, None, &|id, _| html! {
                    select id=(id) name="webhook" {
                        option value="" selected[form.webhook.is_empty()] { "all, one after the other" }
                        @for webhook in webhooks {
                            option value=(webhook.id) selected[webhook.id.to_string() == form.webhook] { (plain(name(webhook))) }
                        }
                    }
                }))
                (field("rk", &html! { "What" }, None, None, &|id, _| html! {
                    select id=(id) name="kind" {
                        option value="replay" selected[!is_backfill] { "its finished deliveries" }
                        option value="backfill" selected[is_backfill] { "events from before it was made" }
                    }
                }))
            }
            @if !is_backfill {
                fieldset class="field" {
                    legend { "In which state" }
                    input type="hidden" name=(ASKED_STATES) value="1";
                    div class="row" {
                        @for (state, words) in STATES {
                            label {
                                input type="checkbox" name="status" value=(state) checked[form.status.iter().any(|s| s == state)]; " " (words)
                                @if let Some(of) = counted.and_then(|counted| counted.by_status.iter().find(|of| of.status == state)) {
                                    " " span class="num soft" { (number(of.deliveries)) }
                                }
                            }
                        }
                    }
                    p class="hint" { "Choose at least one. Deliveries in other states are left alone." }
                }
            }
            div class="field" {
                div class="pair" {
                    div class="field" { label for="rf" { "Events from" } input id="rf" name="since" value=(plain(&form.since)) maxlength="64" aria-describedby="rh"; }
                    div class="field" { label for="ru" { "until before" } input id="ru" name="until" value=(plain(&form.until)) placeholder="now" maxlength="64" aria-describedby="rh"; }
                }
                p class="soft small" id="rh" { "UTC, like 2026-11-26 07:29; " code { "3h" } " and " code { "yesterday" } " are understood, too." }
            }
            @if !is_backfill {
                div class="pair" {
                    (field("rt", &html! { "Event types" }, None, None, &|id, _| html! {
                        input id=(id) name="types" value=(plain(&form.types)) placeholder="all; order.*, user.created" maxlength="2048" spellcheck="false";
                    }))
                    (field("rc", &html! { "Last answered" }, None, None, &|id, _| html! {
                        input id=(id) name="code" value=(plain(&form.code)) placeholder="no matter; 5xx, none" maxlength="256" spellcheck="false";
                    }))
                }
                (field("ro", &html! { "Last outcome" }, Some(&html! { "Or a list: client_error, server_error, timeout, dns, connect, tls, broken, forbidden, redirect, success." }), None, &|id, described| html! {
                    input id=(id) name="outcome" value=(plain(&form.outcome)) placeholder="no matter; timeout, tls" maxlength="256" spellcheck="false" aria-describedby=[described];
                }))
            }
            fieldset class="field" {
                legend { "How fast" }
                div class="row" {
                    span class="seg" { @for (rate, words) in RATES {
                        label { input type="radio" name="rate" value=(rate) checked[rate == form.rate]; " " (words) }
                    } }
                    label class="row" {
                        span class="sr" { "Other rate" }
                        input name="other_rate" size="6" inputmode="numeric" placeholder="1 to 1,000" maxlength="4"
                            value=[(!known_rate).then(|| plain(&form.rate))];
                    }
                }
                label class="check" {
                    input type="checkbox" name="ramp" checked[form.ramp];
                    " Start slowly"
                    span class="hint" { "2 a second, and a little more every second while the endpoint takes them. Back to half when it answers 429 or 5xx, or not at all." }
                }
            }
            div class="row" {
                button class="btn main-btn" name="go" value="1" {
                    @if is_backfill { "Send " } @else { "Replay " } (count(many, "delivery"))
                }
                button class="btn quiet" { "Count again" }
            }
        }
    }
}
