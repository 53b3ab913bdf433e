use super::*;

#[test]
fn health_is_what_was_answered_of_late() {
    for (successes, attempts, expected) in [
        (0, 0, Health::Unused),
        (19, 20, Health::Healthy),
        (18, 20, Health::Degraded),
        (10, 20, Health::Degraded),
        (9, 20, Health::Failing),
    ] {
        assert_eq!(
            health(successes, attempts),
            expected,
            "{successes} of {attempts}"
        );
    }
}

#[test]
fn a_window_has_between_five_and_forty_nine_steps() {
    for window in [Window::Hour, Window::Day, Window::Week, Window::Month] {
        let (length, step) = window.lengths();
        assert_eq!(length % step, 0);
        assert!((4..=48).contains(&(length / step)), "{window:?}");
        assert_eq!(step % PERIOD, 0);
    }
}
