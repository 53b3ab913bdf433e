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
use super::place::File;
pub use super::place::Place;
use crate::event_types::form::CatalogueForm;
use crate::event_types::store::Entry;
use crate::invalid::{Invalid, Unsaved};
use crate::tenants::{Change, NewTenant};
use crate::webhooks::form::{Checked, Form};

/// How deep a file may be nested, with what is in its examples and filters.
const MAX_DEPTH: usize = 64;
/// For that depth, in bytes: a level takes some 35 KiB in an unoptimised build.
const STACK: usize = 8 << 20;
/// The longest key, in characters.
const MAX_KEY: usize = 64;
/// How the names of the variables begin that files may name: no file can send
/// `MASTER_KEY` somewhere.
const PREFIX: &str = "POSTHORN_APPLY_";
/// How the API begins to say what is wrong with an example.
const OF_AN_EXAMPLE: &str = "is not what the schema says";

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
    /// Whether it has a list of webhooks, if only an empty one.
    pub lists_webhooks: bool,
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

/// What is wrong, a line each.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Notes what is wrong, in words of ours.
    pub(super) fn note(&mut self, place: &Place, reason: impl fmt::Display) {
        self.0.push(format!("{place}: {reason}"));
    }

    /// Notes that a member is invalid, without the values that the reason repeats.
    pub fn invalid(&mut self, place: &Place, Invalid { field, reason }: &Invalid) {
        let place = place.at(field);
        // What an example isn't is said with excerpts of it.
        let reason = reason
            .split_once(OF_AN_EXAMPLE)
            .map_or(reason.as_str(), |_| OF_AN_EXAMPLE);
        self.note(&place, place.without_values(reason));
    }

    /// Notes why a change was refused; gives back what is no refusal.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn refused(&mut self, place: &Place, unsaved: Unsaved) -> Result<(), Unsaved> {
        match unsaved {
            Unsaved::Invalid(invalid) => self.invalid(place, &invalid),
            Unsaved::NotFound(_) | Unsaved::Conflict(_) => {
                self.note(place, place.without_values(&unsaved.to_string()));
            }
            Unsaved::Postgres(_) => return Err(unsaved),
        }
        Ok(())
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
    fn sift<T>(&mut self, place: &Place, checked: Result<T, Invalid>) -> Option<T> {
        checked
            .map_err(|invalid| self.invalid(place, &invalid))
            .ok()
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
        let file = File::new(source.name, source.text);
        let place = Place::of(file.clone());
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
                self.problems.sift(&place, checked)
            });
        let event_types = match event_types {
            None | Some(Value::Null) => Vec::new(),
            Some(types) => self
                .form::<CatalogueForm>(&place, json!({ "event_types": types }))
                .and_then(|form| self.problems.sift(&place, form.check()))
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

/// What serde says is wrong, but for the value that is wrong: it says what was
/// found, the value between quotes, and after the last comma what was expected.
fn without_value(error: &str) -> String {
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
    // The names in these are the form's own.
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
    from_yaml(text)
}

/// Reads all documents.
///
/// # Errors
/// Where it isn't YAML. The parser's own words may repeat what is there.
pub(super) fn from_yaml<T: DeserializeOwned + Send>(text: &str) -> Result<Vec<T>, String> {
    // Reading recurses with every level, so it has a stack that is large enough
    // for as many levels as a file may have.
    let reading = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || documents_of(text))?
            .join()
            .map_err(|_| std::io::Error::other("the parser panicked"))
    });
    reading.unwrap_or_else(|error| Err(format!("cannot be read: {error}")))
}

fn documents_of<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let options = serde_saphyr::options! {
        // As YAML 1.2 has it: `no` is a word, `0777` a number like any other.
        strict_booleans: true,
        // An error must not repeat what may be a secret in the wrong place.
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
        },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        match error.location() {
            Some(at) => format!(
                "is not YAML, has a member twice, or is nested more than {MAX_DEPTH} levels deep, \
                 at line {}, column {}",
                at.line(),
                at.column()
            ),
            None => "is not YAML that can be read".to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::destination::Destinations;
    use shared::dialect::Dialects;
    use shared::seal::Keyring;

    use super::*;
    use crate::webhooks::store::Writing;

    const GOOD: &str = "
tenants:
  - id: shop
    name: The Shop
    event_types: [{name: order.created, schema: {type: object}}]
    webhooks:
      - key: billing
        url: https://billing.example.com/hooks
        events: [order.*]
        filters: {total: {$gte: 10}}
        secret: {env: POSTHORN_APPLY_SECRET}
        headers: {X-Api-Key: {env: POSTHORN_APPLY_KEY}}
        retry_policy: {max_retries: 5}
";

    fn problems(text: &str) -> Vec<String> {
        let keys = Keyring::from_base64(["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]).unwrap();
        let rules = Rules {
            destinations: &Destinations::default(),
            writing: Writing {
                keys: &keys,
                dialects: &Dialects::embedded(),
            },
            variable: &|_| Some("hunter2-hunter2".to_owned()),
        };
        let source = Source {
            name: "webhooks.yaml".to_owned(),
            text: text.to_owned(),
        };
        read(vec![source], &rules).err().unwrap_or_default()
    }

    #[test]
    fn headers_are_held_to_what_the_api_holds_them_to() {
        assert_eq!(problems(GOOD), [""; 0]);
        for header in [
            "Host",
            "Connection",
            "Proxy-Authorization",
            "webhook-id",
            "\"X\\r\\nY\"",
        ] {
            let said = problems(&GOOD.replace("X-Api-Key", header)).join(" ");
            assert!(said.contains("webhooks[0].headers"), "{header}: {said}");
        }
        let said =
            problems(&GOOD.replace("{env: POSTHORN_APPLY_KEY}", "\"a\\r\\nHost: b\"")).join(" ");
        assert!(
            said.contains("X-Api-Key") && !said.contains("Host: b"),
            "{said}"
        );
    }

    #[test]
    fn only_variables_of_its_own_are_read() {
        for name in [
            "MASTER_KEY",
            "DATABASE_URL",
            "PATH",
            "POSTHORN_APPLY_",
            "POSTHORN_APPLY",
            "posthorn_apply_key",
            "POSTHORN_APPLY_key",
            "XPOSTHORN_APPLY_KEY",
            "POSTHORN_APPLY_A=B",
        ] {
            let said = problems(&GOOD.replace("POSTHORN_APPLY_KEY", name)).join(" ");
            let place = "webhooks.yaml:12: tenants[0].webhooks[0].headers.X-Api-Key.env: must name";
            assert!(said.contains(place), "{name}: {said}");
        }
    }

    /// What somebody put into the wrong place, or into the wrong file.
    #[test]
    fn no_error_repeats_a_value() {
        const SECRET: &str = "hunter2-in-the-wrong-place";
        for (right, wrong) in [
            ("id: shop", "id: SECRET!"),
            ("name: The Shop", "limits: SECRET"),
            ("name: The Shop", "limits: {webhooks: SECRET}"),
            ("name: The Shop", "dialect: SECRET"),
            ("name: The Shop", "strict_event_types: SECRET"),
            ("name: order.created", "name: SECRET!"),
            ("schema: {type: object}", "schema: SECRET"),
            ("schema: {type: object}", "schema: {type: SECRET}"),
            ("schema: {type: object}", "schema: {$ref: SECRET}"),
            (
                "schema: {type: object}",
                "schema: {type: object}, example: SECRET",
            ),
            ("schema: {type: object}", "archived: SECRET"),
            ("key: billing", "key: SECRET!"),
            ("https://billing.example.com/hooks", "SECRET"),
            ("https://billing", "https://user:SECRET@billing"),
            ("[order.*]", "[SECRET*x]"),
            ("[order.*]", "{SECRET: 1}"),
            ("{$gte: 10}", "{$in: SECRET}"),
            ("{$gte: 10}", "{$regex: SECRET}"),
            ("{env: POSTHORN_APPLY_SECRET}", "SECRET"),
            ("{env: POSTHORN_APPLY_SECRET}", "{env: SECRET}"),
            ("{env: POSTHORN_APPLY_SECRET}", "{env: [SECRET]}"),
            ("{env: POSTHORN_APPLY_SECRET}", "[SECRET]"),
            ("{X-Api-Key: {env: POSTHORN_APPLY_KEY}}", "SECRET"),
            ("{env: POSTHORN_APPLY_KEY}", "[SECRET]"),
            ("{env: POSTHORN_APPLY_KEY}", "\"SECRET\\r\\n\""),
            ("{max_retries: 5}", "SECRET"),
            ("{max_retries: 5}", "{max_retries: SECRET}"),
            ("retry_policy: {max_retries: 5}", "rate_limit: SECRET"),
            (
                "retry_policy: {max_retries: 5}",
                "rate_limit: {limit: 5, per: SECRET}",
            ),
            ("retry_policy: {max_retries: 5}", "status: SECRET"),
            ("retry_policy: {max_retries: 5}", "signing: SECRET"),
            ("retry_policy: {max_retries: 5}", "timeout: SECRET"),
            ("retry_policy: {max_retries: 5}", "metadata: SECRET"),
            (
                "retry_policy: {max_retries: 5}",
                "dialect: \"SECRET, expected `nothing`\"",
            ),
        ] {
            let text = GOOD.replace(right, wrong).replace("SECRET", SECRET);
            // The names of variables are in capital letters.
            let text = text.replace(
                "POSTHORN_APPLY_hunter2-in-the-wrong-place",
                "POSTHORN_APPLY_A",
            );
            assert!(text.contains(SECRET), "{right} is not there");
            let said = problems(&text);
            assert!(!said.is_empty(), "{wrong} is accepted");
            for line in said {
                assert!(!line.contains("hunter2"), "{wrong}: {line}");
                assert!(line.starts_with("webhooks.yaml:"), "{wrong}: {line}");
            }
        }
        let key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
        let shadow = "root:$y$hunter2:19700:0:99999:7:::\nbin:*:19700::::::\n";
        let variables = "PASSWORD=hunter2\nOTHER=\"hunter2: x\"\n";
        for file in [
            key,
            shadow,
            variables,
            "&hunter2 *hunter2x",
            "!hunter2 {",
            "{\"hunter2",
        ] {
            let said = problems(file).join(" ");
            assert!(
                !said.is_empty() && !said.contains("hunter2"),
                "{file}: {said}"
            );
        }
    }

    /// Aliases that double, and nesting.
    #[test]
    fn no_bomb_goes_off() {
        let begun = std::time::Instant::now();
        let mut laughs = "a0: &a0 [x, x]\n".to_owned();
        for n in 1..40 {
            let last = n - 1;
            laughs.push_str(&format!("a{n}: &a{n} [*a{last}, *a{last}]\n"));
        }
        for bomb in [
            laughs,
            "[".repeat(100_000),
            "- ".repeat(100_000),
            "{a: ".repeat(100_000),
            "{\"a\":".repeat(100_000),
            "? ".repeat(50_000),
            "&a ".repeat(50_000),
            "--- a\n".repeat(50_000),
        ] {
            assert!(!problems(&bomb).is_empty());
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    }

    proptest! {
        #[test]
        fn no_damaged_file_panics_or_repeats_a_secret(
            at in any::<prop::sample::Index>(), text in "[\\[\\]{}:,&*!|>'\"$a-z0-9%\\n -]{0,8}", cut in 0_usize..20,
        ) {
            let at = at.index(GOOD.len());
            let until = (at + cut).min(GOOD.len());
            let damaged = format!("{}{text}{}", &GOOD[..at], &GOOD[until..]);
            let said = problems(&damaged).join(" ");
            prop_assert!(!said.contains("hunter2"), "{}", said);
        }
    }
}
