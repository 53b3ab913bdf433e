//! The processes' cache of webhooks: deleted webhooks take no memory, an unreadable
//! webhook loses no event, and one tenant's changes don't delay another tenant's.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use harness::bench::usage::resident;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, Webhook, World, eventually};
use serde_json::{Value, json};

/// Not the key of the world's other services.
const OTHER_KEY: &str = "YW5vdGhlciBtYXN0ZXIga2V5IGZvciB0aGUgdGVzdHM=";

async fn delete(world: &World, ingest: &Service, id: &str) {
    let path = format!("/api/v1/webhooks/{id}");
    let gone = world.ask(ingest, "DELETE", &path, None).await;
    assert_eq!(gone.status, 204, "{}", gone.body);
}

/// A filter of about this many bytes that needs as much memory as possible.
fn filter(bytes: usize) -> Value {
    let each = bytes / 100 - 3;
    let values: Vec<_> = (0..100).map(|n| format!("{n:0>each$}")).collect();
    json!({"a": {"$in": values}})
}

async fn readyz(service: &Service) -> (u16, String) {
    let Ok(answer) = http().get(service.url("/readyz")).send().await else {
        return (0, String::new());
    };
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Changes a byte of a webhook's sealed secret behind its key's id.
async fn corrupt(world: &World, webhook: &Webhook) {
    let sql = "UPDATE webhooks SET secret = set_byte(secret, 40, get_byte(secret, 40) # 1) \
               WHERE url LIKE '%' || $1";
    let changed = world.sql().await.execute(sql, &[&webhook.path]).await;
    assert_eq!(changed.unwrap(), 1);
}

/// In an earlier version 200 webhooks took 0.9 MiB each in a dispatcher's memory,
/// again after every start. A quarter of that is far above what an allocator keeps
/// after 200 requests.
#[tokio::test]
async fn webhooks_that_were_deleted_take_no_memory_not_even_after_a_restart() {
    const PAIRS: usize = 200;
    let world = World::start().await;
    let ingest = world.ingest().await;
    let dispatcher = world.dispatcher().await;
    let before = [resident(ingest.pid()), resident(dispatcher.pid())];
    for _ in 0..PAIRS {
        let webhook = json!({
            "url": "http://127.0.0.1:9/", "events": ["never"], "filters": filter(14_000),
            "metadata": {"a": "x".repeat(4_000)},
            "headers": {"X-A": "a".repeat(1_000), "X-B": "b".repeat(1_000)},
        });
        let path = "/api/v1/webhooks";
        let made = world.ask(&ingest, "POST", path, Some(webhook)).await;
        assert_eq!(made.status, 201, "{}", made.body);
        delete(&world, &ingest, made.body["id"].as_str().unwrap()).await;
    }
    let after = [resident(ingest.pid()), resident(dispatcher.pid())];
    ingest.stop().await.unwrap();
    dispatcher.stop().await.unwrap();
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let anew = [resident(ingest.pid()), resident(dispatcher.pid())];
    println!("MiB of ingest and dispatcher: {before:.0?}, {after:.0?}, restarted {anew:.0?}");
    for (before, is) in before.iter().zip(after).chain(before.iter().zip(anew)) {
        assert!(
            is < before + 45.0,
            "{before:.0} MiB before, {is:.0} MiB now"
        );
    }
    assert_eq!(ingest.metric("posthorn_subscriptions").await.unwrap(), 0.0);
    world.finish().await;
}

#[tokio::test]
async fn a_deleted_webhooks_open_deliveries_are_cancelled_by_a_dispatcher_that_never_knew_it() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "e-1", &json!({})).await;
    world.accepts(1).await;
    delete(&world, &ingest, &webhook.id).await;

    let _dispatcher = world.dispatcher().await;
    world.settles().await;
    let deliveries = world.deliveries(&ingest, &webhook).await;
    assert_eq!(deliveries[0]["status"], "cancelled");
    assert!(shop.arrivals().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn a_deleted_webhooks_row_is_kept_for_its_log_and_deleted_with_it() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let more = json!({
        "filters": {"a": {"$exists": false}}, "headers": {"X-Key": "k"}, "metadata": {"a": 1},
        "description": "d", "retries": 3, "rate_limit": 5, "signing": "ed25519",
    });
    let with_log = world.webhook(&ingest, &shop, more.clone()).await;
    world.publish("order.created", "e-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let unused = world.webhook(&ingest, &shop, more).await;
    for webhook in [&with_log, &unused] {
        delete(&world, &ingest, &webhook.id).await;
    }
    let blank = "webhooks WHERE status = 'deleted' AND url = '' AND description = '' \
        AND patterns = '{}' AND filter IS NULL AND secret = '' AND signing_key IS NULL \
        AND headers IS NULL AND retry IS NULL AND rate_limit IS NULL AND metadata = '{}'";
    assert_eq!(world.count(blank).await, 2);
    assert_eq!(world.deliveries(&ingest, &with_log).await.len(), 1);

    // Retention is 30 days by default. The upkeep runs when the process starts.
    let long_ago = "UPDATE webhooks SET updated_at = now() - interval '31 days'";
    world.sql().await.batch_execute(long_ago).await.unwrap();
    ingest.stop().await.unwrap();
    let ingest = world.ingest().await;
    eventually("the row without a log is gone", async || {
        world.count("webhooks").await == 1
    })
    .await;
    assert_eq!(world.deliveries(&ingest, &with_log).await.len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_deleted_webhook_that_never_had_a_delivery_is_purged_with_all_traces_within_hours() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let with_log = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "e-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let unused = world.webhook(&ingest, &shop, json!({})).await;
    let sql = world.sql().await;
    let traces = "INSERT INTO costly_filters (webhook_id, events, last_at) \
            SELECT id, 1, now() FROM webhooks; \
        INSERT INTO exhausted_told (webhook_id, told_at, quarter, counted) \
            SELECT id, now(), now(), 1 FROM webhooks ON CONFLICT DO NOTHING";
    sql.batch_execute(traces).await.unwrap();
    for webhook in [&with_log, &unused] {
        delete(&world, &ingest, &webhook.id).await;
    }
    // The upkeep runs when the process starts.
    let ago = "UPDATE webhooks SET updated_at = now() - interval '2 hours'";
    sql.batch_execute(ago).await.unwrap();
    ingest.stop().await.unwrap();
    let ingest = world.ingest().await;
    eventually("the webhook without a log is gone", async || {
        world.count("webhooks").await == 1
    })
    .await;
    for table in ["costly_filters", "exhausted_told"] {
        let of_none = format!(
            "{table} t WHERE NOT EXISTS (SELECT FROM webhooks w WHERE w.id = t.webhook_id)"
        );
        assert_eq!(world.count(&of_none).await, 0, "{table}");
    }
    assert_eq!(world.deliveries(&ingest, &with_log).await.len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_webhook_that_is_too_large_is_refused_with_the_name_of_the_member() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let refused = async |body: Value, words: [&str; 3]| {
        let answer = world.ask(&ingest, "PATCH", &path, Some(body)).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        for word in words {
            assert!(
                answer.body.to_string().contains(word),
                "{word}: {}",
                answer.body
            );
        }
    };
    refused(
        json!({"filters": filter(17_000)}),
        ["filters", "16384", "bytes"],
    )
    .await;
    // Each member is within its own bound, but together they are too large.
    let headers = (0..20).map(|n| (format!("X-{n:0>2000}"), json!("v".repeat(1024))));
    let headers: serde_json::Map<_, _> = headers.collect();
    let large = json!({"filters": filter(15_000), "headers": headers});
    refused(large.clone(), ["\"headers\"", "65536", "definition"]).await;
    let mut new = large;
    new["url"] = shop.url("/new").into();
    new["events"] = "*".into();
    let made = world
        .ask(&ingest, "POST", "/api/v1/webhooks", Some(new.clone()))
        .await;
    assert_eq!(made.status, 422, "{}", made.body);
    assert_eq!(world.count("webhooks").await, 1);

    new["key"] = "large".into();
    let file = json!({"tenants": [{"id": TENANT, "webhooks": [new]}]});
    world.file("large.json", &file.to_string());
    let ran = world
        .shell("posthorn-ingest apply -f large.json", &[])
        .await;
    assert_ne!(ran.status, 0, "{ran:?}");
    assert!(
        ran.said.contains("65536") && ran.said.contains("headers"),
        "{ran:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn an_ingest_without_the_right_key_loses_no_event_and_says_so() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    world
        .webhook(&ingest, &shop, json!({"filters": {"n": {"$gt": 0}}}))
        .await;
    ingest.stop().await.unwrap();

    let keyless = world
        .started("posthorn-ingest", &[("MASTER_KEY", OTHER_KEY)])
        .await;
    eventually("it says what it lacks", async || {
        let (status, text) = readyz(&keyless).await;
        status == 503 && text.contains("no key for 1 webhooks") && text.contains("MASTER_KEY")
    })
    .await;
    let unreadable = async || {
        keyless
            .metric("posthorn_unreadable_webhooks")
            .await
            .unwrap()
    };
    assert_eq!(unreadable().await, 1.0);
    for n in 0..3 {
        world
            .publish("order.created", &format!("e-{n}"), &json!({"n": n}))
            .await;
    }
    world.accepts(3).await;
    assert_eq!(world.count("events WHERE matched = 1").await, 2);

    let _dispatcher = world.dispatcher().await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 2);
    let lines = world.logs().matches("unreadable webhook").count();
    assert_eq!(lines, 1, "once, however many events came");
    world.finish().await;
}

#[tokio::test]
async fn one_webhook_that_cannot_be_read_is_shown_as_such_and_loses_no_event() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let sound = world.webhook(&ingest, &shop, json!({})).await;
    let broken = world
        .webhook(&ingest, &shop, json!({"description": "still there"}))
        .await;
    corrupt(&world, &broken).await;

    let listed = world.ask(&ingest, "GET", "/api/v1/webhooks", None).await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    let [newest, oldest] = listed.body["webhooks"].as_array().unwrap().as_slice() else {
        panic!("{}", listed.body);
    };
    assert_eq!(
        (&newest["id"], &oldest["id"]),
        (&json!(broken.id), &json!(sound.id))
    );
    assert_eq!(
        (&newest["readable"], &oldest["readable"]),
        (&json!(false), &json!(true))
    );
    let path = format!("/api/v1/webhooks/{}", broken.id);
    let shown = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(
        (shown.status, &shown.body["readable"]),
        (200, &json!(false))
    );
    assert_eq!(shown.body["description"], "still there");

    // No other process could read it either, so this one is ready.
    ingest.stop().await.unwrap();
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let (status, text) = readyz(&ingest).await;
    assert!(
        status == 200 && text.contains("1 webhooks cannot be read"),
        "{status} {text}"
    );
    for service in [&ingest, &dispatcher] {
        let unreadable = service.metric("posthorn_unreadable_webhooks").await;
        assert_eq!(unreadable.unwrap(), 1.0);
    }
    world.publish("order.created", "e-1", &json!({})).await;
    world.accepts(1).await;
    assert_eq!(world.count("events WHERE matched = 2").await, 1);

    // With a new secret it is like any other webhook, and gets the waiting events.
    let secret = json!({"secret": "a new secret".replace(' ', "-")});
    let changed = world.ask(&ingest, "PATCH", &path, Some(secret)).await;
    assert_eq!(
        (changed.status, &changed.body["readable"]),
        (200, &json!(true))
    );
    world.settles().await;
    assert_eq!(shop.arrivals().len(), 2);
    let unreadable = ingest.metric("posthorn_unreadable_webhooks").await;
    assert_eq!(unreadable.unwrap(), 0.0);
    world.finish().await;
}

#[tokio::test]
async fn an_event_that_was_matched_wrongly_is_matched_again_and_sent_once() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let hidden = world
        .webhook(&ingest, &shop, json!({"events": ["order.*"]}))
        .await;
    world
        .webhook(&ingest, &shop, json!({"events": ["order.*"]}))
        .await;
    // As if the index had missed it.
    let path = format!("/api/v1/webhooks/{}", hidden.id);
    let switch = async |active: bool| {
        let body = json!({"active": active});
        let changed = world.ask(&ingest, "PATCH", &path, Some(body)).await;
        assert_eq!(changed.status, 200, "{}", changed.body);
    };
    switch(false).await;
    for n in 0..40 {
        world
            .publish("order.created", &format!("e-{n}"), &json!({"n": n}))
            .await;
    }
    world.accepts(40).await;
    world.settles().await;
    switch(true).await;
    world
        .webhook(
            &ingest,
            &shop,
            json!({"description": "made after the events"}),
        )
        .await;
    assert_eq!(world.count("events WHERE matched = 1").await, 40);

    let one = "/api/v1/events/e-7/rematch";
    let refused = world.ask(&ingest, "POST", one, None).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let again = async |wanted: usize| {
        let request = http().post(ingest.url(one)).bearer_auth(ADMIN_TOKEN);
        let answer = request.header("x-tenant-id", TENANT).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 202);
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let made = body["deliveries"].as_array().unwrap();
        assert_eq!(made.len(), wanted, "{body}");
        assert!(
            made.iter().all(|made| made["webhook_id"] == hidden.id),
            "{body}"
        );
    };
    again(1).await;
    again(0).await;

    let many = "/api/v1/admin/events/rematch";
    let all = async |dry_run: bool| {
        let body = json!({
            "since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z", "dry_run": dry_run,
        });
        let answer = world
            .ask_as_operator(&ingest, "POST", many, Some(body))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };
    let said = |lacking: usize| json!({"looked_at": 40, "lacking": lacking, "deliveries": lacking, "next_cursor": null});
    assert_eq!(all(true).await, said(39));
    // Two requests at once: one of them makes each missing delivery.
    let (a, b) = tokio::join!(all(false), all(false));
    let made = |answer: &Value| answer["deliveries"].as_u64().unwrap();
    assert_eq!(made(&a) + made(&b), 39, "{a} {b}");
    assert_eq!(all(false).await, said(0));
    world.settles().await;
    assert_eq!(world.deliveries(&ingest, &hidden).await.len(), 40);
    assert_eq!(shop.arrivals().len(), 80);
    assert_eq!(world.count("events WHERE matched = 2").await, 40);
    world.finish().await;
}

/// In an earlier version a change took its revision with its first statement and
/// held it until its end. So other changes waited as long as the transaction was
/// open.
#[tokio::test]
async fn an_open_transaction_does_not_delay_other_tenants_changes() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let tenant = json!({"id": "slow"});
    let path = "/api/v1/admin/tenants";
    let made = world
        .ask_as_operator(&ingest, "POST", path, Some(tenant))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let mut slow = world.sql().await;
    let open = slow.transaction().await.unwrap();
    let change = "UPDATE tenants SET name = 'slow' WHERE id = 'slow'";
    open.execute(change, &[]).await.unwrap();

    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world.publish("order.created", "e-1", &json!({})).await;
    let _dispatcher = world.dispatcher().await;
    eventually("the event arrives", async || shop.arrivals().len() == 1).await;
    delete(&world, &ingest, &webhook.id).await;

    open.commit().await.unwrap();
    // The order holds: the slow change is seen although others came first.
    eventually("the slow change is there", async || {
        let path = "/api/v1/admin/tenants/slow";
        let shown = world.ask_as_operator(&ingest, "GET", path, None).await;
        shown.body["name"] == "slow"
    })
    .await;
    let counted = "tenants WHERE id = 'slow' AND revision = (SELECT revision FROM catalogue)";
    assert_eq!(world.count(counted).await, 1);
    tokio::time::timeout(Duration::from_secs(60), world.finish())
        .await
        .unwrap();
}
