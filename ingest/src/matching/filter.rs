//! Conditions on an event's data: what a webhook's `filters` mean.
//!
//! JSON comes in from the API and from stored webhooks and is compiled, here,
//! into clauses (`parse`); the [`Index`](super::Index) asks those about the
//! data of events (`evaluate`). A filter never fails on data: it matches or
//! it does not, and [`Filter::explain`] says which clause refused.
//!
//! ```json
//! {"restaurant_id": 1, "customer.address.city": {"$in": ["Graz", "Linz"]},
//!  "$or": [{"total": {"$gte": 100}}, {"items.sku": {"$startsWith": "VIP-"}}]}
//! ```
//!
//! **A filter is the AND of its members.** A member is a dotted path into the
//! data with a literal (equality, deep for objects and arrays) or an object of
//! operators, all of which must hold; or `$and` and `$or` with filters, or
//! `$not` with a filter. `{}` matches everything. A key of the data that
//! itself contains a dot cannot be named.
//!
//! **Comparisons are strict about kinds**: `1` is `1.0` but not `"1"`; `null`
//! is only an explicit null; `$gt` and its kind compare numbers by worth and
//! strings by bytes (so RFC 3339 times of one offset work), and anything else
//! is simply not greater, not less.
//!
//! **Arrays match if any element does**, or if they match as a whole:
//! `{"tags": "new"}` and `{"tags": ["new", "red"]}` both match
//! `["new", "red"]`. A path goes through an array into each object in it, and
//! a numeric segment into one element. Arrays directly inside arrays are not
//! searched: `0.tags` or a literal reaches them. Each operator finds an
//! element of its own. `$ne`, `$nin` and `$not` say that *no* element does,
//! which is what their positive forms deny.
//!
//! **A filter that names a missing path does not match.** A clause is
//! therefore `Yes`, `No` or `Missing`, and `Missing` is stronger than `No`:
//!
//! | | |
//! |---|---|
//! | a comparison on a path that leads nowhere | `Missing` |
//! | `$not`, `$ne`, `$nin` | swap `Yes` and `No`; `Missing` stays |
//! | AND | `Missing` if any is, else `No` if any is |
//! | `$or` | `Yes` if any is, else `Missing` if any is |
//! | `$exists` | is about absence, so it always has an answer: `Yes` or `No` |
//!
//! Only `Yes` matches. So `{"$not": {"a": 1, "b": 2}}` does not match data
//! without a `b`, even where `a` is 5. To say "absent or not 1", write
//! `{"$or": [{"a": {"$exists": false}}, {"a": {"$ne": 1}}]}`.
//!
//! **Short forms** (Jossiedb), as top-level keys: `locations` and `categories`
//! (non-empty lists of strings or numbers) and `minStockThreshold` (a number:
//! stock at or under it passes). Each looks at the first of its three fields
//! that is there and not null, at the top of the data or else one level down
//! (`{"item": {"location": …}}`). With an object of operators such a key is an
//! ordinary path.

mod clause;
mod evaluate;
mod excerpt;
mod parse;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[allow(
    clippy::needless_pass_by_value,
    reason = "tables read better without &"
)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use clause::Clause;
pub use clause::{
    Budget, FilterError, Holding, MAX_CLAUSE_TEXT, MAX_CLAUSES, MAX_DEPTH, MAX_EXCERPT, MAX_PATH,
    MAX_SEGMENTS, MAX_STEPS, MAX_STRING, MAX_VALUES, Refusal, TooCostly,
};

/// A condition on an event's data. The module's page says what it means.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Clause,
    within: Within,
}

/// What a filter sees of data that its producer wrapped already, as the webhook's dialect
/// would (`{"object": {…}}`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Within {
    /// The data as it was published.
    #[default]
    AsPublished,
    /// The object in this member, if the data consists of that member alone.
    Member(Arc<str>),
    /// As the tenant's dialect says, which may change without the webhook.
    Tenants,
}

/// The object that data consists of, if its only member is this one.
pub(super) fn inner<'d>(data: &'d Value, member: &str) -> Option<&'d Value> {
    let members = data.as_object().filter(|members| members.len() == 1)?;
    members.get(member).filter(|inner| inner.is_object())
}

impl Filter {
    /// Compiles a filter from its JSON, or says where and why it is none.
    pub fn parse(filter: &Value) -> Result<Self, FilterError> {
        let root = parse::parse(filter)?;
        let within = Within::default();
        Ok(Self { root, within })
    }

    /// The same filter, on what a dialect makes of the data.
    #[must_use]
    pub fn on(self, within: Within) -> Self {
        Self { within, ..self }
    }

    /// Whether the tenant's dialect says what it sees.
    pub(super) fn follows_tenant(&self) -> bool {
        self.within == Within::Tenants
    }

    fn seen<'d>(&self, data: &'d Value) -> &'d Value {
        match &self.within {
            Within::Member(member) => inner(data, member).unwrap_or(data),
            Within::AsPublished | Within::Tenants => data,
        }
    }

    /// Does the event with this data pass?
    ///
    /// # Errors
    /// If answering takes more than the budget.
    pub fn matches(&self, data: &Value, budget: &mut Budget) -> Result<bool, TooCostly> {
        evaluate::matches(&self.root, self.seen(data), budget)
    }

    /// The same answer as [`matches`](Self::matches), with the clauses that hold, or the
    /// first clause that said no, or that names what the data lacks.
    ///
    /// # Errors
    /// Says which clause it is, or that the budget was too small.
    pub fn explain(&self, data: &Value, budget: &mut Budget) -> Result<Vec<Holding>, Refusal> {
        evaluate::explain(&self.root, self.seen(data), budget)
    }
}
