//! A webhook's rate limit, as clients write it: a number of deliveries and a period.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::webhook::Rate;
use utoipa::ToSchema;

use crate::invalid::Invalid;

/// The highest rate limit, in deliveries a period.
const MAX_RATE: u32 = 100_000_000;

/// A rate limit as it may be sent.
#[derive(ToSchema)]
#[serde(untagged)]
// `read` says more of what is wrong than serde could.
#[allow(dead_code)]
pub enum RateLimitForm {
    PerSecond(PerSecond),
    Limit(RateLimit),
}

/// The most attempts per second.
#[derive(ToSchema)]
#[schema(minimum = 1, maximum = 100_000_000, example = 10)]
pub struct PerSecond(#[allow(dead_code)] u32);

/// The most attempts in any period of this length.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// The most attempts.
    #[schema(minimum = 1, maximum = 100_000_000, example = 1000)]
    limit: u32,
    /// The length of the period.
    per: Period,
}

impl From<Rate> for RateLimit {
    fn from(rate: Rate) -> Self {
        let periods = [Period::Second, Period::Minute, Period::Hour].into_iter();
        let mut periods = periods.filter(|per| per.seconds() == rate.period.as_secs());
        Self {
            limit: rate.limit,
            // The table's CHECK has no fourth.
            per: periods.next().unwrap_or(Period::Hour),
        }
    }
}

/// A rate limit's period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Period {
    fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }
}

/// Reads a limit: a number of deliveries a second, or an object with `limit` and `per`.
///
/// # Errors
/// Names the bound.
pub fn read(form: Value) -> Result<Rate, Invalid> {
    let form = match form {
        Value::Number(limit) => json!({ "limit": limit, "per": "second" }),
        form => form,
    };
    let RateLimit { limit, per } = serde_json::from_value(form).map_err(|_| {
        let forms = format!(
            "must be deliveries a second, from 1 to {MAX_RATE}, or an object with such a `limit` and \
             `per` (`second`, `minute`, `hour`)"
        );
        Invalid::new("rate_limit", forms)
    })?;
    if !(1..=MAX_RATE).contains(&limit) {
        return Err(Invalid::new(
            "rate_limit",
            format!("must be between 1 and {MAX_RATE}"),
        ));
    }
    Ok(Rate {
        limit,
        period: Duration::from_secs(per.seconds()),
    })
}
