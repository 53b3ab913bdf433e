use serde_json::json;

use super::*;

fn read(schema: &Value) -> Result<Schema, SchemaError> {
    Schema::read(&schema.to_string())
}

fn violation(schema: &Schema, data: &str) -> Violation {
    match schema.check(data) {
        Err(Flaw::Violation(violation)) => violation,
        other => panic!("{data}: {other:?}"),
    }
}

fn refused(schema: &Value) -> (String, String) {
    match read(schema) {
        Ok(_) => panic!("{schema} was taken"),
        Err(error) => (error.at, error.reason),
    }
}

#[test]
fn a_violation_says_where_and_repeats_no_value() {
    let schema = read(&json!({
        "type": "object", "required": ["total"],
        "properties": {"total": {"type": "number", "minimum": 0}, "mail": {"format": "email"}},
    }))
    .unwrap();
    assert_eq!(schema.check(r#"{"total": 1}"#), Ok(()));
    for (data, at, words) in [
        (r#"{"total": "hunter2"}"#, "/total", "number"),
        (r#"{"total": -7}"#, "/total", "minimum"),
        (r#"{"total": 1, "mail": "hunter2"}"#, "/mail", "email"),
        ("{}", "", "total"),
        ("[1e999]", "", "cannot be read"),
    ] {
        let violation = violation(&schema, data);
        assert_eq!(violation.at, at, "{data}");
        let said = violation.to_string();
        assert!(said.contains(words), "{said} lacks {words}");
        assert!(!said.contains("hunter2") && !said.contains("-7"), "{said}");
    }
}

#[test]
fn a_bad_schema_is_refused_by_its_place() {
    for (schema, at) in [
        (json!({"type": "nonsense"}), "/type"),
        (
            json!({"properties": {"a": {"minimum": "1"}}}),
            "/properties/a/minimum",
        ),
        (
            json!({"properties": {"a/b": {"$ref": "#/$defs/no"}}}),
            "/properties/a~1b/$ref",
        ),
        (json!({"pattern": "(?=x)"}), "/pattern"),
        (json!({"items": {"$dynamicRef": "#x"}}), "/items"),
        (json!({"items": {"$id": "https://example.com/x"}}), "/items"),
        (json!([]), ""),
    ] {
        assert_eq!(refused(&schema).0, at, "{schema}: {:?}", refused(&schema));
    }
    assert!(
        refused(&json!({"$schema": "https://example.com/mine"}))
            .1
            .len()
            > 5
    );
}

#[test]
fn nothing_is_fetched() {
    for reference in [
        "https://example.com/x.json",
        "file:///etc/passwd",
        "other.json",
        "#anchor",
        "http://127.0.0.1:1/#/a",
    ] {
        let schema = json!({"$id": "https://example.com/", "items": {"$ref": reference}});
        let (at, reason) = refused(&schema);
        assert_eq!(at, "/items/$ref", "{reference}");
        assert!(reason.contains("nothing is fetched"), "{reason}");
    }
    // Where it is data, or a property's name, it is no reference.
    let schema = json!({"const": {"$ref": "https://example.com"}, "properties": {"$ref": {"type": "string"}}});
    assert!(read(&schema).is_ok());
}

#[test]
fn references_within_are_followed() {
    let schema = read(&json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"money": {"type": "number"}},
        "properties": {"a": {"$ref": "#/definitions/money"}, "b": {"$ref": "#/definitions/money"}},
    }))
    .unwrap();
    assert!(schema.check(r#"{"a": 1, "b": 2}"#).is_ok());
    assert_eq!(violation(&schema, r#"{"b": "2"}"#).at, "/b");
}

#[test]
fn a_schema_that_would_never_end_is_refused() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"properties": {"child": {"$ref": "#"}}}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
    ] {
        assert!(refused(&schema).1.contains("refers back"), "{schema}");
    }
}

#[test]
fn a_schema_that_explodes_is_refused() {
    let mut definitions = serde_json::Map::new();
    for n in 0..30 {
        let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
        definitions.insert(format!("d{n}"), json!({"allOf": [next, next]}));
    }
    definitions.insert("d30".to_owned(), json!({}));
    let schema = json!({"$defs": definitions, "$ref": "#/$defs/d0"});
    let (_, reason) = refused(&schema);
    assert!(reason.contains("5000") || reason.contains("64"), "{reason}");
    let mut deep = json!({});
    for _ in 0..40 {
        deep = json!({"items": [deep]});
    }
    assert!(refused(&deep).1.contains("64 levels"));
    let large = json!({"description": "x".repeat(MAX_SCHEMA)});
    assert!(refused(&large).1.contains("32768"));
}

/// Issue 10: 35,000 numbers, and 70 branches of which each says something else
/// about every one of them.
#[test]
fn words_for_an_event_that_fits_no_branch_are_left_out_before_they_fill_the_memory() {
    let branches: Vec<_> = (0..70)
        .map(|n| json!({"items": {"anyOf": [{"enum": [n + 10, "a"]}, {"enum": [n + 10, "b"]}]}}))
        .collect();
    let schema = json!({"anyOf": branches});
    assert!(schema.to_string().len() < 5_000);
    let schema = read(&schema).unwrap();
    let data = json!(vec![1; 35_000]).to_string();
    // No branch takes the first item, so yes or no is quickly said; an error for
    // each item and branch would be 70 times 35,000 times two.
    let violation = violation(&schema, &data);
    assert_eq!(violation.at, "");
    assert!(
        violation.reason.contains("too long to say where"),
        "{violation}"
    );
    // Of one item there are words.
    let said = schema.check("[1]").unwrap_err().to_string();
    assert!(said.contains("anyOf"), "{said}");
}

/// What an error costs is what it takes: 1 KiB and its paths, four bytes a step.
#[test]
fn an_error_with_a_long_path_costs_more() {
    let nulls = json!({"additionalProperties": {"items": {"type": "null"}}});
    let schema = read(&json!({"anyOf": [nulls, {"type": "string"}]})).unwrap();
    let short = json!({"n": vec![1; 500]}).to_string();
    assert!(violation(&schema, &short).reason.contains("anyOf"));
    let long = json!({"n".repeat(100_000): vec![1; 500]}).to_string();
    assert!(violation(&schema, &long).reason.contains("too long"));
}

#[test]
fn an_event_that_takes_more_steps_than_it_may_is_too_costly() {
    let names: Vec<_> = (0..400).map(|n| json!(n + 7)).chain([json!("x")]).collect();
    let schema = read(&json!({"items": {"enum": names}})).unwrap();
    // The last of 401 values, so each item takes as many steps.
    let items = |many: usize| json!(vec!["x"; many]).to_string();
    assert_eq!(schema.check(&items(1_000)), Ok(()));
    // 6,000 times 401 is more than MAX_STEPS.
    assert_eq!(schema.check(&items(6_000)), Err(Flaw::TooCostly));
}

/// Each level asks the one below three times: for itself, and to see what it
/// has evaluated.
#[test]
fn unevaluated_properties_within_each_other_end_within_the_budget() {
    let mut schema =
        json!({"properties": {"a": {"type": "number"}}, "unevaluatedProperties": false});
    for _ in 0..25 {
        schema = json!({"anyOf": [schema], "unevaluatedProperties": {"type": "string"}});
    }
    let schema = read(&schema).unwrap();
    assert_eq!(schema.check(r#"{"a": 1}"#), Err(Flaw::TooCostly));
}

#[test]
fn a_pattern_that_follows_many_alternatives_reads_little_text() {
    let schema = read(&json!({"pattern": "(a|b)*a(a|b){300}c"})).unwrap();
    let text = |bytes: usize| json!("ab".repeat(bytes / 2)).to_string();
    assert!(matches!(
        schema.check(&text(1_000)),
        Err(Flaw::Violation(_))
    ));
    assert_eq!(schema.check(&text(100_000)), Err(Flaw::TooCostly));
    // The same of members' names.
    let schema = read(&json!({"patternProperties": {"(a|b)*a(a|b){300}c": false}})).unwrap();
    let named = json!({"ab".repeat(50_000): 1}).to_string();
    assert_eq!(schema.check(&named), Err(Flaw::TooCostly));
    // An ordinary one reads the largest event.
    let schema = read(&json!({"pattern": r"^\w+$"})).unwrap();
    assert_eq!(schema.check(&text(1024 * 1024 - 2)), Ok(()));
}

#[test]
fn patterns_are_counted() {
    let patterns = |many| (0..many).map(|n| json!({"pattern": format!("a{n}")}));
    let schema = |many| json!({"allOf": patterns(many).collect::<Vec<_>>()});
    assert!(read(&schema(MAX_PATTERNS)).is_ok());
    assert!(
        refused(&schema(MAX_PATTERNS + 1))
            .1
            .contains("200 different patterns")
    );
}

#[test]
fn equal_patterns_are_compiled_once_and_all_together_have_a_bound() {
    // The largest that a schema's text can hold: tens of KiB each if each were compiled.
    let same = json!({"allOf": vec![json!({"pattern": "[^a]{40}"}); 600]});
    assert!(same.to_string().len() < MAX_SCHEMA);
    let begun = std::time::Instant::now();
    let schema = read(&same).unwrap();
    eprintln!("600 equal patterns: {:?}", begun.elapsed());
    assert!(schema.memory() < 2 * 1024 * 1024, "{}", schema.memory());
    assert_eq!(schema.check(&json!("b".repeat(40)).to_string()), Ok(()));
    assert_eq!(violation(&schema, r#""b""#).at, "");
    let large = |n: usize| json!({"pattern": format!("[^a]{{40}}{n}")});
    let different = |many| json!({"allOf": (0..many).map(large).collect::<Vec<_>>()});
    assert!(read(&different(10)).is_ok());
    let (at, reason) = refused(&different(MAX_PATTERNS));
    assert!(
        reason.contains("more than 1048576 bytes together"),
        "{reason}"
    );
    assert!(at.starts_with("/allOf/"), "{at}");
    // Ordinary ones don't come near it.
    let id = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    let ids = (0..MAX_PATTERNS).map(|n| json!({"pattern": format!("{id}|{n}")}));
    assert!(read(&json!({"allOf": ids.collect::<Vec<_>>()})).is_ok());
}

#[test]
fn a_schema_whose_parts_have_long_paths_is_refused() {
    let parts = json!({"allOf": vec![json!({"type": "string"}); 1_000]});
    let long = json!({"properties": {"n".repeat(10_000): parts}});
    assert!(refused(&long).1.contains("4194304 bytes together"));
}

#[test]
fn items_are_found_the_same_by_worth_and_only_then() {
    let schema = read(&json!({"uniqueItems": true})).unwrap();
    for (items, unique) in [
        ("[1, 1.0]", false),
        ("[0, -0.0]", false),
        ("[9007199254740993, 9007199254740992]", true),
        (r#"[1, "1", true, null, [1], {"a": 1}]"#, true),
        ("[[1, [2]], [[1], 2]]", true),
        (r#"[{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]"#, false),
        (r#"["ab", "a", "b", ["a", "b"], ["ab"]]"#, true),
        ("[1e300, 1e300]", false),
    ] {
        assert_eq!(schema.check(items).is_ok(), unique, "{items}");
    }
}

#[test]
fn numbers_far_from_one_cost_more_to_divide() {
    let far = read(&json!({"items": {"multipleOf": 1e-300}})).unwrap();
    assert_eq!(
        far.check(&json!(vec![1e300; 20_000]).to_string()),
        Err(Flaw::TooCostly)
    );
    let near = read(&json!({"items": {"multipleOf": 0.01}})).unwrap();
    assert_eq!(near.check(&json!(vec![1.25; 20_000]).to_string()), Ok(()));
    assert_eq!(violation(&near, "[1.255]").at, "/0");
    assert_eq!(refused(&json!({"multipleOf": 0})).0, "/multipleOf");
}

/// Compiling a producer's text could take milliseconds each.
#[test]
fn the_format_regex_is_not_checked() {
    let schema = read(&json!({"format": "regex"})).unwrap();
    assert_eq!(schema.check(r#""(""#), Ok(()));
}
