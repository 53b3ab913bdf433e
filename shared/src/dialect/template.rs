//! Texts with placeholders: `{event_id}.{sent_at:unix}.{body}`.
//!
//! Each place in a dialect's file allows other placeholders, so a template is generic over
//! its fields. [`Field`] has the placeholders that every place allows. A literal brace is
//! written twice.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::message::Message;
use crate::timestamp::with_milliseconds;

/// A parsed text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template<F>(Vec<Piece<F>>);

#[derive(Debug, Clone, PartialEq)]
enum Piece<F> {
    Literal(String),
    Field(F),
}

impl<F> Template<F> {
    /// Parses a text; `field` gives the meaning of a placeholder.
    pub(super) fn parse(
        text: &str,
        field: impl Fn(&str) -> Result<F, String>,
    ) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '{' if rest.as_str().starts_with('{') => {
                    rest.next();
                    literal.push('{');
                }
                '}' if rest.as_str().starts_with('}') => {
                    rest.next();
                    literal.push('}');
                }
                '{' => {
                    let Some((name, after)) = rest.as_str().split_once('}') else {
                        return Err(format!("has a `{{` without its `}}`: `{text}`"));
                    };
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Field(field(name)?));
                    rest = after.chars();
                }
                '}' => return Err(format!("has a `}}` without its `{{`: `{text}`")),
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &F> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Field(field) => Some(field),
        })
    }

    /// The literal text between the fields.
    pub(super) fn literals(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Field(_) => None,
        })
    }

    /// Its fields, and the literal texts between them.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Result<&F, &str>> {
        self.0.iter().map(|piece| match piece {
            Piece::Field(field) => Ok(field),
            Piece::Literal(text) => Err(text.as_str()),
        })
    }

    /// The field, if the text has nothing else.
    pub(super) fn only(&self) -> Option<&F> {
        match self.0.as_slice() {
            [Piece::Field(field)] => Some(field),
            _ => None,
        }
    }

    /// Writes the text; `field` gives the value of each placeholder.
    pub(super) fn render<S: AsRef<str>>(&self, mut field: impl FnMut(&F) -> S) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Field(f) => out.push_str(field(f).as_ref()),
            }
        }
        out
    }
}

/// The fields of a message that every placeholder may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    EventId,
    EventType,
    DeliveryId,
    WebhookId,
    /// The webhook's external id; its own if it has none.
    WebhookExternalId,
    Tenant,
    OccurredAt(Clock),
    SentAt(Clock),
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// `2026-11-22T10:00:00.5Z`: only as many digits as needed.
    Rfc3339,
    /// `2026-11-22T10:00:00.500Z`, as JavaScript's `toISOString` writes it.
    Rfc3339Millis,
    /// Seconds since 1970.
    Unix,
    /// Milliseconds since 1970.
    UnixMillis,
}

impl Field {
    /// The names of all fields, for error messages.
    pub(super) const NAMES: &str = "event_id, event_type, delivery_id, webhook_id, webhook_external_id, tenant, \
        occurred_at and sent_at (also with `:rfc3339`, `:rfc3339-millis`, `:unix`, `:unix-millis`)";

    /// The field with this name, if there is one.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (name, clock) = match name.split_once(':') {
            None => (name, None),
            Some((name, "rfc3339")) => (name, Some(Clock::Rfc3339)),
            Some((name, "rfc3339-millis")) => (name, Some(Clock::Rfc3339Millis)),
            Some((name, "unix")) => (name, Some(Clock::Unix)),
            Some((name, "unix-millis")) => (name, Some(Clock::UnixMillis)),
            Some(_) => return None,
        };
        Some(match (name, clock) {
            ("occurred_at", clock) => Self::OccurredAt(clock.unwrap_or(Clock::Rfc3339)),
            ("sent_at", clock) => Self::SentAt(clock.unwrap_or(Clock::Rfc3339)),
            ("event_id", None) => Self::EventId,
            ("event_type", None) => Self::EventType,
            ("delivery_id", None) => Self::DeliveryId,
            ("webhook_id", None) => Self::WebhookId,
            ("webhook_external_id", None) => Self::WebhookExternalId,
            ("tenant", None) => Self::Tenant,
            _ => return None,
        })
    }

    /// As a dialect's file calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EventId => "event_id",
            Self::EventType => "event_type",
            Self::DeliveryId => "delivery_id",
            Self::WebhookId => "webhook_id",
            Self::WebhookExternalId => "webhook_external_id",
            Self::Tenant => "tenant",
            Self::OccurredAt(Clock::Rfc3339) => "occurred_at",
            Self::OccurredAt(Clock::Rfc3339Millis) => "occurred_at:rfc3339-millis",
            Self::OccurredAt(Clock::Unix) => "occurred_at:unix",
            Self::OccurredAt(Clock::UnixMillis) => "occurred_at:unix-millis",
            Self::SentAt(Clock::Rfc3339) => "sent_at",
            Self::SentAt(Clock::Rfc3339Millis) => "sent_at:rfc3339-millis",
            Self::SentAt(Clock::Unix) => "sent_at:unix",
            Self::SentAt(Clock::UnixMillis) => "sent_at:unix-millis",
        }
    }

    /// Whether the field is a number in JSON.
    pub(super) fn is_number(self) -> bool {
        matches!(
            self,
            Self::OccurredAt(Clock::Unix | Clock::UnixMillis)
                | Self::SentAt(Clock::Unix | Clock::UnixMillis)
        )
    }

    /// The field's value. It is always visible ASCII.
    pub(super) fn write(self, message: &Message<'_>, now: OffsetDateTime) -> String {
        match self {
            Self::EventId => message.event_id.as_str().to_owned(),
            Self::EventType => message.event_type.as_str().to_owned(),
            Self::DeliveryId => message.delivery_id.to_string(),
            Self::WebhookId => message.webhook_id.to_string(),
            Self::WebhookExternalId => match message.external_id {
                Some(external) => external.as_str().to_owned(),
                None => message.webhook_id.to_string(),
            },
            Self::Tenant => message.tenant.as_str().to_owned(),
            Self::OccurredAt(clock) => clock.write(message.occurred_at),
            Self::SentAt(clock) => clock.write(now),
        }
    }
}

impl Clock {
    fn write(self, at: OffsetDateTime) -> String {
        let at = at.to_offset(time::UtcOffset::UTC);
        // Formatting fails only for years that ingest doesn't accept.
        match self {
            Self::Rfc3339 => at.format(&Rfc3339).unwrap_or_default(),
            Self::Rfc3339Millis => with_milliseconds(at).unwrap_or_default(),
            Self::Unix => at.unix_timestamp().to_string(),
            Self::UnixMillis => at.unix_timestamp_nanos().div_euclid(1_000_000).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn parse(text: &str) -> Result<Template<Field>, String> {
        Template::parse(text, |name| Field::parse(name).ok_or(format!("?{name}")))
    }

    #[test]
    fn braces_of_its_own_are_doubled() {
        let template = parse("{{x}} {tenant}}}").unwrap();
        assert_eq!(template.render(|_| "acme".to_owned()), "{x} acme}");
        for (text, reason) in [
            ("a{", "without its `}`"),
            ("a}b", "without its `{`"),
            ("{nobody}", "?nobody"),
            ("{tenant:unix}", "?tenant:unix"),
            ("{sent_at:}", "?sent_at:"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_time_has_four_spellings() {
        let at = datetime!(2026-11-22 11:00:00.5 +1);
        for (clock, text) in [
            (Clock::Rfc3339, "2026-11-22T10:00:00.5Z"),
            (Clock::Rfc3339Millis, "2026-11-22T10:00:00.500Z"),
            (Clock::Unix, "1795341600"),
            (Clock::UnixMillis, "1795341600500"),
        ] {
            assert_eq!(clock.write(at), text);
        }
    }
}
