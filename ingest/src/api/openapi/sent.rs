//! What Posthorn sends: the document's `webhooks`, one for each built-in dialect.
//!
//! The code that delivers composes a sample delivery. Its headers become parameters, and its
//! body becomes a schema and an example, so this part can't differ from what is sent. What a
//! header means follows from the dialect's file.
//!
//! [`operational`](super::operational) adds Posthorn's own events.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use shared::dialect::{Dialect, Dialects, Message};
use shared::ids::{DeliveryId, WebhookId};
use shared::secret::{Secret, Secrets};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use super::generators::camel;

/// The same in every form that a dialect may write it in: [`shape`] recognises the data by it.
const DATA: &str = r#"{"order":4711,"total":25.5}"#;
const EVENT_AT: OffsetDateTime = datetime!(2026-01-31 10:00:00.123 UTC);
const SENT_AT: OffsetDateTime = datetime!(2026-01-31 10:00:01.456 UTC);
/// A secret that signs nothing but examples.
const SECRET: &str = "whsec_c2VjcmV0LWZvci1leGFtcGxlcy1vbmx5";

/// Adds `webhooks` and the schemas of their bodies.
pub(super) fn describe(document: &mut Value) {
    let mut webhooks = Map::new();
    for dialect in Dialects::embedded().iter() {
        let (headers, body) = sample(dialect, DATA);
        let schema = format!("{}Delivery", camel(dialect.name()));
        document["components"]["schemas"][&schema] = schema_of(&body, dialect.name());
        let post = operation(dialect, &headers, &body, &schema);
        webhooks.insert(dialect.name().to_owned(), json!({ "post": post }));
    }
    document["webhooks"] = webhooks.into();
}

/// The headers and the body of a delivery with this data.
fn sample(dialect: &Dialect, data: &str) -> (Vec<(String, String)>, Value) {
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
        data,
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

/// Headers of some deliveries, in every dialect: their names, meanings and examples.
const OPTIONAL: [(&str, &str, &str); 2] = [
    (
        "traceparent",
        "The trace of the event (W3C Trace Context), if its producer sent one. Not sent if the webhook \
         has `\"trace_header\": false`. A webhook's own header of this name is sent instead.",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    (
        "X-Posthorn-Test",
        "Marks a test delivery. Other deliveries don't have it.",
        "true",
    ),
];

fn optional((name, meaning, example): (&str, &str, &str)) -> Value {
    json!({
        "name": name, "in": "header", "required": false,
        "description": meaning, "schema": { "type": "string" }, "example": example,
    })
}

fn operation(dialect: &Dialect, headers: &[(String, String)], body: &Value, schema: &str) -> Value {
    let (content_type, own): (Vec<_>, Vec<_>) =
        headers.iter().partition(|(name, _)| name == "content-type");
    let media_type = content_type
        .first()
        .map_or("application/json", |(_, value)| value);
    let meanings = dialect.header_meanings().into_iter();
    let meanings: HashMap<_, _> = meanings.map(|(name, it)| (name.to_string(), it)).collect();
    let parameters = own.into_iter().map(|(name, value)| {
        json!({
            "name": name, "in": "header", "required": true,
            "description": meanings.get(name), "schema": { "type": "string" }, "example": value,
        })
    });
    let parameters: Vec<_> = parameters.chain(OPTIONAL.map(optional)).collect();
    let attributes = dialect.attribute_prefix().map_or(String::new(), |prefix| {
        format!(
            " Each other CloudEvents attribute of the producer's has a header that begins with \
             `{prefix}`, percent-encoded."
        )
    });
    let seconds = dialect.policy().timeout.as_secs();
    json!({
        "operationId": format!("receive_{}", dialect.name().replace('-', "_")),
        "tags": ["sent"],
        "summary": format!("A delivery in the dialect {}", dialect.name()),
        "description": format!(
            "{}. The receiver must answer within {seconds} s, unless the webhook's `timeout` \
             says otherwise. Every delivery also has the webhook's own `headers`. If the webhook has \
             `oauth2`, the header `Authorization` has `Bearer` and the access token.{attributes}",
            dialect.description().trim_end_matches('.')
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
        for name in Dialects::embedded().names() {
            let webhook = &webhooks[name];
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
            for header in parameters {
                assert_ne!(header["example"], "", "{name}");
                let meaning = header["description"].as_str().unwrap();
                assert!(meaning.ends_with('.'), "{name}: {meaning}");
                assert!(!meaning.contains("docs/"), "{name}: {meaning}");
            }
            let text = post["description"].as_str().unwrap();
            assert!(text.contains(". The receiver must"), "{name}: {text}");
            assert!(text.contains("`oauth2`"), "{name}: {text}");
            let sent = parameters.iter().find(|it| it["name"] == "traceparent");
            assert_eq!(sent.unwrap()["required"], false, "{name}");
        }
        let standard = document["webhooks"]["standard"].to_string();
        for header in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            assert!(standard.contains(&format!("\"{header}\"")), "{header}");
        }
        assert!(standard.contains("v1a,{base64}"), "{standard}");
        assert!(standard.contains("While a secret rotates"), "{standard}");
    }

    #[test]
    fn a_deliverys_schema_leaves_the_data_open() {
        let document = crate::api::document();
        let others = [
            r#"{"sku":"a-1","quantity":5.0,"tags":[1,"two",null]}"#,
            r#"{"order":"4711","total":null}"#,
            r#"["a list"]"#,
            "\"a text\"",
            "7",
            "null",
        ];
        for dialect in Dialects::embedded().iter() {
            let name = format!("{}Delivery", camel(dialect.name()));
            let schema = &document["components"]["schemas"][&name];
            let validator = jsonschema::validator_for(schema).unwrap();
            for data in std::iter::once(DATA).chain(others) {
                let (_, body) = sample(dialect, data);
                let error = validator
                    .validate(&body)
                    .err()
                    .map(|error| error.to_string());
                assert_eq!(error, None, "{name}: {body}");
            }
            // It isn't open to everything: a body without its members is no delivery.
            if schema["required"].is_array() {
                assert!(!validator.is_valid(&json!({})), "{name}");
            }
        }
    }
}
