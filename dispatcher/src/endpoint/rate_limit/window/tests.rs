use proptest::prelude::*;
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-22 10:00:30 UTC);

fn hourly(limit: u32) -> Limit {
    limit_of("tenant/acme", limit, 3600)
}

fn limit_of(subject: &str, limit: u32, period: u64) -> Limit {
    let period = Duration::from_secs(period);
    Limit::new(subject, Rate { limit, period })
}

fn unused(limits: &[Limit]) -> BTreeMap<String, Usage> {
    let none = Usage {
        first_slot: 0,
        used: Vec::new(),
        horizon: OffsetDateTime::UNIX_EPOCH,
    };
    limits
        .iter()
        .map(|limit| (limit.key.clone(), none.clone()))
        .collect()
}

#[test]
fn a_burst_and_its_backlog_use_up_the_limit_in_every_period() {
    let limits = [hourly(60)];
    let mut usage = unused(&limits);
    let grants: Vec<_> = (0..180)
        .map(|_| grant(&limits, false, &mut usage, NOW))
        .collect();
    assert!(grants[..60].iter().all(|grant| *grant == Grant::Now));
    let at = |n: usize| match grants[n] {
        Grant::NotBefore(at) => at,
        Grant::Now => panic!("{n} is granted now"),
    };
    // An attempt at 10:00:30 counts until 11:01.
    assert_eq!(at(60), datetime!(2026-11-22 11:01 UTC));
    assert_eq!(at(61) - at(60), Duration::from_secs(1));
    assert_eq!(at(119) - at(60), Duration::from_secs(59));
    assert_eq!(at(120), datetime!(2026-11-22 12:02 UTC));
    assert_eq!(at(179) - at(120), Duration::from_secs(59));
    // At its time, each is granted.
    for n in 60..180 {
        assert_eq!(grant(&limits, true, &mut usage, at(n)), Grant::Now, "{n}");
    }
}

/// When each of so many jobs that come at once is sent, if each comes back in time.
fn sent(rate: &Limit, jobs: usize) -> Vec<Duration> {
    let limits = [rate.clone()];
    let mut usage = unused(&limits);
    let mut waiting = Vec::new();
    let mut sent = Vec::new();
    for _ in 0..jobs {
        match grant(&limits, false, &mut usage, NOW) {
            Grant::Now => sent.push(Duration::ZERO),
            Grant::NotBefore(at) => waiting.push(at),
        }
    }
    waiting.sort_unstable();
    for at in waiting {
        assert_eq!(grant(&limits, true, &mut usage, at), Grant::Now, "{at}");
        sent.push((at - NOW).try_into().unwrap());
    }
    sent
}

#[test]
fn small_limits_are_used_up_in_every_period() {
    // A slot is a minute, so the second three are sent in the 62nd minute.
    let of_an_hour = sent(&hourly(3), 6);
    let minutes = |n: u64| Duration::from_secs(60 * n);
    assert_eq!(of_an_hour[2], Duration::ZERO);
    assert!(of_an_hour[3] >= minutes(60) && of_an_hour[5] < minutes(62));
    // Three periods and three slots after the first two.
    let of_a_second = sent(&limit_of("webhook/a", 2, 1), 8);
    assert!(
        of_a_second[7] < Duration::from_millis(3_100),
        "{of_a_second:?}"
    );
    // The line also uses what was left by attempts at different times.
    let limits = [hourly(3)];
    let mut usage = unused(&limits);
    for minute in [0, 20, 40] {
        let now = NOW + minutes(minute);
        assert_eq!(grant(&limits, false, &mut usage, now), Grant::Now);
    }
    let mut deferred = || match grant(&limits, false, &mut usage, NOW + minutes(50)) {
        Grant::NotBefore(at) => (at - NOW).whole_minutes(),
        Grant::Now => panic!("granted"),
    };
    assert_eq!([(); 4].map(|()| deferred()), [60, 80, 100, 121]);
}

#[test]
fn an_attempt_counts_in_all_its_limits_or_in_none() {
    let limits = [hourly(1), limit_of("webhook/a", 5, 1)];
    let mut usage = unused(&limits);
    assert_eq!(grant(&limits, false, &mut usage, NOW), Grant::Now);
    for _ in 0..10 {
        assert!(grant(&limits, false, &mut usage, NOW) > Grant::Now);
    }
    assert_eq!(usage[&limits[1].key].total(), 1);
    assert_eq!(grant(&limits[1..], false, &mut usage, NOW), Grant::Now);
}

#[test]
fn no_job_is_deferred_by_more_than_half_a_day() {
    let limits = [hourly(1)];
    let mut usage = unused(&limits);
    for _ in 0..100 {
        if let Grant::NotBefore(at) = grant(&limits, false, &mut usage, NOW) {
            assert!(at <= NOW + max_deferral(limits[0].rate));
        }
    }
}

#[test]
fn a_clock_that_is_set_back_forgets_no_attempt() {
    let limits = [hourly(3)];
    let mut usage = unused(&limits);
    for back in [0, 7200, 90_000] {
        let now = NOW - Duration::from_secs(back);
        assert_eq!(grant(&limits, false, &mut usage, now), Grant::Now);
    }
    assert!(grant(&limits, false, &mut usage, NOW) > Grant::Now);
}

#[test]
fn after_a_limit_was_raised_no_job_waits_behind_the_old_line() {
    let mut usage = unused(&[hourly(10)]);
    for _ in 0..100 {
        grant(&[hourly(10)], false, &mut usage, NOW);
    }
    assert!(grant(&[hourly(10)], false, &mut usage, NOW) > Grant::Now);
    assert_eq!(grant(&[hourly(1000)], false, &mut usage, NOW), Grant::Now);
}

#[test]
fn a_backlog_is_sent_at_the_speed_of_its_limit_although_it_comes_back_late_and_new_jobs_come() {
    let mut rng = fastrand::Rng::with_seed(7);
    let limits = [limit_of("webhook/a", 10, 1)];
    let mut usage = unused(&limits);
    // When each job requests a grant, and whether it has waited: fifty at once, then
    // two a second.
    let newcomers = (0..20).map(|n| (NOW + Duration::from_millis(500 * n), false));
    let mut requests: Vec<_> = (0..50).map(|_| (NOW, false)).chain(newcomers).collect();
    let mut begun = Vec::new();
    while let Some(next) = (0..requests.len()).min_by_key(|n| requests[*n].0) {
        let (now, has_waited) = requests.swap_remove(next);
        match grant(&limits, has_waited, &mut usage, now) {
            Grant::Now => begun.push(now),
            // A delay queue makes it late by up to a second.
            Grant::NotBefore(at) => {
                requests.push((at + Duration::from_millis(rng.u64(0..900)), true));
            }
        }
    }
    assert_eq!(begun.len(), 70);
    let took = begun[69] - NOW;
    // Seven seconds at the speed of the limit.
    assert!(took < Duration::from_secs(15), "{took}");
}

proptest! {
    #[test]
    fn no_period_has_more_attempts_than_its_limit(
        limit in 1_u32..20,
        period in prop_oneof![Just(1_u64), Just(60), Just(3600)],
        waits in prop::collection::vec(0.0_f64..0.3, 1..200),
    ) {
        let limits = [limit_of("webhook/a", limit, period)];
        let period = Duration::from_secs(period);
        let mut usage = unused(&limits);
        let mut now = NOW;
        let mut begun: Vec<OffsetDateTime> = Vec::new();
        for wait in waits {
            now += period.mul_f64(wait * wait);
            if grant(&limits, false, &mut usage, now) == Grant::Now {
                begun.push(now);
                let within = begun.iter().filter(|at| now - **at < period).count();
                prop_assert!(within <= limit as usize, "{within} of {limit}");
            }
        }
    }
}
