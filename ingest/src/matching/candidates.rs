//! The webhooks that listen to an event's type, and which of their filters the event passes.
//!
//! They are copied out of the [`Index`](super::Index), so that filters are evaluated without its
//! lock. All filters of an event share one budget of steps. Half of it is divided equally among
//! them, so that a costly filter takes nothing from cheap ones. The rest goes to filters that need
//! more than their share.

use std::sync::Arc;

use serde_json::Value;

use super::data::Data;
use super::filter::{Budget, Filter, TooCostly, inner};

/// See the module's text. The longest known webhook first.
#[derive(Clone, Debug)]
pub struct Candidates<K> {
    pub(super) webhooks: Vec<(K, Option<Arc<Filter>>)>,
    /// The member that the tenant's dialect wraps data in.
    pub(super) tenants_member: Option<Arc<str>>,
}

/// What an event is to its candidates, each list in their order.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<K> {
    /// They get it.
    pub matched: Vec<K>,
    /// Nobody knows whether they want it: there weren't enough steps to say.
    pub too_costly: Vec<K>,
}

impl<K: Copy> Candidates<K> {
    /// Whether any has a filter, so that data has to be read.
    pub fn have_filters(&self) -> bool {
        self.webhooks.iter().any(|(_, filter)| filter.is_some())
    }

    /// Filters of webhooks with their tenant's dialect see what is in this member of the data.
    #[must_use]
    pub fn within(self, tenants_member: Option<Arc<str>>) -> Self {
        Self {
            tenants_member,
            ..self
        }
    }

    /// Evaluates their filters, with so many steps for all of them.
    ///
    /// Data that cannot be parsed (see [`Data::value`]) passes no filter.
    pub fn evaluate(&self, data: &Data<'_>, steps: u32) -> Found<K> {
        let answers = match self.have_filters().then(|| data.value()) {
            Some(Ok(data)) => self.answers(data, steps),
            _ => {
                let unfiltered = |(_, filter): &(K, Option<_>)| Ok(filter.is_none());
                self.webhooks.iter().map(unfiltered).collect()
            }
        };
        let mut found = Found {
            matched: Vec::new(),
            too_costly: Vec::new(),
        };
        for ((id, _), answer) in self.webhooks.iter().zip(answers) {
            match answer {
                Ok(true) => found.matched.push(*id),
                Ok(false) => {}
                Err(TooCostly) => found.too_costly.push(*id),
            }
        }
        found
    }

    fn answers(&self, data: &Value, steps: u32) -> Vec<Result<bool, TooCostly>> {
        let filters = self.webhooks.iter().map(|(_, filter)| filter.as_deref());
        let filters: Vec<_> = filters.collect();
        let tenants = self.tenants_member.as_deref();
        let inner = tenants.and_then(|member| inner(data, member));
        let mut left = steps;
        let mut ask = |filter: &Filter, share: u32| {
            let mut budget = Budget::new(share.min(left));
            left -= budget.left();
            let data = inner.filter(|_| filter.follows_tenant()).unwrap_or(data);
            let answer = filter.matches(data, &mut budget);
            left += budget.left();
            (answer, left)
        };
        let share = steps / 2 / (filters.iter().flatten().count().max(1) as u32);
        let mut over = steps;
        let mut answers = Vec::with_capacity(filters.len());
        let mut unanswered = Vec::new();
        for (at, filter) in filters.iter().enumerate() {
            answers.push(match filter {
                None => Ok(true),
                Some(filter) => {
                    let answer;
                    (answer, over) = ask(filter, share);
                    if answer == Err(TooCostly) {
                        unanswered.push((at, *filter));
                    }
                    answer
                }
            });
        }
        // From the beginning: at least as many steps as before.
        let mut waiting = unanswered.len() as u32;
        for (at, filter) in unanswered {
            (answers[at], over) = ask(filter, over / waiting);
            waiting -= 1;
        }
        answers
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::matching::filter::{MAX_STEPS, Within};

    fn candidates(filters: &[Value]) -> Candidates<usize> {
        let filters = filters.iter().map(|filter| Filter::parse(filter).unwrap());
        let filters = filters.map(|filter| Some(Arc::new(filter)));
        Candidates {
            webhooks: filters.enumerate().collect(),
            tenants_member: None,
        }
    }

    #[test]
    fn a_filter_sees_the_inner_object_of_data_that_its_dialect_wraps() {
        let filter = || Filter::parse(&json!({"total": 7})).unwrap();
        let of = |within| Some(Arc::new(filter().on(within)));
        let candidates = Candidates {
            webhooks: vec![
                (0, of(Within::AsPublished)),
                (1, of(Within::Member("object".into()))),
                (2, of(Within::Tenants)),
            ],
            tenants_member: None,
        };
        let wrapped = json!({"object": {"total": 7}});
        for (tenants, data, matched) in [
            (None, json!({"total": 7}), vec![0, 1, 2]),
            (None, wrapped.clone(), vec![1]),
            (Some("object"), wrapped, vec![1, 2]),
            (
                Some("object"),
                json!({"object": {"total": 7}, "n": 1}),
                vec![],
            ),
            (Some("object"), json!({"object": 7}), vec![]),
        ] {
            let candidates = candidates.clone().within(tenants.map(Arc::from));
            let found = candidates.evaluate(&Data::new(&data.to_string()), MAX_STEPS);
            assert_eq!(found.matched, matched, "{tenants:?} {data}");
        }
    }

    fn evaluate(filters: &[Value], data: &Value, steps: u32) -> Found<usize> {
        let data = data.to_string();
        candidates(filters).evaluate(&Data::new(&data), steps)
    }

    /// Searches an array of 10,000 for one value after the other.
    fn costly(comparisons: i32) -> Value {
        let each = (0..comparisons).map(|n| json!({"items": {"$in": [-n - 1]}}));
        json!({"$or": each.collect::<Vec<_>>()})
    }

    fn items() -> Value {
        json!({"items": (0..10_000).collect::<Vec<_>>(), "total": 7})
    }

    #[test]
    fn a_list_of_a_hundred_values_costs_an_array_no_more_than_one() {
        let listed: Vec<_> = (0..100).map(|n| format!("listed {n}")).collect();
        let data = json!({"items": vec!["another"; 33_000]});
        // A step to walk to the array, one for it as a whole, one for each item.
        let found = evaluate(&[json!({"items": {"$in": listed}})], &data, 2 * 33_100);
        assert_eq!((found.matched, found.too_costly), (vec![], vec![]));
    }

    #[test]
    fn fifty_filters_on_an_array_of_33000_take_no_more_than_an_events_steps() {
        let listed: Vec<_> = (0..100).map(|n| json!([n])).collect();
        let filters = vec![json!({"items": {"$in": listed}}); 50];
        let data = json!({"items": vec![json!([-1]); 33_000]});
        let found = evaluate(&filters, &data, MAX_STEPS);
        // Values that can't be hashed: one filter takes 2 * 100 * 33,000.
        assert_eq!(found.too_costly.len(), 50);
    }

    #[test]
    fn a_costly_filter_takes_nothing_from_the_others_whichever_comes_first() {
        let cheap = json!({"total": 7});
        for filters in [
            [costly(60), costly(60), cheap.clone()],
            [cheap.clone(), costly(60), costly(60)],
            [costly(60), cheap.clone(), costly(60)],
        ] {
            let at = filters.iter().position(|filter| *filter == cheap).unwrap();
            let found = evaluate(&filters, &items(), 100_000);
            assert_eq!(found.matched, [at]);
            assert_eq!(found.too_costly.len(), 2);
        }
    }

    #[test]
    fn what_the_others_leave_is_for_the_filter_that_needs_it() {
        // 3 times 10,000: more than a fifth of a half, less than what is left.
        let filters = [
            json!({"total": 7}),
            json!({}),
            costly(3),
            json!({"total": 8}),
            json!({}),
        ];
        let found = evaluate(&filters, &items(), 100_000);
        assert_eq!((found.matched, found.too_costly), (vec![0, 1, 4], vec![]));
    }
}
