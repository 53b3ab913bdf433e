//! An event's data as filters see it.
//!
//! The producer's JSON text comes in and stays as it is: what is delivered is
//! that text, never a reprint of this view. Filters ask for a parsed value,
//! which is made on the first question and kept, so that an event without
//! filtered candidates is never parsed and any other is parsed once.

use std::sync::OnceLock;

use serde_json::Value;

/// The JSON text of an event's data, parsed when a filter first asks.
///
/// As `serde_json` reads it: the last of duplicate keys counts, and an integer
/// beyond 64 bits becomes the nearest double.
#[derive(Debug)]
pub struct Data<'a> {
    text: &'a str,
    parsed: OnceLock<Result<Value, serde_json::Error>>,
}

impl<'a> Data<'a> {
    /// Takes the text as it is; nothing is parsed yet. For a `RawValue`, `get()`.
    pub fn new(text: &'a str) -> Self {
        let parsed = OnceLock::new();
        Self { text, parsed }
    }

    /// The parsed value, or why there is none.
    ///
    /// Text that passed as a `RawValue` can still fail here: nested deeper
    /// than 128, or with a number like `1e999` that no double holds.
    pub fn value(&self) -> Result<&Value, &serde_json::Error> {
        self.parsed
            .get_or_init(|| serde_json::from_str(self.text))
            .as_ref()
    }

    #[cfg(test)]
    pub(super) fn was_parsed(&self) -> bool {
        self.parsed.get().is_some()
    }
}
