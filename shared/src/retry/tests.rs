use super::*;

fn all(schedule: &Schedule) -> Vec<u64> {
    (1..)
        .map_while(|n| schedule.pause_after(n, 0.0))
        .map(|pause| pause.as_millis() as u64)
        .collect()
}

#[test]
fn a_list_is_kept_to_the_letter() {
    assert_eq!(all(&Schedule::of_seconds(&[5, 300])), [5_000, 300_000]);
    assert_eq!(all(&Schedule::of_seconds(&[])), [0; 0]);
}

fn doubling(first: u64, retries: u16) -> Schedule {
    Schedule::of_seconds(&[]).with(&Retry {
        max_retries: Some(retries),
        retry_delay: Some(first * 1_000),
        ..Retry::default()
    })
}

#[test]
fn a_rule_doubles_up_to_its_cap() {
    let schedule = doubling(30, 4);
    assert_eq!(all(&schedule), [30_000, 60_000, 120_000, 240_000]);
    let capped = schedule.with(&Retry {
        cap: Some(100_000),
        ..Retry::default()
    });
    assert_eq!(all(&capped), [30_000, 60_000, 100_000, 100_000]);
}

#[test]
fn an_override_changes_what_it_names_and_keeps_the_rest() {
    let list = Schedule {
        jitter: 0.5,
        ..Schedule::of_seconds(&[10, 30, 60])
    };
    let rule = doubling(1, 3);
    let say = |json: &str| serde_json::from_str::<Retry>(json).unwrap();
    for (base, said, pauses) in [
        (&list, r#"{}"#, vec![10, 30, 60]),
        (&list, r#"{"max_retries": 2}"#, vec![10, 30]),
        (&list, r#"{"maxRetries": 5}"#, vec![10, 30, 60, 60, 60]),
        (&list, r#"{"max_retries": 0}"#, vec![]),
        (&list, r#"{"retryDelay": 5000}"#, vec![5, 10, 20]),
        (&list, r#"{"factor": 3.0, "max_retries": 2}"#, vec![10, 30]),
        (&list, r#"{"delays": [7000]}"#, vec![7]),
        (&rule, r#"{"max_retries": 5}"#, vec![1, 2, 4, 8, 16]),
        (&rule, r#"{"retry_delay": 5000}"#, vec![5, 10, 20]),
        (
            &rule,
            r#"{"maxRetries": 2, "retryDelay": 3000}"#,
            vec![3, 6],
        ),
        (&rule, r#"{"jitter": 0.1}"#, vec![1, 2, 4]),
    ] {
        let schedule = base.with(&say(said));
        let seconds: Vec<_> = all(&schedule).iter().map(|ms| ms / 1000).collect();
        assert_eq!(seconds, pauses, "{said}");
    }
    assert_eq!(list.with(&say("{}")).jitter, 0.5);
    assert_eq!(list.with(&say(r#"{"jitter": 0}"#)).jitter, 0.0);
}

#[test]
fn an_override_has_bounds() {
    for (said, words) in [
        (r#"{"delays": [1], "max_retries": 1}"#, "excludes"),
        (r#"{"max_retries": 50}"#, "max_retries must be at most 49"),
        (
            r#"{"retry_delay": 86400001}"#,
            "retry_delay must be at most 86400000",
        ),
        (r#"{"factor": 0.5}"#, "factor must be between 1 and 10"),
        (r#"{"cap": 86400001}"#, "cap must be at most"),
        (r#"{"jitter": 2}"#, "jitter"),
        (r#"{"delays": [86400001]}"#, "delays"),
    ] {
        let retry: Retry = serde_json::from_str(said).unwrap();
        let error = retry.check().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn jitter_only_ever_adds() {
    let schedule = Schedule {
        jitter: 0.1,
        ..Schedule::of_seconds(&[5, 300])
    };
    for random in [0.0, 0.001, 0.5, 1.0] {
        let short = schedule.pause_after(1, random).unwrap().as_millis();
        assert!((5_000..=5_500).contains(&short), "{short}");
        let long = schedule.pause_after(2, random).unwrap().as_millis();
        assert!(
            (300_000..=330_000).contains(&long) && long.is_multiple_of(1000),
            "{long}"
        );
    }
}

#[test]
fn bounds_are_named() {
    let error = Schedule::of_seconds(&[90_000])
        .check()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("delays") && error.contains("86400000"),
        "{error}"
    );
    assert!(Schedule::of_seconds(&[1; 50]).check().is_err());
    assert!(doubling(1, 50).check().is_err());
    assert!(
        Schedule {
            jitter: 1.5,
            ..Schedule::of_seconds(&[])
        }
        .check()
        .is_err()
    );
}

#[test]
fn a_schedule_survives_its_json() {
    for schedule in [Schedule::of_seconds(&[1, 2]), doubling(5, 3)] {
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(
            serde_json::from_str::<Schedule>(&json).unwrap(),
            schedule,
            "{json}"
        );
    }
}
