//! Texts that may be `null` have no pattern in answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::tree::{SCHEMAS, walk};

/// In answers, a text with a pattern or `null` is a text or `null`, without the pattern. Go's client
/// checks patterns of alternatives, and what it checks with knows no text that may be `null`.
pub(super) fn plain_texts_or_null(document: &mut Value) {
    let of_requests = in_requests(document);
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else {
        return;
    };
    let with_pattern = schemas.iter().filter(|(_, it)| it["pattern"].is_string());
    let texts: BTreeSet<String> = with_pattern
        .map(|(name, _)| format!("{SCHEMAS}{name}"))
        .collect();
    for (name, schema) in schemas.iter_mut() {
        if of_requests.contains(&format!("{SCHEMAS}{name}")) {
            continue;
        }
        walk(schema, &mut |it| {
            let ways = it.get("oneOf").and_then(Value::as_array);
            let is_text = ways.is_some_and(|ways| {
                let named = |way: &Value| way["$ref"].as_str().is_some_and(|it| texts.contains(it));
                ways.len() == 2 && ways[1]["type"] == "null" && named(&ways[0])
            });
            if is_text {
                it.remove("oneOf");
                it.insert("type".to_owned(), json!(["string", "null"]));
            }
        });
    }
}

/// References to the schemas that requests are made of.
fn in_requests(document: &mut Value) -> BTreeSet<String> {
    let mut left = vec![document["components"]["parameters"].clone()];
    for operation in super::super::operations::operations_mut(document) {
        left.push(operation["parameters"].clone());
        left.push(operation["requestBody"].clone());
    }
    let mut found = BTreeSet::new();
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => {
                if let Some(path) = text.strip_prefix('#').filter(|_| text.starts_with(SCHEMAS))
                    && let Some(schema) = document.pointer(path)
                    && found.insert(text.clone())
                {
                    left.push(schema.clone());
                }
            }
            Value::Array(items) => left.extend(items),
            Value::Object(members) => left.extend(members.into_iter().map(|(_, member)| member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}
