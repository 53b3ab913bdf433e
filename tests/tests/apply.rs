//! Configuration from files: what `posthorn-ingest apply` creates, changes and prints.

#![allow(clippy::unwrap_used)]

use harness::documents::{fenced, without_ids};
use harness::receiver::answering;
use harness::service::Service;
use harness::world::{TENANT, World};
use serde_json::{Value, json};

/// The variables with which the documentation's files and commands are run.
const VARIABLES: [(&str, &str); 3] = [
    (
        "POSTHORN_APPLY_BILLING_SECRET",
        "whsec_YmlsbGluZydzIG93biBzZWNyZXQsIGFiY2Q=",
    ),
    ("POSTHORN_APPLY_BILLING_API_KEY", "hunter2-hunter2"),
    // As in production: the files name public URLs with HTTPS.
    ("ALLOW_HTTP", "false"),
];

#[tokio::test]
async fn the_commands_in_the_documentation_print_what_it_shows() {
    let world = World::start().await;
    let document = include_str!("../../docs/apply.md");
    for file in fenced(document, "yaml") {
        let name = file.lines().next().unwrap().trim_start_matches("# ");
        world.file(name, file);
    }
    let mut ran = String::new();
    for console in fenced(document, "console") {
        for command in console.split("$ ").skip(1) {
            let (line, expected) = command.split_once('\n').unwrap();
            let said = world.shell(line, &VARIABLES).await;
            let output = format!("{}{}", said.printed, said.said);
            ran.push_str(&format!("$ {line}\n{output}\n"));
            assert_eq!(
                without_ids(&output),
                without_ids(expected),
                "all of it:\n{ran}"
            );
        }
    }
    assert_eq!(world.count("webhooks WHERE status <> 'deleted'").await, 2);
    world.finish().await;
}

/// A tenant with one webhook to this URL; `more` has further members of the webhook.
fn shop(url: &str, more: &Value) -> String {
    let mut webhook = json!({"key": "shop", "url": url, "events": ["*"]});
    let more = more.as_object().unwrap().clone();
    webhook.as_object_mut().unwrap().extend(more);
    json!({"tenants": [{"id": TENANT, "webhooks": [webhook]}]}).to_string()
}

async fn webhooks(world: &World, ingest: &Service) -> Vec<Value> {
    let listed = world.ask(ingest, "GET", "/api/v1/webhooks", None).await;
    listed.body["webhooks"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_applied_webhook_gets_events_signed_with_the_secret_of_the_environment() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let more = json!({
        "secret": {"env": "POSTHORN_APPLY_SHOP_SECRET"}, "headers": {"X-Api-Key": {"env": "POSTHORN_APPLY_SHOP_KEY"}, "X-Plain": "p"},
    });
    world.file("shop.json", &shop(&receiver.url("/shop"), &more));
    let secret = "whsec_YmlsbGluZydzIG93biBzZWNyZXQsIGFiY2Q=";
    let variables = [
        ("POSTHORN_APPLY_SHOP_SECRET", secret),
        ("POSTHORN_APPLY_SHOP_KEY", "hunter2-hunter2"),
    ];
    let applied = world
        .shell("posthorn-ingest apply -f shop.json", &variables)
        .await;
    assert_eq!(applied.status, 0, "{applied:?}");
    for secret in [&secret[6..30], "hunter2"] {
        let output = format!("{applied:?}");
        assert!(!output.contains(secret), "{output}");
    }
    // The webhook is in force at once, in an ingest that was running already.
    world.publish("order.created", "evt-1", &json!({})).await;
    let arrival = &receiver.receives(1).await[0];
    arrival.verify(secret).unwrap();
    assert_eq!(arrival.header("x-api-key"), "hunter2-hunter2");
    assert_eq!(webhooks(&world, &ingest).await[0]["key"], "shop");

    // A new value of the variable is a new secret.
    let other = "whsec_YW5vdGhlciBzZWNyZXQgYWx0b2dldGhlciwgYWI=";
    let variables = [
        ("POSTHORN_APPLY_SHOP_SECRET", other),
        ("POSTHORN_APPLY_SHOP_KEY", "hunter2-hunter2"),
    ];
    let changed = world
        .shell("posthorn-ingest apply -f - < shop.json", &variables)
        .await;
    let masked = "secret: whsec_…Y2Q= → whsec_…YWI=";
    assert!(changed.printed.contains(masked), "{changed:?}");
    assert!(
        changed
            .printed
            .ends_with("0 created, 1 changed, 0 deleted, 1 unchanged"),
        "{changed:?}"
    );
    world.publish("order.created", "evt-2", &json!({})).await;
    receiver.receives(2).await[1].verify(other).unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_file_replaces_a_webhook_except_its_secret_and_its_switches() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let all = json!({
        "description": "the shop", "filters": {"total": {"$gte": 1e16}}, "headers": {"X-A": "b"},
        "timeout": 5000, "retries": 3, "rate_limit": 5, "signing": "ed25519", "dialect": "standard",
        "metadata": {"team": "billing", "n": 25.00}, "client_id": "c-7", "debug_mode": true,
        "trace_header": false, "active": false,
    });
    world.file("all.json", &shop("https://example.com/a", &all));
    let apply = async |file: &str| {
        let line = format!("posthorn-ingest apply --exit-code -f {file}");
        let ran = world.shell(&line, &[]).await;
        assert!(ran.said.is_empty(), "{ran:?}");
        ran
    };
    assert_eq!(apply("all.json").await.status, 2);
    let again = apply("all.json").await;
    assert_eq!(again.status, 0, "{again:?}");
    let made = webhooks(&world, &ingest).await.remove(0);
    assert_eq!(made["metadata"]["client_id"], "c-7");

    world.file("bare.json", &shop("https://example.com/b", &json!({})));
    assert_eq!(apply("bare.json").await.status, 2);
    assert_eq!(apply("bare.json").await.status, 0);
    let bare = webhooks(&world, &ingest).await.remove(0);
    for (member, value) in [
        ("id", &made["id"]),
        ("url", &json!("https://example.com/b")),
        ("description", &json!("")),
        ("filters", &Value::Null),
        ("headers", &json!({})),
        ("timeout", &Value::Null),
        ("retry_policy", &Value::Null),
        ("rate_limit", &Value::Null),
        ("signing", &json!("hmac")),
        ("dialect", &Value::Null),
        ("trace_header", &json!(true)),
        ("metadata", &json!({})),
        // These members keep their value.
        ("secret", &made["secret"]),
        ("debug_mode", &json!(true)),
        ("active", &json!(false)),
    ] {
        assert_eq!(&bare[member], value, "{member}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_dry_run_keeps_to_the_limits_and_changes_nothing() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let webhook =
        |n: i32| json!({"key": n.to_string(), "url": "https://example.com/", "events": "*"});
    let several = |limit: i32| {
        let webhooks: Vec<_> = (0..3).map(webhook).collect();
        json!({"tenants": [{"id": TENANT, "limits": {"webhooks": limit}, "webhooks": webhooks}]})
            .to_string()
    };
    world.file("three.json", &several(3));
    let dry = world
        .shell("posthorn-ingest apply -f three.json --dry-run", &[])
        .await;
    assert!(dry.printed.contains("limits.webhooks: 100 → 3"), "{dry:?}");
    assert!(
        dry.printed
            .ends_with("dry run: 3 to create, 1 to change, 0 to delete, 0 unchanged"),
        "{dry:?}"
    );
    assert_eq!(world.count("webhooks").await, 0);
    assert_eq!(world.count("tenants WHERE max_webhooks = 100").await, 1);

    world.file("one.json", &several(1));
    for dry_run in ["--dry-run", ""] {
        let line = format!("posthorn-ingest apply -f one.json {dry_run}");
        let refused = world.shell(&line, &[]).await;
        assert_eq!(refused.status, 1, "{refused:?}");
        for place in ["tenants[0].webhooks[1]: ", "tenants[0].webhooks[2]: "] {
            assert!(refused.said.contains(place), "{refused:?}");
        }
        assert!(
            refused.said.contains("at most 1 are allowed"),
            "{refused:?}"
        );
    }
    assert!(webhooks(&world, &ingest).await.is_empty());
    world.finish().await;
}

#[tokio::test]
async fn pruning_deletes_only_webhooks_that_files_created() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let by_hand = world.webhook(&ingest, &receiver, json!({})).await;
    world.file("shop.json", &shop("https://example.com/", &json!({})));
    world.file(
        "none.json",
        &json!({"tenants": [{"id": TENANT}]}).to_string(),
    );
    world.file(
        "other.json",
        &json!({"tenants": [{"id": "other"}]}).to_string(),
    );
    world.file(
        "empty.json",
        &json!({"tenants": [{"id": TENANT, "webhooks": []}]}).to_string(),
    );
    for (file, prune, status, left) in [
        ("shop", "", 0, 2),
        ("none", "", 0, 2),
        ("other", "--prune", 0, 2),
        // A missing list may have been forgotten.
        ("none", "--prune", 1, 2),
        ("none", "--prune --dry-run", 1, 2),
        ("empty", "--prune", 0, 1),
        ("none", "--prune", 0, 1),
        ("shop", "--prune", 0, 2),
    ] {
        let line = format!("posthorn-ingest apply -f {file}.json {prune}");
        let ran = world.shell(&line, &[]).await;
        assert_eq!(ran.status, status, "{ran:?}");
        let asked = "none.json:1: tenants[0]: has no `webhooks`, and --prune would delete all 1 that \
                     files made for this tenant; write `webhooks: []` if that is meant";
        assert_eq!(ran.said.contains(asked), status == 1, "{ran:?}");
        let there = webhooks(&world, &ingest).await;
        assert_eq!(there.len(), left, "{line}: {ran:?}");
        assert!(
            there
                .iter()
                .any(|webhook| webhook["id"] == by_hand.id.as_str())
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn errors_in_files_are_reported_with_file_line_and_member() {
    let world = World::start().await;
    let broken = "tenants:\n\
        - id: acme\n  \
          webhooks:\n  \
          - {key: a b, url: 'https://example.com/', events: ['*']}\n  \
          - {key: b, url: 'https://example.com/', events: ['a*b']}\n  \
          - {key: c, urll: x}\n  \
          - {key: d, events: '*', timeout: soon, secret: {env: POSTHORN_APPLY_NOT_SET}}\n  \
          - {key: e, url: 'https://example.com/', events: '*', headers: {X-A: {env: POSTHORN_APPLY_NOT_SET}}}\n  \
          - {key: f, url: 'https://example.com/', events: '*', secret: hunter2-hunter2}\n  \
          - {key: f, url: 'https://example.com/', events: '*'}\n  \
          event_types: [{name: a.b, example: 1, schema: {type: string}}]\n\
        - id: Nobody!\n---\ntenants:\n- id: acme\n";
    world.file("broken.yaml", broken);
    let refused = world
        .shell("posthorn-ingest apply -f broken.yaml", &[])
        .await;
    assert_eq!(refused.status, 1, "{refused:?}");
    for words in [
        "broken.yaml:4: tenants[0].webhooks[0].key: must be 1 to 64",
        "broken.yaml:5: tenants[0].webhooks[1].events[0]: ",
        "broken.yaml:6: tenants[0].webhooks[2].urll: unknown field",
        "broken.yaml:7: tenants[0].webhooks[3].secret.env: the variable POSTHORN_APPLY_NOT_SET is not set",
        "broken.yaml:7: tenants[0].webhooks[3].timeout: invalid type: string, expected ",
        "broken.yaml:8: tenants[0].webhooks[4].headers.X-A.env: the variable POSTHORN_APPLY_NOT_SET",
        "broken.yaml:9: tenants[0].webhooks[5].secret: must be `{env: POSTHORN_APPLY_…}`",
        "broken.yaml:10: tenants[0].webhooks[6].key: `f` is there twice",
        "broken.yaml:11: tenants[0].event_types[0].example: is not what the schema says",
        "broken.yaml:12: tenants[1].id: ",
        "broken.yaml:15: tenants[0].id: `acme` is also at broken.yaml:2: tenants[0]",
    ] {
        assert!(refused.said.contains(words), "{words}\n{}", refused.said);
    }
    assert!(!refused.said.contains("hunter2"), "{}", refused.said);

    for (text, words) in [
        ("", "is empty"),
        ("tenants: [", "is not YAML"),
        ("{\"tenants\": ]", "is not JSON"),
        ("tenant: []", "tenant: unknown field"),
        ("tenants: [7]", "tenants[0]: invalid type"),
        ("a: &a [1]\nb: [*a, *a]", "unknown field"),
    ] {
        world.file("broken.yaml", text);
        let refused = world
            .shell("posthorn-ingest apply -f broken.yaml", &[])
            .await;
        assert_eq!(refused.status, 1, "{refused:?}");
        assert!(refused.said.contains(words), "{text}: {}", refused.said);
    }
    world.file("huge.yaml", &"#".repeat(8 * 1024 * 1024 + 1));
    let huge = world.shell("posthorn-ingest apply -f huge.yaml", &[]).await;
    assert!(huge.said.contains("at most 8388608 bytes"), "{huge:?}");
    assert_eq!(world.count("webhooks").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn two_applies_at_once_run_one_after_the_other() {
    let world = World::start().await;
    let webhooks: Vec<_> = (0..40)
        .map(|n| json!({"key": format!("k{n}"), "url": "https://example.com/", "events": "*"}))
        .collect();
    let file = json!({"tenants": [{"id": "new"}, {"id": TENANT, "webhooks": webhooks}]});
    world.file("many.json", &file.to_string());
    let apply = || world.shell("posthorn-ingest apply -f many.json", &[]);
    let (a, b, c) = tokio::join!(apply(), apply(), apply());
    let mut said: Vec<_> = [a, b, c]
        .map(|ran| ran.printed.lines().last().unwrap_or_default().to_owned())
        .to_vec();
    said.sort();
    let nothing = "0 created, 0 changed, 0 deleted, 42 unchanged";
    assert_eq!(
        said,
        [
            nothing,
            nothing,
            "41 created, 0 changed, 0 deleted, 1 unchanged"
        ]
    );
    world.finish().await;
}

/// Other people may be able to change the files in a repository's folder.
#[tokio::test]
async fn a_file_cannot_send_our_secrets_out_and_its_folder_cannot_loosen_our_settings() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let names = ["MASTER_KEY", "DATABASE_URL", "ADMIN_TOKEN", "HOME"];
    let headers: serde_json::Map<_, _> = names
        .iter()
        .map(|name| {
            (
                format!("X-{}", name.replace('_', "-")),
                json!({ "env": name }),
            )
        })
        .collect();
    let more = json!({"headers": headers, "secret": {"env": "MASTER_KEY"}});
    world.file("thief.json", &shop("https://example.com/", &more));
    let refused = world
        .shell("posthorn-ingest apply -f thief.json", &[])
        .await;
    assert_eq!(refused.status, 1, "{refused:?}");
    let place = "thief.json:1: tenants[0].webhooks[0].headers.X-MASTER-KEY.env: must name a variable \
                 that begins with POSTHORN_APPLY_";
    assert!(refused.said.contains(place), "{refused:?}");
    assert_eq!(
        refused.said.matches("POSTHORN_APPLY_").count(),
        5,
        "{refused:?}"
    );

    // As in production, except for the file in the folder.
    world.file(
        ".env",
        "ALLOW_HTTP=true\nALLOWED_NETWORKS=10.0.0.0/8\nPOSTHORN_APPLY_KEY=planted\n",
    );
    let inside = json!({"headers": {"X-Key": {"env": "POSTHORN_APPLY_KEY"}}});
    world.file("inside.json", &shop("http://10.0.0.1/", &inside));
    let unset = "env -u ALLOW_HTTP -u ALLOWED_NETWORKS posthorn-ingest apply -f inside.json";
    let refused = world.shell(unset, &[]).await;
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(
        refused.said.contains("POSTHORN_APPLY_KEY is not set"),
        "{refused:?}"
    );
    world.file("inside.json", &shop("http://10.0.0.1/", &json!({})));
    let refused = world.shell(unset, &[]).await;
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.said.contains(".url: must use https"), "{refused:?}");
    // Whatever file is named, the error says where it was named and repeats nothing
    // of it.
    for file in ["/etc/passwd", ".env"] {
        let line = format!("posthorn-ingest apply -f {file}");
        let refused = world.shell(&line, &[]).await;
        assert_eq!(refused.status, 1, "{refused:?}");
        for secret in ["root", "planted", "10.0.0.0"] {
            assert!(!refused.said.contains(secret), "{refused:?}");
        }
    }
    assert!(webhooks(&world, &ingest).await.is_empty());
    world.finish().await;
}
