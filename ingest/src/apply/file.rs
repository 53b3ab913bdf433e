//! From files to what they declare, or to all that is wrong with them.
//!
//! The members are those of the API's own forms, and checked by them. Three
//! things are a file's own: `tenants` around everything, a webhook's `key`, and
//! `{env: NAME}` where a secret would stand. Pure, but for the environment.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use shared::ids::Tenant;

use super::Rules;
use crate::api::event_type_form::CatalogueForm;
use crate::api::problem::Problem;
use crate::api::tenants::{Change, NewTenant};
use crate::api::webhook_form::{Checked, Form};
use crate::event_types::store::Entry;

/// The longest key, in characters.
const MAX_KEY: usize = 64;

/// A file that was read.
pub struct Source {
    /// As it was named.
    pub name: String,
    /// YAML or JSON.
    pub text: String,
}

/// What a file says of a tenant.
pub struct DeclaredTenant {
    /// Where it says so.
    pub place: Place,
    /// Whose.
    pub id: Tenant,
    /// What it doesn't say stays as it is.
    pub settings: Change,
    /// Each as a whole.
    pub event_types: Vec<Entry>,
    /// Each as a whole.
    pub webhooks: Vec<DeclaredWebhook>,
}

/// What a file says of a webhook.
pub struct DeclaredWebhook {
    /// Where it says so.
    pub place: Place,
    /// What it is called, among its tenant's.
    pub key: String,
    /// What it is to be.
    pub form: Checked,
}

/// A place in a file: `webhooks.yaml: tenants[0].webhooks[2].url`.
#[derive(Clone)]
pub struct Place {
    file: String,
    path: String,
}

impl Place {
    fn of(file: String) -> Self {
        Self {
            file,
            path: String::new(),
        }
    }

    /// A member of what is here, or one of that.
    #[must_use]
    pub fn at(&self, member: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self {
            file: self.file.clone(),
            path: format!("{}{dot}{member}", self.path),
        }
    }

    fn entry(&self, list: &str, index: usize) -> Self {
        self.at(&format!("{list}[{index}]"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.path.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.path)
    }
}

/// What is wrong, a line each.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    fn note(&mut self, place: &Place, reason: impl fmt::Display) {
        self.0.push(format!("{place}: {reason}"));
    }

    /// Notes what the API would say.
    pub fn refused(&mut self, place: &Place, problem: Problem) {
        match problem.into_blame() {
            (Some(field), detail) => self.note(&place.at(&field), detail),
            (None, detail) => self.note(place, detail),
        }
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// All of them.
    pub fn none(self) -> Result<(), Vec<String>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0)
        }
    }

    /// What is `Ok`; what isn't is noted.
    fn sift<T>(&mut self, place: &Place, checked: Result<T, Problem>) -> Option<T> {
        checked.map_err(|problem| self.refused(place, problem)).ok()
    }
}

/// Reads and checks all of it.
///
/// # Errors
/// All that is wrong, by its place.
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

/// A document: whatever is in it is looked at one by one, to find all that is wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    tenants: Vec<Map<String, Value>>,
}

/// Stands for what isn't to be in a file.
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
        let place = Place::of(source.name);
        let documents = match documents(&source.text) {
            Ok(documents) => documents,
            Err(reason) => return self.problems.note(&place, reason),
        };
        if documents.is_empty() {
            self.problems.note(&place, "is empty; `tenants` is missing");
        }
        let several = documents.len() > 1;
        for (index, document) in documents.into_iter().enumerate() {
            let place = if several {
                Place::of(format!("{}, document {}", place.file, index + 1))
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
                self.problems.sift(&place, checked)
            });
        let event_types = match event_types {
            None | Some(Value::Null) => Vec::new(),
            Some(types) => self
                .form::<CatalogueForm>(&place, json!({ "event_types": types }))
                .and_then(|form| self.problems.sift(&place, form.check()))
                .unwrap_or_default(),
        };
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
                        "must be `{env: NAME}`: files are no place for secrets",
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
        let form = self.form::<Form>(&place, Value::Object(members))?;
        let checked = form.check(self.rules.destinations, self.rules.writing.dialects);
        let form = self.problems.sift(&place, checked)?;
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

    /// Puts what the environment has in the place of `{env: NAME}`.
    fn fill_in(&mut self, place: &Place, value: &mut Value) {
        let Some(FromEnvironment { env }) = self.form(place, value.take()) else {
            return;
        };
        match (self.rules.variable)(&env) {
            Some(text) => *value = Value::String(text),
            None => self
                .problems
                .note(&place.at("env"), format!("the variable {env} is not set")),
        }
    }

    /// Takes JSON for a form; says which member isn't right.
    fn form<T: DeserializeOwned>(&mut self, place: &Place, value: Value) -> Option<T> {
        serde_path_to_error::deserialize(value)
            .map_err(|error| {
                let path = error.path().to_string();
                let place = if path == "." {
                    place.clone()
                } else {
                    place.at(&path)
                };
                self.problems.note(&place, error.into_inner());
            })
            .ok()
    }
}

fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A JSON file has one; a YAML file any number. Empty ones don't count.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    if text.trim_start().starts_with('{') {
        return match serde_json::from_str(text) {
            Ok(document) => Ok(vec![document]),
            // YAML has braces, too, and its own way to begin a comment.
            Err(json) => yaml(text).map_err(|_| format!("is not JSON: {json}")),
        };
    }
    yaml(text)
}

fn yaml(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! {
        // As YAML 1.2 has it: `no` is a word, `0777` a number like any other.
        strict_booleans: true,
        // An error must not repeat what may be a secret in the wrong place.
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| format!("is not YAML: {error}"))
}
