//! The retry schedule: when a failed delivery is tried again. Data, no actions.
//!
//! A dialect has a [`Schedule`]. The server's settings and the webhook may each have a
//! [`Retry`], which changes the members that it names and leaves the others. The
//! dispatcher's `judge` decides whether an outcome is retried; this file only computes
//! the time.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most attempts that a schedule may have.
pub const MAX_ATTEMPTS: usize = 50;
/// The longest delay between two attempts.
pub const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);
/// The first delay if neither the schedule nor its override has one, in
/// milliseconds.
const FIRST_PAUSE: u64 = 5_000;

/// The delays after failed attempts, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    #[serde(flatten)]
    pub pauses: Pauses,
    /// A random share up to this is added to each delay: 0.1 adds up to 10 %.
    #[serde(default)]
    pub jitter: f64,
}

/// A list of delays, or a rule for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pauses {
    /// One delay per retry, in milliseconds.
    Delays(Vec<u64>),
    /// Exponentially growing delays.
    Exponential {
        /// The first delay, in milliseconds.
        first: u64,
        /// Each delay is this many times the one before.
        factor: f64,
        /// The longest delay, in milliseconds.
        cap: u64,
        /// The number of retries.
        retries: u16,
    },
}

/// An override of the retry schedule. All times are in milliseconds. Members that
/// are left out keep their value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"max_retries": 5, "retry_delay": 10_000}))]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The delay before each retry. Excludes the four members that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 49)]
    pub delays: Option<Vec<u64>>,
    /// The number of retries after the first attempt.
    #[serde(skip_serializing_if = "Option::is_none", alias = "maxRetries")]
    #[schema(maximum = 49, extensions(("x-also" = json!(["maxRetries"]))))]
    pub max_retries: Option<u16>,
    /// The delay before the first retry. Later delays grow.
    #[serde(skip_serializing_if = "Option::is_none", alias = "retryDelay")]
    #[schema(maximum = 86_400_000, extensions(("x-also" = json!(["retryDelay"]))))]
    pub retry_delay: Option<u64>,
    /// Each delay is this many times the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10)]
    pub factor: Option<f64>,
    /// The longest delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86_400_000)]
    pub cap: Option<u64>,
    /// A random share up to this is added to each delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub jitter: Option<f64>,
}

/// A schedule outside its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutOfBounds(String);

impl Schedule {
    /// A schedule of delays in seconds, without jitter.
    #[must_use]
    pub fn of_seconds(delays: &[u64]) -> Self {
        Self {
            pauses: Pauses::Delays(delays.iter().map(|s| s * 1000).collect()),
            jitter: 0.0,
        }
    }

    /// The schedule with an override applied.
    #[must_use]
    pub fn with(&self, retry: &Retry) -> Self {
        let jitter = retry.jitter.unwrap_or(self.jitter);
        let pauses = match (&retry.delays, retry.is_rule()) {
            (Some(delays), _) => Pauses::Delays(delays.clone()),
            (None, true) => self.pauses.as_rule(retry),
            (None, false) => match retry.max_retries {
                Some(count) => self.pauses.counting(count),
                None => self.pauses.clone(),
            },
        };
        Self { pauses, jitter }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// Names the member and its bound.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let bounded = |ok: bool, message: String| {
            if ok {
                Ok(())
            } else {
                Err(OutOfBounds(message))
            }
        };
        let longest = MAX_DELAY.as_millis() as u64;
        bounded(
            (0.0..=1.0).contains(&self.jitter),
            "jitter must be between 0 and 1".to_owned(),
        )?;
        match &self.pauses {
            Pauses::Delays(delays) => {
                bounded(
                    delays.len() < MAX_ATTEMPTS,
                    format!(
                        "delays has {} entries, at most {} are allowed",
                        delays.len(),
                        MAX_ATTEMPTS - 1
                    ),
                )?;
                bounded(
                    delays.iter().all(|delay| *delay <= longest),
                    format!("each of delays must be at most {longest} ms"),
                )
            }
            Pauses::Exponential {
                first,
                factor,
                cap,
                retries,
            } => {
                bounded(
                    *first <= longest,
                    format!("first must be at most {longest} ms"),
                )?;
                bounded(
                    (1.0..=10.0).contains(factor),
                    "factor must be between 1 and 10".to_owned(),
                )?;
                bounded(*cap <= longest, format!("cap must be at most {longest} ms"))?;
                bounded(
                    usize::from(*retries) < MAX_ATTEMPTS,
                    format!("retries must be at most {}", MAX_ATTEMPTS - 1),
                )
            }
        }
    }

    /// The delay after attempt `n` (from 1) failed; `None` after the last attempt.
    /// `random` is between 0 and 1.
    #[must_use]
    pub fn pause_after(&self, n: u16, random: f64) -> Option<Duration> {
        let retry = usize::from(n.checked_sub(1)?);
        let millis = match &self.pauses {
            Pauses::Delays(delays) => *delays.get(retry)? as f64,
            Pauses::Exponential {
                first,
                factor,
                cap,
                retries,
            } => {
                if retry >= usize::from(*retries) {
                    return None;
                }
                (*first as f64 * factor.powi(retry as i32)).min(*cap as f64)
            }
        };
        let jittered = millis * (1.0 + self.jitter * random);
        // Round the jitter of a long delay to whole seconds. A remainder below a
        // second would cost another pass through a delay queue.
        let rounded = if millis >= 10_000.0 {
            (jittered / 1000.0).round() * 1000.0
        } else {
            jittered
        };
        Some(Duration::from_millis(rounded.max(millis) as u64))
    }
}

impl Pauses {
    /// The schedule with this many retries. A list that is too short continues with
    /// its last delay.
    fn counting(&self, count: u16) -> Self {
        match self.clone() {
            Self::Delays(mut delays) => {
                let last = delays.last().copied().unwrap_or(FIRST_PAUSE);
                delays.resize(usize::from(count), last);
                Self::Delays(delays)
            }
            Self::Exponential {
                first, factor, cap, ..
            } => Self::Exponential {
                first,
                factor,
                cap,
                retries: count,
            },
        }
    }

    /// An exponential rule with the override's members; missing ones come from this
    /// schedule.
    fn as_rule(&self, retry: &Retry) -> Self {
        let (first, factor, cap, retries) = match *self {
            Self::Exponential {
                first,
                factor,
                cap,
                retries,
            } => (first, factor, cap, retries),
            Self::Delays(ref delays) => (
                delays.first().copied().unwrap_or(FIRST_PAUSE),
                2.0,
                MAX_DELAY.as_millis() as u64,
                delays.len() as u16,
            ),
        };
        Self::Exponential {
            first: retry.retry_delay.unwrap_or(first),
            factor: retry.factor.unwrap_or(factor),
            cap: retry.cap.unwrap_or(cap),
            retries: retry.max_retries.unwrap_or(retries),
        }
    }
}

impl Retry {
    /// Whether the override asks for growing delays.
    fn is_rule(&self) -> bool {
        self.retry_delay.is_some() || self.factor.is_some() || self.cap.is_some()
    }

    /// Checks every bound, and that the override doesn't contradict itself.
    ///
    /// # Errors
    /// Names the member and its bound.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        if self.delays.is_some() && (self.is_rule() || self.max_retries.is_some()) {
            return Err(OutOfBounds(
                "delays excludes max_retries, retry_delay, factor and cap".to_owned(),
            ));
        }
        let longest = MAX_DELAY.as_millis() as u64;
        if self.retry_delay.is_some_and(|delay| delay > longest) {
            return Err(OutOfBounds(format!(
                "retry_delay must be at most {longest} ms"
            )));
        }
        if self
            .max_retries
            .is_some_and(|n| usize::from(n) >= MAX_ATTEMPTS)
        {
            return Err(OutOfBounds(format!(
                "max_retries must be at most {}",
                MAX_ATTEMPTS - 1
            )));
        }
        Schedule::of_seconds(&[]).with(self).check()
    }
}

#[cfg(test)]
mod tests;
