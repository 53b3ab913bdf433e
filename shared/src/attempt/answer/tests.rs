use proptest::prelude::*;
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);

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
    fn retry_after_never_panics(value in ".{0,64}", seconds in any::<u128>()) {
        let _ = parse_retry_after(&value, NOW);
        let said = parse_retry_after(&seconds.to_string(), NOW);
        prop_assert_eq!(said, Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))));
    }

    #[test]
    fn no_date_panics(year in 0u32..20_000, day in 0u8..40, hour in 0u8..30) {
        let date = format!("Sun, {day:02} Nov {year:04} {hour:02}:00:00 GMT");
        let _ = parse_retry_after(&date, NOW);
    }
}
