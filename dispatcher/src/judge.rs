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
/// time may help. These don't say so: an answer that is about the request itself, an address
/// that we refuse to connect to, and a lack of file descriptors or lookups in this process.
pub fn shows_overload(result: &Result<Answer, Failure>) -> bool {
    match result {
        Ok(answer) => answer.status == 429 || answer.status >= 500,
        Err(Failure::Forbidden(_)) => false,
        Err(failure) => !failure.is_ours(),
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
mod tests;
