//! The time window of statistics, and the steps that it is divided into.

use serde::{Deserialize, Serialize};
use shared::stats::PERIOD;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::timestamp::Timestamp;

/// The time window of statistics.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// The last hour, day, week, or thirty days.
    #[serde(default)]
    #[param(inline, required = false)]
    pub window: Window,
}

/// The last hour, day, week, or thirty days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Window {
    #[serde(rename = "1h")]
    Hour,
    #[default]
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
}

impl Window {
    /// The length of the window, and of each step of its series, in seconds.
    pub fn lengths(self) -> (i64, i64) {
        const HOUR: i64 = 3600;
        match self {
            Self::Hour => (HOUR, PERIOD),
            Self::Day => (24 * HOUR, HOUR / 2),
            Self::Week => (7 * 24 * HOUR, 6 * HOUR),
            Self::Month => (30 * 24 * HOUR, 24 * HOUR),
        }
    }
}

pub fn floor(at: i64, step: i64) -> i64 {
    at - at.rem_euclid(step)
}

pub fn moment(at: i64) -> Timestamp {
    // Within thirty days of now.
    Timestamp(OffsetDateTime::from_unix_timestamp(at).unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_between_five_and_forty_nine_steps() {
        for window in [Window::Hour, Window::Day, Window::Week, Window::Month] {
            let (length, step) = window.lengths();
            assert_eq!(length % step, 0);
            assert!((4..=48).contains(&(length / step)), "{window:?}");
            assert_eq!(step % PERIOD, 0);
        }
    }
}
