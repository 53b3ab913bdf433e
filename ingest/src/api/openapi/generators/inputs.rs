//! Names the schemas of what clients send to make something.

use serde_json::Value;

use super::tree::SCHEMAS;

/// What is sent to make something is called `WebhookInput`, not `NewWebhook`: in Go `NewWebhook`
/// is the function that makes a `Webhook`.
pub(super) fn name_inputs(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else {
        return;
    };
    let inputs: Vec<(String, String)> = schemas
        .keys()
        .filter_map(|name| Some((name.clone(), input_name(name)?)))
        .collect();
    for (name, input) in &inputs {
        if let Some(schema) = schemas.remove(name) {
            schemas.insert(input.clone(), schema);
        }
    }
    // References are strings, those of a discriminator's mapping too.
    refer(document, &|reference| {
        let name = reference.strip_prefix(SCHEMAS)?;
        Some(format!("{SCHEMAS}{}", input_name(name)?))
    });
}

/// `WebhookInput` for `NewWebhook`.
pub(super) fn input_name(name: &str) -> Option<String> {
    let rest = name.strip_prefix("New")?;
    let is_word = rest.starts_with(|c: char| c.is_ascii_uppercase());
    is_word.then(|| format!("{rest}Input"))
}

/// Replaces strings of the document.
fn refer(value: &mut Value, replaced: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(other) = replaced(text) {
                *text = other;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, replaced)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|member| refer(member, replaced)),
        _ => {}
    }
}
