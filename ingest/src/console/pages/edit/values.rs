//! What is in the fields of a webhook's form, as what a client of the API would send.

use serde_json::{Map, Value, json};

use crate::api::http::problem::{Blame, Problem};
use crate::api::webhooks::view::WebhookView;
use crate::console::clauses::{self, Clause};
use crate::console::fields::Fields;
use crate::plain_words::of_json;

/// What is in the fields of the form.
#[derive(Default, Clone, PartialEq)]
pub(super) struct Values {
    pub(super) url: String,
    pub(super) description: String,
    pub(super) events: String,
    pub(super) filters: String,
    /// The filter as rows; `None`: it can be shown as JSON alone.
    pub(super) clauses: Option<Vec<Clause>>,
    /// What is wrong with the rows.
    pub(super) wrong_clause: Option<String>,
    /// How many rows are empty, and how many of the either-or group.
    pub(super) empty_rows: usize,
    pub(super) empty_either: usize,
    pub(super) dialect: String,
    /// In seconds.
    pub(super) timeout: String,
    pub(super) retries: String,
    pub(super) rate: String,
    pub(super) per: String,
    pub(super) headers: String,
    pub(super) secret: String,
    pub(super) debug: bool,
}

/// The name of the button that takes another pattern: the one to replace, a space, and the new
/// one.
pub(super) const INSTEAD: &str = "instead";

/// Whether the form is only to be shown again, with what its button changes.
pub(super) fn is_shown_again(fields: &Fields) -> bool {
    let buttons = ["preview", clauses::ADD, clauses::REMOVE, INSTEAD];
    buttons.iter().any(|name| fields.has(name))
}

/// Patterns, one of them replaced.
fn replaced(events: &str, instead: &str) -> String {
    let Some((old, new)) = instead.split_once(' ') else {
        return events.to_owned();
    };
    let all = events.split([',', ' ', '\n', '\t']);
    let all = all.filter(|pattern| !pattern.is_empty());
    let all: Vec<_> = all
        .map(|pattern| if pattern == old { new } else { pattern })
        .collect();
    all.join(", ")
}

impl Values {
    pub(super) fn of_form(fields: &Fields) -> Self {
        let text = |name: &str| fields.text(name).replace("\r\n", "\n").trim().to_owned();
        let (mut filters, mut wrong_clause) = (text("filters"), None);
        let rows = clauses::of_form(fields);
        // Rows and JSON are one value. If the JSON was changed, it counts.
        let clauses = match rows.filter(|_| filters == text("filters_shown")) {
            Some(rows) => {
                match clauses::to_filter(&rows) {
                    Ok(None) => filters = String::new(),
                    Ok(Some(filter)) => filters = format!("{filter:#}"),
                    Err(wrong) => wrong_clause = Some(wrong),
                }
                Some(rows)
            }
            None => rows_of(&filters),
        };
        let adds_to_group = fields.text(clauses::ADD) == clauses::TO_GROUP;
        let has_group = clauses.iter().flatten().any(|clause| clause.either);
        Self {
            clauses,
            wrong_clause,
            empty_rows: 1 + usize::from(fields.has(clauses::ADD) && !adds_to_group),
            empty_either: match (adds_to_group, has_group) {
                (true, false) => 2,
                (true, true) => 1,
                (false, _) => 0,
            },
            url: text("url"),
            description: text("description"),
            events: replaced(&text("events"), fields.text(INSTEAD)),
            filters,
            dialect: text("dialect"),
            timeout: text("timeout"),
            retries: text("retries"),
            rate: text("rate"),
            per: text("per"),
            headers: text("headers"),
            secret: text("secret"),
            debug: fields.has("debug_mode"),
        }
    }

    pub(super) fn of_webhook(webhook: &WebhookView) -> Self {
        let rate = webhook
            .rate_limit
            .as_ref()
            .map(|rate| json!(rate))
            .unwrap_or_default();
        let retry = webhook.retry_policy.as_ref();
        let seconds = |ms: u64| match ms % 1_000 {
            0 => (ms / 1_000).to_string(),
            _ => (ms as f64 / 1_000.0).to_string(),
        };
        let filters = webhook.filters.as_ref().map(|filter| format!("{filter:#}"));
        let filters = filters.unwrap_or_default();
        Self {
            clauses: rows_of(&filters),
            wrong_clause: None,
            empty_rows: 1,
            empty_either: 0,
            url: webhook.url.clone(),
            description: webhook.description.clone(),
            events: webhook.events.join(", "),
            filters,
            dialect: webhook.dialect.clone().unwrap_or_default(),
            timeout: webhook.timeout.map(seconds).unwrap_or_default(),
            retries: retry
                .and_then(|retry| retry.max_retries)
                .map(|n| n.to_string())
                .unwrap_or_default(),
            rate: rate["limit"]
                .as_u64()
                .map(|n| n.to_string())
                .unwrap_or_default(),
            per: rate["per"].as_str().unwrap_or("second").to_owned(),
            headers: String::new(),
            secret: String::new(),
            debug: webhook.debug_mode,
        }
    }

    /// The body that a client would send; of a change, only what it changes. What can't be put
    /// into it is to blame.
    pub(super) fn body(&self, before: Option<&Self>) -> (Map<String, Value>, Blames) {
        let mut body = Map::new();
        let mut wrong = Vec::new();
        let differs = |of: fn(&Self) -> &String| before.is_none_or(|before| of(before) != of(self));
        let mut set = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        if differs(|values| &values.url) {
            set("url", json!(self.url));
        }
        if differs(|values| &values.description) {
            set("description", json!(self.description));
        }
        if differs(|values| &values.events) {
            let separated = self.events.split([',', ' ', '\n', '\t']);
            let events: Vec<_> = separated.filter(|pattern| !pattern.is_empty()).collect();
            set("events", json!(events));
        }
        if let Some(clause) = &self.wrong_clause {
            wrong.push(("filters", clause.clone()));
        } else if differs(|values| &values.filters) {
            match self.filters.as_str() {
                "" => set("filters", Value::Null),
                text => match serde_json::from_str::<Value>(text) {
                    Ok(filter) => set("filters", filter),
                    Err(error) => {
                        wrong.push(("filters", format!("isn't JSON: {}", of_json(&error))));
                    }
                },
            }
        }
        if differs(|values| &values.dialect) {
            set(
                "dialect",
                Some(&self.dialect)
                    .filter(|name| !name.is_empty())
                    .map_or(Value::Null, |name| json!(name)),
            );
        }
        if differs(|values| &values.timeout) {
            match (self.timeout.as_str(), self.timeout.parse::<f64>()) {
                ("", _) => set("timeout", Value::Null),
                (_, Ok(seconds)) if (0.0..=3_600.0).contains(&seconds) => {
                    set("timeout", json!((seconds * 1_000.0).round() as u64));
                }
                _ => wrong.push(("timeout", "must be a number of seconds".to_owned())),
            }
        }
        if differs(|values| &values.retries) {
            match (self.retries.as_str(), self.retries.parse::<u16>()) {
                ("", _) => set("retry_policy", Value::Null),
                (_, Ok(retries)) => set("retries", json!(retries)),
                _ => wrong.push(("retries", "must be a number from 0 to 49".to_owned())),
            }
        }
        if differs(|values| &values.rate) || differs(|values| &values.per) {
            match (self.rate.as_str(), self.rate.parse::<u32>()) {
                ("", _) => set("rate_limit", Value::Null),
                (_, Ok(limit)) => set("rate_limit", json!({"limit": limit, "per": self.per})),
                _ => wrong.push(("rate_limit", "must be a number of requests".to_owned())),
            }
        }
        if !self.headers.is_empty() {
            let mut headers = Map::new();
            for text in self.headers.lines().filter(|text| !text.trim().is_empty()) {
                match text.split_once(':') {
                    Some((name, value)) => {
                        headers.insert(name.trim().to_owned(), json!(value.trim()));
                    }
                    // Never the line itself: there may be a credential in it.
                    None => wrong.push(("headers", "must be lines like `Name: value`".to_owned())),
                }
            }
            set("headers", Value::Object(headers));
        }
        if !self.secret.is_empty() {
            set("secret", json!(self.secret));
        }
        if before.is_none_or(|before| before.debug != self.debug) {
            set("debug_mode", json!(self.debug));
        }
        let wrong = wrong.into_iter();
        let wrong = wrong.map(|(field, detail)| (field.to_owned(), detail));
        (body, Blames(wrong.collect()))
    }
}

pub(super) fn rows_of(filters: &str) -> Option<Vec<Clause>> {
    match filters {
        "" => Some(Vec::new()),
        text => clauses::of_filter(&serde_json::from_str(text).ok()?),
    }
}

/// What is wrong, by field.
#[derive(Default)]
pub(super) struct Blames(pub(super) Vec<(String, String)>);

impl Blames {
    pub(super) fn from_problem(problem: Problem) -> Self {
        let (_, detail, errors) = problem.into_blame();
        if errors.is_empty() {
            return Self(vec![(String::new(), detail)]);
        }
        Self(
            errors
                .into_iter()
                .map(|Blame { field, detail, .. }| (field, detail))
                .collect(),
        )
    }

    /// What is wrong, if anything is.
    pub(super) fn of_result(checked: Result<(), Problem>) -> Self {
        checked
            .map_err(Self::from_problem)
            .err()
            .unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These, and those of fields that aren't to blame already.
    pub(super) fn and(mut self, others: Self) -> Self {
        let new = others.0.into_iter();
        let new = new.filter(|(field, _)| self.get(field).is_none());
        let new: Vec<_> = new.collect();
        self.0.extend(new);
        self
    }

    /// Of `events[3]`, `events` is to blame.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| {
            field == name
                || field
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['[', '.']))
        });
        found.map(|(_, detail)| detail.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sends_only_what_it_changes() {
        let before = Values {
            url: "https://a.example".into(),
            events: "order.*".into(),
            ..Values::default()
        };
        let after = Values {
            events: "order.*, invoice.paid".into(),
            timeout: "2.5".into(),
            ..before.clone()
        };
        let (body, blames) = after.body(Some(&before));
        assert!(blames.is_empty());
        assert_eq!(
            Value::Object(body),
            json!({"events": ["order.*", "invoice.paid"], "timeout": 2_500})
        );
    }

    #[test]
    fn a_pattern_is_replaced_by_the_one_that_was_meant() {
        let events = "ordr.paid, order.*";
        assert_eq!(
            replaced(events, "ordr.paid order.paid"),
            "order.paid, order.*"
        );
        assert_eq!(replaced(events, ""), events);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let values = Values {
            filters: "{".into(),
            retries: "many".into(),
            headers: "hunter2".into(),
            ..Values::default()
        };
        let (_, blames) = values.body(None);
        let fields: Vec<_> = blames.0.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["filters", "retries", "headers"]);
        assert!(
            !blames
                .0
                .iter()
                .any(|(_, detail)| detail.contains("hunter2"))
        );
    }
}
