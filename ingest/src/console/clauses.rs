//! A filter as rows of path, operator and value, for people who don't write JSON.
//!
//! All rows must hold. Rows of the either-or group are one condition together, `$or`: one of them
//! must hold.
//!
//! Rows and JSON are one value. A filter that has more than rows can say (`$not`, a short form,
//! more than one clause in a branch of `$or`) is shown as JSON alone.

use maud::{Markup, html};
use serde_json::{Map, Value, json};

use crate::console::fields::Fields;
use crate::console::icons::icon;

/// The operators, and what people call them.
const OPERATORS: [(&str, &str); 11] = [
    ("$eq", "equals"),
    ("$ne", "differs from"),
    ("$gte", "at least"),
    ("$gt", "more than"),
    ("$lte", "at most"),
    ("$lt", "less than"),
    ("$in", "one of"),
    ("$nin", "none of"),
    ("$startsWith", "begins with"),
    ("$endsWith", "ends with"),
    ("$exists", "exists (true or false)"),
];
/// Of so many clauses there are rows; a longer filter is shown as JSON.
const MOST: usize = 30;

/// One row, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    pub path: String,
    pub operator: String,
    pub value: String,
    /// Whether it is in the either-or group.
    pub either: bool,
}

/// The name of the button that removes the row with its number.
pub const REMOVE: &str = "remove";
/// The name of the button that adds a row: its value is [`TO_GROUP`] or anything else.
pub const ADD: &str = "clause";
/// A row is added to the either-or group.
pub const TO_GROUP: &str = "either";

/// The rows of a form, without the empty ones and the one that is removed. `None`: the form has
/// none.
pub fn of_form(fields: &Fields) -> Option<Vec<Clause>> {
    let all = |name| fields.all(name).map(|text| text.trim().to_owned());
    let (paths, values): (Vec<_>, Vec<_>) = (all("path").collect(), all("value").collect());
    if paths.is_empty() {
        return None;
    }
    let removed: Option<usize> = fields.text(REMOVE).parse().ok();
    // One for each row; older pages that are still open don't send it.
    let groups: Vec<_> = fields.all("group").map(|group| group == TO_GROUP).collect();
    let rows = paths.into_iter().zip(all("operator")).zip(values);
    let rows = rows.enumerate();
    let rows = rows.filter(|(at, _)| Some(*at) != removed);
    let rows = rows.map(|(at, ((path, operator), value))| Clause {
        path,
        operator,
        value,
        either: groups.get(at).copied().unwrap_or_default(),
    });
    let filled = rows.filter(|row| !(row.path.is_empty() && row.value.is_empty()));
    Some(filled.take(MOST).collect())
}

/// The rows that say the same as a filter; `None`: rows can't.
pub fn of_filter(filter: &Value) -> Option<Vec<Clause>> {
    let mut rows = Vec::new();
    for (path, condition) in filter.as_object()? {
        if path == "$or" {
            rows.extend(group(condition)?);
            continue;
        }
        if path.starts_with('$') || SHORT_FORMS.contains(&path.as_str()) {
            return None;
        }
        let operators = condition.as_object();
        let operators = operators.filter(|all| all.keys().any(|key| key.starts_with('$')));
        let clause = |operator: &str, value: &Value| {
            let known = OPERATORS.iter().any(|(name, _)| *name == operator);
            known.then(|| Clause {
                path: path.clone(),
                operator: operator.to_owned(),
                value: typed(value),
                either: false,
            })
        };
        match operators {
            Some(all) => {
                for (operator, value) in all {
                    rows.push(clause(operator, value)?);
                }
            }
            None => rows.push(clause("$eq", condition)?),
        }
    }
    // What is read back from them must be the same.
    let same = to_filter(&rows).ok().flatten().unwrap_or_else(|| json!({}));
    (rows.len() <= MOST && normal(&same) == normal(filter)).then_some(rows)
}

/// The rows of `$or`, if each of its branches is one clause.
fn group(branches: &Value) -> Option<Vec<Clause>> {
    let rows = branches.as_array()?.iter().map(|branch| {
        let mut rows = of_filter(branch)?;
        let row = rows.pop().filter(|row| rows.is_empty() && !row.either)?;
        Some(Clause {
            either: true,
            ..row
        })
    });
    rows.collect()
}

/// They look at several fields, by their name alone.
const SHORT_FORMS: [&str; 3] = ["locations", "categories", "minStockThreshold"];

/// A filter in a line: its first clause, and how many more.
pub fn in_short(filter: &Value) -> String {
    let clauses = of_filter(filter).unwrap_or_default();
    let Some(first) = clauses.first() else {
        return "with a filter".to_owned();
    };
    let sign = match first.operator.as_str() {
        "$eq" => "=",
        "$ne" => "≠",
        "$gte" => "≥",
        "$gt" => ">",
        "$lte" => "≤",
        "$lt" => "<",
        other => OPERATORS
            .iter()
            .find(|(operator, _)| *operator == other)
            .map_or(other, |(_, words)| *words),
    };
    let clause = match first.operator.as_str() {
        "$exists" if first.value == "false" => format!("without {}", first.path),
        "$exists" => format!("with {}", first.path),
        _ => format!("{} {sign} {}", first.path, first.value),
    };
    match clauses.len() - 1 {
        0 => clause,
        more => format!("{clause}, and {more} more"),
    }
}

/// `{"a": 1}` says what `{"a": {"$eq": 1}}` says.
fn normal(filter: &Value) -> Value {
    let Some(members) = filter.as_object() else {
        return filter.clone();
    };
    let members = members.iter().map(|(path, condition)| {
        if let ("$or", Some(branches)) = (path.as_str(), condition.as_array()) {
            return (path.clone(), branches.iter().map(normal).collect());
        }
        let has_operators = |all: &Map<String, Value>| all.keys().any(|key| key.starts_with('$'));
        match condition.as_object().is_some_and(has_operators) {
            true => (path.clone(), condition.clone()),
            false => (path.clone(), json!({"$eq": condition})),
        }
    });
    Value::Object(members.collect())
}

/// The filter that the rows say; `None` without rows.
///
/// # Errors
/// What is wrong with a row.
pub fn to_filter(rows: &[Clause]) -> Result<Option<Value>, String> {
    let mut filter = all_of(rows.iter().filter(|row| !row.either))?;
    let branches = rows.iter().filter(|row| row.either);
    let branches = branches.map(|row| all_of([row]).map(Value::Object));
    let branches = branches.collect::<Result<Vec<_>, _>>()?;
    if !branches.is_empty() {
        filter.insert("$or".to_owned(), Value::Array(branches));
    }
    Ok(Some(filter)
        .filter(|filter| !filter.is_empty())
        .map(Value::Object))
}

/// The filter that asks for all of the rows.
fn all_of<'a>(rows: impl IntoIterator<Item = &'a Clause>) -> Result<Map<String, Value>, String> {
    let mut filter = Map::new();
    for row in rows {
        if row.path.is_empty() {
            return Err("a clause has a value and no path: name a field of the data, like total or customer.country".to_owned());
        }
        let value = read(row);
        let equals = row.operator == "$eq" && !filter.contains_key(&row.path);
        // An object with a `$` in it would be read as operators.
        if equals && !value.is_object() {
            filter.insert(row.path.clone(), value);
            continue;
        }
        let at = filter.entry(row.path.clone()).or_insert_with(|| json!({}));
        if !at
            .as_object()
            .is_some_and(|all| all.is_empty() || all.keys().any(|key| key.starts_with('$')))
        {
            *at = json!({"$eq": at.clone()});
        }
        let Some(operators) = at.as_object_mut() else {
            continue;
        };
        if operators.insert(row.operator.clone(), value).is_some() {
            return Err(format!(
                "two clauses say {} of {}: say it once, or put both into an either-or group",
                row.operator, row.path
            ));
        }
    }
    Ok(filter)
}

/// What was typed: JSON where it is JSON, else a text. Of several, a list with commas will do.
fn read(row: &Clause) -> Value {
    let one = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    if !matches!(row.operator.as_str(), "$in" | "$nin") {
        return one(&row.value);
    }
    match one(&row.value) {
        list @ Value::Array(_) => list,
        _ => row.value.split(',').map(|part| one(part.trim())).collect(),
    }
}

/// As somebody would type it: a text that isn't JSON needs no quotes.
fn typed(value: &Value) -> String {
    match value {
        Value::String(text)
            if serde_json::from_str::<Value>(text).is_err()
                && text.trim() == text
                && !text.contains(char::is_control) =>
        {
            text.clone()
        }
        other => other.to_string(),
    }
}

/// The rows, and empty ones: `more` of those that must all hold, `either` of the group.
pub fn rows(clauses: &[Clause], more: usize, either: usize) -> Markup {
    let empty = |either| Clause {
        path: String::new(),
        operator: "$eq".to_owned(),
        value: String::new(),
        either,
    };
    let of = |group: bool, more: usize| {
        let filled = clauses.iter().filter(move |row| row.either == group);
        let empty = std::iter::repeat_n(empty(group), more);
        filled.cloned().chain(empty).collect::<Vec<_>>()
    };
    let (all, group) = (of(false, more), of(true, either));
    html! {
        div data-rows {
            @for (at, row) in all.iter().enumerate() { (one(at, row)) }
            div class="row" {
                button class="btn tiny" name=(ADD) value="1" formnovalidate data-add-row { (icon("plus")) "Clause" }
                @if group.is_empty() {
                    button class="btn tiny" name=(ADD) value=(TO_GROUP) formnovalidate { (icon("plus")) "Either-or group" }
                }
                span class="hint small soft" { "All must hold. An empty row is none." }
            }
        }
        @if !group.is_empty() {
            fieldset class="field section-gap" {
                legend { "Either-or group " span class="soft small" { "one of these must hold, too" } }
                div data-rows {
                    @for (at, row) in group.iter().enumerate() { (one(all.len() + at, row)) }
                    div class="row" {
                        button class="btn tiny" name=(ADD) value=(TO_GROUP) formnovalidate data-add-row { (icon("plus")) "Clause" }
                    }
                }
            }
        }
    }
}

/// One row. `at`: its number in the form.
fn one(at: usize, row: &Clause) -> Markup {
    html! {
        div class="triple" data-row {
            input name="path" aria-label="Path" value=(row.path) placeholder="total" maxlength="512" spellcheck="false" autocomplete="off";
            select name="operator" aria-label="Operator" {
                @for (operator, words) in OPERATORS {
                    option value=(operator) selected[operator == row.operator] { (words) }
                }
            }
            input name="value" aria-label="Value" value=(row.value) placeholder="100" maxlength="2048" spellcheck="false" autocomplete="off";
            input type="hidden" name="group" value=(if row.either { TO_GROUP } else { "" });
            button class="btn quiet" name=(REMOVE) value=(at) formnovalidate data-remove-row aria-label="Remove clause" { (icon("x")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_json_are_one_value() {
        for (filter, rows) in [
            (
                json!({"total": {"$gte": 100, "$lt": 200}, "currency": {"$in": ["EUR", "CHF"]}}),
                3,
            ),
            (json!({"a.b": "text", "n": 1, "t": true, "z": null}), 4),
            // A text that looks like something else keeps its quotes.
            (
                json!({"zip": "8010", "flag": "true", "empty": "", "space": " x "}),
                4,
            ),
            (json!({"list": [1, "a"], "sku": {"$startsWith": "VIP-"}}), 2),
            (json!({"a": {"$exists": false}}), 1),
            (json!({"o": {"$eq": {"k": 1}}}), 1),
            (json!({"a": 1, "$or": [{"b": {"$gte": 2}}, {"c": "x"}]}), 3),
            (json!({}), 0),
        ] {
            let shown = of_filter(&filter).unwrap();
            assert_eq!(shown.len(), rows, "{filter}");
            let read = to_filter(&shown).unwrap().unwrap_or_else(|| json!({}));
            assert_eq!(normal(&read), normal(&filter));
        }
        for more in [
            json!({"$or": [{"a": 1, "b": 2}]}),
            json!({"$or": [{"$or": [{"a": 1}]}]}),
            json!({"$and": [{"a": 1}]}),
            json!({"a": {"$not": {"$eq": 1}}}),
            json!({"locations": ["x"]}),
            json!([1]),
        ] {
            assert_eq!(of_filter(&more), None, "{more}");
        }
    }

    #[test]
    fn a_filter_is_said_in_a_line() {
        for (filter, expected) in [
            (
                json!({"total": {"$gte": 100}, "zip": "8010"}),
                "total ≥ 100, and 1 more",
            ),
            (
                json!({"sku": {"$startsWith": "VIP-"}}),
                "sku begins with VIP-",
            ),
            (json!({"note": {"$exists": false}}), "without note"),
            (json!({"$not": {"a": 1}}), "with a filter"),
        ] {
            assert_eq!(in_short(&filter), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_typed_is_read_as_people_mean_it() {
        let row = |path: &str, operator: &str, value: &str| Clause {
            path: path.to_owned(),
            operator: operator.to_owned(),
            value: value.to_owned(),
            either: false,
        };
        let filter = to_filter(&[
            row("currency", "$in", "EUR, CHF"),
            row("total", "$gte", "100"),
            row("total", "$lt", "1e3"),
            row("name", "$eq", "Ann"),
        ]);
        let expected = json!({"currency": {"$in": ["EUR", "CHF"]}, "total": {"$gte": 100, "$lt": 1e3}, "name": "Ann"});
        assert_eq!(filter, Ok(Some(expected)));
        assert!(to_filter(&[row("", "$eq", "1")]).is_err());
        assert!(to_filter(&[row("a", "$gt", "1"), row("a", "$gt", "2")]).is_err());
        assert_eq!(to_filter(&[]), Ok(None));
        let or = |path: &str, operator: &str, value: &str| Clause {
            either: true,
            ..row(path, operator, value)
        };
        let filter = to_filter(&[
            row("currency", "$eq", "EUR"),
            or("total", "$gte", "100"),
            or("total", "$lt", "0"),
        ]);
        let expected =
            json!({"currency": "EUR", "$or": [{"total": {"$gte": 100}}, {"total": {"$lt": 0}}]});
        assert_eq!(filter, Ok(Some(expected)));
    }

    #[test]
    fn a_row_is_removed_by_its_number_and_stays_in_its_group() {
        let form = "path=a&operator=%24eq&value=1&group=&path=b&operator=%24eq&value=2&group=\
                    &path=c&operator=%24eq&value=3&group=either&remove=1";
        let fields = Fields::parse(form.as_bytes()).unwrap();
        let rows = of_form(&fields).unwrap();
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.path.as_str(), row.either))
            .collect();
        assert_eq!(shown, [("a", false), ("c", true)]);
    }
}
