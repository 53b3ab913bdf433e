//! From what came back to what happens next: the whole retry policy, pure.

use std::time::Duration;

use shared::attempt::{Answer, Failure};
use shared::dialect::{Answers, Meaning};
use shared::retry::Schedule;
use time::OffsetDateTime;

/// However long an endpoint asks for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// What is added to it at random, at most: so that what an endpoint asks for at one
/// moment isn't all due in the same second.
const RETRY_AFTER_JITTER: f64 = 0.1;

/// How a job leaves the dispatcher. One variant, one update of its row.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The endpoint took it.
    Delivered,
    /// It didn't, and is asked again.
    RetryAt {
        /// When.
        at: OffsetDateTime,
        /// Why then.
        because: Timing,
    },
    /// It didn't, and isn't asked again.
    Failed(GaveUp),
    /// Too old to be sent.
    Expired,
    /// Its webhook is gone or switched off.
    Cancelled,
    /// Its webhook is paused: it waits in its row.
    Held,
    /// Not tried: costs no attempt.
    Deferred {
        /// Until when.
        until: OffsetDateTime,
        /// Why.
        because: Deferral,
    },
}

/// Why the next attempt comes when it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// The schedule says so.
    Schedule,
    /// The endpoint asked for more time than that.
    RetryAfter,
}

/// Why a delivery isn't tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// The schedule, or the delivery's age, allows no more.
    Exhausted,
    /// An answer that no other attempt would change.
    Refused,
    /// The endpoint says it is gone: the webhook is disabled.
    Gone,
}

/// Why a job was put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deferral {
    /// All places at the endpoint are taken.
    EndpointFull,
    /// The endpoint has failed too often in a row to be asked just now.
    EndpointDown,
    /// The webhook's or its tenant's rate limit is used up.
    RateLimited,
    /// Another copy of the job is under way in this replica.
    InFlight,
    /// The webhook isn't known here, or its row can't be read.
    UnknownWebhook,
    /// The webhook's dialect isn't known here.
    UnknownDialect,
}

impl Timing {
    /// As the delivery log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::RetryAfter => "retry_after",
        }
    }
}

impl Deferral {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::EndpointFull,
        Self::EndpointDown,
        Self::RateLimited,
        Self::InFlight,
        Self::UnknownWebhook,
        Self::UnknownDialect,
    ];

    /// As metrics and logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointFull => "endpoint_full",
            Self::EndpointDown => "endpoint_down",
            Self::RateLimited => "rate_limited",
            Self::InFlight => "in_flight",
            Self::UnknownWebhook => "unknown_webhook",
            Self::UnknownDialect => "unknown_dialect",
        }
    }
}

impl Verdict {
    /// As metrics and logs have it: the delivery's state after it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::RetryAt { .. } => "retrying",
            Self::Failed(_) => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Held => "held",
            Self::Deferred { .. } => "deferred",
        }
    }
}

/// Whether an endpoint failed in a way that it may recover from if it is asked
/// less: not with an answer to what it was sent, and not because we don't go there.
pub fn struggles(result: &Result<Answer, Failure>) -> bool {
    match result {
        Ok(answer) => answer.status == 429 || answer.status >= 500,
        Err(Failure::Forbidden(_)) => false,
        Err(_) => true,
    }
}

/// What an attempt was, to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Which attempt, from 1, since the delivery began (again).
    pub attempt: u16,
    /// When the event was accepted, or the delivery began again.
    pub began_at: OffsetDateTime,
    /// When the attempt ended.
    pub now: OffsetDateTime,
    /// What answers mean.
    pub answers: &'a Answers,
    /// From the acceptance to the last attempt.
    pub max_age: time::Duration,
    /// When failures are repeated.
    pub schedule: &'a Schedule,
    /// Between 0 and 1: the jitter's throw.
    pub random: f64,
}

/// Decides what follows from an attempt.
pub fn judge(result: &Result<Answer, Failure>, case: Case<'_>) -> Verdict {
    if let Ok(answer) = result {
        match case.answers.meaning(answer.status) {
            Meaning::Delivered => return Verdict::Delivered,
            Meaning::Stop => return Verdict::Failed(GaveUp::Refused),
            Meaning::Disable => return Verdict::Failed(GaveUp::Gone),
            Meaning::Retry => {}
        }
    }
    let Some(pause) = case.schedule.pause_after(case.attempt, case.random) else {
        return Verdict::Failed(GaveUp::Exhausted);
    };
    // Asked for by an endpoint that is overloaded: never sooner than that.
    let asked = match result {
        Ok(Answer {
            status: 429 | 503,
            retry_after: Some(wait),
            ..
        }) => retry_after(*wait, case.random),
        _ => Duration::ZERO,
    };
    let at = case.now + pause.max(asked);
    if at - case.began_at > case.max_age {
        return Verdict::Failed(GaveUp::Exhausted);
    }
    let because = if asked > pause {
        Timing::RetryAfter
    } else {
        Timing::Schedule
    };
    Verdict::RetryAt { at, because }
}

/// How long to wait if an endpoint asks for so much: that, or some more.
fn retry_after(asked: Duration, random: f64) -> Duration {
    let asked = asked.min(MAX_RETRY_AFTER);
    let more = asked.as_secs_f64() * RETRY_AFTER_JITTER * random;
    // Whole seconds if it is long, as the schedule's pauses.
    let more = if asked >= Duration::from_secs(10) {
        more.round()
    } else {
        more
    };
    (asked + Duration::from_secs_f64(more)).min(MAX_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::dialect::{DEFAULT, Dialects};
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);

    fn answered(status: u16, retry_after: Option<u64>) -> Result<Answer, Failure> {
        Ok(Answer {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            ..Answer::default()
        })
    }

    fn verdict(result: &Result<Answer, Failure>, attempt: u16) -> Verdict {
        verdict_in(DEFAULT, result, attempt)
    }

    fn verdict_in(dialect: &str, result: &Result<Answer, Failure>, attempt: u16) -> Verdict {
        let schedule = Schedule::of_seconds(&[5, 300]);
        judge(
            result,
            Case {
                attempt,
                began_at: NOW,
                now: NOW,
                answers: &Dialects::embedded().get(dialect).unwrap().policy().answers,
                max_age: time::Duration::WEEK,
                schedule: &schedule,
                random: 0.0,
            },
        )
    }

    #[test]
    fn what_follows_from_each_answer() {
        let at = |seconds, because| Verdict::RetryAt {
            at: NOW + Duration::from_secs(seconds),
            because,
        };
        let retry = |seconds| at(seconds, Timing::Schedule);
        let asked = |seconds| at(seconds, Timing::RetryAfter);
        let exhausted = Verdict::Failed(GaveUp::Exhausted);
        for (result, attempt, expected) in [
            (answered(200, None), 1, Verdict::Delivered),
            (answered(204, None), 3, Verdict::Delivered),
            (answered(301, None), 1, retry(5)),
            (answered(400, None), 1, retry(5)),
            (answered(404, None), 2, retry(300)),
            (answered(500, None), 3, exhausted.clone()),
            (answered(410, None), 1, Verdict::Failed(GaveUp::Gone)),
            (answered(429, Some(3)), 1, retry(5)),
            (answered(429, Some(60)), 1, asked(60)),
            (answered(503, Some(999_999)), 1, asked(86_400)),
            (answered(500, Some(60)), 1, retry(5)),
            (Err(Failure::Timeout), 1, retry(5)),
            (Err(Failure::Dns("no such name".into())), 3, exhausted),
        ] {
            assert_eq!(
                verdict(&result, attempt),
                expected,
                "{result:?}, attempt {attempt}"
            );
        }
    }

    #[test]
    fn what_an_endpoint_asks_for_is_spread_and_never_sooner() {
        let seconds = Duration::from_secs;
        for (asked, random, expected) in [
            (60, 0.0, seconds(60)),
            (60, 0.5, seconds(63)),
            (60, 1.0, seconds(66)),
            (2, 0.5, Duration::from_millis(2_100)),
            (80_000, 1.0, seconds(86_400)),
            (86_400, 1.0, seconds(86_400)),
            (u64::MAX, 1.0, seconds(86_400)),
            (0, 1.0, seconds(0)),
        ] {
            let wait = retry_after(seconds(asked), random);
            assert_eq!(wait, expected, "{asked}, {random}");
        }
    }

    #[test]
    fn an_endpoint_struggles_if_asking_less_may_help() {
        for (status, expected) in [
            (200, false),
            (302, false),
            (404, false),
            (410, false),
            (429, true),
            (500, true),
            (503, true),
        ] {
            assert_eq!(struggles(&answered(status, None)), expected, "{status}");
        }
        assert!(struggles(&Err(Failure::Timeout)));
        assert!(!struggles(&Err(Failure::Forbidden("private".into()))));
    }

    #[test]
    fn a_dialect_says_which_answers_are_final() {
        let retry = Verdict::RetryAt {
            at: NOW + Duration::from_secs(5),
            because: Timing::Schedule,
        };
        let refused = Verdict::Failed(GaveUp::Refused);
        for (status, expected) in [
            (200, Verdict::Delivered),
            (302, retry.clone()),
            (400, refused.clone()),
            (410, refused),
            (429, retry.clone()),
            (500, retry.clone()),
        ] {
            let verdict = verdict_in("brainsait", &answered(status, None), 1);
            assert_eq!(verdict, expected, "{status}");
        }
        assert_eq!(verdict_in("rishi", &answered(410, None), 1), retry);
    }

    #[test]
    fn no_retry_is_planned_beyond_the_age_limit() {
        let schedule = Schedule::of_seconds(&[86_400]);
        let dialects = Dialects::embedded();
        let policy = dialects.default().policy();
        let case = Case {
            attempt: 1,
            began_at: NOW - policy.max_age + time::Duration::HOUR,
            now: NOW,
            answers: &policy.answers,
            max_age: policy.max_age,
            schedule: &schedule,
            random: 0.0,
        };
        assert_eq!(
            judge(&answered(500, None), case),
            Verdict::Failed(GaveUp::Exhausted)
        );
    }

    proptest! {
        #[test]
        fn a_retry_is_never_before_its_pause(status in 300u16..600, attempt in 1u16..3, after in proptest::option::of(any::<u64>())) {
            if let Verdict::RetryAt { at, .. } = verdict(&answered(status, after), attempt) {
                let pause = if attempt == 1 { 5 } else { 300 };
                prop_assert!(at >= NOW + Duration::from_secs(pause));
            }
        }
    }
}
