//! Ranges of ids. An id begins with its time, so a range of ids is a span of time, and says to the
//! planner which days' partitions to read.

use std::time::Duration;

use shared::clock;
use shared::ids::{first_uuid_at, same_millisecond, time_of};
use time::Time;
use uuid::Uuid;

/// How far the clocks of replicas may be apart.
const CLOCKS: Duration = Duration::from_secs(600);
/// In days: what is older than that is looked at together.
const OLDEST_RANGE: i64 = 40;

/// The id before which all deliveries are. Future days have partitions, too, and planning with them
/// costs more than reading.
pub fn end_of_log() -> Uuid {
    first_uuid_at(clock::now() + CLOCKS)
}

/// From the first id of the lowest id's millisecond to the last id of the highest's. The events of
/// deliveries and the deliveries of events are in this range. `None`: there are no ids.
pub fn milliseconds_of(ids: &[Uuid]) -> Option<(Uuid, Uuid)> {
    let (first, last) = (ids.iter().min()?, ids.iter().max()?);
    Some((same_millisecond(*first).0, same_millisecond(*last).1))
}

/// Splits the ids from `from` up to, but without, `to` into ranges, the newest first: the last day,
/// the day before, three days, nine days, 27 days, the rest. A range begins at midnight, as
/// partitions do.
pub fn ranges(from: Uuid, to: Uuid) -> Vec<(Uuid, Uuid)> {
    let midnight = time_of(to).replace_time(Time::MIDNIGHT);
    let (mut ranges, mut end, mut age) = (Vec::new(), to, 0);
    while end > from {
        let begin = match age <= OLDEST_RANGE {
            true => first_uuid_at(midnight - time::Duration::days(age)).max(from),
            false => from,
        };
        if begin < end {
            ranges.push((begin, end));
        }
        (end, age) = (begin, age * 3 + 1);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_days_and_leave_nothing_out() {
        let at = |text: &str| {
            let at =
                time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
            first_uuid_at(at.unwrap())
        };
        let days = |from: Uuid, to: Uuid| {
            let ranges = ranges(from, to);
            let days = ranges
                .iter()
                .map(|(from, to)| (time_of(*to) - time_of(*from)).whole_hours());
            assert!(
                ranges.windows(2).all(|pair| pair[0].0 == pair[1].1),
                "{ranges:?}"
            );
            let ends = ranges.first().zip(ranges.last());
            assert!(ends.is_none_or(|(first, last)| first.1 == to && last.0 == from));
            days.collect::<Vec<_>>()
        };
        let now = at("2026-11-30T06:00:00Z");
        assert_eq!(days(at("2026-11-01T00:00:00Z"), now), [6, 24, 72, 216, 384]);
        assert_eq!(days(at("2026-11-28T12:00:00Z"), now), [6, 24, 12]);
        assert_eq!(days(at("2026-11-30T05:00:00Z"), now), [1]);
        let midnight = at("2026-11-30T00:00:00Z");
        assert_eq!(days(at("2026-11-28T00:00:00Z"), midnight), [24, 24]);
        assert!(days(now, midnight).is_empty());
        assert!(days(now, now).is_empty());
        assert_eq!(days(Uuid::nil(), now).len(), 6);
        // Made-up ids of impossible times.
        assert_eq!(days(Uuid::nil(), Uuid::max()).len(), 1);
    }
}
