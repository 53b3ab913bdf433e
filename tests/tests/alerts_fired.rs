//! A real Prometheus fires alerts because what they are about really happens, to real processes
//! and servers. Time that would take hours to pass is written into PostgreSQL's rows; nothing else
//! is simulated. `dashboards.rs` fires the few that are missing here.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use harness::clock::off_by;
use harness::monitoring::{Monitoring, Watched};
use harness::producer::Publication;
use harness::proxy::{End, Proxy};
use harness::receiver::{Receiver, answering, answering_after};
use harness::service::{Service, http};
use harness::setups::counts;
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use lapin::options::{BasicGetOptions, QueuePurgeOptions};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A job counts as lost after two seconds. Dead letters of one tenant have 4 MiB.
const SETTINGS: [(&str, &str); 5] = [
    ("WEBHOOK_METRICS", "true"),
    ("SWEEP_GRACE", "2"),
    ("SWEEP_INTERVAL", "1"),
    ("WEBHOOK_TIMEOUT", "2000"),
    ("DEAD_LETTERS_BYTES", "16777216"),
];
const EVENTS: &str = "posthorn.ingest.v1";
const JOBS: &str = "posthorn.jobs.v1.0";
/// `dashboards.rs` sees these firing.
const FIRED_ELSEWHERE: [&str; 3] = [
    "PosthornFiltersTooCostly",
    "PosthornWebhookFailing",
    "PosthornWebhooksDisabled",
];
/// It takes gigabytes of log, compared with the disk of the machine. `deploy/prometheus/tests.yml`
/// fires it.
const NEVER_FIRED: &str = "PosthornLogWillNotFit";

#[tokio::test]
async fn alerts_fire_when_what_they_are_about_happens() {
    let world = World::with_metrics(&SETTINGS).await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    world
        .webhook(&ingest, &shop, json!({"events": ["lost.*"]}))
        .await;
    lose_jobs(&world, &ingest).await;
    // Whoever holds the rows of the lost jobs keeps the sweeper from putting them back.
    let mut holder = world.sql().await;
    let held = holder.transaction().await.unwrap();
    let rows = held
        .query("SELECT 1 FROM deliveries FOR UPDATE", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 5);
    let late = off_by("-3s");
    let late = late.each_ref().map(|(name, value)| (*name, value.as_str()));
    let dispatcher = world.service("posthorn-dispatcher", &late).await;
    let (second, proxy) = world
        .ingest_through_proxy("AMQP_URL", world.amqp_url())
        .await;
    let monitoring = watch(&world, &[&ingest, &second], &dispatcher).await;

    let _receivers = endpoints_fail(&world, &ingest, &shop).await;
    messages_are_refused(&world).await;
    things_come_to_their_end(&world, &ingest).await;
    servers_fill_up(&world, &monitoring).await;
    sessions_are_cut(&second, &proxy).await;
    fire(
        &monitoring,
        &[
            "PosthornAnswersSlow",
            "PosthornCertificateExpires",
            "PosthornClockOffset",
            "PosthornDeadLetters",
            "PosthornDeadLettersDropped",
            "PosthornDeliveriesLate",
            "PosthornDeliveriesStuck",
            "PosthornEndpointBacklogOld",
            "PosthornEndpointDown",
            "PosthornEndpointsUnreachable",
            "PosthornFailureRateHigh",
            "PosthornPartitionsMissing",
            "PosthornReconnects",
            "PosthornSecretsUnreadable",
            "PosthornTokensExpire",
            "PosthornUnaccounted",
            "PosthornVerdictsSetAside",
            "PosthornWebhookDown",
            "PosthornWebhookSlow",
        ],
    )
    .await;
    held.rollback().await.unwrap();
    shop.receives(5).await;
    fire(&monitoring, &["PosthornJobsLost"]).await;

    let ingest = processes_end(&world, &monitoring, [ingest, second]).await;
    servers_fail(&world, &monitoring, &ingest, dispatcher).await;

    let fired = monitoring.fired().await.unwrap();
    let mut never = monitoring.alerts().await.unwrap();
    never.retain(|alert| !fired.contains(alert) && !FIRED_ELSEWHERE.contains(&alert.as_str()));
    never.remove(NEVER_FIRED);
    assert!(never.is_empty(), "no test fires {never:?} for real");
    world.abandon().await;
}

/// Waits until all of these alerts have been firing at some time.
async fn fire(monitoring: &Monitoring, alerts: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let fired = monitoring.fired().await.unwrap();
        let missing: Vec<_> = alerts
            .iter()
            .filter(|alert| !fired.contains(**alert))
            .collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{missing:?} don't fire, these did: {fired:?}\n{}",
            monitoring.log()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until a query has one value, and it is as it should be.
async fn shows(monitoring: &Monitoring, query: &str, is_right: impl Fn(f64) -> bool) {
    eventually(query, async || {
        let values = monitoring.values(query).await.unwrap();
        matches!(values[..], [value] if is_right(value))
    })
    .await;
}

fn address(service: &Service) -> String {
    service.url("").replace("http://", "")
}

async fn watch(world: &World, ingests: &[&Service], dispatcher: &Service) -> Monitoring {
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    let watched = Watched {
        ingests: ingests.iter().map(|one| address(one)).collect(),
        dispatchers: vec![address(dispatcher)],
        rabbitmq: rabbitmq.metrics_address().unwrap(),
        database_url: world.database_url(),
        operator_token: ADMIN_TOKEN,
    };
    let monitoring = Monitoring::start(&watched).await.unwrap();
    // Rates are of what changed since Prometheus saw a counter first.
    monitoring.sees_all().await.unwrap();
    monitoring
}

fn event(event_type: &str, id: &str) -> Publication {
    Publication::json(TENANT, event_type, id, "{}")
}

fn events(event_type: &str, count: usize) -> Vec<Publication> {
    (0..count)
        .map(|n| event(event_type, &format!("{event_type}-{n}")))
        .collect()
}

/// RabbitMQ loses the jobs of five deliveries. As if that had happened eleven minutes ago.
async fn lose_jobs(world: &World, ingest: &Service) {
    world.publish_all(&events("lost.jobs", 5)).await;
    // A batch is counted when its jobs are in the queue.
    counts(ingest, "posthorn_ingest_batch_size_sum", 5.0).await;
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    let purged = channel.queue_purge(JOBS.into(), QueuePurgeOptions::default());
    // Jobs of one batch share messages.
    assert!((1..=5).contains(&purged.await.unwrap()));
    let past = "UPDATE deliveries SET due_at = now() - interval '11 minutes', \
                    restarted_at = now() - interval '11 minutes'";
    world.sql().await.execute(past, &[]).await.unwrap();
}

/// Endpoints refuse connections, are slow, and answer what PostgreSQL refuses. One webhook is
/// paused, as if it had been for a day.
async fn endpoints_fail(world: &World, ingest: &Service, shop: &Receiver) -> [Receiver; 2] {
    // A circuit breaker opens after ten attempts, and the alert needs twenty in all.
    for _ in 0..8 {
        let gone = json!({"url": "http://127.0.0.1:9/", "events": ["gone.*"], "retries": 0});
        world.webhook(ingest, shop, gone).await;
    }
    // A new endpoint gets two requests at a time.
    let slow = world
        .receiver(answering_after(Duration::from_secs(6)))
        .await;
    for _ in 0..6 {
        let patient = json!({"events": ["slow.*"], "timeout": 10_000});
        world.webhook(ingest, &slow, patient).await;
    }
    let odd = world.receiver(answering(299)).await;
    let refused = json!({"events": ["refused.*"]});
    world.webhook(ingest, &odd, refused).await;
    let paused = json!({"events": ["paused.*"], "status": "paused"});
    world.webhook(ingest, shop, paused).await;
    let broken = json!({"events": ["never.*"]});
    let broken = world.webhook(ingest, shop, broken).await;
    let sql = world.sql().await;
    let corrupt = "UPDATE webhooks SET secret = set_byte(secret, 40, get_byte(secret, 40) # 1) \
                   WHERE url LIKE '%' || $1";
    let corrupted = sql.execute(corrupt, &[&broken.path]).await.unwrap();
    assert_eq!(corrupted, 1);
    let refuse = "ALTER TABLE attempts ADD CONSTRAINT no_such_status CHECK (status_code <> 299)";
    sql.batch_execute(refuse).await.unwrap();

    for (event_type, count) in [
        ("gone.away", 15),
        ("slow.answer", 2),
        ("refused.verdict", 1),
        ("paused.webhook", 1),
    ] {
        world.publish_all(&events(event_type, count)).await;
    }
    let held = "deliveries WHERE deferred_because = 'paused'";
    eventually("a delivery is held", async || world.count(held).await == 1).await;
    let past = "UPDATE deliveries SET restarted_at = now() - interval '25 hours' \
                WHERE deferred_because = 'paused'";
    sql.execute(past, &[]).await.unwrap();
    [slow, odd]
}

/// Events that are too large: their tenant has room for four of the six dead letters.
async fn messages_are_refused(world: &World) {
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    let producer = world.producer().await;
    for n in 0..6 {
        let id = format!("large-{n}");
        let event = Publication::json(TENANT, "large.event", &id, &large);
        producer.publish(&event).await.unwrap();
    }
}

/// A token in use expires in two days, and the log's last days are missing.
async fn things_come_to_their_end(world: &World, ingest: &Service) {
    let soon = OffsetDateTime::now_utc() + time::Duration::days(2);
    let token = json!({
        "tenant": TENANT, "role": "viewer", "expires_at": soon.format(&Rfc3339).unwrap(),
    });
    let issued = world
        .ask_as_operator(ingest, "POST", "/api/v1/admin/tokens", Some(token))
        .await;
    assert_eq!(issued.status, 201, "{}", issued.body);
    let token = issued.body["token"].as_str().unwrap();
    let used = world
        .ask_as(token, ingest, "GET", "/api/v1/webhooks", None)
        .await;
    assert_eq!(used.status, 200, "{}", used.body);
    let drop = "DO $$ BEGIN FOR ahead IN 5..14 LOOP
            EXECUTE 'DROP TABLE events_'
                || to_char((now() AT TIME ZONE 'UTC')::date + ahead, 'YYYYMMDD');
        END LOOP; END $$";
    world.sql().await.batch_execute(drop).await.unwrap();
}

/// PostgreSQL's disk fills up, and its connections are taken.
async fn servers_fill_up(world: &World, monitoring: &Monitoring) {
    let folder = world.pair.as_ref().unwrap().folder().unwrap();
    let large = folder.join("large");
    let made = std::process::Command::new("fallocate")
        .args(["--length", "512M"])
        .arg(&large)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    // 300 are allowed, and the alert fires above 240.
    let mut idle = Vec::new();
    let taken = "pg_stat_activity WHERE datname IS NOT NULL";
    for _ in world.count(taken).await..250 {
        idle.push(world.sql().await);
    }
    fire(
        monitoring,
        &["PosthornDiskFull", "PosthornPostgresConnections"],
    )
    .await;
    std::fs::remove_file(large).unwrap();
}

/// One ingest loses RabbitMQ again and again.
async fn sessions_are_cut(second: &Service, proxy: &Proxy) {
    eventually("twelve sessions are lost", async || {
        proxy.end(End::Cut);
        let lost = second.metric("posthorn_amqp_reconnects_total").await;
        lost.unwrap() > 12.0
    })
    .await;
}

/// All ingests end, so events and parked messages wait. Later they begin again, often. Returns
/// one that runs.
async fn processes_end(world: &World, monitoring: &Monitoring, ingests: [Service; 2]) -> Service {
    eventually("no event waits", async || {
        world.messages_in(EVENTS).await == 0
    })
    .await;
    let addresses = ingests.each_ref().map(address);
    for ingest in ingests {
        ingest.kill().await.unwrap();
    }
    fire(monitoring, &["PosthornDown", "PosthornNoneLeft"]).await;
    world
        .publish_all(&[event("nobody.cares", "given-up")])
        .await;
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    world.gives_up_on_events(&channel).await;
    let parked = "posthorn.parking.v1".into();
    let parked = channel.basic_get(parked, BasicGetOptions::default());
    assert!(parked.await.unwrap().is_some());
    world.publish_all(&events("nobody.cares", 200)).await;
    fire(
        monitoring,
        &["PosthornEventsWait", "PosthornParkedNotTaken"],
    )
    .await;

    let ingest = world.ingest_at(&addresses[0]).await;
    // The parked message goes back to its queue after Prometheus has seen the counter at 0.
    shows(
        monitoring,
        "sum(posthorn_events_returned_total)",
        |returned| returned == 0.0,
    )
    .await;
    connection.close(200, "done".into()).await.unwrap();
    fire(monitoring, &["PosthornEventsReturned"]).await;
    // The fourth new start of a process that Prometheus knows is one too many.
    let starts = "sum(changes(process_start_time_seconds{job=\"posthorn-ingest\"}[30m]))";
    for seen in [2.0, 3.0, 4.0] {
        // The metric has whole seconds.
        let next_second = tokio::time::Instant::now() + Duration::from_secs(1);
        let again = world.ingest_at(&addresses[1]).await;
        shows(monitoring, starts, |changes| changes >= seen).await;
        again.kill().await.unwrap();
        tokio::time::sleep_until(next_second).await;
    }
    fire(monitoring, &["PosthornRestarts"]).await;
    ingest
}

/// The jobs queue refuses a retry, RabbitMQ has no room on its disk, and both servers end.
async fn servers_fail(
    world: &World,
    monitoring: &Monitoring,
    ingest: &Service,
    dispatcher: Service,
) {
    let pair = world.pair.as_ref().unwrap();
    let rabbitmqctl = async |arguments: &[&str]| {
        pair.rabbitmq().rabbitmqctl(arguments).await.unwrap();
    };
    // Nobody takes what is in the jobs queue.
    dispatcher.kill().await.unwrap();
    let producer = world.producer().await;
    let publish = async |exchange: &str, key: &str| {
        let mut message = event("some.job", "some-job");
        key.clone_into(&mut message.routing_key);
        producer.publish_to(exchange, &message).await.unwrap();
    };
    for _ in 0..3 {
        publish("posthorn.jobs", "1s.0").await;
    }
    let full = "{\"max-length\": 1, \"overflow\": \"reject-publish\"}";
    rabbitmqctl(&[
        "set_policy",
        "--apply-to",
        "queues",
        "full",
        "^posthorn\\.jobs\\.",
        full,
    ])
    .await;
    publish("posthorn.retry", "1s.0").await;
    fire(monitoring, &["PosthornDeadLetteringStuck"]).await;

    rabbitmqctl(&["set_disk_free_limit", "1000000GB"]).await;
    // RabbitMQ tells whoever publishes. The request may wait for as long as that lasts.
    let body = json!({"type": "lost.jobs", "id": "blocked", "data": {}});
    let request = http()
        .post(ingest.url("/api/v1/events"))
        .bearer_auth(world.token())
        .header("content-type", "application/json")
        .body(body.to_string())
        .timeout(Duration::from_secs(2));
    let _ = request.send().await;
    fire(
        monitoring,
        &[
            "PosthornBrokerAlarm",
            "PosthornBrokerBlocked",
            "PosthornBrokerDiskFull",
        ],
    )
    .await;

    pair.postgres().kill().await.unwrap();
    pair.rabbitmq().kill().await.unwrap();
    fire(monitoring, &["PosthornPostgresDown", "PosthornBrokerDown"]).await;
}
