//! The lines of a webhook's log: one for each attempt, each wait and each change.

use maud::{Markup, html};
use time::OffsetDateTime;

use crate::api::changes::{Change, ChangeAction};
use crate::api::deliveries::webhook_log::entries::{WebhookAttempt, WebhookWait};
use crate::console::moments::{at, count, exactly, took};
use crate::console::text::{excerpt, line, within};
use crate::console::words;

/// How much of an answer, an error or a changed value a line has, in bytes of HTML.
const SAID: usize = 200;
/// The most members of a change that its line has.
const MEMBERS: usize = 6;

/// A line, and the time by which lines are ordered.
pub type Line = (OffsetDateTime, Markup);

/// The lines without their times, newest first. Lines of the same time stay in their order.
pub fn in_order(mut lines: Vec<Line>) -> Vec<Markup> {
    lines.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    lines.into_iter().map(|(_, line)| line).collect()
}

/// A line for each attempt. Attempts come by delivery, the latest first; if a delivery has more of
/// them than are shown, the last of its lines says so. `is_probe`: whether an attempt asked an
/// endpoint that was down, in vain.
pub fn attempt_lines(
    base: &str,
    attempts: &[WebhookAttempt],
    is_probe: impl Fn(&WebhookAttempt) -> bool,
) -> Vec<Line> {
    let mut lines = Vec::with_capacity(attempts.len());
    for (place, attempt) in attempts.iter().enumerate() {
        lines.push((
            attempt.started_at.0,
            attempt_line(base, attempt, is_probe(attempt)),
        ));
        let next = attempts.get(place + 1);
        let is_last = next.is_none_or(|next| next.delivery_id != attempt.delivery_id);
        if is_last && attempt.n > 1 {
            lines.push((attempt.started_at.0, earlier_line(base, attempt)));
        }
    }
    lines
}

fn attempt_line(base: &str, attempt: &WebhookAttempt, is_probe: bool) -> Markup {
    let (delivery, n) = (attempt.delivery_id, attempt.n);
    html! {
        li {
            span class="soft" { (exactly(attempt.started_at.0)) }
            span { (words::answer(attempt.response_code, n)) }
            span class="soft" { (took(attempt.duration_ms.into())) }
            a class="cut break" href={ (base) "/deliveries/" (delivery) "?attempt=" (n) "#a" (n) } {
                (excerpt(attempt.event_type.as_str(), 60))
            }
            span class="soft cut" {
                @if is_probe { "Asked once while down: " }
                @match (&attempt.error, &attempt.response_body) {
                    (Some(error), _) => (said(error)),
                    (None, Some(answer)) => (said(answer.trim())),
                    (None, None) => (line(&attempt.outcome)),
                }
            }
        }
    }
}

fn earlier_line(base: &str, first: &WebhookAttempt) -> Markup {
    let earlier = i64::from(first.n) - 1;
    html! {
        li class="mark" {
            a href={ (base) "/deliveries/" (first.delivery_id) } {
                (count(earlier, "earlier attempt")) " of this delivery"
            }
        }
    }
}

/// A time in which a delivery was put off for one reason.
pub fn wait_line(base: &str, wait: &WebhookWait) -> Line {
    let WebhookWait {
        delivery_id,
        event_type,
        wait,
        ..
    } = wait;
    let line = html! {
        li {
            span class="soft" { (exactly(wait.first_at.0)) }
            span class="wait" { "wait" }
            span class="soft" { @if wait.times == 1 { "once" } @else { (count(wait.times.into(), "time")) } }
            a class="cut break" href={ (base) "/deliveries/" (delivery_id) } { (excerpt(event_type.as_str(), 60)) }
            span class="soft cut" {
                (words::reason_in_short(&wait.reason))
                @match wait.until {
                    Some(until) => { ", until " (at(until.0)) },
                    None => ", until its webhook is active",
                }
            }
        }
    };
    (wait.first_at.0, line)
}

/// What somebody changed, and who.
pub fn change_line(change: &Change) -> Line {
    let what = match change.action {
        ChangeAction::Created => "Created",
        ChangeAction::Changed => "Changed",
        ChangeAction::Deleted => "Deleted",
    };
    let before = |name: &str| change.before.as_ref().and_then(|before| before.get(name));
    let line = html! {
        li class="mark" {
            (exactly(change.at.0)) " " (what) " by " (line(&change.actor))
            @if let (ChangeAction::Changed, Some(after)) = (change.action, &change.after) {
                ": "
                @for (n, (name, value)) in after.iter().take(MEMBERS).enumerate() {
                    @if n > 0 { ", " }
                    (line(name)) " "
                    @if let Some(before) = before(name) { (said(&before.to_string())) " → " }
                    (said(&value.to_string()))
                }
                @if after.len() > MEMBERS { ", and " (after.len() - MEMBERS) " more" }
            }
        }
    };
    (change.at.0, line)
}

/// The beginning of what an endpoint or a producer wrote.
fn said(text: &str) -> Markup {
    excerpt(text, within(text, SAID))
}
