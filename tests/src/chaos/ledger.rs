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

/// Whose events and webhooks there are.
pub const TENANTS: [&str; 3] = ["acme", "bolt", "crow"];
/// What happens there.
const TYPES: [&str; 3] = ["order.created", "order.paid", "item-checkout"];
/// One event in so many doesn't fit into a job: its data is read from PostgreSQL.
const LARGE_EVERY: u32 = 20;

/// An event by its round and its number there: everything else follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    /// From 1.
    pub round: u32,
    /// From 0.
    pub n: u32,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}-{}", self.round, self.n)
    }
}

impl Event {
    /// The event of an id as `Display` writes it.
    #[must_use]
    pub fn of_id(id: &str) -> Option<Self> {
        let (round, n) = id.strip_prefix('r')?.split_once('-')?;
        Some(Self {
            round: round.parse().ok()?,
            n: n.parse().ok()?,
        })
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(self) -> &'static str {
        TENANTS[self.n as usize % TENANTS.len()]
    }

    /// What happened.
    #[must_use]
    pub fn event_type(self) -> &'static str {
        TYPES[self.n as usize / TENANTS.len() % TYPES.len()]
    }

    /// What is published, byte for byte.
    #[must_use]
    pub fn data(self) -> String {
        let large = self.n % LARGE_EVERY == 7;
        let note = "x".repeat(if large { 20_000 } else { 100 });
        let even = self.n.is_multiple_of(2);
        // A number that loses a digit, or its zeros, in careless hands.
        let (round, n) = (self.round, self.n);
        format!(r#"{{"round":{round},"n":{n},"total":{n}.00,"even":{even},"note":"{note}"}}"#)
    }
}

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 200 at once.
    Healthy,
    /// 200 after most of a second.
    Slow,
    /// 500, 503 or 429 to every third request or so.
    Flaky,
    /// Nobody listens.
    Dead,
    /// 410: the webhook is disabled by it.
    Gone,
}

impl Kind {
    /// Whether everything that it wants has to arrive.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Healthy | Self::Slow | Self::Flaky)
    }

    /// Whether it takes everything at the first attempt.
    #[must_use]
    pub fn never_fails(self) -> bool {
        matches!(self, Self::Healthy | Self::Slow)
    }
}

/// What a webhook asks for.
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

/// One webhook, as the ledger knows it.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Whose it is.
    pub tenant: &'static str,
    /// How its endpoint behaves.
    pub kind: Kind,
    /// What it asks for.
    pub wants: Wants,
}

impl Subscriber {
    /// Whether it is to get this event.
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

/// Everyone: for each tenant four that are well, two slow, two flaky, one dead,
/// one gone.
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
    /// When it had been read.
    pub at: Instant,
    /// When its answer was written, or its sender went away.
    pub ended: Option<Instant>,
    /// Whether it was answered.
    pub answered: bool,
    /// What the answer was.
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
    /// Confirmed and not taken yet, by live webhooks.
    owed: HashSet<Pair>,
    wrong: Vec<String>,
    last: Option<Instant>,
}

impl Ledger {
    /// An empty one for these subscribers, which are known by their places.
    #[must_use]
    pub fn new(subscribers: Vec<Subscriber>) -> Self {
        Self {
            subscribers,
            state: Mutex::default(),
        }
    }

    /// Who there is.
    #[must_use]
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// The broker has confirmed these.
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

    /// A request has arrived, and will be answered with this. Answers which of
    /// the pair's arrivals it is, from 0.
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

    /// The answer to that arrival has been written, or its sender has gone away.
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

    /// Something arrived that should not have, or not like that.
    pub fn object(&self, what: String) {
        self.state().wrong.push(what);
    }

    /// What was objected to so far.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    /// What was confirmed and has not been taken, in order.
    #[must_use]
    pub fn owed(&self) -> Vec<Pair> {
        let mut owed: Vec<Pair> = self.state().owed.iter().copied().collect();
        owed.sort_unstable();
        owed
    }

    /// When something arrived last.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        self.state().last
    }

    /// The confirmed events of a round, and when.
    #[must_use]
    pub fn confirmed(&self, round: u32) -> Vec<(Event, Instant)> {
        let state = self.state();
        let of_round = state.confirmed.iter().filter(|(e, _)| e.round == round);
        of_round.map(|(event, at)| (*event, *at)).collect()
    }

    /// How many events of all rounds are confirmed.
    #[must_use]
    pub fn confirmed_in_all(&self) -> i64 {
        self.state().confirmed.len() as i64
    }

    /// The arrivals of the pairs that had one at this moment or later.
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
    fn what_is_confirmed_is_owed_until_it_was_taken() {
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
    fn a_body_that_changes_between_attempts_is_objected_to() {
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
