//! The console's words for states, reasons and outcomes, and what they mean.
//!
//! A newer process may write a word that isn't known here. It is shown as it is, so no function
//! here fails.

use maud::{Markup, html};

use crate::api::webhooks::health::Health;
use crate::console::icons::icon;
use crate::console::moments::took;
use crate::console::text::line;

/// A state: a tone, a shape and a word, and a sentence that says what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word<'a> {
    /// `good`, `slow`, `fail` or `none`.
    pub tone: &'static str,
    pub icon: &'static str,
    pub word: &'a str,
    pub sentence: &'static str,
}

const fn word(
    tone: &'static str,
    icon: &'static str,
    word: &'static str,
    sentence: &'static str,
) -> Word<'static> {
    Word {
        tone,
        icon,
        word,
        sentence,
    }
}

impl Word<'_> {
    /// The shape and the word.
    pub fn show(&self) -> Markup {
        self.show_as("st", &line(self.word))
    }

    /// The same where it is the main thing: the word has its colour, too.
    pub fn strong(&self) -> Markup {
        self.show_as("st strong", &line(self.word))
    }

    /// The shape, and more than a word.
    pub fn saying(&self, words: &Markup) -> Markup {
        self.show_as("st strong", words)
    }

    fn show_as(&self, class: &str, words: &Markup) -> Markup {
        html! { span class={ (class) " " (self.tone) } { (icon(self.icon)) (words) } }
    }
}

/// The state of a delivery. `reason`: why its next attempt comes when it does.
pub fn delivery<'a>(status: &'a str, reason: Option<&str>) -> Word<'a> {
    match (status, reason) {
        ("delivered", _) => word("good", "ok", "Delivered", "The endpoint took it."),
        ("queued" | "retrying", Some("paused")) => word(
            "slow",
            "held",
            "Held",
            "Its webhook is paused. It is sent when the webhook is active again, unless it gets too old.",
        ),
        ("processing", _) => word("none", "send", "In flight", "An attempt is being made."),
        ("queued", _) => word(
            "none",
            "queued",
            "Queued",
            "It waits for its first attempt.",
        ),
        ("retrying", _) => word(
            "slow",
            "retry",
            "Retrying",
            "An attempt failed; another comes at the time shown.",
        ),
        ("failed", _) => word(
            "fail",
            "fail",
            "Failed",
            "Given up: the last attempt failed, or the answer was final. It can be retried.",
        ),
        ("expired", _) => word(
            "fail",
            "expired",
            "Expired",
            "Given up: it got too old before an attempt succeeded. It can be retried.",
        ),
        ("cancelled", _) => word(
            "none",
            "cancelled",
            "Cancelled",
            "Not sent: its webhook was switched off, disabled or deleted.",
        ),
        (unknown, _) => unknown_word(unknown),
    }
}

/// An endpoint's circuit breaker, as a dispatcher has it that tells of it.
pub fn circuit(state: &str) -> Word<'_> {
    match state {
        "open" => word(
            "fail",
            "fail",
            "Down",
            "Nothing is sent before the next request.",
        ),
        "probing" => word(
            "slow",
            "retry",
            "Asking",
            "One request is in flight, and its answer decides.",
        ),
        "closed" => word(
            "slow",
            "warn",
            "Full",
            "Requests are sent, and none of its permits was free.",
        ),
        unknown => unknown_word(unknown),
    }
}

/// A word that a newer version wrote.
fn unknown_word(unknown: &str) -> Word<'_> {
    Word {
        word: unknown,
        ..word(
            "none",
            "unknown",
            "",
            "This version of the console doesn't know this word.",
        )
    }
}

/// Why a delivery waits.
pub fn reason(reason: &str) -> Markup {
    let known = match reason {
        "first_attempt" => "It has its turn in a moment.",
        "schedule" => "The retry schedule says so.",
        "retry_after" => "The endpoint asked to be left alone until then (Retry-After).",
        "restarted" => "Someone retried or replayed it; it has its turn in a moment.",
        "endpoint_full" => {
            "As many requests are in flight as the endpoint, or the dispatcher, can take. It costs no attempt."
        }
        "endpoint_down" => {
            "Ten requests in a row failed, so the endpoint is asked with one at a time, after 5 s, 10 s, … 5 min. It costs no attempt."
        }
        "rate_limited" => {
            "The webhook's or the tenant's rate limit is used up until then. It costs no attempt."
        }
        "in_flight" => "Another copy of the same delivery is just being sent.",
        "unknown_webhook" => "The dispatcher doesn't know the webhook yet, or can't read it.",
        "unknown_dialect" => {
            "The dispatcher doesn't have the webhook's dialect. Tell the operator."
        }
        "paused" => "Its webhook is paused; there is no set time.",
        "parked" => {
            "Sending it failed fifty times on our side. It is tried again an hour later; the operator can see it."
        }
        unknown => return html! { "It waits: " code { (line(unknown)) } "." },
    };
    html! { (known) }
}

/// Why a delivery waits, in a list.
pub fn reason_in_short(reason: &str) -> Markup {
    let known = match reason {
        "first_attempt" => "First attempt",
        "schedule" => "Schedule",
        "retry_after" => "Asked to wait",
        "restarted" => "Retried",
        "endpoint_full" => "Endpoint full",
        "endpoint_down" => "Endpoint down",
        "rate_limited" => "Rate limit",
        "in_flight" => "In flight",
        "unknown_webhook" => "Webhook not known yet",
        "unknown_dialect" => "Dialect unknown",
        "paused" => "Webhook paused",
        "parked" => "Parked",
        unknown => return html! { code { (line(unknown)) } },
    };
    html! { (known) }
}

/// What an attempt came to: a headline, and what to make of it.
pub struct Verdict {
    pub tone: &'static str,
    pub headline: String,
    pub advice: Markup,
}

/// `address`: what was connected to. `error`: why there is no answer.
pub fn outcome(
    outcome: &str,
    code: Option<i16>,
    address: Option<&str>,
    error: Option<&str>,
    timeout_ms: Option<i64>,
) -> Verdict {
    let code = code.map_or_else(|| "nothing".to_owned(), |code| code.to_string());
    let detail = html! { @if let Some(error) = error { " " code { (line(error)) } } };
    let (tone, headline, advice) = match outcome {
        "success" => (
            "good",
            format!("Answered {code}."),
            html! { "The endpoint took it." },
        ),
        "redirect" => (
            "slow",
            format!("Answered {code}, a redirect."),
            html! { "Redirects are never followed: put the final address into the webhook." },
        ),
        "client_error" => (
            "fail",
            format!("Answered {code}: the endpoint refused it."),
            html! {
                @match code.as_str() {
                    "401" | "403" => "Does it verify the signature over the raw body? A body that was parsed and written again has another signature.",
                    "410" => "Gone: the endpoint wants no more, and the webhook is disabled.",
                    "429" => "Too many: the endpoint wants fewer requests. A rate limit of the webhook helps.",
                    "404" => "There is nothing at this address. Is the URL right?",
                    _ => "The answer below may say why.",
                }
            },
        ),
        "server_error" => (
            "fail",
            format!("Answered {code}: the endpoint broke."),
            html! { "The endpoint's own log says why; the answer below may, too." },
        ),
        "timeout" => (
            "fail",
            match timeout_ms {
                Some(ms) => format!("No answer within {}.", took(ms)),
                None => "No answer in time.".to_owned(),
            },
            html! { "Answer first, work afterwards." },
        ),
        "dns" => (
            "fail",
            "The host has no address.".to_owned(),
            html! { "Is its name right?" (detail) },
        ),
        "connect" => (
            "fail",
            "No connection.".to_owned(),
            html! {
                @match address {
                    Some(address) => { "Nobody accepts connections at " code { (line(address)) } ". The service may be down, or a firewall refuses us." },
                    None => "Nobody accepts connections there. The service may be down, or a firewall refuses us.",
                }
                (detail)
            },
        ),
        "tls" => (
            "fail",
            "No secure connection.".to_owned(),
            html! { "Certificates must be valid and complete." (detail) },
        ),
        "broken" => (
            "fail",
            "The answer wasn't HTTP, or ended too early.".to_owned(),
            html! { "The connection broke in the middle of the answer." (detail) },
        ),
        "forbidden" => (
            "fail",
            "The address isn't allowed.".to_owned(),
            html! { "It isn't public, or the operator doesn't allow it." (detail) },
        ),
        unknown => (
            "none",
            unknown.to_owned(),
            html! { "This version of the console doesn't know this outcome." (detail) },
        ),
    };
    Verdict {
        tone,
        headline,
        advice,
    }
}

/// The state of a webhook: what its owner or Posthorn made of it counts before its answers.
pub fn webhook(status: &str, health: Health) -> Word<'_> {
    match (status, health) {
        ("active", Health::Healthy) => word(
            "good",
            "ok",
            "Healthy",
            "At most one attempt in twenty failed of late.",
        ),
        ("active", Health::Degraded) => word(
            "slow",
            "warn",
            "Degraded",
            "At most half of the attempts failed of late.",
        ),
        ("active", Health::Failing) => word(
            "fail",
            "fail",
            "Failing",
            "More than half of the attempts failed of late.",
        ),
        ("active", Health::Unused) => {
            word("none", "queued", "Not used yet", "Nothing was sent to it.")
        }
        ("paused", _) => word(
            "slow",
            "held",
            "Paused",
            "Deliveries are held until it is active again.",
        ),
        ("inactive", _) => word(
            "none",
            "cancelled",
            "Switched off",
            "By its owner; it gets nothing.",
        ),
        ("disabled", _) => word(
            "fail",
            "cancelled",
            "Disabled",
            "By Posthorn; it gets nothing.",
        ),
        (unknown, _) => unknown_word(unknown),
    }
}

/// An HTTP answer, or why there is none.
pub fn answer(code: Option<i16>, attempts: i16) -> Markup {
    html! {
        @match code {
            Some(code) => span class={ "http " (tone_of(code)) } { (code) },
            None if attempts > 0 => span class="http fail" { "no answer" },
            None => span class="soft" { "—" },
        }
    }
}

fn tone_of(code: i16) -> &'static str {
    match code {
        200..300 => "good",
        300..400 => "slow",
        _ => "fail",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_is_shown_as_it_is() {
        let shown = delivery("teleported", None).show().into_string();
        assert!(
            shown.contains("teleported") && shown.contains("#i-unknown"),
            "{shown}"
        );
        assert!(reason("on_holiday").into_string().contains("on_holiday"));
        assert_eq!(outcome("eaten", None, None, None, None).headline, "eaten");
        assert_eq!(webhook("asleep", Health::Healthy).word, "asleep");
    }

    #[test]
    fn what_a_paused_webhook_holds_is_held() {
        assert_eq!(delivery("queued", Some("paused")).word, "Held");
        assert_eq!(delivery("queued", Some("schedule")).word, "Queued");
    }
}
