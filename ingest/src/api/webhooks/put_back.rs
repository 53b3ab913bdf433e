//! Accepts a webhook as the API has shown it: many clients read a webhook, change a member and send
//! all of it back.
//!
//! A member that equals what is shown now is dropped from the change. That includes members that
//! can't be set: a masked secret, or a name that the dialect adds.

use serde_json::{Map, Value};

use crate::api::http::json;
use crate::api::http::problem::{Problem, Result};
use crate::webhooks::form::WebhookForm;

/// Members that are shown and can't be set.
const READ_ONLY: [&str; 9] = [
    "id",
    "secret_made_at",
    "disabled_reason",
    "readable",
    "previous_secret_until",
    "public_key",
    "key",
    "created_at",
    "createdAt",
];
/// Those that change by themselves, so that a client can't know their value.
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

/// The changes in a body, compared with what is `shown` now.
///
/// # Errors
/// Names a read-only member that differs, or says what isn't such a form.
pub fn changes(mut body: Map<String, Value>, shown: &Value) -> Result<WebhookForm> {
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
    if let Some(name) = body.keys().find(|name| READ_ONLY.contains(&name.as_str())) {
        let reason = "is read-only, and is not what is stored: leave it out";
        return Err(Problem::field(name, reason));
    }
    json::read(Value::Object(body).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    #[test]
    fn every_member_that_is_shown_can_be_set_or_is_known_as_read_only() {
        let document = document();
        let members = |schema: &str| {
            let schema = &document["components"]["schemas"][schema]["properties"];
            schema.as_object().unwrap().clone()
        };
        let form = members("WebhookChange");
        for (name, _) in members("Webhook") {
            let read_only = READ_ONLY.contains(&&*name) || CHANGING.contains(&&*name);
            assert_ne!(form.contains_key(&name), read_only, "{name}");
        }
    }
}
