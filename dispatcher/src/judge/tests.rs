use proptest::prelude::*;
use shared::dialect::{DEFAULT, Dialects};
use shared::stats::WAITS;
use time::macros::datetime;

use super::*;
use crate::upkeep::paused::PAUSED;

const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);

const A_WEEK: TooOld = TooOld {
    limit: time::Duration::WEEK,
    since: Since::AcceptedAt,
};

fn answered(status: u16, retry_after: Option<u64>) -> Result<Answer, Failure> {
    Ok(Answer {
        status,
        retry_after: retry_after.map(Duration::from_secs),
        ..Answer::default()
    })
}

fn verdict(result: &Result<Answer, Failure>, attempt: u16) -> Verdict {
    verdict_in(DEFAULT, result, attempt)
}

fn verdict_in(dialect: &str, result: &Result<Answer, Failure>, attempt: u16) -> Verdict {
    let schedule = Schedule::of_seconds(&[5, 300]);
    judge(
        result,
        Attempted {
            attempt,
            ages_from: NOW,
            now: NOW,
            answers: &Dialects::embedded().get(dialect).unwrap().policy().answers,
            max_age: A_WEEK,
            schedule: &schedule,
            random: 0.0,
        },
    )
}

#[test]
fn each_answer_leads_to_its_verdict() {
    let at = |seconds, because| Verdict::RetryAt {
        at: NOW + Duration::from_secs(seconds),
        because,
    };
    let retry = |seconds| at(seconds, Timing::Schedule);
    let asked = |seconds| at(seconds, Timing::RetryAfter);
    let exhausted = Verdict::Failed(GaveUp::Exhausted);
    for (result, attempt, expected) in [
        (answered(200, None), 1, Verdict::Delivered),
        (answered(204, None), 3, Verdict::Delivered),
        (answered(301, None), 1, retry(5)),
        (answered(400, None), 1, retry(5)),
        (answered(404, None), 2, retry(300)),
        (answered(500, None), 3, exhausted.clone()),
        (answered(410, None), 1, Verdict::Failed(GaveUp::Gone)),
        (answered(429, Some(3)), 1, retry(5)),
        (answered(429, Some(60)), 1, asked(60)),
        (answered(503, Some(999_999)), 1, asked(86_400)),
        (answered(500, Some(60)), 1, retry(5)),
        (Err(Failure::Timeout), 1, retry(5)),
        (Err(Failure::Dns("no such name".into())), 3, exhausted),
    ] {
        assert_eq!(
            verdict(&result, attempt),
            expected,
            "{result:?}, attempt {attempt}"
        );
    }
}

#[test]
fn a_pause_that_an_endpoint_asks_for_gets_jitter_and_is_never_shortened() {
    let seconds = Duration::from_secs;
    for (asked, random, expected) in [
        (60, 0.0, seconds(60)),
        (60, 0.5, seconds(63)),
        (60, 1.0, seconds(66)),
        (2, 0.5, Duration::from_millis(2_100)),
        (80_000, 1.0, seconds(86_400)),
        (86_400, 1.0, seconds(86_400)),
        (u64::MAX, 1.0, seconds(86_400)),
        (0, 1.0, seconds(0)),
    ] {
        let wait = retry_after(seconds(asked), random);
        assert_eq!(wait, expected, "{asked}, {random}");
    }
}

#[test]
fn overload_is_429_5xx_and_no_answer_but_no_other_status() {
    for (status, expected) in [
        (200, false),
        (302, false),
        (404, false),
        (410, false),
        (429, true),
        (500, true),
        (503, true),
    ] {
        assert_eq!(
            shows_overload(&answered(status, None)),
            expected,
            "{status}"
        );
    }
    assert!(shows_overload(&Err(Failure::Timeout)));
    assert!(shows_overload(&Err(Failure::Dns("no such name".into()))));
    assert!(!shows_overload(&Err(Failure::Forbidden("private".into()))));
    assert!(!shows_overload(&Err(Failure::NoDescriptor)));
    assert!(!shows_overload(&Err(Failure::NoTurn)));
}

#[test]
fn a_dialect_decides_which_answers_are_final() {
    let retry = Verdict::RetryAt {
        at: NOW + Duration::from_secs(5),
        because: Timing::Schedule,
    };
    let refused = Verdict::Failed(GaveUp::Refused);
    for (status, expected) in [
        (200, Verdict::Delivered),
        (302, retry.clone()),
        (400, refused.clone()),
        (410, refused),
        (429, retry.clone()),
        (500, retry.clone()),
    ] {
        let verdict = verdict_in("brainsait", &answered(status, None), 1);
        assert_eq!(verdict, expected, "{status}");
    }
    assert_eq!(verdict_in("rishi", &answered(410, None), 1), retry);
}

#[test]
fn no_retry_is_planned_beyond_the_age_limit() {
    let schedule = Schedule::of_seconds(&[86_400]);
    let dialects = Dialects::embedded();
    let policy = dialects.default().policy();
    let attempted = Attempted {
        attempt: 1,
        ages_from: NOW - policy.max_age + time::Duration::HOUR,
        now: NOW,
        answers: &policy.answers,
        max_age: A_WEEK,
        schedule: &schedule,
        random: 0.0,
    };
    assert_eq!(
        judge(&answered(500, None), attempted),
        Verdict::Expired(A_WEEK)
    );
    // Without an age limit, the same delivery's schedule goes on; at its end it has failed.
    let second = Attempted {
        attempt: 2,
        ..attempted
    };
    assert_eq!(
        judge(&answered(500, None), second),
        Verdict::Failed(GaveUp::Exhausted)
    );
}

#[test]
fn an_age_limit_is_put_into_words() {
    for (limit, since, words) in [
        (
            time::Duration::WEEK,
            Since::OccurredAt,
            "7 days after the event happened",
        ),
        (
            time::Duration::HOUR,
            Since::AcceptedAt,
            "1 hour after the event was accepted",
        ),
        (
            time::Duration::seconds(90),
            Since::AcceptedAt,
            "90 seconds after",
        ),
    ] {
        let said = TooOld { limit, since }.to_string();
        assert!(said.contains(words), "{said}");
    }
}

proptest! {
    #[test]
    fn a_retry_never_comes_before_its_pause_is_over(status in 300u16..600, attempt in 1u16..3, after in proptest::option::of(any::<u64>())) {
        if let Verdict::RetryAt { at, .. } = verdict(&answered(status, after), attempt) {
            let pause = if attempt == 1 { 5 } else { 300 };
            prop_assert!(at >= NOW + Duration::from_secs(pause));
        }
    }
}

/// The API's description lists the reasons of `WAITS`.
#[test]
fn the_list_of_waits_has_every_deferral_and_the_pause() {
    let written = Deferral::ALL.map(Deferral::as_str).into_iter();
    assert_eq!(written.chain([PAUSED]).collect::<Vec<_>>(), WAITS);
}
