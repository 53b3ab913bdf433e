//! Finds a library's words in what an answer says.

use serde_json::Value;

/// Parts of what libraries say: serde, serde_json, serde_urlencoded, axum, hyper, url, uuid, typeid,
/// time, base64, jsonwebtoken, rmp, regex, rustls, PostgreSQL, and Rust itself.
const LIBRARIES_WORDS: &[&str] = &[
    "invalid type",
    "invalid value:",
    "invalid length",
    "expected ",
    "missing field",
    "unknown field",
    "unknown variant",
    "duplicate field",
    "did not match any variant",
    "untagged",
    "struct ",
    "tuple",
    "enum ",
    "newtype",
    "unit value",
    "usize",
    "u8",
    "u16",
    "u32",
    "u64",
    "i16",
    "i32",
    "i64",
    "f64",
    "1 column",
    "EOF",
    "trailing comma",
    "trailing characters",
    "key must be",
    "recursion limit",
    "out of range",
    "surrogate",
    "code point",
    "control character (",
    "invalid escape",
    "invalid number",
    "invalid digit",
    "cannot parse",
    "target type",
    "provided string",
    "invalid float",
    "Failed to",
    "Invalid URL",
    "Invalid UTF",
    "invalid utf",
    "utf-8 sequence",
    "relative URL",
    "empty host",
    "port number",
    "domain name",
    "IPv6 address",
    "Invalid symbol",
    "Invalid byte",
    "Invalid padding",
    "Invalid input length",
    "last symbol",
    "InvalidToken",
    "InvalidSignature",
    "ExpiredSignature",
    "ImmatureSignature",
    "InvalidIssuer",
    "InvalidAudience",
    "Missing required claim",
    "JSON error",
    "Base64 error",
    "TypeID",
    "does not match expected",
    "optional prefix",
    "character literal",
    "component",
    "the input",
    "marker",
    "fill whole buffer",
    "regex parse",
    "unclosed",
    "look-around",
    "os error",
    "error reading",
    "db error",
    "syntax for type",
    "Error(",
];

/// Everything that a problem, or a result within an answer, says for people.
pub(crate) fn sentences(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(text) if ["detail", "reason", "error"].contains(&name.as_str()) => {
                        found.push(text.to_owned());
                    }
                    _ => sentences(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| sentences(item, found)),
        _ => {}
    }
}

/// Names of members are between backticks, and may be any word.
fn without_names(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("…")
}

pub(crate) fn words_of_a_library(sentence: &str) -> Option<&'static str> {
    let text = without_names(sentence);
    // Not a part of an id, such as `u8`.
    let is_there = |words: &&str| {
        let mut found = text.match_indices(*words);
        found.any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + words.len()..].chars().next();
            let goes_on = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            words.contains(' ') || !(goes_on(before) || goes_on(after))
        })
    };
    LIBRARIES_WORDS.iter().copied().find(is_there)
}
