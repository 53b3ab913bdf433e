use proptest::prelude::*;

use super::*;

#[test]
fn a_delay_that_is_a_tier_is_one_trip() {
    for seconds in TIERS {
        assert_eq!(tier(Duration::seconds(i64::from(seconds))), Some(seconds));
        // A few milliseconds pass between the verdict and the publish.
        let nearly = Duration::seconds(i64::from(seconds)) - Duration::milliseconds(40);
        assert_eq!(tier(nearly), Some(seconds));
    }
}

#[test]
fn any_delay_is_kept_by_trips_that_are_never_early_and_at_most_a_second_late() {
    for millis in (0..200_000)
        .step_by(37)
        .chain([86_399_000, 90_061_500, 604_800_000])
    {
        let due = Duration::milliseconds(millis);
        let mut waited = Duration::ZERO;
        let mut trips = 0;
        while let Some(tier) = tier(due - waited) {
            waited += Duration::seconds(i64::from(tier));
            trips += 1;
        }
        assert!(
            due - waited <= SHORTEST_WAIT,
            "{millis} ms: sent {} early",
            due - waited
        );
        assert!(
            waited - due <= Duration::SECOND,
            "{millis} ms: {} late",
            waited - due
        );
        assert!(trips <= 16, "{millis} ms: {trips} trips");
    }
}

#[test]
fn a_webhook_stays_in_its_shard() {
    let webhook = WebhookId::generate();
    assert_eq!(shard_of(webhook, 1), 0);
    assert_eq!(shard_of(webhook, 8), shard_of(webhook, 8));
    assert!(shard_of(webhook, 8) < 8);
}

proptest! {
    #[test]
    fn every_moment_has_a_way_through_declared_queues(due in any::<i64>(), now in any::<i64>(), shard in any::<u16>()) {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds % 250_000_000_000).unwrap();
        let (exchange, key) = route(at(due), at(now), shard);
        let (tier, to) = key.split_once('.').unwrap();
        prop_assert_eq!(to.parse::<u16>().unwrap(), shard);
        match exchange {
            JOBS => prop_assert_eq!(tier, "0"),
            _ => {
                let seconds = tier.strip_suffix('s').and_then(|text| text.parse().ok());
                prop_assert!(seconds.is_some_and(|seconds: u32| TIERS.contains(&seconds)));
            }
        }
    }
}
