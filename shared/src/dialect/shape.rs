//! Parses the body and the headers of a dialect's file.

use axum::http::{HeaderName, HeaderValue};
use toml::{Table, Value as Toml};

use super::definition::{Form, Headers, InHeader, Member, Value};
use super::javascript;
use super::section::Invalid;
use super::section::{Result, Section};
use super::template::{Field, Template};
use crate::headers::is_reserved;

/// The key at which CloudEvents attributes are inserted.
pub(super) const SPREAD: &str = "...";
/// The deepest nesting of tables in the body.
const MAX_NESTING: usize = 8;
/// The names that placeholders may use, in addition to fields.
pub(super) struct Names {
    /// The names of the signatures, in the file's order.
    pub(super) signatures: Vec<String>,
    /// How JSON is written.
    pub(super) form: Form,
}

impl Names {
    fn signature(&self, name: &str) -> Option<std::result::Result<usize, String>> {
        let name = name.strip_prefix("signatures.")?;
        let place = self.signatures.iter().position(|known| known == name);
        Some(place.ok_or_else(|| format!("names the signature `{name}`, which does not exist")))
    }

    /// Parses the body's members.
    pub(super) fn body(&self, section: Section, depth: usize) -> Result<Vec<Member>> {
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
                let reason = "is an integer, and JavaScript would move it to the front";
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
                let reason =
                    "must be `{attributes}` at the key `...` of the body, and nowhere else";
                return Err(within.invalid(&name, reason));
            }
            if spread && self.form == Form::JavaScript {
                let reason = "is not possible in the form `javascript`";
                return Err(within.invalid(&name, reason));
            }
            members.push(Member { name, value });
        }
        Ok(members)
    }

    fn body_text(&self, text: &str) -> std::result::Result<Value, String> {
        /// The meanings of a placeholder in the body.
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
        // Only fields are left.
        let fields = Template::parse(text, |name| Field::parse(name).ok_or_else(String::new))?;
        Ok(Value::Text(fields))
    }

    /// Parses the headers. Answers also the prefix of headers with CloudEvents attributes, if
    /// there are such headers.
    pub(super) fn headers(&self, section: Section) -> Result<(Headers, Option<String>)> {
        let Section {
            file,
            path,
            mut table,
        } = section;
        let within = Section {
            file,
            path,
            table: Table::new(),
        };
        let spread = table.keys().find_map(|key| key.strip_suffix(SPREAD));
        let spread = spread.map(str::to_owned);
        if let Some(prefix) = &spread {
            let key = format!("{prefix}{SPREAD}");
            let value = table.remove(&key);
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'-';
            if prefix.is_empty() || !prefix.bytes().all(plain) {
                return Err(within.invalid(&key, "needs a prefix of `a-z` and `-`"));
            }
            if value.as_ref().and_then(|value| value.as_str()) != Some("{attributes}") {
                return Err(within.invalid(&key, "must be `{attributes}`"));
            }
        }
        let mut headers: Vec<(HeaderName, _)> = Vec::with_capacity(table.len());
        for (name, value) in table {
            let header = HeaderName::try_from(&name)
                .map_err(|_| within.invalid(&name, "is not a header name (RFC 9110)"))?;
            if is_reserved(header.as_str()) {
                let reason = "is set by Posthorn, by the connection or by `content_type`";
                return Err(within.invalid(&name, reason));
            }
            if headers.iter().any(|(known, _)| *known == header) {
                return Err(within.invalid(&name, "must occur only once"));
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
                return Err(
                    within.invalid(&name, "has characters that are not allowed in a header")
                );
            }
            headers.push((header, template));
        }
        Ok((headers, spread))
    }
}
