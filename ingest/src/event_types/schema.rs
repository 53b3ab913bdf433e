//! JSON Schemas of event types: what one may be, and whether data conforms.
//!
//! A schema comes from a tenant, and every event of its type is checked against
//! it while other tenants' events wait. So it is weighed before it is compiled:
//! references point into the schema itself and never back to where they are
//! used, and with all of them followed it stays under a bound. What an event
//! costs is then at most its values times that weight, which has a bound too.
//!
//! Nothing is ever fetched: neither by network nor from files. Patterns are
//! regular expressions without look-around, so they run in linear time.
//!
//! Dialects: 2020-12 unless `$schema` says 2019-09 or draft 7, 6 or 4. `format`
//! is checked where it is known.

use std::fmt;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// The largest schema, in bytes of JSON.
pub const MAX_SCHEMA: usize = 32 * 1024;
/// The deepest that a schema may nest, references followed.
pub const MAX_DEPTH: usize = 64;
/// How many values a schema may consist of, references followed.
pub const MAX_WEIGHT: usize = 5_000;
/// How many values of an event times values of its schema are checked.
pub const MAX_CHECKS: usize = 20_000_000;
/// How much of a text is taken to cost as much as a value, in bytes.
const BYTES_A_CHECK: usize = 16;
/// The most memory that one compiled pattern may take, in bytes.
const MAX_PATTERN: usize = 64 * 1024;
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
    validator: Validator,
    weight: usize,
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
        let weight = Scale::weigh(&schema)?;
        let patterns = PatternOptions::regex()
            .size_limit(MAX_PATTERN)
            .dfa_size_limit(MAX_PATTERN);
        let validator = jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|error| SchemaError {
                at: error.instance_path().to_string(),
                reason: shorten(&error.to_string()),
            })?;
        Ok(Self { validator, weight })
    }

    /// Whether an event's data, JSON text, is what the schema says.
    ///
    /// # Errors
    /// Says where it first isn't.
    pub fn check(&self, data: &str) -> Result<(), Violation> {
        let violation = |at: String, reason: String| Violation { at, reason };
        // A pattern reads every character of a text, so a text costs its length.
        let cost = values(data).max(data.len() / BYTES_A_CHECK);
        if cost.saturating_mul(self.weight) > MAX_CHECKS {
            let reason = format!(
                "it has too many values to be checked: at most {} with this schema",
                MAX_CHECKS / self.weight
            );
            return Err(violation(String::new(), reason));
        }
        // Text that passed as JSON can fail here: a number like 1e999.
        let data: Value = serde_json::from_str(data)
            .map_err(|error| violation(String::new(), format!("it cannot be read: {error}")))?;
        self.validator.validate(&data).map_err(|error| {
            let reason = shorten(&error.masked_with("it").to_string());
            violation(shorten(&error.instance_path().to_string()), reason)
        })
    }
}

fn shorten(words: &str) -> String {
    match words.char_indices().nth(MAX_WORDS) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words.to_owned(),
    }
}

/// About how many values JSON text has, without building any.
fn values(json: &str) -> usize {
    1 + json
        .bytes()
        .filter(|byte| matches!(byte, b',' | b'[' | b'{'))
        .count()
}

/// Walks a schema as validating does: through its references.
struct Scale<'s> {
    root: &'s Value,
    /// From the root to where it stands, each reference's target included.
    open: Vec<&'s Value>,
    weight: usize,
}

impl<'s> Scale<'s> {
    fn weigh(root: &'s Value) -> Result<usize, SchemaError> {
        let mut scale = Self {
            root,
            open: Vec::new(),
            weight: 0,
        };
        scale.schema(root, &mut String::new())?;
        scale.bounded()?;
        Ok(scale.weight)
    }

    fn bounded(&self) -> Result<(), SchemaError> {
        if self.weight <= MAX_WEIGHT {
            return Ok(());
        }
        Err(SchemaError {
            at: String::new(),
            reason: format!("has more than {MAX_WEIGHT} values, its references followed"),
        })
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
                        (named, Value::Object(schemas)) if NAMED.contains(&named) => {
                            self.weight += 1;
                            for (key, schema) in schemas {
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
            let violation = schema.check(data).unwrap_err();
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
        assert_eq!(schema.check(r#"{"b": "2"}"#).unwrap_err().at, "/b");
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

    #[test]
    fn an_event_too_large_for_its_schema_is_said_to_be() {
        let names: Vec<_> = (0..400).map(|n| format!("n{n}")).collect();
        let schema = read(&json!({"items": {"enum": names}})).unwrap();
        let few = json!(vec!["n1"; 100]).to_string();
        assert_eq!(schema.check(&few), Ok(()));
        let many = json!(vec!["n1"; 60_000]).to_string();
        let said = schema.check(&many).unwrap_err().to_string();
        assert!(said.contains("too many values"), "{said}");
    }
}
