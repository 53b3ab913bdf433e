//! Checks signatures as a receiver does: from the headers and the body that came, and a
//! secret. Pure.
//!
//! Composing knows the message; a receiver knows only what it got. So a value that a
//! signature covers is taken from the header that has it.

use std::fmt;

use axum::http::HeaderName;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::ExposeSecret;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::compose::{encode, hmac_sha256, push_name};
use super::definition::{Dialect, Digest, InHeader, KeyForm, Signed};
use super::template::{Clock, Field, Template};
use crate::secret::Secret;

/// What a receiver got.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub headers: &'a [(String, String)],
    pub body: &'a str,
}

/// A signature of a dialect: where it is, and what it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureSpec {
    index: usize,
    /// A header's name, or `None`.
    pub header: Option<HeaderName>,
    /// A member of the body, or `None`.
    pub member: Option<String>,
    /// What is signed, in words of the dialect's file: `event_id.sent_at:unix.body`.
    pub covers: String,
    /// How a signature is written, in words of the dialect's file: `sha256={hex}`.
    pub encoding: String,
}

/// How a secret is made a key. Receivers that verify do what the dialect says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyed {
    /// As the dialect says.
    Rightly,
    /// Its characters, where the part after `whsec_` should be decoded.
    AsText,
    /// The part after `whsec_`, decoded, where its characters are the key.
    Decoded,
}

/// What a signature covers isn't in what was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

impl fmt::Display for SignatureSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.header, &self.member) {
            (Some(header), _) => write!(f, "{header}"),
            (None, Some(member)) => write!(f, "body.{member}"),
            (None, None) => Ok(()),
        }
    }
}

impl Received<'_> {
    /// A header, if it is there.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.trim().eq_ignore_ascii_case(name.as_str()));
        found.map(|(_, value)| value.trim())
    }
}

impl Dialect {
    /// Its signatures.
    #[must_use]
    pub fn signature_specs(&self) -> Vec<SignatureSpec> {
        let spec = |index: usize, header: Option<HeaderName>, member: Option<String>| {
            let signature = &self.signatures[index];
            SignatureSpec {
                index,
                header,
                member,
                covers: signature.signs.render(|part| match part {
                    Signed::Of(field) => field.name().to_owned(),
                    Signed::Body => "body".to_owned(),
                    Signed::Member(at) => format!("body.{}", self.body[*at].name),
                    Signed::Without(at) => format!("body without {}", self.body[*at].name),
                }),
                encoding: signature.encoding.render(|digest| match digest {
                    Digest::Hex => "{hex}",
                    Digest::Base64 => "{base64}",
                }),
            }
        };
        let mut specs = Vec::new();
        for (name, template) in &self.headers {
            for field in template.fields() {
                if let InHeader::Signature(index) = field {
                    specs.push(spec(*index, Some(name.clone()), None));
                }
            }
        }
        if let Some((member, index)) = self.signed_member() {
            specs.push(spec(index, None, Some(self.body[member].name.clone())));
        }
        specs
    }

    /// The headers without which nothing can be verified: those of signatures, and those with
    /// what they cover.
    #[must_use]
    pub fn needed_headers(&self) -> Vec<HeaderName> {
        let covered = self.signatures.iter().flat_map(|s| s.signs.fields());
        let covered: Vec<Field> = covered
            .filter_map(|part| match part {
                Signed::Of(field) => Some(*field),
                _ => None,
            })
            .collect();
        let is_needed = |field: &InHeader| match field {
            InHeader::Of(field) => covered.contains(field),
            InHeader::Signature(_) => true,
        };
        let headers = self.headers.iter();
        let needed = headers.filter(|(_, template)| template.fields().any(is_needed));
        needed.map(|(name, _)| name.clone()).collect()
    }

    /// When it was sent, if a header says so.
    #[must_use]
    pub fn sent_at(&self, received: &Received<'_>) -> Option<OffsetDateTime> {
        self.headers
            .iter()
            .find_map(|(name, template)| match template.only() {
                Some(InHeader::Of(Field::SentAt(clock))) => {
                    read_time(received.header(name)?, *clock)
                }
                _ => None,
            })
    }

    /// The event's id, if a header says it.
    #[must_use]
    pub fn received_event_id<'r>(&self, received: &'r Received<'_>) -> Option<&'r str> {
        let (name, _) = self
            .headers
            .iter()
            .find(|(_, template)| template.only() == Some(&InHeader::Of(Field::EventId)))?;
        received.header(name)
    }

    /// What came where this signature should be; several texts where a dialect sends a list.
    ///
    /// # Errors
    /// If the header or the member isn't there, or there is something else.
    pub fn received_signatures(
        &self,
        spec: &SignatureSpec,
        received: &Received<'_>,
    ) -> Result<Vec<String>, Missing> {
        let missing = || Missing(spec.to_string());
        let text = match (&spec.header, &spec.member) {
            (Some(name), _) => {
                let value = received.header(name).ok_or_else(missing)?;
                let (_, template) = self
                    .headers
                    .iter()
                    .find(|(known, _)| known == name)
                    .ok_or_else(missing)?;
                let fields = template.read(value).ok_or_else(missing)?;
                let mut fields = fields.into_iter();
                let signature =
                    fields.find(|(field, _)| **field == InHeader::Signature(spec.index));
                signature.ok_or_else(missing)?.1.to_owned()
            }
            (None, Some(member)) => {
                let members = members(received.body).ok_or_else(missing)?;
                let mut members = members.into_iter();
                let (_, raw) = members
                    .find(|(name, _)| name == member)
                    .ok_or_else(missing)?;
                serde_json::from_str(raw.get()).map_err(|_| missing())?
            }
            (None, None) => return Err(missing()),
        };
        Ok(text.split(' ').map(str::to_owned).collect())
    }

    /// Whether a text has the form of this signature: its prefix, and 32 bytes.
    #[must_use]
    pub fn has_form(&self, spec: &SignatureSpec, text: &str) -> bool {
        let encoding = &self.signatures[spec.index].encoding;
        let Some(read) = encoding.read(text) else {
            return false;
        };
        read.iter().all(|(digest, text)| match digest {
            Digest::Hex => hex::decode(text).is_ok_and(|bytes| bytes.len() == 32),
            Digest::Base64 => BASE64.decode(text).is_ok_and(|bytes| bytes.len() == 32),
        })
    }

    /// The signature that this secret makes of what was received.
    ///
    /// # Errors
    /// If something that it covers isn't there.
    pub fn expected(
        &self,
        spec: &SignatureSpec,
        received: &Received<'_>,
        secret: &Secret,
        keyed: Keyed,
    ) -> Result<String, Missing> {
        let signed = self.signed(spec, received)?;
        Ok(self.signature_of(spec, &signed, secret, keyed))
    }

    /// What a signature covers, of what was received.
    ///
    /// # Errors
    /// Names what isn't there.
    pub fn signed(&self, spec: &SignatureSpec, received: &Received<'_>) -> Result<String, Missing> {
        let signature = &self.signatures[spec.index];
        let mut missing = None;
        let signed = signature.signs.render(|part| {
            let part = self.received_part(part, received);
            part.unwrap_or_else(|name| {
                missing.get_or_insert(Missing(name));
                String::new()
            })
        });
        if let Some(missing) = missing {
            return Err(missing);
        }
        Ok(signed)
    }

    /// The signature of [`signed`](Self::signed).
    pub fn signature_of(
        &self,
        spec: &SignatureSpec,
        signed: &str,
        secret: &Secret,
        keyed: Keyed,
    ) -> String {
        let signature = &self.signatures[spec.index];
        let as_text = match keyed {
            Keyed::Rightly => signature.key == KeyForm::Text,
            Keyed::AsText => true,
            Keyed::Decoded => false,
        };
        let mac = match as_text {
            true => hmac_sha256(secret.expose().as_bytes(), signed.as_bytes()),
            false => hmac_sha256(secret.key().expose_secret(), signed.as_bytes()),
        };
        encode(&signature.encoding, &mac)
    }

    fn received_part(&self, part: &Signed, received: &Received<'_>) -> Result<String, String> {
        let member = |at: &usize| self.body[*at].name.clone();
        match part {
            Signed::Of(field) => {
                let mut headers = self.headers.iter();
                let name = headers
                    .find(|(_, template)| template.only() == Some(&InHeader::Of(*field)))
                    .map(|(name, _)| name)
                    .ok_or_else(|| field.name().to_owned())?;
                let value = received.header(name).ok_or_else(|| name.to_string())?;
                Ok(value.to_owned())
            }
            Signed::Body => Ok(received.body.to_owned()),
            Signed::Member(at) => {
                let name = member(at);
                let members = members(received.body).unwrap_or_default();
                let mut members = members.into_iter();
                let found = members.find(|(known, _)| *known == name);
                found
                    .map(|(_, raw)| raw.get().to_owned())
                    .ok_or_else(|| format!("body.{name}"))
            }
            Signed::Without(at) => {
                let name = member(at);
                let members = members(received.body).ok_or("body")?;
                let mut text = String::from("{");
                for (known, raw) in members {
                    if known != name {
                        push_name(&mut text, &known);
                        text.push_str(raw.get());
                    }
                }
                text.push('}');
                Ok(text)
            }
        }
    }
}

fn read_time(text: &str, clock: Clock) -> Option<OffsetDateTime> {
    match clock {
        Clock::Rfc3339 | Clock::Rfc3339Millis => OffsetDateTime::parse(text, &Rfc3339).ok(),
        Clock::Unix => OffsetDateTime::from_unix_timestamp(text.parse().ok()?).ok(),
        Clock::UnixMillis => {
            let millis: i128 = text.parse().ok()?;
            OffsetDateTime::from_unix_timestamp_nanos(millis.checked_mul(1_000_000)?).ok()
        }
    }
}

/// The members of a JSON object as they were written, in their order.
fn members(body: &str) -> Option<Vec<(String, Box<RawValue>)>> {
    struct Members;

    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, Box<RawValue>)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(body);
    (&mut deserializer).deserialize_map(Members).ok()
}

impl<F> Template<F> {
    /// The values of its fields in a text that it may have written; `None`: it didn't.
    pub(super) fn read<'t>(&self, text: &'t str) -> Option<Vec<(&F, &'t str)>> {
        let mut rest = text;
        let mut read = Vec::new();
        let mut open: Option<&F> = None;
        for piece in self.pieces() {
            match piece {
                Err(literal) => {
                    let at = match open {
                        None => rest.starts_with(literal).then_some(0)?,
                        Some(_) => rest.find(literal)?,
                    };
                    if let Some(field) = open.take() {
                        read.push((field, &rest[..at]));
                    }
                    rest = &rest[at + literal.len()..];
                }
                Ok(field) => {
                    // Two fields side by side: nobody knows where one ends.
                    if open.replace(field).is_some() {
                        return None;
                    }
                }
            }
        }
        match open {
            Some(field) => read.push((field, rest)),
            None if rest.is_empty() => {}
            None => return None,
        }
        Some(read)
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests;
