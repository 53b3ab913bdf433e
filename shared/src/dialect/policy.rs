//! A dialect's policy: timeout, age limit, retry schedule, and what each status means.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::retry::Schedule;

/// A dialect's default timeout, age limit and schedule, and its rules for answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The timeout of an attempt, unless the webhook or the server sets one.
    pub timeout: Duration,
    /// The shortest timeout that a webhook may set.
    pub min_timeout: Duration,
    /// The longest time to the last attempt, counted from `since`.
    pub max_age: time::Duration,
    /// From when an event's age counts.
    pub since: Since,
    /// The most attempts in any hour of a tenant that sets no limit itself; `None` means no
    /// limit.
    pub deliveries_per_hour: Option<u32>,
    /// When failed attempts are retried, unless the webhook or the server sets that.
    pub schedule: Schedule,
    pub answers: Answers,
}

/// From when an event's age counts. The age of a delivery that was restarted counts from the
/// restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// When Posthorn accepted the event.
    AcceptedAt,
    /// When the event happened, as its producer says.
    OccurredAt,
}

/// The statuses with a special meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    pub(super) success: Statuses,
    pub(super) stop: Statuses,
    pub(super) disable: Statuses,
}

/// The meaning of an answer for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The endpoint accepted the delivery.
    Delivered,
    /// The endpoint didn't accept it. Try again.
    Retry,
    /// The endpoint will never accept it. Don't try again.
    Stop,
    /// The endpoint is gone. Disable the webhook.
    Disable,
}

impl Answers {
    /// The meaning of a status. A status that no rule names is retried.
    #[must_use]
    pub fn meaning(&self, status: u16) -> Meaning {
        if self.success.contain(status) {
            Meaning::Delivered
        } else if self.disable.contain(status) {
            Meaning::Disable
        } else if self.stop.contain(status) {
            Meaning::Stop
        } else {
            Meaning::Retry
        }
    }

    /// A status with two meanings, if there is one.
    pub(super) fn contradiction(&self) -> Option<u16> {
        (100..600).find(|status| {
            [&self.success, &self.stop, &self.disable]
                .iter()
                .filter(|statuses| statuses.contain(*status))
                .count()
                > 1
        })
    }
}

/// A set of statuses: `2xx`, `410`, `400-428`; `!429` excludes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Statuses {
    within: Vec<RangeInclusive<u16>>,
    without: Vec<RangeInclusive<u16>>,
}

impl Statuses {
    pub(super) fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut statuses = Self::default();
        for entry in entries {
            let (list, text) = match entry.strip_prefix('!') {
                Some(text) => (&mut statuses.without, text),
                None => (&mut statuses.within, entry),
            };
            let range = range(text).ok_or_else(|| {
                format!("has `{entry}`; an entry must be like `2xx`, `410`, `400-428` or `!429`")
            })?;
            list.push(range);
        }
        Ok(statuses)
    }

    /// Whether the status is in the set.
    pub(super) fn contain(&self, status: u16) -> bool {
        let in_any = |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|r| r.contains(&status));
        in_any(&self.within) && !in_any(&self.without)
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| -> Option<u16> {
        let plain = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|n| plain && (100..600).contains(n))
    };
    if let Some(class) = text.strip_suffix("xx") {
        let first = number(&format!("{class}00"))?;
        return Some(first..=first + 99);
    }
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        }
        None => number(text).map(|status| status..=status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialects;

    /// The times of the attempts, in seconds after the first one.
    fn attempt_times(schedule: &Schedule) -> Vec<u64> {
        let pauses = (1..).map_while(|n| schedule.pause_after(n, 0.0));
        let mut at = Duration::ZERO;
        let after = pauses.map(|pause| {
            at += pause;
            at.as_secs()
        });
        std::iter::once(0).chain(after).collect()
    }

    #[test]
    fn every_dialects_attempts_have_their_times() {
        let day = 86_400;
        let standard = vec![
            0,
            5,
            305,
            2_105,
            9_305,
            27_305,
            63_305,
            113_705,
            185_705,
            185_705 + day,
        ];
        let dialects = Dialects::embedded();
        let table = [
            // The dialect, the server's settings, the webhook's policy, the expected
            // times.
            ("standard", "{}", "{}", standard.clone()),
            ("cloudevents", "{}", "{}", standard),
            ("rishi", "{}", "{}", vec![0, 1, 3, 7]),
            (
                "brainsait",
                "{}",
                "{}",
                vec![0, 300, 2_100, 9_300, 52_500, 52_500 + day],
            ),
            ("auraconnect", "{}", "{}", vec![0, 10, 40, 100, 400, 2_200]),
            ("jossiedb", "{}", "{}", vec![0, 5, 15, 35]),
            ("corp-astro", "{}", "{}", vec![0, 30, 90, 210, 450]),
            // In the names that each system uses: `retries` and `retryPolicy`.
            (
                "rishi",
                "{}",
                r#"{"max_retries": 5}"#,
                vec![0, 1, 3, 7, 15, 31],
            ),
            (
                "auraconnect",
                "{}",
                r#"{"max_retries": 2}"#,
                vec![0, 10, 40],
            ),
            (
                "jossiedb",
                "{}",
                r#"{"maxRetries": 2, "retryDelay": 1000}"#,
                vec![0, 1, 3],
            ),
            // WEBHOOK_MAX_RETRIES and WEBHOOK_RETRY_DELAY, together with a webhook's
            // own policy.
            ("jossiedb", r#"{"max_retries": 1}"#, "{}", vec![0, 5]),
            (
                "brainsait",
                r#"{"max_retries": 2}"#,
                "{}",
                vec![0, 300, 2_100],
            ),
            (
                "corp-astro",
                r#"{"retry_delay": 2000}"#,
                "{}",
                vec![0, 2, 6, 14, 30],
            ),
            (
                "jossiedb",
                r#"{"max_retries": 1}"#,
                r#"{"retryDelay": 7000}"#,
                vec![0, 7],
            ),
            (
                "rishi",
                r#"{"max_retries": 9}"#,
                r#"{"delays": [3000]}"#,
                vec![0, 3],
            ),
        ];
        for (name, server, webhook, times) in table {
            let say = |json| serde_json::from_str(json).unwrap();
            let schedule = &dialects.get(name).unwrap().policy().schedule;
            let schedule = schedule.with(&say(server)).with(&say(webhook));
            assert_eq!(attempt_times(&schedule), times, "{name} {server} {webhook}");
        }
        for dialect in dialects.iter() {
            let seconds = if dialect.name() == "corp-astro" {
                10
            } else {
                30
            };
            let policy = dialect.policy();
            assert_eq!(
                policy.timeout,
                Duration::from_secs(seconds),
                "{}",
                dialect.name()
            );
            assert_eq!(policy.max_age, time::Duration::WEEK, "{}", dialect.name());
        }
    }

    #[test]
    fn statuses_are_classes_ranges_and_exceptions() {
        let statuses = Statuses::parse(["4xx", "!429", "500-502", "599"]).unwrap();
        let contained: Vec<u16> = (100..600).filter(|s| statuses.contain(*s)).collect();
        let expected: Vec<u16> = (400..429)
            .chain(430..500)
            .chain(500..503)
            .chain([599])
            .collect();
        assert_eq!(contained, expected);
        for bad in [
            "", "xx", "6xx", "0xx", "20", "99", "600", "502-500", "2XX", "!", "-1", "+20", "2xxx",
        ] {
            assert!(
                Statuses::parse([bad])
                    .unwrap_err()
                    .contains(&format!("`{bad}`")),
                "{bad}"
            );
        }
    }
}
