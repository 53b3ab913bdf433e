//! A delivery has exactly one job, even if a process dies while it handles the job or
//! publishes the next one. Then neither a second job is sent beside the first, nor is the
//! delivery left without a job.
//!
//! A proxy delays what a process sends to RabbitMQ, or what RabbitMQ answers, so that the
//! process dies between two particular steps.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::producer::Publication;
use harness::proxy::{End, Proxy, Way};
use harness::receiver::{Arrival, Receiver, Reply, Script, answering, answering_after};
use harness::service::Service;
use harness::setups::counts;
use harness::world::{TENANT, World, eventually};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use serde_json::json;
use time::OffsetDateTime;

/// More than one webhook, so that not every copy happens to reach the dispatcher
/// that has the original.
const WEBHOOKS: usize = 12;

/// Kills a process, together with the data that the proxy holds back.
async fn kill(service: Service, link: &Proxy) {
    service.kill().await.unwrap();
    link.end(End::Reset);
}

async fn subscribe(world: &World, ingest: &Service, shop: &Receiver, webhooks: usize) {
    for _ in 0..webhooks {
        world.webhook(ingest, shop, json!({})).await;
    }
}

/// One ingest takes an event while another one stands by. Then it commits the event,
/// with the proxy to RabbitMQ set as given.
async fn commit_with(world: &World, link: &Proxy, [there, back]: [Way; 2]) -> Service {
    let sql = world.hold_up_events().await;
    world.publish("order.created", "evt-1", &json!({})).await;
    eventually(
        "the first ingest has it and waits to write it",
        async || world.held_up().await == 1,
    )
    .await;
    let heir = world.ingest().await;
    link.set(there, back);
    sql.batch_execute("COMMIT").await.unwrap();
    eventually("it is committed", async || {
        world.count("deliveries").await == WEBHOOKS as i64
    })
    .await;
    heir
}

async fn stale_jobs(dispatchers: &[Service]) -> i64 {
    let mut all = 0.0;
    for dispatcher in dispatchers {
        all += dispatcher
            .metric("posthorn_jobs_stale_total")
            .await
            .unwrap();
    }
    all as i64
}

#[tokio::test]
async fn jobs_that_a_dying_ingest_had_published_are_sent_once() {
    let world = World::with(&[("WEBHOOK_TIMEOUT", "8000"), ("SWEEP_GRACE", "2")]).await;
    let (link, amqp_url) = Proxy::before(world.amqp_url()).await.unwrap();
    let doomed = world
        .service("posthorn-ingest", &[("AMQP_URL", &amqp_url)])
        .await;
    // Long enough for the other ingest to notice, but less than a timeout.
    let shop = world
        .receiver(answering_after(Duration::from_secs(4)))
        .await;
    subscribe(&world, &doomed, &shop, WEBHOOKS).await;
    let dispatchers = [world.dispatcher().await, world.dispatcher().await];

    // Its jobs reach the queue, but their confirms don't reach it.
    let _heir = commit_with(&world, &link, [Way::Clear, Way::Stalled]).await;
    shop.receives(WEBHOOKS).await;
    kill(doomed, &link).await;

    // The other ingest can't know that, and publishes a copy of each job. The copies
    // come too late.
    eventually("every copy was found to be one", async || {
        stale_jobs(&dispatchers).await == WEBHOOKS as i64
    })
    .await;
    assert_eq!(shop.arrivals().len(), WEBHOOKS, "something arrived twice");
    assert_eq!(world.count("attempts").await, WEBHOOKS as i64);
    world.finish().await;
}

#[tokio::test]
async fn jobs_that_a_dying_ingest_had_not_published_are_late_by_one_attempt() {
    let (timeout, grace) = (Duration::from_secs(2), Duration::from_secs(10));
    let world = World::with(&[("WEBHOOK_TIMEOUT", "2000"), ("SWEEP_GRACE", "10")]).await;
    let (link, amqp_url) = Proxy::before(world.amqp_url()).await.unwrap();
    let doomed = world
        .service("posthorn-ingest", &[("AMQP_URL", &amqp_url)])
        .await;
    let shop = world.receiver(answering(200)).await;
    subscribe(&world, &doomed, &shop, WEBHOOKS).await;
    let dispatchers = [world.dispatcher().await, world.dispatcher().await];

    // Nothing that it sends reaches RabbitMQ.
    let _heir = commit_with(&world, &link, [Way::Stalled, Way::Clear]).await;
    let killed = Instant::now();
    kill(doomed, &link).await;

    let arrivals = shop.receives(WEBHOOKS).await;
    // A dispatcher with an original would have finished it by then.
    let first = arrivals.iter().map(|arrival| arrival.at).min().unwrap();
    assert!(first - killed > timeout + grace);
    world.settles().await;
    assert_eq!(shop.arrivals().len(), WEBHOOKS, "something arrived twice");
    // The sweeper would have come even later.
    for dispatcher in &dispatchers {
        let requeued = dispatcher.metric("posthorn_sweeper_requeued_total").await;
        assert_eq!(requeued.unwrap() as i64, 0);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_late_copy_that_is_being_sent_does_not_count_as_lost() {
    let (grace, timeout, interval) = (2, 8, 3);
    let world = World::with(&[
        ("WEBHOOK_TIMEOUT", "8000"),
        ("SWEEP_GRACE", "2"),
        ("SWEEP_INTERVAL", "3"),
    ])
    .await;
    let (link, amqp_url) = Proxy::before(world.amqp_url()).await.unwrap();
    let doomed = world
        .service("posthorn-ingest", &[("AMQP_URL", &amqp_url)])
        .await;
    // The copies are sent a timeout and the grace, 10 s, after they were taken. So long after
    // its first reading of the watermark the sweeper counts jobs as lost that were due a grace
    // before. Its first passes after that follow within 12 s, when the requests are under way.
    let under_way = Duration::from_secs(interval + 2);
    assert!(under_way < Duration::from_secs(timeout));
    let shop = world.receiver(answering_after(under_way)).await;
    subscribe(&world, &doomed, &shop, WEBHOOKS).await;
    let _heir = commit_with(&world, &link, [Way::Stalled, Way::Clear]).await;
    kill(doomed, &link).await;

    // No dispatcher runs for longer than the grace.
    let overdue = format!(
        "deliveries WHERE due_at < now() - interval '{} s'",
        grace + 1
    );
    eventually("the deliveries are overdue", async || {
        world.count(&overdue).await == WEBHOOKS as i64
    })
    .await;
    eventually("a late copy of each job is in the queue", async || {
        world.messages_in("posthorn.jobs.v1.0").await as usize == WEBHOOKS
    })
    .await;
    let _dispatchers = [world.dispatcher().await, world.dispatcher().await];

    shop.receives(WEBHOOKS).await;
    world.settles().await;
    assert_eq!(shop.arrivals().len(), WEBHOOKS, "something arrived twice");
    assert_eq!(world.count("attempts").await, WEBHOOKS as i64);
    world.finish().await;
}

/// Refuses the first request, after a delay in which the test can prepare.
fn refusing_once() -> Script {
    std::sync::Arc::new(|n, _| match n {
        0 => Reply::status(500).after(Duration::from_secs(2)),
        _ => Reply::status(200),
    })
}

/// A dispatcher records a failed attempt, with the proxy to RabbitMQ set as given,
/// and dies. Returns when the retry arrived after that and when it was due.
async fn dies_with_a_retry(
    world: &World,
    [there, back]: [Way; 2],
    queued: i64,
) -> (Duration, Duration, Vec<Arrival>) {
    let ingest = world.ingest().await;
    let (link, amqp_url) = Proxy::before(world.amqp_url()).await.unwrap();
    let doomed = world
        .service("posthorn-dispatcher", &[("AMQP_URL", &amqp_url)])
        .await;
    let shop = world.receiver(refusing_once()).await;
    let retry = json!({"retry_policy": {"delays": [6000, 6000]}});
    world.webhook(&ingest, &shop, retry).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    link.set(there, back);
    let heir = world.dispatcher().await;
    eventually("the failure is on record", async || {
        world.count("deliveries WHERE state = 'retrying'").await == 1
    })
    .await;
    let row = world
        .sql()
        .await
        .query_one("SELECT due_at FROM deliveries", &[])
        .await
        .unwrap();
    let (due_at, now) = (row.get::<_, OffsetDateTime>(0), Instant::now());
    let due_in = due_at - OffsetDateTime::now_utc();
    let channel = world.connection().await.create_channel().await.unwrap();
    eventually("the retry is queued, or isn't", async || {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        // The longest delay queue of at most six seconds.
        let queue =
            channel.queue_declare("posthorn.retry.v1.5s".into(), options, Default::default());
        i64::from(queue.await.unwrap().message_count()) == queued
    })
    .await;
    kill(doomed, &link).await;

    let arrivals = shop.receives(2).await;
    world.settles().await;
    assert_eq!(world.count("attempts").await, 2);
    drop(heir);
    let arrived_in = arrivals[1].at - now;
    (due_in.try_into().unwrap(), arrived_in, shop.arrivals())
}

#[tokio::test]
async fn a_retry_whose_dispatcher_dies_before_it_queues_it_is_sent_within_20_s() {
    let world = World::start().await;
    let (due, arrived, arrivals) = dies_with_a_retry(&world, [Way::Stalled, Way::Clear], 0).await;
    eprintln!("due in {due:?}, arrived in {arrived:?}");
    assert!(arrived < due + Duration::from_secs(20));
    assert_eq!(arrivals.len(), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_retry_that_its_dispatcher_has_queued_when_it_dies_is_sent_once() {
    let world = World::start().await;
    let (due, arrived, arrivals) = dies_with_a_retry(&world, [Way::Clear, Way::Stalled], 1).await;
    eprintln!("due in {due:?}, arrived in {arrived:?}");
    // A job that isn't recorded as sent was replaced by one that is on time.
    assert!(arrived < due + Duration::from_secs(20));
    assert_eq!(arrivals.len(), 2);
    world.finish().await;
}

#[tokio::test]
async fn after_rabbitmq_lost_its_data_no_tenant_waits_for_another_tenants_backlog() {
    // With a thousand per pass it would take most of a minute.
    let sweeping = [
        ("SWEEP_GRACE", "3"),
        ("SWEEP_INTERVAL", "10"),
        ("WEBHOOK_TIMEOUT", "1000"),
    ];
    let (many, few) = (5_000, 200);
    let world = World::with(&sweeping).await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let busy = world.webhook(&ingest, &shop, json!({})).await;
    let tenant = json!({"id": "quiet"});
    let made = world.ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(tenant));
    assert_eq!(made.await.status, 201);
    let token = world
        .command(&["token", "create", "--tenant", "quiet"])
        .await;
    let webhook = json!({"url": shop.url("/quiet"), "events": ["*"]});
    let made = world.ask_as(&token, &ingest, "POST", "/api/v1/webhooks", Some(webhook));
    assert_eq!(made.await.status, 201);

    let producer = world.producer().await;
    let event = |tenant: &str, n: usize| {
        Publication::json(tenant, "order.created", &format!("evt-{n:05}"), "{}")
    };
    // All of the busy tenant's deliveries are older.
    let of_busy: Vec<_> = (0..many).map(|n| event(TENANT, n)).collect();
    producer.publish_all(&of_busy).await.unwrap();
    world.accepts(many as i64).await;
    let of_quiet: Vec<_> = (0..few).map(|n| event("quiet", n)).collect();
    producer.publish_all(&of_quiet).await.unwrap();
    world.accepts((many + few) as i64).await;
    let channel = world.connection().await.create_channel().await.unwrap();
    // A batch is counted when its jobs are in the queue.
    let all = (many + few) as f64;
    counts(&ingest, "posthorn_ingest_batch_size_sum", all).await;
    let queue = "posthorn.jobs.v1.0".into();
    let delete = channel.queue_delete(queue, QueueDeleteOptions::default());
    delete.await.unwrap();
    // All jobs have been lost for long before the sweeper notices.
    let aged = "UPDATE deliveries SET due_at = due_at - interval '1 hour'";
    world.sql().await.execute(aged, &[]).await.unwrap();

    let begun = Instant::now();
    let dispatchers = [world.dispatcher().await, world.dispatcher().await];
    let arrivals = shop.receives(many + few).await;
    eprintln!("{} arrived within {:?}", many + few, begun.elapsed());
    world.settles().await;
    let arrivals_of_busy = |arrivals: &[Arrival]| {
        let of_busy = arrivals.iter().filter(|arrival| arrival.path == busy.path);
        of_busy.count()
    };
    let last = arrivals
        .iter()
        .rposition(|arrival| arrival.path == "/quiet");
    let before = arrivals_of_busy(&arrivals[..last.unwrap()]);
    eprintln!("{before} of the busy tenant's arrived before the quiet one's last");
    // The pass that notices takes the oldest thousand. The next thousand has all of
    // the quiet tenant's, in turns. A job that found no free permit comes again
    // behind the jobs that wait in the queue then: two thousand at most.
    assert!(before < 1_000 + 1_000 + 2_000, "{before}");
    // On a slow machine an attempt can end by its timeout of a second, and is made again. So an event
    // arrives once, and once more for each attempt that failed.
    let mut unexplained = expected_arrivals(&world).await;
    for arrival in shop.arrivals() {
        let tenant = if arrival.path == "/quiet" {
            "quiet"
        } else {
            TENANT
        };
        *unexplained
            .entry((tenant.to_owned(), arrival.id().to_owned()))
            .or_default() -= 1;
    }
    unexplained.retain(|_, left| *left < 0);
    assert!(
        unexplained.is_empty(),
        "arrived once too often: {unexplained:?}"
    );
    let mut requeued = 0.0;
    for dispatcher in &dispatchers {
        let metric = dispatcher.metric("posthorn_sweeper_requeued_total").await;
        requeued += metric.unwrap();
    }
    assert_eq!(requeued as usize, many + few);
    world.finish().await;
}

/// How often each event of each tenant may have arrived: once, and for each attempt that failed.
async fn expected_arrivals(world: &World) -> BTreeMap<(String, String), i64> {
    let counted = "SELECT e.tenant, e.id, 1 + count(*) FILTER (WHERE a.outcome <> 'success') FROM attempts a \
        JOIN deliveries d ON d.id = a.delivery_id JOIN events e ON e.uid = d.event_uid \
        GROUP BY e.tenant, e.id";
    let rows = world.sql().await.query(counted, &[]).await.unwrap();
    rows.iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect()
}
