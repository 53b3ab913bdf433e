//! What is refused as a filter, where, and in which words.

use super::*;

#[track_caller]
fn refusal(condition: &Value) -> String {
    Filter::parse(condition).unwrap_err().to_string()
}

#[test]
fn a_refused_filter_says_where_and_what() {
    for (condition, message) in [
        (json!(null), "filter: a filter is an object, this is null"),
        (json!([{}]), "filter: a filter is an object, this is [{}]"),
        (
            json!({"$and": []}),
            "filter at /$and: needs an array of at least one filter, this is []",
        ),
        (
            json!({"$or": {"a": 1}}),
            r#"filter at /$or: needs an array of at least one filter, this is {"a":1}"#,
        ),
        (
            json!({"$or": [{}, 3]}),
            "filter at /$or/1: a filter is an object, this is 3",
        ),
        (
            json!({"$not": 1}),
            "filter at /$not: a filter is an object, this is 1",
        ),
        (
            json!({"$gt": 1}),
            "filter: `$gt` is unknown here, where a path or one of $and, $or, $not may stand",
        ),
        (
            json!({"a": {"$gt": null}}),
            "filter at /a/$gt: only a number or a string has an order, this is null",
        ),
        (
            json!({"a": {"$in": 1}}),
            "filter at /a/$in: needs an array of values, this is 1",
        ),
        (
            json!({"a": {"$exists": 1}}),
            "filter at /a/$exists: $exists needs true or false, this is 1",
        ),
        (
            json!({"a": {"$startsWith": 1}}),
            "filter at /a/$startsWith: needs a string, this is 1",
        ),
        (
            json!({"a": {"$endsWith": ["x"]}}),
            r#"filter at /a/$endsWith: needs a string, this is ["x"]"#,
        ),
        (
            json!({"a..b": 1}),
            "filter: the path `a..b` has an empty segment",
        ),
        (json!({"": 1}), "filter: the path `` has an empty segment"),
        (
            json!({"locations": "x"}),
            r#"filter at /locations: needs a list of at least one string or number, or an object of operators, this is "x""#,
        ),
        (
            json!({"locations": []}),
            "filter at /locations: needs a list of at least one string or number, or an object of operators, this is []",
        ),
        (
            json!({"categories": [null]}),
            "filter at /categories: needs a list of at least one string or number, or an object of operators, this is [null]",
        ),
        (
            json!({"minStockThreshold": "5"}),
            r#"filter at /minStockThreshold: needs a number, or an object of operators, this is "5""#,
        ),
        (
            json!({"a": {"b": {"$gt": 1}}}),
            "filter at /a/b: `$gt` stands inside a literal; to look deeper into the data, write a dotted path",
        ),
    ] {
        assert_eq!(refusal(&condition), message);
    }
}

#[test]
fn an_unknown_operator_is_answered_with_the_known_ones() {
    let known = "the operators are $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, \
                 $startsWith, $endsWith, $not";
    let unknown = refusal(&json!({"$or": [{"a": {"$regex": "x"}}]}));
    assert_eq!(
        unknown,
        format!("filter at /$or/0/a: `$regex` is unknown here, {known}")
    );
    let mixed = refusal(&json!({"a": {"$gt": 1, "b": 2}}));
    assert_eq!(mixed, format!("filter at /a: `b` is unknown here, {known}"));
    for condition in [json!({"a": {"$not": 1}}), json!({"a": {"$not": {}}})] {
        assert!(refusal(&condition).contains("$not needs an object of operators: $eq, "));
    }
    assert!(refusal(&json!({format!("${}", "x".repeat(9999)): 1})).len() < 200);
}

fn nested(levels: usize) -> Value {
    (1..levels).fold(json!({}), |inner, _| json!({"$not": inner}))
}

fn literal(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

#[test]
fn a_filter_is_as_deep_as_the_bound_and_no_deeper() {
    assert!(Filter::parse(&nested(MAX_DEPTH)).is_ok());
    assert!(refusal(&nested(MAX_DEPTH + 1)).ends_with(": a filter is at most 8 deep"));
    assert!(Filter::parse(&json!({"a": literal(MAX_DEPTH - 1)})).is_ok());
    assert!(refusal(&json!({"a": literal(MAX_DEPTH)})).ends_with(": a filter is at most 8 deep"));
    assert!(Filter::parse(&json!({"a": {"$in": [literal(MAX_DEPTH - 2)]}})).is_ok());
    assert!(Filter::parse(&json!({"a": {"$in": [literal(MAX_DEPTH - 1)]}})).is_err());
    assert!(Filter::parse(&nested(10_000 / 100)).is_err());
}

#[test]
fn a_filter_has_as_many_clauses_as_the_bound_and_no_more() {
    let members = |n: usize| {
        (0..n)
            .map(|n| (format!("p{n}"), json!(n)))
            .collect::<Value>()
    };
    assert!(Filter::parse(&members(MAX_CLAUSES)).is_ok());
    let too_many = refusal(&members(MAX_CLAUSES + 1));
    assert!(
        too_many.ends_with(": a filter has at most 64 clauses"),
        "{too_many}"
    );
    // Combinators and filters without members count too.
    assert!(Filter::parse(&json!({"$or": vec![json!({}); MAX_CLAUSES - 1]})).is_ok());
    assert!(Filter::parse(&json!({"$or": vec![json!({}); MAX_CLAUSES]})).is_err());
    let operators = json!({"$gt": 1, "$exists": true, "$ne": 3, "$not": {"$eq": 5}});
    let fields = |n: usize| {
        (0..n)
            .map(|n| (format!("p{n}"), operators.clone()))
            .collect::<Value>()
    };
    assert!(Filter::parse(&fields(12)).is_ok());
    assert!(Filter::parse(&fields(13)).is_err());
}

#[test]
fn a_list_and_a_literal_have_as_many_values_as_the_bound_and_no_more() {
    for at in ["$in", "$nin"] {
        assert!(Filter::parse(&json!({"a": {at: vec![1; MAX_VALUES]}})).is_ok());
        let too_many = refusal(&json!({"a": {at: vec![1; MAX_VALUES + 1]}}));
        assert_eq!(
            too_many,
            format!("filter at /a/{at}: a list has at most 100 values, this one has 101")
        );
    }
    assert!(Filter::parse(&json!({"locations": vec!["x"; MAX_VALUES + 1]})).is_err());
    assert!(Filter::parse(&json!({"a": vec![1; MAX_VALUES]})).is_ok());
    let too_many = refusal(&json!({"a": [vec![1; MAX_VALUES]]}));
    assert_eq!(
        too_many,
        "filter at /a/0: a literal has at most 100 values inside it"
    );
}

#[test]
fn strings_and_paths_are_as_long_as_the_bounds_and_no_longer() {
    let string = "x".repeat(MAX_STRING);
    let too_long = "x".repeat(MAX_STRING + 1);
    for operator in ["$eq", "$ne", "$gt", "$lte", "$startsWith", "$endsWith"] {
        assert!(Filter::parse(&json!({"a": {operator: string}})).is_ok());
        let refused = refusal(&json!({"a": {operator: too_long}}));
        assert_eq!(
            refused,
            format!("filter at /a/{operator}: a string has at most 1024 bytes, this one has 1025")
        );
    }
    assert!(Filter::parse(&json!({"a": too_long})).is_err());
    assert!(Filter::parse(&json!({"a": {"$in": [too_long]}})).is_err());
    assert!(Filter::parse(&json!({"a": {"b": {too_long: 1}}})).is_err());
    assert!(Filter::parse(&json!({"x".repeat(MAX_PATH): 1})).is_ok());
    let refused = refusal(&json!({"x".repeat(MAX_PATH + 1): 1}));
    assert!(
        refused.ends_with("` has 257 bytes, at most 256 are allowed"),
        "{refused}"
    );
    assert!(Filter::parse(&json!({["x"; MAX_SEGMENTS].join("."): 1})).is_ok());
    let refused = refusal(&json!({["x"; MAX_SEGMENTS + 1].join("."): 1}));
    assert!(
        refused.ends_with("` has 17 segments, at most 16 are allowed"),
        "{refused}"
    );
}

#[test]
fn a_long_text_that_is_looked_for_in_a_list_takes_more_steps_than_a_short_one() {
    let long = "x".repeat(MAX_STRING);
    let listed = Filter::parse(&json!({"a": {"$in": [long, "b"]}})).unwrap();
    let matches =
        |items: Value, steps| listed.matches(&json!({ "a": items }), &mut Budget::new(steps));
    let other = "y".repeat(MAX_STRING);
    assert_eq!(matches(json!(vec!["c"; 10]), 50), Ok(false));
    assert_eq!(matches(json!(vec![&other; 10]), 50), Err(TooCostly));
    assert_eq!(matches(json!(vec![&other; 10]), 50 + 320), Ok(false));
    // Nothing of that length is listed, so nothing is hashed.
    assert_eq!(matches(json!(vec![format!("{other}y"); 10]), 50), Ok(false));
}
