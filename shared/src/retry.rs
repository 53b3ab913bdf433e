//! When a delivery is tried again: the schedule, as data.
//!
//! Comes from the webhook, else from the server's settings if they say so, else
//! from the dialect. What an outcome means is decided by the dispatcher's
//! `judge`; this only knows the clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most attempts that any schedule may ask for.
pub const MAX_ATTEMPTS: usize = 50;
/// The longest pause between two attempts.
pub const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

/// The pauses after each failed attempt, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// How the pauses come about.
    #[serde(flatten)]
    pub pauses: Pauses,
    /// Up to this share is added to each pause, at random: 0.1 is up to 10 %.
    #[serde(default)]
    pub jitter: f64,
}

/// A list, or a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pauses {
    /// One pause per retry, in milliseconds.
    Delays(Vec<u64>),
    /// Growing pauses.
    Exponential {
        /// The first pause, in milliseconds.
        first: u64,
        /// Each is this many times the one before.
        factor: f64,
        /// None is longer, in milliseconds.
        cap: u64,
        /// How many there are.
        retries: u16,
    },
}

/// A schedule outside the bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutOfBounds(String);

impl Schedule {
    /// From seconds, without jitter.
    #[must_use]
    pub fn of_seconds(delays: &[u64]) -> Self {
        Self {
            pauses: Pauses::Delays(delays.iter().map(|s| s * 1000).collect()),
            jitter: 0.0,
        }
    }

    /// Doubling pauses without jitter, capped at [`MAX_DELAY`].
    #[must_use]
    pub fn doubling(first: Duration, retries: u16) -> Self {
        let first = first.as_millis() as u64;
        let cap = MAX_DELAY.as_millis() as u64;
        Self {
            pauses: Pauses::Exponential {
                first,
                factor: 2.0,
                cap,
                retries,
            },
            jitter: 0.0,
        }
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

    /// The pause after attempt `n` (from 1) failed; none if it was the last.
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
        // What jitter adds to a long pause is rounded to seconds: sub-second
        // remainders would each cost another trip through a delay queue.
        let rounded = if millis >= 10_000.0 {
            (jittered / 1000.0).round() * 1000.0
        } else {
            jittered
        };
        Some(Duration::from_millis(rounded.max(millis) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(schedule: &Schedule) -> Vec<u64> {
        (1..)
            .map_while(|n| schedule.pause_after(n, 0.0))
            .map(|pause| pause.as_millis() as u64)
            .collect()
    }

    #[test]
    fn a_list_is_kept_to_the_letter() {
        assert_eq!(all(&Schedule::of_seconds(&[5, 300])), [5_000, 300_000]);
        assert_eq!(all(&Schedule::of_seconds(&[])), [0; 0]);
    }

    #[test]
    fn a_rule_doubles_up_to_its_cap() {
        let mut schedule = Schedule::doubling(Duration::from_secs(30), 4);
        assert_eq!(all(&schedule), [30_000, 60_000, 120_000, 240_000]);
        if let Pauses::Exponential { cap, .. } = &mut schedule.pauses {
            *cap = 100_000;
        }
        assert_eq!(all(&schedule), [30_000, 60_000, 100_000, 100_000]);
    }

    #[test]
    fn jitter_only_ever_adds() {
        let schedule = Schedule {
            jitter: 0.1,
            ..Schedule::of_seconds(&[5, 300])
        };
        for random in [0.0, 0.001, 0.5, 1.0] {
            let short = schedule.pause_after(1, random).unwrap().as_millis();
            assert!((5_000..=5_500).contains(&short), "{short}");
            let long = schedule.pause_after(2, random).unwrap().as_millis();
            assert!(
                (300_000..=330_000).contains(&long) && long.is_multiple_of(1000),
                "{long}"
            );
        }
    }

    #[test]
    fn bounds_are_named() {
        let error = Schedule::of_seconds(&[90_000])
            .check()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("delays") && error.contains("86400000"),
            "{error}"
        );
        assert!(Schedule::of_seconds(&[1; 50]).check().is_err());
        assert!(
            Schedule::doubling(Duration::from_secs(1), 50)
                .check()
                .is_err()
        );
        assert!(
            Schedule {
                jitter: 1.5,
                ..Schedule::of_seconds(&[])
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn a_schedule_survives_its_json() {
        for schedule in [
            Schedule::of_seconds(&[1, 2]),
            Schedule::doubling(Duration::from_secs(5), 3),
        ] {
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(
                serde_json::from_str::<Schedule>(&json).unwrap(),
                schedule,
                "{json}"
            );
        }
    }
}
