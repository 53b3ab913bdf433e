//! Reads YAML and JSON text that a stranger may have written.
//!
//! Depth and aliases are bounded. No error repeats what is in the text: errors
//! end up in CI logs, and a file may have a secret in the wrong place.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The deepest nesting of a file, examples and filters included.
const MAX_DEPTH: usize = 64;
/// The stack for that depth, in bytes: a level takes some 35 KiB in an unoptimised build.
const STACK: usize = 8 << 20;

/// Reads a file's documents: a JSON file has one, a YAML file any number. Empty ones don't count.
pub(super) fn documents(text: &str) -> Result<Vec<Value>, String> {
    if text.trim_start().starts_with('{') {
        return match serde_json::from_str(text) {
            Ok(document) => Ok(vec![document]),
            // YAML has braces, too, and its own way to begin a comment.
            Err(json) => from_yaml(text).map_err(|_| format!("is not JSON: {json}")),
        };
    }
    from_yaml(text)
}

/// Reads all documents.
///
/// # Errors
/// The place where it isn't YAML. The parser's own message may repeat values, so it is left out.
pub(super) fn from_yaml<T: DeserializeOwned + Send>(text: &str) -> Result<Vec<T>, String> {
    // Reading recurses with every level, so it has a stack that is large enough
    // for as many levels as a file may have.
    let reading = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || documents_of(text))?
            .join()
            .map_err(|_| std::io::Error::other("the parser panicked"))
    });
    reading.unwrap_or_else(|error| Err(format!("cannot be read: {error}")))
}

fn documents_of<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let options = serde_saphyr::options! {
        // As YAML 1.2 has it: `no` is a word, `0777` a number like any other.
        strict_booleans: true,
        // An error must not repeat what may be a secret in the wrong place.
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
        },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        match error.location() {
            Some(at) => format!(
                "is not YAML, has a member twice, or is nested more than {MAX_DEPTH} levels deep, \
                 at line {}, column {}",
                at.line(),
                at.column()
            ),
            None => "is not YAML that can be read".to_owned(),
        }
    })
}
