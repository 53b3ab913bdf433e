//! When a webhook's endpoint was down, as lines of its log: what all dispatchers saw, together.
//!
//! Each dispatcher has a circuit breaker of its own and tells of its own outages. People ask when
//! the endpoint was down. So outages that overlap are one.

use maud::{Markup, html};
use time::OffsetDateTime;

use crate::api::deliveries::webhook_log::entries::WebhookAttempt;
use crate::api::webhooks::outages::Outage;
use crate::console::moments::{count, exactly, span};
use crate::console::pages::log::lines::Line;

/// How an outage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It didn't.
    Lasts,
    /// A request succeeded.
    Up(OffsetDateTime),
    /// The dispatchers that saw it were stopped.
    Unknown,
}

/// A time in which an endpoint was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    since: OffsetDateTime,
    last_failed_at: OffsetDateTime,
    probes: i32,
    end: End,
}

impl Down {
    fn of(outage: &Outage) -> Self {
        Self {
            since: outage.since.0,
            last_failed_at: outage.last_failed_at.0,
            probes: outage.probes,
            end: match outage.ended_at {
                Some(at) => End::Up(at.0),
                None if outage.lasts => End::Lasts,
                None => End::Unknown,
            },
        }
    }

    /// Until when it is known to have lasted; `None`: until now.
    fn until(&self) -> Option<OffsetDateTime> {
        match self.end {
            End::Lasts => None,
            End::Up(at) => Some(at),
            End::Unknown => Some(self.last_failed_at),
        }
    }

    fn has(&self, at: OffsetDateTime) -> bool {
        at >= self.since && self.until().is_none_or(|until| at <= until)
    }

    fn add(&mut self, other: &Self) {
        self.probes = self.probes.saturating_add(other.probes);
        self.end = match (self.end, other.end) {
            (End::Lasts, _) | (_, End::Lasts) => End::Lasts,
            (End::Up(one), End::Up(another)) => End::Up(one.max(another)),
            (End::Up(at), End::Unknown) | (End::Unknown, End::Up(at)) => End::Up(at),
            (End::Unknown, End::Unknown) => End::Unknown,
        };
        self.last_failed_at = self.last_failed_at.max(other.last_failed_at);
    }
}

/// What all dispatchers saw, the oldest first. `outages`: in any order.
pub fn together(outages: &[Outage]) -> Vec<Down> {
    let mut all: Vec<Down> = outages.iter().map(Down::of).collect();
    all.sort_by_key(|down| down.since);
    let mut together: Vec<Down> = Vec::new();
    for down in all {
        match together.last_mut() {
            Some(last) if last.has(down.since) => last.add(&down),
            _ => together.push(down),
        }
    }
    together
}

/// Whether this attempt was a probe that failed: it began while the endpoint was down. (The one that
/// succeeded can't be told from those after it: dispatchers say within a second that one did.)
pub fn is_failed_probe(downs: &[Down], attempt: &WebhookAttempt) -> bool {
    attempt.outcome != "success" && downs.iter().any(|down| down.has(attempt.started_at.0))
}

/// The lines of an outage: when it began, and when and how it ended.
pub fn lines(down: &Down) -> Vec<Line> {
    let asked = || count(down.probes.into(), "time");
    let began = html! {
        "Down: ten requests in a row failed. It gets one request at a time, after 5 s, 10 s, … 5 min."
    };
    let mut lines = vec![marked(down.since, &began)];
    match down.end {
        End::Up(at) => {
            let up = html! {
                "Up again: a request succeeded. It was down for " (span(at - down.since)) "."
                @if down.probes > 0 { " Before that it was asked " (asked()) ", and failed." }
            };
            lines.push(marked(at, &up));
        }
        End::Lasts if down.probes > 0 => {
            let still = html! { "Still down. It was asked " (asked()) " since then, and failed." };
            lines.push(marked(down.last_failed_at, &still));
        }
        End::Unknown => {
            let stopped = html! { "The dispatcher that saw it down was stopped. What came after isn't known." };
            lines.push(marked(down.last_failed_at, &stopped));
        }
        End::Lasts => {}
    }
    lines
}

fn marked(at: OffsetDateTime, words: &Markup) -> Line {
    (at, html! { li class="mark" { (exactly(at)) " " (words) } })
}

#[cfg(test)]
mod tests {
    use shared::ids::ProcessId;
    use time::macros::datetime;

    use super::*;
    use crate::timestamp::Timestamp;

    fn outage(from: i64, failed: i64, end: End) -> Outage {
        let at = |minute| datetime!(2026-11-26 10:00 UTC) + time::Duration::minutes(minute);
        Outage {
            process_id: ProcessId::generate(),
            since: Timestamp(at(from)),
            last_failed_at: Timestamp(at(failed)),
            probes: 1,
            lasts: end == End::Lasts,
            ended_at: match end {
                End::Up(at) => Some(Timestamp(at)),
                End::Lasts | End::Unknown => None,
            },
        }
    }

    #[test]
    fn outages_of_several_dispatchers_that_overlap_are_one() {
        let up = datetime!(2026-11-26 10:10 UTC);
        let later = datetime!(2026-11-26 10:12 UTC);
        let [first, second] = [outage(0, 8, End::Up(up)), outage(5, 9, End::Up(later))];
        let apart = outage(20, 20, End::Lasts);
        let downs = together(&[apart, second, first]);
        assert_eq!(downs.len(), 2);
        assert_eq!(
            (downs[0].since, downs[0].end, downs[0].probes),
            (first.since.0, End::Up(later), 2)
        );
        assert_eq!((downs[1].since, downs[1].end), (apart.since.0, End::Lasts));
    }

    #[test]
    fn an_outage_that_lasts_for_one_dispatcher_lasts() {
        let up = datetime!(2026-11-26 10:10 UTC);
        let downs = together(&[outage(0, 8, End::Up(up)), outage(1, 9, End::Lasts)]);
        assert_eq!((downs.len(), downs[0].end), (1, End::Lasts));
        // The dispatcher was killed: what came after isn't known.
        let downs = together(&[outage(0, 8, End::Unknown), outage(9, 9, End::Unknown)]);
        assert_eq!(downs.len(), 2);
    }
}
