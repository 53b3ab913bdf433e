//! From what came back to what happens next: the whole retry policy, pure.

use std::time::Duration;

use shared::dialect::{Answers, Meaning};
use shared::retry::Schedule;
use time::OffsetDateTime;

use crate::attempt::{Answer, Failure};

/// However long an endpoint asks for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How a job leaves the dispatcher. One variant, one update of its row.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The endpoint took it.
    Delivered,
    /// It didn't, and is asked again.
    RetryAt(OffsetDateTime),
    /// It didn't, and isn't asked again.
    Failed(GaveUp),
    /// Too old to be sent.
    Expired,
    /// Its webhook is gone or switched off.
    Cancelled,
    /// Not tried: costs no attempt.
    Deferred {
        /// Until when.
        until: OffsetDateTime,
        /// Why.
        because: Deferral,
    },
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
    /// The webhook's or its tenant's rate limit is used up.
    RateLimited,
    /// Another copy of the job is under way in this replica.
    InFlight,
    /// The webhook isn't known here, or its row can't be read.
    UnknownWebhook,
    /// The webhook's dialect isn't known here.
    UnknownDialect,
}

impl Deferral {
    /// As metrics and logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointFull => "endpoint_full",
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
            Self::RetryAt(_) => "retrying",
            Self::Failed(_) => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Deferred { .. } => "deferred",
        }
    }
}

/// What an attempt was, to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Which attempt, from 1.
    pub attempt: u16,
    /// When the event was accepted.
    pub accepted_at: OffsetDateTime,
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
        }) => (*wait).min(MAX_RETRY_AFTER),
        _ => Duration::ZERO,
    };
    let at = case.now + pause.max(asked);
    if at - case.accepted_at > case.max_age {
        return Verdict::Failed(GaveUp::Exhausted);
    }
    Verdict::RetryAt(at)
}

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date.
pub fn parse_retry_after(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 has is longer than any cap.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let wait = OffsetDateTime::from(date) - now;
    Some(wait.try_into().unwrap_or(Duration::ZERO))
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
                accepted_at: NOW,
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
        let retry = |seconds| Verdict::RetryAt(NOW + Duration::from_secs(seconds));
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
            (answered(429, Some(60)), 1, retry(60)),
            (answered(503, Some(999_999)), 1, retry(86_400)),
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
    fn a_dialect_says_which_answers_are_final() {
        let retry = Verdict::RetryAt(NOW + Duration::from_secs(5));
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
            accepted_at: NOW - policy.max_age + time::Duration::HOUR,
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

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(parse_retry_after("3", NOW), seconds(3));
        assert_eq!(parse_retry_after(" 120 ", NOW), seconds(120));
        assert_eq!(
            parse_retry_after("Sun, 22 Nov 2026 10:01:00 GMT", NOW),
            seconds(60)
        );
        assert_eq!(
            parse_retry_after("Sun, 22 Nov 2026 09:00:00 GMT", NOW),
            seconds(0)
        );
        assert_eq!(
            parse_retry_after("99999999999999999999999", NOW),
            seconds(u64::MAX)
        );
        for bad in ["", "-1", "soon", "1.5"] {
            assert_eq!(parse_retry_after(bad, NOW), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn retry_after_never_panics(value in ".{0,64}") {
            let _ = parse_retry_after(&value, NOW);
        }

        #[test]
        fn a_retry_is_never_before_its_pause(status in 300u16..600, attempt in 1u16..3, after in proptest::option::of(any::<u64>())) {
            if let Verdict::RetryAt(at) = verdict(&answered(status, after), attempt) {
                let pause = if attempt == 1 { 5 } else { 300 };
                prop_assert!(at >= NOW + Duration::from_secs(pause));
            }
        }
    }
}
