//! The tables of a webhook's statistics: what went wrong, and what was put off.

use maud::{Markup, html};

use crate::api::webhooks::stats::Stats;
use crate::console::fields::query;
use crate::console::moments::{number, percent};
use crate::console::words;

/// Failed attempts by outcome. Each leads to deliveries: `deliveries` is their page, `since` is the
/// window as the filter has it.
pub(super) fn classes(stats: &Stats, deliveries: &str, since: &str) -> Markup {
    let mut all: Vec<_> = stats.failures_by_class.iter().collect();
    all.sort_by_key(|(_, count)| -**count);
    let most = all.first().map_or(1, |(_, count)| **count).max(1);
    html! {
        @if all.is_empty() {
            div class="empty" { h2 { "Nothing went wrong" } p { "Every attempt of this window was answered with a success." } }
        } @else {
            div class="scroll" {
                table class="tight" {
                    thead { tr { th { "Outcome" } th class="right" { "Attempts" } th { "Share" } } }
                    tbody {
                        @for (class, count) in all {
                            @let q = format!("outcome:{class} since:{since}");
                            tr {
                                td { a href={ (deliveries) (query(&[("q", &q)])) } { (class_in_words(class)) } " " code class="soft small" { (class) } }
                                td class="right num" { (number(*count)) }
                                td {
                                    progress class="bar fail" value=(count) max=(most) aria-label={ (percent(*count as f64 / stats.totals.attempts.max(1) as f64)) " of all attempts" } {}
                                }
                            }
                        }
                    }
                }
            }
            p class="small soft" { "An outcome leads to the deliveries whose last attempt ended so." }
        }
    }
}

/// How often deliveries were put off, and why.
pub(super) fn waits(stats: &Stats) -> Markup {
    let mut all: Vec<_> = stats.deferrals_by_reason.iter().collect();
    all.sort_by_key(|(_, count)| -**count);
    html! {
        @if all.is_empty() {
            div class="empty" { h2 { "Nothing waited" } p { "No delivery was put off in this window, but for its retry schedule." } }
        } @else {
            div class="scroll" {
                table class="tight" {
                    thead { tr { th { "Reason" } th class="right" { "Put off" } } }
                    tbody {
                        @for (reason, count) in all {
                            tr {
                                td {
                                    (words::reason_in_short(reason)) " " code class="soft small" { (reason) }
                                    br; span class="small" { (words::reason(reason)) }
                                }
                                td class="right num" { (number(*count)) }
                            }
                        }
                    }
                }
            }
            p class="small soft" { "A delivery that is put off five times counts five times." }
        }
    }
}

fn class_in_words(class: &str) -> &str {
    match class {
        "redirect" => "A redirect",
        "client_error" => "Answered 4xx",
        "server_error" => "Answered 5xx",
        "timeout" => "No answer in time",
        "dns" => "The host has no address",
        "connect" => "No connection",
        "tls" => "No secure connection",
        "broken" => "The answer wasn't HTTP, or ended too early",
        "forbidden" => "The address isn't allowed",
        _ => "",
    }
}
