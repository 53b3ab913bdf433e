//! How a webhook's endpoint is asked: each value that counts, and whether it is the webhook's own,
//! its tenant's or its dialect's.

use maud::{Markup, html};
use shared::dialect::Dialect;
use shared::retry::{Pauses, Schedule};
use shared::tenant::TenantSettings;
use time::Duration;

use crate::api::webhooks::view::WebhookView;
use crate::console::moments::{number, span, took};
use crate::console::text::line;
use crate::webhooks::form::Signing;
use crate::webhooks::rate_limit::RateLimit;

/// How many delays of a schedule are named.
const NAMED: usize = 8;

/// What a webhook inherits.
pub(super) struct Inherited<'a> {
    /// The dialect of the webhook; `None`: this process doesn't know it.
    pub dialect: Option<&'a Dialect>,
    pub tenant: Option<&'a TenantSettings>,
    /// The most attempts in any hour of a tenant with the tenant's dialect.
    pub dialects_per_hour: Option<u32>,
}

/// The panel.
pub(super) fn panel(webhook: &WebhookView, inherited: &Inherited<'_>) -> Markup {
    html! {
        section class="panel" {
            header { h2 { "How it is asked" } }
            dl class="kv pad" {
                dt { "Time to answer" } (timeout(webhook, inherited))
                dt { "Retries" } (retries(webhook, inherited))
                dt { "Oldest event" } (max_age(inherited))
                dt { "Rate limit" } (rate(webhook, inherited))
                dt { "Signed with" }
                dd { @match webhook.signing { Signing::Hmac => "HMAC-SHA256", Signing::Ed25519 => "HMAC-SHA256 and ed25519" } }
                dt { "Client certificate" }
                @match &webhook.client_certificate {
                    Some(certificate) => dd { "SHA-256 " code class="break" { (line(&certificate.sha256)) } },
                    None => dd class="soft" { "None" },
                }
                dt { "Bearer tokens" }
                @match &webhook.oauth2 {
                    Some(oauth) => dd {
                        "from " span class="break" { (line(&oauth.token_url)) } " for client " code { (line(&oauth.client_id)) }
                        @if let Some(scope) = &oauth.scope { ", scope " code { (line(scope)) } }
                        @if let Some(audience) = &oauth.audience { ", audience " code { (line(audience)) } }
                    },
                    None => dd class="soft" { "None" },
                }
                dt { "Trace header" }
                dd {
                    @if webhook.trace_header { "On " span class="soft small" { code { "traceparent" } " carries the event's trace" } }
                    @else { "Off" }
                }
                dt { "Debug mode" }
                dd {
                    @if webhook.debug_mode { "On " span class="soft small" { "requests and answers are kept whole" } }
                    @else { "Off " span class="soft small" { "requests' bodies aren't kept, answers to 16 KiB" } }
                }
            }
            p class="pad small soft" { "The operator's settings of the dispatchers can change what comes from the dialect." }
        }
    }
}

fn from(whose: &str) -> Markup {
    html! { " " span class="soft" { "(" (whose) ")" } }
}

fn unknown() -> Markup {
    html! { dd class="soft" { "the dialect's, which this process doesn't know" } }
}

fn timeout(webhook: &WebhookView, inherited: &Inherited<'_>) -> Markup {
    match (webhook.timeout, inherited.dialect) {
        (Some(ms), _) => html! { dd { (delay(ms)) (from("its own")) } },
        (None, Some(dialect)) => {
            let ms = dialect.policy().timeout.as_millis() as u64;
            html! { dd { (delay(ms)) (from("the dialect's")) } }
        }
        (None, None) => unknown(),
    }
}

fn retries(webhook: &WebhookView, inherited: &Inherited<'_>) -> Markup {
    let Some(dialect) = inherited.dialect else {
        return unknown();
    };
    let schedule = &dialect.policy().schedule;
    match &webhook.retry_policy {
        Some(own) => html! { dd { (in_words(&schedule.with(own))) (from("its own")) } },
        None => html! { dd { (in_words(schedule)) (from("the dialect's")) } },
    }
}

fn max_age(inherited: &Inherited<'_>) -> Markup {
    let tenants = inherited.tenant.and_then(|tenant| tenant.max_age);
    let tenants = tenants.and_then(|age| Duration::try_from(age).ok());
    match (tenants, inherited.dialect) {
        (Some(age), _) => html! { dd { (span(age)) (from("the tenant's")) } },
        (None, Some(dialect)) => {
            html! { dd { (span(dialect.policy().max_age)) (from("the dialect's")) } }
        }
        (None, None) => unknown(),
    }
}

fn rate(webhook: &WebhookView, inherited: &Inherited<'_>) -> Markup {
    let tenants = inherited
        .tenant
        .and_then(|tenant| tenant.deliveries_per_hour);
    let of_all = match (tenants, inherited.dialects_per_hour) {
        (Some(most), _) => Some((most, "the tenant's, over all its webhooks")),
        (None, Some(most)) => Some((most, "the dialect's, over all webhooks of the tenant")),
        (None, None) => None,
    };
    html! {
        dd {
            @match &webhook.rate_limit {
                Some(own) => { (rate_in_words(own)) (from("its own")) },
                None if of_all.is_none() => span class="soft" { "None" },
                None => {},
            }
            @if let Some((most, whose)) = of_all {
                @if webhook.rate_limit.is_some() { br; }
                (number(most.into())) " attempts an hour" (from(whose))
            }
        }
    }
}

/// `100 requests a minute`.
fn rate_in_words(rate: &RateLimit) -> String {
    // As the API writes it: its members are its own.
    let rate = serde_json::json!(rate);
    let requests = match rate["limit"].as_i64().unwrap_or_default() {
        1 => "1 request".to_owned(),
        many => format!("{} requests", number(many)),
    };
    let per = match rate["per"].as_str() {
        Some("hour") => "an hour",
        Some("minute") => "a minute",
        _ => "a second",
    };
    format!("{requests} {per}")
}

/// `5 s`, `2.5 s`, `1 h`.
fn delay(ms: u64) -> String {
    let ms = ms as i64;
    match ms % 1_000 {
        0 if ms > 0 => span(Duration::milliseconds(ms)),
        _ => took(ms),
    }
}

/// `after 5 s, 5 min, 30 min`.
fn in_words(schedule: &Schedule) -> String {
    let mut words = match &schedule.pauses {
        Pauses::Delays(delays) => match delays.as_slice() {
            [] => return "none: there is one attempt".to_owned(),
            delays => {
                let named: Vec<_> = delays.iter().take(NAMED).map(|ms| delay(*ms)).collect();
                let named = named.join(", ");
                match (delays.len().checked_sub(NAMED), delays.last()) {
                    (Some(more @ 1..), Some(last)) => {
                        format!(
                            "after {named}, and {more} more, the last after {}",
                            delay(*last)
                        )
                    }
                    _ => format!("after {named}"),
                }
            }
        },
        Pauses::Exponential { retries: 0, .. } => {
            return "none: there is one attempt".to_owned();
        }
        Pauses::Exponential {
            first,
            factor,
            cap,
            retries,
        } => {
            let times = match retries {
                1 => "once".to_owned(),
                many => format!("{many} times"),
            };
            format!(
                "{times}: the first after {}, each pause {factor} times as long as the one before, {} at most",
                delay(*first),
                delay(*cap)
            )
        }
    };
    if schedule.jitter > 0.0 {
        words.push_str(&format!(
            "; up to {:.0} % is added at random",
            schedule.jitter * 100.0
        ));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_said_in_words() {
        let of = |pauses, jitter| in_words(&Schedule { pauses, jitter });
        let exponential = |retries| Pauses::Exponential {
            first: 5_000,
            factor: 2.0,
            cap: 3_600_000,
            retries,
        };
        for (said, expected) in [
            (
                of(Pauses::Delays(vec![5_000, 300_000, 1_500]), 0.0),
                "after 5 s, 5 min, 1.5 s",
            ),
            (
                of(Pauses::Delays(vec![]), 0.1),
                "none: there is one attempt",
            ),
            (
                of(Pauses::Delays(vec![1_000; 10]), 0.1),
                "after 1 s, 1 s, 1 s, 1 s, 1 s, 1 s, 1 s, 1 s, and 2 more, the last after 1 s; up to 10 % is added at random",
            ),
            (
                of(exponential(9), 0.0),
                "9 times: the first after 5 s, each pause 2 times as long as the one before, 1 h at most",
            ),
            (of(exponential(0), 0.0), "none: there is one attempt"),
        ] {
            assert_eq!(said, expected);
        }
    }
}
