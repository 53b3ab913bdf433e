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

use super::definition::{Dialect, Digest, Form, InHeader, KeyForm, Signed, Signing, Value};
use super::javascript;
use super::message::{Message, Wire};
use super::template::Template;
use crate::secret::{Secret, Secrets};

impl Dialect {
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
                KeyForm::Text => hmac_sha256(secret.expose().as_bytes(), signed.as_bytes()),
                KeyForm::Whsec => hmac_sha256(secret.key().expose_secret(), signed.as_bytes()),
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
