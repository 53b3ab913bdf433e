use serde_json::json;

use super::*;

fn translated(system: System, row: &Value) -> Result<Translated, Vec<Invalid>> {
    let names = Names::new(&[], &[]).unwrap();
    translate(system, &names, row.as_object().unwrap().clone())
}

fn members(system: System, row: &Value) -> Value {
    Value::Object(translated(system, row).unwrap().members)
}

#[test]
fn cells_of_csv_become_what_their_members_need() {
    let row = json!({
        "id": "7", "target_url": "https://a.example/", "events": "order.*; item.created", "active": "no",
        "timeout": "30000", "headers": "{\"X-A\":\"b\"}", "created_at": "2024-01-01", "description": "true",
    });
    assert_eq!(
        members(System::Posthorn, &row),
        json!({
            "external_id": "7", "target_url": "https://a.example/", "events": ["order.*", "item.created"],
            "active": false, "timeout": 30000, "headers": {"X-A": "b"}, "description": "true",
        })
    );
}

#[test]
fn a_svix_endpoint_without_types_gets_all_events_as_before() {
    let row = json!({
        "id": "ep_1", "uid": "shop", "url": "https://a.example/", "description": "d", "disabled": true,
        "filterTypes": null, "channels": null, "rateLimit": 5, "metadata": {"a": "b"}, "version": 1,
        "createdAt": "x", "updatedAt": "x", "key": "whsec_c2VjcmV0",
    });
    assert_eq!(
        members(System::Svix, &row),
        json!({
            "external_id": "ep_1", "url": "https://a.example/", "description": "d", "active": false,
            "events": ["*"], "rateLimit": 5, "metadata": {"a": "b", "uid": "shop"}, "secret": "whsec_c2VjcmV0",
        })
    );
    let refused = translated(System::Svix, &json!({"id": "ep_1", "channels": ["eu"]})).unwrap_err();
    assert!(
        refused[0].reason.contains("--ignore channels"),
        "{refused:?}"
    );
}

#[test]
fn a_convoy_subscription_brings_its_endpoints_members() {
    let row = json!({
        "uid": "sub_1", "name": "billing", "status": "active",
        "filter_config": {"event_types": ["invoice.paid"], "filter": {"body": {}, "headers": {}}},
        "endpoint_metadata": {
            "uid": "ep_1", "title": "t", "target_url": "https://a.example/", "http_timeout": 10,
            "secrets": [
                {"value": "old", "expires_at": "2024-01-01T00:00:00Z"}, {"value": "current", "expires_at": null},
            ],
            "rate_limit": 100, "rate_limit_duration": 60, "advanced_signatures": true,
            "authentication": {"type": "api_key", "api_key": {"header_name": "X-K", "header_value": "v"}},
        },
    });
    assert_eq!(
        members(System::Convoy, &row),
        json!({
            "external_id": "sub_1", "description": "billing", "status": "active", "events": ["invoice.paid"],
            "url": "https://a.example/", "timeout": 10000, "secret": "current", "headers": {"X-K": "v"},
            "rate_limit": {"limit": 100, "per": "minute"},
        })
    );
    let row =
        json!({"uid": "1", "filter_config": {"event_types": ["a"], "filter": {"body": {"a": 1}}}});
    assert_eq!(
        translated(System::Convoy, &row).unwrap_err()[0].field,
        "filter"
    );
}

#[test]
fn a_hook0_subscription_posts_to_its_target() {
    let row = json!({
        "subscription_id": "s-1", "application_id": "a", "is_enabled": true, "event_types": ["a.b.c"],
        "description": null, "secret": "6b8a3e2c-0000", "labels": {}, "dedicated_workers": [],
        "target": {"type": "http", "method": "POST", "url": "https://a.example/", "headers": {"X": "y"}},
    });
    assert_eq!(
        members(System::Hook0, &row),
        json!({
            "external_id": "s-1", "active": true, "events": ["a.b.c"], "secret": "6b8a3e2c-0000",
            "url": "https://a.example/", "headers": {"X": "y"},
        })
    );
    let row = json!({"target": {"method": "PUT"}, "labels": {"all": "yes"}});
    assert_eq!(translated(System::Hook0, &row).unwrap_err().len(), 2);
}

#[test]
fn names_can_be_mapped_and_ignored_and_a_masked_secret_is_refused() {
    let names = Names::new(&["hook=url".to_owned()], &["odd".to_owned()]).unwrap();
    let row = json!({"hook": "https://a.example/", "odd": 1, "id": "1"});
    let done = translate(System::Posthorn, &names, row.as_object().unwrap().clone()).unwrap();
    assert_eq!(done.members["url"], "https://a.example/");
    assert_eq!(done.left_out, ["odd"]);
    assert!(Names::new(&["hook".to_owned()], &[]).is_err());
    let masked = json!({"id": "webhook_1", "secret": "webhook_secret_***"});
    assert_eq!(
        translated(System::Auraconnect, &masked).unwrap_err()[0].field,
        "secret"
    );
}
