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

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use jsonschema::Validator;
use serde_json::Value;

use super::counted::{BYTES_A_STEP, Costs, Counted, Exhausted, Seen, within};
use super::patterns::{self, MAX_PATTERN, MultipleOf, Pattern, Patterns, steps_a_byte};

/// The largest schema, in bytes of JSON.
pub const MAX_SCHEMA: usize = 32 * 1024;
/// The deepest that a schema may nest, references followed.
pub const MAX_DEPTH: usize = 64;
/// How many values a schema may consist of, references followed.
pub const MAX_WEIGHT: usize = 5_000;
/// How many patterns a schema may have, equal ones counted once: they are compiled once.
pub const MAX_PATTERNS: usize = 200;
/// What they may compile to together, in bytes.
pub const MAX_COMPILED: usize = 1024 * 1024;
/// How many bytes the paths of a schema's parts may have together, references followed:
/// every part knows its own.
pub const MAX_PATHS: usize = 4 * 1024 * 1024;
/// How many steps it may take to check an event: looks at a value or at four
/// bytes of text. Measured with 5 to 40 ns a step, 10 to 80 ms.
pub const MAX_STEPS: u64 = 2_000_000;
/// How many steps it may take to find the words for what isn't right.
const MAX_WORD_STEPS: u64 = 500_000;
/// What an error of the validator's takes, in bytes, besides its two paths.
const BYTES_AN_ERROR: usize = 1_024;
/// About what the validator keeps for a value of a schema, in bytes, besides its path.
const BYTES_A_VALUE: usize = 512;
/// The sets of states that the engine makes of a pattern.
const SETS_A_PATTERN: usize = 3;
/// A check of at most so many steps, of data of so many bytes, takes a fraction of
/// a millisecond.
const QUICK_STEPS: u64 = 20_000;
const QUICK_DATA: usize = 32 * 1024;
/// How much of the validator's words is repeated, in characters.
const MAX_WORDS: usize = 300;

/// Keywords whose members are schemas by names of the tenant's own.
const NAMED: [&str; 5] = [
    "properties",
    "patternProperties",
    "dependentSchemas",
    "$defs",
    "definitions",
];
/// Keywords whose values are data, not schemas.
const DATA: [&str; 5] = ["const", "enum", "default", "examples", "example"];

/// A schema that can be used.
pub struct Schema {
    validator: Validator<Counted>,
    /// The longest path to a part of it, in bytes.
    longest_path: usize,
    /// What a byte of a member's name costs, for `patternProperties`.
    name_byte: u64,
    memory: usize,
}

/// Why some JSON is no schema that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema{}{at}: {reason}", if at.is_empty() { "" } else { " at " })]
pub struct SchemaError {
    /// Where in the schema, as a JSON Pointer; empty for the schema itself.
    pub at: String,
    /// What is wrong there.
    pub reason: String,
}

/// Where data isn't what its schema says. Repeats no value of the data.
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

/// Why data can't be taken for what its schema says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It isn't.
    #[error("{0}")]
    Violation(Violation),
    /// Nobody knows: the check was abandoned.
    #[error("is too costly to check: it takes more than {MAX_STEPS} steps")]
    TooCostly,
}

/// What a budget was too small for.
enum Unfinished {
    YesOrNo,
    Words,
}

impl Schema {
    /// From its text.
    ///
    /// # Errors
    /// Says where it is none, or over a bound.
    pub fn read(text: &str) -> Result<Self, SchemaError> {
        let error = |reason: String| SchemaError {
            at: String::new(),
            reason,
        };
        if text.len() > MAX_SCHEMA {
            return Err(error(format!("must be at most {MAX_SCHEMA} bytes of JSON")));
        }
        let schema: Value = serde_json::from_str(text).map_err(|e| error(e.to_string()))?;
        if !schema.is_object() {
            return Err(error("must be an object".to_owned()));
        }
        let scale = Scale::weigh(&schema)?;
        let names = scale.patterns.keys().filter(|(_, of_names)| *of_names);
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
            // Drafts 4 to 7 parse text that says that it is JSON: that has no budget.
            .without_content_media_type_support("application/json")
            .build(&schema)
            .map_err(|error| SchemaError {
                at: match error.instance_path().as_str() {
                    // A keyword of our own doesn't know its place.
                    "" => scale.place_of_bad_pattern(),
                    at => at.to_owned(),
                },
                reason: shorten(&error.to_string()),
            })?;
        Ok(Self {
            validator,
            longest_path: scale.longest_path,
            name_byte,
            memory: text.len() + scale.memory(),
        })
    }

    /// About how much memory it takes, in bytes: rather too much than too little.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Whether an event's data, JSON text, is what the schema says.
    ///
    /// # Errors
    /// Says where it first isn't, or that nobody can tell.
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

    /// The same answer, if that takes a fraction of a millisecond.
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
                let (at, reason) = (String::new(), format!("it cannot be read: {error}"));
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
            // Not reached: what isn't valid has an error.
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

/// Walks a schema as validating does: through its references.
struct Scale<'s> {
    root: &'s Value,
    /// From the root to where it stands, each reference's target included.
    open: Vec<&'s Value>,
    weight: usize,
    longest_path: usize,
    /// The bytes of all paths.
    paths: usize,
    /// Each, and whether members' names are meant, with a place where it is.
    patterns: HashMap<(&'s str, bool), String>,
    /// What those compile to, in bytes.
    compiled: usize,
}

impl<'s> Scale<'s> {
    fn weigh(root: &'s Value) -> Result<Self, SchemaError> {
        let mut scale = Self {
            root,
            open: Vec::new(),
            weight: 0,
            longest_path: 0,
            paths: 0,
            patterns: HashMap::new(),
            compiled: 0,
        };
        scale.schema(root, &mut String::new())?;
        scale.bounded()?;
        Ok(scale)
    }

    fn pattern(&mut self, pattern: &'s str, of_names: bool, at: &str) -> Result<(), SchemaError> {
        let Entry::Vacant(new) = self.patterns.entry((pattern, of_names)) else {
            return Ok(());
        };
        new.insert(at.to_owned());
        // One that is none, or too large by itself, is refused by the validator.
        self.compiled += patterns::compiled_size(pattern).unwrap_or(0);
        let refuse = |reason| {
            Err(SchemaError {
                at: at.to_owned(),
                reason,
            })
        };
        if self.patterns.len() > MAX_PATTERNS {
            return refuse(format!("has more than {MAX_PATTERNS} different patterns"));
        }
        if self.compiled > MAX_COMPILED {
            return refuse(format!(
                "has patterns that compile to more than {MAX_COMPILED} bytes together"
            ));
        }
        Ok(())
    }

    fn memory(&self) -> usize {
        // The engine's automata grow as texts are read.
        let automata = self.patterns.len() * MAX_PATTERN;
        self.weight * BYTES_A_VALUE + self.paths + self.compiled * SETS_A_PATTERN + automata
    }

    fn place_of_bad_pattern(&self) -> String {
        let mut patterns = self.patterns.iter();
        let bad = patterns.find(|((pattern, _), _)| Pattern::new(&Value::from(*pattern)).is_err());
        bad.map(|(_, at)| at.clone()).unwrap_or_default()
    }

    fn bounded(&self) -> Result<(), SchemaError> {
        let reason = if self.weight > MAX_WEIGHT {
            format!("has more than {MAX_WEIGHT} values, its references followed")
        } else if self.paths > MAX_PATHS {
            format!("has paths of more than {MAX_PATHS} bytes together, its references followed")
        } else {
            return Ok(());
        };
        let at = String::new();
        Err(SchemaError { at, reason })
    }

    /// A schema, or anything in the place of one: a list of them, a number.
    fn schema(&mut self, value: &'s Value, at: &mut String) -> Result<(), SchemaError> {
        let refuse = |at: &str, reason: String| {
            Err(SchemaError {
                at: at.to_owned(),
                reason,
            })
        };
        self.weight += 1;
        self.bounded()?;
        if self.open.len() >= MAX_DEPTH {
            let reason =
                format!("is nested more than {MAX_DEPTH} levels deep, references followed");
            return refuse(at, reason);
        }
        if self.open.iter().any(|open| std::ptr::eq(*open, value)) {
            return refuse(
                at,
                "refers back to itself, which is not supported".to_owned(),
            );
        }
        self.open.push(value);
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.below(item, at, &index.to_string(), Self::schema)?;
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    match (name.as_str(), member) {
                        ("$ref", Value::String(reference)) => {
                            self.below(member, at, name, |scale, _, at| {
                                scale.reference(reference, at)
                            })?;
                        }
                        ("$dynamicRef" | "$recursiveRef" | "$anchor" | "$dynamicAnchor", _) => {
                            let reason = format!("`{name}` is not supported: use `$ref`");
                            return refuse(at, reason);
                        }
                        ("$id" | "id", Value::String(_)) if self.open.len() > 1 => {
                            let reason = format!("`{name}` is only supported at the top");
                            return refuse(at, reason);
                        }
                        ("pattern", Value::String(pattern)) => {
                            self.weight += 1;
                            self.pattern(pattern, false, &format!("{at}/pattern"))?;
                        }
                        (named, Value::Object(schemas)) if NAMED.contains(&named) => {
                            self.weight += 1;
                            for (key, schema) in schemas {
                                if named == "patternProperties" {
                                    self.pattern(key, true, at)?;
                                }
                                let place = format!("{name}/{}", escaped(key));
                                self.below(schema, at, &place, Self::schema)?;
                            }
                        }
                        (data, _) if DATA.contains(&data) => self.weight += entries(member),
                        _ => self.below(member, at, &escaped(name), Self::schema)?,
                    }
                }
            }
            _ => {}
        }
        self.open.pop();
        Ok(())
    }

    fn reference(&mut self, reference: &str, at: &mut String) -> Result<(), SchemaError> {
        let error = |reason: &str| SchemaError {
            at: at.clone(),
            reason: reason.to_owned(),
        };
        let pointer = reference
            .strip_prefix('#')
            .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
            .ok_or_else(|| {
                error("must point into this schema, as `#/$defs/…` does: nothing is fetched")
            })?;
        let target = self
            .root
            .pointer(pointer)
            .ok_or_else(|| error("points to nothing"))?;
        self.schema(target, at)
    }

    /// Looks at what is at `place` below.
    fn below(
        &mut self,
        value: &'s Value,
        at: &mut String,
        place: &str,
        look: impl FnOnce(&mut Self, &'s Value, &mut String) -> Result<(), SchemaError>,
    ) -> Result<(), SchemaError> {
        let end = at.len();
        at.push('/');
        at.push_str(place);
        self.longest_path = self.longest_path.max(at.len());
        self.paths += at.len();
        look(self, value, at)?;
        at.truncate(end);
        Ok(())
    }
}

fn entries(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(entries).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(entries).sum::<usize>(),
        _ => 1,
    }
}

/// A member's name in a JSON Pointer (RFC 6901).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(schema: &Value) -> Result<Schema, SchemaError> {
        Schema::read(&schema.to_string())
    }

    fn violation(schema: &Schema, data: &str) -> Violation {
        match schema.check(data) {
            Err(Flaw::Violation(violation)) => violation,
            other => panic!("{data}: {other:?}"),
        }
    }

    fn refused(schema: &Value) -> (String, String) {
        match read(schema) {
            Ok(_) => panic!("{schema} was taken"),
            Err(error) => (error.at, error.reason),
        }
    }

    #[test]
    fn a_violation_says_where_and_repeats_no_value() {
        let schema = read(&json!({
            "type": "object", "required": ["total"],
            "properties": {"total": {"type": "number", "minimum": 0}, "mail": {"format": "email"}},
        }))
        .unwrap();
        assert_eq!(schema.check(r#"{"total": 1}"#), Ok(()));
        for (data, at, words) in [
            (r#"{"total": "hunter2"}"#, "/total", "number"),
            (r#"{"total": -7}"#, "/total", "minimum"),
            (r#"{"total": 1, "mail": "hunter2"}"#, "/mail", "email"),
            ("{}", "", "total"),
            ("[1e999]", "", "cannot be read"),
        ] {
            let violation = violation(&schema, data);
            assert_eq!(violation.at, at, "{data}");
            let said = violation.to_string();
            assert!(said.contains(words), "{said} lacks {words}");
            assert!(!said.contains("hunter2") && !said.contains("-7"), "{said}");
        }
    }

    #[test]
    fn a_bad_schema_is_refused_by_its_place() {
        for (schema, at) in [
            (json!({"type": "nonsense"}), "/type"),
            (
                json!({"properties": {"a": {"minimum": "1"}}}),
                "/properties/a/minimum",
            ),
            (
                json!({"properties": {"a/b": {"$ref": "#/$defs/no"}}}),
                "/properties/a~1b/$ref",
            ),
            (json!({"pattern": "(?=x)"}), "/pattern"),
            (json!({"items": {"$dynamicRef": "#x"}}), "/items"),
            (json!({"items": {"$id": "https://example.com/x"}}), "/items"),
            (json!([]), ""),
        ] {
            assert_eq!(refused(&schema).0, at, "{schema}: {:?}", refused(&schema));
        }
        assert!(
            refused(&json!({"$schema": "https://example.com/mine"}))
                .1
                .len()
                > 5
        );
    }

    #[test]
    fn nothing_is_fetched() {
        for reference in [
            "https://example.com/x.json",
            "file:///etc/passwd",
            "other.json",
            "#anchor",
            "http://127.0.0.1:1/#/a",
        ] {
            let schema = json!({"$id": "https://example.com/", "items": {"$ref": reference}});
            let (at, reason) = refused(&schema);
            assert_eq!(at, "/items/$ref", "{reference}");
            assert!(reason.contains("nothing is fetched"), "{reason}");
        }
        // Where it is data, or a property's name, it is no reference.
        let schema = json!({"const": {"$ref": "https://example.com"}, "properties": {"$ref": {"type": "string"}}});
        assert!(read(&schema).is_ok());
    }

    #[test]
    fn references_within_are_followed() {
        let schema = read(&json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"money": {"type": "number"}},
            "properties": {"a": {"$ref": "#/definitions/money"}, "b": {"$ref": "#/definitions/money"}},
        }))
        .unwrap();
        assert!(schema.check(r#"{"a": 1, "b": 2}"#).is_ok());
        assert_eq!(violation(&schema, r#"{"b": "2"}"#).at, "/b");
    }

    #[test]
    fn a_schema_that_would_never_end_is_refused() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"properties": {"child": {"$ref": "#"}}}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
        ] {
            assert!(refused(&schema).1.contains("refers back"), "{schema}");
        }
    }

    #[test]
    fn a_schema_that_explodes_is_refused() {
        let mut definitions = serde_json::Map::new();
        for n in 0..30 {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            definitions.insert(format!("d{n}"), json!({"allOf": [next, next]}));
        }
        definitions.insert("d30".to_owned(), json!({}));
        let schema = json!({"$defs": definitions, "$ref": "#/$defs/d0"});
        let (_, reason) = refused(&schema);
        assert!(reason.contains("5000") || reason.contains("64"), "{reason}");
        let mut deep = json!({});
        for _ in 0..40 {
            deep = json!({"items": [deep]});
        }
        assert!(refused(&deep).1.contains("64 levels"));
        let large = json!({"description": "x".repeat(MAX_SCHEMA)});
        assert!(refused(&large).1.contains("32768"));
    }

    /// Issue 10: 35,000 numbers, and 70 branches of which each says something else
    /// about every one of them.
    #[test]
    fn words_for_an_event_that_fits_no_branch_are_left_out_before_they_fill_the_memory() {
        let branches: Vec<_> = (0..70)
            .map(
                |n| json!({"items": {"anyOf": [{"enum": [n + 10, "a"]}, {"enum": [n + 10, "b"]}]}}),
            )
            .collect();
        let schema = json!({"anyOf": branches});
        assert!(schema.to_string().len() < 5_000);
        let schema = read(&schema).unwrap();
        let data = json!(vec![1; 35_000]).to_string();
        // No branch takes the first item, so yes or no is quickly said; an error for
        // each item and branch would be 70 times 35,000 times two.
        let violation = violation(&schema, &data);
        assert_eq!(violation.at, "");
        assert!(
            violation.reason.contains("too long to say where"),
            "{violation}"
        );
        // Of one item there are words.
        let said = schema.check("[1]").unwrap_err().to_string();
        assert!(said.contains("anyOf"), "{said}");
    }

    /// What an error costs is what it takes: 1 KiB and its paths, four bytes a step.
    #[test]
    fn an_error_with_a_long_path_costs_more() {
        let nulls = json!({"additionalProperties": {"items": {"type": "null"}}});
        let schema = read(&json!({"anyOf": [nulls, {"type": "string"}]})).unwrap();
        let short = json!({"n": vec![1; 500]}).to_string();
        assert!(violation(&schema, &short).reason.contains("anyOf"));
        let long = json!({"n".repeat(100_000): vec![1; 500]}).to_string();
        assert!(violation(&schema, &long).reason.contains("too long"));
    }

    #[test]
    fn an_event_that_takes_more_steps_than_it_may_is_too_costly() {
        let names: Vec<_> = (0..400).map(|n| json!(n + 7)).chain([json!("x")]).collect();
        let schema = read(&json!({"items": {"enum": names}})).unwrap();
        // The last of 401 values, so each item takes as many steps.
        let items = |many: usize| json!(vec!["x"; many]).to_string();
        assert_eq!(schema.check(&items(1_000)), Ok(()));
        // 6,000 times 401 is more than MAX_STEPS.
        assert_eq!(schema.check(&items(6_000)), Err(Flaw::TooCostly));
    }

    /// Each level asks the one below three times: for itself, and to see what it
    /// has evaluated.
    #[test]
    fn unevaluated_properties_within_each_other_end_within_the_budget() {
        let mut schema =
            json!({"properties": {"a": {"type": "number"}}, "unevaluatedProperties": false});
        for _ in 0..25 {
            schema = json!({"anyOf": [schema], "unevaluatedProperties": {"type": "string"}});
        }
        let schema = read(&schema).unwrap();
        assert_eq!(schema.check(r#"{"a": 1}"#), Err(Flaw::TooCostly));
    }

    #[test]
    fn a_pattern_that_follows_many_alternatives_reads_little_text() {
        let schema = read(&json!({"pattern": "(a|b)*a(a|b){300}c"})).unwrap();
        let text = |bytes: usize| json!("ab".repeat(bytes / 2)).to_string();
        assert!(matches!(
            schema.check(&text(1_000)),
            Err(Flaw::Violation(_))
        ));
        assert_eq!(schema.check(&text(100_000)), Err(Flaw::TooCostly));
        // The same of members' names.
        let schema = read(&json!({"patternProperties": {"(a|b)*a(a|b){300}c": false}})).unwrap();
        let named = json!({"ab".repeat(50_000): 1}).to_string();
        assert_eq!(schema.check(&named), Err(Flaw::TooCostly));
        // An ordinary one reads the largest event.
        let schema = read(&json!({"pattern": r"^\w+$"})).unwrap();
        assert_eq!(schema.check(&text(1024 * 1024 - 2)), Ok(()));
    }

    #[test]
    fn patterns_are_counted() {
        let patterns = |many| (0..many).map(|n| json!({"pattern": format!("a{n}")}));
        let schema = |many| json!({"allOf": patterns(many).collect::<Vec<_>>()});
        assert!(read(&schema(MAX_PATTERNS)).is_ok());
        assert!(
            refused(&schema(MAX_PATTERNS + 1))
                .1
                .contains("200 different patterns")
        );
    }

    #[test]
    fn equal_patterns_are_compiled_once_and_all_together_have_a_bound() {
        // The largest that a schema's text can hold: tens of KiB each if each were compiled.
        let same = json!({"allOf": vec![json!({"pattern": "[^a]{40}"}); 600]});
        assert!(same.to_string().len() < MAX_SCHEMA);
        let begun = std::time::Instant::now();
        let schema = read(&same).unwrap();
        eprintln!("600 equal patterns: {:?}", begun.elapsed());
        assert!(schema.memory() < 2 * 1024 * 1024, "{}", schema.memory());
        assert_eq!(schema.check(&json!("b".repeat(40)).to_string()), Ok(()));
        assert_eq!(violation(&schema, r#""b""#).at, "");
        let large = |n: usize| json!({"pattern": format!("[^a]{{40}}{n}")});
        let different = |many| json!({"allOf": (0..many).map(large).collect::<Vec<_>>()});
        assert!(read(&different(10)).is_ok());
        let (at, reason) = refused(&different(MAX_PATTERNS));
        assert!(
            reason.contains("more than 1048576 bytes together"),
            "{reason}"
        );
        assert!(at.starts_with("/allOf/"), "{at}");
        // Ordinary ones don't come near it.
        let id = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
        let ids = (0..MAX_PATTERNS).map(|n| json!({"pattern": format!("{id}|{n}")}));
        assert!(read(&json!({"allOf": ids.collect::<Vec<_>>()})).is_ok());
    }

    #[test]
    fn a_schema_whose_parts_have_long_paths_is_refused() {
        let parts = json!({"allOf": vec![json!({"type": "string"}); 1_000]});
        let long = json!({"properties": {"n".repeat(10_000): parts}});
        assert!(refused(&long).1.contains("4194304 bytes together"));
    }

    #[test]
    fn items_are_found_the_same_by_worth_and_only_then() {
        let schema = read(&json!({"uniqueItems": true})).unwrap();
        for (items, unique) in [
            ("[1, 1.0]", false),
            ("[0, -0.0]", false),
            ("[9007199254740993, 9007199254740992]", true),
            (r#"[1, "1", true, null, [1], {"a": 1}]"#, true),
            ("[[1, [2]], [[1], 2]]", true),
            (r#"[{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]"#, false),
            (r#"["ab", "a", "b", ["a", "b"], ["ab"]]"#, true),
            ("[1e300, 1e300]", false),
        ] {
            assert_eq!(schema.check(items).is_ok(), unique, "{items}");
        }
    }

    #[test]
    fn numbers_far_from_one_cost_more_to_divide() {
        let far = read(&json!({"items": {"multipleOf": 1e-300}})).unwrap();
        assert_eq!(
            far.check(&json!(vec![1e300; 20_000]).to_string()),
            Err(Flaw::TooCostly)
        );
        let near = read(&json!({"items": {"multipleOf": 0.01}})).unwrap();
        assert_eq!(near.check(&json!(vec![1.25; 20_000]).to_string()), Ok(()));
        assert_eq!(violation(&near, "[1.255]").at, "/0");
        assert_eq!(refused(&json!({"multipleOf": 0})).0, "/multipleOf");
    }

    /// Compiling a producer's text could take milliseconds each.
    #[test]
    fn the_format_regex_is_not_checked() {
        let schema = read(&json!({"format": "regex"})).unwrap();
        assert_eq!(schema.check(r#""(""#), Ok(()));
    }
}
