//! A schema as a table: its members, what they are, and what they mean.

use maud::{Markup, html};
use serde_json::Value;

use crate::console::parts::{code, payload};
use crate::console::text::line;

/// How deep a schema's table goes, and how many members it shows.
const DEPTH: usize = 4;
const MEMBERS: usize = 100;

/// A row of a schema's table.
struct Member {
    depth: usize,
    name: String,
    kind: String,
    required: bool,
    meaning: String,
}

pub(super) fn schema_table(schema: &str) -> Markup {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let mut members = Vec::new();
    collect(&schema, &schema, 0, &mut members);
    html! {
        @if members.is_empty() { (code(&payload(&schema.to_string()))) }
        @else { div class="scroll" { table class="tight" {
            thead { tr { th { "Member" } th { "Type" } th { "Required" } th { "Meaning" } } }
            tbody { @for member in &members { tr {
                td { code { @for _ in 0..member.depth { "\u{a0}\u{a0}" } (line(&member.name)) } }
                td { span class="soft" { (line(&member.kind)) } }
                td { @if member.required { "yes" } @else { span class="soft" { "no" } } }
                td class="soft break" { (line(&member.meaning)) }
            } } }
        } } }
        @if members.len() == MEMBERS { p class="small soft" { "The first " (MEMBERS) " are shown; the JSON Schema has them all." } }
    }
}

/// What a reference within the schema leads to, followed once.
fn resolved<'a>(root: &'a Value, at: &'a Value) -> &'a Value {
    let reference = at["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
    reference.and_then(|path| root.pointer(path)).unwrap_or(at)
}

fn collect(root: &Value, at: &Value, depth: usize, members: &mut Vec<Member>) {
    let at = resolved(root, at);
    let Some(properties) = at["properties"].as_object() else {
        return;
    };
    let required: Vec<_> = at["required"].as_array().into_iter().flatten().collect();
    for (name, property) in properties {
        if members.len() >= MEMBERS {
            return;
        }
        let property = resolved(root, property);
        members.push(Member {
            depth,
            name: name.clone(),
            kind: kind(property),
            required: required.iter().any(|known| *known == name),
            meaning: property["description"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        });
        if depth + 1 < DEPTH {
            collect(root, property, depth + 1, members);
            collect(root, &property["items"], depth + 1, members);
        }
    }
}

/// A type in words: `number, at least 0`.
fn kind(property: &Value) -> String {
    if let Some(values) = property["enum"].as_array() {
        let values: Vec<_> = values.iter().take(8).map(Value::to_string).collect();
        return values.join(", ");
    }
    if !property["const"].is_null() {
        return property["const"].to_string();
    }
    let of = |kind: &Value| match kind {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
            kinds.join(" or ")
        }
        _ => "any".to_owned(),
    };
    let mut words = match of(&property["type"]).as_str() {
        "array" => format!("list of {}", of(&property["items"]["type"])),
        other => other.to_owned(),
    };
    for (member, said) in [
        ("minimum", "at least"),
        ("exclusiveMinimum", "more than"),
        ("maximum", "at most"),
        ("minLength", "characters, at least"),
        ("maxLength", "characters, at most"),
        ("maxItems", "items, at most"),
        ("format", "format"),
        ("pattern", "pattern"),
    ] {
        match &property[member] {
            Value::Number(number) => words.push_str(&format!(", {said} {number}")),
            Value::String(text) => words.push_str(&format!(", {said} {text}")),
            _ => {}
        }
    }
    words
}
