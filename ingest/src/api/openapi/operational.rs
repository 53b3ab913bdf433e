//! Operational events in the document's `webhooks`: one entry for each type of event that
//! Posthorn itself creates, with a schema of its data.
//!
//! The dispatchers write the data (`dispatcher/src/upkeep`); `tests/tests/alerts.rs` compares
//! what arrives with these schemas. An event is shown in the dialect `standard`.

// Only their schemas are used.
#![allow(dead_code)]

use serde_json::{Value, json};
use shared::ids::WebhookId;
use utoipa::{PartialSchema, ToSchema};

use super::words::FinishedState;
use crate::timestamp::Timestamp;

/// The data of `webhook.disabled`.
#[derive(ToSchema)]
struct WebhookDisabled {
    webhook_id: WebhookId,
    /// Why, in words for people.
    #[schema(example = "every attempt has failed since 2026-01-26T10:00:00Z")]
    reason: String,
    disabled_at: Timestamp,
    /// Since when every attempt has failed; `null` if an answer of the endpoint disabled it.
    #[schema(required)]
    failing_since: Option<Timestamp>,
}

/// The data of `webhook.failing`.
#[derive(ToSchema)]
struct WebhookFailing {
    webhook_id: WebhookId,
    since: Timestamp,
    /// How many attempts there were in the window.
    #[schema(example = 40)]
    attempts: i64,
    /// How many of them failed.
    #[schema(example = 8)]
    failed_attempts: i64,
    /// The share of attempts that failed.
    #[schema(example = 0.2)]
    failure_rate: f64,
    /// The tenant's threshold for that share.
    #[schema(example = 0.05)]
    threshold: f64,
    /// The length of the window.
    #[schema(example = 900)]
    window_seconds: i64,
}

/// The data of `webhook.slow`.
#[derive(ToSchema)]
struct WebhookSlow {
    webhook_id: WebhookId,
    since: Timestamp,
    /// How many attempts there were in the window.
    #[schema(example = 40)]
    attempts: i64,
    /// The 95th percentile of the response times.
    #[schema(required, example = 7200)]
    p95_response_time_ms: Option<i64>,
    /// The tenant's threshold for it.
    #[schema(example = 5000)]
    threshold_ms: i64,
    /// The length of the window.
    #[schema(example = 900)]
    window_seconds: i64,
}

/// The data of `webhook.down`.
#[derive(ToSchema)]
struct WebhookDown {
    webhook_id: WebhookId,
    since: Timestamp,
    last_failed_at: Timestamp,
    /// When the endpoint gets its next request.
    #[schema(required)]
    next_probe_at: Option<Timestamp>,
}

/// The data of `webhook.recovered`.
#[derive(ToSchema)]
struct WebhookRecovered {
    webhook_id: WebhookId,
    /// What the webhook was.
    was: Vec<WebhookTrouble>,
    /// Since when it was so.
    since: Timestamp,
    recovered_at: Timestamp,
}

/// What may be wrong with a webhook.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum WebhookTrouble {
    Failing,
    Slow,
    Down,
}

/// The data of `delivery.exhausted`.
#[derive(ToSchema)]
struct DeliveryExhausted {
    webhook_id: WebhookId,
    /// How many deliveries were given up (`failed`, `expired`) in this time.
    #[schema(example = 8)]
    count: i64,
    since: Timestamp,
    until: Timestamp,
    replay: ExhaustedReplay,
}

/// The request that sends these deliveries again.
#[derive(ToSchema)]
struct ExhaustedReplay {
    #[schema(example = "POST")]
    method: String,
    #[schema(example = "/api/v1/webhooks/wh_01kg9ny6kve008000000000001/replay")]
    path: String,
    body: ExhaustedReplayBody,
}

/// The body of that request.
#[derive(ToSchema)]
struct ExhaustedReplayBody {
    since: Timestamp,
    status: Vec<FinishedState>,
}

/// The types of these events, when each is sent, and their data's schemas.
const EVENTS: [(&str, &str, &str); 6] = [
    (
        "webhook.disabled",
        "Posthorn disabled a webhook",
        "WebhookDisabled",
    ),
    (
        "webhook.failing",
        "More of a webhook's attempts fail than the tenant's threshold allows",
        "WebhookFailing",
    ),
    (
        "webhook.slow",
        "An endpoint answers more slowly than the tenant's threshold allows",
        "WebhookSlow",
    ),
    (
        "webhook.down",
        "An endpoint is down: it gets no requests, except one now and then",
        "WebhookDown",
    ),
    (
        "webhook.recovered",
        "A webhook that was failing, slow or down is none of these any more",
        "WebhookRecovered",
    ),
    (
        "delivery.exhausted",
        "Deliveries of a webhook were given up",
        "DeliveryExhausted",
    ),
];

/// Adds an entry of `webhooks` for each type, and the schemas.
pub(super) fn describe(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    for (name, schema) in [
        ("WebhookDisabled", WebhookDisabled::schema()),
        ("WebhookFailing", WebhookFailing::schema()),
        ("WebhookSlow", WebhookSlow::schema()),
        ("WebhookDown", WebhookDown::schema()),
        ("WebhookRecovered", WebhookRecovered::schema()),
        ("WebhookTrouble", WebhookTrouble::schema()),
        ("DeliveryExhausted", DeliveryExhausted::schema()),
        ("ExhaustedReplay", ExhaustedReplay::schema()),
        ("ExhaustedReplayBody", ExhaustedReplayBody::schema()),
    ] {
        // There is nothing in a schema that JSON can't say.
        schemas[name] = serde_json::to_value(schema).unwrap_or_default();
    }
    for (event_type, when, data) in EVENTS {
        let event = format!("{data}Event");
        document["components"]["schemas"][&event] = json!({
            "type": "object",
            "description": format!("The operational event `{event_type}` in the dialect standard."),
            "required": ["type", "timestamp", "data"],
            "properties": {
                "type": { "type": "string", "enum": [event_type] },
                "timestamp": { "$ref": "#/components/schemas/Timestamp" },
                "data": { "$ref": format!("#/components/schemas/{data}") },
            },
        });
        document["webhooks"][event_type] = json!({ "post": operation(event_type, when, &event) });
    }
}

fn operation(event_type: &str, when: &str, schema: &str) -> Value {
    json!({
        "operationId": format!("receive_{}", event_type.replace('.', "_")),
        "tags": ["sent"],
        "summary": when,
        "description": "An operational event, for the tenant's webhooks that have `\"operational\": true`. It \
            is shown in the dialect `standard`. Another dialect has the same data in its own body. Headers, \
            signature and retries are the dialect's.",
        "security": [{}],
        "requestBody": {
            "required": true,
            "content": { "application/json": {
                "schema": { "$ref": format!("#/components/schemas/{schema}") },
            }},
        },
        "responses": {
            "2XX": { "description": "The receiver has it. It isn't sent again." },
        },
    })
}

#[cfg(test)]
mod tests {
    use shared::operational::is_operational;

    use super::super::generators::camel;
    use super::*;

    #[test]
    fn every_operational_event_is_described() {
        let document = crate::api::document();
        let described = document["webhooks"].as_object().unwrap().keys();
        let described: Vec<_> = described
            .filter(|name| name.parse().is_ok_and(|name| is_operational(&name)))
            .collect();
        assert_eq!(described.len(), EVENTS.len(), "{described:?}");
        for (event_type, _, data) in EVENTS {
            assert!(is_operational(&event_type.parse().unwrap()), "{event_type}");
            assert_eq!(camel(event_type), data);
            let event = &document["components"]["schemas"][format!("{data}Event")];
            let reference = event["properties"]["data"]["$ref"].as_str().unwrap();
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }
}
