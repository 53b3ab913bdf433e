//! The note above a webhook's tabs: what is wrong with the webhook, since when, and what happens now.

use maud::{Markup, html};

use crate::api::webhooks::view::WebhookView;
use crate::console::moments::{ago, at, number};
use crate::console::pages::webhook::lately::Limited;
use crate::console::parts::note;
use crate::console::text::line;
use crate::console::words;

/// What is wrong with it, since when, what happens now.
pub(super) fn trouble(
    may_change: bool,
    webhook: &WebhookView,
    limited: Option<&Limited>,
) -> Markup {
    let word = words::webhook(webhook.status, webhook.health);
    match webhook.status {
        "disabled" => {
            let reason = webhook
                .disabled_reason
                .as_deref()
                .unwrap_or("no reason is known");
            note(
                "fail",
                "warn",
                &html! { "Disabled by Posthorn: " (line(reason)) "." },
                &html! { "It gets nothing, and what waits for it is cancelled. Make it active when its endpoint answers again, and replay what it missed." },
                &html! {},
            )
        }
        "paused" => note(
            "slow",
            "held",
            &html! { @match webhook.paused_since { Some(since) => { "Paused since " (at(since.0)) "." }, None => "Paused." } },
            &html! { "Deliveries are held. They are sent when it is active again, unless they get too old before: its tenant's limit or its dialect says how old." },
            &html! {},
        ),
        "inactive" => note(
            "none",
            "cancelled",
            &html! { "Switched off." },
            &html! { "It gets nothing: no delivery is made for events that are published now." },
            &html! {},
        ),
        _ if webhook.down_since.is_some() => down(may_change, webhook),
        _ if word.tone == "fail" => note(
            "fail",
            "warn",
            &html! { "More than half of its attempts failed of late." },
            &html! { "Each delivery is tried again as the retry schedule says. Its deliveries and its log have the latest answers." },
            &html! {},
        ),
        _ => html! { @if let Some(limited) = limited { (at_rate_limit(webhook, limited)) } },
    }
}

fn at_rate_limit(webhook: &WebhookView, limited: &Limited) -> Markup {
    note(
        "slow",
        "clock",
        &html! {
            "At a rate limit: deliveries were put off " (number(limited.times))
            @if limited.times == 1 { " time" } @else { " times" } " since " (at(limited.since)) "."
        },
        &html! { (waiting(webhook)) " wait. The webhook's or the tenant's rate limit is used up. It costs no attempt." },
        &html! {},
    )
}

/// Its circuit breaker is open.
fn down(may_change: bool, webhook: &WebhookView) -> Markup {
    let since = webhook.down_since.unwrap_or(webhook.updated_at);
    let what = html! {
        "Down since " (at(since.0)) ". "
        span class="soft" {
            "Ten requests in a row failed, so it is asked with one at a time."
            @if let Some(next) = webhook.next_probe_at { " The next is at " (at(next.0)) "." }
        }
    };
    let more = html! {
        @if webhook.waiting > 0 {
            (that_wait(webhook))
            @if let Some(oldest) = webhook.oldest_waiting_at { ", the oldest for " (ago(oldest.0)) }
            ". They are sent once it answers, a few at first."
        }
    };
    let action = html! {
        @if may_change { button class="btn tiny" form="probe" { "Ask now" } }
    };
    note("fail", "warn", &what, &more, &action)
}

/// How many deliveries wait for it: counted to a bound, which is said.
fn waiting(webhook: &WebhookView) -> Markup {
    html! { (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } @if webhook.waiting == 1 { " delivery" } @else { " deliveries" } }
}

/// The same with its verb: `1 delivery waits`, `3 deliveries wait`.
pub fn that_wait(webhook: &WebhookView) -> Markup {
    html! { (waiting(webhook)) @if webhook.waiting == 1 { " waits" } @else { " wait" } }
}
