//! Decides which tenant's event is next: start-time fair queueing. Pure.
//!
//! Each tenant has a queue and a virtual clock. Taking an event adds its cost to
//! the clock, and the tenant with the lowest clock is next. So tenants share by
//! cost, not by number of events. A tenant with a single waiting event waits for at
//! most one event of each other tenant.
//!
//! A tenant with [`PILED_UP`] events waiting is *restrained* until its queue is
//! empty: its queue moves to a second order, which `look_ahead` serves only while
//! dispatchers keep up.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// A tenant's events have piled up if several wait in one process that cost this much: as many
/// small ones as one batch takes. It is restrained then. If they came out of the queue that all
/// tenants share, it is also set aside: more of them would come in front of others' events.
pub const PILED_UP: u64 = 256;
/// A tenant that is set aside is released if for this long none of its events came out
/// of its overflow queue, and some of others' did.
pub const STUCK: Duration = Duration::from_secs(5);

/// Waiting items by their owner.
#[derive(Debug)]
pub struct Turns<K, T> {
    queues: HashMap<K, Queue<T>>,
    /// One per [`Class`].
    orders: [Order<K>; 2],
}

/// Which order an owner's queue is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Few items wait.
    Free,
    /// Many items wait, or do so elsewhere.
    Restrained,
}

#[derive(Debug)]
struct Queue<T> {
    /// With their costs.
    items: VecDeque<(T, u64)>,
    /// The sum of those.
    cost: u64,
    at: u64,
    class: Class,
}

#[derive(Debug)]
struct Order<K> {
    by_clock: BTreeSet<(u64, K)>,
    /// The clock of the owner that was served last: where a new one begins.
    now: u64,
}

impl<K: Clone + Ord + Hash, T> Turns<K, T> {
    /// With nothing waiting.
    #[must_use]
    pub fn new() -> Self {
        let order = || Order {
            by_clock: BTreeSet::new(),
            now: 0,
        };
        Self {
            queues: HashMap::new(),
            orders: [order(), order()],
        }
    }

    /// Puts an item behind the others of its owner. Answers the cost of what waits
    /// there, if it is more than one item.
    pub fn push(&mut self, owner: &K, item: T, cost: u64, class: Class) -> u64 {
        let queue = self.queue(owner, class);
        queue.items.push_back((item, cost));
        queue.cost += cost;
        let waiting = match queue.items.len() {
            1 => 0,
            _ => queue.cost,
        };
        if waiting >= PILED_UP || class == Class::Restrained {
            self.restrain(owner);
        }
        waiting
    }

    /// Puts an item back that was taken and not worked on: before the others of
    /// its owner.
    pub fn give_back(&mut self, owner: &K, item: T, cost: u64, class: Class) {
        let queue = self.queue(owner, class);
        queue.items.push_front((item, cost));
        queue.cost += cost;
        if class == Class::Restrained {
            self.restrain(owner);
        }
    }

    /// The next item of this class, with its owner and its cost.
    pub fn take(&mut self, class: Class) -> Option<(K, T, u64)> {
        let order = &mut self.orders[class as usize];
        let (at, owner) = order.by_clock.pop_first()?;
        order.now = order.now.max(at);
        // Whoever is in an order has a queue, and it isn't empty.
        let queue = self.queues.get_mut(&owner)?;
        let (item, cost) = queue.items.pop_front()?;
        queue.cost -= cost;
        queue.at = at + cost;
        if queue.items.is_empty() {
            self.queues.remove(&owner);
        } else {
            order.by_clock.insert((queue.at, owner.clone()));
        }
        Some((owner, item, cost))
    }

    /// Charges an owner what its work came to beyond what was known before. One
    /// with nothing waiting starts anew and owes nothing.
    pub fn charge(&mut self, owner: &K, cost: u64) {
        if let Some(queue) = self.queues.get_mut(owner) {
            let order = &mut self.orders[queue.class as usize];
            order.by_clock.remove(&(queue.at, owner.clone()));
            queue.at += cost;
            order.by_clock.insert((queue.at, owner.clone()));
        }
    }

    /// Forgets items that nobody is to take any more.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        let Self { queues, orders } = self;
        queues.retain(|owner, queue| {
            queue.items.retain(|(item, _)| stays(item));
            queue.cost = queue.items.iter().map(|(_, cost)| cost).sum();
            if queue.items.is_empty() {
                let order = &mut orders[queue.class as usize];
                order.by_clock.remove(&(queue.at, owner.clone()));
            }
            !queue.items.is_empty()
        });
    }

    /// How many owners have items waiting.
    #[must_use]
    pub fn owners(&self) -> usize {
        self.queues.len()
    }

    /// Whether anything of this class waits.
    #[must_use]
    pub fn has(&self, class: Class) -> bool {
        !self.orders[class as usize].by_clock.is_empty()
    }

    fn queue(&mut self, owner: &K, class: Class) -> &mut Queue<T> {
        let order = &mut self.orders[class as usize];
        self.queues.entry(owner.clone()).or_insert_with(|| {
            order.by_clock.insert((order.now, owner.clone()));
            Queue {
                items: VecDeque::new(),
                cost: 0,
                at: order.now,
                class,
            }
        })
    }

    fn restrain(&mut self, owner: &K) {
        let Some(queue) = self.queues.get_mut(owner) else {
            return;
        };
        if queue.class == Class::Restrained {
            return;
        }
        let [free, restrained] = &mut self.orders;
        free.by_clock.remove(&(queue.at, owner.clone()));
        queue.class = Class::Restrained;
        queue.at = restrained.now;
        restrained.by_clock.insert((queue.at, owner.clone()));
    }
}

impl<K: Clone + Ord + Hash, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn take_all(turns: &mut Turns<u8, usize>, class: Class) -> Vec<(u8, usize)> {
        std::iter::from_fn(|| turns.take(class))
            .map(|(owner, item, _)| (owner, item))
            .collect()
    }

    #[test]
    fn a_single_event_is_next_however_many_of_another_tenant_wait() {
        let mut turns = Turns::new();
        for n in 0..200 {
            turns.push(&1, n, 1, Class::Free);
        }
        for _ in 0..50 {
            turns.take(Class::Free);
        }
        turns.push(&2, 0, 1, Class::Free);
        let next: Vec<u8> = (0..2)
            .filter_map(|_| turns.take(Class::Free))
            .map(|(owner, ..)| owner)
            .collect();
        assert!(next.contains(&2), "{next:?}");
    }

    #[test]
    fn a_tenant_is_restrained_from_many_waiting_until_none_is() {
        let mut turns = Turns::new();
        for n in 0..256 {
            assert!(!turns.has(Class::Restrained));
            turns.push(&1, n, 1, Class::Free);
        }
        assert!(!turns.has(Class::Free));
        assert_eq!(take_all(&mut turns, Class::Free), []);
        let taken = take_all(&mut turns, Class::Restrained);
        assert_eq!(taken.len() as u64, PILED_UP);
        turns.push(&1, 0, 1, Class::Free);
        assert!(turns.has(Class::Free));
    }

    #[test]
    fn who_costs_more_gets_fewer_turns() {
        let mut turns = Turns::new();
        for n in 0..100 {
            turns.push(&1, n, 1, Class::Free);
            turns.push(&2, n, 1, Class::Free);
        }
        let mut served = HashMap::new();
        for _ in 0..60 {
            let (owner, ..) = turns.take(Class::Free).unwrap();
            *served.entry(owner).or_insert(0) += 1;
            if owner == 2 {
                turns.charge(&2, 9);
            }
        }
        assert!(served[&2] <= 6 && served[&1] >= 54, "{served:?}");
    }

    #[test]
    fn what_is_given_back_comes_first_again() {
        let mut turns = Turns::new();
        for n in 0..3 {
            turns.push(&1, n, 1, Class::Free);
        }
        let taken: Vec<_> = (0..3).filter_map(|_| turns.take(Class::Free)).collect();
        for (owner, item, cost) in taken.into_iter().rev() {
            turns.give_back(&owner, item, cost, Class::Free);
        }
        let order = take_all(&mut turns, Class::Free);
        assert_eq!(order, [(1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn what_nobody_is_to_take_is_forgotten_and_the_rest_keeps_its_order() {
        let mut turns = Turns::new();
        for n in 0..300 {
            turns.push(&1, n, 1, Class::Free);
        }
        for n in 300..306 {
            turns.push(&2, n, 1, Class::Free);
        }
        turns.retain(|n| *n == 7 || *n > 303);
        assert_eq!(take_all(&mut turns, Class::Restrained), [(1, 7)]);
        assert_eq!(take_all(&mut turns, Class::Free), [(2, 304), (2, 305)]);
        turns.push(&1, 0, 1, Class::Free);
        turns.retain(|_| false);
        assert!(!turns.has(Class::Free) && turns.queues.is_empty());
    }

    #[test]
    fn one_large_event_restrains_nobody() {
        let mut turns = Turns::new();
        turns.push(&1, 0, 2 * PILED_UP, Class::Free);
        assert!(!turns.has(Class::Restrained));
        turns.push(&1, 1, 1, Class::Free);
        assert!(turns.has(Class::Restrained));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8, u64),
        Take,
        TakeRestrained,
        GiveBack,
        Charge(u8, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..5u8, 1..20u64).prop_map(|(owner, cost)| Step::Push(owner, cost)),
            3 => Just(Step::Take),
            2 => Just(Step::TakeRestrained),
            1 => Just(Step::GiveBack),
            1 => (0..5u8, 0..50u64).prop_map(|(owner, cost)| Step::Charge(owner, cost)),
        ];
        proptest::collection::vec(step, 0..2000)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_taken_twice(steps in steps()) {
            let mut turns = Turns::new();
            let (mut pushed, mut taken) = (0usize, Vec::new());
            let mut last = None;
            for step in steps {
                match step {
                    Step::Push(owner, cost) => {
                        turns.push(&owner, pushed, cost, Class::Free);
                        pushed += 1;
                    }
                    Step::Take | Step::TakeRestrained => {
                        let class = match step {
                            Step::Take => Class::Free,
                            _ => Class::Restrained,
                        };
                        if let Some((owner, item, cost)) = turns.take(class) {
                            taken.push(item);
                            last = Some((owner, item, cost, class));
                        }
                    }
                    Step::GiveBack => if let Some((owner, item, cost, class)) = last.take() {
                        taken.retain(|one| *one != item);
                        turns.give_back(&owner, item, cost, class);
                    }
                    Step::Charge(owner, cost) => turns.charge(&owner, cost),
                }
            }
            for class in [Class::Free, Class::Restrained] {
                while let Some((_, item, _)) = turns.take(class) {
                    taken.push(item);
                }
            }
            taken.sort_unstable();
            prop_assert_eq!(taken, (0..pushed).collect::<Vec<_>>());
            prop_assert!(turns.queues.is_empty());
        }

        #[test]
        fn while_all_have_something_waiting_they_share_by_cost(
            costs in proptest::collection::vec(1..50u64, 2..6),
            takes in 1..300usize,
        ) {
            let mut turns = Turns::new();
            for (owner, cost) in costs.iter().enumerate() {
                for n in 0..300 {
                    // All in the same class.
                    turns.push(&owner, n, *cost, Class::Restrained);
                }
            }
            let mut served = vec![0; costs.len()];
            // Nobody runs dry: there are fewer takes than events of each.
            for _ in 0..takes {
                let (owner, _, cost) = turns.take(Class::Restrained).unwrap();
                served[owner] += cost;
            }
            // One event's cost apart at most, each.
            let dearest = costs.iter().max().unwrap();
            let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
            prop_assert!(most - least <= *dearest, "{:?} of costs {:?}", served, costs);
        }
    }
}
