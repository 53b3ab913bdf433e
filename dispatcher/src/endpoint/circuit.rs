//! A circuit breaker: an endpoint that keeps failing gets no requests for a while.
//!
//! After ten failures in a row the circuit opens, and no request passes. When its wait is
//! over, one request passes as a probe. If the probe succeeds, the circuit closes. If it
//! fails, the circuit stays open for twice as long as before, up to five minutes.
//!
//! This is a pure state machine: [`super::limiter`] has one per webhook and reports the
//! results of requests to it.

use std::time::Duration;

use time::OffsetDateTime;

/// The number of failures in a row that opens the circuit.
const THRESHOLD: u32 = 10;
/// How long the circuit stays open at first. Each failed probe doubles this.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest time that the circuit stays open.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A circuit breaker, closed at first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circuit {
    state: State,
    /// How long the circuit will stay open the next time.
    wait: Duration,
    /// `None` while the circuit is closed.
    outage: Option<Outage>,
}

/// A time in which the circuit isn't closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    pub since: OffsetDateTime,
    /// When the request failed that opened the circuit last.
    pub failed_at: OffsetDateTime,
    /// When the next request may be sent. `None`: the probe is in flight.
    pub next_probe_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Requests pass. This many have failed in a row.
    Closed(u32),
    /// No request passes before this time.
    Open(OffsetDateTime),
    /// The probe is in flight. Its result decides.
    Probing,
}

/// Whether a request may pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pass {
    /// It may.
    Free,
    /// It may, as the only one. Its result decides whether the circuit closes.
    Probe,
    /// It may not before this time.
    NotBefore(OffsetDateTime),
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            state: State::Closed(0),
            wait: FIRST_WAIT,
            outage: None,
        }
    }
}

impl Circuit {
    /// Asks whether a request may pass. After [`Pass::Probe`] the caller has to call
    /// `answered`, `failed` or `not_sent`.
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

    /// A request succeeded.
    pub fn answered(&mut self) {
        // This may be a request that was sent before the circuit opened. Its success says
        // as much as a probe's.
        *self = Self::default();
    }

    /// A request failed.
    pub fn failed(&mut self, now: OffsetDateTime) {
        match &mut self.state {
            State::Closed(failures) if *failures + 1 < THRESHOLD => *failures += 1,
            State::Closed(_) | State::Probing => self.open(now),
            // A request that was sent before the circuit opened.
            State::Open(_) => {}
        }
    }

    /// The request was not sent after all: nothing is known of the endpoint.
    pub fn not_sent(&mut self, now: OffsetDateTime) {
        if self.state == State::Probing {
            self.state = State::Open(now);
        }
    }

    fn open(&mut self, now: OffsetDateTime) {
        // Circuits that opened at the same time don't all probe at the same time.
        let spread = self.wait.mul_f64(0.2 * fastrand::f64());
        self.state = State::Open(now + self.wait + spread);
        let since = self.outage.map_or(now, |outage| outage.since);
        self.outage = Some(Outage {
            since,
            // The clock may have been set back meanwhile.
            failed_at: since.max(now),
            next_probe_at: None,
        });
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Somebody thinks that the endpoint is back: the next request may pass, as the probe.
    pub fn end_wait(&mut self, now: OffsetDateTime) {
        if let State::Open(until) = self.state {
            self.state = State::Open(until.min(now));
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// What is to be told of a circuit that isn't closed.
    pub fn outage(&self) -> Option<Outage> {
        let next_probe_at = match self.state {
            State::Open(until) => Some(until),
            State::Closed(_) | State::Probing => None,
        };
        self.outage.map(|outage| Outage {
            next_probe_at,
            ..outage
        })
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
    fn ten_failures_in_a_row_open_the_circuit_and_fewer_dont() {
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
    fn one_probe_passes_and_its_success_closes_the_circuit() {
        let mut circuit = opened();
        let at = until(&mut circuit, NOW);
        assert!(at >= NOW + FIRST_WAIT && at <= NOW + FIRST_WAIT * 2);
        assert_eq!(circuit.pass(at), Pass::Probe);
        assert!(until(&mut circuit, at) > at, "there is one probe");
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
        // The failure of a request from before the circuit opened changes nothing.
        let before = circuit;
        circuit.failed(now);
        assert_eq!(circuit, before);
    }

    #[test]
    fn an_outage_lasts_from_the_first_opening_to_the_first_success() {
        let mut circuit = opened();
        let first = circuit.outage().unwrap();
        assert_eq!((first.since, first.failed_at), (NOW, NOW));
        let at = until(&mut circuit, NOW);
        assert_eq!(first.next_probe_at, Some(at));
        assert_eq!(circuit.pass(at), Pass::Probe);
        assert_eq!(circuit.outage().unwrap().next_probe_at, None);
        circuit.failed(at);
        let second = circuit.outage().unwrap();
        assert_eq!((second.since, second.failed_at), (NOW, at));
        circuit.answered();
        assert_eq!(circuit.outage(), None);
    }

    #[test]
    fn an_outage_has_no_failure_before_its_begin_although_the_clock_is_set_back() {
        let mut circuit = opened();
        circuit.end_wait(NOW);
        assert_eq!(circuit.pass(NOW), Pass::Probe);
        circuit.failed(NOW - Duration::from_secs(60));
        let outage = circuit.outage().unwrap();
        assert_eq!((outage.since, outage.failed_at), (NOW, NOW));
    }

    #[test]
    fn who_asks_now_lets_one_probe_pass_and_leaves_the_next_wait_as_it_was() {
        let mut circuit = opened();
        circuit.end_wait(NOW);
        assert_eq!(circuit.pass(NOW), Pass::Probe);
        circuit.end_wait(NOW);
        assert!(until(&mut circuit, NOW) > NOW, "there is one probe");
        circuit.failed(NOW);
        assert!(until(&mut circuit, NOW) >= NOW + 2 * FIRST_WAIT);
    }

    #[test]
    fn if_a_probe_was_not_sent_the_next_request_is_the_probe() {
        let mut circuit = opened();
        let at = until(&mut circuit, NOW);
        assert_eq!(circuit.pass(at), Pass::Probe);
        circuit.not_sent(at);
        assert_eq!(circuit.pass(at), Pass::Probe);
    }
}
