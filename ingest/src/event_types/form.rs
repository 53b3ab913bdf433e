//! What a client or a file sends to describe event types, and what is made of it.
//!
//! The same form serves a single type, a whole catalogue, the files of
//! `ingest/catalogues`, and files that `posthorn-ingest catalogue import` reads. No I/O.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::ids::EventType;
use utoipa::ToSchema;

use crate::event_types::schema::{Flaw, Schema};
use crate::event_types::store::{Entry, MAX_EVENT_TYPES};
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::json_text::{MAX_DEPTH, depth};

type Result<T> = std::result::Result<T, Invalids>;

/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 1024;
/// The largest example, in bytes of JSON.
const MAX_EXAMPLE: usize = 16 * 1024;
/// A path of the API of its own, see `event_types`.
const RESERVED: &str = "import";

/// A whole catalogue.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "name": "Orders", "description": "What the shop publishes.",
    "event_types": [{
        "name": "order.created", "description": "A customer placed an order.",
        "example": {"total": 25.5, "currency": "EUR"}, "schema": {"type": "object", "required": ["total"]}
    }]
}))]
#[serde(deny_unknown_fields)]
pub struct CatalogueForm {
    /// The catalogue's name, for people.
    #[serde(default)]
    pub name: String,
    /// The catalogue's description, for people.
    #[serde(default)]
    pub description: String,
    #[serde(alias = "eventTypes")]
    #[schema(max_items = 1000, extensions(("x-also" = json!(["eventTypes"]))))]
    pub(crate) event_types: Vec<EventTypeForm>,
}

/// One type. What isn't sent is empty.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "description": "A customer placed an order.",
    "example": {"total": 25.5, "currency": "EUR"}, "schema": {"type": "object", "required": ["total"]}
}))]
#[serde(deny_unknown_fields)]
pub struct EventTypeForm {
    /// Needed in a catalogue; else the path has it.
    #[schema(value_type = Option<EventType>)]
    name: Option<String>,
    /// A text for people.
    #[serde(default)]
    #[schema(max_length = 1024, example = "A customer placed an order.")]
    description: String,
    /// An example of its data: at most 16,384 bytes of JSON. Must conform to the schema.
    #[schema(value_type = Option<serde_json::Value>, example = json!({"total": 25.00, "currency": "EUR"}))]
    example: Option<Box<RawValue>>,
    /// A JSON Schema that its data must conform to: at most 32,768 bytes, without references to the outside.
    #[serde(alias = "json_schema", alias = "jsonSchema")]
    #[schema(
        value_type = Option<Object>, example = json!({"required": ["total"]}),
        extensions(("x-also" = json!(["json_schema", "jsonSchema"])))
    )]
    schema: Option<Box<RawValue>>,
    /// Whether new webhooks may no longer subscribe to it. Its events are still taken.
    #[serde(default)]
    archived: bool,
}

impl CatalogueForm {
    /// How many types it has.
    pub fn types(&self) -> usize {
        self.event_types.len()
    }

    /// Checks every type.
    ///
    /// # Errors
    /// Names each member that is wrong, and its bound.
    pub fn check(self) -> Result<Vec<Entry>> {
        if self.event_types.len() as i64 > MAX_EVENT_TYPES {
            let bound = format!("must have at most {MAX_EVENT_TYPES} entries");
            return Err(Invalid::new("event_types", bound).into());
        }
        let mut wrong = Gathered::default();
        let mut names = HashSet::new();
        let mut entries = Vec::with_capacity(self.event_types.len());
        for (at, mut form) in self.event_types.into_iter().enumerate() {
            let place = format!("event_types[{at}].");
            let of_name = |reason| Invalid::new(format!("{place}name"), reason);
            let name = match form.name.take().map(|name| name.parse::<EventType>()) {
                None => Err(Invalid::missing(format!("{place}name"))),
                Some(Err(error)) => Err(of_name(error.to_string())),
                Some(Ok(name)) if names.contains(&name) => {
                    Err(of_name(format!("`{name}` is there twice")))
                }
                Some(Ok(name)) => {
                    names.insert(name.clone());
                    Ok(name)
                }
            };
            let name = wrong.keep(name);
            let entry = form.entry(name, &place, &mut wrong);
            entries.extend(entry);
        }
        wrong.finish(entries)
    }
}

impl EventTypeForm {
    /// Checks every member of the type by this name.
    ///
    /// # Errors
    /// Names each member that is wrong, and its bound.
    pub fn check(self, name: EventType) -> Result<Entry> {
        let mut wrong = Gathered::default();
        if self.name.as_ref().is_some_and(|own| own != name.as_str()) {
            let other = format!("is not the `{name}` of the path: a type is not renamed");
            wrong.add(Invalid::new("name", other));
        }
        let entry = self.entry(Some(name), "", &mut wrong);
        wrong.finish_with(entry)
    }

    /// Notes what is wrong. Nothing comes of a type without a name.
    pub fn entry(
        self,
        name: Option<EventType>,
        place: &str,
        wrong: &mut Gathered,
    ) -> Option<Entry> {
        let invalid = |field: &str, reason: String| Invalid::new(format!("{place}{field}"), reason);
        if name.as_ref().is_some_and(|name| name.as_str() == RESERVED) {
            wrong.add(invalid("name", format!("`{RESERVED}` is reserved")));
        }
        if self.description.len() > MAX_DESCRIPTION || self.description.contains('\0') {
            let bound = format!("must be at most {MAX_DESCRIPTION} bytes, without NUL");
            wrong.add(invalid("description", bound));
        }
        let given = |json: Option<Box<RawValue>>| {
            json.map(|json| json.get().to_owned())
                .filter(|text| text != "null")
        };
        let (example, schema) = (given(self.example), given(self.schema));
        let of_example = check_example(example.as_deref());
        let is_fit = of_example.is_ok();
        wrong.take(of_example.map_err(|bound| invalid("example", bound)));
        let read = schema.as_deref().map(Schema::read).transpose();
        let read = wrong.take(read.map_err(|error| invalid("schema", error.to_string())));
        if let (Some(schema), Some(example), true) = (read, &example, is_fit) {
            let checked = schema.check(example).map_err(|flaw| match flaw {
                Flaw::Violation(violation) => format!("is not what the schema says: {violation}"),
                Flaw::TooCostly => flaw.to_string(),
            });
            wrong.take(checked.map_err(|words| invalid("example", words)));
        }
        Some(Entry {
            name: name?,
            description: self.description,
            example,
            schema,
            archived: self.archived,
        })
    }
}

/// An example's bounds.
fn check_example(example: Option<&str>) -> std::result::Result<(), String> {
    let text = example.unwrap_or_default();
    if text.len() > MAX_EXAMPLE {
        return Err(format!("must be at most {MAX_EXAMPLE} bytes of JSON"));
    }
    if depth(text) > MAX_DEPTH {
        return Err(format!("must be nested at most {MAX_DEPTH} levels deep"));
    }
    Ok(())
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::event_types::collections::COLLECTIONS;

    fn check(types: &Value) -> Result<Vec<Entry>> {
        let text = json!({ "event_types": types }).to_string();
        serde_json::from_str::<CatalogueForm>(&text)
            .map_err(|error| Invalids::from(Invalid::new("", error)))?
            .check()
    }

    #[test]
    fn every_catalogue_that_posthorn_comes_with_is_one() {
        for (collection, types) in COLLECTIONS.iter().zip([11, 13, 11, 11, 24]) {
            let form: CatalogueForm = serde_json::from_str(collection.text)
                .unwrap_or_else(|error| panic!("{}: {error}", collection.name));
            assert_eq!(form.name, collection.name);
            assert_eq!(form.types(), types, "{}", collection.name);
            for entry in form.check().unwrap() {
                assert!(entry.description.len() > 10, "{}", entry.name);
                assert!(entry.example.is_some(), "{}", entry.name);
            }
        }
    }

    #[test]
    fn json_is_kept_as_it_was_given() {
        let entries = check(&json!([{"name": "a.b", "example": null}])).unwrap();
        assert_eq!(entries[0].example, None);
        let text = r#"{"event_types": [{"name": "a.b", "example": {"price":25.00, "b": 1}}]}"#;
        let form: CatalogueForm = serde_json::from_str(text).unwrap();
        let entries = form.check().unwrap();
        assert_eq!(
            entries[0].example.as_deref(),
            Some(r#"{"price":25.00, "b": 1}"#)
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_bound() {
        for (types, words) in [
            (json!([{}]), ["event_types[0].name", "missing"]),
            (json!([{"name": "a..b"}]), ["event_types[0].name", "dots"]),
            (
                json!([{"name": "a"}, {"name": "a"}]),
                ["event_types[1].name", "twice"],
            ),
            (
                json!([{"name": "import"}]),
                ["event_types[0].name", "reserved"],
            ),
            (
                json!([{"name": "a", "description": "x".repeat(1025)}]),
                ["event_types[0].description", "1024"],
            ),
            (
                json!([{"name": "a", "example": "x".repeat(20_000)}]),
                ["event_types[0].example", "16384"],
            ),
            (
                json!([{"name": "a", "schema": {"properties": {"b": {"type": "no"}}}}]),
                ["event_types[0].schema", "/properties/b/type"],
            ),
            (
                json!([{"name": "a", "schema": {"type": "object"}, "example": 1}]),
                ["event_types[0].example", "object"],
            ),
            (
                json!([{"name": "a", "descripton": "x"}]),
                ["descripton", "unknown field"],
            ),
        ] {
            let error = format!("{:?}", check(&types).unwrap_err());
            for word in words {
                assert!(error.contains(word), "{word} is missing in {error}");
            }
        }
        let many: Vec<_> = (0..1001)
            .map(|n| json!({"name": format!("t.{n}")}))
            .collect();
        let error = format!("{:?}", check(&json!(many)).unwrap_err());
        assert!(error.contains("1000"), "{error}");
    }
}
