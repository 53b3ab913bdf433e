//! JSON Schemas of event types: what one may be, and whether data conforms.
//!
//! A schema comes from a tenant, and every event of its type is checked against
//! it while other tenants' events wait. So everything has a bound:
//!
//! * The schema is weighed before it is compiled: references point into the
//!   schema itself and never back to where they are used, and with all of them
//!   followed it stays under a bound.
//! * A check has a budget of steps ([`counted`](super::counted)). An event that
//!   needs more isn't what can be said to conform: it is too costly to check.
//! * A check asks for yes or no first. Only for a no it looks for the place and
//!   the words, with another budget: the validator builds an error for every
//!   value and every branch of an `anyOf`, which can be gigabytes.
//!
//! Nothing is ever fetched: neither by network nor from files. Patterns are
//! regular expressions without look-around, so they run in linear time; a byte
//! of text costs as many steps as the pattern may take ([`patterns`]).
//!
//! Dialects: 2020-12 unless `$schema` says 2019-09 or draft 7, 6 or 4. `format`
//! is checked where it is known, but for `regex`: compiling a producer's text
//! can take milliseconds. `contentMediaType` is not checked.

mod weight;

use std::fmt;

use jsonschema::Validator;
use serde_json::Value;

use super::counted::{BYTES_A_STEP, Costs, Counted, Exhausted, Seen, within};
use super::patterns::{self, MultipleOf, Patterns, steps_a_byte};
use crate::plain_words::of_json;
use weight::Weight;
pub use weight::{MAX_COMPILED, MAX_DEPTH, MAX_PATHS, MAX_PATTERNS, MAX_WEIGHT, SchemaError};

/// The largest schema, in bytes of JSON.
pub const MAX_SCHEMA: usize = 32 * 1024;
/// The most steps to check an event. A step is a look at a value or at four bytes of text;
/// it was measured as 5 to 40 ns, so a check takes at most 10 to 80 ms.
pub const MAX_STEPS: u64 = 2_000_000;
/// The most steps to find the place and the words of a violation.
const MAX_WORD_STEPS: u64 = 500_000;
/// The bytes of one of the validator's errors, besides its two paths.
const BYTES_AN_ERROR: usize = 1_024;
/// A check of at most so many steps, of at most so many bytes of data, takes a fraction of a
/// millisecond.
const QUICK_STEPS: u64 = 20_000;
const QUICK_DATA: usize = 32 * 1024;
/// The most characters of the validator's message that are repeated.
const MAX_WORDS: usize = 300;

/// A compiled schema.
pub struct Schema {
    validator: Validator<Counted>,
    /// The longest path to a part of it, in bytes.
    longest_path: usize,
    /// What a byte of a member's name costs, for `patternProperties`.
    name_byte: u64,
    memory: usize,
}

/// Where data violates its schema. Repeats no value of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where in the data, as a JSON Pointer; empty for the data itself.
    pub at: String,
    /// What should have been there.
    pub reason: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "at {}: {}", self.at, self.reason)
        }
    }
}

/// Why data doesn't count as conforming to its schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It violates the schema.
    #[error("{0}")]
    Violation(Violation),
    /// The check was abandoned, so nobody knows.
    #[error("is too costly to check: it takes more than {MAX_STEPS} steps")]
    TooCostly,
}

/// The question for which the budget was too small.
enum Unfinished {
    YesOrNo,
    Words,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// Says where it is invalid, or over a bound.
    pub fn read(text: &str) -> Result<Self, SchemaError> {
        let error = |reason: String| SchemaError {
            at: String::new(),
            reason,
        };
        if text.len() > MAX_SCHEMA {
            return Err(error(format!("must be at most {MAX_SCHEMA} bytes of JSON")));
        }
        let schema: Value = serde_json::from_str(text)
            .map_err(|e| error(format!("is not JSON: {}", of_json(&e))))?;
        if !schema.is_object() {
            return Err(error("must be an object".to_owned()));
        }
        let weight = Weight::of_schema(&schema)?;
        let names = weight.patterns.keys().filter(|(_, of_names)| *of_names);
        let name_byte = names.map(|(name, _)| 1 + steps_a_byte(name)).sum();
        let patterns = Patterns::default();
        let validator = jsonschema::options_for::<Counted>()
            .offline()
            .should_validate_formats(true)
            .with_format("regex", |_: &str| true)
            .with_pattern_options(patterns::options())
            .with_keyword("pattern", move |_, pattern, _| {
                Ok(Box::new(patterns.pattern(pattern)?))
            })
            .with_keyword("multipleOf", |_, divisor, _| {
                Ok(Box::new(MultipleOf::new(divisor)?))
            })
            // Drafts 4 to 7 parse text with this media type, without a budget.
            .without_content_media_type_support("application/json")
            .build(&schema)
            .map_err(|error| SchemaError {
                at: match error.instance_path().as_str() {
                    // Our own keywords don't know their place in the schema.
                    "" => weight.place_of_bad_pattern(),
                    at => at.to_owned(),
                },
                reason: shorten(&error.to_string()),
            })?;
        Ok(Self {
            validator,
            longest_path: weight.longest_path,
            name_byte,
            memory: text.len() + weight.memory(),
        })
    }

    /// About how much memory it takes, in bytes, rounded up.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Checks an event's data, JSON text.
    ///
    /// # Errors
    /// The first violation, or that the check is too costly.
    pub fn check(&self, data: &str) -> Result<(), Flaw> {
        match self.check_within(data, MAX_STEPS, MAX_WORD_STEPS) {
            Err(Unfinished::YesOrNo) => Err(Flaw::TooCostly),
            Err(Unfinished::Words) => Err(Flaw::Violation(Violation {
                at: String::new(),
                reason: "it is not valid; it would take too long to say where".to_owned(),
            })),
            Ok(answer) => answer,
        }
    }

    /// The same answer, if it takes a fraction of a millisecond.
    pub fn check_quickly(&self, data: &str) -> Option<Result<(), Flaw>> {
        if data.len() > QUICK_DATA {
            return None;
        }
        self.check_within(data, QUICK_STEPS, QUICK_STEPS).ok()
    }

    fn check_within(
        &self,
        data: &str,
        steps: u64,
        word_steps: u64,
    ) -> Result<Result<(), Flaw>, Unfinished> {
        // Text that passed as JSON can fail here: a number like 1e999.
        let data: Value = match serde_json::from_str(data) {
            Ok(data) => data,
            Err(error) => {
                let (at, reason) = (
                    String::new(),
                    format!("it cannot be read: {}", of_json(&error)),
                );
                return Ok(Err(Flaw::Violation(Violation { at, reason })));
            }
        };
        let mut costs = Costs {
            error: 0,
            name_byte: self.name_byte,
        };
        let valid = within(steps, costs, || self.validator.is_valid(Seen(&data)));
        if valid.map_err(|Exhausted| Unfinished::YesOrNo)? {
            return Ok(Ok(()));
        }
        let bytes = BYTES_AN_ERROR + self.longest_path + longest_path(&data);
        costs.error = (bytes / BYTES_A_STEP) as u64;
        let words = within(word_steps, costs, || self.words(&data));
        match words.map_err(|Exhausted| Unfinished::Words)? {
            Some(violation) => Ok(Err(Flaw::Violation(violation))),
            // Not reached: invalid data has an error.
            None => Err(Unfinished::Words),
        }
    }

    fn words(&self, data: &Value) -> Option<Violation> {
        let error = self.validator.validate(Seen(data)).err()?;
        Some(Violation {
            at: shorten(&error.instance_path().to_string()),
            reason: shorten(&error.masked_with("it").to_string()),
        })
    }
}

fn shorten(words: &str) -> String {
    match words.char_indices().nth(MAX_WORDS) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words.to_owned(),
    }
}

/// The longest JSON Pointer into data, in bytes; each byte of a name may be escaped.
fn longest_path(data: &Value) -> usize {
    let longest = |each: &mut dyn Iterator<Item = usize>| each.max().unwrap_or(0);
    match data {
        Value::Array(items) => 8 + longest(&mut items.iter().map(longest_path)),
        Value::Object(members) => longest(
            &mut members
                .iter()
                .map(|(name, member)| 1 + 2 * name.len() + longest_path(member)),
        ),
        _ => 0,
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests;
