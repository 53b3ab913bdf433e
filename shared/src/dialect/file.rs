//! From a dialect's file to a [`Dialect`], or to what is wrong with it.
//!
//! TOML or JSON, both read into one tree whose tables keep their order: the
//! body's members are sent in the order of the file. Every key is taken out of
//! the tree by whoever knows it; one that is left over is refused.
//!
//! | key | is |
//! |---|---|
//! | `description` | for people |
//! | `form` | `as-published` (the default) or `javascript` |
//! | `content_type` | `application/json` unless it says otherwise |
//! | `timeout`, `max_age` | durations: `500ms`, `10s`, `5m`, `2h`, `7d` |
//! | `body` | its members in order: texts, numbers, booleans, tables; `{data}` alone is the event's data; the key `...` with `{attributes}` takes CloudEvents attributes in |
//! | `headers` | texts |
//! | `signatures.<name>` | `signs` and `encoding` (texts), `key` (`text` or `whsec`), `secrets` (`current` or `all`), `ed25519` (how signatures of keys are written) |
//! | `retry` | `delays`, or `first`, `factor`, `cap`, `retries`; `jitter` |
//! | `answers` | lists of statuses: `success`, `stop`, `disable` |

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use toml::{Table, Value as Toml};

use super::compose::{
    Dialect, Digest, Form, InHeader, Key, Member, Signature, Signed, Signing, Value,
};
use super::javascript;
use super::policy::{Answers, Policy, Statuses};
use super::template::{Field, Template};
use crate::retry::{MAX_DELAY, Pauses, Schedule};

/// How long an attempt may take where nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
/// From an event's acceptance to its last attempt, at most.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Where CloudEvents attributes go.
const SPREAD: &str = "...";
/// How deeply the body's tables may be nested.
const MAX_NESTING: usize = 8;
/// The connection's own headers, and those that are set for every dialect.
const RESERVED_HEADERS: [&str; 9] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "transfer-encoding",
    "user-agent",
];

/// What is wrong with a dialect's file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {}{reason}", if .key.is_empty() { String::new() } else { format!("`{key}` ") })]
pub struct Invalid {
    /// The file's name.
    pub file: String,
    /// The key, with those of the tables around it; empty if it is the file.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

type Result<T> = std::result::Result<T, Invalid>;

/// Reads a file. Its name without `.toml` or `.json` is the dialect's.
pub(super) fn read(file: &str, text: &str) -> Result<Dialect> {
    let refuse = |reason: String| Invalid {
        file: file.to_owned(),
        key: String::new(),
        reason,
    };
    let (name, table) = match file.rsplit_once('.') {
        Some((name, "toml")) => {
            let table = text.parse::<Table>().map_err(|error| {
                let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
                let line = before.matches('\n').count() + 1;
                refuse(format!("is not TOML: {} (line {line})", error.message()))
            })?;
            (name, table)
        }
        Some((name, "json")) => {
            let table = serde_json::from_str(text)
                .map_err(|error| refuse(format!("is not a dialect in JSON: {error}")))?;
            (name, table)
        }
        _ => return Err(refuse("must end with `.toml` or `.json`".to_owned())),
    };
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    if bytes.len() > 63
        || !bytes.first().is_some_and(plain)
        || !bytes.iter().all(|b| plain(b) || matches!(b, b'_' | b'-'))
    {
        return Err(refuse(
            "must be named with 1 to 63 of `a-z`, `0-9`, `_`, `-`, and start with a letter or digit"
                .to_owned(),
        ));
    }
    let section = Section {
        file: file.to_owned(),
        path: String::new(),
        table,
    };
    dialect(name, text, section)
}

fn dialect(name: &str, text: &str, mut top: Section) -> Result<Dialect> {
    let file = top.file.clone();
    let description = top.text("description")?.unwrap_or_default();
    let form = top.one_of(
        "form",
        &[
            ("as-published", Form::AsPublished),
            ("javascript", Form::JavaScript),
        ],
    )?;
    let content_type = top.text("content_type")?;
    let content_type = HeaderValue::from_str(content_type.as_deref().unwrap_or("application/json"))
        .map_err(|_| top.invalid("content_type", "has characters that a header can't have"))?;
    let timeout = top.duration("timeout", Duration::from_secs(1)..=Duration::from_secs(60))?;
    let max_age = top.duration("max_age", Duration::from_secs(1)..=MAX_AGE)?;
    let schedule = schedule(top.section("retry")?)?;
    let answers = answers(top.section("answers")?)?;

    let (body, headers) = (top.section("body")?, top.section("headers")?);
    let signing = top.section("signatures")?;
    top.finish()?;
    let names = Names {
        signatures: signing.table.keys().cloned().collect(),
        form: form.unwrap_or(Form::AsPublished),
    };
    let body = names.body(body, 0)?;
    let headers = names.headers(headers)?;
    let signatures = signatures(signing, &body)?;
    let dialect = Dialect {
        name: name.to_owned(),
        description,
        definition: text.to_owned(),
        policy: Policy {
            timeout: timeout.unwrap_or(TIMEOUT),
            max_age: max_age
                .unwrap_or(MAX_AGE)
                .try_into()
                .unwrap_or(time::Duration::WEEK),
            schedule,
            answers,
        },
        form: names.form,
        content_type,
        body,
        headers,
        signatures,
    };
    check_signatures(&dialect).map_err(|(key, reason)| Invalid { file, key, reason })?;
    Ok(dialect)
}

/// A table, out of which whoever knows a key takes it.
struct Section {
    file: String,
    path: String,
    table: Table,
}

impl Section {
    fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn invalid(&self, key: &str, reason: impl Into<String>) -> Invalid {
        Invalid {
            file: self.file.clone(),
            key: self.key(key),
            reason: reason.into(),
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Toml::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(key, "must be a text")),
        }
    }

    fn required_text(&mut self, key: &str) -> Result<String> {
        self.text(key)?
            .ok_or_else(|| self.invalid(key, "is missing"))
    }

    fn number(&mut self, key: &str) -> Result<Option<f64>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Toml::Integer(number)) => Ok(Some(number as f64)),
            Some(Toml::Float(number)) => Ok(Some(number)),
            Some(_) => Err(self.invalid(key, "must be a number")),
        }
    }

    fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        let entry = |value| match value {
            Toml::String(text) => Some(text),
            _ => None,
        };
        match self.table.remove(key) {
            None => Ok(None),
            Some(Toml::Array(values)) => values
                .into_iter()
                .map(entry)
                .collect::<Option<_>>()
                .map(Some)
                .ok_or_else(|| self.invalid(key, "must be a list of texts")),
            Some(_) => Err(self.invalid(key, "must be a list of texts")),
        }
    }

    fn one_of<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| {
            let names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            self.invalid(key, format!("must be {}, not `{text}`", names.join(" or ")))
        })
    }

    fn duration(
        &mut self,
        key: &str,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Result<Option<Duration>> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let duration = duration(&text).map_err(|reason| self.invalid(key, reason))?;
        if !bounds.contains(&duration) {
            let (least, most) = (bounds.start(), bounds.end());
            let reason = format!("must be between {least:?} and {most:?}, not `{text}`");
            return Err(self.invalid(key, reason));
        }
        Ok(Some(duration))
    }

    /// A table in it; every one of them has a key that must be there.
    fn section(&mut self, key: &str) -> Result<Self> {
        match self.table.remove(key) {
            None => Err(self.invalid(key, "is missing")),
            Some(Toml::Table(table)) => Ok(Self {
                file: self.file.clone(),
                path: self.key(key),
                table,
            }),
            Some(_) => Err(self.invalid(key, "must be a table")),
        }
    }

    /// Refuses what nobody took.
    fn finish(self) -> Result<()> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.invalid(key, "is not known here")),
        }
    }
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| millis > 0);
    number
        .and_then(|number| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("has `{text}`, which isn't like `500ms`, `10s`, `5m`, `2h` or `7d`"))
}

fn schedule(mut retry: Section) -> Result<Schedule> {
    let delays = retry.texts("delays")?;
    let jitter = retry.number("jitter")?.unwrap_or(0.0);
    let pauses = if let Some(delays) = delays {
        let millis = |text: &String| duration(text).map(|delay| delay.as_millis() as u64);
        let delays: std::result::Result<_, String> = delays.iter().map(millis).collect();
        Pauses::Delays(delays.map_err(|reason| retry.invalid("delays", reason))?)
    } else {
        let first = retry.duration("first", Duration::ZERO..=MAX_DELAY)?;
        let first =
            first.ok_or_else(|| retry.invalid("first", "is missing, and so is `delays`"))?;
        let cap = retry.duration("cap", Duration::ZERO..=MAX_DELAY)?;
        let retries = retry
            .number("retries")?
            .ok_or_else(|| retry.invalid("retries", "is missing"))?;
        if retries.fract() != 0.0 || !(0.0..=f64::from(u16::MAX)).contains(&retries) {
            return Err(retry.invalid("retries", "must be a whole number"));
        }
        Pauses::Exponential {
            first: first.as_millis() as u64,
            factor: retry.number("factor")?.unwrap_or(2.0),
            cap: cap.unwrap_or(MAX_DELAY).as_millis() as u64,
            retries: retries as u16,
        }
    };
    let schedule = Schedule { pauses, jitter };
    schedule.check().map_err(|error| Invalid {
        file: retry.file.clone(),
        key: retry.path.clone(),
        reason: format!("is out of bounds: {error}"),
    })?;
    retry.finish()?;
    Ok(schedule)
}

fn answers(mut section: Section) -> Result<Answers> {
    let mut statuses = |key| {
        let entries = section.texts(key)?.unwrap_or_default();
        Statuses::parse(entries.iter().map(String::as_str))
            .map_err(|reason| section.invalid(key, reason))
    };
    let answers = Answers {
        success: statuses("success")?,
        stop: statuses("stop")?,
        disable: statuses("disable")?,
    };
    if !(100..600).any(|status| answers.success.contain(status)) {
        return Err(section.invalid("success", "must have at least one status"));
    }
    if let Some(status) = answers.contradiction() {
        let reason = format!("and its neighbours give {status} two meanings");
        return Err(section.invalid("success", reason));
    }
    section.finish()?;
    Ok(answers)
}

/// What placeholders may name besides fields.
struct Names {
    signatures: Vec<String>,
    form: Form,
}

impl Names {
    fn signature(&self, name: &str) -> Option<std::result::Result<usize, String>> {
        let name = name.strip_prefix("signatures.")?;
        let place = self.signatures.iter().position(|known| known == name);
        Some(place.ok_or_else(|| format!("names the signature `{name}`, which there isn't")))
    }

    fn body(&self, section: Section, depth: usize) -> Result<Vec<Member>> {
        if depth == MAX_NESTING {
            return Err(Invalid {
                file: section.file,
                key: section.path,
                reason: format!("is nested more than {MAX_NESTING} levels deep"),
            });
        }
        let Section { file, path, table } = section;
        let within = Section {
            file,
            path,
            table: Table::new(),
        };
        let mut members = Vec::with_capacity(table.len());
        for (name, value) in table {
            if self.form == Form::JavaScript && javascript::is_index(&name) {
                let reason = "is an integer, which JavaScript would put first";
                return Err(within.invalid(&name, reason));
            }
            let value = match value {
                Toml::String(text) => {
                    let value = self.body_text(&text);
                    value.map_err(|reason| within.invalid(&name, reason))?
                }
                Toml::Integer(number) => Value::Constant(javascript::number(number as f64)),
                Toml::Float(number) if number.is_finite() => {
                    Value::Constant(javascript::number(number))
                }
                Toml::Boolean(truth) => Value::Constant(truth.to_string()),
                Toml::Table(table) => {
                    let section = Section {
                        file: within.file.clone(),
                        path: within.key(&name),
                        table,
                    };
                    Value::Object(self.body(section, depth + 1)?)
                }
                _ => {
                    let reason = "must be a text, a number, a boolean or a table";
                    return Err(within.invalid(&name, reason));
                }
            };
            let spread = matches!(value, Value::Attributes);
            if spread != (name == SPREAD) || spread && depth > 0 {
                let reason = "`{attributes}` stands at the key `...` of the body, and only there";
                return Err(within.invalid(&name, reason));
            }
            if spread && self.form == Form::JavaScript {
                let reason = "can't be had in the form `javascript`";
                return Err(within.invalid(&name, reason));
            }
            members.push(Member { name, value });
        }
        Ok(members)
    }

    fn body_text(&self, text: &str) -> std::result::Result<Value, String> {
        /// What a placeholder in the body may be.
        enum Named {
            Of(Field),
            Alone(Value),
        }
        let template = Template::parse(text, |name| {
            if let Some(signature) = self.signature(name) {
                return signature.map(|place| Named::Alone(Value::Signature(place)));
            }
            match name {
                "data" => Ok(Named::Alone(Value::Data)),
                "attributes" => Ok(Named::Alone(Value::Attributes)),
                _ => Field::parse(name).map(Named::Of).ok_or_else(|| {
                    let fields = Field::NAMES;
                    format!(
                        "names `{name}`; the body has {fields}, data, attributes, signatures.<name>"
                    )
                }),
            }
        })?;
        match template.only() {
            Some(Named::Alone(value)) => return Ok(value.clone()),
            Some(Named::Of(field)) if field.is_number() => return Ok(Value::Number(*field)),
            _ => {}
        }
        if template.fields().any(|f| matches!(f, Named::Alone(_))) {
            return Err("has text around `{data}`, `{attributes}` or a signature".to_owned());
        }
        // Nothing but fields is left.
        let fields = Template::parse(text, |name| Field::parse(name).ok_or_else(String::new))?;
        Ok(Value::Text(fields))
    }

    fn headers(&self, section: Section) -> Result<Vec<(HeaderName, Template<InHeader>)>> {
        let Section { file, path, table } = section;
        let within = Section {
            file,
            path,
            table: Table::new(),
        };
        let mut headers: Vec<(HeaderName, _)> = Vec::with_capacity(table.len());
        for (name, value) in table {
            let header = HeaderName::try_from(&name)
                .map_err(|_| within.invalid(&name, "is not a header name (RFC 9110)"))?;
            if RESERVED_HEADERS.contains(&header.as_str()) {
                let reason = "is set by Posthorn, by the connection or by `content_type`";
                return Err(within.invalid(&name, reason));
            }
            if headers.iter().any(|(known, _)| *known == header) {
                return Err(within.invalid(&name, "is there twice"));
            }
            let Toml::String(text) = value else {
                return Err(within.invalid(&name, "must be a text"));
            };
            let template = Template::parse(&text, |field| {
                if let Some(signature) = self.signature(field) {
                    return signature.map(InHeader::Signature);
                }
                Field::parse(field).map(InHeader::Of).ok_or_else(|| {
                    let fields = Field::NAMES;
                    format!("names `{field}`; a header has {fields}, signatures.<name>")
                })
            })
            .map_err(|reason| within.invalid(&name, reason))?;
            if template
                .literals()
                .any(|text| HeaderValue::from_str(text).is_err())
            {
                return Err(within.invalid(&name, "has characters that a header can't have"));
            }
            headers.push((header, template));
        }
        Ok(headers)
    }
}

fn signatures(section: Section, body: &[Member]) -> Result<Vec<Signature>> {
    let Section { file, path, table } = section;
    let mut signatures = Vec::with_capacity(table.len());
    for (name, value) in table {
        let Toml::Table(table) = value else {
            return Err(Invalid {
                file,
                key: format!("{path}.{name}"),
                reason: "must be a table".to_owned(),
            });
        };
        let mut section = Section {
            file: file.clone(),
            path: format!("{path}.{name}"),
            table,
        };
        let signs = section.required_text("signs")?;
        let signs = Template::parse(&signs, |field| signed(field, body))
            .map_err(|reason| section.invalid("signs", reason))?;
        let encoding = section.required_text("encoding")?;
        let encoding = digest(&encoding).map_err(|reason| section.invalid("encoding", reason))?;
        let ed25519 = section.text("ed25519")?;
        let ed25519 = ed25519
            .map(|text| digest(&text))
            .transpose()
            .map_err(|reason| section.invalid("ed25519", reason))?;
        let key = section.one_of("key", &[("text", Key::Text), ("whsec", Key::Whsec)])?;
        let secrets = section.one_of(
            "secrets",
            &[("current", Signing::Current), ("all", Signing::All)],
        )?;
        if ed25519.is_some() && secrets != Some(Signing::All) {
            return Err(section.invalid("ed25519", "needs `secrets = \"all\"`: it joins a list"));
        }
        section.finish()?;
        signatures.push(Signature {
            name,
            signs,
            encoding,
            ed25519,
            key: key.unwrap_or(Key::Text),
            secrets: secrets.unwrap_or(Signing::Current),
        });
    }
    Ok(signatures)
}

/// How a signature is written: `sha256={hex}`.
fn digest(text: &str) -> std::result::Result<Template<Digest>, String> {
    let template = Template::parse(text, |field| match field {
        "hex" => Ok(Digest::Hex),
        "base64" => Ok(Digest::Base64),
        _ => Err(format!("names `{field}`; there is hex and base64")),
    })?;
    if template.fields().count() != 1 {
        return Err("must have one of `{hex}` and `{base64}`".to_owned());
    }
    if template
        .literals()
        .any(|text| HeaderValue::from_str(text).is_err())
    {
        return Err("has characters that a header can't have".to_owned());
    }
    Ok(template)
}

fn signed(name: &str, body: &[Member]) -> std::result::Result<Signed, String> {
    let member = |member: &str| {
        body.iter()
            .position(|known| known.name == member && member != SPREAD)
            .ok_or_else(|| format!("names the body's member `{member}`, which there isn't"))
    };
    if name == "body" {
        Ok(Signed::Body)
    } else if let Some(name) = name.strip_prefix("body without ") {
        member(name).map(Signed::Without)
    } else if let Some(name) = name.strip_prefix("body.") {
        member(name).map(Signed::Member)
    } else {
        Field::parse(name).map(Signed::Of).ok_or_else(|| {
            let fields = Field::NAMES;
            format!("names `{name}`; there is {fields}, body, body.<member>, body without <member>")
        })
    }
}

/// No signature covers itself, and each is used.
fn check_signatures(dialect: &Dialect) -> std::result::Result<(), (String, String)> {
    let holders: Vec<&Member> = dialect
        .body
        .iter()
        .filter(|member| !member.value.signatures().is_empty())
        .collect();
    let held: Vec<usize> = holders.iter().flat_map(|m| m.value.signatures()).collect();
    if let [_, second, ..] = held.as_slice() {
        let name = &dialect.signatures[*second].name;
        let reason =
            format!("has two signatures, the second is `{name}`: one would cover the other");
        return Err(("body".to_owned(), reason));
    }
    if let Some((place, signature)) = dialect.signed_member() {
        let signature = &dialect.signatures[signature];
        let member = &dialect.body[place].name;
        let covers_itself = signature.signs.fields().any(|part| match part {
            Signed::Of(_) => false,
            Signed::Body => true,
            Signed::Member(covered) => *covered == place,
            Signed::Without(left_out) => *left_out != place,
        });
        if covers_itself {
            let reason =
                format!("covers the member that holds it; there is `{{body without {member}}}`");
            return Err((format!("signatures.{}.signs", signature.name), reason));
        }
    }
    let in_headers = dialect
        .headers
        .iter()
        .flat_map(|(_, template)| template.fields());
    let in_headers: Vec<usize> = in_headers
        .filter_map(|field| match field {
            InHeader::Signature(place) => Some(*place),
            InHeader::Of(_) => None,
        })
        .collect();
    for (place, signature) in dialect.signatures.iter().enumerate() {
        if !held.contains(&place) && !in_headers.contains(&place) {
            let key = format!("signatures.{}", signature.name);
            return Err((key, "is used nowhere".to_owned()));
        }
    }
    if dialect.signatures.is_empty() {
        return Err(("signatures".to_owned(), "must have at least one".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[body]
data = '{data}'
[headers]
X-Signature = '{signatures.main}'
[signatures.main]
signs = '{body}'
encoding = '{hex}'
[retry]
delays = []
[answers]
success = ['2xx']
"#;

    #[test]
    fn little_is_enough() {
        let dialect = read("shop.toml", GOOD).unwrap();
        assert_eq!(dialect.name(), "shop");
        assert_eq!(dialect.policy().timeout, TIMEOUT);
        assert_eq!(dialect.policy().max_age, time::Duration::days(7));
    }

    #[test]
    fn json_is_understood_too() {
        let text = r#"{
            "body": {"z": 1, "data": "{data}", "a": {"n": 2.50, "t": true}},
            "headers": {"X-Signature": "{signatures.main}"},
            "signatures": {"main": {"signs": "{body}", "encoding": "{hex}"}},
            "retry": {"first": "1s", "retries": 2, "jitter": 0.5},
            "answers": {"success": ["200"]}
        }"#;
        let dialect = read("shop.json", text).unwrap();
        let names: Vec<_> = dialect.body.iter().map(|member| &member.name).collect();
        assert_eq!(names, ["z", "data", "a"], "in the file's order");
    }

    #[test]
    fn what_is_wrong_is_named_by_file_key_and_reason() {
        for (from, to, key, reason) in [
            ("[body]", "[bodi]", "`body`", "is missing"),
            (
                "[retry]",
                "[retry]\ntimes = 3",
                "`retry.times`",
                "not known",
            ),
            ("[body]", "colour = 1\n[body]", "`colour`", "not known"),
            (
                "[body]",
                "form = 'ruby'\n[body]",
                "`form`",
                "`as-published` or `javascript`, not `ruby`",
            ),
            (
                "[body]",
                "timeout = '61s'\n[body]",
                "`timeout`",
                "between 1s and 60s",
            ),
            (
                "[body]",
                "timeout = 10\n[body]",
                "`timeout`",
                "must be a text",
            ),
            ("[body]", "max_age = '8d'\n[body]", "`max_age`", "not `8d`"),
            ("[body]", "max_age = 'week'\n[body]", "`max_age`", "`week`"),
            ("{data}", "{date}", "`body.data`", "names `date`"),
            ("{data}", "a {data}", "`body.data`", "text around"),
            (
                "{data}",
                "{signatures.other}",
                "`body.data`",
                "`other`, which there isn't",
            ),
            (
                "{data}",
                "{signatures.main}",
                "`signatures.main.signs`",
                "{body without data}",
            ),
            ("{data}", "{attributes}", "`body.data`", "at the key `...`"),
            ("data =", "'...' =", "`body....`", "at the key `...`"),
            ("'{data}'", "[1]", "`body.data`", "must be a text, a number"),
            (
                "'{data}'",
                "{ a = { b = '{x}' } }",
                "`body.data.a.b`",
                "names `x`",
            ),
            (
                "[body]",
                "form = 'javascript'\n[body]\n1 = 2",
                "`body.1`",
                "is an integer",
            ),
            (
                "X-Signature",
                "Content-Length",
                "`headers.Content-Length`",
                "is set by",
            ),
            ("X-Signature", "'a b'", "`headers.a b`", "not a header name"),
            (
                "'{signatures.main}'",
                "\"\\u0007\"",
                "`headers.X-Signature`",
                "characters",
            ),
            (
                "X-Signature = ",
                "x-signature = ''\nX-Signature = ",
                "`headers.X-Signature`",
                "twice",
            ),
            (
                "{signatures.main}",
                "x",
                "`signatures.main`",
                "used nowhere",
            ),
            (
                "{body}",
                "{body.date}",
                "`signatures.main.signs`",
                "`date`, which there isn't",
            ),
            (
                "{body}",
                "{bod",
                "`signatures.main.signs`",
                "without its `}`",
            ),
            (
                "{hex}",
                "{hex}{base64}",
                "`signatures.main.encoding`",
                "must have one of",
            ),
            (
                "{hex}",
                "sha256",
                "`signatures.main.encoding`",
                "must have one of",
            ),
            (
                "encoding",
                "encodings",
                "`signatures.main.encoding`",
                "is missing",
            ),
            (
                "[retry]",
                "key = 'pem'\n[retry]",
                "`signatures.main.key`",
                "not `pem`",
            ),
            ("delays = []", "", "`retry.first`", "and so is `delays`"),
            ("delays = []", "delays = ['2d']", "`retry`", "86400000"),
            (
                "delays = []",
                "delays = [5]",
                "`retry.delays`",
                "list of texts",
            ),
            ("delays = []", "delays = ['5']", "`retry.delays`", "`5`"),
            (
                "delays = []",
                "first = '1s'\nretries = 1.5",
                "`retry.retries`",
                "whole",
            ),
            ("delays = []", "first = '1s'\nretries = 50", "`retry`", "49"),
            (
                "delays = []",
                "delays = []\nretries = 3",
                "`retry.retries`",
                "not known",
            ),
            ("2xx", "2yy", "`answers.success`", "`2yy`"),
            ("['2xx']", "[]", "`answers.success`", "at least one"),
            (
                "['2xx']",
                "['2xx']\nstop = ['204']",
                "`answers.success`",
                "204 two meanings",
            ),
            ("[retry]", "[retry", "shop.toml", "not TOML"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replacen(from, to, 1);
            let error = read("shop.toml", &text).unwrap_err().to_string();
            assert!(
                error.starts_with("shop.toml: ") && error.contains(key) && error.contains(reason),
                "{error} for {to}"
            );
        }
        for (file, reason) in [
            ("Shop.toml", "named with"),
            ("shop.yaml", "must end"),
            (".toml", "named with"),
        ] {
            let error = read(file, GOOD).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let error = read("shop.json", r#"{"body": null}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("shop.json: is not a dialect in JSON"),
            "{error}"
        );
    }
}
