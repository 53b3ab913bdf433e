//! Values and bodies that most requests don't take.

use serde_json::{Value, json};

/// Values that most members don't take.
pub(crate) fn values() -> Vec<Value> {
    let mut values = vec![
        Value::Null,
        json!(true),
        json!(7),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!([]),
        json!([7]),
        json!([null]),
        json!(["x", {}]),
        json!({}),
        json!({"x": 1}),
        // Filters and schemas.
        json!({"a": {"$gte": []}}),
        json!({"$or": 7}),
        json!({"a": {"$regex": "("}}),
        json!({"type": "no"}),
        json!({"pattern": "("}),
        json!({"properties": {"a": {"multipleOf": 0}}}),
        json!({"$ref": "http://example.com/"}),
    ];
    let texts = [
        "",
        "x",
        "wh_",
        "wh_01k9zw6q9veq5r2m4d8x3h7c1!",
        "8a6e0804-2bd0-4672-b79d-d97027f9071a",
        "whsec_!!!",
        "2026-13-45",
        "2026-01-31T25:00:00Z",
        "http://",
        "http://[::1",
        "https://example.com:99999/",
        "https://exa mple/",
        "//x",
        "a..b",
        "ord*",
        "(",
        "\u{0}",
        "é",
        "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----",
    ];
    values.extend(texts.map(Value::from));
    values.push("x".repeat(3_000).into());
    values
}

/// Bodies that are no JSON, or not an object.
pub(crate) fn bodies() -> Vec<Vec<u8>> {
    let texts = [
        "",
        " ",
        "{",
        "}",
        "[",
        "[]",
        "[1]",
        "[1,2,3]",
        "null",
        "7",
        "\"x\"",
        "true",
        "nonsense",
        "{\"a\"",
        "{\"a\" 1}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":01}",
        "{\"a\":1e999}",
        "{\"a\":+1}",
        "{} {}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":1,\"a\":2}",
        "{\"type\":\"a\",\"type\":\"b\",\"url\":1,\"url\":2}",
    ];
    let mut bodies: Vec<_> = texts.map(|text| text.as_bytes().to_vec()).into();
    bodies.push(b"{\"a\":\"\xff\"}".to_vec());
    bodies.push(b"\xff\xfe{}".to_vec());
    bodies.push(format!("{{\"data\":{}", "[".repeat(5_000)).into_bytes());
    bodies.push(format!("{{\"filters\":{}{}}}", "[".repeat(200), "]".repeat(200)).into_bytes());
    bodies
}
