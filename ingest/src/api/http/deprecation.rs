//! Says in each answer that a deprecated operation gives itself since when it is deprecated (`Deprecation`,
//! RFC 9745) and when it stops (`Sunset`, RFC 8594), as docs/api.md promises.
//!
//! The API's description has both days. A handler declares them:
//!
//! ```text
//! #[deprecated]
//! #[utoipa::path(…, extensions(
//!     ("x-deprecated-since" = json!("2026-08-01")), ("x-sunset" = json!("2027-02-01")),
//! ))]
//! ```
//!
//! No operation is deprecated today. [`query`](super::query) knows which operation answers. Every answer
//! of the operation has the headers, also that to a client over its rate limit.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use time::Date;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

pub const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
pub const SUNSET: HeaderName = HeaderName::from_static("sunset");
/// The members of an operation in the description.
const SINCE: &str = "x-deprecated-since";
const UNTIL: &str = "x-sunset";

const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
/// The beginning of a day as an HTTP date (RFC 9110, section 5.6.7).
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] 00:00:00 GMT");

/// What the headers of a deprecated operation's answers say.
pub(super) struct Deprecation {
    since: HeaderValue,
    sunset: HeaderValue,
}

impl Deprecation {
    /// Reads it from an operation of the description. `None`: the operation isn't deprecated.
    pub(super) fn from_operation(operation: &Value) -> Option<Self> {
        let (since, sunset) = (day(operation, SINCE)?, day(operation, UNTIL)?);
        // RFC 9651 writes a date as `@` and its Unix seconds.
        let since = format!("@{}", since.midnight().assume_utc().unix_timestamp());
        let sunset = sunset.format(HTTP_DATE).ok()?;
        Some(Self {
            since: HeaderValue::from_str(&since).ok()?,
            sunset: HeaderValue::from_str(&sunset).ok()?,
        })
    }

    pub(super) fn announce(&self, headers: &mut HeaderMap) {
        headers.insert(DEPRECATION, self.since.clone());
        headers.insert(SUNSET, self.sunset.clone());
    }
}

fn day(operation: &Value, member: &str) -> Option<Date> {
    Date::parse(operation[member].as_str()?, DAY).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    #[test]
    fn a_deprecated_operation_has_both_days_and_they_are_six_months_apart() {
        let document = document();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = &operation["operationId"];
                let is_deprecated = operation["deprecated"] == true;
                let days = day(operation, SINCE).zip(day(operation, UNTIL));
                assert_eq!(days.is_some(), is_deprecated, "{id}");
                if let Some((since, sunset)) = days {
                    // Six months have at least 181 days.
                    assert!((sunset - since).whole_days() >= 181, "{id}");
                }
            }
        }
    }
}
