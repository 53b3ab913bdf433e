//! Bounds on JSON text: how deeply it may be nested, and what PostgreSQL can store.

use serde_json::Value;

use crate::invalid::Invalid;

/// The deepest nesting of data. JSON readers of many languages stop at 128.
pub const MAX_DEPTH: usize = 100;

/// How deeply JSON text is nested. Allocates nothing, so it may look at text of any depth.
pub fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Refuses JSON that `jsonb` can't hold: anything with U+0000.
///
/// # Errors
/// Names the field.
pub fn check_storable(field: &str, value: &Value) -> Result<(), Invalid> {
    if has_nul(value) {
        return Err(Invalid::new(field, "must not contain the character U+0000"));
    }
    Ok(())
}

/// In a text or a name, however deep. Not by looking for `\u0000` in the JSON:
/// `"\\u0000"` is a backslash and five letters.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let text = proptest::collection::vec(
            prop_oneof![Just("\0"), Just("\\"), Just("u0000"), Just("\""), Just("a")],
            0..4,
        );
        let text = text.prop_map(|parts| parts.concat()).boxed();
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 12, 3, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                (text.clone(), inner).prop_map(|(name, value)| json!({ name: value })),
            ]
        })
    }

    /// Whether JSON text has the escape that PostgreSQL refuses: `\u0000` with
    /// its backslash not escaped itself.
    fn has_the_escape(json: &str) -> bool {
        json.match_indices("u0000").any(|(at, _)| {
            let backslashes = json[..at].bytes().rev().take_while(|b| *b == b'\\');
            backslashes.count() % 2 == 1
        })
    }

    proptest! {
        #[test]
        fn what_is_storable_is_what_postgresql_takes(value in any_json()) {
            prop_assert_eq!(check_storable("metadata", &value).is_err(), has_the_escape(&value.to_string()));
        }
    }
}
