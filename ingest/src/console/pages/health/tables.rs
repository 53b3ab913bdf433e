//! The tables of the system's health: processes, queues, and the endpoints that hold the most.

use maud::{Markup, html};

use super::trouble::is_consumed;
use crate::api::operations::endpoints::WaitingEndpoint;
use crate::api::operations::{Process, Queue};
use crate::console::icons::icon;
use crate::console::moments::{ago, at, bytes, count, number, percent};
use crate::console::pages::statistics::tone;
use crate::console::pages::webhooks::name_of;
use crate::console::parts::{Head, dash, empty, num, table, td, tr};
use crate::console::text::{line, short};
use crate::console::words;

pub(super) fn processes(processes: &[Process]) -> Markup {
    if processes.is_empty() {
        return empty(
            "No process has reported yet",
            &html! { "Each process reports to PostgreSQL every ten seconds." },
            &html! {},
        );
    }
    let heads = [
        Head::Text("State"),
        Head::Text("Process"),
        Head::Number("In flight"),
        Head::Number("Memory"),
        Head::Number("A second"),
        Head::Number("Up"),
    ];
    let rows = html! {
        @for process in processes {
            (tr(&html! {
                (td("", &html! {
                    @if process.alive { span class="st good" { (icon("ok")) "Runs" } }
                    @else { span class="st fail" { (icon("fail")) "Silent for " (ago(process.told_at.0)) } }
                }))
                (td("grow first", &html! {
                    b { (line(&process.kind)) } " "
                    span class="small soft" { (line(&process.host)) " " code { (short(&process.id.to_string())) } " " (line(&process.version)) }
                }))
                (num("", Some("in flight"), &html! {
                    @match (process.in_flight, process.concurrency) {
                        (Some(now), Some(most)) => { (number(now.into())) " of " (number(most.into())) },
                        (Some(now), None) => (number(now.into())),
                        _ => (dash()),
                    }
                }))
                (num("hide", None, &html! { @match process.memory_bytes { Some(memory) => (bytes(memory)), None => (dash()) } }))
                (num("hide", None, &html! { (format!("{:.1}", process.events_per_second + process.attempts_per_second)) }))
                (num("last", None, &html! { span title="since it was started" { (ago(process.started_at.0)) } }))
            }))
        }
    };
    table("tight", &heads, &rows)
}

pub(super) fn queues(queues: &[Queue]) -> Markup {
    if queues.is_empty() {
        return empty(
            "No queue was measured yet",
            &html! { "RabbitMQ is asked for their lengths every ten seconds." },
            &html! {},
        );
    }
    let heads = [
        Head::Text("Queue"),
        Head::Text("What waits in it"),
        Head::Number("Messages"),
        Head::Number("Consumers"),
    ];
    // Deliveries wait in delay queues for their time. There are about twenty, most of them empty.
    let is_idle = |queue: &&Queue| queue.messages == 0 && !is_consumed(&queue.name);
    let mut shown: Vec<_> = queues.iter().filter(|queue| !is_idle(queue)).collect();
    shown.sort_by_key(|queue| in_order(&queue.name));
    let idle = queues.len() - shown.len();
    let rows = html! {
        @for queue in shown {
            (tr(&html! {
                (td("grow first", &html! { code { (line(&queue.name)) } }))
                (td("full soft small", &html! { (meaning(&queue.name)) }))
                (num("", Some("messages"), &number(queue.messages)))
                (num("last", Some("consumers"), &html! {
                    @if is_consumed(&queue.name) {
                        @if queue.consumers == 0 { span class="st fail" { (icon("fail")) "0" } } @else { (queue.consumers) }
                    } @else { (dash()) }
                }))
            }))
        }
    };
    let measured = queues.iter().map(|queue| queue.told_at.0).max();
    html! {
        (table("tight", &heads, &rows))
        p class="small soft" {
            @if let Some(measured) = measured { "Measured " (ago(measured)) " ago. " }
            @if idle > 0 { (count(idle as i64, "more delay queue")) " with nothing in " @if idle == 1 { "it" } @else { "them" } "." }
        }
    }
}

/// Numbers in names are compared as numbers: `…retry.v1.10s` is before `…retry.v1.300s`.
fn in_order(name: &str) -> (&str, u64) {
    let (beginning, end) = name.rsplit_once('.').unwrap_or((name, ""));
    match end.trim_end_matches('s').parse() {
        Ok(number) => (beginning, number),
        Err(_) => (name, 0),
    }
}

fn meaning(queue: &str) -> &'static str {
    match queue.split('.').nth(1) {
        Some("ingest") => "events that are to be matched",
        Some("overflow") => "events of a tenant with a burst",
        Some("jobs") => "deliveries that are due",
        Some("retry") => "deliveries that wait for their time",
        Some("parking") => "messages on their way to the dead letters",
        Some("unrouted") => "messages that no queue was bound for",
        _ => "",
    }
}

/// Those with the most deliveries first.
pub(super) fn endpoints(endpoints: &[WaitingEndpoint]) -> Markup {
    if endpoints.is_empty() {
        return empty(
            "No delivery waits",
            &html! { "Endpoints for which deliveries wait would be here." },
            &html! {},
        );
    }
    let heads = [
        Head::Text("Health"),
        Head::Text("Tenant and webhook"),
        Head::Number("Waiting"),
        Head::Number("Oldest"),
        Head::Text("Requests of each dispatcher"),
        Head::Number("Success 24 h"),
    ];
    let rows = html! {
        @for endpoint in endpoints {
            (tr(&html! {
                (td("", &words::webhook(&endpoint.status, endpoint.health).show()))
                (td("grow first", &html! {
                    a class="cut" href=(path(endpoint)) { (endpoint.tenant) " " span class="soft" { "/" } " " b { (line(name(endpoint))) } }
                    " " span class="small soft" { (why(endpoint)) }
                }))
                (num("", Some("waiting"), &html! { (number(endpoint.waiting)) @if !endpoint.waiting_counted { "+" } }))
                (num("", Some("oldest"), &ago(endpoint.oldest_waiting_at.0)))
                (td("hide small", &replicas(endpoint)))
                (num("last", None, &html! {
                    @match endpoint.success_rate_24h {
                        Some(rate) => span class=(tone(Some(rate))) { (percent(rate)) },
                        None => (dash()),
                    }
                }))
            }))
        }
    };
    table("tight", &heads, &rows)
}

/// How many requests each dispatcher has in flight, of how many it may have.
fn replicas(endpoint: &WaitingEndpoint) -> Markup {
    const MOST: usize = 3;
    html! {
        @if endpoint.replicas.is_empty() { (dash()) }
        @for (n, replica) in endpoint.replicas.iter().take(MOST).enumerate() {
            @if n > 0 { ", " }
            code title=(replica.process_id) { (short(&replica.process_id.to_string())) } " "
            (replica.in_flight) " of " (replica.permits)
            @if replica.circuit != "closed" { " (down)" }
        }
        @if endpoint.replicas.len() > MOST { ", " (endpoint.replicas.len() - MOST) " more" }
    }
}

/// The oldest delivery's endpoint and the reason why it waits, in a line.
pub(super) fn oldest(endpoint: &WaitingEndpoint) -> Markup {
    html! { a href=(path(endpoint)) { (endpoint.tenant) ", " (line(name(endpoint))) } ": " (why(endpoint)) }
}

fn path(endpoint: &WaitingEndpoint) -> String {
    format!(
        "/console/{}/webhooks/{}",
        endpoint.tenant, endpoint.webhook_id
    )
}

fn name(endpoint: &WaitingEndpoint) -> String {
    let url = endpoint
        .host
        .as_ref()
        .map(|host| format!("https://{host}/"));
    name_of(&endpoint.description, &url.unwrap_or_default())
}

fn why(endpoint: &WaitingEndpoint) -> Markup {
    html! {
        @if let Some(since) = endpoint.down_since { "endpoint down since " (at(since.0)) }
        @else if endpoint.status == "paused" { "webhook paused" }
        @else {
            @match endpoint.reason.as_deref() {
                Some("schedule") => "waits for its next attempt",
                Some(reason) => (words::reason_in_short(reason)),
                None => "due now",
            }
        }
    }
}
