use super::rows::share;
use super::*;

fn id(n: u128) -> DeliveryId {
    DeliveryId::from_uuid(Uuid::from_u128(n))
}

#[test]
fn a_step_takes_what_is_wanted_up_to_the_rate_and_goes_on_after_it() {
    let seen = [(id(1), true), (id(2), false), (id(3), true), (id(4), true)];
    let taken = take(&seen, 2);
    assert_eq!(taken.deliveries, [id(1), id(3)]);
    assert_eq!(taken.position, Some(Uuid::from_u128(4)));
}

#[test]
fn a_tenants_replays_share_the_rate_that_one_may_have() {
    assert_eq!(share(1_000, 1), 1_000.0);
    assert_eq!(share(1_000, 50), 20.0);
    assert_eq!(share(10, 50), 10.0);
    // More than one a second each would be too many.
    assert_eq!(share(10, 4_000), 0.25);
}

#[test]
fn a_ramp_begins_slowly_grows_to_the_rate_and_halves_under_overload() {
    let mut rate = ramped(None, 100.0, false);
    assert_eq!(rate, 2.0);
    let mut steps = 0;
    while rate < 100.0 {
        rate = ramped(Some(rate as f32), 100.0, false);
        steps += 1;
    }
    // Each of about a second: 2 * 1.25^18 > 100.
    assert_eq!(steps, 18);
    assert_eq!(ramped(Some(100.0), 100.0, true), 50.0);
    assert_eq!(ramped(Some(1.0), 100.0, true), 1.0);
    // A share can be less than what a ramp begins with.
    assert_eq!(ramped(None, 0.25, false), 0.25);
}

#[test]
fn a_step_that_sees_the_end_is_the_last() {
    let seen = [(id(1), true), (id(2), false)];
    assert_eq!(take(&seen, 2).position, None);
    assert_eq!(take(&[], 2).position, None);
    // Another may follow the last one taken.
    assert_eq!(take(&seen, 1).position, Some(Uuid::from_u128(2)));
}

#[test]
fn a_step_that_finds_little_goes_on_where_it_stopped_looking() {
    let seen: Vec<_> = (0..LOOKED_AT as u128).map(|n| (id(n), false)).collect();
    let taken = take(&seen, 2);
    assert_eq!(taken.position, Some(Uuid::from_u128(LOOKED_AT as u128)));
    assert!(taken.deliveries.is_empty());
}
