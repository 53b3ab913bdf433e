//! The keywords `pattern` and `multipleOf`, at a cost that is known before they run.
//!
//! A regular expression takes time in proportion to the text, but the factor
//! depends on the expression. Most run as a finite automaton, a few nanoseconds a
//! byte. An automaton with too many states, such as that of `[ab]*a[ab]{100}`, is
//! not kept, and the engine follows all alternatives at once. That was measured as
//! 100 ns a byte and 5 to 13 ns for each position of the expression, and 5 µs for the
//! largest that compile. So a byte costs one step for each position, unless the
//! automaton is certainly small.
//!
//! `multipleOf` costs more for numbers far from one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::{Keyword, PatternOptions, Regex, ValidationError, Validator};
use regex_automata::nfa::thompson::{self, NFA};
use regex_syntax::hir::{Hir, HirKind, Look};
use serde_json::{Value, json};

use super::counted::{Counted, Seen, spend};

/// The most memory that one compiled pattern may take, in bytes.
pub const MAX_PATTERN: usize = 64 * 1024;
/// An automaton of so many positions is kept whole: 2^8 states, 64 KiB.
const FEW_POSITIONS: u64 = 8;
/// What the engine takes for a byte besides, when the automaton isn't kept.
const STEPS_WITHOUT_AUTOMATON: u64 = 10;
/// What an expression costs that isn't understood here: the most that compiles.
const UNKNOWN: u64 = 500;

/// How regular expressions are compiled.
pub fn options() -> PatternOptions<Regex> {
    PatternOptions::regex()
        .size_limit(MAX_PATTERN)
        .dfa_size_limit(MAX_PATTERN)
}

/// The patterns of one schema: equal ones are compiled once.
#[derive(Default)]
pub struct Patterns(Mutex<HashMap<String, Arc<Compiled>>>);

impl Patterns {
    /// From the keyword's value.
    ///
    /// # Errors
    /// If it is no regular expression, or too large a one.
    pub fn pattern(&self, pattern: &Value) -> Result<Pattern, ValidationError<'static>> {
        let Some(text) = pattern.as_str() else {
            return Pattern::new(pattern);
        };
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = compiled.get(text) {
            return Ok(Pattern(known.clone()));
        }
        let new = Pattern::new(pattern)?;
        compiled.insert(text.to_owned(), new.0.clone());
        Ok(new)
    }
}

/// `pattern`, for the validator.
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    validator: Validator<Counted>,
    /// Steps for a byte of text.
    byte: u64,
}

impl Pattern {
    /// From the keyword's value.
    ///
    /// # Errors
    /// If it is no regular expression, or too large a one.
    pub fn new(pattern: &Value) -> Result<Self, ValidationError<'static>> {
        let validator = jsonschema::options_for::<Counted>()
            .offline()
            .with_pattern_options(options())
            .build(&json!({ "pattern": pattern }))?;
        let byte = pattern.as_str().map_or(UNKNOWN, steps_a_byte);
        Ok(Self(Arc::new(Compiled { validator, byte })))
    }

    fn spend(&self, instance: Seen<'_>) {
        let bytes = instance.0.as_str().map_or(0, str::len);
        spend(self.0.byte * bytes as u64);
    }
}

impl<'i> Keyword<'i, Counted> for Pattern {
    fn validate(&self, instance: Seen<'i>) -> Result<(), ValidationError<'i>> {
        self.spend(instance);
        self.0.validator.validate(instance)
    }

    fn is_valid(&self, instance: Seen<'i>) -> bool {
        self.spend(instance);
        self.0.validator.is_valid(instance)
    }
}

/// What a pattern compiles to, in bytes, if that isn't more than a pattern may have:
/// the states that the engine makes of it, of which it has two or three such sets.
pub fn compiled_size(pattern: &str) -> Option<usize> {
    // Found without the engine: `^abc`, `^(a|b)$`.
    if jsonschema_regex::analyze_pattern(pattern).is_some() {
        return Some(pattern.len());
    }
    let expression = jsonschema_regex::to_rust_regex(pattern).ok()?;
    let config = thompson::Config::new().nfa_size_limit(Some(MAX_PATTERN));
    let states = NFA::compiler().configure(config).build(&expression).ok()?;
    Some(states.memory_usage())
}

/// `multipleOf`, for the validator. Numbers far from one are divided as fractions
/// of large integers: measured, 2 µs each.
pub struct MultipleOf {
    validator: Validator<Counted>,
    far: bool,
}

/// What it costs to divide numbers far from one.
const STEPS_OF_FRACTIONS: u64 = 200;

impl MultipleOf {
    /// From the keyword's value.
    ///
    /// # Errors
    /// If it is no number above zero.
    pub fn new(divisor: &Value) -> Result<Self, ValidationError<'static>> {
        let validator = jsonschema::options_for::<Counted>()
            .offline()
            .build(&json!({ "multipleOf": divisor }))?;
        let far = is_far(divisor);
        Ok(Self { validator, far })
    }

    fn spend(&self, instance: Seen<'_>) {
        if instance.0.is_number() && (self.far || is_far(instance.0)) {
            spend(STEPS_OF_FRACTIONS);
        }
    }
}

impl<'i> Keyword<'i, Counted> for MultipleOf {
    fn validate(&self, instance: Seen<'i>) -> Result<(), ValidationError<'i>> {
        self.spend(instance);
        self.validator.validate(instance)
    }

    fn is_valid(&self, instance: Seen<'i>) -> bool {
        self.spend(instance);
        self.validator.is_valid(instance)
    }
}

/// Whether a number is larger than what doubles count exactly, or as small.
fn is_far(number: &Value) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let size = number.as_f64().map_or(0.0, f64::abs);
    size > EXACT || (size > 0.0 && size < 1.0 / EXACT)
}

/// What a byte of text costs with this regular expression, besides looking at it.
pub fn steps_a_byte(pattern: &str) -> u64 {
    let Ok(expression) = regex_syntax::parse(pattern) else {
        return UNKNOWN;
    };
    let properties = expression.properties();
    let anchored = properties.look_set_prefix().contains(Look::Start);
    let one_length = properties.minimum_len() == properties.maximum_len();
    let positions = if anchored && one_length {
        // Nothing but the branches differ in where a byte of the text belongs.
        branches(&expression)
    } else {
        positions(&expression)
    };
    if positions <= FEW_POSITIONS {
        return 0;
    }
    STEPS_WITHOUT_AUTOMATON
        .saturating_add(positions)
        .min(UNKNOWN)
}

/// How many characters an expression has, counted repetitions written out.
fn positions(expression: &Hir) -> u64 {
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(_) => 1,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            positions(&repetition.sub).saturating_mul(times.into())
        }
        HirKind::Capture(capture) => positions(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            let each = parts.iter().map(positions);
            each.fold(0, u64::saturating_add)
        }
    }
}

fn branches(expression: &Hir) -> u64 {
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Literal(_) | HirKind::Class(_) => 1,
        HirKind::Repetition(repetition) => branches(&repetition.sub),
        HirKind::Capture(capture) => branches(&capture.sub),
        HirKind::Concat(parts) => parts.iter().map(branches).max().unwrap_or(1),
        HirKind::Alternation(parts) => parts.iter().map(branches).fold(0, u64::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_costs_more_where_a_pattern_follows_many_alternatives() {
        for cheap in [
            r"^[a-z]+$",
            r"^\w+$",
            r"^SKU-",
            r"^[^@]+@[^@]+\.[a-z]{2,}$",
            r"^\d{4}-\d{2}-\d{2}$",
            "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
            "^(red|green|blue)$",
        ] {
            let cost = steps_a_byte(cheap);
            assert!(cost <= 30, "{cheap}: {cost}");
        }
        for (costly, least) in [
            ("[ab]*a[ab]{100}c", 100),
            ("(a|b)*a(a|b){300}c", 300),
            ("((a?){20}){20}", 400),
            ("(?=x)", UNKNOWN),
        ] {
            let cost = steps_a_byte(costly);
            assert!(cost >= least, "{costly}: {cost}");
        }
    }
}
