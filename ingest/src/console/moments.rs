//! Times and durations for people. Times are UTC; the whole time is in `datetime` and `title`.

use maud::{Markup, html};
use shared::clock;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

/// A time: today's by the clock, another day's with the day.
pub fn at(at: OffsetDateTime) -> Markup {
    element(at, &short(at, clock::now(), false))
}

/// A time to the millisecond.
pub fn exactly(at: OffsetDateTime) -> Markup {
    element(at, &short(at, clock::now(), true))
}

/// How long ago it was, or in how long it will be.
pub fn ago(at: OffsetDateTime) -> Markup {
    element(at, &span((clock::now() - at).abs()))
}

fn element(at: OffsetDateTime, words: &str) -> Markup {
    let whole = at.format(&Rfc3339).unwrap_or_default();
    let title = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3] UTC"
    );
    let title = at.format(title).unwrap_or_default();
    html! { time datetime=(whole) title=(title) { (words) } }
}

fn short(at: OffsetDateTime, now: OffsetDateTime, exactly: bool) -> String {
    let clock = match exactly {
        true => format_description!("[hour]:[minute]:[second].[subsecond digits:3]"),
        false => format_description!("[hour]:[minute]:[second]"),
    };
    let day = format_description!("[day padding:none] [month repr:short] [hour]:[minute]");
    let exact_day = format_description!(
        "[day padding:none] [month repr:short] [hour]:[minute]:[second].[subsecond digits:3]"
    );
    let year = format_description!("[day padding:none] [month repr:short] [year]");
    let format = if at.date() == now.date() {
        clock
    } else if exactly {
        exact_day
    } else if (now - at).abs() < Duration::days(300) {
        day
    } else {
        year
    };
    at.format(format).unwrap_or_default()
}

/// `a moment`, `2 s`, `3 min 5 s`, `3 h 12 min`, `9 days`.
pub fn span(span: Duration) -> String {
    let seconds = span.whole_seconds().max(0);
    let (first, second) = match seconds {
        0 => return "a moment".to_owned(),
        1..60 => return format!("{seconds} s"),
        60..3_600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "min")),
        86_400..172_800 => ((1, "day"), (seconds % 86_400 / 3_600, "h")),
        _ => return format!("{} days", seconds / 86_400),
    };
    match second.0 {
        0 => format!("{} {}", first.0, first.1),
        _ => format!("{} {} {} {}", first.0, first.1, second.0, second.1),
    }
}

/// Milliseconds: `212 ms`, `2.4 s`, `30.0 s`.
pub fn took(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        _ => span(Duration::milliseconds(ms)),
    }
}

/// A number with commas: `1,412`.
pub fn number(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if n < 0 {
        format!("−{grouped}")
    } else {
        grouped
    }
}

/// A number with its noun: `1 webhook`, `8 webhooks`, `3 deliveries`.
pub fn count(n: i64, noun: &str) -> String {
    let plural = match (n, noun.strip_suffix('y')) {
        (1, _) => noun.to_owned(),
        (_, Some(stem)) if !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
        _ => format!("{noun}s"),
    };
    format!("{} {plural}", number(n))
}

/// A share: `99.91 %`, `100 %`. Only all of it is 100 %.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        all if all >= 100.0 => "100 %".to_owned(),
        most if most >= 99.0 => format!("{:.2} %", (most * 100.0).floor() / 100.0),
        part => format!("{part:.1} %"),
    }
}

/// `186 bytes`, `4.2 KiB`, `1.5 MiB`.
pub fn bytes(n: i64) -> String {
    match n {
        ..1_024 => count(n, "byte"),
        1_024..1_048_576 => format!("{:.1} KiB", n as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", n as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn numbers_and_spans_read_as_people_write_them() {
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(number(-1_000), "−1,000");
        assert_eq!(
            (count(1, "delivery"), count(2, "delivery")),
            ("1 delivery".into(), "2 deliveries".into())
        );
        assert_eq!(
            (count(0, "webhook"), count(2, "day")),
            ("0 webhooks".into(), "2 days".into())
        );
        assert_eq!(
            (percent(1.0), percent(0.99999), percent(0.416)),
            ("100 %".into(), "99.99 %".into(), "41.6 %".into())
        );
        for (seconds, words) in [
            (0, "a moment"),
            (59, "59 s"),
            (60, "1 min"),
            (11_520, "3 h 12 min"),
            (90_000, "1 day 1 h"),
            (800_000, "9 days"),
        ] {
            assert_eq!(span(Duration::seconds(seconds)), words);
        }
        assert_eq!(
            (took(212), took(2_400), took(100_000)),
            ("212 ms".into(), "2.4 s".into(), "1 min 40 s".into())
        );
    }

    #[test]
    fn todays_times_need_no_day() {
        let now = datetime!(2026-11-26 10:42:18 UTC);
        assert_eq!(
            short(datetime!(2026-11-26 07:29:01.5 UTC), now, true),
            "07:29:01.500"
        );
        assert_eq!(
            short(datetime!(2026-11-25 07:29 UTC), now, false),
            "25 Nov 07:29"
        );
        assert_eq!(
            short(datetime!(2025-11-25 07:29 UTC), now, false),
            "25 Nov 2025"
        );
    }
}
