//! What a filter promises, operator by operator; `bounds` has what it refuses
//! to be, `properties` the same promises against an evaluator written apart.

use serde_json::{Value, json};

use super::*;

mod bounds;
mod properties;

fn filter(filter: Value) -> Filter {
    Filter::parse(&filter).unwrap()
}

fn matches(filter: &Filter, data: &Value) -> bool {
    filter.matches(data, &mut Budget::new(MAX_STEPS)) == Ok(true)
}

fn explain(filter: &Filter, data: &Value) -> Result<Vec<Holding>, Refusal> {
    filter.explain(data, &mut Budget::new(MAX_STEPS))
}

/// Both ways to ask must agree, so every table asks both.
#[track_caller]
fn assert_matches(condition: &Value, data: &Value, expected: bool) {
    let filter = Filter::parse(condition).unwrap();
    assert_eq!(matches(&filter, data), expected, "{condition} on {data}");
    assert_eq!(
        explain(&filter, data).is_ok(),
        expected,
        "{condition} on {data}"
    );
}

#[track_caller]
fn table(rows: impl IntoIterator<Item = (Value, Value, bool)>) {
    for (condition, data, expected) in rows {
        assert_matches(&condition, &data, expected);
    }
}

/// The first of these matches, the others do not.
#[track_caller]
fn only(
    condition: Value,
    yes: impl IntoIterator<Item = Value>,
    no: impl IntoIterator<Item = Value>,
) {
    for data in yes {
        assert_matches(&condition, &data, true);
    }
    for data in no {
        assert_matches(&condition, &data, false);
    }
}

#[test]
fn an_empty_filter_matches_everything() {
    only(
        json!({}),
        [json!({}), json!(null), json!([1]), json!({"a": 1})],
        [],
    );
}

#[test]
fn all_members_must_match() {
    let both = json!({"a": 1, "b": "x"});
    only(
        both,
        [json!({"a": 1, "b": "x"}), json!({"b": "x", "a": 1, "c": 2})],
        [
            json!({"a": 1, "b": "y"}),
            json!({"a": 2, "b": "x"}),
            json!({"a": 1}),
            json!({}),
        ],
    );
}

#[test]
fn a_literal_is_equality_of_kind_and_worth() {
    only(
        json!({"restaurant_id": 1}),
        [json!({"restaurant_id": 1}), json!({"restaurant_id": 1.0})],
        [
            json!({"restaurant_id": "1"}),
            json!({"restaurant_id": true}),
            json!({"restaurant_id": 2}),
            json!({"restaurant_id": null}),
            json!({"restaurant_id": {"id": 1}}),
            json!({"restaurant": 1}),
        ],
    );
    only(
        json!({"a": ""}),
        [json!({"a": ""})],
        [json!({"a": null}), json!({"a": " "})],
    );
    only(
        json!({"a": true}),
        [json!({"a": true})],
        [json!({"a": 1}), json!({"a": "true"})],
    );
}

#[test]
fn an_object_or_array_literal_is_deep_equality() {
    only(
        json!({"address": {"city": "Graz", "zip": [8010, 8020]}}),
        [json!({"address": {"zip": [8010.0, 8020], "city": "Graz"}})],
        [
            json!({"address": {"city": "Graz"}}),
            json!({"address": {"city": "Graz", "zip": [8020, 8010]}}),
            json!({"address": {"city": "Graz", "zip": [8010, 8020], "more": 1}}),
            json!({"address": {"city": "Graz", "zip": [8010, 8020, 1]}}),
            json!({"address": {"city": "Graz", "zap": [8010, 8020]}}),
        ],
    );
    only(
        json!({"a": {}}),
        [json!({"a": {}})],
        [json!({"a": {"b": 1}}), json!({"a": []})],
    );
    only(
        json!({"a": [1]}),
        [json!({"a": [1]}), json!({"a": [[1], 2]})],
        [json!({"a": 1})],
    );
}

#[test]
fn null_is_only_an_explicit_null() {
    only(
        json!({"a": null}),
        [json!({"a": null})],
        [json!({}), json!({"a": 0}), json!({"a": ""})],
    );
    only(
        json!({"a": {"$ne": null}}),
        [json!({"a": 0})],
        [json!({}), json!({"a": null})],
    );
}

#[test]
fn a_path_goes_into_objects_and_by_number_into_arrays() {
    table([
        (json!({"a.b.c": 1}), json!({"a": {"b": {"c": 1}}}), true),
        (json!({"a.b.c": 1}), json!({"a": {"b": 1}}), false),
        (json!({"a.b": 1}), json!({"a.b": 1}), false),
        (json!({"a.1": "y"}), json!({"a": ["x", "y"]}), true),
        (json!({"a.1": "x"}), json!({"a": ["x", "y"]}), false),
        (json!({"a.2": "x"}), json!({"a": ["x", "y"]}), false),
        (json!({"a.01": "y"}), json!({"a": ["x", "y"]}), false),
        (json!({"a.0": "x"}), json!({"a": {"0": "x"}}), true),
        (
            json!({"a.99999999999999999999999": 1}),
            json!({"a": [1]}),
            false,
        ),
        (json!({"0.a": 1}), json!([{"a": 1}]), true),
    ]);
}

#[test]
fn an_array_matches_if_any_element_does() {
    table([
        (
            json!({"tags": "new"}),
            json!({"tags": ["old", "new"]}),
            true,
        ),
        (json!({"tags": "new"}), json!({"tags": ["old"]}), false),
        (json!({"tags": "new"}), json!({"tags": []}), false),
        (json!({"tags": "new"}), json!({"tags": [["new"]]}), false),
        (json!({"n": {"$gt": 5}}), json!({"n": [1, 9]}), true),
        (json!({"n": {"$gt": 5}}), json!({"n": [1, "9"]}), false),
        (
            json!({"items.sku": "A"}),
            json!({"items": [{"sku": "B"}, {"sku": "A"}]}),
            true,
        ),
        (
            json!({"items.sku": "A"}),
            json!({"items": [{"sku": ["B", "A"]}]}),
            true,
        ),
        (
            json!({"items.sku": "A"}),
            json!({"items": [{"sku": "B"}, 1, {}]}),
            false,
        ),
        (
            json!({"items.sku": "A"}),
            json!({"items": [[{"sku": "A"}]]}),
            false,
        ),
        (
            json!({"items.0.sku": "A"}),
            json!({"items": [[{"sku": "A"}]]}),
            true,
        ),
        (
            json!({"items.0.sku": "A"}),
            json!({"items": [{"sku": "B"}, {"sku": "A"}]}),
            false,
        ),
        (
            json!({"a.b.c": 1}),
            json!({"a": [{"b": [{"c": 0}]}, {"b": [{"c": 1}]}]}),
            true,
        ),
        // Each operator finds an element of its own.
        (
            json!({"n": {"$gt": 5, "$lt": 3}}),
            json!({"n": [1, 9]}),
            true,
        ),
    ]);
}

#[test]
fn eq_and_ne_are_opposites_wherever_there_is_something() {
    let data = [
        json!(1),
        json!(2),
        json!([1, 2]),
        json!([]),
        json!(null),
        json!("1"),
        json!({}),
    ];
    for value in data {
        let data = json!({"a": value});
        let equal = matches(&filter(json!({"a": {"$eq": 1}})), &data);
        assert_eq!(equal, matches(&filter(json!({"a": 1})), &data), "{data}");
        assert_matches(&json!({"a": {"$ne": 1}}), &data, !equal);
    }
}

#[test]
fn gt_gte_lt_lte_compare_numbers() {
    for (operator, below, at, above) in [
        ("$gt", false, false, true),
        ("$gte", false, true, true),
        ("$lt", true, false, false),
        ("$lte", true, true, false),
    ] {
        table([
            (json!({"a": {operator: 5}}), json!({"a": 4.99}), below),
            (json!({"a": {operator: 5}}), json!({"a": 5}), at),
            (json!({"a": {operator: 5}}), json!({"a": 5.0}), at),
            (json!({"a": {operator: 5}}), json!({"a": 5.01}), above),
        ]);
    }
}

#[test]
fn gt_gte_lt_lte_compare_strings_by_bytes_so_times_work() {
    for (operator, below, at, above) in [
        ("$gt", false, false, true),
        ("$gte", false, true, true),
        ("$lt", true, false, false),
        ("$lte", true, true, false),
    ] {
        let condition = json!({"at": {operator: "2024-05-01T00:00:00Z"}});
        table([
            (
                condition.clone(),
                json!({"at": "2024-04-30T23:59:59Z"}),
                below,
            ),
            (condition.clone(), json!({"at": "2024-05-01T00:00:00Z"}), at),
            (condition, json!({"at": "2024-05-01T00:00:01Z"}), above),
        ]);
    }
    // By bytes, not by alphabet: every capital is before every small letter.
    assert_matches(&json!({"a": {"$lt": "a"}}), &json!({"a": "Z"}), true);
}

#[test]
fn kinds_that_do_not_compare_are_neither_greater_nor_less() {
    for operator in ["$gt", "$gte", "$lt", "$lte"] {
        let others = [json!(true), json!(null), json!({}), json!([]), json!([[1]])];
        for value in others {
            assert_matches(&json!({"a": {operator: 0}}), &json!({"a": value}), false);
            assert_matches(&json!({"a": {operator: ""}}), &json!({"a": value}), false);
        }
        assert_matches(&json!({"a": {operator: 0}}), &json!({"a": "1"}), false);
        assert_matches(&json!({"a": {operator: "0"}}), &json!({"a": 1}), false);
    }
}

#[test]
fn large_integers_lose_no_digit() {
    let data: Value = serde_json::from_str(r#"{"id": 9007199254740993}"#).unwrap();
    table([
        (json!({"id": 9_007_199_254_740_993_u64}), data.clone(), true),
        (
            json!({"id": 9_007_199_254_740_992_u64}),
            data.clone(),
            false,
        ),
        (
            json!({"id": {"$gt": 9_007_199_254_740_992_u64}}),
            data.clone(),
            true,
        ),
        (
            json!({"id": {"$gt": 9_007_199_254_740_992.0}}),
            data.clone(),
            true,
        ),
        (
            json!({"id": {"$in": [9_007_199_254_740_994_u64]}}),
            data,
            false,
        ),
        (
            json!({"id": 12_345_678_901_234_567_890_u64}),
            json!({"id": 12_345_678_901_234_567_891_u64}),
            false,
        ),
    ]);
}

#[test]
fn in_is_any_of_the_list_and_nin_none_of_it() {
    let listed = json!([1, "x", null, [2, 3], {"k": 1}]);
    for (value, among) in [
        (json!(1), true),
        (json!(1.0), true),
        (json!("x"), true),
        (json!(null), true),
        (json!([2, 3]), true),
        (json!({"k": 1}), true),
        (json!([9, "x"]), true),
        (json!(2), false),
        (json!("1"), false),
        (json!([2]), false),
        (json!([]), false),
    ] {
        let data = json!({"a": value});
        assert_matches(&json!({"a": {"$in": listed}}), &data, among);
        assert_matches(&json!({"a": {"$nin": listed}}), &data, !among);
    }
    table([
        (json!({"a": {"$in": []}}), json!({"a": 1}), false),
        (json!({"a": {"$nin": []}}), json!({"a": 1}), true),
    ]);
}

#[test]
fn exists_asks_whether_a_path_leads_to_anything_even_null() {
    for (path, data, exists) in [
        ("a", json!({"a": null}), true),
        ("a", json!({"a": []}), true),
        ("a", json!({}), false),
        ("a.b", json!({"a": {"b": 0}}), true),
        ("a.b", json!({"a": 0}), false),
        ("a.b", json!({"a": null}), false),
        ("a.b", json!({"a": [{}, {"b": 0}]}), true),
        ("a.b", json!({"a": []}), false),
        ("a.0", json!({"a": []}), false),
    ] {
        assert_matches(&json!({path: {"$exists": true}}), &data, exists);
        assert_matches(&json!({path: {"$exists": false}}), &data, !exists);
        assert_matches(&json!({path: {"$not": {"$exists": true}}}), &data, !exists);
        assert_matches(&json!({path: {"$not": {"$exists": false}}}), &data, exists);
    }
}

#[test]
fn starts_with_and_ends_with_look_at_strings_only() {
    table([
        (
            json!({"a": {"$startsWith": "VIP-"}}),
            json!({"a": "VIP-1"}),
            true,
        ),
        (
            json!({"a": {"$startsWith": "VIP-"}}),
            json!({"a": "vip-1"}),
            false,
        ),
        (
            json!({"a": {"$startsWith": "VIP-"}}),
            json!({"a": "a VIP-"}),
            false,
        ),
        (
            json!({"a": {"$startsWith": "VIP-"}}),
            json!({"a": ["x", "VIP-1"]}),
            true,
        ),
        (json!({"a": {"$startsWith": "1"}}), json!({"a": 12}), false),
        (json!({"a": {"$startsWith": ""}}), json!({"a": null}), false),
        (json!({"a": {"$startsWith": ""}}), json!({"a": ""}), true),
        (
            json!({"a": {"$endsWith": "@x.at"}}),
            json!({"a": "me@x.at"}),
            true,
        ),
        (
            json!({"a": {"$endsWith": "@x.at"}}),
            json!({"a": "me@x.at "}),
            false,
        ),
        (json!({"a": {"$endsWith": "2"}}), json!({"a": 12}), false),
    ]);
}

#[test]
fn several_operators_must_all_hold() {
    only(
        json!({"n": {"$gte": 1, "$lt": 5, "$ne": 3}}),
        [json!({"n": 1}), json!({"n": 4.5})],
        [json!({"n": 0}), json!({"n": 5}), json!({"n": 3}), json!({})],
    );
}

#[test]
fn and_needs_all_or_needs_one_not_needs_none() {
    only(
        json!({"$and": [{"a": 1}, {"b": 2}]}),
        [json!({"a": 1, "b": 2})],
        [json!({"a": 1}), json!({"a": 1, "b": 3})],
    );
    only(
        json!({"$or": [{"a": 1}, {"b": 2}], "c": 3}),
        [
            json!({"a": 1, "c": 3}),
            json!({"b": 2, "c": 3}),
            json!({"a": 0, "b": 2, "c": 3}),
        ],
        [
            json!({"a": 0, "b": 0, "c": 3}),
            json!({"a": 1}),
            json!({"c": 3}),
        ],
    );
    only(
        json!({"$not": {"a": 1, "b": 2}}),
        [json!({"a": 1, "b": 3}), json!({"a": 0, "b": 2})],
        [json!({"a": 1, "b": 2})],
    );
    only(
        json!({"a": {"$not": {"$gte": 1, "$lt": 5}}}),
        [
            json!({"a": 0}),
            json!({"a": 5}),
            json!({"a": "x"}),
            json!({"a": []}),
        ],
        [json!({"a": 1}), json!({"a": [0, 4]})],
    );
    only(json!({"$not": {}}), [], [json!({}), json!(1)]);
}

#[test]
fn a_filter_that_names_a_missing_path_does_not_match() {
    let nothing_there = [
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": {"$eq": null}}),
        json!({"a": {"$ne": 1}}),
        json!({"a": {"$nin": [1]}}),
        json!({"a": {"$lt": 1}}),
        json!({"a": {"$exists": true}}),
        json!({"a": {"$not": {"$eq": 1}}}),
        json!({"a": {"$not": {"$not": {"$eq": 1}}}}),
        json!({"$not": {"a": 1}}),
        json!({"$not": {"$not": {"a": 1}}}),
        json!({"$not": {"$and": [{"a": 1}, {"here": 2}]}}),
        json!({"$not": {"a": 1, "here": 2}}),
        json!({"$not": {"here": 2, "a": 1}}),
        json!({"$not": {"$or": [{"a": 1}, {"here": 2}]}}),
        json!({"$or": [{"a": 1}, {"here": 2}]}),
        json!({"here": 1, "a": 1}),
    ];
    for condition in nothing_there {
        assert_matches(&condition, &json!({"here": 1}), false);
    }
}

#[test]
fn a_missing_path_spoils_no_or_that_another_branch_fulfils() {
    let data = json!({"here": 1});
    table([
        (json!({"$or": [{"a": 1}, {"here": 1}]}), data.clone(), true),
        (
            json!({"$or": [{"a": {"$exists": false}}, {"a": 1}]}),
            data.clone(),
            true,
        ),
        (json!({"a": {"$exists": false}}), data.clone(), true),
        (json!({"a": {"$exists": false, "$eq": 1}}), data, false),
    ]);
}

#[test]
fn locations_and_categories_are_the_first_of_their_fields_that_is_there() {
    for (key, first, second, third) in [
        ("locations", "location_id", "locationId", "location"),
        ("categories", "category_id", "categoryId", "category"),
    ] {
        only(
            json!({key: ["loc-1", 7]}),
            [
                json!({first: "loc-1"}),
                json!({second: 7}),
                json!({third: "loc-1"}),
                json!({first: null, third: "loc-1"}),
                json!({first: ["loc-0", "loc-1"]}),
            ],
            [
                json!({first: "loc-2", second: "loc-1"}),
                json!({second: "loc-2", third: "loc-1"}),
                json!({third: "loc-2"}),
                json!({first: null}),
                json!({key: ["loc-1", 7]}),
                json!({}),
            ],
        );
    }
}

#[test]
fn a_short_form_looks_one_level_down_if_there_is_nothing_at_the_top() {
    only(
        json!({"locations": ["loc-1"], "minStockThreshold": 5}),
        [
            json!({"item": {"location": "loc-1", "quantity": 3}}),
            json!({"item": {"quantity": 3}, "place": {"location_id": "loc-1"}}),
            json!({"location": "loc-1", "item": {"quantity": 3, "location": "loc-2"}}),
        ],
        [
            json!({"location": "loc-2", "item": {"quantity": 3, "location": "loc-1"}}),
            json!({"item": {"location": "loc-1", "quantity": 6}}),
            json!({"item": {"more": {"location": "loc-1", "quantity": 3}}}),
            json!({"items": [{"location": "loc-1", "quantity": 3}]}),
        ],
    );
}

#[test]
fn stock_at_or_under_the_threshold_passes() {
    only(
        json!({"minStockThreshold": 5}),
        [
            json!({"quantity": 5}),
            json!({"stock": 0}),
            json!({"current_quantity": -1.5}),
            json!({"quantity": 0, "stock": 99}),
            json!({"quantity": null, "stock": 1}),
        ],
        [
            json!({"quantity": 6}),
            json!({"quantity": 6, "stock": 1}),
            json!({"quantity": "1"}),
            json!({"minStockThreshold": 5}),
        ],
    );
}

#[test]
fn the_documented_filters_of_jossiedb_work_together() {
    let condition =
        json!({"locations": ["loc-123"], "categories": ["cat-456"], "minStockThreshold": 5});
    let data = json!({"location_id": "loc-123", "categoryId": "cat-456", "stock": 3});
    assert_matches(&condition, &data, true);
    for (key, other) in [
        ("location_id", json!("x")),
        ("categoryId", json!("x")),
        ("stock", json!(6)),
    ] {
        let mut data = data.clone();
        data[key] = other;
        assert_matches(&condition, &data, false);
    }
}

#[test]
fn a_short_forms_key_is_an_ordinary_path_with_operators_or_below_the_top() {
    let data = json!({"locations": ["a"], "location": "b"});
    table([
        (json!({"locations": {"$in": ["a"]}}), data.clone(), true),
        (json!({"$and": [{"locations": ["a"]}]}), data.clone(), true),
        (json!({"locations.0": "a"}), data.clone(), true),
        (json!({"locations": ["a"]}), data, false),
    ]);
}

#[test]
fn a_refusal_names_the_clause_and_what_the_data_had_there() {
    for (condition, data, at, clause, found) in [
        (
            json!({"a": 1}),
            json!({"a": "1"}),
            "/a",
            "a $eq 1",
            r#""1""#,
        ),
        (json!({"a": 1}), json!({}), "/a", "a $eq 1", "missing"),
        (
            json!({"a": 1, "b.c": {"$gt": 1, "$lt": 5}}),
            json!({"a": 1, "b": [{"c": 7}, {"c": 8}]}),
            "/b.c/$lt",
            "b.c $lt 5",
            "7, 8",
        ),
        (
            json!({"a": {"$nin": [1, 2]}}),
            json!({"a": 2}),
            "/a/$nin",
            "a $nin [1,2]",
            "2",
        ),
        (
            json!({"a": {"$not": {"$gt": 1}}}),
            json!({"a": 2}),
            "/a/$not",
            r#"a $not {"$gt":1}"#,
            "2",
        ),
        (
            json!({"$and": [{}, {"a/b": null}]}),
            json!({}),
            "/$and/1/a~1b",
            "a/b $eq null",
            "missing",
        ),
        (
            json!({"$or": [{"a": 1}, {"b": 2}]}),
            json!({"a": 3}),
            "/$or",
            r#"$or [{"a":1},{"b":2}]"#,
            "a: 3, b: missing",
        ),
        (
            json!({"$not": {"a": 1}}),
            json!({"a": 1}),
            "/$not",
            r#"$not {"a":1}"#,
            "1",
        ),
        (
            json!({"a": {"$exists": false}}),
            json!({"a": null}),
            "/a/$exists",
            "a $exists false",
            "null",
        ),
        (
            json!({"locations": ["x"]}),
            json!({"location": "y"}),
            "/locations",
            r#"location_id|locationId|location $in ["x"]"#,
            r#""y""#,
        ),
        (
            json!({"minStockThreshold": 5}),
            json!({}),
            "/minStockThreshold",
            "quantity|stock|current_quantity $lte 5",
            "missing",
        ),
    ] {
        let refusal = explain(&filter(condition), &data).unwrap_err();
        let (at, clause, found) = (at.to_owned(), clause.to_owned(), found.to_owned());
        assert_eq!(refusal, Refusal { at, clause, found });
    }
}

#[test]
fn what_passes_is_told_by_the_clauses_that_hold_and_of_or_by_the_first_that_does() {
    let condition = json!({
        "total": {"$gte": 100, "$lt": 500},
        "$or": [{"city": "Linz"}, {"city": "Graz"}, {"total": 120}],
        "state": {"$ne": "draft"},
    });
    let data = json!({"total": 120, "city": "Graz", "state": "paid"});
    let holding = explain(&filter(condition), &data).unwrap();
    let mut told: Vec<_> = holding
        .iter()
        .map(|holding| (holding.at.as_str(), holding.found.as_str()))
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("/$or/1/city", r#""Graz""#),
            ("/state/$ne", r#""paid""#),
            ("/total/$gte", "120"),
            ("/total/$lt", "120"),
        ]
    );
    assert_eq!(explain(&filter(json!({})), &data), Ok(vec![]));
}

#[test]
fn a_refusal_repeats_little_of_large_data_and_large_clauses() {
    let long = "é".repeat(500);
    let condition = json!({"a": {"$in": vec![&long; 100]}});
    let data = json!({"a": [vec!["x"; 9999]]});
    let refusal = explain(&filter(condition), &data).unwrap_err();
    assert_eq!(refusal.clause.chars().count(), MAX_CLAUSE_TEXT);
    assert_eq!(refusal.found.chars().count(), MAX_EXCERPT);
}

#[test]
fn a_filter_gives_up_on_data_that_would_take_too_long_and_does_not_match() {
    let unlisted: Vec<_> = (0..100).map(|n| json!([n])).collect();
    let endless = json!({"a": vec![[-1]; 100_000]});
    for condition in [
        json!({"a": {"$in": unlisted}}),
        json!({"a": {"$nin": unlisted}}),
    ] {
        let refusal = explain(&filter(condition), &endless).unwrap_err();
        assert_eq!(refusal.found, "too much to look at");
    }
    assert_matches(&json!({"a": {"$in": [0, 1, 2]}}), &endless, false);
    assert_matches(&json!({"a": {"$nin": [0, 1, 2]}}), &endless, true);
}

#[test]
fn deeply_nested_arrays_cost_no_more_than_their_size() {
    let mut data = json!(1);
    for _ in 0..100 {
        data = json!([data, data.as_array().map_or(0, Vec::len)]);
    }
    let path = ["a"; MAX_SEGMENTS].join(".");
    assert_matches(&json!({path: 1}), &data, false);
    let path = ["0"; MAX_SEGMENTS].join(".");
    assert_matches(&json!({path: {"$exists": true}}), &data, true);
}
