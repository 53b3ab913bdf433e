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
//! that is there and not null. With an object of operators such a key is an
//! ordinary path.

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

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Number, Value};
use thiserror::Error;
use utoipa::ToSchema;

use super::number;

/// How deep a filter may nest: filters, objects of operators, and the objects
/// and arrays of literals each count one; the filter itself is the first.
pub const MAX_DEPTH: usize = 8;
/// How many clauses a filter may have: every literal, operator, short form,
/// `$and`, `$or`, `$not` and `{}` counts one.
pub const MAX_CLAUSES: usize = 64;
/// How many values the list of one `$in`, `$nin`, `locations` or `categories`
/// may have, and how many one literal may have inside it.
pub const MAX_VALUES: usize = 100;
/// The longest string in a filter, in bytes.
pub const MAX_STRING: usize = 1024;
/// The longest path, in bytes.
pub const MAX_PATH: usize = 256;
/// The most segments a path may have.
pub const MAX_SEGMENTS: usize = 16;
/// How many steps all filters of an event's webhooks may take together: values of
/// the data that are looked at, once per comparison, and each 32 bytes of a text that is
/// looked for in a list. Measured with 5 to 30 ns a step,
/// 5 to 30 ms. A filter that runs out of them doesn't match, and is said to be too
/// costly. An ordinary filter takes less than a hundred; data of 256 KiB gets
/// near the bound only if it is long arrays that many filters search.
pub const MAX_STEPS: u32 = 1_000_000;
/// How many bytes of a text are hashed for a step.
const HASHED_A_STEP: usize = 32;
/// How many characters of the data a refusal repeats.
pub const MAX_EXCERPT: usize = 100;
/// How many characters of a clause a refusal repeats.
pub const MAX_CLAUSE_TEXT: usize = 200;

/// A condition on an event's data. The module's page says what it means.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Clause,
}

impl Filter {
    /// Compiles a filter from its JSON, or says where and why it is none.
    pub fn parse(filter: &Value) -> Result<Self, FilterError> {
        let root = parse::parse(filter)?;
        Ok(Self { root })
    }

    /// Does the event with this data pass?
    ///
    /// # Errors
    /// If answering takes more than the budget.
    pub fn matches(&self, data: &Value, budget: &mut Budget) -> Result<bool, TooCostly> {
        evaluate::matches(&self.root, data, budget)
    }

    /// The same answer as [`matches`](Self::matches), with the first clause
    /// that said no, or that names what the data lacks.
    ///
    /// # Errors
    /// Says which clause it is, or that the budget was too small.
    pub fn explain(&self, data: &Value, budget: &mut Budget) -> Result<(), Refusal> {
        evaluate::explain(&self.root, data, budget)
    }
}

/// The steps that are left, see [`MAX_STEPS`].
#[derive(Debug)]
pub struct Budget(u32);

/// A filter took more steps than it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooCostly;

impl Budget {
    /// So many steps.
    pub fn of(steps: u32) -> Self {
        Self(steps)
    }

    /// How many are left.
    pub fn left(&self) -> u32 {
        self.0
    }

    fn step(&mut self) -> Result<(), TooCostly> {
        self.steps(1)
    }

    fn steps(&mut self, steps: u32) -> Result<(), TooCostly> {
        match self.0.checked_sub(steps) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(TooCostly),
        }
    }
}

/// Why some JSON is no filter.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("filter{}{at}: {reason}", if at.is_empty() { "" } else { " at " })]
pub struct FilterError {
    /// Where in the filter, as a JSON Pointer (RFC 6901): `/$or/0/total/$gt`;
    /// empty for the filter itself.
    pub at: String,
    /// What is wrong there, with the bound or the choices.
    pub reason: String,
}

/// Which clause of a filter turned an event away, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Refusal {
    /// Where the clause is in the filter, as a JSON Pointer (RFC 6901).
    pub at: String,
    /// What it demands, at most [`MAX_CLAUSE_TEXT`] characters: `total $gt 5`.
    pub clause: String,
    /// What the data has there, at most [`MAX_EXCERPT`] characters of JSON, or
    /// `missing`. Where the clause looks at several paths: each with its own.
    pub found: String,
}

impl Refusal {
    /// Of a filter that runs out of steps.
    pub fn too_costly() -> Self {
        Self {
            at: String::new(),
            clause: format!(
                "too costly: all filters of an event may take {MAX_STEPS} steps together"
            ),
            found: "too much to look at".to_owned(),
        }
    }
}

/// One node of a compiled filter.
#[derive(Clone, Debug)]
enum Clause {
    /// All of them; of none, yes. Written as an object or as `$and`.
    All(Vec<Clause>),
    /// At least one of them.
    Any(Origin, Vec<Clause>),
    /// `$not`; also `$ne` and `$nin`, which are negations.
    Not(Origin, Box<Clause>),
    /// What is at the field, if anything is, passes the test.
    Holds(Origin, Field, Test),
    /// Something is at the field, or nothing is.
    Exists(Origin, Field, bool),
}

/// Where a clause was written and how it reads, for refusals.
#[derive(Clone, Debug)]
struct Origin {
    at: String,
    text: String,
}

/// Where in the data to look: at the first of these paths that has a value,
/// null not counting as one. All but the short forms have a single path.
#[derive(Clone, Debug)]
struct Field {
    paths: Vec<Path>,
}

impl Field {
    fn name(&self) -> String {
        let names: Vec<_> = self.paths.iter().map(|path| path.text.as_str()).collect();
        names.join("|")
    }
}

#[derive(Clone, Debug)]
struct Path {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
struct Segment {
    key: String,
    /// The same as a place in an array, if it can be one.
    index: Option<usize>,
}

/// The values of an `$in`: most of them found by their hash, so that an array
/// costs as much as it is long, however many values there are.
#[derive(Clone, Debug, Default)]
struct Listed {
    texts: HashSet<String>,
    /// Of those, in bytes: what has another length needn't be hashed.
    lengths: HashSet<usize>,
    numbers: HashSet<number::Key>,
    /// Compared one by one.
    others: Vec<Value>,
}

#[derive(Clone, Debug)]
enum Test {
    Equals(Value),
    OneOf(Listed),
    Compares(Relation, Operand),
    StartsWith(String),
    EndsWith(String),
}

#[derive(Clone, Copy, Debug)]
enum Relation {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What has an order.
#[derive(Clone, Debug)]
enum Operand {
    Number(Number),
    Text(String),
}
