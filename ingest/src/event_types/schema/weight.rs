//! Weighs a schema before it is compiled, and refuses what is over a bound.
//!
//! It walks the schema as the validator will: through its references. So a schema
//! that is short because its references repeat a part many times weighs what the
//! validator would build.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::Value;

use crate::event_types::patterns::{self, MAX_PATTERN, Pattern};

/// The deepest that a schema may nest, references followed.
pub const MAX_DEPTH: usize = 64;
/// The most values of a schema, references followed.
pub const MAX_WEIGHT: usize = 5_000;
/// The most different patterns of a schema. Equal ones are compiled once.
pub const MAX_PATTERNS: usize = 200;
/// The most bytes that the patterns may compile to together.
pub const MAX_COMPILED: usize = 1024 * 1024;
/// The most bytes of the paths of all parts together, references followed: the validator
/// keeps each part's path.
pub const MAX_PATHS: usize = 4 * 1024 * 1024;
/// About how many bytes the validator keeps for a value of a schema, besides its path.
const BYTES_A_VALUE: usize = 512;
/// How many sets of states the engine makes of a pattern.
const SETS_A_PATTERN: usize = 3;
/// Keywords whose members are schemas under names that the tenant chooses.
const NAMED: [&str; 5] = [
    "properties",
    "patternProperties",
    "dependentSchemas",
    "$defs",
    "definitions",
];
/// Keywords whose values are data, not schemas.
const DATA: [&str; 5] = ["const", "enum", "default", "examples", "example"];

/// Why a schema can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema{}{at}: {reason}", if at.is_empty() { "" } else { " at " })]
pub struct SchemaError {
    /// Where in the schema, as a JSON Pointer; empty for the schema itself.
    pub at: String,
    pub reason: String,
}

/// The sums of a walk through a schema and its references.
pub(super) struct Weight<'s> {
    root: &'s Value,
    /// The values from the root to the current one, references' targets included.
    open: Vec<&'s Value>,
    weight: usize,
    pub(super) longest_path: usize,
    /// The bytes of all paths.
    paths: usize,
    /// Each pattern, with whether it is for members' names, and a place where it stands.
    pub(super) patterns: HashMap<(&'s str, bool), String>,
    /// What those compile to, in bytes.
    compiled: usize,
}

impl<'s> Weight<'s> {
    pub(super) fn of_schema(root: &'s Value) -> Result<Self, SchemaError> {
        let mut all = Self {
            root,
            open: Vec::new(),
            weight: 0,
            longest_path: 0,
            paths: 0,
            patterns: HashMap::new(),
            compiled: 0,
        };
        all.schema(root, &mut String::new())?;
        all.bounded()?;
        Ok(all)
    }

    fn pattern(&mut self, pattern: &'s str, of_names: bool, at: &str) -> Result<(), SchemaError> {
        let Entry::Vacant(new) = self.patterns.entry((pattern, of_names)) else {
            return Ok(());
        };
        new.insert(at.to_owned());
        // The validator refuses invalid patterns, and ones that are too large by themselves.
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

    pub(super) fn memory(&self) -> usize {
        // The engine's automata grow as texts are read.
        let automata = self.patterns.len() * MAX_PATTERN;
        self.weight * BYTES_A_VALUE + self.paths + self.compiled * SETS_A_PATTERN + automata
    }

    pub(super) fn place_of_bad_pattern(&self) -> String {
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
                            self.below(member, at, name, |all, _, at| {
                                all.reference(reference, at)
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

    /// Walks on to the value at `place` below.
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
