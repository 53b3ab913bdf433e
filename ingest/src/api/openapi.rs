//! The API's own description: OpenAPI 3.1, from what the handlers say of themselves.
//!
//! A handler states its path, its role, what it takes and what it answers. What
//! follows from that is added here, once: the tenant's header, and every way in
//! which such a request is refused. So a handler lists no refusal but its own.
//!
//! Two notes are ours: a role is the one element of the `token` requirement, and
//! a member's other accepted names are in its extension `x-also`.

use serde_json::{Map, Value, json};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::docs::schema::example;
use super::problem::Problem;

/// What the document starts from; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Posthorn",
        description = "Delivers webhooks. Whatever is under `/api/v1/webhooks` answers under `/api/webhooks` too. \
                       A problem names the member that is to blame and its bound (RFC 9457).",
    ),
    tags(
        (name = "webhooks", description = "A tenant's subscriptions."),
        (name = "deliveries", description = "What became of each event, at each webhook."),
        (name = "events", description = "What happened."),
        (name = "event types", description = "What may happen, described; with a schema, checked."),
        (name = "dialects", description = "How a delivery looks on the wire."),
        (name = "dead letters", description = "Messages that were refused."),
        (name = "tokens", description = "Who may use the API."),
        (name = "tenants", description = "Whose events and webhooks these are."),
    ),
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
                "An API token (`pht_…`), or a JWT of your identity provider. Its role is `viewer`, `manager` or `admin`, each with what those \
                 before it may do. It belongs to a tenant, or is global and names one in `X-Tenant-ID`; \
                 `operator` stands for a global admin.",
            ))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The ways in which requests are refused: their names, statuses and reasons.
const REFUSALS: [(&str, &str, &str); 9] = [
    ("Unreadable", "400", "The request can't be read."),
    ("Unknown", "401", "There is no valid token."),
    ("Forbidden", "403", "The token's role is not enough."),
    (
        "Missing",
        "404",
        "There is no such thing, or it is another tenant's.",
    ),
    ("TooLarge", "413", "The body is too large."),
    ("NotJson", "415", "The body is not `application/json`."),
    (
        "OutOfBounds",
        "422",
        "A member, parameter or header is not within its bounds.",
    ),
    (
        "TooMany",
        "429",
        "Too many requests; `Retry-After` says when to come back.",
    ),
    (
        "Unavailable",
        "503",
        "PostgreSQL or RabbitMQ can't be reached; try again.",
    ),
];

/// The document as it is served.
#[must_use]
pub fn finished(document: &utoipa::openapi::OpenApi) -> Value {
    // Strings, numbers and maps with string keys: there is nothing in it that JSON can't say.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    for operation in operations_mut(&mut document) {
        complete(operation);
    }
    let schemas = document.clone();
    for operation in operations_mut(&mut document) {
        if let Some(body) = operation.pointer_mut("/requestBody/content/application~1json") {
            body["example"] = example(&schemas, &body["schema"]);
        }
    }
    let components = &mut document["components"];
    components["responses"] = REFUSALS
        .iter()
        .map(|(name, _, reason)| ((*name).to_owned(), refusal(reason)))
        .collect::<Map<_, _>>()
        .into();
    if let Some(schemas) = components["schemas"].as_object_mut() {
        schemas.values_mut().for_each(spell_out_other_names);
    }
    document
}

fn operations_mut(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().into_iter();
    let items = paths.flat_map(|paths| paths.values_mut());
    items
        .filter_map(Value::as_object_mut)
        .flat_map(|item| item.values_mut())
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
            response["content"] = problem();
        }
    }
    for (name, status, _) in REFUSALS {
        if refusals.contains(&name) && !responses.contains_key(status) {
            let known = json!({ "$ref": format!("#/components/responses/{name}") });
            responses.insert(status.to_owned(), known);
        }
    }
}

fn add_tenant_header(operation: &mut Value) {
    let header = json!({
        "name": "X-Tenant-ID",
        "in": "header",
        "required": false,
        "description": "For which tenant a global token is used.",
        "schema": { "$ref": "#/components/schemas/TenantId" },
    });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(header),
        None => operation["parameters"] = json!([header]),
    }
}

fn refusal(reason: &str) -> Value {
    json!({ "description": reason, "content": problem() })
}

fn problem() -> Value {
    json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } })
}

/// Adds the members of `x-also` to an object; each excludes the others.
fn spell_out_other_names(schema: &mut Value) {
    let properties = schema.get_mut("properties");
    let Some(properties) = properties.and_then(Value::as_object_mut) else {
        return;
    };
    let mut others = Vec::new();
    for (name, property) in properties.iter_mut() {
        let also = property
            .as_object_mut()
            .and_then(|member| member.remove("x-also"));
        let Some(Value::Array(also)) = also else {
            continue;
        };
        for other in also.iter().filter_map(Value::as_str) {
            others.push((name.clone(), other.to_owned(), property.clone()));
        }
    }
    let mut exclusive = Vec::new();
    for (name, other, mut member) in others {
        member["description"] = format!("Another name of `{name}`.").into();
        exclusive.push(json!({ "not": { "required": [name, other] } }));
        properties.insert(other, member);
    }
    if !exclusive.is_empty() {
        schema["allOf"] = exclusive.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::document;

    /// What `make openapi` writes. A change to the API shows here, in review.
    const REVIEWED: &str = include_str!("../../../tests/openapi.json");

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
        let mut ids = std::collections::HashSet::new();
        for operation in operations_mut(&mut document) {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(operation["summary"].is_string(), "{id}");
            assert!(operation["tags"].is_array(), "{id}");
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
