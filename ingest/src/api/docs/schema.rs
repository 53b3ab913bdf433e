//! Reading JSON Schemas for the page: what a value is, its bounds, an example.

use serde_json::{Map, Value};

/// How deep objects within objects are shown.
const DEPTH: usize = 4;
static NULL: Value = Value::Null;

/// A schema, and the document that its references point into.
#[derive(Clone, Copy)]
pub(super) struct Schema<'a> {
    document: &'a Value,
    it: &'a Value,
}

/// A member of an object.
pub(super) struct Member<'a> {
    /// With the names of the objects around it: `limits.webhooks`.
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) schema: Schema<'a>,
}

impl<'a> Schema<'a> {
    pub(super) fn of(document: &'a Value, it: &'a Value) -> Self {
        Self { document, it }
    }

    fn with(self, it: &'a Value) -> Self {
        Self { it, ..self }
    }

    /// What a reference refers to, or the schema itself.
    pub(super) fn resolved(self) -> &'a Value {
        self.it["$ref"]
            .as_str()
            .and_then(|reference| self.document.pointer(reference.strip_prefix('#')?))
            .unwrap_or(self.it)
    }

    /// The member's own words, else its type's.
    pub(super) fn description(self) -> &'a Value {
        match &self.it["description"] {
            Value::Null => &self.resolved()["description"],
            own => own,
        }
    }

    /// Those of which it may be one, but `null`.
    fn alternatives(self) -> impl Iterator<Item = Self> {
        let it = self.resolved();
        let any = it["oneOf"].as_array().or_else(|| it["anyOf"].as_array());
        any.into_iter()
            .flatten()
            .filter(|schema| schema["type"] != "null")
            .map(move |schema| self.with(schema))
    }

    pub(super) fn kind(self) -> String {
        let it = self.resolved();
        if let Some(values) = it["enum"].as_array() {
            let values: Vec<_> = values.iter().map(Value::to_string).collect();
            return values.join(", ");
        }
        let alternatives: Vec<_> = self.alternatives().map(Self::kind).collect();
        if !alternatives.is_empty() {
            return alternatives.join(" or ");
        }
        match &it["type"] {
            Value::String(kind) if kind == "array" => {
                format!("array of {}", self.with(&it["items"]).kind())
            }
            Value::String(kind) => kind.clone(),
            Value::Array(kinds) => {
                let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
                kinds.join(" or ")
            }
            _ if it["allOf"].is_array() => "object".to_owned(),
            _ => "any JSON".to_owned(),
        }
    }

    pub(super) fn bounds(self) -> String {
        const BOUNDS: [(&str, &str, &str); 7] = [
            ("minimum", "at least ", ""),
            ("maximum", "at most ", ""),
            ("minLength", "at least ", " characters"),
            ("maxLength", "at most ", " characters"),
            ("minItems", "at least ", " entries"),
            ("maxItems", "at most ", " entries"),
            ("default", "unless set: ", ""),
        ];
        let it = self.resolved();
        let stated = BOUNDS.iter().filter_map(|(keyword, before, after)| {
            let bound = it.get(keyword)?;
            Some(format!("{before}{bound}{after}"))
        });
        let stated: Vec<_> = stated.collect();
        if stated.is_empty() {
            return stated.concat();
        }
        format!("({})", stated.join(", "))
    }

    fn properties(self) -> Vec<(&'a String, bool, Self)> {
        let it = self.resolved();
        let mut found = Vec::new();
        for part in it["allOf"].as_array().into_iter().flatten() {
            found.extend(self.with(part).properties());
        }
        // One of several names: see `openapi::spell_out`.
        let rules = it["allOf"].as_array().into_iter().flatten();
        let choices = rules.filter_map(|rule| rule["oneOf"].as_array());
        let required: Vec<_> = choices
            .flatten()
            .chain([it])
            .filter_map(|rule| rule["required"].as_array())
            .flatten()
            .collect();
        for (name, property) in it["properties"].as_object().into_iter().flatten() {
            let required = required.iter().any(|required| *required == name);
            found.push((name, required, self.with(property)));
        }
        found
    }
}

/// An object's members, and those of the objects in it.
pub(super) fn members<'a>(document: &'a Value, schema: &'a Value) -> Vec<Member<'a>> {
    let mut found = Vec::new();
    collect(Schema::of(document, schema), "", DEPTH, &mut found);
    found
}

fn collect<'a>(schema: Schema<'a>, around: &str, depth: usize, found: &mut Vec<Member<'a>>) {
    if depth == 0 {
        return;
    }
    for (name, required, schema) in schema.properties() {
        let name = format!("{around}{name}");
        let within = schema.alternatives().next().unwrap_or(schema);
        let inner = format!("{name}.");
        found.push(Member {
            name,
            required,
            schema,
        });
        collect(within, &inner, depth - 1, found);
    }
}

/// A value that the schema allows.
pub(in crate::api) fn example(document: &Value, schema: &Value) -> Value {
    example_of(Schema::of(document, schema), DEPTH)
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
            .filter(|(_, _, member)| !is_other_name(member.it))
            .map(|(name, _, member)| (name.clone(), example_of(member, depth - 1)));
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

/// See `openapi::spell_out`.
fn is_other_name(member: &Value) -> bool {
    member["description"]
        .as_str()
        .is_some_and(|text| text.starts_with("Another name of"))
}
