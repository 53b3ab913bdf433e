//! What Posthorn sends: the document's `webhooks`, one for each built-in dialect.
//!
//! The code that delivers composes a sample delivery. Its headers become parameters, and its
//! body becomes a schema and an example, so this part can't differ from what is sent.

use serde_json::{Map, Value, json};
use shared::dialect::{Dialect, Dialects, Message};
use shared::ids::{DeliveryId, WebhookId};
use shared::secret::{Secret, Secrets};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use super::generators::camel;

const DATA: &str = r#"{"order":4711,"total":25.0}"#;
const EVENT_AT: OffsetDateTime = datetime!(2026-01-31 10:00:00.123 UTC);
const SENT_AT: OffsetDateTime = datetime!(2026-01-31 10:00:01.456 UTC);
/// A secret that signs nothing but examples.
const SECRET: &str = "whsec_c2VjcmV0LWZvci1leGFtcGxlcy1vbmx5";

/// Adds `webhooks` and the schemas of their bodies.
pub(super) fn describe(document: &mut Value) {
    let mut webhooks = Map::new();
    for dialect in Dialects::embedded().iter() {
        let (headers, body) = sample(dialect);
        let schema = format!("{}Delivery", camel(dialect.name()));
        document["components"]["schemas"][&schema] = schema_of(&body, dialect.name());
        let post = operation(dialect, &headers, &body, &schema);
        webhooks.insert(dialect.name().to_owned(), json!({ "post": post }));
    }
    document["webhooks"] = webhooks.into();
}

/// The headers and the body of a delivery.
fn sample(dialect: &Dialect) -> (Vec<(String, String)>, Value) {
    let uuid = Uuid::from_u128(0x019c_135f_1a7b_7000_8000_0000_0000_0001);
    let secrets = Secret::parse(SECRET).map(|secret| Secrets::new(secret, None));
    let names = (
        "order-4711-created".parse(),
        "order.created".parse(),
        "acme".parse(),
    );
    let (Ok(secrets), (Ok(event_id), Ok(event_type), Ok(tenant))) = (secrets, names) else {
        unreachable!("a test reads the sample");
    };
    let message = Message {
        event_id: &event_id,
        event_type: &event_type,
        occurred_at: EVENT_AT,
        data: DATA,
        attributes: None,
        tenant: &tenant,
        webhook_id: WebhookId::from_uuid(uuid),
        external_id: None,
        delivery_id: DeliveryId::from_uuid(uuid),
    };
    let wire = dialect.compose(&message, &secrets, SENT_AT);
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers = wire.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), text(value)));
    // A dialect's body is JSON: its tests compare it.
    let body = serde_json::from_slice(&wire.body).unwrap_or_default();
    (headers.collect(), body)
}

fn operation(dialect: &Dialect, headers: &[(String, String)], body: &Value, schema: &str) -> Value {
    let (content_type, own): (Vec<_>, Vec<_>) =
        headers.iter().partition(|(name, _)| name == "content-type");
    let media_type = content_type
        .first()
        .map_or("application/json", |(_, value)| value);
    let parameters = own.into_iter();
    let parameters: Vec<_> = parameters
        .map(|(name, value)| {
            json!({
                "name": name, "in": "header", "required": true,
                "description": "As the dialect defines it: see `docs/dialects.md`.",
                "schema": { "type": "string" }, "example": value,
            })
        })
        .collect();
    let seconds = dialect.policy().timeout.as_secs();
    json!({
        "operationId": format!("receive_{}", dialect.name().replace('-', "_")),
        "tags": ["sent"],
        "summary": format!("A delivery in the dialect {}", dialect.name()),
        "description": format!(
            "{} The receiver must answer within {seconds} s, unless the webhook's `timeout` \
             says otherwise. A test delivery also has the header `X-Posthorn-Test: true`, and \
             every delivery the webhook's own `headers`.",
            dialect.description()
        ),
        "security": [{}],
        "parameters": parameters,
        "requestBody": {
            "required": true,
            "content": { media_type: {
                "schema": { "$ref": format!("#/components/schemas/{schema}") },
                "example": body,
            }},
        },
        "responses": {
            "2XX": { "description": "The receiver has it. It isn't sent again." },
            "4XX": { "description": "The delivery failed. The dialect says whether it is tried again." },
            "5XX": { "description": "The delivery failed. It is tried again on the webhook's schedule." },
        },
    })
}

/// A schema that the sample's body, and every other of its dialect, conforms to.
fn schema_of(body: &Value, dialect: &str) -> Value {
    let mut schema = shape(body);
    schema["description"] = format!("The body of a delivery in the dialect {dialect}.").into();
    schema
}

fn shape(value: &Value) -> Value {
    let data: Value = serde_json::from_str(DATA).unwrap_or_default();
    if *value == data {
        return json!({ "description": "The event's data, as it was published: any JSON." });
    }
    match value {
        Value::Object(members) => {
            let properties = members
                .iter()
                .map(|(name, member)| (name.clone(), shape(member)));
            let required: Vec<_> = members.keys().collect();
            json!({
                "type": "object", "required": required,
                "properties": properties.collect::<Map<_, _>>(),
            })
        }
        Value::Array(items) => {
            json!({ "type": "array", "items": items.first().map_or(json!({}), shape) })
        }
        Value::String(text) if is_time(text) => json!({ "type": "string", "format": "date-time" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Null => json!({}),
    }
}

fn is_time(text: &str) -> bool {
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_described_for_each_dialect() {
        let document = crate::api::document();
        let webhooks = document["webhooks"].as_object().unwrap();
        let names: Vec<_> = webhooks.keys().map(String::as_str).collect();
        assert_eq!(names, Dialects::embedded().names().collect::<Vec<_>>());
        for (name, webhook) in webhooks {
            let post = &webhook["post"];
            let content = post["requestBody"]["content"].as_object().unwrap();
            let body = content.values().next().unwrap();
            assert!(body["example"].is_object(), "{name}");
            assert!(
                body["example"].to_string().contains("4711"),
                "{name}: has the data"
            );
            let reference = body["schema"]["$ref"].as_str().unwrap();
            let schema = document.pointer(&reference[1..]).unwrap();
            // Such a dialect's body is the event's data alone, which is any JSON.
            if schema["type"].is_null() {
                assert_eq!(body["example"]["order"], 4711, "{name}");
            } else {
                for member in body["example"].as_object().unwrap().keys() {
                    assert!(schema["properties"][member].is_object(), "{name}: {member}");
                }
            }
            let parameters = post["parameters"].as_array().unwrap();
            assert!(
                parameters.iter().all(|header| header["example"] != ""),
                "{name}"
            );
        }
        let standard = document["webhooks"]["standard"].to_string();
        for header in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            assert!(standard.contains(&format!("\"{header}\"")), "{header}");
        }
    }
}
