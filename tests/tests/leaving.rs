//! Taking things away: a tenant with its log, one event's data; and taking a configuration along.

#![allow(clippy::unwrap_used)]

use harness::receiver::{Reply, answering};
use harness::world::{TENANT, World, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_deleted_tenant_is_gone_at_once_and_its_log_soon_after() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let kept = world.webhook(&ingest, &receiver, json!({})).await;
    let tenants = "/api/v1/admin/tenants";
    let globex = json!({"id": "globex"});
    let token = world.another_tenant(&ingest, "globex").await;
    // One endpoint accepts, the other one will be asked again in five seconds.
    let failing = world.receiver(Arc::new(|_, _| Reply::status(503))).await;
    for receiver in [&receiver, &failing] {
        let body = json!({"url": receiver.url("/globex"), "events": ["*"], "debug_mode": true});
        let made = world
            .ask_as(&token, &ingest, "POST", "/api/v1/webhooks", Some(body))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    for n in 0..20 {
        let event =
            json!({"type": "order.created", "id": format!("evt-{n}"), "data": {"name": "Ada"}});
        let published = world
            .ask_as(&token, &ingest, "POST", "/api/v1/events", Some(event))
            .await;
        assert!(published.status < 300, "{}", published.body);
    }
    world.publish("order.created", "acme-1", &json!({})).await;
    receiver.receives(21).await;
    failing.receives(1).await;

    let path = "/api/v1/admin/tenants/globex";
    for unconfirmed in [path.to_owned(), format!("{path}?confirm=acme")] {
        let refused = world
            .ask_as_operator(&ingest, "DELETE", &unconfirmed, None)
            .await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (422, &json!("confirm"))
        );
    }
    let confirmed = format!("{path}?confirm=globex");
    // The tenant itself may not.
    let refused = world
        .ask_as(&token, &ingest, "DELETE", &confirmed, None)
        .await;
    assert_eq!(refused.status, 403);
    let deleted = world
        .ask_as_operator(&ingest, "DELETE", &confirmed, None)
        .await;
    assert_eq!(deleted.status, 202, "{}", deleted.body);
    // Its log may still be there, and nobody gets a token to read it.
    let tokens = "/api/v1/admin/tokens";
    let another = Some(json!({"tenant": "globex", "role": "viewer"}));
    let refused = world
        .ask_as_operator(&ingest, "POST", tokens, another)
        .await;
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("tenant")),
        "{}",
        refused.body
    );
    let sent = failing.arrivals().len();

    // With the answer: no token, no secret, no URL, no event.
    let asked = world
        .ask_as(&token, &ingest, "GET", "/api/v1/webhooks", None)
        .await;
    assert_eq!(asked.status, 401);
    let left = "webhooks WHERE tenant = 'globex' AND (secret <> '' OR url <> '')";
    assert_eq!(world.count(left).await, 0);
    let shown = world.ask_as_operator(&ingest, "GET", path, None).await;
    assert_eq!(shown.status, 404);
    let producer = world.producer().await;
    let late = harness::producer::Publication::json("globex", "order.created", "late", "{}");
    producer.publish(&late).await.unwrap();

    // Soon after: no row of it, and the other tenant's are there.
    let progress = format!("{path}/deletion");
    eventually("the deletion is finished", async || {
        let shown = world.ask_as_operator(&ingest, "GET", &progress, None).await;
        shown.body["state"] == "finished"
    })
    .await;
    let shown = world.ask_as_operator(&ingest, "GET", &progress, None).await;
    assert_eq!(shown.body["events_deleted"], 20, "{}", shown.body);
    assert_eq!(shown.body["deliveries_deleted"], 40);
    assert_eq!(shown.body["events_left"], 0);
    for nothing in [
        "events WHERE tenant = 'globex'",
        "webhooks WHERE tenant = 'globex'",
        "tenants WHERE id = 'globex'",
        "attempts WHERE convert_from(request_body, 'UTF8') LIKE '%Ada%'",
        "stats WHERE subject = 'tenant/globex'",
    ] {
        assert_eq!(world.count(nothing).await, 0, "{nothing}");
    }
    assert_eq!(world.deliveries(&ingest, &kept).await.len(), 1);

    // The id is free again, and nobody's old token is valid.
    let again = world
        .ask_as_operator(&ingest, "POST", tenants, Some(globex))
        .await;
    assert_eq!(again.status, 201, "{}", again.body);
    let asked = world
        .ask_as(&token, &ingest, "GET", "/api/v1/webhooks", None)
        .await;
    assert_eq!(asked.status, 401);
    // Nothing was sent of it after its deletion, but what was under way.
    assert!(failing.arrivals().len() <= sent + 1);
    world.finish().await;
}

#[tokio::test]
async fn an_expunged_events_data_is_gone_and_its_deliveries_keep_their_verdicts() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let failing = world.receiver(answering(503)).await;
    let debug = json!({"debug_mode": true});
    let delivered = world.webhook(&ingest, &receiver, debug.clone()).await;
    let retrying = world.webhook(&ingest, &failing, debug).await;
    world
        .publish("user.created", "ada", &json!({"name": "Ada Lovelace"}))
        .await;
    world
        .publish("user.created", "bob", &json!({"name": "Bob"}))
        .await;
    let recorded = "attempts WHERE request_body IS NOT NULL";
    eventually("four attempts are recorded", async || {
        world.count(recorded).await == 4
    })
    .await;

    let path = "/api/v1/events/ada/expunge";
    let expunged = world.ask(&ingest, "POST", path, None).await;
    assert_eq!(
        (expunged.status, &expunged.body["cancelled"]),
        (200, &json!(1)),
        "{}",
        expunged.body
    );
    for gone in [
        "events WHERE data LIKE '%Lovelace%'",
        "attempts WHERE convert_from(request_body, 'UTF8') LIKE '%Lovelace%'",
        // An answer, its headers and an error may repeat what was sent.
        "attempts a JOIN deliveries d ON d.id = a.delivery_id JOIN events e ON e.uid = d.event_uid \
         WHERE e.id = 'ada' AND num_nonnulls(a.request_headers, a.response_headers, a.response_body, a.error) > 0",
    ] {
        assert_eq!(world.count(gone).await, 0, "{gone}");
    }
    let shown = world.ask(&ingest, "GET", "/api/v1/events/ada", None).await;
    assert_eq!(shown.body["data"], Value::Null);
    assert_eq!(shown.body["expunged_at"], expunged.body["expunged_at"]);
    let status = async |webhook, event: &str| {
        let deliveries = world.deliveries(&ingest, webhook).await;
        let delivery = deliveries
            .into_iter()
            .find(|it| it["event_id"] == event)
            .unwrap();
        (delivery["id"].clone(), delivery["status"].clone())
    };
    let (verdict, state) = status(&delivered, "ada").await;
    assert_eq!(state, "delivered");
    assert_eq!(status(&retrying, "ada").await.1, "cancelled");
    assert_eq!(status(&retrying, "bob").await.1, "retrying");
    // There is nothing to send again.
    let retry = format!("/api/v1/deliveries/{}/retry", verdict.as_str().unwrap());
    let refused = world.ask(&ingest, "POST", &retry, None).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains("expunged")
    );
    // Again, it stays as it is.
    let again = world.ask(&ingest, "POST", path, None).await;
    assert_eq!(again.body["expunged_at"], expunged.body["expunged_at"]);
    assert_eq!(again.body["cancelled"], 0);
    let unknown = world
        .ask(&ingest, "POST", "/api/v1/events/eve/expunge", None)
        .await;
    assert_eq!(unknown.status, 404);
    let off = format!("/api/v1/webhooks/{}", retrying.id);
    world.ask(&ingest, "DELETE", &off, None).await;
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_that_is_being_deleted_gets_no_link_to_its_portal() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    world.tenant(&ingest, "globex").await;
    let sql = world.sql().await;
    let begun = "BEGIN; UPDATE tenants SET deleted_at = now() WHERE id = 'globex'";
    sql.batch_execute(begun).await.unwrap();
    let links = "/api/v1/admin/portal-links";
    let asked = Some(json!({"tenant": "globex"}));
    let (made, ()) = tokio::join!(
        world.ask_as_operator(&ingest, "POST", links, asked),
        async {
            eventually("the link waits", async || world.held_up().await == 1).await;
            sql.batch_execute("COMMIT").await.unwrap();
        }
    );
    assert_eq!(made.status, 404, "{}", made.body);
    assert_eq!(world.count("links").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn an_error_that_may_repeat_expunged_data_goes_with_it() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    // Nobody listens there, and the error names the address.
    let nowhere = json!({"url": "http://127.0.0.1:9/hook", "retries": 0});
    let receiver = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &receiver, nowhere).await;
    for id in ["ada", "bob"] {
        world.publish("user.created", id, &json!({})).await;
    }
    world.accepts(2).await;
    world.settles().await;
    let expunge = "/api/v1/events/ada/expunge";
    let expunged = world.ask(&ingest, "POST", expunge, None).await;
    assert_eq!(expunged.status, 200, "{}", expunged.body);
    let deliveries = world.deliveries(&ingest, &webhook).await;
    let of = |event: &str| {
        deliveries
            .iter()
            .find(|it| it["event_id"] == event)
            .unwrap()
    };
    assert_eq!(of("ada")["status"], "failed");
    assert_eq!(of("ada")["error"], Value::Null);
    assert!(of("bob")["error"].is_string(), "{}", of("bob"));

    // Many at once: the one is refused for what it is.
    let ids = [of("ada")["id"].clone(), of("bob")["id"].clone()];
    let body = Some(json!({"ids": ids}));
    let retried = world
        .ask(&ingest, "POST", "/api/v1/deliveries/retry", body)
        .await;
    let results = &retried.body["results"];
    assert_eq!(results[0]["status"], "refused", "{results}");
    let detail = results[0]["detail"].as_str().unwrap();
    assert!(detail.contains("its event was expunged"), "{detail}");
    assert_eq!(results[1]["status"], "restarted", "{results}");
    world.finish().await;
}

#[tokio::test]
async fn a_delivery_does_not_begin_again_while_its_event_is_being_expunged() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &receiver, json!({})).await;
    world
        .publish("user.created", "ada", &json!({"name": "Ada"}))
        .await;
    receiver.receives(1).await;
    world.settles().await;
    let delivery = world.deliveries(&ingest, &webhook).await[0].clone();
    // An expunge that has changed the event, and isn't through.
    let sql = world.sql().await;
    let begun = "BEGIN; UPDATE events SET data = 'null', expunged_at = now()";
    sql.batch_execute(begun).await.unwrap();
    let retry = format!(
        "/api/v1/deliveries/{}/retry",
        delivery["id"].as_str().unwrap()
    );
    let (retried, ()) = tokio::join!(world.ask(&ingest, "POST", &retry, None), async {
        eventually("the retry waits", async || world.held_up().await == 1).await;
        sql.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(retried.status, 409, "{}", retried.body);
    receiver
        .receives_no_more_than(1, Duration::from_millis(300))
        .await;
    assert_eq!(
        world.deliveries(&ingest, &webhook).await[0]["status"],
        "delivered"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_rematch_makes_no_delivery_of_an_event_that_is_being_expunged() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let elsewhere = json!({"events": ["nothing.else"]});
    let webhook = world.webhook(&ingest, &receiver, elsewhere).await;
    world
        .publish("user.created", "ada", &json!({"name": "Ada"}))
        .await;
    world.accepts(1).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let changed = Some(json!({"events": ["*"]}));
    let changed = world.ask(&ingest, "PATCH", &path, changed).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let sql = world.sql().await;
    let begun = "BEGIN; UPDATE events SET data = 'null', expunged_at = now()";
    sql.batch_execute(begun).await.unwrap();
    let rematch = "/api/v1/admin/events/rematch";
    let all = json!({"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"});
    let asked = world.ask_as_operator(&ingest, "POST", rematch, Some(all));
    let (rematched, ()) = tokio::join!(asked, async {
        eventually("the rematch waits", async || world.held_up().await == 1).await;
        sql.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(rematched.status, 200, "{}", rematched.body);
    assert_eq!(rematched.body["looked_at"], 1);
    assert_eq!(world.count("deliveries").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_first_attempt_whose_job_was_queued_before_its_event_was_expunged_is_not_made() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &receiver, json!({})).await;
    // Without a dispatcher the jobs stay in RabbitMQ, each with its event's data.
    for id in ["ada", "bob"] {
        world
            .publish("user.created", id, &json!({"name": "Ada"}))
            .await;
    }
    let queued = "deliveries WHERE state = 'queued'";
    eventually("both are accepted", async || world.count(queued).await == 2).await;
    let expunge = "/api/v1/events/ada/expunge";
    let expunged = world.ask(&ingest, "POST", expunge, None).await;
    assert_eq!(expunged.body["cancelled"], 1, "{}", expunged.body);
    world.publish("user.created", "eve", &json!({})).await;

    let dispatcher = world.dispatcher().await;
    let arrivals = receiver.receives(2).await;
    // The job of the expunged event was taken, too: nothing of it is left to come.
    eventually("its job was dropped", async || {
        let dropped = dispatcher.metric("posthorn_jobs_stale_total").await;
        dropped.unwrap_or_default() as i64 == 1
    })
    .await;
    world.settles().await;
    let mut ids: Vec<_> = arrivals.iter().map(|arrival| arrival.id()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["bob", "eve"]);
    assert_eq!(receiver.arrivals().len(), 2);
    let states = world.deliveries(&ingest, &webhook).await;
    let states = states.iter().map(|it| (&it["event_id"], &it["status"]));
    assert!(
        states
            .into_iter()
            .any(|it| it == (&json!("ada"), &json!("cancelled")))
    );
    // The history says once who had which event's data taken away, and nothing of the tenant.
    world.ask(&ingest, "POST", expunge, None).await;
    for of in ["", "?object=ada"] {
        let path = format!("/api/v1/changes{of}");
        let changes = world.ask(&ingest, "GET", &path, None).await;
        let changes = changes.body["changes"].as_array().unwrap();
        let expunges = changes
            .iter()
            .filter(|it| !it["after"]["expunged_at"].is_null());
        let expunges: Vec<_> = expunges.collect();
        assert_eq!(expunges.len(), 1, "{changes:?}");
        let (kind, object) = (&expunges[0]["kind"], &expunges[0]["object"]);
        assert_eq!((kind, object), (&json!("event"), &json!("ada")));
        assert!(
            expunges[0]["actor"]
                .as_str()
                .unwrap()
                .starts_with("token pht_")
        );
    }
    world.finish().await;
}

/// The variables that an export names, each with a value.
fn variables(export: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = export.to_string();
    for part in text.split("{\"env\":\"").skip(1) {
        let name = part.split('"').next().unwrap().to_owned();
        let value = format!("a-value-that-only-{}-has", name.to_lowercase());
        found.push((name, value));
    }
    found
}

#[tokio::test]
async fn an_export_is_a_file_that_apply_takes_here_and_elsewhere() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let more = json!({
        "filters": {"total": {"$gte": 10}}, "headers": {"X-Api-Key": "hunter2-hunter2"}, "timeout": 5000,
        "retry_policy": {"max_retries": 2}, "rate_limit": {"limit": 5, "per": "minute"},
        "dialect": "auraconnect", "external_id": "old-1", "metadata": {"a": 1}, "status": "paused",
        "secret": "the-secret-that-nobody-exports",
    });
    let rich = world.webhook(&ingest, &receiver, more).await;
    world.webhook(&ingest, &receiver, json!({})).await;
    let event_type = json!({"description": "d", "schema": {"type": "object"}});
    let put = "/api/v1/event-types/order.created";
    world.ask(&ingest, "PUT", put, Some(event_type)).await;

    let export = world.ask(&ingest, "GET", "/api/v1/export", None).await;
    assert_eq!(export.status, 200, "{}", export.body);
    let text = export.body.to_string();
    assert!(
        !text.contains("hunter2") && !text.contains("nobody-exports"),
        "{text}"
    );
    let variables = variables(&export.body);
    assert_eq!(variables.len(), 3);
    let environment: Vec<_> = variables
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();

    // Here: it takes the webhooks over, and is the whole truth afterwards.
    world.file("export.json", &text);
    let apply = "posthorn-ingest apply -f export.json";
    let first = world.shell(apply, &environment).await;
    assert!(first.printed.contains("0 created, 2 changed"), "{first:?}");
    let again = world.shell(&format!("{apply} --prune"), &environment).await;
    assert!(
        again
            .printed
            .ends_with("0 created, 0 changed, 0 deleted, 4 unchanged"),
        "{again:?}"
    );
    let path = format!("/api/v1/webhooks/{}", rich.id);
    let shown = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(shown.body["key"], json!(rich.id));

    // Elsewhere: another tenant becomes the same.
    let mut elsewhere = export.body.clone();
    elsewhere["tenants"][0]["id"] = json!("globex");
    world.file("elsewhere.json", &elsewhere.to_string());
    let line = "posthorn-ingest apply -f elsewhere.json";
    let moved = world.shell(line, &environment).await;
    assert_eq!(moved.status, 0, "{moved:?}");
    let token = world
        .command(&["token", "create", "--tenant", "globex", "--role", "viewer"])
        .await;
    let theirs = world
        .ask_as(&token, &ingest, "GET", "/api/v1/export", None)
        .await;
    assert_eq!(theirs.body, elsewhere);
    assert_eq!(
        world
            .count(&format!("webhooks WHERE tenant = '{TENANT}'"))
            .await,
        2
    );
    world.finish().await;
}

/// A certificate for a client, and its private key, both in PEM.
fn client_certificate() -> (String, String) {
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=acme"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-keyout", "-", "-out", "-"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let both = String::from_utf8(made.stdout).unwrap();
    let at = both.find("-----BEGIN CERTIFICATE-----").unwrap();
    (both[at..].to_owned(), both[..at].to_owned())
}

#[tokio::test]
async fn an_export_brings_every_setting_of_a_tenant_and_of_its_webhooks_along() {
    const SECRET: &str = "the-secret-that-nobody-exports";
    const CLIENT_SECRET: &str = "hunter2-of-oauth2";
    let world = World::with(&[("EGRESS_PROXIES", "eu=http://127.0.0.1:9")]).await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let settings = json!({
        "name": "Acme Ltd", "egress_proxy": "eu",
        "frame_ancestors": ["https://app.example.com", "http://localhost:3000"],
        "alerts": {"failure_rate": 0.25, "min_attempts": 5, "slow_ms": 900, "down_after_seconds": 7},
    });
    let tenant = format!("/api/v1/admin/tenants/{TENANT}");
    let set = world
        .ask_as_operator(&ingest, "PATCH", &tenant, Some(settings.clone()))
        .await;
    assert_eq!(set.status, 200, "{}", set.body);
    let (certificate, key) = client_certificate();
    let oauth2 = json!({
        "token_url": receiver.url("/token"), "client_id": "posthorn", "client_secret": CLIENT_SECRET,
        "scope": "a b", "audience": "shop",
    });
    let walled = json!({
        "owner": "team-7", "signing": "ed25519", "oauth2": oauth2, "secret": SECRET,
        "client_certificate": {"certificate": certificate, "private_key": key},
    });
    let walled = world.webhook(&ingest, &receiver, walled).await;
    let desk = json!({"operational": true, "events": ["webhook.*"], "secret": SECRET});
    let desk = world.webhook(&ingest, &receiver, desk).await;

    let export = world.ask(&ingest, "GET", "/api/v1/export", None).await;
    assert_eq!(export.status, 200, "{}", export.body);
    let text = export.body.to_string();
    let part_of_the_key = key.lines().nth(1).unwrap();
    for secret in [SECRET, CLIENT_SECRET, part_of_the_key] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let file = &export.body["tenants"][0];
    for (member, value) in settings.as_object().unwrap() {
        assert_eq!(&file[member], value, "{member} of {file}");
    }
    let exported = |id: &str| {
        let webhooks = file["webhooks"].as_array().unwrap();
        let found = webhooks.iter().find(|webhook| webhook["key"] == id);
        found.unwrap_or_else(|| panic!("{id} in {file}"))
    };
    assert_eq!(exported(&desk.id)["operational"], json!(true));
    let shown = exported(&walled.id);
    assert_eq!(shown["owner"], "team-7");
    assert_eq!(shown["signing"], "ed25519");
    let shown_certificate = shown["client_certificate"]["certificate"].as_str().unwrap();
    assert_eq!(shown_certificate.trim(), certificate.trim());
    for member in ["token_url", "client_id", "scope", "audience"] {
        assert_eq!(shown["oauth2"][member], oauth2[member], "{member}");
    }

    // With the same secrets, another tenant becomes the same.
    let variables = variables(&export.body);
    let environment: Vec<_> = variables
        .iter()
        .map(|(name, _)| {
            let value = match name {
                name if name.ends_with("_CLIENT_KEY") => key.as_str(),
                name if name.ends_with("_CLIENT_SECRET") => CLIENT_SECRET,
                _ => SECRET,
            };
            (name.as_str(), value)
        })
        .collect();
    assert_eq!(environment.len(), 4, "{environment:?}");
    let mut elsewhere = export.body.clone();
    elsewhere["tenants"][0]["id"] = json!("globex");
    let apply = async |file: &Value| {
        world.file("elsewhere.json", &file.to_string());
        let line = "posthorn-ingest apply -f elsewhere.json";
        let ran = world.shell(line, &environment).await;
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.printed
    };
    let made = apply(&elsewhere).await;
    assert!(made.contains("3 created, 0 changed"), "{made}");
    let again = apply(&elsewhere).await;
    assert!(
        again.ends_with("0 created, 0 changed, 0 deleted, 3 unchanged"),
        "{again}"
    );
    let token = world
        .command(&["token", "create", "--tenant", "globex", "--role", "viewer"])
        .await;
    let theirs = async || {
        let answer = world
            .ask_as(&token, &ingest, "GET", "/api/v1/export", None)
            .await;
        answer.body
    };
    assert_eq!(theirs().await, elsewhere);

    // The origins alone may change, too.
    elsewhere["tenants"][0]["frame_ancestors"] = json!(["https://other.example.com"]);
    let changed = apply(&elsewhere).await;
    assert!(
        changed.ends_with("0 created, 1 changed, 0 deleted, 2 unchanged"),
        "{changed}"
    );
    assert_eq!(theirs().await, elsewhere);
    world.finish().await;
}
