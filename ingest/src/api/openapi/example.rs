//! An example value for a JSON Schema: its own example if it has one, else one made from its type.
//!
//! The document's request bodies get their examples from here.

use serde_json::{Map, Value};

/// How deep an example nests objects within objects.
const DEPTH: usize = 4;
static NULL: Value = Value::Null;

/// A schema, and the document that its references point into.
#[derive(Clone, Copy)]
struct Schema<'a> {
    document: &'a Value,
    it: &'a Value,
}

impl<'a> Schema<'a> {
    fn new(document: &'a Value, it: &'a Value) -> Self {
        Self { document, it }
    }

    fn with(self, it: &'a Value) -> Self {
        Self { it, ..self }
    }

    /// What a reference refers to, or the schema itself.
    fn resolved(self) -> &'a Value {
        self.it["$ref"]
            .as_str()
            .and_then(|reference| self.document.pointer(reference.strip_prefix('#')?))
            .unwrap_or(self.it)
    }

    /// The schema's alternatives (`oneOf`, `anyOf`), without `null`.
    fn alternatives(self) -> impl Iterator<Item = Self> {
        let it = self.resolved();
        let any = it["oneOf"].as_array().or_else(|| it["anyOf"].as_array());
        any.into_iter()
            .flatten()
            .filter(|schema| schema["type"] != "null")
            .map(move |schema| self.with(schema))
    }

    fn properties(self) -> Vec<(&'a String, Self)> {
        let it = self.resolved();
        let parts = it["allOf"].as_array().into_iter().flatten();
        let inherited = parts.flat_map(|part| self.with(part).properties());
        let own = it["properties"].as_object().into_iter().flatten();
        let own = own.map(|(name, property)| (name, self.with(property)));
        inherited.chain(own).collect()
    }
}

/// A value that the schema allows.
pub(super) fn example(document: &Value, schema: &Value) -> Value {
    example_of(Schema::new(document, schema), DEPTH)
}

fn example_of(schema: Schema<'_>, depth: usize) -> Value {
    for it in [schema.it, schema.resolved()] {
        let given = [
            &it["example"],
            &it["examples"][0],
            &it["default"],
            &it["enum"][0],
        ];
        if let Some(given) = given.into_iter().find(|given| !given.is_null()) {
            return given.clone();
        }
    }
    if depth == 0 {
        return Value::Null;
    }
    if let Some(first) = schema.alternatives().next() {
        return example_of(first, depth);
    }
    let properties = schema.properties();
    if !properties.is_empty() {
        let shown = properties
            .into_iter()
            .map(|(name, member)| (name.clone(), example_of(member, depth - 1)));
        return shown.collect::<Map<_, _>>().into();
    }
    let it = schema.resolved();
    let kind = match &it["type"] {
        Value::Array(kinds) => kinds.first().unwrap_or(&NULL),
        kind => kind,
    };
    match kind.as_str() {
        Some("string") => "…".into(),
        Some("integer" | "number") => it.get("minimum").cloned().unwrap_or(1.into()),
        Some("boolean") => true.into(),
        Some("array") => vec![example_of(schema.with(&it["items"]), depth - 1)].into(),
        Some("object") => Map::new().into(),
        _ => Value::Null,
    }
}
