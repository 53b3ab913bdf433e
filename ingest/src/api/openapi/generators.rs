//! Brings the document into a form that code generators understand.
//!
//! What utoipa writes is right, but generators read some of it badly: members in parts
//! (`allOf`), variants without a name, objects that say nothing of their members. The
//! functions here write the same in the form that generators for Python, TypeScript, Go
//! and Java agree on. `make clients-test` runs them.
//!
//! Input: the document as JSON, complete but for its examples. Output: the same document.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Places whose values are data, not schemas.
const DATA: [&str; 5] = ["example", "examples", "default", "enum", "mapping"];
const SCHEMAS: &str = "#/components/schemas/";

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

/// Calls `change` on every object of the document, innermost first.
fn walk(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
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

fn is_schema(value: &Value) -> bool {
    value.get("description").is_some_and(Value::is_string)
        && (value.get("type").is_some()
            || value.get("$ref").is_some()
            || value.as_object().is_some_and(|it| it.len() == 1))
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

fn alternatives(schema: &Value) -> Vec<Value> {
    schema["oneOf"].as_array().cloned().unwrap_or_default()
}

/// Writes objects that are put together of parts (`allOf`) as one object each.
fn flatten(schemas: &mut Map<String, Value>) {
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

/// In answers, a text with a pattern or `null` is a text or `null`, without the pattern. Go's client
/// checks patterns of alternatives, and what it checks with knows no text that may be `null`.
fn plain_texts_or_null(document: &mut Value) {
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
    for operation in super::operations::operations_mut(document) {
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

/// What is sent to make something is called `WebhookInput`, not `NewWebhook`: in Go `NewWebhook`
/// is the function that makes a `Webhook`.
fn name_inputs(document: &mut Value) {
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
fn input_name(name: &str) -> Option<String> {
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
