//! Decides which delivery tags of a channel are acked, and whether singly or with `multiple`. Pure.
//!
//! Tenants take turns, so messages are finished in another order than they came in. One ack for
//! all messages up to a tag is cheapest, but every older message must be finished. Suppose that an
//! older message isn't:
//!
//! - It still waits for its tenant's turn. That may take long, so the finished message is acked
//!   by itself.
//! - A lane works on it. It will be finished in a moment, so the finished message waits, and one
//!   ack covers both.

use std::collections::VecDeque;

/// The unacked messages of a channel.
#[derive(Debug, Default)]
pub struct Tags {
    /// The tag of the first of `states`: a channel numbers its messages from 1.
    first: u64,
    states: VecDeque<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
    /// Finished, not acked yet.
    Done,
    /// By itself.
    Acked,
}

/// What to ack now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Everything unacked up to this tag.
    pub up_to: Option<u64>,
    /// These, each by itself.
    pub singly: Vec<u64>,
}

impl Tags {
    /// A message came in.
    pub fn came(&mut self, tag: u64) {
        if self.states.is_empty() {
            self.first = tag;
        }
        // A channel counts without gaps.
        debug_assert_eq!(self.first + self.states.len() as u64, tag);
        self.states.push_back(State::Waiting);
    }

    /// It is worked on.
    pub fn taken(&mut self, tag: u64) {
        self.set(tag, State::Taken);
    }

    /// It waits again.
    pub fn given_back(&mut self, tag: u64) {
        self.set(tag, State::Waiting);
    }

    /// What follows from it is safe.
    pub fn done(&mut self, tag: u64) {
        self.set(tag, State::Done);
    }

    /// How many are unacked.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// What can be acked; the caller does so.
    pub fn due(&mut self) -> Due {
        let mut due = Due::default();
        while let Some(State::Done | State::Acked) = self.states.front() {
            // The broker knows a tag until it is acked, so the last must be one
            // that isn't.
            if self.states.pop_front() == Some(State::Done) {
                due.up_to = Some(self.first);
            }
            self.first += 1;
        }
        let mut behind_a_waiting_one = false;
        for (tag, state) in (self.first..).zip(&mut self.states) {
            match state {
                State::Waiting => behind_a_waiting_one = true,
                State::Done if behind_a_waiting_one => {
                    *state = State::Acked;
                    due.singly.push(tag);
                }
                _ => {}
            }
        }
        due
    }

    fn set(&mut self, tag: u64, state: State) {
        let index = tag.checked_sub(self.first).map(|index| index as usize);
        if let Some(is) = index.and_then(|index| self.states.get_mut(index)) {
            *is = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn up_to(tag: u64) -> Due {
        Due {
            up_to: Some(tag),
            singly: vec![],
        }
    }

    #[test]
    fn in_order_one_ack_does_for_all() {
        let mut tags = Tags::default();
        (1..=6).for_each(|tag| tags.came(tag));
        (1..=6).for_each(|tag| tags.taken(tag));
        // Of the lane that took the second half.
        (4..=6).for_each(|tag| tags.done(tag));
        assert_eq!(tags.due(), Due::default());
        (1..=3).for_each(|tag| tags.done(tag));
        assert_eq!(tags.due(), up_to(6));
        assert!(tags.is_empty());
    }

    #[test]
    fn behind_one_that_waits_each_is_acked_by_itself() {
        let mut tags = Tags::default();
        (1..=4).for_each(|tag| tags.came(tag));
        for tag in [2, 4] {
            tags.taken(tag);
            tags.done(tag);
        }
        let singly = vec![2, 4];
        assert_eq!(
            tags.due(),
            Due {
                up_to: None,
                singly
            }
        );
        assert_eq!(tags.due(), Due::default());
        [1, 3].into_iter().for_each(|tag| tags.done(tag));
        // Not up to 4: the broker doesn't know that one any more.
        assert_eq!(tags.due(), up_to(3));
        assert!(tags.is_empty());
    }

    proptest! {
        #[test]
        fn the_broker_is_told_of_each_once_and_of_none_too_early(
            steps in proptest::collection::vec((0..4u8, 0..40u64), 0..600),
        ) {
            let (mut tags, mut next) = (Tags::default(), 1_u64);
            let mut done = BTreeSet::new();
            // What the broker holds unacked.
            let mut unacked = BTreeSet::new();
            let check = |tags: &mut Tags, unacked: &mut BTreeSet<u64>, done: &BTreeSet<u64>| {
                let due = tags.due();
                let mut acked = due.singly;
                if let Some(last) = due.up_to {
                    assert!(unacked.contains(&last), "{last} is unknown to the broker");
                    acked.extend(unacked.range(..=last).copied());
                }
                for tag in acked {
                    assert!(done.contains(&tag), "{tag} is acked before it is done");
                    assert!(unacked.remove(&tag), "{tag} is acked twice");
                }
            };
            for (step, which) in steps {
                let tag = next.saturating_sub(1 + which).max(1);
                match step {
                    0 => {
                        tags.came(next);
                        unacked.insert(next);
                        next += 1;
                    }
                    1 if unacked.contains(&tag) && !done.contains(&tag) => tags.taken(tag),
                    2 if unacked.contains(&tag) && !done.contains(&tag) => tags.given_back(tag),
                    3 if unacked.contains(&tag) => {
                        tags.done(tag);
                        done.insert(tag);
                    }
                    _ => {}
                }
                check(&mut tags, &mut unacked, &done);
            }
            for tag in unacked.clone() {
                tags.done(tag);
                done.insert(tag);
            }
            check(&mut tags, &mut unacked, &done);
            prop_assert!(unacked.is_empty());
            prop_assert!(tags.is_empty());
        }
    }
}
