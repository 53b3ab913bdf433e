use super::inputs::input_name;
use super::tree::{DATA, is_schema};
use super::*;
use crate::api::document;

/// Calls `check` on every object with its place in the document.
fn each(at: &str, value: &Value, check: &mut impl FnMut(&str, &Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            check(at, members);
            for (name, member) in members {
                if !DATA.contains(&name.as_str()) || is_schema(member) {
                    each(&format!("{at}/{name}"), member, check);
                }
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                each(&format!("{at}/{n}"), item, check);
            }
        }
        _ => {}
    }
}

#[test]
fn nothing_is_left_that_a_generator_stumbles_over() {
    let document = document();
    each("", &document, &mut |at, it| {
        let has = |name: &str| it.contains_key(name);
        assert!(!has("allOf") && !has("prefixItems"), "{at}: parts");
        assert!(it.get("items") != Some(&Value::Bool(false)), "{at}: items");
        let is_object = it
            .get("type")
            .is_some_and(|kind| *kind == "object" || kind[0] == "object");
        let is_said = has("properties") || has("additionalProperties");
        assert!(!is_object || is_said, "{at}: an object of what?");
        let pattern = it
            .get("pattern")
            .and_then(Value::as_str)
            .unwrap_or_default();
        assert!(!pattern.contains("(?"), "{at}: Go has no look-ahead");
        let text = it
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        assert!(!text.contains("[`") && !text.contains("`]"), "{at}: {text}");
        assert!(!text.replace("\n\n", "").contains('\n'), "{at}: {text}");
        if at.starts_with("/components/schemas/") {
            assert!(!has("default") || !has("type"), "{at}: default");
        }
    });
}

#[test]
fn no_two_members_are_one_name_in_go() {
    each("", &document(), &mut |at, it| {
        let properties = it.get("properties").and_then(Value::as_object);
        let mut names = BTreeMap::new();
        for name in properties.into_iter().flat_map(Map::keys) {
            let folded = name.replace('_', "").to_ascii_lowercase();
            let other = names.insert(folded, name);
            assert_eq!(other, None, "{at}: {name}");
        }
    });
}

#[test]
fn tagged_unions_have_named_variants_and_a_discriminator() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    for (name, tag, variant, members) in [
        (
            "EventResult",
            "status",
            "EventResultRefused",
            vec!["status", "field", "detail"],
        ),
        (
            "Matching",
            "result",
            "MatchingRefused",
            vec!["result", "webhook_id", "at", "clause", "found"],
        ),
    ] {
        assert_eq!(
            schemas[name]["discriminator"]["propertyName"], tag,
            "{name}"
        );
        let required = schemas[variant]["required"].to_string();
        for member in members {
            assert!(
                schemas[variant]["properties"][member].is_object(),
                "{variant}.{member}"
            );
            assert!(
                required.contains(&format!("\"{member}\"")),
                "{variant}.{member}"
            );
        }
    }
}

#[test]
fn patterns_of_members_have_no_commas() {
    let document = document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        each(name, schema, &mut |at, it| {
            let pattern = it.get("pattern").and_then(Value::as_str);
            assert!(!pattern.unwrap_or_default().contains(','), "{at}");
        });
    }
    assert_eq!(
        document["components"]["schemas"]["TenantId"]["pattern"],
        "^[a-z0-9][a-z0-9_-]*$"
    );
}

#[test]
fn an_answers_text_that_may_be_null_has_no_pattern_and_a_requests_has() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let answered = &schemas["Replay"]["properties"]["webhook_id"];
    assert_eq!(answered["type"], json!(["string", "null"]));
    let asked = schemas["EventInput"]["properties"]["id"].to_string();
    assert!(asked.contains("EventId"), "{asked}");
}

#[test]
fn what_a_request_must_have_is_required() {
    let document = document();
    let required = |name: &str| document["components"]["schemas"][name]["required"].clone();
    assert_eq!(required("EventInput"), json!(["type", "data"]));
    assert_eq!(required("WebhookInput"), json!(["url", "events"]));
    assert_eq!(required("WebhookChange"), Value::Null);
}

#[test]
fn no_schema_is_called_like_what_makes_another_or_like_a_class_of_every_program() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in schemas.keys() {
        assert!(input_name(name).is_none(), "{name}");
        assert!(!["System", "Object", "String", "Thread"].contains(&name.as_str()));
    }
    assert!(schemas.contains_key("WebhookInput") && schemas.contains_key("Webhook"));
}

#[test]
fn bodies_that_may_be_left_out_say_so() {
    let document = document();
    let body = |path: &str| document["paths"][path]["post"]["requestBody"].clone();
    let rotation = body("/api/v1/webhooks/{id}/rotate-secret");
    assert_eq!(rotation["required"], false);
    let schema = &rotation["content"]["application/json"]["schema"];
    assert_eq!(schema["$ref"], "#/components/schemas/Rotation");
    assert_eq!(body("/api/v1/events")["required"], true);
}

#[test]
fn an_operation_has_one_type_of_answer() {
    let mut document = document();
    for operation in super::super::operations::operations_mut(&mut document) {
        let responses = operation["responses"].as_object().unwrap().iter();
        let succeeded = responses.filter(|(status, _)| status.starts_with('2'));
        let schemas = succeeded
            .filter_map(|(_, response)| response.pointer("/content/application~1json/schema"));
        let schemas: BTreeSet<_> = schemas.map(Value::to_string).collect();
        assert!(
            schemas.len() < 2,
            "{}: {schemas:?}",
            operation["operationId"]
        );
    }
}

#[test]
fn repeated_parameters_are_components() {
    let mut document = document();
    let mut seen = BTreeSet::new();
    for operation in super::super::operations::operations_mut(&mut document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter.get("$ref").is_none() {
                assert!(seen.insert(parameter.to_string()), "{parameter}");
            }
        }
    }
}

#[test]
fn an_example_has_only_members_of_its_schema() {
    let mut document = document();
    let mut checked = 0;
    let schemas = document["components"]["schemas"].clone();
    for operation in super::super::operations::operations_mut(&mut document) {
        let id = operation["operationId"].to_string();
        for (status, response) in operation["responses"].as_object().unwrap() {
            let content = &response["content"]["application/json"];
            let reference = content["schema"]["$ref"].as_str().unwrap_or_default();
            let schema = &schemas[reference.trim_start_matches(SCHEMAS)];
            let Some(properties) = schema["properties"].as_object() else {
                continue;
            };
            for name in content["example"].as_object().unwrap().keys() {
                assert!(properties.contains_key(name), "{id} {status}: {name}");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

/// `openapi-generator` takes the first content type for the only one, and the first is the first of the
/// alphabet. `openapi-python-client` compares a body with `list[CloudEvent]`, which Python refuses.
/// So CloudEvents are described in words.
#[test]
fn a_request_has_one_content_type() {
    let mut document = document();
    for operation in super::super::operations::operations_mut(&mut document) {
        let content = operation["requestBody"]["content"].as_object();
        let types: Vec<_> = content.into_iter().flatten().map(|(it, _)| it).collect();
        assert!(types.len() < 2, "{}: {types:?}", operation["operationId"]);
    }
    let publish = &document["paths"]["/api/v1/events"]["post"]["description"];
    for mode in [
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
        "`ce-specversion`",
        "`EventBatchResult`",
    ] {
        assert!(publish.to_string().contains(mode), "{publish}");
    }
}
