//! Whether an endpoint is asked at all: a circuit that opens when it fails again
//! and again, and closes when a probe gets through.
//!
//! Pure: [`crate::endpoint::limiter`] holds one per webhook and tells it what happened.

use std::time::Duration;

use time::OffsetDateTime;

/// Failures in a row that open it.
const THRESHOLD: u32 = 10;
/// How long it stays open at first; twice as long after each failed probe.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest that it stays open.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circuit {
    state: State,
    /// How long it stays open the next time.
    wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Requests pass; so many have failed in a row.
    Closed(u32),
    /// None passes before this moment.
    Open(OffsetDateTime),
    /// One is under way, and decides.
    Probing,
}

/// What may pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pass {
    /// A request like any other.
    Free,
    /// One, to see whether the endpoint is back.
    Probe,
    /// None before this moment.
    NotBefore(OffsetDateTime),
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            state: State::Closed(0),
            wait: FIRST_WAIT,
        }
    }
}

impl Circuit {
    /// Whether a request may pass; whoever gets [`Pass::Probe`] has to say what
    /// came of it.
    pub fn pass(&mut self, now: OffsetDateTime) -> Pass {
        match self.state {
            State::Closed(_) => Pass::Free,
            State::Open(until) if now < until => Pass::NotBefore(until),
            State::Open(_) => {
                self.state = State::Probing;
                Pass::Probe
            }
            State::Probing => Pass::NotBefore(now + FIRST_WAIT),
        }
    }

    /// The endpoint answered.
    pub fn answered(&mut self) {
        // One that was under way when it opened is as good as a probe.
        *self = Self::default();
    }

    /// The endpoint failed.
    pub fn failed(&mut self, now: OffsetDateTime) {
        match &mut self.state {
            State::Closed(failures) if *failures + 1 < THRESHOLD => *failures += 1,
            State::Closed(_) | State::Probing => self.open(now),
            // One that was under way when it opened.
            State::Open(_) => {}
        }
    }

    /// Nothing was learned: the request wasn't made after all.
    pub fn gave_up(&mut self, now: OffsetDateTime) {
        if self.state == State::Probing {
            self.state = State::Open(now);
        }
    }

    fn open(&mut self, now: OffsetDateTime) {
        // Not all circuits of a host that went down at once shall ask it at once.
        let spread = self.wait.mul_f64(0.2 * fastrand::f64());
        self.state = State::Open(now + self.wait + spread);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Whether requests pass.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);

    fn opened() -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..THRESHOLD {
            assert_eq!(circuit.pass(NOW), Pass::Free);
            circuit.failed(NOW);
        }
        circuit
    }

    fn until(circuit: &mut Circuit, now: OffsetDateTime) -> OffsetDateTime {
        match circuit.pass(now) {
            Pass::NotBefore(until) => until,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_between_them_doesnt_let_it_come_to_that() {
        let mut circuit = Circuit::default();
        for n in 0..100 {
            circuit.failed(NOW);
            if n % 9 == 8 {
                circuit.answered();
            }
            assert!(circuit.is_closed());
        }
        assert!(!opened().is_closed());
    }

    #[test]
    fn one_probe_passes_and_decides() {
        let mut circuit = opened();
        let at = until(&mut circuit, NOW);
        assert!(at >= NOW + FIRST_WAIT && at <= NOW + FIRST_WAIT * 2);
        assert_eq!(circuit.pass(at), Pass::Probe);
        assert!(until(&mut circuit, at) > at, "one");
        circuit.answered();
        assert_eq!(circuit.pass(at), Pass::Free);
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_a_bound() {
        let mut circuit = opened();
        let mut now = NOW;
        let mut waits = Vec::new();
        for _ in 0..9 {
            let at = until(&mut circuit, now);
            waits.push((at - now).whole_seconds());
            now = at;
            assert_eq!(circuit.pass(now), Pass::Probe);
            circuit.failed(now);
        }
        for (wait, least) in waits.iter().zip([5, 10, 20, 40, 80, 160, 300, 300, 300]) {
            assert!((least..=least * 6 / 5).contains(wait), "{waits:?}");
        }
        // What was under way when it opened changes nothing.
        let before = circuit;
        circuit.failed(now);
        assert_eq!(circuit, before);
    }

    #[test]
    fn a_probe_that_was_not_made_is_made_by_the_next() {
        let mut circuit = opened();
        let at = until(&mut circuit, NOW);
        assert_eq!(circuit.pass(at), Pass::Probe);
        circuit.gave_up(at);
        assert_eq!(circuit.pass(at), Pass::Probe);
    }
}
