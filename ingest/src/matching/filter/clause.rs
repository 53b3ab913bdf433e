//! A compiled filter: its clauses, its bounds, and the budget of steps to evaluate it.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Number, Value};
use thiserror::Error;
use utoipa::ToSchema;

use crate::matching::number::NumberKey;

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
pub(super) const HASHED_A_STEP: usize = 32;
/// How many characters of the data a refusal repeats.
pub const MAX_EXCERPT: usize = 100;
/// How many characters of a clause a refusal repeats.
pub const MAX_CLAUSE_TEXT: usize = 200;

/// The steps that are left, see [`MAX_STEPS`].
#[derive(Debug)]
pub struct Budget(u32);

/// A filter took more steps than it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooCostly;

impl Budget {
    /// So many steps.
    pub fn new(steps: u32) -> Self {
        Self(steps)
    }

    /// How many are left.
    pub fn left(&self) -> u32 {
        self.0
    }

    pub(super) fn step(&mut self) -> Result<(), TooCostly> {
        self.steps(1)
    }

    pub(super) fn steps(&mut self, steps: u32) -> Result<(), TooCostly> {
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

/// One clause of a filter that holds, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = HoldingClause)]
pub struct Holding {
    /// Where the clause is in the filter, as a JSON Pointer (RFC 6901).
    #[schema(example = "/total/$gte")]
    pub at: String,
    /// What it demands, at most 200 characters.
    #[schema(example = "total $gte 100")]
    pub clause: String,
    /// What the data has there, at most 100 characters of JSON, or `missing`. Where the
    /// clause looks at several paths: each with its own.
    #[schema(example = "120")]
    pub found: String,
}

/// Which clause of a filter turned an event away, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Refusal {
    /// Where the clause is in the filter, as a JSON Pointer (RFC 6901).
    pub at: String,
    /// What it demands, at most 200 characters: `total $gt 5`.
    pub clause: String,
    /// What the data has there, at most 100 characters of JSON, or
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
pub(super) enum Clause {
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
pub(super) struct Origin {
    pub(super) at: String,
    pub(super) text: String,
}

/// Where in the data to look: at the first of these paths that has a value,
/// null not counting as one. All but the short forms have a single path.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) paths: Vec<Path>,
}

impl Field {
    pub(super) fn name(&self) -> String {
        let names = self.paths.iter().map(|path| path.text.as_str());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        names.join("|")
    }
}

#[derive(Clone, Debug)]
pub(super) struct Path {
    /// Empty for a path that goes without saying.
    pub(super) text: String,
    pub(super) segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Stands for every object in an object, whatever the key.
    pub(super) any: bool,
    pub(super) key: String,
    /// The same as a place in an array, if it can be one.
    pub(super) index: Option<usize>,
}

/// The values of an `$in`: most of them found by their hash, so that an array
/// costs as much as it is long, however many values there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    pub(super) texts: HashSet<String>,
    /// Of those, in bytes: what has another length needn't be hashed.
    pub(super) lengths: HashSet<usize>,
    pub(super) numbers: HashSet<NumberKey>,
    /// Compared one by one.
    pub(super) others: Vec<Value>,
}

#[derive(Clone, Debug)]
pub(super) enum Test {
    Equals(Value),
    OneOf(Listed),
    Compares(Relation, Operand),
    StartsWith(String),
    EndsWith(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Relation {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What has an order.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Number(Number),
    Text(String),
}
