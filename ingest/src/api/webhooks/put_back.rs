//! Accepts a webhook as the API has shown it: many clients read a webhook, change a member and send
//! all of it back.
//!
//! A member that equals what is shown now is dropped from the change. That includes members that
//! can't be set: a masked secret, or a name that the dialect adds.

use serde_json::{Map, Value, json};

use crate::api::http::code::Code;
use crate::api::http::json;
use crate::api::http::problem::Result;
use crate::invalid::{Gathered, Invalid};
use crate::webhooks::form::WebhookForm;

/// Members that can't be set and change by themselves, so that a client can't know their value.
const CHANGING: [&str; 10] = [
    "updated_at",
    "health",
    "down_since",
    "next_probe_at",
    "waiting",
    "waiting_counted",
    "oldest_waiting_at",
    "too_costly_events",
    "last_too_costly_at",
    "lastTriggered",
];

/// The changes in a body, compared with what is `shown` now; `None`: there are none. A read-only
/// member with another value is `wrong`.
///
/// # Errors
/// Names the members that aren't those of such a form.
pub fn changes(
    mut body: Map<String, Value>,
    shown: &Value,
    wrong: &mut Gathered,
) -> Result<Option<WebhookForm>> {
    let same = |name: &str, value: &Value| shown.get(name) == Some(value);
    let metadata = body.get("metadata");
    // It is put into the metadata, so it isn't the same if those are replaced.
    let metadata_stays = metadata.is_none_or(|value| same("metadata", value));
    // `active: false` alone switches a paused webhook off, which shows the same value.
    let status_stays = body
        .get("status")
        .is_some_and(|value| same("status", value));
    body.retain(|name, value| {
        let stays = same(name, value)
            && (name != "client_id" || metadata_stays)
            && (name != "active" || status_stays);
        !stays && !CHANGING.contains(&name.as_str())
    });
    body.retain(|name, _| {
        let is_read_only = shown.get(name).is_some() && !can_be_set(name);
        if is_read_only {
            let reason = "is read-only, and is not what is stored: leave it out";
            wrong.add(Invalid::new(name, reason));
        }
        !is_read_only
    });
    if body.is_empty() {
        return Ok(None);
    }
    json::read(Value::Object(body).to_string().as_bytes()).map(Some)
}

/// Whether the form of a webhook has a member of this name.
fn can_be_set(name: &str) -> bool {
    let form = json!({ name: null }).to_string();
    match json::read::<WebhookForm>(form.as_bytes()) {
        Ok(_) => true,
        Err(problem) => {
            let mut errors = problem.errors().iter();
            errors.all(|error| error.code != Code::UnknownMember)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    #[test]
    fn a_member_can_be_set_if_the_description_of_a_change_has_it() {
        let document = document();
        let members = |schema: &str| {
            let schema = &document["components"]["schemas"][schema]["properties"];
            schema.as_object().unwrap().clone()
        };
        let (form, webhook) = (members("WebhookChange"), members("Webhook"));
        for (name, _) in &webhook {
            assert_eq!(form.contains_key(name), can_be_set(name), "{name}");
        }
        for name in CHANGING {
            assert!(webhook.contains_key(name) && !can_be_set(name), "{name}");
        }
        // A dialect adds these, as names of members that can be set.
        assert!(can_be_set("target_url") && can_be_set("event_type"));
    }

    #[test]
    fn a_member_that_a_dialect_adds_and_that_cannot_be_set_is_read_only() {
        let shown = json!({"url": "https://example.com/", "endpoint": "https://example.com/"});
        let ask = |body: Value| {
            let mut wrong = Gathered::default();
            let Value::Object(body) = body else { panic!() };
            let form = changes(body, &shown, &mut wrong);
            (form.map(|form| form.is_some()).ok(), wrong.finish(()).err())
        };
        assert_eq!(ask(shown.clone()), (Some(false), None));
        let (changes, wrong) = ask(json!({"endpoint": "https://example.org/"}));
        let wrong = wrong.map(|wrong| wrong.0[0].field.clone());
        assert_eq!((changes, wrong.as_deref()), (Some(false), Some("endpoint")));
        // Nothing of this name is shown, and it can't be set.
        assert_eq!(ask(json!({"endpint": 1})), (None, None));
    }
}
