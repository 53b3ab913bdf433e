//! What each dispatcher knows of a webhook's endpoint: its circuit breaker, and how many requests
//! it has in flight there, of how many it may have.

use maud::{Markup, html};

use crate::api::http::problem;
use crate::api::webhooks::endpoint::EndpointHealth;
use crate::console::moments::{ago, at, count, number};
use crate::console::parts::{Head, dash, empty, num, table, td, tr, unreadable};
use crate::console::text::short;
use crate::console::words;

/// How many dispatchers are shown.
const MOST: usize = 20;

/// A part that can't be read leaves the rest of the page alone.
pub(super) fn dispatchers(endpoint: &problem::Result<EndpointHealth>) -> Markup {
    match endpoint {
        Ok(endpoint) => table_of(endpoint),
        Err(unread) => unreadable("What dispatchers say", unread.is_too_slow()),
    }
}

fn table_of(endpoint: &EndpointHealth) -> Markup {
    let (all, known) = (endpoint.dispatchers, endpoint.replicas.len() as i64);
    if all == 0 {
        return empty(
            "No dispatcher runs",
            &html! { "Nothing is sent until one is started." },
            &html! {},
        );
    }
    if known == 0 {
        return empty(
            "Nothing is held back",
            &html! { "The endpoint is up for " (all_of(all)) ", and each had a free permit in the last ten seconds." },
            &html! {},
        );
    }
    let heads = [
        Head::Text("State"),
        Head::Text("Dispatcher"),
        Head::Number("In flight"),
        Head::Number("Down for"),
        Head::Number("Next request"),
    ];
    let rows = html! {
        @for replica in endpoint.replicas.iter().take(MOST) {
            @let circuit = words::circuit(&replica.circuit);
            (tr(&html! {
                (td("first", &circuit.show()))
                (td("grow full", &html! {
                    code title=(replica.process_id) { (short(&replica.process_id.to_string())) } " "
                    span class="small soft" { (circuit.sentence) }
                }))
                (num("", Some("in flight"), &html! { (number(replica.in_flight.into())) " of " (number(replica.permits.into())) }))
                (num("", Some("down for"), &html! { @match replica.open_since { Some(since) => (ago(since.0)), None => (dash()) } }))
                (num("last", Some("next request"), &html! { @match replica.next_probe_at { Some(next) => (at(next.0)), None => (dash()) } }))
            }))
        }
    };
    let more = known - MOST as i64;
    html! {
        (table("tight", &heads, &rows))
        p class="small soft" {
            @if more > 0 { "And " (count(more, "dispatcher")) " more. " }
            @if all > known { "For " (number(all - known)) " more the endpoint is up, and each had a free permit." }
        }
    }
}

fn all_of(dispatchers: i64) -> String {
    match dispatchers {
        1 => "the dispatcher".to_owned(),
        many => format!("all {} dispatchers", number(many)),
    }
}
