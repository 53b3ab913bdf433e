//! The patterns of event types that webhooks listen to.
//!
//! Patterns come in from the API and from stored webhooks as text, and go out
//! to the [`Index`](super::Index). Three shapes: an exact type
//! (`order.created`), a prefix (`order.*`, `item-*`), and `*`.
//!
//! A prefix pattern takes any suffix, of one part or of many, but not an empty
//! one: `order.*` listens to `order.a` and `order.a.b`, not to `order`. Its
//! prefix ends in a separator, so that `order.*` can never be mistaken for
//! `orders`, and so that the index only has to look up a type's own prefixes.

use std::{fmt, str::FromStr};

use shared::ids::{EventType, MAX_EVENT_TYPE, Malformed};
use thiserror::Error;

/// What may stand between the parts of an event type, and before a `*`.
const SEPARATORS: [char; 3] = ['.', '-', '_'];

/// What a webhook listens to.
///
/// Made by parsing; [`as_str`](Self::as_str) gives the same text back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: String,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shape {
    Exact,
    Prefix,
    All,
}

/// How the index has to keep a pattern.
pub(super) enum IndexKey<'a> {
    Exact(&'a str),
    /// With its separator: `order.` for `order.*`.
    Prefix(&'a str),
    All,
}

impl Pattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Does a webhook with this pattern listen to events of this type?
    pub fn listens_to(&self, event_type: &str) -> bool {
        match self.key() {
            IndexKey::Exact(exact) => event_type == exact,
            IndexKey::Prefix(prefix) => {
                event_type.len() > prefix.len() && event_type.starts_with(prefix)
            }
            IndexKey::All => true,
        }
    }

    pub(super) fn key(&self) -> IndexKey<'_> {
        match self.shape {
            Shape::Exact => IndexKey::Exact(&self.text),
            Shape::Prefix => IndexKey::Prefix(self.text.trim_end_matches('*')),
            Shape::All => IndexKey::All,
        }
    }
}

/// Every prefix that a prefix pattern would need to listen to `event_type`.
pub(super) fn prefixes(event_type: &str) -> impl Iterator<Item = &str> {
    event_type
        .match_indices(SEPARATORS)
        .map(|(at, separator)| &event_type[..at + separator.len()])
        .filter(|prefix| prefix.len() < event_type.len())
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let shape = match text.strip_suffix('*') {
            Some("") => Shape::All,
            Some(prefix) => {
                check_prefix(prefix)?;
                Shape::Prefix
            }
            None => {
                if text.contains('*') {
                    return Err(PatternError::StarInside);
                }
                text.parse::<EventType>()?;
                Shape::Exact
            }
        };
        let text = text.to_owned();
        Ok(Self { text, shape })
    }
}

/// A prefix is legal if some event type can begin with it.
fn check_prefix(prefix: &str) -> Result<(), PatternError> {
    if prefix.contains('*') {
        return Err(PatternError::StarInside);
    }
    if !prefix.ends_with(SEPARATORS) {
        return Err(PatternError::StarWithoutSeparator);
    }
    if prefix.len() >= MAX_EVENT_TYPE {
        return Err(PatternError::TooLong);
    }
    format!("{prefix}x").parse::<EventType>()?;
    Ok(())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no pattern.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PatternError {
    /// A `*` elsewhere than at the end, or more than one.
    #[error("a pattern has one `*` at most, as its last character")]
    StarInside,
    /// Such as `ord*`.
    #[error("a pattern's `*` stands alone or follows `.`, `-` or `_`, as in `order.*`")]
    StarWithoutSeparator,
    /// No event type that long can follow.
    #[error("a pattern has at most {MAX_EVENT_TYPE} bytes")]
    TooLong,
    /// The pattern without its `*` could not be (the start of) an event type.
    #[error(transparent)]
    EventType(#[from] Malformed),
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_listens_to_its_own_type_any_suffix_or_everything() {
        for (text, event_type, listens) in [
            ("order.created", "order.created", true),
            ("order.created", "order.created.v2", false),
            ("order.created", "order.create", false),
            ("order.created", "Order.created", false),
            ("item-checkout", "item-checkout", true),
            ("order.*", "order.a", true),
            ("order.*", "order.a.b", true),
            ("order.*", "order.a-b", true),
            ("order.*", "order", false),
            ("order.*", "order.", false),
            ("order.*", "orders.a", false),
            ("order.*", "pre.order.a", false),
            ("order.a.*", "order.a.b", true),
            ("order.a.*", "order.b.a", false),
            ("item-*", "item-checkout", true),
            ("item-*", "item.checkout", false),
            ("user_*", "user_login", true),
            ("*", "order", true),
            ("*", "a.b-c_d", true),
        ] {
            assert_eq!(
                pattern(text).listens_to(event_type),
                listens,
                "{text} {event_type}"
            );
        }
    }

    #[test]
    fn a_pattern_gives_its_text_back() {
        for text in ["order.created", "order.*", "item-*", "*"] {
            assert_eq!(pattern(text).as_str(), text);
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn a_star_is_only_legal_at_the_end_and_after_a_separator() {
        for text in ["*.created", "order.*.x", "order.**", "**", "*a", "order*.a"] {
            assert_eq!(
                text.parse::<Pattern>(),
                Err(PatternError::StarInside),
                "{text}"
            );
        }
        for text in ["ord*", "order.x*"] {
            let refused = text.parse::<Pattern>();
            assert_eq!(refused, Err(PatternError::StarWithoutSeparator), "{text}");
        }
    }

    #[test]
    fn a_prefix_that_no_event_type_can_begin_with_is_refused() {
        for text in ["..*", ".*", "-*", "order..*", "ordér.*", " .*"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        assert!(format!("{}.*", "a".repeat(126)).parse::<Pattern>().is_ok());
        let refused = format!("{}.*", "a".repeat(127)).parse::<Pattern>();
        assert_eq!(refused, Err(PatternError::TooLong));
    }

    #[test]
    fn the_prefixes_of_a_type_end_in_its_separators() {
        let found: Vec<_> = prefixes("a.b-c_d.").collect();
        assert_eq!(found, ["a.", "a.b-", "a.b-c_"]);
        assert_eq!(prefixes("order").count(), 0);
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_or_listening_panic(text in "\\PC{0,12}", other in "\\PC{0,12}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                let _ = pattern.listens_to(&other);
            }
            let _ = prefixes(&text).count();
        }
    }
}
