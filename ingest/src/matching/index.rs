//! All webhooks of all tenants, found by the type of an event.
//!
//! Whoever watches the stored webhooks keeps it fresh with
//! [`upsert`](Index::upsert) and [`remove`](Index::remove); `ingest` asks it
//! which webhooks an event is for, the API why. It knows nothing of what a
//! webhook is beyond patterns and a filter: the rest is the caller's payload.
//!
//! A question looks into one tenant, up the event's type in a hash of exact
//! types, up each prefix of that type that ends in a separator in a hash of
//! prefixes (`a.b-c` has two), and adds the list of `*`. So its cost is that of
//! the webhooks that listen, however many others there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map},
    hash::Hash,
    sync::Arc,
};

use serde::Serialize;
use utoipa::ToSchema;

use super::candidates::Candidates;
use super::data::Data;
use super::filter::{Budget, Filter, Holding, MAX_STEPS, Refusal};
use super::pattern::{self, IndexKey, Pattern};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[allow(
    clippy::needless_pass_by_value,
    reason = "tables read better without &"
)]
mod tests;

/// Webhooks by tenant and by what they listen to. `K` is a webhook's id, `W`
/// what the caller wants back with it, such as an `Arc` of the webhook.
#[derive(Debug)]
pub struct Index<K, W> {
    tenants: HashMap<String, Tenant<K, W>>,
    /// Where each webhook is.
    homes: HashMap<K, Home>,
    /// How many webhooks there ever were.
    arrivals: u64,
}

/// One webhook in the index.
#[derive(Debug)]
pub struct Entry<K, W> {
    pub id: K,
    /// What it listens to: any of these. None: nothing.
    pub patterns: Vec<Pattern>,
    /// What an event's data must satisfy besides.
    pub filter: Option<Arc<Filter>>,
    pub payload: W,
}

/// What an event is to a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Explanation {
    /// It gets a delivery.
    Matched {
        /// The first of its patterns that listens to this type.
        #[schema(example = "order.*")]
        pattern: String,
        /// The clauses of its filter, all of which hold; of `$or` the first that does. Empty:
        /// it has no filter.
        clauses: Vec<Holding>,
    },
    /// None of its patterns listens to this type.
    NotListening,
    /// A clause of its filter said no.
    Refused {
        /// The first of its patterns that listens to this type.
        #[schema(example = "order.*")]
        pattern: String,
        /// The clause.
        #[serde(flatten)]
        refusal: Refusal,
    },
    /// It has a filter, and this data cannot be read by one.
    Unreadable {
        /// The parser's words.
        why: String,
    },
}

/// When a webhook first came: what results are ordered by.
type Arrival = u64;

#[derive(Debug)]
struct Home {
    tenant: String,
    arrival: Arrival,
}

#[derive(Debug)]
struct Tenant<K, W> {
    entries: BTreeMap<Arrival, Entry<K, W>>,
    exact: Listeners,
    /// Keyed with the separator: `order.`.
    prefix: Listeners,
    all: BTreeSet<Arrival>,
}

type Listeners = HashMap<String, BTreeSet<Arrival>>;

impl<K, W> Default for Index<K, W> {
    fn default() -> Self {
        Self {
            tenants: HashMap::new(),
            homes: HashMap::new(),
            arrivals: 0,
        }
    }
}

impl<K: Copy + Eq + Hash, W> Index<K, W> {
    /// An index without webhooks.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many webhooks are in it.
    pub fn len(&self) -> usize {
        self.homes.len()
    }

    /// Whether no webhook is in it.
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// Puts a webhook in, or in the place of the one with its id, whosever
    /// that was. It keeps its place in the order of results.
    pub fn upsert(
        &mut self,
        id: K,
        tenant: &str,
        patterns: Vec<Pattern>,
        filter: Option<Filter>,
        payload: W,
    ) {
        let arrival = self.take_out(id).unwrap_or_else(|| {
            self.arrivals += 1;
            self.arrivals
        });
        let entry = Entry {
            id,
            patterns,
            filter: filter.map(Arc::new),
            payload,
        };
        self.tenants
            .entry(tenant.to_owned())
            .or_default()
            .insert(arrival, entry);
        let tenant = tenant.to_owned();
        self.homes.insert(id, Home { tenant, arrival });
    }

    /// Takes a webhook out. Whether it was there.
    pub fn remove(&mut self, id: K) -> bool {
        self.take_out(id).is_some()
    }

    /// Takes all webhooks out but these.
    pub fn retain(&mut self, mut stays: impl FnMut(K) -> bool) {
        let gone = self.homes.keys().copied().filter(|id| !stays(*id));
        for id in gone.collect::<Vec<_>>() {
            self.take_out(id);
        }
    }

    /// The webhooks that listen to events of a type, each once, the longest known
    /// first, to be asked without the lock that this index may be under.
    pub fn candidates(&self, tenant: &str, event_type: &str) -> Candidates<K> {
        let entries = self.tenants.get(tenant).into_iter().flat_map(|tenant| {
            let listeners = tenant.listeners(event_type).into_iter();
            listeners.filter_map(|arrival| tenant.entries.get(&arrival))
        });
        let webhooks = entries.map(|entry| (entry.id, entry.filter.clone()));
        Candidates {
            webhooks: webhooks.collect(),
            tenants_member: None,
        }
    }

    /// What an event is to each webhook of its tenant, the longest known first.
    ///
    /// Says `Matched` of those that match by [`candidates`](Self::candidates), unless
    /// their filter takes more than an equal share of the steps. Its cost grows with
    /// all webhooks of the tenant.
    pub fn explain(
        &self,
        tenant: &str,
        event_type: &str,
        data: &Data<'_>,
    ) -> Vec<(&Entry<K, W>, Explanation)> {
        let Some(tenant) = self.tenants.get(tenant) else {
            return Vec::new();
        };
        let listeners = tenant.listeners(event_type);
        let share = MAX_STEPS / listeners.len().max(1) as u32;
        let explain = |(arrival, entry)| {
            if !listeners.contains(arrival) {
                return (entry, Explanation::NotListening);
            }
            (entry, Entry::explain(entry, event_type, data, share))
        };
        tenant.entries.iter().map(explain).collect()
    }

    fn take_out(&mut self, id: K) -> Option<Arrival> {
        let Home { tenant, arrival } = self.homes.remove(&id)?;
        if let hash_map::Entry::Occupied(mut home) = self.tenants.entry(tenant) {
            home.get_mut().remove(arrival);
            if home.get().entries.is_empty() {
                home.remove();
            }
        }
        Some(arrival)
    }
}

impl<K, W> Entry<K, W> {
    fn explain(&self, event_type: &str, data: &Data<'_>, steps: u32) -> Explanation {
        let pattern = self.listening(event_type);
        let Some(filter) = &self.filter else {
            let clauses = Vec::new();
            return Explanation::Matched { pattern, clauses };
        };
        let mut budget = Budget::new(steps);
        match data.value().map(|data| filter.explain(data, &mut budget)) {
            Ok(Ok(clauses)) => Explanation::Matched { pattern, clauses },
            Ok(Err(refusal)) => Explanation::Refused { pattern, refusal },
            Err(error) => {
                let why = error.to_string();
                Explanation::Unreadable { why }
            }
        }
    }

    /// The first of its patterns that listens to this type.
    pub(crate) fn listening(&self, event_type: &str) -> String {
        let listening = |pattern: &&Pattern| pattern.listens_to(event_type);
        let first = self.patterns.iter().find(listening);
        first.map_or_else(String::new, Pattern::to_string)
    }
}

impl<K, W> Default for Tenant<K, W> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            exact: Listeners::new(),
            prefix: Listeners::new(),
            all: BTreeSet::new(),
        }
    }
}

impl<K, W> Tenant<K, W> {
    /// Who listens to this type. A set, so that a webhook with two patterns
    /// for it is there once.
    fn listeners(&self, event_type: &str) -> BTreeSet<Arrival> {
        let exact = self.exact.get(event_type);
        let prefixes = pattern::prefixes(event_type).filter_map(|prefix| self.prefix.get(prefix));
        let by_type = exact.into_iter().chain(prefixes);
        by_type.chain([&self.all]).flatten().copied().collect()
    }

    fn insert(&mut self, arrival: Arrival, entry: Entry<K, W>) {
        for pattern in &entry.patterns {
            match pattern.key() {
                IndexKey::Exact(exact) => listen(&mut self.exact, exact, arrival),
                IndexKey::Prefix(prefix) => listen(&mut self.prefix, prefix, arrival),
                IndexKey::All => {
                    self.all.insert(arrival);
                }
            }
        }
        self.entries.insert(arrival, entry);
    }

    fn remove(&mut self, arrival: Arrival) {
        let Some(entry) = self.entries.remove(&arrival) else {
            return;
        };
        for pattern in &entry.patterns {
            match pattern.key() {
                IndexKey::Exact(exact) => unlisten(&mut self.exact, exact, arrival),
                IndexKey::Prefix(prefix) => unlisten(&mut self.prefix, prefix, arrival),
                IndexKey::All => {
                    self.all.remove(&arrival);
                }
            }
        }
    }
}

fn listen(listeners: &mut Listeners, key: &str, arrival: Arrival) {
    listeners.entry(key.to_owned()).or_default().insert(arrival);
}

fn unlisten(listeners: &mut Listeners, key: &str, arrival: Arrival) {
    if let Some(arrivals) = listeners.get_mut(key) {
        arrivals.remove(&arrival);
        // Types come and go over a process's life; an empty set would stay.
        if arrivals.is_empty() {
            listeners.remove(key);
        }
    }
}
