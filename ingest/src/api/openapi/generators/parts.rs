//! Writes objects that are put together of parts as one object each.

use serde_json::{Map, Value, json};

use super::tree::{SCHEMAS, alternatives};

/// Writes objects that are put together of parts (`allOf`) as one object each.
pub(super) fn flatten(schemas: &mut Map<String, Value>) {
    let before = schemas.clone();
    for schema in schemas.values_mut() {
        if schema.get("allOf").is_some() {
            *schema = flat(schema, &before);
        }
        let variants = schema.get_mut("oneOf").and_then(Value::as_array_mut);
        for variant in variants.into_iter().flatten() {
            if variant.get("allOf").is_some() {
                *variant = flat(variant, &before);
            }
        }
    }
}

/// One object with the members of all parts. Where a part has variants: one for each.
fn flat(schema: &Value, schemas: &Map<String, Value>) -> Value {
    let mut whole = vec![json!({"type": "object", "properties": {}, "required": []})];
    let mut variants = false;
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let named = part["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix(SCHEMAS));
        let part = flat_part(
            named.and_then(|name| schemas.get(name)).unwrap_or(part),
            schemas,
        );
        let ways = alternatives(&part);
        if ways.is_empty() {
            whole.iter_mut().for_each(|object| merge(object, &part));
            continue;
        }
        variants = true;
        let combined = whole.iter().flat_map(|object| {
            ways.iter().map(move |way| {
                let mut object = object.clone();
                merge(&mut object, &flat_part(way, schemas));
                object["description"] = way["description"].clone();
                object
            })
        });
        let combined: Vec<_> = combined.collect();
        whole = combined;
    }
    let mut flat = if variants {
        json!({ "oneOf": whole })
    } else {
        whole.swap_remove(0)
    };
    if schema["description"].is_string() {
        flat["description"] = schema["description"].clone();
    }
    flat
}

fn flat_part(part: &Value, schemas: &Map<String, Value>) -> Value {
    match part.get("allOf") {
        Some(_) => flat(part, schemas),
        None => part.clone(),
    }
}

fn merge(object: &mut Value, part: &Value) {
    for (name, property) in part["properties"].as_object().into_iter().flatten() {
        object["properties"][name] = property.clone();
    }
    if let (Some(required), Some(more)) = (
        object["required"].as_array_mut(),
        part["required"].as_array(),
    ) {
        required.extend(more.iter().cloned());
    }
}
