//! Is a webhook in trouble? Failing, slow or down, as its tenant's thresholds say. A pure
//! function, [`assess`], decides it from what is known and what the owner was told before.
//!
//! A trouble begins beyond the threshold and ends when the webhook is clearly better, so that
//! nobody is told of a webhook at the threshold again and again. What isn't known is as it
//! was: a webhook without attempts is neither better nor worse.

use std::collections::BTreeMap;

use shared::endpoints::Down;
use shared::ids::{Tenant, WebhookId};
use shared::operational::Thresholds;
use shared::recent::Recent;
use time::OffsetDateTime;

/// A webhook has recovered when its figures are at most this part of its threshold.
const BETTER: f64 = 0.5;

/// What an owner was told, and when it began.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Announced {
    pub failing: Option<OffsetDateTime>,
    pub slow: Option<OffsetDateTime>,
    /// When it began, and when a request failed last.
    pub down: Option<(OffsetDateTime, OffsetDateTime)>,
}

/// What is known of a webhook.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub recent: Recent,
    pub down: Option<Down>,
    /// When a dispatcher's circuit was closed last.
    pub closed_at: Option<OffsetDateTime>,
}

/// What is true now.
pub fn assess(
    seen: &Seen,
    announced: Announced,
    thresholds: &Thresholds,
    now: OffsetDateTime,
) -> Announced {
    let Seen {
        recent,
        down,
        closed_at,
    } = seen;
    let least = f64::from(thresholds.min_attempts);
    let rate = recent.failed() / recent.attempts();
    let failing = match announced.failing {
        None if recent.attempts() >= least && rate > thresholds.failure_rate => Some(now),
        // A webhook without attempts is as it was.
        Some(_) if rate <= thresholds.failure_rate * BETTER => None,
        announced => announced,
    };
    let limit = thresholds.slow.as_secs_f64() * 1000.0;
    let slow = match (announced.slow, recent.p95_ms()) {
        (None, Some(p95)) if recent.timed() >= least && p95 > limit => Some(now),
        (Some(_), Some(p95)) if p95 <= limit * BETTER => None,
        (announced, _) => announced,
    };
    let down = match (announced.down, down) {
        (None, Some(down)) if now - down.since >= thresholds.down_after => {
            Some((down.since, down.failed_at))
        }
        (Some((since, failed_at)), Some(down)) => Some((since, failed_at.max(down.failed_at))),
        // That no dispatcher calls it down may mean that all were restarted.
        (Some((_, failed_at)), None)
            if recent.last_delivered_at.max(*closed_at) > Some(failed_at) =>
        {
            None
        }
        (announced, _) => announced,
    };
    Announced {
        failing,
        slow,
        down,
    }
}

impl Announced {
    pub fn is_well(self) -> bool {
        self.failing.is_none() && self.slow.is_none() && self.down.is_none()
    }

    /// By their names.
    pub fn troubles(self) -> BTreeMap<&'static str, OffsetDateTime> {
        let all = [
            ("failing", self.failing),
            ("slow", self.slow),
            ("down", self.down.map(|(since, _)| since)),
        ];
        let all = all.into_iter();
        all.filter_map(|(name, since)| Some((name, since?)))
            .collect()
    }
}

/// A webhook whose owner may be told.
pub struct Watched {
    pub id: WebhookId,
    pub tenant: Tenant,
    pub operational: bool,
    pub thresholds: Thresholds,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::stats::Tally;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-29 10:00 UTC);
    const BEFORE: OffsetDateTime = datetime!(2026-11-29 09:00 UTC);

    fn attempts(succeeded: usize, failed: usize, took: Duration) -> Seen {
        let mut tally = Tally::default();
        for _ in 0..succeeded {
            tally.attempt("success", false, Some(took));
        }
        for _ in 0..failed {
            tally.attempt("server_error", false, Some(took));
        }
        let mut seen = Seen::default();
        seen.recent.add(&tally, 1000);
        seen
    }

    fn is_failing(was: bool, succeeded: usize, failed: usize) -> bool {
        let seen = attempts(succeeded, failed, Duration::from_millis(5));
        let announced = Announced {
            failing: was.then_some(BEFORE),
            ..Announced::default()
        };
        let is = assess(&seen, announced, &Thresholds::default(), NOW);
        assert!(is.slow.is_none() && is.down.is_none());
        is.failing.is_some()
    }

    #[test]
    fn failing_is_more_than_one_in_twenty_of_at_least_twenty() {
        for (succeeded, failed, expected) in [
            (0, 19, false),
            (18, 2, true),
            (19, 1, false),
            (0, 20, true),
            (950, 50, false),
            (949, 51, true),
        ] {
            assert_eq!(
                is_failing(false, succeeded, failed),
                expected,
                "{succeeded}, {failed}"
            );
        }
    }

    #[test]
    fn it_is_over_when_it_is_clearly_better_and_not_for_want_of_attempts() {
        for (succeeded, failed, expected) in [
            (0, 0, true),
            (1, 0, false),
            (96, 4, true),
            (98, 2, false),
            (0, 5, true),
        ] {
            assert_eq!(
                is_failing(true, succeeded, failed),
                expected,
                "{succeeded}, {failed}"
            );
        }
    }

    #[test]
    fn slow_is_a_p95_beyond_five_seconds() {
        let is_slow = |was: bool, count, seconds| {
            let seen = attempts(count, 0, Duration::from_secs(seconds));
            let announced = Announced {
                slow: was.then_some(BEFORE),
                ..Announced::default()
            };
            assess(&seen, announced, &Thresholds::default(), NOW)
                .slow
                .is_some()
        };
        assert!(is_slow(false, 20, 10) && !is_slow(false, 19, 10) && !is_slow(false, 20, 2));
        assert!(is_slow(true, 20, 4) && !is_slow(true, 20, 1) && is_slow(true, 0, 1));
    }

    #[test]
    fn down_is_told_after_a_minute_and_ends_with_a_sign_of_life_alone() {
        let thresholds = Thresholds::default();
        let down_for = |seconds| {
            let since = NOW - Duration::from_secs(seconds);
            Some(Down {
                since,
                failed_at: since,
                next_probe_at: None,
            })
        };
        let seen = |down| Seen {
            down,
            ..Seen::default()
        };
        let nothing = Announced::default();
        assert_eq!(
            assess(&seen(down_for(59)), nothing, &thresholds, NOW),
            nothing
        );
        let announced = assess(&seen(down_for(60)), nothing, &thresholds, NOW);
        assert!(announced.down.is_some());
        // All dispatchers were restarted: nobody calls it down.
        assert_eq!(assess(&seen(None), announced, &thresholds, NOW), announced);
        // It goes down again: that is the same outage.
        let again = assess(&seen(down_for(0)), announced, &thresholds, NOW);
        let since = announced.down.map(|(since, _)| since);
        assert_eq!(again.down, since.map(|since| (since, NOW)));
        let mut alive = seen(None);
        alive.closed_at = Some(NOW);
        assert_eq!(assess(&alive, announced, &thresholds, NOW), nothing);
        alive.closed_at = Some(BEFORE);
        assert_eq!(assess(&alive, announced, &thresholds, NOW), announced);
        alive.recent.last_delivered_at = Some(NOW);
        assert_eq!(assess(&alive, announced, &thresholds, NOW), nothing);
    }
}
