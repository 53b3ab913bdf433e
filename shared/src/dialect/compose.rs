//! Composes a delivery: from a message and the webhook's secrets to the exact bytes and
//! headers.
//!
//! Pure: no I/O. The signature covers exactly what is sent: the body is written once, and
//! signed parts of it are slices of those bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use axum::http::{HeaderName, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use secrecy::ExposeSecret;
use serde_json::value::RawValue;
use sha2::Sha256;
use time::OffsetDateTime;

use super::api::Additions;
use super::javascript;
use super::message::{Message, Wire};
use super::policy::Policy;
use super::template::{Field, Template};
use crate::secret::{Secret, Secrets};

/// The format of deliveries and the meaning of answers. A file, parsed and checked.
#[derive(Debug, Clone)]
pub struct Dialect {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) definition: String,
    pub(super) policy: Policy,
    pub(super) form: Form,
    /// See [`Dialect::unwraps`].
    pub(super) unwrap: Option<String>,
    pub(super) additions: Additions,
    pub(super) content_type: HeaderValue,
    pub(super) body: Vec<Member>,
    /// The body is the value of its only member, the event's data, without an object around it.
    pub(super) is_bare: bool,
    pub(super) headers: Headers,
    /// The prefix of headers that are CloudEvents attributes, percent-encoded.
    pub(super) spread: Option<String>,
    pub(super) signatures: Vec<Signature>,
}

/// The headers of a dialect, with the templates of their values.
pub(super) type Headers = Vec<(HeaderName, Template<InHeader>)>;

/// How JSON is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The data exactly as its producer wrote it.
    AsPublished,
    /// All JSON as JavaScript would write it after parsing it.
    JavaScript,
}

/// A member of the body.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) value: Value,
}

/// The value of a member of the body.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// JSON text.
    Constant(String),
    Text(Template<Field>),
    Number(Field),
    Data,
    /// The signature with this index.
    Signature(usize),
    Object(Vec<Member>),
    /// CloudEvents attributes: all members that the producer sent and that the body
    /// doesn't name.
    Attributes,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum InHeader {
    Of(Field),
    Signature(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub(super) name: String,
    pub(super) signs: Template<Signed>,
    pub(super) encoding: Template<Digest>,
    /// How signatures by ed25519 keys are written. `None`: the dialect has none.
    pub(super) ed25519: Option<Template<Digest>>,
    pub(super) key: Key,
    pub(super) secrets: Signing,
}

/// What a signature covers. Members of the body are given by their index.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Signed {
    Of(Field),
    Body,
    Member(usize),
    Without(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    Hex,
    Base64,
}

/// How a secret becomes an HMAC key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The secret's characters.
    Text,
    /// The part after `whsec_`, decoded. If the secret doesn't start with that, its
    /// characters.
    Whsec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signing {
    Current,
    /// During a rotation also the previous secret's signature, separated by a space.
    All,
}

impl Dialect {
    /// The name that webhooks and tenants use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The description for people.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    #[must_use]
    pub fn definition(&self) -> &str {
        &self.definition
    }

    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the API's answers have in addition.
    #[must_use]
    pub fn additions(&self) -> &Additions {
        &self.additions
    }

    /// The member that deliveries wrap the data in. Data that consists of this member alone
    /// was wrapped by its producer, and stands for the member's value.
    #[must_use]
    pub fn unwraps(&self) -> Option<&str> {
        self.unwrap.as_deref()
    }

    /// Whether the dialect sets this header itself. `name` is in lower case.
    #[must_use]
    pub fn sets_header(&self, name: &str) -> bool {
        let spread = self.spread.as_ref();
        self.headers.iter().any(|(set, _)| set.as_str() == name)
            || spread.is_some_and(|prefix| name.starts_with(prefix))
    }

    /// Writes and signs a delivery.
    #[must_use]
    pub fn compose(&self, message: &Message<'_>, secrets: &Secrets, now: OffsetDateTime) -> Wire {
        let data = match &self.unwrap {
            Some(member) => inner(message.data, member),
            None => message.data,
        };
        let data = match self.form {
            Form::AsPublished => Cow::Borrowed(data),
            // `ingest` accepts only JSON data, so this can't fail.
            Form::JavaScript => javascript::rewrite(data).map_or(Cow::Borrowed(data), Cow::Owned),
        };
        let mut composer = Composer {
            dialect: self,
            message,
            secrets,
            now,
            data: &data,
            body_signature: String::new(),
        };
        if let Some((member, signature)) = self.signed_member() {
            let rest = composer.body(Some(member));
            composer.body_signature = composer.sign(signature, &rest);
        }
        let body = composer.body(None);

        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        headers.push((header::CONTENT_TYPE, self.content_type.clone()));
        for (name, template) in &self.headers {
            let text = template.render(|field| match field {
                InHeader::Of(field) => field.write(message, now),
                InHeader::Signature(signature) => composer.sign(*signature, &body),
            });
            let text = match self.attribute_name(name) {
                Some(attribute) => encoded(match message.attributes {
                    Some(own) => own.get(attribute).map_or(text, attribute_text),
                    None => text,
                }),
                None => text,
            };
            // Fields and signatures are visible ASCII, which every header value may
            // contain. The text around them was checked when the file was read.
            let value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
            headers.push((name.clone(), value));
        }
        self.add_attributes(message, &mut headers);
        Wire {
            body: body.text.into_bytes(),
            headers,
        }
    }

    /// The attribute that a header has, if it has one.
    fn attribute_name<'n>(&self, header: &'n HeaderName) -> Option<&'n str> {
        header.as_str().strip_prefix(self.spread.as_ref()?.as_str())
    }

    /// Adds the producer's attributes that no header of the file has.
    fn add_attributes(&self, message: &Message<'_>, headers: &mut Vec<(HeaderName, HeaderValue)>) {
        let (Some(prefix), Some(attributes)) = (&self.spread, message.attributes) else {
            return;
        };
        for (attribute, value) in attributes {
            // The content type says it.
            if attribute == "datacontenttype" {
                continue;
            }
            let name = HeaderName::try_from(format!("{prefix}{attribute}"));
            let value = HeaderValue::try_from(encoded(attribute_text(value)));
            if let (Ok(name), Ok(value)) = (name, value)
                && !self.headers.iter().any(|(own, _)| *own == name)
            {
                headers.push((name, value));
            }
        }
    }

    /// Whether the previous secret signs too until a rotation's overlap ends.
    #[must_use]
    pub fn signs_with_previous_secret(&self) -> bool {
        let mut signatures = self.signatures.iter();
        signatures.any(|signature| signature.secrets == Signing::All)
    }

    /// Whether a secret that begins with `whsec_` must go on with base64.
    #[must_use]
    pub fn decodes_secrets(&self) -> bool {
        let mut signatures = self.signatures.iter();
        signatures.any(|signature| signature.key == Key::Whsec)
    }

    /// Whether it can send a signature by an ed25519 key.
    #[must_use]
    pub fn takes_signing_keys(&self) -> bool {
        self.signatures
            .iter()
            .any(|signature| signature.ed25519.is_some())
    }

    /// The index of the member of the body that holds a signature, and the index of
    /// that signature.
    pub(super) fn signed_member(&self) -> Option<(usize, usize)> {
        self.body
            .iter()
            .enumerate()
            .find_map(|(place, member)| Some((place, *member.value.signatures().first()?)))
    }
}

impl Value {
    /// The signatures that this value contains.
    pub(super) fn signatures(&self) -> Vec<usize> {
        match self {
            Self::Signature(signature) => vec![*signature],
            Self::Object(members) => members
                .iter()
                .flat_map(|member| member.value.signatures())
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// A written body, and the position of each member's value in it.
struct Written {
    text: String,
    values: Vec<Range<usize>>,
    without: Option<usize>,
}

struct Composer<'a> {
    dialect: &'a Dialect,
    message: &'a Message<'a>,
    secrets: &'a Secrets,
    now: OffsetDateTime,
    data: &'a str,
    /// The signature that the body itself contains.
    body_signature: String,
}

impl Composer<'_> {
    /// The body, or all of it except one member.
    fn body(&self, without: Option<usize>) -> Written {
        let members = &self.dialect.body;
        let spreads = members.iter().any(|m| matches!(m.value, Value::Attributes));
        let attributes = self.message.attributes.filter(|_| spreads);
        let mut written = Written {
            text: String::with_capacity(self.data.len() + 256),
            values: vec![0..0; members.len()],
            without,
        };
        let out = &mut written.text;
        if self.dialect.is_bare {
            out.push_str(self.data);
            written.values = vec![0..out.len(); members.len()];
            return written;
        }
        out.push('{');
        for (place, member) in members.iter().enumerate() {
            if without == Some(place) {
                continue;
            }
            if let Value::Attributes = member.value {
                for (name, value) in attributes.into_iter().flatten() {
                    if !members.iter().any(|member| member.name == *name) {
                        push_name(out, name);
                        out.push_str(&value.to_string());
                    }
                }
                continue;
            }
            push_name(out, &member.name);
            let start = out.len();
            match attributes.and_then(|attributes| attributes.get(&member.name)) {
                Some(own) if !matches!(member.value, Value::Data | Value::Signature(_)) => {
                    out.push_str(&own.to_string());
                }
                _ => self.value(out, &member.value),
            }
            written.values[place] = start..out.len();
        }
        out.push('}');
        written
    }

    fn value(&self, out: &mut String, value: &Value) {
        match value {
            Value::Constant(json) => out.push_str(json),
            Value::Text(template) => {
                let text = template.render(|field| field.write(self.message, self.now));
                out.push_str(&javascript::quote(&text));
            }
            Value::Number(field) => out.push_str(&field.write(self.message, self.now)),
            Value::Data => out.push_str(self.data),
            Value::Signature(_) => out.push_str(&javascript::quote(&self.body_signature)),
            Value::Object(members) => {
                out.push('{');
                for member in members {
                    push_name(out, &member.name);
                    self.value(out, &member.value);
                }
                out.push('}');
            }
            // Attributes occur only at the top of a body, where `body` writes them.
            Value::Attributes => {}
        }
    }

    fn sign(&self, signature: usize, body: &Written) -> String {
        let signature = &self.dialect.signatures[signature];
        let signed = signature.signs.render(|part| match part {
            Signed::Of(field) => Cow::Owned(field.write(self.message, self.now)),
            Signed::Body => Cow::Borrowed(body.text.as_str()),
            Signed::Member(place) => Cow::Borrowed(&body.text[body.values[*place].clone()]),
            Signed::Without(place) if body.without == Some(*place) => {
                Cow::Borrowed(body.text.as_str())
            }
            Signed::Without(place) => Cow::Owned(self.body(Some(*place)).text),
        });
        let one = |secret: &Secret| {
            let mac = match signature.key {
                Key::Text => hmac_sha256(secret.expose().as_bytes(), signed.as_bytes()),
                Key::Whsec => hmac_sha256(secret.key().expose_secret(), signed.as_bytes()),
            };
            encode(&signature.encoding, &mac)
        };
        match signature.secrets {
            Signing::Current => one(self.secrets.current()),
            Signing::All => {
                let mut all: Vec<_> = self.secrets.signing(self.now).map(one).collect();
                if let Some(encoding) = &signature.ed25519 {
                    let keys = self.secrets.signing_keys(self.now);
                    all.extend(keys.map(|key| encode(encoding, &key.sign(signed.as_bytes()))));
                }
                all.join(" ")
            }
        }
    }
}

/// An attribute as a header has it.
fn attribute_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Percent-encoded, as CloudEvents' binding to HTTP wants it (section 3.1.3.2).
fn encoded(text: String) -> String {
    const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
    match utf8_percent_encode(&text, ENCODED).into() {
        Cow::Borrowed(_) => text,
        Cow::Owned(encoded) => encoded,
    }
}

/// The value of the member that the data consists of, if that is an object; otherwise the data.
fn inner<'a>(data: &'a str, member: &str) -> &'a str {
    // Most data begins with another member. Then nothing is parsed.
    let begin = data.trim_start().strip_prefix('{').map(str::trim_start);
    let begin = begin.and_then(|text| text.strip_prefix('"'));
    if !begin.is_some_and(|text| text.starts_with(member)) {
        return data;
    }
    let members: Option<BTreeMap<&str, &RawValue>> = serde_json::from_str(data).ok();
    match members
        .as_ref()
        .map(|members| (members.len(), members.get(member)))
    {
        Some((1, Some(value))) if value.get().starts_with('{') => value.get(),
        _ => data,
    }
}

pub(super) fn encode(encoding: &Template<Digest>, signature: &[u8]) -> String {
    encoding.render(|digest| match digest {
        Digest::Hex => hex::encode(signature),
        Digest::Base64 => BASE64.encode(signature),
    })
}

/// `"name":`, after a comma unless it is the first.
pub(super) fn push_name(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(&javascript::quote(name));
    out.push(':');
}

pub(super) fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        // HMAC accepts keys of any length (RFC 2104, section 2).
        unreachable!("HMAC refused a key");
    };
    mac.update(message);
    mac.finalize().into_bytes().into()
}
