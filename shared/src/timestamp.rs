//! A time as JSON has it: RFC 3339 in UTC with three digits after the second, as JavaScript
//! writes it.
//!
//! The API's answers and the data of operational events have no other. `time`'s own RFC 3339
//! writes as many digits as are needed, from none to nine.

use time::error::Format;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The time in UTC. Digits after the third are cut off.
///
/// # Errors
/// If the year doesn't have four digits.
pub fn with_milliseconds(at: OffsetDateTime) -> Result<String, Format> {
    at.to_offset(UtcOffset::UTC).format(MILLISECONDS)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn there_are_always_three_digits() {
        for (at, text) in [
            (datetime!(2026-11-22 11:00 +1), "2026-11-22T10:00:00.000Z"),
            (
                datetime!(2026-11-22 10:00:00.5 UTC),
                "2026-11-22T10:00:00.500Z",
            ),
            (
                datetime!(2026-11-22 10:00:00.123_999 UTC),
                "2026-11-22T10:00:00.123Z",
            ),
        ] {
            assert_eq!(with_milliseconds(at).unwrap(), text);
        }
    }
}
