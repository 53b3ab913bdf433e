//! Merges many webhooks' deliveries into one list, newest first, and reads few rows of each. Pure.
//!
//! Each webhook's deliveries are read in their order, a few at a time. The last
//! one that was read is the webhook's *edge*: older deliveries of it are not known
//! yet. So the deliveries that are at least as new as every edge are the beginning
//! of the list.
//!
//! For more, the webhook with the newest edge is read on, four times as many rows
//! each time, because one query costs more than a hundred rows. All webhooks whose
//! edge it is going to pass are read in the same query. So webhooks with similar
//! traffic are read together, and a webhook that has nearly all deliveries is read
//! alone.

use shared::ids::WebhookId;
use uuid::Uuid;

/// How many rows are read first, beyond each webhook's share of the page.
const SPARE: usize = 1;
/// By how much each further read of a webhook grows.
const GROWTH: usize = 4;

/// What to read next: of each webhook, the newest `count` rows before an id.
#[derive(Debug, PartialEq)]
pub struct Look {
    pub webhooks: Vec<WebhookId>,
    /// For each webhook: rows before this id.
    pub before: Vec<Uuid>,
    pub count: usize,
}

/// What a read has shown of one webhook: `count` rows from `newest` to `edge`.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub count: usize,
    pub newest: Option<Uuid>,
    pub edge: Option<Uuid>,
    /// The ids among them that pass the filters.
    pub passing: Vec<Uuid>,
}

/// A webhook that may have more rows.
struct Open {
    webhook: WebhookId,
    /// The last row that was read: older ones aren't known.
    edge: u128,
    /// The distance in ids that the last read covered.
    span: u128,
}

pub struct Merge {
    open: Vec<Open>,
    /// All ids that pass the filters, of all rows read.
    passing: Vec<Uuid>,
    /// Whether anything was read yet.
    begun: bool,
    wanted: usize,
    count: usize,
    budget: usize,
}

impl Merge {
    /// Merges the deliveries of these webhooks with ids before `to`, until `wanted` of
    /// them pass the filters. About `first` rows are read first, and at most `budget`
    /// rows in all, give or take one of each webhook.
    pub fn new(
        webhooks: &[WebhookId],
        to: Uuid,
        wanted: usize,
        first: usize,
        budget: usize,
    ) -> Self {
        let share = first.div_ceil(webhooks.len().max(1)) + SPARE;
        Self {
            open: webhooks
                .iter()
                .map(|webhook| Open {
                    webhook: *webhook,
                    edge: to.as_u128(),
                    span: 0,
                })
                .collect(),
            passing: Vec::new(),
            begun: false,
            wanted,
            count: share.min(first),
            budget,
        }
    }

    /// What to read next; `None` if enough is known, or the budget is used up.
    pub fn next_look(&mut self) -> Option<Look> {
        if self.open.is_empty() || self.budget == 0 || (self.begun && self.is_enough()) {
            return None;
        }
        self.open.sort_by_key(|open| std::cmp::Reverse(open.edge));
        // About where the first of them is going to end. At first nothing was
        // looked at, and all edges are the same.
        let first = &self.open[0];
        let end = first
            .edge
            .saturating_sub(first.span.saturating_mul(GROWTH as u128));
        let among = self.open.partition_point(|open| open.edge >= end);
        self.begun = true;
        let looked_at = &self.open[..among];
        let webhooks = looked_at.iter().map(|open| open.webhook).collect();
        let before = looked_at.iter().map(|open| Uuid::from_u128(open.edge));
        let before = before.collect();
        let affordable = (self.budget / among).max(1);
        Some(Look {
            webhooks,
            before,
            count: self.count.min(affordable),
        })
    }

    /// Takes what a read has shown, in the order of its webhooks.
    pub fn add(&mut self, look: &Look, seen: Vec<Seen>) {
        let looked_at: Vec<Open> = self.open.drain(..look.webhooks.len()).collect();
        for (open, seen) in looked_at.into_iter().zip(seen) {
            self.budget = self.budget.saturating_sub(seen.count);
            self.passing.extend(seen.passing);
            if let (Some(newest), Some(edge)) = (seen.newest, seen.edge)
                && seen.count == look.count
            {
                self.open.push(Open {
                    webhook: open.webhook,
                    edge: edge.as_u128(),
                    span: newest.as_u128().saturating_sub(edge.as_u128()),
                });
            }
        }
        self.count *= GROWTH;
    }

    /// How many rows may still be read.
    pub fn budget(&self) -> usize {
        self.budget
    }

    fn edge(&self) -> Option<Uuid> {
        let edges = self.open.iter().map(|open| open.edge);
        edges.max().map(Uuid::from_u128)
    }

    fn is_enough(&self) -> bool {
        let edge = self.edge();
        let known = self.passing.iter().filter(|id| Some(**id) >= edge);
        known.count() >= self.wanted
    }

    /// The beginning of the list, newest first, and the edge after which there may be
    /// more.
    pub fn found(self) -> (Vec<Uuid>, Option<Uuid>) {
        let edge = self.edge();
        let mut known = self.passing;
        known.retain(|id| Some(*id) >= edge);
        known.sort_by(|a, b| b.cmp(a));
        known.truncate(self.wanted);
        (known, edge)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks as the database would; answers how many were seen.
    fn run(
        mut merge: Merge,
        of: &[(WebhookId, Vec<u128>)],
        wants: fn(u128) -> bool,
    ) -> (Vec<u128>, Option<u128>, usize) {
        let mut looked_at = 0;
        while let Some(look) = merge.next_look() {
            let seen = look
                .webhooks
                .iter()
                .zip(&look.before)
                .map(|(webhook, before)| {
                    let of_webhook = of.iter().find(|(id, _)| id == webhook);
                    let mut all: Vec<_> =
                        of_webhook.map(|(_, ids)| ids.clone()).unwrap_or_default();
                    all.sort_by(|a, b| b.cmp(a));
                    all.retain(|id| *id < before.as_u128());
                    all.truncate(look.count);
                    Seen {
                        count: all.len(),
                        newest: all.first().map(|id| Uuid::from_u128(*id)),
                        edge: all.last().map(|id| Uuid::from_u128(*id)),
                        passing: all
                            .iter()
                            .filter(|id| wants(**id))
                            .map(|id| Uuid::from_u128(*id))
                            .collect(),
                    }
                });
            let seen: Vec<_> = seen.collect();
            looked_at += seen.iter().map(|seen| seen.count).sum::<usize>();
            merge.add(&look, seen);
        }
        let (found, edge) = merge.found();
        let number = |id: Uuid| id.as_u128();
        (
            found.into_iter().map(number).collect(),
            edge.map(number),
            looked_at,
        )
    }

    /// Deliveries 1 to so many, each of one of so many webhooks.
    fn deliveries(
        webhooks: usize,
        count: u128,
        whose: impl Fn(u128) -> usize,
    ) -> Vec<(WebhookId, Vec<u128>)> {
        let mut all: Vec<_> = (0..webhooks)
            .map(|_| (WebhookId::generate(), Vec::new()))
            .collect();
        for id in 1..=count {
            all[whose(id) % webhooks].1.push(id);
        }
        all
    }

    fn ids(of: &[(WebhookId, Vec<u128>)]) -> Vec<WebhookId> {
        of.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn a_page_of_many_webhooks_costs_a_few_of_each() {
        let of = deliveries(100, 100_000, |id| id as usize);
        let merge = Merge::new(&ids(&of), Uuid::max(), 51, 51, 5_000);
        let (found, _, looked_at) = run(merge, &of, |_| true);
        assert_eq!(found, (99_950..=100_000).rev().collect::<Vec<_>>());
        assert!(looked_at <= 200, "{looked_at}");
    }

    #[test]
    fn a_webhook_with_nearly_all_of_them_takes_few_rounds() {
        let of = deliveries(
            10,
            100_000,
            |id| if id % 10 == 0 { id as usize / 10 } else { 0 },
        );
        let merge = Merge::new(&ids(&of), Uuid::max(), 51, 51, 5_000);
        let (found, _, looked_at) = run(merge, &of, |_| true);
        assert_eq!(found, (99_950..=100_000).rev().collect::<Vec<_>>());
        assert!(looked_at <= 400, "{looked_at}");
    }

    #[test]
    fn what_nothing_passes_ends_with_the_budget_and_says_where() {
        let of = deliveries(3, 100_000, |id| id as usize);
        let merge = Merge::new(&ids(&of), Uuid::max(), 51, 51, 5_000);
        let (found, edge, looked_at) = run(merge, &of, |_| false);
        assert_eq!(found, []);
        assert!((4_990..=5_003).contains(&looked_at), "{looked_at}");
        assert!(edge.is_some_and(|edge| edge < 97_000), "{edge:?}");
    }

    proptest! {
        /// Page by page, whatever the spread, every wanted one once and in order.
        #[test]
        fn pages_are_the_whole_list(webhooks in 1_usize..8, whose in proptest::collection::vec(0_usize..8, 0..300), limit in 1_usize..20, first in 1_usize..50, budget in 1_usize..200) {
            let wants = |id: u128| !id.is_multiple_of(3);
            let of = deliveries(webhooks, whose.len() as u128, |id| whose[id as usize - 1]);
            let mut all = Vec::new();
            let mut to = Uuid::max();
            loop {
                let merge = Merge::new(&ids(&of), to, limit + 1, first, budget);
                let (mut found, edge, _) = run(merge, &of, wants);
                let has_more = found.len() > limit;
                found.truncate(limit);
                let last = found.last().copied().filter(|_| has_more);
                all.extend(found);
                match last.or(edge) {
                    Some(next) => to = Uuid::from_u128(next),
                    None => break,
                }
            }
            let expected: Vec<_> = (1..=whose.len() as u128).rev().filter(|id| wants(*id)).collect();
            prop_assert_eq!(all, expected);
        }
    }
}
