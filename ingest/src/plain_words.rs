//! Says in plain words what libraries found wrong with a text.
//!
//! The words of serde and its formats are for programmers who know them: `invalid type: integer
//! 7, expected a string`. Clients read what is right instead: `must be a string, not a number`.
//! A value is never repeated, because it may be a secret.

use rmp_serde::decode::Error as MessagePackError;
use serde_json::error::Category;

/// The deepest nesting that the JSON reader takes.
const MAX_JSON_DEPTH: usize = 127;

/// Why a text isn't JSON, or not the JSON that belongs there.
#[must_use]
pub fn of_json(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match error.classify() {
        Category::Eof => "it ends too early".to_owned(),
        Category::Data => match words.rsplit_once(" at line ") {
            Some((words, _)) => format!("it {}", of_value(words)),
            None => format!("it {}", of_value(&words)),
        },
        // Nothing is read from a file here.
        Category::Syntax | Category::Io => {
            let place = format!("line {}, column {}", error.line(), error.column());
            if words.starts_with("recursion limit") {
                format!("it is nested more than {MAX_JSON_DEPTH} levels deep at {place}")
            } else if words.starts_with("number out of range") {
                format!("the number at {place} is too large")
            } else {
                format!("the first error is at {place}")
            }
        }
    }
}

/// Why bytes aren't MessagePack that JSON can express. `read`: how many bytes were read.
#[must_use]
pub fn of_messagepack(error: &MessagePackError, read: u64) -> String {
    match error {
        MessagePackError::DepthLimitExceeded => "it is nested too deeply".to_owned(),
        MessagePackError::InvalidMarkerRead(_) | MessagePackError::InvalidDataRead(_) => {
            "it ends too early".to_owned()
        }
        MessagePackError::Utf8Error(_) => {
            format!("the string before byte {read} is not UTF-8")
        }
        _ => format!("the value before byte {read} is not one of JSON's"),
    }
}

/// What a value must be, from the words of serde, of JSON or of a query string. They have no
/// position. Words that we have written ourselves stay.
#[must_use]
pub fn of_value(words: &str) -> String {
    let (found, expected) = match words.rsplit_once(", expected ") {
        Some((found, expected)) => (found, expected),
        None => (words, ""),
    };
    if let Some(kind) = found.strip_prefix("invalid type: ") {
        let wanted = wanted(expected).unwrap_or_else(|| "be of another type".to_owned());
        return match found_kind(kind) {
            Some(kind) => format!("must {wanted}, not {kind}"),
            None => format!("must {wanted}"),
        };
    }
    if found.starts_with("invalid value: ") || found.starts_with("invalid length ") {
        return match bounds(expected) {
            Some(bounds) => format!("must be a whole number {bounds}"),
            None => match wanted(expected) {
                Some(wanted) => format!("must {wanted}"),
                None => "has a value that is not allowed".to_owned(),
            },
        };
    }
    if found.starts_with("unknown variant ") {
        return match expected.strip_prefix("one of ") {
            Some(all) => format!("must be one of {all}"),
            None => format!("must be {expected}"),
        };
    }
    if found.starts_with("data did not match any variant") {
        return "has none of the forms that are allowed here".to_owned();
    }
    match words {
        // The integers of query strings, of which serde says no more.
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number".to_owned()
        }
        "number too large to fit in target type" => "is too large".to_owned(),
        "number too small to fit in target type" => "is too small".to_owned(),
        "provided string was not `true` or `false`" => "must be `true` or `false`".to_owned(),
        "invalid float literal" | "cannot parse float from empty string" => {
            "must be a number".to_owned()
        }
        "number out of range" => "is too large a number".to_owned(),
        // It is JSON, so one of some words is what was expected.
        "expected value" => "must be a string".to_owned(),
        _ => words.to_owned(),
    }
}

/// `be a string` for `a string`.
fn wanted(expected: &str) -> Option<String> {
    let is = |kind: &str| Some(format!("be {kind}"));
    match expected {
        "a string" | "a borrowed string" | "string or map" | "variant identifier"
        | "field identifier" => is("a string"),
        "a boolean" => is("`true` or `false`"),
        "f32" | "f64" => is("a number"),
        "a map" => is("an object"),
        "a sequence" => is("a list"),
        "unit" => is("`null`"),
        _ if bounds(expected).is_some() => is("a whole number"),
        _ if expected.starts_with("struct ") => is("an object"),
        _ if expected.starts_with("enum ") => is("a string"),
        _ if expected.starts_with("a tuple ") || expected.starts_with("an array ") => is("a list"),
        _ => None,
    }
}

/// What a whole number of this type may be.
fn bounds(expected: &str) -> Option<String> {
    Some(match expected {
        "u8" => format!("from 0 to {}", u8::MAX),
        "u16" => format!("from 0 to {}", u16::MAX),
        "u32" => format!("from 0 to {}", u32::MAX),
        "i8" => format!("from {} to {}", i8::MIN, i8::MAX),
        "i16" => format!("from {} to {}", i16::MIN, i16::MAX),
        "i32" => format!("from {} to {}", i32::MIN, i32::MAX),
        "u64" | "usize" => "from 0 to 2^64-1".to_owned(),
        "i64" | "isize" => "from -2^63 to 2^63-1".to_owned(),
        _ => return None,
    })
}

/// `a number` for `` integer `7` ``.
fn found_kind(found: &str) -> Option<&'static str> {
    const KINDS: [(&str, &str); 9] = [
        ("integer", "a number"),
        ("floating point", "a number with a fraction"),
        ("string", "a string"),
        ("boolean", "a boolean"),
        ("null", "`null`"),
        ("unit value", "`null`"),
        ("Option value", "a value"),
        ("sequence", "a list"),
        ("map", "an object"),
    ];
    let kind = KINDS.iter().find(|(start, _)| found.starts_with(start));
    kind.map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;

    fn of<T: DeserializeOwned>(text: &str) -> String {
        of_json(&serde_json::from_str::<T>(text).err().unwrap())
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code)]
    enum Two {
        One,
        Other,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code)]
    enum Three {
        One,
        Other,
        Third,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum Either {
        Text(String),
        List(Vec<String>),
    }

    #[test]
    fn what_a_value_must_be_is_said_without_the_value() {
        for (said, plain) in [
            (of::<String>("7"), "it must be a string, not a number"),
            (of::<String>("null"), "it must be a string, not `null`"),
            (
                of::<bool>("\"s3cret\""),
                "it must be `true` or `false`, not a string",
            ),
            (
                of::<u8>("\"s3cret, expected\""),
                "it must be a whole number, not a string",
            ),
            (
                of::<u8>("1.5"),
                "it must be a whole number, not a number with a fraction",
            ),
            (of::<u8>("256"), "it must be a whole number from 0 to 255"),
            (
                of::<u64>("-1"),
                "it must be a whole number from 0 to 2^64-1",
            ),
            (of::<f64>("[]"), "it must be a number, not a list"),
            (of::<Vec<u8>>("{}"), "it must be a list, not an object"),
            (
                of::<serde_json::Map<String, serde_json::Value>>("true"),
                "it must be an object, not a boolean",
            ),
            (of::<Two>("\"third\""), "it must be `one` or `other`"),
            (
                of::<Three>("\"fourth\""),
                "it must be one of `one`, `other`, `third`",
            ),
            (
                of::<Either>("7"),
                "it has none of the forms that are allowed here",
            ),
            (of::<(u8, u8)>("[1]"), "it must be a list"),
        ] {
            assert_eq!(said, plain);
        }
        // What we say ourselves.
        let ours = "must be an RFC 3339 time, like `2026-01-31T10:00:00Z`";
        assert_eq!(of_value(ours), ours);
    }

    #[test]
    fn what_is_no_json_is_said_with_its_place() {
        type Any = serde_json::Value;
        let deep = "[".repeat(200);
        for (text, plain) in [
            ("", "it ends too early"),
            ("{\"a\": [1", "it ends too early"),
            ("{\"a\" 1}", "the first error is at line 1, column 6"),
            ("[\n1,]", "the first error is at line 2, column 3"),
            ("nonsense", "the first error is at line 1, column 2"),
            ("1 2", "the first error is at line 1, column 3"),
            ("\"\\ud800\"", "the first error is at line 1, column 8"),
            ("1e999", "the number at line 1, column 5 is too large"),
            (
                &deep,
                "it is nested more than 127 levels deep at line 1, column 128",
            ),
        ] {
            assert_eq!(of::<Any>(text), plain, "{text}");
        }
    }
}
