//! The ledger: which events were confirmed, and what arrived where, as seen from outside.
//! The judge believes the ledger, never what Posthorn reports about itself.
//!
//! `publisher` records confirms, `endpoints` records arrivals. Which webhook must get
//! which event follows from the events and the subscribers alone. That matching is so
//! simple that it needs no test: [`Subscriber::wants`].

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub const TENANTS: [&str; 3] = ["acme", "bolt", "crow"];
const TYPES: [&str; 3] = ["order.created", "order.paid", "item-checkout"];
/// One event in this many is too large for a job: dispatchers read its data from
/// PostgreSQL.
const LARGE_EVERY: u32 = 20;

/// An event. Its round and its number determine everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub round: u32,
    pub n: u32,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}-{}", self.round, self.n)
    }
}

impl Event {
    /// The event with this id, as `Display` writes it.
    #[must_use]
    pub fn of_id(id: &str) -> Option<Self> {
        let (round, n) = id.strip_prefix('r')?.split_once('-')?;
        Some(Self {
            round: round.parse().ok()?,
            n: n.parse().ok()?,
        })
    }

    #[must_use]
    pub fn tenant(self) -> &'static str {
        TENANTS[self.n as usize % TENANTS.len()]
    }

    #[must_use]
    pub fn event_type(self) -> &'static str {
        TYPES[self.n as usize / TENANTS.len() % TYPES.len()]
    }

    /// The event's data, byte for byte.
    #[must_use]
    pub fn data(self) -> String {
        let large = self.n % LARGE_EVERY == 7;
        let note = "x".repeat(if large { 20_000 } else { 100 });
        let even = self.n.is_multiple_of(2);
        // A number that careless code would round or shorten.
        let (round, n) = (self.round, self.n);
        format!(r#"{{"round":{round},"n":{n},"total":{n}.00,"even":{even},"note":"{note}"}}"#)
    }
}

/// The behaviour of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 200 at once.
    Healthy,
    /// 200 after almost a second.
    Slow,
    /// 500, 503 or 429 for about every third request.
    Flaky,
    /// Nobody listens.
    Dead,
    /// 410, which disables the webhook.
    Gone,
}

impl Kind {
    /// Whether every event that it wants must arrive.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Healthy | Self::Slow | Self::Flaky)
    }

    /// Whether it accepts everything at the first attempt.
    #[must_use]
    pub fn never_fails(self) -> bool {
        matches!(self, Self::Healthy | Self::Slow)
    }
}

/// The events that a webhook subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// `*`
    All,
    /// `order.*`
    Orders,
    /// `item-checkout`
    Checkouts,
    /// `*` with the filter `{"even": true}`
    Even,
}

/// A webhook, as the ledger knows it.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub tenant: &'static str,
    pub kind: Kind,
    pub wants: Wants,
}

impl Subscriber {
    /// Whether the webhook must get this event.
    #[must_use]
    pub fn wants(&self, event: Event) -> bool {
        self.tenant == event.tenant()
            && match self.wants {
                Wants::All => true,
                Wants::Orders => event.event_type().starts_with("order."),
                Wants::Checkouts => event.event_type() == "item-checkout",
                Wants::Even => event.n.is_multiple_of(2),
            }
    }
}

/// All webhooks. Each tenant has four healthy endpoints, two slow, two flaky, one
/// dead and one gone.
#[must_use]
pub fn everyone() -> Vec<Subscriber> {
    let each = [
        (Kind::Healthy, Wants::All),
        (Kind::Healthy, Wants::Orders),
        (Kind::Healthy, Wants::Checkouts),
        (Kind::Healthy, Wants::Even),
        (Kind::Slow, Wants::Orders),
        (Kind::Slow, Wants::Checkouts),
        (Kind::Flaky, Wants::Orders),
        (Kind::Flaky, Wants::Even),
        (Kind::Dead, Wants::Checkouts),
        (Kind::Gone, Wants::All),
    ];
    let of = |tenant: &&'static str| {
        let tenant = *tenant;
        each.map(|(kind, wants)| Subscriber {
            tenant,
            kind,
            wants,
        })
    };
    TENANTS.iter().flat_map(of).collect()
}

/// A request that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When the request had been read.
    pub at: Instant,
    /// When the answer was written, or the client disconnected.
    pub ended: Option<Instant>,
    pub answered: bool,
    pub status: u16,
    body: u64,
}

/// One event on its way to one webhook.
pub type Pair = (Event, usize);

/// See the module's text.
pub struct Ledger {
    subscribers: Vec<Subscriber>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    confirmed: HashMap<Event, Instant>,
    arrivals: HashMap<Pair, Vec<Arrival>>,
    /// Confirmed events that live webhooks haven't accepted yet.
    owed: HashSet<Pair>,
    wrong: Vec<String>,
    last: Option<Instant>,
}

impl Ledger {
    /// An empty ledger for these subscribers, which are identified by their index.
    #[must_use]
    pub fn new(subscribers: Vec<Subscriber>) -> Self {
        Self {
            subscribers,
            state: Mutex::default(),
        }
    }

    #[must_use]
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// Records that the broker has confirmed these events.
    pub fn confirm(&self, events: &[Event]) {
        let now = Instant::now();
        let mut state = self.state();
        for event in events {
            state.confirmed.insert(*event, now);
            for (webhook, subscriber) in self.subscribers.iter().enumerate() {
                let pair = (*event, webhook);
                if subscriber.kind.is_live()
                    && subscriber.wants(*event)
                    && !is_taken(state.arrivals.get(&pair))
                {
                    state.owed.insert(pair);
                }
            }
        }
    }

    /// Records a request and the answer that it will get. Returns the number of this
    /// arrival among those of the pair, from 0.
    pub fn arrive(&self, pair: Pair, body: &[u8], status: u16) -> usize {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let body = hasher.finish();
        let mut guard = self.state();
        let state = &mut *guard;
        let at = Instant::now();
        state.last = Some(at);
        let arrivals = state.arrivals.entry(pair).or_default();
        if arrivals.first().is_some_and(|first| first.body != body) {
            let (event, webhook) = pair;
            state
                .wrong
                .push(format!("{event} to {webhook}: another body than before"));
        }
        arrivals.push(Arrival {
            at,
            ended: None,
            answered: false,
            status,
            body,
        });
        arrivals.len() - 1
    }

    /// Records that the answer was written, or that the client disconnected.
    pub fn end(&self, pair: Pair, arrival: usize, answered: bool) {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(arrivals) = state.arrivals.get_mut(&pair) {
            arrivals[arrival].ended = Some(Instant::now());
            arrivals[arrival].answered = answered;
            if is_taken(Some(arrivals)) {
                state.owed.remove(&pair);
            }
        }
    }

    /// Records an arrival that should not have happened, or not in this form.
    pub fn object(&self, what: String) {
        self.state().wrong.push(what);
    }

    /// The objections so far.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    /// Confirmed events that weren't accepted yet, in order.
    #[must_use]
    pub fn owed(&self) -> Vec<Pair> {
        let mut owed: Vec<Pair> = self.state().owed.iter().copied().collect();
        owed.sort_unstable();
        owed
    }

    /// The time of the last arrival.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        self.state().last
    }

    /// The confirmed events of a round, with the times of their confirms.
    #[must_use]
    pub fn confirmed(&self, round: u32) -> Vec<(Event, Instant)> {
        let state = self.state();
        let of_round = state.confirmed.iter().filter(|(e, _)| e.round == round);
        of_round.map(|(event, at)| (*event, *at)).collect()
    }

    /// The number of confirmed events of all rounds.
    #[must_use]
    pub fn confirmed_in_all(&self) -> i64 {
        self.state().confirmed.len() as i64
    }

    /// All arrivals of those pairs that had one at `since` or later.
    #[must_use]
    pub fn arrivals_since(&self, since: Instant) -> Vec<(Pair, Vec<Arrival>)> {
        let state = self.state();
        let late = |arrivals: &[Arrival]| arrivals.last().is_some_and(|last| last.at >= since);
        let pairs = state.arrivals.iter().filter(|(_, all)| late(all));
        pairs.map(|(pair, all)| (*pair, all.clone())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_taken(arrivals: Option<&Vec<Arrival>>) -> bool {
    arrivals.is_some_and(|all| {
        all.iter()
            .any(|arrival| arrival.status < 300 && arrival.answered)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmed_event_is_owed_until_it_is_accepted() {
        let ledger = Ledger::new(everyone());
        let event = Event { round: 1, n: 0 };
        ledger.confirm(&[event]);
        let owed = ledger.owed();
        assert!(!owed.is_empty());
        for pair in owed {
            let refused = ledger.arrive(pair, b"body", 500);
            ledger.end(pair, refused, true);
            assert!(ledger.owed().contains(&pair));
            let broken_off = ledger.arrive(pair, b"body", 200);
            ledger.end(pair, broken_off, false);
            assert!(ledger.owed().contains(&pair));
            let taken = ledger.arrive(pair, b"body", 200);
            ledger.end(pair, taken, true);
        }
        assert_eq!(ledger.owed(), []);
        assert_eq!(ledger.wrong(), Vec::<String>::new());
    }

    #[test]
    fn a_body_that_changes_between_attempts_is_reported() {
        let ledger = Ledger::new(everyone());
        let pair = (Event { round: 1, n: 0 }, 0);
        ledger.arrive(pair, b"body", 500);
        ledger.arrive(pair, b"Body", 200);
        assert_eq!(ledger.wrong().len(), 1);
    }

    #[test]
    fn an_event_is_known_by_its_id() {
        let event = Event { round: 12, n: 345 };
        assert_eq!(Event::of_id(&event.to_string()), Some(event));
        assert_eq!(Event::of_id("evt-1"), None);
    }
}
