//! The list of a webhook's deliveries in the portal: its filters, its rows, and what can be done
//! with the rows that somebody selects.
//!
//! It isn't the console's list, because that one shows the texts of failures and the names of
//! limits.

use maud::{Markup, html};
use shared::ids::WebhookId;

use crate::api::deliveries::view::Delivery;
use crate::api::webhooks::view::WebhookView;
use crate::console::fields::query;
use crate::console::frame::csrf;
use crate::console::icons::icon;
use crate::console::moments::{at, count, number};
use crate::console::parts::{Head, facets, pager, pick, table, td, tr};
use crate::console::portal::said::reason_in_short;
use crate::console::portal::scope::Customer;
use crate::console::query::{SearchQuery, Term};
use crate::console::text::excerpt;
use crate::console::words;

/// The words of the search field. There is no `webhook:`, because a list is of one.
const WORDS: [&str; 7] = [
    "status", "type", "code", "outcome", "event", "since", "until",
];

/// What was typed into the search field. One word that is no filter is an event's id.
pub fn search(q: &str, add: &str) -> SearchQuery {
    let mut search = SearchQuery::parse(&format!("{q} {add}"), &WORDS);
    let is_id = !search.rest.is_empty() && !search.rest.contains([' ', ':']);
    if is_id {
        search.terms.retain(|term| term.word != "event");
        search.terms.push(Term {
            word: "event".to_owned(),
            value: std::mem::take(&mut search.rest),
        });
    }
    search
}

/// A filter as all its viewers share it: in one spelling, and no longer than a query may be.
pub fn normal(q: &str) -> String {
    search(q, "").without(None)
}

/// How many deliveries wait, for the ready-made filter: empty if none do.
pub fn waiting(webhook: &WebhookView) -> Markup {
    html! { @if webhook.waiting > 0 { " " (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } } }
}

/// Filters that people ask for. `failed`: how many deliveries failed, and whether there are more.
pub fn ready_filters(
    path: &str,
    wanted: &SearchQuery,
    webhook: &WebhookView,
    failed: Option<(usize, bool)>,
) -> Markup {
    let kept = search(&wanted.without(Some("status")), "");
    let status = wanted.get("status").unwrap_or_default();
    let failed = html! {
        "Failed"
        @if let Some((many, more)) = failed.filter(|(many, _)| *many > 0) { " " (many) @if more { "+" } }
    };
    let ready = [
        (html! { "All" }, ""),
        (
            html! { "Waiting" span data-live="waiting" { (waiting(webhook)) } },
            "waiting",
        ),
        (failed, "failed"),
        (html! { "Expired" }, "expired"),
        (html! { "Cancelled" }, "cancelled"),
        (html! { "Delivered" }, "delivered"),
    ];
    let links = ready.map(|(words, state)| {
        let filter = match state {
            "" => String::new(),
            state => format!(" status:{state}"),
        };
        let q = format!("{}{filter}", kept.without(None));
        let to = format!("{path}{}", query(&[("q", q.trim())]));
        (to, words, status == state)
    });
    facets("State", &links, &html! { "Newest event first" })
}

/// The rows, and the bar that appears when some are selected.
pub fn list(
    customer: &Customer,
    webhook: WebhookId,
    wanted: &SearchQuery,
    deliveries: &[Delivery],
) -> Markup {
    if deliveries.is_empty() {
        return html! {};
    }
    let may_retry = customer.may_change();
    let mut heads = Vec::new();
    if may_retry {
        heads.push(Head::Pick);
    }
    heads.extend([
        Head::Text("State"),
        Head::Text("Event type"),
        Head::Text("Answer"),
        Head::Text("What comes next"),
        Head::Number("When"),
    ]);
    html! {
        (table("tight", &heads, &html! { @for delivery in deliveries { (row(delivery, may_retry)) } }))
        @if may_retry { (bulk_bar(customer, webhook, wanted)) }
    }
}

fn row(delivery: &Delivery, may_retry: bool) -> Markup {
    let word = words::delivery(&delivery.status, delivery.next_attempt_reason.as_deref());
    let path = format!("/portal/deliveries/{}", delivery.id);
    tr(&html! {
        @if may_retry { (pick(&delivery.id.to_string())) }
        (td("", &word.show()))
        (td("", &html! { a href=(path) { code { (excerpt(delivery.event_type.as_str(), 80)) } } }))
        (td("ans", &words::answer(delivery.response_code, delivery.attempts)))
        (td("grow", &html! { span class="cut soft" { (what_comes_next(delivery)) } }))
        (td("right num last", &at(delivery.queued_at.0)))
    })
}

/// Never the text of the failure: see [`said`](crate::console::portal::said).
fn what_comes_next(delivery: &Delivery) -> Markup {
    let reason = delivery.next_attempt_reason.as_deref();
    let attempts = || count(delivery.attempts.into(), "attempt");
    html! {
        @match delivery.status.as_str() {
            "delivered" => "",
            "failed" => { "Gave up after " (attempts()) },
            "expired" if delivery.attempts == 0 => "Too old before it was ever tried",
            "expired" => { "Too old after " (attempts()) },
            "cancelled" => "The webhook was switched off or disabled",
            _ => {
                @if let Some(reason) = reason { (reason_in_short(reason)) }
                @if let Some(next) = delivery.next_attempt_at {
                    @if reason.is_some() { ". " }
                    @if delivery.attempts == 0 { "First try at " } @else { "Next at " }
                    (at(next.0))
                }
            },
        }
    }
}

/// "All that match" is asked about on a page of its own.
fn bulk_bar(customer: &Customer, webhook: WebhookId, wanted: &SearchQuery) -> Markup {
    html! {
        form class="bulk" id="bulk" method="post" action="/portal/deliveries/retry" {
            (csrf(&customer.by))
            input type="hidden" name="webhook" value=(webhook);
            input type="hidden" name="q" value=(wanted.without(None));
            span { b class="num" data-count { "0" } " selected" }
            span class="row" {
                button class="btn" data-key="r" { (icon("retry")) "Retry these" }
                button class="btn" name="all" value="1" { "All that match…" }
            }
        }
    }
}

/// How many are shown, and the way to older ones.
pub fn more(path: &str, wanted: &SearchQuery, shown: usize, cursor: Option<String>) -> Markup {
    let older = cursor.map(|cursor| {
        let next = query(&[("q", &wanted.without(None)), ("cursor", &cursor)]);
        format!("{path}{next}")
    });
    let words = html! {
        (count(shown as i64, "delivery")) " shown"
        @if shown > 0 { span class="js-only" { ". " kbd { "j" } " " kbd { "k" } " move, " kbd { "Enter" } " opens" } }
    };
    pager(&words, older.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_an_events_id_and_another_webhook_is_no_filter() {
        assert_eq!(search("order-4711", "").without(None), "event:order-4711");
        assert_eq!(
            search("status:failed event:order-1", "order-2").without(None),
            "status:failed event:order-2"
        );
        for (q, rest) in [("webhook:wh_1", "webhook:wh_1"), ("two words", "two words")] {
            assert_eq!(search(q, "").rest, rest, "{q}");
        }
    }
}
