//! Filters against an evaluator that shares no code and no method with theirs:
//! it lists every place in the data and asks which of them a path names.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

#[derive(Clone)]
enum Step {
    Key(String),
    Item(usize),
}

/// Every value in the data with the way to it.
fn places(value: &Value, way: &[Step]) -> Vec<(Vec<Step>, Value)> {
    let mut all = vec![(way.to_vec(), value.clone())];
    let inner: Vec<(Step, &Value)> = match value {
        Value::Object(o) => o.iter().map(|(k, v)| (Step::Key(k.clone()), v)).collect(),
        Value::Array(a) => a
            .iter()
            .enumerate()
            .map(|(n, v)| (Step::Item(n), v))
            .collect(),
        _ => vec![],
    };
    for (step, value) in inner {
        all.extend(places(value, &[way, &[step]].concat()));
    }
    all
}

fn names(path: &[&str], way: &[Step]) -> bool {
    match (path, way) {
        ([], []) => true,
        ([head, path @ ..], [Step::Key(key), way @ ..]) => head == key && names(path, way),
        ([head, rest @ ..], [Step::Item(n), way @ ..]) => match head.parse::<usize>() {
            Ok(number) => number == *n && names(rest, way),
            Err(_) => matches!(way, [Step::Key(_), ..]) && names(path, way),
        },
        _ => false,
    }
}

fn at(path: &str, data: &Value) -> Vec<Value> {
    let path: Vec<_> = path.split('.').collect();
    let places = places(data, &[]).into_iter();
    places
        .filter(|(way, _)| names(&path, way))
        .map(|(_, value)| value)
        .collect()
}

/// Equal values write alike: all numbers here are small enough for doubles.
fn written(value: &Value) -> String {
    match value {
        Value::Number(n) => format!("{:.3}", n.as_f64().unwrap() + 0.0),
        Value::Array(items) => format!("{:?}", items.iter().map(written).collect::<Vec<_>>()),
        Value::Object(o) => {
            let members: Vec<_> = o.iter().map(|(k, v)| (k, written(v))).collect();
            format!("object {members:?}")
        }
        other => other.to_string(),
    }
}

/// `None`: missing.
type Answer = Option<bool>;

fn and(all: Vec<Answer>) -> Answer {
    let answers: Option<Vec<bool>> = all.into_iter().collect();
    Some(!answers?.contains(&false))
}

fn or(any: Vec<Answer>) -> Answer {
    if any.contains(&Some(true)) {
        Some(true)
    } else {
        and(any).map(|_| false)
    }
}

fn any_passes(found: &[Value], test: impl Fn(&Value) -> bool) -> Answer {
    if found.is_empty() {
        return None;
    }
    let elements = found.iter().filter_map(Value::as_array).flatten();
    Some(found.iter().chain(elements).any(test))
}

fn operator(name: &str, operand: &Value, found: &[Value]) -> Answer {
    let ordered = |value: &Value| match (value, operand) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        _ => None,
    };
    let text = operand.as_str().unwrap_or_default();
    let one_of = |list: &Value, v: &Value| {
        list.as_array()
            .unwrap()
            .iter()
            .any(|l| written(l) == written(v))
    };
    match name {
        "$eq" => any_passes(found, |v| written(v) == written(operand)),
        "$ne" => operator("$eq", operand, found).map(|yes| !yes),
        "$in" => any_passes(found, |v| one_of(operand, v)),
        "$nin" => operator("$in", operand, found).map(|yes| !yes),
        "$gt" => any_passes(found, |v| ordered(v).is_some_and(|o| o as i8 == 1)),
        "$gte" => any_passes(found, |v| ordered(v).is_some_and(|o| o as i8 != -1)),
        "$lt" => any_passes(found, |v| ordered(v).is_some_and(|o| o as i8 == -1)),
        "$lte" => any_passes(found, |v| ordered(v).is_some_and(|o| o as i8 != 1)),
        "$startsWith" => any_passes(found, |v| {
            v.as_str().is_some_and(|s| s.find(text) == Some(0))
        }),
        "$endsWith" => any_passes(found, |v| {
            v.as_str().is_some_and(|s| s.strip_suffix(text).is_some())
        }),
        "$exists" => Some(found.is_empty() != operand.as_bool().unwrap()),
        "$not" => operators(operand, found).map(|yes| !yes),
        other => panic!("{other}"),
    }
}

fn operators(object: &Value, found: &[Value]) -> Answer {
    let each = object.as_object().unwrap().iter();
    and(each
        .map(|(name, operand)| operator(name, operand, found))
        .collect())
}

fn short_form(paths: [&str; 3], data: &Value) -> Vec<Value> {
    let top = paths.map(|path| at(path, data)).into_iter();
    let objects = || data.as_object().into_iter().flat_map(|data| data.values());
    let objects = || objects().filter(|value| value.is_object());
    let one_down = paths
        .iter()
        .map(|path| objects().flat_map(|object| at(path, object)).collect());
    let all: Vec<Vec<Value>> = top.chain(one_down).collect();
    let valued = all
        .iter()
        .find(|found| found.iter().any(|v| *v != Value::Null));
    valued
        .or(all.iter().find(|found| !found.is_empty()))
        .cloned()
        .unwrap_or_default()
}

fn answer(filter: &Value, data: &Value, top: bool) -> Answer {
    let member = |(key, value): (&String, &Value)| {
        let filters = || {
            value
                .as_array()
                .unwrap()
                .iter()
                .map(|f| answer(f, data, false))
                .collect()
        };
        let has_operators = value
            .as_object()
            .is_some_and(|o| o.keys().any(|k| k.starts_with('$')));
        match key.as_str() {
            "$and" => and(filters()),
            "$or" => or(filters()),
            "$not" => answer(value, data, false).map(|yes| !yes),
            path if has_operators => operators(value, &at(path, data)),
            "locations" if top => {
                let found = short_form(["location_id", "locationId", "location"], data);
                operator("$in", value, &found)
            }
            "categories" if top => {
                let found = short_form(["category_id", "categoryId", "category"], data);
                operator("$in", value, &found)
            }
            "minStockThreshold" if top => {
                let found = short_form(["quantity", "stock", "current_quantity"], data);
                operator("$lte", value, &found)
            }
            path => operator("$eq", value, &at(path, data)),
        }
    };
    and(filter.as_object().unwrap().iter().map(member).collect())
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1..3).prop_map(Value::from),
        (-2..4).prop_map(|n| Value::from(f64::from(n) / 2.0)),
        select(vec!["", "x", "xy", "yx"]).prop_map(Value::from),
    ]
}

fn object(
    keys: Vec<&'static str>,
    of: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Value> {
    vec((select(keys), of), 0..4).prop_map(|members| members.into_iter().collect())
}

fn shortly_filtered() -> impl Strategy<Value = Value> {
    let keys = [
        "location_id",
        "locationId",
        "location",
        "category_id",
        "category",
        "quantity",
        "stock",
        "current_quantity",
    ];
    object(keys.to_vec(), scalar())
}

fn nested() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 20, 4, |inner| {
        let items = vec(inner.clone(), 0..4).prop_map(Value::from);
        prop_oneof![items, object(vec!["a", "b", "0"], inner)]
    })
}

fn data() -> impl Strategy<Value = Value> {
    let keys = vec![
        "a",
        "a",
        "b",
        "location_id",
        "categoryId",
        "quantity",
        "stock",
    ];
    prop_oneof![1 => nested(), 9 => object(keys, nested())]
}

fn literal() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            object(vec!["a", "b"], inner)
        ]
    })
}

fn condition() -> impl Strategy<Value = Value> {
    let ordered = || scalar().prop_filter("ordered", |v| v.is_number() || v.is_string());
    let text = || select(vec!["", "x", "y", "xy"]).prop_map(Value::from);
    let list = || vec(literal(), 0..4).prop_map(Value::from);
    let one = prop_oneof![
        (select(vec!["$eq", "$ne"]), literal()),
        (select(vec!["$gt", "$gte", "$lt", "$lte"]), ordered()),
        (select(vec!["$in", "$nin"]), list()),
        (select(vec!["$exists"]), any::<bool>().prop_map(Value::from)),
        (select(vec!["$startsWith", "$endsWith"]), text()),
    ];
    let some = vec(one, 1..3).prop_map(|members| members.into_iter().collect::<Value>());
    let operators = some.prop_recursive(2, 4, 1, |inner| {
        inner.prop_map(|operators| json!({"$not": operators}))
    });
    prop_oneof![literal(), operators]
}

fn any_filter() -> impl Strategy<Value = Value> {
    let paths = vec![
        "a", "a", "a", "b", "b", "a.b", "a.a", "a.0", "a.1", "b.0.a", "a.b.a", "0", "0.a", "gone",
    ];
    let paths = vec((select(paths), condition()), 1..3)
        .prop_map(|members| members.into_iter().collect::<Value>());
    let nested = paths.prop_recursive(3, 8, 3, |inner| {
        let list = vec(inner.clone(), 1..4).prop_map(Value::from);
        prop_oneof![
            (select(vec!["$and", "$or"]), list).prop_map(|(key, list)| json!({key: list})),
            inner.clone().prop_map(|filter| json!({"$not": filter})),
            (inner.clone(), inner).prop_map(|(mut a, mut b)| {
                a.as_object_mut()
                    .unwrap()
                    .append(b.as_object_mut().unwrap());
                a
            }),
        ]
    });
    (nested, prop_oneof![3 => Just(json!({})), 2 => short()]).prop_map(|(mut filter, mut short)| {
        filter
            .as_object_mut()
            .unwrap()
            .append(short.as_object_mut().unwrap());
        filter
    })
}

fn short() -> impl Strategy<Value = Value> {
    let listed = scalar().prop_filter("listable", |v| v.is_number() || v.is_string());
    prop_oneof![
        (select(vec!["locations", "categories"]), vec(listed, 1..4))
            .prop_map(|(key, list)| json!({key: list})),
        (-1..3).prop_map(|n| json!({"minStockThreshold": n})),
    ]
}

/// Any JSON at all, but with a taste for what filters are made of.
fn anything() -> impl Strategy<Value = Value> {
    let words =
        "\\$(and|or|not|eq|ne|gt|in|nin|exists|startsWith|regex)|[a.0]{0,4}|locations|\\PC{0,3}";
    let leaf = prop_oneof![
        scalar(),
        "\\PC{0,8}".prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(10, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((words, inner), 0..6).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_filter_answers_as_the_naive_evaluator_does(condition in any_filter(), data in data()) {
        let Ok(filter) = Filter::parse(&condition) else {
            return Err(TestCaseError::reject("beyond a bound"));
        };
        let expected = answer(&condition, &data, true) == Some(true);
        prop_assert_eq!(matches(&filter, &data), expected);
        prop_assert_eq!(explain(&filter, &data).is_ok(), expected);
    }

    #[test]
    fn one_condition_answers_as_the_naive_evaluator_does(
        path in select(vec!["a", "a.a", "a.b", "a.0", "a.1"]),
        condition in condition(),
        value in nested(),
    ) {
        let (condition, data) = (json!({path: condition}), json!({"a": value}));
        let expected = answer(&condition, &data, true) == Some(true);
        prop_assert_eq!(matches(&filter(condition), &data), expected);
    }

    #[test]
    fn a_short_form_answers_as_the_naive_evaluator_does(
        condition in short(),
        top in shortly_filtered(),
        one_down in shortly_filtered(),
    ) {
        let mut data = top;
        data["item"] = one_down;
        let expected = answer(&condition, &data, true) == Some(true);
        prop_assert_eq!(matches(&filter(condition), &data), expected);
    }

    #[test]
    fn nothing_makes_parsing_or_matching_panic(condition in anything(), data in anything()) {
        if let Ok(filter) = Filter::parse(&condition) {
            let explained = explain(&filter, &data);
            prop_assert_eq!(explained.is_ok(), matches(&filter, &data));
            if let Err(Refusal { clause, found, .. }) = explained {
                prop_assert!(clause.chars().count() <= MAX_CLAUSE_TEXT);
                prop_assert!(found.chars().count() <= MAX_EXCERPT);
            }
        }
    }

    #[test]
    fn what_is_given_a_condition_at_random_does_not_panic(condition in any_filter(), data in anything()) {
        if let Ok(filter) = Filter::parse(&condition) {
            prop_assert_eq!(explain(&filter, &data).is_ok(), matches(&filter, &data));
        }
    }

    #[test]
    fn no_json_panics_or_takes_long(condition in any_json(), data in any_json()) {
        if let Ok(filter) = Filter::parse(&condition) {
            prop_assert_eq!(explain(&filter, &data).is_ok(), matches(&filter, &data));
        }
    }
}

/// With the words that filters know among its names.
fn any_json() -> impl Strategy<Value = Value> {
    let words = vec![
        "a",
        "a.b",
        "0",
        "",
        ".",
        "$or",
        "$and",
        "$not",
        "$in",
        "$nin",
        "$eq",
        "$gt",
        "$exists",
        "$startsWith",
        "$endsWith",
        "$",
        "$near",
        "locations",
        "minStockThreshold",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        select(words.clone()).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((select(words.clone()), inner), 0..5).prop_map(|members| members
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect()),
        ]
    })
}

#[test]
fn no_nested_filter_overflows_the_stack() {
    for (open, close) in [
        ("[", "]"),
        (r#"{"$not":"#, "}"),
        (r#"{"$or":["#, "]}"),
        (r#"{"a":"#, "}"),
    ] {
        // As deep as the reader of JSON goes.
        for times in [9, 60] {
            let text = format!("{}1{}", open.repeat(times), close.repeat(times));
            let condition = serde_json::from_str(&text).unwrap();
            assert!(Filter::parse(&condition).is_err(), "{text}");
        }
    }
}
