//! The steps of the walk, in the order in which they are taken: later ones need what earlier ones
//! made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use harness::producer::Publication;
use harness::receiver::{Receiver, Reply, Script};
use harness::service::http;
use harness::world::{TENANT, Webhook, World, eventually};
use serde_json::{Value, json};

use crate::walk::{Walk, text};

/// The event that the steps show, retry, match again and expunge.
const EVENT: &str = "order-4711-created";
/// Replays and backfills take everything from here on.
const SINCE: &str = "2020-01-01T00:00:00Z";

/// Tenants, tokens and links to the portal.
pub(crate) async fn visit_tenants_and_tokens(world: &World, walk: &mut Walk<'_>) {
    let frames = json!(["https://app.example.com"]);
    let limits = json!({
        "id": "globex", "name": "Globex", "limits": {"webhooks": 10}, "frame_ancestors": frames,
    });
    walk.visit("create_tenant", &[], "", limits).await;
    // It is the first of the list.
    let path = format!("/api/v1/admin/tenants/{TENANT}");
    let change = json!({"frame_ancestors": frames});
    let changed = world.ask_as_operator(walk.ingest, "PATCH", &path, Some(change));
    assert_eq!(changed.await.status, 200);
    walk.visit("list_tenants", &[], "", Value::Null).await;
    walk.visit("show_tenant", &["globex"], "", Value::Null)
        .await;
    walk.visit(
        "change_tenant",
        &["globex"],
        "",
        json!({"name": "Globex Ltd"}),
    )
    .await;
    let issued = json!({"tenant": TENANT, "role": "viewer", "expires_at": "2099-01-01T00:00:00Z"});
    let token = text(&walk.visit("issue_token", &[], "", issued).await["id"]);
    walk.visit("list_tokens", &[], "", Value::Null).await;
    let link = json!({"tenant": TENANT});
    let link = walk.visit("create_portal_link", &[], "", link).await;
    // Somebody opens it.
    let path = walk.ingest.url(link["path"].as_str().unwrap());
    let opened = http().get(path).send().await.unwrap();
    assert_eq!(opened.status(), 303);
    walk.visit("list_portal_sessions", &[TENANT], "", Value::Null)
        .await;
    walk.visit("end_portal_sessions", &[TENANT], "", Value::Null)
        .await;
    walk.visit("show_token", &[&token], "", Value::Null).await;
    walk.visit("revoke_token", &[&token], "", Value::Null).await;
    walk.visit("show_me", &[], "", Value::Null).await;
}

/// Catalogues, dialects and event types.
pub(crate) async fn visit_catalogues_and_event_types(walk: &mut Walk<'_>) {
    walk.visit("list_catalogues", &[], "", Value::Null).await;
    walk.visit("show_catalogue", &["rishi"], "", Value::Null)
        .await;
    walk.visit("list_dialects", &[], "", Value::Null).await;
    walk.visit("show_dialect", &["standard"], "", Value::Null)
        .await;
    let described = json!({
        "description": "A customer placed an order.", "example": {"total": 25.0},
        "schema": {"type": "object", "required": ["total"]}
    });
    walk.visit("put_event_type", &["order.created"], "", described.clone())
        .await;
    walk.visit("put_event_type", &["order.created"], "", described.clone())
        .await;
    walk.visit("show_event_type", &["order.created"], "", Value::Null)
        .await;
    walk.visit("list_event_types", &[], "", Value::Null).await;
    walk.visit("import_event_types", &[], "", json!({"catalogue": "rishi"}))
        .await;
    let mut whole = described;
    whole["name"] = "order.created".into();
    walk.visit(
        "replace_event_types",
        &[],
        "",
        json!({"event_types": [whole]}),
    )
    .await;
}

/// Webhooks, their keys and their tests. Answers the id of the webhook that the other steps use.
pub(crate) async fn visit_webhooks(walk: &mut Walk<'_>, shop: &Receiver) -> String {
    let form = json!({
        "url": shop.url("/hooks"), "events": ["order.*"], "description": "the shop", "signing": "ed25519",
        "filters": {"total": {"$gte": 10}}, "headers": {"X-Api-Key": "k-1"}, "metadata": {"shop": 7},
        "rate_limit": {"limit": 1000, "per": "hour"}, "retry_policy": {"max_retries": 5, "retry_delay": 10_000},
        "debug_mode": true
    });
    let webhook = text(&walk.visit("create_webhook", &[], "", form).await["id"]);
    walk.visit("list_webhooks", &[], "", Value::Null).await;
    walk.visit("show_webhook", &[&webhook], "", Value::Null)
        .await;
    walk.visit("show_webhook_keys", &[&webhook], "", Value::Null)
        .await;
    walk.visit(
        "patch_webhook",
        &[&webhook],
        "",
        json!({"description": "the new shop"}),
    )
    .await;
    walk.visit("put_webhook", &[&webhook], "", json!({"timeout": 10_000}))
        .await;
    walk.visit(
        "test_webhook",
        &[&webhook],
        "",
        json!({"data": {"total": 12}}),
    )
    .await;
    walk.visit(
        "test_webhook_by_id",
        &[],
        "",
        json!({"webhook_id": webhook}),
    )
    .await;
    walk.visit("rotate_secret", &[&webhook], "", Value::Null)
        .await;
    walk.visit("revoke_previous_secret", &[&webhook], "", Value::Null)
        .await;
    webhook
}

/// Events and deliveries of this webhook, and statistics of them. Answers the id of a delivery.
pub(crate) async fn visit_events_and_deliveries(
    world: &World,
    walk: &mut Walk<'_>,
    shop: &Receiver,
    webhook: &str,
) -> String {
    let event = json!({"id": EVENT, "type": "order.created", "data": {"total": 25.0}});
    walk.visit("publish_event", &[], "", event).await;
    let batch = json!({"events": [
        {"id": "order-4712-created", "type": "order.created", "data": {"total": 12.5}},
        {"id": "order 4713", "type": "order.created", "data": {"total": 7}}
    ]});
    walk.visit("publish_events", &[], "", batch).await;
    // With the two tests.
    shop.receives(4).await;
    world.settles().await;
    walk.visit("search_events", &[], "", Value::Null).await;
    walk.visit("show_event", &[EVENT], "", Value::Null).await;
    walk.visit("list_webhook_deliveries", &[webhook], "", Value::Null)
        .await;
    walk.visit("list_webhook_events", &[webhook], "", Value::Null)
        .await;
    walk.visit("list_webhook_logs", &[webhook], "", Value::Null)
        .await;
    walk.visit("list_webhook_attempts", &[webhook], "", Value::Null)
        .await;
    // Nothing waits here: what a dispatcher writes when an endpoint is full.
    let wait = "UPDATE deliveries SET waits = add_wait(NULL, 'endpoint_full', 0::smallint, now() + interval '2 seconds')";
    world.sql().await.execute(wait, &[]).await.unwrap();
    walk.visit("list_webhook_waits", &[webhook], "", Value::Null)
        .await;
    let listed = walk
        .visit(
            "list_deliveries",
            &[],
            "?status=delivered&limit=1",
            Value::Null,
        )
        .await;
    let delivery = text(&listed["deliveries"][0]["id"]);
    walk.visit("retry_delivery", &[&delivery], "", Value::Null)
        .await;
    shop.receives(5).await;
    world.settles().await;
    walk.visit("retry_event", &[webhook, EVENT], "", Value::Null)
        .await;
    shop.receives(6).await;
    world.settles().await;
    visit_an_endpoint_that_is_down(world, walk).await;
    // Lanes write their counts every ten seconds.
    let counted = async || world.count("event_type_counts").await > 0;
    eventually("the events are counted by type", counted).await;
    walk.visit("event_type_stats", &[], "", Value::Null).await;
    walk.visit("export_tenant", &[], "", Value::Null).await;
    for operation in ["list_processes", "list_queues", "show_system", "show_load"] {
        walk.visit(operation, &[], "", Value::Null).await;
    }
    walk.visit("webhook_stats", &[webhook], "", Value::Null)
        .await;
    walk.visit("tenant_stats", &[], "", Value::Null).await;
    delivery
}

/// Visits what only an endpoint that is down shows in full, and lets it come back.
async fn visit_an_endpoint_that_is_down(world: &World, walk: &mut Walk<'_>) {
    let ingest = walk.ingest;
    let status = Arc::new(AtomicU16::new(503));
    let told = status.clone();
    let script: Script = Arc::new(move |_, _| Reply::status(told.load(Ordering::Relaxed)));
    let depot = world.receiver(script).await;
    let policy = json!({
        "events": ["stock.*"], "retry_policy": {"delays": [1000, 1000, 1000, 1000]}
    });
    let webhook = world.webhook(ingest, &depot, policy).await;
    for n in 0..60 {
        let id = format!("stock-{n}");
        world.publish("stock.low", &id, &json!({"n": n})).await;
    }
    // The second wait is at least ten seconds long.
    let waits_long = "endpoints WHERE circuit = 'open' AND permits = 1 \
                      AND next_probe_at > now() + interval '8 seconds'";
    eventually("it waits long for its next request", async || {
        world.count(waits_long).await == 1
    })
    .await;
    let health = walk
        .visit("webhook_health", &[&webhook.id], "", Value::Null)
        .await;
    assert_eq!(health["down"], true);
    let has_outage = async || world.count("outages").await > 0;
    eventually("its outage is written down", has_outage).await;
    walk.visit("list_webhook_outages", &[&webhook.id], "", Value::Null)
        .await;
    walk.visit("list_endpoints", &[], "", Value::Null).await;
    let mut put_off = None;
    eventually("a delivery was tried and then put off", async || {
        let all = world.deliveries(ingest, &webhook).await;
        let is_it = |it: &&Value| {
            it["next_attempt_reason"] == "endpoint_down" && it["attempts"].as_i64() > Some(0)
        };
        put_off = all.iter().find(is_it).map(|it| text(&it["id"]));
        put_off.is_some()
    })
    .await;
    walk.visit("show_delivery", &[&put_off.unwrap()], "", Value::Null)
        .await;
    status.store(200, Ordering::Relaxed);
    walk.visit("probe_webhook", &[&webhook.id], "", Value::Null)
        .await;
    world.settles().await;
}

/// What would match, what a receiver finds, and who changed what.
pub(crate) async fn visit_previews_and_changes(
    world: &World,
    walk: &mut Walk<'_>,
    shop: &Receiver,
    delivery: &str,
) {
    let looked = json!({"events": ["order.*"], "filters": {"total": {"$gte": 20}}});
    walk.visit("preview_webhook", &[], "", looked).await;
    walk.visit("check_signature", &[], "", json!({"delivery_id": delivery}))
        .await;
    walk.visit("list_changes", &[], "", Value::Null).await;
    walk.visit("list_all_changes", &[], "", Value::Null).await;
    let event = json!({"type": "order.created", "data": {"total": 25.0}});
    walk.visit("publish_event", &[], "?dry_run=true", event)
        .await;
    walk.visit("retry_deliveries", &[], "", json!({"ids": [delivery]}))
        .await;
    shop.receives(7).await;
    world.settles().await;
}

/// Replays of one webhook and of all webhooks.
pub(crate) async fn visit_replays(walk: &mut Walk<'_>, webhook: &str) {
    let replay = json!({"since": SINCE, "status": "delivered", "dry_run": true});
    walk.visit("replay_deliveries", &[webhook], "", replay)
        .await;
    let replay = json!({"since": SINCE, "status": ["failed"], "event_types": ["order.created"]});
    let replay = text(
        &walk
            .visit("replay_deliveries", &[webhook], "", replay)
            .await["id"],
    );
    walk.visit("show_replay", &[webhook, &replay], "", Value::Null)
        .await;
    walk.visit("list_replays", &[webhook], "", Value::Null)
        .await;
    walk.visit("cancel_replay", &[webhook, &replay], "", Value::Null)
        .await;
    let replay = json!({"since": SINCE, "status": "delivered", "dry_run": true});
    walk.visit("replay_all", &[], "", replay).await;
    let replay = text(
        &walk
            .visit("replay_all", &[], "", json!({"since": SINCE}))
            .await["id"],
    );
    walk.visit("list_all_replays", &[], "", Value::Null).await;
    walk.visit("show_any_replay", &[&replay], "", Value::Null)
        .await;
    walk.visit("cancel_any_replay", &[&replay], "", Value::Null)
        .await;
}

/// Deliveries that are made belatedly: `late` missed the events that were accepted.
pub(crate) async fn visit_backfills_and_rematches(
    world: &World,
    walk: &mut Walk<'_>,
    webhook: &str,
    (late, belated): (&Webhook, &Receiver),
) {
    let path = format!("/api/v1/webhooks/{}", late.id);
    let orders = json!({"events": ["order.*"]});
    let changed = world.ask(walk.ingest, "PATCH", &path, Some(orders)).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let backfill = json!({"since": SINCE, "dry_run": true});
    walk.visit("backfill_webhook", &[&late.id], "", backfill)
        .await;
    walk.visit("backfill_webhook", &[webhook], "", json!({"since": SINCE}))
        .await;
    walk.visit("rematch_event", &[EVENT], "", Value::Null).await;
    belated.receives(1).await;
    world.settles().await;
    let all = json!({"since": SINCE, "until": "2099-01-01T00:00:00Z", "dry_run": true});
    walk.visit("rematch_events", &[], "", all).await;
}

/// Dead letters: confirmed by RabbitMQ, and no events.
pub(crate) async fn visit_dead_letters(world: &World, walk: &mut Walk<'_>) {
    let producer = world.producer().await;
    for id in ["bad-1", "bad-2", "bad-3"] {
        let bad = Publication::json(TENANT, "order.created", id, "no JSON");
        producer.publish(&bad).await.unwrap();
    }
    let parked = async || world.count("dead_letters").await == 3;
    eventually("three events are parked", parked).await;
    let listed = walk.visit("list_dead_letters", &[], "", Value::Null).await;
    walk.visit("list_dead_letter_reasons", &[], "", Value::Null)
        .await;
    walk.visit("list_rejected_events", &[], "", Value::Null)
        .await;
    let letter = |n: usize| text(&listed["dead_letters"][n]["id"]);
    walk.visit("show_dead_letter", &[&letter(0)], "", Value::Null)
        .await;
    walk.visit("show_rejected_event", &[&letter(0)], "", Value::Null)
        .await;
    walk.visit("replay_dead_letter", &[&letter(0)], "", Value::Null)
        .await;
    walk.visit("discard_dead_letter", &[&letter(1)], "", Value::Null)
        .await;
    walk.visit("replay_dead_letters", &[], "", json!({"queue": "parking"}))
        .await;
    walk.visit("discard_dead_letters", &[], "?queue=parking", Value::Null)
        .await;
}

/// A listener; and everything that deletes.
pub(crate) async fn visit_a_listener_and_deletions(walk: &mut Walk<'_>, webhook: &str) {
    let listener = json!({"events": ["order.*"]});
    walk.visit("create_listener", &[], "", listener).await;
    walk.visit("expunge_event", &[EVENT], "", Value::Null).await;
    walk.visit("delete_tenant", &["globex"], "?confirm=globex", Value::Null)
        .await;
    walk.visit("show_tenant_deletion", &["globex"], "", Value::Null)
        .await;
    walk.visit("delete_event_type", &["order.created"], "", Value::Null)
        .await;
    walk.visit("delete_webhook", &[webhook], "", Value::Null)
        .await;
}
