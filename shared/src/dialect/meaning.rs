//! What each header of a dialect means, in words, from the template of its value.
//!
//! The API's description of what is sent has these texts, so they can't differ from the file.

use axum::http::HeaderName;

use super::definition::{Dialect, Digest, InHeader, KeyForm, Signature, Signed, Signing};
use super::template::{Clock, Field, Template};

impl Dialect {
    /// Each header that the dialect sets, and what it means, in whole sentences.
    #[must_use]
    pub fn header_meanings(&self) -> Vec<(HeaderName, String)> {
        let headers = self.headers.iter();
        headers
            .map(|(name, template)| (name.clone(), self.meaning(name, template)))
            .collect()
    }

    /// The prefix of the headers that carry a producer's own CloudEvents attributes, if the
    /// dialect has such headers.
    #[must_use]
    pub fn attribute_prefix(&self) -> Option<&str> {
        self.spread.as_deref()
    }

    fn meaning(&self, name: &HeaderName, template: &Template<InHeader>) -> String {
        let text = template.render(|field| match field {
            InHeader::Of(field) => format!("{{{}}}", field.name()),
            InHeader::Signature(index) => {
                format!("{{signatures.{}}}", self.signatures[*index].name)
            }
        });
        let mut sentences = match template.only() {
            Some(field) => vec![sentence(&self.field_meaning(field))],
            None if template.fields().next().is_none() => vec![format!("Always `{text}`.")],
            None => {
                let mut sentences = vec![format!("Written as `{text}`.")];
                for field in template.fields() {
                    sentences.push(format!("It has {}.", self.field_meaning(field)));
                }
                sentences
            }
        };
        let signatures = template.fields().filter_map(|field| match field {
            InHeader::Signature(index) => Some(&self.signatures[*index]),
            InHeader::Of(_) => None,
        });
        sentences.extend(signatures.flat_map(several));
        let attributes = self.spread.as_deref();
        if attributes.is_some_and(|prefix| name.as_str().starts_with(prefix)) {
            let own =
                "The producer's own attribute of this name replaces it. It is percent-encoded.";
            sentences.push(own.to_owned());
        }
        sentences.join(" ")
    }

    /// A phrase without a verb: `the event's type`.
    fn field_meaning(&self, field: &InHeader) -> String {
        match field {
            InHeader::Of(field) => field_meaning(*field),
            InHeader::Signature(index) => self.signature_meaning(&self.signatures[*index]),
        }
    }

    fn signature_meaning(&self, signature: &Signature) -> String {
        let signed = signature.signs.render(|part| match part {
            Signed::Of(field) => format!("{{{}}}", field.name()),
            Signed::Body => "{body}".to_owned(),
            Signed::Member(at) => format!("{{body.{}}}", self.body[*at].name),
            Signed::Without(at) => format!("{{body without {}}}", self.body[*at].name),
        });
        let key = match signature.key {
            KeyForm::Text => "the whole text of the webhook's secret",
            KeyForm::Whsec => "what follows `whsec_` in the webhook's secret, decoded from base64",
        };
        let encoding = written(&signature.encoding);
        format!("the HMAC-SHA256 of `{signed}`, written as `{encoding}`; its key is {key}")
    }
}

/// Where a header may have more than one signature: which, and when.
fn several(signature: &Signature) -> Vec<String> {
    if signature.secrets == Signing::Current {
        return Vec::new();
    }
    let mut sentences = vec![
        "While a secret rotates, the previous secret signs too.".to_owned(),
        "Several signatures are separated by spaces: one that verifies is enough.".to_owned(),
    ];
    if let Some(encoding) = &signature.ed25519 {
        let encoding = written(encoding);
        sentences.push(format!(
            "If the webhook has an ed25519 key, the key's signature of the same text is there too, \
             written as `{encoding}`."
        ));
    }
    sentences
}

fn written(encoding: &Template<Digest>) -> String {
    encoding.render(|digest| match digest {
        Digest::Hex => "{hex}",
        Digest::Base64 => "{base64}",
    })
}

fn field_meaning(field: Field) -> String {
    let phrase = match field {
        Field::EventId => "the event's id, the same in every attempt and for every webhook",
        Field::EventType => "the event's type",
        Field::DeliveryId => "the delivery's id, the same in every attempt",
        Field::WebhookId => "the webhook's id",
        Field::WebhookExternalId => "the webhook's `external_id`, or its id if it has none",
        Field::Tenant => "the tenant's id",
        Field::OccurredAt(clock) => {
            return format!("the time when the event happened, {}", form(clock));
        }
        Field::SentAt(clock) => return format!("the time of this attempt, {}", form(clock)),
    };
    phrase.to_owned()
}

fn form(clock: Clock) -> &'static str {
    match clock {
        Clock::Rfc3339 => "as RFC 3339 has it",
        Clock::Rfc3339Millis => "as RFC 3339 has it, with three digits after the second",
        Clock::Unix => "in seconds since 1970",
        Clock::UnixMillis => "in milliseconds since 1970",
    }
}

/// A phrase as a sentence: `The event's type.`
fn sentence(phrase: &str) -> String {
    let mut rest = phrase.chars();
    let first = rest.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(rest).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Dialects, read};

    #[test]
    fn every_header_of_every_built_in_dialect_has_a_meaning() {
        for dialect in Dialects::embedded().iter() {
            let meanings = dialect.header_meanings();
            assert!(!meanings.is_empty(), "{}", dialect.name());
            for (name, meaning) in meanings {
                let at = format!("{}: {name}: {meaning}", dialect.name());
                assert!(meaning.ends_with('.'), "{at}");
                assert!(
                    meaning.starts_with(|c: char| c.is_ascii_uppercase()),
                    "{at}"
                );
            }
        }
    }

    #[test]
    fn a_meaning_says_what_the_files_placeholders_say() {
        let dialects = Dialects::embedded();
        let meaning = |dialect: &str, header: &str| {
            let meanings = dialects.get(dialect).unwrap().header_meanings();
            let mut found = meanings.into_iter().filter(|(name, _)| name == header);
            found.next().unwrap().1
        };
        assert_eq!(
            meaning("standard", "webhook-id"),
            "The event's id, the same in every attempt and for every webhook."
        );
        assert_eq!(
            meaning("standard", "webhook-timestamp"),
            "The time of this attempt, in seconds since 1970."
        );
        assert_eq!(meaning("standard", "webhook-signature"), STANDARD_SIGNATURE);
        assert_eq!(
            meaning("jossiedb", "x-webhook-signature"),
            "The HMAC-SHA256 of `{body.data}`, written as `{hex}`; its key is the whole text of the \
             webhook's secret."
        );
        let constant = meaning("cloudevents-binary", "ce-specversion");
        assert!(constant.starts_with("Always `1.0`. "), "{constant}");
        let source = meaning("cloudevents-binary", "ce-source");
        assert!(
            source.starts_with("Written as `/tenants/{tenant}`. It has the tenant's id. "),
            "{source}"
        );
    }

    const STANDARD_SIGNATURE: &str = "The HMAC-SHA256 of `{event_id}.{sent_at:unix}.{body}`, written \
        as `v1,{base64}`; its key is what follows `whsec_` in the webhook's secret, decoded from base64. \
        While a secret rotates, the previous secret signs too. \
        Several signatures are separated by spaces: one that verifies is enough. \
        If the webhook has an ed25519 key, the key's signature of the same text is there too, \
        written as `v1a,{base64}`.";

    #[test]
    fn a_dialect_of_ones_own_is_described_as_well() {
        let file = "description = \"Our shop\"\nbody = \"{data}\"\n\
            [headers]\nX-Shop-Token = \"t={sent_at:unix-millis},v={signatures.main}\"\n\
            [signatures.main]\nsigns = \"{body}\"\nencoding = \"{hex}\"\n\
            [retry]\ndelays = [\"1s\"]\n[answers]\nsuccess = [\"2xx\"]\n";
        let dialect = read("shop.toml", file).unwrap();
        let [(name, meaning)] = &dialect.header_meanings()[..] else {
            panic!("one header");
        };
        assert_eq!(name, "x-shop-token");
        assert_eq!(
            meaning,
            "Written as `t={sent_at:unix-millis},v={signatures.main}`. It has the time of this attempt, \
             in milliseconds since 1970. It has the HMAC-SHA256 of `{body}`, written as `{hex}`; its key is \
             the whole text of the webhook's secret."
        );
    }
}
