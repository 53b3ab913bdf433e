//! A filter with the clause that decided marked in it.

use maud::{Markup, html};
use serde_json::Value;

use crate::console::text::line;

/// The longest filter that is shown whole, in bytes of JSON: an event's page has a hundred rows.
const MOST: usize = 500;
/// Operators that join filters. They belong to no field, so they are marked alone.
const COMBINATORS: [&str; 3] = ["$and", "$or", "$not"];

/// The filter as JSON, with what `at` names marked (a JSON Pointer, RFC 6901). `None`: it is too
/// long, or has nothing there.
pub(super) fn marked(filter: &Value, at: &str) -> Option<Markup> {
    let target = member(at);
    let is_there = !target.is_empty() && filter.pointer(target).is_some();
    let is_short = || filter.to_string().len() <= MOST;
    (is_there && is_short()).then(|| value(filter, "", target))
}

/// The field that an operator belongs to: people look for its name.
fn member(at: &str) -> &str {
    match at.rsplit_once('/') {
        Some((field, last))
            if last.starts_with('$') && !field.is_empty() && !COMBINATORS.contains(&last) =>
        {
            field
        }
        _ => at,
    }
}

fn value(json: &Value, pointer: &str, target: &str) -> Markup {
    let part = |key: &str, name: Option<&str>, inner: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        let here = format!("{pointer}/{key}");
        let content = html! {
            @if let Some(name) = name { (line(Value::from(name).to_string())) ": " }
            (value(inner, &here, target))
        };
        match here == target {
            true => html! { mark { (content) } },
            false => content,
        }
    };
    html! {
        @match json {
            Value::Object(members) => {
                "{"
                @for (n, (name, inner)) in members.iter().enumerate() { @if n > 0 { ", " } (part(name, Some(name), inner)) }
                "}"
            },
            Value::Array(list) => {
                "["
                @for (n, inner) in list.iter().enumerate() { @if n > 0 { ", " } (part(&n.to_string(), None, inner)) }
                "]"
            },
            other => (line(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(filter: &Value, at: &str) -> Option<String> {
        let html = marked(filter, at)?.0;
        let plain = html.replace("<bdi>", "").replace("</bdi>", "");
        Some(plain.replace("&quot;", "\""))
    }

    #[test]
    fn the_field_of_the_clause_is_marked_within_the_whole_filter() {
        let filter = json!({"currency": "EUR", "lines": {"$gte": 10}});
        assert_eq!(
            shown(&filter, "/lines/$gte").as_deref(),
            Some(r#"{"currency": "EUR", <mark>"lines": {"$gte": 10}</mark>}"#)
        );
        let either = json!({"$or": [{"a": 1}, {"b/c": {"$in": ["<x>"]}}]});
        assert_eq!(
            shown(&either, "/$or/1/b~1c/$in").as_deref(),
            Some(r#"{"$or": [{"a": 1}, {<mark>"b/c": {"$in": ["&lt;x&gt;"]}</mark>}]}"#)
        );
        assert_eq!(
            shown(&either, "/$or").as_deref(),
            Some(r#"{<mark>"$or": [{"a": 1}, {"b/c": {"$in": ["&lt;x&gt;"]}}]</mark>}"#)
        );
        // Too costly as a whole, changed since, or too long.
        for (filter, at) in [
            (&filter, ""),
            (&filter, "/gone"),
            (&json!({"a": "x".repeat(MOST)}), "/a"),
        ] {
            assert_eq!(shown(filter, at), None, "{at}");
        }
    }
}
