//! What the portal says of attempts and waits: words for whoever owns the endpoint.
//!
//! The text of a failure may have an address of the operator's network in it, such as "points to
//! 10.0.0.7, which is not a public address". So no page of the portal shows that text. The kind of
//! the failure is enough to find its cause, and each kind has a sentence here or in
//! [`words`]. Nothing here speaks of limits, dispatchers or operators.

use maud::{Markup, html};

use crate::console::parts::note;
use crate::console::text::line;
use crate::console::words::{self, Verdict};

/// The outcome of an attempt in words. The address that was connected to is left out.
pub fn verdict(outcome: &str, code: Option<i16>, timeout_ms: Option<u64>) -> Verdict {
    match (outcome, code) {
        ("forbidden", _) => Verdict {
            tone: "fail",
            headline: "Nothing can be sent to this address.".to_owned(),
            advice: html! { "The URL's host must have a public address." },
        },
        ("client_error", Some(429)) => Verdict {
            tone: "fail",
            headline: "Answered 429: the endpoint refused it.".to_owned(),
            advice: html! { "It wants fewer requests. With " code { "Retry-After" } " it can say when to send the next one." },
        },
        (
            "success" | "redirect" | "client_error" | "server_error" | "timeout" | "dns"
            | "connect" | "tls" | "broken",
            _,
        ) => words::outcome(
            outcome,
            code,
            None,
            None,
            timeout_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        ),
        (unknown, _) => Verdict {
            tone: "none",
            headline: unknown.to_owned(),
            advice: html! { "The attempt ended in a way that this page doesn't know." },
        },
    }
}

/// A verdict as a note.
pub fn shown(verdict: &Verdict) -> Markup {
    let symbol = match verdict.tone {
        "good" => "ok",
        "slow" => "warn",
        "none" => "unknown",
        _ => "fail",
    };
    note(
        verdict.tone,
        symbol,
        &line(&verdict.headline),
        &verdict.advice,
        &html! {},
    )
}

/// Why a delivery waits, in a sentence.
pub fn reason(reason: &str) -> &'static str {
    match reason {
        "first_attempt" => "It is sent in a moment.",
        "schedule" => "The retry schedule says so.",
        "retry_after" => "Your endpoint asked to wait until then (Retry-After).",
        "restarted" => "Somebody retried it. It is sent in a moment.",
        "endpoint_full" => "Your endpoint has as many requests in flight as it can take.",
        "endpoint_down" => "Your endpoint is down. It gets one request at a time until it answers.",
        "rate_limited" => "Requests to your endpoint are spread over time. It waits for its turn.",
        "in_flight" => "It is being sent.",
        "paused" => "Your webhook is paused. It is sent when the webhook is resumed.",
        _ => "It can't be sent just now. It is tried again without your doing.",
    }
}

/// The same in a list.
pub fn reason_in_short(reason: &str) -> &'static str {
    match reason {
        "first_attempt" => "First attempt",
        "schedule" => "Schedule",
        "retry_after" => "Asked to wait",
        "restarted" => "Retried",
        "endpoint_full" => "Endpoint busy",
        "endpoint_down" => "Endpoint down",
        "rate_limited" => "Waits for its turn",
        "in_flight" => "In flight",
        "paused" => "Paused",
        _ => "Waits",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_filter::OUTCOMES;

    #[test]
    fn every_kind_of_failure_has_a_sentence_without_an_operators_word() {
        for outcome in OUTCOMES.into_iter().chain(["eaten"]) {
            for code in [None, Some(429), Some(404), Some(503)] {
                let said = verdict(outcome, code, Some(30_000));
                let text = format!("{} {}", said.headline, said.advice.into_string());
                assert!(!said.headline.is_empty(), "{outcome}");
                for word in ["operator", "dispatcher", "tenant", "limit", "console"] {
                    assert!(!text.contains(word), "{outcome} {code:?}: {text}");
                }
            }
        }
    }

    #[test]
    fn a_reason_that_is_not_known_is_not_shown_as_it_is() {
        for known in ["parked", "unknown_dialect", "on_holiday"] {
            assert_eq!(reason_in_short(known), "Waits");
            assert!(reason(known).starts_with("It can't be sent"));
        }
    }
}
