//! Walks through the document, and tells its schemas from other values.

use serde_json::{Map, Value};

/// Places whose values are data, not schemas.
pub(super) const DATA: [&str; 5] = ["example", "examples", "default", "enum", "mapping"];
pub(super) const SCHEMAS: &str = "#/components/schemas/";

/// Calls `change` on every object of the document, innermost first.
pub(super) fn walk(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                // `properties` may have a member named `example`: that one is a schema.
                if !DATA.contains(&name.as_str()) || is_schema(member) {
                    walk(member, change);
                }
            }
            change(members);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, change)),
        _ => {}
    }
}

pub(super) fn is_schema(value: &Value) -> bool {
    value.get("description").is_some_and(Value::is_string)
        && (value.get("type").is_some()
            || value.get("$ref").is_some()
            || value.as_object().is_some_and(|it| it.len() == 1))
}

pub(super) fn alternatives(schema: &Value) -> Vec<Value> {
    schema["oneOf"].as_array().cloned().unwrap_or_default()
}
