//! The operations of the API's description, and everything that can be wrong in a request to one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::sent::Sent;
use crate::values::{bodies, values};

/// One operation of the description, with ids of things that exist.
pub(crate) struct Operation {
    method: String,
    template: String,
    path: String,
    queries: Vec<String>,
    headers: Vec<String>,
    /// A valid body, and the places in it that can be wrong.
    body: Option<(Value, Vec<Vec<Step>>)>,
}

#[derive(Debug, Clone)]
enum Step {
    Member(String),
    Item,
}

fn resolved<'a>(document: &'a Value, mut value: &'a Value) -> &'a Value {
    while let Some(reference) = value["$ref"].as_str() {
        value = document.pointer(reference.trim_start_matches('#')).unwrap();
    }
    value
}

/// Each member of a schema, and each member of those, some levels deep.
fn places(document: &Value, schema: &Value, levels: u8) -> Vec<Vec<Step>> {
    let schema = resolved(document, schema);
    let mut found = Vec::new();
    if levels == 0 {
        return found;
    }
    let mut below = |step: Step, schema: &Value| {
        found.push(vec![step.clone()]);
        for mut rest in places(document, schema, levels - 1) {
            rest.insert(0, step.clone());
            found.push(rest);
        }
    };
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        below(Step::Member(name.clone()), member);
    }
    if schema["items"].is_object() {
        below(Step::Item, &schema["items"]);
    }
    for way in schema["oneOf"].as_array().into_iter().flatten() {
        found.extend(places(document, way, levels));
    }
    found
}

/// The body with another value at this place.
fn replaced(mut body: Value, place: &[Step], value: &Value) -> Value {
    let mut at = &mut body;
    for step in place {
        at = match step {
            Step::Member(name) => {
                if !at.is_object() {
                    *at = json!({});
                }
                &mut at[name]
            }
            Step::Item => {
                if at.as_array().is_none_or(Vec::is_empty) {
                    *at = json!([null]);
                }
                &mut at[0]
            }
        };
    }
    *at = value.clone();
    body
}

pub(crate) fn operations(document: &Value, things: &BTreeMap<&str, String>) -> Vec<Operation> {
    let mut found = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let mut path = template.clone();
            let (mut queries, mut headers) = (Vec::new(), Vec::new());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let parameter = resolved(document, parameter);
                let name = parameter["name"].as_str().unwrap();
                let kind = parameter["schema"]["$ref"].as_str().unwrap_or_default();
                let kind = kind.trim_start_matches("#/components/schemas/");
                match parameter["in"].as_str().unwrap() {
                    "path" => {
                        let thing = things.get(kind).map_or("standard", String::as_str);
                        path = path.replace(&format!("{{{name}}}"), thing);
                    }
                    "query" => queries.push(name.to_owned()),
                    _ => headers.push(name.to_owned()),
                }
            }
            let content = &operation["requestBody"]["content"]["application/json"];
            let body = content.is_object().then(|| {
                let schema = resolved(document, &content["schema"]);
                let examples = [&content["example"], &schema["example"]];
                let example = examples.into_iter().find(|example| example.is_object());
                let example = example.cloned().unwrap_or(json!({}));
                (example, places(document, schema, 3))
            });
            found.push(Operation {
                method: method.to_uppercase(),
                template: template.clone(),
                path,
                queries,
                headers,
                body,
            });
        }
    }
    found
}

impl Operation {
    fn sent(&self) -> Sent {
        Sent::new(&self.method, &self.path)
    }

    /// Everything that is wrong in its path, its query and its headers.
    pub(crate) fn requests(&self) -> Vec<Sent> {
        let mut all = Vec::new();
        if self.template.contains('{') {
            for id in [
                "x",
                "wh_",
                "%20",
                "%ff",
                "%00",
                "a%2Fb",
                "wh_01k9zw6q9veq5r2m4d8x3h7c1!",
                "-1",
                "8a6e0804-2bd0-4672-b79d-d97027f9071a",
                "whd_zzzzzzzzzzzzzzzzzzzzzzzzzz",
            ] {
                let parts = self.template.split('/');
                let parts = parts.map(|part| if part.starts_with('{') { id } else { part });
                let path = parts.collect::<Vec<_>>().join("/");
                all.push(Sent::new(&self.method, &path).json("{}"));
            }
        }
        // Nothing that exists is deleted.
        let all_of_it = || {
            if self.method == "DELETE" {
                "?x=1&"
            } else {
                "?"
            }
        };
        for name in &self.queries {
            for value in [
                "",
                "x",
                "-1",
                "1.5",
                "99999999999999999999",
                "%ff",
                "%00",
                "wh_",
                "2026-13-45",
                "a..b",
                "ord*",
                "5xx,6xx",
                "%5B%5D",
                "yes",
                "é",
            ] {
                let mut sent = self.sent();
                sent.path += &format!("{}{name}={value}", all_of_it());
                all.push(sent);
            }
            let mut sent = self.sent();
            sent.path += &format!("{}{name}=1&{name}=2", all_of_it());
            all.push(sent);
        }
        let mut sent = self.sent();
        sent.path += "?unheard=1";
        all.push(sent);
        if self.method == "DELETE" {
            return all;
        }
        let mut headers = self.headers.clone();
        headers.extend(["accept", "if-none-match"].map(str::to_owned));
        for name in headers {
            for value in [
                &b""[..],
                b"x",
                b"No!",
                b"\"",
                b"\xff",
                b"text/xml; q=x",
                b"00-x-y-01",
            ] {
                all.push(self.sent().json("{}").with(&name, value));
            }
        }
        for token in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearer x",
            b"Basic eDp5",
            b"Bearer \xff",
            b"Bearer a.b.c",
            b"Bearer eyJhbGciOiJub25lIn0.e30.",
            b"Bearer eyJhbGciOiJIUzI1NiJ9.e30.x",
        ] {
            all.push(self.sent().with("authorization", token));
        }
        all
    }

    /// Everything that is wrong in its body.
    pub(crate) fn requests_with_bodies(&self) -> Vec<Sent> {
        let Some((example, places)) = &self.body else {
            return Vec::new();
        };
        let mut all: Vec<_> = bodies()
            .into_iter()
            .map(|body| self.sent().json(body))
            .collect();
        for kind in [
            "",
            "text/plain",
            "application/xml",
            "application/json; charset=x",
            "\"",
            "a/b/c",
        ] {
            all.push(self.sent().saying(kind, "{}"));
        }
        let mut sent = self.sent();
        sent.body = Some(b"{}".to_vec());
        all.push(sent);
        let values = values();
        for place in places {
            for value in &values {
                let body = replaced(example.clone(), place, value).to_string();
                all.push(self.sent().json(body));
                // Without the rest, of which something may be wrong already.
                if place.len() == 1 && !value.is_string() {
                    let body = replaced(json!({}), place, value).to_string();
                    all.push(self.sent().json(body));
                }
            }
        }
        all
    }
}
