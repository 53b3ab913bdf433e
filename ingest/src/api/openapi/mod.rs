//! The OpenAPI 3.1 document, made from what the handlers declare.
//!
//! A handler declares its path, its role, its parameters and its answers. This file
//! adds what follows from them: the tenant's header, and each way in which such a
//! request can be refused. So a handler declares only refusals that are its own.
//!
//! Two notations are ours. The role is the only scope of the `token` requirement.
//! The other names of a member are in its extension `x-also`, or in [`ALSO`].

use serde_json::{Map, Value, json};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api::http::problem::Problem;
use crate::api::openapi::operations::{REFUSALS, example_of, example_of_own, operations_mut};
use example::example;

mod example;
mod generators;
mod headers;
mod operational;
mod operations;
pub mod page;
mod sent;
pub mod words;

/// What the document starts from; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Posthorn",
        description = "Delivers webhooks. Every path under `/api/v1/webhooks` also exists under `/api/webhooks`. \
                       A problem (RFC 9457) names the member that is invalid, and its bound.",
        contact(name = "Posthorn", url = "https://github.com/posthorn/posthorn"),
    ),
    tags(
        (name = "webhooks", description = "A tenant's webhooks: create and change them, rotate their secrets, send tests."),
        (name = "deliveries", description = "The delivery log: each event's delivery to each webhook, with its attempts."),
        (name = "stats", description = "Delivery statistics of webhooks."),
        (name = "events", description = "Publish events, and search accepted ones."),
        (name = "event types", description = "A tenant's catalogue of event types. Events of a type with a schema are checked against it."),
        (name = "listeners", description = "Temporary webhooks whose deliveries are read as a stream, for a receiver that is being developed."),
        (name = "dialects", description = "The formats of deliveries: headers, body, signature, retries."),
        (name = "dead letters", description = "Messages that were refused or unroutable."),
        (name = "changes", description = "Who changed what: webhooks, event types, limits, tokens."),
        (name = "tokens", description = "API tokens."),
        (name = "tenants", description = "Tenants and their limits."),
        (name = "operations", description = "The processes, queues and storage of the whole system."),
        (name = "sent", description = "What Posthorn sends to endpoints, in each dialect."),
    ),
    servers((url = "/", description = "The server that serves this document.")),
    components(schemas(Problem)),
    modifiers(&Token),
)]
pub struct Base;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "An API token (`pht_…`), or a JWT of your identity provider. Its role is `viewer`, `manager` or `admin`; each may do what the one before it \
                 may. A token belongs to a tenant, or is global and names a tenant in `X-Tenant-ID`. \
                 `operator` means a global admin.",
            ))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The other names of members that refer to a schema: utoipa leaves their
/// extensions out.
const ALSO: [(&str, &str, &[&str]); 8] = [
    ("NewEvent", "type", &["event", "event_type", "eventType"]),
    ("NewToken", "expires_at", &["expiresAt"]),
    ("NewWebhook", "events", &["event_type", "eventType"]),
    ("NewWebhook", "rate_limit", &["rateLimit"]),
    ("NewWebhook", "retry_policy", &["retryPolicy"]),
    ("WebhookChange", "events", &["event_type", "eventType"]),
    ("WebhookChange", "rate_limit", &["rateLimit"]),
    ("WebhookChange", "retry_policy", &["retryPolicy"]),
];

/// Real answers, by operation and status. `tests/tests/described/main.rs` records and compares
/// them.
const ANSWERS: &str = include_str!("examples.json");

/// The document as it is served.
#[must_use]
pub fn finished(document: &utoipa::openapi::OpenApi) -> Value {
    // Strings, numbers and maps with string keys: there is nothing in it that JSON can't say.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    for operation in operations_mut(&mut document) {
        complete(operation);
    }
    let components = &mut document["components"];
    components["responses"] = REFUSALS
        .iter()
        .map(|(name, _, reason)| ((*name).to_owned(), refusal(name, reason)))
        .collect::<Map<_, _>>()
        .into();
    for (name, schema) in components["schemas"].as_object_mut().into_iter().flatten() {
        mention_other_names(name, schema);
    }
    headers::declare(&mut document);
    sent::describe(&mut document);
    operational::describe(&mut document);
    generators::rewrite(&mut document);
    let schemas = document.clone();
    // A test reads the file.
    let answers: Value = serde_json::from_str(ANSWERS).unwrap_or_default();
    for operation in operations_mut(&mut document) {
        if let Some(body) = operation.pointer_mut("/requestBody/content/application~1json") {
            body["example"] = example(&schemas, &body["schema"]);
        }
        let id = operation["operationId"].as_str().unwrap_or_default();
        let answers = answers[id].clone();
        for (status, answer) in answers.as_object().into_iter().flatten() {
            let place = format!("/responses/{status}/content/application~1json");
            if let Some(content) = operation.pointer_mut(&place) {
                content["example"] = answer.clone();
            }
        }
    }
    generators::one_name_in_examples(&mut document);
    document
}

/// The role that an operation needs; none if anybody may.
#[must_use]
pub fn role(operation: &Value) -> Option<&str> {
    operation["security"][0]["token"][0].as_str()
}

fn complete(operation: &mut Value) {
    let role = role(operation).map(str::to_owned);
    let takes_body = !operation["requestBody"].is_null();
    let mut refusals = Vec::new();
    if takes_body {
        refusals.extend(["Unreadable", "TooLarge", "NotJson", "OutOfBounds"]);
    }
    let parameters = operation["parameters"].as_array();
    for parameter in parameters.into_iter().flatten() {
        match parameter["in"].as_str() {
            Some("path") => refusals.push("Missing"),
            Some("query") => refusals.extend(["Unreadable", "OutOfBounds"]),
            _ => {}
        }
    }
    if let Some(role) = &role {
        refusals.extend(["Unknown", "TooMany", "Unavailable"]);
        add_role(operation, role);
        if role != "viewer" {
            refusals.push("Forbidden");
        }
        if role != "operator" {
            refusals.extend(["Missing", "OutOfBounds"]);
            add_tenant_header(operation);
        }
    }
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    for (status, response) in responses.iter_mut() {
        if status.starts_with(['4', '5']) && response["content"].is_null() {
            let description = response["description"].as_str().unwrap_or_default();
            let example = example_of_own(status, description);
            response["content"] = problem(example.map(Problem::into_example));
        }
    }
    for (name, status, _) in REFUSALS {
        if refusals.contains(&name) && !responses.contains_key(status) {
            let known = json!({ "$ref": format!("#/components/responses/{name}") });
            responses.insert(status.to_owned(), known);
        }
    }
}

/// Viewers of the document don't show the role in `security`, so the text says it too.
fn add_role(operation: &mut Value, role: &str) {
    let needs = match role {
        "viewer" => "Needs a token of any role.",
        "manager" => "Needs the role `manager` or `admin`.",
        "admin" => "Needs the role `admin`.",
        _ => "Needs the operator: a global token with the role `admin`.",
    };
    operation["description"] = match operation["description"].as_str() {
        Some(own) => format!("{own}\n\n{needs}").into(),
        None => needs.into(),
    };
}

fn add_tenant_header(operation: &mut Value) {
    let header = json!({
        "name": "X-Tenant-ID",
        "in": "header",
        "required": false,
        "description": "The tenant for which a global token acts.",
        "schema": { "$ref": "#/components/schemas/TenantId" },
    });
    match operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut)
    {
        Some(parameters) => parameters.push(header),
        None => operation["parameters"] = json!([header]),
    }
}

fn refusal(name: &str, reason: &str) -> Value {
    let example = example_of(name).into_example();
    json!({ "description": reason, "content": problem(Some(example)) })
}

fn problem(example: Option<Value>) -> Value {
    let mut content = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
    if let Some(example) = example {
        content["example"] = example;
    }
    json!({ "application/problem+json": content })
}

/// Says in a schema's texts by which other names its members are taken. The other names are
/// no members of the schema: generators would make two members of them, or one name twice.
fn mention_other_names(schema_name: &str, schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (of, member, names) in ALSO {
        if of == schema_name
            && let Some(property) = properties.get_mut(member)
        {
            property["x-also"] = json!(names);
        }
    }
    for property in properties.values_mut().filter_map(Value::as_object_mut) {
        generators::hoist_description(property);
        let Some(Value::Array(names)) = property.remove("x-also") else {
            continue;
        };
        let names = names.iter().filter_map(Value::as_str);
        let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
        let own = property.get("description").and_then(Value::as_str);
        let text = format!(
            "{} Also taken as {}.",
            own.unwrap_or_default(),
            names.join(", ")
        );
        property.insert("description".to_owned(), text.trim().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    /// What `make openapi` writes. A change to the API shows here, in review.
    const REVIEWED: &str = include_str!("../../../../tests/openapi.json");

    #[test]
    fn the_document_is_the_one_that_was_reviewed() {
        let reviewed: Value = serde_json::from_str(REVIEWED).unwrap();
        assert!(
            document() == reviewed,
            "run `make openapi` and look at what has changed"
        );
    }

    #[test]
    fn every_operation_says_what_it_does_and_who_may() {
        let mut document = document();
        let tags = document["tags"].as_array().unwrap().iter();
        let tags: Vec<_> = tags.map(|tag| tag["name"].clone()).collect();
        let mut ids = std::collections::HashSet::new();
        for operation in operations_mut(&mut document) {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(operation["summary"].is_string(), "{id}");
            for tag in operation["tags"].as_array().unwrap() {
                assert!(tags.contains(tag), "{id}: {tag} is not described");
            }
            let known = ["viewer", "manager", "admin", "operator"];
            match role(operation) {
                Some(role) => assert!(known.contains(&role), "{id}: {role}"),
                // It says so: nobody is let in by forgetting.
                None => assert_eq!(operation["security"], json!([{}]), "{id}"),
            }
            assert!(ids.insert(id.clone()), "{id} is there twice");
        }
    }

    #[test]
    fn a_members_other_names_are_mentioned_and_are_no_members() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        for (schema, member, other) in [
            ("WebhookInput", "url", "target_url"),
            ("WebhookInput", "events", "event_type"),
            ("WebhookChange", "retry_policy", "retryPolicy"),
            ("EventInput", "type", "eventType"),
        ] {
            let properties = &schemas[schema]["properties"];
            let text = properties[member]["description"].as_str().unwrap();
            assert!(text.contains(&format!("`{other}`")), "{text}");
            assert!(properties[other].is_null(), "{other}");
        }
        assert!(!document.to_string().contains("x-also"));
    }

    #[test]
    fn every_refusal_has_an_example_of_its_status() {
        fn check(at: &str, status: &str, response: &Value) {
            let example = &response["content"]["application/problem+json"]["example"];
            assert_eq!(example["status"].to_string(), status, "{at}: {example}");
            assert!(example["code"].is_string(), "{at}: {example}");
        }
        let mut document = document();
        for (name, status, _) in REFUSALS {
            check(name, status, &document["components"]["responses"][name]);
        }
        for operation in operations_mut(&mut document) {
            let id = operation["operationId"].to_string();
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with(['4', '5']) && response["$ref"].is_null() {
                    check(&id, status, response);
                }
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(at: &Value, document: &Value) {
            if let Some(reference) = at["$ref"].as_str() {
                let found = reference
                    .strip_prefix('#')
                    .and_then(|path| document.pointer(path));
                assert!(found.is_some(), "{reference}");
            }
            let members = at.as_object().into_iter().flat_map(Map::values);
            let items = at.as_array().into_iter().flatten();
            members
                .chain(items)
                .for_each(|value| check(value, document));
        }
        let document = document();
        check(&document, &document);
    }
}
