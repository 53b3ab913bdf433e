//! The history of a webhook: who changed what of it, and when.

use maud::{Markup, html};
use serde_json::Value;

use crate::api::changes::{Change, ChangeAction};
use crate::console::moments::at;
use crate::console::parts::panel;
use crate::console::text::{excerpt, line};

/// How many changes are shown.
const SHOWN: usize = 20;

/// A panel that is closed at first. `None`: it couldn't be read.
pub(super) fn history(changes: Option<&[Change]>, log: &str) -> Markup {
    let hint = html! { @match changes {
        Some([]) => "nothing is known of it",
        Some([latest, ..]) => { "last " (at(latest.at.0)) " by " (line(&latest.actor)) },
        None => "can't be read just now",
    } };
    panel(
        "History of changes",
        &hint,
        false,
        &html! {
            @for change in changes.unwrap_or_default().iter().take(SHOWN) { (one(change)) }
            @if changes.is_some_and(|changes| changes.len() > SHOWN) {
                p class="small soft" { "Older ones are in the API: GET /api/v1/changes?object=…" }
            }
            p class="small" { a href=(log) { "The log" } " has them among the attempts." }
        },
    )
}

fn one(change: &Change) -> Markup {
    let what = match change.action {
        ChangeAction::Created => "Made",
        ChangeAction::Changed => "Changed",
        ChangeAction::Deleted => "Deleted",
    };
    let before = |name: &str| change.before.as_ref()?.get(name);
    html! {
        div {
            p { b { (what) } " " (at(change.at.0)) " by " (line(&change.actor)) }
            @if let (ChangeAction::Changed, Some(after)) = (change.action, &change.after) {
                dl class="kv small" {
                    @for (name, value) in after {
                        dt { (line(name)) }
                        dd {
                            @if let Some(before) = before(name) { span class="soft" { (shown(before)) " → " } }
                            (shown(value))
                        }
                    }
                }
            }
        }
    }
}

fn shown(value: &Value) -> Markup {
    match value {
        Value::String(text) => excerpt(text, 160),
        Value::Null => html! { "none" },
        other => html! { code { (excerpt(&other.to_string(), 160)) } },
    }
}
