//! Adds members to an answer for clients of the system whose dialect a tenant uses.
//!
//! The dialect's file names these members ([`Additions`](shared::dialect::Additions)). A member
//! that the answer already has is not replaced.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use shared::dialect::Addition;

/// The added members, by name.
pub type Beside = BTreeMap<String, Box<RawValue>>;

/// Makes the members from what is shown anyway. `written` has a source that is JSON text
/// already, under its pointer: it is copied, so that its numbers keep their digits.
pub fn beside(
    additions: &[Addition],
    shown: &impl Serialize,
    written: Option<(&str, &RawValue)>,
) -> Beside {
    if additions.is_empty() {
        return Beside::new();
    }
    // Answers are structs with string keys, which JSON can always say.
    let shown = serde_json::to_value(shown).unwrap_or_default();
    let new = additions
        .iter()
        .filter(|addition| shown.get(&addition.name).is_none());
    let member = |Addition { name, source }: &Addition| {
        let value = match written {
            Some((pointer, text)) if pointer == source => text.to_owned(),
            _ => to_raw_value(shown.pointer(source).unwrap_or(&Value::Null)).ok()?,
        };
        Some((name.clone(), value))
    };
    new.filter_map(member).collect()
}
