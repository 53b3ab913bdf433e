//! Brings the document into a form that code generators understand.
//!
//! What utoipa writes is right, but generators read some of it badly: members in parts
//! (`allOf`), variants without a name, objects that say nothing of their members. The
//! functions here write the same in the form that generators for Python, TypeScript, Go
//! and Java agree on. `make clients-test` runs them.
//!
//! Input: the document as JSON, complete but for its examples. Output: the same document.

mod inputs;
mod parts;
mod texts;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use inputs::name_inputs;
use parts::flatten;
use texts::plain_texts_or_null;
use tree::{SCHEMAS, alternatives, walk};

/// Rewrites the whole document.
pub(super) fn rewrite(document: &mut Value) {
    optional_bodies(document);
    one_answer_each(document);
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        flatten(schemas);
        name_variants(schemas);
        one_name_each(schemas);
        for schema in schemas.values_mut() {
            walk(schema, &mut without_default);
        }
    }
    walk(document, &mut plain);
    share_parameters(document);
    plain_texts_or_null(document);
    drop_unused(document);
    name_inputs(document);
}

/// A body that may be left out is `required: false`, not `null`.
fn optional_bodies(document: &mut Value) {
    for operation in super::operations::operations_mut(document) {
        let Some(body) = operation.get_mut("requestBody") else {
            continue;
        };
        let schema = &mut body["content"]["application/json"]["schema"];
        let given = alternatives(schema);
        let is_optional = given.len() == 2 && given[1]["type"] == "null";
        if is_optional {
            *schema = given[0].clone();
        }
        body["required"] = (!is_optional).into();
    }
}

/// An operation that answers different things by status, such as a dry run, has one type for
/// all of them: some generators know only the first.
fn one_answer_each(document: &mut Value) {
    let mut answers = Map::new();
    for operation in super::operations::operations_mut(document) {
        let id = camel(operation["operationId"].as_str().unwrap_or_default());
        let responses = operation["responses"].as_object_mut().into_iter().flatten();
        let succeeded = responses.filter(|(status, _)| status.starts_with('2'));
        let schemas = succeeded
            .filter_map(|(_, response)| response.pointer_mut("/content/application~1json/schema"));
        let mut schemas: Vec<_> = schemas.collect();
        let mut ways: Vec<Value> = Vec::new();
        for schema in &schemas {
            if !ways.contains(schema) {
                ways.push((**schema).clone());
            }
        }
        if ways.len() < 2 {
            continue;
        }
        let name = format!("{id}Answer");
        for schema in &mut schemas {
            **schema = json!({ "$ref": format!("{SCHEMAS}{name}") });
        }
        let description = "What was made, or what a dry run found.";
        answers.insert(name, json!({ "description": description, "oneOf": ways }));
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.append(&mut answers);
    }
}

/// Gives the variants of a tagged union names of their own, and the union a discriminator.
fn name_variants(schemas: &mut Map<String, Value>) {
    let mut named = Map::new();
    for (name, schema) in schemas.iter_mut() {
        let variants = alternatives(schema);
        let Some(tag) = tag_of(&variants) else {
            continue;
        };
        let (mut references, mut mapping) = (Vec::new(), Map::new());
        for variant in variants {
            let value = variant["properties"][&tag]["enum"][0]
                .as_str()
                .unwrap_or_default();
            let own_name = format!("{name}{}", camel(value));
            let reference = format!("{SCHEMAS}{own_name}");
            mapping.insert(value.to_owned(), reference.clone().into());
            references.push(json!({ "$ref": reference }));
            named.insert(own_name, variant);
        }
        schema["oneOf"] = references.into();
        schema["discriminator"] = json!({ "propertyName": tag, "mapping": mapping });
    }
    schemas.append(&mut named);
}

/// The member that has one value in each variant, and another one in each.
fn tag_of(variants: &[Value]) -> Option<String> {
    let value = |variant: &Value, name: &str| {
        let values = variant["properties"][name]["enum"].as_array()?;
        (values.len() == 1).then(|| values[0].to_string())
    };
    let names = variants.first()?["properties"].as_object()?.keys();
    names
        .filter(|name| {
            let values: BTreeSet<_> = variants.iter().filter_map(|it| value(it, name)).collect();
            values.len() == variants.len()
        })
        .map(String::to_owned)
        .next()
}

/// Leaves out members that differ from another in case alone (`createdAt`): they are one
/// name in Go and Java. Answers have them all the same.
fn one_name_each(schemas: &mut Map<String, Value>) {
    for schema in schemas.values_mut() {
        let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
            continue;
        };
        let twice: Vec<(String, String)> = properties
            .keys()
            .filter(|name| !name.contains('_') && name.contains(|c: char| c.is_ascii_uppercase()))
            .map(|name| (snake(name), name.clone()))
            .filter(|(snake, _)| properties.contains_key(snake))
            .collect();
        let mut left_out = Vec::new();
        for (name, other) in twice {
            properties.remove(&other);
            add_to_description(&mut properties[&name], &format!("Also shown as `{other}`."));
            left_out.push(other);
        }
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| !left_out.iter().any(|other| name == other));
        }
    }
}

/// Takes members out of all examples whose other name (`created_at`) is there, too: no schema has
/// both, see [`one_name_each`].
pub(super) fn one_name_in_examples(document: &mut Value) {
    walk(document, &mut |it| {
        if let Some(example) = it.get_mut("example") {
            without_twins(example);
        }
    });
}

fn without_twins(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let names: BTreeSet<String> = members.keys().cloned().collect();
            members.retain(|name, _| {
                let other = snake(name);
                other == *name || !names.contains(&other)
            });
            members.values_mut().for_each(without_twins);
        }
        Value::Array(items) => items.iter_mut().for_each(without_twins),
        _ => {}
    }
}

/// Adds a sentence to what a schema says of itself.
pub(super) fn add_to_description(schema: &mut Value, sentence: &str) {
    let own = schema["description"].as_str().unwrap_or_default();
    schema["description"] = format!("{own} {sentence}").trim().into();
}

/// TypeScript's generators take a member with a default for one that is always there.
fn without_default(schema: &mut Map<String, Value>) {
    if schema.get("type").is_some_and(|kind| !kind.is_object())
        && let Some(default) = schema.remove("default")
    {
        let own = schema
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let text = format!("{own} Default: {default}.");
        schema.insert("description".to_owned(), text.trim().into());
    }
}

/// Small rewritings that hold everywhere.
fn plain(schema: &mut Map<String, Value>) {
    // A tuple of equal parts is a list of that length: Python's generator knows no tuples.
    if let Some(Value::Array(parts)) = schema.remove("prefixItems") {
        schema.insert("minItems".to_owned(), parts.len().into());
        schema.insert("maxItems".to_owned(), parts.len().into());
        schema.insert(
            "items".to_owned(),
            parts.into_iter().next().unwrap_or_default(),
        );
    }
    // Names of members are strings: there is nothing to say about that.
    schema.remove("propertyNames");
    let is_free = |members: &Value| members.as_object().is_some_and(Map::is_empty);
    if schema.get("additionalProperties").is_some_and(is_free) {
        schema.insert("additionalProperties".to_owned(), true.into());
    }
    // An object of unknown members would become one without any.
    let kind = schema.get("type");
    let is_object = kind.is_some_and(|kind| *kind == "object" || kind[0] == "object");
    let says_nothing = !["properties", "additionalProperties"]
        .iter()
        .any(|member| schema.contains_key(*member));
    if is_object && says_nothing {
        schema.insert("additionalProperties".to_owned(), true.into());
    }
    without_commas(schema);
    hoist_description(schema);
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = unwrapped(text);
    }
}

/// `^[a-z]{1,63}$` is `^[a-z]+$` where the schema has a `maxLength`: Go's generator writes patterns
/// into tags, and a comma ends them there.
fn without_commas(schema: &mut Map<String, Value>) {
    let Some(most) = schema.get("maxLength").and_then(Value::as_u64) else {
        return;
    };
    if let Some(Value::String(pattern)) = schema.get_mut("pattern") {
        let rest = most.saturating_sub(1);
        *pattern = pattern
            .replace(&format!("{{1,{most}}}"), "+")
            .replace(&format!("{{0,{rest}}}"), "*");
    }
}

/// `oneOf: [{$ref, description}, null]`: the description belongs to the member.
pub(super) fn hoist_description(schema: &mut Map<String, Value>) {
    let Some(Value::Array(ways)) = schema.get_mut("oneOf") else {
        return;
    };
    if ways.len() != 2 || ways[1]["type"] != "null" {
        return;
    }
    let description = ways[0]
        .as_object_mut()
        .and_then(|way| way.remove("description"));
    if let Some(description) = description {
        schema.entry("description").or_insert(description);
    }
}

/// A text without the line breaks of our source files. Paragraphs stay.
fn unwrapped(text: &str) -> String {
    let paragraphs = text
        .split("\n\n")
        .map(|paragraph| paragraph.replace('\n', " "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// Parameters that several operations have become components.
fn share_parameters(document: &mut Value) {
    let mut times = BTreeMap::<String, usize>::new();
    for operation in super::operations::operations_mut(document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            *times.entry(parameter.to_string()).or_default() += 1;
        }
    }
    let mut shared = Map::new();
    for operation in super::operations::operations_mut(document) {
        let parameters = operation.get_mut("parameters");
        for parameter in parameters
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if times[&parameter.to_string()] > 1 {
                let name = share(&mut shared, parameter);
                *parameter = json!({ "$ref": format!("#/components/parameters/{name}") });
            }
        }
    }
    document["components"]["parameters"] = shared.into();
}

/// Puts a parameter among the shared ones. Answers the name that it has there.
fn share(shared: &mut Map<String, Value>, parameter: &Value) -> String {
    let own = camel(parameter["name"].as_str().unwrap_or_default());
    let kind = parameter["schema"]["$ref"]
        .as_str()
        .and_then(|name| name.strip_prefix(SCHEMAS));
    let first = match kind {
        Some(kind) if parameter["in"] == "path" => format!("{kind}InPath"),
        _ => own.clone(),
    };
    let others = (2..).map(|n| format!("{own}{n}"));
    let mut names = std::iter::once(first).chain(others);
    // The list of names has no end.
    let free = names.find(|name| shared.get(name).is_none_or(|other| other == parameter));
    let name = free.unwrap_or(own);
    shared.insert(name.clone(), parameter.clone());
    name
}

/// Takes schemas away that nothing refers to any more.
fn drop_unused(document: &mut Value) {
    loop {
        let text = document.to_string();
        let Some(schemas) = document["components"]["schemas"].as_object_mut() else {
            return;
        };
        let before = schemas.len();
        schemas.retain(|name, _| text.contains(&format!("\"{SCHEMAS}{name}\"")));
        if schemas.len() == before {
            return;
        }
    }
}

/// `not_listening` and `X-Tenant-ID` as parts of names: `NotListening`, `XTenantID`.
pub(super) fn camel(name: &str) -> String {
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    let parts = parts.filter_map(|part| {
        let first = part.chars().next()?.to_ascii_uppercase();
        Some(format!("{first}{}", &part[1..]))
    });
    parts.collect()
}

/// `createdAt` as `created_at`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests;
