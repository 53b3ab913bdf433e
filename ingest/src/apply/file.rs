//! Reads files into declarations, or into a list of all that is wrong with them.
//!
//! Members are those of the API's forms, and checked by the same code. Three
//! things exist in files only: `tenants` around everything, a webhook's `key`, and
//! `{env: NAME}` in place of a secret. No I/O, but for reading the environment.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use shared::destination::Destinations;

use super::declared::{DeclaredTenant, DeclaredWebhook};
use super::place::{File, Place};
use super::problems::Problems;
use super::yaml::documents;
use crate::event_types::form::CatalogueForm;
use crate::tenants::form::NewTenant;
use crate::webhooks::form::WebhookForm;
use crate::webhooks::store::Writing;

/// The longest key, in characters.
const MAX_KEY: usize = 64;
/// The prefix of variables that files may name, so that no file can send `MASTER_KEY`
/// somewhere.
const PREFIX: &str = "POSTHORN_APPLY_";

pub struct Source {
    /// The name that the user gave.
    pub name: String,
    /// YAML or JSON.
    pub text: String,
}

/// What declarations are checked against.
pub struct Rules<'a> {
    /// The operator's rules on where deliveries may go.
    pub destinations: &'a Destinations,
    /// How rows are written, and what webhooks may look like.
    pub writing: Writing<'a>,
    /// Looks up `{env: NAME}`; all names begin with `POSTHORN_APPLY_`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads and checks all files.
///
/// # Errors
/// All problems, each with its place.
pub fn read(sources: Vec<Source>, rules: &Rules<'_>) -> Result<Vec<DeclaredTenant>, Vec<String>> {
    let mut reading = Reading {
        rules,
        problems: Problems::default(),
        tenants: Vec::new(),
    };
    for source in sources {
        reading.source(source);
    }
    let places: Vec<_> = reading
        .tenants
        .iter()
        .map(|tenant| (tenant.id.clone(), tenant.place.clone()))
        .collect();
    let mut first = HashMap::new();
    for (id, place) in places {
        if let Some(other) = first.insert(id.clone(), place.clone()) {
            let twice = format!("`{id}` is also at {other}: a tenant has one place");
            reading.problems.note(&place.at("id"), twice);
        }
    }
    reading.problems.none()?;
    Ok(reading.tenants)
}

/// A document. Its parts are checked one by one, to find all problems at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    tenants: Vec<Map<String, Value>>,
}

/// A reference to an environment variable, in place of a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FromEnvironment {
    env: String,
}

struct Reading<'a> {
    rules: &'a Rules<'a>,
    problems: Problems,
    tenants: Vec<DeclaredTenant>,
}

impl Reading<'_> {
    fn source(&mut self, source: Source) {
        let file = File::new(source.name, source.text);
        let place = Place::new(file.clone());
        let documents = match documents(file.text()) {
            Ok(documents) => documents,
            Err(reason) => return self.problems.note(&place, reason),
        };
        if documents.is_empty() {
            self.problems.note(&place, "is empty; `tenants` is missing");
        }
        let several = documents.len() > 1;
        for (index, document) in documents.into_iter().enumerate() {
            let place = if several {
                place.in_document(index)
            } else {
                place.clone()
            };
            let Some(document) = self.form::<Document>(&place, document) else {
                continue;
            };
            for (index, members) in document.tenants.into_iter().enumerate() {
                let place = place.entry("tenants", index);
                let declared = self.tenant(place, members);
                self.tenants.extend(declared);
            }
        }
    }

    fn tenant(&mut self, place: Place, mut members: Map<String, Value>) -> Option<DeclaredTenant> {
        let event_types = members.remove("event_types");
        let webhooks = members.remove("webhooks");
        let settings = self
            .form::<NewTenant>(&place, Value::Object(members))
            .and_then(|form| {
                let checked = form.check(self.rules.writing.dialects);
                self.problems.sift_all(&place, checked)
            });
        let event_types = match event_types {
            None | Some(Value::Null) => Vec::new(),
            Some(types) => self
                .form::<CatalogueForm>(&place, json!({ "event_types": types }))
                .and_then(|form| self.problems.sift_all(&place, form.check()))
                .unwrap_or_default(),
        };
        let lists_webhooks = webhooks.as_ref().is_some_and(Value::is_array);
        let webhooks = match webhooks {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(webhooks)) => webhooks,
            Some(_) => {
                self.problems.note(&place.at("webhooks"), "must be a list");
                Vec::new()
            }
        };
        let mut keys = HashSet::new();
        let mut declared = Vec::with_capacity(webhooks.len());
        for (index, webhook) in webhooks.into_iter().enumerate() {
            let place = place.entry("webhooks", index);
            let Value::Object(members) = webhook else {
                self.problems.note(&place, "must be an object");
                continue;
            };
            let Some(webhook) = self.webhook(place, members) else {
                continue;
            };
            if !keys.insert(webhook.key.clone()) {
                let twice = format!("`{}` is there twice", webhook.key);
                self.problems.note(&webhook.place.at("key"), twice);
            }
            declared.push(webhook);
        }
        let (id, settings) = settings?;
        Some(DeclaredTenant {
            place,
            id,
            settings,
            event_types,
            webhooks: declared,
            lists_webhooks,
        })
    }

    fn webhook(
        &mut self,
        place: Place,
        mut members: Map<String, Value>,
    ) -> Option<DeclaredWebhook> {
        let key = match members.remove("key") {
            Some(Value::String(key)) if is_key(&key) => Some(key),
            Some(_) => {
                let bound =
                    format!("must be 1 to {MAX_KEY} letters, digits, dots, hyphens or underscores");
                self.problems.note(&place.at("key"), bound);
                None
            }
            None => {
                let why = "is missing: what the webhook is called here, for good";
                self.problems.note(&place.at("key"), why);
                None
            }
        };
        if let Some(secret) = members.get_mut("secret") {
            let place = place.at("secret");
            match secret {
                Value::Null => {
                    members.remove("secret");
                }
                Value::Object(_) => self.fill_in(&place, secret),
                _ => {
                    self.problems.note(
                        &place,
                        format!("must be `{{env: {PREFIX}…}}`: files are no place for secrets"),
                    );
                    members.remove("secret");
                }
            }
        }
        if let Some(Value::Object(headers)) = members.get_mut("headers") {
            for (name, value) in headers {
                if value.is_object() {
                    self.fill_in(&place.at("headers").at(name), value);
                }
            }
        }
        for (member, part) in [
            ("client_certificate", "private_key"),
            ("oauth2", "client_secret"),
        ] {
            let Some(secret) = members
                .get_mut(member)
                .and_then(|value| value.get_mut(part))
            else {
                continue;
            };
            let place = place.at(member).at(part);
            if secret.is_object() {
                self.fill_in(&place, secret);
            } else {
                let rule = format!("must be `{{env: {PREFIX}…}}`: files are no place for secrets");
                self.problems.note(&place, rule);
                members.remove(member);
            }
        }
        let form = self.form::<WebhookForm>(&place, Value::Object(members))?;
        let checked = form.check(self.rules.destinations, self.rules.writing.dialects);
        let form = self.problems.sift_all(&place, checked)?;
        for (member, is_there) in [
            ("url", form.url.is_some()),
            ("events", form.events.is_some()),
        ] {
            if !is_there {
                self.problems.note(&place.at(member), "is missing");
            }
        }
        Some(DeclaredWebhook {
            place,
            key: key?,
            form,
        })
    }

    /// Replaces `{env: NAME}` with the variable's value.
    fn fill_in(&mut self, place: &Place, value: &mut Value) {
        let Some(FromEnvironment { env }) = self.form(place, value.take()) else {
            return;
        };
        if !is_variable(&env) {
            let rule = format!(
                "must name a variable that begins with {PREFIX} and goes on with capital letters, \
                 digits and underscores: no other is read"
            );
            return self.problems.note(&place.at("env"), rule);
        }
        match (self.rules.variable)(&env) {
            Some(text) => *value = Value::String(text),
            None => self
                .problems
                .note(&place.at("env"), format!("the variable {env} is not set")),
        }
    }

    /// Reads JSON as a form; notes which member is wrong.
    fn form<T: DeserializeOwned>(&mut self, place: &Place, value: Value) -> Option<T> {
        serde_path_to_error::deserialize(value)
            .map_err(|error| {
                let path = error.path().to_string();
                let place = if path == "." {
                    place.clone()
                } else {
                    place.at(&path)
                };
                let reason = without_value(&error.into_inner().to_string());
                self.problems.note(&place, reason);
            })
            .ok()
    }
}

/// Whether a file may name this variable.
fn is_variable(name: &str) -> bool {
    let of_a_name = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(of_a_name))
}

/// Serde's message without the wrong value. The message has what was found, with the value
/// between quotes, and after the last comma what was expected.
pub(crate) fn without_value(error: &str) -> String {
    let expected = error.rfind(", expected ").map_or("", |at| &error[at..]);
    let found = ["invalid type: ", "invalid value: "]
        .iter()
        .find(|start| error.starts_with(**start));
    if let Some(start) = found {
        let kind = &error[start.len()..error.len() - expected.len()];
        let kind = kind.split(['"', '`']).next().unwrap_or_default().trim_end();
        return format!("{start}{kind}{expected}");
    }
    for start in ["unknown field", "unknown variant"] {
        if error.starts_with(start) {
            return format!("{start}{expected}");
        }
    }
    // The names in these messages are the form's own.
    let ours = ["missing field ", "duplicate field ", "expected "];
    if ours.iter().any(|start| error.starts_with(start)) && error.len() < 200 {
        return error.to_owned();
    }
    "is not what belongs here".to_owned()
}

fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests;
