//! Decides what follows from an attempt: the whole retry policy.
//!
//! The result of an attempt comes in from `deliver`, and a [`Verdict`] goes back. This is
//! a pure function: it reads no clock and no table, and its randomness is a parameter.

use std::fmt;
use std::time::Duration;

use shared::attempt::{Answer, Failure};
use shared::dialect::{Answers, Meaning, Since};
use shared::retry::Schedule;
use time::OffsetDateTime;

/// The longest pause that an endpoint can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The largest random addition to a pause that an endpoint asked for, as a part of it. An
/// endpoint that asks all jobs for the same pause doesn't get them all in one second.
const RETRY_AFTER_JITTER: f64 = 0.1;

/// How a job leaves the dispatcher. Each variant is one way to update the delivery's row.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Delivered,
    /// The attempt failed, and another one follows.
    RetryAt {
        at: OffsetDateTime,
        because: Timing,
    },
    /// The attempt failed, and it was the last one.
    Failed(GaveUp),
    /// The delivery is too old to be sent, or would be at its next attempt.
    Expired(TooOld),
    /// The webhook is deleted, disabled or inactive.
    Cancelled,
    /// The webhook is paused. The delivery stays in its row, without a job.
    Held,
    /// No attempt was made, and none is charged. The job comes again.
    Deferred {
        until: OffsetDateTime,
        because: Deferral,
    },
}

/// What decided the time of the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    Schedule,
    /// The endpoint asked for a longer pause than the schedule has.
    RetryAfter,
}

/// The age limit that ended a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    pub limit: time::Duration,
    pub since: Since,
}

impl fmt::Display for TooOld {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.limit.whole_seconds();
        let units = [
            (86_400, "days"),
            (3_600, "hours"),
            (60, "minutes"),
            (1, "seconds"),
        ];
        let whole = units.into_iter().find(|(unit, _)| seconds % unit == 0);
        let (unit, name) = whole.unwrap_or((1, "seconds"));
        let since = match self.since {
            Since::AcceptedAt => "was accepted",
            Since::OccurredAt => "happened",
        };
        let count = seconds / unit;
        let name = if count == 1 {
            &name[..name.len() - 1]
        } else {
            name
        };
        write!(
            out,
            "too old: no attempt is made later than {count} {name} after the event {since}"
        )
    }
}

/// Why no other attempt follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// The schedule has no other attempt.
    Exhausted,
    /// The dialect calls this answer final.
    Refused,
    /// The endpoint says that it is gone for good. The webhook is disabled.
    Gone,
}

/// Why a job was deferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deferral {
    /// The endpoint has as many requests in flight as it may have.
    EndpointFull,
    /// The endpoint's circuit breaker is open.
    EndpointDown,
    /// The rate limit of the webhook or of its tenant is used up.
    RateLimited,
    /// This replica is working on another copy of the job.
    InFlight,
    /// This replica doesn't know the webhook, or can't decrypt its row.
    UnknownWebhook,
    /// This replica has no dialect of that name.
    UnknownDialect,
}

impl Timing {
    /// As the delivery log writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::RetryAfter => "retry_after",
        }
    }
}

impl Deferral {
    pub const ALL: [Self; 6] = [
        Self::EndpointFull,
        Self::EndpointDown,
        Self::RateLimited,
        Self::InFlight,
        Self::UnknownWebhook,
        Self::UnknownDialect,
    ];

    /// As metrics and logs write it.
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
    /// As metrics and logs write it. For all but `held` and `deferred` this is also the
    /// delivery's new state.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::RetryAt { .. } => "retrying",
            Self::Failed(_) => "failed",
            Self::Expired(_) => "expired",
            Self::Cancelled => "cancelled",
            Self::Held => "held",
            Self::Deferred { .. } => "deferred",
        }
    }
}

/// Whether a result says that the endpoint may be overloaded, so that fewer requests at a
/// time may help. Answers that are about the request itself don't say so, nor does an
/// address that we refuse to connect to.
pub fn shows_overload(result: &Result<Answer, Failure>) -> bool {
    match result {
        Ok(answer) => answer.status == 429 || answer.status >= 500,
        Err(Failure::Forbidden(_)) => false,
        Err(_) => true,
    }
}

/// What is known of an attempt, beside its result.
#[derive(Debug, Clone, Copy)]
pub struct Attempted<'a> {
    /// The number of the attempt, from 1, since the delivery began or was restarted.
    pub attempt: u16,
    /// From when the delivery's age counts.
    pub ages_from: OffsetDateTime,
    /// When the attempt ended.
    pub now: OffsetDateTime,
    /// What the dialect says of each status.
    pub answers: &'a Answers,
    /// The longest time from `ages_from` to the last attempt.
    pub max_age: TooOld,
    /// The pauses between attempts.
    pub schedule: &'a Schedule,
    /// Between 0 and 1, for the jitter.
    pub random: f64,
}

/// Decides what follows from an attempt.
pub fn judge(result: &Result<Answer, Failure>, attempted: Attempted<'_>) -> Verdict {
    if let Ok(answer) = result {
        match attempted.answers.meaning(answer.status) {
            Meaning::Delivered => return Verdict::Delivered,
            Meaning::Stop => return Verdict::Failed(GaveUp::Refused),
            Meaning::Disable => return Verdict::Failed(GaveUp::Gone),
            Meaning::Retry => {}
        }
    }
    let Some(pause) = attempted
        .schedule
        .pause_after(attempted.attempt, attempted.random)
    else {
        return Verdict::Failed(GaveUp::Exhausted);
    };
    // An overloaded endpoint may ask for a longer pause, not for a shorter one.
    let asked_for = match result {
        Ok(Answer {
            status: 429 | 503,
            retry_after: Some(wait),
            ..
        }) => retry_after(*wait, attempted.random),
        _ => Duration::ZERO,
    };
    let at = attempted.now + pause.max(asked_for);
    if at - attempted.ages_from > attempted.max_age.limit {
        return Verdict::Expired(attempted.max_age);
    }
    let because = if asked_for > pause {
        Timing::RetryAfter
    } else {
        Timing::Schedule
    };
    Verdict::RetryAt { at, because }
}

/// The pause for an endpoint that asks for one: what it asks for, plus jitter.
fn retry_after(asked_for: Duration, random: f64) -> Duration {
    let asked_for = asked_for.min(MAX_RETRY_AFTER);
    let jitter = asked_for.as_secs_f64() * RETRY_AFTER_JITTER * random;
    // Long pauses have whole seconds, as the schedule's have.
    let jitter = if asked_for >= Duration::from_secs(10) {
        jitter.round()
    } else {
        jitter
    };
    (asked_for + Duration::from_secs_f64(jitter)).min(MAX_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::dialect::{DEFAULT, Dialects};
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);

    const A_WEEK: TooOld = TooOld {
        limit: time::Duration::WEEK,
        since: Since::AcceptedAt,
    };

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
            Attempted {
                attempt,
                ages_from: NOW,
                now: NOW,
                answers: &Dialects::embedded().get(dialect).unwrap().policy().answers,
                max_age: A_WEEK,
                schedule: &schedule,
                random: 0.0,
            },
        )
    }

    #[test]
    fn each_answer_leads_to_its_verdict() {
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
    fn a_pause_that_an_endpoint_asks_for_gets_jitter_and_is_never_shortened() {
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
    fn overload_is_429_5xx_and_no_answer_but_no_other_status() {
        for (status, expected) in [
            (200, false),
            (302, false),
            (404, false),
            (410, false),
            (429, true),
            (500, true),
            (503, true),
        ] {
            assert_eq!(
                shows_overload(&answered(status, None)),
                expected,
                "{status}"
            );
        }
        assert!(shows_overload(&Err(Failure::Timeout)));
        assert!(!shows_overload(&Err(Failure::Forbidden("private".into()))));
    }

    #[test]
    fn a_dialect_decides_which_answers_are_final() {
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
        let attempted = Attempted {
            attempt: 1,
            ages_from: NOW - policy.max_age + time::Duration::HOUR,
            now: NOW,
            answers: &policy.answers,
            max_age: A_WEEK,
            schedule: &schedule,
            random: 0.0,
        };
        assert_eq!(
            judge(&answered(500, None), attempted),
            Verdict::Expired(A_WEEK)
        );
        // Without an age limit, the same delivery's schedule goes on; at its end it has failed.
        let second = Attempted {
            attempt: 2,
            ..attempted
        };
        assert_eq!(
            judge(&answered(500, None), second),
            Verdict::Failed(GaveUp::Exhausted)
        );
    }

    #[test]
    fn an_age_limit_is_put_into_words() {
        for (limit, since, words) in [
            (
                time::Duration::WEEK,
                Since::OccurredAt,
                "7 days after the event happened",
            ),
            (
                time::Duration::HOUR,
                Since::AcceptedAt,
                "1 hour after the event was accepted",
            ),
            (
                time::Duration::seconds(90),
                Since::AcceptedAt,
                "90 seconds after",
            ),
        ] {
            let said = TooOld { limit, since }.to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    proptest! {
        #[test]
        fn a_retry_never_comes_before_its_pause_is_over(status in 300u16..600, attempt in 1u16..3, after in proptest::option::of(any::<u64>())) {
            if let Verdict::RetryAt { at, .. } = verdict(&answered(status, after), attempt) {
                let pause = if attempt == 1 { 5 } else { 300 };
                prop_assert!(at >= NOW + Duration::from_secs(pause));
            }
        }
    }
}
